//! Chooses which attributes to omit if a server refuses to create an object with all of them.
//!
//! S3 refuses the whole request if one attribute may not be set, and seldom names the attribute. An
//! attribute with the policy `try` must not fail the object, so the next attempt omits the
//! attribute that the error names. If the error names none, the next attempts omit each possible
//! attribute in turn, and finally all of them.

use super::attributes::{headers, set_tags};
use super::loss::{Loss, Lost};
use crate::location::BucketName;
use crate::manifest::job::{Attribute, Policy, Transfer};
use crate::s3::{Attributes, ContentHeaders, Failure, FailureKind, Lock, Tags};

/// Returns the attributes that may be omitted: those that come from the source with the policy
/// `try`.
#[must_use]
pub fn optional(attributes: &Attributes, transfer: &Transfer) -> Vec<Attribute> {
    let all = Attribute::ALL.into_iter();
    let tried = all.filter(|attribute| transfer.preserve.of(*attribute) == Policy::Try);
    tried
        .filter(|attribute| without(attributes, &[*attribute], transfer) != *attributes)
        .collect()
}

/// Returns `attributes` without the source's values for the attributes in `out`. Keeps values that
/// the job sets.
#[must_use]
pub fn without(attributes: &Attributes, out: &[Attribute], transfer: &Transfer) -> Attributes {
    let mut left = attributes.clone();
    for attribute in out {
        match attribute {
            Attribute::Metadata => left.metadata.clone_from(&transfer.set.metadata),
            Attribute::Headers => left.headers = headers(ContentHeaders::default(), transfer),
            Attribute::Tags => left.tags = Tags::Exactly(set_tags(transfer)),
            Attribute::StorageClass => left.storage_class.clone_from(&transfer.to.storage_class),
            Attribute::Encryption => left.encryption.clone_from(&transfer.to.encryption),
            Attribute::Lock => left.lock = Lock::default(),
            Attribute::Acl => left.grants.clear(),
            Attribute::Annotations => left.annotations = false,
        }
    }
    left
}

/// Returns the attributes to omit in each of the next attempts after a refusal. Returns nothing if
/// the refusal does not concern the `optional` attributes.
#[must_use]
pub fn suspects(failure: &Failure, optional: &[Attribute]) -> Vec<Vec<Attribute>> {
    let details = failure.details();
    let named = |words: &[&str]| words.iter().any(|word| details.message.contains(word));
    let denied: Vec<_> = Attribute::ALL
        .into_iter()
        .filter(|attribute| has_own_permission(*attribute))
        .collect();
    let (only, meant): (bool, &[Attribute]) = match (&details.kind, details.code.as_str()) {
        (_, "AccessControlListNotSupported") => (true, &[Attribute::Acl]),
        (_, "InvalidStorageClass") => (true, &[Attribute::StorageClass]),
        (_, "MetadataTooLarge") => (true, &[Attribute::Metadata]),
        (_, "InvalidTag") => (true, &[Attribute::Tags]),
        // Amazon S3 names the denied action in its message; other servers seldom do.
        (FailureKind::Denied, _) if named(&["ObjectTagging", "ObjectVersionTagging"]) => {
            (true, &[Attribute::Tags])
        }
        (FailureKind::Denied, _) if named(&["ObjectRetention", "ObjectLegalHold"]) => {
            (true, &[Attribute::Lock])
        }
        (FailureKind::Denied, _) if named(&["ObjectAcl"]) => (true, &[Attribute::Acl]),
        (FailureKind::Denied, _) if named(&["ObjectAnnotation"]) => {
            (true, &[Attribute::Annotations])
        }
        // The message names another action, so the caller may not read or write the object itself.
        (FailureKind::Denied, _) if named(&["s3:", "kms:"]) => (true, &[]),
        (FailureKind::Denied, _) => (false, &denied),
        (FailureKind::Invalid, _) if named(&["Object Lock", "ObjectLock"]) => {
            (true, &[Attribute::Lock])
        }
        // The server does not know one of the headers.
        (FailureKind::Unsupported, _) => (false, &Attribute::ALL),
        _ => (true, &[]),
    };
    let possible: Vec<_> = meant
        .iter()
        .copied()
        .filter(|attribute| optional.contains(attribute))
        .collect();
    let mut attempts: Vec<_> = possible.iter().map(|attribute| vec![*attribute]).collect();
    if !only && possible.len() > 1 {
        attempts.push(possible);
    }
    attempts
}

