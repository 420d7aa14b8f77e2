//! Metadata and headers that are not UTF-8. Some servers keep them, and a copy must have the same
//! bytes on every route.
//!
//! The sandbox stores only text, so these tests have a small server of their own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::program::{command, run};

const ETAG: &str = "\"0123456789abcdef0123456789abcdef\"";
/// `café` and `ü`, in Latin-1.
const ATTRIBUTES: [&[u8]; 2] = [
    b"x-amz-meta-name: caf\xe9",
    b"content-disposition: attachment; filename=\"\xfc.txt\"",
];

/// Maps paths to objects, which are the header lines of their writes.
type Objects = Arc<Mutex<HashMap<String, Vec<Vec<u8>>>>>;

struct Server {
    url: String,
    objects: Objects,
    /// The first lines of the requests, and the Authorization headers of those that write
    /// attributes.
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(size: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let source = ATTRIBUTES.iter().map(|line| line.to_vec()).collect();
        let objects = Arc::new(Mutex::new(HashMap::from([(
            "/source/k".to_owned(),
            source,
        )])));
        let log = Arc::new(Mutex::new(Vec::new()));
        let server = Self {
            url,
            objects: Arc::clone(&objects),
            log: Arc::clone(&log),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&objects), Arc::clone(&log), size));
            }
        });
        server
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}

/// Answers one request and closes the connection.
async fn serve(mut stream: TcpStream, objects: Objects, log: Arc<Mutex<Vec<String>>>, size: u64) {
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let body_at = end + 4;
    let lines: Vec<Vec<u8>> = head[..end]
        .split(|byte| *byte == b'\n')
        .map(|line| line.trim_ascii().to_vec())
        .collect();
    let text: Vec<_> = lines
        .iter()
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let length = text
        .iter()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let mut left = length.unwrap_or(0).saturating_sub(head.len() - body_at);
    while left > 0 {
        let mut more = Vec::new();
        left = left.saturating_sub(stream.read_buf(&mut more).await.unwrap_or(left).max(1));
    }
    let answer = answer(&text, lines, &objects, &log, size);
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
}

fn answer(
    text: &[String],
    lines: Vec<Vec<u8>>,
    objects: &Objects,
    log: &Mutex<Vec<String>>,
    size: u64,
) -> Vec<u8> {
    let mut words = text[0].split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.trim_end_matches('/');
    let kept = |line: &Vec<u8>| {
        line.starts_with(b"x-amz-meta-") || line.starts_with(b"content-disposition")
    };
    let attributes: Vec<Vec<u8>> = lines.into_iter().filter(kept).collect();
    let mut objects = objects.lock().unwrap();
    let authorization = text
        .iter()
        .find(|line| line.starts_with("authorization"))
        .cloned();
    let shown = authorization
        .filter(|_| !attributes.is_empty())
        .unwrap_or_default();
    log.lock().unwrap().push(format!("{} {shown}", text[0]));
    let xml = |body: &str| reply("200 OK", body.as_bytes());
    let is_object = path.matches('/').count() > 1;
    let of_parts = query.contains("partNumber");
    match method {
        "HEAD" if !is_object => reply("200 OK", b""),
        "HEAD" => match objects.get(path) {
            Some(attributes) => describe(attributes, size),
            None => reply("404 Not Found", b""),
        },
        "GET" if query.contains("list-type=2") => {
            let key = if objects.contains_key(&format!("{path}/k")) {
                format!(
                    "<Contents><Key>k</Key><Size>{size}</Size><ETag>{ETAG}</ETag>\
                     <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
            } else {
                String::new()
            };
            xml(&format!(
                "<ListBucketResult><IsTruncated>false</IsTruncated>{key}</ListBucketResult>"
            ))
        }
        "POST" if query.contains("uploads") => {
            objects.insert(path.to_owned(), attributes);
            xml(
                "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
            )
        }
        "PUT" if of_parts => xml(&format!(
            "<CopyPartResult><ETag>{ETAG}</ETag></CopyPartResult>"
        )),
        "PUT" => {
            objects.insert(path.to_owned(), attributes);
            xml(&format!(
                "<CopyObjectResult><ETag>{ETAG}</ETag></CopyObjectResult>"
            ))
        }
        "POST" => xml(&format!(
            "<CompleteMultipartUploadResult><ETag>{ETAG}</ETag></CompleteMultipartUploadResult>"
        )),
        _ => reply(
            "501 Not Implemented",
            b"<Error><Code>NotImplemented</Code></Error>",
        ),
    }
}

fn describe(attributes: &[Vec<u8>], size: u64) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {size}\r\nETag: {ETAG}\r\n\
         Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    )
    .into_bytes();
    for line in attributes {
        answer.extend_from_slice(line);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"\r\n");
    answer
}

fn reply(status: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

#[rstest]
#[case::in_one_request(1 << 20, "PUT /destination/k?x-id=CopyObject")]
#[case::in_parts(6 << 20, "POST /destination/k?uploads")]
#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_not_utf_8_are_copied_byte_for_byte(
    #[case] size: u64,
    #[case] route: &str,
) {
    let server = Server::start(size).await;
    let program = || {
        let mut program = command();
        program
            .env("AWS_ENDPOINT_URL_S3", &server.url)
            .env("AWS_ACCESS_KEY_ID", "a")
            .env("AWS_SECRET_ACCESS_KEY", "b");
        program
    };
    let parts = [
        "--part-size",
        "5MiB",
        "--threshold",
        "5MiB",
        "--patience",
        "5s",
    ];
    let arguments = [&["copy", "s3://source/", "s3://destination/"][..], &parts].concat();
    let (exit, stdout, stderr) = run(program(), &arguments).await;
    let log = server.log();
    assert_eq!(exit, 0, "{stdout}{stderr}\n{log}");
    let written = log
        .lines()
        .find(|line| line.starts_with(route))
        .unwrap_or_else(|| panic!("{route}:\n{log}"));
    assert!(
        written.contains("content-disposition") && written.contains("x-amz-meta-name"),
        "signed: {written}"
    );
    let mut copied = server.objects.lock().unwrap()["/destination/k"].clone();
    copied.sort();
    let mut expected = ATTRIBUTES.map(<[u8]>::to_vec);
    expected.sort();
    assert_eq!(copied, expected);
    assert!(
        log.lines().count() < 30,
        "nothing is tried again and again:\n{log}"
    );
    let (exit, stdout, stderr) =
        run(program(), &["verify", "s3://source/", "s3://destination/"]).await;
    assert_eq!(exit, 0, "{stdout}{stderr}");
}
