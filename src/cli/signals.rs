//! Signals that end a command, except those that were ignored when it began.
//!
//! `nohup` starts a program with SIGHUP ignored, and a shell without job control starts `program &` with SIGINT and
//! SIGQUIT ignored. A program that installs a handler anyway dies with the terminal that its user has closed. The
//! disposition at the start is read once, before the first handler is installed, and without unsafe code: from `/proc` on
//! Linux, elsewhere from a shell that sends the signal to itself, because dispositions are inherited.

use std::future::poll_fn;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that commands listen to. Their numbers are the same on every Unix.
const LISTENED: [(&str, i32); 3] = [("HUP", 1), ("INT", 2), ("TERM", 15)];

/// Numbers of the signals that were ignored when this process began.
static IGNORED: OnceLock<Vec<i32>> = OnceLock::new();

/// Notes which signals are ignored. Must be called before the first handler is installed.
pub(super) fn note_ignored() {
    IGNORED.get_or_init(|| {
        let mask = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| mask(&status));
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
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// True when a shell started by this process survives the signal, which it can only if the signal is ignored here too.
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
    /// Listens to those with which users and schedulers end a command.
    pub(super) fn of_the_end() -> io::Result<Self> {
        Self::listen(&[SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])
    }

    /// Listens to those of `kinds` that were not ignored at the start.
    pub(super) fn listen(kinds: &[SignalKind]) -> io::Result<Self> {
        note_ignored();
        let ignored = IGNORED.get().map_or(&[][..], Vec::as_slice);
        let listened = kinds.iter().filter(|kind| !ignored.contains(&kind.as_raw_value()));
        listened.map(|kind| Ok((*kind, signal(*kind)?))).collect::<io::Result<_>>().map(Self)
    }

    /// Waits for the next of them and returns it; for ever if all are ignored.
    pub(super) async fn recv(&mut self) -> SignalKind {
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
        let status = "Name:\ts3haul\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(mask(status), Some(0x1001));
        assert_eq!(mask("Name:\ts3haul\n"), None);
    }

    /// Both ways to ask agree about this process.
    #[test]
    fn a_shell_tells_what_proc_tells() {
        let Some(mask) = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| mask(&status))
        else {
            return;
        };
        for (name, number) in LISTENED {
            assert_eq!(survives(name, number), mask & (1 << (number - 1)) != 0, "{name}");
        }
    }
}
