//! Changes in place: `from` equals `to`, and the job names what to change. s3haul changes exactly
//! that, keeps everything else, loses nobody's overwrite, and skips objects that need no change.

mod guarded;
mod kept;
mod refused;

use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::manifest::job::{Source, Transfer};
use s3haul::plan::decide::Skip;
use s3haul::sandbox::{ObjectInfo, ObjectSpec, Operation};
use s3haul::size::GIB;

use crate::world::program::{at, run as run_command};
use crate::world::{DEFAULT, Run, SOURCE, World, destination, uri};

/// Returns a transfer of everything in `source` onto itself.
fn onto_itself(change: impl FnOnce(&mut Transfer)) -> Transfer {
    let from = Source::Prefix {
        endpoint: DEFAULT.to_owned(),
        location: uri("s3://source/"),
    };
    let mut transfer = Transfer::new("change", from, destination("s3://source/"));
    change(&mut transfer);
    transfer
}

fn to_class(class: &str) -> Transfer {
    onto_itself(|transfer| transfer.to.storage_class = Some(class.to_owned()))
}

async fn versioned() -> World {
    World::versioned().await
}

fn object(world: &World, key: &str) -> ObjectInfo {
    world.object(SOURCE, key).unwrap()
}

fn receipt<'r>(run: &'r Run, key: &str) -> &'r Receipt {
    let is_its = |receipt: &&Receipt| receipt.source == format!("s3://source/{key}");
    run.receipts
        .iter()
        .find(is_its)
        .unwrap_or_else(|| panic!("{key} has no receipt"))
}

fn is_left(run: &Run, key: &str) -> bool {
    receipt(run, key).ending
        == Ending::Skipped {
            reason: Skip::AsSet,
        }
}

#[tokio::test]
async fn a_storage_class_is_changed_and_then_left() {
    let world = World::new().await;
    world.put_with(
        "a/small",
        10,
        &ObjectSpec::default().metadata("m", "n").tag("t", "u"),
    );
    world.put_with(
        "b",
        300 << 20,
        &ObjectSpec::default().storage_class("STANDARD_IA"),
    );
    world.put_with("c", 10, &ObjectSpec::default().storage_class("GLACIER_IR"));
    let run = world.run(to_class("GLACIER_IR")).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.in_place_objects),
        (2, 2),
        "{:?}",
        run.receipts
    );
    assert!(is_left(&run, "c") && receipt(&run, "b").in_place);
    assert_eq!(
        world.calls(Operation::CopyObject),
        2,
        "one request up to 5 GiB, however large parts are"
    );
    for key in ["a/small", "b", "c"] {
        assert_eq!(
            object(&world, key).attributes.class(),
            "GLACIER_IR",
            "{key}"
        );
    }
    let kept = object(&world, "a/small").attributes;
    assert_eq!(
        (kept.metadata["m"].as_str(), kept.tags["t"].as_str()),
        ("n", "u")
    );
    let (heads, lists) = (
        world.calls(Operation::HeadObject),
        world.calls(Operation::ListObjectsV2),
    );
    let run = world.run(to_class("GLACIER_IR")).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.skipped_objects),
        (0, 3),
        "{:?}",
        run.receipts
    );
    assert_eq!(
        world.calls(Operation::HeadObject),
        heads,
        "the list shows the class"
    );
    assert_eq!(
        world.calls(Operation::ListObjectsV2),
        lists + 1,
        "the bucket is listed once"
    );
}

#[tokio::test]
async fn above_5_gib_it_is_changed_in_parts() {
    let world = World::new().await;
    let spec = ObjectSpec::default()
        .metadata("m", "n")
        .tag("t", "u")
        .content_type("text/x");
    world.put_with("huge", 6 * GIB, &spec);
    let before = object(&world, "huge");
    let run = world.run(to_class("STANDARD_IA")).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.in_place_objects),
        (1, 1),
        "{:?}",
        run.receipts
    );
    assert!(world.calls(Operation::UploadPartCopy) > 1 && world.calls(Operation::CopyObject) == 0);
    let after = object(&world, "huge");
    assert_eq!(
        (after.content, after.attributes.class()),
        (before.content, "STANDARD_IA")
    );
    assert_eq!(after.attributes.metadata, before.attributes.metadata);
    assert_eq!(after.attributes.tags, before.attributes.tags);
    assert_eq!(
        after.attributes.content_type,
        before.attributes.content_type
    );
    assert!(world.open_uploads(SOURCE).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_plans_and_counts_it() {
    let world = versioned().await;
    world.put("k", 10);
    world.put("l", 10);
    let class = ["--storage-class", "GLACIER_IR", "--provider", "aws"];
    let copy = |from: &'static str, to: &'static str, more: &[&'static str]| {
        let arguments = [&["copy", from, to], class.as_slice(), more].concat();
        run_command(at(&world), &arguments.leak()[..])
    };
    let (exit, stdout, stderr) = copy("s3://source/k", "s3://source/k", &["--dry-run"]).await;
    assert!(
        exit == 0 && stdout.contains("to change in place: 1 object"),
        "{exit} {stdout} {stderr}"
    );
    assert!(
        stdout.contains("the old version of each changed object stays and costs money"),
        "{stdout}"
    );
    assert!(stdout.contains("GetObjectAcl 1"), "{stdout}");
    assert_eq!(object(&world, "k").attributes.class(), "STANDARD");
    let (exit, stdout, stderr) = copy("s3://source/k", "s3://source/k", &[]).await;
    assert!(
        exit == 0 && stdout.contains("1 object changed in place"),
        "{exit} {stdout} {stderr}"
    );
    assert!(
        stdout.contains(
            "1 old version stays in the bucket and costs money until it is deleted or expires"
        ),
        "{stdout}"
    );
    assert_eq!(world.sandbox.store().versions(SOURCE, "k").len(), 2);
    // A prefix onto itself, in which one of two objects already has the class.
    let (exit, stdout, stderr) = copy("s3://source/", "s3://source/", &[]).await;
    assert!(
        exit == 0 && stdout.contains("1 object changed in place"),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(world.sandbox.store().versions(SOURCE, "k").len(), 2);
    assert_eq!(world.sandbox.store().versions(SOURCE, "l").len(), 2);
    let directory = tempfile::tempdir().unwrap();
    let manifest = directory.path().join("job.yaml");
    let text = "version: 1\nendpoints: {default: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}}\n\
        transfers: [{from: {s3: s3://source/}, to: {s3: s3://source/, storage_class: STANDARD_IA}}]\n";
    std::fs::write(&manifest, text).unwrap();
    let manifest = manifest.to_str().unwrap();
    let (exit, stdout, stderr) = run_command(at(&world), &["check", manifest]).await;
    assert!(
        exit == 0 && stdout.contains("the bucket keeps versions"),
        "{exit} {stdout} {stderr}"
    );
    let (exit, stdout, stderr) = run_command(at(&world), &["run", manifest]).await;
    assert!(
        exit == 0 && stdout.contains("2 objects changed in place"),
        "{exit} {stdout} {stderr}"
    );
}
