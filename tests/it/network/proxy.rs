//! Proxies: the requests that go through one, those that do not, and messages about proxies that do
//! not work.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::{COPY, Site, right_keys, tls};
use crate::issuer::{Issuer, Reply};

/// A forward proxy, with CONNECT for TLS and absolute URLs otherwise. It connects to `onward`,
/// whatever the host.
struct Proxy {
    at: SocketAddr,
    connects: Arc<AtomicU32>,
    plain: Arc<AtomicU32>,
    authorized: Arc<AtomicU32>,
}

impl Proxy {
    async fn to(onward: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            at: listener.local_addr().unwrap(),
            connects: Arc::default(),
            plain: Arc::default(),
            authorized: Arc::default(),
        };
        let (connects, plain) = (Arc::clone(&proxy.connects), Arc::clone(&proxy.plain));
        let authorized = Arc::clone(&proxy.authorized);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (connects, plain) = (Arc::clone(&connects), Arc::clone(&plain));
                let authorized = Arc::clone(&authorized);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                        match client.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let text = String::from_utf8_lossy(&head).to_lowercase();
                    if text.contains("proxy-authorization: basic dxnlcjpwyxnz") {
                        authorized.fetch_add(1, Ordering::SeqCst);
                    }
                    let mut server = TcpStream::connect(onward).await.unwrap();
                    if text.starts_with("connect ") {
                        connects.fetch_add(1, Ordering::SeqCst);
                        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    } else {
                        plain.fetch_add(1, Ordering::SeqCst);
                        server.write_all(&head).await.unwrap();
                    }
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        proxy
    }

    fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    fn seen(&self) -> (bool, bool) {
        (
            self.connects.load(Ordering::SeqCst) > 0,
            self.plain.load(Ordering::SeqCst) > 0,
        )
    }
}

#[rstest]
#[case::upper("HTTP_PROXY")]
#[case::lower("http_proxy")]
#[case::all("ALL_PROXY")]
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_endpoint_is_reached_through_the_proxy(#[case] variable: &str) {
    let site = Site::new("", "").await;
    let proxy = Proxy::to(site.address()).await;
    // Only the proxy knows this host.
    let endpoint = [
        ("AWS_ENDPOINT_URL_S3", "http://s3.corp.example"),
        (variable, &proxy.url()),
    ];
    let copy = [&COPY[..], &["--allow-http"]].concat();
    let ended = site
        .run(&copy, &[right_keys().as_slice(), &endpoint].concat())
        .await;
    assert_eq!(
        (ended.exit, proxy.seen()),
        (0, (false, true)),
        "{}",
        ended.stderr
    );
    assert!(site.copied());
}

