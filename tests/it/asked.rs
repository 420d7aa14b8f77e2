//! Servers that do not do what they are asked: they ignore questions about attributes, attributes
//! of requests, ranges, and parts, and answer with success.

mod looks;

use std::time::{Duration, UNIX_EPOCH};

use rstest::rstest;
use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Attribute, Encryption, OnMismatch, Policy, Provider};
use s3haul::report::summary;
use s3haul::sandbox::{BucketOptions, CallEntry, Effect, Fault, Lock, ObjectSpec, Operation};
use s3haul::size::MIB;

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of, upload_all};

const PART: u64 = 5 * MIB;
const PARTS: u64 = 3;
const LARGE: u64 = PART * PARTS - 1;

/// Starts a sandbox of an unknown provider, so that single copies are read back, too.
async fn unknown() -> World {
    World::of_provider(Provider::Other).await
}

fn ignore(world: &World, operation: Operation, names: &'static [&'static str]) {
    world.add_fault(Fault::on(operation).then(Effect::Ignore(names)));
}

fn losses(run: &Run) -> Vec<String> {
    run.receipts
        .iter()
        .flat_map(|receipt| receipt.losses.iter().map(ToString::to_string))
        .collect()
}

fn message(run: &Run) -> String {
    let Ending::Failed { error } = &run.receipts[0].ending else {
        panic!("{:?}", run.receipts)
    };
    format!("{}: {}", error.kind, error.message)
}

const NOT_KNOWN: &str = "tags not readable: source does not know GetObjectTagging";

/// Returns the answers of servers that do not know `?tagging`.
fn odd_answers() -> Vec<(&'static str, Effect, &'static str)> {
    let other = "<?xml version=\"1.0\"?><Other><Thing/></Other>";
    vec![
        ("the object", Effect::Ignore(&["tagging"]), NOT_KNOWN),
        (
            "HTML",
            Effect::Answer(200, "text/html", "<html><body>Welcome</body></html>"),
            NOT_KNOWN,
        ),
        (
            "HTML without an end",
            Effect::Answer(200, "text/html", "<html><p>Welcome"),
            NOT_KNOWN,
        ),
        (
            "another document",
            Effect::Answer(200, "application/xml", other),
            NOT_KNOWN,
        ),
        ("nothing", Effect::EmptyBody, NOT_KNOWN),
        (
            "a bare 404",
            Effect::Answer(404, "text/plain", ""),
            NOT_KNOWN,
        ),
        ("no such key", Effect::Error(404, "NoSuchKey"), NOT_KNOWN),
        (
            "bad request",
            Effect::Error(400, "InvalidArgument"),
            "tags not readable: source refuses it (InvalidArgument)",
        ),
        (
            "405",
            Effect::Error(405, "MethodNotAllowed"),
            "tags not readable: source refuses it (MethodNotAllowed)",
        ),
        (
            "501",
            Effect::Error(501, "NotImplemented"),
            "tags not readable: source refuses it (NotImplemented)",
        ),
    ]
}

