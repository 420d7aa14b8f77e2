//! Decides which attributes the destination object gets.
//!
//! The decision is made once per object, from the source's HEAD and the transfer's policies. All
//! requests that can create the object use this decision, so objects of 1 byte and of 5 TiB keep
//! the same attributes. An attribute that cannot be kept is a loss if its policy is `try`, and
//! fails the object if its policy is `require`. The upload declares the checksum algorithm of the
//! *source* if S3 can compute it over the whole object. Only then can both sides be compared
//! without reading a byte.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::decide::Route;
use super::loss::{Loss, Lost};
use crate::manifest::attributes::{MAX_METADATA, MAX_TAGS};
use crate::manifest::job::{Attribute, Policy, Transfer};
use crate::s3::{
    Attributes, Capabilities, ChecksumAlgorithm, ChecksumKind, ContentHeaders, Encryption, Head,
    Lock, Operation, Retention, Tag, Tags,
};

/// Storage classes of other services and bucket types. A general purpose bucket refuses them.
const FOREIGN_CLASSES: [&str; 8] = [
    "EXPRESS_ONEZONE",
    "OUTPOSTS",
    "SNOW",
    "FSX_OPENZFS",
    "FSX_ONTAP",
    "AWS_BACKUP_WARM",
    "AWS_BACKUP_LOW_COST_WARM",
    "FILE_SYSTEM",
];
/// The maximum number of bytes of tags that s3haul sends in `x-amz-tagging`.
const MAX_TAGGING: usize = 2048;
/// The maximum number of bytes of attributes in one request. S3 accepts 8 KB of headers. The name
/// of the source, the signature, and the SDK's headers need up to 4 KB.
const MAX_ATTRIBUTES: usize = 4096;

/// The note for a retention that has ended. The copy does not keep it, because S3 would refuse it
/// and it would protect nothing.
pub const RETENTION_ENDED: &str = "the retention of the source has ended, so the copy gets none";

/// The attributes of a copy, as far as they follow from HEAD of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The attributes that are known so far. Tags and grants may require further requests, see
    /// [`Reads`].
    pub attributes: Attributes,
    /// The attributes that are already lost.
    pub losses: Vec<Loss>,
    /// A note about an attribute that the copy does not keep because it no longer has an effect.
    pub note: Option<&'static str>,
}

/// The requests that are needed to decide on the attributes of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one request or none")]
pub struct Reads {
    /// HEAD of the source. It is not needed if one request copies only the content: the listing has
    /// the size, and the listed `ETag` pins the source and proves the copy. A copy that keeps
    /// attributes needs HEAD, because a listing does not show them; a copy in parts needs HEAD for
    /// the checksum of the whole object.
    pub head: bool,
    /// The tags. `CopyObject` copies tags itself, unless the job adds tags of its own or the server
    /// does not accept tags in headers.
    pub tags: bool,
    /// The ACL, which no request copies.
    pub acl: bool,
    /// The annotations. `CopyObject` copies annotations itself.
    pub annotations: bool,
}

impl Reads {
    /// Returns the requests that are needed for an object that takes `route`.
    #[must_use]
    pub fn of(transfer: &Transfer, capabilities: &Capabilities, route: &Route) -> Self {
        let keeps = |attribute| transfer.preserve.of(attribute).keeps();
        let in_parts = matches!(route, Route::MultipartCopy(_));
        let tags_carried = !in_parts && transfer.set.tags.is_empty() && capabilities.tag_headers;
        let by_listing = transfer.preserve.is_content_only()
            && transfer.customer_keys.source.is_none()
            && capabilities.pins_copies()
            && capabilities.content_etags;
        Self {
            head: in_parts || !by_listing,
            tags: keeps(Attribute::Tags) && capabilities.tags && !tags_carried,
            acl: keeps(Attribute::Acl),
            annotations: keeps(Attribute::Annotations) && capabilities.annotations && in_parts,
        }
    }

    /// Iterates over the needed requests.
    pub fn operations(self) -> impl Iterator<Item = Operation> {
        let all = [
            (self.head, Operation::HeadObject),
            (self.tags, Operation::GetObjectTagging),
            (self.acl, Operation::GetObjectAcl),
            (self.annotations, Operation::ListObjectAnnotations),
        ];
        all.into_iter()
            .filter_map(|(needed, operation)| needed.then_some(operation))
    }
}

