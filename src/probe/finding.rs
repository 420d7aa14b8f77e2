//! The findings of a probe, and the decision whether a job can work with them.
//!
//! Three kinds of findings share one scale ([`How`]): requests that a job sends
//! ([`RequestFinding`]), capabilities that a manifest can state ([`ProbeFinding`]), and attributes
//! of objects ([`AttributeFinding`]). Each finding knows what the job relies on, so it can tell
//! whether it makes the job fail, and states its consequence in one sentence.

mod attribute;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::endpoint::capabilities::ConditionalWrite;
use crate::s3::{OnWrites, Operation};

pub use attribute::AttributeFinding;

/// The reaction of a server to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// The request took effect.
    Kept,
    /// The question is moot, because of another answer or because the job does not need it.
    Moot,
    /// The question was not answered.
    Unknown,
    /// The server refused the request.
    Refused,
    /// The server confirmed the request, but it had no effect.
    Ignored,
}

impl How {
    /// Returns the word for tables and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Moot => "moot",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::Ignored => "ignored",
        }
    }
}

/// The answer to a question, and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// The answer.
    pub how: How,
    /// The reason, if one is known; empty for [`How::Kept`].
    pub reason: String,
}

impl ProbeAnswer {
    pub(super) const fn kept() -> Self {
        Self {
            how: How::Kept,
            reason: String::new(),
        }
    }

    pub(super) fn ignored(reason: impl Into<String>) -> Self {
        Self {
            how: How::Ignored,
            reason: reason.into(),
        }
    }

    pub(super) fn refused(reason: impl Into<String>) -> Self {
        Self {
            how: How::Refused,
            reason: reason.into(),
        }
    }

    pub(super) fn unknown(reason: impl Into<String>) -> Self {
        Self {
            how: How::Unknown,
            reason: reason.into(),
        }
    }

    pub(super) fn moot(reason: impl Into<String>) -> Self {
        Self {
            how: How::Moot,
            reason: reason.into(),
        }
    }

    /// Returns true if the server refused or ignored the request.
    #[must_use]
    pub const fn is_lacking(&self) -> bool {
        matches!(self.how, How::Refused | How::Ignored)
    }
}

/// The value of a capability, as stated or as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// True if the server has the capability.
    Flag(bool),
    /// The writes for which the server has it.
    Writes(OnWrites),
}

impl fmt::Display for Value {
    /// Writes the value as a manifest does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.pad(if *flag { "true" } else { "false" }),
            Self::Writes(writes) => writes.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Writes(OnWrites {
                copy,
                put,
                complete,
            }) => {
                let names = [(copy, "copy"), (put, "put"), (complete, "complete")];
                serializer.collect_seq(
                    names
                        .into_iter()
                        .filter(|(on, _)| **on)
                        .map(|(_, name)| name),
                )
            }
        }
    }
}

/// The relation between a finding and what the job relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeVerdict {
    /// The endpoint does what the job relies on.
    Agrees,
    /// The endpoint can do more. Stating that saves requests or gives stronger proofs.
    CanDoMore,
    /// Objects lose an attribute that the job tries to keep. Their receipts say so.
    Loses,
    /// The endpoint does not do what the job relies on.
    Lacks,
    /// The question was not answered.
    Unknown,
    /// The question does not apply.
    Moot,
}

/// A capability: its stated value, and the measured one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A capability that the server has or lacks.
    Flag {
        /// The value that the profile or the manifest states.
        stated: bool,
        /// The server's answer; [`How::Kept`] is `true`.
        measured: ProbeAnswer,
    },
    /// A capability that the server may have for some writes only.
    Writes {
        /// The value that the profile or the manifest states.
        stated: OnWrites,
        /// The answer of `CopyObject`.
        copy: ProbeAnswer,
        /// The answer of `PutObject`.
        put: ProbeAnswer,
        /// The answer of `CompleteMultipartUpload`.
        complete: ProbeAnswer,
    },
}

