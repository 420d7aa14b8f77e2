//! The copied objects that lost attributes.

use std::collections::BTreeMap;

use super::{LostObject, ParsedReceipt, ReceiptStatus};
use crate::report::frame::ReportHeader;
use crate::report::object::ObjectId;

/// The objects that were copied with losses, and not copied again without losses.
#[derive(Default)]
pub(super) struct LostObjects(BTreeMap<ObjectId, LostObject>);

impl LostObjects {
    /// Remembers an object that was copied with losses, until a later line reports a copy without
    /// losses.
    pub(super) fn take(
        &mut self,
        origin: &ReportHeader,
        object: &ObjectId,
        line: &ParsedReceipt,
        number: usize,
    ) {
        if line.status != ReceiptStatus::Done {
            return;
        }
        // A report of an old s3haul does not show whether the copy of another version replaced this
        // one. It did, except in a history, whose losses cannot be repaired.
        let object = match &origin.histories {
            Some(_) => object.clone(),
            None => object.of_key(),
        };
        if line.losses.is_empty() {
            self.0.remove(&object);
            return;
        }
        let lost = LostObject {
            object: line.failure(number),
            attributes: line.losses.iter().map(|loss| loss.attribute).collect(),
            copy: line.copy(),
        };
        self.0.insert(object, lost);
    }

    /// Returns the objects in the order of their identities.
    pub(super) fn into_objects(self) -> Vec<LostObject> {
        self.0.into_values().collect()
    }
}
