//! Counts the requests about tags that a copy needs.
//!
//! Amazon S3 refuses what it cannot do. Other servers may drop the tags of a source without an
//! error, so the executor reads the tags of an object if HEAD shows no tag count. A plan sends no
//! HEAD. It counts these requests for objects without tags, because most servers show a count where
//! there are tags.

use crate::manifest::job::{Policy, Transfer};
use crate::plan::attributes::Reads;
use crate::plan::decide::Route;
use crate::s3::Capabilities;

/// Objects without tags in a row after which those of a bucket are taken to have none, where HEAD
/// shows no number and tags are only tried.
pub const UNTAGGED: u32 = 100;

/// The questions about carried tags in the plan of one transfer.
#[derive(Debug, Default)]
pub struct TagQuestions {
    /// Objects that were asked because tags are tried.
    tried: u32,
}

impl TagQuestions {
    /// Returns true if the executor asks for the tags of the next object, which goes by `route`, if
    /// it has none.
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
