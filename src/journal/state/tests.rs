//! Tests which events the state keeps or forgets, and its size.

use super::super::event::{SourceVersion, UploadPlace};
use super::super::tests::{at, ended, info, planned, range};
use super::*;
use crate::manifest::job::Attribute;
use crate::plan::decide::Basis;
use crate::plan::loss::{Loss, Lost};

fn state(events: impl IntoIterator<Item = JournalEvent>) -> RunState {
    let mut state = RunState::default();
    for (n, event) in events.into_iter().enumerate() {
        state.apply(at(n as u64), &event);
    }
    state
}

fn intended(upload: u64) -> JournalEvent {
    let (bucket, key) = (
        "bucket".parse().unwrap(),
        format!("dir/object-{upload}").parse().unwrap(),
    );
    JournalEvent::UploadIntended {
        upload,
        object: upload,
        place: UploadPlace {
            endpoint: "default".into(),
            bucket,
            key,
        },
        server: None,
    }
}

fn created(upload: u64, parts: usize) -> JournalEvent {
    JournalEvent::UploadBegan {
        upload,
        id: "x".repeat(130),
        source: SourceVersion {
            size: 1,
            version: None,
            etag: Some("e".into()),
            modified: None,
        },
        parts: std::iter::repeat_n(64 << 20, parts).collect(),
        attributes: "0123456789abcdef".into(),
        kms: false,
        losses: Vec::new(),
        adopted: false,
    }
}

#[test]
fn a_new_run_forgets_all_but_the_uploads_that_are_still_open() {
    let first = [
        JournalEvent::RunBegan(info()),
        range(),
        planned(1, "a"),
        intended(2),
        ended(1),
        JournalEvent::RunEnded,
    ];
    let state = state(first.into_iter().chain([JournalEvent::RunBegan(info())]));
    assert_eq!(state.uploads.keys().collect::<Vec<_>>(), [&2]);
    assert_eq!(
        (state.totals, state.ranges.len()),
        (RunTotals::default(), 0)
    );
    assert_eq!(state.next_id, 3, "a number never comes back");
}

#[test]
fn sums_are_over_all_sessions() {
    let loss = Loss::new(Attribute::Tags, Lost::NotReadable, "why");
    let lossy = |object| {
        let ended = Ended::Done {
            bytes: 1,
            parts: 0,
            proof: "etag".into(),
            reason: None,
            losses: vec![loss.clone()],
            in_place: None,
            settles: None,
        };
        JournalEvent::ObjectEnded {
            range: 0,
            object: Some(object),
            ended,
            receipt: None,
        }
    };
    let mut state = state([
        JournalEvent::RunBegan(info()),
        range(),
        planned(1, "a"),
        lossy(1),
    ]);
    let began = state.began.unwrap().as_millisecond();
    let after = |seconds: i64| Timestamp::from_millisecond(began + seconds * 1000).unwrap();
    // Killed after ten seconds, resumed an hour later, and stopped after five more seconds.
    state.apply(after(10), &planned(2, "b"));
    state.apply(after(3610), &JournalEvent::RunResumed);
    assert_eq!((state.worked_ms, state.session_ms()), (10_000, 10_000));
    state.apply(after(3614), &lossy(2));
    state.apply(after(3615), &JournalEvent::RunStopped);
    assert_eq!((state.worked_ms, state.session_ms()), (10_000, 15_000));
    assert_eq!(state.totals.losses.iter().collect::<Vec<_>>(), [(&loss, 2)]);
    assert_eq!(state.totals.objects_with_losses, 2);
    let read: RunState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
    assert_eq!(read, state);
    state.apply(after(4000), &JournalEvent::RunBegan(info()));
    assert_eq!(
        (state.session_ms(), state.totals.losses.iter().count()),
        (0, 0)
    );
}

#[test]
fn an_object_that_is_left_out_is_not_sampled() {
    // The first line is in the form of an older s3haul.
    let lines = [
        r#"{"object_ended":{"range":0,"object":1,"ended":{"skipped":{"bytes":5}}}}"#,
        r#"{"object_ended":{"range":0,"object":2,"ended":{"skipped":{"bytes":7,"archived":true}}}}"#,
        r#"{"keys_passed":{"range":0,"skipped_objects":2,"skipped_bytes":3}}"#,
        r#"{"keys_passed":{"range":0,"archived_objects":4}}"#,
    ];
    let totals = state(lines.map(|line| serde_json::from_str(line).unwrap())).totals;
    assert_eq!(
        (
            totals.skipped_objects,
            totals.skipped_bytes,
            totals.archived_objects
        ),
        (3, 8, 5)
    );
}

