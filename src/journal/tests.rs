//! Tests properties that hold for all stories: random sequences of events that an executor could
//! write.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;

use super::event::{
    Ended, FailedObject, JournalEvent, Passed, PlannedObject, ReceiptLine, RunInfo, SourceVersion,
    UploadPlace,
};
use super::fingerprint::Fingerprint;
use super::identity::Writer;
use super::segment::{Header, JournalContent, push_record, snapshot};
use super::state::{Phase, RunState};
use super::*;
use crate::pace::learned::{Learned, LearnedLane};
use crate::s3::RequestClass;

pub(super) fn writer(id: &str) -> Writer {
    Writer {
        id: id.into(),
        host: "test".into(),
        pid: 7,
        since: Timestamp::UNIX_EPOCH,
        job: None,
        process: None,
    }
}

pub(super) fn info() -> RunInfo {
    RunInfo {
        run: "r".into(),
        job: "job".into(),
        transfers: vec!["all".into()],
        fingerprint: Fingerprint::default(),
        tool: "0".into(),
        counted_from: None,
        command: None,
    }
}

pub(super) fn at(millisecond: u64) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(millisecond).unwrap()).unwrap()
}

pub(super) fn planned(object: u64, key: &str) -> JournalEvent {
    let etag = Some("0123456789abcdef0123456789abcdef".to_owned());
    let entry = PlannedObject {
        key: key.parse().unwrap(),
        size: object,
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

pub(super) fn ended(object: u64) -> JournalEvent {
    let receipt = ReceiptLine::of(&serde_json::json!({ "object": object })).unwrap();
    let ended = Ended::Done {
        bytes: object,
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
        receipt: Some(receipt),
    }
}

pub(super) fn range() -> JournalEvent {
    JournalEvent::RangeBegan {
        range: 0,
        transfer: 0,
        ordered: true,
        after: None,
        until: None,
    }
}

/// Generates a story as an executor would: only planned objects end, and keys come in order.
#[derive(Default)]
struct Teller {
    next: u64,
    key: u64,
    pending: Vec<u64>,
    /// Uploads, with their objects and their numbers of parts.
    uploads: BTreeMap<u64, (u64, Option<u32>)>,
}

impl Teller {
    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn key(&mut self) -> String {
        self.key += 1;
        format!("k{:06}", self.key)
    }

    fn pick(&self, choice: u64) -> Option<(u64, (u64, Option<u32>))> {
        let (upload, about) = self
            .uploads
            .iter()
            .nth(usize::try_from(choice).unwrap() % self.uploads.len().max(1))?;
        Some((*upload, *about))
    }

    fn tell(&mut self, choice: u64) -> JournalEvent {
        let rest = choice / 16;
        match choice % 16 {
            0 => JournalEvent::RunResumed,
            1 if rest.is_multiple_of(2) => {
                let lane = LearnedLane {
                    bucket: "default/bucket".into(),
                    class: RequestClass::Write,
                    prefix: self.key(),
                    accepted: u32::try_from(rest).unwrap(),
                };
                JournalEvent::PaceLearned(Learned {
                    lanes: vec![lane],
                    concurrency: 512,
                })
            }
            1 => JournalEvent::RunStopped,
            2 | 3 => {
                let passed = Passed {
                    to: Some(self.key().parse().unwrap()),
                    skipped_objects: 3,
                    skipped_bytes: rest,
                    receipts: vec![
                        ReceiptLine::of(&"skipped \u{fc}\n").unwrap();
                        usize::from(rest.is_multiple_of(3))
                    ],
                    ..Passed::default()
                };
                JournalEvent::KeysPassed(passed)
            }
            4..=7 if !self.pending.is_empty() => self.end(rest),
            8 | 9 => self.intend(),
            10 => self.begin(rest),
            11..=13 => match self.pick(rest) {
                Some((upload, (_, Some(_)))) => {
                    let number = u32::try_from(rest % 5).unwrap() + 1;
                    JournalEvent::PartStored {
                        upload,
                        number,
                        size: 10,
                        etag: format!("{rest:032x}"),
                    }
                }
                _ => JournalEvent::RunStopped,
            },
            14 => match self.pick(rest) {
                Some((upload, (_, Some(_)))) if rest.is_multiple_of(2) => {
                    JournalEvent::CompleteIntended {
                        upload,
                        etag: Some("x-5".into()),
                    }
                }
                Some((upload, _)) => {
                    self.uploads.remove(&upload);
                    JournalEvent::UploadEnded { upload }
                }
                None => JournalEvent::RunStopped,
            },
            _ => {
                let (object, key) = (self.id(), self.key());
                self.pending.push(object);
                planned(object, &key)
            }
        }
    }

    /// Ends one of the pending objects.
    fn end(&mut self, rest: u64) -> JournalEvent {
        let object = self
            .pending
            .swap_remove(usize::try_from(rest).unwrap() % self.pending.len());
        match rest % 3 {
            0 => {
                let failed = FailedObject {
                    destination: String::new(),
                    operation: String::new(),
                    code: String::new(),
                    source: "s3://a/k".into(),
                    kind: "denied".into(),
                    message: "no".into(),
                };
                let ended = Ended::Failed(failed);
                JournalEvent::ObjectEnded {
                    range: 0,
                    object: Some(object),
                    ended,
                    receipt: None,
                }
            }
            _ => ended(object),
        }
    }

    /// Announces an upload of the first pending object.
    fn intend(&mut self) -> JournalEvent {
        match self.pending.first().copied() {
            Some(object) => {
                let upload = self.id();
                self.uploads.insert(upload, (object, None));
                let (bucket, key) = ("bucket".parse().unwrap(), "k".parse().unwrap());
                let place = UploadPlace {
                    endpoint: "default".into(),
                    bucket,
                    key,
                };
                JournalEvent::UploadIntended {
                    upload,
                    object,
                    place,
                    server: None,
                }
            }
            None => JournalEvent::RunStopped,
        }
    }

    fn begin(&mut self, rest: u64) -> JournalEvent {
        match self.pick(rest) {
            Some((upload, (object, None))) => {
                self.uploads.insert(upload, (object, Some(0)));
                JournalEvent::UploadBegan {
                    upload,
                    id: format!("id-{upload}"),
                    source: SourceVersion {
                        size: 50,
                        version: None,
                        etag: Some("e".into()),
                        modified: None,
                    },
                    parts: [10; 5].into_iter().collect(),
                    attributes: "a".into(),
                    kms: false,
                    losses: Vec::new(),
                    adopted: false,
                }
            }
            _ => JournalEvent::RunStopped,
        }
    }
}

/// Returns a story of a run that has begun.
pub(super) fn story() -> impl Strategy<Value = Vec<JournalEvent>> {
    prop::collection::vec(any::<u32>(), 0..120).prop_map(|choices| {
        let mut teller = Teller::default();
        let told = choices
            .into_iter()
            .map(|choice| teller.tell(u64::from(choice)));
        [JournalEvent::RunBegan(info()), range()]
            .into_iter()
            .chain(told)
            .collect()
    })
}

/// Returns the empty state, and then the state after each event.
fn live(story: &[JournalEvent]) -> Vec<RunState> {
    let mut states = vec![RunState::default()];
    for (n, event) in story.iter().enumerate() {
        let mut state = states[n].clone();
        state.apply(at(n as u64), event);
        states.push(state);
    }
    states
}

/// Returns a segment with these events, and the end of each line.
fn written(number: u64, story: &[JournalEvent], from: usize) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Header::new(number, from as u64, &writer("w"), at(0)).line();
    let mut ends = vec![bytes.len()];
    for (n, event) in story.iter().enumerate().skip(from) {
        push_record(&mut bytes, n as u64, at(n as u64), event);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_replay_comes_to_the_state_that_the_run_had(story in story(), cut in any::<prop::sample::Index>()) {
        let states = live(&story);
        let cut = cut.index(story.len() + 1);
        // Reads all events from one segment.
        let mut all = JournalContent::default();
        let (bytes, _) = written(1, &story, 0);
        prop_assert_eq!(all.segment("s", 1, &bytes, false).unwrap(), bytes.len());
        prop_assert_eq!(&all.state, states.last().unwrap());
        // Reads a snapshot in the middle, and then the rest.
        let header = Header::new(2, cut as u64, &writer("w"), at(0));
        let mut rest = JournalContent::snapshot("p", 2, &snapshot(&header, 99, &[], &states[cut])).unwrap();
        prop_assert_eq!(&rest.state, &states[cut]);
        let (bytes, _) = written(2, &story, cut);
        rest.segment("s", 2, &bytes, false).unwrap();
        prop_assert_eq!((&rest.state, rest.next), (states.last().unwrap(), story.len() as u64));
    }

    #[test]
    fn a_torn_end_is_taken_back_to_a_whole_event(story in story(), cut in any::<prop::sample::Index>()) {
        let (states, (bytes, ends)) = (live(&story), written(1, &story, 0));
        let torn = &bytes[..cut.index(bytes.len() + 1)];
        let mut replay = JournalContent::default();
        let good = replay.segment("s", 1, torn, true).unwrap();
        let whole = ends.iter().filter(|end| **end <= torn.len()).count();
        prop_assert_eq!(good, if whole == 0 { 0 } else { ends[whole - 1] });
        prop_assert_eq!(&replay.state, &states[whole.saturating_sub(1)]);
        if good < torn.len() {
            let earlier = JournalContent::default().segment("s", 1, torn, false);
            prop_assert!(matches!(earlier, Err(JournalError::Corrupt { .. })), "only the last may be torn");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_or_was_in_the_last_line(
        story in story(),
        position in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let (states, (mut bytes, ends)) = (live(&story), written(1, &story, 0));
        let position = position.index(bytes.len());
        bytes[position] ^= 1 << bit;
        let mut replay = JournalContent::default();
        match replay.segment("s", 1, &bytes, true) {
            Err(JournalError::Corrupt { line, .. }) => {
                let hit = ends.iter().filter(|end| **end <= position).count() + 1;
                prop_assert_eq!(line, hit);
            }
            Err(other) => prop_assert!(false, "{other}"),
            Ok(good) => {
                let lines = ends.len();
                prop_assert!(position >= ends[lines.saturating_sub(2)] || lines == 1 || position + 1 == ends[lines - 2]);
                prop_assert!(good <= position);
                let whole = ends.iter().filter(|end| **end <= good).count();
                prop_assert_eq!(&replay.state, &states[whole.saturating_sub(1)]);
            }
        }
    }

    #[test]
    fn a_planned_object_is_pending_until_it_ends(story in story()) {
        let mut state = RunState::default();
        let mut passed = None;
        for (n, event) in story.iter().enumerate() {
            state.apply(at(n as u64), event);
            let now = state.ranges.get(&0).and_then(|range| range.passed.clone());
            prop_assert!(now >= passed, "the mark never goes back");
            passed = now;
        }
        let ended = state.totals.done_objects + state.totals.failed_objects;
        prop_assert_eq!(state.totals.planned_objects, ended + state.pending_objects() as u64);
        prop_assert!(state.failures.len() <= 20);
        let stored: u32 = state.uploads.values().filter_map(|open| open.created.as_ref()).map(|created| created.stored.count()).sum();
        prop_assert_eq!(state.open_bytes(), u64::from(stored) * 10);
    }
}

#[test]
fn an_unfinished_run_of_the_same_job_is_gone_on_with() {
    let fingerprint = |text: &str| serde_json::from_str::<Fingerprint>(text).unwrap();
    let (same, other) = (
        fingerprint(r#"{"all.when":"changed"}"#),
        fingerprint(r#"{"all.when":"always"}"#),
    );
    let run = RunInfo {
        fingerprint: same.clone(),
        ..info()
    };
    let mut state = RunState::default();
    assert_eq!(
        decide(&state, &same, Intent::Resume),
        Ok(RunDecision::Begin),
        "there is nothing"
    );
    state.apply(at(1), &JournalEvent::RunBegan(run));
    assert_eq!(
        decide(&state, &same, Intent::Resume),
        Ok(RunDecision::Resume)
    );
    assert_eq!(
        decide(&state, &other, Intent::ResumeAnyway),
        Ok(RunDecision::Resume)
    );
    assert_eq!(decide(&state, &same, Intent::Fresh), Ok(RunDecision::Begin));
    let refused = decide(&state, &other, Intent::Resume)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("`all.when` was changed and is always; start over with --fresh"),
        "{refused}"
    );
    state.apply(at(2), &JournalEvent::RunStopped);
    assert_eq!(
        decide(&state, &same, Intent::Resume),
        Ok(RunDecision::Resume)
    );
    state.apply(at(3), &JournalEvent::RunEnded);
    assert_eq!(
        decide(&state, &other, Intent::Resume),
        Ok(RunDecision::Begin),
        "it is over"
    );
    assert_eq!(state.phase, Phase::Ended);
}

/// Checks that records of version 1 are read, which have true or false instead of a list of losses.
#[test]
fn an_ended_object_of_format_1_is_read() {
    for losses in [
        "",
        r#","losses":true"#,
        r#","losses":false"#,
        r#","losses":[]"#,
    ] {
        let text = format!(r#"{{"done":{{"bytes":7,"parts":1,"proof":"etag"{losses}}}}}"#);
        let Ended::Done { losses, bytes, .. } = serde_json::from_str(&text).unwrap() else {
            panic!("{text}")
        };
        assert_eq!((losses.len(), bytes), (0, 7));
    }
}

/// Journals call adopted uploads `claimed`, which is the older name.
#[test]
fn an_adopted_upload_of_an_older_journal_is_adopted() {
    let text = r#"{"upload_began":{"upload":1,"id":"u","source":{"size":1},"parts":[[1,1]],"attributes":"0","claimed":true}}"#;
    let event: JournalEvent = serde_json::from_str(text).unwrap();
    assert!(
        matches!(event, JournalEvent::UploadBegan { adopted: true, .. }),
        "{event:?}"
    );
    assert_eq!(serde_json::to_string(&event).unwrap(), text);
}
