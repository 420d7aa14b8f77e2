//! Answers that are endless or take forever. The server answers one kind of request wrongly and
//! passes everything else to the sandbox. Every command must end by itself, with the right exit
//! code and bounded memory.

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rstest::rstest;
use s3haul::sandbox::{BucketOptions, Content, ObjectSpec};
use s3haul::size::MIB;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::liar::read_head;
use crate::world::program::process_at;
use crate::world::{SOURCE, World};

/// Upper bound of the peak memory, whatever the server answers.
const MEMORY_KIB: u64 = 300 * 1024;

/// The replacement of the sandbox's answer.
#[derive(Clone, Debug)]
enum Play {
    /// Sends the first text, and then the second one again and again.
    Endless(String, String),
    /// Sends this text, and then nothing.
    Half(String),
}

fn endless(head: &str, piece: &str) -> Play {
    Play::Endless(head.to_owned(), piece.repeat(65_536 / piece.len()))
}

const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

/// Returns a header that the HTTP client still reads.
fn large_header() -> Play {
    Play::Half(format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\nx-amz-meta-a: {}\r\n\r\n",
        "a".repeat(200_000)
    ))
}

/// A proxy that replaces the answers to requests whose first line has this method and these words.
struct Front {
    at: SocketAddr,
    played: Arc<AtomicU32>,
}

