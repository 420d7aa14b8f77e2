//! Measures the code that runs once per object or part without waiting for anything, and the size
//! of a journal. Run it with `cargo bench`. `benches/versus` compares s3haul with other clients.
//!
//! `OBJECTS=10000000 cargo bench --bench pure -- journal` writes the journal of ten million
//! objects, which takes minutes. It prints the size and measures how long reading takes.

#![expect(clippy::unwrap_used, reason = "fixed inputs")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use s3haul::checksum;
use s3haul::journal::event::{Ended, JournalEvent, PlannedObject, RunInfo};
use s3haul::journal::fingerprint::Fingerprint;
use s3haul::journal::state::RunState;
use s3haul::journal::{LeaseTerms, Location, Opened, look};
use s3haul::listing::bisect::{KeyRange, Ranges};
use s3haul::listing::filter::Filter;
use s3haul::listing::join::Counterparts;
use s3haul::listing::reach::{Behind, Reach};
use s3haul::listing::{Entry, Listing, ListingItem};
use s3haul::location::{BucketName, ObjectKey, copy_source};
use s3haul::manifest::job::{Compare, PartGoal, Selection, When};
use s3haul::pace::rate::RateController;
use s3haul::pace::speed::Speed;
use s3haul::plan::decide::{Side, decide};
use s3haul::plan::parts::{Capacity, Goal, layout};
use s3haul::s3::capabilities::PartLimits;
use s3haul::s3::{ArchiveState, ChecksumAlgorithm};
use s3haul::size::{MIB, TIB};

/// Number of objects that a run plans ahead.
const WINDOW: u64 = 4096;

