//! The report of a run: one receipt per object as a line of JSON, and a summary for people.
//!
//! The first line names the command that the receipts come from, so that [`read`] can find out what
//! to run again. The file is opened before anything is sent, so that a path that cannot be written
//! is told at once. A disk that fills up later does not stop the copies: the first error is kept,
//! and the run does not exit 0. The writer is the journal's [`Ledger`], which brings what is
//! missing when the run goes on, or when somebody else cut the file or wrote to it.
//!
//! # Layout
//!
//! `frame` has the header and the footer, `target` the files that may be written. `stored` is the
//! layout of reports in S3, `pieces` writes them, and `merge` makes one report of those of all
//! shards. `lines` reads all kinds, [`read`] for commands that act on a report, and [`overview`]
//! for people. `summary` ends a run.

mod error;
mod frame;
mod lines;
mod merge;
pub mod overview;
mod pieces;
pub mod read;
mod stored;
mod summary;
mod target;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crc_fast::{CrcAlgorithm, Digest};

pub use self::error::ReportError;
pub(crate) use self::frame::run_name;
pub use self::frame::{FORMAT, Footer, FooterShards, Origin, header, last_footer};
use self::frame::{GAP, first_line, is_gap, is_remnant, length_of_receipts};
pub use self::lines::ReportLines;
pub use self::merge::{LaterReport, MergeScope, MergedFile, ReportMerge, ShardReports};
use self::pieces::BucketReportEnd;
pub use self::pieces::{BucketReport, PieceLimits};
pub use self::stored::{ReportBucket, StoredReport, StoredRuns};
pub use self::summary::{comparison, summary};
pub use self::target::{Kind, Target, TargetError};
use crate::journal::Ledger;
use crate::manifest::job::ReportPlace;

/// Writes receipts as they come.
#[derive(Debug)]
pub struct ReportWriter {
    file: BufWriter<File>,
    /// The header of this session, for a file that has none.
    header: Vec<u8>,
    /// The length of the header in the file, which may be that of an earlier session.
    first: u64,
    /// True if this session has begun the file and has not rewound it or written a receipt yet:
    /// nothing of an earlier session is in it.
    is_new: bool,
    /// Set for a stream that has to begin with [`GAP`].
    lacks_receipts: bool,
    error: Option<io::Error>,
    /// Set for a device or a pipe.
    is_stream: bool,
    /// The first line of a file, by which it is known again.
    head: Vec<u8>,
    /// The length that the file has when all is written. A file with another one was cut, or
    /// somebody else wrote to it.
    position: u64,
    shared: Arc<SharedFile>,
    /// The checksum of all that is written.
    sum: Digest,
    /// The length and checksum of the file when it was last synced or read.
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
    /// Returns a report that has its first line.
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
    /// Receipts in the file, with those that are about to be written.
    lines: AtomicU64,
    /// Its length when it was last synced.
    length: AtomicU64,
    /// The checksum of its lines then.
    sum: AtomicU64,
    /// The error of the last sync, if it failed for another reason than a file that somebody else
    /// changed.
    unwritten: Mutex<Option<String>>,
}

