//! Signs a request with Signature Version 4, as S3 requires it.
//!
//! For every request, the SDK derives the signing key from the secret with five HMACs, and builds
//! the canonical request from maps. At thousands of requests per second, that is a tenth of all
//! work. Here the key is derived once per day and secret, and the canonical request is one string.
//! The signatures are the same: the tests compare them with the SDK's, and every server that the
//! conformance suite runs against checks them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::error::BoxError;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};

use crate::printable::hex;

/// The SHA-256 of an empty body.
pub(super) const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Replaces the hash of a body that is not signed.
pub(super) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Headers that are not signed: proxies change them, or they are not set yet.
const NOT_SIGNED: [&str; 5] = [
    "authorization",
    "user-agent",
    "x-amzn-trace-id",
    "transfer-encoding",
    "content-length",
];

/// Signs requests to one service in one region.
pub(super) struct Signer {
    host: String,
    region: String,
    service: String,
    key: ArcSwapOption<SigningKey>,
}

/// A signing key, derived from a secret for one day.
struct SigningKey {
    day: String,
    secret: String,
    mac: Hmac<Sha256>,
}

impl Signer {
    /// Creates a signer for the URL `endpoint`. The signed host is the one that the HTTP client
    /// sends.
    pub(super) fn new(endpoint: &str, region: String, service: String) -> Self {
        let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", endpoint));
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let default_port = if scheme == "https" { ":443" } else { ":80" };
        let host = host.strip_suffix(default_port).unwrap_or(host).to_owned();
        Self {
            host,
            region,
            service,
            key: ArcSwapOption::empty(),
        }
    }

    /// Signs `request`, whose URI is absolute, by adding the headers of the signature. `payload` is
    /// the SHA-256 of its body in hexadecimal, or [`UNSIGNED`].
    ///
    /// # Errors
    /// Fails if the credentials cannot be put into a header.
    pub(super) fn sign(
        &self,
        request: &mut HttpRequest,
        credentials: &Credentials,
        time: SystemTime,
        payload: &str,
    ) -> Result<(), BoxError> {
        let date = amz_date(time);
        let headers = request.headers_mut();
        headers.try_insert("x-amz-date", date.clone())?;
        headers.try_insert("x-amz-content-sha256", payload.to_owned())?;
        if let Some(token) = credentials.session_token() {
            headers.try_insert("x-amz-security-token", token.to_owned())?;
        }
        let (canonical, names) = self.canonical(request, payload);
        let day = &date[..8];
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let hash = hex(&Sha256::digest(&canonical));
        let mut mac = self.key(day, credentials.secret_access_key()).mac.clone();
        mac.update(format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}").as_bytes());
        let signature = hex(&mac.finalize().into_bytes());
        let key_id = credentials.access_key_id();
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
        );
        request
            .headers_mut()
            .try_insert("authorization", authorization)?;
        Ok(())
    }

    /// Returns the canonical request, and the names of the headers in it.
    fn canonical(&self, request: &HttpRequest, payload: &str) -> (Vec<u8>, String) {
        // Header values need not be UTF-8.
        let mut headers: Vec<(&str, &[u8])> = request
            .headers()
            .iter_bytes()
            .filter(|(name, _)| !NOT_SIGNED.contains(name))
            .collect();
        headers.push(("host", self.host.as_bytes()));
        // The sort is stable: values of the same name stay in order.
        headers.sort_by_key(|(name, _)| *name);
        let (path, query) = path_and_query(request.uri());
        let mut text = String::with_capacity(1024);
        text.extend([request.method(), "\n", path, "\n"]);
        let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
        pairs.sort_unstable_by_key(|pair| pair.split_once('=').unwrap_or((pair, "")));
        for (number, pair) in pairs.iter().enumerate() {
            text.extend([if number > 0 { "&" } else { "" }, pair]);
            text.push_str(if pair.contains('=') { "" } else { "=" });
        }
        text.push('\n');
        let mut text = text.into_bytes();
        let mut names = String::with_capacity(256);
        let mut last = "";
        for (name, value) in headers {
            if name == last {
                // The line of the previous value continues.
                text.pop();
                text.push(b',');
            } else {
                names.extend([if last.is_empty() { "" } else { ";" }, name]);
                text.extend_from_slice(name.as_bytes());
                text.push(b':');
                last = name;
            }
            // Runs of blanks become one blank; leading and trailing blanks are dropped.
            let words = value
                .split(|byte| *byte == b' ')
                .filter(|word| !word.is_empty());
            for (number, word) in words.enumerate() {
                if number > 0 {
                    text.push(b' ');
                }
                text.extend_from_slice(word);
            }
            text.push(b'\n');
        }
        for piece in ["\n", &names, "\n", payload] {
            text.extend_from_slice(piece.as_bytes());
        }
        (text, names)
    }

    fn key(&self, day: &str, secret: &str) -> Arc<SigningKey> {
        if let Some(key) = self
            .key
            .load_full()
            .filter(|key| key.day == day && key.secret == secret)
        {
            return key;
        }
        let first = format!("AWS4{secret}");
        let steps = [day, &self.region, &self.service, "aws4_request"];
        let key = steps.iter().fold(first.into_bytes(), |key, step| {
            let mut mac = keyed(&key);
            mac.update(step.as_bytes());
            mac.finalize().into_bytes().to_vec()
        });
        let key = Arc::new(SigningKey {
            day: day.to_owned(),
            secret: secret.to_owned(),
            mac: keyed(&key),
        });
        self.key.store(Some(Arc::clone(&key)));
        key
    }
}

