//! Servers that lose attributes without showing it in HEAD: tags that a copy drops, values that
//! change, empty answers. s3haul reports each loss, or fails the object.

mod granted;
mod in_place;
mod planned;
mod repair;
mod values;

use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Attribute, Job, Policy, Trust};
use s3haul::sandbox::{BucketOptions, Effect, Fault, ObjectSpec, Operation, Store};
use s3haul::size::MIB;

use crate::liar::{Answer, Asked, Liar};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of, restate, upload_all};

const PART: u64 = 5 * MIB;
const LARGE: u64 = 2 * PART - 1;

fn tagged() -> ObjectSpec {
    ObjectSpec::default().tag("team", "a b")
}

fn is_copy(asked: &Asked) -> bool {
    asked.method == "PUT" && asked.header("x-amz-copy-source").is_some() && !asked.has("partNumber")
}

/// Returns the bucket and the key of a request.
fn place(asked: &Asked) -> (&str, &str) {
    asked.path.trim_start_matches('/').split_once('/').unwrap()
}

/// Removes the tags of an object, like a server whose copies do not carry them.
fn drop_tags(store: &Store, asked: &Asked) {
    let (bucket, key) = place(asked);
    let object = store.object(bucket, key).unwrap();
    let mut spec = ObjectSpec {
        attributes: (*object.attributes).clone(),
        ..ObjectSpec::default()
    };
    spec.attributes.tags.clear();
    store.put_object(bucket, key, object.content, &spec);
}

/// Starts a proxy whose copies drop the tags, too.
async fn dropping(world: &World) -> Liar {
    let store = world.sandbox.store().clone();
    let change = move |asked: &Asked, answer: Answer| {
        if is_copy(asked) {
            drop_tags(&store, asked);
        }
        answer.without("x-amz-tagging-count")
    };
    Liar::before(world, change).await
}

/// Returns a job that sends one request at a time.
fn job_in_order(world: &World, liar: &Liar, tags: Policy, provider: Provider) -> Job {
    let mut transfer = in_parts_of(PART, copy_all());
    transfer.preserve.tags = tags;
    let mut job = liar.job(world, transfer, provider);
    job.limits.in_flight = Some(1);
    job
}

fn losses(run: &Run) -> Vec<String> {
    run.receipts
        .iter()
        .flat_map(|receipt| receipt.losses.iter().map(ToString::to_string))
        .collect()
}

fn messages(run: &Run) -> Vec<String> {
    let failed = run
        .receipts
        .iter()
        .filter_map(|receipt| match &receipt.ending {
            Ending::Failed { error } => Some(format!("{}: {}", error.kind, error.message)),
            _ => None,
        });
    failed.collect()
}

/// Counts the `GetObjectTagging` requests to a bucket.
fn questions(liar: &Liar, bucket: &str) -> usize {
    liar.count(|asked| asked.method == "GET" && asked.has("tagging") && place(asked).0 == bucket)
}

const DROPPED: &str =
    "tags not set: destination ignored it: it shows none of it in the answer to GetObjectTagging";

#[tokio::test]
async fn tags_that_a_copy_drops_are_losses_or_failures() {
    for policy in [Policy::Try, Policy::Require] {
        let world = World::new().await;
        world.put("a", 10);
        for key in ["b", "c", "d"] {
            world.put_with(key, 10, &tagged());
        }
        let liar = dropping(&world).await;
        let run = world
            .try_run_job(&job_in_order(&world, &liar, policy, Provider::Other))
            .await
            .unwrap();
        assert_eq!(questions(&liar, SOURCE), 4);
        if policy == Policy::Try {
            assert_eq!(losses(&run), vec![DROPPED; 3], "{:?}", run.receipts);
            assert_eq!(run.outcome.done_objects, 4);
            assert_eq!(questions(&liar, DESTINATION), 1, "asked once");
        } else {
            let messages = messages(&run);
            assert_eq!((run.outcome.done_objects, messages.len()), (1, 3));
            for message in messages {
                assert!(
                    message.starts_with("not-kept: destination ignored the requested tags"),
                    "{message}"
                );
            }
            assert_eq!(questions(&liar, DESTINATION), 3);
        }
    }
}

