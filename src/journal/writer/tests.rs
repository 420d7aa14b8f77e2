//! Tests the writer with a store in memory: when events are durable, and full disks.

use std::sync::Mutex;

use tokio::time::sleep;

use super::super::event::{Passed, ReceiptLine};
use super::super::segment::read_segment;
use super::super::tests::{at, ended, info, planned, range, writer};
use super::*;
use crate::journal::segment::Header;
use crate::journal::store::Visit;

#[derive(Default)]
struct Disk {
    lines: Vec<u8>,
    /// The number of the first record in `lines`.
    base: u64,
    durable: usize,
    writes: u32,
    syncs: u32,
    snapshots: Vec<(u64, u64)>,
    /// The number of times that the events were read again.
    tails: u32,
    /// The number of bytes that still fit.
    room: Option<usize>,
    snapshot_after: Option<usize>,
    /// Canceled once another session has taken over the journal.
    lost: CancellationToken,
}

impl Disk {
    fn events(&self) -> Vec<JournalEvent> {
        let mut bytes = Header::new(1, self.base, &writer("w"), at(0)).line();
        bytes.extend_from_slice(&self.lines);
        let mut events = Vec::new();
        read_segment("disk", 1, &bytes, false, self.base, |_, event| {
            events.push(event);
        })
        .unwrap();
        events
    }
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Disk>>);

impl Store for Memory {
    fn gather(&self) -> (Duration, Duration) {
        (Duration::ZERO, Duration::ZERO)
    }

    async fn write(&mut self, _next: u64, lines: Vec<u8>) -> Result<(), JournalError> {
        // A disk is slow, so more events gather meanwhile.
        sleep(Duration::from_millis(5)).await;
        let mut disk = self.0.lock().unwrap();
        if disk.room.is_some_and(|room| room < lines.len()) {
            return Err(JournalError::Full {
                place: "disk".into(),
            });
        }
        disk.lines.extend_from_slice(&lines);
        disk.writes += 1;
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), JournalError> {
        sleep(Duration::from_millis(5)).await;
        let mut disk = self.0.lock().unwrap();
        (disk.durable, disk.syncs) = (disk.lines.len(), disk.syncs + 1);
        Ok(())
    }

    async fn lost(&self) -> JournalError {
        let lost = self.0.lock().unwrap().lost.clone();
        lost.cancelled().await;
        JournalError::Closed
    }

    fn wants_snapshot(&self) -> bool {
        let disk = self.0.lock().unwrap();
        disk.snapshot_after
            .is_some_and(|length| disk.lines.len() >= length)
    }

    async fn snapshot(
        &mut self,
        next: u64,
        report: u64,
        _state: &RunState,
    ) -> Result<(), JournalError> {
        let mut disk = self.0.lock().unwrap();
        disk.snapshots.push((next, report));
        (disk.base, disk.durable) = (next, 0);
        disk.lines.clear();
        Ok(())
    }

    async fn tail(&mut self, visit: Visit<'_>) -> Result<(), JournalError> {
        let events = {
            let mut disk = self.0.lock().unwrap();
            disk.tails += 1;
            disk.events()
        };
        for event in events {
            visit.room().await;
            visit.event(event);
        }
        Ok(())
    }
}

/// A report on a disk that can be full.
#[derive(Default)]
struct Paper {
    text: String,
    full: bool,
    failed: bool,
    has_bug: bool,
    /// The number of receipts that still fit; `None` for no limit.
    room: Option<usize>,
}

#[derive(Clone, Default)]
struct Report(Arc<Mutex<Paper>>);

impl Ledger for Report {
    fn rewind(&mut self, length: u64) -> io::Result<u64> {
        let mut paper = self.0.lock().unwrap();
        let length = paper.text.len().min(usize::try_from(length).unwrap());
        paper.text.truncate(length);
        paper.failed = false;
        Ok(length as u64)
    }

    fn add_gap(&mut self) {
        self.add("gap");
    }

    fn add(&mut self, receipt: &str) {
        let mut paper = self.0.lock().unwrap();
        if let Some(room) = &mut paper.room {
            *room = room.checked_sub(1).expect("nobody waited for room");
        }
        paper.failed |= paper.full;
        if !paper.failed {
            paper.text.push_str(receipt);
            paper.text.push('\n');
        }
    }

    fn sync(&mut self) -> io::Result<u64> {
        let has_bug = self.0.lock().unwrap().has_bug;
        assert!(!has_bug, "a bug");
        let paper = self.0.lock().unwrap();
        if paper.failed {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        } else {
            Ok(paper.text.len() as u64)
        }
    }

