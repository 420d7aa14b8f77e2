//! The findings of a probe, and the decision if a job can work with them.
//!
//! Three kinds of findings share one scale ([`How`]): requests that a job sends
//! ([`RequestFinding`]), capabilities that a manifest can state ([`Finding`]), and attributes of
//! objects ([`AttributeFinding`]). Each finding knows what is relied on, so that it can say if the
//! job fails for it, and its consequence in one sentence.

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
    /// It took effect.
    Kept,
    /// The question means nothing here, because of another answer or because the job does not ask
    /// for it.
    Moot,
    /// The question had no answer.
    Unknown,
    /// The server said no.
    Refused,
    /// The server said yes, and it had no effect.
    Ignored,
}

impl How {
    /// Returns the word for it in tables and in JSON.
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
pub struct Told {
    /// The answer.
    pub how: How,
    /// The reason, as far as one is known; empty for what is kept.
    pub reason: String,
}

impl Told {
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

    /// Returns true if the server was seen not to do it.
    #[must_use]
    pub const fn is_lacking(&self) -> bool {
        matches!(self.how, How::Refused | How::Ignored)
    }
}

/// The value of a capability, as stated or as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// It is there, or not.
    Flag(bool),
    /// The writes that it holds for.
    Writes(OnWrites),
}

impl fmt::Display for Value {
    /// As a manifest writes it.
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

/// The relation of a finding to what the job relies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is as relied on.
    Agrees,
    /// The endpoint can do more; to say so saves requests or gives stronger proofs.
    CanDoMore,
    /// Objects lose something that the job tries to keep; their receipts say so.
    Loses,
    /// The endpoint does not do what is relied on.
    Lacks,
    /// The question had no answer.
    Unknown,
    /// The question means nothing here.
    Moot,
}

/// The capability that the job relies on, and the finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Something that is there or not.
    Flag {
        /// The value that the profile or the manifest states.
        said: bool,
        /// The server's answer; [`How::Kept`] is `true`.
        told: Told,
    },
    /// Something that holds for some of the writes.
    Writes {
        /// The value that the profile or the manifest states.
        said: OnWrites,
        /// The answer of `CopyObject`.
        copy: Told,
        /// The answer of `PutObject`.
        put: Told,
        /// The answer of `CompleteMultipartUpload`.
        complete: Told,
    },
}

/// A capability that a manifest can state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The name of the field under `capabilities:` in a manifest.
    pub name: &'static str,
    /// The capability that the job relies on, and the finding.
    pub claim: Claim,
    /// True if the job depends on it.
    pub is_needed: bool,
}

