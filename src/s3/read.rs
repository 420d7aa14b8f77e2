//! Reads objects and parts, and deletes objects or single versions.
//!
//! A copy needs these requests only to compare bytes, to replay part boundaries, or to remove a
//! copy that is not equal to its source. Probes, and journals and shard states in S3, send some of
//! them too.

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::bounds::TooLong;
use super::causes::{find, plain};
use super::convert::{part_number, quoted, unquote};
use super::headers::with_customer_key;
use super::ids::{IdKind, other_version, required_size};
use super::requests::{failure, fault, place};
use super::{Client, Failure, FailureKind, Operation, PartHead, SourcePin};
use crate::location::{BucketName, ObjectKey};

/// The bytes of a response, as they arrive.
#[derive(Debug)]
pub struct Body {
    stream: ByteStream,
    place: String,
}

impl Body {
    /// Returns the next bytes, or `None` at the end.
    ///
    /// # Errors
    /// [`FailureKind::Transient`] if the connection breaks: the bytes so far are incomplete.
    /// [`FailureKind::AnswerTooLong`] if there are more bytes than were requested.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.stream.next().await {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(error)) => {
                let kind = match find::<TooLong>(&error) {
                    Some(_) => FailureKind::AnswerTooLong,
                    None => FailureKind::Transient,
                };
                Err(Failure::new(
                    kind,
                    Operation::GetObject,
                    &*self.place,
                    plain(&error),
                ))
            }
        }
    }
}

impl Client {
    /// Starts reading `first..=last` of one version of an object of `size` bytes.
    pub async fn get_object(
        &self,
        pin: &SourcePin,
        (first, last): (u64, u64),
        size: u64,
    ) -> Result<Body, Failure> {
        let request = self
            .sdk
            .get_object()
            .bucket(pin.bucket.as_str())
            .key(pin.key.as_str())
            .set_version_id(pin.version.clone())
            .if_match(quoted(&pin.etag))
            .range(format!("bytes={first}-{last}"));
        let output = with_customer_key!(request, &pin.customer_key)
            .send()
            .await
            .map_err(|error| failure(Operation::GetObject, &pin.bucket, Some(&pin.key), &error))?;
        let faulty = |message| fault(Operation::GetObject, &pin.bucket, Some(&pin.key), message);
        same_version(pin, output.e_tag, Operation::GetObject)?;
        other_version(pin.version.as_deref(), output.version_id.as_deref()).map_err(faulty)?;
        same_range((first, last), size, output.content_range.as_deref()).map_err(faulty)?;
        Ok(Body {
            stream: output.body,
            place: place(&pin.bucket, Some(&pin.key)),
        })
    }

    /// Returns the size of part `number` of one version of a multipart object.
    pub async fn head_part(&self, pin: &SourcePin, number: u32) -> Result<PartHead, Failure> {
        let request = self
            .sdk
            .head_object()
            .bucket(pin.bucket.as_str())
            .key(pin.key.as_str())
            .set_version_id(pin.version.clone())
            .if_match(quoted(&pin.etag))
            .part_number(part_number(number));
        let output = with_customer_key!(request, &pin.customer_key)
            .send()
            .await
            .map_err(|error| failure(Operation::HeadObject, &pin.bucket, Some(&pin.key), &error))?;
        other_version(pin.version.as_deref(), output.version_id()).map_err(|message| {
            fault(Operation::HeadObject, &pin.bucket, Some(&pin.key), message)
        })?;
        same_version(pin, output.e_tag, Operation::HeadObject)?;
        let size = required_size(output.content_length, "Content-Length").map_err(|message| {
            fault(Operation::HeadObject, &pin.bucket, Some(&pin.key), message)
        })?;
        Ok(PartHead {
            size,
            count: output.parts_count.and_then(|count| count.try_into().ok()),
        })
    }

    /// Deletes one version of an object permanently. Without a version, deletes the object; if
    /// `only` is given, only if the object still has that `ETag`.
    ///
    /// s3haul deletes a job's object only if it is a bad copy written by the same run. All other
    /// deletions are of its own objects: probe objects, journal segments, and shard records.
    pub async fn delete_object(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<&str>,
        only: Option<&str>,
    ) -> Result<(), Failure> {
        let request = self
            .sdk
            .delete_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .set_version_id(version.map(str::to_owned))
            .set_if_match(only.filter(|_| version.is_none()).map(quoted));
        let answer = request.send().await;
        answer.map_err(|error| failure(Operation::DeleteObject, bucket, Some(key), &error))?;
        Ok(())
    }
}

/// Refuses a response with a range other than `first..=last`, or about an object of another size. A
/// response without a range begins with the first byte.
fn same_range((first, last): (u64, u64), size: u64, answered: Option<&str>) -> Result<(), String> {
    let Some(answered) = answered else {
        let unknown = "the answer does not say which bytes it contains";
        return if first == 0 {
            Ok(())
        } else {
            Err(unknown.to_owned())
        };
    };
    let range = answered.trim().strip_prefix("bytes").map(str::trim_start);
    let (range, total) = range
        .and_then(|range| range.split_once('/'))
        .unwrap_or_default();
    if range.trim() != format!("{first}-{last}") {
        return Err(format!(
            "the answer contains the bytes `{answered}`, but the request was for {first}-{last}"
        ));
    }
    match total.trim() {
        "*" => Ok(()),
        total if total == size.to_string() => Ok(()),
        _ => Err(format!(
            "the answer is about the bytes `{answered}` of an object of {size} bytes"
        )),
    }
}

/// Checks that the response is about the requested version. Servers that ignore `If-Match` answer
/// with the current object, and only its `ETag` shows that.
fn same_version(
    pin: &SourcePin,
    etag: Option<String>,
    operation: Operation,
) -> Result<(), Failure> {
    let etag = IdKind::Etag.required(etag.map(unquote));
    let etag = etag.map_err(|message| fault(operation, &pin.bucket, Some(&pin.key), message))?;
    if etag == pin.etag {
        return Ok(());
    }
    let message = format!("the object changed: its ETag is {etag}, not {}", pin.etag);
    let place = place(&pin.bucket, Some(&pin.key));
    Err(Failure::new(
        FailureKind::PreconditionFailed,
        operation,
        place,
        message,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_another_range_are_refused() {
        for (range, answered) in [
            ((0, 99), None),
            ((0, 99), Some("bytes 0-99/300")),
            ((100, 199), Some("bytes 100-199/300")),
            ((100, 199), Some("bytes 100-199/*")),
        ] {
            assert_eq!(same_range(range, 300, answered), Ok(()), "{answered:?}");
        }
        for answered in [
            None,
            Some(""),
            Some("bytes 0-99/300"),
            Some("bytes 100-198/300"),
            Some("bytes 100-199/301"),
            Some("bytes 100-199"),
            Some("items 100-199/300"),
        ] {
            assert!(
                same_range((100, 199), 300, answered).is_err(),
                "{answered:?}"
            );
        }
    }
}
