//! `versions: all`.

mod interrupted;

use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::BucketVersioningStatus;
use rstest::rstest;
use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Archived, Provider, Selection, Transfer, When};
use s3haul::plan::decide::Skip;
use s3haul::s3::FailureKind;
use s3haul::sandbox::{
    BucketOptions, Content, LatencyModel, Model, ObjectSpec, Operation, SandboxOptions,
};
use s3haul::size::{ByteSize, MIB};

use super::{all_versions, at, endings, history, ids, kinds, one, there, write, writes};
use crate::world::{DESTINATION, SOURCE, World, uri};

#[tokio::test]
async fn every_version_and_marker_arrives_in_order_once() {
    let world = World::versioned().await;
    for (key, contents) in [
        ("a", "x"),
        ("a/b", "xMyMz"),
        ("gone", "xyM"),
        ("hidden twice", "xMMy"),
        ("z", "MM"),
    ] {
        write(&world, SOURCE, key, contents);
    }
    let run = world.run(all_versions()).await;
    let outcome = &run.outcome;
    assert_eq!(outcome.failed_objects, 0, "{:?}", run.receipts);
    assert_eq!((outcome.done_objects, outcome.delete_markers), (8, 7));
    for key in ["a", "a/b", "gone", "hidden twice", "z"] {
        assert_eq!(there(&world, key), history(&world, SOURCE, key), "{key}");
    }
    let receipts = endings(&run, "a/b");
    let told: Vec<_> = receipts
        .iter()
        .map(|receipt| receipt.source_version.clone().unwrap())
        .collect();
    assert_eq!(
        told,
        ids(&world, SOURCE, "a/b"),
        "one receipt per version, oldest first"
    );
    let made: Vec<_> = receipts
        .iter()
        .map(|receipt| match &receipt.ending {
            Ending::Done {
                destination_version,
                ..
            } => destination_version.clone().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(made, ids(&world, DESTINATION, "a/b"));
    let routes: Vec<_> = receipts
        .iter()
        .map(|receipt| receipt.route.unwrap())
        .collect();
    assert_eq!(
        routes,
        ["copy", "delete-marker", "copy", "delete-marker", "copy"]
    );
    assert_eq!(outcome.proofs, [("crc64nvme".to_owned(), 8)].into());
    for (operation, calls) in [
        (Operation::ListObjectVersions, 2),
        (Operation::GetBucketVersioning, 1),
        (Operation::HeadObject, 8),
        (Operation::CopyObject, 8),
        (Operation::DeleteObject, 7),
    ] {
        assert_eq!(world.calls(operation), calls, "{operation:?}");
    }

    world.sandbox.calls().clear();
    let again = world.run(all_versions()).await;
    assert_eq!(
        (again.outcome.done_objects, again.outcome.skipped_objects),
        (0, 15),
        "{:?}",
        again.receipts
    );
    let calls = world.sandbox.calls();
    assert_eq!(
        (writes(&world), calls.total()),
        (0, 5),
        "two lists, and a question to each bucket and one more"
    );
}

#[tokio::test]
async fn a_history_that_grows_is_followed() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "ab");
    world.run(all_versions()).await;
    write(&world, SOURCE, "k", "Mc");
    let run = world.run(all_versions()).await;
    assert_eq!(there(&world, "k"), "abMc", "{:?}", run.receipts);
    assert_eq!(
        (run.outcome.done_objects, run.outcome.skipped_objects),
        (1, 2)
    );
}

/// S3's times are in whole seconds. If a key is written, deleted, and written within one second,
/// only the document has the order.
#[tokio::test]
async fn entries_of_one_second_keep_their_order() {
    let world = World::versioned().await;
    let (now, store) = (SystemTime::now(), world.sandbox.store());
    let put = |content: &'static str| {
        let spec = ObjectSpec::default()
            .last_modified(now)
            .metadata("name", content);
        store.put_object(SOURCE, "k", Content::bytes(content), &spec);
    };
    for content in ["a", "M", "b", "M", "M", "c", "d", "M", "e"] {
        match content {
            "M" => store.delete_object_at(SOURCE, "k", now),
            content => put(content),
        }
    }
    world.run(all_versions()).await;
    assert_eq!(there(&world, "k"), "aMbMMcdMe");
}

