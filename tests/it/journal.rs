//! The journal in S3: its writers, lost answers, and the size of any journal.

mod lease;

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use s3haul::bucket::Bucket;
use s3haul::journal::event::{
    Ended, JournalEvent, PlannedObject, ReceiptLine, RunInfo, UploadPlace,
};
use s3haul::journal::fingerprint::Fingerprint;
use s3haul::journal::{
    Intent, Journal, JournalError, LeaseTerms, Life, Location, Opened, decide, look,
};
use s3haul::manifest::job::Provider;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::MIB;

use crate::world::{DESTINATION, World};

const PREFIX: &str = "ops/lake/";

async fn location(world: &World) -> Location {
    Location::Bucket(world.bucket(DESTINATION).await, PREFIX.parse().unwrap())
}

fn run_info() -> RunInfo {
    RunInfo {
        run: "r1".into(),
        job: "lake".into(),
        transfers: vec!["all".into()],
        fingerprint: Fingerprint::default(),
        tool: "test".into(),
        counted_from: None,
        command: None,
    }
}

/// Returns the terms under which each session takes over from the one before.
fn terms() -> LeaseTerms {
    LeaseTerms::of_job("nightly")
}

async fn begin(world: &World) -> Journal {
    let opened = Opened::open(location(world).await, &terms()).await.unwrap();
    opened.begin(run_info(), None).await.unwrap()
}

/// Begins a run whose journal is in a directory.
pub(crate) async fn begin_in(directory: &std::path::Path) -> Journal {
    let opened = Opened::open(
        Location::Directory(directory.to_owned()),
        &LeaseTerms::default(),
    )
    .await
    .unwrap();
    opened.begin(run_info(), None).await.unwrap()
}

async fn resume(world: &World) -> Journal {
    let opened = Opened::open(location(world).await, &terms()).await.unwrap();
    assert!(opened.state().is_unfinished());
    opened.resume(None).await.unwrap()
}

const RANGE: JournalEvent = JournalEvent::RangeBegan {
    range: 0,
    transfer: 0,
    ordered: true,
    after: None,
    until: None,
};

pub(crate) fn planned(object: u64) -> JournalEvent {
    let key = format!("k{object:06}").parse().unwrap();
    let entry = PlannedObject {
        key,
        size: 1,
        etag: None,
        version: None,
        modified: None,
        class: None,
    };
    JournalEvent::ObjectPlanned {
        range: 0,
        object,
        entry,
    }
}

fn ended(object: u64) -> JournalEvent {
    let ended = Ended::Done {
        bytes: 1,
        parts: 0,
        proof: "etag".into(),
        reason: None,
        losses: Vec::new(),
        in_place: None,
        settles: None,
    };
    JournalEvent::ObjectEnded {
        range: 0,
        object: Some(object),
        ended,
        receipt: None,
    }
}

fn keys(world: &World) -> Vec<String> {
    let keys = world.keys(DESTINATION).into_iter();
    keys.map(|key| {
        key.strip_prefix(PREFIX)
            .expect("nothing is written beside the prefix")
            .to_owned()
    })
    .collect()
}

async fn pending(world: &World) -> usize {
    look(location(world).await)
        .await
        .unwrap()
        .unwrap()
        .state
        .pending_objects()
}

#[tokio::test]
async fn a_session_resumes_where_the_one_before_was_killed() {
    let world = World::new().await;
    assert!(look(location(&world).await).await.unwrap().is_none());
    let first = begin(&world).await;
    first.append(RANGE).await.unwrap();
    for object in 0..5 {
        first.append(planned(object)).await.unwrap();
    }
    first.commit(ended(3)).await.unwrap();
    let glance = look(location(&world).await).await.unwrap().unwrap();
    assert_eq!(
        (glance.life, glance.state.pending_objects()),
        (Life::Running, 4)
    );
    drop(first);
    let second = resume(&world).await;
    second.commit(ended(0)).await.unwrap();
    let closed = second.close(JournalEvent::RunStopped).await.unwrap();
    assert_eq!(
        (closed.state.pending_objects(), closed.state.resumed),
        (3, 1)
    );
    assert_eq!(
        look(location(&world).await).await.unwrap().unwrap().life,
        Life::Stopped
    );
}

