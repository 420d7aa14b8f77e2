//! Restores of archived objects. A restore stays in progress until the test finishes it.

use std::sync::Arc;

use hyper::StatusCode;
use s3s::dto::{RestoreObjectInput, RestoreObjectOutput};
use s3s::{S3Request, S3Response, S3Result};

use super::{Service, SuccessStatus};
use crate::object::{RESTORE_ONGOING, restored_until};
use crate::refusal::Refusal;

impl Service {
    pub(super) fn restore(
        &self,
        request: S3Request<RestoreObjectInput>,
    ) -> S3Result<S3Response<RestoreObjectOutput>> {
        let input = request.input;
        let bucket = self.store.bucket(&input.bucket)?;
        let restore = input.restore_request.unwrap_or_default();
        let tier = restore
            .glacier_job_parameters
            .map(|parameters| parameters.tier.as_str().to_owned());
        let days = restore.days;
        let (accepted, _) = bucket.change(&input.key, input.version_id.as_deref(), |object| {
            let attributes = Arc::make_mut(&mut object.attributes);
            let is_tiering = attributes.class() == "INTELLIGENT_TIERING";
            if days.is_some() == is_tiering {
                return Err(Refusal::malformed_xml());
            }
            let deep = attributes.class() == "DEEP_ARCHIVE"
                || attributes.archive_status.as_deref() == Some("DEEP_ARCHIVE_ACCESS");
            if deep && tier.as_deref() == Some("Expedited") {
                return Err(Refusal::invalid_request(
                    "Retrieval option is not supported by this storage class",
                ));
            }
            let days = days.unwrap_or(1);
            match attributes.restore.as_deref() {
                None if !attributes.is_archived() => Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "ObjectAlreadyInActiveTierError",
                    "Restore is not allowed for the object's current storage class",
                )),
                None => {
                    attributes.restore = Some(RESTORE_ONGOING.to_owned());
                    Ok(true)
                }
                Some(RESTORE_ONGOING) => Err(Refusal::new(
                    StatusCode::CONFLICT,
                    "RestoreAlreadyInProgress",
                    "Object restore is already in progress",
                )),
                // A restore of a restored object extends its period.
                Some(_) => {
                    attributes.restore = Some(restored_until(days));
                    Ok(false)
                }
            }
        })?;
        let mut response = S3Response::new(RestoreObjectOutput::default());
        if accepted {
            response
                .extensions
                .insert(SuccessStatus(StatusCode::ACCEPTED));
        }
        Ok(response)
    }
}
