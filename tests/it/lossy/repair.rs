//! `retry --losses` removes the last tags of a copy, on servers that show no tag count or ignore
//! the request.

use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Policy, PublishedCopy, Verify, When};
use s3haul::sandbox::{Content, Operation};

use super::{job_in_order, messages, questions, tagged};
use crate::liar::{Answer, Asked, Liar, Lie};
use crate::world::{DESTINATION, Run, SOURCE, World};

/// The behavior of the server.
#[derive(Clone, Copy)]
enum Server {
    /// Counts tags in HEAD.
    Counting,
    /// Shows no tag count.
    Silent,
    /// Answers with success, but keeps the tags.
    Ignoring,
    /// Answers with success, but keeps the tags, and shows no tag count.
    SilentlyIgnoring,
    /// Refuses to show tags.
    Denying,
    /// Answers with this code that an object has no tags.
    Missing(&'static str),
}

impl Server {
    fn hides_the_number(self) -> bool {
        matches!(self, Self::Silent | Self::SilentlyIgnoring)
    }

    fn ignores(self) -> bool {
        matches!(self, Self::Ignoring | Self::SilentlyIgnoring)
    }

    async fn start(self, world: &World) -> Liar {
        Liar::lying(world, move |asked: &Asked| match asked.method.as_str() {
            "PUT" if asked.has("tagging") && self.ignores() => Lie::Instead(200, String::new()),
            "GET" if asked.has("tagging") && asked.path.starts_with("/destination/") => {
                match self {
                    Self::Denying => Lie::error(403, "AccessDenied"),
                    Self::Missing(code) => Lie::error(404, code),
                    _ => Lie::Truth,
                }
            }
            "HEAD" if self.hides_the_number() => Lie::Changed(Box::new(|answer: Answer| {
                answer.without("x-amz-tagging-count")
            })),
            _ => Lie::Truth,
        })
        .await
    }
}

/// Repairs a copy with one tag, whose source no longer has any.
async fn repair(world: &World, liar: &Liar) -> Run {
    let run = repair_with(world, liar, Provider::Other, Verify::Best).await;
    assert_eq!(world.calls(Operation::CopyObject), 0, "{:?}", run.receipts);
    run
}

async fn repair_with(world: &World, liar: &Liar, provider: Provider, verify: Verify) -> Run {
    world.put("k", 10);
    let store = world.sandbox.store();
    store.put_object(DESTINATION, "k", Content::pattern(1, 10), &tagged());
    let mut job = job_in_order(world, liar, Policy::Require, provider);
    let transfer = &mut job.transfers[0];
    transfer.when = When::Always;
    transfer.proof.verify = verify;
    let source = store.object(SOURCE, "k").unwrap();
    let copy = PublishedCopy {
        source_version: None,
        source_etag: Some(source.etag),
        source_modified: jiff::Timestamp::try_from(source.last_modified).ok(),
        etag: store.object(DESTINATION, "k").unwrap().etag,
        version: None,
        proof: None,
    };
    transfer.repairs.insert("k".to_owned(), copy);
    world.try_run_job(&job).await.unwrap()
}

/// The report does not name the proof of the earlier copy.
#[tokio::test]
async fn a_copy_without_the_required_proof_is_made_again() {
    let world = World::new().await;
    let liar = Server::Counting.start(&world).await;
    let run = repair_with(&world, &liar, Provider::Aws, Verify::RequireChecksum).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert_eq!(world.calls(Operation::CopyObject), 1, "{:?}", run.receipts);
}

fn tags(world: &World) -> usize {
    let object = world.object(DESTINATION, "k").unwrap();
    object.attributes.tags.len()
}

#[rstest]
#[case::counting(Server::Counting)]
#[case::silent(Server::Silent)]
#[case::denying(Server::Denying)]
#[case::without_tags(Server::Missing("NoSuchTagging"))]
#[case::without_a_key_of_tags(Server::Missing("NoSuchKey"))]
#[tokio::test]
async fn the_last_tags_are_taken_off(#[case] server: Server) {
    let world = World::new().await;
    let liar = server.start(&world).await;
    let run = repair(&world, &liar).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert_eq!(tags(&world), 0);
    assert!(questions(&liar, DESTINATION) > 0, "nobody looked");
}

#[rstest]
#[case::counted(Server::Ignoring)]
#[case::uncounted(Server::SilentlyIgnoring)]
#[tokio::test]
async fn tags_that_stay_fail_the_object(#[case] server: Server) {
    let world = World::new().await;
    let liar = server.start(&world).await;
    let messages = messages(&repair(&world, &liar).await);
    assert_eq!(messages.len(), 1);
    assert!(
        messages[0].contains("the server did not remove the tags"),
        "{messages:?}"
    );
    assert_eq!(tags(&world), 1);
}

/// The receipt names the version whose tags were set, which is no new one.
#[tokio::test]
async fn the_receipt_names_the_version_that_was_repaired() {
    let world = World::versioned().await;
    let liar = Server::Counting.start(&world).await;
    let run = repair(&world, &liar).await;
    let Ending::Done {
        destination_version,
        ..
    } = &run.receipts[0].ending
    else {
        panic!("{:?}", run.receipts);
    };
    let version = world.object(DESTINATION, "k").unwrap().version_id;
    assert!(version.is_some());
    assert_eq!(*destination_version, version);
    let versions = world.sandbox.store().versions(DESTINATION, "k");
    assert_eq!((versions.len(), run.outcome.old_versions), (1, 0));
}
