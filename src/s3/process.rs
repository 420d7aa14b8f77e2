//! Runs the program that a profile names with `credential_process`.
//!
//! The SDK has a provider for this. It starts the same shell and reads the same answer, but it
//! leaves the program running when nobody waits for it any more. Here a program that takes too long
//! is ended, with all that it has started, and so is one that still runs when the command ends.
//!
//! The program gets a process group of its own, so that a signal reaches all of it. Where standard
//! input is a terminal it stays in the group of the terminal: it may ask for a password or a code,
//! which only that group can read. Then only the shell is ended.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::Credentials;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Map, Value};
use tokio::process::Command;
use tokio::time::timeout;

use super::causes::one_line;

/// The programs that run now, and whether each has a process group of its own.
static RUNNING: Mutex<BTreeMap<i32, bool>> = Mutex::new(BTreeMap::new());

/// Ends all programs that run now. The command ends.
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
    // It may have ended by itself.
    let _ = if has_group {
        kill_process_group(id, Signal::KILL)
    } else {
        kill_process(id, Signal::KILL)
    };
}

/// A program that runs. It is ended when this is dropped before [`Running::forget`].
struct Running(i32);

impl Running {
    fn new(id: i32, has_group: bool) -> Self {
        running().insert(id, has_group);
        Self(id)
    }

    /// Forgets a program that has ended: its number may belong to another one soon.
    fn forget(self) {
        running().remove(&self.0);
    }
}

impl Drop for Running {
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
    /// The program may run for this long.
    pub(super) limit: Duration,
}

/// Names the program in messages. Its arguments may hold secrets.
pub(super) fn name(profile: &str) -> String {
    format!("`credential_process` of profile `{profile}`")
}

/// The program gave no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    profile: String,
    pub(super) reason: String,
    /// True if it may do better by itself later.
    pub(super) may_pass: bool,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", name(&self.profile), self.reason)
    }
}

impl Error for Failed {}

impl CredentialProcess {
    async fn run(&self) -> Result<Credentials, Failed> {
        let failed = |reason: String, may_pass: bool| Failed {
            profile: self.profile.clone(),
            reason,
            may_pass,
        };
        let output = match timeout(self.limit, self.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => {
                let reason = format!("cannot be run: {}", one_line(&error.to_string()));
                return Err(failed(reason, false));
            }
            Err(_) => {
                let limit = self.limit.as_secs();
                let reason = format!("did not end within {limit} s and was ended");
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

    async fn output(&self) -> io::Result<Output> {
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
        let child = shell.spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let running = id.map(|id| Running::new(id, has_group));
        let output = child.wait_with_output().await?;
        if let Some(running) = running {
            running.forget();
        }
        Ok(output)
    }
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

/// Reads what a program prints. As in the SDK, the case of names does not matter.
fn read(printed: &[u8]) -> Result<Credentials, String> {
    // The text may hold secrets, which serde's messages about syntax do not repeat.
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

    async fn run(command: &str, limit: Duration) -> Result<Credentials, Failed> {
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

    /// Checks that the shell's child and the processes beside it are ended too.
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
        let ids = std::fs::read_to_string(ids).unwrap();
        for id in ids.split_whitespace() {
            let state = format!("/proc/{id}/stat");
            // A process that nobody has waited for yet is a zombie.
            while std::fs::read_to_string(&state).is_ok_and(|state| !state.contains(") Z ")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}
