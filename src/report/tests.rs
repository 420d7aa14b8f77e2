//! Tests the writer of reports.

use std::fs;

use super::*;
use crate::execute::Outcome;

fn origin() -> ReportHeader {
    ReportHeader {
        report: 2,
        command: vec!["copy".into()],
        directory: "/".into(),
        ..ReportHeader::default()
    }
}

#[test]
fn a_journal_goes_on_with_a_report_where_it_is_known_to_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.jsonl");
    let lines = || {
        let text = fs::read_to_string(&path).unwrap();
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut first = ReportWriter::create(&path, &origin()).unwrap();
    assert_eq!(first.rewind(0).unwrap(), 0);
    first.add("1");
    let length = first.sync().unwrap();
    first.add("2, of which the journal knows nothing");
    drop(first);
    let mut second = ReportWriter::reopen(&path, &origin()).unwrap();
    assert_eq!(second.rewind(length).unwrap(), length);
    second.add("2");
    assert_eq!(second.sync().unwrap(), length + 2);
    assert_eq!(lines(), ["1", "2"]);
    // A rewind before the sync drops the receipts in memory.
    second.add("3");
    second.rewind(length).unwrap();
    second.sync().unwrap();
    assert_eq!(lines(), ["1"]);
    // The disk was replaced: the report starts over, which its length shows.
    fs::remove_file(&path).unwrap();
    let mut third = ReportWriter::reopen(&path, &origin()).unwrap();
    assert!(third.rewind(1000).unwrap() < 1000);
    third.add("4");
    third.sync().unwrap();
    assert_eq!(
        lines(),
        [GAP.trim_end(), "4"],
        "the report says itself that it is not whole"
    );
    let first = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(
        serde_json::from_str::<ReportHeader>(&first).unwrap(),
        origin()
    );
}

fn finish(report: &ReportWriter, path: &Path, footer: &Footer) -> Result<(), ReportError> {
    futures::executor::block_on(report.end(path).unwrap().finish(footer))
}

#[test]
fn a_resumed_run_keeps_the_first_header_and_cuts_off_the_footer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.jsonl");
    let mut first = ReportWriter::create(&path, &origin()).unwrap();
    first.add("1");
    let length = first.sync().unwrap();
    let end = Footer::of(&Outcome::default(), 4);
    finish(&first, &path, &end).unwrap();
    let longer = ReportHeader {
        host: "another machine".into(),
        ..origin()
    };
    let header = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_owned();
    for length in [length, 0, length] {
        let mut second = ReportWriter::reopen(&path, &longer).unwrap();
        second.rewind(length).unwrap();
        if length == 0 {
            second.add("1");
        }
        second.sync().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{header}\n1\n"));
        finish(&second, &path, &end).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains(r#""lines":1,"#));
    }
    // The journal recorded a greater length than the disk has: the footer must not end up in the
    // middle.
    let mut third = ReportWriter::reopen(&path, &longer).unwrap();
    third.rewind(10_000).unwrap();
    third.sync().unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{header}\n1\n{GAP}")
    );
    // The report of another run is not continued.
    let other = ReportHeader {
        run: "other".into(),
        ..origin()
    };
    let run = ReportHeader {
        run: "run".into(),
        ..origin()
    };
    ReportWriter::create(&path, &other).unwrap().add("1");
    ReportWriter::reopen(&path, &run)
        .unwrap()
        .rewind(10_000)
        .unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains(r#""run":"run""#) && text.ends_with(GAP) && text.lines().count() == 2,
        "{text}"
    );
}

#[test]
fn a_full_disk_is_told_at_the_next_sync_and_passes_with_a_rewind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.jsonl");
    let mut writer = ReportWriter::create(&path, &origin()).unwrap();
    let header = writer.header_length;
    assert_eq!(writer.sync().unwrap(), 0, "it has no receipts");
    // The file of the writer is replaced by a full device, and then restored.
    let real = std::mem::replace(
        &mut writer.file,
        BufWriter::new(File::create("/dev/full").unwrap()),
    );
    for number in 0..100_000 {
        writer.add(&number.to_string());
    }
    assert_eq!(
        writer.sync().unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    let (_, _unwritten) = std::mem::replace(&mut writer.file, real).into_parts();
    assert!(
        writer.sync().is_err(),
        "receipts are missing until it is rewound"
    );
    writer.rewind(0).unwrap();
    writer.add("0");
    assert_eq!(writer.sync().unwrap(), header + 2);
}

