//! The capabilities of an endpoint, as a value.
//!
//! S3-compatible servers differ: some ignore source conditions, some require equal parts, some have
//! no `UploadPartCopy` at all. Without precautions, a run would find that out from an error halfway
//! through. So s3haul decides before the first write which capabilities it relies on. Three sources
//! count: the profile ([`profiles`]) of the manifest's `provider` (AWS without a `url`, otherwise a
//! profile that assumes nothing), the `capabilities` that the manifest states, and the kind of the
//! bucket. [`crate::probe`] measures an endpoint, so that the manifest can state the truth.

mod profiles;

use std::fmt;

use super::Head;
use crate::endpoint::capabilities::{ConditionalWrite, Overrides};
use crate::endpoint::{ResolvedEndpoint, Trust};
use crate::location::BucketName;
use crate::size::{ByteSize, GIB, MIB};

/// Limits on the parts of a multipart upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartLimits {
    /// The smallest part, except for the last one, in bytes.
    pub min_part: u64,
    /// The largest part in bytes.
    pub max_part: u64,
    /// The maximum number of parts of one upload.
    pub max_parts: u32,
    /// True when all parts but the last must have one size.
    pub equal_parts: bool,
    /// The largest object in bytes, if that is less than the largest part times the maximum number
    /// of parts.
    pub largest: u64,
}

impl PartLimits {
    /// The limits of S3: up to 10,000 parts of 5 MiB to 5 GiB.
    pub const S3: Self = Self {
        min_part: 5 * MIB,
        max_part: 5 * GIB,
        max_parts: 10_000,
        equal_parts: false,
        largest: u64::MAX,
    };

    /// Returns the largest object that a multipart upload can make: 53,687,091,200,000 bytes (48.8
    /// TiB) on S3.
    #[must_use]
    pub const fn max_object(&self) -> u64 {
        let parts = self.max_part.saturating_mul(self.max_parts as u64);
        if parts < self.largest {
            parts
        } else {
            self.largest
        }
    }
}

/// The writes that honor a condition on the object at their key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnWrites {
    /// `CopyObject`.
    pub copy: bool,
    /// `PutObject`.
    pub put: bool,
    /// `CompleteMultipartUpload`.
    pub complete: bool,
}

impl OnWrites {
    /// All writes.
    pub const ALL: Self = Self {
        copy: true,
        put: true,
        complete: true,
    };
    /// No write.
    pub const NONE: Self = Self {
        copy: false,
        put: false,
        complete: false,
    };
    /// The writes that finish an upload, but not copies.
    pub const UPLOADS: Self = Self {
        copy: false,
        ..Self::ALL
    };

    fn of(writes: &[ConditionalWrite]) -> Self {
        Self {
            copy: writes.contains(&ConditionalWrite::Copy),
            put: writes.contains(&ConditionalWrite::Put),
            complete: writes.contains(&ConditionalWrite::Complete),
        }
    }

    /// Returns true if this write honors the condition.
    #[must_use]
    pub const fn on(self, write: ConditionalWrite) -> bool {
        match write {
            ConditionalWrite::Copy => self.copy,
            ConditionalWrite::Put => self.put,
            ConditionalWrite::Complete => self.complete,
        }
    }

    /// Returns true if these writes include all of the `other` ones.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        (self.copy || !other.copy) && (self.put || !other.put) && (self.complete || !other.complete)
    }
}

impl fmt::Display for OnWrites {
    /// Writes the set as a manifest does: `[copy, put, complete]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.copy, "copy"),
            (self.put, "put"),
            (self.complete, "complete"),
        ];
        let names: Vec<_> = names
            .into_iter()
            .filter_map(|(on, name)| on.then_some(name))
            .collect();
        f.pad(&format!("[{}]", names.join(", ")))
    }
}

