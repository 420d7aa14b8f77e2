//! Whether an object needs work, and by which route.
//!
//! Both decisions are pure. "Changed" can not rest on `ETag`s alone: a multipart copy with other part boundaries has
//! another `ETag` for the same bytes, and a tool that compares only those copies the same objects every night. So
//! equal sizes with a destination that is *newer* than the source count as equal too. The comparison is strict,
//! because S3's times have one-second resolution, and a source rewritten in the second of its copy must be seen.
//!
//! One time lies: a multipart object is dated at the *beginning* of its upload. A source that was rewritten by an upload
//! that began before the last copy and ended after it looks older than its copy. So where the source was made in parts and
//! the copy is younger than the source by less than an upload of that size may take ([`longest_upload`]), times
//! decide nothing, and both sides are asked for their checksums: two HEADs, for objects that were copied
//! shortly after they were written. Beyond that span times decide, or every sync would ask for every multipart object for
//! ever; `s3haul verify` and `when: always` take no time for an answer.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::parts::{Capacity, Goal, LayoutError, PartLayout, UPLOAD_PART, layout};
use crate::checksum::part_count;
use crate::manifest::job::{PartSize, Parts, When};
use crate::s3::{Capabilities, ChecksumKind, Head};

/// What a listing says about one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side<'a> {
    /// Bytes.
    pub size: u64,
    /// Absent for files, and where it does not follow from the bytes.
    pub etag: Option<&'a str>,
    /// Last-Modified, or the file's modification time.
    pub modified: Option<Timestamp>,
}

/// Why an object is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The destination has no such key.
    Missing,
    /// The sizes differ.
    SizeDiffers,
    /// The source is not older than the destination, and their `ETag`s differ.
    Newer,
    /// The source is a version from the past, and the destination has other bytes of its size.
    Differs,
    /// The checksums of both sides differ.
    ChecksumDiffers,
    /// The object has attributes otherwise than the job sets them.
    AttributesDiffer,
    /// The job says `when: always`.
    Always,
}

/// Why an object is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Skip {
    /// The destination has the key, and the job says `when: missing`.
    Present,
    /// The destination has an equal object.
    Equal,
    /// It is to be changed in place, and has what the job sets.
    AsSet,
    /// Somebody else wrote to the key after it had been compared; the next run compares it again.
    ChangedMeanwhile,
    /// It can not be read before it is restored, and the job says `archived: skip`.
    Archived,
}

/// What to do with one source object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Copy it.
    Copy(Reason),
    /// Leave it.
    Skip(Skip),
    /// The lists do not tell; [`by_heads`] does.
    Ask,
}

/// Compares the two sides as the job's `when` says.
#[must_use]
pub fn decide(when: When, source: Side<'_>, destination: Option<Side<'_>>) -> Decision {
    let Some(destination) = destination else { return Decision::Copy(Reason::Missing) };
    match when {
        When::Always => Decision::Copy(Reason::Always),
        When::Missing => Decision::Skip(Skip::Present),
        When::Changed if source.size != destination.size => Decision::Copy(Reason::SizeDiffers),
        When::Changed if source.etag.is_some() && source.etag == destination.etag => {
            Decision::Skip(Skip::Equal)
        }
        When::Changed => match (source.modified, destination.modified) {
            (Some(began), Some(copied)) if copied > began => {
                let in_parts = source.etag.and_then(part_count).is_some();
                let since = copied.duration_since(began).unsigned_abs();
                if in_parts && since <= longest_upload(source.size) {
                    Decision::Ask
                } else {
                    Decision::Skip(Skip::Equal)
                }
            }
            _ => Decision::Copy(Reason::Newer),
        },
    }
}

/// How long the upload of so many bytes is believed to take at most: at 128 KiB/s (a slow line), and a quarter of an hour
/// for its tools to think; no longer than the seven days after which lifecycle rules commonly abort uploads.
#[must_use]
pub fn longest_upload(size: u64) -> Duration {
    const SLOWEST: u64 = 128 << 10;
    let pause = Duration::from_mins(15);
    (pause + Duration::from_secs(size / SLOWEST)).min(Duration::from_hours(7 * 24))
}

/// Decides what [`decide`] could not, from a HEAD of each side. Where the checksums do not compare, nothing shows a change,
/// and to copy on suspicion would be to copy the same objects every night.
#[must_use]
pub fn by_heads(source: &Head, destination: &Head) -> Decision {
    if source.size != destination.size {
        return Decision::Copy(Reason::SizeDiffers);
    }
    match (&source.checksum, &destination.checksum) {
        (Some(a), Some(b))
            if (a.algorithm, a.kind, b.kind)
                == (b.algorithm, ChecksumKind::FullObject, ChecksumKind::FullObject)
                && a.value != b.value =>
        {
            Decision::Copy(Reason::ChecksumDiffers)
        }
        _ => Decision::Skip(Skip::Equal),
    }
}

