//! What a run leaves behind: one receipt per object as a line of JSON, and a summary for people.
//!
//! The first line names the command that the receipts come from, so that [`read`] can find out what to run again.
//! The file is opened before anything is sent, so that a path that can not be written is told at once. A disk that
//! fills up later does not stop the copies: the first error is kept, and the run does not exit 0. The writer is the
//! journal's [`Ledger`], which brings what is missing when the run goes on.

mod frame;
pub mod read;
mod target;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;

pub use self::frame::{FORMAT, Footer, Origin, header};
use self::frame::{GAP, first_line, is_gap, length_of_receipts};
pub use self::target::{Kind, Target, TargetError};
use crate::execute::Outcome;
use crate::journal::Ledger;
use crate::plan::unchanged::Unchanged;
use crate::printable::printable;
use crate::size::{ByteSize, display_count as count, display_duration};

/// Why a report is missing or incomplete.
#[derive(Debug, Error)]
pub enum ReportError {
    /// It could not be begun.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Some receipts are not in it.
    #[error(
        "the report {} lacks receipts: {error}; {}",
        path.display(),
        if *kept {
            "the journal has them: free some space and run the same command again, it completes the report and copies \
             nothing twice"
        } else {
            "they are lost, because no journal is kept; what was copied is at the destination, and the same command run \
             again reports it as skipped"
        }
    )]
    Incomplete {
        /// Where.
        path: PathBuf,
        /// The first thing that the system said.
        error: String,
        /// They are in the journal, so that the run can still complete the report.
        kept: bool,
    },
    /// It has all receipts and no footer.
    #[error(
        "the report {} has all its receipts but no footer, so that `retry` and `verify --report` refuse it: {error}; free \
         some space and run the same command again", path.display()
    )]
    Footer {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The path names another file now.
    #[error(
        "the report {} was moved, removed, or replaced during the run; its receipts and its footer are in the file that the \
         run began, wherever that is now. Do not move a report before its run has ended", path.display()
    )]
    Moved {
        /// Where.
        path: PathBuf,
    },
}

/// Causes of failures that the summary names.
const SHOWN_CAUSES: usize = 10;

/// Writes receipts as they come.
#[derive(Debug)]
pub struct ReportWriter {
    file: BufWriter<File>,
    /// The header of this session, for a file that has none.
    header: Vec<u8>,
    /// The length of the header in the file, which may be that of an earlier session.
    first: u64,
    /// Set until the first rewind or receipt if this session has begun the file, so that nothing of an earlier one is in it.
    is_new: bool,
    /// Set for a stream that has to begin with [`GAP`].
    lacks_receipts: bool,
    error: Option<io::Error>,
    /// Set for a device or a pipe. Its length is what was written to it.
    stream: Option<u64>,
    /// Receipts in the file, with those that are about to be written.
    lines: Arc<AtomicU64>,
    /// A length of the file and the number of its receipts.
    counted: (u64, u64),
}