/// Returns the attributes of a copy of `head`, made at `now`.
///
/// # Errors
/// Returns a loss that the policy `require` forbids.
pub fn of_copy(
    head: &Head,
    transfer: &Transfer,
    capabilities: &Capabilities,
    route: &Route,
    now: Timestamp,
) -> Result<Spec, Loss> {
    let mut losses = Losses {
        transfer,
        losses: Vec::new(),
    };
    let keeps = |attribute| transfer.preserve.of(attribute).keeps();
    if keeps(Attribute::Tags) && !capabilities.tags && head.tag_count.is_some_and(|count| count > 0)
    {
        losses.add(
            Attribute::Tags,
            Lost::NotSet,
            "the destination keeps no tags",
        )?;
    }
    let tags = if keeps(Attribute::Tags) && capabilities.tags {
        Tags::AsSource
    } else {
        Tags::Exactly(set_tags(transfer))
    };
    let attributes = Attributes {
        headers: headers(
            if keeps(Attribute::Headers) {
                head.headers.clone()
            } else {
                ContentHeaders::default()
            },
            transfer,
        ),
        metadata: metadata(head, transfer, &mut losses)?,
        tags,
        storage_class: storage_class(head, transfer, &mut losses)?,
        encryption: encryption(head, transfer, &mut losses)?,
        checksum: capabilities
            .checksums
            .then(|| checksum(head, route))
            .flatten(),
        lock: lock(head, now, &mut losses)?,
        grants: Vec::new(),
        acl: transfer.to.acl,
        annotations: keeps(Attribute::Annotations) && *route == Route::Copy,
    };
    let has_ended = |retention: &Retention| retention.until <= now;
    let is_ended = head.lock.retention.as_ref().is_some_and(has_ended);
    Ok(Spec {
        attributes,
        losses: losses.losses,
        note: (is_ended && keeps(Attribute::Lock)).then_some(RETENTION_ENDED),
    })
}

/// Returns the attributes of an uploaded file.
#[must_use]
pub fn of_upload(name: &str, transfer: &Transfer, capabilities: &Capabilities) -> Attributes {
    let content_type = mime_guess::from_path(name)
        .first_raw()
        .unwrap_or("application/octet-stream");
    let guessed = ContentHeaders {
        content_type: Some(content_type.to_owned()),
        ..ContentHeaders::default()
    };
    Attributes {
        headers: headers(guessed, transfer),
        metadata: transfer.set.metadata.clone(),
        tags: Tags::Exactly(set_tags(transfer)),
        storage_class: transfer.to.storage_class.clone(),
        encryption: transfer.to.encryption.clone(),
        acl: transfer.to.acl,
        checksum: capabilities
            .checksums
            .then_some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)),
        ..Attributes::default()
    }
}

/// Collects the losses of one object, and applies the policies to them.
struct Losses<'t> {
    transfer: &'t Transfer,
    losses: Vec<Loss>,
}

impl Losses<'_> {
    /// Records a loss, or returns it as an error if the policy of the attribute is `require`.
    fn add(
        &mut self,
        attribute: Attribute,
        lost: Lost,
        reason: impl Into<String>,
    ) -> Result<(), Loss> {
        let record = Loss::new(attribute, lost, reason);
        if self.transfer.preserve.of(attribute) == Policy::Require {
            return Err(record);
        }
        self.losses.push(record);
        Ok(())
    }
}

/// Returns the content headers. Values that the job sets replace those that the copy keeps.
pub(super) fn headers(kept: ContentHeaders, transfer: &Transfer) -> ContentHeaders {
    let set = &transfer.set;
    ContentHeaders {
        content_type: set.content_type.clone().or(kept.content_type),
        content_encoding: set.content_encoding.clone().or(kept.content_encoding),
        content_language: set.content_language.clone().or(kept.content_language),
        content_disposition: set.content_disposition.clone().or(kept.content_disposition),
        cache_control: set.cache_control.clone().or(kept.cache_control),
        expires: kept.expires,
        website_redirect: kept.website_redirect,
    }
}

