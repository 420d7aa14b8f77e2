//! Tests which pieces count, and the names of directories.

use super::*;

fn head(piece: u64, at: u64, length: u64) -> PieceHead {
    PieceHead {
        piece,
        run: "r".into(),
        session: "s".into(),
        host: String::new(),
        at,
        end: ReportLength {
            length,
            lines: 0,
            sum: u64::MAX,
        },
        footer: false,
    }
}

fn numbers(heads: &[PieceHead]) -> Vec<u64> {
    heads.iter().map(|head| head.piece).collect()
}

#[test]
fn a_piece_cuts_off_what_stands_behind_its_beginning() {
    let ok = |heads: &[(u64, u64, u64)]| {
        let heads = heads
            .iter()
            .map(|(number, at, length)| Ok(head(*number, *at, *length)));
        keep(heads.collect())
    };
    let heads = [
        (1, 0, 10),
        (2, 10, 30),
        (3, 30, 40),
        (4, 30, 30),
        (5, 10, 50),
        (6, 50, 60),
    ];
    assert_eq!(numbers(&ok(&heads).unwrap()), [1, 5, 6]);
    assert!(ok(&[]).unwrap().is_empty());
    let error = ok(&[(1, 0, 10), (3, 20, 30), (4, 30, 40)]).unwrap_err();
    assert!(error.contains("piece 3 begins at byte 20"), "{error}");
    // A missing piece does not matter once a later piece discards it.
    let anew = ok(&[(1, 0, 10), (3, 20, 30), (4, 0, 15), (5, 15, 20)]);
    assert_eq!(numbers(&anew.unwrap()), [4, 5]);
    for heads in [
        &[(2, 10, 20)][..],
        &[(1, 0, 10), (2, 10, 5)],
        &[(1, 0, 10), (2, 5, 20)],
        &[(1, 0, 10), (3, 20, 30), (4, 10, 12)],
    ] {
        assert!(ok(heads).is_err(), "{heads:?}");
    }
    // If nothing is left of a report, a new one may begin.
    assert_eq!(numbers(&ok(&[(2, 10, 20), (3, 0, 5)]).unwrap()), [3]);
    let unreadable = vec![Ok(head(1, 0, 10)), Err(2), Ok(head(3, 20, 30))];
    assert_eq!(keep(unreadable).unwrap_err(), "its piece 2 has no head");
}

#[test]
fn directories_ascend_with_the_time_of_their_runs() {
    let name = run_directory("19ca71fb900a83f4");
    assert_eq!(name, "report-20260301T020000Z-19ca71fb900a83f4/");
    assert!(is_run_directory(name.trim_end_matches('/')));
    assert!(run_directory("19ca71fb90100000") > name);
    let hostile = run_directory("../../x\n");
    assert_eq!(hostile, "report-19700101T000000Z-x/");
    let key = format!("ops/{name}000001.jsonl");
    assert_eq!(directory_in(&key, "ops/"), Some(&*format!("ops/{name}")));
    for other in [
        "ops/report-x/1",
        "ops/report.jsonl",
        "ops/a/report-1/2",
        "x",
    ] {
        assert_eq!(directory_in(other, "ops/"), None, "{other}");
    }
}

#[test]
fn a_head_is_read_as_it_was_written() {
    let mut first = head(1, 0, 5);
    first.footer = true;
    let mut bytes = first.line().unwrap();
    let length = bytes.len();
    bytes.extend_from_slice(b"12345");
    assert_eq!(head_of(&bytes), Some((first, length)));
    assert_eq!(head_of(b"{\"piece\":1}\n"), None);
    assert_eq!(head_of(b"no line"), None);
}
