//! Runs that end after each single event of their journal, and the sessions that follow.
//!
//! A test that kills processes at random hits moments by chance. Here, the journal itself breaks
//! after event 1, 2, 3 … of a run with all kinds of objects: small and large ones, copies and
//! uploads, and some that fail. Each session has its own runtime, which is dropped like a process
//! that dies, so nothing can clean up. The destination is then in the state that a dead process
//! leaves, and the journal is as old as it can be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use s3haul::execute::{self, Execution, Outcome};
use s3haul::journal::event::{JournalEvent, RunInfo};
use s3haul::journal::fingerprint::Fingerprint;
use s3haul::journal::state::{Phase, RunState, RunTotals};
use s3haul::journal::{
    Intent, Journal, JournalError, LeaseTerms, Ledger, Location, Opened, RunDecision, WriteFault,
    decide,
};
use s3haul::manifest::job::{Job, Transfer};
use s3haul::report::{ReportHeader, ReportWriter};
use s3haul::sandbox::{CallEntry, Content, ObjectSpec, Operation};
use s3haul::size::MIB;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::reports::receipts_in;
use crate::world::{DESTINATION, SOURCE, World, copy_all, destination, in_parts_of, upload_all};

const PART: u64 = 5 * MIB;
const IN_FLIGHT: u32 = 2;
/// Number of parts of the large object, which is copied, and of the file, which is uploaded.
const COPIED_PARTS: u64 = 4;
const SENT_PARTS: u64 = 2;
const OBJECTS: u64 = 6;

/// The server, the job, a journal, and a report. The runtime lives as long as the test.
struct Stage {
    _server: Runtime,
    world: World,
    job: Job,
    directory: TempDir,
}

/// The end of a session.
enum End {
    /// The run ended by itself; the journal had this state.
    Whole(Box<(Outcome, RunState)>),
    /// The journal could not be written.
    Broken(Option<Box<Outcome>>, JournalError),
    /// It was dropped after its journal died.
    Dead,
}

/// The moment at which a session is dropped after its journal broke.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Immediately.
    AtOnce,
    /// When the session cannot continue without the journal: everything that need not wait for it
    /// is done, and not recorded.
    AsLateAsPossible,
}

fn cut(transfer: Transfer, name: &str, to: &str) -> Transfer {
    let transfer = Transfer {
        name: name.to_owned(),
        to: destination(to),
        ..transfer
    };
    in_parts_of(PART, transfer)
}

impl Stage {
    fn new() -> Self {
        let server = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut world = server.block_on(World::new());
        world.ceiling = IN_FLIGHT;
        let store = world.sandbox.store();
        // Sources are older than any copy, so that an unrecorded copy is recognized as equal.
        let written = SystemTime::now() - Duration::from_hours(1);
        for (key, size) in [
            ("a", 100),
            ("b", COPIED_PARTS * PART - 7),
            ("c", 3 * PART),
            ("d", 50),
        ] {
            let spec = ObjectSpec {
                last_modified: Some(written),
                ..ObjectSpec::default()
            };
            let spec = spec
                .content_type("text/x-end")
                .metadata("key", key)
                .tag("t", key);
            store.put_object(SOURCE, key, Content::pattern(size, size), &spec);
        }
        store.deny(DESTINATION, Operation::UploadPartCopy, "copied/c");
        store.deny(DESTINATION, Operation::CopyObject, "copied/d");
        let directory = TempDir::new().unwrap();
        let files = directory.path().join("files");
        fs::create_dir(&files).unwrap();
        // The last part may be small.
        let size = usize::try_from((SENT_PARTS - 1) * PART + 100).unwrap();
        for (name, bytes) in [("large", vec![5; size]), ("small", vec![6; 100])] {
            fs::write(files.join(name), bytes).unwrap();
            fs::File::options()
                .write(true)
                .open(files.join(name))
                .unwrap()
                .set_modified(written)
                .unwrap();
        }
        let mut job = world.job(cut(copy_all(), "copies", "s3://destination/copied/"));
        job.transfers
            .push(cut(upload_all(&files), "files", "s3://destination/sent/"));
        Self {
            _server: server,
            world,
            job,
            directory,
        }
    }

