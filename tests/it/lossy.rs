//! Servers that lose attributes and do not show it in HEAD: tags that a copy drops, values that come
//! back otherwise, answers that say nothing. Each loss is told, or fails the object.

mod granted;
mod in_place;
mod planned;
mod repair;
mod values;

use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Attribute, Job, PartSize, Policy, Transfer, Trust};
use s3haul::sandbox::{
    BucketOptions, Content, Effect, Fault, ObjectSpec, Operation, SandboxOptions, Store,
};
use s3haul::size::{ByteSize, MIB};

use crate::liar::{Answer, Asked, Liar};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, restate, upload_all};

const PART: u64 = 5 * MIB;
const LARGE: u64 = 2 * PART - 1;

fn cut(mut transfer: Transfer) -> Transfer {
    transfer.parts.size = PartSize::Exactly(ByteSize(PART));
    transfer.parts.threshold = ByteSize(PART);
    transfer
}

fn put(world: &World, key: &str, size: u64, spec: &ObjectSpec) {
    world
        .sandbox
        .store()
        .put_object(SOURCE, key, Content::pattern(1, size), spec);
}

fn tagged() -> ObjectSpec {
    ObjectSpec::default().tag("team", "a b")
}

fn is_copy(asked: &Asked) -> bool {
    asked.method == "PUT" && asked.header("x-amz-copy-source").is_some() && !asked.has("partNumber")
}

/// The bucket and the key of a request.
fn place(asked: &Asked) -> (&str, &str) {
    asked.path.trim_start_matches('/').split_once('/').unwrap()
}

/// Takes the tags from an object, as a server does whose copies do not carry them.
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

/// A server whose HEAD shows no number of tags.
async fn uncounted(world: &World) -> Liar {
    let change = |_: &Asked, answer: Answer| answer.without("x-amz-tagging-count");
    Liar::before(world, change).await
}

/// One whose copies drop the tags, too.
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

/// A job with one request at a time.
fn job(world: &World, liar: &Liar, tags: Policy, provider: Provider) -> Job {
    let mut transfer = cut(copy_all());
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

/// The questions about the tags of objects in a bucket.
fn questions(liar: &Liar, bucket: &str) -> usize {
    liar.count(|asked| asked.method == "GET" && asked.has("tagging") && place(asked).0 == bucket)
}

const DROPPED: &str =
    "tags not set: destination ignored it: it shows none of it in the answer to GetObjectTagging";

#[tokio::test]
async fn tags_that_a_copy_drops_are_losses_or_failures() {
    for policy in [Policy::Try, Policy::Require] {
        let world = World::new().await;
        put(&world, "a", 10, &ObjectSpec::default());
        for key in ["b", "c", "d"] {
            put(&world, key, 10, &tagged());
        }
        let liar = dropping(&world).await;
        let run = world
            .try_run_job(&job(&world, &liar, policy, Provider::Other))
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

/// A server that keeps tags and never counts them.
#[tokio::test]
async fn tags_that_a_copy_keeps_are_compared_once_or_with_each_object_if_required() {
    for (policy, trust, asked) in [
        (Policy::Try, Trust::Answers, 1),
        (Policy::Require, Trust::Answers, 3),
        (Policy::Try, Trust::Nothing, 3),
    ] {
        let world = World::new().await;
        for key in ["a", "b", "c"] {
            put(&world, key, 10, &tagged());
        }
        let liar = uncounted(&world).await;
        let mut job = job(&world, &liar, policy, Provider::Other);
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

/// Amazon S3 counts tags, so that no number means none. So does a server that has counted once.
#[tokio::test]
async fn a_server_that_counts_tags_is_not_asked_for_them() {
    for (provider, policy, asked) in [
        (Provider::Aws, Policy::Try, 0),
        (Provider::Aws, Policy::Require, 0),
        (Provider::Other, Policy::Try, 0),
    ] {
        let world = World::new().await;
        put(&world, "a", 10, &tagged());
        for key in ["b", "c"] {
            put(&world, key, 10, &ObjectSpec::default());
        }
        let liar = Liar::before(&world, |_, answer| answer).await;
        let run = world
            .try_run_job(&job(&world, &liar, policy, provider))
            .await
            .unwrap();
        assert_eq!(run.outcome.done_objects, 3, "{:?}", run.receipts);
        let found = questions(&liar, SOURCE) + questions(&liar, DESTINATION);
        assert_eq!(found, asked, "{provider:?} {policy:?}");
    }
}

/// Objects of which nothing shows that they have tags cost a question each, up to a hundred.
#[tokio::test]
async fn a_bucket_without_tags_is_asked_a_hundred_times() {
    let world = World::new().await;
    for number in 0..105 {
        put(&world, &format!("{number:03}"), 1, &ObjectSpec::default());
    }
    let liar = uncounted(&world).await;
    let run = world
        .try_run_job(&job(&world, &liar, Policy::Try, Provider::Other))
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
        for key in ["a", "b"] {
            put(&world, key, 10, &ObjectSpec::default());
        }
        let unknown = Effect::Error(501, "NotImplemented");
        world
            .sandbox
            .faults()
            .add(Fault::on(Operation::GetObjectTagging).then(unknown));
        let liar = uncounted(&world).await;
        let run = world
            .try_run_job(&job(&world, &liar, policy, Provider::Other))
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
            put(&world, key, 10, &tagged());
        }
        let denied = Effect::Error(403, "AccessDenied");
        world
            .sandbox
            .faults()
            .add(Fault::on(Operation::GetObjectTagging).then(denied));
        let liar = uncounted(&world).await;
        let run = world
            .try_run_job(&job(&world, &liar, policy, Provider::Other))
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

/// The server honours `x-amz-tagging` of `PutObject` and ignores that of `CreateMultipartUpload`.
#[tokio::test]
async fn each_request_must_show_that_it_gives_tags() {
    let world = World::new().await;
    let files = tempfile::tempdir().unwrap();
    for (name, size) in [("a", 10), ("b", LARGE), ("c", 10), ("d", LARGE)] {
        let bytes = vec![7; usize::try_from(size).unwrap()];
        std::fs::write(files.path().join(name), bytes).unwrap();
    }
    let ignored = Effect::Ignore(&["x-amz-tagging"]);
    world
        .sandbox
        .faults()
        .add(Fault::on(Operation::CreateMultipartUpload).then(ignored));
    let liar = uncounted(&world).await;
    let mut transfer = cut(upload_all(files.path()));
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

/// Documents that hold nothing of what was asked about are no answers.
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
        let world = World::with(SandboxOptions::default(), options).await;
        put(&world, "a", LARGE, &ObjectSpec::default());
        let answer = Effect::Answer(200, "application/xml", document);
        world
            .sandbox
            .faults()
            .add(Fault::on(operation).then(answer));
        let mut transfer = cut(copy_all());
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

/// Some servers have no other words for an object without tags.
#[tokio::test]
async fn a_bare_document_is_an_empty_set_of_tags_on_servers_that_may_say_so() {
    let world = World::new().await;
    put(&world, "a", LARGE, &ObjectSpec::default());
    let bare = Effect::Answer(200, "application/xml", "<Tagging/>");
    world
        .sandbox
        .faults()
        .add(Fault::on(Operation::GetObjectTagging).then(bare));
    let liar = uncounted(&world).await;
    let run = world
        .try_run_job(&job(&world, &liar, Policy::Require, Provider::Other))
        .await
        .unwrap();
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
}
