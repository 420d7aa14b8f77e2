//! What a run trusts a server with, by profile: nothing that it asks tells whether the answer is
//! true.
//!
//! `docs/semantics.md` has the same in words. With `trust: nothing` no effect of a request is taken
//! on trust.

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
    // What a list of Amazon's shows to be equal is left.
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
    // An object that Amazon's answer proves is not looked at.
    Trusted {
        operation: Operation::PutObject,
        ways: &[Way::WithoutEffect, Way::OtherKey],
        by: &[Profile::Aws],
    },
    // Where no checksum and no `ETag` counts, the size is the proof.
    Trusted {
        operation: Operation::PutObject,
        ways: &[Way::OtherBytes],
        by: &[Profile::Auto, Profile::AutoNothing],
    },
    // A delete marker that a server refuses to write is written once more.
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
    // Where lists show no `ETag` that counts, `verify` has nothing but HEAD.
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