impl ReportWriter {
    /// Finds out whether a report can be written there, and leaves it as it is.
    ///
    /// # Errors
    /// [`ReportError::Target`].
    pub fn probe(path: &Path, origin: &Origin) -> Result<(), ReportError> {
        // A pipe whose probe is closed again has ended for its reader.
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            return Ok(());
        }
        Ok(Target::open_report(path, origin).map(drop)?)
    }

    /// Begins the report of what `origin` does, and the directory that it goes to.
    ///
    /// # Errors
    /// [`ReportError::Target`]. A file that is not a report stays as it is.
    pub fn create(path: &Path, origin: &Origin) -> Result<Self, ReportError> {
        Self::open(path, origin, |_| Ok(0))
    }

    /// Opens the report that an earlier session of the run has begun, so that its journal can go on with it. Where that is
    /// gone, or the file is the report of another run, another one is begun.
    ///
    /// # Errors
    /// [`ReportError::Target`]. A file that is not a report stays as it is.
    pub fn reopen(path: &Path, origin: &Origin) -> Result<Self, ReportError> {
        Self::open(path, origin, |file| {
            let (length, header) = first_line(file)?;
            let is_ours = header.is_some_and(|header| header.is_of_run(origin));
            Ok(if is_ours { length } else { 0 })
        })
    }

    fn open(
        path: &Path,
        origin: &Origin,
        first: impl Fn(&mut File) -> io::Result<u64>,
    ) -> Result<Self, ReportError> {
        let Target { mut file, is_stream } = Target::open_report(path, origin)?;
        let begin = || {
            let mut header = serde_json::to_vec(origin)?;
            header.push(b'\n');
            let first = if is_stream { 0 } else { first(&mut file)? };
            if first > 0 {
                file.seek(SeekFrom::End(0))?;
            } else if !is_stream {
                file.set_len(0)?;
                file.rewind()?;
            }
            let stream = is_stream.then_some(header.len() as u64);
            let (file, lines) = (BufWriter::new(file), Arc::default());
            let mut writer = Self {
                file,
                header,
                first,
                is_new: first == 0,
                lacks_receipts: false,
                error: None,
                stream,
                lines,
                counted: (0, 0),
            };
            if first == 0 {
                // The header is there from the start, so that a run that is killed early leaves a report of itself.
                writer.first = writer.header.len() as u64;
                writer.error = writer.file.write_all(&writer.header).and_then(|()| writer.file.flush()).err();
            }
            writer.counted = (writer.first, 0);
            Ok(writer)
        };
        begin()
            .map_err(|error| TargetError::Create { kind: Kind::Report, path: path.to_owned(), error }.into())
    }

    /// Returns the means to end the report when the journal, which takes the writer, has been closed.
    ///
    /// # Errors
    /// The process has too many open files.
    pub fn end(&self, path: &Path) -> io::Result<ReportEnd> {
        let file = self.file.get_ref().try_clone()?;
        let (path, lines) = (path.to_owned(), Arc::clone(&self.lines));
        Ok(ReportEnd { file, path, is_stream: self.stream.is_some(), lines })
    }

    /// Drops what a device or a pipe has not taken yet, or cuts a file. A length of 0 is that of a report without receipts.
    fn rewind_to(&mut self, length: u64) -> io::Result<u64> {
        let mut is_new = std::mem::take(&mut self.is_new);
        if let Some(position) = &mut self.stream {
            // Nothing can be taken back: what the journal adds again stands there twice.
            let header = self.header.len() as u64;
            if length == 0 {
                (self.lacks_receipts, *position) = (false, header);
                return Ok(0);
            }
            // Receipts of an earlier session went to another stream. The mark is written with what follows, because the
            // journal may find out first that they belong to another run.
            self.lacks_receipts |= is_new;
            *position = if is_new { header + GAP.len() as u64 } else { length };
            return Ok(*position);
        }
        let file = self.file.get_mut();
        let there = file.metadata()?.len();
        if there < self.first || self.first == 0 {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&self.header)?;
            self.first = self.header.len() as u64;
            is_new = true;
        }
        if length == 0 || (length == self.first && !is_new) {
            file.set_len(self.first)?;
            file.seek(SeekFrom::End(0))?;
            return Ok(length);
        }
        if !is_new && (self.first..=there).contains(&length) && ends_line(file, length)? {
            // The footer of a session that was stopped is behind that.
            file.set_len(length)?;
            return file.seek(SeekFrom::End(0));
        }
        // The file is not what the last session left. The report says so itself, because nobody reads the log later.
        if length < there {
            file.set_len(length.max(self.first))?;
        }
        let kept = length_of_receipts(file)?.max(self.first);
        file.set_len(kept)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(GAP.as_bytes()).inspect_err(|_| _ = self.file.get_ref().set_len(kept))?;
        self.file.stream_position()
    }

    /// Begins a stream that lacks receipts of an earlier session with [`GAP`].
    fn mark_gap(&mut self) {
        if self.lacks_receipts && self.error.is_none() {
            // Past the buffer, which is empty now: a rewind drops what is in it.
            self.error = self.file.get_mut().write_all(GAP.as_bytes()).err();
            self.lacks_receipts = self.error.is_some();
        }
    }

    /// Counts the receipts in a file that ends at `length`, unless that is known.
    fn count(&mut self, length: u64) -> io::Result<()> {
        if self.stream.is_none() && self.counted.0 != length {
            self.counted = (length, count_lines(self.file.get_mut(), self.first)?);
        }
        self.lines.store(self.counted.1, Ordering::Relaxed);
        Ok(())
    }
}

/// Ends a report.
#[derive(Debug)]
pub struct ReportEnd {
    file: File,
    path: PathBuf,
    is_stream: bool,
    lines: Arc<AtomicU64>,
}