#[test]
fn a_list_without_order_is_read_again_unless_it_was_read_to_its_end() {
    let begin = || {
        [
            JournalEvent::RunBegan(info()),
            JournalEvent::RangeBegan {
                range: 0,
                transfer: 0,
                ordered: false,
                after: None,
                until: None,
            },
        ]
    };
    let cut = state(begin().into_iter().chain([
        planned(1, "b"),
        planned(2, "a"),
        JournalEvent::RunResumed,
    ]));
    assert_eq!((cut.pending_objects(), &cut.ranges[&0].passed), (0, &None));
    let whole = [
        planned(1, "b"),
        planned(2, "a"),
        JournalEvent::RangePlanned { range: 0 },
        JournalEvent::RunResumed,
    ];
    let whole = state(begin().into_iter().chain(whole));
    assert_eq!((whole.pending_objects(), whole.resumed), (2, 1));
}

#[test]
fn an_object_that_a_list_finds_again_counts_once() {
    let list = || JournalEvent::RangeBegan {
        range: 0,
        transfer: 0,
        ordered: false,
        after: None,
        until: None,
    };
    let failed = |object, kind: &str| {
        let failed = FailedObject {
            source: format!("s3://lake/{object}"),
            destination: String::new(),
            operation: "CopyObject".into(),
            code: "AccessDenied".into(),
            kind: kind.into(),
            message: "no".into(),
        };
        JournalEvent::ObjectEnded {
            range: 0,
            object: Some(object),
            ended: Ended::Failed(failed),
            receipt: None,
        }
    };
    let skipped = |objects, known| {
        JournalEvent::KeysPassed(Passed {
            skipped_objects: objects,
            known_objects: known,
            ..Passed::default()
        })
    };
    let keys = ["a", "b", "c"];
    let plan = || (1..).zip(keys).map(|(object, key)| planned(object, key));
    let first = [
        ended(1),
        failed(2, "denied"),
        failed(3, "not-equal"),
        skipped(4, 0),
    ];
    let begin = [JournalEvent::RunBegan(info()), list()]
        .into_iter()
        .chain(plan())
        .chain(first);
    let mut state = state(begin);
    let counts = |state: &RunState| {
        let RunTotals {
            done_objects,
            skipped_objects,
            failed_objects,
            planned_objects,
            ..
        } = state.totals;
        (
            done_objects,
            skipped_objects,
            failed_objects,
            planned_objects,
        )
    };
    assert_eq!(counts(&state), (1, 4, 2, 3));
    let mut again = state.clone();
    state.apply(at(9), &list());
    // Two objects stay counted: the copy, and the bad copy that looks like a good one. The denied
    // object is tried again.
    assert_eq!(
        (counts(&state), state.tallies[&0].settled),
        ((1, 0, 1, 2), 2)
    );
    assert_eq!(state.totals.planned_bytes, 1 + 3);
    assert_eq!(
        (again.relist(0), again.totals.clone()),
        (2, state.totals.clone())
    );
    assert_eq!(
        state
            .totals
            .causes
            .by_frequency()
            .iter()
            .map(|cause| cause.objects)
            .sum::<u64>(),
        1
    );
    for event in [planned(4, "b"), ended(4), skipped(4, 2)] {
        state.apply(at(10), &event);
    }
    assert_eq!(counts(&state), (2, 4, 1, 3));
    state.apply(at(11), &list());
    assert_eq!(
        (counts(&state), state.tallies[&0].settled),
        ((2, 0, 1, 3), 3)
    );
    let read: RunState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
    assert_eq!(read, state);
    state.apply(at(12), &JournalEvent::TransferEnded { transfer: 0 });
    assert!(state.tallies.is_empty());
}

