//! Counts the questions about tags that a copy carries along by itself.
//!
//! Amazon S3 refuses what it cannot do. The copies of other servers may drop the tags of their
//! source, so the executor reads the tags of an object of which HEAD shows no number. A plan sends
//! no HEAD, and counts the questions for objects without tags: most servers show a number where
//! there are some.

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
