//! Tests that the objects of a state prefix are read as they were written.

use super::*;
use crate::journal::LeaseTerms;

fn writer() -> Writer {
    Writer::this_process(&LeaseTerms::of_job("uid/3"))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn end(shard: u32, exit: i32, done: u64) -> ShardEnd {
    ShardEnd {
        resumable: false,
        format: FORMAT,
        shard,
        process: writer(),
        run: Some("2026-11-29T20:00:00Z-1".to_owned()),
        exit,
        cause: (exit != 0).then(|| "1 object failed".to_owned()),
        began: Some(at(100 + i64::from(shard))),
        ended: at(200 + i64::from(shard)),
        seconds: 1.5,
        sessions: 2,
        totals: RunTotals {
            done_objects: done,
            done_bytes: done * 10,
            proofs: BTreeMap::from([("checksum".to_owned(), done)]),
            ..RunTotals::default()
        },
        requests: PaceCounts::default(),
    }
}

fn again<T: StateRecord>(record: &T) -> T {
    serde_json::from_slice(&serde_json::to_vec(record).unwrap()).unwrap()
}

#[test]
fn each_object_is_read_as_it_was_written() {
    let range = ShardRange {
        transfer: 1,
        after: Some(ObjectKey::new("a/é").unwrap()),
        until: None,
    };
    let plan = ShardPlan {
        format: FORMAT,
        tool: "0.1.0".to_owned(),
        job: "lake".to_owned(),
        planned: at(1),
        by: writer(),
        counted_from: Some(at(0)),
        settings: Fingerprint::default(),
        transfers: vec!["events".to_owned()],
        exact: false,
        lists: 7,
        weight: ShardWeight {
            objects: 3,
            bytes: 30,
        },
        shards: vec![
            PlannedShard {
                weight: ShardWeight::default(),
                ranges: vec![range.clone()],
            },
            PlannedShard::default(),
        ],
    };
    assert_eq!(again(&plan), plan);
    assert_eq!(
        range.key_range(),
        KeyRange {
            range: 1,
            after: range.after.clone(),
            until: None
        }
    );
    let live = LiveRecord {
        format: FORMAT,
        shard: 3,
        process: writer(),
        run: "r".to_owned(),
        state: ShardActivity::Running,
        written: at(5),
        session: at(4),
        totals: LiveTotals {
            done_objects: 1,
            ..LiveTotals::default()
        },
        rates: LiveRates {
            objects: 0.5,
            ..LiveRates::default()
        },
        requests: PaceCounts::default(),
        in_flight: 3,
        exit: None,
        cause: None,
    };
    assert_eq!(again(&live), live);
    assert_eq!(
        serde_json::to_value(&live).unwrap()["state"],
        serde_json::json!("running")
    );
    let failed = end(1, 1, 2);
    assert_eq!(again(&failed), failed);
}

#[test]
fn a_summary_adds_up_the_ends() {
    let ends = [end(0, 0, 3), end(1, 1, 2), end(2, 0, 4)];
    let summary = ShardsSummary::of("lake", 3, &ends);
    assert_eq!((summary.shards, summary.done), (3, 2));
    assert_eq!(summary.failed, BTreeMap::from([(1, 1)]));
    assert_eq!(
        (summary.began, summary.ended),
        (Some(at(100)), Some(at(202)))
    );
    assert_eq!(summary.totals.done_objects, 9);
    assert_eq!(summary.totals.done_bytes, 90);
    assert_eq!(summary.totals.proofs["checksum"], 9);
    assert_eq!(again(&summary), summary);
    let reversed = ShardsSummary::of("lake", 3, ends.iter().rev());
    assert_eq!(reversed, summary, "the order does not matter");
}

#[test]
fn bytes_weigh_as_the_objects_that_take_as_long() {
    let mut weight = ShardWeight {
        objects: 2,
        bytes: 24 << 20,
    };
    assert!((weight.units() - 5.0).abs() < 1e-9);
    weight.add(ShardWeight {
        objects: u64::MAX,
        bytes: 1,
    });
    assert_eq!(weight.objects, u64::MAX);
}

#[test]
fn the_duration_of_a_summary_is_read_as_it_was_written() {
    for shards in 1..200 {
        let ends: Vec<_> = (0..shards)
            .map(|shard| ShardEnd {
                seconds: f64::from(shard) * 0.137,
                ..end(shard, 0, 1)
            })
            .collect();
        let summary = ShardsSummary::of("lake", shards, &ends);
        assert_eq!(again(&summary), summary);
    }
}
