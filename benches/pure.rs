//! The pure parts that run once per object or part. `cargo bench`.

#![expect(clippy::unwrap_used, reason = "fixed inputs")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use s3haul::checksum;
use s3haul::journal::event::{Ended, Event, PlannedObject};
use s3haul::journal::state::RunState;
use s3haul::listing::filter::Filter;
use s3haul::location::{BucketName, ObjectKey, copy_source};
use s3haul::manifest::job::{PartGoal, Selection, When};
use s3haul::pace::rate::RateController;
use s3haul::pace::speed::Speed;
use s3haul::plan::decide::{Side, decide};
use s3haul::plan::parts::{Capacity, Goal, layout};
use s3haul::s3::ChecksumAlgorithm;
use s3haul::s3::capabilities::PartLimits;
use s3haul::size::{MIB, TIB};

fn pure(criterion: &mut Criterion) {
    let capacity = Capacity { in_flight: 2048, speed: Speed::TYPICAL };
    let goal = Goal::Copy { aim: PartGoal::Fastest, capacity };
    criterion.bench_function("layout of 5 TiB, all parts", |bench| {
        bench.iter(|| {
            let layout = layout(black_box(5 * TIB), &PartLimits::S3, goal).unwrap();
            layout.parts().map(|part| part.offset).sum::<u64>()
        });
    });
    criterion.bench_function("decide", |bench| {
        let side = Side { size: 10, etag: Some("0123456789abcdef0123456789abcdef"), modified: None };
        bench.iter(|| decide(When::Changed, black_box(side), Some(black_box(side))));
    });
    criterion.bench_function("filter with two globs", |bench| {
        let select = Selection {
            include: vec!["**/*.parquet".parse().unwrap()],
            exclude: vec!["tmp/**".parse().unwrap()],
            ..Selection::default()
        };
        let filter = Filter::new(&select);
        bench.iter(|| {
            filter.admits(black_box("year=2026/month=11/part-00017.parquet"), 10, None, None).is_ok()
        });
    });
    criterion.bench_function("copy source", |bench| {
        let (bucket, key) =
            (BucketName::new("lake").unwrap(), ObjectKey::new("dir/ümlaut + space.bin").unwrap());
        bench.iter(|| copy_source(black_box(&bucket), black_box(&key), Some("v1")));
    });
    criterion.bench_function("an object through a run's state, in a window of 4,096", |bench| {
        let event = |object| {
            let key = ObjectKey::new(&format!("year=2026/month=11/part-{object:012}.parquet")).unwrap();
            let etag = Some("0123456789abcdef0123456789abcdef".to_owned());
            let entry = PlannedObject { key, size: 1, etag, version: None, modified: None, class: None };
            Event::ObjectPlanned { range: 0, object, entry }
        };
        let ended = |object| Event::ObjectEnded {
            range: 0,
            object: Some(object),
            ended: Ended::Done { bytes: 1, parts: 0, proof: "etag".into(), losses: false },
            receipt: None,
        };
        let mut state = RunState::default();
        state.apply(Timestamp::UNIX_EPOCH, &Event::RangeBegan { range: 0, transfer: 0, ordered: true });
        let mut object = 0;
        bench.iter(|| {
            state.apply(Timestamp::UNIX_EPOCH, black_box(&event(object)));
            if object >= 4096 {
                state.apply(Timestamp::UNIX_EPOCH, black_box(&ended(object - 4096)));
            }
            object += 1;
        });
    });
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

criterion_group!(benches, pure);
criterion_main!(benches);
