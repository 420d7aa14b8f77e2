//! The flags that select objects of a source. They have the names of the manifest's fields.

use clap::Args;

use super::CliError;
use super::unused_flags::Flag;
use crate::manifest::job::{Selection, Transfer};
use crate::manifest::keys::KeyGlob;
use crate::manifest::moment::Moment;
use crate::size::ByteSize;

/// The rules for patterns, as help shows them.
pub(super) const PATTERNS: &str = "\
Patterns match the whole key after SRC:
  *      any characters but a slash             *.csv       a.csv, but not 2026/a.csv
  **     any directories                        **/*.csv    a.csv, 2026/a.csv, and 2026/01/a.csv
  ?      one character but a slash              tmp/**      everything below tmp/
  [..]   one of these: [abc], [0-9], [!a-z]     {a,b}/*     a/x and b/x
  \\      takes the next character literally: \\*
--exclude wins over --include, in any order. --include leaves out all other keys, so --exclude '*' --include '*.txt'
of the AWS CLI is --include '**/*.txt' here. Only keys that begin with the literal prefix of a pattern are listed:
2026/0[1-3]/*.csv lists 2026/0.";

/// The flags that select objects.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Selection")]
pub(super) struct SelectFlags {
    /// Select only keys that match this pattern, relative to SRC. May be repeated.
    #[arg(long, value_name = "GLOB")]
    include: Vec<KeyGlob>,
    /// Exclude keys that match this pattern. Takes precedence over --include. May be repeated.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<KeyGlob>,
    /// Select only objects with more bytes than this.
    #[arg(long, value_name = "SIZE")]
    larger_than: Option<ByteSize>,
    /// Select only objects with fewer bytes than this.
    #[arg(long, value_name = "SIZE")]
    smaller_than: Option<ByteSize>,
    /// Select only objects with at least this many bytes, as in rclone.
    #[arg(long, value_name = "SIZE", hide = true, conflicts_with = "larger_than")]
    min_size: Option<ByteSize>,
    /// Select only objects with at most this many bytes, as in rclone.
    #[arg(
        long,
        value_name = "SIZE",
        hide = true,
        conflicts_with = "smaller_than"
    )]
    max_size: Option<ByteSize>,
    /// Select only objects modified at this time or later: 2026-01-01T00:00:00Z, 2026-01-01
    /// (midnight UTC), or an age such as 24h.
    #[arg(long, value_name = "TIME", alias = "max-age")]
    modified_after: Option<Moment>,
    /// Select only objects modified before this time.
    #[arg(long, value_name = "TIME", alias = "min-age")]
    modified_before: Option<Moment>,
    /// Select only objects in these storage classes, for instance STANDARD,GLACIER_IR.
    #[arg(long, value_name = "CLASS,..", value_delimiter = ',')]
    storage_classes: Vec<String>,
}

impl SelectFlags {
    /// Returns each flag, and whether it was given.
    pub(super) fn flags(&self) -> [Flag; 9] {
        [
            ("--include", !self.include.is_empty()),
            ("--exclude", !self.exclude.is_empty()),
            ("--larger-than", self.larger_than.is_some()),
            ("--smaller-than", self.smaller_than.is_some()),
            ("--min-size", self.min_size.is_some()),
            ("--max-size", self.max_size.is_some()),
            ("--modified-after", self.modified_after.is_some()),
            ("--modified-before", self.modified_before.is_some()),
            ("--storage-classes", !self.storage_classes.is_empty()),
        ]
    }

    /// Writes the flags into a transfer, and the pattern in the name of its source.
    pub(super) fn apply(
        &self,
        transfer: &mut Transfer,
        source: &str,
        pattern: Option<KeyGlob>,
    ) -> Result<(), CliError> {
        if pattern.is_some() && !self.include.is_empty() {
            let message = format!(
                "{source} is a pattern, and --include would add to what it matches, not narrow it; write one pattern, or \
                 end SRC in a slash and repeat --include"
            );
            return Err(CliError::Usage(message));
        }
        let at_least = self
            .min_size
            .filter(|size| size.0 > 0)
            .map(|size| ByteSize(size.0 - 1));
        let at_most = self
            .max_size
            .and_then(|size| size.0.checked_add(1))
            .map(ByteSize);
        transfer.select = Selection {
            include: self.include.iter().cloned().chain(pattern).collect(),
            exclude: self.exclude.clone(),
            larger_than: self.larger_than.or(at_least),
            smaller_than: self.smaller_than.or(at_most),
            // Set below, because these times may be ages.
            modified_after: None,
            modified_before: None,
            storage_classes: self.storage_classes.clone(),
        };
        transfer.set_modified_after(self.modified_after);
        transfer.set_modified_before(self.modified_before);
        Ok(())
    }
}