    fn room(&self) -> BoxFuture<'static, ()> {
        let paper = Arc::clone(&self.0);
        let room = async move {
            while paper.lock().unwrap().room == Some(0) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        room.boxed()
    }
}

impl Report {
    fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap()
            .text
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

fn begin(store: &Memory, ledger: Option<Report>) -> Journal {
    let ledger = ledger.map(|ledger| Box::new(ledger) as Box<dyn Ledger>);
    let start = Start {
        state: RunState::default(),
        next: 0,
        report: 0,
        ledger,
    };
    let (task, journal) = WriterTask::new(store.clone(), start);
    tokio::spawn(task.run());
    journal
}

fn receipt(object: u64) -> String {
    format!(r#"{{"object":{object}}}"#)
}

#[tokio::test(start_paused = true)]
async fn one_sync_serves_all_who_wait() {
    let store = Memory::default();
    let journal = begin(&store, None);
    journal.commit(range()).await.unwrap();
    let commits = (1..=100).map(|object| journal.commit(planned(object, &format!("{object:03}"))));
    for outcome in futures::future::join_all(commits).await {
        outcome.unwrap();
    }
    let disk = store.0.lock().unwrap();
    assert_eq!(disk.events().len(), 101);
    assert_eq!(disk.durable, disk.lines.len());
    assert!(disk.syncs <= 4, "{} syncs for 101 commits", disk.syncs);
}

#[tokio::test(start_paused = true)]
async fn an_event_without_a_waiting_caller_is_written_at_once_and_durable_soon() {
    let store = Memory::default();
    let journal = begin(&store, None);
    journal.append(range()).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    {
        let disk = store.0.lock().unwrap();
        assert_eq!(
            (disk.events().len(), disk.syncs),
            (1, 0),
            "a killed process loses nothing"
        );
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!(store.0.lock().unwrap().syncs, 1);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(
        store.0.lock().unwrap().syncs,
        1,
        "nothing new, nothing to sync"
    );
}

/// New events arrive during each write.
#[tokio::test(start_paused = true)]
async fn under_steady_load_events_become_durable_and_a_lost_journal_is_noticed() {
    let store = Memory::default();
    let journal = begin(&store, None);
    let sender = journal.clone();
    let load = tokio::spawn(async move {
        for object in 0.. {
            if sender.append(planned(object, "k")).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    });
    sleep(Duration::from_secs(5)).await;
    let syncs = store.0.lock().unwrap().syncs;
    assert!((3..=6).contains(&syncs), "{syncs} syncs in 5 s");
    store.0.lock().unwrap().lost.cancel();
    tokio::time::timeout(Duration::from_secs(1), journal.broken().cancelled())
        .await
        .expect("the run goes on without its journal");
    load.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_report_whose_code_panics_is_not_complete() {
    let (store, report) = (Memory::default(), Report::default());
    store.0.lock().unwrap().snapshot_after = Some(300);
    let journal = begin(&store, Some(report.clone()));
    report.0.lock().unwrap().has_bug = true;
    journal.commit(range()).await.unwrap();
    for object in 0..10 {
        journal.commit(ended(object)).await.unwrap();
    }
    let closed = journal.close(JournalEvent::RunEnded).await.unwrap();
    assert!(closed.report.unwrap_err().contains("bug in s3haul"));
    assert!(closed.state.is_unfinished());
    assert_eq!(store.0.lock().unwrap().snapshots, []);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_ends_the_run_before_its_next_effect() {
    let store = Memory::default();
    let journal = begin(&store, None);
    journal.commit(range()).await.unwrap();
    store.0.lock().unwrap().room = Some(0);
    let refused = journal.commit(planned(1, "a")).await.unwrap_err();
    assert_eq!(
        refused,
        JournalError::Full {
            place: "disk".into()
        }
    );
    assert!(
        refused
            .to_string()
            .contains("free some and run the same command again"),
        "{refused}"
    );
    journal.broken().cancelled().await;
    assert_eq!(journal.append(planned(2, "b")).await, Err(refused.clone()));
    assert_eq!(
        journal
            .clone()
            .close(JournalEvent::RunStopped)
            .await
            .unwrap_err(),
        refused
    );
    assert_eq!(store.0.lock().unwrap().events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn receipts_are_in_the_report_before_a_snapshot_forgets_them() {
    let (store, report) = (Memory::default(), Report::default());
    store.0.lock().unwrap().snapshot_after = Some(600);
    let journal = begin(&store, Some(report.clone()));
    journal.commit(range()).await.unwrap();
    for object in 0..50 {
        journal
            .append(planned(object, &format!("{object:03}")))
            .await
            .unwrap();
        journal.commit(ended(object)).await.unwrap();
    }
    let receipts = vec![ReceiptLine::of(&"s").unwrap(); 3];
    journal
        .append(JournalEvent::KeysPassed(Passed {
            receipts,
            ..Passed::default()
        }))
        .await
        .unwrap();
    let closed = journal.close(JournalEvent::RunEnded).await.unwrap();
    assert_eq!(
        (closed.report, closed.state.totals.done_objects),
        (Ok(()), 50)
    );
    let expected: Vec<_> = (0..50)
        .map(receipt)
        .chain((0..3).map(|_| "\"s\"".to_owned()))
        .collect();
    assert_eq!(report.lines(), expected);
    let disk = store.0.lock().unwrap();
    assert!(disk.snapshots.len() > 5);
    for (next, length) in &disk.snapshots {
        // Every second record is a receipt.
        let receipts = (*next - 1) / 2;
        let lines: usize = (0..receipts).map(|object| receipt(object).len() + 1).sum();
        assert_eq!(*length, lines as u64, "the snapshot before record {next}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_report_holds_up_snapshots_and_loses_nothing() {
    let (store, report) = (Memory::default(), Report::default());
    store.0.lock().unwrap().snapshot_after = Some(600);
    let journal = begin(&store, Some(report.clone()));
    journal.commit(range()).await.unwrap();
    let tell = async |objects: std::ops::Range<u64>| {
        for object in objects {
            journal
                .append(planned(object, &format!("{object:03}")))
                .await
                .unwrap();
            journal.commit(ended(object)).await.unwrap();
        }
    };
    tell(0..20).await;
    // The writer now takes the snapshot that the last event made due.
    sleep(Duration::from_millis(100)).await;
    report.0.lock().unwrap().full = true;
    let snapshots = store.0.lock().unwrap().snapshots.len();
    tell(20..60).await;
    assert_eq!(
        store.0.lock().unwrap().snapshots.len(),
        snapshots,
        "no receipt is forgotten"
    );
    assert_eq!(
        store.0.lock().unwrap().tails,
        1,
        "the journal is not read again for each batch"
    );
    sleep(REPORT_AGAIN.0).await;
    tell(60..80).await;
    assert_eq!(store.0.lock().unwrap().tails, 2);
    report.0.lock().unwrap().full = false;
    sleep(REPORT_AGAIN.0).await;
    tell(80..82).await;
    sleep(Duration::from_millis(100)).await;
    assert!(
        store.0.lock().unwrap().snapshots.len() > snapshots,
        "the report has caught up"
    );
    assert_eq!(report.lines(), (0..82).map(receipt).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_report_lacks_receipts_is_not_over() {
    let (store, report) = (Memory::default(), Report::default());
    let journal = begin(&store, Some(report.clone()));
    journal.commit(range()).await.unwrap();
    report.0.lock().unwrap().full = true;
    journal.commit(ended(1)).await.unwrap();
    let closed = journal.close(JournalEvent::RunEnded).await.unwrap();
    assert!(closed.report.is_err() && closed.state.is_unfinished());
    // The next session has room on the disk, and completes the report from the journal.
    report.0.lock().unwrap().full = false;
    let (state, next) = (closed.state, 3);
    let start = Start {
        state,
        next,
        report: 0,
        ledger: Some(Box::new(report.clone())),
    };
    let (mut task, journal) = WriterTask::new(store.clone(), start);
    task.recover().await.unwrap();
    assert_eq!(report.lines(), [receipt(1)]);
    tokio::spawn(task.run());
    let closed = journal.close(JournalEvent::RunEnded).await.unwrap();
    assert!(closed.report.is_ok() && !closed.state.is_unfinished());
}

/// Receipts that a report in S3 has not written yet are in memory.
#[tokio::test(start_paused = true)]
async fn receipts_are_added_again_no_faster_than_the_report_takes_them() {
    let (store, report, _journal) = twelve_ended().await;
    store.0.lock().unwrap().snapshot_after = None;
    let (next, length) = *store.0.lock().unwrap().snapshots.last().unwrap();
    report.0.lock().unwrap().room = Some(1);
    let start = Start {
        state: RunState::default(),
        next,
        report: length,
        ledger: Some(Box::new(report.clone())),
    };
    let (mut task, _journal) = WriterTask::new(store, start);
    let making_room = tokio::spawn({
        let report = report.clone();
        async move {
            loop {
                sleep(Duration::from_millis(10)).await;
                report.0.lock().unwrap().room = Some(1);
            }
        }
    });
    task.recover().await.unwrap();
    making_room.abort();
    assert_eq!(report.lines(), (0..12).map(receipt).collect::<Vec<_>>());
}

/// Returns a session in which twelve objects ended, some of them before the last snapshot.
async fn twelve_ended() -> (Memory, Report, Journal) {
    let (store, report) = (Memory::default(), Report::default());
    store.0.lock().unwrap().snapshot_after = Some(900);
    let journal = begin(&store, Some(report.clone()));
    journal.commit(range()).await.unwrap();
    for object in 0..12 {
        journal.commit(ended(object)).await.unwrap();
    }
    (store, report, journal)
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_report_has_each_receipt_once() {
    let (store, report, _journal) = twelve_ended().await;
    let (next, length) = *store.0.lock().unwrap().snapshots.last().unwrap();
    // The report may have all, some, or none of the receipts after the snapshot.
    let whole = report.0.lock().unwrap().text.clone();
    let length_then = usize::try_from(length).unwrap();
    assert!(
        length_then + 5 < whole.len(),
        "receipts came after the snapshot"
    );
    for cut in [length_then, length_then + 5, whole.len()] {
        let text = whole[..cut].to_owned();
        let other = Report(Arc::new(Mutex::new(Paper {
            text,
            ..Paper::default()
        })));
        let ledger: Option<Box<dyn Ledger>> = Some(Box::new(other.clone()));
        let start = Start {
            state: RunState::default(),
            next,
            report: length,
            ledger,
        };
        let (mut task, _journal) = WriterTask::new(store.clone(), start);
        task.recover().await.unwrap();
        assert_eq!(other.lines(), (0..12).map(receipt).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_that_fails_after_a_recovery_has_each_receipt_once() {
    for lost in [false, true] {
        let (store, report, journal) = twelve_ended().await;
        drop(journal);
        let (first, next, length) = {
            let mut disk = store.0.lock().unwrap();
            disk.snapshot_after = None;
            let (base, length) = *disk.snapshots.last().unwrap();
            (base - 1, base + disk.events().len() as u64, length)
        };
        assert!(first < 12, "receipts came after the snapshot");
        if lost {
            report.0.lock().unwrap().text.clear();
        }
        let ledger: Option<Box<dyn Ledger>> = Some(Box::new(report.clone()));
        let start = Start {
            state: RunState::default(),
            next,
            report: length,
            ledger,
        };
        let (mut task, journal) = WriterTask::new(store.clone(), start);
        task.recover().await.unwrap();
        tokio::spawn(task.run());
        // No snapshot was taken since. The disk fills up, and then has room again.
        report.0.lock().unwrap().full = true;
        journal.commit(ended(12)).await.unwrap();
        report.0.lock().unwrap().full = false;
        assert_eq!(
            journal.close(JournalEvent::RunEnded).await.unwrap().report,
            Ok(())
        );
        let first = if lost { first } else { 0 };
        assert_eq!(
            report.lines(),
            (first..13).map(receipt).collect::<Vec<_>>(),
            "lost: {lost}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_begins_with_its_run_and_may_have_been_lost() {
    let (store, report) = (Memory::default(), Report::default());
    let journal = begin(&store, Some(report.clone()));
    journal.commit(ended(1)).await.unwrap();
    journal
        .commit(JournalEvent::RunBegan(info()))
        .await
        .unwrap();
    journal.commit(ended(2)).await.unwrap();
    // A pod's disk is lost with its pod: none of 1,000 bytes remain.
    report.0.lock().unwrap().text.clear();
    let ledger: Option<Box<dyn Ledger>> = Some(Box::new(report.clone()));
    let start = Start {
        state: RunState::default(),
        next: 3,
        report: 1000,
        ledger,
    };
    let (mut task, _journal) = WriterTask::new(store, start);
    task.recover().await.unwrap();
    assert_eq!(report.lines(), [receipt(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_is_off_still_fills_the_report() {
    let report = Report::default();
    let journal = super::super::off(Some(Box::new(report.clone())));
    assert!(!journal.keeps());
    assert_eq!((journal.next_id(), journal.next_id()), (0, 1));
    journal.commit(ended(1)).await.unwrap();
    report.0.lock().unwrap().full = true;
    journal.commit(ended(2)).await.unwrap();
    let closed = journal.close(JournalEvent::RunEnded).await.unwrap();
    assert!(
        closed.report.is_err(),
        "nothing can be replayed: {:?}",
        closed.report
    );
    assert_eq!(report.lines(), [receipt(1)]);
}
