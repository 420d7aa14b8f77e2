//! The reports of all runs below a prefix.

use std::collections::{BTreeMap, BTreeSet};

use super::{RUN, ReportBucket, StoredReport, directory_in, piece_number};
use crate::location::S3Uri;
use crate::report::ReportError;

/// The reports of all runs below a prefix.
#[derive(Clone, Debug, Default)]
pub struct StoredRuns {
    /// The reports that can be read, the oldest first.
    pub reports: Vec<StoredReport>,
    /// The reports that cannot be read, the oldest first.
    pub damaged: Vec<ReportDamage>,
}

impl StoredRuns {
    /// Returns the damage of the latest report, if it cannot be read.
    #[must_use]
    pub fn latest_damage(&self) -> Option<&ReportDamage> {
        let latest = self.reports.last().map(StoredReport::location);
        let damage = self.damaged.last()?;
        // The names of directories ascend with the time of their runs.
        let is_latest = latest.is_none_or(|latest| latest.key.as_str() < damage.place.key.as_str());
        is_latest.then_some(damage)
    }
}

/// The damage of a report that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportDamage {
    /// The directory of the report.
    pub place: S3Uri,
    /// The damage.
    pub what: String,
}

impl ReportBucket {
    /// Returns the reports of all runs below the prefix, with one list of all their pieces.
    ///
    /// # Errors
    /// [`ReportError::Store`].
    pub async fn runs(&self) -> Result<StoredRuns, ReportError> {
        let mut found: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        let prefix = self.prefix.as_str();
        let below = self.directory(&format!("{prefix}{RUN}"))?;
        below
            .list(|key| {
                if let Some(directory) = directory_in(key, prefix) {
                    let numbers = found.entry(directory.to_owned()).or_default();
                    numbers.extend(key.strip_prefix(directory).and_then(piece_number));
                }
            })
            .await?;
        let mut runs = StoredRuns::default();
        for (directory, numbers) in found {
            let directory = self.directory(&directory)?;
            match directory.pieces(&numbers).await {
                Ok(pieces) if pieces.is_empty() => {}
                Ok(pieces) => runs.reports.push(StoredReport { directory, pieces }),
                Err(error) => {
                    let place = directory.uri();
                    let what = error.into_damage()?;
                    runs.damaged.push(ReportDamage { place, what });
                }
            }
        }
        Ok(runs)
    }
}
