//! Reads the stored reports that are merged.

use super::fold::{MergeLine, Verdicts};
use crate::report::CountedLines;
use crate::report::error::ReportError;
use crate::report::frame::{ReportHeader, footer, is_gap};
use crate::report::lines::ReportLines;
use crate::report::read::ReadError;
use crate::report::stored::StoredReport;

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

    /// Returns the next line with its number, or the reason why it cannot be used.
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

/// Reads a report into verdicts. Returns its first damage, if it has any. `origin` is used in place
/// of a header that cannot be read.
pub(super) async fn scan(
    report: &StoredReport,
    number: u32,
    verdicts: &mut Verdicts,
    origin: &ReportHeader,
) -> Result<Option<String>, ReportError> {
    let mut lines = NumberedLines::of(report);
    let mut begun: Option<(ReportHeader, CountedLines)> = None;
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
        let Some((header, counted)) = &mut begun else {
            let header = serde_json::from_str(&line).unwrap_or_else(|_| {
                wrong(at, "it is not the header of a report");
                origin.clone()
            });
            let counted = CountedLines::of_head(format!("{line}\n").as_bytes());
            begun = Some((header, counted));
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
            verdicts.take(header, number, at, receipt);
        } else if let Some(footer) = footer(&line) {
            last = Some(footer);
        } else {
            wrong(at, "it is not a receipt");
        }
    }
    let (Some(footer), Some((_, counted))) = (last, begun) else {
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
