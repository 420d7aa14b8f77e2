//! The answers that a run trusts, by profile, because no other request could show whether they are
//! true.
//!
//! `docs/semantics.md` says the same in words. With `trust: nothing`, s3haul trusts no claimed
//! effect of a request.

use s3haul::sandbox::Operation;

use super::Profile;
use super::ways::Way;

/// A trusted answer.
struct Trusted {
    operation: Operation,
    ways: &'static [Way],
    by: &'static [Profile],
}

const TRUSTED: &[Trusted] = &[
    // s3haul skips an object that Amazon's list shows as equal.
    Trusted {
        operation: Operation::ListObjectsV2,
        ways: &[Way::Repeated, Way::WrongObject],
        by: &[Profile::Aws],
    },
    Trusted {
        operation: Operation::ListObjectVersions,
        ways: &[Way::Repeated],
        by: &[Profile::Aws],
    },
    // s3haul sends no HEAD if Amazon's answer proves the object.
    Trusted {
        operation: Operation::PutObject,
        ways: &[Way::WithoutEffect, Way::OtherKey],
        by: &[Profile::Aws],
    },
    // Without trusted checksums and `ETag`s, the size is the proof.
    Trusted {
        operation: Operation::PutObject,
        ways: &[Way::OtherBytes],
        by: &[Profile::Auto, Profile::AutoNothing],
    },
    // If a server refuses a delete marker, the request is sent once more.
    Trusted {
        operation: Operation::DeleteObject,
        ways: &[Way::DoneAndBusyOnce],
        by: &[
            Profile::Aws,
            Profile::Auto,
            Profile::AwsNothing,
            Profile::AutoNothing,
        ],
    },
    Trusted {
        operation: Operation::CopyObject,
        ways: &[Way::WithoutEffect, Way::IgnoredHeaders],
        by: &[Profile::Aws],
    },
    Trusted {
        operation: Operation::DeleteObject,
        ways: &[Way::WithoutEffect, Way::OtherKey],
        by: &[Profile::Aws],
    },
    // If the `ETag`s of lists do not count, `verify` has only HEAD.
    Trusted {
        operation: Operation::HeadObject,
        ways: &[Way::Repeated, Way::OtherKey],
        by: &[Profile::Auto, Profile::Tencent],
    },
];

pub(super) fn all() -> impl Iterator<Item = (Operation, Way, Profile)> {
    TRUSTED.iter().flat_map(
        |Trusted {
             operation,
             ways,
             by,
         }| {
            ways.iter()
                .flat_map(|way| by.iter().map(|profile| (*operation, *way, *profile)))
        },
    )
}