/// A capability that a manifest can state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFinding {
    /// The name of the field under `capabilities:` in a manifest.
    pub name: &'static str,
    /// The stated and the measured value.
    pub claim: Claim,
    /// True if the job depends on the capability.
    pub is_needed: bool,
}

impl ProbeFinding {
    /// Returns the writes and their answers, or none for a flag.
    pub fn writes(&self) -> impl Iterator<Item = (ConditionalWrite, &ProbeAnswer)> {
        let writes = match &self.claim {
            Claim::Flag { .. } => None,
            Claim::Writes {
                copy,
                put,
                complete,
                ..
            } => Some([
                (ConditionalWrite::Copy, copy),
                (ConditionalWrite::Put, put),
                (ConditionalWrite::Complete, complete),
            ]),
        };
        writes.into_iter().flatten()
    }

    /// Returns the stated value, from the profile or the manifest.
    #[must_use]
    pub const fn stated(&self) -> Value {
        match self.claim {
            Claim::Flag { stated, .. } => Value::Flag(stated),
            Claim::Writes { stated, .. } => Value::Writes(stated),
        }
    }

    /// Returns the measured value, if it is known.
    #[must_use]
    pub fn found(&self) -> Option<Value> {
        let is_known = |measured: &ProbeAnswer| measured.how == How::Kept || measured.is_lacking();
        match &self.claim {
            Claim::Flag { measured, .. } => {
                is_known(measured).then_some(Value::Flag(measured.how == How::Kept))
            }
            Claim::Writes { .. } if !self.writes().any(|(_, measured)| is_known(measured)) => None,
            Claim::Writes {
                copy,
                put,
                complete,
                ..
            } => Some(Value::Writes(OnWrites {
                copy: copy.how == How::Kept,
                put: put.how == How::Kept,
                complete: complete.how == How::Kept,
            })),
        }
    }

    /// Returns true for `equal_parts`, the only capability that is a restriction.
    fn is_restriction(&self) -> bool {
        self.name == "equal_parts"
    }

    /// Compares the measured value with the one that the job relies on.
    #[must_use]
    pub fn verdict(&self) -> ProbeVerdict {
        match &self.claim {
            Claim::Flag { measured, .. } if measured.how == How::Unknown => ProbeVerdict::Unknown,
            Claim::Flag { measured, .. } if measured.how == How::Moot => ProbeVerdict::Moot,
            Claim::Flag { stated, measured } if *stated == (measured.how == How::Kept) => {
                ProbeVerdict::Agrees
            }
            Claim::Flag { stated, .. } if *stated == self.is_restriction() => {
                ProbeVerdict::CanDoMore
            }
            Claim::Flag { .. } => ProbeVerdict::Lacks,
            Claim::Writes { stated, .. } => {
                let any = |is_said: bool, of: fn(&ProbeAnswer) -> bool| {
                    self.writes()
                        .any(|(write, measured)| stated.on(write) == is_said && of(measured))
                };
                let is_unknown = |measured: &ProbeAnswer| measured.how == How::Unknown;
                let is_kept = |measured: &ProbeAnswer| measured.how == How::Kept;
                if any(true, ProbeAnswer::is_lacking) {
                    ProbeVerdict::Lacks
                } else if any(true, is_unknown) {
                    ProbeVerdict::Unknown
                } else if any(false, is_kept) {
                    ProbeVerdict::CanDoMore
                } else if any(false, is_unknown) {
                    ProbeVerdict::Unknown
                } else if any(true, is_kept) || any(false, ProbeAnswer::is_lacking) {
                    ProbeVerdict::Agrees
                } else {
                    ProbeVerdict::Moot
                }
            }
        }
    }

    /// Returns true if the job relies on something that the probe did not confirm. Call this only
    /// if the verdict is unknown: for a flag, it does not check the answer. A write counts only if
    /// its own answer is not good.
    #[must_use]
    pub fn relies_on_unconfirmed(&self) -> bool {
        match &self.claim {
            Claim::Flag { stated, .. } => *stated != self.is_restriction(),
            Claim::Writes { stated, .. } => self
                .writes()
                .any(|(write, measured)| stated.on(write) && measured.how != How::Kept),
        }
    }

