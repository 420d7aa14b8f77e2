//! The HTTP layer around the service. It classifies each request, applies faults, applies the
//! latencies and rates of the model, makes the checks that S3 makes before the operation (region,
//! owner, denials), and records the call.

mod altered;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, EXPIRES, HeaderMap, HeaderName, HeaderValue, SERVER,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError, StdError};

use super::annotations;
use super::clock;
use super::faults::{Effect, FaultEffects, Faults};
use super::keys::KeyRing;
use super::kind;
use super::model::{LatencyModel, Limiter, Model};
use super::nonconforming;
use super::operation::{Call, Operation};
use super::protocol::{
    CopiedBytes, Corrupted, Interleaved, Lines, ODD_EXPIRES, Service, SuccessStatus, TENANT_SOURCE,
};
use super::record::{CallRecord, Outcome};
use super::refusal::{DETAILS, Refusal};
use super::store::Store;

use altered::{after_effect, error_in_200, scripted, stall};

/// The most bytes to read from the body of a refused request. Many clients read the answer only
/// after they have sent the body.
const DRAINED: usize = 64 * 1024 * 1024;

/// The header that names the source of a copy.
const COPY_SOURCE: &str = "x-amz-copy-source";

/// The most bytes of all headers of a request.
const MAX_HEADERS: usize = 8192;

/// The ways in which a call can end without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The connection closes.
    #[error("the connection is closed without an answer")]
    Closed,
    /// The connection ends with a TCP reset.
    #[error("the connection is reset without an answer")]
    Reset,
}

/// Answers requests.
pub(super) struct Front {
    keys: KeyRing,
    service: S3Service,
    /// The same service without signature verification.
    unsigned: S3Service,
    store: Store,
    faults: Arc<Faults>,
    record: Arc<CallRecord>,
    latency: Arc<LatencyModel>,
    limiter: Limiter,
    requests: AtomicU64,
}

impl Front {
    pub(super) fn new(
        store: Store,
        faults: Arc<Faults>,
        record: Arc<CallRecord>,
        model: Model,
        keys: KeyRing,
    ) -> Self {
        let latency = Arc::new(model.latency);
        let mut builder = S3ServiceBuilder::new(Service::new(store.clone(), Arc::clone(&latency)));
        builder.set_auth(keys.clone());
        builder.set_config(clock::unchecked());
        builder.set_access(kind::Signed);
        builder.set_validation(kind::WithTenants);
        let mut unsigned = S3ServiceBuilder::new(Service::new(store.clone(), Arc::clone(&latency)));
        unsigned.set_validation(kind::WithTenants);
        Self {
            keys,
            service: builder.build(),
            unsigned: unsigned.build(),
            store,
            faults,
            record,
            latency,
            limiter: Limiter::new(model.limits),
            requests: AtomicU64::new(1),
        }
    }

