//! A prefix or bucket that is refused with 503, or answered late, does not hold up the others.

use std::time::Duration;

use rstest::rstest;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Job, Limits, Source, Transfer};
use s3haul::sandbox::{Effect, Fault, Operation};
use s3haul::size::MIB;
use tokio::time::{sleep, timeout};

use crate::world::{DESTINATION, SOURCE, World, copy_all, destination, in_parts_of, uri};

/// Ends a test that hangs. A few thousand requests take minutes on a busy machine.
const GENEROUS: Duration = Duration::from_mins(5);

/// The prefix that is refused or slow comes first and has the most objects.
const PREFIXES: [(&str, u32); 3] = [("aaa/", 1500), ("bbb/", 400), ("ccc/", 400)];

async fn patient_world() -> World {
    let mut world = World::with_copy_latency(Duration::from_millis(10)).await;
    world.ceiling = 64;
    // Nothing times out meanwhile.
    (world.retry.patience, world.retry.silence) = (GENEROUS * 4, GENEROUS * 4);
    world
}

fn copied(world: &World, bucket: &str, prefix: &str) -> usize {
    world
        .keys(bucket)
        .iter()
        .filter(|key| key.starts_with(prefix))
        .count()
}

/// Runs the job until the other prefixes are complete, while nothing that `fault` matches succeeds.
/// Then, if `ends`, removes the fault and expects everything to complete.
async fn others_complete(
    world: &World,
    job: &Job,
    fault: Fault,
    ends: bool,
    is_complete: impl Fn() -> bool,
) {
    world.add_fault(fault);
    let others = async {
        while !is_complete() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let mut run = Box::pin(world.try_run_job(job));
    tokio::select! {
        run = &mut run => panic!("the run has ended: {:?}", run.unwrap().outcome),
        others = timeout(GENEROUS, others) => others.expect("the others stand still"),
    }
    if ends {
        world.sandbox.faults().clear();
        let outcome = timeout(GENEROUS, run)
            .await
            .expect("it does not end")
            .unwrap()
            .outcome;
        assert_eq!(
            (
                outcome.failed_objects,
                outcome.stopped_objects,
                outcome.gave_up
            ),
            (0, 0, None)
        );
    }
}

#[rstest]
#[case::without_limits(Limits::default())]
#[case::few_in_flight(Limits { in_flight: Some(8), ..Limits::default() })]
#[case::a_rate(Limits { requests_per_second: Some(500), ..Limits::default() })]
#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_in_which_all_is_refused_does_not_hold_up_the_others(#[case] limits: Limits) {
    let world = patient_world().await;
    for (prefix, objects) in PREFIXES {
        (0..objects).for_each(|index| world.put(&format!("{prefix}{index:05}"), 9));
    }
    let mut job = world.job(copy_all());
    job.limits = limits;
    let is_complete = || {
        PREFIXES[1..]
            .iter()
            .all(|(prefix, all)| copied(&world, DESTINATION, prefix) == *all as usize)
    };
    let refused = Fault::on(Operation::CopyObject).key("aaa/");
    others_complete(&world, &job, refused, true, is_complete).await;
    assert_eq!(world.keys(DESTINATION).len(), 2300);
    // Refused objects cost few requests.
    let refused = world.sandbox.calls().of(Operation::CopyObject);
    let refused = refused
        .iter()
        .filter(|call| call.key.starts_with("aaa/"))
        .count();
    assert!(refused < 1500 + 1500, "{refused} requests for 1500 objects");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_prefix_does_not_hold_up_the_others() {
    let world = patient_world().await;
    for (prefix, objects) in PREFIXES {
        (0..objects).for_each(|index| world.put(&format!("{prefix}{index:05}"), 9));
    }
    let is_complete = || {
        PREFIXES[1..]
            .iter()
            .all(|(prefix, all)| copied(&world, DESTINATION, prefix) == *all as usize)
    };
    let slow = Effect::StallBefore(Some(Duration::from_secs(2)));
    let slow = Fault::on(Operation::CopyObject).key("aaa/").then(slow);
    others_complete(&world, &world.job(copy_all()), slow, false, is_complete).await;
    // The slow prefix had all slots before the other prefixes were listed. With a third of the
    // slots after that, it would have copied 400 more objects.
    let slow = copied(&world, DESTINATION, "aaa/");
    assert!(slow < 300, "{slow} slow objects were copied meanwhile");
}

fn transfer(prefix: &str, bucket: &str) -> Transfer {
    let location = uri(&format!("s3://{SOURCE}/{prefix}"));
    let from = Source::Prefix {
        endpoint: DEFAULT_ENDPOINT.to_owned(),
        location,
    };
    Transfer::new(
        prefix.trim_end_matches('/'),
        from,
        destination(&format!("s3://{bucket}/{prefix}")),
    )
}

#[rstest]
#[case::refused(Effect::SlowDown, true)]
#[case::slow(Effect::StallBefore(Some(Duration::from_secs(6))), false)]
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_accepts_nothing_does_not_hold_up_other_transfers(
    #[case] effect: Effect,
    #[case] ends: bool,
) {
    let world = patient_world().await;
    world.create_bucket("elsewhere");
    // More than are planned ahead.
    (0..6000).for_each(|index| world.put(&format!("aaa/{index:05}"), 9));
    for prefix in ["bbb/", "ccc/"] {
        (0..200).for_each(|index| world.put(&format!("{prefix}{index:05}"), 9));
    }
    let mut job = world.job(transfer("aaa/", "elsewhere"));
    job.transfers
        .extend([transfer("bbb/", DESTINATION), transfer("ccc/", DESTINATION)]);
    let is_complete = || copied(&world, DESTINATION, "") == 400;
    let fault = Fault::on(Operation::CopyObject).key("aaa/").then(effect);
    others_complete(&world, &job, fault, ends, is_complete).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_below_a_refused_prefix_do_not_hold_up_the_others() {
    let world = patient_world().await;
    // More of them than uploads are open at once, and the larger ones.
    (0..60).for_each(|index| world.put(&format!("aaa/{index:02}"), 100 * MIB));
    (0..10).for_each(|index| world.put(&format!("bbb/{index:02}"), 50 * MIB));
    let mut job = world.job(in_parts_of(5 * MIB, copy_all()));
    job.limits = Limits {
        in_flight: Some(16),
        ..Limits::default()
    };
    let refused = Fault::on(Operation::UploadPartCopy).key("aaa/");
    others_complete(&world, &job, refused, true, || {
        copied(&world, DESTINATION, "bbb/") == 10
    })
    .await;
    world.assert_no_upload_is_left();
}
