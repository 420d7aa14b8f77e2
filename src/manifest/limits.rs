//! The limits of a run: its pace, its patience with servers, and the failures that it tolerates.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::size::ByteRate;

/// Limits for a whole run. `None` lets the pace adapt. Only requests that probe a silent server may
/// exceed `bytes_per_second`; later requests make up for their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Limits {
    /// The maximum number of requests per second of all kinds together, at least 1.
    pub requests_per_second: Option<u32>,
    /// The maximum number of bytes copied per second, at least 1.
    pub bytes_per_second: Option<ByteRate>,
    /// The maximum number of requests in flight, at least 1.
    pub in_flight: Option<u32>,
    /// The longest time to wait for a server that throttles or does not answer; `None` is 15
    /// minutes.
    pub patience: Option<Duration>,
    /// The failed objects that the run tolerates; `None` is [`FailureLimit::Auto`].
    pub max_failures: Option<FailureLimit>,
}

/// Decides what happens if a selection matches nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Empty {
    /// The run reports this and exits with status 1.
    Fail,
    /// The run reports this.
    #[default]
    Warn,
    /// The run does not report this.
    Ok,
}

/// The number of failed objects that ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureLimit {
    /// Any number, unless the first 300 objects all fail for the same reason.
    Auto,
    /// Any number.
    Unlimited,
    /// More than this number. Zero ends the run at the first failure.
    Objects(u64),
    /// More than this percentage, once 100 objects have ended.
    Percent(u8),
}

/// The reason why a [`FailureLimit`] is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither a number of objects nor a percentage below 100%: write for instance 100, 5%, auto, or none"
)]
pub struct FailureLimitError(pub String);

impl FailureLimit {
    /// Returns true if more of the `ended` objects have `failed` than the limit allows.
    #[must_use]
    pub fn is_passed(self, failed: u64, ended: u64) -> bool {
        match self {
            Self::Auto | Self::Unlimited => false,
            Self::Objects(most) => failed > most,
            Self::Percent(percent) => ended >= 100 && failed * 100 > ended * u64::from(percent),
        }
    }
}

impl std::str::FromStr for FailureLimit {
    type Err = FailureLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        let limit = match trimmed.strip_suffix('%') {
            None if trimmed == "auto" => Some(Self::Auto),
            None if trimmed == "none" => Some(Self::Unlimited),
            Some(percent) => percent
                .trim_end()
                .parse()
                .ok()
                .filter(|p| *p < 100)
                .map(Self::Percent),
            None => trimmed.parse().ok().map(Self::Objects),
        };
        limit.ok_or_else(|| FailureLimitError(text.to_owned()))
    }
}

impl std::fmt::Display for FailureLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Unlimited => f.write_str("none"),
            Self::Objects(most) => write!(f, "{most}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}
