//! The identity of a session. Messages name the holder of a journal with it, and a successor uses
//! it to decide whether the holder's process has ended.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;
use std::{fs, io};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The terms on which a session holds a journal, named as in a Kubernetes Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The Job (or any other unit that restarts its processes) of the session. A session takes over
    /// at once from another session of the same Job.
    pub job: Option<String>,
    /// The pod, which messages name instead of the host.
    pub pod: Option<String>,
    /// The time without a sign of life after which a holder may be replaced.
    pub duration: Duration,
    /// The time between two signs of life.
    pub renewal: Duration,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self {
            job: None,
            pod: None,
            duration: Duration::from_mins(1),
            renewal: Duration::from_secs(15),
        }
    }
}

impl LeaseTerms {
    /// Returns the default terms for a session of this Job.
    #[must_use]
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "for tests"))]
    pub fn of_job(job: &str) -> Self {
        Self {
            job: Some(job.to_owned()),
            ..Self::default()
        }
    }
}

/// A session that writes a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The ID that distinguishes sessions.
    pub id: String,
    /// The machine or pod.
    pub host: String,
    /// The ID of the process there.
    pub pid: u32,
    /// The time when it began, by its own clock.
    pub since: Timestamp,
    /// The Job that it belongs to, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The mark that distinguishes the process from others with the same pid. Only on Linux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessMark>,
}

/// The identity of a process on a machine, besides its pid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// The boot of the machine.
    boot: String,
    /// The pid namespace of the process.
    namespace: String,
    /// The user, because processes of other users may be hidden.
    user: u32,
    /// The start of the process, in ticks since the boot.
    started: u64,
}

impl ProcessMark {
    /// Returns the mark of this process.
    fn of_this_process() -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        Some(Self {
            boot: boot.trim().to_owned(),
            namespace: namespace.to_string_lossy().into_owned(),
            user: fs::metadata("/proc/self").ok()?.uid(),
            started: start_of(std::process::id()).ok().flatten()?,
        })
    }

    /// Returns true if the processes can see each other, so that a missing process has ended.
    fn is_beside(&self, other: &Self) -> bool {
        (&self.boot, &self.namespace, self.user) == (&other.boot, &other.namespace, other.user)
    }
}

/// Returns the start of a process of this machine, or `None` if it does not exist or is a zombie.
///
/// # Errors
/// The start cannot be read, for example because too many files are open. That proves nothing about
/// the process.
fn start_of(pid: u32) -> io::Result<Option<u64>> {
    let gone = rustix::io::Errno::SRCH.raw_os_error();
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // The process ended before its file was opened, or before it was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(gone) => return Ok(None),
        Err(error) => return Err(error),
    };
    started_in(&stat)
}

/// Returns the start of a process from its `stat` line, or `None` if it has died.
fn started_in(stat: &str) -> io::Result<Option<u64>> {
    // The name is in parentheses and may contain any characters.
    let mut fields = stat
        .rsplit_once(')')
        .map_or("", |(_, fields)| fields)
        .split_whitespace();
    let state = fields.next();
    let started = fields.nth(18).and_then(|started| started.parse().ok());
    let (Some(state), Some(started)) = (state, started) else {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    };
    Ok((!matches!(state, "Z" | "X")).then_some(started))
}

impl Writer {
    /// Creates a session of this process that begins now.
    #[must_use]
    pub fn this_process(terms: &LeaseTerms) -> Self {
        Self {
            id: format!("{:016x}", fastrand::u64(..)),
            host: terms.pod.clone().unwrap_or_else(host),
            pid: std::process::id(),
            since: Timestamp::now(),
            job: terms.job.clone(),
            process: ProcessMark::of_this_process(),
        }
    }

    /// Returns true if this session succeeds or outlives the other one, and need not wait for it.
    #[must_use]
    pub fn may_succeed(&self, other: &Self) -> bool {
        self.succeeds(other) || self.outlives(other)
    }

    /// Returns a placeholder for a writer that could not be identified.
    pub(super) fn unknown() -> Self {
        Self {
            id: String::new(),
            host: "an unknown machine".to_owned(),
            pid: 0,
            since: Timestamp::UNIX_EPOCH,
            job: None,
            process: None,
        }
    }

