//! Sets tags and annotations on an object after it was created.
//!
//! Servers other than Amazon S3 may ignore these attributes, change them, or store them as the
//! content of the object, so s3haul reads them back.

use bytes::Bytes;

use crate::execute::object::ObjectTask;
use crate::execute::refusals::AttributeAnswer;
use crate::plan::asked::{Asked, Unlike};
use crate::s3::{AnnotationEntry, Attributes, Failure, FailureKind, Head, Operation, Tag, Tags};

impl ObjectTask<'_> {
    /// Adds an annotation to an existing object, and reads it back if the server may ignore or
    /// change it.
    pub(super) async fn put_late_annotation(
        &self,
        (etag, version): (&str, Option<&str>),
        entry: &AnnotationEntry,
        text: Bytes,
    ) -> Result<(), Failure> {
        let (destination, key) = (self.destination(), &self.step.key);
        let name = &entry.name;
        destination
            .put_annotation(key, version, etag, name, text.clone())
            .await?;
        if destination.capabilities().refuses_what_it_lacks() {
            return Ok(());
        }
        match destination.annotation(key, version, entry).await {
            Ok(found) if found == text => Ok(()),
            Err(failure) if *failure.kind() == FailureKind::Denied => Ok(()),
            Err(failure) if !failure.is_no_answer() => Err(failure),
            Ok(_) | Err(_) => Err(Failure::new(
                FailureKind::NotUnderstood,
                Operation::PutObjectAnnotation,
                destination.place(key),
                format!("the server did not keep the annotation {name}"),
            )),
        }
    }

    /// Sets the tags of an existing object. Checks once per bucket that the server does not ignore
    /// the tags, or store them as the content of the object.
    pub(in crate::execute::object) async fn put_late_tags(
        &self,
        (etag, version): (&str, Option<&str>),
        tags: &[Tag],
    ) -> Result<(), Failure> {
        let (destination, key) = (self.destination(), &self.step.key);
        let place = || self.place();
        let unknown = |message: &str| {
            Failure::new(
                FailureKind::NotUnderstood,
                Operation::PutObjectTagging,
                place(),
                message,
            )
        };
        if destination.capabilities().refuses_what_it_lacks() {
            return destination.put_tags(key, version, tags).await;
        }
        if self
            .context
            .refusals
            .tags_replace_content(destination)
            .get()
            == Some(&true)
        {
            return Err(unknown(
                "the server stores tags as the content of an object",
            ));
        }
        destination.put_tags(key, version, tags).await?;
        let replaces = self.context.refusals.tags_replace_content(destination);
        let look = async { Ok::<_, Failure>(destination.head(key, version).await?.etag != etag) };
        let has_replaced = if destination.capabilities().believes_answers() {
            *replaces.get_or_try_init(|| Box::pin(look)).await?
        } else {
            Box::pin(look).await?
        };
        if has_replaced {
            let message = "the server stored the tags as the content of the object";
            return Err(self.not_equal(message));
        }
        if tags.is_empty() {
            return self.confirm_no_tags(version).await;
        }
        let attributes = Attributes {
            tags: Tags::Exactly(tags.to_vec()),
            ..Attributes::default()
        };
        let asked = Asked::of(&attributes, Operation::PutObjectTagging, false);
        // The tags of an object that is changed in place exist nowhere else, so they are always
        // checked.
        let for_each_object = self.context.sides.is_in_place();
        for question in asked.questions(&Head::default()) {
            let at = (key, version);
            let answer =
                self.context
                    .refusals
                    .answer(destination, asked, question, at, for_each_object);
            match answer.await? {
                AttributeAnswer::Kept | AttributeAnswer::NotReadable(_) => {}
                AttributeAnswer::NotKnown | AttributeAnswer::Unlike(Unlike::Nothing) => {
                    return Err(unknown("the server ignored the tags"));
                }
                AttributeAnswer::Unlike(Unlike::Other(how)) => {
                    return Err(unknown(&format!("the server did not keep the tags: {how}")));
                }
            }
        }
        Ok(())
    }

    /// Confirms that an object no longer has tags. Checks every object, because one object without
    /// tags proves nothing about others.
    async fn confirm_no_tags(&self, version: Option<&str>) -> Result<(), Failure> {
        let (destination, key) = (self.destination(), &self.step.key);
        match Box::pin(destination.tags(key, version)).await {
            Ok(left) if !left.is_empty() => Err(Failure::new(
                FailureKind::NotUnderstood,
                Operation::PutObjectTagging,
                destination.place(key),
                "the server did not remove the tags",
            )),
            // The object may have been deleted, or the server may return 404 for objects without
            // tags.
            Err(failure) if *failure.kind() == FailureKind::NotFound => {
                Box::pin(destination.head(key, version)).await.map(drop)
            }
            Err(failure) if *failure.kind() != FailureKind::Denied && !failure.is_no_answer() => {
                Err(failure)
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
