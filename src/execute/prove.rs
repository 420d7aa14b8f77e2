//! Decides whether a copy is equal to its source, from the checksums and `ETag`s that S3 computed.
//!
//! The strongest evidence decides, and a contradiction always decides. *Before* an upload is
//! completed, [`forecast`] computes the checksum and the `ETag` of the whole object from S3's
//! responses for its parts, so that a wrong part is never published. *After* a write, the response
//! to the write is the first evidence ([`judge_answer`]), and a HEAD of the object is the last
//! ([`judge_head`]). An `ETag` that the endpoint does not derive from the bytes is never evidence.

use super::receipt::Proof;
use crate::checksum::{looks_like_md5, may_be_of_content, multipart_etag, of_parts};
use crate::plan::parts::Boundaries;
use crate::s3::{Capabilities, Checksum, ChecksumAlgorithm, ChecksumKind, Head, PartDone, Written};

/// The properties of the source that the copy is compared with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    /// The size in bytes.
    pub(crate) size: u64,
    /// The checksum, if there is one.
    pub(crate) checksum: Option<Checksum>,
    /// True if the checksum was computed by reading the source, and not by S3.
    pub(crate) read: bool,
    /// The `ETag`, if it follows from the bytes.
    pub(crate) etag: Option<String>,
}

impl Expected {
    /// Reads the properties from the source's HEAD.
    pub(crate) fn of(head: &Head, capabilities: &Capabilities) -> Self {
        let tells = capabilities.content_etags && !head.kms && may_be_of_content(&head.etag);
        let etag = tells.then(|| head.etag.clone());
        Self {
            size: head.size,
            checksum: head.checksum.clone(),
            read: false,
            etag,
        }
    }

    /// Returns true if the copy can have a checksum of the same algorithm and kind as the source.
    /// `declared` is what the upload declares. Without a declaration, `CopyObject` keeps the
    /// algorithm and computes it over the whole object, and other servers may do so too.
    pub(super) fn is_comparable(
        &self,
        declared: Option<(ChecksumAlgorithm, ChecksumKind)>,
    ) -> bool {
        self.checksum.as_ref().is_some_and(|sum| match declared {
            Some(declared) => declared == (sum.algorithm, sum.kind),
            None => sum.kind == ChecksumKind::FullObject,
        })
    }
}

/// The checksum and the `ETag` of a whole object, computed from S3's responses for its parts.
#[derive(Clone, Debug, Default)]
pub(super) struct FromParts {
    /// The checksum that the upload declared, if all parts have one.
    pub(super) checksum: Option<Checksum>,
    /// The `ETag`, if the `ETag`s of all parts are MD5s.
    etag: Option<String>,
}

impl FromParts {
    /// Computes both from `parts`, which must be in ascending order of their numbers.
    pub(super) fn of(
        parts: &[PartDone],
        declared: Option<(ChecksumAlgorithm, ChecksumKind)>,
    ) -> Self {
        let checksum = declared.and_then(|(algorithm, kind)| of_parts(parts, algorithm, kind));
        Self {
            checksum,
            etag: multipart_etag(parts.iter().map(|part| part.etag.as_str())),
        }
    }

    /// Uses the `ETag` that an earlier session recorded, because the parts cannot be listed any
    /// more.
    pub(super) fn recorded(etag: Option<String>) -> Self {
        Self {
            checksum: None,
            etag,
        }
    }

    /// Returns the `ETag` of the whole object, if it follows from the `ETag`s of the parts.
    pub(super) fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Drops the `ETag`, for objects whose encryption key makes `ETag`s meaningless.
    pub(super) fn without_etag(self) -> Self {
        Self { etag: None, ..self }
    }

    fn has_etag(&self, etag: &str) -> bool {
        self.etag.as_deref() == Some(etag)
    }
}

/// Returns true if the checksum computed from the parts equals the source's. An adopted upload is
/// published only in this case.
pub(super) fn proves(expected: &Expected, made: &FromParts) -> bool {
    expected
        .checksum
        .as_ref()
        .zip(made.checksum.as_ref())
        .is_some_and(|(source, made)| source == made)
}