    fn report(&self) -> PathBuf {
        self.directory.path().join("report.jsonl")
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    async fn open(
        &self,
        first: Option<(u64, WriteFault)>,
    ) -> Result<(Journal, Arc<RunState>), JournalError> {
        let opened =
            Opened::open(Location::Directory(self.journal()), &LeaseTerms::default()).await?;
        let fingerprint = Fingerprint::of(&self.job);
        let decision = decide(opened.state(), &fingerprint, Intent::Resume)?;
        let resumed = Arc::new(opened.resumed(decision));
        let opened = match first {
            // `records` counts from the first record of this session.
            Some((records, fault)) => {
                let first = opened.next_record() + records;
                opened.failing_from(first, fault)
            }
            None => opened,
        };
        let origin = ReportHeader {
            report: 2,
            directory: self.directory.path().to_owned(),
            ..ReportHeader::default()
        };
        let journal = match decision {
            RunDecision::Resume => {
                let report = ReportWriter::reopen(&self.report(), &origin).unwrap();
                opened
                    .resume(Some(Box::new(report) as Box<dyn Ledger>))
                    .await?
            }
            RunDecision::Begin => {
                let report = ReportWriter::create(&self.report(), &origin).unwrap();
                let transfers = self
                    .job
                    .transfers
                    .iter()
                    .map(|transfer| transfer.name.clone())
                    .collect();
                let (run, job, tool) = ("run".to_owned(), self.job.name.clone(), "test".to_owned());
                let info = RunInfo {
                    run,
                    job,
                    transfers,
                    fingerprint,
                    tool,
                    counted_from: self.job.counted_from(),
                    command: None,
                };
                opened.begin(info, Some(Box::new(report))).await?
            }
        };
        Ok((journal, resumed))
    }

    async fn run(&self, first: Option<(u64, WriteFault)>) -> End {
        let (journal, resumed) = match self.open(first).await {
            Ok(opened) => opened,
            Err(error) => return End::Broken(None, error),
        };
        let (stop, halt) = (CancellationToken::new(), CancellationToken::new());
        let mut connections = self.world.connections(&self.job, &halt, &self.job.limits);
        let run = execute::run(Execution {
            job: &self.job,
            connections: &mut connections,
            monitor: Arc::new(Silent),
            journal: &journal,
            resumed: &resumed,
            ranges: None,
            stop: &stop,
            halt: &halt,
        });
        let outcome = Box::pin(run).await.unwrap();
        let last = if outcome.is_complete() {
            JournalEvent::RunEnded
        } else {
            JournalEvent::RunStopped
        };
        match journal.close(last).await {
            Ok(closed) => {
                closed.report.unwrap();
                End::Whole(Box::new((outcome, closed.state)))
            }
            Err(error) => End::Broken(Some(Box::new(outcome)), error),
        }
    }

    /// Runs a session on its own runtime. With `dying`, its journal accepts only this many records.
    fn session(&self, dying: Option<(u64, Death)>) -> End {
        let session = Builder::new_current_thread().enable_all().build().unwrap();
        let died = CancellationToken::new();
        let fault = dying.map(|(records, _)| (records, WriteFault::Dead(died.clone())));
        session.block_on(async {
            tokio::select! {
                end = self.run(fault) => end,
                () = self.dead(&died, dying.map(|(_, death)| death)) => End::Dead,
            }
        })
    }

    async fn dead(&self, died: &CancellationToken, death: Option<Death>) {
        died.cancelled().await;
        if death == Some(Death::AsLateAsPossible) {
            let mut quiet = 0;
            let mut calls = self.world.sandbox.calls().total();
            while quiet < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let now = self.world.sandbox.calls().total();
                quiet = if now == calls { quiet + 1 } else { 0 };
                calls = now;
            }
        }
    }