#[test]
fn a_range_that_begins_anew_leaves_nothing_of_what_was_known() {
    let other = JournalEvent::RangeBegan {
        range: 1,
        transfer: 1,
        ordered: true,
        after: None,
        until: None,
    };
    let known = [
        JournalEvent::RunBegan(info()),
        range(),
        other,
        passed(0, "b"),
        cut(0, "m", 7),
        planned(1, "c"),
    ];
    let mut anew = state(known);
    anew.apply(
        at(9),
        &JournalEvent::RangeBegan {
            range: 0,
            transfer: 0,
            ordered: false,
            after: None,
            until: None,
        },
    );
    assert_eq!(
        anew.ranges.keys().collect::<Vec<_>>(),
        [&0, &1],
        "another transfer keeps its own"
    );
    assert_eq!(
        anew.ranges[&0],
        RangeState {
            ordered: false,
            ..RangeState::default()
        }
    );
}

#[test]
fn events_about_what_is_not_known_change_nothing() {
    let known = state([JournalEvent::RunBegan(info()), range()]);
    let mut after = known.clone();
    for event in [
        JournalEvent::PartStored {
            upload: 9,
            number: 1,
            size: 1,
            etag: "e".into(),
        },
        created(9, 1),
        JournalEvent::CompleteIntended {
            upload: 9,
            etag: None,
        },
        JournalEvent::UploadEnded { upload: 9 },
        JournalEvent::RangePlanned { range: 9 },
        cut(9, "m", 10),
    ] {
        after.apply(known.last.unwrap(), &event);
    }
    assert_eq!(after, known);
}

fn passed(range: u32, to: &str) -> JournalEvent {
    JournalEvent::KeysPassed(Passed {
        range,
        to: to.parse().ok(),
        ..Passed::default()
    })
}

fn cut(range: u32, at: &str, new: u32) -> JournalEvent {
    JournalEvent::RangeCut {
        range,
        at: at.parse().unwrap(),
        new,
    }
}

#[test]
fn a_cut_leaves_the_two_halves_of_what_was_left() {
    let mut cuts = state([
        JournalEvent::RunBegan(info()),
        range(),
        passed(0, "b"),
        cut(0, "m", 7),
        cut(0, "f", 8),
        cut(7, "t", 9),
        passed(8, "g"),
    ]);
    let left = |state: &RunState| -> Vec<_> {
        let text =
            |key: &Option<ObjectKey>| key.as_ref().map(ToString::to_string).unwrap_or_default();
        let unplanned = state.ranges.iter().filter(|(_, range)| !range.planned);
        unplanned
            .map(|(number, range)| (*number, text(&range.passed), text(&range.until)))
            .collect()
    };
    let range = |number, passed: &str, until: &str| (number, passed.to_owned(), until.to_owned());
    assert_eq!(
        left(&cuts),
        [
            range(0, "b", "f"),
            range(7, "m", "t"),
            range(8, "g", "m"),
            range(9, "t", "")
        ],
        "together they are all keys behind `b` but for those up to `g` behind `f`"
    );
    assert!(
        cuts.ranges
            .values()
            .all(|range| range.ordered && range.transfer == 0)
    );
    // Finished ranges are dropped, except ranges with pending objects, and the last one, which
    // shows that all keys are known.
    let in_range = |object, number| match planned(object, "u") {
        JournalEvent::ObjectPlanned { object, entry, .. } => JournalEvent::ObjectPlanned {
            range: number,
            object,
            entry,
        },
        other => other,
    };
    let now = cuts.last.unwrap();
    cuts.apply(now, &in_range(1, 9));
    for number in [9, 0, 7, 8] {
        cuts.apply(now, &JournalEvent::RangePlanned { range: number });
    }
    assert_eq!(cuts.ranges.keys().copied().collect::<Vec<_>>(), [9]);
    let ended = match ended(1) {
        JournalEvent::ObjectEnded {
            object,
            ended,
            receipt,
            ..
        } => JournalEvent::ObjectEnded {
            range: 9,
            object,
            ended,
            receipt,
        },
        other => other,
    };
    cuts.apply(now, &ended);
    assert!(cuts.ranges[&9].planned && cuts.pending_objects() == 0);
}

#[test]
fn a_state_from_before_ranges_were_cut_is_read() {
    let old = r#"{"transfer":0,"ordered":true,"passed":"b","planned":false,"pending":{}}"#;
    let range: RangeState = serde_json::from_str(old).unwrap();
    assert_eq!(
        (range.passed.map(|key| key.to_string()), range.until),
        (Some("b".to_owned()), None)
    );
    assert_eq!(
        serde_json::to_string(&RangeState {
            passed: "b".parse().ok(),
            ordered: true,
            ..RangeState::default()
        })
        .unwrap(),
        old
    );
}

