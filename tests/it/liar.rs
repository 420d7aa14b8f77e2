//! A server that lies: it stands before the sandbox and changes what that answers.

use std::sync::{Arc, Mutex};

use s3haul::endpoint::Provider;
use s3haul::manifest::job::{Job, Transfer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::{World, restate};

/// A request as the server sees it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) query: String,
}

impl Asked {
    fn of(head: &str) -> Self {
        let mut words = head.split_whitespace();
        let method = words.next().unwrap().to_owned();
        let (path, query) = words.next().map(|uri| uri.split_once('?').unwrap_or((uri, ""))).unwrap();
        Self { method, path: path.to_owned(), query: query.to_owned() }
    }

    /// Returns the value of a parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| match pair.split_once('=') {
            Some((found, value)) => (found == name).then_some(value),
            None => (pair == name).then_some(""),
        })
    }

    /// True for a list of objects of this bucket.
    pub(crate) fn lists(&self, bucket: &str) -> bool {
        self.method == "GET" && self.path.trim_matches('/') == bucket && self.parameter("list-type").is_some()
    }
}

/// An answer, as it comes and as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The status line and the headers.
    pub(crate) head: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A document with the status 200.
    pub(crate) fn document(body: impl Into<String>) -> Self {
        let body = body.into().into_bytes();
        let length = format!("content-length: {}", body.len());
        Self {
            head: vec!["HTTP/1.1 200 OK".to_owned(), "content-type: application/xml".to_owned(), length],
            body,
        }
    }

    /// The same answer with this header.
    pub(crate) fn with(mut self, header: &str) -> Self {
        let name = header.split(':').next().unwrap();
        self = self.without(name);
        self.head.push(header.to_owned());
        self
    }

    /// The same answer without a header.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.head.retain(|line| {
            !line.to_ascii_lowercase().starts_with(&format!("{}:", name.to_ascii_lowercase()))
        });
        self
    }

    /// The same answer with something else in its body.
    pub(crate) fn replacing(self, from: &str, to: &str) -> Self {
        let body = String::from_utf8_lossy(&self.body).replace(from, to);
        let length = format!("content-length: {}", body.len());
        let changed = Self { body: body.into_bytes(), ..self };
        if changed.body.is_empty() { changed } else { changed.with(&length) }
    }

    fn bytes(&self) -> Vec<u8> {
        let head = self.head.iter().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
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

/// Changes answers.
pub(crate) trait Lie: Fn(&Asked, Answer) -> Answer + Send + Sync + 'static {}

impl<L: Fn(&Asked, Answer) -> Answer + Send + Sync + 'static> Lie for L {}

/// The server, and what it was asked.
pub(crate) struct Liar {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Liar {
    pub(crate) async fn before(world: &World, lie: impl Lie) -> Self {
        let to = world.sandbox.url().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (lie, log) = (Arc::new(lie), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, to.clone(), Arc::clone(&lie), Arc::clone(&log)));
            }
        });
        Self { url, asked }
    }

    /// Returns what it was asked, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Returns how many requests were of this kind.
    pub(crate) fn count(&self, is_counted: impl Fn(&Asked) -> bool) -> usize {
        self.asked().iter().filter(|asked| is_counted(asked)).count()
    }

    /// A job that goes through it.
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
    lie: Arc<impl Lie>,
    log: Arc<Mutex<Vec<Asked>>>,
) -> Option<()> {
    let (head, rest) = read_head(&mut client).await?;
    let asked = Asked::of(&head);
    log.lock().unwrap().push(asked.clone());
    let header = |head: &str, name: &str| {
        let mut lines = head.lines().map(str::to_owned);
        lines.find(|line| line.to_ascii_lowercase().starts_with(name))
    };
    let length =
        |head: &str| header(head, "content-length:")?.split(':').nth(1)?.trim().parse::<usize>().ok();
    let mut server = TcpStream::connect(to).await.ok()?;
    let onward = head.trim_end().to_owned() + "\r\nconnection: close\r\n\r\n";
    server.write_all(onward.as_bytes()).await.ok()?;
    server.write_all(&rest).await.ok()?;
    let mut left = length(&head).unwrap_or(0).saturating_sub(rest.len());
    while left > 0 {
        let mut more = Vec::new();
        match client.read_buf(&mut more).await.ok()? {
            0 => return None,
            read => left -= read.min(left),
        }
        server.write_all(&more).await.ok()?;
    }
    let (head, mut body) = read_head(&mut server).await?;
    server.read_to_end(&mut body).await.ok()?;
    let answer =
        Answer { head: head.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect(), body };
    let answer = lie(&asked, answer);
    client.write_all(&answer.bytes()).await.ok()?;
    client.shutdown().await.ok()
}

/// Reads up to the end of the headers; returns them and what came behind them.
async fn read_head(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
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