/// The capabilities of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent fact about a server"
)]
pub struct Capabilities {
    /// The number of requests in flight that a run starts with, before it has learned how many the
    /// endpoint can serve.
    pub initial_in_flight: u32,
    /// `UploadPartCopy` exists.
    pub part_copy: bool,
    /// The largest source of one `CopyObject`, in bytes.
    pub max_copy: u64,
    /// Limits on parts.
    pub parts: PartLimits,
    /// `CopyObject` honors `x-amz-copy-source-if-match`. Otherwise s3haul checks the source again
    /// after the copy.
    pub copy_conditions: bool,
    /// `UploadPartCopy` honors `x-amz-copy-source-if-match`. Otherwise s3haul checks the source
    /// again before it publishes the copy.
    pub part_conditions: bool,
    /// The writes that honor `If-None-Match: *`.
    pub if_none_match: OnWrites,
    /// The writes that honor `If-Match`.
    pub if_match: OnWrites,
    /// `ETag`s are the MD5 of the bytes, or of the parts' MD5s: equal `ETag`s prove equal bytes.
    pub content_etags: bool,
    /// The `ETag` of an object of N parts ends in `-N`, even if the rest of it is opaque.
    pub part_counts: bool,
    /// s3haul may send `x-amz-checksum-*` with writes, and checksums in responses count as
    /// evidence. Otherwise s3haul requests no checksums: a server may store the value that it
    /// received unchecked, or return a composite checksum without saying so.
    pub checksums: bool,
    /// Checksums in responses are ignored because the manifest states `checksums: false`. In a
    /// profile, `checksums: false` only means that s3haul requests none, because a profile knows
    /// nothing about the server at hand. If such a server returns a checksum of a known type
    /// anyway, it proves after a kill or in `verify` that two objects are equal, and a difference
    /// must not go unnoticed.
    pub ignores_checksums: bool,
    /// `x-amz-mp-object-size` may be sent with Complete. Servers without support ignore it.
    pub object_size: bool,
    /// Lists are sorted by the bytes of the keys. Otherwise only HEAD shows that a key is absent.
    pub ordered_lists: bool,
    /// `encoding-type=url` is honored in lists of objects.
    pub encoded_lists: bool,
    /// `encoding-type=url` is honored in lists of open uploads.
    pub encoded_uploads: bool,
    /// `DeleteObject` honors `If-Match`. Otherwise s3haul never deletes a bad copy in a bucket
    /// without versions.
    pub conditional_deletes: bool,
    /// The endpoint supports object tags.
    pub tags: bool,
    /// `CopyObject` (with `x-amz-tagging-directive`) and `CreateMultipartUpload` (with
    /// `x-amz-tagging`) set tags. If only `tags` is true, tags can be set only on the finished
    /// object.
    pub tag_headers: bool,
    /// The server sends an empty tag set for an object without tags. Other servers may send an
    /// empty body, which would be a broken response from S3.
    pub sends_empty_tag_sets: bool,
    /// `UploadPartCopy` finds its source under any key. Ceph 16 decodes the key twice, which turns
    /// a key with a `%` into another one. Such objects are copied with one request.
    pub odd_part_sources: bool,
    /// A directory bucket (S3 Express One Zone): prefixes end in a slash, and a copy must state
    /// that it carries neither tags nor annotations.
    pub directory: bool,
    /// The endpoint is Amazon S3, which refuses requests that it cannot carry out.
    pub is_amazon: bool,
    /// `GLACIER` and `DEEP_ARCHIVE` are S3's archives, and lists show the state of a restore on
    /// request (`OptionalObjectAttributes=RestoreStatus`). Elsewhere a class of that name may mean
    /// anything, and only HEAD and the copy itself show whether the object is readable.
    pub restore_status_in_lists: bool,
    /// The endpoint supports the requests about Object Lock. Elsewhere only HEAD shows a lock:
    /// servers that do not support these requests may answer with the object itself.
    pub locks: bool,
    /// The endpoint supports annotations and the annotation directive of `CopyObject`.
    pub annotations: bool,
    /// The trust in the endpoint's responses, which is independent of its capabilities.
    pub trust: Trust,
}

impl Capabilities {
    /// Returns the capabilities of an endpoint: its provider's capabilities, overridden by the
    /// manifest.
    #[must_use]
    pub fn of(endpoint: &ResolvedEndpoint) -> Self {
        let trust = endpoint.stated.trust;
        Self {
            trust,
            ..Self::profile(endpoint.provider).overridden_by(&endpoint.stated.capabilities)
        }
    }

