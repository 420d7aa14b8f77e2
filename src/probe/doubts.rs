//! Reasons to distrust a server's responses.
//!
//! If a server lacks a capability, the manifest states that, and s3haul works without it. But a
//! server that confirms a request and ignores it may also ignore requests that no probe sends. With
//! `trust: nothing`, s3haul checks each object after it is written. The probe advises this setting
//! if the server confirmed but ignored something that the job relies on. Made-up dates of uploads
//! harm no copy, but they prevent aborting uploads by age.

use jiff::{SignedDuration, Timestamp};

use super::finding::{Claim, How, ProbeFinding, ProbeVerdict};
use super::{AttributeFinding, Probe};
use crate::endpoint::Trust;
use crate::s3::OpenUpload;

/// The deviation above which a server's date of an upload counts as made up.
const FALSE_DATE: SignedDuration = SignedDuration::from_hours(1);

impl Probe {
    /// Returns the requests, capabilities, and attributes that the job relies on and the server
    /// confirmed but ignored.
    #[must_use]
    pub fn doubts(&self) -> Vec<String> {
        let requests = self
            .requests
            .iter()
            .filter(|finding| finding.is_needed && finding.measured.how == How::Ignored)
            .map(|finding| finding.operation.to_string());
        let capabilities = self
            .findings
            .iter()
            .filter(|finding| finding.is_needed && is_ignored(finding))
            .map(|finding| format!("`{}`", finding.name));
        let attributes = self
            .attributes
            .iter()
            .filter(|finding| is_lost_in_silence(finding))
            .map(|finding| format!("the attribute `{}`", finding.attribute.name()));
        requests.chain(capabilities).chain(attributes).collect()
    }

    /// Returns the `trust` that fits the server, if it differs from the stated one.
    #[must_use]
    pub fn advised_trust(&self) -> Option<Trust> {
        let fits = Trust::Nothing;
        (self.trust != fits && !self.doubts().is_empty()).then_some(fits)
    }
}

/// Returns true if the server confirmed but ignored a capability that the job relies on.
fn is_ignored(finding: &ProbeFinding) -> bool {
    finding.verdict() == ProbeVerdict::Lacks
        && match &finding.claim {
            Claim::Flag { measured, .. } => measured.how == How::Ignored,
            Claim::Writes { stated, .. } => finding
                .writes()
                .any(|(write, measured)| stated.on(write) && measured.how == How::Ignored),
        }
}

/// Returns true if a write of the job was confirmed but did not keep an attribute that the job
/// keeps.
fn is_lost_in_silence(finding: &AttributeFinding) -> bool {
    matches!(finding.verdict(), ProbeVerdict::Loses | ProbeVerdict::Lacks)
        && !finding
            .answers_where(|measured| measured.how == How::Ignored)
            .is_empty()
}

/// Returns the contradiction between the server's date of an upload and the time of its creation.
pub(crate) fn false_date(open: &OpenUpload, created: Timestamp) -> Option<String> {
    let initiated = open.initiated?;
    let differs = initiated.duration_since(created).abs() > FALSE_DATE;
    differs.then(|| {
        format!(
            "the upload {} of `{}` was created at {created:.0}, and the server dates it {initiated:.0}",
            open.upload_id, open.key
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::ProbeAnswer;
    use super::*;
    use crate::manifest::job::{Attribute, Policy};
    use crate::s3::OnWrites;

    fn probe(stated: bool, measured: ProbeAnswer, trust: Trust) -> Probe {
        let finding = ProbeFinding {
            name: "copy_conditions",
            claim: Claim::Flag { stated, measured },
            is_needed: true,
        };
        Probe {
            prefix: "p/".to_owned(),
            requests: Vec::new(),
            findings: vec![finding],
            attributes: Vec::new(),
            not_stored: Vec::new(),
            trust,
            false_date: None,
            left: Vec::new(),
            stopped: false,
        }
    }

    #[test]
    fn nothing_is_trusted_if_the_server_ignores_what_the_job_relies_on() {
        let ignored = || ProbeAnswer::ignored("it copies another version");
        let advised = |stated, measured, trust| probe(stated, measured, trust).advised_trust();
        let doubted = Some(Trust::Nothing);
        assert_eq!(advised(true, ignored(), Trust::Answers), doubted);
        assert_eq!(
            advised(true, ignored(), Trust::Nothing),
            None,
            "it is stated"
        );
        assert_eq!(
            advised(false, ignored(), Trust::Answers),
            None,
            "the job does not rely on it"
        );
        assert_eq!(
            advised(true, ProbeAnswer::refused("501"), Trust::Answers),
            None,
            "it says so"
        );
        assert_eq!(advised(true, ProbeAnswer::kept(), Trust::Answers), None);
        assert_eq!(
            probe(true, ignored(), Trust::Answers).doubts(),
            ["`copy_conditions`"]
        );
    }

    #[test]
    fn only_requests_that_the_job_sends_raise_doubts_about_attributes() {
        let sent = |copy, put| AttributeFinding {
            attribute: Attribute::Tags,
            policy: Policy::Try,
            is_named: false,
            put: ProbeAnswer::ignored("no tags"),
            copy: ProbeAnswer::refused("501"),
            multipart: ProbeAnswer::kept(),
            sent_by_job: OnWrites {
                copy,
                put,
                complete: false,
            },
            is_set_later: false,
        };
        assert!(!is_lost_in_silence(&sent(true, false)), "it says so");
        assert!(is_lost_in_silence(&sent(true, true)));
    }
}
