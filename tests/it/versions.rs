//! Histories and points in time: the versions that arrive, their order, and the requests.

mod all;
mod as_of;
mod command;
mod markers;
mod named;

use std::time::{Duration, SystemTime};

use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Source, Transfer, Versions};
use s3haul::sandbox::{Content, ObjectSpec, Operation, VersionInfo};

use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, uri};

/// Returns the time a day before now, plus `hours`.
fn at(hours: u64) -> SystemTime {
    SystemTime::now() - Duration::from_hours(24) + Duration::from_hours(hours)
}

/// Writes versions, oldest first and an hour apart: `M` is a delete marker, any other letter an
/// object with that content.
fn write(world: &World, bucket: &str, key: &str, contents: &str) {
    let so_far = world.sandbox.store().versions(bucket, key).len() as u64;
    for (hours, content) in (so_far..).zip(contents.chars()) {
        match content {
            'M' => world
                .sandbox
                .store()
                .delete_object_at(bucket, key, at(hours)),
            content => {
                let spec = ObjectSpec::default()
                    .last_modified(at(hours))
                    .metadata("name", content);
                world.put_object(bucket, key, Content::bytes(content.to_string()), &spec);
            }
        }
    }
}

/// Returns the text from which [`write`] would make this history.
fn history(world: &World, bucket: &str, key: &str) -> String {
    let versions = world
        .sandbox
        .store()
        .versions(bucket, key)
        .into_iter()
        .rev();
    versions
        .map(|version| match version {
            VersionInfo::DeleteMarker(_) => "M".to_owned(),
            VersionInfo::Object(object) => object.attributes.metadata["name"].clone(),
        })
        .collect()
}

fn there(world: &World, key: &str) -> String {
    history(world, DESTINATION, key)
}

fn all_versions() -> Transfer {
    Transfer {
        versions: Versions::All,
        ..copy_all()
    }
}

fn one(key: &str, version: Option<&str>) -> Source {
    let location = uri(&format!("s3://source/{key}"));
    Source::Object {
        endpoint: DEFAULT_ENDPOINT.to_owned(),
        location,
        version: version.map(str::to_owned),
    }
}

fn writes(world: &World) -> u64 {
    let writes = [
        Operation::CopyObject,
        Operation::DeleteObject,
        Operation::CreateMultipartUpload,
        Operation::PutObject,
    ];
    writes
        .into_iter()
        .map(|operation| world.calls(operation))
        .sum()
}

/// Returns the receipts of a key's versions, in order.
fn endings<'r>(run: &'r Run, key: &str) -> Vec<&'r Receipt> {
    let destination = format!("s3://destination/{key}");
    run.receipts
        .iter()
        .filter(|receipt| receipt.destination == destination)
        .collect()
}

fn kinds(run: &Run) -> Vec<&'static str> {
    let failed = run
        .receipts
        .iter()
        .filter_map(|receipt| match &receipt.ending {
            Ending::Failed { error } => Some(error.kind),
            _ => None,
        });
    failed.collect()
}

fn ids(world: &World, bucket: &str, key: &str) -> Vec<String> {
    let versions = world
        .sandbox
        .store()
        .versions(bucket, key)
        .into_iter()
        .rev();
    versions
        .map(|version| match version {
            VersionInfo::Object(object) => object.version_id,
            VersionInfo::DeleteMarker(id) => id,
        })
        .map(|id| id.unwrap_or_else(|| "null".to_owned()))
        .collect()
}

#[tokio::test]
async fn the_helpers_write_what_they_read() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "abMc");
    assert_eq!(history(&world, SOURCE, "k"), "abMc");
}
