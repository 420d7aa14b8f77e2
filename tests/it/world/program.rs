//! Runs the program against a [`World`], without the settings of this machine.

use std::path::Path;
use std::process::{self, Child, Output, Stdio};
use std::time::Duration;

use assert_cmd::Command;
use s3haul::sandbox::SandboxOptions;

use super::World;

/// A job that copies everything in `source` to `destination`, on the server that the environment
/// names.
pub(crate) const COPY_ALL: &str = "\
version: 1
endpoints: {default: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}}
transfers:
  - {from: {s3: s3://source/}, to: {s3: s3://destination/}}
";

/// The output and the exit code of a process.
pub(crate) struct Ended {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Returns the program without the settings of this machine. It keeps a journal, as for users.
pub(crate) fn process() -> process::Command {
    in_clean_environment(process::Command::new(assert_cmd::cargo::cargo_bin!(
        "s3haul"
    )))
}

/// Removes the settings of this machine from a command that runs the program.
pub(crate) fn in_clean_environment(mut command: process::Command) -> process::Command {
    let inherited = std::env::vars().map(|(name, _)| name);
    for name in inherited.filter(|name| name.starts_with("AWS_") || name.starts_with("S3HAUL_")) {
        command.env_remove(name);
    }
    command
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// Returns [`process`] with the sandbox as its S3.
pub(crate) fn process_at(world: &World) -> process::Command {
    let options = SandboxOptions::default();
    let mut command = process();
    command
        .env("AWS_ENDPOINT_URL_S3", world.sandbox.url())
        .env("AWS_ACCESS_KEY_ID", options.access_key)
        .env("AWS_SECRET_ACCESS_KEY", options.secret_key);
    command
}

/// Returns the program without a journal and with a timeout.
pub(crate) fn command() -> Command {
    with_timeout(process())
}

/// Returns [`command`] with the sandbox as its S3.
pub(crate) fn at(world: &World) -> Command {
    with_timeout(process_at(world))
}

/// Returns the program in a directory, with the sandbox as its S3 and with a journal, as for users.
pub(crate) fn journaled(world: &World, directory: &Path) -> Command {
    let mut command = at(world);
    command.current_dir(directory).env_remove("S3HAUL_JOURNAL");
    command
}

/// Adds a timeout. Turns the journal off, so that tests that share a directory do not resume each
/// other's runs.
fn with_timeout(mut command: process::Command) -> Command {
    command.env("S3HAUL_JOURNAL", "none");
    let mut command = Command::from_std(command);
    command.timeout(Duration::from_mins(1));
    command
}

/// Runs a command without blocking the sandbox, which is in this process. Returns its exit code,
/// its output, and its messages.
pub(crate) async fn run(mut command: Command, arguments: &[&str]) -> (i32, String, String) {
    command.args(arguments);
    let Output {
        status,
        stdout,
        stderr,
    } = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        status.code().expect("it was killed: a hang"),
        text(stdout),
        text(stderr),
    )
}

/// Runs [`journaled`] with these arguments.
pub(crate) async fn run_in(
    world: &World,
    directory: &Path,
    arguments: &[&str],
) -> (i32, String, String) {
    run(journaled(world, directory), arguments).await
}

/// Starts the program in a directory with a journal, and keeps its messages.
pub(crate) fn spawn_in(world: &World, directory: &Path, arguments: &[&str]) -> Child {
    let mut command = process_at(world);
    command.args(arguments).current_dir(directory);
    spawn(command)
}

/// Starts a process, discards its output, and keeps its messages.
pub(crate) fn spawn(mut command: process::Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits for the end of a process without blocking the sandbox, which is in this process.
pub(crate) async fn ended(child: Child) -> Ended {
    let waited = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = tokio::time::timeout(Duration::from_mins(2), waited)
        .await
        .expect("a hang")
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        exit: output.status.code().expect("it ends by itself"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Kills a process and waits until it has ended.
pub(crate) async fn kill(mut child: Child) {
    child.kill().unwrap();
    tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
}

/// Waits until `is_so` returns true.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), waited)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}
