//! Names the objects below a state prefix.

/// The plan.
pub const PLAN: &str = "plan.json";
/// The lease of the process that plans.
pub const LEASE: &str = "plan.lease";
/// The totals of all shards.
pub const SUMMARY: &str = "summary.json";

/// A kind of object that each shard has once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PerShard {
    /// `live/I.json`.
    Live,
    /// `done/I.json`.
    Done,
    /// `failed/I.json`.
    Failed,
}

impl PerShard {
    /// Returns the prefix of the names.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Live => "live/",
            Self::Done => "done/",
            Self::Failed => "failed/",
        }
    }

    /// Returns the name of a shard's object.
    #[must_use]
    pub fn of(self, shard: u32) -> String {
        format!("{}{shard}.json", self.prefix())
    }

    /// Returns the shard whose object has this name.
    #[must_use]
    pub fn shard_of(self, name: &str) -> Option<u32> {
        let number = name.strip_prefix(self.prefix())?.strip_suffix(".json")?;
        let shard = number.parse().ok()?;
        // `+1` and `01` parse as numbers, but are not names of shards.
        (self.of(shard) == name).then_some(shard)
    }
}

/// Returns the prefix of a shard's journal.
#[must_use]
pub fn journal_of(shard: u32) -> String {
    format!("shards/{shard}/journal/")
}

/// Returns the prefix of a shard's report.
#[must_use]
pub fn report_of(shard: u32) -> String {
    format!("shards/{shard}/report/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_shards() {
        for kind in [PerShard::Live, PerShard::Done, PerShard::Failed] {
            for shard in [0, 7, 1999] {
                assert_eq!(kind.shard_of(&kind.of(shard)), Some(shard));
            }
        }
        for other in [
            "done/",
            "done/x.json",
            "done/01.json",
            "done/+1.json",
            "live/1.json",
        ] {
            assert_eq!(PerShard::Done.shard_of(other), None, "{other}");
        }
        assert_eq!(PerShard::Live.of(3), "live/3.json");
        assert_eq!(journal_of(3), "shards/3/journal/");
        assert_eq!(report_of(3), "shards/3/report/");
    }
}
