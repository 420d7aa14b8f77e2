//! The consequence of each finding for the user's job, in one sentence.

use super::finding::{AttributeFinding, Claim, How, ProbeFinding, ProbeVerdict, RequestFinding};
use crate::endpoint::capabilities::ConditionalWrite;
use crate::manifest::job::{Attribute, Policy};
use crate::s3::{OnWrites, Operation};

/// The consequences of a capability: `danger` if the job relies on it and the server lacks it, and
/// `without` if s3haul does not rely on it.
struct Meaning {
    name: &'static str,
    danger: &'static str,
    without: &'static str,
}

const MEANINGS: [Meaning; 15] = [
    Meaning {
        name: "part_copy",
        danger: "each object that is copied in parts fails",
        without: "objects too large for one CopyObject are refused",
    },
    Meaning {
        name: "equal_parts",
        danger: "objects whose last part is the largest one fail",
        without: "all parts of an upload but the last get one size, and no source's own parts are kept",
    },
    Meaning {
        name: "copy_conditions",
        danger: "a source that is overwritten during its CopyObject is not noticed",
        without: "each source is looked at again after its CopyObject, with one HEAD",
    },
    Meaning {
        name: "part_conditions",
        danger: "a source that is overwritten while its parts are copied is not noticed, and the copy may mix both",
        without: "each source is looked at again before its parts are published, with one HEAD",
    },
    Meaning {
        name: "if_none_match",
        danger: "an object that somebody else writes under a key that was free is overwritten",
        without: "each free key is looked at just before the write, and a moment stays in which it can be taken",
    },
    Meaning {
        name: "if_match",
        danger: "an object that changes after it was compared is overwritten",
        without: "an object that changes between the comparison and the write is overwritten",
    },
    Meaning {
        name: "content_etags",
        danger: "good copies are reported as not equal, because their ETags are compared",
        without: "equal ETags prove nothing: copies are proven by checksums or by their size",
    },
    Meaning {
        name: "checksums",
        danger: "uploads with a checksum fail, or are not proven by it",
        without: "no checksums are sent: copies are proven by ETags or by their size",
    },
    Meaning {
        name: "object_size",
        danger: "each upload in parts fails at its end",
        without: "the server does not check the size when it publishes an upload",
    },
    Meaning {
        name: "ordered_lists",
        danger: "a run ends with an error at the first list that is out of order",
        without: "each key that a list does not show is looked for with one HEAD, and lists are read by one request at a time",
    },
    Meaning {
        name: "encoded_lists",
        danger: "keys with unusual characters are misread, and such objects are not found or fail",
        without: "lists that contain a key with characters that XML cannot contain cannot be read",
    },
    Meaning {
        name: "encoded_uploads",
        danger: "open uploads under keys with unusual characters are not found, and stay",
        without: "lists of uploads that contain a key with characters that XML cannot contain cannot be read",
    },
    Meaning {
        name: "tags",
        danger: "objects with tags lose them or fail, by the policy for tags",
        without: "tags are not asked for and not set: objects that have some lose them or fail, by the policy for tags",
    },
    Meaning {
        name: "tag_headers",
        danger: "copies and uploads in parts lose their tags or fail, by the policy for tags",
        without: "tags are set on the finished object, with one PutObjectTagging each",
    },
    Meaning {
        name: "odd_part_sources",
        danger: "large objects with a % in their key are copied from another object, or fail",
        without: "objects with a % in their key are copied in one request, or refused if they are too large for that",
    },
];

impl ProbeFinding {
    fn meaning(&self) -> Option<&'static Meaning> {
        MEANINGS.iter().find(|meaning| meaning.name == self.name)
    }

    /// Returns the consequence for the job, or `None` if the finding agrees with what the job
    /// relies on.
    #[must_use]
    pub fn consequence(&self) -> Option<String> {
        let Meaning {
            danger, without, ..
        } = self.meaning()?;
        match self.verdict() {
            ProbeVerdict::Lacks => Some((*danger).to_owned()),
            ProbeVerdict::Unknown if !self.relies_on_unconfirmed() => {
                Some(format!("s3haul does without it: {without}"))
            }
            ProbeVerdict::Unknown if self.is_needed => Some(format!(
                "if it is not so, {danger}; probe again, or state `{}`",
                self.safe_statement()
            )),
            ProbeVerdict::Unknown => Some(format!(
                "the job does not need it; if it did, and it is not so, {danger}"
            )),
            ProbeVerdict::CanDoMore => Some(format!("until that is stated, {without}")),
            ProbeVerdict::Agrees | ProbeVerdict::Loses | ProbeVerdict::Moot => None,
        }
    }

    /// Returns a statement that relies on nothing unknown.
    fn safe_statement(&self) -> String {
        match &self.claim {
            Claim::Flag { stated, .. } => format!("{}: {}", self.name, !stated),
            Claim::Writes { stated, .. } => {
                let is_safe = |write| {
                    stated.on(write)
                        && self
                            .writes()
                            .any(|(other, measured)| other == write && measured.how == How::Kept)
                };
                let writes = OnWrites {
                    copy: is_safe(ConditionalWrite::Copy),
                    put: is_safe(ConditionalWrite::Put),
                    complete: is_safe(ConditionalWrite::Complete),
                };
                format!("{}: {writes}", self.name)
            }
        }
    }
}