/// A page ends within the versions of a key, and its marker is a key that must be decoded.
#[tokio::test]
async fn a_key_may_span_pages() {
    let world = World::versioned().await;
    let key = "a b+c%20/ü\u{1}";
    for number in 0..1_250_u32 {
        let content = Content::bytes(format!("{number}"));
        let spec = ObjectSpec::default().metadata("name", format!("{number},"));
        world.put_object(SOURCE, key, content, &spec);
    }
    write(&world, SOURCE, "b", "ab");
    let run = world.run(all_versions()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (1_252, 0)
    );
    assert_eq!(there(&world, key), history(&world, SOURCE, key));
    assert_eq!(
        world.calls(Operation::ListObjectVersions),
        3,
        "two pages and one"
    );
    world.sandbox.calls().clear();
    let again = world.run(all_versions()).await;
    assert_eq!((again.outcome.skipped_objects, writes(&world)), (1_252, 0));
}

/// Equal bytes with other parts have another `ETag`. s3haul sends HEADs to both sides, and copies
/// nothing again.
#[tokio::test]
async fn etags_that_do_not_tell_are_looked_into() {
    let world = World::versioned().await;
    for (seed, name) in [(1, "a"), (2, "b"), (3, "c")] {
        let spec = ObjectSpec::default()
            .metadata("name", name)
            .last_modified(at(seed));
        world.put_object(SOURCE, "large", Content::pattern(seed, 300 * MIB), &spec);
    }
    let run = world.run(all_versions()).await;
    assert_eq!(
        (there(&world, "large").as_str(), run.outcome.done_objects),
        ("abc", 3),
        "{:?}",
        run.receipts
    );
    assert!(
        run.receipts
            .iter()
            .all(|receipt| receipt.route == Some("multipart-copy"))
    );
    world.sandbox.calls().clear();
    let again = world.run(all_versions()).await;
    assert_eq!(
        (again.outcome.skipped_objects, writes(&world)),
        (3, 0),
        "{:?}",
        again.receipts
    );
    assert_eq!(world.calls(Operation::HeadObject), 6, "three pairs");
}

#[rstest]
#[case("abc", "x", When::Changed, None)]
#[case("abc", "c", When::Changed, None)]
#[case("abc", "abcd", When::Changed, None)]
#[case("abc", "abx", When::Missing, Some("abx"))]
#[case("abc", "ab", When::Missing, Some("abc"))]
#[case("abc", "x", When::Always, Some("xabc"))]
#[case("bcd", "abc", When::Changed, Some("abcd"))]
#[case("cM", "Mc", When::Changed, Some("McM"))]
#[tokio::test]
async fn only_a_history_that_fits_is_appended_to(
    #[case] source: &str,
    #[case] destination: &str,
    #[case] when: When,
    #[case] after: Option<&str>,
) {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", source);
    write(&world, DESTINATION, "k", destination);
    write(&world, SOURCE, "other", "xy");
    let run = world
        .run(Transfer {
            when,
            ..all_versions()
        })
        .await;
    assert_eq!(
        there(&world, "k"),
        after.unwrap_or(destination),
        "{:?}",
        run.receipts
    );
    assert_eq!(
        there(&world, "other"),
        "xy",
        "another key has its own history"
    );
    if after.is_none() {
        assert_eq!(run.error(), "diverged");
        assert!(run.receipts.iter().any(|receipt| matches!(&receipt.ending,
            Ending::Failed { error } if error.remedy.contains("when: always"))));
    } else {
        assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    }
}

#[rstest]
#[case(None, "keeps no versions")]
#[case(Some(BucketVersioningStatus::Suspended), "suspended")]
#[tokio::test]
async fn a_destination_that_would_forget_is_refused_before_the_first_write(
    #[case] status: Option<BucketVersioningStatus>,
    #[case] why: &str,
) {
    let world = World::with_buckets(BucketOptions::default()).await;
    write(&world, SOURCE, "k", "a");
    if let Some(status) = status {
        world
            .set_versioning(DESTINATION, BucketVersioningStatus::Enabled)
            .await;
        world.set_versioning(DESTINATION, status).await;
    }
    let Err(failure) = world.try_run_job(&world.job(all_versions())).await else {
        panic!("it ran")
    };
    assert_eq!(*failure.kind(), FailureKind::NoVersions);
    let text = failure.to_string();
    assert!(
        text.contains(why) && text.contains("turn on the bucket's versioning"),
        "{text}"
    );
    assert_eq!(writes(&world), 0);
}

