//! Values that the server changes: metadata, tags, locks, grants, annotations, keys.

use std::time::{Duration, UNIX_EPOCH};

use s3haul::endpoint::Provider;
use s3haul::manifest::job::{Encryption, Policy, Transfer, Trust};
use s3haul::sandbox::{BucketOptions, Effect, Fault, Lock, ObjectSpec, Operation};

use super::{LARGE, PART, losses, messages};
use crate::liar::{Answer, Asked, Liar};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of, restate};

/// Returns true for a HEAD of the destination.
fn looks(asked: &Asked) -> bool {
    asked.method == "HEAD" && is_of_destination(asked)
}

fn is_of_destination(asked: &Asked) -> bool {
    asked.path.trim_start_matches('/').starts_with(DESTINATION)
}

/// Runs a job against a server that nobody knows, with one request at a time.
async fn run_in_order(world: &World, liar: &Liar, transfer: Transfer) -> Run {
    let mut job = liar.job(world, in_parts_of(PART, transfer), Provider::Other);
    job.limits.in_flight = Some(1);
    world.try_run_job(&job).await.unwrap()
}

/// Asserts that a difference is a loss under `try`, and fails the object under `require`.
async fn assert_told(
    world: &World,
    liar: &Liar,
    transfer: impl Fn(Policy) -> Transfer,
    loss: &str,
) {
    let tried = run_in_order(world, liar, transfer(Policy::Try)).await;
    let told = losses(&tried);
    assert_eq!(
        told.first().map(String::as_str),
        Some(loss),
        "{:?}",
        tried.receipts
    );
    let mut always = transfer(Policy::Require);
    always.when = s3haul::manifest::job::When::Always;
    let required = run_in_order(world, liar, always).await;
    assert!(
        messages(&required).first().is_some_and(
            |message| message.starts_with("not-kept: destination ignored the requested")
        ),
        "{:?}",
        required.receipts
    );
}

fn metadata(policy: Policy) -> Transfer {
    let mut transfer = copy_all();
    transfer.preserve.metadata = policy;
    transfer
}

/// The first object shows that the server keeps ASCII metadata, which says nothing about other
/// metadata.
#[tokio::test]
async fn mangled_metadata_is_reported_and_encoded_metadata_is_not() {
    for (shown, is_mangled) in [
        ("Z?rich", true),
        ("", true),
        ("=?UTF-8?Q?Z=C3=BCrich?=", false),
        ("Z%C3%BCrich", false),
    ] {
        let world = World::new().await;
        world.put_with("a", 10, &ObjectSpec::default().metadata("city", "Basel"));
        world.put_with("b", 10, &ObjectSpec::default().metadata("city", "Zürich"));
        let liar = Liar::before(&world, move |asked, answer: Answer| {
            if looks(asked) && asked.path.ends_with("/b") {
                answer.with(&format!("x-amz-meta-city: {shown}"))
            } else {
                answer
            }
        })
        .await;
        if is_mangled {
            let loss = "metadata not set: destination ignored it: it shows other values";
            assert_told(&world, &liar, metadata, loss).await;
        } else {
            let run = run_in_order(&world, &liar, metadata(Policy::Require)).await;
            assert_eq!(run.outcome.done_objects, 2, "{shown} {:?}", run.receipts);
        }
    }
}

/// `x-amz-missing-meta` excuses no metadata that a header could show.
#[tokio::test]
async fn missing_metadata_excuses_nothing_that_can_be_shown() {
    let world = World::new().await;
    world.put_with("a", 10, &ObjectSpec::default().metadata("team", "blue"));
    let liar = Liar::before(&world, |asked, answer: Answer| {
        if looks(asked) {
            answer
                .without("x-amz-meta-team")
                .with("x-amz-missing-meta: 1")
        } else {
            answer
        }
    })
    .await;
    let loss = "metadata not set: destination ignored it: it shows less of it";
    assert_told(&world, &liar, metadata, loss).await;
}

#[tokio::test]
async fn a_missing_kms_key_is_reported() {
    let world = World::new().await;
    world.put("a", 10);
    let liar = Liar::before(&world, |_, answer: Answer| {
        answer.without("x-amz-server-side-encryption-aws-kms-key-id")
    })
    .await;
    let mut transfer = copy_all();
    transfer.to.encryption = Some(Encryption::Kms {
        key: Some("arn:aws:kms:us-east-1:1:key/7".to_owned()),
        bucket_key: None,
        dsse: false,
    });
    let run = run_in_order(&world, &liar, transfer).await;
    let loss = "encryption not set: destination ignored it: it shows no key";
    assert_eq!(losses(&run), [loss], "{:?}", run.receipts);
}

/// HEAD shows the right tag count, but the values are different.
#[tokio::test]
async fn changed_values_of_tags_are_reported() {
    for size in [10, LARGE] {
        let world = World::new().await;
        world.put("a", size);
        let liar = Liar::before(&world, |asked, answer: Answer| {
            if asked.has("tagging") && is_of_destination(asked) {
                answer.replacing("<Value>a b</Value>", "<Value>a+b</Value>")
            } else {
                answer
            }
        })
        .await;
        let transfer = |policy| {
            let mut transfer = copy_all();
            transfer.preserve.tags = policy;
            transfer
                .set
                .tags
                .insert("team".to_owned(), "a b".to_owned());
            transfer
        };
        let loss = "tags not set: destination ignored it: it shows other values in the answer to GetObjectTagging";
        assert_told(&world, &liar, transfer, loss).await;
    }
}