impl ReportEnd {
    /// Adds the footer to a report that has all its receipts.
    ///
    /// # Errors
    /// [`ReportError::Footer`] if it cannot be written, [`ReportError::Moved`] if the path names another file by now.
    pub fn finish(mut self, footer: &Footer) -> Result<(), ReportError> {
        let footer = Footer { lines: Some(self.lines.load(Ordering::Relaxed)), ..footer.clone() };
        if let Err(error) = self.write(&footer) {
            return Err(ReportError::Footer { path: self.path, error });
        }
        if !self.is_stream && !target::is_at(&self.file, &self.path) {
            return Err(ReportError::Moved { path: self.path });
        }
        Ok(())
    }

    fn write(&mut self, footer: &Footer) -> io::Result<()> {
        let line = footer.line()?;
        if self.is_stream {
            return self.file.write_all(&line);
        }
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(&line)?;
        self.file.sync_data()
    }
}

/// Returns true if a line ends at this length of a file.
fn ends_line(file: &mut File, length: u64) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::Start(length.saturating_sub(1)))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Counts the receipts of a report from a position to its end.
fn count_lines(file: &mut File, from: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(from))?;
    let (mut reader, mut line, mut lines) = (BufReader::with_capacity(1 << 20, &mut *file), Vec::new(), 0);
    while reader.read_until(b'\n', &mut line)? > 0 {
        lines += u64::from(!std::str::from_utf8(&line).is_ok_and(is_gap));
        line.clear();
    }
    file.seek(SeekFrom::End(0))?;
    Ok(lines)
}

impl Ledger for ReportWriter {
    fn rewind(&mut self, length: u64) -> io::Result<u64> {
        // What could not be written comes again from the journal; it must not slip in late.
        let other = BufWriter::new(self.file.get_ref().try_clone()?);
        let (_, _unwritten) = std::mem::replace(&mut self.file, other).into_parts();
        self.error = None;
        let rewound = self.rewind_to(length)?;
        self.count(rewound.max(self.first))?;
        Ok(rewound)
    }

    fn add(&mut self, receipt: &str) {
        self.is_new = false;
        self.mark_gap();
        if self.error.is_none() {
            let written = self.file.write_all(receipt.as_bytes()).and_then(|()| self.file.write_all(b"\n"));
            self.error = written.err();
            self.lines.fetch_add(1, Ordering::Relaxed);
            self.stream = self.stream.map(|position| position + receipt.len() as u64 + 1);
        }
    }

    fn sync(&mut self) -> io::Result<u64> {
        self.mark_gap();
        if let Some(error) = &self.error {
            return Err(io::Error::new(error.kind(), error.to_string()));
        }
        let synced = match self.stream {
            Some(position) => self.file.flush().map(|()| position),
            None => (self.file.flush().and_then(|()| self.file.get_ref().sync_data()))
                .and_then(|()| self.file.stream_position()),
        };
        match &synced {
            Err(error) => self.error = Some(io::Error::new(error.kind(), error.to_string())),
            Ok(length) => self.counted = (*length, self.lines.load(Ordering::Relaxed)),
        }
        // The next session may write another header, whose length says nothing about receipts.
        let header = if self.stream.is_some() { self.header.len() as u64 } else { self.first };
        synced.map(|length| if length > header { length } else { 0 })
    }
}