#[test]
fn a_transfer_that_is_over_takes_no_room() {
    let state = state([
        JournalEvent::RunBegan(info()),
        range(),
        planned(1, "a"),
        JournalEvent::TransferEnded { transfer: 0 },
    ]);
    assert!(state.ranges.is_empty() && state.ended_transfers.contains(&0));
}

#[test]
fn the_state_does_not_grow_with_the_number_of_objects() {
    const WINDOW: u64 = 4096;
    let mut state = state([JournalEvent::RunBegan(info()), range()]);
    let length = |state: &RunState| serde_json::to_string(state).unwrap().len();
    let mut lengths = Vec::new();
    for object in 0..60_000 {
        state.apply(
            at(object),
            &planned(
                object,
                &format!("year=2026/month=11/part-{object:012}.parquet"),
            ),
        );
        // The first object is large and never ends; later objects do.
        if object > WINDOW {
            state.apply(at(object), &ended(object - WINDOW));
        }
        if object % 20_000 == 19_999 {
            lengths.push(length(&state));
        }
    }
    assert_eq!(state.pending_objects() as u64, WINDOW + 1);
    assert!(
        lengths[2] < lengths[0] + 100 && lengths[2] < 1 << 20,
        "{lengths:?}"
    );
}

#[test]
fn the_largest_state_is_a_few_mib() {
    let mut state = state([JournalEvent::RunBegan(info()), range()]);
    for object in 0..7_000 {
        state.apply(
            at(object),
            &planned(object, &format!("{}{object:08}", "k".repeat(100))),
        );
    }
    for upload in 7_000..7_048 {
        state.apply(at(upload), &intended(upload));
        state.apply(at(upload), &created(upload, 10_000));
        for number in 1..=10_000 {
            let etag = format!("{:032x}", upload * 10_000 + u64::from(number));
            state.apply(
                at(upload),
                &JournalEvent::PartStored {
                    upload,
                    number,
                    size: 64 << 20,
                    etag,
                },
            );
        }
    }
    let bytes = serde_json::to_vec(&state).unwrap();
    assert!(
        bytes.len() < 8 << 20,
        "{} bytes: with the tail and the snapshot before it less than 50 MiB",
        bytes.len()
    );
    assert_eq!(serde_json::from_slice::<RunState>(&bytes).unwrap(), state);
}

#[test]
fn a_copy_that_failed_its_proof_stays_on_record_until_one_is_proven() {
    let failed = |kind: &str| JournalEvent::ObjectEnded {
        range: 0,
        object: None,
        ended: Ended::Failed(FailedObject {
            source: "s3://a/k".into(),
            destination: "s3://b/k".into(),
            operation: "HeadObject".into(),
            code: kind.into(),
            kind: kind.into(),
            message: "why".into(),
        }),
        receipt: None,
    };
    let denied = state([JournalEvent::RunBegan(info()), range(), failed("denied")]);
    assert!(denied.unproven.is_empty());
    let mut state = state([
        JournalEvent::RunBegan(info()),
        range(),
        failed("not-equal"),
        JournalEvent::RunEnded,
        JournalEvent::RunBegan(info()),
    ]);
    let still = |state: &RunState, basis| {
        state
            .unproven
            .still_fails("s3://b/k", basis)
            .map(str::to_owned)
    };
    assert_eq!(
        still(&state, Some(Basis::Time)).as_deref(),
        Some("not-equal")
    );
    assert_eq!(still(&state, None).as_deref(), Some("not-equal"));
    assert_eq!(still(&state, Some(Basis::Checksum)), None);
    assert_eq!(state.clone().left_behind().unproven, state.unproven);
    let read: RunState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
    assert_eq!(read, state);
    let proven = Ended::Done {
        bytes: 1,
        parts: 0,
        proof: "read".into(),
        reason: None,
        losses: Vec::new(),
        in_place: None,
        settles: Some("s3://b/k".into()),
    };
    state.apply(
        at(9),
        &JournalEvent::ObjectEnded {
            range: 0,
            object: None,
            ended: proven,
            receipt: None,
        },
    );
    assert!(state.unproven.is_empty());
}
