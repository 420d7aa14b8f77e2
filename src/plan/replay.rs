//! Replays the part boundaries of a source, so that a multipart `ETag` and a composite checksum
//! stay the same.
//!
//! Both depend on the bytes *and* on the part boundaries. The `ETag` (`…-N`) shows the number of
//! parts, and `HEAD ?partNumber=k` the size of each. Nearly all uploads have equal parts, so s3haul
//! assumes that all parts have the size of the first one. Before the object is published, the
//! `ETag` that results from the copied parts proves or refutes this guess. s3haul requests the size
//! of each part only if the guess fails. A source that cannot be replayed is copied as usual, and
//! the receipt records the reason.

use super::decide::Route;
use super::parts::{Boundaries, PartLayout};
use crate::checksum::{looks_like_md5, part_count};
use crate::s3::capabilities::PartLimits;
use crate::s3::{Capabilities, ChecksumKind, Head};

/// The method that keeps a source's `ETag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// One `CopyObject`: the `ETag` is the MD5 of the bytes.
    InOnePiece,
    /// An upload with this number of parts and the source's boundaries.
    Parts(u32),
    /// The `ETag` cannot be kept, for this reason.
    Impossible(&'static str),
}

/// Returns the method that keeps a source's `ETag` or composite checksum, before the part
/// boundaries are known. `to_kms` is true if a KMS key will encrypt the copy.
#[must_use]
pub fn replay(
    head: &Head,
    to_kms: bool,
    source: &Capabilities,
    destination: &Capabilities,
) -> Replay {
    let composite = head
        .checksum
        .as_ref()
        .is_some_and(|sum| sum.kind == ChecksumKind::Composite);
    let composite = composite && destination.checksums;
    let Some(count) = part_count(&head.etag) else {
        return match looks_like_md5(&head.etag) {
            _ if head.kms || to_kms => Replay::Impossible(
                "with a KMS or customer key, the ETag is not derived from the bytes",
            ),
            false => Replay::Impossible("the source's ETag is neither an MD5 nor one of parts"),
            true if head.size <= destination.max_copy => Replay::InOnePiece,
            true => Replay::Impossible(
                "an object of this size that was written in one piece keeps no ETag",
            ),
        };
    };
    // A composite checksum is worth keeping even if the ETag changes.
    if !composite {
        if head.kms || to_kms {
            return Replay::Impossible(
                "with a KMS or customer key, the ETag is not derived from the bytes",
            );
        }
        if !(source.content_etags && destination.content_etags) {
            return Replay::Impossible("ETags on this server are not derived from the bytes");
        }
    }
    if head.size == 0 {
        return Replay::Impossible("an empty object has no ranges to copy");
    }
    if !destination.part_copy {
        return Replay::Impossible("this server has no UploadPartCopy");
    }
    if count > destination.parts.max_parts {
        return Replay::Impossible("the source has more parts than this server allows");
    }
    Replay::Parts(count)
}

/// Plans the route of an object from its listed `ETag`; the executor decides again after HEAD.
/// Returns `None` if the list shows nothing that can be kept.
#[must_use]
pub fn by_etag(
    size: u64,
    etag: &str,
    source: &Capabilities,
    destination: &Capabilities,
) -> Option<Route> {
    let listed = Head {
        size,
        etag: etag.to_owned(),
        ..Head::default()
    };
    match replay(&listed, false, source, destination) {
        Replay::InOnePiece => Some(Route::Copy),
        Replay::Impossible(_) => None,
        Replay::Parts(count) => {
            let part_size = size.div_ceil(u64::from(count));
            let boundaries = Boundaries::Guessed;
            Some(Route::MultipartCopy(PartLayout {
                size,
                part_size,
                count,
                boundaries,
            }))
        }
    }
}

/// Returns the uniform layout of `count` parts whose first part has `first` bytes, if it fits
/// `size` and the limits. Only the last part may be smaller.
#[must_use]
pub fn guess(size: u64, count: u32, first: u64, limits: &PartLimits) -> Option<PartLayout> {
    let before_last = u64::from(count.checked_sub(1)?).checked_mul(first)?;
    let fits = first > 0 && before_last < size && size <= before_last.saturating_add(first);
    let allowed = first <= limits.max_part && (count == 1 || first >= limits.min_part);
    let boundaries = Boundaries::Guessed;
    (fits && allowed && count <= limits.max_parts).then_some(PartLayout {
        size,
        part_size: first,
        count,
        boundaries,
    })
}