/// Versions from before versioning was enabled, or from while it was suspended, have the ID `null`.
#[tokio::test]
async fn null_versions_are_copied_by_that_name() {
    let world = World::with_buckets(BucketOptions::default()).await;
    write(&world, SOURCE, "old", "a");
    write(&world, SOURCE, "suspended", "a");
    world
        .set_versioning(SOURCE, BucketVersioningStatus::Enabled)
        .await;
    world
        .set_versioning(DESTINATION, BucketVersioningStatus::Enabled)
        .await;
    write(&world, SOURCE, "old", "b");
    write(&world, SOURCE, "suspended", "b");
    world
        .set_versioning(SOURCE, BucketVersioningStatus::Suspended)
        .await;
    write(&world, SOURCE, "suspended", "c");
    let run = world.run(all_versions()).await;
    assert_eq!(
        (there(&world, "old"), there(&world, "suspended")),
        ("ab".to_owned(), "bc".to_owned())
    );
    assert_eq!(
        endings(&run, "old")[0].source_version.as_deref(),
        Some("null")
    );
    assert_eq!(
        endings(&run, "suspended")[1].source_version.as_deref(),
        Some("null")
    );
}

#[tokio::test]
async fn selections_choose_among_versions_and_keys() {
    let world = World::versioned().await;
    write(&world, SOURCE, "in/k", "abMcd");
    write(&world, SOURCE, "out/k", "ab");
    let spec = ObjectSpec::default()
        .last_modified(at(5))
        .metadata("name", "L");
    world.put_with("in/k", 100, &spec);
    let mut transfer = all_versions();
    transfer.select = Selection {
        exclude: vec!["out/**".parse().unwrap()],
        smaller_than: Some(ByteSize(50)),
        modified_after: Some(at(1).try_into().unwrap()),
        ..Selection::default()
    };
    // Times of versions are in whole seconds.
    transfer.select.modified_after = transfer
        .select
        .modified_after
        .map(|time: jiff::Timestamp| jiff::Timestamp::from_second(time.as_second()).unwrap());
    let run = world.run(transfer).await;
    assert_eq!(
        (
            there(&world, "in/k").as_str(),
            there(&world, "out/k").as_str()
        ),
        ("bMcd", "")
    );
    assert_eq!(
        run.outcome.excluded_objects, 4,
        "a and L of one key, both of the other"
    );
}

#[tokio::test]
async fn keys_that_change_their_order_are_found_one_by_one() {
    let world = World::versioned().await;
    for key in ["a", "b", "c"] {
        write(&world, SOURCE, &format!("d/{key}"), "xMy");
    }
    let mut transfer = all_versions();
    transfer.keys.rename = Some("{name}/{dir}{stem}{ext}".parse().unwrap());
    assert_eq!(world.run(transfer.clone()).await.outcome.done_objects, 6);
    assert_eq!(there(&world, "b/d/b"), "xMy");
    let again = world.run(transfer).await;
    assert_eq!(
        (again.outcome.done_objects, again.outcome.skipped_objects),
        (0, 9)
    );
}

#[tokio::test]
async fn one_key_goes_with_its_history_and_without_its_neighbours() {
    let world = World::versioned().await;
    write(&world, SOURCE, "dir/k", "aMb");
    write(&world, SOURCE, "dir/k2", "xy");
    let mut transfer = all_versions();
    transfer.from = one("dir/k", None);
    let run = world.run(transfer.clone()).await;
    assert_eq!(
        (there(&world, "k").as_str(), run.receipts.len()),
        ("aMb", 3),
        "{:?}",
        run.receipts
    );
    transfer.from = one("dir/none", None);
    assert_eq!(world.run(transfer).await.error(), "not-found");
}

