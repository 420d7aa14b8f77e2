//! Writes a merged report to a file.

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use crate::report::target::is_at;
use crate::report::{OutputKind, ReportError, ReportHeader, Target, TargetError};

/// A file for the lines of a merged report.
#[derive(Debug)]
pub struct MergedFile {
    file: BufWriter<std::fs::File>,
    path: PathBuf,
    is_stream: bool,
    /// The first error.
    error: Option<std::io::Error>,
}

impl MergedFile {
    /// Opens the file and empties it. Replaces an earlier report and nothing else.
    ///
    /// # Errors
    /// [`ReportError::Target`].
    pub fn create(path: &Path, origin: &ReportHeader) -> Result<Self, ReportError> {
        let target = Target::open_report(path, origin);
        let Target { file, is_stream } = target.map_err(|error| error.about(OutputKind::Merged))?;
        let emptied = if is_stream { Ok(()) } else { file.set_len(0) };
        emptied.map_err(|error| TargetError::Create {
            kind: OutputKind::Merged,
            path: path.to_owned(),
            error,
        })?;
        Ok(Self {
            file: BufWriter::new(file),
            path: path.to_owned(),
            is_stream,
            error: None,
        })
    }

    /// Writes a line. [`finish`](Self::finish) returns the error if it cannot be written.
    pub fn line(&mut self, line: &str) {
        if self.error.is_none() {
            let written = self.file.write_all(line.as_bytes());
            self.error = written.and_then(|()| self.file.write_all(b"\n")).err();
        }
    }

    /// Makes all lines durable.
    ///
    /// # Errors
    /// [`ReportError::Unmerged`], and [`ReportError::Moved`] if the path now leads to another file.
    pub fn finish(mut self) -> Result<(), ReportError> {
        let flushed = self.error.take().map_or(Ok(()), Err);
        let flushed = flushed.and_then(|()| self.file.flush());
        let synced = flushed.and_then(|()| {
            if self.is_stream {
                Ok(())
            } else {
                self.file.get_ref().sync_data()
            }
        });
        if let Err(error) = synced {
            return Err(ReportError::Unmerged {
                path: self.path,
                error: error.to_string(),
            });
        }
        if !self.is_stream && !is_at(self.file.get_ref(), &self.path) {
            return Err(ReportError::Moved { path: self.path });
        }
        Ok(())
    }
}