    /// Answers a request, or returns the reason for not answering it.
    pub(super) async fn handle(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, NoAnswer> {
        let call = Call::classify(request.method(), request.uri(), request.headers());
        let mut flight = self.record.begin(&call, request.headers());
        let id = format!("{:016X}", self.requests.fetch_add(1, Ordering::Relaxed));
        let mut response = self
            .answer(request, &call, &id, &mut flight.outcome)
            .await?;
        flight.outcome.status = Some(response.status().as_u16());
        if flight.outcome.code.is_none() && response.status().as_u16() >= 300 {
            flight.outcome.code = error_code(response.body());
        }
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static("s3haul-sandbox"));
        headers.insert(
            HeaderName::from_static("x-amz-id-2"),
            HeaderValue::from_static("sandbox"),
        );
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(HeaderName::from_static("x-amz-request-id"), id);
        }
        Ok(response)
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        call: &Call,
        id: &str,
        outcome: &mut Outcome,
    ) -> Result<Response<Body>, NoAnswer> {
        if !self.limiter.admits(call) {
            return Ok(refuse(request, &Refusal::slow_down(), id).await);
        }
        let FaultEffects {
            delay,
            skew,
            effect,
        } = self.faults.strike(call, request.headers());
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match &effect {
            Some(Effect::Error(status, code)) => {
                return Ok(refuse(request, &scripted(*status, code), id).await);
            }
            Some(Effect::SlowDown) => return Ok(refuse(request, &Refusal::slow_down(), id).await),
            Some(Effect::ErrorIn200 {
                code,
                after_effect: false,
                blanks,
            }) => {
                drain(request.into_body()).await;
                outcome.code = Some((*code).to_owned());
                return Ok(error_in_200(code, *blanks, id));
            }
            Some(Effect::Answer(status, kind, body)) => {
                drain(request.into_body()).await;
                return Ok(nonconforming::answer(*status, kind, body));
            }
            Some(Effect::Ignore(names)) => {
                return Ok(nonconforming::served(
                    &self.unsigned,
                    nonconforming::without(request, names),
                )
                .await);
            }
            Some(Effect::DropPart) => {
                return Ok(nonconforming::served(
                    &self.unsigned,
                    nonconforming::without_last_part(request).await,
                )
                .await);
            }
            Some(Effect::ResetBefore) => return Err(NoAnswer::Closed),
            Some(Effect::RstBefore) => return Err(NoAnswer::Reset),
            Some(Effect::StallBefore(time)) => stall(*time).await,
            Some(Effect::Hook(run)) => run(&self.store),
            Some(Effect::Corrupt) => {
                request.extensions_mut().insert(Corrupted);
            }
            // These change the answer, and the last two are in other fields of `FaultEffects`.
            Some(
                Effect::ErrorAfterEffect(..)
                | Effect::ErrorIn200 {
                    after_effect: true, ..
                }
                | Effect::Blanks { .. }
                | Effect::ResetAfter
                | Effect::RstAfter
                | Effect::StallAfter(_)
                | Effect::TruncateBody
                | Effect::EmptyBody
                | Effect::Trickle(_)
                | Effect::Delay(_)
                | Effect::Skew(_),
            )
            | None => {}
        }
        let latency = self.latency.base(call.operation);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let now = Timestamp::now().saturating_add(skew).unwrap_or_default();
        let mut response = self.operate(request, call, id, now).await;
        if !skew.is_zero() {
            clock::show(&mut response, now);
        }
        if let Some(CopiedBytes(bytes)) = response.extensions().get() {
            outcome.copied_bytes = *bytes;
        }
        after_effect(response, effect, id, outcome).await
    }

    /// Executes the request at this time on the clock of the server.
    async fn operate(
        &self,
        request: Request<Incoming>,
        call: &Call,
        id: &str,
        now: Timestamp,
    ) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default();
        let checked = clock::check(request.headers(), now)
            .and_then(|()| self.check(call, query, request.headers()));
        let charged = match checked {
            Err(refusal) => return refuse(request, &refusal, id).await,
            Ok(charged) => charged,
        };
        let head = request.method() == Method::HEAD;
        let mut response = if annotations::is_about(call.operation) {
            annotations::answer(&self.store, request, call, id).await
        } else {
            self.serve(request, id, head).await
        };
        if call.operation == Operation::GetObjectAttributes {
            unquote_etag(&mut response);
        }
        if charged {
            let charged = HeaderName::from_static("x-amz-request-charged");
            response
                .headers_mut()
                .insert(charged, HeaderValue::from_static("requester"));
        }
        response
    }

    /// Makes the checks on the bucket that S3 makes before the operation. Returns true if the
    /// requester is charged.
    fn check(&self, call: &Call, query: &str, headers: &HeaderMap) -> Result<bool, Refusal> {
        let size: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        if size > MAX_HEADERS {
            let message = "Your request header section exceeds the maximum allowed size.";
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "RequestHeaderSectionTooLarge",
                message,
            )
            .with("MaxSizeAllowed", MAX_HEADERS));
        }
        let Some(bucket) = self.store.find(&call.bucket) else {
            return Ok(false);
        };
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let anywhere = matches!(
            call.operation,
            Operation::CreateBucket | Operation::GetBucketLocation
        );
        if !anywhere && signed_region(headers).is_some_and(|region| region != bucket.region) {
            return Err(Refusal::new(
                StatusCode::MOVED_PERMANENTLY,
                "PermanentRedirect",
                "The bucket you are attempting to access must be addressed using the specified endpoint. Please send \
                 all future requests to this endpoint.",
            )
            .with("Bucket", &bucket.name)
            .with("Endpoint", format!("s3.{}.amazonaws.com", bucket.region))
            .header("x-amz-bucket-region", &bucket.region));
        }
        let foreign =
            text("x-amz-expected-bucket-owner").is_some_and(|owner| owner != bucket.owner);
        let unpaid = bucket.requester_pays && text("x-amz-request-payer") != Some("requester");
        let unsigned =
            bucket.signed_bodies && text("x-amz-content-sha256") == Some("UNSIGNED-PAYLOAD");
        if foreign
            || unpaid
            || unsigned
            || self
                .store
                .is_denied(&call.bucket, call.operation, &call.key)
        {
            return Err(Refusal::access_denied());
        }
        kind::check(&bucket, self.store.quirks(), call, query, headers)?;
        Ok(bucket.requester_pays)
    }

    /// Handles a request with headers that `s3s` refuses but S3 accepts: any text in `Expires`, and
    /// copy sources with tenants. `s3s` first gets the original request, so that it verifies the
    /// signature. If it then refuses one of these headers, the request goes to a service that
    /// verifies nothing, and the values move to headers of the sandbox.
    async fn call_with(
        &self,
        mut parts: Parts,
        readable: HeaderMap,
    ) -> Result<Response<Body>, HttpError> {
        let signed = self
            .service
            .call(Request::from_parts(parts.clone(), Body::empty()))
            .await?;
        let text = signed.body().bytes().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if ![EXPIRES.as_str(), COPY_SOURCE]
            .iter()
            .any(|name| text.contains(&format!("invalid header: {name}")))
        {
            return Ok(signed);
        }
        parts.headers = readable;
        self.unsigned
            .call(Request::from_parts(parts, Body::empty()))
            .await
    }

    /// Passes the request to the service and completes its answer.
    async fn serve(&self, request: Request<Incoming>, id: &str, head: bool) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let answered = match readable(&parts, &body) {
            None => {
                let mut request = Request::from_parts(parts, Body::from(body));
                kind::waive_signature(&mut request, &self.keys, self.store.quirks());
                self.service.call(request).await
            }
            Some(readable) => self.call_with(parts, readable).await,
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                let message = StdError::from(error).to_string();
                return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
                    .response(id);
            }
        };
        if let Some(SuccessStatus(status)) = response.extensions().get().copied() {
            *response.status_mut() = status;
        }
        if let Some(Interleaved(order)) = response.extensions().get().cloned() {
            interleave(&mut response, &order);
        }
        if let Some(Lines(lines)) = response.extensions_mut().remove::<Lines>() {
            insert(&mut response, &lines);
        }
        let details = response.headers_mut().remove(DETAILS);
        if response.status() == StatusCode::NOT_MODIFIED {
            *response.body_mut() = Body::empty();
        } else if response.status().as_u16() >= 300
            && !head
            && let Some(body) = response.body().bytes()
            && let Some(document) = body.strip_suffix(b"</Error>")
        {
            let details = details.as_ref().map_or(&[][..], HeaderValue::as_bytes);
            let end = format!("<RequestId>{id}</RequestId><HostId>sandbox</HostId></Error>");
            *response.body_mut() = Body::from([document, details, end.as_bytes()].concat());
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        response
    }
}

