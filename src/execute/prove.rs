//! Is the copy equal? Decided from what S3 computed, without reading a byte.
//!
//! The strongest evidence that is at hand decides; evidence that *contradicts* always decides. What the write's own answer
//! holds is used first. Only when that says nothing is the destination looked at once more, and what the endpoint
//! does not derive from the bytes is never taken for evidence.

use super::receipt::Proof;
use crate::checksum::{looks_like_md5, multipart_etag};
use crate::s3::{Capabilities, Checksum, ChecksumKind, Head, PartDone, Written};

/// What is known of the source, for the comparison.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    /// Bytes.
    pub(super) size: u64,
    /// Of the whole object, where there is one.
    pub(super) checksum: Option<Checksum>,
    /// Where it follows from the bytes.
    pub(super) etag: Option<String>,
}

impl Expected {
    /// What the source's HEAD promises.
    pub(super) fn of(head: &Head, capabilities: &Capabilities) -> Self {
        let full = head.checksum.clone().filter(|checksum| checksum.kind == ChecksumKind::FullObject);
        let etag = (capabilities.content_etags && !head.kms).then(|| head.etag.clone());
        Self { size: head.size, checksum: full, etag }
    }
}

/// What the evidence so far says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Equal, and why.
    Proven(Proof),
    /// Not equal, and what differs.
    Contradicted(String),
    /// Nothing that counts; the destination must be looked at.
    Unknown,
}

/// Judges by the answer of the write alone. `parts` are empty for single requests.
pub(super) fn by_answer(
    expected: &Expected,
    written: &Written,
    parts: &[PartDone],
    content_etags: bool,
) -> Verdict {
    if let Some(verdict) = by_checksum(expected, written.checksum.as_ref()) {
        return verdict;
    }
    if content_etags && expected.etag.as_ref() == Some(&written.etag) {
        return Verdict::Proven(Proof::Etag);
    }
    // The source has a checksum that the answer does not hold (KMS): it is worth a look.
    if expected.checksum.is_none() && content_etags && predicted(parts).as_ref() == Some(&written.etag) {
        return Verdict::Proven(Proof::PartEtags);
    }
    Verdict::Unknown
}

/// Judges by a HEAD of the destination, which is the last word.
pub(super) fn by_look(expected: &Expected, found: &Head, parts: &[PartDone], content_etags: bool) -> Verdict {
    if found.size != expected.size {
        return Verdict::Contradicted(format!("{} bytes arrived of {}", found.size, expected.size));
    }
    if let Some(verdict) = by_checksum(expected, found.checksum.as_ref()) {
        return verdict;
    }
    if !content_etags || found.kms {
        return Verdict::Proven(Proof::Size);
    }
    match (&expected.etag, predicted(parts)) {
        (Some(etag), _) if *etag == found.etag => Verdict::Proven(Proof::Etag),
        (_, Some(predicted)) if predicted == found.etag => Verdict::Proven(Proof::PartEtags),
        (_, Some(predicted)) => {
            Verdict::Contradicted(format!("the ETag is {}, but its parts make {predicted}", found.etag))
        }
        (Some(etag), None) if looks_like_md5(etag) && looks_like_md5(&found.etag) => {
            Verdict::Contradicted(format!("the ETag is {}, the source's {etag}", found.etag))
        }
        _ => Verdict::Proven(Proof::Size),
    }
}

fn by_checksum(expected: &Expected, found: Option<&Checksum>) -> Option<Verdict> {
    let (expected, found) = (expected.checksum.as_ref()?, found?);
    let comparable = expected.algorithm == found.algorithm && found.kind == ChecksumKind::FullObject;
    comparable.then(|| {
        if expected.value == found.value {
            Verdict::Proven(found.algorithm.into())
        } else {
            Verdict::Contradicted(format!(
                "{} is {}, the source's {}",
                found.algorithm, found.value, expected.value
            ))
        }
    })
}

fn predicted(parts: &[PartDone]) -> Option<String> {
    multipart_etag(parts.iter().map(|part| part.etag.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::md5_etag;
    use crate::s3::ChecksumAlgorithm;

    fn crc(value: &str) -> Checksum {
        let algorithm = ChecksumAlgorithm::Crc64Nvme;
        Checksum { algorithm, kind: ChecksumKind::FullObject, value: value.into() }
    }

    fn written(etag: &str, checksum: Option<Checksum>) -> Written {
        Written { etag: etag.into(), checksum, ..Written::default() }
    }

    #[test]
    fn the_strongest_evidence_decides_and_a_contradiction_always_does() {
        let md5 = md5_etag(b"x");
        let source = Expected { size: 1, checksum: Some(crc("A")), etag: Some(md5.clone()) };
        assert_eq!(
            by_answer(&source, &written(&md5, Some(crc("A"))), &[], true),
            Verdict::Proven(Proof::Crc64nvme)
        );
        let torn = by_answer(&source, &written(&md5, Some(crc("B"))), &[], true);
        assert!(matches!(torn, Verdict::Contradicted(_)), "an equal ETag does not heal a wrong checksum");
        assert_eq!(by_answer(&source, &written(&md5, None), &[], true), Verdict::Proven(Proof::Etag));
        assert_eq!(by_answer(&source, &written(&md5, None), &[], false), Verdict::Unknown);
        assert_eq!(by_answer(&source, &written("other", None), &[], true), Verdict::Unknown);
    }

    #[test]
    fn parts_prove_what_they_make_where_etags_follow_from_bytes() {
        let part = PartDone { number: 1, size: 1, etag: md5_etag(b"x"), checksum: None };
        let etag = multipart_etag([part.etag.as_str()]).unwrap();
        let source = Expected { size: 1, checksum: None, etag: Some("0123-2".into()) };
        let parts = [part];
        assert_eq!(
            by_answer(&source, &written(&etag, None), &parts, true),
            Verdict::Proven(Proof::PartEtags)
        );
        assert_eq!(by_answer(&source, &written(&etag, None), &parts, false), Verdict::Unknown);
        let head = |etag: &str| Head { size: 1, etag: etag.into(), ..Head::default() };
        assert_eq!(by_look(&source, &head(&etag), &parts, true), Verdict::Proven(Proof::PartEtags));
        assert!(matches!(by_look(&source, &head("ffff-1"), &parts, true), Verdict::Contradicted(_)));
        let kms = Head { kms: true, ..head("ffff-1") };
        assert_eq!(by_look(&source, &kms, &parts, true), Verdict::Proven(Proof::Size));
        let short = Head { size: 0, ..head(&etag) };
        assert!(matches!(by_look(&source, &short, &parts, true), Verdict::Contradicted(_)));
    }
}
