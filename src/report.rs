//! The report of a run: one receipt per object as a line of JSON, and a summary for people.
//!
//! The first line names the command that wrote the receipts, so that a command that [`read`]s the
//! report knows which job it comes from. The file is opened before any request is sent, so that a
//! path that cannot be written is reported at once. A disk that fills up later does not stop the
//! copies: the first error is kept, and the run does not exit 0. The writer is the journal's
//! [`Ledger`]. If the run is resumed, or if another process truncated the file or wrote to it, the
//! journal adds the missing receipts again.
//!
//! # Layout
//!
//! `frame` has the header and the footer, and `target` opens the files that may be written.
//! `stored` is the layout of reports in S3, `pieces` writes them, and `merge` merges the reports of
//! all shards into one. `object` decides which receipts are about the same object. `lines` reads
//! any report line by line, [`read`] reads a report for commands that act on it, and [`overview`]
//! summarizes it for people. `summary` formats the text that ends a run.

mod error;
mod frame;
mod lines;
mod merge;
mod object;
pub mod overview;
mod pieces;
pub mod read;
mod stored;
mod summary;
mod target;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crc_fast::{CrcAlgorithm, Digest};

pub use self::error::ReportError;
pub(crate) use self::frame::run_name;
pub use self::frame::{FORMAT, Footer, FooterShards, ReportHeader, header, last_footer};
use self::frame::{GAP, first_line, is_gap, is_remnant, length_of_receipts};
pub use self::lines::ReportLines;
pub use self::merge::{
    LaterReport, LaterReports, MergeScope, MergedFile, ReportMerge, ShardReports,
};
use self::pieces::BucketReportEnd;
pub use self::pieces::{BucketReport, PieceLimits};
pub use self::stored::{ReportBucket, ReportDamage, StoredReport, StoredRuns};
pub use self::summary::{comparison, summary};
pub use self::target::{OutputKind, Target, TargetError};
use crate::journal::Ledger;
use crate::manifest::job::ReportPlace;

/// A report in a file or a stream.
#[derive(Debug)]
pub struct ReportWriter {
    file: BufWriter<File>,
    /// The header of this session, for a file without one.
    header: Vec<u8>,
    /// The length of the header in the file, which an earlier session may have written.
    header_length: u64,
    /// True if this session created the file, and has not rewound it or written a receipt yet. The
    /// file then contains nothing of an earlier session.
    is_new: bool,
    /// True for a stream that must begin with [`GAP`].
    lacks_receipts: bool,
    /// The first error.
    error: Option<io::Error>,
    /// True for a device or a pipe.
    is_stream: bool,
    /// The header in the file. It identifies the file.
    file_header: Vec<u8>,
    /// The expected length of the file once all lines are written. If the length differs, another
    /// process truncated the file or wrote to it.
    position: u64,
    shared: Arc<SharedFile>,
    /// The checksum of all lines so far.
    sum: Digest,
    /// The length, receipts, and checksum of the file when it was last synced or read.
    counted: CountedLines,
}

/// A length of a report, the number of its receipts, and the checksum of all its lines.
#[derive(Clone, Debug)]
struct CountedLines {
    length: u64,
    lines: u64,
    sum: Digest,
}

impl CountedLines {
    /// Returns the counts of a report with only this header.
    fn of_head(head: &[u8]) -> Self {
        let mut sum = checksum();
        sum.update(head);
        Self {
            length: head.len() as u64,
            lines: 0,
            sum,
        }
    }
}

/// Begins the checksum of a report.
fn checksum() -> Digest {
    Digest::new(CrcAlgorithm::Crc64Nvme)
}

/// The state that the writer of a report hands to [`ReportEnd`].
#[derive(Debug, Default)]
struct SharedFile {
    /// The number of receipts, including those that are not written yet.
    lines: AtomicU64,
    /// The length of the file when it was last synced.
    length: AtomicU64,
    /// The checksum of its lines at that time.
    sum: AtomicU64,
    /// The error of the last sync. Not set if another process changed the file.
    unwritten: Mutex<Option<String>>,
    /// Set for a stream whose lines differ from the counted ones, because it began with a gap or
    /// was rewound after its first line.
    is_uncounted: AtomicBool,
}

impl SharedFile {
    fn unwritten(&self) -> MutexGuard<'_, Option<String>> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message for a report that another process changed during the run.
const CHANGED: &str = "another process cut the file or wrote to it during the run";

impl ReportWriter {
    /// Checks that a report can be written at `path`. Creates its directory and an empty file if
    /// they are missing, and changes nothing else.
    ///
    /// # Errors
    /// [`ReportError::Target`].
    pub fn probe(path: &Path, origin: &ReportHeader) -> Result<(), ReportError> {
        // Opening and closing a pipe would end it for its reader.
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            return Ok(());
        }
        Ok(Target::open_report(path, origin).map(drop)?)
    }

