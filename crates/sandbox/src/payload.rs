//! The body of a write: its bytes, or a virtual content in their place.
//!
//! By default the sandbox keeps a body in memory and hashes it with MD5 for the `ETag`, as S3 does.
//! In a benchmark of uploads, this costs the sandbox more CPU time than the client needs to send
//! the bodies, and memory for all bytes. With [`Quirks::virtual_uploads`](super::store::Quirks), a
//! body above [`KEPT`] becomes a virtual content of the same length; different bytes become
//! different contents. The sandbox computes only the checksums that S3 would compute, as the bytes
//! arrive. So it still verifies the checksums in a request, and returns real ones.

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use hyper::header::HeaderMap;
use s3s::dto::StreamingBlob;
use s3s::stream::ByteStream as _;
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::checksum::{self, Algorithm, Hasher};
use super::content::Content;
use super::refusal::Refusal;

/// Bodies up to this size in bytes are always kept.
pub(super) const KEPT: usize = 64 * 1024;

/// The most bytes to reserve because of a header alone. The buffer grows for longer bodies.
const RESERVED: usize = 1 << 30;

/// The body of a write.
#[derive(Debug)]
pub(super) struct Payload {
    /// The stored bytes.
    pub(super) content: Content,
    /// The checksums of the received bytes, if they are not kept.
    sums: Vec<(Algorithm, String)>,
}

impl From<Content> for Payload {
    fn from(content: Content) -> Self {
        Self {
            content,
            sums: Vec::new(),
        }
    }
}

impl Payload {
    /// Reads a body into memory.
    pub(super) async fn read(body: Option<StreamingBlob>) -> S3Result<Self> {
        Ok(Content::bytes(collect(body, usize::MAX, |_| ()).await?).into())
    }

    /// Reads a body. Discards a long one, and computes only these checksums.
    pub(super) async fn digest(
        body: Option<StreamingBlob>,
        algorithms: &[Algorithm],
    ) -> S3Result<Self> {
        let mut hashers: Vec<_> = algorithms
            .iter()
            .map(|algorithm| (*algorithm, Hasher::new(*algorithm)))
            .collect();
        let mut len = 0;
        let kept = collect(body, KEPT, |chunk| {
            len += chunk.len() as u64;
            for (_, hasher) in &mut hashers {
                hasher.update(chunk);
            }
        })
        .await?;
        if len == 0 {
            return Ok(Content::bytes(kept).into());
        }
        let sums: Vec<_> = hashers
            .into_iter()
            .map(|(algorithm, hasher)| (algorithm, hasher.finish()))
            .collect();
        // Equal bytes must become equal contents.
        let text = sums.iter().flat_map(|(_, sum)| sum.bytes());
        let seed = text.fold(0, |seed: u64, byte| {
            seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte)
        });
        Ok(Self {
            content: Content::pattern(seed, len),
            sums,
        })
    }

    /// Returns the base64 of the checksum of the received bytes.
    pub(super) fn sum(&self, algorithm: Algorithm) -> String {
        let taken = self.sums.iter().find(|(taken, _)| *taken == algorithm);
        taken.map_or_else(|| algorithm.of(&self.content), |(_, sum)| sum.clone())
    }

    /// Checks `Content-MD5` against the payload. If the payload is not kept, its MD5 is unknown and
    /// is not checked.
    pub(super) fn check_md5(&self, header: Option<&str>) -> Result<(), Refusal> {
        let Some(header) = header.filter(|_| self.sums.is_empty()) else {
            return Ok(());
        };
        match checksum::matches_content_md5(header, &self.content) {
            Some(true) => Ok(()),
            Some(false) => Err(Refusal::bad_digest("Content-MD5")),
            None => Err(Refusal::new(
                hyper::StatusCode::BAD_REQUEST,
                "InvalidDigest",
                "The Content-MD5 you specified was invalid.",
            )),
        }
    }
}

/// Returns the algorithm of the checksum that a request sends in a header or announces for its
/// trailer.
pub(super) fn announced(headers: &HeaderMap) -> Option<Algorithm> {
    let trailer = headers
        .get("x-amz-trailer")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    Algorithm::ALL.into_iter().find(|algorithm| {
        headers.contains_key(algorithm.header()) || trailer.eq_ignore_ascii_case(algorithm.header())
    })
}

/// Reads a body and returns it. If the body is longer than `most`, passes all of it to `pass` and
/// returns no bytes.
async fn collect(
    body: Option<StreamingBlob>,
    most: usize,
    mut pass: impl FnMut(&[u8]),
) -> S3Result<Bytes> {
    let Some(mut body) = body else {
        return Ok(Bytes::new());
    };
    let announced = body.remaining_length().exact().unwrap_or(0);
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    let mut passing = announced > most;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| {
            // The stream verifies signatures and hashes of the payload. These errors contain an S3
            // error.
            match error.downcast::<S3Error>() {
                Ok(error) => *error,
                Err(error) => S3Error::with_source(S3ErrorCode::IncompleteBody, error),
            }
        })?;
        if !passing && first.len() + rest.len() + chunk.len() > most {
            passing = true;
            pass(&first);
            pass(&rest);
            (first, rest) = (Bytes::new(), BytesMut::new());
        }
        if passing {
            pass(&chunk);
        } else if first.is_empty() && rest.is_empty() {
            first = chunk;
        } else {
            if rest.is_empty() {
                rest.reserve(announced.min(RESERVED).max(first.len() + chunk.len()));
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&chunk);
        }
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
}
