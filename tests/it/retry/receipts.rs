//! Each object that a retry names ends with a receipt.

use std::fs;

use s3haul::sandbox::{Effect, Fault, Operation};

use crate::reports::receipts_in;
use crate::world::program::{at, run};
use crate::world::{DESTINATION, World};

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_the_selection_now_excludes_is_skipped() {
    let world = World::new().await;
    world.put_all(["o1", "o2"], 100);
    let files = tempfile::tempdir().unwrap();
    for name in ["deleted", "o1", "o2"] {
        fs::write(files.path().join(name), [0; 100]).unwrap();
    }
    for operation in [Operation::CopyObject, Operation::PutObject] {
        let denied = Fault::on(operation).then(Effect::Error(403, "AccessDenied"));
        world.add_fault(denied);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let local = format!("{}/", files.path().display());
    for (source, report) in [("s3://source/", "r.jsonl"), (&local, "f.jsonl")] {
        let path = path(report);
        let to = format!("s3://{DESTINATION}/{}/", &report[..1]);
        let copy = ["copy", source, &to, "--larger-than", "50B", "--report"];
        let copy = [&copy[..], &[path.as_str()]].concat();
        let (exit, stdout, stderr) = run(at(&world), &copy).await;
        assert_eq!(exit, 1, "{stdout} {stderr}");
    }
    world.sandbox.faults().clear();
    world.put("o1", 1);
    fs::write(files.path().join("o1"), [0]).unwrap();
    fs::remove_file(files.path().join("deleted")).unwrap();
    for (report, exits, statuses) in [
        ("r", 0, &["skipped", "done"][..]),
        ("f", 1, &["failed", "skipped", "done"]),
    ] {
        let first = path(&format!("{report}.jsonl"));
        let (exit, stdout, stderr) = run(at(&world), &["retry", &first]).await;
        assert_eq!(exit, exits, "{stdout} {stderr}");
        let mut receipts = receipts_in(&dir.path().join(format!("{report}.retry-1.jsonl")));
        receipts.sort_by_key(|line| line["source"].to_string());
        let found = receipts.iter().map(|line| line["status"].as_str().unwrap());
        assert!(found.eq(statuses.iter().copied()), "{receipts:?}");
        let skipped = receipts
            .iter()
            .find(|line| line["reason"] == "not-selected")
            .unwrap();
        assert_eq!(skipped["notes"][0], "now excluded: not larger than 50B");
    }
}
