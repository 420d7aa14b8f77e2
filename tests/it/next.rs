//! A command that leaves work to do ends with the command that does it.

use std::fs;

use s3haul::sandbox::{Effect, Fault, ObjectSpec, Operation};
use s3haul::size::MIB;

use crate::world::program::{COPY_ALL, in_clean_environment, run_in};
use crate::world::{DESTINATION, World};

/// Runs a command in a directory with a job.
async fn in_site(
    world: &World,
    directory: &tempfile::TempDir,
    words: &[&str],
) -> (i32, String, String) {
    fs::write(directory.path().join("my job.yaml"), COPY_ALL).unwrap();
    run_in(world, directory.path(), words).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_failures_ends_with_the_command_that_copies_them() {
    let (world, directory) = (World::new().await, tempfile::tempdir().unwrap());
    world.put("k", 1);
    let refused = Fault::on(Operation::CopyObject).then(Effect::Error(403, "AccessDenied"));
    world.add_fault(refused);
    let words = ["run", "my job.yaml", "--report", "my report.jsonl"];
    let (exit, stdout, stderr) = in_site(&world, &directory, &words).await;
    assert_eq!(exit, 1, "{stderr}");
    let last = stdout.lines().last();
    let expected = "to copy what failed: s3haul retry 'my report.jsonl'";
    assert_eq!(last, Some(expected), "{stdout}");
    let (exit, stdout, stderr) = in_site(&world, &directory, &["run", "my job.yaml"]).await;
    assert_eq!(exit, 1, "{stderr}");
    let expected = "to copy what failed: s3haul run 'my job.yaml'";
    assert_eq!(stdout.lines().last(), Some(expected), "{stdout}");
    let (exit, stdout, _) = in_site(&world, &directory, &["status"]).await;
    assert_eq!(exit, 0);
    assert!(stdout.contains(expected), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_proves_too_little_names_the_one_that_reads() {
    let (world, directory) = (World::new().await, tempfile::tempdir().unwrap());
    let parts = ObjectSpec::default().part_sizes([5 * MIB]);
    world.put_with("k", 9 * MIB, &parts.without_checksum());
    world.put_in(DESTINATION, "k", 9 * MIB);
    let words = ["verify", "my job.yaml"];
    let (exit, stdout, stderr) = in_site(&world, &directory, &words).await;
    assert_eq!(exit, 0, "{stdout}{stderr}");
    let expected = "to compare the bytes of what is unprovable: s3haul verify 'my job.yaml' --deep";
    assert_eq!(stdout.lines().last(), Some(expected), "{stdout}");
    let words = ["verify", "my job.yaml", "--deep"];
    let (exit, stdout, stderr) = in_site(&world, &directory, &words).await;
    assert_eq!(exit, 0, "{stdout}{stderr}");
    assert!(
        stdout.contains("1 equal") && !stdout.contains("--deep"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_that_is_gone_is_named() {
    let world = World::new().await;
    for words in [
        &["copy", "s3://source/", "s3://destination/"][..],
        &["run", "job.yaml"],
        &["status"],
        &["verify", "s3://source/", "s3://destination/"],
        &["uploads", "list", "s3://destination/"],
        &["report", "show", "r.jsonl"],
        &["retry", "r.jsonl"],
    ] {
        let program = env!("CARGO_BIN_EXE_s3haul");
        let script = "d=$(mktemp -d) && cd \"$d\" && rmdir \"$d\" && exec \"$@\"";
        let mut shell = in_clean_environment(std::process::Command::new("sh"));
        shell.args(["-c", script, "sh", program]).args(words);
        shell.env("AWS_ENDPOINT_URL_S3", world.sandbox.url());
        let output = tokio::task::spawn_blocking(move || shell.output().unwrap());
        let output = output.await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
        assert!(
            stderr.contains("the working directory cannot be used"),
            "{words:?}: {stderr}"
        );
    }
}
