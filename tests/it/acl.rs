//! Canned ACLs: every request that creates an object carries the ACL of the job, and no other.

use std::fs;

use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{CannedAcl, Policy, Source, Symlinks, Transfer, Versions};
use s3haul::multipart::MultipartUpload;
use s3haul::probe::{self, Needs};
use s3haul::s3::{Attributes, ChecksumAlgorithm, ChecksumKind, FailureKind, SourcePin};
use s3haul::sandbox::{BucketOptions, Effect, Fault, Operation};
use s3haul::size::MIB;
use tokio_util::sync::CancellationToken;

use crate::world::program::{at, run as run_command};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of, upload_all};

const OWNER: &str = "bucket-owner-full-control";

/// Starts a sandbox whose buckets deny every write of an object without
/// `bucket-owner-full-control`.
async fn demanding() -> World {
    let buckets = BucketOptions {
        demanded_acl: Some(OWNER),
        ..BucketOptions::default()
    };
    World::with_buckets(buckets).await
}

fn with(acl: CannedAcl, mut transfer: Transfer) -> Transfer {
    transfer.to.acl = Some(acl);
    transfer
}

fn acl_of(world: &World, key: &str) -> Option<String> {
    world
        .object(DESTINATION, key)
        .unwrap()
        .attributes
        .canned_acl
        .clone()
}

fn message(run: &Run) -> &str {
    match &run.receipts[0].ending {
        Ending::Failed { error } => &error.message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_bucket_that_demands_an_acl_gets_it_by_every_route() {
    let world = demanding().await;
    world.put("small", 10);
    world.put("large", 300 * MIB);
    let run = world
        .run(with(CannedAcl::BucketOwnerFullControl, copy_all()))
        .await;
    assert_eq!(run.outcome.done_objects, 2, "{:?}", run.receipts);
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), b"bytes").unwrap();
    fs::write(directory.path().join("parts"), vec![7; 17 * 1024 * 1024]).unwrap();
    let run = world
        .run(with(
            CannedAcl::BucketOwnerFullControl,
            upload_all(directory.path()),
        ))
        .await;
    assert_eq!(run.outcome.done_objects, 2, "{:?}", run.receipts);
    for (key, operation) in [
        ("small", Operation::CopyObject),
        ("large", Operation::UploadPartCopy),
        ("file", Operation::PutObject),
        ("parts", Operation::UploadPart),
    ] {
        assert_eq!(acl_of(&world, key).as_deref(), Some(OWNER), "{key}");
        assert!(world.calls(operation) > 0, "{key}");
    }
}

#[tokio::test]
async fn without_it_the_message_says_what_to_set() {
    for size in [10, 300 * MIB] {
        let world = demanding().await;
        world.put("k", size);
        let run = world.run(copy_all()).await;
        assert_eq!(run.error(), "denied");
        assert!(
            message(&run).contains("`to.acl: bucket-owner-full-control`"),
            "{}",
            message(&run)
        );
        assert!(world.keys(DESTINATION).is_empty());
    }
}

#[tokio::test]
async fn each_canned_acl_is_sent_by_its_name() {
    let buckets = BucketOptions {
        acls: true,
        owner: Some("444455556666".into()),
        ..BucketOptions::default()
    };
    let world = World::with_buckets(buckets).await;
    world.put("k", 10);
    for (acl, name, grants) in [
        (CannedAcl::Private, "private", 0),
        (CannedAcl::PublicRead, "public-read", 2),
        (CannedAcl::PublicReadWrite, "public-read-write", 3),
        (CannedAcl::AuthenticatedRead, "authenticated-read", 2),
        (CannedAcl::AwsExecRead, "aws-exec-read", 2),
        (CannedAcl::BucketOwnerRead, "bucket-owner-read", 2),
        (CannedAcl::BucketOwnerFullControl, OWNER, 2),
    ] {
        let mut transfer = with(acl, copy_all());
        transfer.when = s3haul::manifest::job::When::Always;
        let run = world.run(transfer).await;
        assert_eq!(run.outcome.done_objects, 1, "{name}: {:?}", run.receipts);
        assert_eq!(acl_of(&world, "k").as_deref(), Some(name));
        let attributes = world.object(DESTINATION, "k").unwrap().attributes;
        assert_eq!(
            attributes.grants.len(),
            grants,
            "{name}: {:?}",
            attributes.grants
        );
    }
}

