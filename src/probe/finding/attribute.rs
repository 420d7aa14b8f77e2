//! The finding about an attribute of objects. Each route sets attributes with a different request.
//!
//! All three routes are tested, but only the routes that the job uses count, and only if the job
//! wants the attribute. The policy decides whether a loss is fatal.

use super::{How, ProbeAnswer, ProbeVerdict};
use crate::endpoint::capabilities::ConditionalWrite;
use crate::manifest::job::{Attribute, Policy};
use crate::s3::OnWrites;

/// The finding about an attribute, with the answer of each request that can set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeFinding {
    /// The attribute.
    pub attribute: Attribute,
    /// The job's policy for the attribute.
    pub policy: Policy,
    /// True if the job names a value for the attribute.
    pub is_named: bool,
    /// The answer of `PutObject`.
    pub put: ProbeAnswer,
    /// The answer of `CopyObject`.
    pub copy: ProbeAnswer,
    /// The answer of `CreateMultipartUpload`, observed on the finished object.
    pub multipart: ProbeAnswer,
    /// The requests that the job sends.
    pub sent_by_job: OnWrites,
    /// True if a later request sets the attribute when these requests do not keep it.
    pub is_set_later: bool,
}

impl AttributeFinding {
    /// Returns the requests and their answers.
    #[must_use]
    pub const fn routes(&self) -> [(ConditionalWrite, &ProbeAnswer); 3] {
        [
            (ConditionalWrite::Put, &self.put),
            (ConditionalWrite::Copy, &self.copy),
            (ConditionalWrite::Complete, &self.multipart),
        ]
    }

    /// Returns the requests that the job sends and whose answers match `of`.
    pub(in crate::probe) fn answers_where(
        &self,
        of: impl Fn(&ProbeAnswer) -> bool,
    ) -> Vec<(ConditionalWrite, &ProbeAnswer)> {
        let routes = self.routes().into_iter();
        routes
            .filter(|(write, measured)| self.sent_by_job.on(*write) && of(measured))
            .collect()
    }

    const fn is_wanted(&self) -> bool {
        self.policy.keeps() || self.is_named
    }

    /// Compares the finding with what the job wants.
    #[must_use]
    pub fn verdict(&self) -> ProbeVerdict {
        if !self.is_wanted() {
            return ProbeVerdict::Moot;
        }
        if !self.is_set_later && !self.answers_where(ProbeAnswer::is_lacking).is_empty() {
            return if self.is_fatal() {
                ProbeVerdict::Lacks
            } else {
                ProbeVerdict::Loses
            };
        }
        if !self.is_set_later
            && !self
                .answers_where(|measured| measured.how == How::Unknown)
                .is_empty()
        {
            return ProbeVerdict::Unknown;
        }
        let is_kept = !self
            .answers_where(|measured| measured.how == How::Kept)
            .is_empty();
        if is_kept || self.is_set_later {
            ProbeVerdict::Agrees
        } else {
            ProbeVerdict::Moot
        }
    }

    /// Returns true if the job cannot work without the attribute. Only some objects have a lock
    /// or an unusual storage class: if the server refuses these, only those objects fail.
    fn is_fatal(&self) -> bool {
        let is_rare =
            matches!(self.attribute, Attribute::Lock | Attribute::StorageClass) && !self.is_named;
        let is_refused = !self
            .answers_where(|measured| measured.how == How::Refused)
            .is_empty();
        let is_ignored = !self
            .answers_where(|measured| measured.how == How::Ignored)
            .is_empty();
        match self.policy {
            Policy::Require => is_ignored || !is_rare,
            // A value that the job names is in every request, so a refusal fails every object.
            Policy::Try | Policy::Skip | Policy::Replace => is_refused && self.is_named,
        }
    }

    /// Returns true if this finding makes the job fail.
    #[must_use]
    pub fn fails(&self) -> bool {
        match self.verdict() {
            ProbeVerdict::Lacks => true,
            ProbeVerdict::Unknown => self.policy == Policy::Require,
            ProbeVerdict::Agrees
            | ProbeVerdict::CanDoMore
            | ProbeVerdict::Loses
            | ProbeVerdict::Moot => false,
        }
    }

    /// Returns the reasons of all answers other than a plain yes, in one line.
    #[must_use]
    pub fn reason(&self) -> String {
        let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
        for (write, measured) in
            self.answers_where(|measured| !matches!(measured.how, How::Kept | How::Moot))
        {
            let route = route_name(write).to_owned();
            let reason = measured
                .reason
                .strip_prefix(&format!("{route}: "))
                .unwrap_or(&measured.reason);
            let why = if reason.is_empty() {
                String::new()
            } else {
                format!(" ({reason})")
            };
            let how = format!("{}{why}", measured.how.word());
            match reasons.iter_mut().find(|(other, _)| *other == how) {
                Some((_, routes)) => routes.push(route),
                None => reasons.push((how, vec![route])),
            }
        }
        let routes = reasons
            .into_iter()
            .map(|(how, by)| format!("{how} by {}", by.join(" and ")));
        routes.collect::<Vec<_>>().join("; ")
    }
}

/// Returns the request that sets attributes for this kind of write.
pub(in crate::probe) const fn route_name(write: ConditionalWrite) -> &'static str {
    match write {
        ConditionalWrite::Copy => "CopyObject",
        ConditionalWrite::Put => "PutObject",
        ConditionalWrite::Complete => "CreateMultipartUpload",
    }
}
