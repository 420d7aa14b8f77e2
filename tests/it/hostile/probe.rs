//! The probe against a hostile server: it ends, reports truthfully what it leaves behind, and
//! approves no liar.

use std::collections::BTreeSet;
use std::time::Duration;

use s3haul::manifest::job::{DEFAULT_ENDPOINT, Limits};
use s3haul::pace::RetryPolicy;
use s3haul::probe::{self, Needs};
use s3haul::sandbox::{Operation, Store};
use tokio_util::sync::CancellationToken;

use super::in_parallel;
use super::server::Hostile;
use super::ways::Way;
use crate::world::{DESTINATION, World, copy_all, restate};

/// A probe that takes longer has hung.
const LIMIT: Duration = Duration::from_mins(2);
/// The ways that affect what a probe finds or leaves behind. The others concern the parsing of
/// answers.
const WAYS: [Way; 7] = [
    Way::NoAnswer,
    Way::EffectWithoutAnswer,
    Way::WithoutEffect,
    Way::OtherDocument,
    Way::LongIds,
    Way::IgnoredHeaders,
    Way::IgnoredCondition,
];

async fn impatient_world() -> World {
    let mut world = World::new().await;
    world.retry = RetryPolicy {
        patience: Duration::from_secs(3),
        probes: (Duration::from_millis(5), Duration::from_millis(50)),
        ..world.retry
    };
    world.accept_any_signature();
    world
}

/// An object, or an upload with its ID.
type Name = (String, Option<String>);

/// Returns the objects, versions, and uploads of the bucket.
fn there(store: &Store) -> BTreeSet<Name> {
    let uploads = store.open_uploads(DESTINATION).into_iter();
    let uploads = uploads.map(|upload| (upload.key, Some(upload.upload_id)));
    store
        .keys(DESTINATION)
        .into_iter()
        .map(|key| (key, None))
        .chain(uploads)
        .collect()
}

/// Probes while one operation is answered wrongly. Returns the violated assertion, if any, and the
/// operations that were sent.
async fn play(strike: Option<(Operation, Way)>) -> (Result<(), String>, Vec<Operation>) {
    let world = impatient_world().await;
    let hostile = Hostile::start(world.sandbox.url(), world.sandbox.store().clone()).await;
    let mut job = world.job(copy_all());
    restate(&mut job, |endpoint| {
        endpoint.url = Some(hostile.url.clone());
    });
    let halt = CancellationToken::new();
    let mut connections = world.connections(&job, &halt, &Limits::default());
    let bucket = connections
        .bucket(DEFAULT_ENDPOINT, &DESTINATION.parse().unwrap())
        .await
        .unwrap();
    hostile.arm(strike);
    let (prefix, needs) = (probe::scratch_prefix(), Needs::default());
    let ended = tokio::time::timeout(
        LIMIT,
        crate::probe::measure(&bucket, &prefix, &needs, &halt),
    )
    .await;
    let asked = hostile.seen.lock().unwrap().operations.clone();
    let there = there(world.sandbox.store());
    let verdict = match ended {
        Err(_) => Err("it does not end".to_owned()),
        // The probe could not run. It must still name anything it has created.
        Ok(Err(failure)) if there.is_empty() || failure.to_string().contains("left behind") => {
            Ok(())
        }
        Ok(Err(failure)) => Err(format!("{there:?} is left, and not told: {failure}")),
        Ok(Ok(found)) => {
            let name = |left: &probe::Leftover| {
                let id = left
                    .id
                    .clone()
                    .filter(|_| left.what == probe::LeftoverKind::Upload);
                (left.key.clone(), id)
            };
            let told: BTreeSet<_> = found.left.iter().map(name).collect();
            let sure = found.left.iter().filter(|left| left.is_certain).map(name);
            let made_up: Vec<_> = sure.filter(|name| !there.contains(name)).collect();
            // For some uploads, only the key is known.
            let is_told = |(key, id): &Name| {
                told.contains(&(key.clone(), id.clone())) || told.contains(&(key.clone(), None))
            };
            let untold: Vec<_> = there.iter().filter(|name| !is_told(name)).collect();
            let is_lying = strike.is_some_and(|(operation, way)| lies_about_writes(operation, way));
            match () {
                () if !untold.is_empty() => Err(format!("{untold:?} is left, and not told")),
                () if !made_up.is_empty() => {
                    Err(format!("{made_up:?} is told to be left, and is not there"))
                }
                () if is_lying && found.is_good() => Err("it calls a liar good".to_owned()),
                () if strike.is_none() && !found.is_good() => Err(format!("{found:?}")),
                () => Ok(()),
            }
        }
    };
    (verdict, asked)
}

/// Returns true for a lie about an operation that every job needs.
fn lies_about_writes(operation: Operation, way: Way) -> bool {
    let is_write = matches!(
        operation,
        Operation::PutObject
            | Operation::CopyObject
            | Operation::UploadPartCopy
            | Operation::CompleteMultipartUpload
            | Operation::CreateMultipartUpload
    );
    let is_lie = matches!(
        way,
        Way::WithoutEffect | Way::IgnoredHeaders | Way::IgnoredCondition
    );
    is_write && is_lie
}

#[test]
fn a_probe_of_a_hostile_server_tells_the_truth() {
    let run = |strike| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ended = runtime.block_on(play(strike));
        runtime.shutdown_background();
        ended
    };
    let (well, asked) = run(None);
    assert_eq!(well, Ok(()));
    let operations: BTreeSet<Operation> = asked.into_iter().collect();
    let cases: Vec<_> = operations
        .into_iter()
        .flat_map(|operation| WAYS.into_iter().map(move |way| (operation, way)))
        .filter(|(operation, way)| way.applies(*operation))
        .collect();
    let verdicts = in_parallel(&cases, |case| run(Some(*case)).0);
    let failed = cases
        .iter()
        .zip(verdicts)
        .filter_map(|(case, verdict)| Some((case, verdict.err()?)));
    let failed: Vec<_> = failed
        .map(|(case, why)| format!("{case:?}: {why}"))
        .collect();
    assert!(
        failed.is_empty(),
        "of {} cases:\n{}",
        cases.len(),
        failed.join("\n")
    );
}
