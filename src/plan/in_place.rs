//! Decides which objects need an in-place change, and which attributes the change must keep.
//!
//! S3 changes the storage class, headers, metadata, or encryption of an object only by writing it
//! again: with `CopyObject` onto itself, or with a multipart copy above 5 GiB. The request replaces
//! the old object, so any attribute that it does not set on the new object is lost. Therefore every
//! attribute that the job does not change is required, whatever `preserve` says about copies.

use jiff::Timestamp;

use super::adopt::difference;
use super::attributes::{merged_tags, of_copy, set_tags};
use super::decide::Route;
use crate::manifest::job::{Attribute, CannedAcl, Parts, Policy, Transfer};
use crate::s3::{Capabilities, Grant, Head, Permission, Tag, Tags};
use crate::size::{ByteSize, GIB};

/// The group of all users, as grants name it.
const EVERYBODY: &str = "uri=\"http://acs.amazonaws.com/groups/global/AllUsers\"";
/// The group of all AWS accounts, as grants name it.
const ALL_ACCOUNTS: &str = "uri=\"http://acs.amazonaws.com/groups/global/AuthenticatedUsers\"";

/// Returns the transfer with the policies of an in-place change: everything that the job does not
/// change is required.
#[must_use]
pub fn strict(transfer: &Transfer, capabilities: &Capabilities) -> Transfer {
    let mut strict = transfer.clone();
    for attribute in Attribute::ALL {
        let policy = transfer.preserve.of(attribute);
        let is_kept = match attribute {
            // Copies do not keep the ACL and annotations by default, but an in-place change must
            // keep them.
            Attribute::Acl => transfer.to.acl.is_none() && policy != Policy::Replace,
            Attribute::Annotations => capabilities.annotations,
            Attribute::Metadata
            | Attribute::Headers
            | Attribute::Tags
            | Attribute::StorageClass
            | Attribute::Encryption
            | Attribute::Lock => policy.keeps(),
        };
        if is_kept {
            strict.preserve.set(attribute, Policy::Require);
        }
    }
    // Unlike an upload in parts, a single request changes the object in one step and keeps
    // annotations and long tags.
    if transfer.parts.threshold == Parts::default().threshold {
        strict.parts.threshold = ByteSize(5 * GIB);
    }
    strict
}

/// The result of comparing the listed storage class of an object with the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedState {
    /// The object has a storage class other than the one that the job sets.
    Differs,
    /// The object has the storage class, and the job changes nothing else.
    AsSet,
    /// HEAD must decide.
    Unknown,
}

/// Compares the storage class that a list shows (`None` is STANDARD) with the class that the job
/// sets.
#[must_use]
pub fn by_class(transfer: &Transfer, class: Option<&str>) -> ListedState {
    let wanted = transfer.to.storage_class.as_deref();
    if wanted.is_some_and(|wanted| wanted != class.unwrap_or("STANDARD")) {
        return ListedState::Differs;
    }
    let mut without = transfer.clone();
    without.to.storage_class = None;
    if wanted.is_some() && !without.changes_attributes() {
        ListedState::AsSet
    } else {
        ListedState::Unknown
    }
}

/// Returns true if the tags of an object decide whether it needs a change.
#[must_use]
pub fn needs_tags(transfer: &Transfer, capabilities: &Capabilities) -> bool {
    capabilities.tags && (!transfer.set.tags.is_empty() || !transfer.preserve.tags.keeps())
}

/// Returns the first attribute in which an object differs from the wanted state. `tags` are empty
/// unless [`needs_tags`]. If `may_change` is true, values that the server may have changed count as
/// equal.
#[must_use]
pub fn unlike(
    head: &Head,
    tags: &[Tag],
    transfer: &Transfer,
    capabilities: &Capabilities,
    now: Timestamp,
    may_change: bool,
) -> Option<Attribute> {
    // If the changed object cannot keep an attribute, report a difference. The change then fails
    // with the reason.
    let wanted = match of_copy(head, transfer, capabilities, &Route::Copy, now) {
        Ok(spec) => spec.attributes,
        Err(loss) => return Some(loss.attribute),
    };
    let wanted_tags = if !needs_tags(transfer, capabilities) {
        Vec::new()
    } else if transfer.preserve.tags.keeps() {
        match merged_tags(tags.to_vec(), transfer) {
            Ok(merged) => merged,
            Err(loss) => return Some(loss.attribute),
        }
    } else {
        set_tags(transfer)
    };
    let wanted = crate::s3::Attributes {
        tags: Tags::Exactly(wanted_tags),
        ..wanted
    };
    difference(&wanted, head, tags, may_change)
}

