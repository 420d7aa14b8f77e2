//! Runs the program that a profile names with `credential_process`.
//!
//! The SDK has a provider for this. It starts the same shell and reads the same output, but leaves
//! the program running after the last caller has stopped waiting. Here, a program that takes too
//! long is killed together with everything that it started, and so is a program that still runs
//! when the command ends. A child that outlives the program may keep the inherited standard output
//! open, so the end of the output may never be reached. So the exit of the program decides: the
//! output up to a moment after the exit counts, and its remaining children are killed.
//!
//! The program gets its own process group, so that a signal reaches all of its processes. If
//! standard input is a terminal, the program stays in the terminal's group, because it may ask for
//! a password or a code, and only that group can read. In that case, only the shell is killed.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::Credentials;
use futures::future::try_join;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::causes::one_line;

/// The time within which the output must end after the program has exited.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// The maximum number of bytes that are kept of each output of a program.
const MAX_OUTPUT: usize = 1 << 20;

/// The IDs of the running programs; true for programs with their own process group.
static RUNNING: Mutex<BTreeMap<i32, bool>> = Mutex::new(BTreeMap::new());

/// Kills all running programs, because the command ends.
pub(crate) fn end_credential_processes() {
    for (id, has_group) in std::mem::take(&mut *running()) {
        end(id, has_group);
    }
}

fn running() -> MutexGuard<'static, BTreeMap<i32, bool>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(id: i32, has_group: bool) {
    let Some(id) = Pid::from_raw(id) else { return };
    // The process may have exited by itself.
    let _ = if has_group {
        kill_process_group(id, Signal::KILL)
    } else {
        kill_process(id, Signal::KILL)
    };
}

/// A running program. Dropping this kills it, unless [`RunningProcess::forget`] is called.
struct RunningProcess(i32);

impl RunningProcess {
    fn new(id: i32, has_group: bool) -> Self {
        running().insert(id, has_group);
        Self(id)
    }

    /// Forgets a program that has exited: its ID may soon belong to another process.
    fn forget(self) {
        running().remove(&self.0);
    }
}

impl Drop for RunningProcess {
    fn drop(&mut self) {
        if let Some(has_group) = running().remove(&self.0) {
            end(self.0, has_group);
        }
    }
}

/// The `credential_process` of a profile.
#[derive(Debug)]
pub(super) struct CredentialProcess {
    pub(super) profile: String,
    pub(super) command: String,
    /// The longest time that the program may run.
    pub(super) limit: Duration,
}

/// Returns the program's name for messages, without the command, which may hold secrets.
pub(super) fn name(profile: &str) -> String {
    format!("`credential_process` of profile `{profile}`")
}

/// The failure of a program that gave no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProcessFailure {
    profile: String,
    pub(super) reason: String,
    /// Set if a later run may succeed.
    pub(super) may_pass: bool,
}

impl fmt::Display for ProcessFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", name(&self.profile), self.reason)
    }
}

impl Error for ProcessFailure {}

impl CredentialProcess {
    async fn run(&self) -> Result<Credentials, ProcessFailure> {
        let failed = |reason: String, may_pass: bool| ProcessFailure {
            profile: self.profile.clone(),
            reason,
            may_pass,
        };
        let has_ended = AtomicBool::new(false);
        let output = match timeout(self.limit, self.output(&has_ended)).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(failed(
                    format!("printed more than {MAX_OUTPUT} bytes"),
                    false,
                ));
            }
            Ok(Err(error)) => {
                let reason = format!("cannot be run: {}", one_line(&error.to_string()));
                return Err(failed(reason, false));
            }
            Err(_) => {
                let limit = self.limit.as_secs();
                let reason = if has_ended.load(Ordering::Relaxed) {
                    format!(
                        "ended without an answer, and what it left running was ended after {limit} s"
                    )
                } else {
                    format!("did not end within {limit} s and was ended")
                };
                return Err(failed(reason, true));
            }
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let mut reason = match (output.status.code(), output.status.signal()) {
                (Some(code), _) => format!("exited with status {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => "failed".to_owned(),
            };
            let line = one_line(&said);
            if !line.is_empty() {
                reason = format!("{reason}: {line}");
            }
            return Err(failed(reason, super::credentials::is_busy(&said)));
        }
        read(&output.stdout).map_err(|reason| failed(reason, false))
    }

    async fn output(&self, has_ended: &AtomicBool) -> io::Result<Output> {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &self.command])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let has_group = !io::stdin().is_terminal();
        if has_group {
            shell.process_group(0);
        }
        let mut child = shell.spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let running = id.map(|id| RunningProcess::new(id, has_group));
        let mut printed = Printed {
            pipes: (child.stdout.take(), child.stderr.take()),
            ..Printed::default()
        };
        let ended = tokio::select! {
            read = printed.read() => read.map(|()| None),
            status = child.wait() => status.map(Some),
        }?;
        let status = match ended {
            Some(status) => status,
            None => child.wait().await?,
        };
        has_ended.store(true, Ordering::Relaxed);
        let running = match running {
            // Without a group, the shell's ID may belong to another process from now on.
            Some(running) if !has_group => {
                running.forget();
                None
            }
            running => running,
        };
        let is_over = timeout(AFTERWARDS, printed.read()).await;
        let mut is_left = is_over.is_err();
        is_over.unwrap_or(Ok(()))?;
        if is_left && status.success() && read(&printed.out).is_err() {
            printed.read().await?;
            is_left = false;
        }
        match running {
            // Dropping `running` on return kills the remaining processes.
            Some(_) if is_left => {
                let name = name(&self.profile);
                tracing::warn!(
                    "{name} left something running that holds its output open: it was ended"
                );
            }
            Some(running) => running.forget(),
            None => {}
        }
        Ok(Output {
            status,
            stdout: printed.out,
            stderr: printed.err,
        })
    }
}