/// Returns the loss of an attribute that `bucket` refuses.
#[must_use]
pub fn refused(attribute: Attribute, failure: &Failure, bucket: &BucketName) -> Loss {
    let details = failure.details();
    let reason = match (attribute, &details.kind) {
        (_, FailureKind::Denied) => format!("{} missing on {bucket}", write_permission(attribute)),
        (Attribute::Acl, _) if details.code == "AccessControlListNotSupported" => {
            format!("ACLs are disabled on {bucket}")
        }
        (Attribute::Lock, FailureKind::Invalid) if is_lockless(&details.message) => {
            format!("{bucket} has no Object Lock")
        }
        (Attribute::Lock, FailureKind::Invalid) => {
            let message = details.message.trim_end_matches('.');
            format!("{bucket} refuses it ({}: {message})", details.code)
        }
        (_, FailureKind::NotUnderstood) => format!("{bucket} does not know {}", details.operation),
        _ => format!("{bucket} refuses it ({})", details.code),
    };
    Loss::new(attribute, Lost::NotSet, reason)
}

/// Returns true for S3's message about a lock in a bucket without Object Lock.
fn is_lockless(message: &str) -> bool {
    message
        .to_ascii_lowercase()
        .contains("missing object lock configuration")
}

/// Returns the loss of an attribute that could not be read from `bucket`.
#[must_use]
pub fn unreadable(
    attribute: Attribute,
    permission: &str,
    failure: &Failure,
    bucket: &BucketName,
) -> Loss {
    let reason = match failure.kind() {
        FailureKind::Denied => format!("{permission} missing on {bucket}"),
        _ => without_answer(failure, bucket),
    };
    Loss::new(attribute, Lost::NotReadable, reason)
}

/// Explains why `bucket` did not show an attribute, worded the same for all objects of the bucket.
#[must_use]
pub fn without_answer(failure: &Failure, bucket: &BucketName) -> String {
    let details = failure.details();
    match details.kind {
        FailureKind::NotUnderstood | FailureKind::Unreadable => {
            format!("{bucket} does not know {}", details.operation)
        }
        _ => format!("{bucket} refuses it ({})", details.code),
    }
}

/// Returns true for attributes that are lost on every object of a bucket, not only on objects of
/// some class or size.
#[must_use]
pub const fn concerns_whole_bucket(attribute: Attribute) -> bool {
    has_own_permission(attribute)
}

/// Returns true for attributes that require a separate permission besides writing the object.
const fn has_own_permission(attribute: Attribute) -> bool {
    match attribute {
        Attribute::Tags | Attribute::Lock | Attribute::Acl | Attribute::Annotations => true,
        Attribute::Metadata
        | Attribute::Headers
        | Attribute::StorageClass
        | Attribute::Encryption => false,
    }
}

