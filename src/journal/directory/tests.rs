//! Tests crashes, damage, and other processes on a real file system.

use super::super::tests::{at, ended, info, planned, range, writer};
use super::super::{LeaseTerms, Life, Location, Opened, look};
use super::*;
use crate::journal::event::{JournalEvent, UploadPlace};
use crate::journal::segment::push_record;

fn lines(next: u64, events: &[JournalEvent]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (n, event) in (next..).zip(events) {
        push_record(&mut lines, n, at(n), event);
    }
    lines
}

fn events() -> [JournalEvent; 4] {
    [
        JournalEvent::RunBegan(info()),
        range(),
        planned(1, "a"),
        planned(2, "b"),
    ]
}

fn open(path: &Path) -> (Directory, JournalContent) {
    Directory::open(path, writer("w")).unwrap()
}

fn files(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Writes a journal of four events, and drops its writer. Returns the state.
async fn written(path: &Path) -> RunState {
    let (mut directory, mut replay) = open(path);
    directory.write(0, lines(0, &events())).await.unwrap();
    directory.sync().await.unwrap();
    for (n, event) in (0..).zip(&events()) {
        replay.state.apply(at(n), event);
    }
    replay.state
}

#[tokio::test]
async fn a_session_goes_on_where_the_one_before_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/journal");
    let state = written(&path).await;
    let (mut second, replay) = open(&path);
    assert_eq!((&replay.state, replay.next), (&state, 4));
    second.write(4, lines(4, &[ended(1)])).await.unwrap();
    drop(second);
    let (third, replay) = open(&path);
    assert_eq!((replay.next, replay.state.pending_objects()), (5, 1));
    assert_eq!(third.segment, 3, "each session has a segment");
}

#[tokio::test]
async fn a_second_process_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = open(dir.path());
    let refused = Directory::open(dir.path(), writer("other")).unwrap_err();
    let JournalError::Held { by, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(**by, writer("w"));
    assert!(
        refused
            .to_string()
            .contains("in use by process 7 on test since 1970-01-01"),
        "{refused}"
    );
    drop(first);
    open(dir.path());
}

#[tokio::test]
async fn a_write_that_was_cut_short_is_taken_back_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let state = written(dir.path()).await;
    let file = dir.path().join(segment_name(1));
    let whole = fs::read(&file).unwrap();
    for tail in [&b"0123"[..], b"\0\0\0\0\n\0\0", &whole[..30]] {
        fs::write(&file, [&whole, tail].concat()).unwrap();
        let (_, replay) = open(dir.path());
        assert_eq!(replay.state, state);
        assert_eq!(fs::read(&file).unwrap(), whole);
        fs::remove_file(dir.path().join(segment_name(2))).unwrap();
    }
    // Nothing was ever written to the second segment, not even a whole header.
    fs::write(dir.path().join(segment_name(2)), b"01").unwrap();
    let (directory, replay) = open(dir.path());
    assert_eq!((replay.state, directory.segment), (state, 2));
}

#[tokio::test]
async fn damage_before_the_end_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let file = dir.path().join(segment_name(1));
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&file, &bytes).unwrap();
    let refused = Directory::open(dir.path(), writer("w"))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("segment-0000000001.log, line") && refused.contains("--fresh"),
        "{refused}"
    );
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

