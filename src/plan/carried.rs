//! Counts the requests about tags that a copy needs.
//!
//! Amazon S3 refuses to copy tags that it cannot set. Other servers may drop the tags of a source
//! without an error, so the executor reads the tags of an object if HEAD shows no tag count. A plan
//! sends no HEAD. It assumes that objects have no tags and that HEAD shows no count, because most
//! servers show a count only if there are tags.

use crate::manifest::job::{Policy, Transfer};
use crate::plan::attributes::Reads;
use crate::plan::decide::Route;
use crate::s3::Capabilities;

/// The number of objects in a row without tags after which a bucket is assumed to have none. Used
/// if HEAD shows no tag count and tags are only tried.
pub const UNTAGGED: u32 = 100;

/// The questions about carried tags in the plan of one transfer.
#[derive(Debug, Default)]
pub struct TagQuestions {
    /// The number of questions that were asked only because tags are tried.
    tried: u32,
}

impl TagQuestions {
    /// Returns true if the executor asks for the tags of the next object, which takes `route` and
    /// is assumed to have no tags.
    pub fn asks(
        &mut self,
        transfer: &Transfer,
        (source, destination): (&Capabilities, &Capabilities),
        route: &Route,
    ) -> bool {
        let reads = Reads::of(transfer, destination, route);
        let may_be_dropped = *route == Route::Copy
            && transfer.preserve.tags.keeps()
            && source.tags
            && destination.tags
            && !reads.tags
            && !destination.refuses_what_it_lacks();
        if !may_be_dropped {
            return false;
        }
        if transfer.preserve.tags != Policy::Try || !destination.believes_answers() {
            return true;
        }
        self.tried = self.tried.saturating_add(1);
        self.tried <= UNTAGGED
    }
}
