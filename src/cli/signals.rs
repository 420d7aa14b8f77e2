//! Signals that end a command, except those that were ignored when it began.
//!
//! `nohup` starts a program with SIGHUP ignored, and a shell without job control starts `program &`
//! with SIGINT and SIGQUIT ignored. A program that installs a handler anyway dies with the terminal
//! that its user has closed. The disposition at the start is read once, before the first handler is
//! installed, and without unsafe code: from `/proc` on Linux, elsewhere from a shell that sends the
//! signal to itself, because dispositions are inherited.
//!
//! The handlers are installed before a command does anything, and stay for as long as the process
//! lives: a signal that comes while the manifest is read, while credentials are waited for, or
//! between two phases of a run ends the command like any other. What it ends is dropped where it
//! stands ([`interruption`]), unless a command has said that it ends by itself ([`Orderly`]).
//! Either way the process is over within the drain time.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::CliError;
use crate::execute::DRAIN;
use crate::size::parse_duration;

/// The flag for the time that a run takes to end after a signal.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct DrainFlags {
    /// Longest time that a run takes to end after a signal. Default: 20s.
    #[arg(long, value_name = "DURATION", env = "S3HAUL_DRAIN", value_parser = drain)]
    drain: Option<Duration>,
}

impl DrainFlags {
    /// Returns the time.
    pub(super) fn time(self) -> Duration {
        self.drain.unwrap_or(DRAIN)
    }
}

/// Returns a time as users write it: `20s`.
pub(super) fn in_words(time: Duration) -> String {
    format!(
        "{:#}",
        SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
    )
}

fn drain(text: &str) -> Result<Duration, String> {
    let drain = parse_duration(text).map_err(|error| error.to_string())?;
    if drain < Duration::from_secs(1) {
        return Err("a run needs a second at least to close its journal".to_owned());
    }
    Ok(drain)
}

/// The sentence for commands that write nothing.
const NOTHING: &str = "nothing was written; run the same command again";

/// The effect of a signal at the moment.
static CONDUCT: Mutex<Conduct> = Mutex::new(Conduct {
    orderly: None,
    leaves: Cow::Borrowed(NOTHING),
});

#[derive(Debug)]
struct Conduct {
    orderly: Option<Ending>,
    /// A sentence that says what the command has done and not done, if it ends now.
    leaves: Cow<'static, str>,
}

/// The way in which a command ends by itself.
#[derive(Clone, Debug)]
struct Ending {
    signalled: Signalled,
    within: Duration,
}

fn conduct() -> MutexGuard<'static, Conduct> {
    CONDUCT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets what a signal leaves behind from now on, as the end of a sentence that begins with
/// "interrupted".
pub(super) fn leaves(what: impl Into<Cow<'static, str>>) {
    conduct().leaves = what.into();
}

/// The notice to a command that a signal has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Signalled {
    came: CancellationToken,
    kind: Arc<OnceLock<SignalKind>>,
}

impl Signalled {
    /// Waits for the signal and returns it.
    pub(super) async fn wait(&self) -> SignalKind {
        self.came.cancelled().await;
        self.kind.get().copied().unwrap_or(SignalKind::terminate())
    }

    /// Returns true if it has come.
    pub(super) fn has_come(&self) -> bool {
        self.came.is_cancelled()
    }

    fn tell(&self, kind: SignalKind) {
        self.kind.get_or_init(|| kind);
        self.came.cancel();
    }
}

/// As long as this lives, the first signal only tells the command to end, which it has some time
/// for.
#[derive(Debug)]
pub(super) struct Orderly(Signalled);

impl Orderly {
    /// Begins it; the command ends `within` this time of the first signal, or is ended.
    pub(super) fn within(within: Duration) -> Self {
        let signalled = Signalled::default();
        conduct().orderly = Some(Ending {
            signalled: signalled.clone(),
            within,
        });
        Self(signalled)
    }

    /// Returns what tells of the first signal.
    pub(super) fn signalled(&self) -> Signalled {
        self.0.clone()
    }
}

impl Drop for Orderly {
    fn drop(&mut self) {
        conduct().orderly = None;
    }
}

