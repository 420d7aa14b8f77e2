//! Opens the files that a user names for output, and decides which existing files may be replaced.
//!
//! A report replaces an earlier report, and a plan an earlier plan. Any other file that is not
//! empty is refused, because the user has most likely mistyped the path. Streams (devices, pipes,
//! and the standard output) have no content to replace, and cannot be reread, truncated, or synced.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use super::frame::{ReportHeader, first_line, is_remnant};

/// The permissions of a new output file: it names objects, buckets, and accounts.
const MODE: u32 = 0o600;
/// The maximum number of bytes of a plan's first line that are read.
const LINE: u64 = 64 * 1024;

/// The reason why a file cannot be written.
#[derive(Debug, Error)]
pub enum TargetError {
    /// The system does not allow it.
    #[error("cannot write the {} {}: {error}; choose another path in {}", kind.name(), path.display(), kind.setting())]
    Create {
        /// The kind of file that was to be written.
        kind: OutputKind,
        /// The path.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{} holds something other than a {} of s3haul, which would be lost: {reason}; choose another path in {}, or remove \
         the file", path.display(), kind.name(), kind.setting()
    )]
    Foreign {
        /// The kind of file that was to be written.
        kind: OutputKind,
        /// The path.
        path: PathBuf,
        /// The defect of the content.
        reason: &'static str,
    },
    /// The file is about real buckets, and the command uses the sandbox.
    #[error(
        "{} holds a {} of real buckets, which a command with --sandbox does not replace; choose another path in {}",
        path.display(), kind.name(), kind.setting()
    )]
    Real {
        /// The kind of file that was to be written.
        kind: OutputKind,
        /// The path.
        path: PathBuf,
    },
}

/// A kind of output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// The receipts of a run.
    Report,
    /// The receipts of all shards of a run.
    Merged,
    /// The steps of a plan.
    Plan,
}

impl TargetError {
    /// Returns the same error about another kind of file.
    pub(super) fn about(mut self, file: OutputKind) -> Self {
        let (Self::Create { kind, .. } | Self::Foreign { kind, .. } | Self::Real { kind, .. }) =
            &mut self;
        *kind = file;
        self
    }
}

impl OutputKind {
    fn name(self) -> &'static str {
        match self {
            Self::Report | Self::Merged => "report",
            Self::Plan => "plan",
        }
    }

    /// Returns the setting that names the path.
    fn setting(self) -> &'static str {
        match self {
            Self::Report => "`report.json` (--report)",
            Self::Merged | Self::Plan => "--out",
        }
    }
}

/// The fields that distinguish the lines of a plan from all other files of s3haul.
#[derive(Deserialize)]
struct PlanLine {
    #[serde(rename = "transfer")]
    _transfer: String,
    #[serde(rename = "reason")]
    _reason: String,
    #[serde(rename = "route")]
    _route: String,
    #[serde(rename = "parts")]
    _parts: u64,
    #[serde(default)]
    sandbox: bool,
}

/// An output file that is open and has not been changed.
#[derive(Debug)]
pub struct Target {
    /// The file, at its start.
    pub(super) file: File,
    /// True for a stream, which cannot be reread or truncated.
    pub(super) is_stream: bool,
}