    /// Returns true if the response to a request is accepted as proof of its effect.
    #[must_use]
    pub const fn believes_answers(&self) -> bool {
        matches!(self.trust, Trust::Answers)
    }

    /// Returns true for Amazon S3, which refuses requests that it cannot carry out. Other servers
    /// may ignore a part of the request and answer with success.
    #[must_use]
    pub const fn refuses_what_it_lacks(&self) -> bool {
        self.believes_answers() && self.is_amazon
    }

    /// Returns true if an object with this head may have tags. Servers other than Amazon S3 may not
    /// show their number.
    #[must_use]
    pub(crate) fn may_have_tags(&self, head: &Head) -> bool {
        let counts = self.refuses_what_it_lacks() || !self.tags;
        head.tag_count.map_or(!counts, |count| count > 0)
    }

    /// Returns true if `CopyObject` ensures that it copies the named version, and its response is
    /// trusted.
    #[must_use]
    pub const fn pins_copies(&self) -> bool {
        self.copy_conditions && self.believes_answers()
    }

    /// Returns true if `UploadPartCopy` ensures that it copies the named version, and its response
    /// is trusted.
    #[must_use]
    pub const fn pins_parts(&self) -> bool {
        self.part_conditions && self.believes_answers()
    }

    /// Returns the capabilities in one bucket. A directory bucket is recognized by its name, and
    /// only on AWS: elsewhere the name means nothing.
    #[must_use]
    pub fn in_bucket(&self, bucket: &BucketName, is_aws: bool) -> Self {
        if !is_aws || !bucket.is_directory_bucket() {
            return self.clone();
        }
        self.of_directory_bucket()
    }

    /// Returns these capabilities without the ones that directory buckets lack.
    const fn of_directory_bucket(&self) -> Self {
        // Every field is written out, so that the compiler reports a new capability.
        Self {
            content_etags: false,
            part_counts: false,
            ordered_lists: false,
            tags: false,
            tag_headers: false,
            directory: true,
            is_amazon: true,
            restore_status_in_lists: false,
            locks: false,
            annotations: false,
            initial_in_flight: self.initial_in_flight,
            part_copy: self.part_copy,
            max_copy: self.max_copy,
            parts: self.parts,
            copy_conditions: self.copy_conditions,
            part_conditions: self.part_conditions,
            if_none_match: self.if_none_match,
            if_match: self.if_match,
            checksums: self.checksums,
            ignores_checksums: self.ignores_checksums,
            object_size: self.object_size,
            encoded_lists: self.encoded_lists,
            encoded_uploads: self.encoded_uploads,
            conditional_deletes: self.conditional_deletes,
            sends_empty_tag_sets: self.sends_empty_tag_sets,
            odd_part_sources: self.odd_part_sources,
            trust: self.trust,
        }
    }

