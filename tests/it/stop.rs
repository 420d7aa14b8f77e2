//! Orderly stops: no half object, no open upload, and a message about everything that is pending.

use std::time::Duration;

use s3haul::execute::receipt::Ending;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::GIB;
use tokio::time::sleep;

use crate::world::{DESTINATION, SOURCE, World, copy_all};

#[tokio::test]
async fn a_stopped_run_leaves_no_half_object_and_no_upload() {
    let mut world = World::with_copy_latency(Duration::from_millis(200)).await;
    world.ceiling = 8;
    for index in 0..4 {
        world.put(&format!("large{index}"), 4 * GIB);
    }
    for index in 0..200 {
        world.put(&format!("small{index:03}"), 9);
    }
    let stop = world.stop.clone();
    world.add_fault(
        Fault::on(Operation::UploadPartCopy)
            .nth(10)
            .then(Effect::hook(move |_| stop.cancel())),
    );
    let run = tokio::time::timeout(Duration::from_secs(10), world.run(copy_all()))
        .await
        .expect("it hangs");
    assert!(
        run.outcome.stopped && run.outcome.failed_objects == 0,
        "{:?}",
        run.outcome
    );
    assert!(run.outcome.stopped_objects >= 4, "{:?}", run.outcome);
    world.assert_no_upload_is_left();
    let copied = world.keys(DESTINATION);
    let done = run
        .receipts
        .iter()
        .filter(|receipt| matches!(receipt.ending, Ending::Done { .. }))
        .count();
    assert_eq!(
        copied.len(),
        done,
        "the destination has exactly the recorded objects"
    );
    assert!(!copied.iter().any(|key| key.starts_with("large")));
    assert!(
        world.calls(Operation::UploadPartCopy) < 40,
        "no part is sent after the stop"
    );
}

#[tokio::test(start_paused = true)]
async fn requests_that_never_end_are_given_up_after_the_drain() {
    let world = World::new().await;
    world.put("large", 4 * GIB);
    let mut world = world;
    world.retry.silence = Duration::from_hours(1);
    let stop = world.stop.clone();
    world.add_fault(
        Fault::on(Operation::UploadPartCopy)
            .nth(3)
            .then(Effect::hook(move |_| stop.cancel())),
    );
    world.add_fault(Fault::on(Operation::UploadPartCopy).then(Effect::StallBefore(None)));
    let began = tokio::time::Instant::now();
    let run = world.run(copy_all()).await;
    assert!(run.outcome.stopped);
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    assert!(
        matches!(run.receipts[0].ending, Ending::Stopped),
        "{:?}",
        run.receipts
    );
}

/// Unsent copies wait for a rate of two requests per second.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_what_waits_for_a_server_that_accepts_nothing() {
    let mut world = World::new().await;
    world.ceiling = 64;
    world.retry.patience = Duration::from_hours(1);
    world.retry.drain = Duration::from_hours(1);
    for index in 0..400 {
        let key = format!("{index:03}");
        let (content, spec) = (Content::pattern(1, 9), ObjectSpec::default());
        let store = world.sandbox.store();
        store.put_object(SOURCE, &key, content, &spec);
    }
    let copies = Operation::CopyObject;
    world.add_fault(Fault::on(copies));
    let refused = async {
        while world.calls(copies) < 40 {
            sleep(Duration::from_millis(10)).await;
        }
        world.stop.cancel();
        world.calls(copies)
    };
    let (run, before) = tokio::join!(world.run(copy_all()), refused);
    assert!(run.outcome.stopped && run.outcome.failed_objects == 0);
    let after = world.calls(copies) - before;
    // Up to 64 copies were in flight.
    assert!(after < 64, "{after} copies were sent after the stop");
}
