//! Outages: those that a run waits out, those that exceed its patience, and runs that end
//! themselves.

use std::net::SocketAddr;
use std::time::Duration;

use s3haul::execute::Outcome;
use s3haul::execute::receipt::Ending;
use s3haul::journal::Intent;
use s3haul::manifest::job::{FailureLimit, Job, Limits};
use s3haul::pace::RetryPolicy;
use s3haul::s3::FailureKind;
use s3haul::sandbox::{Effect, Fault, ObjectSpec, Operation, When};
use s3haul::size::{ByteRate, MIB};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::issuer::{Issuer, Reply};
use crate::world::program::command;
use crate::world::{SOURCE, World, copy_all, in_parts_of, restate};

/// A connection to the sandbox that can be cut: then new connections are refused, and open ones
/// break.
struct Line {
    at: SocketAddr,
    to: SocketAddr,
    serving: Option<JoinHandle<()>>,
}

impl Line {
    async fn to(world: &World) -> Self {
        let to = world
            .sandbox
            .url()
            .trim_start_matches("http://")
            .parse()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut line = Self {
            at,
            to,
            serving: None,
        };
        line.serve(listener);
        line
    }

    fn serve(&mut self, listener: TcpListener) {
        let to = self.to;
        self.serving = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut onward = TcpStream::connect(to).await.unwrap();
                    let _ = copy_bidirectional(&mut from, &mut onward).await;
                });
            }
        }));
    }

    async fn cut(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _ = serving.await;
    }

    async fn mend(&mut self) {
        let listener = TcpListener::bind(self.at).await.unwrap();
        self.serve(listener);
    }

    fn job(&self, world: &World) -> Job {
        let mut job = world.job(copy_all());
        restate(&mut job, |endpoint| {
            endpoint.url = Some(format!("http://{}", self.at));
        });
        job
    }
}

