//! A report that is retried again: what earlier retries copied is left out.

use s3haul::sandbox::Operation;

use super::denied;
use crate::world::World;
use crate::world::program::{at, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_retry_leaves_out_what_the_first_one_copied() {
    let world = World::new().await;
    world.put_all(["a", "b", "c"], 100);
    world.add_fault(denied("b"));
    world.add_fault(denied("c"));
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("night.jsonl");
    let report = report.to_str().unwrap();
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--report",
        report,
    ];
    let (exit, ..) = run(at(&world), &copy).await;
    assert_eq!(exit, 1);
    world.sandbox.faults().clear();
    world.add_fault(denied("c"));
    let (exit, stdout, _) = run(at(&world), &["retry", report]).await;
    assert_eq!(exit, 1, "{stdout}");
    world.sandbox.faults().clear();
    for (words, copied) in [
        (&["retry", report][..], &["c"][..]),
        (&["retry", report], &[]),
        (&["retry", report, "--fresh"], &["b", "c"]),
    ] {
        world.sandbox.calls().clear();
        let (exit, stdout, stderr) = run(at(&world), words).await;
        assert_eq!(exit, 0, "{stdout} {stderr}");
        let calls = world.sandbox.calls().of(Operation::CopyObject);
        let mut keys: Vec<_> = calls.iter().map(|call| call.key.as_str()).collect();
        keys.sort_unstable();
        assert_eq!(keys, copied, "{stdout} {stderr}");
        assert_eq!(
            stdout.contains("nothing to do"),
            copied.is_empty(),
            "{stdout}"
        );
    }
}
