//! Selections cost as much as they match: the list requests for patterns, which find the same
//! objects.

use std::collections::BTreeSet;
use std::time::Duration;

use rstest::rstest;
use s3haul::execute::receipt::{Ending, Receipt};
use s3haul::journal::Intent;
use s3haul::manifest::job::{PartSize, Selection, Source, Transfer, Versions, When};
use s3haul::manifest::keys::KeyMap;
use s3haul::plan::decide::Skip;
use s3haul::planner::{Planned, Sides};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation, Store};
use s3haul::size::ByteSize;

use crate::world::program::{at, run};
use crate::world::{DESTINATION, SOURCE, World, copy_all, destination, upload_all, uri};

const LIST: Operation = Operation::ListObjectsV2;

/// Returns the prefixes of the lists of a bucket, in the order of requests.
fn lists(world: &World, operation: Operation, bucket: &str) -> Vec<String> {
    let calls = world.sandbox.calls().of(operation);
    calls
        .into_iter()
        .filter(|call| call.bucket == bucket)
        .map(|call| call.key)
        .collect()
}

fn select(include: &[&str], exclude: &[&str]) -> Selection {
    let globs = |globs: &[&str]| globs.iter().map(|glob| glob.parse().unwrap()).collect();
    Selection {
        include: globs(include),
        exclude: globs(exclude),
        ..Selection::default()
    }
}

