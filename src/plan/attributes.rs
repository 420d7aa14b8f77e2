//! What the destination object shall be besides its bytes.
//!
//! Built once per object, from the source's HEAD and the transfer's policy, and then given to whichever request
//! creates the object; so 1 byte and 5 TiB keep the same things. The checksum is declared in the *source's*
//! algorithm wherever S3 can compute it over the whole object, because only then can both sides be compared
//! without reading a byte.

use crate::manifest::job::{Keep, Transfer};
use crate::s3::{Attributes, Capabilities, ChecksumAlgorithm, ChecksumKind, ContentHeaders, Head, Tags};

use super::decide::Route;

/// Storage classes of other services and bucket kinds: a general bucket refuses them.
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

/// The attributes of a copy of `head`.
#[must_use]
pub fn of_copy(head: &Head, transfer: &Transfer, capabilities: &Capabilities, route: &Route) -> Attributes {
    let keep_metadata = transfer.preserve.metadata == Keep::Keep;
    let storage_class = match (&transfer.to.storage_class, transfer.preserve.storage_class) {
        (Some(class), _) => Some(class.clone()),
        (None, Keep::Keep) => {
            head.storage_class.clone().filter(|class| !FOREIGN_CLASSES.contains(&class.as_str()))
        }
        (None, Keep::Skip) => None,
    };
    let tags = match transfer.preserve.tags {
        Keep::Keep if capabilities.tags => Tags::AsSource,
        _ => Tags::Exactly(Vec::new()),
    };
    Attributes {
        headers: if keep_metadata {
            head.headers.clone()
        } else {
            ContentHeaders { content_type: head.headers.content_type.clone(), ..ContentHeaders::default() }
        },
        metadata: if keep_metadata { head.metadata.clone() } else { std::collections::BTreeMap::new() },
        tags,
        storage_class,
        encryption: transfer.to.encryption.clone(),
        checksum: capabilities.checksums.then(|| checksum(head, route)).flatten(),
    }
}

/// The attributes of an uploaded file.
#[must_use]
pub fn of_upload(name: &str, transfer: &Transfer, capabilities: &Capabilities) -> Attributes {
    let content_type = mime_guess::from_path(name).first_raw().unwrap_or("application/octet-stream");
    Attributes {
        headers: ContentHeaders { content_type: Some(content_type.to_owned()), ..ContentHeaders::default() },
        tags: Tags::Exactly(Vec::new()),
        storage_class: transfer.to.storage_class.clone(),
        encryption: transfer.to.encryption.clone(),
        checksum: capabilities.checksums.then_some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)),
        ..Attributes::default()
    }
}

/// The checksum to declare: the source's algorithm where it comes out comparable, else S3's default.
fn checksum(head: &Head, route: &Route) -> Option<(ChecksumAlgorithm, ChecksumKind)> {
    let source = head.checksum.as_ref().map(|checksum| (checksum.algorithm, checksum.kind));
    match (route, source) {
        // CopyObject keeps the source's algorithm by itself and computes it over the whole object.
        (Route::Copy | Route::Put, _) => None,
        // The checksum of the parts' checksums comes out the same where the parts do.
        (Route::MultipartCopy(layout), Some((algorithm, ChecksumKind::Composite))) if layout.is_replay() => {
            Some((algorithm, ChecksumKind::Composite))
        }
        (_, Some((algorithm, _))) if algorithm.combines() => Some((algorithm, ChecksumKind::FullObject)),
        _ => Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::job::{Destination, Preserve, Source};
    use crate::plan::parts::PartLayout;
    use crate::s3::Checksum;

    fn transfer() -> Transfer {
        let location = "s3://destination/".parse().unwrap();
        let to = Destination { endpoint: "default".into(), location, storage_class: None, encryption: None };
        Transfer::new("t", Source::Stdin, to)
    }

    fn head() -> Head {
        Head {
            size: 7,
            storage_class: Some("STANDARD_IA".into()),
            headers: ContentHeaders {
                content_type: Some("text/plain".into()),
                expires: Some("no date".into()),
                ..ContentHeaders::default()
            },
            metadata: [("owner".to_owned(), "=?UTF-8?B?w7w=?=".to_owned())].into(),
            ..Head::default()
        }
    }

    const MULTIPART: Route = Route::MultipartCopy(PartLayout::uniform(7, 7, 1));

    #[test]
    fn both_routes_get_the_same_attributes_but_for_the_declared_checksum() {
        let copy = of_copy(&head(), &transfer(), &Capabilities::AWS, &Route::Copy);
        let multipart = of_copy(&head(), &transfer(), &Capabilities::AWS, &MULTIPART);
        assert_eq!(Attributes { checksum: None, ..multipart.clone() }, copy);
        assert_eq!(copy.headers.expires.as_deref(), Some("no date"));
        assert_eq!(copy.storage_class.as_deref(), Some("STANDARD_IA"));
        assert_eq!(multipart.checksum, Some((ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject)));
    }

    #[test]
    fn the_sources_algorithm_is_declared_where_parts_can_be_combined() {
        for (algorithm, declared) in [
            (ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc32c),
            (ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Crc64Nvme),
        ] {
            let checksum = Checksum { algorithm, kind: ChecksumKind::FullObject, value: "x".into() };
            let head = Head { checksum: Some(checksum), ..head() };
            let attributes = of_copy(&head, &transfer(), &Capabilities::AWS, &MULTIPART);
            assert_eq!(attributes.checksum, Some((declared, ChecksumKind::FullObject)));
        }
        let cautious = of_copy(&head(), &transfer(), &Capabilities::CAUTIOUS, &MULTIPART);
        assert_eq!(cautious.checksum, None, "unknown headers are not sent to servers that may refuse them");
    }

    #[test]
    fn policies_take_away_and_the_destinations_wishes_win() {
        let mut transfer = transfer();
        transfer.preserve = Preserve { metadata: Keep::Skip, tags: Keep::Skip, storage_class: Keep::Skip };
        let attributes = of_copy(&head(), &transfer, &Capabilities::AWS, &Route::Copy);
        assert!(attributes.metadata.is_empty() && attributes.headers.expires.is_none());
        assert_eq!(
            attributes.headers.content_type.as_deref(),
            Some("text/plain"),
            "a type is content, not decoration"
        );
        assert_eq!((attributes.tags, attributes.storage_class), (Tags::Exactly(vec![]), None));
        transfer.to.storage_class = Some("GLACIER_IR".into());
        let attributes = of_copy(&head(), &transfer, &Capabilities::AWS, &Route::Copy);
        assert_eq!(attributes.storage_class.as_deref(), Some("GLACIER_IR"));
    }

    #[test]
    fn an_upload_is_typed_by_its_name() {
        let typed = |name| of_upload(name, &transfer(), &Capabilities::AWS).headers.content_type;
        assert_eq!(typed("a/index.html").as_deref(), Some("text/html"));
        assert_eq!(typed("a/b.unknown").as_deref(), Some("application/octet-stream"));
    }
}
