//! Points in time as people write them: a time, a date, or an age such as `24h`.
//!
//! An age counts back from the start of the run. The job keeps both the age and the resulting time:
//! with the age, the job is the same job on the next day; with the time, a resumed run selects as
//! it did when it started.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use thiserror::Error;

use super::job::{Job, Transfer, Versions};
use crate::size::parse_duration;

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This time.
    At(Timestamp),
    /// This long before the start of the run.
    Ago(Duration),
}

/// The reason why a text is not a point in time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{text}` is not a point in time: {remedy}")]
pub struct MomentError {
    /// The text as it was typed.
    pub text: String,
    /// The form to write instead.
    pub remedy: &'static str,
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let text = text.trim();
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        let is_date = text.len() == "2026-01-01".len()
            && text.bytes().all(|c| c == b'-' || c.is_ascii_digit());
        if is_date
            && let Some(midnight) = text
                .parse::<Date>()
                .ok()
                .and_then(|date| date.to_zoned(TimeZone::UTC).ok())
        {
            return Ok(Self::At(midnight.timestamp()));
        }
        let age = text.strip_suffix("ago").unwrap_or(text).trim_end();
        if let Ok(age) = parse_duration(age)
            && Timestamp::UNIX_EPOCH.checked_sub(age).is_ok()
        {
            return Ok(Self::Ago(age));
        }
        let remedy = if text.contains('T') && text.parse::<jiff::civil::DateTime>().is_ok() {
            "add the time zone, for instance Z for UTC or +01:00"
        } else {
            "write RFC 3339 such as 2026-01-01T00:00:00Z, a date such as 2026-01-01 (midnight UTC), or an age such as 24h, \
             7d, or 2w"
        };
        Err(MomentError {
            text: text.to_owned(),
            remedy,
        })
    }
}

/// The times of a transfer that the user wrote as ages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// The age in `modified_after`.
    pub modified_after: Option<Duration>,
    /// The age in `modified_before`.
    pub modified_before: Option<Duration>,
    /// The age in `as_of`.
    pub as_of: Option<Duration>,
    /// The start of the run, from which the ages count back, once it is known.
    pub counted_from: Option<Timestamp>,
}

/// An age, displayed in its largest whole unit.
#[derive(Clone, Copy, Debug)]
pub struct Age(pub Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
        match units
            .into_iter()
            .find(|(unit, _)| seconds > *unit && seconds.is_multiple_of(*unit))
        {
            Some((unit, name)) => write!(f, "{}{name}", seconds / unit),
            None if self.0.subsec_nanos() == 0 => write!(f, "{seconds}s"),
            None => write!(f, "{}s", self.0.as_secs_f64()),
        }
    }
}

impl Transfer {
    /// Sets `modified_after`. An age selects nothing until [`Transfer::count_from`] is called.
    pub fn set_modified_after(&mut self, moment: Option<Moment>) {
        (self.select.modified_after, self.ages.modified_after) = parts(moment, Timestamp::MAX);
    }

    /// Sets `modified_before`; see [`Transfer::set_modified_after`].
    pub fn set_modified_before(&mut self, moment: Option<Moment>) {
        (self.select.modified_before, self.ages.modified_before) = parts(moment, Timestamp::MIN);
    }

    /// Sets `as_of`; see [`Transfer::set_modified_after`].
    pub fn set_as_of(&mut self, moment: Moment) {
        let (time, age) = parts(Some(moment), Timestamp::MIN);
        (self.versions, self.ages.as_of) = (time.map_or(Versions::Current, Versions::AsOf), age);
    }

    /// Counts ages back from this time, the start of the run.
    pub fn count_from(&mut self, now: Timestamp) {
        let at = |age: Duration| now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let Ages {
            modified_after,
            modified_before,
            as_of,
            counted_from,
        } = &mut self.ages;
        if modified_after.is_none() && modified_before.is_none() && as_of.is_none() {
            return;
        }
        self.select.modified_after = modified_after.map(at).or(self.select.modified_after);
        self.select.modified_before = modified_before.map(at).or(self.select.modified_before);
        self.versions = as_of.map_or(self.versions, |age| Versions::AsOf(at(age)));
        *counted_from = Some(now);
    }

    /// Describes the times in the conditions of this transfer, and the ages from which they follow.
    #[must_use]
    pub fn times(&self) -> Vec<String> {
        let written = |age: Option<Duration>| {
            age.map(|age| format!(" ({} before the start of the run)", Age(age)))
                .unwrap_or_default()
        };
        let select = &self.select;
        let mut times = Vec::new();
        if let Some(after) = select.modified_after {
            times.push(format!(
                "modified at {after:.0} or later{}",
                written(self.ages.modified_after)
            ));
        }
        if let Some(before) = select.modified_before {
            times.push(format!(
                "modified before {before:.0}{}",
                written(self.ages.modified_before)
            ));
        }
        if let Versions::AsOf(time) = self.versions {
            times.push(format!("as of {time:.0}{}", written(self.ages.as_of)));
        }
        times
    }
}

impl Job {
    /// Counts all ages back from this time.
    pub fn count_from(&mut self, now: Timestamp) {
        for transfer in &mut self.transfers {
            transfer.count_from(now);
        }
    }

    /// Returns the time from which ages count back, or `None` if the job has no ages or the time is
    /// not known yet.
    #[must_use]
    pub fn counted_from(&self) -> Option<Timestamp> {
        self.transfers
            .iter()
            .find_map(|transfer| transfer.ages.counted_from)
    }
}

fn parts(moment: Option<Moment>, unknown: Timestamp) -> (Option<Timestamp>, Option<Duration>) {
    match moment {
        None => (None, None),
        Some(Moment::At(time)) => (Some(time), None),
        Some(Moment::Ago(age)) => (Some(unknown), Some(age)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_dates_and_ages_are_read() {
        let at = |text: &str| Moment::At(text.parse().unwrap());
        let hours = |hours| Moment::Ago(Duration::from_hours(hours));
        for (text, expected) in [
            ("2026-01-01T00:00:00Z", at("2026-01-01T00:00:00Z")),
            ("2026-01-01T01:00:00+01:00", at("2026-01-01T00:00:00Z")),
            ("2026-01-01", at("2026-01-01T00:00:00Z")),
            ("24h", hours(24)),
            ("7d", hours(7 * 24)),
            ("2w", hours(14 * 24)),
            ("1w 1d 12h", hours(8 * 24 + 12)),
            ("36h ago", hours(36)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (text, remedy) in [
            ("2026-01-01T00:00:00", "add the time zone"),
            ("2026-13-01", "RFC 3339"),
            ("yesterday", "an age such as 24h"),
            ("24", "an age such as 24h"),
            ("-24h", "an age such as 24h"),
            ("1mo", "an age such as 24h"),
            ("99999999d", "RFC 3339"),
            ("", "RFC 3339"),
        ] {
            let message = text.parse::<Moment>().unwrap_err().to_string();
            assert!(message.contains(remedy), "{message}");
        }
    }

    #[test]
    fn ages_are_shown_in_whole_units() {
        for (age, shown) in [
            ("24h", "24h"),
            ("48h", "2d"),
            ("90m", "90m"),
            ("1m", "60s"),
            ("2w", "14d"),
            ("0s", "0s"),
        ] {
            assert_eq!(
                Age(parse_duration(age).unwrap()).to_string(),
                shown,
                "{age}"
            );
        }
    }
}