impl Finding {
    /// The writes and their answers; none for a flag.
    pub fn writes(&self) -> impl Iterator<Item = (ConditionalWrite, &Told)> {
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

    /// Returns what the profile or the manifest says.
    #[must_use]
    pub const fn said(&self) -> Value {
        match self.claim {
            Claim::Flag { said, .. } => Value::Flag(said),
            Claim::Writes { said, .. } => Value::Writes(said),
        }
    }

    /// Returns what the endpoint did, as far as it is known.
    #[must_use]
    pub fn found(&self) -> Option<Value> {
        let is_known = |told: &Told| told.how == How::Kept || told.is_lacking();
        match &self.claim {
            Claim::Flag { told, .. } => {
                is_known(told).then_some(Value::Flag(told.how == How::Kept))
            }
            Claim::Writes { .. } if !self.writes().any(|(_, told)| is_known(told)) => None,
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
    fn takes_away(&self) -> bool {
        self.name == "equal_parts"
    }

    /// Compares what was found with what is relied on.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match &self.claim {
            Claim::Flag { told, .. } if told.how == How::Unknown => Verdict::Unknown,
            Claim::Flag { told, .. } if told.how == How::Moot => Verdict::Moot,
            Claim::Flag { said, told } if *said == (told.how == How::Kept) => Verdict::Agrees,
            Claim::Flag { said, .. } if *said == self.takes_away() => Verdict::CanDoMore,
            Claim::Flag { .. } => Verdict::Lacks,
            Claim::Writes { said, .. } => {
                let any = |is_said: bool, of: fn(&Told) -> bool| {
                    self.writes()
                        .any(|(write, told)| said.on(write) == is_said && of(told))
                };
                let is_unknown = |told: &Told| told.how == How::Unknown;
                let is_kept = |told: &Told| told.how == How::Kept;
                if any(true, Told::is_lacking) {
                    Verdict::Lacks
                } else if any(true, is_unknown) {
                    Verdict::Unknown
                } else if any(false, is_kept) {
                    Verdict::CanDoMore
                } else if any(false, is_unknown) {
                    Verdict::Unknown
                } else if any(true, is_kept) || any(false, Told::is_lacking) {
                    Verdict::Agrees
                } else {
                    Verdict::Moot
                }
            }
        }
    }

    /// Returns true if the job relies on a flag, or on a write that the probe did not confirm.
    #[must_use]
    pub fn is_relied_on(&self) -> bool {
        match &self.claim {
            Claim::Flag { said, .. } => *said != self.takes_away(),
            Claim::Writes { said, .. } => self
                .writes()
                .any(|(write, told)| said.on(write) && told.how != How::Kept),
        }
    }

    /// Returns true if the job, or the endpoint as it is configured, cannot work because of this.
    #[must_use]
    pub fn fails(&self) -> bool {
        match self.verdict() {
            Verdict::Lacks => true,
            Verdict::Unknown => self.is_needed && self.is_relied_on(),
            _ => false,
        }
    }

    /// Returns the reasons of all answers that are no plain yes, in one line.
    #[must_use]
    pub fn reason(&self) -> String {
        match &self.claim {
            Claim::Flag { told, .. } => told.reason.clone(),
            Claim::Writes { .. } => {
                let told = self.writes().filter(|(_, told)| told.how != How::Kept);
                let told = told.map(|(write, Told { how, reason })| match reason.as_str() {
                    "" => format!("{} {}", request_of(write), how.word()),
                    reason => {
                        let request = request_of(write);
                        let reason = reason
                            .strip_prefix(&format!("{request}: "))
                            .unwrap_or(reason);
                        format!("{request} {}: {reason}", how.word())
                    }
                });
                told.collect::<Vec<_>>().join("; ")
            }
        }
    }

    /// Returns the value to state in a manifest, if it is another one than what is said. What is
    /// not known stays as said.
    #[must_use]
    pub fn statement(&self) -> Option<Value> {
        let value = match (self.found()?, &self.claim) {
            (Value::Writes(found), Claim::Writes { said, .. }) => {
                let stays = |write| {
                    said.on(write)
                        && self.writes().any(|(other, told)| {
                            other == write && matches!(told.how, How::Unknown | How::Moot)
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
        (value != self.said()).then_some(value)
    }
}

/// The request that publishes by this write.
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
    pub told: Told,
    /// True if the job depends on it.
    pub is_needed: bool,
}

impl RequestFinding {
    /// Compares what was found with what the job needs.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        match self.told.how {
            How::Kept => Verdict::Agrees,
            How::Moot => Verdict::Moot,
            How::Unknown => Verdict::Unknown,
            How::Refused | How::Ignored => Verdict::Lacks,
        }
    }

    /// Returns the word for it in tables and in JSON.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self.told.how {
            How::Kept => "works",
            How::Ignored => "no-effect",
            how => how.word(),
        }
    }

    /// Returns the reason for which it does not work.
    #[must_use]
    pub fn reason(&self) -> &str {
        let reason = self.told.reason.as_str();
        reason
            .strip_prefix(&format!("{}: ", self.operation))
            .unwrap_or(reason)
    }

    /// Returns true if the job cannot work for it.
    #[must_use]
    pub const fn fails(&self) -> bool {
        self.is_needed && matches!(self.verdict(), Verdict::Lacks | Verdict::Unknown)
    }
}

#[cfg(test)]
mod tests;