/// New buckets have ACLs disabled: they accept `bucket-owner-full-control` and refuse every other
/// ACL.
#[tokio::test]
async fn a_bucket_without_acls_takes_only_the_one_that_changes_nothing() {
    for size in [10, 300 * MIB] {
        let world = World::new().await;
        world.put("k", size);
        let run = world.run(with(CannedAcl::PublicRead, copy_all())).await;
        assert_eq!(run.outcome.failed_objects, 1);
        let text = message(&run);
        assert!(
            text.contains("ACLs disabled") && text.contains(OWNER),
            "{text}"
        );
        let run = world
            .run(with(CannedAcl::BucketOwnerFullControl, copy_all()))
            .await;
        assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    }
}

#[tokio::test]
async fn a_missing_permission_is_named_by_every_route() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("k"), b"bytes").unwrap();
    for transfer in [copy_all(), upload_all(directory.path())] {
        let world = World::new().await;
        world.deny(DESTINATION, Operation::PutObjectAcl, "");
        world.put("k", 10);
        let run = world
            .run(with(CannedAcl::BucketOwnerFullControl, transfer))
            .await;
        assert_eq!(run.error(), "denied");
        assert!(
            message(&run).contains("s3:PutObjectAcl"),
            "{}",
            message(&run)
        );
    }
}

/// Writes that are repeated after a lost answer carry the ACL, and so do all versions of a history.
#[tokio::test]
async fn repeated_writes_and_histories_have_it_too() {
    let world = demanding().await;
    world.put("k", 10);
    world.put("large", 300 * MIB);
    world.add_fault(
        Fault::on(Operation::CopyObject)
            .nth(1)
            .then(Effect::Error(503, "SlowDown")),
    );
    world.add_fault(
        Fault::on(Operation::CreateMultipartUpload)
            .nth(1)
            .then(Effect::ErrorAfterEffect(500, "InternalError")),
    );
    let run = world
        .run(with(CannedAcl::BucketOwnerFullControl, copy_all()))
        .await;
    assert_eq!(run.outcome.done_objects, 2, "{:?}", run.receipts);
    assert_eq!(
        (
            acl_of(&world, "k").as_deref(),
            acl_of(&world, "large").as_deref()
        ),
        (Some(OWNER), Some(OWNER))
    );

    let versioned = BucketOptions {
        versioning: true,
        demanded_acl: Some(OWNER),
        ..BucketOptions::default()
    };
    let world = World::with_buckets(versioned).await;
    world.put("k", 10);
    world.put("k", 11);
    let mut transfer = with(CannedAcl::BucketOwnerFullControl, copy_all());
    transfer.versions = Versions::All;
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.done_objects, 2, "{:?}", run.receipts);
    assert_eq!(acl_of(&world, "k").as_deref(), Some(OWNER));
}