/// The summary that ends a run, a few lines.
#[must_use]
pub fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    let how = match (outcome.stopped, outcome.failed_objects) {
        (true, _) if outcome.gave_up.is_some() => "gave up",
        (true, _) => "stopped",
        (false, 0) if outcome.restoring_objects > 0 => "waiting for restores",
        (false, 0) if outcome.has_empty_failure() => "finished with an empty source",
        (false, 0) => "done",
        (false, _) => "finished with failures",
    };
    let took = display_duration(Duration::from_secs_f64(outcome.seconds.max(0.0)));
    let sessions = match outcome.sessions {
        0 | 1 => String::new(),
        sessions => format!(" over {sessions} sessions"),
    };
    let all_in_place = outcome.in_place_objects > 0 && outcome.in_place_objects == outcome.done_objects;
    let what = if all_in_place { "changed in place" } else { "copied" };
    let _ = write!(
        text,
        "{how} in {took}{sessions}: {} objects {what} and proven ({}",
        count(outcome.done_objects),
        ByteSize(outcome.done_bytes)
    );
    if outcome.parts > 0 {
        let _ = write!(text, " in {} parts", count(outcome.parts));
    }
    let _ = write!(text, ")");
    if outcome.in_place_objects > 0 && !all_in_place {
        let _ = write!(text, ", {} of them changed in place", count(outcome.in_place_objects));
    }
    if outcome.delete_markers > 0 {
        let _ = write!(text, ", {} delete markers written", count(outcome.delete_markers));
    }
    let _ = write!(text, ", {} left as they are", count(outcome.skipped_objects));
    for (number, what) in [
        (outcome.restoring_objects, "being restored (run the job again when they are readable)"),
        (outcome.archived_objects, "archived and left out"),
        (outcome.failed_objects, "failed"),
        (outcome.stopped_objects, "not done"),
        (outcome.excluded_objects, "excluded"),
        (outcome.ignored, "ignored (excluded directories, links, special files)"),
        (outcome.objects_with_losses, "with something not kept"),
    ] {
        if number > 0 {
            let _ = write!(text, ", {} {what}", count(number));
        }
    }
    text.push('\n');
    if outcome.old_versions > 0 {
        let _ = writeln!(
            text,
            "{} old versions stay in the bucket and cost money until they are deleted or expire",
            count(outcome.old_versions)
        );
    }
    if !outcome.proofs.is_empty() {
        let proofs: Vec<_> =
            outcome.proofs.iter().map(|(proof, number)| format!("{proof} {}", count(*number))).collect();
        let _ = writeln!(text, "proven by: {}", proofs.join(", "));
    }
    if outcome.done_objects > 0 && !outcome.reasons.is_empty() {
        let reasons: Vec<_> =
            outcome.reasons.iter().map(|(reason, number)| format!("{} {reason}", count(*number))).collect();
        let _ = writeln!(text, "copied because: {}", reasons.join(", "));
    }
    for line in comparison(&outcome.unchanged) {
        let _ = writeln!(text, "{line}");
    }
    for (loss, objects) in outcome.losses.iter() {
        let line = format!("{} {} on {} objects: {}", loss.attribute, loss.lost, count(objects), loss.reason);
        let _ = writeln!(text, "{}", printable(&line));
    }
    if outcome.losses.others() > 0 {
        let _ = writeln!(text, "{} other losses are in the report", count(outcome.losses.others()));
    }
    for empty in &outcome.empty {
        let _ = writeln!(text, "{}", printable(&empty.to_string()));
    }
    failures(&mut text, outcome);
    for hint in &outcome.hints {
        let _ = writeln!(text, "hint: {}", printable(hint));
    }
    if let Some(gave_up) = &outcome.gave_up {
        let _ = writeln!(text, "gave up: {}", printable(&gave_up.reason));
    }
    let requests = outcome.requests;
    let _ = writeln!(
        text,
        "requests{}: {} ({} throttled, {} sent again)",
        if sessions.is_empty() { "" } else { " of this session" },
        count(requests.requests),
        count(requests.throttled),
        count(requests.retried)
    );
    text
}

/// Adds what objects failed for: a line per cause.
fn failures(text: &mut String, outcome: &Outcome) {
    let causes = outcome.causes.by_frequency();
    for cause in causes.iter().take(SHOWN_CAUSES) {
        let message = cause.message.trim_end_matches('.');
        let line = format!(
            "{} x {} {}: {message}, for example {}",
            count(cause.objects),
            cause.operation,
            cause.code,
            cause.example
        );
        let _ = writeln!(text, "{}", printable(&line));
    }
    let more = causes.len().saturating_sub(SHOWN_CAUSES) as u64 + u64::from(outcome.causes.others() > 0);
    if more > 0 {
        let objects: u64 = causes.iter().skip(SHOWN_CAUSES).map(|cause| cause.objects).sum();
        let objects = objects + outcome.causes.others();
        let _ = writeln!(text, "and {} more kinds of failures ({} objects)", count(more), count(objects));
    }
}

/// Tells how objects were compared that are left as they are, and what of them was not compared, line by line.
#[must_use]
pub fn comparison(unchanged: &Unchanged) -> Vec<String> {
    let mut lines = Vec::new();
    let by: Vec<_> =
        unchanged.by.iter().map(|(basis, number)| format!("{} by {basis}", count(*number))).collect();
    if !by.is_empty() {
        lines.push(format!("unchanged: {}", by.join(", ")));
    }
    if unchanged.attributes_not_checked > 0 {
        lines.push(format!(
            "{} unchanged objects were not checked for the headers, metadata, tags, or encryption that this job sets; \
             `compare_attributes: true` (--compare-attributes) checks them, `when: always` copies them",
            count(unchanged.attributes_not_checked)
        ));
    }
    if unchanged.other_storage_class > 0 {
        lines.push(format!(
            "{} unchanged objects have another storage class than this job sets, perhaps by a lifecycle rule; \
             `when: always` copies them",
            count(unchanged.other_storage_class)
        ));
    }
    lines
}

#[cfg(test)]
mod tests;
