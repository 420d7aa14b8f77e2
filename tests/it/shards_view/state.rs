//! Writes state prefixes as shards would, without running any.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use s3haul::journal::state::RunTotals;
use s3haul::journal::{LeaseTerms, Ledger as _, Writer};
use s3haul::report::{BucketReport, Footer, PieceLimits, ReportBucket, ReportHeader};
use s3haul::sandbox::{BucketOptions, Content};
use s3haul::shards::names::{PerShard, report_of};
use s3haul::shards::record::{
    FORMAT, LiveRates, LiveRecord, LiveTotals, PlannedShard, ShardActivity, ShardEnd, ShardPlan,
    ShardRange, ShardWeight, StateRecord,
};
use serde_json::Value;

use crate::world::{World, aged};

pub(super) const OPS: &str = "ops";
pub(super) const RUN: &str = "runs/lake-1/";
pub(super) const STATE: &str = "s3://ops/runs/lake-1/";

/// A state prefix in a sandbox.
pub(super) struct State {
    pub(super) world: World,
    now: Timestamp,
}

pub(super) fn process(shard: u32) -> Writer {
    Writer {
        host: format!("lake-1-{shard}-x7k2p"),
        ..Writer::this_process(&LeaseTerms::default())
    }
}

impl State {
    /// Starts a sandbox with an empty state.
    pub(super) async fn empty() -> Self {
        let world = World::new().await;
        let store = world.sandbox.store();
        store.create_bucket(OPS, BucketOptions::default());
        Self {
            world,
            now: Timestamp::now(),
        }
    }

    /// Starts a sandbox with a plan of this many shards of 1,000 objects and 1 GiB each, two hours
    /// old.
    pub(super) async fn planned(shards: u32) -> Self {
        let state = Self::empty().await;
        state.put(
            "plan.json",
            &plan(shards, state.ago(Duration::from_hours(2))),
            Duration::ZERO,
        );
        state
    }

    pub(super) fn ago(&self, time: Duration) -> Timestamp {
        self.now - time
    }

    /// Writes an object as if it were this old.
    pub(super) fn put<T: StateRecord>(&self, name: &str, record: &T, age: Duration) {
        let spec = aged(age);
        let bytes = serde_json::to_vec(record).unwrap();
        let store = self.world.sandbox.store();
        store.put_object(OPS, &format!("{RUN}{name}"), Content::bytes(bytes), &spec);
    }

    pub(super) fn live(&self, shard: u32, activity: ShardActivity, done: u64, age: Duration) {
        let record = LiveRecord {
            format: FORMAT,
            shard,
            process: process(shard),
            run: run(shard, 0),
            state: activity,
            written: self.ago(age),
            session: self.ago(age + Duration::from_mins(5)),
            totals: LiveTotals {
                planned_objects: 1000,
                planned_bytes: 1 << 30,
                done_objects: done,
                done_bytes: done << 20,
                ..LiveTotals::default()
            },
            rates: LiveRates {
                objects: 10.0 + f64::from(shard % 7),
                bytes: 10e6,
                requests: 12.0,
                throttled: 0.5,
            },
            requests: pace_counts(1000, 10),
            in_flight: 20,
            exit: None,
            cause: None,
        };
        self.put(&PerShard::Live.of(shard), &record, age);
    }

    /// Ends a shard. With failed objects, it is not done.
    pub(super) fn end(&self, shard: u32, generation: u32, failed: u64) {
        self.put_end(&self.end_of(shard, generation, failed));
    }

    /// Ends a shard that had nothing to do.
    pub(super) fn end_without_run(&self, shard: u32) {
        self.put_end(&ShardEnd {
            run: None,
            totals: RunTotals::default(),
            ..self.end_of(shard, 0, 0)
        });
    }

    /// Fails a shard 20 minutes ago, with another time in its record.
    pub(super) fn end_by_a_clock(&self, shard: u32, ended: Timestamp) {
        self.put_end(&ShardEnd {
            ended,
            ..self.end_of(shard, 0, 3)
        });
    }

    /// Fails a shard before it has a run.
    pub(super) fn refused(&self, shard: u32) {
        self.put_end(&ShardEnd {
            run: None,
            exit: 3,
            resumable: true,
            totals: RunTotals::default(),
            ..self.end_of(shard, 0, 0)
        });
    }

    fn end_of(&self, shard: u32, generation: u32, failed: u64) -> ShardEnd {
        ShardEnd {
            format: FORMAT,
            resumable: false,
            shard,
            process: process(shard),
            run: Some(run(shard, generation)),
            exit: i32::from(failed > 0),
            cause: (failed > 0).then(|| format!("{failed} objects failed")),
            began: Some(self.ago(Duration::from_mins(30))),
            ended: self.ago(Duration::from_mins(20)),
            seconds: 600.0,
            sessions: 1,
            totals: RunTotals {
                done_objects: 1000 - failed,
                done_bytes: 1 << 30,
                failed_objects: failed,
                ..RunTotals::default()
            },
            requests: pace_counts(1100, 0),
        }
    }