    /// Returns true if this finding makes the job, or the configured endpoint, fail.
    #[must_use]
    pub fn fails(&self) -> bool {
        match self.verdict() {
            ProbeVerdict::Lacks => true,
            ProbeVerdict::Unknown => self.is_needed && self.relies_on_unconfirmed(),
            _ => false,
        }
    }

    /// Returns the reasons of all answers other than a plain yes, in one line.
    #[must_use]
    pub fn reason(&self) -> String {
        match &self.claim {
            Claim::Flag { measured, .. } => measured.reason.clone(),
            Claim::Writes { .. } => {
                let measured = self
                    .writes()
                    .filter(|(_, measured)| measured.how != How::Kept);
                let measured =
                    measured.map(
                        |(write, ProbeAnswer { how, reason })| match reason.as_str() {
                            "" => format!("{} {}", request_of(write), how.word()),
                            reason => {
                                let request = request_of(write);
                                let reason = reason
                                    .strip_prefix(&format!("{request}: "))
                                    .unwrap_or(reason);
                                format!("{request} {}: {reason}", how.word())
                            }
                        },
                    );
                measured.collect::<Vec<_>>().join("; ")
            }
        }
    }

    /// Returns the value to state in a manifest, if it differs from the stated one. Unknown parts
    /// keep their stated values.
    #[must_use]
    pub fn statement(&self) -> Option<Value> {
        let value = match (self.found()?, &self.claim) {
            (Value::Writes(found), Claim::Writes { stated, .. }) => {
                let stays = |write| {
                    stated.on(write)
                        && self.writes().any(|(other, measured)| {
                            other == write && matches!(measured.how, How::Unknown | How::Moot)
                        })
                };
                Value::Writes(OnWrites {
                    copy: found.copy || stays(ConditionalWrite::Copy),
                    put: found.put || stays(ConditionalWrite::Put),
                    complete: found.complete || stays(ConditionalWrite::Complete),
                })
            }
            (found, _) => found,
        };
        (value != self.stated()).then_some(value)
    }
}

/// Returns the request with which this write publishes an object.
pub(super) const fn request_of(write: ConditionalWrite) -> Operation {
    match write {
        ConditionalWrite::Copy => Operation::CopyObject,
        ConditionalWrite::Put => Operation::PutObject,
        ConditionalWrite::Complete => Operation::CompleteMultipartUpload,
    }
}

/// A request that jobs send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFinding {
    /// The request.
    pub operation: Operation,
    /// The reaction of the server.
    pub measured: ProbeAnswer,
    /// True if the job depends on the request.
    pub is_needed: bool,
}

impl RequestFinding {
    /// Compares the finding with the needs of the job.
    #[must_use]
    pub const fn verdict(&self) -> ProbeVerdict {
        match self.measured.how {
            How::Kept => ProbeVerdict::Agrees,
            How::Moot => ProbeVerdict::Moot,
            How::Unknown => ProbeVerdict::Unknown,
            How::Refused | How::Ignored => ProbeVerdict::Lacks,
        }
    }

    /// Returns the word for tables and JSON.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self.measured.how {
            How::Kept => "works",
            How::Ignored => "no-effect",
            how => how.word(),
        }
    }

    /// Returns the reason why the request does not work.
    #[must_use]
    pub fn reason(&self) -> &str {
        let reason = self.measured.reason.as_str();
        reason
            .strip_prefix(&format!("{}: ", self.operation))
            .unwrap_or(reason)
    }

    /// Returns true if this finding makes the job fail.
    #[must_use]
    pub const fn fails(&self) -> bool {
        self.is_needed && matches!(self.verdict(), ProbeVerdict::Lacks | ProbeVerdict::Unknown)
    }
}

#[cfg(test)]
mod tests;