const fn write_permission(attribute: Attribute) -> &'static str {
    match attribute {
        Attribute::Tags => "s3:PutObjectTagging",
        Attribute::Lock => "s3:PutObjectRetention or s3:PutObjectLegalHold",
        Attribute::Acl => "s3:PutObjectAcl",
        Attribute::Annotations => "s3:GetObjectAnnotation at the source or s3:PutObjectAnnotation",
        Attribute::Metadata
        | Attribute::Headers
        | Attribute::StorageClass
        | Attribute::Encryption => "s3:PutObject",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::job::{Destination, Preset, Source};
    use crate::s3::{Operation, Tag};

    fn transfer() -> Transfer {
        let location = "s3://destination/".parse().unwrap();
        let to = Destination {
            endpoint: "default".into(),
            location,
            storage_class: None,
            encryption: None,
            acl: None,
        };
        Transfer::new("t", Source::Stdin, to)
    }

    fn failure(kind: FailureKind, message: &str) -> Failure {
        Failure::new(kind, Operation::CopyObject, "b/k", message)
    }

    fn full() -> Attributes {
        let tags = Tags::Exactly(vec![Tag {
            key: "a".into(),
            value: "b".into(),
        }]);
        let lock = Lock {
            retention: None,
            legal_hold: Some(true),
        };
        Attributes {
            tags,
            lock,
            storage_class: Some("GLACIER".into()),
            metadata: [("m".into(), "n".into())].into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn only_what_is_tried_and_there_may_be_left_out() {
        use Attribute::{Lock, Metadata, StorageClass, Tags};
        let mut transfer = transfer();
        assert_eq!(
            optional(&full(), &transfer),
            [Tags, StorageClass, Lock],
            "metadata is required"
        );
        transfer.to.storage_class = Some("GLACIER".into());
        assert_eq!(
            optional(&full(), &transfer),
            [Tags, Lock],
            "the class is the job's own wish"
        );
        transfer.preserve = Preset::Everything.into();
        assert_eq!(optional(&full(), &transfer), []);
        transfer.preserve.metadata = Policy::Try;
        transfer.set.metadata.insert("kept".into(), "always".into());
        assert_eq!(optional(&full(), &transfer), [Metadata]);
        assert_eq!(
            without(&full(), &[Metadata], &transfer).metadata,
            transfer.set.metadata
        );
    }

    #[test]
    fn an_answer_that_names_the_attribute_costs_one_attempt() {
        use Attribute::{Acl, Lock, StorageClass, Tags};
        let all = Attribute::ALL;
        let denied = |action: &str| {
            let message =
                format!("User: arn:x is not authorized to perform: {action} on resource: y");
            suspects(&failure(FailureKind::Denied, &message), &all)
        };
        assert_eq!(denied("s3:PutObjectTagging"), [[Tags]]);
        assert_eq!(denied("s3:PutObjectLegalHold"), [[Lock]]);
        assert_eq!(denied("s3:PutObjectAcl"), [[Acl]]);
        assert_eq!(denied("s3:PutObject"), Vec::<Vec<_>>::new());
        assert_eq!(denied("kms:GenerateDataKey"), Vec::<Vec<_>>::new());
        let lock = failure(
            FailureKind::Invalid,
            "Bucket is missing Object Lock Configuration",
        );
        assert_eq!(suspects(&lock, &all), [[Lock]]);
        assert_eq!(
            suspects(&failure(FailureKind::Invalid, "wrong"), &all),
            Vec::<Vec<_>>::new()
        );
        assert_eq!(
            suspects(&failure(FailureKind::NotFound, ""), &all),
            Vec::<Vec<_>>::new()
        );
        let unknown = suspects(&failure(FailureKind::Unsupported, ""), &[StorageClass]);
        assert_eq!(unknown, [[StorageClass]]);
    }

    #[test]
    fn an_answer_that_names_nothing_is_tried_out_one_by_one() {
        use Attribute::{Lock, StorageClass, Tags};
        let denied = failure(FailureKind::Denied, "Access Denied");
        let attempts = suspects(&denied, &[Tags, StorageClass, Lock]);
        assert_eq!(attempts, [vec![Tags], vec![Lock], vec![Tags, Lock]]);
        assert_eq!(suspects(&denied, &[Tags]), [[Tags]]);
        assert_eq!(suspects(&denied, &[StorageClass]), Vec::<Vec<_>>::new());
    }

    #[test]
    fn a_loss_names_the_permission_and_the_bucket() {
        let bucket = "lake".parse().unwrap();
        let denied = failure(FailureKind::Denied, "Access Denied");
        let text = |loss: Loss| loss.to_string();
        assert_eq!(
            text(unreadable(
                Attribute::Tags,
                "s3:GetObjectTagging",
                &denied,
                &bucket
            )),
            "tags not readable: s3:GetObjectTagging missing on lake"
        );
        assert_eq!(
            text(refused(Attribute::Tags, &denied, &bucket)),
            "tags not set: s3:PutObjectTagging missing on lake"
        );
        let lock = failure(
            FailureKind::Invalid,
            "Bucket is missing Object Lock Configuration",
        );
        assert_eq!(
            text(refused(Attribute::Lock, &lock, &bucket)),
            "lock not set: lake has no Object Lock"
        );
        let other = failure(FailureKind::Invalid, "Content-MD5 is required.");
        let text = text(refused(Attribute::Lock, &other, &bucket));
        assert!(
            text.starts_with("lock not set: lake refuses it (")
                && text.ends_with(": Content-MD5 is required)"),
            "{text}"
        );
    }
}