/// The output of a program so far.
#[derive(Default)]
struct Printed {
    pipes: (Option<ChildStdout>, Option<ChildStderr>),
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Printed {
    /// Reads both pipes to their ends. Cancel safe: a later call continues.
    async fn read(&mut self) -> io::Result<()> {
        let Self {
            pipes: (stdout, stderr),
            out,
            err,
        } = self;
        let answer = async {
            to_end(stdout.as_mut(), out).await?;
            if out.len() > MAX_OUTPUT {
                return Err(io::Error::from(io::ErrorKind::FileTooLarge));
            }
            Ok(())
        };
        // Messages beyond the limit are read and discarded. If they were left unread, the program
        // would block.
        let messages = async {
            let mut pipe = stderr.as_mut();
            to_end(pipe.as_deref_mut(), err).await?;
            while err.len() > MAX_OUTPUT {
                err.truncate(MAX_OUTPUT);
                to_end(pipe.as_deref_mut(), err).await?;
            }
            Ok::<_, io::Error>(())
        };
        try_join(answer, messages).await?;
        Ok(())
    }
}

/// Reads a pipe to its end, or until there are more than [`MAX_OUTPUT`] bytes.
async fn to_end(pipe: Option<impl AsyncRead + Unpin>, read: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    while read.len() <= MAX_OUTPUT && pipe.read_buf(read).await? > 0 {}
    Ok(())
}

impl ProvideCredentials for CredentialProcess {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.run().await.map_err(CredentialsError::provider_error)
        })
    }
}