    /// Creates the report of the run that `origin` describes, and its directory if that is missing.
    ///
    /// # Errors
    /// [`ReportError::Target`]. A file that is not a report stays as it is.
    pub fn create(path: &Path, origin: &ReportHeader) -> Result<Self, ReportError> {
        Self::open(path, origin, |_| Ok(0))
    }

    /// Opens the report that an earlier session of the run has created, so that the journal can
    /// continue it. Creates a new one if the file is missing or is the report of another run.
    ///
    /// # Errors
    /// [`ReportError::Target`]. A file that is not a report stays as it is.
    pub fn reopen(path: &Path, origin: &ReportHeader) -> Result<Self, ReportError> {
        Self::open(path, origin, |file| {
            let (length, header) = first_line(file)?;
            let is_ours = header.is_some_and(|header| header.is_of_run(origin));
            Ok(if is_ours { length } else { 0 })
        })
    }

    fn open(
        path: &Path,
        origin: &ReportHeader,
        first: impl Fn(&mut File) -> io::Result<u64>,
    ) -> Result<Self, ReportError> {
        let Target {
            mut file,
            is_stream,
        } = Target::open_report(path, origin)?;
        let begin = || {
            let mut header = serde_json::to_vec(origin)?;
            header.push(b'\n');
            let first = if is_stream { 0 } else { first(&mut file)? };
            if first == 0 && !is_stream {
                file.set_len(0)?;
                file.rewind()?;
            }
            let mut head = Vec::new();
            if first > 0 {
                file.rewind()?;
                Read::by_ref(&mut file).take(first).read_to_end(&mut head)?;
            } else {
                head.clone_from(&header);
            }
            let (file, shared, counted) = (
                BufWriter::new(file),
                Arc::default(),
                CountedLines::of_head(&head),
            );
            let mut writer = Self {
                file,
                header,
                header_length: first,
                is_new: first == 0,
                lacks_receipts: false,
                error: None,
                is_stream,
                file_header: head,
                position: 0,
                shared,
                sum: counted.sum,
                counted,
            };
            if first == 0 {
                // Written at once, so that a run that is killed early leaves a report that names
                // the run.
                writer.header_length = writer.header.len() as u64;
                writer.error = writer
                    .file
                    .write_all(&writer.header)
                    .and_then(|()| writer.file.flush())
                    .err();
            }
            writer.position = if is_stream || first == 0 {
                writer.header.len() as u64
            } else {
                writer.file.seek(SeekFrom::End(0))?
            };
            Ok(writer)
        };
        begin().map_err(|error| {
            TargetError::Create {
                kind: OutputKind::Report,
                path: path.to_owned(),
                error,
            }
            .into()
        })
    }

    /// Returns the handle that writes the footer once the journal, which owns the writer, is
    /// closed.
    ///
    /// # Errors
    /// The process has too many open files.
    pub fn end(&self, path: &Path) -> io::Result<ReportEnd> {
        let file = self.file.get_ref().try_clone()?;
        let (path, shared) = (path.to_owned(), Arc::clone(&self.shared));
        Ok(ReportEnd::File(FileReportEnd {
            file,
            path,
            is_stream: self.is_stream,
            shared,
        }))
    }

