//! What becomes of a copy that was published and is not equal to its source, or not proven as the
//! job demands.
//!
//! Nothing is deleted unless the job says so, and then exactly what this run wrote: on a versioned
//! bucket that version, elsewhere the object on condition that it still has the `ETag` of the copy.
//! Where the server can not be trusted with that condition, the copy stays, and the report says so.

use super::Work;
use super::receipt::Proof;
use crate::location::ObjectKey;
use crate::manifest::job::{OnMismatch, Verify};
use crate::s3::{Failure, FailureKind, Operation, Written};

impl Work {
    /// The failure of an object whose published copy differs from its source by `what`.
    pub(super) async fn unequal(&self, key: &ObjectKey, written: &Written, what: &str) -> Failure {
        let fate = self.fate(key, written).await;
        self.not_equal(key, &format!("{what}; {fate}"))
    }

    /// Returns the failure of an object whose published copy lacks an attribute that the job
    /// requires.
    pub(super) async fn unkept(&self, key: &ObjectKey, written: &Written, what: &str) -> Failure {
        let fate = self.fate(key, written).await;
        let place = self.sides.destination.place(key);
        Failure::new(
            FailureKind::NotKept,
            Operation::HeadObject,
            place,
            format!("{what}; {fate}"),
        )
    }

    /// Does with a bad copy what the job says, and returns that in words.
    async fn fate(&self, key: &ObjectKey, written: &Written) -> String {
        match self.sides.transfer.proof.on_mismatch {
            OnMismatch::Keep => "the copy was kept (`on_mismatch: keep`)".to_owned(),
            OnMismatch::Remove => self.take_back(key, written).await,
        }
    }

    /// The failure of an object that would not be equal; nothing was published.
    pub(super) fn not_equal(&self, key: &ObjectKey, what: &str) -> Failure {
        let place = self.sides.destination.place(key);
        Failure::new(FailureKind::NotEqual, Operation::HeadObject, place, what)
    }

    /// The failure of an object that can not have, or does not have, the proof that the job
    /// demands.
    pub(super) fn unprovable(&self, key: &ObjectKey, why: &str) -> Failure {
        let place = self.sides.destination.place(key);
        Failure::new(FailureKind::Unprovable, Operation::HeadObject, place, why)
    }

    /// Lets pass what is as strong as the job demands of an object that is there.
    pub(super) fn enough(&self, key: &ObjectKey, proof: Proof) -> Result<Proof, Failure> {
        if self.sides.transfer.proof.verify == Verify::RequireChecksum && !proof.is_checksum() {
            let why = format!("the copy is there, but no checksum proves it (only: {proof})");
            return Err(self.unprovable(key, &why));
        }
        Ok(proof)
    }

    /// Removes what this run wrote; what it came to, in words.
    async fn take_back(&self, key: &ObjectKey, written: &Written) -> String {
        let destination = &self.sides.destination;
        if written.was_found {
            return "the copy was kept, because the answer to its write was lost: it may be somebody else's"
                .to_owned();
        }
        let version = written
            .version
            .as_deref()
            .filter(|version| *version != "null");
        let capabilities = destination.capabilities();
        if version.is_none()
            && !(capabilities.conditional_deletes && capabilities.believes_answers())
        {
            return "the copy was kept, because this server cannot be relied on to delete on condition of an ETag"
                .to_owned();
        }
        match (
            destination
                .delete_object(key, version, Some(&written.etag))
                .await,
            version,
        ) {
            (Ok(()), Some(version)) => format!("its version {version} was removed"),
            (Ok(()), None) => "the copy was removed".to_owned(),
            (Err(failure), _) => {
                format!("the copy was kept, because it could not be removed: {failure}")
            }
        }
    }
}
