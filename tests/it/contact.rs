//! The first requests of a command. It waits for failures that may pass, and ends with exit code 4
//! if they do not; for others it ends at once with 3.

mod credentials;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use assert_cmd::Command as Program;
use rstest::rstest;
use s3haul::sandbox::{Effect, Fault, Operation};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::world::program::{Ended, at, command, ended, process, process_at, run};
use crate::world::{DESTINATION, World};

const COPY: [&str; 3] = ["copy", "s3://source/", "s3://destination/"];

/// Returns a local address at which nothing listens yet.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Forwards connections at an address to the sandbox, from now on.
async fn forward(at: SocketAddr, world: &World) {
    let to: SocketAddr = world
        .sandbox
        .url()
        .trim_start_matches("http://")
        .parse()
        .unwrap();
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut onward = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut from, &mut onward).await;
            });
        }
    });
}

/// A server that counts requests, and gives each one the same answer, or none.
struct Odd {
    at: SocketAddr,
    requests: Arc<AtomicU32>,
}

impl Odd {
    async fn at(address: SocketAddr, answer: Option<String>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (at, requests) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, count) = (answer.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    match answer {
                        Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                        None => std::future::pending().await,
                    }
                });
            }
        });
        Self { at, requests }
    }

    fn requests(&self) -> u32 {
        self.requests.load(Ordering::SeqCst)
    }

    fn url(&self) -> String {
        format!("http://{}", self.at)
    }
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn start(mut program: Command) -> Child {
    program
        .env("S3HAUL_JOURNAL", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_up_late_is_waited_for() {
    let (world, address) = (World::with_objects(["k"], 10).await, nobody().await);
    let mut program = process_at(&world);
    program
        .env("AWS_ENDPOINT_URL_S3", format!("http://{address}"))
        .args(COPY);
    let child = start(program);
    sleep(Duration::from_secs(3)).await;
    forward(address, &world).await;
    let Ended { exit, stderr, .. } = ended(child).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stderr.contains(&format!(
            "waiting for http://{address}: connection refused; gives up in 14m"
        )),
        "{stderr}"
    );
    assert!(
        stderr.contains(&format!("http://{address} answered after")),
        "{stderr}"
    );
    assert_eq!(world.keys(DESTINATION), ["k"]);
}

/// Returns a program with little patience whose S3 answers all requests in the same way.
fn impatient(url: &str, word: &str) -> Program {
    let mut program = command();
    program
        .env("AWS_ACCESS_KEY_ID", "a")
        .env("AWS_SECRET_ACCESS_KEY", "b")
        .env("AWS_ENDPOINT_URL_S3", url);
    program.arg(word);
    program
}

const JOB: &str = "\
version: 1
endpoints: {default: {provider: ceph, region: us-east-1, url: \"${AWS_ENDPOINT_URL_S3}\"}}
transfers:
  - {from: {s3: s3://source/}, to: {s3: s3://destination/}}
limits: {patience: 1s}
";

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn every_command_waits_as_long_as_patience_says(
    #[values("run", "plan", "check", "verify")] word: &str,
    #[values(
        Some("503 Service Unavailable"),
        Some("500 Internal Server Error"),
        None
    )]
    status: Option<&str>,
) {
    let answers = status.map(|status| answer(status, ""));
    let odd = Odd::at("127.0.0.1:0".parse().unwrap(), answers).await;
    let directory = tempfile::tempdir().unwrap();
    let job = directory.path().join("job.yaml");
    std::fs::write(&job, JOB).unwrap();
    let (exit, _, stderr) = run(impatient(&odd.url(), word), &[job.to_str().unwrap()]).await;
    assert_eq!(exit, 4, "{stderr}");
    assert!(stderr.contains("as `patience` says"), "{stderr}");
    assert!(odd.requests() >= 1);
}

/// An ordinary web server, or the page of a captive portal.
#[rstest]
#[case::every_path("200 OK")]
#[case::not_found("404 Not Found")]
#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_is_no_s3_server(#[case] status: &str) {
    let page = answer(
        status,
        "<!DOCTYPE html><html><body>Please log in<br></body></html>",
    );
    let odd = Odd::at("127.0.0.1:0".parse().unwrap(), Some(page)).await;
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    let transfers = "transfers: [{from: {s3: s3://source/}, to: {s3: s3://destination/}}]\n";
    std::fs::write(&job, format!("version: 1\n{transfers}")).unwrap();
    let job = job.to_str().unwrap();
    for words in [
        COPY.to_vec(),
        vec!["run", job],
        vec!["check", job],
        vec!["plan", job],
        vec!["verify", job],
    ] {
        let mut program = command();
        program
            .env("AWS_ENDPOINT_URL_S3", odd.url())
            .env("AWS_ACCESS_KEY_ID", "a")
            .env("AWS_SECRET_ACCESS_KEY", "b")
            .current_dir(dir.path());
        let (exit, _, stderr) = run(program, &words).await;
        assert_eq!(exit, 3, "{words:?}: {stderr}");
        let said = format!("{} is not an S3 server", odd.url());
        assert!(
            stderr.contains(&said) && stderr.contains("url"),
            "{words:?}: {stderr}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_source_that_is_missing_is_found_before_the_first_write() {
    let world = World::with_objects(["k"], 10).await;
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    for missing in ["gone", "gone/", "job.yaml/below"] {
        let transfers = format!(
            "transfers:\n  - {{name: ok, from: {{s3: s3://source/}}, to: {{s3: s3://destination/ok/}}}}\n  - {{name: files, from: \
             {{files: {missing}}}, to: {{s3: s3://destination/files/}}}}\n"
        );
        std::fs::write(&job, format!("version: 1\n{transfers}")).unwrap();
        let mut told = Vec::new();
        for command in ["run", "check", "plan", "verify"] {
            let mut program = at(&world);
            program.current_dir(dir.path());
            let (exit, _, stderr) = run(program, &[command, "job.yaml"]).await;
            assert_eq!(exit, 3, "{command}: {stderr}");
            assert!(
                stderr.contains("files: ") && stderr.contains(missing),
                "{command}: {stderr}"
            );
            told.push(stderr);
        }
        told.dedup();
        assert_eq!(told.len(), 1, "all say the same: {told:?}");
    }
    assert!(world.keys(DESTINATION).is_empty(), "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_not_tried_again() {
    for (name, code) in [
        ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"),
        ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
    ] {
        let world = World::with_objects(["k"], 10).await;
        let mut program = at(&world);
        program.env(name, "wrong");
        let (exit, _, stderr) = run(program, &COPY).await;
        assert_eq!(exit, 3, "{stderr}");
        assert!(
            stderr.contains(code) && !stderr.contains("Error {"),
            "{stderr}"
        );
        // The answer to HEAD is only a 403; the list has the reason.
        assert!(
            world.sandbox.calls().total() <= 2,
            "{} requests",
            world.sandbox.calls().total()
        );
    }
}

/// Starts a TLS server with a certificate that nobody trusts. It counts connections.
async fn untrusted() -> (SocketAddr, Arc<AtomicU32>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let _ = acceptor.accept(stream).await;
            });
        }
    });
    (at, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_trusts_costs_one_connection() {
    let (at, connections) = untrusted().await;
    let url = format!("https://localhost:{}", at.port());
    let mut program = impatient(&url, "copy");
    // This variable may name the machine's own certificates.
    program.env_remove("SSL_CERT_FILE");
    let (exit, _, stderr) = run(program, &COPY[1..]).await;
    assert_eq!(
        (exit, connections.load(Ordering::SeqCst)),
        (3, 1),
        "{stderr}"
    );
    assert!(
        stderr.contains("AWS_CA_BUNDLE, SSL_CERT_FILE or --ca-bundle"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_distinguished_from_one_that_is_away() {
    let odd = Odd::at("127.0.0.1:0".parse().unwrap(), Some(answer("200 OK", ""))).await;
    let world = World::with_objects(["k"], 10).await;
    let url = world.sandbox.url().replace("http://", "https://");
    let (exit, _, stderr) = run(impatient(&url, "copy"), &COPY[1..]).await;
    assert_eq!((exit, odd.requests()), (3, 0), "{stderr}");
    assert!(stderr.contains("does not speak TLS"), "{stderr}");
}

#[rstest]
#[case("TERM", "copy", &COPY[1..])]
#[case("INT", "uploads", &["list", "s3://source/"])]
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_the_wait(
    #[case] signal: &str,
    #[case] word: &str,
    #[case] arguments: &[&str],
) {
    let address = nobody().await;
    let mut program = process();
    program
        .env("AWS_ENDPOINT_URL_S3", format!("http://{address}"))
        .env("AWS_ACCESS_KEY_ID", "a")
        .env("AWS_SECRET_ACCESS_KEY", "b")
        .arg(word)
        .args(arguments);
    let child = start(program);
    sleep(Duration::from_millis(2500)).await;
    Command::new("kill")
        .args([&format!("-{signal}"), &child.id().to_string()])
        .status()
        .unwrap();
    let began = Instant::now();
    let Ended { exit, stderr, .. } = ended(child).await;
    assert_eq!(exit, 4, "{stderr}");
    assert!(
        stderr.contains("waiting for") && stderr.contains("error: interrupted;"),
        "{stderr}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_makes_no_sense_is_asked_for_a_few_times_only() {
    let html = answer("200 OK", "<html><body>Welcome</body></html>");
    let odd = Odd::at("127.0.0.1:0".parse().unwrap(), Some(html)).await;
    let (exit, _, stderr) = run(impatient(&odd.url(), "uploads"), &["list", "s3://source/"]).await;
    assert_eq!(exit, 3, "{stderr}");
    assert!(
        stderr.contains("is not an S3 server") && stderr.contains("--endpoint-url"),
        "{stderr}"
    );
    assert!(odd.requests() <= 8, "{} requests", odd.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multi_region_access_point_is_refused_as_a_source_in_true_words() {
    let mut program = command();
    program
        .env("AWS_ACCESS_KEY_ID", "a")
        .env("AWS_SECRET_ACCESS_KEY", "b")
        .env("AWS_REGION", "us-east-1");
    let source = "s3://arn:aws:s3::111122223333:accesspoint/mfzwi23gnjvgw.mrap/x/";
    let (exit, _, stderr) = run(program, &["copy", source, "s3://destination/"]).await;
    assert_eq!(exit, 3, "{stderr}");
    assert!(stderr.contains("but not out of one"), "{stderr}");
}

#[rstest]
#[case::throttled(503, "SlowDown")]
#[case::broken(500, "InternalError")]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_badly_at_first_is_waited_for(
    #[case] status: u16,
    #[case] code: &'static str,
) {
    let world = World::with_objects(["k"], 10).await;
    // More often than a request is tried that has no patience.
    world.add_fault(Fault::on_any().first(6).then(Effect::Error(status, code)));
    let (exit, _, stderr) = run(at(&world), &COPY).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.keys(DESTINATION), ["k"]);
}

#[rstest]
#[case::sso("sso", "aws sso login")]
#[case::process("process", "exited with status 3; run the program by hand")]
#[case::no_source("source", "could not find source profile nobody")]
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_gives_no_credentials_is_named(#[case] profile: &str, #[case] told: &str) {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config");
    let text = "\
[profile sso]
sso_start_url = https://x.awsapps.com/start
sso_region = us-east-1
sso_account_id = 111122223333
sso_role_name = r
[profile process]
credential_process = sh -c 'exit 3'
[profile source]
role_arn = arn:aws:iam::111122223333:role/x
source_profile = nobody
";

    std::fs::write(&config, text).unwrap();
    let mut program = command();
    program
        .env("AWS_CONFIG_FILE", &config)
        .env("HOME", directory.path())
        .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9");
    let arguments = [COPY.as_slice(), &["--profile", profile]].concat();
    let (exit, _, stderr) = run(program, &arguments).await;
    assert_eq!(exit, 3, "{stderr}");
    assert!(
        stderr.contains(told) && stderr.contains(profile) && !stderr.contains("check AWS_PROFILE"),
        "{stderr}"
    );
}

/// Each command, with little patience, in a world whose buckets answer but whose lists fail.
#[rstest]
#[case::broken(Effect::Error(500, "InternalError"))]
#[case::away(Effect::Error(503, "ServiceUnavailable"))]
#[case::throttled(Effect::SlowDown)]
#[case::silent(Effect::StallBefore(None))]
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_for_now_ends_a_command_within_its_patience(
    #[case] effect: Effect,
    #[values("run", "dry-run", "plan", "check", "verify")] word: &str,
) {
    let world = World::with_objects(["k"], 10).await;
    world.add_fault(Fault::on(Operation::ListObjectsV2).then(effect));
    let began = Instant::now();
    let (exit, stderr) = with_job(&world, word).await;
    assert_eq!(exit, 4, "{stderr}");
    assert!(
        began.elapsed() < Duration::from_secs(45),
        "{:?}: {stderr}",
        began.elapsed()
    );
    assert!(world.keys(DESTINATION).is_empty(), "nothing was written");
}

/// Runs a command with a job from the source to the destination.
async fn with_job(world: &World, command: &str) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    let job = directory.path().join("job.yaml");
    std::fs::write(&job, JOB).unwrap();
    let job = job.to_str().unwrap();
    let arguments = if command == "dry-run" {
        vec!["run", job, "--dry-run"]
    } else {
        vec![command, job]
    };
    let (exit, _, stderr) = run(at(world), &arguments).await;
    (exit, stderr)
}

/// A server may answer HEAD before it checks the key, for example with a redirect. The list is then
/// the first request to be refused.
#[rstest]
#[case(403, "InvalidAccessKeyId")]
#[case(403, "SignatureDoesNotMatch")]
#[case(403, "AccessDenied")]
#[case(403, "RequestTimeTooSkewed")]
#[case(301, "PermanentRedirect")]
#[case(501, "NotImplemented")]
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_refused_ends_a_command_like_a_refused_bucket(
    #[case] status: u16,
    #[case] code: &'static str,
    #[values("run", "dry-run", "plan", "check", "verify")] word: &str,
) {
    let world = World::with_objects(["k"], 10).await;
    world.add_fault(Fault::on(Operation::ListObjectsV2).then(Effect::Error(status, code)));
    let (exit, stderr) = with_job(&world, word).await;
    assert_eq!(exit, 3, "{stderr}");
}

#[rstest]
#[case::refused(Effect::Error(403, "AccessDenied"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_list_beside_a_copy_is_a_failure(#[case] effect: Effect) {
    let world = World::with_objects(["k"], 10).await;
    world.add_fault(
        Fault::on(Operation::ListObjectsV2)
            .key("denied/")
            .then(effect),
    );
    let directory = tempfile::tempdir().unwrap();
    let job = directory.path().join("job.yaml");
    let transfers = "transfers:\n  - {name: one, from: {s3: s3://source/denied/}, to: {s3: s3://destination/a/}}\n  - {name: \
                     two, from: {s3: s3://source/k}, to: {s3: s3://destination/b/k}}\n";
    std::fs::write(&job, format!("version: 1\n{transfers}")).unwrap();
    let (exit, _, stderr) = run(at(&world), &["run", job.to_str().unwrap()]).await;
    assert_eq!(exit, 1, "{stderr}");
    assert_eq!(world.keys(DESTINATION), ["b/k"]);
}
