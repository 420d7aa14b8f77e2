//! Checks that the buckets of a transfer keep the versions that the transfer needs, once per
//! bucket, before the first write.

use super::Connections;
use crate::bucket::Bucket;
use crate::manifest::job::{Transfer, Versions};
use crate::s3::{Failure, FailureKind, Operation, Versioning};

impl Connections {
    /// Refuses a transfer of versions if its bucket does not keep the versions that it needs.
    pub(super) async fn require_versions(
        &mut self,
        transfer: &Transfer,
        source: Option<&Bucket>,
        destination: &Bucket,
    ) -> Result<(), Failure> {
        let (bucket, versioning) = match (transfer.versions, source) {
            (Versions::Current, _) | (_, None) => return Ok(()),
            // An object without versions counts as one version, so any source will do. The
            // destination must keep all versions.
            (Versions::All, _) => (destination, self.versioning(destination).await?),
            (Versions::AsOf(_), Some(source)) => (source, self.versioning(source).await?),
        };
        let message = match (transfer.versions, versioning) {
            (_, Versioning::Enabled) | (Versions::AsOf(_), Versioning::Suspended) => return Ok(()),
            (Versions::AsOf(_), _) => {
                "the bucket never kept versions, so its earlier state is unknown"
            }
            (_, Versioning::Suspended) => {
                "the bucket's versioning is suspended: each copy would replace the one before it"
            }
            (_, Versioning::Never) => {
                "the bucket keeps no versions: only the last version of each key would remain"
            }
        };
        let place = bucket.name().to_string();
        Err(Failure::new(
            FailureKind::NoVersions,
            Operation::GetBucketVersioning,
            place,
            message,
        ))
    }

    /// Returns a note about the old versions of objects that are changed in place, or `None` if the
    /// bucket keeps none.
    pub async fn old_versions(&mut self, bucket: &Bucket) -> Option<String> {
        let stay = "the old version of each changed object stays and costs money until it is deleted or expires";
        match self.versioning(bucket).await {
            Ok(Versioning::Enabled) => Some(format!("the bucket keeps versions: {stay}")),
            Ok(Versioning::Suspended | Versioning::Never) => None,
            Err(failure) => Some(format!(
                "if the bucket keeps versions, {stay} (it could not be asked: {failure})"
            )),
        }
    }

    async fn versioning(&mut self, bucket: &Bucket) -> Result<Versioning, Failure> {
        let place = (bucket.client().endpoint().to_owned(), bucket.name().clone());
        if let Some(known) = self.versioning.get(&place) {
            return Ok(*known);
        }
        let contact = bucket.first_contact(&self.contact);
        let versioning = self
            .contact
            .watch(bucket, Box::pin(contact.versioning()))
            .await?;
        self.versioning.insert(place, versioning);
        Ok(versioning)
    }
}
