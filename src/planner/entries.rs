//! Lists the source of a transfer, and decides which entries are copied to which keys.
//!
//! It lists prefixes, walks directories, and sends HEAD for single objects and for objects that the
//! transfer names one by one. The selection and the key map then decide without another request.

use super::{Planned, Sides};
use crate::bucket::Bucket;
use crate::listing::filter::{Excluded, Filter};
use crate::listing::{Entry, Listing, ListingItem, bucket, chosen, local, versions};
use crate::location::ObjectKey;
use crate::manifest::job::{Selection, Source, Versions};
use crate::plan::decide::Skip;
use crate::plan::remap::RemapError;
use crate::s3::{Failure, FailureKind, Head, Operation};

impl Sides {
    /// Returns the source's entries, in order. May omit entries before `after`.
    pub(super) async fn entries(
        &self,
        filter: &Filter,
        after: Option<&ObjectKey>,
    ) -> Result<Listing, (String, Failure)> {
        if let (Versions::AsOf(time), Some(source)) = (self.transfer.versions, &self.source) {
            let (bucket, scope) = (source.clone(), self.scope());
            return Ok(match &self.transfer.chosen {
                Some(chosen) => versions::chosen_as_of(
                    bucket,
                    &scope,
                    (chosen, after),
                    time,
                    self.heads_at_once(),
                ),
                None => versions::as_of(bucket, scope, time),
            });
        }
        match (&self.transfer.from, &self.source) {
            (Source::Prefix { location, .. }, Some(source))
                if let Some(chosen) = &self.transfer.chosen =>
            {
                Ok(chosen::objects(
                    source,
                    &location.key,
                    (chosen, after),
                    self.heads_at_once(),
                ))
            }
            (Source::Prefix { .. }, Some(source)) => Ok(bucket::objects(
                source.clone(),
                self.source_reach(),
                after.map(ToString::to_string),
            )),
            (
                Source::Object {
                    location, version, ..
                },
                Some(source),
            ) => {
                let key = location.key.clone();
                let place = location.to_string();
                let head = if self.is_in_place() {
                    source.with_slot(self.look_in_place(&key)).await
                } else {
                    source
                        .with_slot(source.head(&key, version.as_deref()))
                        .await
                };
                let head = head.map_err(|failure| (place, failure))?;
                Ok(Listing::of(vec![ListingItem::Entry(Entry {
                    relative_at: self.relative_at(&key),
                    key,
                    size: head.size,
                    etag: Some(head.etag),
                    version: version.clone(),
                    modified: head.modified,
                    storage_class: head.storage_class,
                    archive: head.archive,
                })]))
            }
            // Check this here and not with the manifest, because it depends on the file system of
            // the run.
            (Source::Files { path, .. }, _)
                if path.as_path().is_dir() && !self.transfer.to.location.key.is_prefix() =>
            {
                let message = format!(
                    "the source is a directory, and {} is the key of one object; put a slash at its end",
                    self.transfer.to.location
                );
                let place = path.to_string();
                Err((
                    place.clone(),
                    Failure::new(FailureKind::Invalid, Operation::ReadFile, place, message),
                ))
            }
            (Source::Files { path, symlinks }, _)
                if let Some(chosen) = &self.transfer.chosen
                    && path.as_path().is_dir() =>
            {
                let own = &self.transfer.own_files;
                Ok(local::chosen_files(path, *symlinks, own, (chosen, after)))
            }
            (Source::Files { path, symlinks }, _) => Ok(local::files(
                path,
                *symlinks,
                filter,
                &self.transfer.own_files,
            )),
            // Standard input has no listing: the executor plans its only upload.
            (Source::Stdin, _) => Ok(Listing::of(Vec::new())),
            (Source::Prefix { location, .. } | Source::Object { location, .. }, None) => {
                let message = "the source has no connection";
                let place = location.to_string();
                let operation = Operation::ListObjects;
                let failure = Failure::new(FailureKind::Bug, operation, &*place, message);
                Err((place, failure))
            }
        }
    }

    /// Returns the byte offset at which the relative part of a source key begins.
    #[must_use]
    pub fn relative_at(&self, key: &ObjectKey) -> usize {
        match &self.transfer.from {
            Source::Prefix { location, .. } => location.key.as_str().len(),
            Source::Object { .. } => key.as_str().len() - key.file_name().len(),
            Source::Files { .. } | Source::Stdin => 0,
        }
    }

    /// Returns the destination key of an entry.
    ///
    /// # Errors
    /// Fails if the key map rejects the entry's key.
    pub fn key_of(&self, entry: &Entry) -> Result<ObjectKey, RemapError> {
        self.transfer.keys.destination_key(
            &self.transfer.to.location.key,
            entry.relative(),
            entry.size,
        )
    }