impl Target {
    /// Checks that the report of a run with this header may replace the file at a path. Changes
    /// nothing.
    ///
    /// # Errors
    /// [`TargetError::Foreign`] and [`TargetError::Real`].
    pub fn check_report(path: &Path, origin: &ReportHeader) -> Result<(), TargetError> {
        // Only a regular file is opened. Opening a pipe would wait for its reader.
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() && own_stream(&metadata).is_none() => {
                match File::open(path) {
                    Ok(mut file) => may_replace_report(path, origin, &mut file),
                    // Opening the file for writing reports this error.
                    Err(_) => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Opens the file of a report, and creates its directory.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn open_report(path: &Path, origin: &ReportHeader) -> Result<Self, TargetError> {
        let failed = |error| TargetError::Create {
            kind: OutputKind::Report,
            path: path.to_owned(),
            error,
        };
        let mut target = Self::open(path).map_err(failed)?;
        if !target.is_stream {
            may_replace_report(path, origin, &mut target.file)?;
            target.file.rewind().map_err(failed)?;
        }
        Ok(target)
    }

    /// Opens the file of a plan, creates its directory, and empties it. A plan of the sandbox
    /// replaces no plan of real buckets.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn begin_plan(path: &Path, sandbox: bool) -> Result<File, TargetError> {
        let kind = OutputKind::Plan;
        let failed = |error| TargetError::Create {
            kind,
            path: path.to_owned(),
            error,
        };
        let Self {
            mut file,
            is_stream,
        } = Self::open(path).map_err(failed)?;
        if is_stream {
            return Ok(file);
        }
        let mut line = Vec::new();
        BufReader::new(&mut file)
            .take(LINE)
            .read_until(b'\n', &mut line)
            .map_err(failed)?;
        match serde_json::from_slice::<PlanLine>(&line) {
            _ if line.is_empty() => {}
            Ok(old) if sandbox && !old.sandbox => {
                return Err(TargetError::Real {
                    kind,
                    path: path.to_owned(),
                });
            }
            Ok(_) => {}
            Err(_) => {
                let reason = "its first line is not a step of a plan";
                return Err(TargetError::Foreign {
                    kind,
                    path: path.to_owned(),
                    reason,
                });
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .map_err(failed)?;
        Ok(file)
    }

    /// Opens a file for appending. Creates it, and its directory, if they are missing.
    fn open(path: &Path) -> io::Result<Self> {
        if let Ok(metadata) = fs::metadata(path) {
            if let Some(file) = own_stream(&metadata) {
                return Ok(Self {
                    file,
                    is_stream: true,
                });
            }
            if !metadata.is_file() {
                let file = OpenOptions::new().write(true).open(path)?;
                return Ok(Self {
                    file,
                    is_stream: true,
                });
            }
        }
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        parent.map_or(Ok(()), fs::create_dir_all)?;
        let mut options = OpenOptions::new();
        // Appends, so that a report gets no hole if another process truncates it.
        let file = options
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            .open(path)?;
        let is_stream = !file.metadata()?.is_file();
        Ok(Self { file, is_stream })
    }
}

/// Returns the standard output or standard error if it is this file. A second descriptor would
/// overwrite the output of the process.
fn own_stream(metadata: &Metadata) -> Option<File> {
    let standard = [
        io::stdout().as_fd().try_clone_to_owned(),
        io::stderr().as_fd().try_clone_to_owned(),
    ];
    standard
        .into_iter()
        .flatten()
        .map(File::from)
        .find(|file| is_same(file, metadata))
}

/// Returns true if both are the same file.
fn is_same(file: &File, metadata: &Metadata) -> bool {
    file.metadata()
        .is_ok_and(|own| (own.dev(), own.ino()) == (metadata.dev(), metadata.ino()))
}

/// Returns true if this path still leads to the open file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| is_same(file, &metadata))
}

/// Checks that a report may replace this file.
fn may_replace_report(
    path: &Path,
    origin: &ReportHeader,
    file: &mut File,
) -> Result<(), TargetError> {
    let kind = OutputKind::Report;
    let failed = |error| TargetError::Create {
        kind,
        path: path.to_owned(),
        error,
    };
    if file.metadata().map_err(failed)?.len() == 0 {
        return Ok(());
    }
    match first_line(file).map_err(failed)? {
        (_, Some(old)) if origin.sandbox && !old.is_of_sandbox() => Err(TargetError::Real {
            kind,
            path: path.to_owned(),
        }),
        (_, Some(_)) => Ok(()),
        // A truncated report does not show whether its buckets were real.
        (_, None) if !origin.sandbox && is_remnant(file).map_err(failed)? => Ok(()),
        (_, None) => {
            let reason = "its first line is not the header of a report";
            Err(TargetError::Foreign {
                kind,
                path: path.to_owned(),
                reason,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn origin(sandbox: bool) -> ReportHeader {
        ReportHeader {
            report: 2,
            command: vec!["copy".into()],
            directory: "/".into(),
            sandbox,
            ..ReportHeader::default()
        }
    }

    #[test]
    fn only_a_report_is_replaced_by_a_report_and_only_a_plan_by_a_plan() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let real = serde_json::to_string(&origin(false)).unwrap() + "\n1\n";
        let sandbox = serde_json::to_string(&origin(true)).unwrap() + "\n";
        let old = "{\"report\":1,\"tool\":\"0.0.9\",\"command\":[],\"directory\":\"/\"}\n";
        let step = "{\"transfer\":\"t\",\"source\":\"s\",\"destination\":\"d\",\"size\":1,\"reason\":\"missing\",\
                    \"route\":\"copy\",\"parts\":0}\n";
        let receipt = "{\"transfer\":\"t\",\"source\":\"s\",\"destination\":\"d\",\"size\":1,\"status\":\"done\"}\n";
        let torn_header = "{\"report\":2,\"version\":\"0.1\n";
        let torn_and_continued = format!("{torn_header}{receipt}");
        let of_sandbox = step.replace("\"parts\":0", "\"parts\":0,\"sandbox\":true");
        for (text, by_real, by_sandbox, by_plan, by_sandbox_plan) in [
            ("", true, true, true, true),
            (&*real, true, false, false, false),
            (&sandbox, true, true, false, false),
            (old, true, false, false, false),
            (receipt, true, false, false, false),
            (torn_header, true, false, false, false),
            ("{\"report\":", true, false, false, false),
            (&torn_and_continued, true, false, false, false),
            ("{\"report\":1,\n\"data\":[]}\n", false, false, false, false),
            ("{\"report\":\n1}", false, false, false, false),
            ("{\"report\":{\"title\":1}}\n", false, false, false, false),
            ("{\"report\":1}\n", false, false, false, false),
            (step, false, false, true, false),
            (&of_sandbox, false, false, true, true),
            ("{}\n", false, false, false, false),
            ("precious\n", false, false, false, false),
            ("precious", false, false, false, false),
            ("\n", false, false, false, false),
        ] {
            for (is_sandbox, may) in [(false, by_real), (true, by_sandbox)] {
                fs::write(&path, text).unwrap();
                let checked = Target::check_report(&path, &origin(is_sandbox));
                let opened = Target::open_report(&path, &origin(is_sandbox));
                assert_eq!(
                    (checked.is_ok(), opened.is_ok()),
                    (may, may),
                    "{is_sandbox} {text}"
                );
                assert_eq!(fs::read_to_string(&path).unwrap(), text);
            }
            for (is_sandbox, may) in [(false, by_plan), (true, by_sandbox_plan)] {
                fs::write(&path, text).unwrap();
                assert_eq!(
                    Target::begin_plan(&path, is_sandbox).is_ok(),
                    may,
                    "{is_sandbox} {text}"
                );
                assert_eq!(
                    fs::read_to_string(&path).unwrap(),
                    if may { "" } else { text }
                );
            }
        }
    }

    #[test]
    fn a_new_file_is_private_and_an_old_one_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (new, old) = (dir.path().join("new/report"), dir.path().join("old"));
        Target::open_report(&new, &origin(false)).unwrap();
        assert_eq!(mode(&new), 0o600);
        fs::write(&old, "").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).unwrap();
        Target::open_report(&old, &origin(false)).unwrap();
        assert_eq!(mode(&old), 0o644);
        let plan = dir.path().join("new too/plan");
        Target::begin_plan(&plan, false).unwrap();
        assert_eq!(mode(&plan), 0o600);
    }
}
