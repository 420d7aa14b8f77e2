//! Ages count back from the start of the run whose failures are retried.

use std::fs;
use std::time::{Duration, SystemTime};

use rstest::rstest;
use s3haul::sandbox::{ObjectSpec, Operation};

use crate::reports::without_checksum;
use crate::world::program::{at, run};
use crate::world::{DESTINATION, SOURCE, World};

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_copies_what_has_left_the_window_since(
    #[values("changed", "missing", "always")] when: &str,
) {
    let world = World::new().await;
    let ago = |minutes| SystemTime::now() - Duration::from_mins(minutes);
    world.put_with("old", 100, &ObjectSpec::default().last_modified(ago(90)));
    world.put_with("older", 100, &ObjectSpec::default().last_modified(ago(150)));
    world.deny(SOURCE, Operation::ListObjectsV2, "");
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("r.jsonl");
    let report = report.to_str().unwrap();
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--modified-after",
        "1h",
        "--when",
        when,
        "--report",
        report,
    ];
    let (exit, ..) = run(at(&world), &copy).await;
    assert_ne!(exit, 0);
    // As if the run had begun an hour ago.
    let text = fs::read_to_string(report).unwrap();
    let (header, rest) = text.split_once('\n').unwrap();
    let mut header: serde_json::Value = serde_json::from_str(header).unwrap();
    assert!(header["counted_from"].is_string(), "{header}");
    let began = jiff::Timestamp::try_from(ago(60)).unwrap();
    header["counted_from"] = began.to_string().into();
    fs::write(report, without_checksum(&format!("{header}\n{rest}"))).unwrap();
    // The lists of the first retry fail too.
    let (exit, ..) = run(at(&world), &["retry", report]).await;
    assert_ne!(exit, 0);
    world.sandbox.store().allow_all();
    let again = dir.path().join("r.retry-1.jsonl");
    let (exit, stdout, stderr) = run(at(&world), &["retry", again.to_str().unwrap()]).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    assert_eq!(world.keys(DESTINATION), ["old"], "{stdout} {stderr}");
}