fn metadata(
    head: &Head,
    transfer: &Transfer,
    losses: &mut Losses<'_>,
) -> Result<BTreeMap<String, String>, Loss> {
    let set = &transfer.set.metadata;
    if !transfer.preserve.metadata.keeps() {
        return Ok(set.clone());
    }
    if head.missing_metadata > 0 {
        losses.add(
            Attribute::Metadata,
            Lost::NotReadable,
            "S3 cannot show all of it as headers",
        )?;
    }
    let mut merged = head.metadata.clone();
    merged.extend(set.clone());
    let size: usize = merged
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    // If the job adds nothing, s3haul sends the metadata as it is, even if it is large: the
    // source's server accepted it, and the destination may too.
    if set.is_empty() || size <= MAX_METADATA {
        return Ok(merged);
    }
    losses.add(
        Attribute::Metadata,
        Lost::NotSet,
        "with `set.metadata` it would be larger than 2 KB",
    )?;
    Ok(set.clone())
}

/// Returns the tags that the job sets.
#[must_use]
pub fn set_tags(transfer: &Transfer) -> Vec<Tag> {
    let tag = |(key, value): (&String, &String)| Tag {
        key: key.clone(),
        value: value.clone(),
    };
    transfer.set.tags.iter().map(tag).collect()
}

/// Merges the tags of the source with those that the job sets.
///
/// # Errors
/// Returns a loss if there are too many tags for one object. The copy then gets only the tags that
/// the job sets.
pub fn merged_tags(kept: Vec<Tag>, transfer: &Transfer) -> Result<Vec<Tag>, Loss> {
    let set = set_tags(transfer);
    let mut tags: Vec<_> = kept
        .into_iter()
        .filter(|kept| !transfer.set.tags.contains_key(&kept.key))
        .collect();
    tags.extend(set);
    if tags.len() <= MAX_TAGS {
        return Ok(tags);
    }
    Err(Loss::new(
        Attribute::Tags,
        Lost::NotSet,
        format!("with `set.tags` they would be more than {MAX_TAGS}"),
    ))
}

fn storage_class(
    head: &Head,
    transfer: &Transfer,
    losses: &mut Losses<'_>,
) -> Result<Option<String>, Loss> {
    if transfer.to.storage_class.is_some() || !transfer.preserve.storage_class.keeps() {
        return Ok(transfer.to.storage_class.clone());
    }
    let Some(class) = head.storage_class.clone() else {
        return Ok(None);
    };
    if FOREIGN_CLASSES.contains(&class.as_str())
        && !transfer.to.location.bucket.is_directory_bucket()
    {
        let reason = format!(
            "{class} is no class of {}; it is STANDARD there",
            transfer.to.location.bucket
        );
        losses.add(Attribute::StorageClass, Lost::NotSet, reason)?;
        return Ok(None);
    }
    Ok(Some(class))
}

fn encryption(
    head: &Head,
    transfer: &Transfer,
    losses: &mut Losses<'_>,
) -> Result<Option<Encryption>, Loss> {
    if transfer.customer_keys.destination.is_some() {
        return Ok(None);
    }
    if transfer.to.encryption.is_some() || transfer.preserve.encryption != Policy::Require {
        return Ok(transfer.to.encryption.clone());
    }
    if head.customer_key {
        let reason = "a customer key encrypts the source; name one as `to.customer_key`";
        losses.add(Attribute::Encryption, Lost::NotSet, reason)?;
    }
    Ok(head.encryption.clone())
}

