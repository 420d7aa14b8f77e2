//! The first and the last line of a report: the header and the footer.
//!
//! The header names the run that the receipts come from. The footer says how the run ended. A
//! report without a footer was truncated, or its run was killed or is still in progress.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use memchr::memrchr_iter;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::endpoint::{CredentialSource, ResolvedEndpoint};
use crate::execute::Outcome;
use crate::journal::host;
use crate::manifest::job::{Job, Versions};
use crate::printable::{hex, shell};

/// The format with a footer. Reports of format 1 have none.
pub const FORMAT: u32 = 2;
/// The bytes at the end of a report that include its last line.
const TAIL: u64 = 16 * 1024;
/// The maximum number of bytes of the first line that are read. No command line is longer.
const HEAD: u64 = 4 << 20;

/// The header of a report. It has no secrets, because s3haul accepts none on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportHeader {
    /// The format of the lines that follow.
    pub report: u32,
    /// The version of s3haul.
    #[serde(alias = "tool")]
    pub version: String,
    /// The command line, without the program.
    pub command: Vec<String>,
    /// The working directory of the command.
    pub directory: PathBuf,
    /// The time at which the report was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The time from which the ages in the job count back, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_from: Option<Timestamp>,
    /// The machine or pod.
    #[serde(default)]
    pub host: String,
    /// The run, as its journal calls it.
    #[serde(default)]
    pub run: String,
    /// The job's name.
    #[serde(default)]
    pub job: String,
    /// The SHA-256 of the manifest, or of the command line if there is no manifest.
    #[serde(default)]
    pub manifest_sha256: String,
    /// Profile or other credentials, Region, and URL of each endpoint.
    #[serde(default)]
    pub identity: BTreeMap<String, String>,
    /// The transfers that copy histories (`versions: all`). These have one receipt for each version
    /// of a key; all others have one for each key. Absent in reports of old versions, which are
    /// read as if all transfers copied histories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histories: Option<BTreeSet<String>>,
    /// True for a run with `--sandbox`, which touched none of the user's buckets.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sandbox: bool,
}

impl ReportHeader {
    /// Returns the command line of this process.
    ///
    /// # Errors
    /// The working directory cannot be determined.
    pub fn of_process() -> io::Result<Self> {
        let command = std::env::args_os()
            .skip(1)
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        Ok(Self {
            command,
            directory: std::env::current_dir()?,
            ..Self::default()
        })
    }

    /// Returns the header of a run of `job` that begins now.
    #[must_use]
    pub fn begin(&self, job: &Job) -> Self {
        let now = Timestamp::now();
        let of_command = || hex(&Sha256::digest(self.command.join("\0")));
        Self {
            report: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: self.command.clone(),
            directory: self.directory.clone(),
            time: Some(now),
            counted_from: job.counted_from(),
            host: host(),
            run: run_name(now),
            job: job.name.clone(),
            manifest_sha256: job.manifest_sha256.clone().unwrap_or_else(of_command),
            identity: job
                .endpoints
                .iter()
                .map(|(name, at)| (name.clone(), identity(at, None)))
                .collect(),
            histories: Some(histories(job)),
            sandbox: self.sandbox,
        }
    }

    /// Returns this header with the actual sources of the credentials instead of the possible ones,
    /// if they are known.
    #[must_use]
    pub fn with_sources(
        mut self,
        job: &Job,
        source: impl Fn(&str) -> Option<CredentialSource>,
    ) -> Self {
        for (name, endpoint) in &job.endpoints {
            if let Some(source) = source(name) {
                self.identity
                    .insert(name.clone(), identity(endpoint, Some(&source)));
            }
        }
        self
    }

    /// Returns true for the report of a run with `--sandbox`. Old headers show that only in their
    /// command.
    #[must_use]
    pub fn is_of_sandbox(&self) -> bool {
        self.sandbox || self.command.iter().any(|word| word == "--sandbox")
    }