/// Waits until signals end the command, and returns the error that it ends with.
pub(super) async fn interruption(mut signals: Signals) -> CliError {
    let kind = signals.recv().await;
    let ending = conduct().orderly.clone();
    let mut late = String::new();
    if let Some(Ending { signalled, within }) = ending {
        signalled.tell(kind);
        tokio::select! {
            _ = signals.recv() => {}
            () = sleep(within) => {
                late = format!("not everything ended within {} (--drain); ", in_words(within));
            }
        }
    }
    let leaves = conduct().leaves.clone();
    CliError::Interrupted(format!("{late}{leaves}"))
}

/// Signals that commands listen to. Their numbers are the same on every Unix.
const LISTENED: [(&str, i32); 3] = [("HUP", 1), ("INT", 2), ("TERM", 15)];

/// The number of SIGXFSZ, which tells a process that its file has reached the limit of its size.
const XFSZ: i32 = 25;

/// Returns the name of a signal: `SIGTERM`.
pub(super) fn name(kind: SignalKind) -> String {
    let number = kind.as_raw_value();
    LISTENED
        .iter()
        .find(|(_, listened)| *listened == number)
        .map_or_else(|| number.to_string(), |(name, _)| format!("SIG{name}"))
}

/// Numbers of the signals that were ignored when this process began.
static IGNORED: OnceLock<Vec<i32>> = OnceLock::new();

/// Notes which signals are ignored. Must be called before the first handler is installed.
pub(super) fn note_ignored() {
    IGNORED.get_or_init(|| {
        let mask = std::fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| mask(&status));
        let is_ignored = |name: &str, number: i32| match mask {
            Some(mask) => mask & (1 << (number - 1)) != 0,
            None => survives(name, number),
        };
        LISTENED
            .into_iter()
            .filter(|(name, number)| is_ignored(name, *number))
            .map(|(_, number)| number)
            .collect()
    });
}

/// Reads the bit mask `SigIgn` of `/proc/self/status`; bit 0 is signal 1.
fn mask(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Returns true if a shell started by this process survives the signal, which it can only if the
/// signal is ignored here too.
fn survives(name: &str, number: i32) -> bool {
    let shell = Command::new("/bin/sh")
        .args(["-c", &format!("kill -s {name} $$; exit 0")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // Without a shell nothing is known, and listening is what everybody expects.
    shell.is_ok_and(|status| status.signal() != Some(number))
}

/// Listens to some signals.
#[derive(Debug)]
pub(super) struct Signals(Vec<(SignalKind, Signal)>);

impl Signals {
    /// Listens to those with which users and schedulers end a command, unless they were ignored at
    /// the start.
    pub(super) fn of_the_end() -> io::Result<Self> {
        note_ignored();
        // With a handler a write beyond `ulimit -f` fails like one to a full disk. Without one the
        // process dies of it.
        drop(signal(SignalKind::from_raw(XFSZ))?);
        let ignored = IGNORED.get().map_or(&[][..], Vec::as_slice);
        let all = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let listened = all
            .into_iter()
            .filter(|kind| !ignored.contains(&kind.as_raw_value()));
        listened
            .map(|kind| Ok((kind, signal(kind)?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Waits for the next of them and returns it; for ever if all are ignored.
    async fn recv(&mut self) -> SignalKind {
        poll_fn(|context| {
            let mut ready = None;
            // Each is polled, so that each wakes this task.
            for (kind, signal) in &mut self.0 {
                if matches!(signal.poll_recv(context), Poll::Ready(Some(()))) {
                    ready = ready.or(Some(*kind));
                }
            }
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_proc_is_read() {
        let status =
            "Name:\ts3haul\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(mask(status), Some(0x1001));
        assert_eq!(mask("Name:\ts3haul\n"), None);
    }

    /// Both ways to ask agree about this process.
    #[test]
    fn a_shell_tells_what_proc_tells() {
        let Some(mask) = std::fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| mask(&status))
        else {
            return;
        };
        for (name, number) in LISTENED {
            assert_eq!(
                survives(name, number),
                mask & (1 << (number - 1)) != 0,
                "{name}"
            );
        }
    }
}
