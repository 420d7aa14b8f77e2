//! Counts the requests for tags that copies need.
//!
//! Amazon S3 refuses to copy tags that it cannot set. Other servers may drop the tags of a source
//! without an error, so the executor reads the tags of an object if HEAD shows no tag count. A plan
//! sends no HEAD, so it assumes that objects have no tags and that HEAD therefore shows no count,
//! as on most servers.

use crate::manifest::job::{Policy, Transfer};
use crate::plan::attributes::Reads;
use crate::plan::decide::Route;
use crate::s3::Capabilities;

/// After this many objects in a row without tags, s3haul assumes that a bucket has no tags. This
/// applies only if HEAD shows no tag count and the policy for tags is `try`.
pub const UNTAGGED: u32 = 100;

/// The requests for source tags in the plan of one transfer.
#[derive(Debug, Default)]
pub struct TagQuestions {
    /// The number of requests that are sent only because the policy is `try`.
    tried: u32,
}

impl TagQuestions {
    /// Returns true if the executor requests the tags of the next object, which takes `route` and
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