    /// Returns true if `other` describes a session of the same run. A report of format 1 does not
    /// name its run, and matches every run.
    #[must_use]
    pub fn is_of_run(&self, other: &Self) -> bool {
        self.run.is_empty() || self.run == other.run
    }

    /// Describes the endpoints of `job` whose server or Region has changed since the report was
    /// written.
    #[must_use]
    pub fn changes(&self, job: &Job) -> Vec<String> {
        let now = job.endpoints.iter().map(|(name, at)| (name, place(at)));
        let changed = now.filter_map(|(name, now)| {
            let then = self
                .identity
                .get(name)
                .filter(|then| !then.ends_with(&format!(", {now}")))?;
            Some(format!(
                "endpoint `{name}` is {now}, and was {then} when the report was written"
            ))
        });
        changed.collect()
    }

    /// Returns the state prefix that the command names, if it ran a shard.
    #[must_use]
    pub fn state_prefix(&self) -> Option<&str> {
        let mut words = self.command.iter();
        while let Some(word) = words.next() {
            if word == "--state" {
                return words.next().map(String::as_str);
            }
            if let Some(state) = word.strip_prefix("--state=") {
                return Some(state);
            }
        }
        None
    }

    /// Returns the command for a shell, without passwords.
    #[must_use]
    pub fn command_line(&self) -> String {
        shell::command(self.command.iter().map(String::as_str))
    }
}

/// Returns the names of the transfers that copy histories.
fn histories(job: &Job) -> BTreeSet<String> {
    let histories = job
        .transfers
        .iter()
        .filter(|transfer| transfer.versions == Versions::All);
    histories.map(|transfer| transfer.name.clone()).collect()
}

/// The digits of a run's name that are its time.
const TIME_DIGITS: usize = 11;

/// Returns a new name for a run: the time in milliseconds and a random number. Names of later runs
/// are greater, so reports in S3 are in the order of time.
pub(crate) fn run_name(now: Timestamp) -> String {
    let millisecond = now.as_millisecond().max(0);
    format!("{millisecond:011x}{:05x}", fastrand::u32(..1 << 20))
}

/// Returns the time in the name of a run, or the epoch for a name of another kind.
pub(super) fn time_of_run(run: &str) -> Timestamp {
    let time = run.get(..TIME_DIGITS);
    let millisecond = time.and_then(|time| i64::from_str_radix(time, 16).ok());
    Timestamp::from_millisecond(millisecond.unwrap_or_default()).unwrap_or_default()
}

/// Describes the credentials, the Region, and the URL of an endpoint, as in `profile prod,
/// eu-west-1, https://…`. Before a source has returned credentials, names all possible sources.
fn identity(endpoint: &ResolvedEndpoint, source: Option<&CredentialSource>) -> String {
    let possible = || {
        let possible: Vec<_> = endpoint
            .credentials
            .iter()
            .map(ToString::to_string)
            .collect();
        if possible.is_empty() {
            "fixed credentials".to_owned()
        } else {
            possible.join(" or ")
        }
    };
    let credentials = source.map_or_else(possible, ToString::to_string);
    let role = endpoint
        .assume_role
        .as_ref()
        .map(|role| format!(", {}", role.arn))
        .unwrap_or_default();
    format!("{credentials}{role}, {}", place(endpoint))
}

/// Describes the Region and the URL of an endpoint.
fn place(endpoint: &ResolvedEndpoint) -> String {
    let place = endpoint
        .url()
        .map_or_else(|| endpoint.server.to_string(), str::to_owned);
    format!("{}, {place}", endpoint.region.value)
}

