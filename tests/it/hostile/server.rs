//! A proxy in front of the sandbox that answers one operation wrongly, every time.
//!
//! It implements HTTP/1.1 by hand, with one request per connection, so that an answer can be broken
//! in any way.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use s3haul::sandbox::{Operation, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::documents::{pretended, refusal};
use super::ways::Way;
use crate::liar::dechunked;

/// The pause before each byte of a slow answer.
const DRIP: Duration = Duration::from_millis(40);
/// A piece of an oversized answer.
const PIECE: &[u8] = &[b' '; 64 * 1024];
/// Largest size of an oversized answer. It exceeds every bound, and it ends the test if there is no
/// bound.
const HUGE: usize = 600 * 1024 * 1024;

/// A request as received.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    /// Pairs of name and value, not decoded.
    pub(super) query: Vec<(String, Option<String>)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// An answer to send.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Bytes of the body that are announced but not sent.
    pub(super) missing: usize,
    /// True if no header announces the length, so that the body ends with the connection.
    pub(super) untold: bool,
}

/// The state of the proxy: the requests and the wrong answers.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The operations that were sent.
    pub(super) operations: Vec<Operation>,
    /// The first answer to the operation that is now answered wrongly.
    pub(super) first: Option<Answer>,
    /// The operation that is answered wrongly, and the way.
    pub(super) strike: Option<(Operation, Way)>,
    /// The number of wrong answers.
    pub(super) struck: usize,
}

/// The proxy. It ends with its runtime.
pub(super) struct Hostile {
    pub(super) url: String,
    pub(super) seen: Arc<Mutex<Seen>>,
}

/// The state that connections share.
#[derive(Clone)]
struct Context {
    to: SocketAddr,
    store: Store,
    seen: Arc<Mutex<Seen>>,
}

impl Hostile {
    pub(super) async fn start(sandbox: &str, store: Store) -> Self {
        let to = sandbox.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Seen>>::default();
        let context = Context {
            to,
            store,
            seen: Arc::clone(&seen),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(context.clone().serve(stream));
            }
        });
        Self { url, seen }
    }

    /// Answers wrongly from now on.
    pub(super) fn arm(&self, strike: Option<(Operation, Way)>) {
        *self.seen.lock().unwrap() = Seen {
            strike,
            ..Seen::default()
        };
    }
}

impl Context {
    async fn serve(self, mut stream: TcpStream) -> Option<()> {
        let mut request = read_request(&mut stream).await?;
        let operation = request.operation();
        let (way, number) = {
            let mut seen = self.seen.lock().unwrap();
            seen.operations.push(operation);
            let way = seen
                .strike
                .filter(|(on, _)| *on == operation)
                .map(|(_, way)| way);
            seen.struck += usize::from(way.is_some());
            (way, seen.struck)
        };
        let head = request.method == "HEAD";
        let Some(way) = way else {
            return send(&mut stream, &self.forward(&request).await?, head).await;
        };
        match way {
            Way::NoAnswer => return None,
            Way::Silent => return std::future::pending().await,
            Way::WithoutEffect => {
                let answer = pretended(operation, &request, &self.store);
                return send(&mut stream, &answer, head).await;
            }
            Way::NotModified => {
                let answer = Answer {
                    status: 304,
                    ..Answer::default()
                };
                return send(&mut stream, &answer, true).await;
            }
            Way::ErrorInSuccess => {
                return send(&mut stream, &refusal(200, "InternalError"), head).await;
            }
            Way::NotFound => return send(&mut stream, &refusal(404, "NoSuchKey"), head).await,
            Way::Refused => {
                return send(&mut stream, &refusal(412, "PreconditionFailed"), head).await;
            }
            _ => {}
        }
        let asked = request.clone();
        way.change_request(operation, &mut request, &self.store);
        let answer = self.forward(&request).await?;
        if let Some(refusal) = way.refusal_of_done(number) {
            return send(&mut stream, &refusal, head).await;
        }
        match way {
            Way::EffectWithoutAnswer => None,
            Way::Repeated => {
                let first = self
                    .seen
                    .lock()
                    .unwrap()
                    .first
                    .get_or_insert(answer)
                    .clone();
                send(&mut stream, &first, head).await
            }
            Way::Slow => drip(&mut stream, &answer, head).await,
            Way::Huge => pour(&mut stream, &answer).await,
            Way::HugeHeader => pour_header(&mut stream).await,
            Way::OtherRange => {
                // Claims the requested range.
                let mut answer = answer;
                let range = asked.headers.iter().find(|(name, _)| name == "range");
                let range = range.map_or("", |(_, range)| range.trim_start_matches("bytes="));
                for (_, value) in answer
                    .headers
                    .iter_mut()
                    .filter(|(name, _)| name == "content-range")
                {
                    *value = format!("bytes {range}/*");
                }
                send(&mut stream, &answer, head).await
            }
            _ => {
                send(
                    &mut stream,
                    &way.change_answer(operation, answer, number),
                    head,
                )
                .await
            }
        }
    }