/// Returns headers that `s3s` can read, without the signature, for a request without a body that
/// has an `Expires` that is not a date, or a copy source of a tenant. Returns `None` if `s3s` can
/// read the original headers.
fn readable(parts: &Parts, body: &Incoming) -> Option<HeaderMap> {
    if !hyper::body::Body::is_end_stream(body) {
        return None;
    }
    let mut headers = parts.headers.clone();
    let is_date = |text: &HeaderValue| {
        text.to_str()
            .is_ok_and(|text| jiff::fmt::rfc2822::parse(text).is_ok())
    };
    if let Some(expires) = parts.headers.get(EXPIRES).filter(|text| !is_date(text)) {
        headers.remove(EXPIRES);
        headers.insert(ODD_EXPIRES, expires.clone());
    }
    let source = parts
        .headers
        .get(COPY_SOURCE)
        .and_then(|source| source.to_str().ok());
    if let Some((bucket, key)) =
        source.and_then(|source| source.trim_start_matches('/').split_once('/'))
        && bucket.contains(':')
        && !bucket.starts_with("arn:")
    {
        headers.insert(TENANT_SOURCE, HeaderValue::from_str(bucket).ok()?);
        headers.insert(
            COPY_SOURCE,
            HeaderValue::from_str(&format!("tenant/{key}")).ok()?,
        );
    }
    let is_rewritten = headers.contains_key(ODD_EXPIRES) || headers.contains_key(TENANT_SOURCE);
    headers.remove(AUTHORIZATION);
    is_rewritten.then_some(headers)
}

