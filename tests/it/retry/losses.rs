//! `retry --losses` sets lost tags only if they belong to the source that was copied.

use aws_sdk_s3::types::BucketVersioningStatus;
use rstest::rstest;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};

use super::lossy;
use crate::world::program::{at, run};
use crate::world::{SOURCE, World};

fn tagged(value: &str) -> ObjectSpec {
    ObjectSpec::default().tag("team", value)
}

#[rstest]
#[case::without_versions(false)]
#[case::suspended(true)]
#[tokio::test(flavor = "multi_thread")]
async fn tags_of_a_new_source_are_not_set_on_an_old_copy(#[case] is_suspended: bool) {
    let world = World::new().await;
    if is_suspended {
        for status in [
            BucketVersioningStatus::Enabled,
            BucketVersioningStatus::Suspended,
        ] {
            world.set_versioning(SOURCE, status).await;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("night.jsonl");
    let report = report.to_str().unwrap();
    lossy(&world, report).await;
    world.sandbox.store().allow_all();
    // Replaced before the retry, perhaps in the second of the copy.
    world.put_object(SOURCE, "k00", Content::pattern(77, 100), &tagged("new"));
    // Replaced after the retry has looked at it, and before it reads the tags.
    let replace = Effect::hook(|store| {
        store.put_object(SOURCE, "k01", Content::pattern(78, 100), &tagged("late"));
    });
    let read = Fault::on(Operation::GetObjectTagging).key("k01");
    world.add_fault(read.nth(1).then(replace));
    world.sandbox.calls().clear();
    let (exit, stdout, stderr) = run(at(&world), &["retry", "--losses", report]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    for index in 0..20 {
        let key = format!("k{index:02}");
        world.assert_equal(&key, &key);
    }
    assert_eq!(
        world.calls(Operation::CopyObject),
        2,
        "only those whose source was replaced"
    );
}