/// The run ends after its content was read, and before its holder is looked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_ends_during_a_look_is_not_dead() {
    let world = World::new().await;
    let journal = begin(&world).await;
    journal.commit(RANGE).await.unwrap();
    let location = location(&world).await;
    let handle = tokio::runtime::Handle::current();
    let (closed, is_closed) = mpsc::channel();
    let ends = Effect::hook(move |_| {
        let (journal, closed) = (journal.clone(), closed.clone());
        handle.spawn(async move { closed.send(journal.close(JournalEvent::RunEnded).await) });
    });
    let is_closed = Mutex::new(is_closed);
    let wait = Effect::hook(move |_| {
        let ended = is_closed.lock().unwrap();
        let ended = tokio::task::block_in_place(|| ended.recv_timeout(Duration::from_secs(30)));
        ended.expect("the run ends").unwrap();
    });
    world.add_fault(Fault::on(Operation::ListObjectsV2).nth(2).then(ends));
    let record = Fault::on(Operation::GetObject).key("session-");
    world.add_fault(record.nth(1).then(wait));
    let glance = look(location).await.unwrap().unwrap();
    assert_eq!(world.sandbox.faults().fired(), 2);
    assert_eq!(glance.life, Life::Ended);
    let lists = world.calls(Operation::ListObjectsV2);
    assert!(lists >= 5, "{lists}: the journal was read once");
}

#[tokio::test]
async fn of_two_writers_exactly_one_survives() {
    let world = World::new().await;
    let older = begin(&world).await;
    older.commit(RANGE).await.unwrap();
    let newer = resume(&world).await;
    let before = keys(&world);
    let shut_out = older.commit(planned(1)).await.unwrap_err();
    let JournalError::Fenced { by, .. } = &shut_out else {
        panic!("{shut_out}")
    };
    assert_eq!(by.pid, std::process::id());
    assert!(
        shut_out
            .to_string()
            .contains("this run ends, and the other one continues"),
        "{shut_out}"
    );
    older.broken().cancelled().await;
    assert!(older.append(planned(2)).await.is_err());
    assert_eq!(keys(&world), before, "the older one wrote nothing any more");
    newer.commit(planned(3)).await.unwrap();
    assert_eq!(pending(&world).await, 1);
}

