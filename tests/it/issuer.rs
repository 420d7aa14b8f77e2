//! An endpoint that issues credentials: a container endpoint, the instance metadata service, and
//! the Security Token Service at one address. A test sets its replies at any time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rstest::rstest;
use s3haul::sandbox::{Operation, SandboxOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::world::World;
use crate::world::program::{command, process, run};

/// The reply to a request for credentials.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// The sandbox's key, valid for this long, with numbered session tokens: `t1`, `t2`, and so on.
    Fresh(Duration),
    /// These credentials, valid for this long.
    Issue(Session, Duration),
    /// This status and body.
    Status(u16, &'static str),
    /// No reply, on a connection that stays open.
    Hang,
    /// A closed connection.
    Close,
}

/// Credentials with a session token.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) token: String,
}

impl Session {
    /// Returns the key of the sandbox with this session token.
    pub(crate) fn of_sandbox(token: &str) -> Self {
        let SandboxOptions {
            access_key,
            secret_key,
            ..
        } = SandboxOptions::default();
        Self {
            access_key,
            secret_key,
            token: token.to_owned(),
        }
    }
}

/// The replies and the requests of an issuer.
#[derive(Debug)]
struct State {
    /// The reply to a request if `next` is empty.
    usual: Reply,
    /// The replies to the next requests.
    next: VecDeque<Reply>,
    /// Number of session tokens issued by [`Reply::Fresh`].
    tokens: u64,
    /// The requests for credentials, headers and body.
    requests: Vec<String>,
}

