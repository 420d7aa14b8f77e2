//! A single version by its ID.

use s3haul::manifest::job::Transfer;

use super::{ids, one, there, write};
use crate::world::{DESTINATION, SOURCE, World, copy_all};

async fn copy(world: &World, version: &str) -> crate::world::Run {
    world
        .run(Transfer {
            from: one("k", Some(version)),
            ..copy_all()
        })
        .await
}

/// The destination is newer than any old version, whatever its content.
#[tokio::test]
async fn an_older_version_of_the_same_size_replaces_a_newer_one() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "abc");
    world.run(copy_all()).await;
    let versions = ids(&world, SOURCE, "k");
    for (version, done, history) in [(0, 1, "ca"), (0, 0, "ca"), (1, 1, "cab")] {
        let run = copy(&world, &versions[version]).await;
        assert_eq!(run.outcome.done_objects, done, "{:?}", run.receipts);
        assert_eq!(
            run.receipts[0].source_version.as_ref(),
            Some(&versions[version])
        );
        assert_eq!(there(&world, "k"), history);
    }
}

#[tokio::test]
async fn null_is_a_version_like_others() {
    let world = World::new().await;
    write(&world, SOURCE, "k", "a");
    let run = copy(&world, "null").await;
    assert_eq!(
        (run.outcome.done_objects, there(&world, "k").as_str()),
        (1, "a"),
        "{:?}",
        run.receipts
    );
    assert_eq!(run.receipts[0].source_version.as_deref(), Some("null"));
}

#[tokio::test]
async fn a_version_that_is_a_marker_or_is_not_there_fails_and_says_so() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "aM");
    let marker = ids(&world, SOURCE, "k").remove(1);
    for version in [marker.as_str(), "nope"] {
        let run = copy(&world, version).await;
        assert_eq!(
            run.outcome.failed_objects, 1,
            "{version}: {:?}",
            run.receipts
        );
        assert!(world.sandbox.store().versions(DESTINATION, "k").is_empty());
    }
}
