//! Answers changed by a fault: replaced by an error, padded with blanks, truncated, or sent byte by
//! byte.
//!
//! The operation has already taken effect.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use s3s::{Body, StdError};

use super::NoAnswer;
use crate::faults::Effect;
use crate::record::Outcome;
use crate::refusal::Refusal;

pub(super) fn scripted(status: u16, code: &'static str) -> Refusal {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Refusal::new(status, code, "A fault of the sandbox")
}

/// Applies the effect of a fault to the answer of an operation that took effect.
pub(super) async fn after_effect(
    mut response: Response<Body>,
    effect: Option<Effect>,
    id: &str,
    outcome: &mut Outcome,
) -> Result<Response<Body>, NoAnswer> {
    match effect {
        Some(Effect::ErrorAfterEffect(status, code)) => Ok(scripted(status, code).response(id)),
        Some(Effect::ErrorIn200 {
            code,
            after_effect: true,
            blanks,
        }) => {
            outcome.code = Some(code.to_owned());
            Ok(error_in_200(code, blanks, id))
        }
        Some(Effect::Blanks {
            count,
            before_declaration,
        }) => Ok(blanked(response, count, before_declaration)),
        Some(Effect::ResetAfter) => Err(NoAnswer::Closed),
        Some(Effect::RstAfter) => Err(NoAnswer::Reset),
        Some(Effect::StallAfter(time)) => {
            stall(time).await;
            Ok(response)
        }
        Some(Effect::TruncateBody) => Ok(truncated(response)),
        Some(Effect::Trickle(pause)) => Ok(trickling(response, pause)),
        Some(Effect::EmptyBody) => {
            response.headers_mut().remove(CONTENT_LENGTH);
            *response.body_mut() = Body::empty();
            Ok(response)
        }
        // These act before the operation or on it, or make it fail.
        None
        | Some(
            Effect::Error(..)
            | Effect::SlowDown
            | Effect::ErrorIn200 {
                after_effect: false,
                ..
            }
            | Effect::ResetBefore
            | Effect::RstBefore
            | Effect::StallBefore(_)
            | Effect::Delay(_)
            | Effect::Skew(_)
            | Effect::Corrupt
            | Effect::Ignore(_)
            | Effect::DropPart
            | Effect::Answer(..)
            | Effect::Hook(_),
        ) => Ok(response),
    }
}

pub(super) async fn stall(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

pub(super) fn error_in_200(code: &'static str, blanks: usize, id: &str) -> Response<Body> {
    let refusal = Refusal::new(
        StatusCode::OK,
        code,
        "A fault of the sandbox, in a successful answer",
    );
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>{}\n{}",
        " ".repeat(blanks),
        refusal.element(id)
    );
    let mut response = Response::new(Body::from(document));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

/// Adds blanks to the document of the answer.
fn blanked(mut response: Response<Body>, count: usize, before_declaration: bool) -> Response<Body> {
    let Some(body) = response.body().bytes() else {
        return response;
    };
    let declared = body
        .windows(2)
        .position(|end| end == b"?>")
        .map_or(0, |at| at + 2);
    let at = if before_declaration { 0 } else { declared };
    let blanked = [&body[..at], &vec![b' '; count], &body[at..]].concat();
    *response.body_mut() = Body::from(blanked);
    response.headers_mut().remove(CONTENT_LENGTH);
    response
}

/// Announces the full length of the answer but sends only half of its body.
fn truncated(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let announced = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let len: u64 = announced
        .or_else(|| hyper::body::Body::size_hint(&body).exact())
        .unwrap_or(2);
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
    let sent = futures::stream::unfold((body, len / 2), |(mut body, left)| async move {
        if left == 0 {
            // Wait until the data is sent before the connection closes.
            tokio::time::sleep(Duration::from_millis(20)).await;
            return Some((Err(Box::new(NoAnswer::Closed) as StdError), (body, 0)));
        }
        let chunk: Bytes = body.next().await?.ok()?;
        let take = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        Some((
            Ok(Frame::data(chunk.slice(..take))),
            (body, left - take as u64),
        ))
    });
    Response::from_parts(parts, Body::http_body_unsync(StreamBody::new(sent)))
}

/// Sends the body of the answer byte by byte.
fn trickling(response: Response<Body>, pause: Duration) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let sent = futures::stream::unfold(
        (body, Bytes::new()),
        move |(mut body, mut left)| async move {
            while left.is_empty() {
                left = match body.next().await? {
                    Ok(chunk) => chunk,
                    Err(error) => return Some((Err(error), (body, left))),
                };
            }
            tokio::time::sleep(pause).await;
            let byte = left.split_to(1);
            Some((Ok(Frame::data(byte)), (body, left)))
        },
    );
    Response::from_parts(parts, Body::http_body_unsync(StreamBody::new(sent)))
}