/// The footer of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// The time at which the run ended.
    pub time: Timestamp,
    /// The exit code of the process.
    pub exit: i32,
    /// False if the run was stopped or gave up, and so may not have listed all objects.
    pub complete: bool,
    /// Objects copied or uploaded.
    #[serde(default)]
    pub done_objects: u64,
    /// Their bytes.
    #[serde(default)]
    pub done_bytes: u64,
    /// Objects that the destination had already.
    #[serde(default)]
    pub skipped_objects: u64,
    /// Objects that failed.
    #[serde(default)]
    pub failed_objects: u64,
    /// Copied objects that lost attributes.
    #[serde(default)]
    pub objects_with_losses: u64,
    /// Known objects that a stop left undone.
    #[serde(default)]
    pub stopped_objects: u64,
    /// Objects that are being restored from an archive.
    #[serde(default)]
    pub restoring_objects: u64,
    /// Objects skipped because they are in an archive.
    #[serde(default)]
    pub archived_objects: u64,
    /// Objects that the selections excluded.
    #[serde(default)]
    pub excluded_objects: u64,
    /// The number of sessions of the run.
    #[serde(default)]
    pub sessions: u32,
    /// The total duration of all sessions, in seconds.
    #[serde(default)]
    pub seconds: f64,
    /// The shards of a merged report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<FooterShards>,
    /// The number of receipts in the file. [`ReportEnd`](super::ReportEnd) sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u64>,
    /// The CRC-64/NVME of the header and the receipts, including their line feeds, in hexadecimal
    /// digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

/// The shards whose reports were merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FooterShards {
    /// The number of all shards.
    pub total: u32,
    /// The number of shards whose reports are missing or not complete.
    pub incomplete: u32,
    /// The first of these shards, and the reasons.
    #[serde(default)]
    pub reasons: BTreeMap<u32, String>,
    /// The first retries whose reports are damaged, and the damages.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub damaged_retries: BTreeMap<String, String>,
}

impl Footer {
    /// Returns the footer of a run.
    #[must_use]
    pub fn of(outcome: &Outcome, exit: i32) -> Self {
        Self {
            time: Timestamp::now(),
            exit,
            complete: outcome.is_complete() && outcome.stopped_objects == 0,
            done_objects: outcome.done_objects,
            done_bytes: outcome.done_bytes,
            skipped_objects: outcome.skipped_objects,
            failed_objects: outcome.failed_objects,
            objects_with_losses: outcome.objects_with_losses,
            stopped_objects: outcome.stopped_objects,
            restoring_objects: outcome.restoring_objects,
            archived_objects: outcome.archived_objects,
            excluded_objects: outcome.excluded_objects,
            sessions: outcome.sessions,
            seconds: outcome.seconds,
            shards: None,
            lines: None,
            checksum: None,
        }
    }

    /// Returns true if the run may not have listed all objects: it was stopped, or some of its
    /// shards have not ended. Returns false if only reports of retries are damaged.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let lacks_retries =
            |shards: &FooterShards| shards.incomplete == 0 && !shards.damaged_retries.is_empty();
        let lacks_only_retries = self.shards.as_ref().is_some_and(lacks_retries);
        !self.complete && (!lacks_only_retries || self.stopped_objects > 0)
    }

    /// Describes the damaged reports of retries, each with its remedy.
    #[must_use]
    pub fn damaged_retries(&self) -> Vec<String> {
        let retries = self
            .shards
            .iter()
            .flat_map(|shards| &shards.damaged_retries);
        let describe = |(place, damage): (&String, &String)| {
            format!(
                "{place}, the report of a retry, is damaged: {damage}; delete it to merge without it"
            )
        };
        retries.map(describe).collect()
    }

    /// Returns the last line of a report.
    pub(super) fn line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&FrameLine { footer: self })?;
        line.push(b'\n');
        Ok(line)
    }
}

#[derive(Serialize, Deserialize)]
struct FrameLine<F> {
    footer: F,
}

/// Parses a line as a footer.
pub(super) fn footer(line: &str) -> Option<Footer> {
    serde_json::from_str::<FrameLine<Footer>>(line)
        .ok()
        .map(|line| line.footer)
}