    /// Truncates a file to `length`, and returns its new length. A length of 0 means a report
    /// without receipts. A stream cannot be truncated.
    fn rewind_to(&mut self, length: u64) -> io::Result<u64> {
        let mut is_new = std::mem::take(&mut self.is_new);
        if self.is_stream {
            // A stream cannot be undone. Receipts that the journal adds again appear twice.
            if self.shared.lines.load(Ordering::Relaxed) > 0 {
                self.shared.is_uncounted.store(true, Ordering::Relaxed);
            }
            let header = self.header.len() as u64;
            if length == 0 {
                (self.lacks_receipts, self.position) = (false, header);
                return Ok(0);
            }
            // Receipts of an earlier session went to another stream. The gap is written only before
            // the next line, because the journal may still find that they belong to another run.
            self.lacks_receipts |= is_new;
            self.position = if is_new {
                header + GAP.len() as u64
            } else {
                length
            };
            return Ok(self.position);
        }
        let file = self.file.get_mut();
        let mut old_length = file.metadata()?.len();
        if !begins_with(file, &self.file_header)? {
            if !is_remnant(file)? {
                return Err(io::Error::other("the file holds something else now"));
            }
            // Log rotation truncated the file, and this process has written to it since.
            file.set_len(0)?;
            old_length = 0;
        }
        if old_length < self.header_length || self.header_length == 0 {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&self.header)?;
            self.header_length = self.header.len() as u64;
            self.file_header.clone_from(&self.header);
            self.counted = CountedLines::of_head(&self.file_header);
            is_new = true;
        }
        if length == 0 || (length == self.header_length && !is_new) {
            file.set_len(self.header_length)?;
            file.seek(SeekFrom::End(0))?;
            return Ok(length);
        }
        if !is_new
            && (self.header_length..=old_length).contains(&length)
            && ends_line(file, length)?
        {
            // The footer of a stopped session may follow, and is dropped.
            file.set_len(length)?;
            return file.seek(SeekFrom::End(0));
        }
        // The file does not match the journal. A line in the report says so.
        if length < old_length {
            file.set_len(length.max(self.header_length))?;
        }
        let kept = length_of_receipts(file)?.max(self.header_length);
        file.set_len(kept)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(GAP.as_bytes())
            .inspect_err(|_| _ = self.file.get_ref().set_len(kept))?;
        self.file.stream_position()
    }

    /// Writes a line of the report. If that fails, the next sync returns the error.
    fn write_line(&mut self, line: &str) {
        self.is_new = false;
        self.mark_gap();
        if self.error.is_none() {
            let written = self
                .file
                .write_all(line.as_bytes())
                .and_then(|()| self.file.write_all(b"\n"));
            self.error = written.err();
            self.position += line.len() as u64 + 1;
            self.sum.update(line.as_bytes());
            self.sum.update(b"\n");
        }
    }

    /// Writes [`GAP`] to a stream that must begin with it.
    fn mark_gap(&mut self) {
        if self.lacks_receipts && self.error.is_none() {
            // Bypasses the buffer, because a rewind would drop the line. The buffer is empty now.
            self.error = self.file.get_mut().write_all(GAP.as_bytes()).err();
            self.lacks_receipts = self.error.is_some();
            self.shared.is_uncounted.store(true, Ordering::Relaxed);
        }
    }

    /// Counts the receipts of a file that ends at `length` and computes its checksum, unless these
    /// are known.
    fn count(&mut self, length: u64) -> io::Result<()> {
        if !self.is_stream && self.counted.length != length {
            self.counted = count(self.file.get_mut())?;
        }
        self.sum = self.counted.sum;
        self.shared
            .lines
            .store(self.counted.lines, Ordering::Relaxed);
        Ok(())
    }

    /// Makes all lines durable, and returns the length of the report.
    fn sync_lines(&mut self) -> io::Result<u64> {
        if let Some(error) = &self.error {
            return Err(copy_of(error));
        }
        self.file.flush()?;
        if self.is_stream {
            return Ok(self.position);
        }
        self.file.get_ref().sync_data()?;
        self.length()
    }

    /// Returns the length of a file, or an error if it is not the length that this session wrote.
    fn length(&self) -> io::Result<u64> {
        let length = self.file.get_ref().metadata()?.len();
        if length == self.position {
            Ok(length)
        } else {
            Err(io::Error::other(CHANGED))
        }
    }
}

/// A handle that ends a report.
#[derive(Debug)]
pub enum ReportEnd {
    /// A report in a file.
    File(FileReportEnd),
    /// A report in S3.
    Bucket(Box<BucketReportEnd>),
}

impl ReportEnd {
    /// Adds the footer to a report that has all its receipts.
    ///
    /// # Errors
    /// [`ReportError::Footer`] if the footer cannot be written, [`ReportError::Unwritten`] if
    /// receipts could not be written, [`ReportError::Changed`] if another process changed the file,
    /// and [`ReportError::Moved`] if its path now leads to another file.
    pub async fn finish(self, footer: &Footer) -> Result<(), ReportError> {
        match self {
            Self::File(file) => file.finish(footer),
            Self::Bucket(pieces) => pieces.finish(footer).await,
        }
    }

    /// Returns the name of the report for messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(file) => file.path.display().to_string(),
            Self::Bucket(pieces) => pieces.name(),
        }
    }
}

/// A handle that ends a report in a file.
#[derive(Debug)]
pub struct FileReportEnd {
    file: File,
    path: PathBuf,
    is_stream: bool,
    shared: Arc<SharedFile>,
}