/// The expected result of completing an upload that has all its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Forecast {
    /// The object may be published.
    Publish,
    /// The object may be published, but will not have the source's `ETag`. Holds the reason.
    Unkept(String),
    /// The parts of the source end at other offsets, so the size of each one must be requested.
    OtherBoundaries,
    /// The object would differ from its source and must not be published. Holds the difference.
    Contradicted(String),
}

/// Judges an upload before it is completed.
pub(super) fn forecast(
    expected: &Expected,
    made: &FromParts,
    boundaries: &Boundaries,
    content_etags: bool,
) -> Forecast {
    let sums = expected.checksum.as_ref().zip(made.checksum.as_ref());
    let sums = sums.filter(|(a, b)| (a.algorithm, a.kind) == (b.algorithm, b.kind));
    let are_equal = sums.map(|(expected, made)| expected.value == made.value);
    if let Some((source, made)) = sums
        && are_equal == Some(false)
    {
        let is_whole = source.kind == ChecksumKind::FullObject;
        if !is_whole && matches!(boundaries, Boundaries::Guessed) {
            return Forecast::OtherBoundaries;
        }
        return Forecast::Contradicted(format!(
            "the parts make the {} {}, the source's is {}",
            source.algorithm, made.value, source.value
        ));
    }
    let (Some(etag), Some(made), true) = (&expected.etag, &made.etag, content_etags) else {
        return Forecast::Publish;
    };
    match boundaries {
        Boundaries::Chosen => Forecast::Publish,
        _ if made == etag => Forecast::Publish,
        Boundaries::Guessed => Forecast::OtherBoundaries,
        // An object whose encryption was changed in place keeps its first ETag, so an equal
        // checksum counts more.
        Boundaries::Replayed(_) if are_equal == Some(true) => Forecast::Unkept(format!(
            "the source's own parts make {made}, and not its ETag {etag}"
        )),
        Boundaries::Replayed(_) => Forecast::Contradicted(format!(
            "the parts make the ETag {made}, the source's is {etag}"
        )),
    }
}

/// The verdict of the evidence so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProofVerdict {
    /// The copy is equal.
    Proven(Proof),
    /// The copy is not equal. Holds the difference.
    Contradicted(String),
    /// The evidence shows neither, so more evidence is needed.
    Unknown,
}

impl ProofVerdict {
    /// Combines two verdicts: a contradiction always decides, then the stronger proof.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Proven(one), Self::Proven(another)) => Self::Proven(one.min(another)),
            (Self::Contradicted(what), _) | (_, Self::Contradicted(what)) => {
                Self::Contradicted(what)
            }
            (Self::Unknown, other) | (other, Self::Unknown) => other,
        }
    }
}

/// Judges the copy by the response to the write alone.
pub(super) fn judge_answer(
    expected: &Expected,
    written: &Written,
    made: &FromParts,
    content_etags: bool,
) -> ProofVerdict {
    if let Some(verdict) = judge_checksum(expected, written.checksum.as_ref()) {
        // Only HEAD shows whether the object is encrypted with a KMS key. If it is, the ETag is not
        // an MD5.
        let is_doubtful =
            content_etags && against_weak_sum(expected, &verdict, &written.etag).is_some();
        return if is_doubtful {
            ProofVerdict::Unknown
        } else {
            verdict
        };
    }
    if content_etags && expected.etag.as_ref() == Some(&written.etag) {
        return ProofVerdict::Proven(Proof::Etag);
    }
    // HEAD may show the checksum that the response lacks (KMS).
    if expected.checksum.is_some() && written.checksum.is_none() {
        return ProofVerdict::Unknown;
    }
    if content_etags && made.has_etag(&written.etag) {
        return ProofVerdict::Proven(Proof::PartEtags);
    }
    judge_against_parts(made, written.checksum.as_ref()).unwrap_or(ProofVerdict::Unknown)
}

