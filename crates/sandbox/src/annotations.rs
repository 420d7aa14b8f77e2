//! Annotations: up to 1,000 named texts of at most 1 MiB that are attached to an object.
//!
//! The `s3s` crate does not implement these operations, so the sandbox answers them before `s3s`
//! sees the request. It does not verify their signatures; it checks everything else that S3 checks.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use s3s::Body;

use super::object::Encryption;
use super::operation::{Call, Operation, QueryString};
use super::refusal::{Refusal, escape};
use super::store::Store;

/// The largest annotation, in bytes.
const LARGEST: usize = 1 << 20;
/// The longest name, in bytes.
const LONGEST_NAME: usize = 512;
/// The most annotations of an object, and of a page of a list.
const MAX_ANNOTATIONS: usize = 1000;

pub(super) const fn is_about(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::ListObjectAnnotations
            | Operation::GetObjectAnnotation
            | Operation::PutObjectAnnotation
            | Operation::DeleteObjectAnnotation
    )
}

/// Answers a request about annotations.
pub(super) async fn answer(
    store: &Store,
    request: Request<Incoming>,
    call: &Call,
    id: &str,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, LARGEST + 1).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Refusal::too_large(LARGEST as u64 + 1).response(id),
    };
    let query = QueryString(parts.uri.query().unwrap_or_default());
    let requested = AnnotationRequest {
        name: query.get("annotationName").unwrap_or_default().into_owned(),
        version: query.get("versionId").map(Cow::into_owned),
        prefix: query
            .get("annotation-prefix")
            .unwrap_or_default()
            .into_owned(),
        after: query.get("continuation-token").map(Cow::into_owned),
        etag: parts
            .headers
            .get("x-amz-object-if-match")
            .and_then(|etag| etag.to_str().ok()),
    };
    let answered = match call.operation {
        Operation::ListObjectAnnotations => requested.list(store, call),
        Operation::GetObjectAnnotation => requested.get(store, call),
        Operation::PutObjectAnnotation => requested.put(store, call, &body),
        _ => requested.delete(store, call),
    };
    let mut response = match answered {
        Ok(body) => Response::new(Body::from(body)),
        Err(refusal) => return refusal.response(id),
    };
    if call.operation == Operation::DeleteObjectAnnotation {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}

struct AnnotationRequest<'a> {
    name: String,
    version: Option<String>,
    prefix: String,
    after: Option<String>,
    etag: Option<&'a str>,
}

impl AnnotationRequest<'_> {
    fn list(&self, store: &Store, call: &Call) -> Result<String, Refusal> {
        let bucket = store.bucket(&call.bucket)?;
        let object = bucket.read().resolve(&call.key, self.version.as_deref())?;
        let after = self.after.as_deref().unwrap_or_default();
        let mut found = object
            .attributes
            .annotations
            .iter()
            .filter(|(name, _)| name.starts_with(&self.prefix) && name.as_str() > after);
        let mut xml = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListObjectAnnotationsOutput><Annotations>",
        );
        let mut last = "";
        for (name, text) in found.by_ref().take(MAX_ANNOTATIONS) {
            last = name;
            let _ = write!(
                xml,
                "<AnnotationEntry><AnnotationName>{}</AnnotationName><LastModified>2026-01-01T00:00:00Z</LastModified>\
                 <Size>{}</Size></AnnotationEntry>",
                escape(name),
                text.len()
            );
        }
        xml.push_str("</Annotations>");
        if found.next().is_some() {
            let _ = write!(
                xml,
                "<NextContinuationToken>{}</NextContinuationToken>",
                escape(last)
            );
        }
        xml.push_str("</ListObjectAnnotationsOutput>");
        Ok(xml)
    }

    fn get(&self, store: &Store, call: &Call) -> Result<String, Refusal> {
        let bucket = store.bucket(&call.bucket)?;
        let object = bucket.read().resolve(&call.key, self.version.as_deref())?;
        object
            .attributes
            .annotations
            .get(&self.name)
            .cloned()
            .ok_or_else(|| {
                Refusal::new(
                    StatusCode::NOT_FOUND,
                    "NoSuchAnnotation",
                    "The specified annotation does not exist.",
                )
            })
    }

    fn put(&self, store: &Store, call: &Call, body: &[u8]) -> Result<String, Refusal> {
        let bucket = store.bucket(&call.bucket)?;
        let name = self.name.as_str();
        if name.is_empty()
            || name.len() > LONGEST_NAME
            || name.starts_with("aws")
            || name.starts_with("s3")
        {
            return Err(Refusal::invalid_argument(
                "annotationName",
                name,
                "The annotation name is invalid.",
            ));
        }
        if body.is_empty() || body.len() > LARGEST {
            return Err(Refusal::too_large(body.len() as u64));
        }
        let text = std::str::from_utf8(body).map_err(|_| {
            let message = "The annotation payload must be valid UTF-8.";
            Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                message,
            )
        })?;
        bucket.change(&call.key, self.version.as_deref(), |object| {
            if self
                .etag
                .is_some_and(|etag| etag.trim_matches('"') != object.etag)
            {
                return Err(Refusal::precondition_failed("x-amz-object-if-match"));
            }
            let attributes = Arc::make_mut(&mut object.attributes);
            if matches!(attributes.encryption, Encryption::Customer { .. }) {
                return Err(Refusal::invalid_request(
                    "Annotations are not supported for SSE-C objects.",
                ));
            }
            if attributes.annotations.len() >= MAX_ANNOTATIONS
                && !attributes.annotations.contains_key(name)
            {
                return Err(Refusal::invalid_request(
                    "An object can have at most 1000 annotations.",
                ));
            }
            attributes
                .annotations
                .insert(name.to_owned(), text.to_owned());
            Ok(())
        })?;
        let (key, name) = (escape(&call.key), escape(name));
        Ok(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PutObjectAnnotationOutput><Key>{key}</Key>\
             <AnnotationName>{name}</AnnotationName></PutObjectAnnotationOutput>"
        ))
    }

    fn delete(&self, store: &Store, call: &Call) -> Result<String, Refusal> {
        let bucket = store.bucket(&call.bucket)?;
        bucket.change(&call.key, self.version.as_deref(), |object| {
            Arc::make_mut(&mut object.attributes)
                .annotations
                .remove(&self.name);
            Ok(())
        })?;
        Ok(String::new())
    }
}