    fn full(&self, records: u64) -> End {
        let session = Builder::new_current_thread().enable_all().build().unwrap();
        session.block_on(self.run(Some((records, WriteFault::Full))))
    }

    /// Runs the same command again, without faults.
    fn finish(&self) -> (Outcome, RunState) {
        match self.session(None) {
            End::Whole(whole) => *whole,
            End::Broken(_, error) => panic!("{error}"),
            End::Dead => panic!("nobody killed it"),
        }
    }

    /// Returns the number of records in the journal.
    fn records(&self) -> u64 {
        let opened = async {
            Opened::open(Location::Directory(self.journal()), &LeaseTerms::default())
                .await
                .unwrap()
                .next_record()
        };
        Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(opened)
    }

    /// Asserts the final state, which does not depend on how it was reached. At most `twice` parts
    /// were sent again.
    fn assert_done(&self, after: &str, state: &RunState, whole: &RunTotals, twice: u64) {
        let (world, store) = (&self.world, self.world.sandbox.store());
        assert_eq!(
            store.keys(DESTINATION),
            ["copied/a", "copied/b", "sent/large", "sent/small"],
            "{after}"
        );
        for key in ["a", "b"] {
            world.assert_equal(key, &format!("copied/{key}"));
        }
        for name in ["large", "small"] {
            let bytes = fs::read(self.directory.path().join("files").join(name)).unwrap();
            let sent = store.object(DESTINATION, &format!("sent/{name}")).unwrap();
            assert!(
                sent.content == Content::bytes(bytes),
                "{after}: other bytes in {name}"
            );
        }
        world.assert_no_upload_is_left();
        assert_eq!(
            (state.phase, state.uploads.len()),
            (Phase::Ended, 0),
            "{after}: {state:?}"
        );
        // The next session finds an unrecorded copy at the destination, and does not count it as
        // copied.
        let over = |totals: &RunTotals| {
            let RunTotals {
                done_objects,
                done_bytes,
                skipped_objects,
                skipped_bytes,
                failures,
                ..
            } = totals;
            (
                done_objects + skipped_objects,
                done_bytes + skipped_bytes,
                failures.clone(),
            )
        };
        assert_eq!(over(&state.totals), over(whole), "{after}");
        let stored = |operation, key: &str| {
            let calls = world.sandbox.calls().of(operation);
            calls
                .iter()
                .filter(|call| call.key.ends_with(key) && call.status == Some(200))
                .count() as u64
        };
        let copied = stored(Operation::UploadPartCopy, "/b");
        assert!(
            copied <= COPIED_PARTS + twice,
            "{after}: {copied} of {COPIED_PARTS} parts copied"
        );
        let sent = stored(Operation::UploadPart, "/large");
        assert!(
            sent <= SENT_PARTS + twice,
            "{after}: {sent} of {SENT_PARTS} parts sent"
        );
        assert_reported(after, &self.report());
    }
}

/// Asserts that the report has each object once.
fn assert_reported(after: &str, report: &Path) {
    let receipts = receipts_in(report).into_iter().map(|line| {
        let text = |field: &str| line[field].as_str().unwrap().to_owned();
        let status = text("status").replace("skipped", "done");
        (
            text("destination")
                .trim_start_matches("s3://destination/")
                .to_owned(),
            status,
        )
    });
    let receipts: Vec<_> = receipts.collect();
    let unique: BTreeMap<_, _> = receipts.iter().cloned().collect();
    assert_eq!(
        receipts.len(),
        unique.len(),
        "{after}: an object is twice in the report"
    );
    let wanted = [
        ("copied/a", "done"),
        ("copied/b", "done"),
        ("copied/c", "failed"),
        ("copied/d", "failed"),
        ("sent/large", "done"),
        ("sent/small", "done"),
    ];
    let wanted: BTreeMap<_, _> = wanted
        .iter()
        .map(|(key, status)| ((*key).to_owned(), (*status).to_owned()))
        .collect();
    assert_eq!(unique, wanted, "{after}");
}