/// The server keeps tags but never shows a tag count.
#[tokio::test]
async fn tags_that_a_copy_keeps_are_compared_once_or_with_each_object_if_required() {
    for (policy, trust, asked) in [
        (Policy::Try, Trust::Answers, 1),
        (Policy::Require, Trust::Answers, 3),
        (Policy::Try, Trust::Nothing, 3),
    ] {
        let world = World::new().await;
        for key in ["a", "b", "c"] {
            world.put_with(key, 10, &tagged());
        }
        let liar = Liar::uncounted(&world).await;
        let mut job = job_in_order(&world, &liar, policy, Provider::Other);
        restate(&mut job, |endpoint| endpoint.trust = trust);
        let run = world.try_run_job(&job).await.unwrap();
        assert_eq!(
            (run.outcome.done_objects, losses(&run)),
            (3, vec![]),
            "{:?}",
            run.receipts
        );
        let found = (questions(&liar, SOURCE), questions(&liar, DESTINATION));
        assert_eq!(found, (asked, asked), "{policy:?} {trust:?}");
    }
}

/// Amazon S3 counts tags, so a missing count means that there are none. The same holds for a server
/// that has shown a count once.
#[tokio::test]
async fn a_server_that_counts_tags_is_not_asked_for_them() {
    for (provider, policy, asked) in [
        (Provider::Aws, Policy::Try, 0),
        (Provider::Aws, Policy::Require, 0),
        (Provider::Other, Policy::Try, 0),
    ] {
        let world = World::new().await;
        world.put_with("a", 10, &tagged());
        world.put_all(["b", "c"], 10);
        let liar = Liar::before(&world, |_, answer| answer).await;
        let run = world
            .try_run_job(&job_in_order(&world, &liar, policy, provider))
            .await
            .unwrap();
        assert_eq!(run.outcome.done_objects, 3, "{:?}", run.receipts);
        let found = questions(&liar, SOURCE) + questions(&liar, DESTINATION);
        assert_eq!(found, asked, "{provider:?} {policy:?}");
    }
}

/// s3haul sends `GetObjectTagging` for objects without a tag count, up to a hundred times.
#[tokio::test]
async fn a_bucket_without_tags_is_asked_a_hundred_times() {
    let world = World::new().await;
    for number in 0..105 {
        world.put(&format!("{number:03}"), 1);
    }
    let liar = Liar::uncounted(&world).await;
    let run = world
        .try_run_job(&job_in_order(&world, &liar, Policy::Try, Provider::Other))
        .await
        .unwrap();
    assert_eq!(run.outcome.done_objects, 105, "{:?}", run.receipts);
    assert_eq!(questions(&liar, SOURCE), 100);
    assert_eq!(questions(&liar, DESTINATION), 0);
}

#[tokio::test]
async fn a_server_that_knows_no_tags_loses_none_and_fails_what_requires_them() {
    for (policy, done) in [(Policy::Try, 2), (Policy::Require, 0)] {
        let world = World::new().await;
        world.put_all(["a", "b"], 10);
        let unknown = Effect::Error(501, "NotImplemented");
        world.add_fault(Fault::on(Operation::GetObjectTagging).then(unknown));
        let liar = Liar::uncounted(&world).await;
        let run = world
            .try_run_job(&job_in_order(&world, &liar, policy, Provider::Other))
            .await
            .unwrap();
        assert_eq!(
            (run.outcome.done_objects, losses(&run)),
            (done, vec![]),
            "{:?}",
            run.receipts
        );
        let asked = if policy == Policy::Try { 1 } else { 2 };
        assert_eq!(questions(&liar, SOURCE), asked);
        assert_eq!(
            world.calls(Operation::CopyObject),
            done,
            "what fails is not copied"
        );
    }
}

#[tokio::test]
async fn tags_that_may_not_be_read_are_noted_or_fail_what_requires_them() {
    for (policy, done) in [(Policy::Try, 2), (Policy::Require, 0)] {
        let world = World::new().await;
        for key in ["a", "b"] {
            world.put_with(key, 10, &tagged());
        }
        let denied = Effect::Error(403, "AccessDenied");
        world.add_fault(Fault::on(Operation::GetObjectTagging).then(denied));
        let liar = Liar::uncounted(&world).await;
        let run = world
            .try_run_job(&job_in_order(&world, &liar, policy, Provider::Other))
            .await
            .unwrap();
        assert_eq!(run.outcome.done_objects, done, "{:?}", run.receipts);
        assert_eq!(world.calls(Operation::CopyObject), done);
        if policy == Policy::Try {
            let note = "tags not compared: s3:GetObjectTagging missing on source";
            let notes: Vec<_> = run
                .receipts
                .iter()
                .flat_map(|receipt| &receipt.notes)
                .collect();
            assert_eq!(notes, [note; 2]);
            assert_eq!(questions(&liar, SOURCE), 1);
        } else {
            assert!(
                messages(&run)
                    .iter()
                    .all(|message| message.starts_with("denied")),
                "{:?}",
                messages(&run)
            );
        }
    }
}