#[tokio::test]
async fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    drop(open(dir.path()));
    fs::remove_file(dir.path().join(segment_name(1))).unwrap();
    let refused = Directory::open(dir.path(), writer("w"))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("segment-0000000001.log") && refused.contains("not there"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_snapshot_takes_the_place_of_what_was_before_at_every_moment_of_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let state = written(dir.path()).await;
    let before = tempfile::tempdir().unwrap();
    let old = dir.path().join(segment_name(1));
    fs::copy(&old, before.path().join(segment_name(1))).unwrap();
    let (mut directory, replay) = open(dir.path());
    assert_eq!(replay.state, state);
    directory.write(4, lines(4, &[ended(1)])).await.unwrap();
    let mut after = state.clone();
    after.apply(at(4), &ended(1));
    directory.snapshot(5, 77, &after).await.unwrap();
    assert_eq!(
        files(dir.path()),
        ["lock", "segment-0000000003.log", "snapshot-0000000003.log"]
    );
    directory.write(5, lines(5, &[ended(2)])).await.unwrap();
    let mut tail = Vec::new();
    let mut push = |event: JournalEvent| tail.push(event);
    directory.tail(&mut push).await.unwrap();
    assert_eq!(tail, [ended(2)]);
    drop(directory);
    // The crash came before the old segments were removed, and left an unfinished snapshot.
    fs::copy(before.path().join(segment_name(1)), &old).unwrap();
    fs::write(dir.path().join("snapshot-0000000009.log.half"), b"half").unwrap();
    after.apply(at(5), &ended(2));
    let (_, replay) = open(dir.path());
    assert_eq!((&replay.state, replay.report), (&after, 77));
    let names = files(dir.path());
    assert!(
        !names
            .iter()
            .any(|name| name.ends_with(TEMP_SUFFIX) || name == "segment-0000000001.log"),
        "{names:?}"
    );
}

/// Writes a journal with an open upload and a damaged line. Returns the bytes of its file.
async fn damaged(path: &Path) -> Vec<u8> {
    let (mut directory, _) = open(path);
    let place = UploadPlace {
        endpoint: "default".into(),
        bucket: "bucket".parse().unwrap(),
        key: "k".parse().unwrap(),
    };
    let intended = JournalEvent::UploadIntended {
        upload: 7,
        object: 1,
        place,
        server: None,
    };
    let story = [
        JournalEvent::RunBegan(info()),
        range(),
        intended,
        planned(9, "a"),
    ];
    directory.write(0, lines(0, &story)).await.unwrap();
    drop(directory);
    let file = path.join(segment_name(1));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("run_began", "run_bogus", 1)).unwrap();
    assert!(Directory::open(path, writer("w")).is_err());
    fs::read(&file).unwrap()
}

/// The salvaged state is on the disk before the old files are removed, so a process that ends now
/// loses no upload.
#[tokio::test]
async fn a_journal_that_is_begun_anew_has_the_open_uploads_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let before = damaged(&path).await;
    let (anew, replay, salvage, aside) = Directory::begin_anew(&path, writer("w")).unwrap();
    assert_eq!((salvage.open_uploads(), salvage.bad_lines), (1, 1));
    assert_eq!(fs::read(aside.join(segment_name(1))).unwrap(), before);
    assert!(
        Directory::begin_anew(&path, writer("w")).is_err(),
        "it is locked"
    );
    drop(anew);
    let (mut again, read) = open(&path);
    assert_eq!((&read.state, read.next), (&replay.state, 0));
    assert_eq!(read.state.uploads.keys().collect::<Vec<_>>(), [&7]);
    assert!(!read.state.is_unfinished());
    again.write(0, lines(0, &events())).await.unwrap();
    again.snapshot(4, 0, &read.state).await.unwrap();
    drop(again);
    assert_eq!(open(&path).1.state, read.state);
    assert!(aside.join(segment_name(1)).exists());
}

/// The new paths of the old files are too long, but the path of the new snapshot is not.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn old_files_that_cannot_be_kept_stay_where_they_are() {
    const LONGEST: usize = 4095;
    let dir = tempfile::tempdir().unwrap();
    let mut path = dir.path().to_owned();
    let length = LONGEST - 40;
    while path.as_os_str().len() + 200 < length {
        path.push("d".repeat(100));
    }
    path.push("d".repeat(length - path.as_os_str().len() - 1));
    let before = damaged(&path).await;
    assert!(Directory::begin_anew(&path, writer("w")).is_err());
    assert!(Directory::open(&path, writer("w")).is_err());
    assert_eq!(fs::read(path.join(segment_name(1))).unwrap(), before);
}

