//! Access to objects: customer keys, ACLs, and the permissions that the headers of a write need.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::HeaderMap;

use super::fields::text;
use crate::bucket::Bucket;
use crate::checksum;
use crate::content::Content;
use crate::object::{Attributes, Encryption, Grant};
use crate::operation::Operation;
use crate::refusal::Refusal;
use crate::store::{OWNER, Store};

/// The prefix of the names of the customer key headers.
pub(super) const OWN_KEY: &str = "x-amz-server-side-encryption-customer";
/// The prefix of the names of the customer key headers for the source of a copy.
pub(super) const SOURCE_KEY: &str = "x-amz-copy-source-server-side-encryption-customer";

/// The group that contains everyone.
const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
/// The group that contains all AWS accounts.
const AUTHENTICATED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
/// The canonical id of Amazon EC2, which reads machine images.
const EC2: &str = "6aa5a366c34c1cbe25dc49211496e913e0351eb0e8c37aa3477e40942ec6b97c";

/// Returns the MD5 of the customer key in the headers, or `None` if there is no such key. Refuses
/// an incomplete or invalid key.
pub(super) fn customer_key(headers: &HeaderMap, prefix: &str) -> Result<Option<String>, Refusal> {
    let field = |name: &str| text(headers, &format!("{prefix}-{name}"));
    let (algorithm, key, digest) = (field("algorithm"), field("key"), field("key-md5"));
    if algorithm.is_none() && key.is_none() && digest.is_none() {
        return Ok(None);
    }
    let invalid =
        |message: &'static str| Err(Refusal::invalid_argument("customer key", "", message));
    let key = key
        .and_then(|key| STANDARD.decode(key).ok())
        .filter(|key| key.len() == 32);
    match (algorithm.as_deref(), key, digest) {
        (Some("AES256"), Some(key), Some(digest)) => {
            let computed = STANDARD.encode(checksum::md5(&Content::bytes(key)));
            if computed == digest {
                return Ok(Some(digest));
            }
            invalid("The calculated MD5 hash of the key did not match the hash that was provided.")
        }
        (Some("AES256"), None, _) => {
            invalid("The secret key was invalid for the specified algorithm.")
        }
        _ => invalid(
            "Requests specifying Server Side Encryption with Customer provided keys must provide an appropriate \
             secret key.",
        ),
    }
}

/// Checks the customer key of a read. An object that is encrypted with a customer key can be read
/// only with that key, and any other object only without a key.
pub(super) fn check_key(encryption: &Encryption, given: Option<&str>) -> Result<(), Refusal> {
    match (encryption, given) {
        (Encryption::Customer { key_md5 }, Some(given)) if key_md5 == given => Ok(()),
        (Encryption::Customer { .. }, _) => Err(Refusal::invalid_request(
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to \
             retrieve the object.",
        )),
        (_, None) => Ok(()),
        (_, Some(_)) => Err(Refusal::invalid_request(
            "The encryption parameters are not applicable to this object.",
        )),
    }
}

/// Checks the customer key in the headers of a request.
pub(super) fn check_own_key(encryption: &Encryption, headers: &HeaderMap) -> Result<(), Refusal> {
    check_key(encryption, customer_key(headers, OWN_KEY)?.as_deref())
}

/// Refuses a write if the caller may not send one of its headers, or if the request lacks the ACL
/// that the bucket demands. As in S3, the whole write fails.
pub(super) fn check_write(
    store: &Store,
    bucket: &Bucket,
    key: &str,
    attributes: &Attributes,
    lock: bool,
    hold: bool,
) -> Result<(), Refusal> {
    let needed = [
        (Operation::PutObjectTagging, !attributes.tags.is_empty()),
        (Operation::PutObjectRetention, lock),
        (Operation::PutObjectLegalHold, hold),
        (
            Operation::PutObjectAcl,
            !attributes.grants.is_empty() || attributes.canned_acl.is_some(),
        ),
    ];
    let demanded = bucket.demanded_acl;
    let lacks_acl = demanded.is_some() && attributes.canned_acl.as_deref() != demanded;
    if lacks_acl
        || needed
            .into_iter()
            .any(|(right, needed)| needed && store.is_denied(&bucket.name, right, key))
    {
        return Err(Refusal::access_denied());
    }
    Ok(())
}

/// Returns the grants of a write. If ACLs are disabled, as in all new buckets, only grants that
/// change nothing are accepted.
pub(super) fn grants(
    canned: Option<&str>,
    headers: [(&'static str, Option<&str>); 4],
    bucket: &Bucket,
) -> Result<Vec<Grant>, Refusal> {
    let explicit = headers.iter().any(|(_, value)| value.is_some());
    if !bucket.acls {
        if !explicit && matches!(canned, None | Some("bucket-owner-full-control")) {
            return Ok(Vec::new());
        }
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "AccessControlListNotSupported",
            "The bucket does not allow ACLs",
        ));
    }
    let grant = |permission: &str, grantee: &str| Grant {
        permission: permission.to_owned(),
        grantee: grantee.to_owned(),
    };
    match canned {
        Some(_) if explicit => Err(Refusal::invalid_request(
            "Specifying both Canned ACLs and Header Grants is not allowed",
        )),
        Some(name) => {
            let readers: &[(&str, &str)] = match name {
                "public-read" => &[("READ", ALL_USERS)],
                "public-read-write" => &[("READ", ALL_USERS), ("WRITE", ALL_USERS)],
                "authenticated-read" => &[("READ", AUTHENTICATED_USERS)],
                "aws-exec-read" => &[("READ", EC2)],
                "bucket-owner-read" if bucket.owner != OWNER => &[("READ", &bucket.owner)],
                "bucket-owner-full-control" if bucket.owner != OWNER => {
                    &[("FULL_CONTROL", &bucket.owner)]
                }
                "private" | "bucket-owner-read" | "bucket-owner-full-control" => &[],
                _ => return Err(Refusal::invalid_argument("x-amz-acl", name, "")),
            };
            let own = (!readers.is_empty()).then(|| grant("FULL_CONTROL", OWNER));
            let others = readers
                .iter()
                .map(|(permission, grantee)| grant(permission, grantee));
            Ok(own.into_iter().chain(others).collect())
        }
        None => {
            let mut grants = Vec::new();
            for (permission, value) in headers {
                for grantee in value
                    .unwrap_or_default()
                    .split(',')
                    .map(str::trim)
                    .filter(|text| !text.is_empty())
                {
                    let named = grantee
                        .strip_prefix("id=")
                        .or_else(|| grantee.strip_prefix("uri="));
                    let named = named.ok_or_else(|| {
                        Refusal::invalid_argument(
                            "x-amz-grant",
                            grantee,
                            "Argument format not recognized",
                        )
                    })?;
                    grants.push(grant(permission, named.trim_matches('"')));
                }
            }
            Ok(grants)
        }
    }
}
