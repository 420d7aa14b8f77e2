//! The flags of a one-off copy that concern versions and archives.

use clap::Args;

use super::unused_flags::Flag;
use crate::manifest::job::{Archived, Restore, RestoreTier, Transfer, Versions};
use crate::manifest::moment::Moment;

/// The flags for versions and archived objects.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Versions and archives")]
pub(super) struct HistoryFlags {
    /// Version ID of the source, which must be a single object. Default: the current version.
    #[arg(long, value_name = "ID", conflicts_with_all = ["versions", "as_of"])]
    pub(super) version_id: Option<String>,
    /// Copy all versions and delete markers, oldest first, to a bucket with versioning.
    #[arg(long, value_name = "all", value_parser = ["all"], conflicts_with = "as_of")]
    versions: Option<String>,
    /// Copy the versions that were current at this time: 2026-01-01T00:00:00Z, 2026-01-01 (midnight
    /// UTC), or an age such as 24h.
    #[arg(long, value_name = "TIME")]
    as_of: Option<Moment>,
    /// Fail, skip, or restore objects in GLACIER, DEEP_ARCHIVE, or an archive tier. Default: fail.
    #[arg(long, value_name = "WHAT", value_parser = ["fail", "skip", "restore"])]
    archived: Option<String>,
    /// Retrieval tier of restores. Default: standard.
    #[arg(long, value_name = "TIER", value_parser = ["standard", "bulk", "expedited"])]
    restore_tier: Option<String>,
    /// Number of days that restored objects stay readable. Default: 7.
    #[arg(long, value_name = "DAYS")]
    restore_days: Option<u32>,
}

impl HistoryFlags {
    /// Returns the error for a flag that has no effect.
    pub(super) fn mistake(&self) -> Option<&'static str> {
        let restores = self.archived.as_deref() == Some("restore");
        let says_how = self.restore_tier.is_some() || self.restore_days.is_some();
        (says_how && !restores).then_some(
            "--restore-tier and --restore-days have an effect only with --archived restore",
        )
    }

    /// Returns the flags that apply only to a source in S3. `--version-id` has a separate rule.
    pub(super) fn of_source(&self) -> [Flag; 5] {
        [
            ("--versions", self.versions.is_some()),
            ("--as-of", self.as_of.is_some()),
            ("--archived", self.archived.is_some()),
            ("--restore-tier", self.restore_tier.is_some()),
            ("--restore-days", self.restore_days.is_some()),
        ]
    }

    /// Writes the flags into a transfer.
    pub(super) fn apply(&self, transfer: &mut Transfer) {
        match (&self.versions, self.as_of) {
            (Some(_), _) => transfer.versions = Versions::All,
            (None, Some(time)) => transfer.set_as_of(time),
            (None, None) => transfer.versions = Versions::Current,
        }
        transfer.archived = match self.archived.as_deref() {
            Some("skip") => Archived::Skip,
            Some("restore") => Archived::Restore,
            _ => Archived::Fail,
        };
        let tier = match self.restore_tier.as_deref() {
            Some("bulk") => RestoreTier::Bulk,
            Some("expedited") => RestoreTier::Expedited,
            _ => RestoreTier::Standard,
        };
        transfer.restore = Restore {
            tier,
            days: self.restore_days.unwrap_or(Restore::default().days),
        };
    }
}