/// HEAD shows no lock, and `GetObjectRetention` shows a shorter one.
#[tokio::test]
async fn a_weaker_retention_in_the_answer_is_reported() {
    let options = BucketOptions {
        versioning: true,
        object_lock: true,
        ..BucketOptions::default()
    };
    let world = World::with_buckets(options).await;
    let until = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let lock = Lock {
        retention: Some(("COMPLIANCE".to_owned(), until)),
        legal_hold: None,
    };
    world.put_with("a", 10, &ObjectSpec::default().lock(lock));
    let liar = Liar::before(&world, |asked, answer: Answer| {
        if looks(asked) {
            answer
                .without("x-amz-object-lock-mode")
                .without("x-amz-object-lock-retain-until-date")
        } else if asked.has("retention") && is_of_destination(asked) {
            answer.replacing("COMPLIANCE", "GOVERNANCE")
        } else {
            answer
        }
    })
    .await;
    let transfer = |policy| {
        let mut transfer = copy_all();
        transfer.preserve.lock = policy;
        transfer
    };
    let loss = "lock not set: destination ignored it: it shows a weaker retention in the answer to GetObjectRetention";
    assert_told(&world, &liar, transfer, loss).await;
}

/// HEAD leaves out the locks of the source, and the answers to the questions about them do not.
#[tokio::test]
async fn a_lock_that_head_leaves_out_is_copied() {
    let options = BucketOptions {
        versioning: true,
        object_lock: true,
        ..BucketOptions::default()
    };
    let world = World::with_buckets(options).await;
    let until = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let lock = Lock {
        retention: Some(("GOVERNANCE".to_owned(), until)),
        legal_hold: Some(true),
    };
    for key in ["a", "b"] {
        world.put_with(key, 10, &ObjectSpec::default().lock(lock.clone()));
    }
    world.put("c", 10);
    let liar = Liar::before(&world, |asked, answer: Answer| {
        if asked.method == "HEAD" && !is_of_destination(asked) {
            answer
                .without("x-amz-object-lock-mode")
                .without("x-amz-object-lock-retain-until-date")
                .without("x-amz-object-lock-legal-hold")
        } else {
            answer
        }
    })
    .await;
    let mut transfer = copy_all();
    transfer.preserve.lock = Policy::Try;
    let mut job = liar.job(&world, transfer, Provider::Aws);
    job.limits.in_flight = Some(1);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, losses(&run).len()),
        (3, 0),
        "{:?}",
        run.receipts
    );
    for (key, expected) in [("a", lock.clone()), ("b", lock), ("c", Lock::default())] {
        let copy = world.object(DESTINATION, key).unwrap();
        assert_eq!(copy.attributes.lock, expected, "{key}");
    }
    let asked = |what: &str| {
        liar.count(|asked| {
            asked.method == "GET"
                && asked.has(what)
                && asked.path.starts_with(&format!("/{SOURCE}/"))
        })
    };
    assert_eq!(
        (asked("retention"), asked("legal-hold")),
        (3, 3),
        "each object is asked about"
    );
}

#[tokio::test]
async fn ignored_grants_are_reported() {
    let options = BucketOptions {
        acls: true,
        ..BucketOptions::default()
    };
    for (size, ignored) in [(10, true), (LARGE, true), (10, false), (LARGE, false)] {
        let world = World::with_buckets(options.clone()).await;
        let spec = ObjectSpec::default()
            .grant("FULL_CONTROL", "111122223333")
            .grant("READ", "http://acs.amazonaws.com/groups/global/AllUsers");
        world.put_with("a", size, &spec);
        if ignored {
            for operation in [Operation::CopyObject, Operation::CreateMultipartUpload] {
                let names = &["x-amz-grant-read", "x-amz-grant-full-control"];
                world.add_fault(Fault::on(operation).then(Effect::Ignore(names)));
            }
        }
        let liar = Liar::before(&world, |_, answer| answer).await;
        let transfer = |policy| {
            let mut transfer = copy_all();
            transfer.preserve.acl = policy;
            transfer
        };
        if ignored {
            let loss = "acl not set: destination ignored it: it shows none of it in the answer to GetObjectAcl";
            assert_told(&world, &liar, transfer, loss).await;
        } else {
            let run = run_in_order(&world, &liar, transfer(Policy::Require)).await;
            assert_eq!(
                (run.outcome.done_objects, losses(&run)),
                (1, vec![]),
                "{:?}",
                run.receipts
            );
        }
    }
}

/// Only an untrusted server can do this: other servers with annotations refuse them.
#[tokio::test]
async fn a_changed_annotation_is_reported() {
    for (policy, is_changed) in [
        (Policy::Try, true),
        (Policy::Require, true),
        (Policy::Require, false),
    ] {
        let world = World::new().await;
        world.put_with(
            "a",
            LARGE,
            &ObjectSpec::default().annotation("note", "text"),
        );
        let liar = Liar::before(&world, move |asked, answer: Answer| {
            let is_question = asked.method == "GET" && is_of_destination(asked);
            if is_changed && is_question {
                answer.replacing("text", "next")
            } else {
                answer
            }
        })
        .await;
        let mut transfer = in_parts_of(PART, copy_all());
        transfer.preserve.annotations = policy;
        let mut job = liar.job(&world, transfer, Provider::Aws);
        restate(&mut job, |endpoint| endpoint.trust = Trust::Nothing);
        let run = world.try_run_job(&job).await.unwrap();
        if !is_changed {
            assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
        } else if policy == Policy::Try {
            let loss = "annotations not set: destination does not know PutObjectAnnotation";
            assert_eq!(losses(&run), [loss], "{:?}", run.receipts);
        } else {
            let message = messages(&run).concat();
            assert!(
                message.contains("did not keep the annotation note"),
                "{message}"
            );
        }
    }
}
