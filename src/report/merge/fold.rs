//! Decides which line of each object counts, among several reports about the same keys. This module
//! is pure.
//!
//! Within a report, the rules of [`read`](crate::report::read::read) apply. Between reports, the
//! line of the later report counts, with one exception: an object that an earlier run copied and a
//! later run found equal keeps the receipt of its copy, which has the proof.
//!
//! Each object takes a few dozen bytes of memory. Reports that are too long for memory are read in
//! several passes, each for the objects of one [`Partition`].

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher as _;
use std::mem;

use serde::Deserialize;

use crate::report::ReportHeader;
use crate::report::object::ObjectId;
use crate::report::read::ReceiptStatus;

/// The fields of a receipt that decide which line counts.
#[derive(Debug, Deserialize)]
pub(super) struct MergeLine {
    transfer: String,
    source: String,
    source_version: Option<String>,
    status: ReceiptStatus,
    reason: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    losses: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    error: MergeError,
}

#[derive(Debug, Default, Deserialize)]
struct MergeError {
    #[serde(default)]
    operation: String,
}

impl MergeLine {
    /// Returns true for the line of a failed list, which names a prefix instead of an object.
    fn is_of_list(&self) -> bool {
        let lists = ["ListObjectsV2", "ListObjectVersions"];
        self.status == ReceiptStatus::Failed && lists.contains(&self.error.operation.as_str())
    }
}

/// Hashes the objects of all reports of a merge.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectHasher([RandomState; 2]);

impl ObjectHasher {
    fn hash(&self, object: &ObjectId) -> u128 {
        let [high, low] = [0, 1].map(|half| {
            let hasher: &RandomState = &self.0[half];
            u128::from(hasher.hash_one(object))
        });
        high << 64 | low
    }
}

/// One of several disjoint sets of objects. Together, the sets cover all objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    /// The number of outer passes (over all shards), and of inner passes (over one shard, within
    /// each outer pass).
    parts: [u32; 2],
    /// The index of the outer pass, and of the inner pass.
    part: [u32; 2],
}

impl Partition {
    /// Returns the partitions for this many receipts. Each pass reads at most about `most` of them.
    pub(super) fn outer(receipts: u64, most: u64) -> impl Iterator<Item = Self> {
        let parts = parts(receipts, most);
        (0..parts).map(move |part| Self {
            parts: [parts, 1],
            part: [part, 0],
        })
    }

    /// Divides this partition further.
    pub(super) fn inner(self, receipts: u64, most: u64) -> impl Iterator<Item = Self> {
        let [outer, _] = self.parts;
        let parts = parts(receipts / u64::from(outer), most);
        (0..parts).map(move |part| Self {
            parts: [outer, parts],
            part: [self.part[0], part],
        })
    }

    /// Returns true if all objects are read in one pass over all shards.
    pub(super) fn is_whole(self) -> bool {
        self.parts[0] == 1
    }

    fn holds(self, hash: u128) -> bool {
        let [outer, inner] = self.parts.map(u128::from);
        [hash % outer, hash / outer % inner] == self.part.map(u128::from)
    }
}

fn parts(receipts: u64, most: u64) -> u32 {
    u32::try_from(receipts.div_ceil(most.max(1)).max(1)).unwrap_or(u32::MAX)
}

/// The line that counts for an object, among the lines read so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineVerdict {
    /// The report that contains the line, by position.
    pub(super) report: u32,
    /// The number of the line.
    pub(super) line: u64,
    /// The latest report with a line about the object.
    pub(super) seen: u32,
    pub(super) status: ReceiptStatus,
    /// The size of the object.
    pub(super) bytes: u64,
    pub(super) is_archived: bool,
    pub(super) has_losses: bool,
    /// True for a failed list instead of an object.
    pub(super) is_of_list: bool,
}

/// The verdicts about the objects of a partition.
#[derive(Debug)]
pub(super) struct Verdicts {
    objects: HashMap<u128, LineVerdict>,
    hasher: ObjectHasher,
    partition: Partition,
    /// The number of objects that earlier reports have too, see `resolve_with_later`.
    met: usize,
}

