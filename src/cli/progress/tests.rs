//! Tests of the display during a run.

use super::*;
use crate::journal::state::RunTotals;
use crate::manifest::job::Limits;
use crate::pace::RetryPolicy;
use crate::s3::{Failure, FailureKind, Operation, RequestClass};

#[test]
fn keys_are_shortened_in_the_middle() {
    assert_eq!(shorten("a/long/key/part-0001", 20), "a/long/key/part-0001");
    assert_eq!(shorten("a/long/key/part-0001", 11), "a/lon…-0001");
    assert_eq!(shorten("ümlaut\u{1b}[31m", 40), r"ümlaut\u{1b}[31m");
}

#[test]
fn what_does_not_fit_is_left_out_as_a_whole() {
    let pieces: Vec<String> = ["1GiB of 2GiB", "3m left", "a long reason for it", "12MiB/s"]
        .map(str::to_owned)
        .into();
    assert_eq!(
        fit(&pieces, 100),
        "1GiB of 2GiB  3m left  a long reason for it  12MiB/s"
    );
    assert_eq!(fit(&pieces, 30), "1GiB of 2GiB  3m left  12MiB/s");
    assert_eq!(fit(&pieces, 5), "1GiB of 2GiB");
}

fn console() -> Console {
    let pacer = Arc::new(Pacer::new(&Limits::default(), 8, RetryPolicy::default()));
    let output = Output {
        quiet: true,
        ..Output::default()
    };
    Console::new(pacer, output, false, false)
}

#[test]
fn a_line_tells_what_matters_first() {
    let console = console();
    let course = |objects: u64| {
        let (at, bytes) = (Duration::from_secs(90), objects << 20);
        console.ended_objects.store(objects, Ordering::Relaxed);
        Course {
            now: Done { at, bytes, objects },
            ..Course::default()
        }
    };
    console.observe(&Event::ObjectPlanned { bytes: 1 << 20 });
    insta::assert_snapshot!(console.line(&course(0)), @"1m 30s  0B of 1MiB+  0B/s  0 of 1+ objects  0 in flight");
    console.observe(&Event::PlanEnded);
    insta::assert_snapshot!(console.line(&course(1)), @"1m 30s  1MiB of 1MiB  11.37KiB/s  1 of 1 object  0 in flight");
    console.observe(&Event::ObjectPlanned { bytes: 2 << 20 });
    insta::assert_snapshot!(console.line(&course(1)), @"1m 30s  1MiB of 3MiB  3m 00s left  11.37KiB/s  1 of 2 objects  0 in flight");
    console.failed_objects.store(1, Ordering::Relaxed);
    console.observe(&Event::Paused { is_paused: true });
    insta::assert_snapshot!(console.line(&course(1)), @"1m 30s  1MiB of 3MiB  stalled  waiting for the end of refusals, trying single objects  1 failed  11.37KiB/s  1 of 2 objects  0 in flight");
}

#[test]
fn a_run_that_goes_on_is_shown_as_far_as_it_is() {
    let console = console();
    let totals = RunTotals {
        done_objects: 4,
        done_bytes: 400,
        failed_objects: 1,
        ..RunTotals::default()
    };
    console.restore_counts(&RunState {
        totals,
        ..RunState::default()
    });
    // Objects in progress are planned again, with their stored parts.
    console.known_objects.store(3, Ordering::Relaxed);
    console.known_bytes.store(1200, Ordering::Relaxed);
    let known = console.line(&Course::default());
    assert!(
        known.contains("0B of 1.56KiB+") && known.contains("5 of 8+ objects"),
        "{known}"
    );
    console.observe(&Event::ObjectPlanned { bytes: 600 });
    console.observe(&Event::BytesCopied {
        id: None,
        bytes: 100,
    });
    let line = console.line(&Course {
        now: console.done(),
        ..Course::default()
    });
    assert!(
        line.contains("500B of 1.56KiB+") && line.contains("5 of 8+ objects"),
        "{line}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_without_a_success_is_stalled_and_says_when_it_gives_up() {
    let console = console();
    let lanes = console.pacer.lanes("here", "lake", RequestClass::Write);
    let answered = async |failure: Option<Failure>| {
        let patience = Duration::from_mins(1);
        let admitted = console.pacer.admit(&lanes, "k", 0, patience).await.unwrap();
        let (operation, second) = (Operation::CopyObject, Duration::from_secs(1));
        let pacer = &console.pacer;
        pacer.learn(admitted, operation, failure.as_ref(), 0, second, second);
    };
    let refused = || {
        let place = "lake/k".to_owned();
        Some(Failure::new(
            FailureKind::Throttled,
            Operation::CopyObject,
            place,
            "slow down",
        ))
    };
    let mut reported = None;
    answered(refused()).await;
    assert!(console.stall(&mut reported).is_none(), "it has only begun");
    tokio::time::advance(STALLED + Duration::from_millis(500)).await;
    answered(refused()).await;
    let line = console.line(&Course::default());
    let expected = "  stalled  waiting for a success, none for 10.";
    assert!(
        line.contains(expected) && line.contains("slow down; gives up in 14m"),
        "{line}"
    );
    assert!(console.stall(&mut reported).is_some() && console.stall(&mut reported).is_none());
    answered(None).await;
    assert!(!console.line(&Course::default()).contains("stalled"));
    assert!(console.stall(&mut reported).is_some() && console.stall(&mut reported).is_none());
}

#[test]
fn the_time_left_is_that_of_the_many_small_objects_behind_a_large_one() {
    let console = console();
    for bytes in std::iter::once(10_000_000).chain([10; 470]) {
        console.observe(&Event::ObjectPlanned { bytes });
    }
    console.observe(&Event::PlanEnded);
    let now = Done {
        at: Duration::from_secs(10),
        bytes: 10_001_000,
        objects: 101,
    };
    let line = console.line(&Course {
        now,
        ..Course::default()
    });
    assert!(line.contains("36.6s left"), "{line}");
}
