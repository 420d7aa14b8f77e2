//! Changes in place on servers whose copies drop tags: s3haul writes the tags back.

use s3haul::endpoint::Provider;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Source, Transfer};
use s3haul::sandbox::{Effect, Fault, Operation};

use super::{dropping, messages, questions, tagged};
use crate::liar::{Answer, Asked, Liar};
use crate::world::{Run, SOURCE, World, destination, uri};

/// Changes the content type of each object.
async fn change(world: &World, liar: &Liar) -> Run {
    let from = Source::Prefix {
        endpoint: DEFAULT_ENDPOINT.to_owned(),
        location: uri("s3://source/"),
    };
    let mut transfer = Transfer::new("change", from, destination("s3://source/"));
    transfer.set.content_type = Some("text/x-new".to_owned());
    let mut job = liar.job(world, transfer, Provider::Other);
    job.limits.in_flight = Some(1);
    world.try_run_job(&job).await.unwrap()
}

/// Asserts an object's content type and its number of tags.
fn assert_has(world: &World, key: &str, content_type: Option<&str>, tags: usize) {
    let attributes = world.object(SOURCE, key).unwrap().attributes;
    assert_eq!(attributes.content_type.as_deref(), content_type, "{key}");
    assert_eq!(attributes.tags.len(), tags, "{key}");
}

#[tokio::test]
async fn tags_that_a_change_drops_are_written_back() {
    let world = World::new().await;
    for key in ["a", "b"] {
        world.put_with(key, 10, &tagged());
    }
    let liar = dropping(&world).await;
    let run = change(&world, &liar).await;
    assert_eq!(run.outcome.done_objects, 2, "{:?}", run.receipts);
    for key in ["a", "b"] {
        assert_has(&world, key, Some("text/x-new"), 1);
    }
    assert_eq!(world.calls(Operation::PutObjectTagging), 2);
    assert_eq!(
        run.receipts[0].notes,
        ["source dropped the tags: they were written back"]
    );
    assert!(run.receipts[0].losses.is_empty(), "{:?}", run.receipts);
}

#[tokio::test]
async fn tags_that_a_change_keeps_are_compared_with_each_object() {
    let world = World::new().await;
    for key in ["a", "b"] {
        world.put_with(key, 10, &tagged());
    }
    let liar = Liar::uncounted(&world).await;
    let run = change(&world, &liar).await;
    assert_eq!(run.outcome.done_objects, 2, "{:?}", run.receipts);
    assert_eq!(world.calls(Operation::PutObjectTagging), 0);
    assert_eq!(questions(&liar, SOURCE), 4, "before and after each change");
}

/// A server that counts tags shows that they are gone, but not which tags they were.
#[tokio::test]
async fn counted_tags_are_written_back_too() {
    let world = World::new().await;
    world.put_with("a", 10, &tagged());
    let store = world.sandbox.store().clone();
    let change_answer = move |asked: &Asked, answer: Answer| {
        if super::is_copy(asked) {
            super::drop_tags(&store, asked);
        }
        answer
    };
    let liar = Liar::before(&world, change_answer).await;
    let run = change(&world, &liar).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert_has(&world, "a", Some("text/x-new"), 1);
}

#[tokio::test]
async fn tags_that_cannot_be_written_back_are_in_the_message() {
    let world = World::new().await;
    world.put_with("a", 10, &tagged());
    let denied = Effect::Error(403, "AccessDenied");
    world.add_fault(Fault::on(Operation::PutObjectTagging).then(denied));
    let liar = dropping(&world).await;
    let run = change(&world, &liar).await;
    let messages = messages(&run);
    assert_eq!(messages.len(), 1, "{:?}", run.receipts);
    let message = &messages[0];
    assert!(
        message.starts_with("not-kept: the in-place change removed the object's tags")
            && message.contains("team=a b"),
        "{message}"
    );
}

#[tokio::test]
async fn an_object_whose_tags_cannot_be_read_is_not_changed() {
    let world = World::new().await;
    world.put_with("a", 10, &tagged());
    let denied = Effect::Error(403, "AccessDenied");
    world.add_fault(Fault::on(Operation::GetObjectTagging).then(denied));
    let liar = dropping(&world).await;
    let run = change(&world, &liar).await;
    let messages = messages(&run);
    assert!(
        messages[0].starts_with("denied") && messages[0].contains("preserve: {tags: skip}"),
        "{messages:?}"
    );
    assert_has(&world, "a", None, 1);
    assert_eq!(world.calls(Operation::CopyObject), 0);
}

#[tokio::test]
async fn a_server_without_tags_has_none_to_lose() {
    let world = World::new().await;
    world.put_with("a", 10, &s3haul::sandbox::ObjectSpec::default());
    let unknown = Effect::Error(501, "NotImplemented");
    world.add_fault(Fault::on(Operation::GetObjectTagging).then(unknown));
    let liar = Liar::uncounted(&world).await;
    let run = change(&world, &liar).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
}
