//! Habits from other tools: what users type, and the answers they get.

use std::fs;

use rstest::rstest;

use crate::world::program::{COPY_ALL, at, command, run};
use crate::world::{DESTINATION, SOURCE, World};

/// Each case has the words of the command, texts that the answer must have, and texts that it must
/// not have.
#[rstest]
#[case(&["sync", "s3://a-b/", "s3://c-d/"], "`s3haul copy SRC/ DST/`", "unrecognized")]
#[case(&["sync", "s3://a-b/", "s3://c-d/", "--delete"], "never deletes", "unrecognized")]
#[case(&["cp", "a", "b"], "`s3haul copy SRC DST`", "completions")]
#[case(&["s3", "cp", "a", "b"], "leave that word out", "unrecognized")]
#[case(&["ls", "s3://a-b/"], "does not list", "unrecognized")]
#[case(&["mv", "a", "b"], "never deletes a source", "unrecognized")]
#[case(&["apply", "-f", "job.yaml"], "`s3haul run JOB`", "unrecognized")]
#[case(&["validate", "job.yaml"], "`s3haul check JOB`", "unrecognized")]
#[case(&["resume"], "same command again", "unrecognized")]
#[case(&["help", "sync"], "`s3haul copy SRC/ DST/`", "unrecognized")]
#[case(&["s3://a-b/", "s3://c-d/"], "`s3haul copy SRC DST`", "unrecognized")]
#[case(&["copy", "s3://a-b/", "s3://c-d/", "--delete"], "never deletes", "as a value")]
#[case(&["copy", "s3://a-b/", "s3://c-d/", "-n"], "--dry-run", "as a value")]
#[case(&["copy", "s3://a-b/", "s3://c-d/", "--transfers=16"], "--in-flight", "as a value")]
#[case(&["copy", "s3://a-b/", "s3://c-d/", "--progress"], "shown without a flag", "--prove")]
#[case(&["copy", "s3://a-b/", "s3://c-d/", "--source-region", "x"], "finds the Region", "--source-owner")]
#[case(&["copy", "s3://a-b/", "s3://c-d/", "--no-such-flag"], "unexpected argument", "as a value")]
#[case(&["run", "-f", "job.yaml"], "without -f", "as a value")]
#[case(&["run", "job.yaml", "--storage-class", "X"], "`copy` has it", "as a value")]
#[case(&["check", "s3://a-b/", "s3://c-d/"], "`s3haul verify SRC DST`", "unexpected")]
#[case(&["copy", "s3://a-b/"], "<DST>", "  <SRC>")]
#[tokio::test]
async fn a_word_of_another_tool_is_answered(
    #[case] words: &[&str],
    #[case] said: &str,
    #[case] not_said: &str,
) {
    let mut command = command();
    command.env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9");
    let (exit, stdout, stderr) = run(command, words).await;
    assert_eq!((exit, stdout.as_str()), (2, ""), "{stderr}");
    assert!(
        stderr.starts_with("error: ") && stderr.contains(said) && !stderr.contains(not_said),
        "{stderr}"
    );
    // A flag that the environment can set is not shown as required.
    assert!(!stderr.contains("--endpoint-url <URL> <SRC>"), "{stderr}");
}

