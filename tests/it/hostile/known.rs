//! What the program does not withstand: by choice, or not yet.

use s3haul::sandbox::Operation;

use super::ways::Way;

/// What a run trusts each server with, since nothing that it could ask besides would tell.
pub(super) const TRUSTED: &[(Operation, Way)] = &[
    // A list of the destination that is another bucket's: what it shows is equal is left.
    (Operation::ListObjectsV2, Way::Repeated),
    (Operation::ListObjectVersions, Way::Repeated),
    // A small object that was written is not looked at if the answer proves its bytes.
    (Operation::PutObject, Way::WithoutEffect),
    (Operation::CopyObject, Way::WithoutEffect),
    // An annotation is any text, and has no checksum.
    (Operation::GetObjectAnnotation, Way::HalfDocument),
    (Operation::GetObjectAnnotation, Way::Html),
    (Operation::GetObjectAnnotation, Way::AnObject),
    (Operation::GetObjectAnnotation, Way::OtherDocument),
];

/// What is to be mended. The list must only shrink.
pub(super) const KNOWN: &[(Operation, Way)] =
    &[(Operation::CopyObject, Way::IgnoredHeaders), (Operation::GetObjectTagging, Way::EmptyBody)];

/// The same for answers without end.
pub(super) const LARGE: &[(Operation, Way)] = &[];