    fn put_end(&self, end: &ShardEnd) {
        let kind = if end.exit > 0 {
            PerShard::Failed
        } else {
            PerShard::Done
        };
        self.put(&kind.of(end.shard), end, Duration::from_mins(20));
    }

    /// Writes the report of a shard's run, with a footer if it has ended.
    pub(super) async fn report(
        &self,
        shard: u32,
        generation: u32,
        receipts: &[String],
        footer: Option<Footer>,
    ) {
        let prefix = format!("{RUN}{}", report_of(shard));
        let origin = origin(&run(shard, generation), shard);
        self.report_at(&prefix, &origin, receipts, footer).await;
    }

    pub(super) async fn report_at(
        &self,
        prefix: &str,
        origin: &ReportHeader,
        receipts: &[String],
        footer: Option<Footer>,
    ) {
        let reports = ReportBucket::new(self.world.bucket(OPS).await, prefix.parse().unwrap());
        let limits = PieceLimits {
            bytes: 200,
            time: Duration::from_hours(1),
            ..PieceLimits::default()
        };
        let mut report = BucketReport::open(&reports, origin, limits).await.unwrap();
        let receipts = receipts.to_vec();
        let report = tokio::task::spawn_blocking(move || {
            report.rewind(0).unwrap();
            for receipt in &receipts {
                report.add(receipt);
            }
            report.sync().unwrap();
            report
        });
        let report = report.await.unwrap();
        if let Some(footer) = footer {
            report.end().finish(&footer).await.unwrap();
        }
    }
}

fn pace_counts(requests: u64, throttled: u64) -> s3haul::pace::PaceCounts {
    s3haul::pace::PaceCounts {
        requests,
        throttled,
        ..Default::default()
    }
}

/// Returns the name of a run; later runs have greater names.
pub(super) fn run(shard: u32, generation: u32) -> String {
    format!("19ca71fb9{generation:02x}{shard:05x}")
}

pub(super) fn origin(run: &str, shard: u32) -> ReportHeader {
    let words = ["run", "job.yaml", "--state", STATE, "--shards", "4"];
    let mut command: Vec<_> = words.map(str::to_owned).into();
    command.push(format!("--shard={shard}"));
    ReportHeader {
        report: 2,
        version: "0.1.0".to_owned(),
        command,
        directory: "/".into(),
        host: "lake-1".to_owned(),
        job: "lake".to_owned(),
        run: run.to_owned(),
        histories: Some(BTreeSet::new()),
        ..ReportHeader::default()
    }
}

pub(super) fn plan(shards: u32, planned: Timestamp) -> ShardPlan {
    let weight = ShardWeight {
        objects: 1000,
        bytes: 1 << 30,
    };
    let range = ShardRange {
        transfer: 0,
        after: None,
        until: None,
    };
    ShardPlan {
        format: FORMAT,
        tool: "0.1.0".to_owned(),
        job: "lake".to_owned(),
        planned,
        by: process(0),
        counted_from: None,
        settings: s3haul::journal::fingerprint::Fingerprint::default(),
        transfers: vec!["all".to_owned()],
        exact: false,
        lists: 16 * u64::from(shards),
        weight: ShardWeight {
            objects: 1000 * u64::from(shards),
            bytes: u64::from(shards) << 30,
        },
        shards: (0..shards)
            .map(|_| PlannedShard {
                weight,
                ranges: vec![range.clone()],
            })
            .collect(),
    }
}

/// Returns a receipt of an object of `source`.
pub(super) fn receipt(key: &str, status: &str) -> String {
    let mut line = serde_json::json!({
        "transfer": "all", "source": format!("s3://source/{key}"),
        "destination": format!("s3://destination/{key}"), "size": 100, "parts": 0,
        "attempts": 1, "seconds": 0.1, "at": "2026-11-29T20:00:00Z", "status": status,
    });
    match status {
        "done" => line["proof"] = "crc64nvme".into(),
        "skipped" => line["reason"] = "equal".into(),
        "failed" => {
            line["error"] = serde_json::json!({
                "kind": "denied", "operation": "CopyObject", "code": "AccessDenied",
                "message": "Access Denied", "remedy": "allow it",
            });
        }
        _ => {}
    }
    line.to_string()
}

/// Returns the receipt of an object that was read, which names its version.
pub(super) fn receipt_of_version(key: &str, status: &str, version: &str) -> String {
    let mut line: Value = serde_json::from_str(&receipt(key, status)).unwrap();
    line["source_version"] = version.into();
    line.to_string()
}

/// Returns the footer of a run that ended by itself, or was stopped.
pub(super) fn footer(exit: i32) -> Footer {
    let footer = serde_json::json!({
        "time": "2020-01-01T00:00:00Z", "exit": exit, "complete": exit != 4, "sessions": 1,
        "seconds": 600.0, "failed_objects": u32::from(exit == 1),
    });
    serde_json::from_value(footer).unwrap()
}

/// Returns the lines of a merged report.
pub(super) fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