/// Returns a loss if the copy has a weaker encryption than its source because the job leaves the
/// choice to the destination bucket.
#[must_use]
pub fn weaker_encryption(
    head: &Head,
    written: Option<&Encryption>,
    transfer: &Transfer,
) -> Option<Loss> {
    let chosen = transfer.to.encryption.is_some() || transfer.customer_keys.destination.is_some();
    if chosen || transfer.preserve.encryption != Policy::Try {
        return None;
    }
    // The strength of an encryption, and its name.
    let rank = |encryption: Option<&Encryption>| match encryption {
        None => (0, "none"),
        Some(Encryption::S3) => (1, "AES256"),
        Some(Encryption::Kms { dsse: false, .. }) => (2, "aws:kms"),
        Some(Encryption::Kms { dsse: true, .. }) => (3, "aws:kms:dsse"),
    };
    let source = if head.customer_key {
        (2, "a customer key")
    } else {
        rank(head.encryption.as_ref())
    };
    let copy = rank(written);
    // Servers do not always tell whether they encrypt with their own keys. So the loss counts only
    // if the source is encrypted with a KMS key or a customer key.
    let weaker = source.0 > copy.0 && source.0 > 1;
    weaker.then(|| {
        let reason = format!(
            "{} became {}, the default of {}",
            source.1, copy.1, transfer.to.location.bucket
        );
        Loss::new(Attribute::Encryption, Lost::Weaker, reason)
    })
}

fn lock(head: &Head, now: Timestamp, losses: &mut Losses<'_>) -> Result<Lock, Loss> {
    let policy = losses.transfer.preserve.lock;
    if !policy.keeps() {
        return Ok(Lock::default());
    }
    if head.event_hold {
        losses.add(
            Attribute::Lock,
            Lost::NotSet,
            "event holds are not carried over",
        )?;
    }
    // A hold that is off equals no hold, and a bucket without Object Lock would refuse a request
    // that turns it off.
    let retention = head.lock.retention.clone();
    Ok(Lock {
        retention: retention.filter(|retention| retention.until > now),
        legal_hold: head.lock.legal_hold.filter(|on| *on),
    })
}

/// Removes and returns all tags if they do not fit into the headers of the request that creates the
/// object, or if the server does not accept tags in headers. The caller sets them after the object
/// is created.
pub fn take_late_tags(attributes: &mut Attributes, capabilities: &Capabilities) -> Vec<Tag> {
    let Tags::Exactly(tags) = &mut attributes.tags else {
        return Vec::new();
    };
    if !capabilities.tag_headers {
        return std::mem::take(tags);
    }
    // The header is percent-encoded, so every byte except letters and digits takes three bytes.
    let encoded = |text: &str| {
        text.bytes()
            .map(|b| if b.is_ascii_alphanumeric() { 1 } else { 3 })
            .sum::<usize>()
    };
    let tagging: usize = tags
        .iter()
        .map(|tag| encoded(&tag.key) + encoded(&tag.value) + 2)
        .sum();
    let metadata: usize = attributes
        .metadata
        .iter()
        .map(|(name, value)| "x-amz-meta-: \r\n".len() + name.len() + value.len())
        .sum();
    let ContentHeaders {
        content_type,
        content_encoding,
        content_language,
        content_disposition,
        cache_control,
        expires,
        website_redirect,
    } = &attributes.headers;
    let headers = [
        content_type,
        content_encoding,
        content_language,
        content_disposition,
        cache_control,
        expires,
        website_redirect,
    ];
    let headers: usize = headers
        .into_iter()
        .flatten()
        .map(|value| 32 + value.len())
        .sum();
    let grants: usize = attributes
        .grants
        .iter()
        .map(|grant| grant.grantee.len() + 2)
        .sum();
    if tagging <= MAX_TAGGING && tagging + metadata + headers + grants <= MAX_ATTRIBUTES {
        return Vec::new();
    }
    std::mem::take(tags)
}

/// Returns the checksum to declare: the source's, if the copy's checksum can be compared with it,
/// and otherwise S3's default.
fn checksum(head: &Head, route: &Route) -> Option<(ChecksumAlgorithm, ChecksumKind)> {
    let source = head
        .checksum
        .as_ref()
        .map(|checksum| (checksum.algorithm, checksum.kind));
    match (route, source) {
        // CopyObject keeps the source's algorithm itself, and computes it over the whole object.
        (Route::Copy | Route::Put, _) => None,
        // A composite checksum stays the same if the part boundaries do.
        (Route::MultipartCopy(layout), Some((algorithm, ChecksumKind::Composite)))
            if layout.is_replay() =>
        {
            Some((algorithm, ChecksumKind::Composite))
        }
        (_, Some((algorithm, _))) if algorithm.combines() => {
            Some((algorithm, ChecksumKind::FullObject))
        }
        _ => Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)),
    }
}

#[cfg(test)]
mod tests;
