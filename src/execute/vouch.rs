//! Checks that an object made from an adopted upload has the requested attributes.
//!
//! S3 shows the attributes of an upload only once it is published. So they are compared then, by
//! the session that published it or by the next one.

use super::refusals::is_no_answer;
use super::{Draft, Work};
use crate::bucket::Bucket;
use crate::location::ObjectKey;
use crate::manifest::job::Attribute;
use crate::plan::claim::difference;
use crate::s3::{Attributes, Failure, FailureKind, Tags};

/// Compares a copy, its key and version, that the upload `id` became, and takes note where it
/// differs.
pub(super) async fn is_as_wished(
    work: &Work,
    id: &str,
    (key, version): (&ObjectKey, Option<&str>),
    wanted: &Attributes,
    draft: &mut Draft,
) -> Result<bool, Failure> {
    let unlike = unlike(&work.sides.destination, key, version, wanted).await?;
    draft.notes.extend(unlike.map(|attribute| {
        format!(
            "the open upload {id} was begun with other {attribute} than the object shall have: it was copied anew"
        )
    }));
    Ok(unlike.is_none())
}

/// Returns the attributes in which an object differs from the requested ones.
async fn unlike(
    bucket: &Bucket,
    key: &ObjectKey,
    version: Option<&str>,
    wanted: &Attributes,
) -> Result<Option<Attribute>, Failure> {
    let found = match bucket.head(key, version).await {
        Ok(found) => found,
        // Another key of a customer than ours, or one where we have none.
        Err(failure) if *failure.kind() == FailureKind::Invalid => {
            return Ok(Some(Attribute::Encryption));
        }
        Err(failure) => return Err(failure),
    };
    let has_tags = found.tag_count.is_some_and(|count| count > 0);
    let wants_tags = matches!(&wanted.tags, Tags::Exactly(tags) if !tags.is_empty());
    let tags = if bucket.capabilities().tags && (has_tags || wants_tags) {
        match bucket.tags(key, version).await {
            Ok(tags) => tags,
            Err(failure) if *failure.kind() == FailureKind::Denied || is_no_answer(&failure) => {
                return Ok(Some(Attribute::Tags));
            }
            Err(failure) => return Err(failure),
        }
    } else {
        Vec::new()
    };
    Ok(difference(wanted, &found, &tags))
}
