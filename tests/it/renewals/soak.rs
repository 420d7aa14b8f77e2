//! An hour of a long run, compressed into about a minute: each set of credentials is valid for two
//! seconds instead of a minute, and the server's rules change meanwhile.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use tokio::time::sleep;

use crate::credentials::issuer;
use crate::issuer::{Issuer, Reply};
use crate::world::program::process;
use crate::world::{DESTINATION, SOURCE, World};

const OBJECTS: usize = 2000;
const LASTS: Duration = Duration::from_secs(2);
/// The server accepts a set a little longer than two seconds, because the set's end is rounded down
/// to a second.
const TAKEN: Duration = Duration::from_millis(2200);
/// A run that takes longer has hung.
const LONGEST: Duration = Duration::from_mins(6);
/// Duration of each rule.
const PHASE: Duration = Duration::from_secs(2);

/// Revokes each set of credentials at its end, and some of them early.
async fn end_sets(world: &World, issuer: &Issuer) {
    let mut starts: Vec<Instant> = Vec::new();
    let mut ended = 0;
    loop {
        starts.resize(issuer.asked(), Instant::now());
        while let Some(since) = starts.get(ended) {
            // Every seventh set is revoked soon after its first use.
            let lasts = if ended % 7 == 6 { TAKEN / 4 } else { TAKEN };
            if since.elapsed() < lasts {
                break;
            }
            ended += 1;
            let expired = Fault::on_any().token(format!("t{ended}"));
            world.add_fault(expired.then(Effect::Error(400, "ExpiredToken")));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Changes the rules of the server, one after the other.
async fn change_rules(world: &World) {
    let skewed = |minutes| Effect::Skew(SignedDuration::from_mins(minutes));
    let once = [
        Fault::on_any().prefix("a/").then(Effect::SlowDown),
        Fault::on(Operation::HeadObject)
            .prefix("c/")
            .then(Effect::Error(503, "ServiceUnavailable")),
    ];
    // Pacing needs its own time to recover from 503s, which short-lived credentials do not shorten.
    let again = [
        Fault::on(Operation::CopyObject)
            .prefix("b/")
            .then(Effect::Error(403, "AccessDenied")),
        Fault::on_any().then(skewed(20)),
        Fault::on(Operation::CopyObject)
            .first(2)
            .then(Effect::StallBefore(None)),
        Fault::on_any().then(skewed(-20)),
        Fault::on(Operation::HeadObject)
            .first(4)
            .then(Effect::RstBefore),
        Fault::on(Operation::HeadObject)
            .prefix("d/")
            .then(Effect::Error(403, "AccessDenied")),
    ];
    for change in once.iter().chain(again.iter().cycle()) {
        let id = world.add_fault(change.clone());
        sleep(PHASE).await;
        world.sandbox.faults().remove(id);
        sleep(PHASE / 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute or two: .ci/soak runs it"]
async fn an_hour_of_short_sessions_and_changing_rules_costs_no_object() {
    let world = World::new().await;
    for index in 0..OBJECTS {
        let prefix = ["a", "b", "c", "d"][index % 4];
        world.put_object(
            SOURCE,
            &format!("{prefix}/{index:05}"),
            Content::pattern(index as u64, 10),
            &ObjectSpec::default(),
        );
    }
    let issuer: Arc<Issuer> = issuer(Reply::Fresh(LASTS)).await;
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let output = fs::File::create(&log).unwrap();
    let mut program = process();
    program
        .envs([issuer.container()])
        .env("AWS_ENDPOINT_URL_S3", world.sandbox.url())
        .env("S3HAUL_JOURNAL", "none")
        .args(["copy", "s3://source/", "s3://destination/", "-v"])
        .args(["--in-flight", "32", "--requests-per-second", "100"])
        .stdout(output.try_clone().unwrap())
        .stderr(output);
    let mut child = program.spawn().unwrap();
    let ended = async {
        let began = Instant::now();
        loop {
            match child.try_wait().unwrap() {
                Some(status) => break status.code(),
                None if began.elapsed() > LONGEST => {
                    child.kill().unwrap();
                    break child.wait().unwrap().code();
                }
                None => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let exit = tokio::select! {
        exit = ended => exit,
        () = end_sets(&world, &issuer) => unreachable!("it goes on for ever"),
        () = change_rules(&world) => unreachable!("it goes on for ever"),
    };
    let log = fs::read_to_string(log).unwrap();
    assert_eq!(exit, Some(0), "{log}");
    assert!(!log.contains("failed"), "{log}");
    assert_eq!(world.keys(DESTINATION).len(), OBJECTS);
    let calls = world.sandbox.calls().list();
    let refused = |code: &str| {
        let is_refused = |told: &Option<String>| told.as_deref() == Some(code);
        calls.iter().filter(|call| is_refused(&call.code)).count()
    };
    let sets = issuer.asked();
    assert!((30..300).contains(&sets), "{sets} sets");
    // The requests in flight when a set is revoked, and a list for errors without a reason.
    let expired = refused("ExpiredToken");
    assert!(expired < sets * 10, "{expired} refusals of {sets} sets");
    // The requests in flight when the server's clock changes.
    let skewed = refused("RequestTimeTooSkewed");
    assert!(skewed < OBJECTS, "{skewed} refusals because of the clock");
    let total = calls.len();
    assert!(total < OBJECTS * 8, "{total} requests");
}