#[rstest]
#[case::bundle("AWS_CA_BUNDLE", "HTTPS_PROXY")]
#[case::cert_file("SSL_CERT_FILE", "https_proxy")]
#[case::all("AWS_CA_BUNDLE", "ALL_PROXY")]
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_with_a_private_ca_is_reached_by_connect(
    #[case] ca: &str,
    #[case] variable: &str,
) {
    let site = Site::new("", "").await;
    let (at, pem) = tls(site.address()).await;
    let bundle = site.file("ca.pem").display().to_string();
    fs::write(&bundle, pem).unwrap();
    let proxy = Proxy::to(at).await;
    let proxy_url = proxy.url().replace("http://", "http://user:pass@");
    let endpoint = [
        ("AWS_ENDPOINT_URL_S3", "https://s3.corp.example"),
        (variable, &*proxy_url),
        (ca, &*bundle),
    ];
    let ended = site
        .run(&COPY, &[right_keys().as_slice(), &endpoint].concat())
        .await;
    assert_eq!(
        (ended.exit, proxy.seen()),
        (0, (true, false)),
        "{}",
        ended.stderr
    );
    assert_eq!(
        proxy.authorized.load(Ordering::SeqCst),
        proxy.connects.load(Ordering::SeqCst)
    );
    assert!(!ended.stderr.contains("pass"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_and_none_connect_directly() {
    let site = Site::new("", "").await;
    let (at, pem) = tls(site.address()).await;
    let bundle = site.file("ca.pem").display().to_string();
    fs::write(&bundle, pem).unwrap();
    let proxy = Proxy::to(at).await;
    let (url, through) = (format!("https://localhost:{}", at.port()), proxy.url());
    let variables = [
        ("AWS_ENDPOINT_URL_S3", &*url),
        ("HTTPS_PROXY", &through),
        ("AWS_CA_BUNDLE", &bundle),
    ];
    let variables = [right_keys().as_slice(), &variables].concat();
    let ended = site
        .run(
            &COPY,
            &[variables.as_slice(), &[("NO_PROXY", "localhost")]].concat(),
        )
        .await;
    assert_eq!(
        (ended.exit, proxy.seen()),
        (0, (false, false)),
        "{}",
        ended.stderr
    );
    let ended = site
        .run(&[&COPY[..], &["--proxy", "none"]].concat(), &variables)
        .await;
    assert_eq!(
        (ended.exit, proxy.seen()),
        (0, (false, false)),
        "{}",
        ended.stderr
    );
    let ended = site.run(&COPY, &variables).await;
    assert_eq!(
        (ended.exit, proxy.seen()),
        (0, (true, false)),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_no_proxy_exempts_that_port_only() {
    let site = Site::new("", "").await;
    let proxy = Proxy::to(site.address()).await;
    let other = site.address().port() ^ 1;
    for (list, through) in [
        (format!("127.0.0.1:{other}"), true),
        (
            format!("127.0.0.1:{other},127.0.0.1:{}", site.address().port()),
            false,
        ),
    ] {
        let variables = [
            ("AWS_ENDPOINT_URL_S3", site.world.sandbox.url()),
            ("HTTP_PROXY", &proxy.url()),
            ("NO_PROXY", &list),
        ];
        let before = proxy.plain.load(Ordering::SeqCst);
        let copy = [&COPY[..], &["--when", "always", "-v"]].concat();
        let ended = site
            .run(&copy, &[right_keys().as_slice(), &variables].concat())
            .await;
        let asked = proxy.plain.load(Ordering::SeqCst) > before;
        assert_eq!(
            (ended.exit, asked),
            (0, through),
            "{list}: {}",
            ended.stderr
        );
        assert_eq!(
            ended.stderr.contains("proxy http://"),
            through,
            "{list}: {}",
            ended.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_names_a_proxy_and_a_ca_for_one_endpoint() {
    let site = Site::new("", "").await;
    let (at, pem) = tls(site.address()).await;
    fs::write(site.file("ca.pem"), pem).unwrap();
    let proxy = Proxy::to(at).await;
    let job = format!(
        "version: 1\nendpoints: {{corp: {{url: \"https://s3.corp.example\", proxy: \"{}\", ca_bundle: ca.pem}}}}\ntransfers:\n  \
         - {{from: {{s3: s3://source/, endpoint: corp}}, to: {{s3: s3://destination/, endpoint: corp}}}}\n",
        proxy.url()
    );
    fs::write(site.file("job.yaml"), job).unwrap();
    // The endpoint's own settings beat the environment.
    let wrong = [
        ("HTTPS_PROXY", "http://127.0.0.1:9"),
        ("AWS_CA_BUNDLE", "/nonexistent.pem"),
    ];
    let ended = site
        .run(
            &["run", "job.yaml"],
            &[right_keys().as_slice(), &wrong].concat(),
        )
        .await;
    assert_eq!(
        (ended.exit, proxy.seen()),
        (0, (true, false)),
        "{}",
        ended.stderr
    );
    assert!(
        site.copied() && ended.stdout.contains("done"),
        "{}",
        ended.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_answer_is_named() {
    let site = Site::new("", "").await;
    let variables = [
        ("AWS_ENDPOINT_URL_S3", "http://s3.corp.example"),
        ("HTTP_PROXY", "http://u:hunter2@127.0.0.1:9"),
    ];
    let arguments = [&COPY[..], &["--patience", "4s", "--allow-http"]].concat();
    let ended = site
        .run(&arguments, &[right_keys().as_slice(), &variables].concat())
        .await;
    assert_eq!(ended.exit, 4, "{}", ended.stderr);
    let last = ended.stderr.lines().last().unwrap();
    assert!(
        last.starts_with("error: ")
            && last.contains("through the proxy http://127.0.0.1:9 (HTTP_PROXY)"),
        "{last}"
    );
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    let arguments = [&COPY[..], &["--proxy", "ftp://u:hunter2@h"]].concat();
    let ended = site.run(&arguments, &right_keys()).await;
    assert_eq!(ended.exit, 2, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("--proxy") && !ended.stderr.contains("hunter2"),
        "{}",
        ended.stderr
    );
}

/// A proxy must not see the token that authorizes the request for container credentials.
#[tokio::test(flavor = "multi_thread")]
async fn container_credentials_are_never_asked_for_through_a_proxy() {
    let site = Site::new("", "").await;
    // The proxy sends everything to the sandbox, which issues no credentials.
    let proxy = Proxy::to(site.address()).await;
    let issuer = Issuer::start(Reply::Fresh(Duration::from_hours(1))).await;
    let (name, url) = issuer.container();
    let variables = [
        ("AWS_ENDPOINT_URL_S3", "http://s3.corp.example"),
        ("HTTP_PROXY", &*proxy.url()),
        (name, &*url),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    let ended = site
        .run(
            &[&COPY[..], &["--patience", "5s", "--allow-http"]].concat(),
            &variables,
        )
        .await;
    assert_eq!(
        (ended.exit, proxy.seen()),
        (0, (false, true)),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_in_no_proxy_turns_proxies_off_for_addresses_too() {
    let site = Site::new("", "").await;
    let proxy = Proxy::to(site.address()).await;
    let variables = [
        ("AWS_ENDPOINT_URL_S3", site.world.sandbox.url()),
        ("HTTP_PROXY", &proxy.url()),
        ("NO_PROXY", "x, *"),
    ];
    let ended = site
        .run(&COPY, &[right_keys().as_slice(), &variables].concat())
        .await;
    assert_eq!(
        (ended.exit, proxy.seen()),
        (0, (false, false)),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_wants_a_password_is_not_asked_again() {
    let site = Site::new("", "").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (proxy, asked) = (
        format!("http://{}", listener.local_addr().unwrap()),
        Arc::new(AtomicU32::new(0)),
    );
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let variables = [
        ("AWS_ENDPOINT_URL_S3", "https://s3.corp.example"),
        ("HTTPS_PROXY", &*proxy),
    ];
    let ended = site
        .run(&COPY, &[right_keys().as_slice(), &variables].concat())
        .await;
    assert_eq!(
        (ended.exit, asked.load(Ordering::SeqCst)),
        (3, 1),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("user and a password"),
        "{}",
        ended.stderr
    );
}