/// The server honors `x-amz-tagging` of `PutObject` and ignores that of `CreateMultipartUpload`.
#[tokio::test]
async fn each_request_must_show_that_it_gives_tags() {
    let world = World::new().await;
    let files = tempfile::tempdir().unwrap();
    for (name, size) in [("a", 10), ("b", LARGE), ("c", 10), ("d", LARGE)] {
        let bytes = vec![7; usize::try_from(size).unwrap()];
        std::fs::write(files.path().join(name), bytes).unwrap();
    }
    let ignored = Effect::Ignore(&["x-amz-tagging"]);
    world.add_fault(Fault::on(Operation::CreateMultipartUpload).then(ignored));
    let liar = Liar::uncounted(&world).await;
    let mut transfer = in_parts_of(PART, upload_all(files.path()));
    transfer.set.tags.insert("a".to_owned(), "b".to_owned());
    let mut job = liar.job(&world, transfer, Provider::Other);
    job.limits.in_flight = Some(1);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 4, "{:?}", run.receipts);
    for receipt in &run.receipts {
        let is_large = receipt.destination.ends_with(['b', 'd']);
        let told: Vec<_> = receipt.losses.iter().map(ToString::to_string).collect();
        let expected: &[&str] = if is_large { &[DROPPED] } else { &[] };
        assert_eq!(told, expected, "{}", receipt.destination);
    }
    assert_eq!(questions(&liar, DESTINATION), 2, "once for each request");
}

/// A document without the requested element is no answer.
#[rstest]
#[case(Attribute::Acl, Operation::GetObjectAcl, "<AccessControlPolicy/>")]
#[case(
    Attribute::Acl,
    Operation::GetObjectAcl,
    "<AccessControlPolicy><Owner><ID>x</ID></Owner></AccessControlPolicy>"
)]
#[case(Attribute::Lock, Operation::GetObjectRetention, "")]
#[case(Attribute::Lock, Operation::GetObjectRetention, "<Retention/>")]
#[case(
    Attribute::Lock,
    Operation::GetObjectRetention,
    "<Retention><Mode>COMPLIANCE</Mode></Retention>"
)]
#[case(
    Attribute::Lock,
    Operation::GetObjectRetention,
    "<Retention><Mode>X</Mode><RetainUntilDate>2096-10-02T07:06:40Z</RetainUntilDate></Retention>"
)]
#[case(Attribute::Lock, Operation::GetObjectLegalHold, "")]
#[case(Attribute::Lock, Operation::GetObjectLegalHold, "<LegalHold/>")]
#[case(
    Attribute::Lock,
    Operation::GetObjectLegalHold,
    "<LegalHold><Status>MAYBE</Status></LegalHold>"
)]
#[case(Attribute::Tags, Operation::GetObjectTagging, "<Tagging/>")]
#[tokio::test]
async fn an_answer_without_contents_is_none(
    #[case] attribute: Attribute,
    #[case] operation: Operation,
    #[case] document: &'static str,
) {
    for policy in [Policy::Try, Policy::Require] {
        let options = BucketOptions {
            versioning: true,
            object_lock: true,
            ..BucketOptions::default()
        };
        let world = World::with_buckets(options).await;
        world.put("a", LARGE);
        let answer = Effect::Answer(200, "application/xml", document);
        world.add_fault(Fault::on(operation).then(answer));
        let mut transfer = in_parts_of(PART, copy_all());
        transfer.preserve.set(attribute, policy);
        let run = world.run(transfer).await;
        if policy == Policy::Try {
            let loss = format!("{attribute} not readable: source does not know {operation:?}");
            assert_eq!(losses(&run), [loss], "{:?}", run.receipts);
            assert_eq!(run.outcome.done_objects, 1);
        } else {
            assert_eq!(run.error(), "not-understood", "{:?}", run.receipts);
            assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
        }
    }
}

/// Some servers send a bare document for an object without tags.
#[tokio::test]
async fn a_bare_document_is_an_empty_set_of_tags_on_servers_that_may_say_so() {
    let world = World::new().await;
    world.put("a", LARGE);
    let bare = Effect::Answer(200, "application/xml", "<Tagging/>");
    world.add_fault(Fault::on(Operation::GetObjectTagging).then(bare));
    let liar = Liar::uncounted(&world).await;
    let run = world
        .try_run_job(&job_in_order(
            &world,
            &liar,
            Policy::Require,
            Provider::Other,
        ))
        .await
        .unwrap();
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
}