/// Where the bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An object of the same server.
    Bucket,
    /// A file of this machine, or its standard input.
    Local,
}

/// Which requests carry an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// One `CopyObject`.
    Copy,
    /// `UploadPartCopy` for each part.
    MultipartCopy(PartLayout),
    /// One `PutObject`.
    Put,
    /// `UploadPart` for each part.
    MultipartUpload(PartLayout),
    /// No copy yet: one `RestoreObject` at the source, unless a restore is under way.
    Restore,
    /// One `DeleteObject` that names no version: in a bucket with versions it adds a delete marker.
    DeleteMarker,
}

impl Route {
    /// The name in plans, receipts and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::MultipartCopy(_) => "multipart-copy",
            Self::Put => "put",
            Self::MultipartUpload(_) => "multipart-upload",
            Self::Restore => "restore",
            Self::DeleteMarker => "delete-marker",
        }
    }

    /// Parts of the upload; zero for single requests.
    #[must_use]
    pub const fn parts(&self) -> u32 {
        match self {
            Self::Copy | Self::Put | Self::Restore | Self::DeleteMarker => 0,
            Self::MultipartCopy(layout) | Self::MultipartUpload(layout) => layout.count,
        }
    }

    /// Write requests that the route costs when nothing fails.
    #[must_use]
    pub const fn writes(&self) -> u64 {
        match self.parts() {
            0 => 1,
            parts => parts as u64 + 2,
        }
    }
}