#[test]
fn a_report_begun_anew_says_that_it_lacks_receipts_whatever_the_length_of_its_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.jsonl");
    let length = |writer: &mut ReportWriter, receipt| {
        writer.rewind(0).unwrap();
        writer.add(receipt);
        writer.sync().unwrap()
    };
    let longer = ReportHeader {
        host: "h".repeat(100),
        ..origin()
    };
    let written = length(&mut ReportWriter::create(&path, &origin()).unwrap(), "1");
    let header = serde_json::to_string(&longer).unwrap().len() as u64 + 1;
    assert!(written < header);
    for known in [written, header, header + 10] {
        fs::remove_file(&path).unwrap();
        let mut writer = ReportWriter::reopen(&path, &longer).unwrap();
        writer.rewind(known).unwrap();
        writer.add("2");
        let synced = writer.sync().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with(&format!("}}\n{GAP}2\n")) && text.lines().count() == 3,
            "{text}"
        );
        // The next rewind does not lose receipts of this session.
        assert_eq!(writer.rewind(synced).unwrap(), synced);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    // A session was killed before it could write the gap.
    drop(ReportWriter::create(&path, &longer).unwrap());
    ReportWriter::reopen(&path, &origin())
        .unwrap()
        .rewind(written)
        .unwrap();
    assert!(fs::read_to_string(&path).unwrap().ends_with(GAP));
    // Nothing is missing if there were no receipts, or if the journal finds that they belong to
    // another run.
    for known in [0, header] {
        drop(ReportWriter::create(&path, &longer).unwrap());
        let mut writer = ReportWriter::reopen(&path, &origin()).unwrap();
        assert_eq!(writer.rewind(known).unwrap(), known);
        assert_eq!(writer.sync().unwrap(), 0);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
    let mut writer = ReportWriter::create(&path, &longer).unwrap();
    writer.rewind(written).unwrap();
    writer.rewind(0).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
}

#[test]
fn a_stream_that_lacks_receipts_of_an_earlier_session_begins_with_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let written = |rewinds: &[u64]| {
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        let mut writer = ReportWriter::reopen(&pipe, &origin()).unwrap();
        for length in rewinds {
            writer.rewind(*length).unwrap();
        }
        writer.add("1");
        let length = writer.sync().unwrap();
        // The same session continues after its last line.
        assert_eq!(writer.rewind(length).unwrap(), length);
        writer.add("2");
        assert_eq!(writer.sync().unwrap(), length + 2);
        assert_eq!(writer.shared.lines.load(Ordering::Relaxed), 2);
        finish(&writer, &pipe, &Footer::of(&Outcome::default(), 0)).unwrap();
        drop(writer);
        let text = reader.join().unwrap();
        let (receipts, footer) = text.trim_end().rsplit_once('\n').unwrap();
        assert!(
            footer.contains("\"footer\"") && !footer.contains("checksum"),
            "the stream may have receipts twice: {footer}"
        );
        format!("{}\n", receipts.split_once('\n').unwrap().1)
    };
    assert_eq!(written(&[0]), "1\n2\n");
    assert_eq!(written(&[10_000]), format!("{GAP}1\n2\n"));
    assert_eq!(
        written(&[10]),
        format!("{GAP}1\n2\n"),
        "shorter than the header of this session"
    );
    // The receipts before a rewind to 0 belong to an earlier run.
    assert_eq!(written(&[10_000, 0]), "1\n2\n");
}

#[test]
fn a_path_that_can_not_be_written_is_told_at_once() {
    let error = ReportWriter::create(Path::new("/proc/report.jsonl"), &origin()).unwrap_err();
    assert!(error.to_string().contains("choose another path"), "{error}");
}

#[test]
fn a_session_that_rewinds_to_its_own_receipts_lacks_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.jsonl");
    for path in [&path, Path::new("/dev/null")] {
        let mut writer = ReportWriter::create(path, &origin()).unwrap();
        writer.add("1");
        let length = writer.sync().unwrap();
        writer.add("2");
        assert_eq!(writer.rewind(length).unwrap(), length);
        writer.add("2");
        assert_eq!(writer.sync().unwrap(), length + 2);
    }
    assert!(fs::read_to_string(&path).unwrap().ends_with("}\n1\n2\n"));
}

#[test]
fn a_footer_counts_a_stream_that_was_not_rewound() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for rewinds in [&[0][..], &[10_000, 0]] {
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        let mut writer = ReportWriter::reopen(&pipe, &origin()).unwrap();
        for length in rewinds {
            writer.rewind(*length).unwrap();
        }
        writer.add("1");
        writer.sync().unwrap();
        finish(&writer, &pipe, &Footer::of(&Outcome::default(), 0)).unwrap();
        drop(writer);
        let text = reader.join().unwrap();
        assert!(
            text.contains(r#""lines":1,"#) && text.contains("checksum"),
            "{text}"
        );
    }
}

#[test]
fn a_long_line_that_was_torn_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.jsonl");
    let mut first = ReportWriter::create(&path, &origin()).unwrap();
    first.add("1");
    first.sync().unwrap();
    drop(first);
    let whole = fs::read_to_string(&path).unwrap();
    let torn = "x".repeat(100_000);
    fs::write(&path, format!("{whole}{torn}")).unwrap();
    let mut second = ReportWriter::reopen(&path, &origin()).unwrap();
    second.rewind(1_000_000).unwrap();
    second.sync().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{whole}{GAP}"));
}