struct Silent;

impl execute::monitor::Monitor for Silent {
    fn observe(&self, _event: &execute::monitor::Event<'_>) {}
}

/// Returns the totals of an undisturbed run and the number of records that it writes.
fn undisturbed() -> (RunTotals, u64) {
    let run = Stage::new();
    let (outcome, state) = run.finish();
    assert_eq!(
        (outcome.done_objects, outcome.failed_objects),
        (4, 2),
        "{outcome:?}"
    );
    run.assert_done("undisturbed", &state, &state.totals, 0);
    let records = run.records();
    assert!(records > 30, "{records}");
    (state.totals, records)
}

#[test]
fn a_run_that_dies_after_any_event_resumes_from_there() {
    let (whole, records) = undisturbed();
    for record in 1..records {
        let run = Stage::new();
        let end = run.session(Some((record, Death::AtOnce)));
        assert!(matches!(end, End::Dead), "record {record} of {records}");
        let (_, state) = run.finish();
        run.assert_done(
            &format!("record {record}"),
            &state,
            &whole,
            IN_FLIGHT.into(),
        );
    }
}

#[test]
fn a_run_that_did_all_it_could_after_its_last_event_resumes_from_there() {
    let (whole, records) = undisturbed();
    for record in 1..records {
        let run = Stage::new();
        let end = run.session(Some((record, Death::AsLateAsPossible)));
        assert!(matches!(end, End::Dead), "record {record} of {records}");
        let (_, state) = run.finish();
        // Nothing was in flight, and the server shows everything that was not recorded, so no part
        // is sent twice.
        run.assert_done(&format!("record {record}"), &state, &whole, 0);
    }
}

#[test]
fn a_run_that_dies_again_and_again_completes() {
    let (whole, _) = undisturbed();
    let seed =
        std::env::var("KILL_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("KILL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..8 {
        let run = Stage::new();
        let mut deaths = 0;
        let state = loop {
            // The first record of a session only says that it resumes the run.
            let records = random.u64(2..8);
            let death = if random.bool() {
                Death::AtOnce
            } else {
                Death::AsLateAsPossible
            };
            match run.session(Some((records, death))) {
                End::Dead => deaths += 1,
                End::Whole(whole) => break whole.1,
                End::Broken(_, error) => panic!("{error}"),
            }
            assert!(deaths < 100, "it does not come to its end");
        };
        assert!(deaths > 3, "{deaths}");
        let after = format!("round {round}, {deaths} deaths");
        run.assert_done(&after, &state, &whole, u64::from(IN_FLIGHT) * deaths);
    }
}

#[test]
fn a_full_disk_ends_a_run_after_any_event_and_loses_nothing() {
    let (whole, records) = undisturbed();
    for record in 1..records {
        let run = Stage::new();
        let (outcome, error) = match run.full(record) {
            End::Broken(outcome, error) => (outcome, error),
            End::Whole(_) | End::Dead => panic!("record {record} of {records}"),
        };
        assert!(
            matches!(error, JournalError::Full { .. }) && error.is_passing(),
            "{error}"
        );
        if let Some(outcome) = outcome {
            let all = outcome.done_objects + outcome.failed_objects == OBJECTS;
            assert!(
                outcome.stopped || all,
                "record {record} of {records}: {outcome:?}"
            );
        }
        let calls = run.world.sandbox.calls().list();
        let aborted = calls
            .iter()
            .filter(|call| call.operation == Operation::AbortMultipartUpload);
        for abort in aborted.filter(|abort| !abort.key.ends_with("/c")) {
            let stored =
                |call: &&CallEntry| call.upload_id == abort.upload_id && call.part_number.is_some();
            assert_eq!(
                calls.iter().find(stored),
                None,
                "record {record}: a part that could be kept"
            );
        }
        let (_, state) = run.finish();
        run.assert_done(
            &format!("record {record}"),
            &state,
            &whole,
            IN_FLIGHT.into(),
        );
    }
}
