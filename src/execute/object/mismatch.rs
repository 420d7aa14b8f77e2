//! Handles a published copy that is not equal to its source, or lacks the proof that the job
//! demands.
//!
//! s3haul deletes nothing unless the job says so, and then only the object that this run wrote. In
//! a versioned bucket, it deletes that version; elsewhere, it deletes the object on the condition
//! that it still has the `ETag` of the copy. If the server cannot be trusted to check that
//! condition, the copy stays, and the report says so.

use super::ObjectTask;
use crate::execute::receipt::Proof;
use crate::manifest::job::{OnMismatch, Verify, Versions, When};
use crate::s3::{Failure, FailureKind, Operation, Written, is_immutable_version};

impl ObjectTask<'_> {
    /// Keeps or removes a published copy that is not equal to its source, as `on_mismatch` says,
    /// and returns the failure.
    pub(super) async fn reject_published(&self, written: &Written, what: &str) -> Failure {
        let fate = self.keep_or_remove(written).await;
        self.not_equal(&format!("{what}; {fate}"))
    }

    /// Returns the failure of an object whose published copy lacks an attribute that the job
    /// requires.
    pub(super) async fn reject_incomplete(&self, written: &Written, what: &str) -> Failure {
        let fate = self.keep_or_remove(written).await;
        let place = self.place();
        Failure::new(
            FailureKind::NotKept,
            Operation::HeadObject,
            place,
            format!("{what}; {fate}"),
        )
    }

    /// Keeps or removes a bad copy, as `on_mismatch` says. Returns the outcome in words.
    async fn keep_or_remove(&self, written: &Written) -> String {
        match self.context.sides.transfer.proof.on_mismatch {
            OnMismatch::Keep => {
                let transfer = &self.context.sides.transfer;
                let next = next_run(
                    transfer.when,
                    &transfer.versions,
                    self.context.journal.keeps(),
                );
                format!("the copy was kept (`on_mismatch: keep`); {next}")
            }
            OnMismatch::Remove => self.remove_copy(written).await,
        }
    }

    /// Returns the failure of an object that is not equal to its source, or would not be.
    pub(super) fn not_equal(&self, what: &str) -> Failure {
        let place = self.place();
        Failure::new(FailureKind::NotEqual, Operation::HeadObject, place, what)
    }

    /// Returns the failure of an object that cannot have, or does not have, the proof that the job
    /// demands.
    pub(super) fn unprovable(&self, why: &str) -> Failure {
        let place = self.place();
        Failure::new(FailureKind::Unprovable, Operation::HeadObject, place, why)
    }

    /// Returns the proof if it is as strong as the job demands, and fails the object otherwise.
    pub(super) fn require_strength(&self, proof: Proof) -> Result<Proof, Failure> {
        if self.context.sides.transfer.proof.verify == Verify::RequireChecksum
            && !proof.is_checksum()
        {
            let why = format!("the copy is there, but no checksum proves it (only: {proof})");
            return Err(self.unprovable(&why));
        }
        Ok(proof)
    }

    /// Tries to remove the object that this run wrote. Returns the outcome in words.
    async fn remove_copy(&self, written: &Written) -> String {
        let (destination, key) = (self.destination(), &self.step.key);
        if written.was_found {
            return "the copy was kept, because the answer to its write was lost: it may be somebody else's"
                .to_owned();
        }
        let version = written
            .version
            .as_deref()
            .filter(|version| is_immutable_version(version));
        let capabilities = destination.capabilities();
        if version.is_none()
            && !(capabilities.conditional_deletes && capabilities.believes_answers())
        {
            return "the copy was kept, because this server cannot be trusted to delete only an object with its ETag"
                .to_owned();
        }
        let deleted = destination.delete_object(key, version, Some(&written.etag));
        match deleted.await {
            Ok(()) => self.confirm_removal(version, &written.etag).await,
            Err(failure) => {
                format!("the copy was kept, because it could not be removed: {failure}")
            }
        }
    }

    /// Checks that a bad copy no longer exists after the server confirmed its removal, and returns
    /// the outcome in words. Servers other than Amazon S3 may confirm the removal and keep the
    /// copy.
    async fn confirm_removal(&self, version: Option<&str>, etag: &str) -> String {
        let (destination, key) = (self.destination(), &self.step.key);
        let removed = version.map_or_else(
            || "the copy was removed".to_owned(),
            |version| format!("its version {version} was removed"),
        );
        if destination.capabilities().refuses_what_it_lacks() {
            return removed;
        }
        match destination.head(key, version).await {
            Err(failure) if *failure.kind() == FailureKind::NotFound => removed,
            // Another writer's object has taken its place.
            Ok(found) if version.is_none() && found.etag != etag => removed,
            Ok(_) => "the copy is still there, although the server answered that it removed it"
                .to_owned(),
            Err(failure) => format!(
                "the server answered that it removed the copy, but does not show whether it did: {failure}"
            ),
        }
    }
}

/// Describes what the next run does with a bad copy that was kept.
fn next_run(when: When, versions: &Versions, has_journal: bool) -> &'static str {
    match (when, versions) {
        (When::Always, Versions::Current | Versions::AsOf(_)) => "the next run copies it again",
        (_, Versions::All) => "the next run may find it unchanged (`versions: all`)",
        (When::Missing | When::Changed, _) if !has_journal => {
            "without a journal, the next run may find it unchanged"
        }
        (When::Missing, _) => {
            "the next run with this journal fails, because `when: missing` replaces nothing"
        }
        (When::Changed, _) => "the next run with this journal copies it again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_run_copies_a_bad_copy_again_only_if_the_job_lets_it() {
        for (when, versions, has_journal, says) in [
            (When::Changed, Versions::Current, true, "copies it again"),
            (When::Changed, Versions::Current, false, "without a journal"),
            (When::Always, Versions::Current, false, "copies it again"),
            (When::Missing, Versions::Current, true, "fails"),
            (When::Missing, Versions::Current, false, "without a journal"),
            (When::Changed, Versions::All, true, "may find it unchanged"),
        ] {
            let text = next_run(when, &versions, has_journal);
            assert!(
                text.contains(says),
                "{when:?} {versions:?} {has_journal}: {text}"
            );
        }
    }
}
