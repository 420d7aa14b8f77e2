//! The lease of a journal in S3: renewal, loss, and release.

use std::time::Duration;

use jiff::SignedDuration;
use rstest::rstest;
use s3haul::endpoint::capabilities::Overrides;
use s3haul::journal::event::JournalEvent;
use s3haul::journal::{Journal, JournalError, LeaseTerms, Location, Opened};
use s3haul::manifest::job::Limits;
use s3haul::sandbox::{CallEntry, Content, Effect, Fault, ObjectSpec, Operation, When};
use tokio_util::sync::CancellationToken;

use super::{PREFIX, RANGE, location, planned, run_info};
use crate::world::program::until;
use crate::world::{DEFAULT, DESTINATION, World, copy_all, restate};

/// Returns the terms of a lease that is renewed many times a second.
fn lively(job: &str) -> LeaseTerms {
    LeaseTerms {
        renewal: Duration::from_millis(20),
        ..LeaseTerms::of_job(job)
    }
}

async fn begin(location: Location, terms: &LeaseTerms) -> Journal {
    let opened = Opened::open(location, terms).await.unwrap();
    opened.begin(run_info(), None).await.unwrap()
}

async fn resume(location: Location, terms: &LeaseTerms) -> Journal {
    let opened = Opened::open(location, terms).await.unwrap();
    opened.resume(None).await.unwrap()
}

fn records(world: &World) -> Vec<String> {
    let mut keys = world.keys(DESTINATION);
    keys.retain(|key| key.starts_with(&format!("{PREFIX}session-")));
    keys
}

/// Returns the writes of this record that the server accepted.
fn writes(world: &World, key: &str) -> Vec<CallEntry> {
    let mut calls = world.sandbox.calls().of(Operation::PutObject);
    calls.retain(|call| call.key == key && call.status == Some(200));
    calls
}

