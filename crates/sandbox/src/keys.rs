//! The access keys that the sandbox accepts. They can change while it runs, like those of a role.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Error, S3ErrorCode, S3Result};

/// Access keys and their secrets.
#[derive(Clone, Default)]
pub(super) struct KeyRing(Arc<RwLock<HashMap<String, SecretKey>>>);

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRing")
    }
}

impl KeyRing {
    /// Accepts requests signed with a key from now on.
    pub(super) fn add(&self, access_key: &str, secret_key: &str) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(access_key.to_owned(), secret_key.into());
    }

    /// Stops accepting a key.
    pub(super) fn remove(&self, access_key: &str) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(access_key);
    }

    /// Returns true if the request names an accepted key. Does not verify the signature.
    pub(super) fn accepts_key_of(&self, headers: &HeaderMap) -> bool {
        signing_key(headers).is_some_and(|key| self.secret(key).is_some())
    }

    fn secret(&self, access_key: &str) -> Option<SecretKey> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(access_key)
            .cloned()
    }
}

#[async_trait::async_trait]
impl S3Auth for KeyRing {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        self.secret(access_key).ok_or_else(|| {
            S3Error::with_message(
                S3ErrorCode::InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records.",
            )
        })
    }
}

/// Returns the access key that a request is signed with.
pub(super) fn signing_key(headers: &HeaderMap) -> Option<&str> {
    let (_, scope) = headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once("Credential=")?;
    scope.split('/').next()
}

/// Returns the session token that a request carries.
pub(super) fn session_token(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-amz-security-token")?.to_str().ok()
}