/// The line that stands in for missing receipts of an earlier session.
pub(super) const GAP: &str = "{\"gap\":\"receipts of an earlier session are missing here\"}\n";

/// Returns true for [`GAP`].
pub(super) fn is_gap(line: &str) -> bool {
    line.starts_with("{\"gap\":")
}

/// Reads the header of a report. Returns `None` for a file without one.
#[must_use]
pub fn header(path: &Path) -> Option<ReportHeader> {
    // Opening a pipe would wait for its writer.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    first_line(&mut File::open(path).ok()?).ok()?.1
}

/// Reads the footer of a report. Returns `None` for a file without one.
#[must_use]
pub fn last_footer(path: &Path) -> Option<Footer> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let last = tail.trim_ascii_end().rsplit(|byte| *byte == b'\n').next()?;
    footer(std::str::from_utf8(last).ok()?)
}

/// Returns the length of the first line (with its line feed), and the header in it. The length is 0
/// if there is no line feed.
pub(super) fn first_line(file: &mut File) -> io::Result<(u64, Option<ReportHeader>)> {
    if !file.metadata()?.is_file() {
        return Ok((0, None));
    }
    file.rewind()?;
    let mut line = Vec::new();
    BufReader::new(&mut *file)
        .take(HEAD)
        .read_until(b'\n', &mut line)?;
    let length = if line.ends_with(b"\n") {
        line.len() as u64
    } else {
        0
    };
    Ok((length, serde_json::from_slice(&line).ok()))
}

/// Returns true for the remains of a truncated report: a file that begins with a receipt, or with a
/// whole or partial header.
pub(super) fn is_remnant(file: &mut File) -> io::Result<bool> {
    #[derive(Deserialize)]
    struct ReceiptShape {
        #[serde(rename = "transfer")]
        _transfer: String,
        #[serde(rename = "source")]
        _source: String,
        #[serde(rename = "status")]
        _status: String,
    }
    let mut begin = Vec::new();
    file.rewind()?;
    Read::by_ref(file).take(TAIL).read_to_end(&mut begin)?;
    let is_receipt = |line: &[u8]| serde_json::from_slice::<ReceiptShape>(line).is_ok();
    let is_gap = |line: &[u8]| std::str::from_utf8(line).is_ok_and(is_gap);
    let mut lines = begin
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let (first, second) = (lines.next(), lines.next());
    Ok(first.is_some_and(|line| {
        serde_json::from_slice::<ReportHeader>(line).is_ok()
            || is_receipt(line)
            // Only lines of a later session can follow a partial header.
            || is_torn_header(line)
                && second.is_none_or(|line| is_receipt(line) || is_gap(line))
    }))
}

/// Returns true for a line that begins like a header, and is not a complete JSON document.
fn is_torn_header(line: &[u8]) -> bool {
    let Some(rest) = line.strip_prefix(b"{\"report\":") else {
        return false;
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = &rest[digits..];
    // Old headers call the version `tool`.
    let is_like = |next: &[u8]| rest.starts_with(next) || next.starts_with(rest);
    (is_like(b",\"version\":") || is_like(b",\"tool\":"))
        && serde_json::from_slice::<IgnoredAny>(line).is_err()
}

/// Returns the length of a report without its footer and without an incomplete last line.
pub(super) fn length_of_receipts(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut most = TAIL;
    loop {
        let from = length.saturating_sub(most);
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        let mut ends = memrchr_iter(b'\n', &tail);
        let (end, end_before) = (ends.next(), ends.next());
        if from > 0 && end_before.is_none() {
            // The last lines are longer than the part that was read.
            most = most.saturating_mul(4);
            continue;
        }
        let Some(end) = end else {
            return Ok(length);
        };
        let begin = end_before.map_or(0, |end| end + 1);
        let is_footer =
            std::str::from_utf8(&tail[begin..end]).is_ok_and(|line| footer(line).is_some());
        return Ok(from + if is_footer { begin } else { end + 1 } as u64);
    }
}