impl Verdicts {
    pub(super) fn new(hasher: &ObjectHasher, partition: Partition) -> Self {
        Self {
            objects: HashMap::new(),
            hasher: hasher.clone(),
            partition,
            met: 0,
        }
    }

    /// Adds a line of a report. The caller reads the reports one after another, the oldest first.
    /// `header` is the header of the merged report.
    pub(super) fn take(
        &mut self,
        header: &ReportHeader,
        report: u32,
        number: u64,
        mut line: MergeLine,
    ) {
        let (transfer, source) = (mem::take(&mut line.transfer), mem::take(&mut line.source));
        let object = header.object(transfer, source, line.source_version.take());
        let hash = self.hasher.hash(&object);
        if !self.partition.holds(hash) {
            return;
        }
        let next = LineVerdict {
            report,
            line: number,
            seen: report,
            status: line.status,
            bytes: line.size,
            is_archived: line.reason.as_deref() == Some("archived"),
            has_losses: !line.losses.is_empty(),
            is_of_list: line.is_of_list(),
        };
        match self.objects.entry(hash) {
            Entry::Vacant(entry) => _ = entry.insert(next),
            Entry::Occupied(mut entry) => {
                let before = entry.get_mut();
                if before.wins_over(next.status, before.report == report) {
                    before.seen = report;
                } else {
                    *before = next;
                }
            }
        }
    }

    /// Drops objects that the complete report `latest` does not name, because the source no longer
    /// has them.
    pub(super) fn drop_unseen_in(&mut self, latest: u32) {
        self.objects.retain(|_, verdict| verdict.seen >= latest);
    }

    /// Drops lists that failed.
    pub(super) fn forget_lists(&mut self) {
        self.objects.retain(|_, verdict| !verdict.is_of_list);
    }

    /// Compares these verdicts with the verdicts of later reports. For each object in both, only
    /// the winning verdict remains.
    pub(super) fn resolve_with_later(&mut self, later: &mut Self) {
        let both: Vec<u128> = if self.objects.len() < later.objects.len() {
            let known = self.objects.keys();
            known
                .filter(|hash| later.objects.contains_key(hash))
                .copied()
                .collect()
        } else {
            let known = later.objects.keys();
            known
                .filter(|hash| self.objects.contains_key(hash))
                .copied()
                .collect()
        };
        for hash in both {
            let pair = (self.objects.get(&hash), later.objects.get(&hash));
            let (Some(own), Some(other)) = pair else {
                continue;
            };
            if own.wins_over(other.status, false) {
                later.objects.remove(&hash);
            } else {
                self.objects.remove(&hash);
                later.met += 1;
            }
        }
    }