/// Parses the output of a program. As in the SDK, the case of names does not matter.
fn read(printed: &[u8]) -> Result<Credentials, String> {
    // The text may hold secrets. serde's messages about syntax do not repeat them.
    let fields: Map<String, Value> = serde_json::from_slice(printed)
        .map_err(|error| format!("printed something that is no JSON object ({error})"))?;
    let field = |name: &str| {
        fields
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    };
    match field("Version").and_then(Value::as_i64) {
        Some(1) => {}
        Some(version) => return Err(format!("printed `Version` {version}, not 1")),
        None => return Err("printed no `Version`".to_owned()),
    }
    let text = |name: &str| field(name).and_then(Value::as_str).map(str::to_owned);
    let required = |name: &str| text(name).ok_or_else(|| format!("printed no `{name}`"));
    let expiry = text("Expiration")
        .map(|end| {
            let end: jiff::Timestamp = end
                .parse()
                .map_err(|_| "printed an `Expiration` that is no time of RFC 3339".to_owned())?;
            Ok::<_, String>(SystemTime::from(end))
        })
        .transpose()?;
    Ok(Credentials::new(
        required("AccessKeyId")?,
        required("SecretAccessKey")?,
        text("SessionToken"),
        expiry,
        "CredentialProcess",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(command: &str, limit: Duration) -> Result<Credentials, ProcessFailure> {
        let process = CredentialProcess {
            profile: "lake".to_owned(),
            command: command.to_owned(),
            limit,
        };
        process.run().await
    }

    #[tokio::test]
    async fn a_program_prints_credentials() {
        let command = r#"echo '{"version": 1, "ACCESSKEYID": "id", "SecretAccessKey": "secret", "SessionToken": "token",
            "Expiration": "2026-05-02T18:36:00+00:00", "More": [1]}'"#;
        let credentials = run(command, Duration::from_mins(1)).await.unwrap();
        assert_eq!(credentials.access_key_id(), "id");
        assert_eq!(credentials.secret_access_key(), "secret");
        assert_eq!(credentials.session_token(), Some("token"));
        let end: jiff::Timestamp = "2026-05-02T18:36:00Z".parse().unwrap();
        assert_eq!(credentials.expiry(), Some(SystemTime::from(end)));
    }

    #[tokio::test]
    async fn what_a_program_does_instead_is_told() {
        for (command, told, may_pass) in [
            (
                "echo 'no login' >&2; exit 2",
                "exited with status 2: no login",
                false,
            ),
            (
                "echo 'the vault timed out' >&2; exit 1",
                "exited with status 1: the vault timed out",
                true,
            ),
            ("kill -9 $$", "was ended by signal 9", false),
            (
                "echo secret",
                "printed something that is no JSON object",
                false,
            ),
            (
                "echo '{\"AccessKeyId\": \"secret\"}'",
                "printed no `Version`",
                false,
            ),
            (
                "echo '{\"Version\": 2}'",
                "printed `Version` 2, not 1",
                false,
            ),
            (
                "echo '{\"Version\": 1, \"AccessKeyId\": \"a\"}'",
                "printed no `SecretAccessKey`",
                false,
            ),
        ] {
            let failed = run(command, Duration::from_mins(1)).await.unwrap_err();
            let text = failed.to_string();
            let begin = "`credential_process` of profile `lake`: ";
            assert!(text.starts_with(&format!("{begin}{told}")), "{text}");
            assert!(!text.contains("secret"), "{text}");
            assert_eq!(failed.may_pass, may_pass, "{text}");
        }
    }

    #[tokio::test]
    async fn what_a_program_leaves_running_does_not_hold_up_its_answer() {
        let directory = tempfile::tempdir().unwrap();
        let id = directory.path().join("id");
        let answer = r#"{"Version": 1, "AccessKeyId": "id", "SecretAccessKey": "secret"}"#;
        let command = format!("sleep 600 & echo $! > {}; echo '{answer}'", id.display());
        let credentials = run(&command, Duration::from_mins(5)).await.unwrap();
        assert_eq!(credentials.access_key_id(), "id");
        assert_ended(&std::fs::read_to_string(&id).unwrap()).await;
        // Nothing shows whether any output will come.
        let command = format!("sleep 600 & echo $! > {}", id.display());
        let failed = run(&command, Duration::from_secs(2)).await.unwrap_err();
        assert!(
            failed.may_pass && failed.reason.contains("ended without an answer"),
            "{failed}"
        );
        assert_ended(&std::fs::read_to_string(&id).unwrap()).await;
    }

    #[tokio::test]
    async fn a_program_may_say_much_but_not_answer_with_much() {
        let much = "head -c 3000000 /dev/zero | tr '\\0' x";
        let failed = run(much, Duration::from_mins(1)).await.unwrap_err();
        assert!(
            !failed.may_pass && failed.reason == "printed more than 1048576 bytes",
            "{failed}"
        );
        let answer = r#"{"Version": 1, "AccessKeyId": "id", "SecretAccessKey": "secret"}"#;
        let command = format!("({much}) >&2; echo '{answer}'");
        let credentials = run(&command, Duration::from_mins(1)).await.unwrap();
        assert_eq!(credentials.access_key_id(), "id");
    }

    /// Checks that a child that prints the output late is waited for, and is not reported as left
    /// running.
    #[tokio::test]
    async fn an_answer_that_comes_late_leaves_nothing_running() {
        let directory = tempfile::tempdir().unwrap();
        let end = directory.path().join("end");
        let answer = r#"{"Version": 1, "AccessKeyId": "id", "SecretAccessKey": "secret"}"#;
        let late = format!(
            "sleep 2; echo '{answer}'; exec >&- 2>&-; sleep 1; touch {}",
            end.display()
        );
        let credentials = run(&format!("({late}) &"), Duration::from_mins(1))
            .await
            .unwrap();
        assert_eq!(credentials.access_key_id(), "id");
        let began = std::time::Instant::now();
        while !end.exists() {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "the child was killed"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until these processes have ended.
    async fn assert_ended(ids: &str) {
        for id in ids.split_whitespace() {
            let state = format!("/proc/{id}/stat");
            // A process that was not waited for yet is a zombie.
            while std::fs::read_to_string(&state).is_ok_and(|state| !state.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Checks that the shell's child processes are killed too.
    #[tokio::test]
    async fn a_program_that_takes_too_long_is_ended_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let ids = directory.path().join("ids");
        let command = format!("sleep 600 & echo $! $$ > {}; wait", ids.display());
        let failed = run(&command, Duration::from_millis(500)).await.unwrap_err();
        assert!(
            failed.may_pass && failed.reason.contains("did not end within"),
            "{failed}"
        );
        assert_ended(&std::fs::read_to_string(ids).unwrap()).await;
    }
}