#[tokio::test]
async fn two_that_begin_at_the_same_moment_do_not_mix() {
    let world = World::new().await;
    let terms = terms();
    let (a, b) = tokio::join!(
        Opened::open(location(&world).await, &terms),
        Opened::open(location(&world).await, &terms)
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    let (a, b) = tokio::join!(a.begin(run_info(), None), b.begin(run_info(), None));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    let journal = a.or(b).unwrap();
    journal.commit(RANGE).await.unwrap();
    journal.commit(planned(1)).await.unwrap();
    assert_eq!(pending(&world).await, 1);
}

#[tokio::test]
async fn one_who_slept_through_the_clean_up_is_still_shut_out() {
    let world = World::new().await;
    let sleeper = begin(&world).await;
    sleeper.commit(RANGE).await.unwrap();
    let newer = resume(&world).await;
    for object in 0..70 {
        newer.commit(planned(object)).await.unwrap();
    }
    let names = keys(&world);
    assert!(
        names.iter().any(|name| name.starts_with("snapshot-")),
        "{names:?}"
    );
    assert!(names.len() < 20, "old segments are removed: {names:?}");
    let woken = sleeper.commit(planned(1000)).await.unwrap_err();
    assert!(matches!(woken, JournalError::Fenced { .. }), "{woken}");
    drop(newer);
    let third = resume(&world).await;
    third.commit(planned(70)).await.unwrap();
    assert_eq!(pending(&world).await, 71);
}

#[tokio::test]
async fn a_lost_answer_is_not_taken_for_another_writer() {
    for effect in [
        Effect::ResetAfter,
        Effect::ErrorAfterEffect(500, "InternalError"),
        Effect::ResetBefore,
        Effect::Error(409, "ConditionalRequestConflict"),
        Effect::SlowDown,
    ] {
        let world = World::new().await;
        for nth in [1, 3, 6] {
            world.add_fault(
                Fault::on(Operation::PutObject)
                    .nth(nth)
                    .then(effect.clone()),
            );
        }
        let journal = begin(&world).await;
        journal.commit(RANGE).await.unwrap();
        for object in 0..5 {
            journal.commit(planned(object)).await.unwrap();
        }
        assert_eq!(world.sandbox.faults().fired(), 3, "{effect:?}");
        assert_eq!(pending(&world).await, 5, "{effect:?}");
    }
}

#[tokio::test]
async fn a_writer_that_continues_meanwhile_is_read_before_it_is_taken_over() {
    let world = World::new().await;
    let older = begin(&world).await;
    older.commit(RANGE).await.unwrap();
    older.commit(planned(1)).await.unwrap();
    let sneaked = older.clone();
    // The older session writes once more after the newer one has read the journal and before it
    // takes over.
    let handle = tokio::runtime::Handle::current();
    let hook = Effect::hook(move |_| {
        let journal = sneaked.clone();
        handle.spawn(async move { journal.commit(planned(2)).await });
    });
    let faults = world.sandbox.faults();
    faults.add(Fault::on(Operation::ListObjectsV2).nth(1).then(hook));
    faults.add(
        Fault::on(Operation::PutObject)
            .nth(2)
            .then(Effect::Delay(std::time::Duration::from_millis(300))),
    );
    let newer = resume(&world).await;
    newer.commit(planned(3)).await.unwrap();
    let seen = pending(&world).await;
    assert!(
        seen == 3 || (seen == 2 && older.commit(planned(4)).await.is_err()),
        "{seen} pending"
    );
}

#[tokio::test]
async fn damage_is_refused_and_a_fresh_run_gets_out_of_it() {
    let world = World::new().await;
    let first = begin(&world).await;
    first.commit(RANGE).await.unwrap();
    let (bucket, key) = (DESTINATION.parse().unwrap(), "k".parse().unwrap());
    let place = UploadPlace {
        endpoint: "default".into(),
        bucket,
        key,
    };
    first
        .commit(JournalEvent::UploadIntended {
            upload: 7,
            object: 6,
            place,
            server: None,
        })
        .await
        .unwrap();
    first.commit(planned(8)).await.unwrap();
    let names = keys(&world);
    let name = format!(
        "{PREFIX}{}",
        names
            .iter()
            .rfind(|name| name.starts_with("segment-"))
            .unwrap()
    );
    world.put_object(
        DESTINATION,
        &name,
        Content::bytes(b"00000000 {}\n".to_vec()),
        &ObjectSpec::default(),
    );
    let refused = Opened::open(location(&world).await, &terms())
        .await
        .unwrap_err();
    assert!(matches!(refused, JournalError::Corrupt { .. }), "{refused}");
    assert!(refused.to_string().contains(&name), "{refused}");
    let (opened, salvage, aside) = Opened::begin_anew(location(&world).await, &terms())
        .await
        .unwrap();
    assert_eq!(
        (salvage.open_uploads(), salvage.bad_lines, aside),
        (1, 1, None)
    );
    assert_eq!(
        opened.state().pending_objects(),
        0,
        "the fresh run takes over only uploads"
    );
    // The writer of the old journal is shut out, as by any other session.
    let shut_out = first.commit(planned(9)).await.unwrap_err();
    assert!(
        matches!(shut_out, JournalError::Fenced { .. }),
        "{shut_out}"
    );
    let second = opened.begin(run_info(), None).await.unwrap();
    second.commit(RANGE).await.unwrap();
    assert!(second.next_id() > 7, "a number never comes back");
    drop(second);
    let third = resume(&world).await;
    let closed = third.close(JournalEvent::RunStopped).await.unwrap();
    assert_eq!(closed.state.uploads.keys().collect::<Vec<_>>(), [&7]);
}

#[tokio::test]
async fn an_endpoint_without_conditional_writes_is_refused_with_the_reason() {
    let world = World::of_provider(Provider::Other).await;
    let refused = Opened::open(location(&world).await, &terms())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, JournalError::Unconditional { .. }),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .contains("s3://destination/ops/lake/: a journal in S3 needs"),
        "{refused}"
    );
    assert_eq!(world.calls(Operation::PutObject), 0);
}