impl Front {
    async fn new(
        world: &World,
        method: &'static str,
        words: &'static [&'static str],
        play: Play,
    ) -> Self {
        let to: SocketAddr = world
            .sandbox
            .url()
            .trim_start_matches("http://")
            .parse()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, played) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&played);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (play, count) = (play.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    let is_played = |head: &str| {
                        let line = head.lines().next().unwrap_or_default();
                        line.starts_with(method) && words.iter().all(|words| head.contains(words))
                    };
                    serve(stream, to, is_played, play, &count).await;
                });
            }
        });
        Self { at, played }
    }

    fn played(&self) -> u32 {
        self.played.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: TcpStream,
    to: SocketAddr,
    is_played: impl Fn(&str) -> bool,
    play: Play,
    count: &AtomicU32,
) {
    let Some((head, body)) = read_head(&mut stream).await else {
        return;
    };
    if !is_played(&head) {
        // One request per connection, so that each request line can be examined.
        let mut onward = TcpStream::connect(to).await.unwrap();
        let head = format!("{}\r\nConnection: close\r\n\r\n", head.trim_end());
        let _ = onward.write_all(head.as_bytes()).await;
        let _ = onward.write_all(&body).await;
        let _ = copy_bidirectional(&mut stream, &mut onward).await;
        return;
    }
    count.fetch_add(1, Ordering::SeqCst);
    // The answer has the `ETag` of the requested object.
    let etag = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("if-match: ")
            .map(str::to_owned)
    });
    let (head, piece, pause) = match play {
        Play::Endless(head, piece) => (head, piece, Duration::ZERO),
        Play::Half(head) => (head, String::new(), Duration::from_hours(1)),
    };
    let head = head.replace("IF-MATCH", &etag.unwrap_or_default());
    let _ = stream.write_all(head.as_bytes()).await;
    loop {
        sleep(pause).await;
        if stream.write_all(piece.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The end of a command.
#[derive(Debug)]
struct Ended {
    exit: i32,
    stderr: String,
    /// Peak memory, in KiB.
    memory: u64,
}

async fn run_measured(world: &World, front: &Front, arguments: &[&str]) -> Ended {
    let mut program = process_at(world);
    program
        .env("AWS_ENDPOINT_URL_S3", format!("http://{}", front.at))
        .env("S3HAUL_JOURNAL", "none");
    program
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = program.spawn().unwrap();
    tokio::task::spawn_blocking(move || ended(child))
        .await
        .unwrap()
}

fn ended(mut child: Child) -> Ended {
    let (mut memory, status) = (0, format!("/proc/{}/status", child.id()));
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
        text
    });
    let exit = loop {
        let peak = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = peak
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap_or("0 kB");
        memory = memory.max(peak.trim().trim_end_matches(" kB").parse().unwrap());
        if let Some(status) = child.try_wait().unwrap() {
            break status.code().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Ended {
        exit,
        stderr: reader.join().unwrap(),
        memory,
    }
}

const COPY: &[&str] = &["copy", "s3://source/small/", "s3://destination/"];
const IN_PARTS: &[&str] = &[
    "copy",
    "--part-size",
    "5MiB",
    "s3://source/large",
    "s3://destination/large",
];
const READ: &[&str] = &[
    "copy",
    "--verify",
    "require-checksum",
    "--prove",
    "read",
    "s3://source/small/",
    "s3://destination/",
];
const VERSIONS: &[&str] = &["copy", "--versions", "all", "s3://old/", "s3://new/"];
const PARTS: &[&str] = &["uploads", "parts", "s3://destination/k", "UPLOAD"];

async fn world_with_versioned_buckets() -> World {
    let world = World::new().await;
    let (store, spec) = (
        world.sandbox.store(),
        ObjectSpec::default().without_checksum(),
    );
    for bucket in ["old", "new"] {
        store.create_bucket(
            bucket,
            BucketOptions {
                versioning: true,
                ..BucketOptions::default()
            },
        );
    }
    store.put_object("old", "k", Content::pattern(1, 10), &spec);
    for number in 0..8 {
        store.put_object(
            SOURCE,
            &format!("small/{number}"),
            Content::pattern(1, 6 * MIB),
            &spec,
        );
    }
    store.put_object(SOURCE, "large", Content::pattern(1, 300 * MIB), &spec);
    world
}

#[rstest]
#[case::list("GET", &["list-type"], endless(OK, "<Contents><Key>a</Key><Size>1</Size></Contents>"), COPY)]
#[case::key("GET", &["list-type"], endless(&format!("{OK}<ListBucketResult><Contents><Key>"), "k"), COPY)]
#[case::spaces("GET", &["list-type"], endless(OK, " "), COPY)]
#[case::refusal("GET", &["list-type"], endless("HTTP/1.1 403 Forbidden\r\n\r\n", "<Error>"), COPY)]
#[case::refused_copy("PUT", &["x-amz-copy-source"], endless("HTTP/1.1 403 Forbidden\r\n\r\n", "no "), COPY)]
#[case::copy("PUT", &["x-amz-copy-source"], endless(OK, " "), COPY)]
#[case::create("POST", &["?uploads"], endless(OK, "<a>"), IN_PARTS)]
#[case::part("PUT", &["partNumber"], endless(OK, " "), IN_PARTS)]
#[case::complete("POST", &["uploadId"], endless(OK, " "), IN_PARTS)]
#[case::range("GET", &["x-id=GetObject"], endless("HTTP/1.1 206 Partial Content\r\nETag: IF-MATCH\r\n\r\n", "bytes"), READ)]
#[case::whole("GET", &["x-id=GetObject"], endless("HTTP/1.1 200 OK\r\nETag: IF-MATCH\r\nContent-Length: 99999999999\r\n\r\n", "b"), READ)]
#[case::versions("GET", &["?versions"], endless(&format!("{OK}<ListVersionsResult>"), "<Version/>"), VERSIONS)]
#[case::header("HEAD", &["/small/"], endless("HTTP/1.1 200 OK\r\nx-amz-meta-a: ", "a"), COPY)]
#[case::fields("HEAD", &["/small/"], endless("HTTP/1.1 200 OK\r\n", "x-amz-meta-a: a\r\n"), COPY)]
#[case::large_header("PUT", &["x-amz-copy-source"], large_header(), COPY)]
#[case::parts("GET", &["ListParts"], endless(&format!("{OK}<ListPartsResult>"), "<Part><Size>1</Size></Part>"), PARTS)]
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_cut_off(
    #[case] method: &'static str,
    #[case] words: &'static [&'static str],
    #[case] play: Play,
    #[case] arguments: &[&str],
) {
    let world = world_with_versioned_buckets().await;
    let front = Front::new(&world, method, words, play).await;
    let ended = run_measured(&world, &front, arguments).await;
    // At most once for each of the eight objects, or for each part and range.
    assert!(
        (1..=64).contains(&front.played()),
        "{} requests: {}",
        front.played(),
        ended.stderr
    );
    assert!(ended.memory < MEMORY_KIB, "{} KiB", ended.memory);
    assert!([1, 3].contains(&ended.exit), "{ended:?}");
    assert!(
        ended.stderr.contains("answer too long") || ended.stderr.contains("answer-too-long"),
        "{}",
        ended.stderr
    );
}

const UPLOAD: &[&str] = &["copy", "Cargo.toml", "s3://destination/k"];
const LARGE_FILE: &[&str] = &["copy", "LARGE", "s3://destination/k"];

/// The server goes silent, at once or in the middle of an answer. Whatever the request, the run
/// ends by itself with exit code 4, names the request, and leaves no outcome unknown for long.
#[rstest]
#[case::list("GET", &["list-type"], "ListObjectsV2", COPY)]
#[case::head("HEAD", &["/small/"], "HeadObject", COPY)]
#[case::copy("PUT", &["x-amz-copy-source"], "CopyObject", COPY)]
#[case::create("POST", &["?uploads"], "CreateMultipartUpload", IN_PARTS)]
#[case::part("PUT", &["partNumber"], "UploadPartCopy", IN_PARTS)]
#[case::complete("POST", &["uploadId"], "CompleteMultipartUpload", IN_PARTS)]
#[case::range("GET", &["x-id=GetObject"], "GetObject", READ)]
#[case::versions("GET", &["?versions"], "ListObjectVersions", VERSIONS)]
#[case::put("PUT", &["x-id=PutObject"], "PutObject", UPLOAD)]
#[case::upload("PUT", &["x-id=UploadPart"], "UploadPart", LARGE_FILE)]
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_ends_the_run(
    #[case] method: &'static str,
    #[case] words: &'static [&'static str],
    #[case] operation: &str,
    #[case] arguments: &[&str],
    #[values(
        "",
        "HTTP/1.1 200 OK\r\nETag: IF-MATCH\r\nContent-Length: 999\r\n\r\n<?xml"
    )]
    half: &str,
) {
    let world = world_with_versioned_buckets().await;
    // The answer to a HEAD request has no body that could be missing.
    let half = if method == "HEAD" {
        half.split("\r\n\r\n").next().unwrap()
    } else {
        half
    };
    let front = Front::new(&world, method, words, Play::Half(half.to_owned())).await;
    let mut large = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut large, &vec![1; 40 << 20]).unwrap();
    let large = large.path().to_str().unwrap();
    let arguments = arguments
        .iter()
        .map(|word| if *word == "LARGE" { large } else { word });
    let arguments: Vec<_> = arguments.chain(["--patience", "2s"]).collect();
    let ended = run_measured(&world, &front, &arguments).await;
    assert_eq!(ended.exit, 4, "{ended:?}");
    assert!(ended.stderr.contains(operation), "{}", ended.stderr);
    assert!(ended.memory < MEMORY_KIB, "{} KiB", ended.memory);
}
