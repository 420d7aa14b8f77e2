//! Handles the signals that end a command, except those that were ignored when it began.
//!
//! `nohup` starts a program with SIGHUP ignored, and a shell without job control starts `program &`
//! with SIGINT and SIGQUIT ignored. If such a program installed handlers anyway, it would die when
//! its user closes the terminal. So the dispositions are read once, before the first handler is
//! installed, and without unsafe code: from `/proc` on Linux, and elsewhere by a shell that sends
//! itself the signal, because child processes inherit dispositions.
//!
//! The handlers are installed before a command does anything, and stay for the life of the process.
//! So a signal ends the command at any moment, even while it reads the manifest, waits for
//! credentials, or is between two phases of a run. The future of the command is then dropped
//! ([`interruption`]), unless the command has announced that it ends by itself ([`Orderly`]). In
//! both cases, the process ends within the drain time.

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

/// The flag for the drain time, the time that a run may take to end after a signal.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct DrainFlags {
    /// Longest time that a run may take to end after a signal. Default: 20s.
    #[arg(long, value_name = "DURATION", env = "S3HAUL_DRAIN", value_parser = drain)]
    drain: Option<Duration>,
}

impl DrainFlags {
    /// Returns the drain time, or its default.
    pub(super) fn time(self) -> Duration {
        self.drain.unwrap_or(DRAIN)
    }
}

/// Formats a time as in `--drain`: `20s`.
pub(super) fn drain_text(time: Duration) -> String {
    format!(
        "{:#}",
        SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
    )
}

fn drain(text: &str) -> Result<Duration, String> {
    let drain = parse_duration(text).map_err(|error| error.to_string())?;
    if drain < Duration::from_secs(1) {
        return Err("a run needs at least a second to close its journal".to_owned());
    }
    Ok(drain)
}

/// The text for a command that has written nothing.
const NOTHING: &str = "nothing was written; run the same command again";

/// The effect of the next signal.
static REACTION: Mutex<Reaction> = Mutex::new(Reaction {
    orderly: None,
    leaves: Cow::Borrowed(NOTHING),
    cut_short: None,
    is_view: false,
});

#[derive(Debug)]
struct Reaction {
    orderly: Option<OrderlyEnd>,
    /// Describes what the command has and has not done, for the error if it ends now.
    leaves: Cow<'static, str>,
    /// Replaces `leaves` for a command that is dropped during its orderly end.
    cut_short: Option<&'static str>,
    /// True for a command that shows something until its user presses Ctrl-C.
    is_view: bool,
}

/// The orderly end of a command after a signal.
#[derive(Clone, Debug)]
struct OrderlyEnd {
    /// Notifies the command of the signal.
    signalled: Signalled,
    /// The time limit for the end of the command.
    within: Duration,
}

fn reaction() -> MutexGuard<'static, Reaction> {
    REACTION.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets the text of the error that a signal causes from now on. The text follows the word
/// "interrupted", and describes what the command has and has not done.
pub(super) fn leaves(text: impl Into<Cow<'static, str>>) {
    reaction().leaves = text.into();
}

/// Announces that the command shows something until its user presses Ctrl-C, which then is not an
/// error.
pub(super) fn is_view() {
    reaction().is_view = true;
}

/// Sets the text of the error of a command that is dropped during its orderly end. The text applies
/// until the command's [`Orderly`] is dropped.
pub(super) fn leaves_when_cut_short(text: &'static str) {
    reaction().cut_short = Some(text);
}

/// Notifies a command of a signal.
#[derive(Clone, Debug, Default)]
pub(super) struct Signalled {
    came: CancellationToken,
    kind: Arc<OnceLock<SignalKind>>,
}

impl Signalled {
    /// Waits for the signal, and returns it.
    pub(super) async fn wait(&self) -> SignalKind {
        self.came.cancelled().await;
        self.kind.get().copied().unwrap_or(SignalKind::terminate())
    }