/// Returns a transfer from `below` of the source to `to/` of the destination.
fn transfer(below: &str, select: Selection) -> Transfer {
    let from = Source::Prefix {
        endpoint: "default".to_owned(),
        location: uri(&format!("s3://source/{below}")),
    };
    Transfer {
        select,
        ..Transfer::new("all", from, destination("s3://destination/to/"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_on_the_command_line_lists_its_literal_beginning() {
    let world = World::new().await;
    for index in 0..300_000 {
        world.put(&format!("logs/{index:08}"), 1);
    }
    let (exit, stdout, stderr) = run(
        at(&world),
        &["copy", "s3://source/logs/0001234*", "s3://destination/to/"],
    )
    .await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(stdout.contains("10 objects copied"), "{stdout}");
    assert_eq!(lists(&world, LIST, SOURCE), ["logs/0001234"]);
    assert_eq!(lists(&world, LIST, DESTINATION), ["to/0001234"]);
    world.sandbox.calls().clear();
    let (exit, stdout, _) = run(
        at(&world),
        &[
            "verify",
            "s3://source/logs/0001234*",
            "s3://destination/to/",
            "--provider",
            "aws",
        ],
    )
    .await;
    assert!(exit == 0 && stdout.contains(": 10 equal"), "{stdout}");
    assert_eq!(lists(&world, LIST, SOURCE), ["logs/0001234"]);
    assert_eq!(lists(&world, LIST, DESTINATION), ["to/0001234"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_includes_list_the_smallest_set_of_prefixes() {
    let world = World::new().await;
    let mut wanted = BTreeSet::new();
    for year in 2020..2030 {
        for index in 0..300 {
            let key = format!("p/{year}/{:02}/{index:04}.parquet", index % 12 + 1);
            world.put(&key, 1);
            world.put(&format!("p/{year}/x{index}"), 1);
            if year == 2026 || (year == 2027 && (1..=2).contains(&(index % 12 + 1))) {
                wanted.insert(key.replacen("p/", "to/", 1));
            }
            if year == 2028 && index.to_string().starts_with('1') {
                wanted.insert(format!("to/{year}/x{index}"));
            }
        }
    }
    // One prefix is below another, and an alternative makes two.
    let include = [
        "2028/x1*",
        "2026/**/*.parquet",
        "2026/01/*",
        "2027/{01,02}/*",
    ];
    let run = world.run(transfer("p/", select(&include, &[]))).await;
    assert_eq!(run.outcome.failed_objects, 0);
    assert_eq!(
        world.keys(DESTINATION),
        wanted.into_iter().collect::<Vec<_>>()
    );
    let mut prefixes = lists(&world, LIST, SOURCE);
    prefixes.sort();
    assert_eq!(
        prefixes,
        ["p/2026/", "p/2027/01/", "p/2027/02/", "p/2028/x1"]
    );
    let there: BTreeSet<_> = lists(&world, LIST, DESTINATION).into_iter().collect();
    assert!(
        there.iter().all(|prefix| prefix.starts_with("to/202")),
        "{there:?}"
    );

    world.sandbox.calls().clear();
    let run = world
        .run(transfer("p/", select(&["2026/*", "*.csv"], &[])))
        .await;
    assert_eq!(run.outcome.failed_objects, 0);
    assert!(
        lists(&world, LIST, SOURCE)
            .iter()
            .all(|prefix| prefix == "p/"),
        "one pattern has no literal prefix"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_destinations_list_is_that_of_the_mapped_keys() {
    let world = World::new().await;
    for index in 0..3000 {
        world.put(&format!("raw/{index:04}"), 1);
        world.put_in(DESTINATION, &format!("to/v1/n-{index:04}"), 1);
        world.put_in(DESTINATION, &format!("to/{index:04}"), 1);
    }
    let keys = |rename: &str| KeyMap {
        strip_prefix: Some("raw/".to_owned()),
        add_prefix: Some("v1/".to_owned()),
        rename: Some(rename.parse().unwrap()),
    };
    let mut transfer = transfer("", select(&["raw/001*", "raw/002?"], &["raw/0019"]));
    transfer.keys = keys("n-{key}");
    let run = world.run(transfer.clone()).await;
    assert_eq!(
        (run.outcome.skipped_objects, run.outcome.done_objects),
        (19, 0)
    );
    let mut prefixes = lists(&world, LIST, SOURCE);
    prefixes.sort();
    assert_eq!(prefixes, ["raw/001", "raw/002"]);
    let mut prefixes = lists(&world, LIST, DESTINATION);
    prefixes.sort();
    assert_eq!(prefixes, ["to/v1/n-001", "to/v1/n-002"]);
    // If the key map does not keep the order, each key gets its own HEAD.
    world.sandbox.calls().clear();
    transfer.keys = keys("{dir}{name}");
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.done_objects, 19);
    assert!(lists(&world, LIST, DESTINATION).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_directory_that_is_excluded_is_passed_over() {
    let world = World::new().await;
    for index in 0..30_000 {
        world.put(&format!("tmp/{index:06}"), 1);
        world.put_in(DESTINATION, &format!("to/tmp/{index:06}"), 1);
    }
    for key in [
        "a",
        "tmp",
        "tmp.",
        "tmp0",
        "tmp/\u{10FFFF}",
        "x/_spark/1",
        "z",
    ] {
        world.put(key, 1);
    }
    let kept = select(&[], &["tmp/**", "**/_spark/**"]);
    let run = world.run(transfer("", kept.clone())).await;
    assert_eq!(run.outcome.done_objects, 5, "{:?}", run.outcome);
    let pages = lists(&world, LIST, SOURCE).len();
    assert!(pages <= 4, "{pages} pages of the source");
    let pages = lists(&world, LIST, DESTINATION).len();
    assert!(pages <= 4, "{pages} pages of the destination");
    world.sandbox.calls().clear();
    let run = world.run(transfer("", kept)).await;
    assert_eq!(run.outcome.skipped_objects, 5);
    // `tmp*` matches no slash, so nothing behind one is listed.
    world.sandbox.calls().clear();
    let run = world.run(transfer("", select(&["tmp*"], &[]))).await;
    assert_eq!(run.outcome.skipped_objects, 3);
    let pages = lists(&world, LIST, SOURCE).len();
    assert!(pages <= 4, "{pages} pages of the source");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_excluded_directory_in_the_middle_hides_nothing_from_ranges() {
    let world = World::new().await;
    let mut wanted = Vec::new();
    for index in 0..12_000_u32 {
        let key = format!("{:08x}", index.wrapping_mul(0x9E37_79B1));
        world.put(&key, 1);
        world.put(&format!("7/{key}"), 1);
        wanted.push(key);
    }
    wanted.sort();
    let (source, destination) = (world.bucket(SOURCE).await, world.bucket(DESTINATION).await);
    let select = select(&[], &["7/**"]);
    let sides = Sides {
        transfer: Transfer {
            select,
            ..copy_all()
        }
        .into(),
        source: Some(source),
        destination,
    };
    let mut steps = sides.plan_in_any_order();
    let mut found = Vec::new();
    while let Some(planned) = steps.recv().await {
        match planned {
            Planned::Step(step) => found.push(step.entry.key.to_string()),
            Planned::Excluded(_) => {}
            other => panic!("{other:?}"),
        }
    }
    found.sort();
    assert_eq!(found, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_resumes_with_the_remaining_prefixes() {
    let mut world = World::new().await;
    let days: Vec<_> = (1..=20).map(|day| format!("2026-11-{day:02}/*")).collect();
    for index in 0..20_000 {
        let key = format!(
            "2026-{:02}-{:02}/{index:06}",
            10 + index % 2,
            1 + index / 2 % 20
        );
        world.put(&key, 1);
        if index / 2 % 50 != 0 {
            world.put_in(DESTINATION, &key, 1);
        }
    }
    let days: Vec<_> = days.iter().map(String::as_str).collect();
    let job = world.job(Transfer {
        select: select(&days, &[]),
        ..copy_all()
    });
    let directory = tempfile::tempdir().unwrap();
    let mut dealt_with = Vec::new();
    for session in 1..=3 {
        world.stop = tokio_util::sync::CancellationToken::new();
        world.sandbox.faults().clear();
        world.sandbox.calls().clear();
        if session < 3 {
            let stop = world.stop.clone();
            world.add_fault(
                Fault::on(LIST)
                    .nth(12)
                    .then(Effect::hook(move |_| stop.cancel())),
            );
        }
        let run = world
            .session(&directory.path().join("journal"), &job, Intent::Resume)
            .await;
        assert_eq!(run.outcome.stopped, session < 3, "session {session}");
        let over = run
            .receipts
            .into_iter()
            .filter(|receipt| receipt.ending != Ending::Stopped);
        dealt_with.extend(over.map(|receipt| receipt.destination));
        let prefixes = lists(&world, LIST, SOURCE);
        assert!(
            prefixes.iter().all(|prefix| prefix.starts_with("2026-11-")),
            "{prefixes:?}"
        );
    }
    let all = dealt_with.len();
    dealt_with.sort();
    dealt_with.dedup();
    assert_eq!((all, dealt_with.len()), (10_000, 10_000));
    let keys = world.keys(DESTINATION);
    assert_eq!(
        keys.iter().filter(|key| key.starts_with("2026-11")).count(),
        10_000
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_and_the_past_are_listed_by_prefix_too() {
    const LIST: Operation = Operation::ListObjectVersions;
    let world = World::versioned().await;
    for index in 0..3000 {
        world.put(&format!("p/{index:04}"), 1);
        world.put(&format!("p/tmp/{index:04}"), 1);
        world.put(&format!("p/tmp/{index:04}"), 1);
    }
    world.put("p/0012", 1);
    let select = select(&["001*", "29{98,99}", "tmp*"], &["tmp/**"]);
    let now = jiff::Timestamp::now();
    for (versions, copies) in [(Versions::All, 13), (Versions::AsOf(now), 0)] {
        world.sandbox.calls().clear();
        let transfer = Transfer {
            versions,
            when: When::Changed,
            ..transfer("p/", select.clone())
        };
        let run = world.run(transfer).await;
        assert_eq!(
            (run.outcome.done_objects, run.outcome.failed_objects),
            (copies, 0),
            "{:?}",
            run.outcome
        );
        let mut prefixes = lists(&world, LIST, SOURCE);
        prefixes.dedup();
        assert_eq!(prefixes, ["p/001", "p/2998", "p/2999", "p/tmp"]);
        let pages = lists(&world, LIST, SOURCE).len();
        assert!(pages <= 5, "{pages} pages");
    }
    let there = lists(&world, LIST, DESTINATION);
    assert!(there.iter().all(|prefix| prefix != "to/"), "{there:?}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn directories_in_which_nothing_can_match_are_not_read() {
    use std::fs;
    use std::os::unix::fs::symlink;
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    for name in ["2026/a.csv", "2026/b/c.csv", "2027/x/a.csv", "a.csv"] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    // A broken link makes reading this directory fail.
    for below in ["2025", "2026/b/d", "2027"] {
        fs::create_dir_all(dir.path().join(below)).unwrap();
        symlink("nowhere", dir.path().join(below).join("broken")).unwrap();
    }
    let mut transfer = Transfer {
        select: select(&["2026/*.csv", "2026/b/*"], &[]),
        ..upload_all(dir.path())
    };
    let Source::Files { symlinks, .. } = &mut transfer.from else {
        panic!()
    };
    *symlinks = s3haul::manifest::job::Symlinks::Fail;
    let run = world.run(transfer).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        run.receipts
    );
    assert_eq!(lists(&world, LIST, DESTINATION), ["2026/"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_wildcards_in_their_names_stay_within_reach() {
    let world = World::new().await;
    for key in [
        "d/a*b", "d/a?b", "d/a[1]b", "d/axb", "d/[x]/y", "d/{x}/y", r"d/a\b",
    ] {
        world.put(key, 1);
    }
    for (source, keys) in [
        (r"s3://source/d/a\*b", &["to/a*b"][..]),
        (r"s3://source/d/a\?b", &["to/a?b"]),
        ("s3://source/d/a[1]b", &["to/a[1]b"]),
        ("s3://source/d/[x]/*", &["to/y"]),
        ("s3://source/d/{x}/*", &["to/y"]),
        (
            "s3://source/d/a?b",
            &["to/a*b", "to/a?b", r"to/a\b", "to/axb"],
        ),
        (r"s3://source/d/a\[1]*", &["to/a[1]b"]),
    ] {
        for key in world.keys(DESTINATION) {
            world.sandbox.store().delete_object(DESTINATION, &key);
        }
        let (exit, stdout, stderr) =
            run(at(&world), &["copy", source, "s3://destination/to/"]).await;
        assert_eq!(exit, 0, "{source}: {stdout}{stderr}");
        assert_eq!(world.keys(DESTINATION), keys, "{source}");
    }
}

/// The objects are overwritten between the list and the copy.
#[rstest]
#[case::in_one_request(1000, 0)]
#[case::in_parts(1000, 5 << 20)]
#[case::still_selected(50, 0)]
#[tokio::test(flavor = "multi_thread")]
async fn the_version_that_would_be_copied_is_the_one_that_is_selected(
    #[case] size_now: u64,
    #[case] listed: u64,
) {
    let world = World::new().await;
    let bound = (listed + 100).max(size_now.min(100));
    let size_now = listed + size_now;
    let write = move |store: &Store, size| {
        let content = Content::pattern(1, size);
        store.put_object(SOURCE, "k", content, &ObjectSpec::default());
    };
    write(world.sandbox.store(), listed + 10);
    let rewritten = Effect::hook(move |store| write(store, size_now));
    let heads = Fault::on(Operation::HeadObject).bucket(SOURCE);
    world.add_fault(heads.nth(1).then(rewritten));
    let mut transfer = copy_all();
    transfer.select.smaller_than = Some(ByteSize(bound));
    transfer.parts.size = PartSize::Exactly(ByteSize(5 << 20));
    transfer.parts.threshold = ByteSize(5 << 20);
    let run = world.run(transfer).await;
    let [receipt] = &run.receipts[..] else {
        panic!("{:?}", run.receipts)
    };
    if size_now < bound {
        assert!(matches!(receipt.ending, Ending::Done { .. }), "{receipt:?}");
        world.assert_equal("k", "k");
        return;
    }
    assert_skipped_for(receipt, &format!("not smaller than {}", ByteSize(bound)));
    assert_eq!(run.outcome.skipped_objects, 1);
    assert!(world.keys(DESTINATION).is_empty());
}

fn assert_skipped_for(receipt: &Receipt, rule: &str) {
    let skipped = Ending::Skipped {
        reason: Skip::NotSelected,
    };
    assert_eq!(receipt.ending, skipped);
    let note = format!("changed after it was listed, and now excluded: {rule}");
    assert_eq!(receipt.notes, [note]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grew_beyond_the_selection_is_not_sent() {
    let world = World::new().await;
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("k");
    std::fs::write(&path, [1; 10]).unwrap();
    // The answer to the destination's list comes after the file was certainly found.
    let grows = Effect::hook(move |_| {
        std::thread::sleep(Duration::from_secs(3));
        std::fs::write(&path, [1; 1000]).unwrap();
    });
    world.add_fault(Fault::on(LIST).nth(1).then(grows));
    let mut transfer = upload_all(files.path());
    transfer.select.smaller_than = Some(ByteSize(100));
    let run = world.run(transfer).await;
    assert_skipped_for(
        &run.receipts[0],
        &format!("not smaller than {}", ByteSize(100)),
    );
    assert!(world.keys(DESTINATION).is_empty());
}
