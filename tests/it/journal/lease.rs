//! The lease of a journal in S3: how it is renewed, lost, and released.

use std::time::Duration;

use s3haul::endpoint::capabilities::Overrides;
use s3haul::journal::event::Event;
use s3haul::journal::{Journal, JournalError, LeaseTerms, Location, Opened};
use s3haul::manifest::job::Limits;
use s3haul::sandbox::{CallEntry, Content, ObjectSpec, Operation};
use tokio_util::sync::CancellationToken;

use super::{PREFIX, RANGE, location, planned, run};
use crate::world::{DEFAULT, DESTINATION, World, copy_all, restate};

/// Terms under which a sign of life is shown many times a second.
fn lively(job: &str) -> LeaseTerms {
    LeaseTerms {
        renewal: Duration::from_millis(20),
        ..LeaseTerms::of_job(job)
    }
}

async fn begin(location: Location, terms: &LeaseTerms) -> Journal {
    let opened = Opened::open(location, terms).await.unwrap();
    opened.begin(run(), None).await.unwrap()
}

async fn resume(location: Location, terms: &LeaseTerms) -> Journal {
    let opened = Opened::open(location, terms).await.unwrap();
    opened.resume(None).await.unwrap()
}

fn records(world: &World) -> Vec<String> {
    let mut keys = world.sandbox.store().keys(DESTINATION);
    keys.retain(|key| key.starts_with(&format!("{PREFIX}session-")));
    keys
}

/// Writes of this record that the server took.
fn writes(world: &World, key: &str) -> Vec<CallEntry> {
    let mut calls = world.sandbox.calls().of(Operation::PutObject);
    calls.retain(|call| call.key == key && call.status == Some(200));
    calls
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waited)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

fn text(world: &World, key: &str) -> String {
    let object = world.sandbox.store().object(DESTINATION, key).unwrap();
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
    journal.close(Event::RunEnded).await.unwrap();
    assert!(text(&world, &key).contains(r#""released":true"#));
    let at_the_end = writes(&world, &key).len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(writes(&world, &key).len(), at_the_end, "nothing is renewed");
}

/// It is shut out by the segments anyway; the renewal tells it while it has nothing to write.
#[tokio::test]
async fn an_idle_session_learns_from_its_renewal_that_it_was_replaced() {
    let world = World::new().await;
    let older = begin(location(&world).await, &lively("a")).await;
    let newer = resume(location(&world).await, &lively("a")).await;
    let broken = tokio::time::timeout(Duration::from_mins(1), older.broken().cancelled());
    broken.await.expect("it is not told");
    let error = older.error();
    assert!(matches!(error, JournalError::Fenced { .. }), "{error}");
    assert_eq!(records(&world).len(), 1, "the older one wrote no record");
    newer.commit(RANGE).await.unwrap();
}

/// A place in S3 at an endpoint that does not honour `If-Match`.
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
async fn without_if_match_the_next_segment_shuts_the_older_session_out() {
    let world = World::new().await;
    let older = begin(without_if_match(&world).await, &lively("a")).await;
    let [key] = <[String; 1]>::try_from(records(&world)).unwrap();
    until("a renewal", || writes(&world, &key).len() > 2).await;
    let conditional = |call: &CallEntry| call.headers.contains_key("if-match");
    assert!(!writes(&world, &key).iter().any(conditional));
    let newer = resume(without_if_match(&world).await, &lively("a")).await;
    let before = writes(&world, &key).len();
    until("renewals in vain", || {
        writes(&world, &key).len() > before + 3
    })
    .await;
    assert!(!older.broken().is_cancelled());
    let error = older.commit(planned(1)).await.unwrap_err();
    assert!(matches!(error, JournalError::Fenced { .. }), "{error}");
    newer.commit(planned(1)).await.unwrap();
    // What the older one left says nothing about the newer one, and goes with the next take-over.
    drop(newer);
    let third = resume(without_if_match(&world).await, &lively("a")).await;
    assert_eq!(records(&world).len(), 1);
    third.close(Event::RunStopped).await.unwrap();
}

/// The segments say who writes; a record that somebody removed or overwrote is written anew.
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
    world
        .sandbox
        .store()
        .deny(DESTINATION, Operation::PutObject, &key);
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
    // One that is silent for as long as its successor allows is replaced.
    let hasty = LeaseTerms {
        duration: Duration::ZERO,
        ..LeaseTerms::of_job("b")
    };
    let newer = resume(location(&world).await, &hasty).await;
    newer.commit(planned(1)).await.unwrap();
}

/// Of two Jobs that begin with an empty prefix at the same moment, one gets the journal.
#[tokio::test]
async fn of_two_jobs_that_begin_at_the_same_moment_one_is_told_of_the_other() {
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
        let journal = opened.begin(run(), None).await.unwrap();
        journal.commit(RANGE).await.unwrap();
        assert_eq!(records(&world).len(), 1);
    }
}