    /// Returns the rule that excludes an object that was rewritten after it was listed, if the
    /// selection excludes its state `now`.
    pub(crate) fn left_out_now(&self, listed: &Entry, now: &Entry) -> Option<Excluded> {
        // A history is planned as a whole.
        let is_history = self.transfer.versions == Versions::All;
        let is_fixed = is_history || listed.is_immutable() || !listed.differs_from(now);
        (!is_fixed).then(|| self.excluded_by(now)).flatten()
    }

    /// Returns the rule that excludes an entry, if the selection excludes it.
    pub(crate) fn excluded_by(&self, now: &Entry) -> Option<Excluded> {
        if self.transfer.select == Selection::default() {
            return None;
        }
        let class = now.storage_class.as_deref();
        Filter::new(&self.transfer.select)
            .admits(now.relative(), now.size, now.modified, class)
            .err()
            .filter(|rule| *rule != Excluded::ModifiedUnknown)
    }

    /// Sends HEAD for a listed object of the source.
    ///
    /// # Errors
    /// Fails if HEAD fails, or if the object's state at the time of `as_of` no longer exists.
    pub(super) async fn look_at_source(
        &self,
        source: &Bucket,
        entry: &Entry,
    ) -> Result<Head, Failure> {
        let head = source.head(&entry.key, entry.version.as_deref());
        let head = source.with_slot(head).await?;
        self.overwritten_since(entry, &head).map_or(Ok(head), Err)
    }

    /// Returns a failure if an object's state at the time of `as_of` no longer exists: its version
    /// `null` was overwritten after the list, and `head` shows a newer one.
    pub(crate) fn overwritten_since(&self, listed: &Entry, head: &Head) -> Option<Failure> {
        let Versions::AsOf(time) = self.transfer.versions else {
            return None;
        };
        let is_of_then = head.modified.map_or_else(
            || listed.etag.as_ref() == Some(&head.etag),
            |modified| modified <= time,
        );
        if is_of_then || listed.is_immutable() {
            return None;
        }
        let place = self.source.as_ref()?.place(&listed.key);
        let message = format!(
            "its version `null` was overwritten after it was listed, so the object of {time} is gone"
        );
        let operation = Operation::HeadObject;
        Some(Failure::new(
            FailureKind::NotFound,
            operation,
            place,
            message,
        ))
    }

    /// Applies the selection and the key map. Returns an entry with its destination key, or the
    /// plan for an entry that is not copied.
    pub(super) fn sift(
        &self,
        found: ListingItem,
        filter: &Filter,
    ) -> Result<(Entry, ObjectKey), Planned> {
        let entry = match found {
            ListingItem::Entry(entry) => entry,
            ListingItem::Ignored(place, why) => return Err(Planned::Ignored(place, why)),
            ListingItem::Unread(key, place, failure) => {
                return Err(Planned::Failed(ObjectKey::new(&key).ok(), place, failure));
            }
            ListingItem::Refused(place, failure) | ListingItem::Failed(place, failure) => {
                return Err(Planned::Unlisted(place, failure));
            }
        };
        // Consoles create an object at the prefix itself for an empty folder. It has no relative
        // key.
        if entry.relative().is_empty() {
            return Err(Planned::Ignored(entry.key.to_string(), "the prefix itself"));
        }
        let class = entry.storage_class.as_deref();
        let mut is_excluded = false;
        match filter.admits(entry.relative(), entry.size, entry.modified, class) {
            Ok(()) => {}
            Err(Excluded::ModifiedUnknown) => {
                let place = self.name_of(&entry);
                let kind = if self.source.is_none() {
                    FailureKind::Local
                } else {
                    FailureKind::ServerFault
                };
                let why = Excluded::ModifiedUnknown.to_string();
                let failure = Failure::new(kind, Operation::ListObjects, &*place, why);
                return Err(Planned::Failed(Some(entry.key), place, failure));
            }
            Err(_) if self.transfer.chosen.is_none() => {
                return Err(Planned::Excluded(entry.key));
            }
            // The job names the object, so the object needs a receipt.
            Err(_) => is_excluded = true,
        }
        match self.key_of(&entry) {
            Ok(key) if is_excluded => Err(Planned::Skip(Box::new(entry), key, Skip::NotSelected)),
            Ok(key) => Ok((entry, key)),
            Err(error) => {
                let place = self.name_of(&entry);
                let failure = Failure::new(
                    FailureKind::Invalid,
                    Operation::ListObjects,
                    &*place,
                    error.to_string(),
                );
                Err(Planned::Failed(Some(entry.key), place, failure))
            }
        }
    }
}
