//! Learned limits of a server: per prefix, over real requests, and from one session to the next.

use std::time::Duration;

use s3haul::journal::{Intent, LeaseTerms, Location, Opened};
use s3haul::location::ObjectKey;
use s3haul::manifest::job::Limits;
use s3haul::pace::learned::{Learned, LearnedLane};
use s3haul::pace::{Pacer, RetryPolicy};
use s3haul::s3::{Attributes, RequestClass, WriteCondition};
use s3haul::sandbox::{Content, Effect, Fault, Model, ObjectSpec, Operation, RateModel};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::world::{DESTINATION, SOURCE, World, copy_all};

/// Starts a sandbox that accepts this many writes a second for each leading prefix.
async fn limited(writes: u32) -> World {
    let limits = RateModel {
        writes_per_second: Some(writes),
        ..RateModel::default()
    };
    let model = Model {
        limits,
        ..Model::default()
    };
    World::modelled(model).await
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hot_prefix_does_not_slow_a_cold_one() {
    let world = World::new().await;
    world.add_fault(
        Fault::on(Operation::PutObject)
            .key("hot/")
            .then(Effect::SlowDown),
    );
    let bucket = world.bucket(DESTINATION).await;
    let put = |name: String| {
        let bucket = bucket.clone();
        async move {
            let body = bytes::Bytes::from_static(b"x");
            bucket
                .put_object(
                    &key(&name),
                    body,
                    &Attributes::default(),
                    None,
                    WriteCondition::None,
                )
                .await
        }
    };
    let (mut hot, mut cold) = (JoinSet::new(), JoinSet::new());
    for index in 0..20 {
        hot.spawn(put(format!("hot/{index}")));
        cold.spawn(put(format!("cold/{index}")));
    }
    // The other prefix, which is never refused, always has work.
    let limited = || bucket.pacer().learned().lanes;
    for next in 20.. {
        if limited().iter().any(|lane| lane.prefix == "hot/") {
            break;
        }
        cold.join_next().await.unwrap().unwrap().unwrap();
        cold.spawn(put(format!("cold/{next}")));
    }
    // Nothing slows the cold prefix, whatever happens to the hot one.
    let lanes = limited();
    let [lane] = &lanes[..] else {
        panic!("one lane is limited, not {lanes:?}")
    };
    assert_eq!(
        (&*lane.bucket, &*lane.prefix, lane.class),
        ("default/destination", "hot/", RequestClass::Write)
    );
    while let Some(ended) = cold.join_next().await {
        ended.unwrap().unwrap();
    }
    hot.abort_all();
}

/// All requests but the first ones wait longer than the patience, while earlier ones are accepted.
#[tokio::test(flavor = "multi_thread")]
async fn time_in_line_at_a_rate_that_the_server_keeps_does_not_use_up_patience() {
    let mut world = limited(10).await;
    world.retry.patience = Duration::from_millis(1500);
    for index in 0..60 {
        let key = format!("{index:02}");
        let content = Content::pattern(1, 9);
        (world.sandbox.store()).put_object(SOURCE, &key, content, &ObjectSpec::default());
    }
    let outcome = world.run(copy_all()).await.outcome;
    assert_eq!(
        (
            outcome.done_objects,
            outcome.failed_objects,
            outcome.gave_up
        ),
        (60, 0, None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_with_what_the_last_one_learned() {
    let mut world = limited(80).await;
    for index in 0..400 {
        world.put(&format!("{index:04}"), 9);
    }
    let directory = tempfile::tempdir().unwrap();
    let job = world.job(copy_all());
    let stop = world.stop.clone();
    let first = async {
        let copied = || world.keys(DESTINATION).len();
        while copied() < 200 {
            sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
    };
    let (run, ()) = tokio::join!(world.session(directory.path(), &job, Intent::Resume), first);
    assert!(
        run.outcome.stopped && run.outcome.failed_objects == 0,
        "{:?}",
        run.outcome
    );
    let opened = Opened::open(
        Location::Directory(directory.path().to_owned()),
        &LeaseTerms::default(),
    )
    .await
    .unwrap();
    let lanes = opened
        .state()
        .learned
        .clone()
        .expect("the journal knows")
        .learned
        .lanes;
    let learned = opened.state().learned.clone();
    drop(opened);
    let [lane] = &lanes[..] else {
        panic!("{lanes:?}")
    };
    assert_eq!(
        (&*lane.bucket, &*lane.prefix, lane.class),
        ("default/destination", "", RequestClass::Write)
    );
    assert!(
        // A busy machine sends fewer requests.
        (1..=250).contains(&lane.accepted),
        "80 a second are accepted, not {}",
        lane.accepted
    );

    // A session that learns nothing keeps the record and its time. It starts below the recorded
    // rate, and a record of that would be lower each time.
    world.stop = CancellationToken::new();
    world.stop.cancel();
    let idle = world.session(directory.path(), &job, Intent::Resume).await;
    assert!(idle.outcome.stopped, "{:?}", idle.outcome);
    let opened = Opened::open(
        Location::Directory(directory.path().to_owned()),
        &LeaseTerms::default(),
    )
    .await
    .unwrap();
    assert_eq!(opened.state().learned, learned);
    drop(opened);

    world.stop = CancellationToken::new();
    let before = run.outcome.requests.throttled;
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (400, 0)
    );
    let after = run.outcome.requests.throttled;
    assert!(
        after * 2 < before,
        "{after} throttled, and {before} in the session that knew nothing"
    );
}

#[tokio::test]
async fn what_is_recalled_is_used_with_caution() {
    let lane = |prefix: &str, accepted| LearnedLane {
        bucket: "default/lake".to_owned(),
        class: RequestClass::Write,
        prefix: prefix.to_owned(),
        accepted,
    };
    let pacer = Pacer::new(&Limits::default(), 2048, RetryPolicy::default());
    let learned = Learned {
        lanes: vec![lane("", 3000), lane("hot/", 100)],
        concurrency: 2000,
    };
    pacer.recall(&learned);
    let known = pacer.learned();
    assert_eq!(known.lanes, [lane("", 2700), lane("hot/", 90)]);
    assert_eq!(known.concurrency, 2000);
    // A smaller limit of the user takes precedence.
    let limits = Limits {
        in_flight: Some(100),
        ..Limits::default()
    };
    let pacer = Pacer::new(&limits, 2048, RetryPolicy::default());
    pacer.recall(&learned);
    assert_eq!(pacer.learned().concurrency, 100);
}

/// A server that answers every request with 500, whose probes are not exempt from the limit.
#[tokio::test]
async fn probes_keep_the_limit_of_requests() {
    let mut world = World::with_numbered(20, 10).await;
    world.retry.probes = (Duration::from_millis(5), Duration::from_millis(5));
    let mut job = world.job(copy_all());
    job.limits.requests_per_second = Some(5);
    job.limits.patience = Some(Duration::from_secs(4));
    for operation in [Operation::HeadObject, Operation::CopyObject] {
        world.add_fault(Fault::on(operation).then(Effect::Error(500, "InternalError")));
    }
    let began = std::time::Instant::now();
    let _ = world.try_run_job(&job).await;
    let seconds = began.elapsed().as_secs_f64();
    let (calls, most) = (world.sandbox.calls().total(), seconds * 5.0 + 3.0);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let calls = calls as f64;
    assert!(calls <= most, "{calls} requests in {seconds} s");
    assert!(seconds > 1.0, "{seconds}");
}