#[tokio::test]
async fn version_works_as_a_word() {
    let (_, flag, _) = run(command(), &["--version"]).await;
    let (exit, word, _) = run(command(), &["version"]).await;
    assert_eq!((exit, word), (0, flag));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_read_from_standard_input() {
    let world = World::new().await;
    world.put_object(
        SOURCE,
        "k",
        s3haul::sandbox::Content::pattern(1, 9),
        &<_>::default(),
    );
    for word in ["check", "plan", "run", "verify"] {
        let mut command = at(&world);
        command.write_stdin(COPY_ALL);
        let (exit, _, stderr) = run(command, &[word, "-"]).await;
        assert_eq!(exit, 0, "{word}: {stderr}");
    }
    assert_eq!(world.keys(DESTINATION), ["k"]);
    let mut command = at(&world);
    command.write_stdin("version: 1\ntransfer: []\n");
    let (exit, _, stderr) = run(command, &["check", "-"]).await;
    assert!(
        exit == 2 && stderr.contains("standard-input:2:1"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_variables_count_as_unset_and_wrong_ones_are_errors() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "bytes").unwrap();
    let copy = ["copy", "f", "s3://destination/f"];
    let mut empty = at(&world);
    empty.current_dir(dir.path());
    for name in [
        "S3HAUL_JOURNAL",
        "S3HAUL_ADOPT",
        "S3HAUL_LOG",
        "S3HAUL_LOG_FORMAT",
    ] {
        empty.env(name, "");
    }
    let (exit, _, stderr) = run(empty, &copy).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(dir.path().join(".s3haul").is_dir(), "the usual place");
    for (name, value) in [
        ("S3HAUL_LOG", "loud"),
        ("S3HAUL_LOG", "s3haul=loud"),
        ("S3HAUL_LOG_FORMAT", "xml"),
    ] {
        let mut wrong = at(&world);
        wrong.env(name, value);
        let (exit, _, stderr) = run(wrong, &copy).await;
        assert!(
            exit == 2 && stderr.contains("loud") | stderr.contains("xml"),
            "{name}={value}: {stderr}"
        );
    }
}

/// Output to a file is not colored, unless the user requests colors.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_gets_no_colours() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("wrong.yaml");
    fs::write(&wrong, "version: 2\n").unwrap();
    let wrong = wrong.to_str().unwrap();
    let log = |flags: &'static [&'static str]| {
        [
            &["copy", "s3://source/", "s3://destination/", "-vvv"],
            flags,
        ]
        .concat()
    };
    for (words, colored) in [
        (log(&[]), false),
        (log(&["--color", "always"]), true),
        (vec!["check", wrong], false),
        (vec!["check", wrong, "--color=always"], true),
        (vec!["--color", "always", "copy"], true),
        (vec!["copy"], false),
    ] {
        let (_, _, stderr) = run(at(&world), &words).await;
        assert!(!stderr.is_empty());
        assert_eq!(stderr.contains('\u{1b}'), colored, "{words:?}: {stderr}");
    }
}

/// Messages about a command line name flags, and nothing that the user did not type.
#[rstest]
#[case(&["copy", "s3://a-b/", "s3://a-b/copy/"], "--exclude 'copy/**'", "exclude: [")]
#[case(&["copy", "Cargo.toml", "src", "s3://a-b/"], "Cargo.toml and src may write", "copy-1")]
#[case(&["copy", "s3://a-b/", "s3://c-d/", "--in-flight", "0"], "0", "`in_flight`")]
#[tokio::test]
async fn the_command_line_is_answered_in_its_own_words(
    #[case] words: &[&str],
    #[case] said: &str,
    #[case] not_said: &str,
) {
    let mut command = command();
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let (exit, _, stderr) = run(command, words).await;
    assert!(
        exit == 2 && stderr.contains(said) && !stderr.contains(not_said),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_not_open_is_reported_as_such() {
    let world = World::new().await;
    for action in ["abort", "parts", "complete"] {
        let (exit, _, stderr) = run(
            at(&world),
            &["uploads", action, "s3://destination/k", "nope"],
        )
        .await;
        assert!(
            exit == 3 && stderr.contains("has no open upload nope (NoSuchUpload)"),
            "{action}: {stderr}"
        );
        assert!(!stderr.contains("run the job again"), "{stderr}");
    }
}

#[tokio::test]
async fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let (exit, _, stderr) = run(command(), &["man", "--dir", dir.path().to_str().unwrap()]).await;
    assert_eq!(exit, 0, "{stderr}");
    let mut pages: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    for page in [
        "s3haul.1",
        "s3haul-copy.1",
        "s3haul-uploads-abort.1",
        "s3haul-man.1",
    ] {
        assert!(pages.iter().any(|name| name == page), "{page}: {pages:?}");
    }
    for page in &pages {
        let text = fs::read_to_string(dir.path().join(page)).unwrap();
        for section in ["ENVIRONMENT", "FILES", "EXIT STATUS", "SEE ALSO"] {
            assert!(
                text.contains(&format!(".SH \"{section}\"")),
                "{page} lacks {section}"
            );
        }
        // Pages refer only to existing pages.
        for other in text
            .split("\\fB")
            .filter_map(|rest| rest.split_once("\\fR(1)"))
            .map(|(name, _)| name)
        {
            let name = format!("{}.1", other.replace("\\-", "-"));
            assert!(pages.contains(&name), "{page} refers to {name}");
        }
    }
    let (exit, stdout, _) = run(command(), &["man", "uploads", "abort"]).await;
    assert!(
        exit == 0 && stdout.contains("s3haul\\-uploads\\-abort"),
        "{stdout}"
    );
    let (exit, _, stderr) = run(command(), &["man", "nope"]).await;
    assert!(
        exit == 2 && stderr.contains("no command `nope`"),
        "{stderr}"
    );
}
