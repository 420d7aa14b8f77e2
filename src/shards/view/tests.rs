//! Tests that the progress of a run follows from the plan and from signs of life.

use super::*;
use crate::journal::{LeaseTerms, Writer};
use crate::shards::record::{FORMAT, PlannedShard};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Returns a plan of shards with these numbers of objects, which have no bytes.
fn plan(objects: &[u64]) -> ShardPlan {
    let weight = |objects| ShardWeight { objects, bytes: 0 };
    ShardPlan {
        format: FORMAT,
        tool: String::new(),
        job: "lake".to_owned(),
        planned: at(0),
        by: Writer::this_process(&LeaseTerms::default()),
        counted_from: None,
        settings: crate::journal::fingerprint::Fingerprint::default(),
        transfers: Vec::new(),
        exact: true,
        lists: 0,
        weight: weight(objects.iter().sum()),
        shards: objects
            .iter()
            .map(|objects| PlannedShard {
                weight: weight(*objects),
                ranges: Vec::new(),
            })
            .collect(),
    }
}

fn live(done: u64, per_second: f64, silence: u64) -> SeenLive {
    SeenLive {
        record: LiveRecord {
            format: FORMAT,
            shard: 0,
            process: Writer::this_process(&LeaseTerms::default()),
            run: String::new(),
            state: ShardActivity::Running,
            written: at(10),
            session: at(5),
            totals: LiveTotals {
                done_objects: done,
                ..LiveTotals::default()
            },
            rates: LiveRates {
                objects: per_second,
                ..LiveRates::default()
            },
            requests: PaceCounts::default(),
            in_flight: 1,
            exit: None,
            cause: None,
        },
        written: None,
        silence: Duration::from_secs(silence),
    }
}

fn seen(live: impl IntoIterator<Item = (u32, SeenLive)>) -> SeenState {
    SeenState {
        live: live.into_iter().collect(),
        ..SeenState::default()
    }
}

#[test]
fn the_time_left_counts_shards_that_nobody_has_begun() {
    let view = StateView::of(&plan(&[100, 100, 200]), &seen([(0, live(50, 10.0, 0))]));
    assert_eq!(view.shards.not_begun, 2);
    assert_eq!((view.seconds_left, view.share_done), (Some(35), 0.125));
    assert_eq!(view.slowest[0].seconds_left, Some(5));
}

#[test]
fn a_run_does_not_end_before_its_slowest_shard() {
    let shards = [(0, live(0, 100.0, 0)), (1, live(0, 1.0, 0))];
    let view = StateView::of(&plan(&[100, 100]), &seen(shards));
    assert_eq!(view.seconds_left, Some(100));
    assert_eq!(
        view.slowest
            .iter()
            .map(|shard| shard.shard)
            .collect::<Vec<_>>(),
        [1, 0]
    );
}

#[test]
fn a_shard_whose_sign_of_life_is_a_minute_old_is_silent() {
    let shards = [
        (0, live(0, 1.0, 59)),
        (1, live(0, 1.0, 60)),
        (2, live(0, 1.0, 300)),
    ];
    let view = StateView::of(&plan(&[1, 1, 1]), &seen(shards));
    assert_eq!((view.shards.running, view.shards.silent), (1, 2));
    let silent: Vec<_> = view
        .silent
        .iter()
        .map(|shard| shard.silent_seconds)
        .collect();
    assert_eq!(silent, [300, 60]);
    assert!(
        (view.rates.objects - 1.0).abs() < f64::EPSILON,
        "of the running shards"
    );
}

#[test]
fn without_a_process_nobody_knows_the_time() {
    let view = StateView::of(&plan(&[1, 1]), &seen([(0, live(0, 1.0, 100))]));
    assert_eq!(
        (view.state, view.seconds_left),
        (RunProgress::Waiting, None)
    );
    let stalled = StateView::of(&plan(&[1]), &seen([(0, live(0, 0.0, 0))]));
    assert_eq!(
        (stalled.state, stalled.seconds_left),
        (RunProgress::Running, None)
    );
    assert_eq!(stalled.slowest[0].seconds_left, None);
}

#[test]
fn objects_that_are_left_alone_advance_a_shard_with_their_bytes() {
    let mut plan = plan(&[100]);
    plan.shards[0].weight.bytes = 100 * (8 << 20);
    let mut live = live(0, 10.0, 0);
    live.record.totals.skipped_objects = 50;
    live.record.totals.skipped_bytes = 50 * (8 << 20);
    let view = StateView::of(&plan, &seen([(0, live)]));
    assert_eq!((view.share_done, view.seconds_left), (0.5, Some(5)));
}

#[test]
fn more_objects_than_were_estimated_are_left() {
    let mut live = live(100, 10.0, 0);
    live.record.totals.planned_objects = 150;
    let view = StateView::of(&plan(&[50]), &seen([(0, live)]));
    assert_eq!(view.seconds_left, Some(5));
    assert!(view.share_done < 1.0);
}

#[test]
fn a_process_that_has_just_begun_does_not_slow_the_estimate() {
    let mut new = live(0, 0.0, 0);
    new.record.written = new.record.session;
    let view = StateView::of(&plan(&[100, 100]), &seen([(0, live(0, 10.0, 0)), (1, new)]));
    assert_eq!(view.seconds_left, Some(10));
    assert_eq!(view.slowest.len(), 1, "its pace is not known");
}

#[test]
fn rates_are_rounded() {
    let shards = [(0, live(0, 279.381, 0)), (1, live(0, 0.002, 0))];
    let view = StateView::of(&plan(&[100, 100]), &seen(shards));
    assert_eq!(view.rates.objects.to_string(), "279.383");
}

#[test]
fn a_run_of_nothing_is_done() {
    let done = SeenState {
        done: BTreeMap::from([(0, None)]),
        ..SeenState::default()
    };
    let view = StateView::of(&plan(&[0]), &done);
    assert_eq!((view.state, view.share_done), (RunProgress::Ended, 1.0));
}
