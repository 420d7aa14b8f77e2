//! Objects that another program wrote after a run was killed, and the cost of its resumption.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rstest::rstest;
use s3haul::sandbox::{Content, ObjectSpec, Operation};
use serde_json::Value;
use tempfile::TempDir;

use super::{again, copied, kill_after, manifest, slow_world};
use crate::reports::receipts_in;
use crate::world::program::{kill, spawn_in};
use crate::world::{DESTINATION, SOURCE, World};

const OBJECTS: u32 = 300;
/// The requests that may be in flight when a run of these manifests is killed.
const IN_FLIGHT: usize = 16;

/// Puts the same bytes with other attributes at each key that the killed run did not copy. Returns
/// these keys.
fn write_the_rest(world: &World, spec: &ObjectSpec) -> BTreeSet<String> {
    let there: BTreeSet<String> = world.keys(DESTINATION).into_iter().collect();
    let mut written = BTreeSet::new();
    for index in 0..OBJECTS {
        let key = format!("k{index:05}");
        if !there.contains(&key) {
            let content = Content::pattern(u64::from(index), 10);
            world.put_object(DESTINATION, &key, content, spec);
            written.insert(key);
        }
    }
    written
}

/// Starts a run, kills it, and waits until its last requests have taken effect.
async fn killed(world: &World, more: &str) -> TempDir {
    let directory = manifest(&world.sandbox, more);
    kill_after(world, directory.path(), 60).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    directory
}

/// Returns the receipts of these keys.
fn receipts_of(directory: &Path, keys: &BTreeSet<String>) -> Vec<Value> {
    let is_of = |receipt: &Value| {
        let place = receipt["destination"].as_str().unwrap();
        keys.contains(place.strip_prefix("s3://destination/").unwrap())
    };
    let mut receipts = receipts_in(&directory.join("report.jsonl"));
    receipts.retain(is_of);
    receipts
}

#[rstest]
#[case::class(ObjectSpec::default().storage_class("STANDARD_IA"))]
#[case::metadata(ObjectSpec::default().metadata("who", "me"))]
#[case::tags(ObjectSpec::default().tag("a", "b"))]
#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_other_attributes_is_not_taken_for_a_copy_of_the_run(
    #[case] spec: ObjectSpec,
) {
    let world = slow_world(OBJECTS, Duration::from_millis(15)).await;
    let directory = killed(&world, "").await;
    let written = write_the_rest(&world, &spec);
    assert!(written.len() > 100, "{}", written.len());
    let (exit, stdout, stderr) = again(&world, directory.path(), &[]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    for key in world.keys(SOURCE) {
        world.assert_equal(&key, &key);
    }
    let mut replaced = 0;
    for receipt in receipts_of(directory.path(), &written) {
        // Those that the killed run had not planned were found equal, as by any other run.
        assert!(
            !receipt.to_string().contains("earlier session"),
            "{receipt}"
        );
        replaced += usize::from(receipt["copy_reason"] == "attributes-differ");
    }
    assert!(replaced > 0, "{stdout}");
    let store = world.sandbox.store();
    let asked = spec.attributes;
    let kept = written
        .iter()
        .filter(|key| *store.object(DESTINATION, key).unwrap().attributes == asked)
        .count();
    assert_eq!(kept, written.len() - replaced, "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_another_program_is_kept_if_the_job_replaces_nothing() {
    let world = slow_world(OBJECTS, Duration::from_millis(15)).await;
    let directory = killed(&world, "    when: missing\n").await;
    let written = write_the_rest(&world, &ObjectSpec::default().metadata("who", "me"));
    let before = world.calls(Operation::CopyObject);
    let (exit, stdout, stderr) = again(&world, directory.path(), &[]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    assert_eq!(world.calls(Operation::CopyObject), before);
    for receipt in receipts_of(directory.path(), &written) {
        assert_eq!(receipt["status"], "skipped", "{receipt}");
        assert!(
            !receipt.to_string().contains("earlier session"),
            "{receipt}"
        );
    }
}

/// A source whose objects have tags and metadata: another program wrote the same number of tags.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_with_other_values_of_tags_is_copied_again() {
    let world = World::with_copy_latency(Duration::from_millis(15)).await;
    for index in 0..OBJECTS {
        let key = format!("k{index:05}");
        let spec = ObjectSpec::default().tag("team", "lake").metadata("a", "1");
        let content = Content::pattern(u64::from(index), 10);
        world.put_object(SOURCE, &key, content, &spec);
    }
    let directory = killed(&world, "").await;
    let other = ObjectSpec::default().tag("team", "sea").metadata("a", "1");
    let written = write_the_rest(&world, &other);
    let (exit, stdout, stderr) = again(&world, directory.path(), &[]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    let receipts = receipts_of(directory.path(), &written);
    let is_replaced = |receipt: &&Value| receipt["copy_reason"] == "attributes-differ";
    assert!(
        receipts.iter().any(|receipt| is_replaced(&receipt)),
        "{stdout}"
    );
    for receipt in receipts.iter().filter(is_replaced) {
        let key = receipt["destination"].as_str().unwrap();
        let key = key.strip_prefix("s3://destination/").unwrap();
        let object = world.sandbox.store().object(DESTINATION, key).unwrap();
        assert_eq!(object.attributes.tags["team"], "lake", "{receipt}");
    }
}

/// The list shows that the destination does not have the objects that were planned.
#[rstest]
#[case::nothing_was_there("")]
#[case::missing("    when: missing\n")]
#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_run_sends_no_more_requests_per_object_than_a_fresh_one(#[case] more: &str) {
    let world = slow_world(1500, Duration::from_millis(5)).await;
    let directory = manifest(&world.sandbox, more);
    let child = spawn_in(&world, directory.path(), &["run", "job.yaml"]);
    copied(&world, 100).await;
    kill(child).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let left = 1500 - world.keys(DESTINATION).len() as u64;
    assert!(left > 1000, "{left}");
    world.sandbox.calls().clear();
    let (exit, stdout, stderr) = again(&world, directory.path(), &[]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    assert_eq!(world.keys(DESTINATION), world.keys(SOURCE));
    let copies = world.calls(Operation::CopyObject);
    assert!(copies <= left + 8, "{copies} copies of {left}");
    let heads = world.sandbox.calls().of(Operation::HeadObject);
    let at_destination = heads
        .iter()
        .filter(|call| call.bucket == DESTINATION)
        .count();
    // The sample of recorded objects, and those whose copies were in flight.
    assert!(
        at_destination <= 16 + 3 * IN_FLIGHT + 100,
        "{at_destination}"
    );
    let heads = heads.len() as u64;
    assert!(heads <= left + 300, "{heads} for {left} objects");
}

/// Overwritten objects are in the destination's list too, with other sizes.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_decides_about_old_objects_at_the_destination() {
    let world = slow_world(1000, Duration::from_millis(5)).await;
    for index in 0..1000 {
        world.put_in(DESTINATION, &format!("k{index:05}"), 7);
    }
    let directory = killed(&world, "").await;
    world.sandbox.calls().clear();
    let (exit, stdout, stderr) = again(&world, directory.path(), &[]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    for key in world.keys(SOURCE) {
        world.assert_equal(&key, &key);
    }
    let heads = world.sandbox.calls().of(Operation::HeadObject);
    let at_destination = heads
        .iter()
        .filter(|call| call.bucket == DESTINATION)
        .count();
    assert!(at_destination < 300, "{at_destination}");
}