/// Compares the grants of an object with a canned ACL. `grants` is empty if only the owner has
/// grants. Returns `None` if grants cannot decide: for instance, they do not show whether the owner
/// of the bucket also owns the object.
#[must_use]
pub fn has_acl(acl: CannedAcl, grants: &[Grant]) -> Option<bool> {
    let only = |grantee: &str| {
        let (owners, others): (Vec<_>, Vec<_>) = grants
            .iter()
            .partition(|grant| grant.permission == Permission::FullControl);
        let is_read =
            |grant: &&Grant| grant.permission == Permission::Read && grant.grantee == grantee;
        owners.len() == 1 && others.len() == 1 && others.iter().all(is_read)
    };
    match acl {
        CannedAcl::Private => Some(grants.is_empty()),
        CannedAcl::PublicRead => Some(only(EVERYBODY)),
        CannedAcl::AuthenticatedRead => Some(only(ALL_ACCOUNTS)),
        CannedAcl::PublicReadWrite
        | CannedAcl::AwsExecRead
        | CannedAcl::BucketOwnerRead
        | CannedAcl::BucketOwnerFullControl => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::job::{DEFAULT_ENDPOINT, Destination, Encryption, Source};
    use crate::s3::ContentHeaders;

    fn transfer(change: impl FnOnce(&mut Transfer)) -> Transfer {
        let endpoint = DEFAULT_ENDPOINT.to_owned();
        let location: crate::location::S3Uri = "s3://a-b/".parse().unwrap();
        let from = Source::Prefix {
            endpoint: endpoint.clone(),
            location: location.clone(),
        };
        let to = Destination {
            endpoint,
            location,
            storage_class: None,
            encryption: None,
            acl: None,
        };
        let mut transfer = Transfer::new("t", from, to);
        change(&mut transfer);
        strict(&transfer, &Capabilities::AWS)
    }

    #[test]
    fn what_the_job_does_not_change_is_required() {
        let class = transfer(|transfer| transfer.to.storage_class = Some("GLACIER_IR".into()));
        for attribute in Attribute::ALL {
            assert_eq!(class.preserve.of(attribute), Policy::Require, "{attribute}");
        }
        let acl = transfer(|transfer| transfer.to.acl = Some(CannedAcl::Private));
        assert_eq!(acl.preserve.acl, Policy::Skip);
        let dropped = transfer(|transfer| transfer.preserve.metadata = Policy::Skip);
        assert_eq!(
            dropped.preserve.metadata,
            Policy::Skip,
            "who says skip in place wants it gone"
        );
    }

    #[test]
    fn the_list_decides_about_the_class_alone() {
        let class = transfer(|transfer| transfer.to.storage_class = Some("GLACIER_IR".into()));
        assert_eq!(by_class(&class, None), ListedState::Differs);
        assert_eq!(by_class(&class, Some("GLACIER_IR")), ListedState::AsSet);
        let mut more = class.clone();
        more.set.cache_control = Some("no-store".into());
        assert_eq!(by_class(&more, Some("GLACIER_IR")), ListedState::Unknown);
        assert_eq!(by_class(&more, Some("GLACIER")), ListedState::Differs);
        let standard = transfer(|transfer| transfer.to.storage_class = Some("STANDARD".into()));
        assert_eq!(by_class(&standard, None), ListedState::AsSet);
    }

    #[test]
    fn an_object_that_has_all_of_it_needs_no_change() {
        let headers = ContentHeaders {
            cache_control: Some("no-store".into()),
            ..ContentHeaders::default()
        };
        let metadata = [
            ("a".to_owned(), "1".to_owned()),
            ("b".to_owned(), "2".to_owned()),
        ]
        .into();
        let head = Head {
            headers,
            metadata,
            encryption: Some(Encryption::S3),
            size: 1,
            ..Head::default()
        };
        let tag = |key: &str, value: &str| Tag {
            key: key.into(),
            value: value.into(),
        };
        let differs = |change: fn(&mut Transfer), tags: Vec<Tag>| {
            unlike(
                &head,
                &tags,
                &transfer(change),
                &Capabilities::AWS,
                Timestamp::UNIX_EPOCH,
                false,
            )
        };
        let none = Vec::new;
        assert_eq!(
            differs(
                |job| job.set.cache_control = Some("no-store".into()),
                none()
            ),
            None
        );
        assert_eq!(
            differs(
                |job| job.set.cache_control = Some("max-age=1".into()),
                none()
            ),
            Some(Attribute::Headers)
        );
        assert_eq!(
            differs(
                |job| job.set.metadata = [("a".into(), "1".into())].into(),
                none()
            ),
            None
        );
        assert_eq!(
            differs(
                |job| job.set.metadata = [("a".into(), "2".into())].into(),
                none()
            ),
            Some(Attribute::Metadata)
        );
        assert_eq!(
            differs(|job| job.preserve.metadata = Policy::Skip, none()),
            Some(Attribute::Metadata)
        );
        assert_eq!(
            differs(|job| job.to.encryption = Some(Encryption::S3), none()),
            None
        );
        let kms = Encryption::Kms {
            key: None,
            bucket_key: None,
            dsse: false,
        };
        let mut job = transfer(|_| {});
        job.to.encryption = Some(kms);
        let found = unlike(
            &head,
            &none(),
            &job,
            &Capabilities::AWS,
            Timestamp::UNIX_EPOCH,
            false,
        );
        assert_eq!(found, Some(Attribute::Encryption));
        let tagged: fn(&mut Transfer) = |job| job.set.tags = [("x".into(), "1".into())].into();
        assert_eq!(differs(tagged, vec![tag("y", "2"), tag("x", "1")]), None);
        assert_eq!(differs(tagged, vec![tag("y", "2")]), Some(Attribute::Tags));
        assert_eq!(
            differs(|job| job.to.storage_class = Some("STANDARD".into()), none()),
            None
        );
    }

    #[test]
    fn some_canned_acls_show_in_the_grants() {
        let grant = |grantee: &str| {
            let owner = Grant {
                permission: Permission::FullControl,
                grantee: "id=\"me\"".into(),
            };
            vec![
                owner,
                Grant {
                    permission: Permission::Read,
                    grantee: grantee.into(),
                },
            ]
        };
        assert_eq!(has_acl(CannedAcl::Private, &[]), Some(true));
        assert_eq!(has_acl(CannedAcl::Private, &grant(EVERYBODY)), Some(false));
        assert_eq!(
            has_acl(CannedAcl::PublicRead, &grant(EVERYBODY)),
            Some(true)
        );
        assert_eq!(
            has_acl(CannedAcl::PublicRead, &grant(ALL_ACCOUNTS)),
            Some(false)
        );
        assert_eq!(has_acl(CannedAcl::BucketOwnerFullControl, &[]), None);
    }
}
