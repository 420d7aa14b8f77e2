//! A server in front of the sandbox that changes the sandbox's answers.

use std::sync::{Arc, Mutex};

use s3haul::endpoint::Provider;
use s3haul::manifest::job::{Job, Transfer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{Run, World, restate};

/// A request as the server receives it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// The path without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    head: String,
}

impl Asked {
    fn of(head: &str) -> Self {
        let mut words = head.split_whitespace();
        let method = words.next().unwrap().to_owned();
        let (path, query) = words
            .next()
            .map(|uri| uri.split_once('?').unwrap_or((uri, "")))
            .unwrap();
        Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            head: head.to_owned(),
        }
    }

    /// Returns the value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Returns the value of a parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .find_map(|pair| match pair.split_once('=') {
                Some((found, value)) => (found == name).then_some(value),
                None => (pair == name).then_some(""),
            })
    }

    /// Returns true if the query has this parameter.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.parameter(name).is_some()
    }

    pub(crate) fn creates_upload(&self) -> bool {
        self.method == "POST" && self.has("uploads")
    }

    pub(crate) fn lists_uploads(&self) -> bool {
        self.method == "GET" && self.has("uploads")
    }

    pub(crate) fn lists_parts(&self) -> bool {
        self.method == "GET" && self.has("uploadId")
    }

    pub(crate) fn aborts(&self) -> bool {
        self.method == "DELETE" && self.has("uploadId")
    }

    /// Returns true for a list of objects of this bucket.
    pub(crate) fn lists(&self, bucket: &str) -> bool {
        self.method == "GET"
            && self.path.trim_matches('/') == bucket
            && self.parameter("list-type").is_some()
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The status line and the headers.
    pub(crate) head: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Returns an answer with this status and body.
    fn of(status: u16, body: String) -> Self {
        Self {
            head: vec![format!("HTTP/1.1 {status} X")],
            body: Vec::new(),
        }
        .with_body(body.into_bytes())
    }

    /// Returns an error document.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        Self::of(
            status,
            format!("<Error><Code>{code}</Code><Message>no</Message></Error>"),
        )
    }

    /// Returns a document with the status 200.
    pub(crate) fn document(body: impl Into<String>) -> Self {
        let body = body.into().into_bytes();
        let length = format!("content-length: {}", body.len());
        Self {
            head: vec![
                "HTTP/1.1 200 OK".to_owned(),
                "content-type: application/xml".to_owned(),
                length,
            ],
            body,
        }
    }

    /// Adds a header.
    pub(crate) fn with(mut self, header: &str) -> Self {
        let name = header.split(':').next().unwrap();
        self = self.without(name);
        self.head.push(header.to_owned());
        self
    }

    /// Removes a header.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.head.retain(|line| {
            !line
                .to_ascii_lowercase()
                .starts_with(&format!("{}:", name.to_ascii_lowercase()))
        });
        self
    }

    /// Replaces text in the body.
    pub(crate) fn replacing(self, from: &str, to: &str) -> Self {
        let body = String::from_utf8_lossy(&self.body).replace(from, to);
        // Without a body, Content-Length is the size of the object, and stays.
        if body.is_empty() {
            self
        } else {
            self.with_body(body.into_bytes())
        }
    }

    fn with_body(self, body: Vec<u8>) -> Self {
        let length = format!("content-length: {}", body.len());
        Self { body, ..self }.with(&length)
    }

    fn bytes(&self) -> Vec<u8> {
        let head = self
            .head
            .iter()
            .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let mut bytes = Vec::new();
        for line in head {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"connection: close\r\n\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A function that changes the sandbox's answer.
pub(crate) type Change = Box<dyn FnOnce(Answer) -> Answer + Send>;

/// The way to answer a request.
pub(crate) enum Lie {
    /// The sandbox's answer, unchanged.
    Truth,
    /// This status and body. The sandbox does not receive the request.
    Instead(u16, String),
    /// The sandbox's answer, changed by this function.
    Changed(Change),
    /// This answer. The sandbox does not receive the request.
    Given(Answer),
}

impl Lie {
    /// Returns an error document instead of an effect.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        Self::Given(Answer::error(status, code))
    }

    /// Returns the answer of the sandbox with another body.
    pub(crate) fn rewrite(rewrite: fn(&str) -> String) -> Self {
        Self::Changed(Box::new(move |answer| {
            let body = rewrite(&String::from_utf8_lossy(&answer.body));
            answer.with_body(body.into_bytes())
        }))
    }

    /// Returns an answer that no S3 server gives.
    pub(crate) fn unreadable() -> Self {
        Self::rewrite(|_| "<html><body>hello".to_owned())
    }
}

/// A lying server, and the requests that it received.
pub(crate) struct Liar {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Liar {
    /// Starts a server that changes the sandbox's answers.
    pub(crate) async fn before(
        world: &World,
        change: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let change = Arc::new(change);
        let changed = move |asked: &Asked| {
            let (change, asked) = (Arc::clone(&change), asked.clone());
            Lie::Changed(Box::new(move |answer| change(&asked, answer)))
        };
        Self::lying(world, changed).await
    }

    /// Starts a server whose HEAD shows no number of tags.
    pub(crate) async fn uncounted(world: &World) -> Self {
        let change = |_: &Asked, answer: Answer| answer.without("x-amz-tagging-count");
        Self::before(world, change).await
    }

    /// Starts a server that decides before the sandbox receives a request.
    pub(crate) async fn lying(
        world: &World,
        lie: impl Fn(&Asked) -> Lie + Send + Sync + 'static,
    ) -> Self {
        let to = world.sandbox.url().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (lie, log) = (Arc::new(lie), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(
                    stream,
                    to.clone(),
                    Arc::clone(&lie),
                    Arc::clone(&log),
                ));
            }
        });
        Self { url, asked }
    }

    /// Returns the requests, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Counts requests of a kind.
    pub(crate) fn count(&self, is_counted: impl Fn(&Asked) -> bool) -> usize {
        self.asked()
            .iter()
            .filter(|asked| is_counted(asked))
            .count()
    }

    /// Runs a transfer through this proxy.
    pub(crate) async fn run(&self, world: &World, transfer: Transfer, provider: Provider) -> Run {
        let job = self.job(world, transfer, provider);
        world.try_run_job(&job).await.unwrap()
    }

    /// Returns a job whose requests go through this proxy.
    pub(crate) fn job(&self, world: &World, transfer: Transfer, provider: Provider) -> Job {
        let mut job = world.job(transfer);
        restate(&mut job, |endpoint| {
            endpoint.url = Some(self.url.clone());
            endpoint.provider = provider;
        });
        job
    }
}

