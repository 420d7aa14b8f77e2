//! Hints about patterns that match only at the top level, for users who expect a match at any
//! depth.

use std::fs;

use s3haul::sandbox::{Content, ObjectSpec};
use serde_json::Value;

use crate::world::program::{at, run};
use crate::world::{DESTINATION, SOURCE, World};

async fn world_with_temporary_files() -> World {
    let world = World::new().await;
    for key in [
        "a.tmp",
        "a.csv",
        "d/b.tmp",
        "d/b.csv",
        "d/e/c.tmp",
        "d/tmp",
        "d/",
    ] {
        world.put_object(
            SOURCE,
            key,
            Content::bytes(&b"x"[..]),
            &ObjectSpec::default(),
        );
    }
    world
}

const PLACES: [&str; 2] = ["s3://source/", "s3://destination/"];

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_without_a_slash_gets_a_hint_about_keys_with_one() {
    let world = world_with_temporary_files().await;
    for (flags, hint) in [
        (
            &["--include", "*.tmp"][..],
            "`*.tmp` matches at the top level only; at least 2 keys below it were not matched: write `**/*.tmp`",
        ),
        (
            &["--exclude", "*.tmp"],
            "`*.tmp` excludes at the top level only; 2 keys below it were not left out: write `**/*.tmp`",
        ),
        (
            &["--include", "?.{csv,gz}"],
            "at least 1 key below it was not matched: write `**/?.{csv,gz}`",
        ),
    ] {
        for command in [&["copy"][..], &["copy", "--dry-run"]] {
            let (exit, stdout, stderr) = run(at(&world), &[command, &PLACES, flags].concat()).await;
            assert_eq!(exit, 0, "{stderr}");
            assert!(stdout.contains(hint), "{command:?} {flags:?}: {stdout}");
        }
        let (_, stdout, _) = run(
            at(&world),
            &[&["copy", "--json"], &PLACES[..], flags].concat(),
        )
        .await;
        let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
        assert!(
            last["summary"]["hints"][0].as_str().unwrap().contains(hint),
            "{stdout}"
        );
    }
    for flags in [
        &["--include", "**/*.tmp"][..],
        &["--exclude", "d/*.tmp"],
        &["--include", "a.*"],
        &["--include", "*.tmp", "--exclude", "d/**"],
        &["--include", "*.csv", "--include", "**/*.csv"],
        &[],
    ] {
        let (exit, stdout, _) = run(at(&world), &[&["copy"], &PLACES[..], flags].concat()).await;
        assert!(exit == 0 && !stdout.contains("hint"), "{flags:?}: {stdout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_were_not_read_are_hinted_at() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.csv", "d/b.csv", "e/f/c.csv"] {
        fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        fs::write(dir.path().join(name), name).unwrap();
    }
    let copy = [
        "copy",
        dir.path().to_str().unwrap(),
        "s3://destination/",
        "--include",
        "*.csv",
    ];
    let (exit, stdout, _) = run(at(&world), &copy).await;
    assert_eq!(
        (exit, world.keys(DESTINATION)),
        (0, vec!["a.csv".to_owned()])
    );
    let hint = "`*.csv` matches at the top level only; 2 directories below it were not read: write `**/*.csv`";
    assert!(stdout.contains(hint), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_idiom_of_aws_is_explained_and_not_taken_for_nothing() {
    let world = world_with_temporary_files().await;
    for flags in [
        ["--exclude", "*", "--include", "*.tmp"],
        ["--include", "*.tmp", "--exclude", "**"],
        ["--exclude", "**/*", "--include", "*.tmp"],
    ] {
        for command in ["copy", "verify"] {
            let (exit, _, stderr) =
                run(at(&world), &[&[command], &PLACES[..], &flags].concat()).await;
            assert_eq!(exit, 2, "{command} {flags:?}: {stderr}");
            assert!(
                stderr.contains("exclude wins over include") && stderr.contains("`**/*.tmp`"),
                "{stderr}"
            );
        }
    }
    // This excludes only keys at the top level, which may be intended.
    let flags = ["copy", "--exclude", "*", "--include", "**/*.tmp"];
    let (exit, stdout, _) = run(at(&world), &[&flags[..], &PLACES].concat()).await;
    assert_eq!((exit, world.keys(DESTINATION).len()), (0, 2), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_states_the_rules_of_patterns() {
    let world = World::new().await;
    for command in ["copy", "verify"] {
        let (_, stdout, _) = run(at(&world), &[command, "--help"]).await;
        for rule in [
            "any characters but a slash",
            "2026/a.csv",
            "--exclude wins over --include",
            "'**/*.txt'",
        ] {
            assert!(stdout.contains(rule), "{command}: {rule}");
        }
    }
}
