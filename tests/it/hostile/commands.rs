//! Commands that copy nothing, against a hostile server: `verify` and `uploads`.

use futures::TryStreamExt;
use s3haul::connections::Connections;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Job, Limits};
use s3haul::multipart::MultipartUpload;
use s3haul::planner::Sides;
use s3haul::s3::{Attributes, CompleteSpec, Failure, PartDone, SourcePin};
use s3haul::sandbox::Content;
use s3haul::size::MIB;
use s3haul::verify::{self, Deep, Verdict};
use tokio_util::sync::CancellationToken;

use super::scenario::{KEYS, spec};
use crate::world::{DESTINATION, SOURCE, World};

/// Sizes of the two parts of each upload.
const PARTS: [u64; 2] = [5 * MIB, 1000];

/// Makes the destination equal in the first key, different in the second, and without the third.
pub(super) fn make_unlike(world: &World) {
    let store = world.sandbox.store();
    let source = |key: &str| store.object(SOURCE, key).unwrap();
    store.put_object(
        DESTINATION,
        KEYS[0],
        source(KEYS[0]).content,
        &spec(KEYS[0]),
    );
    let other = Content::pattern(77, source(KEYS[1]).size);
    store.put_object(DESTINATION, KEYS[1], other, &spec(KEYS[1]));
}

fn connections(world: &World, job: &Job) -> Connections {
    world.connections(job, &CancellationToken::new(), &Limits::default())
}

/// Compares both sides. No different or missing object may be reported as equal, and the exit code
/// must show the difference.
pub(super) async fn compare(
    world: &World,
    job: &Job,
    deep: Deep,
    is_well: bool,
) -> Result<(), String> {
    let mut connections = connections(world, job);
    let transfer = &job.transfers[0];
    let (source, destination) = match connections.of_transfer(transfer).await {
        Ok(sides) => sides,
        Err(failure) => return named(&failure),
    };
    let sides = Sides::new(transfer, source, destination);
    let mut false_equals = Vec::new();
    let counts = verify::transfer(&sides, deep, |finding| {
        let is_equal = matches!(finding.verdict, Verdict::Equal { .. });
        if is_equal && !finding.destination.ends_with(KEYS[0]) {
            false_equals.push(finding.destination.clone());
        }
    })
    .await;
    let found = (
        counts.equal,
        counts.different,
        counts.missing,
        counts.failed,
    );
    if is_well && found != (1, 1, 1, 0) {
        return Err(format!("{counts:?}"));
    }
    if !false_equals.is_empty() {
        return Err(format!("called equal: {false_equals:?}"));
    }
    if counts.different + counts.missing + counts.failed == 0 {
        return Err(format!("it exits with 0: {counts:?}"));
    }
    Ok(())
}

/// An open upload.
pub(super) struct Open {
    key: &'static str,
    id: String,
    parts: Vec<PartDone>,
}

/// Leaves three uploads of copies open at the destination. Copied parts cost the sandbox little.
pub(super) async fn leave_open(world: &World) -> Vec<Open> {
    let bucket = world.bucket(DESTINATION).await;
    let from = world.object(SOURCE, KEYS[1]).unwrap();
    let pin = SourcePin {
        bucket: SOURCE.parse().unwrap(),
        key: KEYS[1].parse().unwrap(),
        version: None,
        etag: from.etag,
        customer_key: None,
    };
    let mut open = Vec::new();
    for key in ["u/abort", "u/complete", "u/leave"] {
        let (at, attributes) = (key.parse().unwrap(), Attributes::default());
        let upload = MultipartUpload::initiate(&bucket, &at, &attributes)
            .await
            .unwrap();
        let (mut parts, mut first) = (Vec::new(), 0);
        for (number, size) in (1..).zip(PARTS) {
            parts.push(
                upload
                    .copy_part(number, &pin, Some(first..=first + size - 1), size)
                    .await
                    .unwrap(),
            );
            first += size;
        }
        open.push(Open {
            key,
            id: upload.id().to_owned(),
            parts,
        });
    }
    open
}

/// Lists, inspects, completes, and aborts uploads. Asserts that each success is one.
pub(super) async fn uploads(
    world: &World,
    job: &Job,
    open: &[Open],
    is_well: bool,
) -> Result<(), String> {
    let mut connections = connections(world, job);
    let bucket = match connections
        .bucket(DEFAULT_ENDPOINT, &DESTINATION.parse().unwrap())
        .await
    {
        Ok(bucket) => bucket,
        Err(failure) => return named(&failure),
    };
    let judge = |what: &str, answer: Result<bool, Failure>| match answer {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{what}: a false success")),
        Err(failure) if is_well => Err(format!("{what}: {failure}")),
        Err(failure) => named(&failure),
    };
    let ids: Vec<_> = open.iter().map(|open| open.id.clone()).collect();
    let listed = MultipartUpload::list(&bucket, "u/")
        .map_ok(|upload| upload.upload_id)
        .try_collect()
        .await;
    judge("list", listed.map(|listed: Vec<_>| listed == ids))?;
    let upload =
        |at: usize| MultipartUpload::open(&bucket, &open[at].key.parse().unwrap(), &*open[at].id);
    let parts: Result<Vec<_>, _> = upload(2).parts().try_collect().await;
    // Sizes and `ETag`s come from the server, so only the numbers can be checked.
    let numbers = |parts: &[PartDone]| parts.iter().map(|part| part.number).collect::<Vec<_>>();
    judge(
        "parts",
        parts.map(|parts| numbers(&parts) == numbers(&open[2].parts)),
    )?;
    // Completes from the listed parts, as the command does.
    let parts: Result<Vec<_>, _> = upload(1).parts().try_collect().await;
    let size: u64 = PARTS.iter().sum();
    let completed = match parts {
        Ok(parts) => {
            let size = parts.iter().map(|part| part.size).sum();
            let spec = CompleteSpec {
                size,
                ..CompleteSpec::default()
            };
            upload(1).complete_and_look(&parts, &spec).await.map(|_| ())
        }
        Err(failure) => Err(failure),
    };
    let content = world
        .object(SOURCE, KEYS[1])
        .unwrap()
        .content
        .slice(0..size);
    let is_there = || {
        let object = world.object(DESTINATION, open[1].key);
        object.is_some_and(|object| object.content == content)
    };
    judge("complete", completed.map(|()| is_there()))?;
    let aborted = upload(0).cancel().await;
    let is_gone = || {
        let left = world.open_uploads(DESTINATION);
        left.iter().all(|left| left.upload_id != open[0].id)
    };
    judge("abort", aborted.map(|()| is_gone()))
}

/// Asserts that a failure names what failed.
fn named(failure: &Failure) -> Result<(), String> {
    let text = failure.to_string();
    let is_bug = text.contains("panicked") || failure.details().place.is_empty();
    if is_bug {
        Err(format!("no message for its user: {text}"))
    } else {
        Ok(())
    }
}
