//! Signals that were ignored when the program started stay ignored, as with `nohup` and for
//! background jobs of a script.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rstest::rstest;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};

use crate::world::program::{process_at, until};
use crate::world::{DESTINATION, SOURCE, World};

/// Sends a signal to a process.
pub(crate) fn send(signal: &str, child: &Child) {
    Command::new("kill")
        .args([&format!("-{signal}"), &child.id().to_string()])
        .status()
        .unwrap();
}

/// Runs the program from a shell that ignores the signal, as `nohup` does.
fn ignoring(signal: &str, program: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", &format!("trap '' {signal}; exec \"$0\" \"$@\"")])
        .arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
        .env("S3HAUL_JOURNAL", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    shell
}

#[rstest]
#[case("HUP")]
#[case("INT")]
#[case("TERM")]
#[tokio::test(flavor = "multi_thread")]
async fn a_run_outlives_a_signal_that_was_ignored_at_its_start(
    #[case] signal: &str,
    #[values("copy", "verify")] word: &str,
) {
    let world = World::new().await;
    let buckets = if word == "copy" {
        &[SOURCE][..]
    } else {
        &[SOURCE, DESTINATION]
    };
    for bucket in buckets {
        world.put_in(bucket, "k", 10);
    }
    // The answer to the first list comes after the signals.
    let stall = Effect::StallBefore(Some(Duration::from_secs(1)));
    world.add_fault(Fault::on(Operation::ListObjectsV2).nth(1).then(stall));
    let mut command = ignoring(signal, &process_at(&world));
    let mut child = command
        .args([word, "s3://source/", "s3://destination/"])
        .spawn()
        .unwrap();
    until("a list", || world.sandbox.faults().fired() > 0).await;
    // Twice, because a second signal would end a run at once.
    for _ in 0..2 {
        send(signal, &child);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0), "{status:?}");
    assert_eq!(world.keys(DESTINATION), ["k"]);
}

/// The server refuses everything until some time after the program continues.
#[tokio::test(flavor = "multi_thread")]
async fn time_in_which_the_program_was_stopped_is_no_silence_of_the_server() {
    let world = World::new().await;
    let (content, spec) = (Content::pattern(1, 10), ObjectSpec::default());
    world.put_object(SOURCE, "k", content, &spec);
    let copies = Operation::CopyObject;
    world.add_fault(Fault::on(copies));
    let child = process_at(&world)
        .args(["copy", "s3://source/", "s3://destination/"])
        .args(["--journal", "none", "--patience", "12s"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let refused = async |times: u64| {
        let before = world.calls(copies);
        until("a refusal", || world.calls(copies) >= before + times).await;
    };
    refused(1).await;
    send("STOP", &child);
    tokio::time::sleep(Duration::from_secs(18)).await;
    send("CONT", &child);
    // One request may have been answered meanwhile.
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let ended = async { ended.await.unwrap() };
    let ended = async {
        let mut ended = Box::pin(ended);
        tokio::select! {
            output = &mut ended => return output,
            () = refused(2) => world.sandbox.faults().clear(),
        }
        ended.await
    };
    let output = ended.await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(world.keys(DESTINATION), ["k"]);
}