impl std::fmt::Debug for Signer {
    /// Omits the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("host", &self.host)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// Returns the SHA-256 of a body, for its signature.
pub(super) fn payload_hash(body: &[u8]) -> String {
    hex(&Sha256::digest(body))
}

#[expect(clippy::expect_used, reason = "HMAC is defined for keys of any length")]
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length")
}

fn path_and_query(uri: &str) -> (&str, &str) {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    (if path.is_empty() { "/" } else { path }, query)
}

/// Formats a time as `20150830T123600Z`.
fn amz_date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    let time = time.unwrap_or_default().to_zoned(TimeZone::UTC);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_sigv4::http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    };
    use aws_sigv4::sign::v4;
    use aws_smithy_runtime_api::client::identity::Identity;
    use proptest::prelude::*;

    use super::*;

    /// Returns the SDK's signature of the same request.
    fn of_the_sdk(request: &HttpRequest, credentials: &Credentials, time: SystemTime) -> String {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let identity: Identity = credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("eu-west-1")
            .name("s3")
            .time(time)
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let headers = request.headers().iter();
        let body = SignableBody::UnsignedPayload;
        let signable =
            SignableRequest::new(request.method(), request.uri(), headers, body).unwrap();
        sign(signable, &params).unwrap().into_parts().1
    }

    fn request(uri: &str, headers: &[(&'static str, String)]) -> HttpRequest {
        let mut request = HttpRequest::empty();
        request.set_method("PUT").unwrap();
        request.set_uri(uri).unwrap();
        for (name, value) in headers {
            request
                .headers_mut()
                .try_append(*name, value.clone())
                .unwrap();
        }
        request
    }

    proptest! {
        #[test]
        fn the_signature_is_the_sdks(
            key in "[a-zA-Z0-9/._~-]{1,40}",
            version in proptest::option::of("[a-zA-Z0-9._~-]{1,20}"),
            number in 1_u32..10_000,
            values in proptest::collection::vec("[ -~ü]{0,30}", 4),
            token in proptest::option::of("[a-zA-Z0-9+/=]{1,60}"),
            endpoint in prop_oneof![Just("https://b.s3.eu-west-1.amazonaws.com"), Just("http://127.0.0.1:9000/b"), Just("http://h:80/b")],
            seconds in 0_u64..4_000_000_000,
        ) {
            let query = version.map_or(String::new(), |version| format!("&versionId={version}"));
            let uri = format!("{endpoint}/{key}?x-id=UploadPart&partNumber={number}&uploads{query}");
            let names = ["x-amz-meta-b", "x-amz-meta-a", "content-type", "x-amz-meta-b"];
            let headers: Vec<_> = names.into_iter().zip(values).collect();
            let credentials = Credentials::new("AKID", "a/secret+key", token, None, "test");
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let expected = of_the_sdk(&request(&uri, &headers), &credentials, time);
            let mut ours = request(&uri, &headers);
            let signer = Signer::new(endpoint, "eu-west-1".to_owned(), "s3".to_owned());
            signer.sign(&mut ours, &credentials, time, UNSIGNED).unwrap();
            let authorization = ours.headers().get("authorization").unwrap();
            prop_assert!(authorization.ends_with(&format!("Signature={expected}")), "{}", authorization);
            // Again, with the cached key.
            let mut again = request(&uri, &headers);
            signer.sign(&mut again, &credentials, time, UNSIGNED).unwrap();
            prop_assert_eq!(again.headers().get("authorization"), Some(authorization));
        }
    }

    #[test]
    fn a_new_secret_and_a_new_day_have_a_key_of_their_own() {
        let signer = Signer::new("https://h", "eu-west-1".to_owned(), "s3".to_owned());
        let authorized = |secret: &str, day: u64| {
            let mut request = request("https://h/k", &[]);
            let credentials = Credentials::new("AKID", secret, None, None, "test");
            let time = UNIX_EPOCH + Duration::from_hours(24 * day);
            signer
                .sign(&mut request, &credentials, time, EMPTY)
                .unwrap();
            request.headers().get("authorization").unwrap().to_owned()
        };
        let first = authorized("one", 1);
        assert!(
            authorized("two", 1) != first
                && authorized("one", 2) != first
                && authorized("one", 1) == first
        );
        assert_eq!(payload_hash(b""), EMPTY);
    }
}
