//! What a plan comes to: objects, bytes, parts and requests by kind.
//!
//! The requests are those of a run in which nothing fails. They are what a run is paced and billed by, so the
//! counting follows the executor request by request.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Serialize, Serializer};

use super::attributes::Reads;
use super::cost;
use super::decide::{Reason, Route};
use crate::s3::{Capabilities, Class, Operation};

/// Sums over planned objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Objects to copy or upload.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Parts of multipart copies and uploads.
    pub parts: u64,
    /// Objects that stay as they are, because the destination has them.
    pub skipped_objects: u64,
    /// Their bytes.
    pub skipped_bytes: u64,
    /// Objects that the selection leaves out.
    pub excluded_objects: u64,
    /// Objects that can not be copied, for instance because they are too large.
    pub impossible_objects: u64,
    /// Objects by the reason for which they are copied.
    #[serde(serialize_with = "by_name")]
    pub reasons: BTreeMap<ReasonName, u64>,
    /// Requests by S3's names.
    #[serde(serialize_with = "by_name")]
    pub requests: BTreeMap<Operation, u64>,
}

/// A [`Reason`] as a key of a sorted map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReasonName(&'static str);

impl std::fmt::Display for ReasonName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.0)
    }
}

impl From<Reason> for ReasonName {
    fn from(reason: Reason) -> Self {
        Self(match reason {
            Reason::Missing => "missing",
            Reason::SizeDiffers => "size differs",
            Reason::Newer => "newer",
            Reason::Always => "always",
        })
    }
}

fn by_name<S: Serializer, K: std::fmt::Display, V: Serialize>(
    map: &BTreeMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(key, value)| (key.to_string(), value)))
}

impl Totals {
    /// Counts an object that would be copied by `route`, after `reads` that tell what it shall have.
    pub fn copy(
        &mut self,
        size: u64,
        route: &Route,
        reason: Reason,
        capabilities: &Capabilities,
        reads: Reads,
    ) {
        self.objects += 1;
        self.bytes += size;
        self.parts += u64::from(route.parts());
        *self.reasons.entry(reason.into()).or_default() += 1;
        let parts = u64::from(route.parts());
        // The source again where the server may ignore conditions, and the destination where its answers prove nothing.
        let more_heads = u64::from(!capabilities.copy_conditions)
            + u64::from(!capabilities.checksums && !capabilities.content_etags);
        let read = |totals: &mut Self| {
            reads.operations().for_each(|operation| totals.request(operation, 1));
            if more_heads > 0 {
                totals.request(Operation::HeadObject, more_heads);
            }
        };
        match route {
            Route::Copy => {
                read(self);
                self.request(Operation::CopyObject, 1);
            }
            Route::MultipartCopy(_) => {
                read(self);
                self.request(Operation::CreateMultipartUpload, 1);
                self.request(Operation::UploadPartCopy, parts);
                self.request(Operation::CompleteMultipartUpload, 1);
            }
            Route::Put => self.request(Operation::PutObject, 1),
            Route::MultipartUpload(_) => {
                self.request(Operation::CreateMultipartUpload, 1);
                self.request(Operation::UploadPart, parts);
                self.request(Operation::CompleteMultipartUpload, 1);
            }
        }
    }

    /// Counts an object that stays as it is.
    pub fn skip(&mut self, size: u64) {
        self.skipped_objects += 1;
        self.skipped_bytes += size;
    }

    /// Counts requests.
    pub fn request(&mut self, operation: Operation, count: u64) {
        *self.requests.entry(operation).or_default() += count;
    }

    /// What the requests cost at AWS's list prices, in dollars, when the objects get this storage class. Reads are those of
    /// STANDARD: the class of each source is not known here.
    #[must_use]
    pub fn dollars(&self, class: Option<&str>) -> f64 {
        let cost = |(operation, count): (&Operation, &u64)| {
            let class = class.filter(|_| operation.class() == Class::Write);
            cost::requests(*operation, *count, class)
        };
        self.requests.iter().map(cost).sum()
    }

    /// All requests.
    #[must_use]
    pub fn all_requests(&self) -> u64 {
        self.requests.values().sum()
    }
}

impl AddAssign<&Self> for Totals {
    fn add_assign(&mut self, other: &Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.parts += other.parts;
        self.skipped_objects += other.skipped_objects;
        self.skipped_bytes += other.skipped_bytes;
        self.excluded_objects += other.excluded_objects;
        self.impossible_objects += other.impossible_objects;
        for (reason, count) in &other.reasons {
            *self.reasons.entry(*reason).or_default() += count;
        }
        for (operation, count) in &other.requests {
            self.request(*operation, *count);
        }
    }
}