fn planned(object: u64) -> JournalEvent {
    let key = ObjectKey::new(&format!("year=2026/month=11/part-{object:012}.parquet")).unwrap();
    let etag = Some("0123456789abcdef0123456789abcdef".to_owned());
    let entry = PlannedObject {
        key,
        size: 1,
        etag,
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

fn pure(criterion: &mut Criterion) {
    let capacity = Capacity {
        in_flight: 2048,
        speed: Speed::TYPICAL,
    };
    let goal = Goal::Copy {
        aim: PartGoal::Fastest,
        capacity,
    };
    criterion.bench_function("layout of 5 TiB, all parts", |bench| {
        bench.iter(|| {
            let layout = layout(black_box(5 * TIB), &PartLimits::S3, goal).unwrap();
            layout.parts().map(|part| part.offset).sum::<u64>()
        });
    });
    criterion.bench_function("decide", |bench| {
        let side = Side {
            size: 10,
            etag: Some("0123456789abcdef0123456789abcdef"),
            modified: None,
            is_file: false,
        };
        bench.iter(|| {
            decide(
                When::Changed,
                Compare::Auto,
                black_box(side),
                Some(black_box(side)),
            )
        });
    });
    criterion.bench_function("filter with two globs", |bench| {
        let select = Selection {
            include: vec!["**/*.parquet".parse().unwrap()],
            exclude: vec!["tmp/**".parse().unwrap()],
            ..Selection::default()
        };
        let filter = Filter::new(&select);
        bench.iter(|| {
            filter
                .admits(
                    black_box("year=2026/month=11/part-00017.parquet"),
                    10,
                    None,
                    None,
                )
                .is_ok()
        });
    });
    criterion.bench_function("a listed object beside its counterpart", |bench| {
        let page = || -> Vec<ListingItem> {
            let key = |index| {
                ObjectKey::new(&format!("year=2026/month=11/part-{index:012}.parquet")).unwrap()
            };
            let entry = |index| Entry {
                key: key(index),
                relative_at: 0,
                size: 1,
                etag: Some("0123456789abcdef0123456789abcdef".to_owned()),
                version: None,
                modified: None,
                storage_class: None,
                archive: ArchiveState::Readable,
            };
            (0..10_000)
                .map(|index| ListingItem::Entry(entry(index)))
                .collect()
        };
        let keys: Vec<_> = page()
            .into_iter()
            .filter_map(|found| {
                if let ListingItem::Entry(entry) = found {
                    Some(entry.key)
                } else {
                    None
                }
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut left: Vec<Counterparts> = Vec::new();
        let mut at = keys.len();
        bench.iter(|| {
            if at == keys.len() {
                left = vec![Counterparts::of(Listing::of(page()))];
                at = 0;
            }
            let found = runtime
                .block_on(left[0].find(black_box(keys[at].as_str())))
                .unwrap()
                .is_some();
            at += 1;
            found
        });
    });
    criterion.bench_function("a page of a range, with a cut", |bench| {
        let keys: Vec<_> = (0..1000_u32)
            .map(|index| format!("{:08x}", index * 1000))
            .collect();
        let names: Vec<_> = keys.iter().map(String::as_str).collect();
        let whole = [KeyRange::default()];
        bench.iter(|| {
            let mut ranges =
                Ranges::new(Reach::below(&ObjectKey::empty()), &whole, 32, 1, u32::MAX);
            ranges.page(
                0,
                black_box(&names),
                Behind {
                    more: true,
                    prefix: 0,
                },
            );
            ranges.page(
                0,
                black_box(&names),
                Behind {
                    more: true,
                    prefix: 0,
                },
            );
            ranges.cut()
        });
    });
    criterion.bench_function("copy source", |bench| {
        let (bucket, key) = (
            BucketName::new("lake").unwrap(),
            ObjectKey::new("dir/ümlaut + space.bin").unwrap(),
        );
        bench.iter(|| copy_source(black_box(&bucket), black_box(&key), Some("v1")));
    });
    criterion.bench_function(
        "an object through a run's state, in a window of 4,096",
        |bench| {
            let mut state = RunState::default();
            state.apply(
                Timestamp::UNIX_EPOCH,
                &JournalEvent::RangeBegan {
                    range: 0,
                    transfer: 0,
                    ordered: true,
                    after: None,
                    until: None,
                },
            );
            let mut object = 0;
            bench.iter(|| {
                state.apply(Timestamp::UNIX_EPOCH, black_box(&planned(object)));
                if object >= WINDOW {
                    state.apply(Timestamp::UNIX_EPOCH, black_box(&ended(object - WINDOW)));
                }
                object += 1;
            });
        },
    );
    criterion.bench_function("a request through the rate of its lane", |bench| {
        let (mut controller, mut now) = (RateController::new(3500.0), Duration::ZERO);
        bench.iter(|| {
            now += Duration::from_micros(250);
            controller.sent(black_box(now));
            controller.rate(black_box(now))
        });
    });
    criterion.bench_function("crc64nvme of 16 MiB", |bench| {
        let bytes = vec![7; 16 * usize::try_from(MIB).unwrap()];
        bench.iter(|| checksum::compute(ChecksumAlgorithm::Crc64Nvme, black_box(&bytes)));
    });
}

fn pacing(criterion: &mut Criterion) {
    use s3haul::pace::slots::{SlotKind, Slots};

    criterion.bench_function("a place in flight that is free", |bench| {
        let slots = Slots::new(2048);
        bench.iter(|| {
            slots
                .request(black_box(SlotKind::Small))
                .try_recv()
                .unwrap()
        });
    });
    criterion.bench_function("a slot that 2,000 parts wait for", |bench| {
        let slots = Slots::new(64);
        let mut left = u64::MAX;
        // The largest request is served first. Each one is smaller than the one before, so they are
        // served in the order in which they ask.
        let mut ask = || {
            left -= 1;
            slots.request(SlotKind::Bulk(left))
        };
        let (mut held, mut waiting) = (VecDeque::new(), VecDeque::new());
        while waiting.len() < 2_000 {
            let mut place = ask();
            match place.try_recv() {
                Ok(slot) => held.push_back(slot),
                Err(_) => waiting.push_back(place),
            }
        }
        bench.iter(|| {
            drop(held.pop_front());
            held.push_back(waiting.pop_front().unwrap().try_recv().unwrap());
            waiting.push_back(ask());
        });
    });
}

/// Returns the size of all files in a directory.
fn bytes_in(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).unwrap();
    files
        .filter_map(|file| file.ok()?.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// Writes the journal of a run with `objects` objects, which is stopped before the last ones are
/// done. Returns its largest size in bytes.
async fn write_journal(directory: &Path, objects: u64) -> u64 {
    let opened = Opened::open(
        Location::Directory(directory.to_owned()),
        &LeaseTerms::default(),
    )
    .await
    .unwrap();
    let info = RunInfo {
        run: "bench".into(),
        job: "bench".into(),
        transfers: vec!["all".into()],
        fingerprint: Fingerprint::default(),
        tool: "bench".into(),
        counted_from: None,
        command: None,
    };
    let journal = opened.begin(info, None).await.unwrap();
    journal
        .append(JournalEvent::RangeBegan {
            range: 0,
            transfer: 0,
            ordered: true,
            after: None,
            until: None,
        })
        .await
        .unwrap();
    let mut peak = 0;
    for object in 0..objects {
        journal.append(planned(object)).await.unwrap();
        if let Some(over) = object.checked_sub(WINDOW) {
            journal.append(ended(over)).await.unwrap();
        }
        if object % 16_384 == 0 {
            peak = bytes_in(directory).max(peak);
        }
    }
    journal.close(JournalEvent::RunStopped).await.unwrap();
    bytes_in(directory).max(peak)
}

#[expect(clippy::print_stderr, reason = "the size is a result, too")]
fn journal(criterion: &mut Criterion) {
    let objects = std::env::var("OBJECTS").map_or(100_000, |objects| objects.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut written = None;
    criterion.bench_function("journal: reading what a stopped run left", |bench| {
        let directory = written.get_or_insert_with(|| {
            let directory = tempfile::tempdir().unwrap();
            let peak = runtime.block_on(write_journal(directory.path(), objects));
            eprintln!("the journal of {objects} objects: {peak} bytes at most");
            directory
        });
        let place = directory.path().to_owned();
        bench.iter(|| {
            runtime
                .block_on(look(Location::Directory(place.clone())))
                .unwrap()
                .unwrap()
        });
    });
}

criterion_group!(benches, pure, pacing, journal);
criterion_main!(benches);
