//! Sets the headers that several requests share.

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types as sdk;

use super::{Grant, Lock, Permission};

/// Sets the attributes as headers of a request that creates an object. All three such requests use
/// this macro, so that none can omit an attribute that another one sends. It destructures all
/// structs, so that it cannot forget a new field.
macro_rules! with_attributes {
    ($request:expr, $attributes:expr) => {{
        // Each request sets the checksum and the annotations itself, if it supports them.
        let crate::s3::Attributes {
            headers,
            metadata,
            tags,
            storage_class,
            encryption,
            lock,
            grants,
            acl,
            checksum: _,
            annotations: _,
        } = $attributes;
        // The requests add `Expires` as raw text, because the SDK takes only dates.
        let crate::s3::ContentHeaders {
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
            expires: _,
            website_redirect,
        } = headers;
        let mut request = $request
            .set_content_type(content_type.clone())
            .set_content_encoding(content_encoding.clone())
            .set_content_language(content_language.clone())
            .set_content_disposition(content_disposition.clone())
            .set_cache_control(cache_control.clone())
            .set_website_redirect_location(website_redirect.clone())
            .set_metadata((!metadata.is_empty()).then(|| metadata.clone().into_iter().collect()))
            .set_storage_class(storage_class.as_deref().map(sdk::StorageClass::from))
            .set_object_lock_mode(
                lock.retention
                    .as_ref()
                    .map(|retention| retention.mode.as_str().into()),
            )
            .set_object_lock_retain_until_date(crate::s3::headers::retained_until(lock))
            .set_object_lock_legal_hold_status(crate::s3::headers::legal_hold(lock))
            .set_acl(acl.map(|acl| acl.name().into()))
            .set_grant_full_control(crate::s3::headers::granted(
                grants,
                crate::s3::Permission::FullControl,
            ))
            .set_grant_read(crate::s3::headers::granted(
                grants,
                crate::s3::Permission::Read,
            ))
            .set_grant_read_acp(crate::s3::headers::granted(
                grants,
                crate::s3::Permission::ReadAcp,
            ))
            .set_grant_write_acp(crate::s3::headers::granted(
                grants,
                crate::s3::Permission::WriteAcp,
            ));
        if let crate::s3::Tags::Exactly(tags) = tags
            && !tags.is_empty()
        {
            request = request.tagging(crate::s3::convert::tagging_header(tags));
        }
        match encryption {
            Some(crate::s3::Encryption::S3) => {
                request = request.server_side_encryption(sdk::ServerSideEncryption::Aes256)
            }
            Some(crate::s3::Encryption::Kms {
                key,
                bucket_key,
                dsse,
            }) => {
                request = request
                    .server_side_encryption(match dsse {
                        true => sdk::ServerSideEncryption::AwsKmsDsse,
                        false => sdk::ServerSideEncryption::AwsKms,
                    })
                    .set_ssekms_key_id(key.clone())
                    .set_bucket_key_enabled(*bucket_key);
            }
            None => {}
        }
        request
    }};
}
pub(super) use with_attributes;

/// Sets the customer key (SSE-C) of the object that a request reads or writes.
macro_rules! with_customer_key {
    ($request:expr, $key:expr) => {
        match $key {
            None => $request,
            Some(key) => $request
                .sse_customer_algorithm(crate::s3::customer_key::ALGORITHM)
                .sse_customer_key(key.encoded())
                .sse_customer_key_md5(key.digest()),
        }
    };
}
pub(super) use with_customer_key;

/// Sets the customer key (SSE-C) of the source of a copy.
macro_rules! with_source_key {
    ($request:expr, $key:expr) => {
        match $key {
            None => $request,
            Some(key) => $request
                .copy_source_sse_customer_algorithm(crate::s3::customer_key::ALGORITHM)
                .copy_source_sse_customer_key(key.encoded())
                .copy_source_sse_customer_key_md5(key.digest()),
        }
    };
}
pub(super) use with_source_key;

/// Returns the grantees of a permission, as a grant header lists them.
pub(super) fn granted(grants: &[Grant], permission: Permission) -> Option<String> {
    let grantees = grants.iter().filter(|grant| grant.permission == permission);
    let grantees: Vec<_> = grantees.map(|grant| grant.grantee.as_str()).collect();
    (!grantees.is_empty()).then(|| grantees.join(", "))
}

pub(super) fn retained_until(lock: &Lock) -> Option<DateTime> {
    lock.retention
        .as_ref()
        .map(|retention| DateTime::from_millis(retention.until.as_millisecond()))
}

pub(super) fn legal_hold(lock: &Lock) -> Option<sdk::ObjectLockLegalHoldStatus> {
    use sdk::ObjectLockLegalHoldStatus::{Off, On};
    lock.legal_hold.map(|on| if on { On } else { Off })
}