impl FileReportEnd {
    fn finish(mut self, footer: &Footer) -> Result<(), ReportError> {
        if let Some(error) = self.shared.unwritten().take() {
            return Err(ReportError::Unwritten {
                place: ReportPlace::File(self.path),
                error,
            });
        }
        let SharedFile {
            lines,
            length,
            sum,
            is_uncounted,
            ..
        } = &*self.shared;
        let is_counted = !is_uncounted.load(Ordering::Relaxed);
        let footer = Footer {
            lines: is_counted.then(|| lines.load(Ordering::Relaxed)),
            checksum: is_counted.then(|| format!("{:016x}", sum.load(Ordering::Relaxed))),
            ..footer.clone()
        };
        let length = length.load(Ordering::Relaxed);
        if !self.is_stream && self.file.metadata().is_ok_and(|file| file.len() != length) {
            // Writes no footer, so that no reader mistakes this for a complete report.
            return Err(ReportError::Changed { path: self.path });
        }
        if let Err(error) = self.write(&footer) {
            return Err(ReportError::Footer {
                place: ReportPlace::File(self.path),
                error: error.to_string(),
            });
        }
        if !self.is_stream && !target::is_at(&self.file, &self.path) {
            return Err(ReportError::Moved { path: self.path });
        }
        Ok(())
    }

    fn write(&mut self, footer: &Footer) -> io::Result<()> {
        let line = footer.line()?;
        self.file.write_all(&line)?;
        if self.is_stream {
            Ok(())
        } else {
            self.file.sync_data()
        }
    }
}

/// Returns a copy of an error.
fn copy_of(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Returns true if a line ends at this length of a file.
fn ends_line(file: &mut File, length: u64) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::Start(length.saturating_sub(1)))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Returns true if a file begins with `head`, or is the beginning of it.
fn begins_with(file: &mut File, head: &[u8]) -> io::Result<bool> {
    let mut found = Vec::new();
    file.rewind()?;
    Read::by_ref(file)
        .take(head.len() as u64)
        .read_to_end(&mut found)?;
    Ok(head.starts_with(&found))
}

/// Counts the receipts of a report, and computes the checksum of its lines.
fn count(file: &mut File) -> io::Result<CountedLines> {
    file.rewind()?;
    let (mut reader, mut line) = (BufReader::with_capacity(1 << 20, &mut *file), Vec::new());
    reader.read_until(b'\n', &mut line)?;
    let mut counted = CountedLines::of_head(&line);
    line.clear();
    while reader.read_until(b'\n', &mut line)? > 0 {
        counted.lines += u64::from(!std::str::from_utf8(&line).is_ok_and(is_gap));
        counted.length += line.len() as u64;
        counted.sum.update(&line);
        line.clear();
    }
    file.seek(SeekFrom::End(0))?;
    Ok(counted)
}

impl Ledger for ReportWriter {
    fn rewind(&mut self, length: u64) -> io::Result<u64> {
        // The journal adds unwritten receipts again, so the old ones in the buffer must be dropped.
        let other = BufWriter::new(self.file.get_ref().try_clone()?);
        let (_, _unwritten) = std::mem::replace(&mut self.file, other).into_parts();
        self.error = None;
        let rewound = self.rewind_to(length)?;
        self.count(rewound.max(self.header_length))?;
        if !self.is_stream {
            self.position = self.file.get_ref().metadata()?.len();
        }
        Ok(rewound)
    }

    fn add(&mut self, receipt: &str) {
        self.write_line(receipt);
        self.shared.lines.fetch_add(1, Ordering::Relaxed);
    }

    fn add_gap(&mut self) {
        self.write_line(GAP.trim_end());
    }

    fn sync(&mut self) -> io::Result<u64> {
        self.mark_gap();
        let synced = self.sync_lines();
        let told = synced.as_ref().err().map(ToString::to_string);
        *self.shared.unwritten() = told.filter(|error| error != CHANGED);
        match &synced {
            Err(error) => self.error = Some(copy_of(error)),
            Ok(length) => {
                let lines = self.shared.lines.load(Ordering::Relaxed);
                self.counted = CountedLines {
                    length: *length,
                    lines,
                    sum: self.sum,
                };
                self.shared.length.store(*length, Ordering::Relaxed);
                self.shared
                    .sum
                    .store(self.sum.finalize(), Ordering::Relaxed);
            }
        }
        // A report without receipts has length 0, because the next session may write a header of
        // another length.
        let header = if self.is_stream {
            self.header.len() as u64
        } else {
            self.header_length
        };
        synced.map(|length| if length > header { length } else { 0 })
    }
}

#[cfg(test)]
mod tests;