#[tokio::test]
async fn a_question_that_a_server_does_not_know_is_asked_once_and_told_for_each_object() {
    for (name, effect, loss) in odd_answers() {
        let world = World::new().await;
        for key in ["a", "b", "c"] {
            world.put_with(key, LARGE, &ObjectSpec::default().tag("a", "b"));
        }
        world.add_fault(Fault::on(Operation::GetObjectTagging).then(effect));
        let mut job = world.job(in_parts_of(PART, copy_all()));
        job.limits.in_flight = Some(1);
        let run = world.try_run_job(&job).await.unwrap();
        assert_eq!(
            (run.outcome.done_objects, losses(&run)),
            (3, vec![loss.to_owned(); 3]),
            "{name}"
        );
        // An empty answer may be an accident.
        let asked = if name == "nothing" { 2..=5 } else { 1..=1 };
        assert!(
            asked.contains(&world.calls(Operation::GetObjectTagging)),
            "{name}"
        );
        assert!(
            summary(&run.outcome).contains("tags not readable on 3 objects"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_required_attribute_that_cannot_be_asked_for_fails_at_once() {
    for (name, effect, _) in odd_answers() {
        let world = World::new().await;
        world.put_with("a", LARGE, &ObjectSpec::default().tag("a", "b"));
        world.add_fault(Fault::on(Operation::GetObjectTagging).then(effect));
        let mut transfer = in_parts_of(PART, copy_all());
        transfer.preserve.tags = Policy::Require;
        let run = world.run(transfer).await;
        assert_eq!(
            (run.outcome.done_objects, run.outcome.failed_objects),
            (0, 1),
            "{name}"
        );
        let asked = if name == "nothing" { 2..=5 } else { 1..=1 };
        assert!(
            asked.contains(&world.calls(Operation::GetObjectTagging)),
            "{name}"
        );
        assert_eq!(world.calls(Operation::CreateMultipartUpload), 0, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_is_the_object_itself_is_not_read() {
    let world = World::new().await;
    world.put_with("a", 1 << 40, &ObjectSpec::default().tag("a", "b"));
    ignore(&world, Operation::GetObjectTagging, &["tagging"]);
    let run = world.run(copy_all()).await;
    assert_eq!(losses(&run), [NOT_KNOWN]);
}

#[tokio::test]
async fn one_bad_answer_among_good_ones_is_about_one_object() {
    let world = World::new().await;
    for key in ["a", "b", "c", "d"] {
        world.put_with(key, LARGE, &ObjectSpec::default().tag("a", "b"));
    }
    let odd = Fault::on(Operation::GetObjectTagging)
        .key("b")
        .then(Effect::Error(400, "InvalidArgument"));
    world.add_fault(odd);
    let mut job = world.job(in_parts_of(PART, copy_all()));
    job.limits.in_flight = Some(1);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!((run.outcome.done_objects, losses(&run).len()), (4, 1));
    assert_eq!(
        world
            .object(DESTINATION, "d")
            .unwrap()
            .attributes
            .tags
            .len(),
        1
    );
}

/// An object that is deleted between two requests is not a server that knows no tags.
#[tokio::test]
async fn an_object_that_is_gone_is_no_loss() {
    let world = World::new().await;
    world.put_with("a", LARGE, &ObjectSpec::default().tag("a", "b"));
    let gone = Effect::hook(|store| store.delete_object(SOURCE, "a"));
    world.add_fault(Fault::on(Operation::GetObjectTagging).then(gone));
    let run = world.run(in_parts_of(PART, copy_all())).await;
    assert_eq!(run.error(), "not-found");
}

#[rstest]
#[case(Attribute::Acl, Operation::GetObjectAcl, &["acl"])]
#[case(Attribute::Lock, Operation::GetObjectRetention, &["retention"])]
#[case(Attribute::Lock, Operation::GetObjectLegalHold, &["legal-hold"])]
#[case(Attribute::Annotations, Operation::ListObjectAnnotations, &["annotation", "annotations"])]
#[tokio::test]
async fn every_attribute_fails_softly(
    #[case] attribute: Attribute,
    #[case] operation: Operation,
    #[case] names: &'static [&'static str],
) {
    for policy in [Policy::Try, Policy::Require] {
        let options = BucketOptions {
            versioning: true,
            object_lock: true,
            ..BucketOptions::default()
        };
        let world = World::with_buckets(options).await;
        world.put_all(["a", "b"], LARGE);
        ignore(&world, operation, names);
        let mut transfer = in_parts_of(PART, copy_all());
        transfer.preserve.set(attribute, policy);
        let mut job = world.job(transfer);
        job.limits.in_flight = Some(1);
        let run = world.try_run_job(&job).await.unwrap();
        if policy == Policy::Try {
            let loss = format!("{attribute} not readable: source does not know {operation:?}");
            assert_eq!(losses(&run), vec![loss; 2], "{:?}", run.receipts);
            assert_eq!((run.outcome.done_objects, world.calls(operation)), (2, 1));
        } else {
            assert_eq!(
                (run.outcome.failed_objects, world.calls(operation)),
                (2, 2),
                "{:?}",
                run.receipts
            );
            assert!(
                message(&run).starts_with("not-understood: "),
                "{}",
                message(&run)
            );
        }
    }
}

/// Returns the headers that a server may ignore when it creates objects, and the message about it.
fn ignored() -> Vec<(Attribute, &'static [&'static str], &'static str)> {
    vec![
        (
            Attribute::Metadata,
            &["x-amz-meta-team"],
            "metadata not set: destination ignored it: it shows less of it",
        ),
        (
            Attribute::Headers,
            &["cache-control"],
            "headers not set: destination ignored it: it shows another Cache-Control",
        ),
        (
            Attribute::Headers,
            &["expires"],
            "headers not set: destination ignored it: it shows another Expires",
        ),
        (
            Attribute::Tags,
            &["x-amz-tagging"],
            "tags not set: destination ignored it: it shows none of it in the answer to GetObjectTagging",
        ),
        (
            Attribute::StorageClass,
            &["x-amz-storage-class"],
            "storage_class not set: destination ignored it: it shows STANDARD instead of GLACIER_IR",
        ),
        (
            Attribute::Lock,
            &[
                "x-amz-object-lock-mode",
                "x-amz-object-lock-retain-until-date",
            ],
            "lock not set: destination ignored it: it shows none of it in the answer to GetObjectRetention",
        ),
        (
            Attribute::Lock,
            &["x-amz-object-lock-legal-hold"],
            "lock not set: destination ignored it: it shows none of it in the answer to GetObjectLegalHold",
        ),
    ]
}

/// Describes an object with everything that a server may ignore.
fn rich() -> ObjectSpec {
    let until = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let lock = Lock {
        retention: Some(("GOVERNANCE".to_owned(), until)),
        legal_hold: Some(true),
    };
    let spec = ObjectSpec::default()
        .metadata("team", "blue")
        .tag("a", "b")
        .storage_class("GLACIER_IR");
    let mut spec = spec.lock(lock);
    spec.attributes.cache_control = Some("no-store".to_owned());
    spec.attributes.expires = Some("Thu, 01 Jan 2032 00:00:00 GMT".to_owned());
    spec
}

#[tokio::test]
async fn what_a_server_ignores_is_a_loss_or_a_failure_for_every_size() {
    for (attribute, names, loss) in ignored() {
        for (policy, size) in [
            (Policy::Try, 10),
            (Policy::Try, LARGE),
            (Policy::Require, LARGE),
        ] {
            let options = BucketOptions {
                versioning: true,
                object_lock: true,
                ..BucketOptions::default()
            };
            let mut world = World::with_buckets(options).await;
            world.provider = Provider::Other;
            world.put_with("a", size, &rich());
            for operation in [Operation::CopyObject, Operation::CreateMultipartUpload] {
                ignore(&world, operation, names);
            }
            let mut transfer = in_parts_of(PART, copy_all());
            // A copy in one request carries the tags of the source by itself, unless there are
            // others.
            if attribute == Attribute::Tags {
                transfer.set.tags.insert("c".to_owned(), "d".to_owned());
            }
            transfer.preserve.set(attribute, policy);
            let run = world.run(transfer).await;
            if policy == Policy::Try {
                assert_eq!(losses(&run), [loss], "{size} {:?}", run.receipts);
                assert!(matches!(run.receipts[0].ending, Ending::Done { .. }));
            } else {
                let message = message(&run);
                assert!(
                    message.starts_with("not-kept: destination ignored the"),
                    "{message}"
                );
            }
            world.assert_no_upload_is_left();
        }
    }
}

#[tokio::test]
async fn what_a_server_keeps_is_no_loss() {
    for size in [10, LARGE] {
        let options = BucketOptions {
            versioning: true,
            object_lock: true,
            ..BucketOptions::default()
        };
        let mut world = World::with_buckets(options).await;
        world.provider = Provider::Other;
        world.put_with("a", size, &rich());
        let run = world.run(in_parts_of(PART, copy_all())).await;
        assert_eq!(
            (run.outcome.done_objects, losses(&run)),
            (1, vec![]),
            "{size}"
        );
    }
}

/// Objects on an unknown server are read back until it has shown that it keeps what it is asked to
/// keep.
#[tokio::test]
async fn a_server_that_keeps_what_it_is_asked_to_is_looked_at_once() {
    let world = unknown().await;
    let spec = ObjectSpec::default().metadata("team", "blue").tag("a", "b");
    for key in ["a", "b", "c"] {
        world.put_with(key, 10, &spec);
    }
    world.put_with("d", 10, &spec.storage_class("GLACIER_IR"));
    let mut job = world.job(copy_all());
    job.limits.in_flight = Some(1);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!((run.outcome.done_objects, losses(&run)), (4, vec![]));
    let heads = world.sandbox.calls().of(Operation::HeadObject);
    // The plan looks for each key where lists have no order, and finds none.
    let is_look = |call: &&CallEntry| call.bucket == DESTINATION && call.status == Some(200);
    let looked: Vec<_> = heads
        .iter()
        .filter(is_look)
        .map(|call| call.key.as_str())
        .collect();
    assert_eq!(looked, ["a", "d"], "the class is new");
}

/// If HEAD shows no tags, the bucket is asked once whether it has any.
#[tokio::test]
async fn a_server_that_ignores_tags_is_asked_once() {
    let world = unknown().await;
    for key in ["a", "b", "c"] {
        world.put_with(key, LARGE, &ObjectSpec::default().tag("a", "b"));
    }
    ignore(&world, Operation::CreateMultipartUpload, &["x-amz-tagging"]);
    let run = world.run(in_parts_of(PART, copy_all())).await;
    assert_eq!((run.outcome.done_objects, losses(&run).len()), (3, 3));
    assert_eq!(
        world.calls(Operation::GetObjectTagging),
        3 + 1,
        "each source, and the destination once"
    );
    assert!(summary(&run.outcome).contains("tags not set on 3 objects"));
}

#[tokio::test]
async fn a_bad_copy_is_removed_where_the_job_says_so() {
    let mut world = World::versioned().await;
    world.provider = Provider::Other;
    world.put_with("a", 10, &ObjectSpec::default().metadata("team", "blue"));
    ignore(&world, Operation::CopyObject, &["x-amz-meta-team"]);
    let mut transfer = copy_all();
    transfer.proof.on_mismatch = OnMismatch::Remove;
    let run = world.run(transfer).await;
    assert_eq!(run.error(), "not-kept");
    assert!(world.sandbox.store().versions(DESTINATION, "a").is_empty());
}

#[tokio::test]
async fn attributes_of_uploads_that_are_ignored_are_losses() {
    let names = &[
        "x-amz-meta-team",
        "content-type",
        "x-amz-tagging",
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
    ];
    for size in [10, LARGE] {
        let world = unknown().await;
        let directory = tempfile::tempdir().unwrap();
        let bytes = vec![7; usize::try_from(size).unwrap()];
        std::fs::write(directory.path().join("a.txt"), bytes).unwrap();
        for operation in [Operation::PutObject, Operation::CreateMultipartUpload] {
            ignore(&world, operation, names);
        }
        let mut transfer = in_parts_of(PART, upload_all(directory.path()));
        transfer
            .set
            .metadata
            .insert("team".to_owned(), "blue".to_owned());
        transfer.set.tags.insert("a".to_owned(), "b".to_owned());
        let key = Some("arn:aws:kms:us-east-1:1:key/7".to_owned());
        transfer.to.encryption = Some(Encryption::Kms {
            key,
            bucket_key: None,
            dsse: false,
        });
        let run = world.run(transfer).await;
        assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
        let told = losses(&run);
        let attributes: Vec<_> = told
            .iter()
            .map(|loss| loss.split(' ').next().unwrap())
            .collect();
        assert_eq!(
            attributes,
            ["metadata", "headers", "encryption", "tags"],
            "{told:?}"
        );
    }
}