/// A server that issues credentials until the test ends.
pub(crate) struct Issuer {
    at: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Issuer {
    /// Starts an issuer at a free port.
    pub(crate) async fn start(usual: Reply) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), usual).await
    }

    /// Starts an issuer at this address.
    pub(crate) async fn at(address: SocketAddr, usual: Reply) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let at = listener.local_addr().unwrap();
        let state = State {
            usual,
            next: VecDeque::new(),
            tokens: 0,
            requests: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { at, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Returns the variable that makes this issuer the endpoint of a container.
    pub(crate) fn container(&self) -> (&'static str, String) {
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("{}/credentials", self.url()),
        )
    }

    /// Returns the variables that make this issuer the instance metadata service.
    pub(crate) fn instance(&self) -> [(&'static str, String); 2] {
        [
            ("AWS_EC2_METADATA_DISABLED", "false".to_owned()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.url()),
        ]
    }

    /// Returns the variable that makes this issuer the Security Token Service.
    pub(crate) fn sts(&self) -> (&'static str, String) {
        ("AWS_ENDPOINT_URL_STS", self.url())
    }

    /// Sets the usual reply.
    pub(crate) fn reply(&self, usual: Reply) {
        self.state.lock().unwrap().usual = usual;
    }

    /// Adds a reply for one request.
    pub(crate) fn reply_once(&self, reply: Reply) {
        self.state.lock().unwrap().next.push_back(reply);
    }

    /// Returns the number of requests for credentials.
    pub(crate) fn asked(&self) -> usize {
        self.state.lock().unwrap().requests.len()
    }

    /// Returns the requests for credentials, headers and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Waits for this many requests for credentials.
    pub(crate) async fn wait_for_requests(&self, count: usize) {
        let began = tokio::time::Instant::now();
        while self.asked() < count {
            assert!(began.elapsed() < Duration::from_mins(1), "nobody asks");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The answer to a request.
enum Answer {
    Http(String),
    Silence,
    End,
}

/// Answers one request.
async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let Some(request) = read(&mut stream).await else {
        return;
    };
    let roles = ["security-credentials/", "security-credentials-extended/"];
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = if request.starts_with("PUT /latest/api/token") {
        http(
            200,
            "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n",
            "metadata-token",
        )
    } else if roles.iter().any(|end| path.ends_with(end)) {
        http(200, "", "role")
    } else if request.contains("Action=GetCallerIdentity") {
        http(200, "", &caller())
    } else {
        match issue(&state, request) {
            Answer::Http(answer) => answer,
            Answer::Silence => return std::future::pending().await,
            Answer::End => return,
        }
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Returns the answer to a request for credentials.
fn issue(state: &Mutex<State>, request: String) -> Answer {
    let mut state = state.lock().unwrap();
    let reply = state
        .next
        .pop_front()
        .unwrap_or_else(|| state.usual.clone());
    let is_sts = request.starts_with("POST ");
    let is_instance = request.starts_with("GET /latest/");
    let action = if request.contains("Action=AssumeRoleWithWebIdentity") {
        "AssumeRoleWithWebIdentity"
    } else {
        "AssumeRole"
    };
    state.requests.push(request);
    let (session, lasts) = match reply {
        Reply::Hang => return Answer::Silence,
        Reply::Close => return Answer::End,
        Reply::Status(status, body) => return Answer::Http(http(status, "", body)),
        Reply::Issue(session, lasts) => (session, lasts),
        Reply::Fresh(lasts) => {
            state.tokens += 1;
            (Session::of_sandbox(&format!("t{}", state.tokens)), lasts)
        }
    };
    let Session {
        access_key,
        secret_key,
        token,
    } = session;
    let expiration = format!("{:.0}", jiff::Timestamp::now() + lasts);
    let body = if is_sts {
        format!(
            "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
             <AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>{secret_key}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
             </{action}Result></{action}Response>"
        )
    } else {
        let mut keys = serde_json::json!({
            "AccessKeyId": access_key, "SecretAccessKey": secret_key, "Token": token, "Expiration": expiration,
        });
        if is_instance {
            for (name, value) in [
                ("Code", "Success"),
                ("Type", "AWS-HMAC"),
                ("LastUpdated", "2026-01-01T00:00:00Z"),
                ("AccountId", "111122223333"),
            ] {
                keys[name] = value.into();
            }
        }
        keys.to_string()
    };
    Answer::Http(http(200, "", &body))
}

fn caller() -> String {
    "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
     <Arn>arn:aws:sts::111122223333:assumed-role/x/s3haul</Arn><UserId>AROA:s3haul</UserId>\
     <Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
        .to_owned()
}

fn http(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Said\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Reads a whole request, or returns `None` if the connection ends before.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().unwrap())
        });
        if body.len() >= length.unwrap_or(0) {
            return Some(text);
        }
    }
}

/// The issuer understands every way to request credentials, and gives the reply that the test has
/// set last.
#[rstest]
#[case::container("container", "GET /credentials")]
#[case::instance("instance", "GET /latest/meta-data/iam/security-credentials")]
#[case::web_identity("web identity", "Action=AssumeRoleWithWebIdentity&")]
#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_issued(#[case] way: &str, #[case] asked: &str) {
    let world = World::new().await;
    world.put("k", 10);
    world.sandbox.accept_key("rotated", "another-secret");
    let issuer = Issuer::start(Reply::Fresh(Duration::from_hours(1))).await;
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "jwt").unwrap();
    let copy = async |destination: &str| {
        let mut program = command();
        program.env("AWS_ENDPOINT_URL_S3", world.sandbox.url());
        match way {
            "container" => program.envs([issuer.container()]),
            "instance" => program.envs(issuer.instance()),
            _ => program
                .envs([issuer.sts()])
                .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token)
                .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/x"),
        };
        world.sandbox.calls().clear();
        let (exit, _, stderr) = run(program, &["copy", "s3://source/", destination]).await;
        assert_eq!(exit, 0, "{stderr}");
        let calls = world.sandbox.calls().of(Operation::CopyObject);
        let signed = calls[0].headers["authorization"]
            .split_once("Credential=")
            .unwrap()
            .1;
        let key = signed.split('/').next().unwrap().to_owned();
        (key, calls[0].headers["x-amz-security-token"].clone())
    };
    assert_eq!(
        copy("s3://destination/a/").await,
        ("sandbox".to_owned(), "t1".to_owned())
    );
    // The SDK retries after a broken connection.
    issuer.reply_once(Reply::Close);
    assert_eq!(
        copy("s3://destination/b/").await,
        ("sandbox".to_owned(), "t2".to_owned())
    );
    let (access_key, secret_key, token) =
        ("rotated".into(), "another-secret".into(), "named".into());
    issuer.reply(Reply::Issue(
        Session {
            access_key,
            secret_key,
            token,
        },
        Duration::from_hours(1),
    ));
    assert_eq!(
        copy("s3://destination/c/").await,
        ("rotated".to_owned(), "named".to_owned())
    );
    let requests = issuer.requests();
    assert!(
        requests.iter().all(|request| request.contains(asked)),
        "{requests:?}"
    );
}

/// A test can wait until a command has requested credentials and hangs.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_hangs_is_asked() {
    let issuer = Issuer::start(Reply::Hang).await;
    let mut program = process();
    program
        .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        .envs([issuer.container()]);
    program
        .args(["copy", "s3://source/", "s3://destination/"])
        .stderr(std::process::Stdio::null());
    let mut child = program.spawn().unwrap();
    issuer.wait_for_requests(1).await;
    child.kill().unwrap();
    child.wait().unwrap();
}