    /// Returns true if the signal has arrived.
    pub(super) fn has_come(&self) -> bool {
        self.came.is_cancelled()
    }

    fn tell(&self, kind: SignalKind) {
        self.kind.get_or_init(|| kind);
        self.came.cancel();
    }
}

/// While this value lives, the first signal only asks the command to end. Afterwards, a signal ends
/// the command immediately again.
#[derive(Debug)]
pub(super) struct Orderly(Signalled);

impl Orderly {
    /// Announces that the command ends by itself within this time after the first signal. A second
    /// signal, or the end of the time, drops the command.
    pub(super) fn within(within: Duration) -> Self {
        let signalled = Signalled::default();
        reaction().orderly = Some(OrderlyEnd {
            signalled: signalled.clone(),
            within,
        });
        Self(signalled)
    }

    /// Returns the notice of the first signal.
    pub(super) fn signalled(&self) -> Signalled {
        self.0.clone()
    }
}

impl Drop for Orderly {
    fn drop(&mut self) {
        let mut reaction = reaction();
        reaction.orderly = None;
        reaction.cut_short = None;
    }
}

/// Waits until a signal ends the command, and returns the error for it.
pub(super) async fn interruption(mut signals: Signals) -> CliError {
    let kind = signals.recv().await;
    let ending = reaction().orderly.clone();
    let mut late = String::new();
    if let Some(OrderlyEnd { signalled, within }) = ending {
        signalled.tell(kind);
        tokio::select! {
            _ = signals.recv() => {}
            () = sleep(within) => {
                late = format!("not everything ended within {} (--drain); ", drain_text(within));
            }
        }
    }
    let reaction = reaction();
    if reaction.is_view && kind == SignalKind::interrupt() {
        return CliError::ViewEnded;
    }
    let leaves = reaction.cut_short.unwrap_or(&reaction.leaves);
    CliError::Interrupted(format!("{late}{leaves}"))
}

/// The signals that commands listen for. Their numbers are the same on every Unix.
const LISTENED: [(&str, i32); 3] = [("HUP", 1), ("INT", 2), ("TERM", 15)];

/// The number of SIGXFSZ, which a process gets when its file reaches the file size limit.
const XFSZ: i32 = 25;

/// Returns the name of a signal, such as `SIGTERM`.
pub(super) fn name(kind: SignalKind) -> String {
    let number = kind.as_raw_value();
    LISTENED
        .iter()
        .find(|(_, listened)| *listened == number)
        .map_or_else(|| number.to_string(), |(name, _)| format!("SIG{name}"))
}

/// The numbers of the signals that were ignored when this process began.
static IGNORED: OnceLock<Vec<i32>> = OnceLock::new();

/// Records which signals are ignored. Must be called before the first handler is installed.
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

/// Returns true if a child shell survives the signal, which happens only if this process ignores
/// the signal too.
fn survives(name: &str, number: i32) -> bool {
    let shell = Command::new("/bin/sh")
        .args(["-c", &format!("kill -s {name} $$; exit 0")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    // Without a shell the disposition is unknown. Most callers expect a program to handle signals.
    shell.is_ok_and(|status| status.signal() != Some(number))
}

/// The signals that a command listens for.
#[derive(Debug)]
pub(super) struct Signals(Vec<(SignalKind, Signal)>);

impl Signals {
    /// Listens for the signals with which users and schedulers end a command, except those that
    /// were ignored when the process began.
    pub(super) fn listen() -> io::Result<Self> {
        note_ignored();
        // With a handler, a write beyond `ulimit -f` fails like a write to a full disk. Without
        // one, it kills the process.
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

    /// Waits for the next signal, and returns it. Never returns if all signals are ignored.
    async fn recv(&mut self) -> SignalKind {
        poll_fn(|context| {
            let mut ready = None;
            // Polls all signals, so that each can wake this task.
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

    #[test]
    fn a_shell_and_proc_agree_about_this_process() {
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
