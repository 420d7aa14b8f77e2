//! The expected bucket owner and the requester who pays: every request to a bucket carries both
//! headers.

use s3haul::location::ObjectKey;
use s3haul::manifest::job::{Access, Transfer};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::{Attributes, FailureKind, SourcePin, WriteCondition};
use s3haul::sandbox::{BucketOptions, Effect, Fault, OWNER, ObjectSpec, Operation};
use s3haul::size::MIB;

use crate::world::program::{at, run};
use crate::world::{DESTINATION, SOURCE, World, copy_all};

const STRANGER: &str = "999999999999";

fn put_small_and_large(world: &World) {
    for (key, size) in [("small", 10), ("large", 300 * MIB)] {
        let spec = ObjectSpec::default().tag("a", "b");
        world.put_with(key, size, &spec);
    }
}

fn owned_by(owner: &str) -> Access {
    Access {
        expected_owner: Some(owner.to_owned()),
        requester_pays: false,
    }
}

fn paying() -> Access {
    Access {
        expected_owner: None,
        requester_pays: true,
    }
}

/// The sandbox refuses requests to a requester-pays bucket that lack the header, so an operation
/// that forgets it fails.
#[tokio::test]
async fn a_requester_pays_for_all_requests_to_both_buckets() {
    let options = BucketOptions {
        requester_pays: true,
        ..BucketOptions::default()
    };
    let world = World::with_buckets(options).await;
    put_small_and_large(&world);
    let transfer = Transfer {
        source_access: paying(),
        destination_access: paying(),
        ..copy_all()
    };
    // A lost answer makes s3haul send ListParts and a HEAD of the destination too.
    let lost = Effect::EmptyBody;
    world.add_fault(
        Fault::on(Operation::CompleteMultipartUpload)
            .nth(1)
            .then(lost),
    );
    let run = world.run(transfer).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        run.receipts
    );
    assert!(world.calls(Operation::ListParts) > 0 && world.calls(Operation::GetObjectTagging) > 0);
    let denied: Vec<_> = world
        .sandbox
        .calls()
        .list()
        .into_iter()
        .filter(|call| call.status == Some(403))
        .collect();
    assert!(denied.is_empty(), "{denied:?}");
    world.assert_equal("large", "large");
}

#[tokio::test]
async fn a_copy_pays_for_its_source_alone() {
    let world = World::new().await;
    let options = BucketOptions {
        requester_pays: true,
        ..BucketOptions::default()
    };
    world.sandbox.store().create_bucket("paid", options);
    for (key, size) in [("small", 10), ("large", 300 * MIB)] {
        world.put_in("paid", key, size);
    }
    let mut transfer = copy_all();
    transfer.from = s3haul::manifest::job::Source::Prefix {
        endpoint: s3haul::manifest::job::DEFAULT_ENDPOINT.to_owned(),
        location: crate::world::uri("s3://paid/"),
    };
    let unpaid = world.run(transfer.clone()).await;
    assert_eq!(unpaid.outcome.done_objects, 0, "{:?}", unpaid.receipts);
    let run = world
        .run(Transfer {
            source_access: paying(),
            ..transfer
        })
        .await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        run.receipts
    );
}

#[tokio::test]
async fn the_expected_owners_let_everything_through() {
    let world = World::new().await;
    put_small_and_large(&world);
    let owner = owned_by(OWNER);
    let transfer = Transfer {
        source_access: owner.clone(),
        destination_access: owner,
        ..copy_all()
    };
    let run = world.run(transfer).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        run.receipts
    );
}

#[tokio::test]
async fn a_bucket_of_somebody_else_refuses_the_run_in_one_sentence() {
    for (source, destination) in [(STRANGER, OWNER), (OWNER, STRANGER)] {
        let world = World::new().await;
        put_small_and_large(&world);
        let transfer = Transfer {
            source_access: owned_by(source),
            destination_access: owned_by(destination),
            ..copy_all()
        };
        let Err(failure) = world.try_run_job(&world.job(transfer)).await else {
            panic!("it ran")
        };
        let message = &failure.details().message;
        assert!(
            message.contains("does not belong to the account 999999999999"),
            "{message}"
        );
        assert_eq!(world.keys(DESTINATION), [""; 0]);
    }
}

/// Copies carry the owner of the source too: the bucket may change hands during the run.
#[tokio::test]
async fn copies_name_the_owner_of_their_source() {
    let world = World::new().await;
    put_small_and_large(&world);
    let source = world.bucket(SOURCE).await;
    let key: ObjectKey = "small".parse().unwrap();
    let head = source.head(&key, None).await.unwrap();
    let pin = SourcePin {
        bucket: source.name().clone(),
        key: key.clone(),
        version: None,
        etag: head.etag,
        customer_key: None,
    };
    let bucket = world.bucket(DESTINATION).await;
    let attributes = Attributes::default();
    for (owner, allowed) in [(OWNER, true), (STRANGER, false)] {
        let bucket = bucket.reading_from(owned_by(owner));
        let copied = bucket
            .copy_object(&pin, 10, &key, &attributes, WriteCondition::None)
            .await;
        let upload = bucket.create_upload(&key, &attributes).await.unwrap().value;
        let upload = MultipartUpload::open(&bucket, &key, &upload.id);
        let part = upload.copy_part(1, &pin, None, 10).await;
        for failure in [copied.err(), part.err()] {
            let kind = failure.map(|failure| failure.kind().clone());
            assert_eq!(kind, (!allowed).then_some(FailureKind::Denied), "{owner}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_can_name_owners_and_payer() {
    let options = BucketOptions {
        requester_pays: true,
        ..BucketOptions::default()
    };
    let world = World::new().await;
    world.sandbox.store().create_bucket("paid", options);
    world.put_in("paid", "k", 10);
    let copy = [
        "copy",
        "s3://paid/k",
        "s3://destination/k",
        "--provider",
        "aws",
    ];
    let with = |more: &[&'static str]| [&copy[..], more].concat();
    for (flags, exit, words) in [
        (
            &[
                "--requester-pays",
                "--source-owner",
                OWNER,
                "--destination-owner",
                OWNER,
            ][..],
            0,
            "",
        ),
        (
            &["--requester-pays", "--source-owner", STRANGER],
            3,
            "does not belong to the account",
        ),
        (
            &["--requester-pays", "--destination-owner", STRANGER],
            3,
            "does not belong to the account",
        ),
        (
            &["--requester-pays", "--source-owner", "me"],
            2,
            "`me` is not an AWS account",
        ),
        (&["--when", "always"], 3, "Forbidden"),
    ] {
        let (found, stdout, stderr) = run(at(&world), &with(flags)).await;
        assert_eq!(found, exit, "{flags:?}: {stdout}{stderr}");
        assert!(
            format!("{stdout}{stderr}").contains(words),
            "{flags:?}: {stdout}{stderr}"
        );
    }
}
