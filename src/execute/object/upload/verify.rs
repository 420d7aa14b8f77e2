//! Checks that an object made from an adopted upload has the requested attributes.
//!
//! S3 shows the attributes of an upload only after the object is published. So the session that
//! published the object then compares them, or the next session if that session was killed.

use super::UploadSession;
use crate::bucket::Bucket;
use crate::execute::object::ObjectTask;
use crate::execute::object::round_failure::RoundFailure;
use crate::execute::receipt::Ending;
use crate::execute::replan::Replan;
use crate::location::ObjectKey;
use crate::manifest::job::Attribute;
use crate::plan::adopt::difference;
use crate::plan::condition::DestinationState;
use crate::s3::{Attributes, Failure, FailureKind, Tags};

impl UploadSession<'_> {
    /// Compares an object made from an adopted upload with the requested attributes. Returns the
    /// reason to copy it again if they differ. Must be called while the upload is still on record,
    /// so that the next session compares the attributes if this session is killed.
    pub(in crate::execute::object) async fn verify_adopted(
        &self,
        attributes: &Attributes,
        outcome: Result<Ending, RoundFailure>,
        task: &mut ObjectTask<'_>,
    ) -> Result<Ending, RoundFailure> {
        let Ok(Ending::Done {
            etag,
            destination_version,
            ..
        }) = &outcome
        else {
            return outcome;
        };
        let (id, version) = (self.upload.id(), destination_version.as_deref());
        if !self.is_adopted || task.has_attributes(id, version, attributes).await? {
            return outcome;
        }
        task.destination_state = DestinationState::Object(etag.clone());
        Err(Replan::ForeignUpload.into())
    }
}

impl ObjectTask<'_> {
    /// Returns true if the version that was made from the upload `id` has the requested attributes.
    /// Otherwise adds a note.
    pub(super) async fn has_attributes(
        &mut self,
        id: &str,
        version: Option<&str>,
        requested: &Attributes,
    ) -> Result<bool, Failure> {
        let first_difference =
            first_difference(self.destination(), &self.step.key, version, requested).await?;
        self.draft.notes.extend(first_difference.map(|attribute| {
            format!(
                "the open upload {id} was created with other {attribute} than requested: the object is copied again"
            )
        }));
        Ok(first_difference.is_none())
    }
}

/// Returns the first attribute of an object that differs from the requested one.
async fn first_difference(
    bucket: &Bucket,
    key: &ObjectKey,
    version: Option<&str>,
    requested: &Attributes,
) -> Result<Option<Attribute>, Failure> {
    let found = match bucket.head(key, version).await {
        Ok(found) => found,
        // The object has a customer key other than the one that the job names, or has a key
        // although the job names none.
        Err(failure) if *failure.kind() == FailureKind::Invalid => {
            return Ok(Some(Attribute::Encryption));
        }
        Err(failure) => return Err(failure),
    };
    let capabilities = bucket.capabilities();
    let wants_tags = matches!(&requested.tags, Tags::Exactly(tags) if !tags.is_empty());
    let tags = if capabilities.tags && (wants_tags || capabilities.may_have_tags(&found)) {
        match bucket.tags(key, version).await {
            Ok(tags) => tags,
            // A server that does not support tags stores none.
            Err(failure) if failure.is_no_answer() && !wants_tags && found.tag_count.is_none() => {
                Vec::new()
            }
            Err(failure) if *failure.kind() == FailureKind::Denied || failure.is_no_answer() => {
                return Ok(Some(Attribute::Tags));
            }
            Err(failure) => return Err(failure),
        }
    } else {
        Vec::new()
    };
    // Pass `false`: never attribute a difference to the server, because the program that created
    // the upload may have requested it.
    Ok(difference(requested, &found, &tags, false))
}