/// An open upload that no journal records may have been created with any ACL, so `--adopt` leaves
/// it alone.
#[tokio::test]
async fn an_upload_of_unknown_acl_is_not_adopted() {
    let world = World::new().await;
    world.put("k", 16 * MIB);
    let bucket = world.bucket(DESTINATION).await;
    let declared = Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject));
    let attributes = Attributes {
        checksum: declared,
        ..Attributes::default()
    };
    let upload = MultipartUpload::initiate(&bucket, &"k".parse().unwrap(), &attributes)
        .await
        .unwrap();
    let pin = SourcePin {
        bucket: SOURCE.parse().unwrap(),
        key: "k".parse().unwrap(),
        version: None,
        etag: world.object(SOURCE, "k").unwrap().etag,
        customer_key: None,
    };
    upload
        .copy_part(1, &pin, Some(0..=8 * MIB - 1), 8 * MIB)
        .await
        .unwrap();
    let mut job = world.job(in_parts_of(
        8 * MIB,
        with(CannedAcl::BucketOwnerFullControl, copy_all()),
    ));
    job.adopts = true;
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert!(
        run.receipts[0]
            .notes
            .iter()
            .any(|note| note.contains("ACL")),
        "{:?}",
        run.receipts[0].notes
    );
    assert_eq!(acl_of(&world, "k").as_deref(), Some(OWNER));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_has_it_and_refuses_what_contradicts_it() {
    let world = demanding().await;
    world.put("k", 10);
    let copy = ["copy", "s3://source/", "s3://destination/", "--acl"];
    let with = |more: &[&'static str]| [&copy, more].concat();
    let (exit, _, stderr) = run_command(at(&world), &with(&[OWNER])).await;
    assert_eq!(
        (exit, acl_of(&world, "k").as_deref()),
        (0, Some(OWNER)),
        "{stderr}"
    );
    let (exit, _, stderr) = run_command(at(&world), &with(&["bucket-owner"])).await;
    assert!(
        exit == 2 && stderr.contains("bucket-owner-full-control"),
        "{exit} {stderr}"
    );
    let (exit, _, stderr) = run_command(at(&world), &with(&[OWNER, "--preserve", "acl=try"])).await;
    assert!(exit == 2 && stderr.contains("not both"), "{exit} {stderr}");
    let (exit, _, stderr) = run_command(at(&world), &with(&[OWNER, "--provider", "minio"])).await;
    assert!(
        exit == 2 && stderr.contains("no ACLs of single objects"),
        "{exit} {stderr}"
    );
}

/// The scratch objects of a probe need the ACL like all other writes.
#[tokio::test]
async fn a_probe_of_a_demanding_bucket_has_it() {
    let world = demanding().await;
    let bucket = world.bucket(DESTINATION).await;
    let probe = |acl| {
        let bucket = bucket.clone();
        let needs = Needs {
            acl,
            ..Needs::default()
        };
        async move {
            crate::probe::measure(
                &bucket,
                &probe::scratch_prefix(),
                &needs,
                &CancellationToken::new(),
            )
            .await
        }
    };
    assert_eq!(*probe(None).await.unwrap_err().kind(), FailureKind::Denied);
    let found = probe(Some(CannedAcl::BucketOwnerFullControl))
        .await
        .unwrap();
    assert!(found.is_good() && found.left.is_empty(), "{found:?}");
}

#[test]
fn a_manifest_names_it_and_a_contradiction_is_refused() {
    let job = |more: &str| {
        let text = format!(
            "version: 1\ntransfers: [{{from: {{s3: s3://src/}}, to: {{s3: s3://dst/, acl: public-read}}{more}}}]\n"
        );
        s3haul::manifest::job::Job::parse(
            &text,
            "job.yaml",
            &s3haul::endpoint::Environment::default(),
        )
    };
    assert_eq!(
        job("").unwrap().transfers[0].to.acl,
        Some(CannedAcl::PublicRead)
    );
    assert_eq!(
        job(", preserve: {acl: replace}").unwrap().transfers[0]
            .preserve
            .acl,
        Policy::Replace
    );
    for policy in ["{acl: try}", "{acl: require}", "everything"] {
        let mistakes = job(&format!(", preserve: {policy}"))
            .unwrap_err()
            .to_string();
        assert!(mistakes.contains("not both"), "{policy}: {mistakes}");
    }
    let mut files = job("").unwrap();
    files.transfers[0].from = Source::Files {
        path: s3haul::location::LocalPath("x".into()),
        symlinks: Symlinks::default(),
    };
    assert_eq!(files.check(), []);
}
