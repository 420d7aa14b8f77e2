//! The command killed in the middle of its work, on any server. `kill` does the same on the sandbox far more often, and sees
//! more there; here the server is asked what it holds, and the requests are counted on their way to it.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use s3haul::manifest::job::{Endpoint, Provider};
use s3haul::s3::client::StaticCredentials;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{PART, Server, a_second_later, bytes, on_server};
use crate::cli::process;

const KILLS: u64 = 5;
const IN_FLIGHT: u64 = 4;
/// Parts of each of the large objects.
const PARTS: [u64; 2] = [12, 6];
const SMALL: u64 = 20;
/// A session that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_mins(2);
/// Stands once in the head of each request that copies a part, and nowhere else.
const COPIES_A_PART: &[u8] = b"x-amz-copy-source-range:";

/// A line to the server that counts copies of parts.
struct Tap {
    url: String,
    parts: Arc<AtomicU64>,
    _connections: JoinSet<()>,
}

impl Tap {
    async fn on(server: &Server) -> Self {
        let to = server.endpoint.url.clone().unwrap();
        let to = to.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (parts, mut tasks) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
        let counted = Arc::clone(&parts);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, to.clone(), Arc::clone(&counted)));
            }
        });
        Self { url, parts, _connections: tasks }
    }

    fn parts(&self) -> u64 {
        self.parts.load(Ordering::Acquire)
    }
}

/// Forwards a connection to its end, whoever ends it.
async fn forward(client: TcpStream, to: String, parts: Arc<AtomicU64>) {
    let server = TcpStream::connect(to).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let requests = async move {
        // A head may come in pieces, so the end of each piece is looked at again with the next one.
        let (mut seen, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(length @ 1..) = from_client.read(&mut piece).await {
            seen.extend_from_slice(&piece[..length]);
            let found = seen.windows(COPIES_A_PART.len()).filter(|bytes| *bytes == COPIES_A_PART).count();
            parts.fetch_add(found as u64, Ordering::AcqRel);
            seen.drain(..seen.len().saturating_sub(COPIES_A_PART.len() - 1));
            if to_server.write_all(&piece[..length]).await.is_err() {
                break;
            }
        }
    };
    let answers = async move {
        let _ = copy(&mut from_server, &mut to_client).await;
    };
    tokio::join!(requests, answers);
}

fn spawn(tap: &Tap, server: &Server, directory: &TempDir) -> Child {
    let Endpoint { region, provider, .. } = &server.endpoint;
    let StaticCredentials { access_key, secret_key } = &server.credentials;
    let provider: Provider = *provider;
    let provider = serde_json::to_value(provider).unwrap();
    let (from, to) = (format!("s3://{}/", server.source), format!("s3://{}/", server.destination));
    process()
        .env("AWS_ACCESS_KEY_ID", access_key)
        .env("AWS_SECRET_ACCESS_KEY", secret_key)
        .current_dir(directory.path())
        .args(["copy", &from, &to, "--endpoint-url", &tap.url, "--region", region.as_ref().unwrap()])
        .args(["--provider", provider.as_str().unwrap(), "--part-size", "5MiB", "--threshold", "5MiB"])
        .args(["--in-flight", &IN_FLIGHT.to_string()])
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(directory.path().join("stderr")).unwrap())
        .spawn()
        .unwrap()
}

/// Runs a session that is killed when it has sent so many parts; true when it came to its end before.
async fn session(tap: &Tap, server: &Server, directory: &TempDir, parts: Option<u64>) -> bool {
    let mut child = spawn(tap, server, directory);
    let (began, before) = (Instant::now(), tap.parts());
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let said = || std::fs::read_to_string(directory.path().join("stderr")).unwrap();
            assert!(status.success(), "{status}: {}", said());
            return true;
        }
        if parts.is_some_and(|parts| tap.parts() - before >= parts) {
            child.kill().unwrap();
            // It may have come to its end at the very last moment.
            return child.wait().unwrap().code().is_some();
        }
        assert!(began.elapsed() < PATIENCE, "it hangs");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_goes_on_and_leaves_nothing_behind() {
    let seed = std::env::var("KILL_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("KILL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    on_server(async |server| {
        let mut keys = Vec::new();
        let large = PARTS.iter().map(|parts| (format!("large{parts}"), parts * PART - 7));
        for (key, size) in large.chain((0..SMALL).map(|size| (format!("small{size:02}"), size))) {
            let put =
                server.sdk.put_object().bucket(&server.source).key(&key).metadata("size", size.to_string());
            put.body(bytes(size, size).into()).send().await.unwrap();
            keys.push(key);
        }
        a_second_later().await;
        let (tap, directory) = (Tap::on(server).await, TempDir::new().unwrap());
        let (mut kills, mut ended) = (0, false);
        while kills < KILLS && !ended {
            // Few enough that most are left for the others.
            ended = session(&tap, server, &directory, Some(random.u64(1..5))).await;
            kills += u64::from(!ended);
        }
        assert!(kills > 1, "nothing was killed");
        assert!(ended || session(&tap, server, &directory, None).await);
        assert_eq!(server.keys(&server.destination).await, keys);
        for key in &keys {
            server.assert_equal(key, key).await;
            let head = server.sdk.head_object().bucket(&server.destination).key(key).send().await.unwrap();
            let size = head.content_length().unwrap().to_string();
            assert_eq!(head.metadata().unwrap().get("size"), Some(&size), "{key}");
        }
        server.assert_no_upload_is_left().await;
        let needed: u64 = PARTS.iter().sum();
        let most = needed + kills * IN_FLIGHT;
        assert!(
            (needed..=most).contains(&tap.parts()),
            "{} parts of {needed} after {kills} kills",
            tap.parts()
        );
    })
    .await;
}
