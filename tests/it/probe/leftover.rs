//! A probe leaves nothing behind, or names what it leaves together with a command.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use rstest::rstest;
use s3haul::manifest::job::Attribute;
use s3haul::probe::{self, How, LeftoverKind, Needs, ProbeVerdict};
use s3haul::s3::Operation as Request;
use s3haul::sandbox::{BucketOptions, Effect, Fault, Operation, VersionInfo};
use tokio_util::sync::CancellationToken;

use super::{
    assert_clean, attribute, behind, completes, deletes, finding, odd, probed, request, try_probe,
};
use crate::liar::Lie;
use crate::world::{DESTINATION, World};

#[tokio::test]
async fn parts_that_cannot_be_listed_leave_nothing_behind_and_fail_nothing() {
    let world = World::new().await;
    let bucket = behind(&world, |asked| {
        if asked.lists_parts() {
            Lie::unreadable()
        } else {
            Lie::Truth
        }
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    assert_eq!(odd(&probe), ["ListParts", "lock of objects"]);
    assert_eq!((probe.is_good(), probe.left.as_slice()), (true, &[][..]));
    let consequence = request(&probe, Request::ListParts).consequence().unwrap();
    assert!(consequence.contains("start over"), "{consequence}");
    assert_clean(&world, DESTINATION);
}

/// Without both lists, an accepted abort proves nothing. The probe reports that, and does not fail.
#[tokio::test]
async fn what_nothing_shows_may_be_left() {
    let world = World::new().await;
    let bucket = behind(&world, |asked| match asked {
        _ if asked.lists_parts() || asked.lists_uploads() => Lie::error(501, "NotImplemented"),
        _ => Lie::Truth,
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    assert!(probe.is_good(), "{probe:?}");
    assert!(
        !probe.left.is_empty() && probe.left.iter().all(|left| !left.is_certain),
        "{:?}",
        probe.left
    );
    assert_eq!(
        request(&probe, Request::AbortMultipartUpload).measured.how,
        How::Unknown
    );
    assert_clean(&world, DESTINATION);
}

#[tokio::test]
async fn a_complete_without_effect_fails_and_its_uploads_are_ended() {
    let world = World::new().await;
    let answer = "<CompleteMultipartUploadResult><ETag>\"0123456789abcdef0123456789abcdef-1\"</ETag>\
                  </CompleteMultipartUploadResult>";
    let bucket = behind(&world, move |asked| match asked {
        _ if completes(asked) => Lie::Instead(200, answer.to_owned()),
        _ => Lie::Truth,
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    let complete = request(&probe, Request::CompleteMultipartUpload);
    assert_eq!(
        (complete.word(), complete.fails()),
        ("no-effect", true),
        "{complete:?}"
    );
    // The parts were listed, although no object came of them.
    assert_eq!(finding(&probe, "part_copy").verdict(), ProbeVerdict::Agrees);
    for name in [
        "copy_conditions",
        "part_conditions",
        "ordered_lists",
        "encoded_uploads",
        "odd_part_sources",
    ] {
        assert_eq!(
            finding(&probe, name).verdict(),
            ProbeVerdict::Agrees,
            "{name}"
        );
    }
    assert_eq!(attribute(&probe, Attribute::Tags).copy.how, How::Kept);
    assert_eq!((probe.left.as_slice(), probe.is_good()), (&[][..], false));
    assert_clean(&world, DESTINATION);
}

#[tokio::test]
async fn a_delete_without_effect_leaves_what_is_then_named_with_its_command() {
    for versioning in [false, true] {
        let options = BucketOptions {
            versioning,
            ..BucketOptions::default()
        };
        let world = World::with_buckets(options).await;
        let bucket = behind(&world, |asked| match asked {
            _ if deletes(asked) => Lie::Instead(204, String::new()),
            _ => Lie::Truth,
        })
        .await;
        let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
        let store = world.sandbox.store();
        let told: BTreeSet<_> = probe
            .left
            .iter()
            .map(|left| (left.key.clone(), left.id.clone()))
            .collect();
        let id = |version| match version {
            VersionInfo::Object(object) => object.version_id,
            VersionInfo::DeleteMarker(id) => id,
        };
        let versions = |key: String| {
            let all = store
                .versions(DESTINATION, &key)
                .into_iter()
                .map(id)
                .collect::<Vec<_>>();
            all.into_iter().map(move |id| (key.clone(), id))
        };
        let there: BTreeSet<_> = store
            .keys(DESTINATION)
            .into_iter()
            .flat_map(versions)
            .collect();
        assert_eq!(told, there);
        assert!(told.len() > 20 && !probe.is_good() && store.open_uploads(DESTINATION).is_empty());
        for left in &probe.left {
            let kind = if versioning {
                LeftoverKind::Version
            } else {
                LeftoverKind::Object
            };
            assert_eq!((left.what, left.is_certain), (kind, true));
            assert!(
                left.command
                    .starts_with("aws s3api delete-object --bucket destination --key ")
            );
            assert_eq!(
                left.command.contains("--version-id"),
                versioning,
                "{}",
                left.command
            );
        }
        assert_eq!(request(&probe, Request::DeleteObject).word(), "no-effect");
        let others = odd(&probe);
        assert_eq!(others, ["DeleteObject", "lock of objects"]);
    }
}

#[tokio::test]
async fn an_abort_without_effect_leaves_uploads_that_are_named_with_their_command() {
    let world = World::new().await;
    let bucket = behind(&world, |asked| {
        if asked.aborts() {
            Lie::Instead(204, String::new())
        } else {
            Lie::Truth
        }
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    let told: BTreeSet<_> = probe
        .left
        .iter()
        .filter_map(|left| left.id.clone())
        .collect();
    let open = world.open_uploads(DESTINATION);
    assert_eq!(
        told,
        open.into_iter().map(|upload| upload.upload_id).collect()
    );
    for left in &probe.left {
        assert!(
            left.what == LeftoverKind::Upload && left.is_certain,
            "{left:?}"
        );
        assert!(
            left.command.starts_with("s3haul uploads abort "),
            "{}",
            left.command
        );
        assert!(
            left.command.contains("s3://destination/.s3haul-probe-"),
            "{}",
            left.command
        );
    }
    assert!(!told.is_empty() && !probe.is_good());
}

#[tokio::test]
async fn a_probe_tells_what_it_may_not_remove() {
    let world = World::new().await;
    world.deny(DESTINATION, Operation::DeleteObject, "");
    let probe = probed(&world).await;
    let source = probe
        .left
        .iter()
        .find(|left| left.key.contains("source"))
        .unwrap();
    assert!(
        !probe.is_good() && source.reason.contains("AccessDenied"),
        "{source:?}"
    );
    assert_eq!(
        request(&probe, Request::DeleteObject).measured.how,
        How::Refused
    );
    assert!(world.open_uploads(DESTINATION).is_empty());
}

/// The answers are lost after the requests have taken effect.
#[tokio::test]
async fn what_was_made_without_an_answer_is_found_and_removed() {
    for operation in [
        Operation::PutObject,
        Operation::CopyObject,
        Operation::CreateMultipartUpload,
    ] {
        let world = World::versioned().await;
        let lost = Fault::on(operation)
            .when(s3haul::sandbox::When::Every(3))
            .then(Effect::ResetAfter);
        world.add_fault(lost);
        let probe = probed(&world).await;
        assert_eq!(probe.left, [], "{operation:?}");
        assert_clean(&world, DESTINATION);
        let store = world.sandbox.store();
        assert!(
            store
                .versions(DESTINATION, &format!("{}object", probe.prefix))
                .is_empty(),
            "{operation:?}"
        );
    }
}

#[tokio::test]
async fn a_probe_that_is_stopped_cleans_up() {
    for operation in [
        Operation::CreateMultipartUpload,
        Operation::CopyObject,
        Operation::ListObjectsV2,
    ] {
        let world = World::new().await;
        let bucket = world.bucket(DESTINATION).await;
        let stop = CancellationToken::new();
        let token = stop.clone();
        let hook = Effect::hook(move |_| token.cancel());
        world.add_fault(Fault::on(operation).nth(2).then(hook));
        let needs = Needs::default();
        let probe = crate::probe::measure(&bucket, &probe::scratch_prefix(), &needs, &stop)
            .await
            .unwrap();
        assert!(probe.stopped && !probe.is_good(), "{operation:?}");
        assert_eq!(probe.left, [], "{operation:?}");
        assert_clean(&world, DESTINATION);
        let sent = world.calls(operation);
        assert!(
            sent <= 3,
            "{sent} requests, and no question is asked after the stop"
        );
    }
}

fn refusal() -> Lie {
    Lie::error(403, "AccessDenied")
}

/// Returns an answer that does not show whether a delete took effect.
fn too_long() -> Lie {
    Lie::Instead(200, " ".repeat(100_000))
}

/// The versions are listed before they are removed, and not after it.
#[rstest]
#[case::refused(refusal, true)]
#[case::perhaps_removed(too_long, false)]
#[tokio::test]
async fn versions_whose_removal_fails_are_named_without_another_list(
    #[case] answer: fn() -> Lie,
    #[case] is_refused: bool,
    #[values(false, true)] has_markers: bool,
) {
    let world = World::with_buckets(BucketOptions {
        versioning: true,
        ..BucketOptions::default()
    })
    .await;
    let has_failed = AtomicBool::new(false);
    let bucket = behind(&world, move |asked| match asked {
        _ if deletes(asked) && asked.has("versionId") => {
            has_failed.store(true, Ordering::Relaxed);
            answer()
        }
        _ if deletes(asked) && !has_markers => answer(),
        _ if asked.has("versions") && has_failed.load(Ordering::Relaxed) => {
            Lie::error(501, "NotImplemented")
        }
        _ => Lie::Truth,
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    let is_version = |what| matches!(what, LeftoverKind::Version | LeftoverKind::DeleteMarker);
    let left: Vec<_> = probe
        .left
        .iter()
        .filter(|left| is_version(left.what))
        .collect();
    let named: BTreeSet<_> = left.iter().map(|left| (&left.key, &left.id)).collect();
    assert!(left.len() > 20 && named.len() == left.len(), "{left:?}");
    let certain = left.iter().filter(|left| left.is_certain).count();
    if is_refused {
        assert_eq!(certain, left.len());
        return;
    }
    // Only HEAD shows what is left.
    let store = world.sandbox.store();
    let is_shown = |key: &String| store.object(DESTINATION, key).is_some();
    for left in left {
        assert!(!left.is_certain || is_shown(&left.key), "{left:?}");
    }
    assert!(certain > 0);
}