/// Judges the copy by a HEAD of the destination, the last evidence.
pub(super) fn judge_head(
    expected: &Expected,
    found: &Head,
    made: &FromParts,
    content_etags: bool,
) -> ProofVerdict {
    if found.size != expected.size {
        return ProofVerdict::Contradicted(format!(
            "{} bytes arrived of {}",
            found.size, expected.size
        ));
    }
    if let Some(verdict) = judge_checksum(expected, found.checksum.as_ref()) {
        let etag_tells = content_etags && !found.kms;
        let against = against_weak_sum(expected, &verdict, &found.etag).filter(|_| etag_tells);
        return against.map_or(verdict, ProofVerdict::Contradicted);
    }
    if content_etags && !found.kms {
        match (&expected.etag, &made.etag) {
            (Some(etag), _) if *etag == found.etag => return ProofVerdict::Proven(Proof::Etag),
            (_, Some(made)) if *made == found.etag => {
                return ProofVerdict::Proven(Proof::PartEtags);
            }
            (_, Some(made)) => {
                let what = format!("the ETag is {}, but its parts make {made}", found.etag);
                return ProofVerdict::Contradicted(what);
            }
            (Some(etag), None) if looks_like_md5(etag) && looks_like_md5(&found.etag) => {
                return ProofVerdict::Contradicted(format!(
                    "the ETag is {}, the source's {etag}",
                    found.etag
                ));
            }
            _ => {}
        }
    }
    judge_against_parts(made, found.checksum.as_ref()).unwrap_or(ProofVerdict::Proven(Proof::Size))
}

/// Judges the copy by the two checksums. Returns `None` if they cannot be compared. Different
/// composite checksums, and different checksums of an unknown kind, prove nothing, because they may
/// come from other part boundaries.
pub(crate) fn judge_checksum(
    expected: &Expected,
    found: Option<&Checksum>,
) -> Option<ProofVerdict> {
    let (sum, found) = (expected.checksum.as_ref()?, found?);
    if (sum.algorithm, sum.kind) != (found.algorithm, found.kind) {
        return None;
    }
    if sum.value == found.value {
        return Some(ProofVerdict::Proven(if expected.read {
            Proof::Read
        } else {
            Proof::by(found)
        }));
    }
    (sum.kind == ChecksumKind::FullObject).then(|| {
        ProofVerdict::Contradicted(format!(
            "{} is {}, the source's {}",
            found.algorithm, found.value, sum.value
        ))
    })
}

/// Returns a contradiction if the MD5s differ although the 32-bit checksums are equal.
pub(crate) fn against_weak_sum(
    expected: &Expected,
    verdict: &ProofVerdict,
    etag: &str,
) -> Option<String> {
    let ProofVerdict::Proven(_) = verdict else {
        return None;
    };
    let (sum, source) = (expected.checksum.as_ref()?, expected.etag.as_deref()?);
    let differ = looks_like_md5(source) && looks_like_md5(etag) && source != etag;
    (differ && sum.algorithm.is_weak()).then(|| {
        format!(
            "the ETag is {etag}, the source's {source}, although the {} is equal",
            sum.algorithm
        )
    })
}

