//! Runs the programs in `examples/` as users would, and compares the public API with a snapshot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use s3haul::location::ObjectKey;
use s3haul::multipart::MultipartUpload;
use s3haul::s3::Attributes;
use s3haul::sandbox::{Content, ObjectSpec, Operation, SandboxOptions};
use s3haul::size::MIB;

use crate::world::program::{in_clean_environment, run};
use crate::world::{DESTINATION, SOURCE, World};

/// Returns the program of an example. `cargo test` builds the examples, `cargo test --test it` does
/// not.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let directory = test.parent().unwrap().parent().unwrap().join("examples");
    let program = directory.join(name);
    if !program.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--locked", "--quiet", "--example", name])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success() && program.exists(), "{}", program.display());
    }
    program
}

/// Starts an example in `directory` against the sandbox, and returns what it printed.
async fn run_example(
    world: &World,
    directory: &tempfile::TempDir,
    name: &str,
    words: &[&str],
) -> String {
    let options = SandboxOptions::default();
    let mut command = in_clean_environment(Command::new(program(name)));
    command
        .current_dir(directory.path())
        .env("AWS_ENDPOINT_URL_S3", world.sandbox.url())
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", options.access_key)
        .env("AWS_SECRET_ACCESS_KEY", options.secret_key);
    let mut command = assert_cmd::Command::from_std(command);
    command.timeout(Duration::from_mins(1));
    let (exit, stdout, stderr) = run(command, words).await;
    assert_eq!(exit, 0, "{stdout}{stderr}");
    stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_prefix_copies_what_is_missing() {
    let world = World::new().await;
    for key in ["a/1", "a/2", "b"] {
        let content = Content::pattern(1, 100);
        let store = world.sandbox.store();
        store.put_object(SOURCE, key, content, &ObjectSpec::default());
    }
    let directory = tempfile::tempdir().unwrap();
    let words = ["s3://source/a/", "s3://destination/x/"];
    let shown = run_example(&world, &directory, "copy_prefix", &words).await;
    assert!(
        shown.contains("s3://destination/x/1: copied, proven by crc64nvme"),
        "{shown}"
    );
    assert!(
        shown.ends_with("2 copied, 0 failed, 0 left alone\n"),
        "{shown}"
    );
    assert_eq!(world.keys(DESTINATION), ["x/1", "x/2"]);
    let again = run_example(&world, &directory, "copy_prefix", &words).await;
    assert_eq!(again, "0 copied, 0 failed, 2 left alone\n");
    assert_eq!(world.calls(Operation::CopyObject), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_file_sends_parts() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let size = 33 * MIB;
    let count = usize::try_from(size).unwrap();
    let bytes: Vec<u8> = (0..=250).cycle().take(count).collect();
    fs::write(directory.path().join("film.mp4"), &bytes).unwrap();
    let words = ["film.mp4", "s3://destination/film.mp4"];
    let shown = run_example(&world, &directory, "upload_file", &words).await;
    assert!(
        shown.starts_with(&format!("{size} bytes in 3 parts")),
        "{shown}"
    );
    let stored = world.object(DESTINATION, "film.mp4").unwrap();
    assert_eq!(stored.content, Content::bytes(bytes));
    assert_eq!(world.calls(Operation::UploadPart), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_uploads_aborts_old_ones() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    for name in ["a/1", "a/2", "b"] {
        let key: ObjectKey = name.parse().unwrap();
        MultipartUpload::initiate(&bucket, &key, &Attributes::default())
            .await
            .unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let open = || world.open_uploads(DESTINATION).len();
    let list =
        |words: &'static [&'static str]| run_example(&world, &directory, "abort_uploads", words);
    assert_eq!(list(&["s3://destination/a/", "1", "--abort"]).await, "");
    // With -1 hours, the limit is an hour from now, so all uploads are old enough.
    let shown = list(&["s3://destination/a/", "-1"]).await;
    assert_eq!((shown.lines().count(), open()), (2, 3), "{shown}");
    let shown = list(&["s3://destination/a/", "-1", "--abort"]).await;
    assert!(shown.starts_with("aborted: a/1 "), "{shown}");
    assert_eq!((shown.lines().count(), open()), (2, 1), "{shown}");
}

/// Returns the names that a source text re-exports.
fn names(code: &str) -> Vec<&str> {
    let statements = code.split("pub use ").skip(1);
    let lists = statements.map(|statement| statement.split_once(';').unwrap().0);
    let mut names: Vec<_> = lists
        .flat_map(|list| {
            let inner = list.split_once('{').map_or(list, |(_, inner)| inner);
            inner.trim_end().trim_end_matches('}').split(',')
        })
        .filter_map(|item| item.trim().rsplit([' ', ':']).next())
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    names
}

/// Other programs depend on these names: a new name must stay, and removing one needs a new major
/// version. `INSTA_UPDATE=always` writes the snapshot.
#[test]
fn the_public_api_is_this_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let (mut outside, mut modules) = (code, Vec::new());
    for module in ["settings", "receipt"] {
        let (before, rest) = outside.split_once(&format!("pub mod {module} {{")).unwrap();
        let (inside, after) = rest.split_once("\n}").unwrap();
        modules.push(format!("\n\n{module}:\n{}", names(inside).join("\n")));
        outside = format!("{before}{after}");
    }
    let root = names(&outside);
    assert!(root.len() <= 42, "{} names are too many", root.len());
    let shown = format!("{}{}", root.join("\n"), modules.concat());
    insta::assert_snapshot!("public_api", shown);
}
