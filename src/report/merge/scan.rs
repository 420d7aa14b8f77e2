//! Reads the stored reports for a merge.

use std::collections::BTreeSet;
use std::future::ready;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::fold::{MergeLine, Verdicts};
use super::{LaterReport, ShardReports};
use crate::report::CountedLines;
use crate::report::error::ReportError;
use crate::report::frame::{ReportHeader, footer, is_gap};
use crate::report::lines::ReportLines;
use crate::report::read::ReadError;
use crate::report::stored::StoredReport;

/// The maximum number of headers that are read at once.
const MAX_CONCURRENT: usize = 16;

/// The lines of a report in S3, with their numbers.
pub(super) struct NumberedLines {
    lines: ReportLines,
    number: u64,
}

impl NumberedLines {
    pub(super) fn of(report: &StoredReport) -> Self {
        Self {
            lines: ReportLines::of_pieces(report),
            number: 0,
        }
    }

    /// Returns the number of the next line, with the line or the reason why it cannot be used.
    pub(super) async fn next(
        &mut self,
    ) -> Result<Option<(u64, Result<String, String>)>, ReportError> {
        self.number += 1;
        match self.lines.next().await {
            Ok(line) => Ok(line.map(|line| (self.number, Ok(line)))),
            Err(ReadError::Store(error)) => Ok(Some((self.number, Err(error.into_damage()?)))),
            Err(error) => Ok(Some((self.number, Err(error.to_string())))),
        }
    }
}

/// Returns the transfers of the run that copy histories, from the first header that names them.
/// Returns `None` if old versions of s3haul wrote all reports, because their headers lack this
/// field.
///
/// The merge reads all reports with the same set of transfers. Otherwise, one object in reports of
/// several versions of s3haul would count as two.
pub(super) async fn histories(
    origin: &ReportHeader,
    shards: &[ShardReports],
    later: &[LaterReport],
) -> Result<Option<BTreeSet<String>>, ReadError> {
    if origin.histories.is_some() {
        return Ok(origin.histories.clone());
    }
    let retries = later.iter().map(|later| &later.report);
    let runs = shards.iter().flat_map(|shard| &shard.runs.reports);
    let firsts: Vec<_> = retries.chain(runs).map(StoredReport::first_piece).collect();
    let headers = stream::iter(firsts).map(header).buffered(MAX_CONCURRENT);
    let known = headers.try_filter_map(|header| ready(Ok(header.histories)));
    known.boxed().try_next().await
}

/// Reads the header of a report. An unreadable header counts as one without histories.
async fn header(report: StoredReport) -> Result<ReportHeader, ReadError> {
    match ReportLines::of_pieces(&report).next().await {
        Err(error @ ReadError::Store(ReportError::Store { .. })) => Err(error),
        line => {
            let line = line.ok().flatten().unwrap_or_default();
            Ok(serde_json::from_str(&line).unwrap_or_default())
        }
    }
}

/// Adds the lines of a report to the verdicts. Returns the first damage of the report, if it has
/// any. `origin` is the header of the merged report.
pub(super) async fn scan(
    report: &StoredReport,
    number: u32,
    verdicts: &mut Verdicts,
    origin: &ReportHeader,
) -> Result<Option<String>, ReportError> {
    let mut lines = NumberedLines::of(report);
    let mut begun: Option<CountedLines> = None;
    let (mut damage, mut last) = (None, None);
    let mut wrong = |line: u64, what: &str| {
        damage.get_or_insert_with(|| format!("line {line}: {what}"));
    };
    while let Some((at, line)) = lines.next().await? {
        let line = match line {
            Ok(line) => line,
            Err(what) => {
                wrong(at, &what);
                continue;
            }
        };
        let Some(counted) = &mut begun else {
            if serde_json::from_str::<ReportHeader>(&line).is_err() {
                wrong(at, "it is not the header of a report");
            }
            begun = Some(CountedLines::of_head(format!("{line}\n").as_bytes()));
            continue;
        };
        if last.is_some() {
            wrong(at, "it is behind the footer");
        } else if is_gap(&line) {
            wrong(at, "receipts of an earlier session are missing here");
        } else if let Ok(receipt) = serde_json::from_str::<MergeLine>(&line) {
            counted.lines += 1;
            counted.sum.update(line.as_bytes());
            counted.sum.update(b"\n");
            verdicts.take(origin, number, at, receipt);
        } else if let Some(footer) = footer(&line) {
            last = Some(footer);
        } else {
            wrong(at, "it is not a receipt");
        }
    }
    let (Some(footer), Some(counted)) = (last, begun) else {
        return Ok(damage);
    };
    let sum = format!("{:016x}", counted.sum.finalize());
    let is_changed = footer.lines.is_some_and(|lines| lines != counted.lines)
        || footer.checksum.is_some_and(|told| told != sum);
    if is_changed && damage.is_none() {
        damage = Some("the footer was written for other lines".to_owned());
    }
    Ok(damage)
}