/// On an unknown server, neither `ETag`s nor the order of lists prove anything, so s3haul goes key
/// by key.
#[tokio::test]
async fn an_unknown_server_gets_the_same_histories() {
    let mut world = World::versioned().await;
    world.provider = Provider::Other;
    write(&world, SOURCE, "k", "aMb");
    write(&world, SOURCE, "k/2", "xyz");
    assert_eq!(world.run(all_versions()).await.outcome.failed_objects, 0);
    assert_eq!(
        (there(&world, "k"), there(&world, "k/2")),
        ("aMb".to_owned(), "xyz".to_owned())
    );
    let again = world.run(all_versions()).await;
    assert_eq!(
        (again.outcome.done_objects, again.outcome.delete_markers),
        (0, 0),
        "{:?}",
        again.receipts
    );
}

/// An unreadable version holds up the newer ones of its key, because it could not be inserted
/// before them later.
#[tokio::test]
async fn an_archived_version_holds_up_those_behind_it() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "a");
    for (hours, name, class) in [(1, "b", "GLACIER"), (2, "c", "STANDARD")] {
        let spec = ObjectSpec::default()
            .last_modified(at(hours))
            .metadata("name", name)
            .storage_class(class);
        world.put_object(SOURCE, "k", Content::bytes(name), &spec);
    }
    let policy = |archived| Transfer {
        archived,
        ..all_versions()
    };
    let run = world.run(policy(Archived::Fail)).await;
    assert_eq!(
        (there(&world, "k").as_str(), kinds(&run)),
        ("a", vec!["archived"; 2]),
        "{:?}",
        run.receipts
    );
    let run = world.run(policy(Archived::Skip)).await;
    assert_eq!(
        (run.outcome.archived_objects, run.outcome.skipped_objects),
        (2, 1),
        "{:?}",
        run.receipts
    );
    assert!(matches!(
        endings(&run, "k")[2].ending,
        Ending::Skipped {
            reason: Skip::Archived
        }
    ));
    let run = world.run(policy(Archived::Restore)).await;
    assert_eq!(
        (
            run.outcome.restoring_objects,
            world.calls(Operation::RestoreObject)
        ),
        (2, 1)
    );
    world.sandbox.store().finish_restores(SOURCE);
    let run = world.run(policy(Archived::Restore)).await;
    assert_eq!(
        (there(&world, "k").as_str(), run.outcome.failed_objects),
        ("abc", 0),
        "{:?}",
        run.receipts
    );
    // A version that is archived after it was copied is at the destination, so no request is sent
    // for it.
    let run = world.run(policy(Archived::Fail)).await;
    assert_eq!(
        (run.outcome.skipped_objects, run.outcome.failed_objects),
        (3, 0),
        "{:?}",
        run.receipts
    );
}

/// Keys are independent of each other: their histories are written concurrently.
#[tokio::test]
async fn keys_go_side_by_side() {
    let latency = LatencyModel {
        copy: Duration::from_millis(50),
        ..LatencyModel::default()
    };
    let options = SandboxOptions {
        model: Model {
            latency,
            ..Model::default()
        },
        ..SandboxOptions::default()
    };
    let world = World::with(
        options,
        BucketOptions {
            versioning: true,
            ..BucketOptions::default()
        },
    )
    .await;
    for key in 0..60 {
        write(&world, SOURCE, &format!("k{key:03}"), "aMb");
    }
    let run = world.run(all_versions()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.delete_markers),
        (120, 60)
    );
    for key in 0..60 {
        assert_eq!(there(&world, &format!("k{key:03}")), "aMb");
    }
    assert!(
        world.sandbox.calls().max_in_flight() > 10,
        "{}",
        world.sandbox.calls().max_in_flight()
    );
}

#[tokio::test]
async fn a_prefix_of_the_same_bucket_gets_the_history_of_another() {
    let world = World::versioned().await;
    write(&world, SOURCE, "from/k", "aMb");
    let mut transfer = all_versions();
    transfer.from = s3haul::manifest::job::Source::Prefix {
        endpoint: s3haul::manifest::job::DEFAULT_ENDPOINT.to_owned(),
        location: uri("s3://source/from/"),
    };
    transfer.to = crate::world::destination("s3://source/to/");
    world.run(transfer).await;
    assert_eq!(history(&world, SOURCE, "to/k"), "aMb");
}