/// Chooses the route by size alone, never by what a server would tolerate.
///
/// # Errors
/// [`LayoutError::TooLarge`] for objects that the endpoint can not hold or copy.
pub fn route(
    size: u64,
    origin: Origin,
    parts: &Parts,
    capabilities: &Capabilities,
    capacity: Capacity,
) -> Result<Route, LayoutError> {
    let single = size <= parts.threshold.0.min(capabilities.max_copy).min(capabilities.parts.max_part);
    let goal = match (&parts.size, origin) {
        (PartSize::Exactly(size), _) => Goal::Exactly(size.0),
        (PartSize::Auto, Origin::Bucket) => Goal::Copy { aim: parts.goal, capacity },
        (PartSize::Auto, Origin::Local) => Goal::Upload,
    };
    match origin {
        _ if size == 0 && origin == Origin::Local => Ok(Route::Put),
        Origin::Bucket if size == 0 || single => Ok(Route::Copy),
        Origin::Bucket if !capabilities.part_copy && size <= capabilities.max_copy => Ok(Route::Copy),
        Origin::Bucket if !capabilities.part_copy => {
            Err(LayoutError::NoPartCopy { size, limit: capabilities.max_copy })
        }
        Origin::Bucket => layout(size, &capabilities.parts, goal).map(Route::MultipartCopy),
        Origin::Local => {
            let layout = layout(size, &capabilities.parts, goal)?;
            let single = layout.count == 1 || size <= parts.threshold.0.min(UPLOAD_PART);
            Ok(if single { Route::Put } else { Route::MultipartUpload(layout) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::speed::Speed;
    use crate::s3::{Checksum, ChecksumAlgorithm};
    use crate::size::{ByteSize, GIB, MIB};

    const CAPACITY: Capacity = Capacity { in_flight: 512, speed: Speed::TYPICAL };

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    #[test]
    fn changed_means_size_then_etag_then_a_destination_that_is_strictly_newer() {
        let source = Side { size: 5, etag: Some("a"), modified: at(100) };
        for (destination, decision) in [
            (None, Decision::Copy(Reason::Missing)),
            (Some(Side { size: 6, etag: Some("a"), modified: at(200) }), Decision::Copy(Reason::SizeDiffers)),
            (Some(Side { size: 5, etag: Some("a"), modified: at(50) }), Decision::Skip(Skip::Equal)),
            (Some(Side { size: 5, etag: Some("b-3"), modified: at(101) }), Decision::Skip(Skip::Equal)),
            (Some(Side { size: 5, etag: Some("b"), modified: at(100) }), Decision::Copy(Reason::Newer)),
            (Some(Side { size: 5, etag: Some("b"), modified: at(50) }), Decision::Copy(Reason::Newer)),
            (Some(Side { size: 5, etag: None, modified: None }), Decision::Copy(Reason::Newer)),
        ] {
            assert_eq!(decide(When::Changed, source, destination), decision, "{destination:?}");
        }
        let there = Some(Side { size: 9, etag: None, modified: None });
        assert_eq!(decide(When::Missing, source, there), Decision::Skip(Skip::Present));
        assert_eq!(decide(When::Always, source, there), Decision::Copy(Reason::Always));
        let file = Side { size: 5, etag: None, modified: at(100) };
        assert_eq!(
            decide(When::Changed, file, Some(Side { etag: None, ..file })),
            Decision::Copy(Reason::Newer)
        );
    }

    #[test]
    fn a_source_in_parts_is_asked_for_while_its_upload_may_still_have_run() {
        let in_parts = format!("{}-3", crate::checksum::md5_etag(b""));
        let source = Side { size: 100 * MIB, etag: Some(&in_parts), modified: at(1000) };
        let hours = longest_upload(100 * MIB).as_secs().cast_signed();
        assert_eq!(hours, 15 * 60 + 800);
        for (modified, size, decision) in [
            (1001, 100 * MIB, Decision::Ask),
            (1000 + hours, 100 * MIB, Decision::Ask),
            (1000 + hours + 1, 100 * MIB, Decision::Skip(Skip::Equal)),
            (1000, 100 * MIB, Decision::Copy(Reason::Newer)),
            (1001, 99 * MIB, Decision::Copy(Reason::SizeDiffers)),
        ] {
            let there = Side { size, etag: Some("other"), modified: at(modified) };
            assert_eq!(decide(When::Changed, source, Some(there)), decision, "{modified}");
        }
        let equal = Side { modified: at(1001), ..source };
        assert_eq!(decide(When::Changed, source, Some(equal)), Decision::Skip(Skip::Equal));
        assert_eq!(longest_upload(u64::MAX), Duration::from_hours(168));
    }

    #[test]
    fn heads_decide_by_comparable_checksums_and_nothing_else() {
        let head = |algorithm, value: &str| Head {
            checksum: Some(Checksum { algorithm, kind: ChecksumKind::FullObject, value: value.into() }),
            ..Head::default()
        };
        let (crc, sha) = (ChecksumAlgorithm::Crc64Nvme, ChecksumAlgorithm::Sha256);
        let differs = Decision::Copy(Reason::ChecksumDiffers);
        let equal = Decision::Skip(Skip::Equal);
        assert_eq!(by_heads(&head(crc, "a"), &head(crc, "b")), differs);
        assert_eq!(by_heads(&head(crc, "a"), &head(crc, "a")), equal);
        assert_eq!(by_heads(&head(sha, "a"), &head(crc, "b")), equal);
        assert_eq!(by_heads(&Head::default(), &head(crc, "b")), equal);
        let longer = Head { size: 1, ..Head::default() };
        assert_eq!(by_heads(&longer, &Head::default()), Decision::Copy(Reason::SizeDiffers));
    }

    fn routed(size: u64, origin: Origin, threshold: u64, capabilities: &Capabilities) -> &'static str {
        let parts = Parts { threshold: ByteSize(threshold), ..Parts::default() };
        route(size, origin, &parts, capabilities, CAPACITY).map_or("too large", |route| route.name())
    }

    #[test]
    fn the_size_decides_the_route_on_both_sides_of_each_boundary() {
        let aws = &Capabilities::AWS;
        for (size, threshold, name) in [
            (0, 5 * MIB, "copy"),
            (256 * MIB, 256 * MIB, "copy"),
            (256 * MIB + 1, 256 * MIB, "multipart-copy"),
            (5 * GIB, 5 * GIB, "copy"),
            (5 * GIB + 1, 5 * GIB, "multipart-copy"),
            (5 * GIB + 1, 50 * GIB, "multipart-copy"),
            (53_687_091_200_000, 5 * GIB, "multipart-copy"),
            (53_687_091_200_001, 5 * GIB, "too large"),
        ] {
            assert_eq!(routed(size, Origin::Bucket, threshold, aws), name, "{size}");
        }
        assert_eq!(routed(0, Origin::Local, 5 * MIB, aws), "put");
        assert_eq!(routed(17 * MIB, Origin::Local, 5 * MIB, aws), "multipart-upload");
    }

    #[test]
    fn a_server_without_part_copies_copies_any_size_in_one_request() {
        let gcs = Capabilities { part_copy: false, max_copy: u64::MAX, ..Capabilities::CAUTIOUS };
        assert_eq!(routed(50 * GIB, Origin::Bucket, 256 * MIB, &gcs), "copy");
        let neither = Capabilities { part_copy: false, ..Capabilities::CAUTIOUS };
        assert_eq!(routed(50 * GIB, Origin::Bucket, 256 * MIB, &neither), "too large");
    }
}