    /// Returns true if an object is in no earlier report that was compared so far.
    pub(super) fn has_unmet(&self) -> bool {
        self.objects.len() > self.met
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LineVerdict> {
        self.objects.values()
    }

    /// Returns the numbers of the lines that count in a report, in order.
    pub(super) fn lines_of(&self, report: u32) -> Vec<u64> {
        let of_report = self.iter().filter(|verdict| verdict.report == report);
        let mut lines: Vec<_> = of_report.map(|verdict| verdict.line).collect();
        lines.sort_unstable();
        lines
    }
}

impl LineVerdict {
    /// Returns true if this line counts instead of a later one with the status `later`.
    fn wins_over(&self, later: ReceiptStatus, is_same_report: bool) -> bool {
        use ReceiptStatus::{Done, Failed, Restoring, Skipped, Stopped};
        match (self.status, later) {
            (Done, Skipped) => true,
            (Failed, Skipped | Restoring | Stopped) => is_same_report,
            (Done, Done | Restoring | Failed | Stopped)
            | (Failed, Failed | Done)
            | (Skipped | Restoring | Stopped, Done | Skipped | Restoring | Failed | Stopped) => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn line(source: &str, status: &str) -> MergeLine {
        let text = format!(r#"{{"transfer":"t","source":"{source}","status":"{status}"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    /// Returns the header of a job that copies no histories.
    fn header() -> ReportHeader {
        ReportHeader {
            histories: Some(BTreeSet::new()),
            ..ReportHeader::default()
        }
    }

    fn all() -> Partition {
        Partition::outer(1, 10).next().unwrap()
    }

    /// Reads lines of (report, source, status).
    fn folded(lines: &[(u32, &str, &str)]) -> Verdicts {
        let mut verdicts = Verdicts::new(&ObjectHasher::default(), all());
        for (number, (report, source, status)) in (1..).zip(lines) {
            verdicts.take(&header(), *report, number, line(source, status));
        }
        verdicts
    }

    #[test]
    fn a_later_report_counts_but_a_copy_keeps_its_proof() {
        for (lines, counts) in [
            // A copy, found equal by the next run of the shard.
            (vec![(0, "a", "done"), (1, "a", "skipped")], 1),
            // Within one run, the list that found the object equal cannot show the fault. Another
            // run compares the object again.
            (vec![(0, "a", "failed"), (0, "a", "skipped")], 1),
            (vec![(0, "a", "failed"), (1, "a", "skipped")], 2),
            (vec![(0, "a", "done"), (1, "a", "failed")], 2),
            (vec![(0, "a", "done"), (0, "a", "done")], 2),
            (vec![(0, "a", "failed"), (1, "a", "stopped")], 2),
            (vec![(0, "a", "stopped"), (0, "a", "skipped")], 2),
        ] {
            let verdicts = folded(&lines);
            let verdict = verdicts.iter().next().unwrap();
            assert_eq!(verdict.line, counts, "{lines:?}");
        }
    }

    /// A receipt names the version only if the object was read.
    #[test]
    fn a_line_without_a_version_is_about_the_same_object() {
        let with_version = |line: MergeLine, version: Option<&str>| MergeLine {
            source_version: version.map(str::to_owned),
            ..line
        };
        let mut verdicts = Verdicts::new(&ObjectHasher::default(), all());
        for (report, number, status, version) in [
            (0, 1, "done", Some("v1")),
            (1, 1, "failed", None),
            (1, 2, "done", Some("v2")),
            (2, 1, "skipped", None),
        ] {
            let line = with_version(line("a", status), version);
            verdicts.take(&header(), report, number, line);
        }
        verdicts.drop_unseen_in(2);
        assert_eq!(verdicts.iter().count(), 1);
        assert_eq!(verdicts.lines_of(1), [2], "the copy with its proof");
    }

    #[test]
    fn an_object_that_a_complete_run_does_not_find_is_gone() {
        let lines = [(0, "a", "done"), (0, "gone", "failed"), (1, "a", "skipped")];
        let mut verdicts = folded(&lines);
        verdicts.drop_unseen_in(1);
        assert_eq!(
            (verdicts.lines_of(0), verdicts.lines_of(1)),
            (vec![1], vec![])
        );
    }

    #[test]
    fn of_two_verdicts_one_remains() {
        let hasher = ObjectHasher::default();
        let mut own = Verdicts::new(&hasher, all());
        let mut later = Verdicts::new(&hasher, all());
        for (number, (source, status)) in
            (1..).zip([("a", "failed"), ("b", "done"), ("c", "failed")])
        {
            own.take(&header(), 0, number, line(source, status));
        }
        for (number, (source, status)) in
            (1..).zip([("a", "done"), ("b", "skipped"), ("d", "done")])
        {
            later.take(&header(), 0, number, line(source, status));
        }
        own.resolve_with_later(&mut later);
        assert_eq!(
            (own.lines_of(0), later.lines_of(0)),
            (vec![2, 3], vec![1, 3])
        );
    }

    #[test]
    fn the_partitions_hold_each_object_once() {
        let hasher = ObjectHasher::default();
        let partitions: Vec<_> = Partition::outer(30, 10)
            .flat_map(|outer| outer.inner(60, 10))
            .collect();
        assert_eq!(partitions.len(), 6);
        for number in 0..100 {
            let object = header().object("t".to_owned(), format!("s3://b/{number}"), None);
            let hash = hasher.hash(&object);
            let holders = partitions.iter().filter(|part| part.holds(hash)).count();
            assert_eq!(holders, 1);
        }
    }
}
