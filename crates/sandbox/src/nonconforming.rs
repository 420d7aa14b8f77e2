//! Imitates servers that ignore parts of a request, or send answers that belong to no operation.

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use s3s::Body;
use s3s::service::S3Service;

/// Builds an answer that belongs to no operation.
pub(super) fn answer(status: u16, kind: &'static str, body: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Passes a request to a service that verifies no signatures.
pub(super) async fn served(unsigned: &S3Service, request: Request<Body>) -> Response<Body> {
    let answered = unsigned.call(request).await;
    answered.unwrap_or_else(|_| answer(500, "text/plain", "the sandbox cannot serve this"))
}

/// Removes these headers and query parameters, and the signature, from a request.
pub(super) fn without(request: Request<Incoming>, names: &[&str]) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    for name in names {
        parts.headers.remove(*name);
    }
    parts.headers.remove(AUTHORIZATION);
    let query = parts.uri.query().unwrap_or_default();
    let is_kept = |pair: &&str| !names.contains(&pair.split('=').next().unwrap_or_default());
    let kept: Vec<_> = query.split('&').filter(is_kept).collect();
    if let Ok(uri) = format!("{}?{}", parts.uri.path(), kept.join("&")).parse::<Uri>() {
        parts.uri = uri;
    }
    Request::from_parts(parts, Body::from(body))
}

/// Removes the last part from the list in a Complete request.
pub(super) async fn without_last_part(request: Request<Incoming>) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let text = match (text.rfind("<Part>"), text.rfind("</Part>")) {
        (Some(first), Some(last)) => {
            format!("{}{}", &text[..first], &text[last + "</Part>".len()..])
        }
        _ => text.into_owned(),
    };
    for name in [
        "x-amz-mp-object-size",
        "x-amz-checksum-crc64nvme",
        "x-amz-content-sha256",
        "content-md5",
    ] {
        parts.headers.remove(name);
    }
    parts.headers.remove(AUTHORIZATION);
    parts
        .headers
        .insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    Request::from_parts(parts, Body::from(text))
}