    /// Returns these capabilities, overridden by those that a manifest states.
    #[must_use]
    pub fn overridden_by(self, stated: &Overrides<ByteSize>) -> Self {
        // Destructured, so that the compiler reports a new field.
        let Overrides {
            part_copy,
            max_copy,
            max_part,
            max_parts,
            equal_parts,
            copy_conditions,
            part_conditions,
            if_none_match,
            if_match,
            content_etags,
            checksums,
            object_size,
            ordered_lists,
            encoded_lists,
            encoded_uploads,
            tags,
            tag_headers,
            odd_part_sources,
        } = stated;
        let writes = |stated: &Option<Vec<ConditionalWrite>>, otherwise| {
            stated.as_deref().map_or(otherwise, OnWrites::of)
        };
        let ignores_checksums = checksums.map(|checksums| !checksums);
        Self {
            part_copy: part_copy.unwrap_or(self.part_copy),
            max_copy: max_copy.map_or(self.max_copy, |size| size.0),
            parts: PartLimits {
                max_part: max_part.map_or(self.parts.max_part, |size| size.0),
                max_parts: max_parts.unwrap_or(self.parts.max_parts),
                equal_parts: equal_parts.unwrap_or(self.parts.equal_parts),
                ..self.parts
            },
            copy_conditions: copy_conditions.unwrap_or(self.copy_conditions),
            part_conditions: part_conditions.unwrap_or(self.part_conditions),
            if_none_match: writes(if_none_match, self.if_none_match),
            if_match: writes(if_match, self.if_match),
            content_etags: content_etags.unwrap_or(self.content_etags),
            checksums: checksums.unwrap_or(self.checksums),
            ignores_checksums: ignores_checksums.unwrap_or(self.ignores_checksums),
            object_size: object_size.unwrap_or(self.object_size),
            ordered_lists: ordered_lists.unwrap_or(self.ordered_lists),
            encoded_lists: encoded_lists.unwrap_or(self.encoded_lists),
            encoded_uploads: encoded_uploads.unwrap_or(self.encoded_uploads),
            tags: tags.unwrap_or(self.tags),
            tag_headers: tag_headers.unwrap_or(self.tag_headers),
            odd_part_sources: odd_part_sources.unwrap_or(self.odd_part_sources),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Endpoint, Environment, Provider};

    #[test]
    fn the_largest_object_is_ten_thousand_full_parts() {
        assert_eq!(PartLimits::S3.max_object(), 53_687_091_200_000);
        assert_eq!(
            Capabilities::profile(Provider::Ibm).parts.max_object(),
            10_000_000_000_000
        );
        assert_eq!(
            Capabilities::profile(Provider::Scaleway).parts.max_object(),
            5_000 * GIB
        );
    }

    #[test]
    fn an_unknown_server_is_trusted_with_nothing_that_it_may_ignore() {
        let endpoint = Endpoint {
            url: Some("https://s3.example.net".to_owned()),
            ..Endpoint::default()
        };
        let capabilities = Capabilities::of(&endpoint.resolve(&Environment::default()));
        assert!(
            !capabilities.copy_conditions && !capabilities.content_etags && !capabilities.checksums
        );
        assert!(!capabilities.part_conditions && !capabilities.ordered_lists);
        assert_eq!(
            (capabilities.if_none_match, capabilities.if_match),
            (OnWrites::NONE, OnWrites::NONE)
        );
        let amazon = Endpoint::default().resolve(&Environment::default());
        assert_eq!(Capabilities::of(&amazon), Capabilities::AWS);
    }

    #[test]
    fn what_the_manifest_states_wins_over_the_profile() {
        let stated = Overrides {
            copy_conditions: Some(true),
            if_none_match: Some(vec![ConditionalWrite::Complete]),
            max_copy: Some(ByteSize(GIB)),
            max_parts: Some(1_000),
            tags: Some(false),
            ..Overrides::default()
        };
        let url = Some("https://s3.example.net".to_owned());
        let endpoint = Endpoint {
            url,
            capabilities: stated,
            ..Endpoint::default()
        };
        let found = Capabilities::of(&endpoint.resolve(&Environment::default()));
        let expected = Capabilities {
            copy_conditions: true,
            if_none_match: OnWrites {
                complete: true,
                ..OnWrites::NONE
            },
            max_copy: GIB,
            parts: PartLimits {
                max_parts: 1_000,
                ..PartLimits::S3
            },
            tags: false,
            ..Capabilities::UNKNOWN_SERVER
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_directory_bucket_is_told_by_its_name_and_only_on_aws() {
        let name: BucketName = "logs--use1-az4--x-s3".parse().unwrap();
        assert_eq!(
            Capabilities::AWS.in_bucket(&name, true),
            Capabilities::DIRECTORY
        );
        assert_eq!(
            Capabilities::AWS.in_bucket(&"logs".parse().unwrap(), true),
            Capabilities::AWS
        );
        assert_eq!(
            Capabilities::UNKNOWN_SERVER.in_bucket(&name, false),
            Capabilities::UNKNOWN_SERVER
        );
    }

    #[test]
    fn no_profile_claims_more_than_s3_but_for_the_size_of_a_copy() {
        for provider in Provider::ALL {
            let Capabilities {
                parts,
                if_none_match,
                if_match,
                ..
            } = Capabilities::profile(provider);
            assert!(
                parts.max_part <= PartLimits::S3.max_part && parts.max_parts <= 10_000,
                "{provider:?}"
            );
            assert!(
                OnWrites::ALL.covers(if_none_match) && OnWrites::ALL.covers(if_match),
                "{provider:?}"
            );
        }
    }
}