fn text(world: &World, key: &str) -> String {
    let object = world.object(DESTINATION, key).unwrap();
    String::from_utf8(object.content.to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_holder_renews_its_record_and_releases_it_at_the_end() {
    let world = World::new().await;
    let journal = begin(location(&world).await, &lively("a")).await;
    let [key] = <[String; 1]>::try_from(records(&world)).unwrap();
    until("four renewals", || writes(&world, &key).len() > 4).await;
    let calls = writes(&world, &key);
    assert_eq!(calls[0].headers["if-none-match"], "*");
    for call in &calls[1..] {
        assert!(call.headers.contains_key("if-match"), "{:?}", call.headers);
    }
    assert!(text(&world, &key).contains(r#""run":"r1""#));
    journal.close(JournalEvent::RunEnded).await.unwrap();
    assert!(text(&world, &key).contains(r#""released":true"#));
    let at_the_end = writes(&world, &key).len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(writes(&world, &key).len(), at_the_end, "nothing is renewed");
}

/// A release that was refused is tried once more, and does not pass for one that succeeded.
#[tokio::test]
async fn a_release_that_failed_is_repeated() {
    let world = World::new().await;
    let journal = begin(location(&world).await, &LeaseTerms::of_job("a")).await;
    let [key] = <[String; 1]>::try_from(records(&world)).unwrap();
    until("the name of the run", || {
        text(&world, &key).contains(r#""run":"r1""#)
    })
    .await;
    let refused = Fault::on(Operation::PutObject).key("session-");
    world.add_fault(refused.first(1).then(Effect::Error(403, "AccessDenied")));
    journal.close(JournalEvent::RunEnded).await.unwrap();
    until("a release", || {
        text(&world, &key).contains(r#""released":true"#)
    })
    .await;
    assert_eq!(world.sandbox.faults().fired(), 1);
}

/// The release is stored, and its answer is lost.
#[tokio::test]
async fn no_renewal_takes_a_release_back() {
    let world = World::new().await;
    let opened = Opened::open(location(&world).await, &lively("a")).await;
    let opened = opened.unwrap();
    let [key] = <[String; 1]>::try_from(records(&world)).unwrap();
    let lost = Fault::on(Operation::PutObject).key("session-");
    let stored = Effect::ErrorAfterEffect(403, "AccessDenied");
    world.add_fault(lost.when(When::Always).then(stored));
    opened.lease().release().await;
    world.sandbox.faults().clear();
    assert!(text(&world, &key).contains(r#""released":true"#));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(text(&world, &key).contains(r#""released":true"#));
    drop(opened);
}

/// The segments shut the session out anyway; the renewal reports it while the session has nothing
/// to write.
#[tokio::test]
async fn an_idle_session_learns_from_its_renewal_that_it_was_replaced() {
    let world = World::new().await;
    let older = begin(location(&world).await, &lively("a")).await;
    let newer = resume(location(&world).await, &lively("a")).await;
    let error = replaced(&older).await;
    assert!(matches!(error, JournalError::Fenced { .. }), "{error}");
    assert_eq!(records(&world).len(), 1, "the older one wrote no record");
    newer.commit(RANGE).await.unwrap();
}

/// Returns a location in S3 at an endpoint that does not honor `If-Match`.
async fn without_if_match(world: &World) -> Location {
    let mut job = world.job(copy_all());
    restate(&mut job, |endpoint| {
        endpoint.capabilities = Overrides {
            if_match: Some(Vec::new()),
            ..Overrides::default()
        };
    });
    let mut connections = world.connections(&job, &CancellationToken::new(), &Limits::default());
    let bucket = connections
        .bucket(DEFAULT, &DESTINATION.parse().unwrap())
        .await
        .unwrap();
    Location::Bucket(bucket, PREFIX.parse().unwrap())
}

#[tokio::test]
async fn without_if_match_an_idle_session_learns_that_it_was_replaced() {
    let world = World::new().await;
    let older = begin(without_if_match(&world).await, &lively("a")).await;
    let [key] = <[String; 1]>::try_from(records(&world)).unwrap();
    until("a renewal", || writes(&world, &key).len() > 2).await;
    let conditional = |call: &CallEntry| call.headers.contains_key("if-match");
    assert!(!writes(&world, &key).iter().any(conditional));
    let newer = resume(without_if_match(&world).await, &lively("a")).await;
    let error = replaced(&older).await;
    assert!(matches!(error, JournalError::Fenced { .. }), "{error}");
    newer.commit(planned(1)).await.unwrap();
    drop(newer);
    let third = resume(without_if_match(&world).await, &lively("a")).await;
    assert_eq!(records(&world).len(), 1);
    third.close(JournalEvent::RunStopped).await.unwrap();
}

/// Returns the error of a session that lost its journal and has nothing to write.
async fn replaced(session: &Journal) -> JournalError {
    let broken = tokio::time::timeout(Duration::from_mins(1), session.broken().cancelled());
    broken.await.expect("it is not told");
    session.error()
}

/// Makes the server ignore headers, although its profile says that it honors them.
fn ignored(world: &World, headers: &'static [&'static str]) {
    world.add_fault(
        Fault::on(Operation::PutObject)
            .when(When::Always)
            .then(Effect::Ignore(headers)),
    );
}

#[tokio::test]
async fn where_if_match_is_ignored_an_idle_session_learns_that_it_was_replaced() {
    let world = World::new().await;
    ignored(&world, &["if-match"]);
    let older = begin(location(&world).await, &lively("a")).await;
    let newer = resume(location(&world).await, &lively("a")).await;
    let error = replaced(&older).await;
    assert!(matches!(error, JournalError::Fenced { .. }), "{error}");
    newer.commit(planned(1)).await.unwrap();
}

#[tokio::test]
async fn if_if_none_match_is_ignored_no_journal_is_begun() {
    let world = World::new().await;
    ignored(&world, &["if-none-match"]);
    let refused = Opened::open(location(&world).await, &lively("a")).await;
    assert!(
        matches!(refused, Err(JournalError::ConditionIgnored { .. })),
        "{refused:?}"
    );
    assert_eq!(records(&world).len(), 0);
}

/// Two Jobs find the journal free. One is slow, and the other is already running when the slow one
/// continues.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_slow_to_begin_takes_nothing_from_the_one_that_was_not() {
    let world = World::new().await;
    let first = begin(location(&world).await, &lively("before")).await;
    first.commit(RANGE).await.unwrap();
    first.close(JournalEvent::RunStopped).await.unwrap();
    let faults = world.sandbox.faults();
    let stall = Effect::StallBefore(Some(Duration::from_secs(5)));
    let record = Fault::on(Operation::PutObject).key("session-");
    let stalled = faults.add(record.first(1).then(stall));
    let place = location(&world).await;
    let slow = tokio::spawn(async move { Opened::open(place, &lively("slow")).await });
    until("the slow one is about to begin", || {
        faults
            .counts(stalled)
            .is_some_and(|counts| counts.struck > 0)
    })
    .await;
    let quick = resume(location(&world).await, &lively("quick")).await;
    quick.commit(planned(1)).await.unwrap();
    let refused = slow.await.unwrap();
    let Err(JournalError::Held { by, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(by.job.as_deref(), Some("quick"));
    quick.commit(planned(2)).await.unwrap();
    assert_eq!(records(&world).len(), 1);
}

/// Makes lists show only these objects, with old times.
fn late_lists(world: &World, keys: &[String]) {
    let entry = |key: &String| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified>\
             <ETag>&quot;0&quot;</ETag><Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    };
    let entries: String = keys.iter().map(entry).collect();
    let list = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult><Name>{DESTINATION}</Name>\
         <Prefix>{PREFIX}s</Prefix><KeyCount>{}</KeyCount><MaxKeys>1000</MaxKeys>\
         <IsTruncated>false</IsTruncated>{entries}</ListBucketResult>",
        keys.len()
    );
    let answer = Effect::Answer(200, "application/xml", list.leak());
    let lists = Fault::on(Operation::ListObjectsV2).when(When::Always);
    world.add_fault(lists.then(answer));
}

#[tokio::test]
async fn a_session_that_only_a_late_list_calls_silent_keeps_the_journal() {
    let world = World::new().await;
    let holder = begin(location(&world).await, &lively("a")).await;
    holder.commit(RANGE).await.unwrap();
    late_lists(&world, &world.keys(DESTINATION));
    let refused = Opened::open(location(&world).await, &lively("b")).await;
    let Err(JournalError::Held { by, silence, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(by.job.as_deref(), Some("a"));
    assert!(silence.is_some_and(|silence| silence < Duration::from_mins(1)));
    holder.commit(planned(1)).await.unwrap();
}

/// A list without the last segments shows the journal as free.
#[tokio::test]
async fn a_late_list_does_not_make_two_holders() {
    let world = World::new().await;
    let first = begin(location(&world).await, &lively("before")).await;
    first.close(JournalEvent::RunStopped).await.unwrap();
    let free = world.keys(DESTINATION);
    let holder = resume(location(&world).await, &lively("a")).await;
    holder.commit(RANGE).await.unwrap();
    late_lists(&world, &free);
    let refused = Opened::open(location(&world).await, &lively("b")).await;
    let Err(JournalError::Fenced { by, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(by.job.as_deref(), Some("a"));
    holder.commit(planned(1)).await.unwrap();
}

/// Somebody deletes everything below the prefix. Whatever would be written next is no journal.
#[tokio::test]
async fn a_session_whose_journal_is_removed_ends() {
    let world = World::new().await;
    let journal = begin(location(&world).await, &lively("a")).await;
    journal.commit(RANGE).await.unwrap();
    let store = world.sandbox.store();
    let mut keys = store.keys(DESTINATION);
    // Deletes the record last, because the session writes it again as long as there is a journal.
    keys.sort_by_key(|key| key.contains("session-"));
    for key in keys {
        store.delete_object(DESTINATION, &key);
    }
    let error = replaced(&journal).await;
    assert!(matches!(error, JournalError::Gone { .. }), "{error}");
    assert!(error.leaves_no_record());
    assert_eq!(store.keys(DESTINATION), Vec::<String>::new());
}

/// A session with something to write does not stop, because its state is in memory.
#[rstest]
#[case::all("")]
#[case::segments("segment-")]
#[case::snapshots("snapshot-")]
#[tokio::test]
async fn a_journal_that_lost_objects_is_complete_again_at_the_end(#[case] part: &str) {
    let world = World::new().await;
    // With these terms, the record is not renewed meanwhile, so the session only notices at its
    // end.
    let journal = begin(location(&world).await, &LeaseTerms::of_job("a")).await;
    journal.commit(RANGE).await.unwrap();
    journal.commit(planned(1)).await.unwrap();
    let store = world.sandbox.store();
    for key in store.keys(DESTINATION) {
        if key.starts_with(&format!("{PREFIX}{part}")) {
            store.delete_object(DESTINATION, &key);
        }
    }
    journal.commit(planned(2)).await.unwrap();
    journal.close(JournalEvent::RunStopped).await.unwrap();
    let opened = Opened::open(location(&world).await, &LeaseTerms::of_job("a")).await;
    assert_eq!(opened.unwrap().state().pending_objects(), 2);
}

/// A session whose record was deleted checks the rest of its journal at its next write.
#[tokio::test]
async fn a_deleted_journal_is_written_again_while_the_run_continues() {
    let world = World::new().await;
    let journal = begin(location(&world).await, &lively("a")).await;
    journal.commit(RANGE).await.unwrap();
    let store = world.sandbox.store();
    for number in 0..200 {
        if number == 5 {
            // Deletes the record last, so that the session has written a segment before it misses
            // the record.
            let (records, rest): (Vec<_>, Vec<_>) = store
                .keys(DESTINATION)
                .into_iter()
                .partition(|key| key.contains("session-"));
            for key in rest {
                store.delete_object(DESTINATION, &key);
            }
            journal.commit(planned(1000)).await.unwrap();
            for key in records {
                store.delete_object(DESTINATION, &key);
            }
        }
        journal.commit(planned(number)).await.unwrap();
        let has_snapshot = |key: &String| key.contains("snapshot-");
        if number > 5 && store.keys(DESTINATION).iter().any(has_snapshot) {
            return;
        }
    }
    panic!("the journal is not written anew");
}

fn segments(world: &World) -> Vec<String> {
    let mut keys = world.keys(DESTINATION);
    keys.retain(|key| key.contains("segment-"));
    keys
}

/// Writes events until a snapshot is due.
async fn until_snapshot(journal: &Journal, is_begun: impl Fn() -> bool) {
    for object in 10..300 {
        if is_begun() {
            return;
        }
        let commit = journal.commit(planned(object));
        // The event behind the snapshot may wait for the snapshot.
        let _ = tokio::time::timeout(Duration::from_secs(1), commit).await;
    }
    panic!("no snapshot is written");
}

/// Its successor has read the segments that the snapshot replaces, and reads them again if its
/// report is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_replaced_while_it_writes_a_snapshot_removes_nothing() {
    let world = World::new().await;
    let older = begin(location(&world).await, &lively("a")).await;
    older.commit(RANGE).await.unwrap();
    let faults = world.sandbox.faults();
    let stall = Effect::StallBefore(Some(Duration::from_secs(5)));
    let snapshot = Fault::on(Operation::PutObject).key("snapshot-");
    let snapshot = faults.add(snapshot.first(1).then(stall));
    let is_struck = || {
        faults
            .counts(snapshot)
            .is_some_and(|counts| counts.struck > 0)
    };
    until_snapshot(&older, is_struck).await;
    let before = segments(&world);
    let newer = resume(location(&world).await, &lively("a")).await;
    let error = replaced(&older).await;
    assert!(matches!(error, JournalError::Fenced { .. }), "{error}");
    let _ = older.close(JournalEvent::RunStopped).await;
    let left = segments(&world);
    assert!(before.iter().all(|key| left.contains(key)), "{left:?}");
    newer.commit(planned(1)).await.unwrap();
}

/// The local clock, which may be wrong by days, does not matter.
#[tokio::test(flavor = "multi_thread")]
async fn fences_are_as_old_as_the_server_says() {
    let world = World::new().await;
    let older = begin(location(&world).await, &LeaseTerms::of_job("a")).await;
    let newer = resume(location(&world).await, &LeaseTerms::of_job("a")).await;
    let fences = segments(&world);
    let days = |days: i64| {
        let skew = Effect::Skew(SignedDuration::from_hours(24 * days));
        world.sandbox.faults().clear();
        world.add_fault(Fault::on_any().when(When::Always).then(skew));
    };
    let snapshots = || {
        let keys = world.keys(DESTINATION);
        keys.into_iter()
            .filter(|key| key.contains("snapshot-"))
            .max()
    };
    days(6);
    until_snapshot(&newer, || snapshots().is_some()).await;
    newer.commit(planned(1)).await.unwrap();
    assert!(fences.iter().any(|key| segments(&world).contains(key)));
    let first = snapshots();
    days(8);
    until_snapshot(&newer, || snapshots() > first).await;
    newer.commit(planned(2)).await.unwrap();
    assert!(!fences.iter().any(|key| segments(&world).contains(key)));
    drop(older);
}

/// The segments decide who writes. A record that was deleted or overwritten is written again.
#[tokio::test]
async fn a_record_that_is_removed_or_damaged_is_written_again() {
    let world = World::new().await;
    let journal = begin(location(&world).await, &lively("a")).await;
    let [key] = <[String; 1]>::try_from(records(&world)).unwrap();
    let store = world.sandbox.store();
    store.delete_object(DESTINATION, &key);
    until("another record", || {
        store.object(DESTINATION, &key).is_some()
    })
    .await;
    let garbage = Content::bytes(b"?".to_vec());
    store.put_object(DESTINATION, &key, garbage, &ObjectSpec::default());
    until("a whole record", || text(&world, &key).starts_with('{')).await;
    assert!(!journal.broken().is_cancelled());
    journal.commit(RANGE).await.unwrap();
}

#[tokio::test]
async fn a_renewal_that_is_refused_for_a_while_does_not_end_the_run() {
    let world = World::new().await;
    let journal = begin(location(&world).await, &lively("a")).await;
    let [key] = <[String; 1]>::try_from(records(&world)).unwrap();
    let refused = || {
        let calls = world.sandbox.calls().of(Operation::PutObject);
        let refused = calls.iter().filter(|call| call.status == Some(403));
        refused.count()
    };
    world.deny(DESTINATION, Operation::PutObject, &key);
    until("three refusals", || refused() > 3).await;
    journal.commit(RANGE).await.unwrap();
    world.sandbox.store().allow_all();
    let before = writes(&world, &key).len();
    until("a renewal", || writes(&world, &key).len() > before).await;
    journal.commit(planned(1)).await.unwrap();
}

#[tokio::test]
async fn a_live_session_keeps_others_out_and_they_leave_no_record() {
    let world = World::new().await;
    let holder = begin(location(&world).await, &lively("a")).await;
    let before = records(&world);
    let refused = Opened::open(location(&world).await, &lively("b")).await;
    let Err(JournalError::Held { by, silence, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(by.job.as_deref(), Some("a"));
    assert!(silence.is_some_and(|silence| silence < Duration::from_mins(1)));
    let refused = Opened::begin_anew(location(&world).await, &lively("b")).await;
    assert!(
        matches!(refused, Err(JournalError::Held { .. })),
        "{refused:?}"
    );
    assert_eq!(records(&world), before);
    holder.commit(RANGE).await.unwrap();
    // A session that has been silent for as long as its successor allows is replaced.
    let hasty = LeaseTerms {
        duration: Duration::ZERO,
        ..LeaseTerms::of_job("b")
    };
    let newer = resume(location(&world).await, &hasty).await;
    newer.commit(planned(1)).await.unwrap();
}

/// Two Jobs begin with an empty prefix at the same moment, and one of them gets the journal.
#[tokio::test]
async fn of_two_jobs_that_begin_at_the_same_moment_one_learns_of_the_other() {
    for _ in 0..5 {
        let world = World::new().await;
        let (a, b) = (lively("a"), lively("b"));
        let (a, b) = tokio::join!(
            Opened::open(location(&world).await, &a),
            Opened::open(location(&world).await, &b)
        );
        let (opened, refused) = match (a, b) {
            (Ok(opened), Err(refused)) | (Err(refused), Ok(opened)) => (opened, refused),
            both => panic!("{both:?}"),
        };
        assert!(matches!(refused, JournalError::Held { .. }), "{refused}");
        let journal = opened.begin(run_info(), None).await.unwrap();
        journal.commit(RANGE).await.unwrap();
        assert_eq!(records(&world).len(), 1);
    }
}
