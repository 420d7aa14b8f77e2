//! Tests of the texts of `status`.

use super::*;
use crate::journal::event::{Ended, JournalEvent, PlannedObject, SourceVersion, UploadPlace};
use crate::journal::fingerprint::Fingerprint;
use crate::journal::state::RunState;

fn planned(object: u64, key: &str) -> JournalEvent {
    let key = key.parse().unwrap();
    let entry = PlannedObject {
        key,
        size: 50 << 30,
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

/// Returns a run of three objects: an open upload, a done object, and a failed one.
fn events() -> Vec<JournalEvent> {
    let run = RunInfo {
        run: "r1".into(),
        job: "lake".into(),
        transfers: vec!["events".into(), "logs".into()],
        fingerprint: Fingerprint::default(),
        tool: "0.1.0".into(),
        counted_from: None,
        command: None,
    };
    let (bucket, key) = ("lake-dr".parse().unwrap(), "big.bin".parse().unwrap());
    let failed = FailedObject {
        source: "s3://lake/c".into(),
        destination: String::new(),
        operation: String::new(),
        code: String::new(),
        kind: "denied".into(),
        message: "no rights".into(),
    };
    vec![
        JournalEvent::RunBegan(run),
        JournalEvent::RangeBegan {
            range: 0,
            transfer: 0,
            ordered: true,
            after: None,
            until: None,
        },
        planned(1, "big.bin"),
        planned(2, "b"),
        planned(3, "c"),
        JournalEvent::UploadIntended {
            upload: 4,
            object: 1,
            place: UploadPlace {
                endpoint: "default".into(),
                bucket,
                key,
            },
            server: None,
        },
        JournalEvent::UploadBegan {
            upload: 4,
            id: "upload-1".into(),
            source: SourceVersion {
                size: 50 << 30,
                version: None,
                etag: None,
                modified: None,
            },
            parts: [64 << 20; 800].into_iter().collect(),
            attributes: String::new(),
            kms: false,
            losses: Vec::new(),
            adopted: false,
        },
        JournalEvent::PartStored {
            upload: 4,
            number: 1,
            size: 64 << 20,
            etag: "e".into(),
        },
        JournalEvent::ObjectEnded {
            range: 0,
            object: Some(2),
            ended: Ended::Done {
                bytes: 1 << 20,
                parts: 0,
                proof: "etag".into(),
                reason: None,
                losses: Vec::new(),
                in_place: None,
                settles: None,
            },
            receipt: None,
        },
        JournalEvent::ObjectEnded {
            range: 0,
            object: Some(3),
            ended: Ended::Failed(failed),
            receipt: None,
        },
        JournalEvent::RunResumed,
    ]
}

fn glance() -> Glance {
    let mut state = RunState::default();
    for (second, event) in events().into_iter().enumerate() {
        state.apply(
            Timestamp::from_second(second.try_into().unwrap()).unwrap(),
            &event,
        );
    }
    let writer = Some(Writer {
        id: "w".into(),
        host: "node-1".into(),
        pid: 42,
        since: Timestamp::UNIX_EPOCH,
        job: None,
        process: None,
    });
    Glance {
        state,
        writer,
        life: Life::Dead,
        silence: None,
    }
}

#[test]
fn a_dead_run_is_told_with_what_it_left_open() {
    let glance = glance();
    let now = Timestamp::from_second(70).unwrap();
    insta::assert_snapshot!(View::of(".s3haul/lake".into(), &glance, now).text());
}

#[test]
fn programs_get_the_same_in_json() {
    let glance = glance();
    let view = serde_json::to_value(View::of("j".into(), &glance, Timestamp::UNIX_EPOCH)).unwrap();
    assert_eq!(
        (
            &view["life"],
            &view["done_objects"],
            &view["pending_objects"]
        ),
        (&"dead".into(), &1.into(), &1.into())
    );
    let upload = &view["open_uploads"][0];
    assert_eq!(
        (&upload["destination"], &upload["stored_parts"]),
        (&"s3://lake-dr/big.bin".into(), &1.into())
    );
    assert_eq!(view["latest_failures"][0]["kind"], "denied");
}
