//! `uploads abort` on servers that list keys or IDs in their own way.

use rstest::rstest;
use s3haul::multipart::MultipartUpload;
use s3haul::s3::{Attributes, FailureKind};
use s3haul::sandbox::{Effect, Fault, Operation};
use tokio_util::sync::CancellationToken;

use crate::liar::{Asked, Liar, Lie};
use crate::world::program::{at, run};
use crate::world::{DESTINATION, World, copy_all, restate};

use super::open;

async fn begin(world: &World, key: &str) -> String {
    let bucket = world.bucket(DESTINATION).await;
    let (key, attributes) = (key.parse().unwrap(), Attributes::default());
    MultipartUpload::initiate(&bucket, &key, &attributes)
        .await
        .unwrap()
        .id()
        .to_owned()
}

/// Runs `uploads abort` against a server that lies like this.
async fn abort(
    world: &World,
    arguments: &[&str],
    lie: impl Fn(&Asked) -> Lie + Send + Sync + 'static,
) -> (i32, String, String) {
    let url = Liar::lying(world, lie).await.url;
    let all = [
        &["uploads", "abort"][..],
        arguments,
        &["--provider", "aws", "--endpoint-url", &url],
    ]
    .concat();
    run(at(world), &all).await
}

fn decode_keys(list: &str) -> String {
    list.replace("%2520", "%20").replace("%25", "%")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_aborted_under_the_key_that_the_server_did_not_encode() {
    let world = World::new().await;
    begin(&world, "odd%20name").await;
    let unencoded = |asked: &Asked| match asked {
        _ if asked.lists_uploads() && asked.has("encoding-type") => Lie::rewrite(decode_keys),
        _ => Lie::Truth,
    };
    let (exit, stdout, stderr) = abort(
        &world,
        &["s3://destination/odd", "--older-than", "0s"],
        unencoded,
    )
    .await;
    assert!(
        exit == 0 && stdout.starts_with("aborted"),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(open(&world), 0);
    // A run cannot find the upload that it created under such a key, and says so.
    let mut world = world;
    world.retry.attempts = 1;
    let bucket = {
        let url = Liar::lying(&world, unencoded).await.url;
        let mut job = world.job(copy_all());
        restate(&mut job, |endpoint| endpoint.url = Some(url));
        let limits = s3haul::manifest::job::Limits::default();
        let mut connections = world.connections(&job, &CancellationToken::new(), &limits);
        connections
            .bucket(crate::world::DEFAULT, &DESTINATION.parse().unwrap())
            .await
            .unwrap()
    };
    world.add_fault(
        Fault::on(Operation::CreateMultipartUpload)
            .nth(1)
            .then(Effect::EmptyBody),
    );
    let bucket = bucket.for_probes();
    let key = "odd%20name".parse().unwrap();
    let upload = MultipartUpload::initiate(&bucket, &key, &Attributes::default())
        .await
        .unwrap();
    assert_eq!(
        (open(&world), upload.strays().len()),
        (2, 1),
        "its twin is reported"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_listed_and_not_found_is_not_aborted() {
    let world = World::new().await;
    let id = begin(&world, "k").await;
    let (exit, stdout, stderr) = abort(
        &world,
        &["s3://destination/", "--older-than", "0s"],
        |asked| {
            if asked.aborts() {
                Lie::error(404, "NoSuchUpload")
            } else {
                Lie::Truth
            }
        },
    )
    .await;
    assert!(
        exit == 1 && !stdout.contains("aborted"),
        "{exit} {stdout} {stderr}"
    );
    // Its parts can be listed, so either the repeated aborts or the list of uploads show that the
    // abort failed.
    assert!(
        stderr.contains(&id) && stderr.contains("failed: s3://destination/k"),
        "{stderr}"
    );
    assert_eq!(open(&world), 1);
    let (exit, stdout, stderr) = abort(
        &world,
        &["s3://destination/", "--older-than", "0s"],
        |asked| {
            let is_about_it = asked.aborts() || asked.lists_parts();
            if is_about_it {
                Lie::error(404, "NoSuchUpload")
            } else {
                Lie::Truth
            }
        },
    )
    .await;
    assert!(exit == 1 && stdout.is_empty(), "{exit} {stdout} {stderr}");
    assert!(
        stderr.contains("not aborted (NoSuchUpload): the server lists it under this key"),
        "{stderr}"
    );
    assert!(stderr.contains("0 uploads aborted"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upload_is_aborted_where_parts_cannot_be_listed() {
    let world = World::new().await;
    let id = begin(&world, "k").await;
    let no_parts = |asked: &Asked| match asked {
        _ if asked.lists_parts() => Lie::error(501, "NotImplemented"),
        _ => Lie::Truth,
    };
    let (exit, _, stderr) = abort(&world, &["s3://destination/k", "mistyped"], no_parts).await;
    assert!(
        exit != 0 && stderr.contains("has no open upload mistyped"),
        "{exit} {stderr}"
    );
    let (exit, stdout, stderr) = abort(&world, &["s3://destination/k", &id], no_parts).await;
    assert!(
        exit == 0 && stdout.contains("aborted s3://destination/k"),
        "{exit} {stdout} {stderr}"
    );
    assert_eq!(open(&world), 0);
    let id = begin(&world, "k").await;
    let (exit, stdout, stderr) = abort(&world, &["s3://destination/k", &id], |asked| match asked {
        _ if asked.lists_parts() || asked.lists_uploads() => Lie::error(501, "NotImplemented"),
        _ => Lie::Truth,
    })
    .await;
    assert!(exit == 1 && stdout.is_empty(), "{exit} {stdout}");
    assert!(
        stderr.contains(&id) && stderr.contains("does not show whether the upload is gone"),
        "{stderr}"
    );
}

/// Only an answer of S3 shows that an upload is gone. Ceph answers `NoSuchKey`.
#[rstest]
#[case::gateway(
    Effect::Answer(404, "text/html", "<html>default backend</html>"),
    &FailureKind::NotFound
)]
#[case::unknown(Effect::Error(404, "NoSuchAccessPoint"), &FailureKind::Invalid)]
#[case::ceph(Effect::Error(404, "NoSuchKey"), &FailureKind::NoSuchUpload)]
#[tokio::test]
async fn not_every_404_is_about_the_upload(#[case] answer: Effect, #[case] kind: &FailureKind) {
    let world = World::new().await;
    let (bucket, key) = (world.bucket(DESTINATION).await, "k".parse().unwrap());
    let upload = MultipartUpload::initiate(&bucket, &key, &Attributes::default())
        .await
        .unwrap();
    for operation in [
        Operation::ListParts,
        Operation::UploadPart,
        Operation::AbortMultipartUpload,
    ] {
        world.add_fault(Fault::on(operation).then(answer.clone()));
    }
    let listed = bucket.list_parts(&key, upload.id(), None).await;
    assert_eq!(listed.unwrap_err().kind(), kind);
    let sent = upload.upload_part(1, &b"part"[..]).await;
    assert_eq!(sent.unwrap_err().kind(), kind);
    match bucket.abort_upload(&key, upload.id()).await {
        Ok(was_there) => assert!(!was_there && *kind == FailureKind::NoSuchUpload),
        Err(failure) => assert_eq!(failure.kind(), kind),
    }
}
