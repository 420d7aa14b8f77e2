//! What came as the body of a write: its bytes, or a virtual content in their place.
//!
//! A body is kept in memory and hashed with MD5 for its `ETag`, as S3 does. Where uploads are
//! measured, that costs the sandbox more CPU than the client needs to send them, and all of their
//! bytes in memory. With [`Quirks::virtual_uploads`](super::store::Quirks) a body above [`KEPT`]
//! becomes a virtual content of the same length, another one for other bytes. Only the checksums
//! that S3 would compute are taken while it passes, so that what the client claims is still checked
//! and what it is told is still true.

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use hyper::header::HeaderMap;
use s3s::dto::StreamingBlob;
use s3s::stream::ByteStream as _;
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::checksum::{self, Algorithm, Hasher};
use super::content::Content;
use super::refusal::Refusal;

/// Bodies up to this many bytes are always kept.
pub(super) const KEPT: usize = 64 * 1024;

/// Most bytes that a header alone makes the sandbox set aside; longer bodies grow.
const RESERVED: usize = 1 << 30;

/// The body of a write.
#[derive(Debug)]
pub(super) struct Payload {
    /// The stored bytes.
    pub(super) content: Content,
    /// Checksums of the bytes that came, if these are not kept.
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

    /// Reads a body, and forgets it if it is long, but for these checksums.
    pub(super) async fn pass(
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
        // Equal bytes become equal contents.
        let text = sums.iter().flat_map(|(_, sum)| sum.bytes());
        let seed = text.fold(0, |seed: u64, byte| {
            seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte)
        });
        Ok(Self {
            content: Content::pattern(seed, len),
            sums,
        })
    }

    /// Returns the base64 of the checksum of what came.
    pub(super) fn sum(&self, algorithm: Algorithm) -> String {
        let taken = self.sums.iter().find(|(taken, _)| *taken == algorithm);
        taken.map_or_else(|| algorithm.of(&self.content), |(_, sum)| sum.clone())
    }

    /// Checks that `Content-MD5` is the MD5 of the payload, which is unknown if that is not kept.
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

/// Returns the algorithm of the checksum that a request announces, in a header or in what follows
/// the body.
pub(super) fn announced(headers: &HeaderMap) -> Option<Algorithm> {
    let trailer = headers
        .get("x-amz-trailer")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    Algorithm::ALL.into_iter().find(|algorithm| {
        headers.contains_key(algorithm.header()) || trailer.eq_ignore_ascii_case(algorithm.header())
    })
}

/// Reads a body. One of more than `most` bytes is shown to `pass`, all of it from its beginning;
/// what is returned then is empty.
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
            // The stream checks signatures and hashes of the payload; such errors are S3 errors
            // inside.
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