impl SharedFile {
    fn unwritten(&self) -> MutexGuard<'_, Option<String>> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message for a report that another process changed during the run.
const CHANGED: &str = "the file was cut or written by somebody else during the run";

impl ReportWriter {
    /// Checks that a report can be written at `path`. Creates its directory and an empty file if
    /// they are missing, and changes nothing else.
    ///
    /// # Errors
    /// [`ReportError::Target`].
    pub fn probe(path: &Path, origin: &Origin) -> Result<(), ReportError> {
        // To open and close a pipe would end it for its reader.
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

    /// Opens the report that an earlier session of the run has created, so that the journal can
    /// continue it. If that is gone, or the file is the report of another run, creates a new one.
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
                first,
                is_new: first == 0,
                lacks_receipts: false,
                error: None,
                is_stream,
                head,
                position: 0,
                shared,
                sum: counted.sum,
                counted,
            };
            if first == 0 {
                // The header is there from the start, so that a run that is killed early leaves a
                // report of itself.
                writer.first = writer.header.len() as u64;
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
                kind: Kind::Report,
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

    /// Cuts a file to `length`, and returns the length that it has then. A length of 0 means a
    /// report without receipts. A stream cannot be cut.
    fn rewind_to(&mut self, length: u64) -> io::Result<u64> {
        let mut is_new = std::mem::take(&mut self.is_new);
        if self.is_stream {
            // Nothing can be taken back: what the journal adds again stands there twice.
            let header = self.header.len() as u64;
            if length == 0 {
                (self.lacks_receipts, self.position) = (false, header);
                return Ok(0);
            }
            // Receipts of an earlier session went to another stream. The mark is written with what
            // follows, because the journal may find out first that they belong to another run.
            self.lacks_receipts |= is_new;
            self.position = if is_new {
                header + GAP.len() as u64
            } else {
                length
            };
            return Ok(self.position);
        }
        let file = self.file.get_mut();
        let mut there = file.metadata()?.len();
        if !begins_with(file, &self.head)? {
            if !is_remnant(file)? {
                return Err(io::Error::other("something else stands in the file by now"));
            }
            // Cut by who rotates logs, and written to since.
            file.set_len(0)?;
            there = 0;
        }
        if there < self.first || self.first == 0 {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&self.header)?;
            self.first = self.header.len() as u64;
            self.head.clone_from(&self.header);
            self.counted = CountedLines::of_head(&self.head);
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
        // The file is not what the last session left. The report says so itself, because nobody
        // reads the log later.
        if length < there {
            file.set_len(length.max(self.first))?;
        }
        let kept = length_of_receipts(file)?.max(self.first);
        file.set_len(kept)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(GAP.as_bytes())
            .inspect_err(|_| _ = self.file.get_ref().set_len(kept))?;
        self.file.stream_position()
    }

    /// Writes a line of the report. The next sync returns the error if the line cannot be written.
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

    /// Begins a stream that lacks receipts of an earlier session with [`GAP`].
    fn mark_gap(&mut self) {
        if self.lacks_receipts && self.error.is_none() {
            // Past the buffer, which is empty now: a rewind drops what is in it.
            self.error = self.file.get_mut().write_all(GAP.as_bytes()).err();
            self.lacks_receipts = self.error.is_some();
        }
    }

    /// Counts and sums up a file that ends at `length`, unless that is known.
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

    /// Makes all lines durable, and returns the length of the report then.
    fn sync_lines(&mut self) -> io::Result<u64> {
        if let Some(error) = &self.error {
            return Err(again(error));
        }
        self.file.flush()?;
        if self.is_stream {
            return Ok(self.position);
        }
        self.file.get_ref().sync_data()?;
        self.length()
    }

    /// Returns the length of a file that is as this session wrote it.
    fn length(&self) -> io::Result<u64> {
        let length = self.file.get_ref().metadata()?.len();
        if length == self.position {
            Ok(length)
        } else {
            Err(io::Error::other(CHANGED))
        }
    }
}

/// Ends a report.
#[derive(Debug)]
pub enum ReportEnd {
    /// One in a file.
    File(FileReportEnd),
    /// One in S3.
    Bucket(Box<BucketReportEnd>),
}

impl ReportEnd {
    /// Adds the footer to a report that has all its receipts.
    ///
    /// # Errors
    /// [`ReportError::Footer`] if it cannot be written, [`ReportError::Unwritten`] if receipts
    /// could not, [`ReportError::Changed`] if a file is not as the journal left it, and
    /// [`ReportError::Moved`] if its path names another file by now.
    pub async fn finish(self, footer: &Footer) -> Result<(), ReportError> {
        match self {
            Self::File(file) => file.finish(footer),
            Self::Bucket(pieces) => pieces.finish(footer).await,
        }
    }

    /// Names the report for its reader.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(file) => file.path.display().to_string(),
            Self::Bucket(pieces) => pieces.name(),
        }
    }
}

/// Ends a report in a file.
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
            lines, length, sum, ..
        } = &*self.shared;
        let checksum = Some(format!("{:016x}", sum.load(Ordering::Relaxed)));
        let footer = Footer {
            lines: Some(lines.load(Ordering::Relaxed)),
            checksum,
            ..footer.clone()
        };
        let length = length.load(Ordering::Relaxed);
        if !self.is_stream && self.file.metadata().is_ok_and(|file| file.len() != length) {
            // Without a footer, no reader takes it for a complete report.
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

/// Returns an error that says the same.
fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Returns true if a line ends at this length of a file.
fn ends_line(file: &mut File, length: u64) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::Start(length.saturating_sub(1)))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Returns true if these are the first bytes of a file, as far as it has so many.
fn begins_with(file: &mut File, head: &[u8]) -> io::Result<bool> {
    let mut found = Vec::new();
    file.rewind()?;
    Read::by_ref(file)
        .take(head.len() as u64)
        .read_to_end(&mut found)?;
    Ok(head.starts_with(&found))
}

/// Counts the receipts of a report and sums up its lines.
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
        // Receipts that could not be written come again from the journal; the old ones must not
        // slip in late.
        let other = BufWriter::new(self.file.get_ref().try_clone()?);
        let (_, _unwritten) = std::mem::replace(&mut self.file, other).into_parts();
        self.error = None;
        let rewound = self.rewind_to(length)?;
        self.count(rewound.max(self.first))?;
        if !self.is_stream {
            self.position = self.file.get_ref().metadata()?.len();
        }
        Ok(rewound)
    }

    fn add(&mut self, receipt: &str) {
        self.write_line(receipt);
        self.shared.lines.fetch_add(1, Ordering::Relaxed);
    }

    fn lack(&mut self) {
        self.write_line(GAP.trim_end());
    }

    fn sync(&mut self) -> io::Result<u64> {
        self.mark_gap();
        let synced = self.sync_lines();
        let told = synced.as_ref().err().map(ToString::to_string);
        *self.shared.unwritten() = told.filter(|error| error != CHANGED);
        match &synced {
            Err(error) => self.error = Some(again(error)),
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
        // The next session may write another header, whose length says nothing about receipts.
        let header = if self.is_stream {
            self.header.len() as u64
        } else {
            self.first
        };
        synced.map(|length| if length > header { length } else { 0 })
    }
}

#[cfg(test)]
mod tests;
