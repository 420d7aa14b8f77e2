//! A server that answers otherwise than the sandbox behind it: without the effect, or with it and another answer.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::World;

/// The first line of a request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    method: String,
    target: String,
}

impl Asked {
    fn is(&self, method: &str, parameter: &str) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let mut names = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
        self.method == method && names.any(|name| name == parameter)
    }

    pub(super) fn creates_upload(&self) -> bool {
        self.is("POST", "uploads")
    }

    pub(super) fn lists_uploads(&self) -> bool {
        self.is("GET", "uploads")
    }

    pub(super) fn lists_parts(&self) -> bool {
        self.is("GET", "uploadId")
    }

    pub(super) fn aborts(&self) -> bool {
        self.is("DELETE", "uploadId")
    }

    pub(super) fn has(&self, parameter: &str) -> bool {
        self.is(&self.method, parameter)
    }
}

/// What is answered to a request.
pub(super) enum Lie {
    /// What the sandbox answers.
    Truth,
    /// This, and the sandbox hears nothing.
    Instead(u16, String),
    /// What this makes of the sandbox's body.
    Rewrite(fn(&str) -> String),
}

impl Lie {
    /// An error document instead of an effect.
    pub(super) fn error(status: u16, code: &str) -> Self {
        Self::Instead(status, format!("<Error><Code>{code}</Code><Message>no</Message></Error>"))
    }

    /// An answer that no S3 gives.
    pub(super) fn unreadable() -> Self {
        Self::Rewrite(|_| "<html><body>hello".to_owned())
    }
}

/// Starts one in front of the world's sandbox and returns its URL.
pub(super) async fn liar(world: &World, lie: impl Fn(&Asked) -> Lie + Send + Sync + 'static) -> String {
    let onward = world.sandbox.url().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let lie = Arc::new(lie);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (lie, onward) = (Arc::clone(&lie), onward.clone());
            tokio::spawn(async move { serve(client, &onward, &*lie).await });
        }
    });
    url
}

/// Answers the requests of one connection.
async fn serve(
    mut client: TcpStream,
    onward: &str,
    lie: &(dyn Fn(&Asked) -> Lie + Send + Sync),
) -> Option<()> {
    loop {
        let (head, body) = request(&mut client).await?;
        let mut words = head.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let asked = Asked { method, target };
        let (head_of_answer, body) = match lie(&asked) {
            Lie::Instead(status, body) => (format!("HTTP/1.1 {status} X\r\n"), body.into_bytes()),
            Lie::Truth => forward(onward, &head, &body).await?,
            Lie::Rewrite(rewrite) => {
                let (head, body) = forward(onward, &head, &body).await?;
                (head, rewrite(&String::from_utf8(body).unwrap_or_default()).into_bytes())
            }
        };
        let is_bodiless = asked.method == "HEAD" || head_of_answer.contains(" 204 ");
        let length = if is_bodiless { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        client.write_all(format!("{head_of_answer}{length}\r\n").as_bytes()).await.ok()?;
        if !is_bodiless {
            client.write_all(&body).await.ok()?;
        }
    }
}

/// Reads one request: its head with the last line's end, and its body.
async fn request(client: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        (client.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
    };
    let mut body = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).ok()?;
    if head.to_lowercase().contains("expect: 100-continue") {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while body.len() < length {
        (client.read_buf(&mut body).await.ok()? > 0).then_some(())?;
    }
    Some((head, body))
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Sends the request to the sandbox on a connection of its own; returns the answer's head without its length, and its body.
async fn forward(onward: &str, request: &str, body: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut server = TcpStream::connect(onward).await.ok()?;
    let dropped = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_lowercase();
        !matches!(&*name, "connection" | "expect")
    };
    let kept: Vec<_> = request.trim_end().lines().filter(dropped).collect();
    server.write_all(format!("{}\r\nconnection: close\r\n\r\n", kept.join("\r\n")).as_bytes()).await.ok()?;
    server.write_all(body).await.ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await.ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let mut body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).ok()?;
    let is_head = request.starts_with("HEAD ");
    if header(&head, "transfer-encoding").is_some() && !is_head {
        body = unchunked(&body)?;
    }
    let kept = head.trim_end().lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_lowercase();
        let is_framing = matches!(&*name, "content-length" | "transfer-encoding");
        // The length that HEAD tells is that of the object.
        name != "connection" && (is_head || !is_framing)
    });
    let kept: Vec<_> = kept.collect();
    Some((kept.join("\r\n") + "\r\n", body))
}

fn unchunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(end + 2..end + 2 + size)?);
        bytes = bytes.get(end + 4 + size..)?;
    }
}
