//! Endless answers. The program runs as a process, whose memory the test measures.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use s3haul::sandbox::{Content, Operation, SandboxOptions};

use super::scenario::spec;
use super::server::Hostile;
use super::ways::Way;
use crate::world::program::process;
use crate::world::{DESTINATION, SOURCE, World};

/// The limit of the program's memory, in KiB.
const MEMORY: u64 = 300 * 1024;
/// Longest run time before the program counts as hung: `patience`, half a minute, and room for a
/// slow machine.
const TIME: Duration = Duration::from_mins(1);

/// Programs that run at the same time. Most of them wait.
const AT_ONCE: usize = 6;

const OBJECTS: [(&str, u64); 2] = [("small", 1000), ("large", 300 << 20)];

/// Starts a sandbox with objects that have tags, so that they are read, and that are copied in
/// parts.
async fn world_with_all_sizes() -> World {
    let world = World::new().await;
    let store = world.sandbox.store();
    world.accept_any_signature();
    for (key, size) in OBJECTS {
        store.put_object(SOURCE, key, Content::pattern(1, size), &spec(key));
    }
    world
}

/// Runs a copy with a strike. Returns the broken promise, and the requests.
async fn run_struck(strike: Option<(Operation, Way)>) -> (Result<(), String>, Vec<Operation>) {
    let world = world_with_all_sizes().await;
    let hostile = Hostile::start(world.sandbox.url(), world.sandbox.store().clone()).await;
    hostile.arm(strike);
    let options = SandboxOptions::default();
    let mut program = process();
    program
        .env("AWS_ENDPOINT_URL_S3", &hostile.url)
        .env("AWS_ACCESS_KEY_ID", options.access_key)
        .env("AWS_SECRET_ACCESS_KEY", options.secret_key)
        .env("S3HAUL_JOURNAL", "none")
        .args([
            "copy",
            "s3://source/",
            "s3://destination/",
            "--patience",
            "2s",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = program.spawn().unwrap();
    let (status, began) = (format!("/proc/{}/status", child.id()), Instant::now());
    let mut height = 0;
    let exit = loop {
        if let Some(exit) = child.try_wait().unwrap() {
            break exit.code();
        }
        let told = std::fs::read_to_string(&status).unwrap_or_default();
        let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let size = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        height = height.max(size.unwrap_or(0));
        if began.elapsed() > TIME || height > MEMORY {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let asked = hostile.seen.lock().unwrap().operations.clone();
    let verdict = match exit {
        _ if height > MEMORY => Err(format!("it takes more than {} MiB", height / 1024)),
        None => Err("it does not end".to_owned()),
        Some(0) => equal(&world),
        Some(1 | 3 | 4) => Ok(()),
        Some(other) => Err(format!("it exits with {other}")),
    };
    (verdict, asked)
}

/// Asserts that the destination equals the source.
fn equal(world: &World) -> Result<(), String> {
    for (key, _) in OBJECTS {
        let object = |bucket: &str| world.object(bucket, key).map(|object| object.content);
        if object(DESTINATION) != object(SOURCE) {
            return Err(format!("it exits with 0, and {key} has other bytes"));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_ended() {
    let (well, asked) = run_struck(None).await;
    assert_eq!(well, Ok(()));
    let operations: BTreeSet<Operation> = asked.into_iter().collect();
    let cases = operations.into_iter().flat_map(|operation| {
        let ways = Way::ALL
            .into_iter()
            .filter(move |way| way.is_large() && way.applies(operation));
        ways.map(move |way| (operation, way))
    });
    let runs = cases
        .map(async |(operation, way)| (operation, way, run_struck(Some((operation, way))).await.0));
    let mut failed: Vec<_> = stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
    failed.retain(|(_, _, verdict)| verdict.is_err());
    failed.sort();
    assert_eq!(failed, []);
}