    /// Returns true if both sessions belong to the same Job, so that this one is the successor.
    pub(super) fn succeeds(&self, other: &Self) -> bool {
        self.job.is_some() && self.job == other.job
    }

    /// Returns true if the other session's process ran on this machine, where this process would
    /// see it, and has ended.
    pub(super) fn outlives(&self, other: &Self) -> bool {
        let (Some(own), Some(mark)) = (&self.process, &other.process) else {
            return false;
        };
        self.host == other.host
            && own.is_beside(mark)
            && start_of(other.pid).is_ok_and(|started| started != Some(mark.started))
    }
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pid == 0 {
            return f.write_str("an unknown process");
        }
        write!(f, "process {} on {}", self.pid, self.host)?;
        if let Some(job) = &self.job {
            write!(f, " (Job {job})")?;
        }
        write!(f, " since {}", self.since.strftime("%Y-%m-%d %H:%M:%SZ"))
    }
}

/// Returns this machine's name.
#[must_use]
pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn with_pid(pid: u32, started: u64) -> Writer {
        let own = Writer::this_process(&LeaseTerms::default());
        let process = own
            .process
            .clone()
            .map(|mark| ProcessMark { started, ..mark });
        Writer {
            pid,
            process,
            ..own
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_a_process_that_would_be_seen_is_gone() {
        let own = Writer::this_process(&LeaseTerms::default());
        assert!(!own.outlives(&own), "it lives");
        let mut child = Command::new("sleep")
            .arg("600")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        let started = start_of(pid).unwrap().unwrap();
        let other = with_pid(pid, started);
        assert!(!own.outlives(&other), "the child lives");
        assert!(own.outlives(&with_pid(pid, started + 1)), "another process");
        child.kill().unwrap();
        let patience = std::time::Instant::now() + Duration::from_mins(1);
        // It is a zombie now.
        while !own.outlives(&other) {
            assert!(std::time::Instant::now() < patience, "it lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert!(own.outlives(&other));
        for (what, change) in [
            (
                "host",
                (|writer| writer.host = "elsewhere".into()) as fn(&mut Writer),
            ),
            ("boot", |writer| mark(writer).boot = "another".into()),
            ("namespace", |writer| {
                mark(writer).namespace = "pid:[1]".into();
            }),
            ("user", |writer| mark(writer).user += 1),
            ("mark", |writer| writer.process = None),
        ] {
            let mut unseen = other.clone();
            change(&mut unseen);
            assert!(!own.outlives(&unseen), "{what}");
        }
    }

    /// An unreadable line does not prove that the process has ended.
    #[test]
    fn the_line_of_a_process_tells_if_it_lives() {
        let line = |state: &str| format!("7 (a) b) {state} {}42", "0 ".repeat(18));
        assert_eq!(started_in(&line("S")).unwrap(), Some(42));
        assert_eq!(started_in(&line("Z")).unwrap(), None);
        for text in ["", "7 (a", "7 (a) S 0 0", "7 (a) S x"] {
            assert!(started_in(text).is_err(), "{text}");
        }
    }

    fn mark(writer: &mut Writer) -> &mut ProcessMark {
        writer.process.as_mut().unwrap()
    }

    #[test]
    fn a_session_succeeds_those_of_its_own_job() {
        let of = |job: Option<&str>| {
            Writer::this_process(&LeaseTerms {
                job: job.map(str::to_owned),
                pod: Some("pod-1".to_owned()),
                ..LeaseTerms::default()
            })
        };
        assert!(of(Some("uid/3")).succeeds(&of(Some("uid/3"))));
        assert!(!of(Some("uid/3")).succeeds(&of(Some("uid/4"))));
        assert!(!of(None).succeeds(&of(None)));
        let said = of(Some("uid/3")).to_string();
        assert!(said.contains("on pod-1 (Job uid/3) since 2"), "{said}");
    }

    /// Journals of earlier versions have neither Job nor mark.
    #[test]
    fn a_writer_without_job_or_mark_is_read() {
        let text =
            r#"{"id":"7afc8be4845ba1d8","host":"vm","pid":6946,"since":"2026-11-29T06:36:53Z"}"#;
        let writer: Writer = serde_json::from_str(text).unwrap();
        assert_eq!((writer.job.as_deref(), &writer.process), (None, &None));
        assert_eq!(serde_json::to_string(&writer).unwrap(), text);
    }
}
