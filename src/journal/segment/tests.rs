//! Tests which journals a reader refuses, and with which messages.

use super::super::tests::{at, info, planned, range, writer};
use super::*;

fn segment(number: u64, next: u64, events: &[JournalEvent]) -> Vec<u8> {
    let mut bytes = Header::new(number, next, &writer("w"), at(0)).line();
    for (n, event) in (next..).zip(events) {
        push_record(&mut bytes, n, at(n), event);
    }
    bytes
}

fn refused(number: u64, bytes: &[u8]) -> String {
    JournalContent::default()
        .segment("dir/segment", number, bytes, true)
        .unwrap_err()
        .to_string()
}

#[test]
fn a_journal_is_lines_that_people_can_read() {
    let event = JournalEvent::PartStored {
        upload: 12,
        number: 345,
        size: 6,
        etag: "e".into(),
    };
    let mut line = Vec::new();
    push_record(&mut line, 4711, at(1_763_819_111_004), &event);
    let text = String::from_utf8(line).unwrap();
    let json = r#"{"n":4711,"at":1763819111004,"event":{"part_stored":{"upload":12,"number":345,"size":6,"etag":"e"}}}"#;
    assert_eq!(text, format!("{:08x} {json}\n", crc32c(json.as_bytes())));
    assert_eq!(
        crc32c(b"123456789"),
        0xe306_9283,
        "the check value of CRC-32C"
    );
}

#[test]
fn damage_in_the_middle_is_refused_with_what_to_do() {
    let mut bytes = segment(
        1,
        0,
        &[JournalEvent::RunBegan(info()), range(), planned(1, "a")],
    );
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    let message = refused(1, &bytes);
    assert!(
        message.starts_with("dir/segment, line 2: the line is damaged; restore the journal"),
        "{message}"
    );
    assert!(message.contains("--fresh"), "{message}");
}

#[test]
fn the_content_of_a_line_makes_no_other_line() {
    let mut bytes = segment(1, 0, &[]);
    let json = r#"{"n":0,"at":0,"event":{"x\n2026-01-01T00:00:00Z ERROR forged\u001b[31m":{}}}"#;
    bytes.extend(format!("{:08x} {json}\n", crc32c(json.as_bytes())).into_bytes());
    let message = refused(1, &bytes);
    assert!(
        message.contains(r"x\n2026-01-01T00:00:00Z ERROR forged\u{1b}"),
        "{message}"
    );
    assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
}

#[test]
fn a_line_or_segment_that_is_missing_is_noticed() {
    let events = [JournalEvent::RunBegan(info()), range(), planned(1, "a")];
    let whole = segment(1, 0, &events);
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let without = [lines[0], lines[1], lines[3]].concat();
    assert!(refused(1, &without).contains("is record 2, but 1 is due"));
    assert!(
        refused(1, &segment(2, 0, &events))
            .contains("is segment 2 from record 0 on, but segment 1")
    );
    assert!(refused(1, &segment(1, 7, &events)).contains("from record 0 on is due"));
}

#[test]
fn a_later_format_is_refused_by_the_name_of_its_version() {
    let mut header = Header::new(1, 0, &writer("w"), at(0));
    (header.journal, header.tool) = (FORMAT + 1, "9.1.0".to_owned());
    let message = refused(1, &header.line());
    assert!(
        message.contains("written by s3haul 9.1.0, this is"),
        "{message}"
    );
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let header = Header::new(3, 5, &writer("w"), at(0));
    let good = snapshot(
        &header,
        7,
        &[Fence {
            segment: 1,
            at: at(1),
        }],
        &RunState::default(),
    );
    let read = JournalContent::snapshot("p", 3, &good).unwrap();
    assert_eq!(
        (
            read.snapshot,
            read.base,
            read.next,
            read.report,
            read.fences.len()
        ),
        (3, 5, 5, 7, 1)
    );
    for cut in [0, 10, good.len() / 2, good.len() - 1] {
        assert!(
            matches!(
                JournalContent::snapshot("p", 3, &good[..cut]),
                Err(JournalError::Corrupt { .. })
            ),
            "{cut}"
        );
    }
    let long = [&good[..], b"more\n"].concat();
    for (number, bytes, why) in [
        (4, &good, "is snapshot 3, but 4 is due"),
        (3, &long, "line 3: the line is damaged"),
    ] {
        let refused = JournalContent::snapshot("p", number, bytes).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

#[test]
fn sessions_are_told_apart_by_their_writers() {
    let mut replay = JournalContent::default();
    for (number, id) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
        replay
            .segment(
                "s",
                number,
                &Header::new(number, 0, &writer(id), at(0)).line(),
                false,
            )
            .unwrap();
    }
    let taken_over: Vec<_> = replay.fences.iter().map(|fence| fence.segment).collect();
    assert_eq!(taken_over, [1, 3]);
}

#[test]
fn names_sort_as_they_count_and_nothing_else_is_one() {
    for name in [FileName::Segment(7), FileName::Snapshot(12_345_678_901)] {
        assert_eq!(FileName::parse(&name.to_string()), Some(name));
    }
    for other in [
        "lock",
        "segment-x.log",
        "segment-1.tmp",
        "snapshot-.log",
        "1.log",
    ] {
        assert_eq!(FileName::parse(other), None, "{other}");
    }
}