/// Judges a published object by the checksum computed from its parts. Returns `None` if the two
/// cannot be compared.
fn judge_against_parts(made: &FromParts, found: Option<&Checksum>) -> Option<ProofVerdict> {
    let (made, found) = (made.checksum.as_ref()?, found?);
    ((made.algorithm, made.kind) == (found.algorithm, found.kind)).then(|| {
        if made.value == found.value {
            return ProofVerdict::Proven(Proof::PartChecksums);
        }
        ProofVerdict::Contradicted(format!(
            "{} is {}, but its parts make {}",
            found.algorithm, found.value, made.value
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{compute, md5_etag};

    const CRC: ChecksumAlgorithm = ChecksumAlgorithm::Crc64Nvme;

    fn crc(value: &str) -> Checksum {
        Checksum {
            algorithm: CRC,
            kind: ChecksumKind::FullObject,
            value: value.into(),
        }
    }

    fn written(etag: &str, checksum: Option<Checksum>) -> Written {
        Written {
            etag: etag.into(),
            checksum,
            ..Written::default()
        }
    }

    fn part(number: u32, bytes: &[u8], algorithm: ChecksumAlgorithm) -> PartDone {
        let checksum = Some(compute(algorithm, bytes).value);
        PartDone {
            number,
            size: bytes.len() as u64,
            etag: md5_etag(bytes),
            checksum,
        }
    }

    fn expected(checksum: Option<Checksum>, etag: Option<&str>) -> Expected {
        Expected {
            size: 2,
            checksum,
            read: false,
            etag: etag.map(str::to_owned),
        }
    }

    #[test]
    fn the_strongest_evidence_decides_and_a_contradiction_always_does() {
        let md5 = md5_etag(b"x");
        let (source, nothing) = (expected(Some(crc("A")), Some(&md5)), FromParts::default());
        assert_eq!(
            judge_answer(&source, &written(&md5, Some(crc("A"))), &nothing, true),
            ProofVerdict::Proven(Proof::Crc64nvme)
        );
        let torn = judge_answer(&source, &written(&md5, Some(crc("B"))), &nothing, true);
        assert!(
            matches!(torn, ProofVerdict::Contradicted(_)),
            "an equal ETag does not heal a wrong checksum"
        );
        assert_eq!(
            judge_answer(&source, &written(&md5, None), &nothing, true),
            ProofVerdict::Proven(Proof::Etag)
        );
        assert_eq!(
            judge_answer(&source, &written(&md5, None), &nothing, false),
            ProofVerdict::Unknown
        );
        assert_eq!(
            judge_answer(&source, &written("other", None), &nothing, true),
            ProofVerdict::Unknown
        );
        let read = Expected {
            read: true,
            ..source
        };
        assert_eq!(
            judge_answer(&read, &written("other", Some(crc("A"))), &nothing, true),
            ProofVerdict::Proven(Proof::Read)
        );
    }

    #[test]
    fn equal_sums_of_32_bits_do_not_outweigh_other_md5s() {
        let sum = |algorithm| Checksum {
            algorithm,
            kind: ChecksumKind::FullObject,
            value: "AAAAAA==".into(),
        };
        let (here, there) = (md5_etag(b"x"), md5_etag(b"y"));
        let nothing = FromParts::default();
        for (algorithm, is_weak) in [
            (ChecksumAlgorithm::Crc32, true),
            (ChecksumAlgorithm::Crc32c, true),
            (CRC, false),
        ] {
            let source = expected(Some(sum(algorithm)), Some(&here));
            let answer = judge_answer(
                &source,
                &written(&there, Some(sum(algorithm))),
                &nothing,
                true,
            );
            assert_eq!(answer == ProofVerdict::Unknown, is_weak, "{answer:?}");
            let found = Head {
                size: 2,
                etag: there.clone(),
                checksum: Some(sum(algorithm)),
                ..Head::default()
            };
            let look = judge_head(&source, &found, &nothing, true);
            assert_eq!(
                matches!(look, ProofVerdict::Contradicted(_)),
                is_weak,
                "{look:?}"
            );
            // If ETags prove nothing, the checksum is all there is.
            for (found, content) in [
                (
                    Head {
                        kms: true,
                        ..found.clone()
                    },
                    true,
                ),
                (found, false),
            ] {
                assert!(matches!(
                    judge_head(&source, &found, &nothing, content),
                    ProofVerdict::Proven(_)
                ));
            }
        }
    }

    #[test]
    fn parts_prove_what_they_make_where_etags_follow_from_bytes() {
        let made = FromParts::of(&[part(1, b"x", CRC), part(2, b"y", CRC)], None);
        let etag = made.etag.clone().unwrap();
        let source = expected(None, Some("0123-2"));
        assert_eq!(
            judge_answer(&source, &written(&etag, None), &made, true),
            ProofVerdict::Proven(Proof::PartEtags)
        );
        assert_eq!(
            judge_answer(&source, &written(&etag, None), &made, false),
            ProofVerdict::Unknown
        );
        let head = |etag: &str| Head {
            size: 2,
            etag: etag.into(),
            ..Head::default()
        };
        assert_eq!(
            judge_head(&source, &head(&etag), &made, true),
            ProofVerdict::Proven(Proof::PartEtags)
        );
        assert!(matches!(
            judge_head(&source, &head("ffff-1"), &made, true),
            ProofVerdict::Contradicted(_)
        ));
        let kms = Head {
            kms: true,
            ..head("ffff-1")
        };
        assert_eq!(
            judge_head(&source, &kms, &made, true),
            ProofVerdict::Proven(Proof::Size)
        );
        let short = Head {
            size: 0,
            ..head(&etag)
        };
        assert!(matches!(
            judge_head(&source, &short, &made, true),
            ProofVerdict::Contradicted(_)
        ));
    }

    #[test]
    fn parts_prove_what_they_make_by_their_checksums_where_a_key_hides_the_etags() {
        let made = FromParts::of(
            &[part(1, b"x", CRC), part(2, b"y", CRC)],
            Some((CRC, ChecksumKind::FullObject)),
        );
        assert_eq!(made.checksum, Some(compute(CRC, b"xy")));
        let kms = |sum| Head {
            size: 2,
            etag: "f-2".into(),
            kms: true,
            checksum: Some(sum),
            ..Head::default()
        };
        let source = expected(None, None);
        assert_eq!(
            judge_head(&source, &kms(compute(CRC, b"xy")), &made, true),
            ProofVerdict::Proven(Proof::PartChecksums)
        );
        assert!(matches!(
            judge_head(&source, &kms(crc("B")), &made, true),
            ProofVerdict::Contradicted(_)
        ));
    }

    #[test]
    fn what_contradicts_the_source_is_not_published() {
        let made = FromParts::of(
            &[part(1, b"x", CRC), part(2, b"y", CRC)],
            Some((CRC, ChecksumKind::FullObject)),
        );
        let etag = made.etag.clone().unwrap();
        let replayed = Boundaries::Replayed([1, 2].into());
        let (equal, other) = (Some(compute(CRC, b"xy")), Some(crc("B")));
        for (checksum, tag, boundaries, outcome) in [
            (equal.clone(), None, &Boundaries::Chosen, "publish"),
            (None, Some("0123-9"), &Boundaries::Chosen, "publish"),
            (
                other.clone(),
                Some(&*etag),
                &Boundaries::Guessed,
                "contradicted",
            ),
            (equal.clone(), Some(&*etag), &Boundaries::Guessed, "publish"),
            (
                equal.clone(),
                Some("0123-2"),
                &Boundaries::Guessed,
                "other boundaries",
            ),
            (
                None,
                Some("0123-2"),
                &Boundaries::Guessed,
                "other boundaries",
            ),
            (equal, Some("0123-2"), &replayed, "unkept"),
            (None, Some("0123-2"), &replayed, "contradicted"),
            (None, None, &replayed, "publish"),
        ] {
            let name = match forecast(&expected(checksum.clone(), tag), &made, boundaries, true) {
                Forecast::Publish => "publish",
                Forecast::Unkept(_) => "unkept",
                Forecast::OtherBoundaries => "other boundaries",
                Forecast::Contradicted(_) => "contradicted",
            };
            assert_eq!(name, outcome, "{checksum:?} {tag:?} {boundaries:?}");
        }
    }

    #[test]
    fn composite_checksums_prove_equality_and_never_the_contrary() {
        let algorithm = ChecksumAlgorithm::Sha256;
        let parts = [part(1, b"x", algorithm), part(2, b"y", algorithm)];
        let made = FromParts::of(&parts, Some((algorithm, ChecksumKind::Composite)));
        let sum = made.checksum.clone().unwrap();
        let source = expected(Some(sum.clone()), None);
        assert_eq!(
            judge_answer(&source, &written("k-2", Some(sum.clone())), &made, true),
            ProofVerdict::Proven(Proof::CompositeSha256)
        );
        let other = Checksum {
            value: "other".into(),
            ..sum
        };
        assert_eq!(judge_checksum(&source, Some(&other)), None);
        let source = expected(Some(other), None);
        let judged = |boundaries| forecast(&source, &made, &boundaries, true);
        assert_eq!(judged(Boundaries::Guessed), Forecast::OtherBoundaries);
        assert!(matches!(
            judged(Boundaries::Replayed([1, 2].into())),
            Forecast::Contradicted(_)
        ));
    }
}