#[tokio::test]
async fn a_run_that_is_over_makes_room_for_the_next() {
    let world = World::new().await;
    for round in 0..3 {
        let opened = Opened::open(location(&world).await, &terms())
            .await
            .unwrap();
        assert!(!opened.state().is_unfinished(), "round {round}");
        let fingerprint = Fingerprint::default();
        decide(opened.state(), &fingerprint, Intent::Resume).unwrap();
        let journal = opened.begin(run_info(), None).await.unwrap();
        journal.append(RANGE).await.unwrap();
        journal.commit(planned(round)).await.unwrap();
        journal.commit(ended(round)).await.unwrap();
        journal.close(JournalEvent::RunEnded).await.unwrap();
    }
    let glance = look(location(&world).await).await.unwrap().unwrap();
    assert_eq!(
        (glance.life, glance.state.totals.done_objects),
        (Life::Ended, 1)
    );
}

#[tokio::test]
async fn an_outage_longer_than_patience_ends_the_run_and_not_the_journal() {
    let mut world = World::new().await;
    let journal = begin(&world).await;
    journal.commit(RANGE).await.unwrap();
    world.retry.attempts = 2;
    let bucket: Bucket = world.bucket(DESTINATION).await;
    drop(bucket);
    world.deny(DESTINATION, Operation::PutObject, PREFIX);
    let failed = journal.commit(planned(1)).await.unwrap_err();
    assert!(matches!(failed, JournalError::Store { .. }), "{failed}");
    world.sandbox.store().allow_all();
    let next = resume(&world).await;
    next.commit(planned(2)).await.unwrap();
    assert_eq!(pending(&world).await, 1);
}

/// Returns the number of bytes of all files in a directory.
fn bytes_in(directory: &std::path::Path) -> u64 {
    let files = std::fs::read_dir(directory).unwrap();
    // A file may be removed during the loop; it does not count.
    files
        .filter_map(|file| file.ok()?.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// Snapshots replace events of finished objects, so the size of a journal depends on the work in
/// flight, not on the work done. What holds for these objects holds for ten million.
#[tokio::test]
async fn a_journal_does_not_grow_with_the_objects() {
    const WINDOW: u64 = 4096;
    const OBJECTS: u64 = 20 * WINDOW;
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::open(
        Location::Directory(directory.path().to_owned()),
        &LeaseTerms::default(),
    )
    .await
    .unwrap();
    let journal = opened.begin(run_info(), None).await.unwrap();
    journal.append(RANGE).await.unwrap();
    let (mut peaks, mut written) = ([0; 2], 0);
    for object in 0..OBJECTS {
        let planned = planned(object);
        written += serde_json::to_string(&planned).unwrap().len() as u64;
        journal.append(planned).await.unwrap();
        if object >= WINDOW {
            let receipt = Some(ReceiptLine::of(&"r".repeat(400)).unwrap());
            let JournalEvent::ObjectEnded {
                range,
                object,
                ended,
                ..
            } = ended(object - WINDOW)
            else {
                unreachable!()
            };
            written += 400;
            journal
                .append(JournalEvent::ObjectEnded {
                    range,
                    object,
                    ended,
                    receipt,
                })
                .await
                .unwrap();
        }
        if object % 1024 == 0 {
            let half = usize::from(object > OBJECTS / 2);
            peaks[half] = bytes_in(directory.path()).max(peaks[half]);
        }
    }
    let closed = journal.close(JournalEvent::RunStopped).await.unwrap();
    assert_eq!(
        (
            closed.state.pending_objects() as u64,
            closed.state.totals.done_objects
        ),
        (WINDOW, OBJECTS - WINDOW)
    );
    let [first, second] = peaks;
    assert!(
        written > 2 * second,
        "{written} bytes of events are too few for {peaks:?}"
    );
    assert!(second <= first + first / 4, "it grows: {peaks:?}");
    assert!(second < 20 * MIB, "{peaks:?}");
    // The events that a session reads before its first request.
    let again = Opened::open(
        Location::Directory(directory.path().to_owned()),
        &LeaseTerms::default(),
    )
    .await
    .unwrap();
    assert_eq!(again.state().pending_objects() as u64, WINDOW);
}
