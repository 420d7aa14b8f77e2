//! Kills the command in the middle of its work, on any server. The module `kill` does the same on
//! the sandbox far more often, and with more insight. Here, the server shows what it stores, and a
//! proxy counts the requests.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use s3haul::manifest::job::Provider;
use s3haul::s3::client::StaticCredentials;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{PART, Server, a_second_later, bytes, on_server};
use crate::world::program::process;

const KILLS: u64 = 5;
const IN_FLIGHT: u64 = 4;
/// Parts of each of the large objects.
const PARTS: [u64; 2] = [12, 6];
const SMALL: u64 = 20;
/// A session that takes longer than this has hung.
const PATIENCE: Duration = Duration::from_mins(2);
/// Headers that occur exactly once in each request that copies a part or an object, and in no
/// other.
const COPIES_A_PART: &[u8] = b"x-amz-copy-source-range:";
const COPIES_AN_OBJECT: &[u8] = b"x-amz-copy-source:";

/// A proxy that counts copies: of parts or, if the server does not copy parts, of objects.
struct Tap {
    url: String,
    copies: Arc<AtomicU64>,
    _connections: JoinSet<()>,
}

impl Tap {
    async fn on(server: &Server) -> Self {
        let to = server.endpoint.url.clone().unwrap();
        let to = to
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (copies, mut tasks) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
        let counted = Arc::clone(&copies);
        let header = if server.capabilities().part_copy {
            COPIES_A_PART
        } else {
            COPIES_AN_OBJECT
        };
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, to.clone(), header, Arc::clone(&counted)));
            }
        });
        Self {
            url,
            copies,
            _connections: tasks,
        }
    }

    fn copies(&self) -> u64 {
        self.copies.load(Ordering::Acquire)
    }
}

/// Forwards a connection until either side closes it.
async fn forward(client: TcpStream, to: String, header: &'static [u8], copies: Arc<AtomicU64>) {
    let server = TcpStream::connect(to).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let requests = async move {
        // A header may be split between two reads, so the end of each read is kept for the next
        // search.
        let (mut seen, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(length @ 1..) = from_client.read(&mut piece).await {
            seen.extend_from_slice(&piece[..length]);
            let found = seen
                .windows(header.len())
                .filter(|bytes| *bytes == header)
                .count();
            copies.fetch_add(found as u64, Ordering::AcqRel);
            seen.drain(..seen.len().saturating_sub(header.len() - 1));
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

/// Writes the job: the capabilities of the server have no flags.
fn write_job(tap: &Tap, server: &Server, directory: &TempDir) {
    let provider: Provider = server.endpoint.provider;
    let capabilities = std::env::var("S3HAUL_TEST_CAPABILITIES")
        .ok()
        .filter(|stated| !stated.is_empty());
    let capabilities =
        capabilities.map_or_else(|| serde_json::json!({}), |stated| stated.parse().unwrap());
    let endpoint = serde_json::json!({
        "url": tap.url, "region": server.endpoint.region, "provider": provider, "capabilities": capabilities,
    });
    let job = serde_json::json!({
        "version": 1,
        "endpoints": {"default": endpoint},
        "transfers": [{
            "from": {"s3": format!("s3://{}/", server.source)},
            "to": {"s3": format!("s3://{}/", server.destination)},
            "parts": {"size": "5MiB", "threshold": "5MiB"},
        }],
        "limits": {"in_flight": IN_FLIGHT},
    });
    std::fs::write(directory.path().join("job.yaml"), job.to_string()).unwrap();
}

fn spawn(server: &Server, directory: &TempDir) -> Child {
    let StaticCredentials {
        access_key,
        secret_key,
    } = &server.credentials;
    let stderr = std::fs::File::options()
        .append(true)
        .create(true)
        .open(directory.path().join("stderr"));
    process()
        .env("AWS_ACCESS_KEY_ID", access_key)
        .env("AWS_SECRET_ACCESS_KEY", secret_key)
        .current_dir(directory.path())
        .args(["run", "job.yaml"])
        .stdout(Stdio::null())
        .stderr(stderr.unwrap())
        .spawn()
        .unwrap()
}

/// Runs a session and kills it after this many copies. Returns true if it ended by itself before
/// that.
async fn session(tap: &Tap, server: &Server, directory: &TempDir, copies: Option<u64>) -> bool {
    let mut child = spawn(server, directory);
    let (began, before) = (Instant::now(), tap.copies());
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let said = || std::fs::read_to_string(directory.path().join("stderr")).unwrap();
            assert!(status.success(), "{status}: {}", said());
            return true;
        }
        if copies.is_some_and(|copies| tap.copies() - before >= copies) {
            child.kill().unwrap();
            // The session may have ended at the last moment.
            return child.wait().unwrap().code().is_some();
        }
        assert!(began.elapsed() < PATIENCE, "it hangs");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_resumes_and_leaves_nothing_behind() {
    let seed =
        std::env::var("KILL_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("KILL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    on_server(async |server| {
        let mut keys = Vec::new();
        let large = PARTS
            .iter()
            .map(|parts| (format!("large{parts}"), parts * PART - 7));
        for (key, size) in large.chain((0..SMALL).map(|size| (format!("small{size:02}"), size))) {
            let put = server
                .sdk
                .put_object()
                .bucket(&server.source)
                .key(&key)
                .metadata("size", size.to_string());
            put.body(bytes(size, size).into()).send().await.unwrap();
            keys.push(key);
        }
        a_second_later().await;
        let (tap, directory) = (Tap::on(server).await, TempDir::new().unwrap());
        write_job(&tap, server, &directory);
        let (mut kills, mut ended) = (0, false);
        while kills < KILLS && !ended {
            // Few copies, so that most are left for later sessions.
            ended = session(&tap, server, &directory, Some(random.u64(1..5))).await;
            kills += u64::from(!ended);
        }
        assert!(kills > 1, "nothing was killed");
        assert!(ended || session(&tap, server, &directory, None).await);
        assert_eq!(server.keys(&server.destination).await, keys);
        for key in &keys {
            server.assert_equal(key, key).await;
            let head = server
                .sdk
                .head_object()
                .bucket(&server.destination)
                .key(key)
                .send()
                .await
                .unwrap();
            let size = head.content_length().unwrap().to_string();
            assert_eq!(head.metadata().unwrap().get("size"), Some(&size), "{key}");
        }
        let said = std::fs::read_to_string(directory.path().join("stderr")).unwrap();
        assert_all_are_told(server, &said).await;
        let needed = if server.capabilities().part_copy {
            PARTS.iter().sum()
        } else {
            keys.len() as u64
        };
        let most = needed + kills * IN_FLIGHT;
        assert!(
            (needed..=most).contains(&tap.copies()),
            "{} copies of {needed} after {kills} kills",
            tap.copies()
        );
    })
    .await;
}

/// Asserts that no upload is left. A server whose uploads have no true dates is an exception: if
/// the answer to Create was lost, nobody can tell whose upload it is, so each one must be reported.
async fn assert_all_are_told(server: &Server, said: &str) {
    let now = i64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap();
    for upload in server.uploads(&server.destination).await {
        let is_of_now = upload
            .initiated()
            .is_none_or(|time| (now - time.secs()).abs() < 3600);
        assert!(
            !is_of_now && said.contains(upload.upload_id().unwrap()),
            "{upload:?} {said}"
        );
    }
}
