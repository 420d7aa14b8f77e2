//! Reads the lines of a report, from a file or from its pieces in S3.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Lines};
use std::path::Path;

use bytes::{Buf as _, Bytes};
use futures::stream::{self, BoxStream, StreamExt as _};

use super::error::ReportError;
use super::read::ReadError;
use super::stored::StoredReport;

/// The number of pieces that are read ahead.
const AHEAD: usize = 4;

/// Reads a report line by line.
pub struct ReportLines {
    /// The name of the report.
    place: String,
    input: LineInput,
}

enum LineInput {
    File(Lines<BufReader<File>>),
    Pieces {
        bodies: BoxStream<'static, Result<Bytes, ReportError>>,
        /// The lines of the last piece that were not yet returned.
        rest: Bytes,
    },
}

impl ReportLines {
    /// Opens a file.
    ///
    /// # Errors
    /// [`ReadError::Io`].
    pub fn of_file(path: &Path) -> Result<Self, ReadError> {
        let place = path.display().to_string();
        match File::open(path) {
            Ok(file) => Ok(Self {
                place,
                input: LineInput::File(BufReader::new(file).lines()),
            }),
            Err(error) => Err(ReadError::Io { place, error }),
        }
    }

    /// Reads a report in S3.
    #[must_use]
    pub fn of_pieces(report: &StoredReport) -> Self {
        let directory = report.directory.clone();
        let bodies = stream::iter(report.pieces.clone()).map(move |piece| {
            let directory = directory.clone();
            async move { directory.body(piece).await }
        });
        Self {
            place: report.location().to_string(),
            input: LineInput::Pieces {
                bodies: bodies.buffered(AHEAD).boxed(),
                rest: Bytes::new(),
            },
        }
    }

    /// Reads lines from chunks. Each chunk must end with a line feed.
    pub(super) fn of_chunks(
        place: String,
        chunks: BoxStream<'static, Result<Bytes, ReportError>>,
    ) -> Self {
        let (bodies, rest) = (chunks, Bytes::new());
        Self {
            place,
            input: LineInput::Pieces { bodies, rest },
        }
    }

    /// Returns the name of the report.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Returns the next line without its line feed, or `None` after the last one.
    ///
    /// # Errors
    /// [`ReadError::Io`], which includes lines that are not UTF-8, and [`ReadError::Store`].
    pub async fn next(&mut self) -> Result<Option<String>, ReadError> {
        let place = self.place.clone();
        let (bodies, rest) = match &mut self.input {
            LineInput::File(lines) => {
                return match lines.next() {
                    None => Ok(None),
                    Some(Ok(line)) => Ok(Some(line)),
                    Some(Err(error)) => Err(ReadError::Io { place, error }),
                };
            }
            LineInput::Pieces { bodies, rest } => (bodies, rest),
        };
        while rest.is_empty() {
            match bodies.next().await {
                None => return Ok(None),
                Some(body) => *rest = body.map_err(ReadError::Store)?,
            }
        }
        let end = rest.iter().position(|byte| *byte == b'\n');
        let line = rest.split_to(end.unwrap_or(rest.len()));
        // Skips the line feed.
        rest.advance(rest.len().min(1));
        match std::str::from_utf8(&line) {
            Ok(line) => Ok(Some(line.to_owned())),
            Err(error) => Err(ReadError::Io {
                place,
                error: io::Error::new(io::ErrorKind::InvalidData, error),
            }),
        }
    }
}

impl std::fmt::Debug for ReportLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReportLines")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
