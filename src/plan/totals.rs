//! Counts the objects, bytes, parts, and requests of a plan.
//!
//! The counts assume a run without failures. Requests determine the duration and the price of a
//! run, so the counts follow the executor request by request.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Serialize, Serializer};

use super::attributes::Reads;
use super::cost;
use super::decide::{Reason, Route, Skip};
use super::parts::Capacity;
use super::unchanged::Unchanged;
use crate::s3::{Capabilities, Operation, RequestClass};

/// Sums over planned objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlanTotals {
    /// Objects to copy or upload.
    pub objects: u64,
    /// The bytes of these objects.
    pub bytes: u64,
    /// Parts of multipart copies and uploads.
    pub parts: u64,
    /// Objects to change in place.
    pub in_place_objects: u64,
    /// Delete markers to write.
    pub delete_markers: u64,
    /// Objects to skip, because the destination has them.
    pub skipped_objects: u64,
    /// The bytes of the skipped objects.
    pub skipped_bytes: u64,
    /// The skipped objects, by the comparison that found them equal.
    pub unchanged: Unchanged,
    /// Objects that the selection excludes.
    pub excluded_objects: u64,
    /// Objects that cannot be copied, for instance because they are too large.
    pub impossible_objects: u64,
    /// Archived objects, which cannot be read before a restore.
    pub archived_objects: u64,
    /// The bytes of the archived objects.
    pub archived_bytes: u64,
    /// The archived objects by storage class.
    pub archived_classes: BTreeMap<String, ArchivedClass>,
    /// Objects by the reason to copy them.
    #[serde(serialize_with = "by_name")]
    pub reasons: BTreeMap<Reason, u64>,
    /// Requests by operation.
    #[serde(serialize_with = "by_name")]
    pub requests: BTreeMap<Operation, u64>,
}

/// Archived objects of one storage class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ArchivedClass {
    /// The number of objects.
    pub objects: u64,
    /// The bytes of the objects.
    pub bytes: u64,
    /// The number of objects for which the run would request a restore.
    pub restored_objects: u64,
    /// The bytes of these objects.
    pub restored_bytes: u64,
}

/// The estimated time of a plan's copies, from the speed of a single copy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The seconds that all copies take one after another.
    stream: f64,
    /// The seconds that the slowest object takes.
    longest: f64,
    /// The smallest and the largest part, in bytes.
    parts: Option<(u64, u64)>,
}

impl Estimate {
    /// Adds an object that is copied by `route`. Ignores uploads, whose time depends on this
    /// machine's network.
    pub fn copy(&mut self, size: u64, route: &Route, capacity: Capacity) {
        let (copies, bytes) = match route {
            Route::Copy => (1, size),
            Route::MultipartCopy(layout) => (layout.count, layout.part_size),
            Route::Put | Route::MultipartUpload(_) | Route::Restore | Route::DeleteMarker => return,
        };
        self.stream += f64::from(copies) * capacity.speed.seconds(bytes);
        self.longest = self.longest.max(capacity.seconds(copies, bytes));
        if route.parts() > 0 {
            let (smallest, largest) = self.parts.unwrap_or((bytes, bytes));
            self.parts = Some((smallest.min(bytes), largest.max(bytes)));
        }
    }

    /// Returns the seconds that the copies take with `in_flight` requests in flight, or `None` if
    /// there are no server-side copies.
    #[must_use]
    pub fn seconds(&self, in_flight: u32) -> Option<f64> {
        (self.stream > 0.0).then(|| (self.stream / f64::from(in_flight.max(1))).max(self.longest))
    }

    /// Returns the smallest and the largest part, in bytes.
    #[must_use]
    pub fn parts(&self) -> Option<(u64, u64)> {
        self.parts
    }
}

/// Serializes a map whose keys are written with `Display`.
fn by_name<S: Serializer, K: std::fmt::Display, V: Serialize>(
    map: &BTreeMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(key, value)| (key.to_string(), value)))
}

impl PlanTotals {
    /// Returns true if no object was selected.
    #[must_use]
    pub fn has_nothing(&self) -> bool {
        let selected = self.objects + self.delete_markers + self.skipped_objects;
        selected + self.archived_objects + self.impossible_objects == 0
    }

