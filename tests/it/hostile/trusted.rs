//! What a run trusts a server with, by profile: nothing that it asks tells whether the answer is true.
//!
//! `docs/semantics.md` has the same in words. With `trust: nothing` no effect of a request is taken on trust.

use s3haul::sandbox::Operation;

use super::Profile;
use super::ways::Way;

/// An answer that is believed.
struct Trusted {
    operation: Operation,
    ways: &'static [Way],
    by: &'static [Profile],
}

const TRUSTED: &[Trusted] = &[
    // A list of the destination that is another bucket's: what it shows is equal is left.
    Trusted {
        operation: Operation::ListObjectsV2,
        ways: &[Way::Repeated],
        by: &[Profile::Aws, Profile::Auto, Profile::Tencent],
    },
    Trusted {
        operation: Operation::ListObjectVersions,
        ways: &[Way::Repeated],
        by: &[Profile::Aws, Profile::Auto, Profile::Tencent],
    },
    // A small object that was written is not looked at if the answer proves its bytes.
    Trusted { operation: Operation::PutObject, ways: &[Way::WithoutEffect], by: &[Profile::Aws] },
    Trusted { operation: Operation::CopyObject, ways: &[Way::WithoutEffect], by: &[Profile::Aws] },
];

pub(super) fn all() -> impl Iterator<Item = (Operation, Way, Profile)> {
    TRUSTED.iter().flat_map(|Trusted { operation, ways, by }| {
        ways.iter().flat_map(|way| by.iter().map(|profile| (*operation, *way, *profile)))
    })
}