async fn world_with(objects: u32) -> World {
    let world = World::new().await;
    for number in 0..objects {
        let key = format!("{number:05}");
        world.put(&key, 100);
    }
    world.put("large", 400 * MIB);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_and_comes_back_costs_no_object() {
    let world = world_with(600).await;
    let mut line = Line::to(&world).await;
    let job = line.job(&world);
    // Slow enough to be cut in the middle.
    world.add_fault(
        Fault::on(Operation::CopyObject).then(Effect::Delay(Duration::from_millis(100))),
    );
    let half_way = async {
        while world.calls(Operation::CopyObject) < 200 {
            sleep(Duration::from_millis(5)).await;
        }
        line.cut().await;
        sleep(Duration::from_secs(2)).await;
        line.mend().await;
    };
    let (run, ()) = tokio::join!(world.try_run_job(&job), half_way);
    let run = run.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (601, 0)
    );
    assert_eq!(run.outcome.gave_up, None);
    world.assert_equal("large", "large");
    world.assert_no_upload_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_away_ends_the_run_and_not_each_object() {
    let world = world_with(600).await;
    let mut line = Line::to(&world).await;
    let mut job = line.job(&world);
    job.limits.patience = Some(Duration::from_secs(2));
    world.add_fault(
        Fault::on(Operation::CopyObject).then(Effect::Delay(Duration::from_millis(100))),
    );
    let cut = async {
        while world.calls(Operation::CopyObject) < 50 {
            sleep(Duration::from_millis(5)).await;
        }
        line.cut().await;
    };
    let (run, ()) = tokio::join!(world.try_run_job(&job), cut);
    let outcome = run.unwrap().outcome;
    let gave_up = outcome.gave_up.expect("nobody came back");
    assert!(
        gave_up.may_pass_later && gave_up.reason.contains("has not answered for"),
        "{gave_up:?}"
    );
    let all = outcome.done_objects + outcome.failed_objects + outcome.stopped_objects;
    assert_eq!(all, 601, "each object is accounted for");
}

#[tokio::test(start_paused = true)]
async fn while_a_server_fails_one_request_at_a_time_asks_for_it() {
    let world = world_with(600).await;
    let (faults, calls) = (world.sandbox.faults(), world.sandbox.calls());
    let job = world.job(copy_all());
    faults.add(Fault::on(Operation::CopyObject).then(Effect::Delay(Duration::from_millis(50))));
    let outage = async {
        while calls.count(Operation::CopyObject) < 100 {
            sleep(Duration::from_millis(5)).await;
        }
        faults.clear();
        faults.add(Fault::on_any().then(Effect::Error(500, "InternalError")));
        // Waits until all requests in flight have failed, which takes longer on a busy machine.
        let mut seen = (0, 0);
        for _ in 0..20 {
            calls.clear();
            sleep(Duration::from_millis(500)).await;
            seen = (calls.total(), calls.max_in_flight());
            if seen.0 > 0 && seen.1 == 1 {
                break;
            }
        }
        faults.clear();
        seen
    };
    let (run, (probes, at_once)) = tokio::join!(world.try_run_job(&job), outage);
    let outcome = run.unwrap().outcome;
    assert_eq!((outcome.done_objects, outcome.failed_objects), (601, 0));
    assert!(
        probes > 0 && at_once == 1,
        "{probes} requests during the outage, {at_once} at once"
    );
}

/// Runs a job with this many slots through an outage in its middle. Returns its outcome and the
/// number of requests during the outage.
async fn through_an_outage(at_once: u32, lasts: Duration) -> (Outcome, u64) {
    let mut world = world_with(200).await;
    (world.retry, world.ceiling) = (RetryPolicy::default(), at_once);
    let (faults, calls) = (world.sandbox.faults(), world.sandbox.calls());
    let job = world.job(copy_all());
    faults.add(Fault::on(Operation::CopyObject).then(Effect::Delay(Duration::from_millis(50))));
    let outage = async {
        while calls.count(Operation::CopyObject) < 50 {
            sleep(Duration::from_millis(5)).await;
        }
        faults.clear();
        faults.add(Fault::on_any().then(Effect::Error(500, "InternalError")));
        calls.clear();
        sleep(lasts).await;
        faults.clear();
        calls.total()
    };
    let (run, asked) = tokio::join!(world.try_run_job(&job), outage);
    world.assert_no_upload_is_left();
    (run.unwrap().outcome, asked)
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_minute_is_waited_out_with_few_questions() {
    let (outcome, asked) = through_an_outage(64, Duration::from_mins(1)).await;
    assert_eq!(
        (
            outcome.done_objects,
            outcome.failed_objects,
            &outcome.gave_up
        ),
        (201, 0, &None)
    );
    // Requests in flight, retries until the outage is certain, and probes at intervals that grow to
    // 15 s.
    assert!(
        (5..=64 + 64 + 14).contains(&asked),
        "{asked} requests during the outage"
    );
    assert!(
        (60.0..120.0).contains(&outcome.seconds),
        "{} s",
        outcome.seconds
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_few_requests_meet_is_waited_out_all_the_same() {
    let (outcome, asked) = through_an_outage(4, Duration::from_mins(5)).await;
    assert_eq!(
        (
            outcome.done_objects,
            outcome.failed_objects,
            &outcome.gave_up
        ),
        (201, 0, &None)
    );
    assert!(
        (5..=150).contains(&asked),
        "{asked} requests during the outage"
    );
}

/// The probes are parts, each worth a second of the limit.
#[tokio::test(start_paused = true)]
async fn refused_probes_use_up_no_limit() {
    let world = World::new().await;
    world.put("large", 400 * MIB);
    let mut job = world.job(in_parts_of(64 * MIB, copy_all()));
    job.limits.bytes_per_second = Some(ByteRate(64 * MIB));
    let outage = async {
        while world.calls(Operation::UploadPartCopy) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        world.add_fault(Fault::on_any().then(Effect::Error(500, "InternalError")));
        sleep(Duration::from_secs(10)).await;
        world.sandbox.faults().clear();
    };
    let (run, ()) = tokio::join!(world.try_run_job(&job), outage);
    let outcome = run.unwrap().outcome;
    assert_eq!(outcome.done_objects, 1, "{outcome:?}");
    let probes = world.calls(Operation::UploadPartCopy);
    assert!(
        probes > 12 && outcome.seconds < 20.0,
        "{probes} requests, {} s",
        outcome.seconds
    );
}

#[tokio::test(start_paused = true)]
async fn a_bucket_waits_out_a_minute_too() {
    let mut world = world_with(1).await;
    world.retry = RetryPolicy::default();
    let bucket = world.bucket(SOURCE).await;
    let key = "00000".parse().unwrap();
    world.sandbox.calls().clear();
    world.add_fault(Fault::on_any().then(Effect::ResetBefore));
    let over = async {
        sleep(Duration::from_mins(1)).await;
        world.sandbox.faults().clear();
    };
    let (head, ()) = tokio::join!(bucket.head(&key, None), over);
    assert_eq!(head.unwrap().size, 100);
    let asked = world.calls(Operation::HeadObject);
    assert!((5..=30).contains(&asked), "{asked} requests");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_host_name_is_reported_with_its_reason() {
    let world = World::new().await;
    let mut job = world.job(copy_all());
    restate(&mut job, |endpoint| {
        endpoint.url = Some("https://nosuch.invalid".to_owned());
    });
    let began = Instant::now();
    let failure = world
        .try_run_job(&job)
        .await
        .err()
        .expect("nobody answers there");
    assert_eq!(*failure.kind(), FailureKind::Unreachable, "{failure}");
    assert!(failure.kind().may_pass_later() && failure.ends_run());
    let text = failure.to_string();
    assert!(
        text.contains("lookup") && text.contains("check the endpoint's `url`, DNS"),
        "{text}"
    );
    assert!(
        began.elapsed() < Duration::from_mins(1),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn expired_credentials_are_renewed_once_and_then_end_the_run() {
    let world = world_with(50).await;
    let expired = || Fault::on(Operation::CopyObject).then(Effect::Error(400, "ExpiredToken"));
    world.add_fault(expired().nth(1));
    let outcome = world.run(copy_all()).await.outcome;
    assert_eq!((outcome.done_objects, outcome.failed_objects), (51, 0));
    assert_eq!(outcome.requests.retried, 1);

    let world = world_with(3000).await;
    world.add_fault(expired());
    let outcome = world.run(copy_all()).await.outcome;
    let gave_up = outcome.gave_up.clone().expect("all requests are refused");
    assert!(gave_up.may_pass_later, "{gave_up:?}");
    assert_eq!((outcome.done_objects, outcome.failed_objects), (0, 0));
    let tried = world.calls(Operation::CopyObject);
    assert!(tried < 800, "most are not even tried: {tried}");
}

/// If credentials have expired, S3 answers HEAD with a bare 400.
#[tokio::test]
async fn credentials_that_expire_at_a_head_are_distinguished_from_an_unreadable_object() {
    let expired = |operation| Fault::on(operation).then(Effect::Error(400, "ExpiredToken"));
    let world = world_with(50).await;
    world.add_fault(expired(Operation::HeadObject).nth(1));
    // The plan has listed both sides by then.
    world.add_fault(expired(Operation::ListObjectsV2).nth(3));
    let outcome = world.run(copy_all()).await.outcome;
    assert_eq!(
        (outcome.done_objects, outcome.failed_objects),
        (51, 0),
        "{outcome:?}"
    );

    let world = world_with(3000).await;
    world.add_fault(expired(Operation::HeadObject));
    world.add_fault(expired(Operation::CopyObject));
    let job = world.job(copy_all());
    let (run, ()) = tokio::join!(world.try_run_job(&job), async {
        while world.calls(Operation::HeadObject) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.add_fault(expired(Operation::ListObjectsV2));
    });
    let outcome = run.unwrap().outcome;
    assert!(
        outcome.gave_up.is_some() && outcome.done_objects == 0,
        "{outcome:?}"
    );
    assert!(
        outcome.failed_objects < 1000,
        "most are not even tried: {outcome:?}"
    );
}

/// Each refused HEAD could be about the credentials, and the lists that would show it hang.
#[tokio::test(start_paused = true)]
async fn an_inquiry_without_an_answer_serves_all_refused_requests() {
    let world = world_with(50).await;
    let mut job = world.job(copy_all());
    job.limits.in_flight = Some(4);
    world.add_fault(Fault::on(Operation::HeadObject).then(Effect::Error(403, "AccessDenied")));
    // The first list is that of the plan.
    let lists = Fault::on(Operation::ListObjectsV2).bucket(SOURCE);
    let later = lists.when(When::After(1));
    world.add_fault(later.then(Effect::StallBefore(None)));
    let outcome = world.try_run_job(&job).await.unwrap().outcome;
    assert_eq!(outcome.failed_objects, 51, "{outcome:?}");
    let lists = world.calls(Operation::ListObjectsV2);
    assert!((3..=20).contains(&lists), "{lists} lists");
}

#[tokio::test]
async fn what_a_run_gave_up_for_is_looked_at_again_by_the_next_session() {
    let mut world = world_with(20).await;
    let put = |world: &World, spec: &ObjectSpec| {
        world.put_with("a", 9, spec);
    };
    put(&world, &ObjectSpec::default().storage_class("GLACIER"));
    let directory = tempfile::tempdir().unwrap();
    let mut job = world.job(copy_all());
    job.limits = Limits {
        max_failures: Some("0".parse::<FailureLimit>().unwrap()),
        ..Limits::default()
    };
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert!(
        run.outcome.gave_up.is_some() && run.outcome.failed_objects == 1,
        "{:?}",
        run.outcome
    );
    world.stop = CancellationToken::new();
    put(&world, &ObjectSpec::default());
    let run = world.session(directory.path(), &job, Intent::Resume).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (22, 0),
        "{:?}",
        run.outcome
    );
}

#[tokio::test]
async fn a_run_with_too_many_failures_ends() {
    for (limit, denied, ends) in [
        ("0", 1, true),
        ("5", 5, false),
        ("5", 6, true),
        ("50%", 40, false),
    ] {
        let world = world_with(400).await;
        world.add_fault(
            Fault::on(Operation::CopyObject)
                .first(denied)
                .then(Effect::Error(403, "AccessDenied")),
        );
        let mut job = world.job(copy_all());
        let max_failures = Some(limit.parse::<FailureLimit>().unwrap());
        job.limits = Limits {
            max_failures,
            in_flight: Some(4),
            ..Limits::default()
        };
        let run = world.try_run_job(&job).await.unwrap();
        assert_eq!(
            run.outcome.gave_up.is_some(),
            ends,
            "max_failures {limit}, {denied} denied"
        );
        if let Some(gave_up) = &run.outcome.gave_up {
            assert!(gave_up.reason.contains("max_failures"), "{gave_up:?}");
            assert!(
                run.outcome.stopped_objects > 300,
                "it did not end early: {:?}",
                run.outcome
            );
        } else {
            assert_eq!(run.outcome.failed_objects, denied);
        }
        let failed = run
            .receipts
            .iter()
            .filter(|r| matches!(r.ending, Ending::Failed { .. }))
            .count();
        assert_eq!(failed as u64, run.outcome.failed_objects);
    }
}

/// Copies everything with credentials of a container endpoint.
async fn copy_with(issuer: &Issuer, world: &World) -> std::process::Output {
    let mut command = command();
    command
        .envs([issuer.container()])
        .env("AWS_ENDPOINT_URL_S3", world.sandbox.url())
        .args([
            "copy",
            "s3://source/",
            "s3://destination/",
            "--in-flight",
            "20",
        ]);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_a_server_calls_expired_are_fetched_again_once() {
    let world = world_with(100).await;
    for number in 0..15 {
        let copy = Fault::on(Operation::CopyObject).key(format!("{number:05}"));
        world.add_fault(copy.nth(1).then(Effect::Error(400, "ExpiredToken")));
    }
    let issuer = Issuer::start(Reply::Fresh(Duration::from_hours(1))).await;
    let output = copy_with(&issuer, &world).await;
    assert!(output.status.success(), "{output:?}");
    let asked = issuer.asked();
    assert!(
        (2..15).contains(&asked),
        "15 requests were refused, the service was asked {asked} times"
    );
}