/// Returns the layout whose parts have these sizes, in this order.
///
/// # Errors
/// Returns the reason why the destination cannot have such parts.
pub fn exactly(size: u64, sizes: &[u64], limits: &PartLimits) -> Result<PartLayout, &'static str> {
    let mut ends = Vec::with_capacity(sizes.len());
    let mut end = 0_u64;
    for length in sizes {
        end = end.saturating_add(*length);
        ends.push(end);
    }
    let largest = sizes.iter().copied().max().unwrap_or(0);
    let (Some(last), Ok(count)) = (sizes.len().checked_sub(1), u32::try_from(sizes.len())) else {
        return Err("the source shows no parts");
    };
    if end != size || sizes.contains(&0) {
        return Err("the parts that the source shows do not make up its size");
    }
    if count > limits.max_parts {
        return Err("the source has more parts than this server allows");
    }
    if sizes[..last].iter().any(|length| *length < limits.min_part) {
        return Err("a part of the source other than the last is smaller than a part may be");
    }
    if largest > limits.max_part {
        return Err("a part of the source is larger than a part may be");
    }
    if limits.equal_parts
        && (sizes[..last].iter().any(|length| *length != sizes[0]) || sizes[last] > sizes[0])
    {
        return Err("this server requires equal parts, but those of the source differ");
    }
    Ok(PartLayout {
        size,
        part_size: largest,
        count,
        boundaries: Boundaries::Replayed(ends.into()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::s3::{Checksum, ChecksumAlgorithm};
    use crate::size::{GIB, MIB};

    fn head(etag: &str, size: u64) -> Head {
        Head {
            size,
            etag: etag.into(),
            ..Head::default()
        }
    }

    const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

    #[test]
    fn the_etag_says_what_keeps_it() {
        let parts = format!("{MD5}-3");
        let aws = &Capabilities::AWS;
        let of = |head: &Head| replay(head, false, aws, aws);
        assert_eq!(of(&head(MD5, 5 * GIB)), Replay::InOnePiece);
        assert_eq!(of(&head(&parts, GIB)), Replay::Parts(3));
        for impossible in [
            head(MD5, 5 * GIB + 1),
            head("opaque", 5),
            head(&parts, 0),
            head(&format!("{MD5}-10001"), GIB),
            Head {
                kms: true,
                ..head(&parts, GIB)
            },
            Head {
                kms: true,
                ..head(MD5, GIB)
            },
        ] {
            assert!(
                matches!(of(&impossible), Replay::Impossible(_)),
                "{impossible:?}"
            );
        }
        assert!(matches!(
            replay(&head(&parts, GIB), true, aws, aws),
            Replay::Impossible(_)
        ));
        let cautious = &Capabilities::UNKNOWN_SERVER;
        assert!(matches!(
            replay(&head(&parts, GIB), false, cautious, cautious),
            Replay::Impossible(_)
        ));
    }

    #[test]
    fn a_composite_checksum_is_worth_the_boundaries_without_the_etag() {
        let algorithm = ChecksumAlgorithm::Sha256;
        let checksum = Some(Checksum {
            algorithm,
            kind: ChecksumKind::Composite,
            value: "x".into(),
        });
        let kms = Head {
            kms: true,
            checksum,
            ..head(&format!("{MD5}-3"), GIB)
        };
        assert_eq!(
            replay(&kms, true, &Capabilities::AWS, &Capabilities::AWS),
            Replay::Parts(3)
        );
    }

    #[test]
    fn what_a_destination_can_not_have_is_told() {
        let s3 = PartLimits::S3;
        for (sizes, why) in [
            (vec![5 * MIB, MIB, MIB], "smaller"),
            (vec![5 * GIB + 1, 1], "larger"),
            (vec![5 * MIB, 0], "do not make"),
            (vec![], "no parts"),
        ] {
            let error = exactly(sizes.iter().sum(), &sizes, &s3).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(exactly(7, &[6], &s3).unwrap_err().contains("do not make"));
        let equal = PartLimits {
            equal_parts: true,
            ..s3
        };
        assert!(exactly(21 * MIB, &[5 * MIB, 6 * MIB, 10 * MIB], &equal).is_err());
        assert!(exactly(6 * MIB, &[5 * MIB, MIB], &equal).is_ok());
        assert!(
            guess(10 * MIB, 10, MIB, &s3).is_none(),
            "no middle part may be that small"
        );
        assert!(guess(1, 1, 1, &s3).is_some());
    }

    proptest! {
        #[test]
        fn exact_layouts_are_the_sizes_that_were_asked_for(sizes in prop::collection::vec(5 * MIB..64 * MIB, 1..200), last in 1..9 * MIB) {
            let mut sizes = sizes;
            sizes.push(last);
            let size = sizes.iter().sum();
            let layout = exactly(size, &sizes, &PartLimits::S3).unwrap();
            let parts: Vec<_> = layout.parts().collect();
            prop_assert_eq!(parts.iter().map(|part| part.length).collect::<Vec<_>>(), sizes);
            let mut next = 0;
            for part in &parts {
                prop_assert_eq!(part.offset, next);
                next += part.length;
            }
            prop_assert_eq!(next, size);
            prop_assert_eq!(layout.part(0), None);
            prop_assert_eq!(layout.part(layout.count + 1), None);
        }

        #[test]
        fn a_guess_is_right_for_every_uniform_upload(part in 5 * MIB..GIB, full in 0..9999u64, last in 1..GIB) {
            let last = last.min(part);
            let (size, count) = (full * part + last, u32::try_from(full + 1).unwrap());
            let first = if full == 0 { last } else { part };
            let layout = guess(size, count, first, &PartLimits::S3).unwrap();
            let lengths: Vec<_> = layout.parts().map(|part| part.length).collect();
            prop_assert_eq!(lengths.len(), count as usize);
            prop_assert!(lengths[..lengths.len() - 1].iter().all(|length| *length == part));
            prop_assert_eq!(lengths.last(), Some(&last));
        }

        #[test]
        fn a_guess_never_makes_parts_that_do_not_tile(size in 1..100 * GIB, count in 1..20_000u32, first in 0..10 * GIB) {
            if let Some(layout) = guess(size, count, first, &PartLimits::S3) {
                let mut next = 0;
                for part in layout.parts() {
                    prop_assert!(part.offset == next && part.length > 0);
                    next += part.length;
                }
                prop_assert_eq!(next, size);
            }
        }
    }
}