/// Removes the quotes from the `ETag` in the answer to `GetObjectAttributes`. It is the only answer
/// in which S3 shows it without quotes; `s3s` always adds them.
fn unquote_etag(response: &mut Response<Body>) {
    let Some(body) = response.body().bytes() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(&body) else {
        return;
    };
    let Some((before, rest)) = text.split_once("<ETag>") else {
        return;
    };
    let Some((etag, after)) = rest.split_once("</ETag>") else {
        return;
    };
    let etag = etag.replace("&quot;", "").replace('"', "");
    let unquoted = format!("{before}<ETag>{etag}</ETag>{after}");
    *response.body_mut() = Body::from(unquoted);
    response.headers_mut().remove(CONTENT_LENGTH);
}

/// Merges the entries of a listing of versions into one sequence, as S3 writes them.
fn interleave(response: &mut Response<Body>, order: &[bool]) {
    let Some(body) = response.body().bytes() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(&body) else {
        return;
    };
    let entries = |name: &str| {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let pieces: Vec<String> = text
            .split(&open)
            .skip(1)
            .filter_map(|piece| Some(piece.split_once(&close)?.0.to_owned()))
            .collect();
        pieces
            .into_iter()
            .map(move |piece| format!("{open}{piece}{close}"))
    };
    let (mut versions, mut markers) = (entries("Version"), entries("DeleteMarker"));
    let mut rest = text.to_owned();
    for entry in versions.clone().chain(markers.clone()) {
        rest = rest.replacen(&entry, "", 1);
    }
    let sequence: String = order
        .iter()
        .filter_map(|is_marker| {
            if *is_marker {
                markers.next()
            } else {
                versions.next()
            }
        })
        .collect();
    let end = "</ListVersionsResult>";
    *response.body_mut() = Body::from(rest.replacen(end, &format!("{sequence}{end}"), 1));
    response.headers_mut().remove(CONTENT_LENGTH);
}

/// Inserts the entries of a listing into its document.
fn insert(response: &mut Response<Body>, lines: &str) {
    const END: &[u8] = b"</ListBucketResult>";
    let Some(body) = response.body().bytes() else {
        return;
    };
    if let Some(document) = body.strip_suffix(END) {
        *response.body_mut() = Body::from([document, lines.as_bytes(), END].concat());
        response.headers_mut().remove(CONTENT_LENGTH);
    }
}

/// Returns the region of the request's credential scope.
fn signed_region(headers: &HeaderMap) -> Option<&str> {
    let (_, scope) = headers
        .get(AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once("Credential=")?;
    scope.split(',').next()?.split('/').nth(2)
}

/// Answers with an error. Reads the request to its end first, because many clients read no answer
/// while they send.
async fn refuse(request: Request<Incoming>, refusal: &Refusal, id: &str) -> Response<Body> {
    drain(request.into_body()).await;
    refusal.response(id)
}

async fn drain(body: Incoming) {
    // The content of the body does not matter, and neither does an error in it.
    let _ = Limited::new(body, DRAINED).collect().await;
}

/// Returns the error code in an error document.
fn error_code(body: &Body) -> Option<String> {
    let bytes = body.bytes()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code.to_owned())
}