impl RequestFinding {
    /// Returns the consequence for the job, or `None` if the request works.
    #[must_use]
    pub fn consequence(&self) -> Option<String> {
        let danger = match self.operation {
            Operation::PutObject => {
                "small files cannot be uploaded, and no journal can be kept there"
            }
            Operation::CopyObject => "no small object can be copied",
            Operation::CompleteMultipartUpload => "no large object can be copied or uploaded",
            Operation::ListObjects => {
                "nothing can be compared with this bucket: runs with `when: changed` or `missing`, and `verify`, fail or \
                 miss objects"
            }
            Operation::ListParts => {
                "after an interruption, objects in parts start over; `uploads parts` and `uploads complete` do not work"
            }
            Operation::ListMultipartUploads => {
                "uploads that are left open cannot be found: `uploads list` does not work"
            }
            Operation::AbortMultipartUpload => {
                "the parts of objects that fail stay in the bucket, and are billed"
            }
            Operation::DeleteObject => {
                "the probe cannot remove what it wrote; a job needs this for `on_mismatch: remove` only"
            }
            Operation::PutObjectTagging => "no tags can be set on an object that is there",
            // Other findings cover these operations, or no probe tests them.
            Operation::HeadBucket
            | Operation::HeadObject
            | Operation::GetObject
            | Operation::GetObjectTagging
            | Operation::GetObjectAcl
            | Operation::GetObjectRetention
            | Operation::GetObjectLegalHold
            | Operation::ListObjectAnnotations
            | Operation::GetObjectAnnotation
            | Operation::PutObjectAnnotation
            | Operation::CreateMultipartUpload
            | Operation::UploadPart
            | Operation::UploadPartCopy
            | Operation::ListObjectVersions
            | Operation::GetBucketVersioning
            | Operation::RestoreObject
            | Operation::ReadFile => return None,
        };
        match self.measured.how {
            How::Kept | How::Moot => None,
            How::Unknown => Some(format!("if it does not work, {danger}")),
            How::Refused | How::Ignored => Some(danger.to_owned()),
        }
    }
}

impl AttributeFinding {
    /// Returns the consequence for the job, or `None` if the attribute is kept or not wanted.
    #[must_use]
    pub fn consequence(&self) -> Option<String> {
        let (what, are) = match self.attribute {
            Attribute::Metadata => ("user metadata", "it"),
            Attribute::Headers => ("content headers", "them"),
            Attribute::Tags => ("tags", "them"),
            Attribute::StorageClass => ("a storage class of their own", "it"),
            Attribute::Encryption => ("an encryption of their own", "it"),
            Attribute::Lock => ("a retention or legal hold", "it"),
            Attribute::Acl => ("grants", "them"),
            Attribute::Annotations => ("annotations", "them"),
        };
        let is_required = self.policy == Policy::Require;
        let is_refused = !self
            .answers_where(|measured| measured.how == How::Refused)
            .is_empty();
        match self.verdict() {
            ProbeVerdict::Lacks if self.is_named && is_refused => Some(format!(
                "each object fails, because the job gives all of them {what}"
            )),
            ProbeVerdict::Lacks => Some(format!(
                "each object with {what} fails, because the job requires {are}"
            )),
            // The job requires the attribute and the server refuses it, but the job may have no
            // object with it.
            ProbeVerdict::Loses if is_required => Some(format!(
                "objects with {what} fail before they are published, and all others are copied"
            )),
            ProbeVerdict::Loses => Some(format!(
                "objects with {what} lose {are}, and their receipts say so"
            )),
            ProbeVerdict::Unknown if is_required => Some(format!(
                "objects with {what} may fail, because the job requires {are}"
            )),
            ProbeVerdict::Unknown => Some(format!(
                "objects with {what} may lose {are}; their receipts say so"
            )),
            ProbeVerdict::Agrees | ProbeVerdict::CanDoMore | ProbeVerdict::Moot => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::finding::ProbeAnswer;

    #[test]
    fn each_finding_that_is_no_plain_yes_has_its_consequence() {
        for Meaning {
            name,
            danger,
            without,
        } in &MEANINGS
        {
            for how in [How::Kept, How::Unknown, How::Refused, How::Ignored] {
                for stated in [false, true] {
                    let measured = ProbeAnswer {
                        how,
                        reason: String::new(),
                    };
                    let finding = ProbeFinding {
                        name,
                        claim: Claim::Flag { stated, measured },
                        is_needed: true,
                    };
                    let consequence = finding.consequence();
                    assert_eq!(
                        consequence.is_none(),
                        finding.verdict() == ProbeVerdict::Agrees,
                        "{finding:?}"
                    );
                    let stated = consequence.unwrap_or_else(|| (*danger).to_owned());
                    assert!(
                        stated.contains(danger) || stated.contains(without),
                        "{stated}"
                    );
                    assert!(
                        !stated.ends_with('.') && !stated.starts_with(char::is_uppercase),
                        "{stated}"
                    );
                }
            }
        }
    }
}