    /// Returns the answer of the sandbox.
    async fn forward(&self, request: &Request) -> Option<Answer> {
        let mut stream = TcpStream::connect(self.to).await.ok()?;
        let mut text = format!("{} {} HTTP/1.1\r\n", request.method, request.target());
        for (name, value) in &request.headers {
            if !["connection", "expect", "content-length"].contains(&name.as_str()) {
                let _ = write!(text, "{name}: {value}\r\n");
            }
        }
        if !request.body.is_empty() || ["PUT", "POST"].contains(&request.method.as_str()) {
            let _ = write!(text, "content-length: {}\r\n", request.body.len());
        }
        text.push_str("connection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.ok()?;
        stream.write_all(&request.body).await.ok()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.ok()?;
        read_answer(&bytes, request.method == "HEAD")
    }
}

impl Request {
    fn target(&self) -> String {
        let pairs: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| {
                value
                    .as_ref()
                    .map_or_else(|| name.clone(), |value| format!("{name}={value}"))
            })
            .collect();
        if pairs.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{}", self.path, pairs.join("&"))
        }
    }

    fn operation(&self) -> Operation {
        let headers: HeaderMap = self
            .headers
            .iter()
            .filter_map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
                Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
            })
            .collect();
        let method = Method::from_bytes(self.method.as_bytes()).unwrap();
        Operation::of(&method, &self.target().parse::<Uri>().unwrap(), &headers)
    }

    /// Returns the key, not decoded: the tests' keys need no decoding.
    pub(super) fn key(&self) -> &str {
        self.path
            .trim_start_matches('/')
            .split_once('/')
            .map_or("", |(_, key)| key)
    }

    pub(super) fn set_query(&mut self, name: &str, value: &str) {
        self.query.retain(|(each, _)| each != name);
        self.query.push((name.to_owned(), Some(value.to_owned())));
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .map(|at| at + 4)
}

fn headers(lines: std::str::Lines<'_>) -> Vec<(String, String)> {
    lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect()
}

fn length(headers: &[(String, String)]) -> usize {
    let found = headers.iter().find(|(name, _)| name == "content-length");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

async fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = end_of_head(&bytes) {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = headers(lines);
    if headers.iter().any(|(name, _)| name == "expect") {
        stream
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await
            .ok()?;
    }
    while body.len() < length(&headers) {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (pair.to_owned(), None),
        })
        .collect();
    Some(Request {
        method,
        path: path.to_owned(),
        query,
        headers,
        body,
    })
}

fn read_answer(bytes: &[u8], head: bool) -> Option<Answer> {
    let end = end_of_head(bytes)?;
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut headers = headers(lines);
    let mut body = bytes[end..].to_vec();
    if headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value.contains("chunked"))
    {
        body = dechunked(&body)?;
    }
    headers.retain(|(name, _)| {
        !["transfer-encoding", "connection"].contains(&name.as_str())
            && (head || name != "content-length")
    });
    Some(Answer {
        status,
        headers,
        body,
        ..Answer::default()
    })
}

/// Formats the status line and the headers of an answer.
fn head_of(answer: &Answer, head: bool) -> String {
    let mut text = format!("HTTP/1.1 {} Hostile\r\n", answer.status);
    for (name, value) in &answer.headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    if !head && !answer.untold && answer.status != 204 {
        let _ = write!(
            text,
            "content-length: {}\r\n",
            answer.body.len() + answer.missing
        );
    }
    text.push_str("connection: close\r\n\r\n");
    text
}

async fn send(stream: &mut TcpStream, answer: &Answer, head: bool) -> Option<()> {
    stream
        .write_all(head_of(answer, head).as_bytes())
        .await
        .ok()?;
    if !head {
        stream.write_all(&answer.body).await.ok()?;
    }
    stream.shutdown().await.ok()
}

/// Sends the headers at once, and the body byte by byte.
async fn drip(stream: &mut TcpStream, answer: &Answer, head: bool) -> Option<()> {
    stream
        .write_all(head_of(answer, head).as_bytes())
        .await
        .ok()?;
    for byte in answer.body.chunks(1) {
        tokio::time::sleep(DRIP).await;
        stream.write_all(byte).await.ok()?;
    }
    stream.shutdown().await.ok()
}

/// Sends an answer with a huge number of spaces in the middle, which XML allows.
async fn pour(stream: &mut TcpStream, answer: &Answer) -> Option<()> {
    let answer = Answer {
        untold: true,
        ..answer.clone()
    };
    let middle = answer
        .body
        .windows(2)
        .position(|end| end == b"?>")
        .map_or(0, |at| at + 2);
    stream
        .write_all(head_of(&answer, false).as_bytes())
        .await
        .ok()?;
    stream.write_all(&answer.body[..middle]).await.ok()?;
    for _ in 0..HUGE / PIECE.len() {
        stream.write_all(PIECE).await.ok()?;
    }
    stream.write_all(&answer.body[middle..]).await.ok()?;
    stream.shutdown().await.ok()
}

/// Sends a huge header.
async fn pour_header(stream: &mut TcpStream) -> Option<()> {
    stream
        .write_all(b"HTTP/1.1 200 Hostile\r\nx-amz-meta-long: a")
        .await
        .ok()?;
    let letters = vec![b'a'; PIECE.len()];
    for _ in 0..HUGE / PIECE.len() {
        stream.write_all(&letters).await.ok()?;
    }
    stream
        .write_all(b"\r\ncontent-length: 0\r\n\r\n")
        .await
        .ok()?;
    stream.shutdown().await.ok()
}