    /// Counts an object that would be copied by `route`, after `reads` for its attributes.
    pub fn copy(
        &mut self,
        size: u64,
        route: &Route,
        reason: Reason,
        capabilities: &Capabilities,
        reads: Reads,
    ) {
        *self.reasons.entry(reason).or_default() += 1;
        if *route == Route::DeleteMarker {
            self.delete_markers += 1;
            return self.request(Operation::DeleteObject, 1);
        }
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(size);
        self.parts += u64::from(route.parts());
        let parts = u64::from(route.parts());
        // The executor sends HEAD to the source again if the server may ignore conditions. It sends
        // HEAD to the destination if that server's responses prove nothing, and always after an
        // upload in parts.
        let is_pinned = match route {
            Route::MultipartCopy(_) => capabilities.pins_parts(),
            _ => capabilities.pins_copies(),
        };
        let believes = capabilities.believes_answers();
        let proves_nothing = !believes || (!capabilities.checksums && !capabilities.content_etags);
        let more_heads = u64::from(!is_pinned) + u64::from(proves_nothing || parts > 0);
        let read = |totals: &mut Self| {
            reads
                .operations()
                .for_each(|operation| totals.request(operation, 1));
            if more_heads > 0 {
                totals.request(Operation::HeadObject, more_heads);
            }
        };
        match route {
            Route::Copy => {
                read(self);
                self.request(Operation::CopyObject, 1);
            }
            Route::MultipartCopy(layout) => {
                // HEAD of the first part shows the boundaries.
                let first = u64::from(layout.is_replay() && layout.count > 1);
                if first > 0 {
                    self.request(Operation::HeadObject, first);
                }
                read(self);
                self.request(Operation::CreateMultipartUpload, 1);
                self.request(Operation::UploadPartCopy, parts);
                self.request(Operation::CompleteMultipartUpload, 1);
            }
            // Delete markers were counted above; `archived` counts restores.
            Route::Restore | Route::DeleteMarker => {}
            Route::Put => {
                self.request(Operation::PutObject, 1);
                if !believes {
                    self.request(Operation::HeadObject, 1);
                }
            }
            Route::MultipartUpload(_) => {
                self.request(Operation::CreateMultipartUpload, 1);
                self.request(Operation::UploadPart, parts);
                self.request(Operation::CompleteMultipartUpload, 1);
                self.request(Operation::HeadObject, 1);
            }
        }
    }

    /// Counts an object that is skipped.
    pub fn skip(&mut self, size: u64, why: Skip) {
        self.skipped_objects += 1;
        self.skipped_bytes = self.skipped_bytes.saturating_add(size);
        self.unchanged.add(why);
    }

    /// Counts an archived object. `asks` is true if the run would request a restore.
    pub fn archived(&mut self, size: u64, storage_class: Option<&str>, asks: bool) {
        self.archived_objects += 1;
        self.archived_bytes = self.archived_bytes.saturating_add(size);
        let class = self
            .archived_classes
            .entry(storage_class.unwrap_or("STANDARD").to_owned())
            .or_default();
        class.objects += 1;
        class.bytes = class.bytes.saturating_add(size);
        if asks {
            class.restored_objects += 1;
            class.restored_bytes = class.restored_bytes.saturating_add(size);
            self.request(Operation::RestoreObject, 1);
        }
    }

    /// Counts requests.
    pub fn request(&mut self, operation: Operation, count: u64) {
        if count == 0 {
            return;
        }
        *self.requests.entry(operation).or_default() += count;
    }

    /// Returns the price of the requests at AWS's list prices, in dollars, for objects of this
    /// storage class. Reads are priced as STANDARD, because the class of each source is not known
    /// here.
    #[must_use]
    pub fn dollars(&self, class: Option<&str>) -> f64 {
        let cost = |(operation, count): (&Operation, &u64)| {
            let class = class.filter(|_| operation.class() == RequestClass::Write);
            cost::requests(*operation, *count, class)
        };
        self.requests.iter().map(cost).sum()
    }

    /// Returns the number of all requests.
    #[must_use]
    pub fn all_requests(&self) -> u64 {
        self.requests.values().sum()
    }
}

impl AddAssign<&Self> for PlanTotals {
    fn add_assign(&mut self, other: &Self) {
        let Self {
            objects,
            bytes,
            parts,
            in_place_objects,
            delete_markers,
            skipped_objects,
            skipped_bytes,
            unchanged,
            excluded_objects,
            impossible_objects,
            archived_objects,
            archived_bytes,
            archived_classes,
            reasons,
            requests,
        } = other;
        self.objects += objects;
        self.bytes = self.bytes.saturating_add(*bytes);
        self.parts += parts;
        self.in_place_objects += in_place_objects;
        self.delete_markers += delete_markers;
        self.skipped_objects += skipped_objects;
        self.skipped_bytes = self.skipped_bytes.saturating_add(*skipped_bytes);
        self.unchanged.merge(unchanged);
        self.excluded_objects += excluded_objects;
        self.impossible_objects += impossible_objects;
        self.archived_objects += archived_objects;
        self.archived_bytes = self.archived_bytes.saturating_add(*archived_bytes);
        for (class, added) in archived_classes {
            *self.archived_classes.entry(class.clone()).or_default() += *added;
        }
        for (reason, count) in reasons {
            *self.reasons.entry(*reason).or_default() += count;
        }
        for (operation, count) in requests {
            self.request(*operation, *count);
        }
    }
}

impl AddAssign for ArchivedClass {
    fn add_assign(&mut self, other: Self) {
        let Self {
            objects,
            bytes,
            restored_objects,
            restored_bytes,
        } = other;
        self.objects += objects;
        self.bytes = self.bytes.saturating_add(bytes);
        self.restored_objects += restored_objects;
        self.restored_bytes = self.restored_bytes.saturating_add(restored_bytes);
    }
}