async fn serve(
    mut client: TcpStream,
    to: String,
    lie: Arc<impl Fn(&Asked) -> Lie>,
    log: Arc<Mutex<Vec<Asked>>>,
) -> Option<()> {
    let (head, body) = request(&mut client).await?;
    let asked = Asked::of(&head);
    log.lock().unwrap().push(asked.clone());
    let mut answer = match lie(&asked) {
        Lie::Truth => forward(&to, &head, &body).await?,
        Lie::Given(answer) => answer,
        Lie::Changed(change) => change(forward(&to, &head, &body).await?),
        Lie::Instead(status, body) => Answer::of(status, body),
    };
    if asked.method == "HEAD" {
        answer.body.clear();
    }
    client.write_all(&answer.bytes()).await.ok()?;
    client.shutdown().await.ok()
}

/// Reads a request. Returns its headers and its body.
async fn request(client: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (head, mut body) = read_head(client).await?;
    if head.to_lowercase().contains("expect: 100-continue") {
        client
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await
            .ok()?;
    }
    let length = header(&head, "content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    while body.len() < length {
        (client.read_buf(&mut body).await.ok()? > 0).then_some(())?;
    }
    Some((head, body))
}

/// Sends a request to the sandbox on a new connection. Returns the answer, with its body joined.
async fn forward(to: &str, request: &str, body: &[u8]) -> Option<Answer> {
    let mut server = TcpStream::connect(to).await.ok()?;
    let kept: Vec<_> = request
        .trim_end()
        .lines()
        .filter(|line| !is_of(line, &["connection", "expect"]))
        .collect();
    server
        .write_all(format!("{}\r\nconnection: close\r\n\r\n", kept.join("\r\n")).as_bytes())
        .await
        .ok()?;
    server.write_all(body).await.ok()?;
    let (head, mut body) = read_head(&mut server).await?;
    server.read_to_end(&mut body).await.ok()?;
    let lines = head
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if header(&head, "transfer-encoding").is_none() || request.starts_with("HEAD ") {
        return Some(Answer { head: lines, body });
    }
    let answer = Answer {
        head: lines,
        body: Vec::new(),
    }
    .without("transfer-encoding");
    Some(answer.with_body(dechunked(&body)?))
}

/// Returns true for a header line with one of these names.
fn is_of(line: &str, names: &[&str]) -> bool {
    let name = line.split(':').next().unwrap_or_default();
    names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted))
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let line = head.lines().find(|line| is_of(line, &[name]))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// Reads up to the end of the headers. Returns them and the bytes behind them.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|end| end == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Some((String::from_utf8_lossy(&read).into_owned(), rest));
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

/// Joins the chunks of a body.
pub(crate) fn dechunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let at = bytes.windows(2).position(|end| end == b"\r\n")?;
        let size =
            usize::from_str_radix(std::str::from_utf8(&bytes[..at]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(at + 2..at + 2 + size)?);
        bytes = bytes.get(at + 4 + size..)?;
    }
}
