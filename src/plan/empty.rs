//! Describes selections that match nothing.
//!
//! With a mistyped prefix or pattern, a run has nothing to do, which looks like success. This
//! module writes the message about it. The callers of the planner count the objects, and the job
//! decides whether an empty selection is an error.

use serde::Serialize;

use crate::location::LocalPath;
use crate::manifest::job::{Empty, Selection, Source, Transfer, Versions};
use crate::size::display_count;

/// A transfer whose selection matched nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EmptySelection {
    /// The name of the transfer.
    pub transfer: String,
    /// The reason, as a sentence.
    pub reason: String,
    /// True if the job treats an empty selection as a failure.
    pub fails: bool,
}

impl EmptySelection {
    /// Describes a transfer that selected no object, after its selection excluded `excluded` listed
    /// objects. Returns `None` if the job accepts an empty selection, or names its objects one by
    /// one.
    #[must_use]
    pub fn of(transfer: &Transfer, excluded: u64) -> Option<Self> {
        if transfer.empty == Empty::Ok || transfer.chosen.is_some() {
            return None;
        }
        let place = match &transfer.from {
            Source::Prefix { location, .. } => format!("below {location}"),
            Source::Files {
                path: LocalPath(path),
                ..
            } => format!("in {}", path.display()),
            Source::Object { .. } | Source::Stdin => return None,
        };
        let Selection { include, .. } = &transfer.select;
        let rest = match excluded {
            0 => String::new(),
            1 => " (1 key that was listed does not match)".to_owned(),
            excluded => format!(
                " ({} keys that were listed do not match)",
                display_count(excluded)
            ),
        };
        let reason = match (include.as_slice(), transfer.versions) {
            (_, Versions::AsOf(time)) => format!("nothing {place} matches as of {time}{rest}"),
            ([], _) if excluded == 0 && transfer.select == Selection::default() => {
                format!("nothing {place}")
            }
            ([], _) => format!("nothing {place} matches the filters{rest}"),
            ([pattern], _) => format!("no key {place} matches `{pattern}`{rest}"),
            (patterns, _) => format!(
                "no key {place} matches any of {} patterns{rest}",
                patterns.len()
            ),
        };
        Some(Self {
            transfer: transfer.name.clone(),
            reason,
            fails: transfer.empty == Empty::Fail,
        })
    }
}

impl std::fmt::Display for EmptySelection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            transfer,
            reason,
            fails,
        } = self;
        let word = if *fails { "error" } else { "warning" };
        write!(f, "{word}: {transfer}: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::job::{DEFAULT_ENDPOINT, Destination};

    fn transfer(include: &[&str]) -> Transfer {
        let location = "s3://data/".parse().unwrap();
        let from = Source::Prefix {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location,
        };
        let to = Destination {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location: "s3://copies/".parse().unwrap(),
            storage_class: None,
            encryption: None,
            acl: None,
        };
        let mut transfer = Transfer::new("nightly", from, to);
        transfer.select.include = include.iter().map(|glob| glob.parse().unwrap()).collect();
        transfer
    }

    #[test]
    fn the_reason_names_the_place_and_the_pattern() {
        for (include, excluded, reason) in [
            (&[][..], 0, "nothing below s3://data/"),
            (
                &[],
                2,
                "nothing below s3://data/ matches the filters (2 keys that were listed do not match)",
            ),
            (&["x*"], 0, "no key below s3://data/ matches `x*`"),
            (
                &["x*"],
                1,
                "no key below s3://data/ matches `x*` (1 key that was listed does not match)",
            ),
            (
                &["x*", "y*"],
                0,
                "no key below s3://data/ matches any of 2 patterns",
            ),
        ] {
            let found = EmptySelection::of(&transfer(include), excluded).unwrap();
            assert_eq!((found.reason.as_str(), found.fails), (reason, false));
        }
        let fails = Transfer {
            empty: Empty::Fail,
            ..transfer(&[])
        };
        assert_eq!(
            EmptySelection::of(&fails, 0).unwrap().to_string(),
            "error: nightly: nothing below s3://data/"
        );
        assert_eq!(
            EmptySelection::of(
                &Transfer {
                    empty: Empty::Ok,
                    ..transfer(&[])
                },
                0
            ),
            None
        );
    }
}