#[tokio::test]
async fn a_file_that_is_removed_while_the_journal_is_listed_does_not_hide_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let gone = || Err(io::Error::from(io::ErrorKind::NotFound));
    let mut looks = 0;
    let found = DirectoryFiles::look_with(dir.path(), |entry| {
        looks += 1;
        if looks == 1 {
            return gone();
        }
        entry.metadata().map(|metadata| metadata.len())
    });
    assert_eq!(found.unwrap(), DirectoryFiles::look(dir.path()).unwrap());
    let error = DirectoryFiles::look_with(dir.path(), |_| gone()).unwrap_err();
    assert_ne!(error.kind(), io::ErrorKind::NotFound);
    let error = DirectoryFiles::look(&dir.path().join("nowhere")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_snapshot_without_a_segment_after_it_does_not_look_cut() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let (mut directory, replay) = open(dir.path());
    directory.snapshot(4, 0, &replay.state).await.unwrap();
    let mut larger = replay.state.clone();
    larger.apply(at(4), &planned(3, &"k".repeat(500)));
    fs::write(dir.path().join(segment_name(4)), b"in the way").unwrap();
    directory.snapshot(5, 0, &larger).await.unwrap_err();
    assert_eq!(directory.written().into_iter().find(is_cut), None);
}

#[tokio::test]
async fn segments_stay_short_although_no_snapshot_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(dir.path());
    let event = planned(1, &"k".repeat(1000));
    let mut next = 0;
    while directory.segment < 3 {
        let batch = vec![event.clone(); 2000];
        directory.write(next, lines(next, &batch)).await.unwrap();
        next += 2000;
    }
    assert!(directory.wants_snapshot());
    let mut seen = 0;
    let mut count = |_: JournalEvent| seen += 1;
    directory.tail(&mut count).await.unwrap();
    assert_eq!(seen, next);
    drop(directory);
    assert_eq!(open(dir.path()).1.next, next);
}

#[tokio::test]
async fn a_look_changes_nothing_and_sees_whether_a_run_is_alive() {
    let dir = tempfile::tempdir().unwrap();
    let glance = || look(Location::Directory(dir.path().join("journal")));
    assert!(glance().await.unwrap().is_none());
    let opened = Opened::open(
        Location::Directory(dir.path().join("journal")),
        &LeaseTerms::default(),
    )
    .await
    .unwrap();
    let journal = opened.begin(info(), None).await.unwrap();
    journal.commit(range()).await.unwrap();
    let before = files(&dir.path().join("journal"));
    let seen = glance().await.unwrap().unwrap();
    assert_eq!((seen.life, seen.state.ranges.len()), (Life::Running, 1));
    assert_eq!(seen.writer.unwrap().pid, std::process::id());
    assert_eq!(files(&dir.path().join("journal")), before);
    // The process is killed: its lock is released, and no end is on record.
    drop(journal);
    for _ in 0..500 {
        if glance().await.unwrap().unwrap().life == Life::Dead {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(glance().await.unwrap().unwrap().life, Life::Dead);
    for (last, life) in [
        (JournalEvent::RunStopped, Life::Stopped),
        (JournalEvent::RunEnded, Life::Ended),
    ] {
        let opened = Opened::open(
            Location::Directory(dir.path().join("journal")),
            &LeaseTerms::default(),
        )
        .await
        .unwrap();
        let journal = opened.resume(None).await.unwrap();
        journal.close(last).await.unwrap();
        for _ in 0..500 {
            if glance().await.unwrap().unwrap().life == life {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(glance().await.unwrap().unwrap().life, life);
    }
}

#[test]
fn a_full_disk_is_told_from_other_faults() {
    let error = File::create("/dev/full")
        .and_then(|mut file| file.write_all(b"x"))
        .unwrap_err();
    assert!(matches!(
        JournalError::io("dir", &error),
        JournalError::Full { .. }
    ));
    let error = File::open("/nowhere").unwrap_err();
    assert!(matches!(
        JournalError::io("dir", &error),
        JournalError::Io { .. }
    ));
}
