//! The control port: adds, shows, and removes rules while the sandbox runs.
//!
//! It is separate from the S3 port, so it hides no key of a bucket and S3 clients never reach it.
//! It has no authentication. Bind it to the loopback interface.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use super::rules;

/// The path of the list of rules. Each rule has a path below it.
const RULES: &str = "/_sandbox/rules";

/// The most bytes of rules in one request.
const MAX_BYTES: usize = 1024 * 1024;

/// An error answer: its status and its message.
struct Refused {
    status: StatusCode,
    why: String,
}

/// Serves one connection.
pub(super) async fn serve(stream: TcpStream, faults: Arc<Faults>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let faults = Arc::clone(&faults);
        async move { Ok::<_, Infallible>(respond(request, &faults).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        () = stop.cancelled() => {}
        _ = connection => {}
    }
}

async fn respond(request: Request<Incoming>, faults: &Faults) -> Response<Full<Bytes>> {
    let (status, document) = match answer(request, faults).await {
        Ok((status, document)) => (status, document),
        Err(Refused { status, why }) => (status, json!({ "error": why })),
    };
    let mut response = Response::new(Full::from(format!("{document}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
    }
    response
}

async fn answer(
    request: Request<Incoming>,
    faults: &Faults,
) -> Result<(StatusCode, Value), Refused> {
    let path = request.uri().path().to_owned();
    let Some(below) = path.strip_prefix(RULES) else {
        return Err(not_found(format!(
            "there is nothing at {path}; rules are at {RULES}"
        )));
    };
    let id = match below.strip_prefix('/') {
        None if below.is_empty() => None,
        below => {
            let id = below.and_then(|text| text.parse::<u64>().ok());
            Some(id.ok_or_else(|| not_found(format!("{path} names no rule; a rule has a number")))?)
        }
    };
    match (request.method(), id) {
        (&Method::POST, None) => {
            let ids = faults
                .add_json(&body(request).await?)
                .map_err(|why| Refused {
                    status: StatusCode::BAD_REQUEST,
                    why,
                })?;
            Ok((StatusCode::CREATED, json!({ "ids": ids })))
        }
        (&Method::GET, None) => {
            let rules: Vec<_> = faults.armed().iter().map(rules::show).collect();
            Ok((StatusCode::OK, json!({ "rules": rules })))
        }
        (&Method::GET, Some(id)) => {
            let rule = faults.armed().into_iter().find(|rule| rule.id == id);
            Ok((
                StatusCode::OK,
                rules::show(&rule.ok_or_else(|| no_rule(id))?),
            ))
        }
        (&Method::DELETE, None) => {
            let cleared = faults.armed().len();
            faults.clear();
            Ok((StatusCode::OK, json!({ "cleared": cleared })))
        }
        (&Method::DELETE, Some(id)) if faults.remove(id) => {
            Ok((StatusCode::OK, json!({ "cleared": 1 })))
        }
        (&Method::DELETE, Some(id)) => Err(no_rule(id)),
        (method, _) => Err(Refused {
            status: StatusCode::METHOD_NOT_ALLOWED,
            why: format!(
                "{method} does nothing here; rules are sent with POST, read with GET, cleared with DELETE"
            ),
        }),
    }
}

fn not_found(why: String) -> Refused {
    Refused {
        status: StatusCode::NOT_FOUND,
        why,
    }
}

fn no_rule(id: u64) -> Refused {
    not_found(format!("there is no rule {id}"))
}

async fn body(request: Request<Incoming>) -> Result<Bytes, Refused> {
    let read = Limited::new(request.into_body(), MAX_BYTES).collect().await;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| Refused {
            status: StatusCode::BAD_REQUEST,
            why: format!("the rules cannot be read: {error}"),
        })
}
