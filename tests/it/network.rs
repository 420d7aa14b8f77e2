//! The user's environment: profiles, keys, Regions, proxies, and private certificate authorities.

mod proxy;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;
use s3haul::sandbox::{Content, ObjectSpec, SandboxOptions};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::issuer::{Issuer, Reply};
use crate::world::program::{Ended, process};
use crate::world::{DESTINATION, SOURCE, World};

const COPY: [&str; 3] = ["copy", "s3://source/", "s3://destination/"];

/// A sandbox with one object, and a directory with the shared AWS configuration files.
pub(crate) struct Site {
    pub(crate) world: World,
    directory: TempDir,
}

impl Site {
    pub(crate) async fn new(config: &str, credentials: &str) -> Self {
        let world = World::new().await;
        world.put("k", 10);
        let site = Self {
            world,
            directory: tempfile::tempdir().unwrap(),
        };
        fs::write(
            site.file("config"),
            config.replace("SANDBOX", site.world.sandbox.url()),
        )
        .unwrap();
        fs::write(site.file("credentials"), credentials).unwrap();
        site
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.world
            .sandbox
            .url()
            .trim_start_matches("http://")
            .parse()
            .unwrap()
    }

    pub(crate) async fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
        let mut command = process();
        command
            .current_dir(self.directory.path())
            .args(arguments)
            .env("AWS_CONFIG_FILE", self.file("config"))
            .env("AWS_SHARED_CREDENTIALS_FILE", self.file("credentials"));
        for name in [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
            "SSL_CERT_FILE",
        ] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.envs(variables.iter().copied());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let exit = output.status.code().unwrap();
        Ended {
            exit,
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    pub(crate) fn copied(&self) -> bool {
        self.world.object(DESTINATION, "k").is_some()
    }
}

/// Returns the variables with the keys of the sandbox.
pub(crate) fn right_keys() -> [(&'static str, &'static str); 2] {
    [
        ("AWS_ACCESS_KEY_ID", "sandbox"),
        ("AWS_SECRET_ACCESS_KEY", "sandbox-secret"),
    ]
}

const WRONG_KEYS: [(&str, &str); 2] = [
    ("AWS_ACCESS_KEY_ID", "AKIAWRONG"),
    ("AWS_SECRET_ACCESS_KEY", "wrong"),
];

const RIGHT: &str = "aws_access_key_id = sandbox\naws_secret_access_key = sandbox-secret\n";

const WRONG: &str = "aws_access_key_id = AKIAOTHER\naws_secret_access_key = wrong\n";

#[test]
fn the_keys_of_these_tests_are_those_of_the_sandbox() {
    let options = SandboxOptions::default();
    assert_eq!(
        (&*options.access_key, &*options.secret_key),
        ("sandbox", "sandbox-secret")
    );
}

#[rstest]
#[case::flag(&["copy", "s3://source/", "s3://destination/", "--profile", "lab"])]
#[case::manifest(&["run", "job.yaml"])]
#[tokio::test(flavor = "multi_thread")]
async fn a_named_profile_beats_exported_keys_url_and_region(#[case] arguments: &[&str]) {
    let config = "[profile lab]\nendpoint_url = SANDBOX\nregion = us-east-1\n";
    let site = Site::new(config, &format!("[lab]\n{RIGHT}")).await;
    let job = "version: 1\nendpoints: {lab: {profile: lab}}\ntransfers:\n  - {from: {s3: s3://source/, endpoint: lab}, \
               to: {s3: s3://destination/, endpoint: lab}}\n";
    fs::write(site.file("job.yaml"), job).unwrap();
    let elsewhere = [
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9"),
        ("AWS_REGION", "eu-west-1"),
    ];
    let variables = [WRONG_KEYS.as_slice(), &elsewhere].concat();
    let ended = site.run(arguments, &variables).await;
    assert_eq!(ended.exit, 0, "{}", ended.stderr);
    assert!(site.copied());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_with_other_keys_is_refused_although_the_environment_has_the_right_ones() {
    let site = Site::new(
        "[profile other]\nendpoint_url = SANDBOX\n",
        &format!("[other]\n{WRONG}"),
    )
    .await;
    let ended = site
        .run(
            &[&COPY[..], &["--profile", "other"]].concat(),
            &right_keys(),
        )
        .await;
    assert_eq!(ended.exit, 3, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("InvalidAccessKeyId"),
        "{}",
        ended.stderr
    );
    assert!(!site.copied());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_does_not_exist_is_named_with_the_files_searched() {
    let site = Site::new("[profile lab]\n", "").await;
    let ended = site
        .run(&[&COPY[..], &["--profile", "nope"]].concat(), &right_keys())
        .await;
    assert_eq!(ended.exit, 2, "{}", ended.stderr);
    let config = site.file("config").display().to_string();
    for word in ["`nope`", &config, "credentials", "lab"] {
        assert!(ended.stderr.contains(word), "no {word} in {}", ended.stderr);
    }
    let ended = site.run(&COPY, &[("AWS_PROFILE", "nope")]).await;
    assert_eq!(ended.exit, 2, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("AWS_PROFILE") && ended.stderr.contains("`nope`"),
        "{}",
        ended.stderr
    );
    let job = "version: 1\nendpoints: {a: {profile: nope}}\ntransfers:\n  - {from: {s3: s3://source/, endpoint: a}, to: \
               {s3: s3://destination/, endpoint: a}}\n";
    fs::write(site.file("job.yaml"), job).unwrap();
    let ended = site.run(&["check", "job.yaml"], &right_keys()).await;
    assert_eq!(ended.exit, 2, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("job.yaml:2"),
        "drawn at its line: {}",
        ended.stderr
    );
}

/// A dangerous mistake to prevent: the copy would go to the bucket of that name on the
/// destination's own server.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_differ_by_profile_only_are_two_servers() {
    let other = World::new().await;
    other.put_object(SOURCE, "k", Content::pattern(2, 10), &ObjectSpec::default());
    let config = format!(
        "[profile here]\nendpoint_url = SANDBOX\n{RIGHT}[profile there]\nendpoint_url = {}\n{RIGHT}",
        other.sandbox.url()
    );
    let site = Site::new(&config, "").await;
    let job = "version: 1\nendpoints: {a: {profile: here}, b: {profile: there}}\ntransfers:\n  - {from: {s3: s3://source/, \
               endpoint: a}, to: {s3: s3://destination/, endpoint: b}}\n";
    fs::write(site.file("job.yaml"), job).unwrap();
    for command in ["check", "plan", "run", "verify"] {
        let ended = site.run(&[command, "job.yaml"], &[]).await;
        assert_eq!(ended.exit, 2, "{command}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("profile here") && ended.stderr.contains("profile there"),
            "{}",
            ended.stderr
        );
    }
    assert!(other.object(DESTINATION, "k").is_none());
    assert_eq!(other.sandbox.calls().total(), 0, "nothing was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_login_of_a_profile_is_in_this_build() {
    let process = r#"credential_process = sh -c 'echo "{\"Version\": 1, \"AccessKeyId\": \"sandbox\", \"SecretAccessKey\": \"sandbox-secret\"}"'"#;
    let config = format!(
        "[profile process]\nendpoint_url = SANDBOX\n{process}\n\
         [profile sso]\nendpoint_url = SANDBOX\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = x\n\
         [sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp.example/start\n\
         [profile login]\nendpoint_url = SANDBOX\nlogin_session = arn:aws:iam::111122223333:user/x\nregion = us-east-1\n"
    );
    let site = Site::new(&config, "").await;
    let ended = site
        .run(&[&COPY[..], &["--profile", "process"]].concat(), &[])
        .await;
    assert_eq!(ended.exit, 0, "{}", ended.stderr);
    let home = site.directory.path().display().to_string();
    for profile in ["sso", "login"] {
        let arguments = [&COPY[..], &["--profile", profile, "--patience", "1s"]].concat();
        let ended = site.run(&arguments, &[("HOME", &home)]).await;
        assert!(matches!(ended.exit, 3 | 4), "{}", ended.stderr);
        assert!(ended.stderr.contains(profile), "{}", ended.stderr);
        assert!(!ended.stderr.contains("feature"), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_variable_counts_as_unset() {
    let site = Site::new(&format!("[default]\nendpoint_url = SANDBOX\n{RIGHT}"), "").await;
    let empty = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_CA_BUNDLE",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    ];
    let ended = site.run(&COPY, &empty.map(|name| (name, ""))).await;
    assert_eq!(ended.exit, 0, "{}", ended.stderr);
    assert!(site.copied());
}

#[rstest]
#[case::access_key("AWS_ACCESS_KEY_ID", "access key id")]
#[case::session_token("AWS_SESSION_TOKEN", "session token")]
#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_no_header_can_hold_are_refused(
    #[case] variable: &str,
    #[case] field: &str,
) {
    let site = Site::new("[default]\nendpoint_url = SANDBOX\n", "").await;
    let odd = (variable, "very\nsecret");
    let ended = site.run(&COPY, &[&right_keys()[..], &[odd]].concat()).await;
    assert_eq!(ended.exit, 3, "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains(&format!("the {field} contains characters")),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
}

/// Serves `onward` over TLS, as `s3.corp.example` and `localhost`. Returns its address and its
/// certificate in PEM format.
pub(crate) async fn tls(onward: SocketAddr) -> (SocketAddr, String) {
    let names = ["s3.corp.example", "localhost"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else {
                    return;
                };
                let mut server = TcpStream::connect(onward).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (at, made.cert.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_a_plain_endpoint_never_uses_are_not_refused() {
    let site = Site::new("", "").await;
    let unused = [
        ("AWS_ENDPOINT_URL_S3", site.world.sandbox.url()),
        ("HTTPS_PROXY", "socks5://127.0.0.1:9"),
        ("AWS_CA_BUNDLE", "/nonexistent.pem"),
    ];
    let ended = site
        .run(&COPY, &[right_keys().as_slice(), &unused].concat())
        .await;
    assert_eq!(ended.exit, 0, "{}", ended.stderr);
    let stated = [&COPY[..], &["--ca-bundle", "/nonexistent.pem"]].concat();
    let ended = site
        .run(&stated, &[right_keys().as_slice(), &unused].concat())
        .await;
    assert_eq!(ended.exit, 3, "stated by a flag: {}", ended.stderr);
}

/// The keys come first, although the container endpoint and the metadata service offer credentials
/// too.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_names_the_source_of_the_credentials_that_were_used() {
    let site = Site::new("[default]\n", "").await;
    let others = [
        ("AWS_ENDPOINT_URL_S3", site.world.sandbox.url()),
        ("AWS_EC2_METADATA_DISABLED", "false"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/"),
    ];
    let copy = [&COPY[..], &["--report", "report.jsonl"]].concat();
    let ended = site
        .run(&copy, &[right_keys().as_slice(), &others].concat())
        .await;
    assert_eq!(ended.exit, 0, "{}", ended.stderr);
    let report = fs::read_to_string(site.file("report.jsonl")).unwrap();
    let header: serde_json::Value = serde_json::from_str(report.lines().next().unwrap()).unwrap();
    let said = format!("AWS_ACCESS_KEY_ID, us-east-1, {}", site.world.sandbox.url());
    assert_eq!(header["identity"]["default"], said);
}

#[tokio::test(flavor = "multi_thread")]
async fn fips_and_a_url_are_refused_together() {
    let site = Site::new(
        "[profile strict]\nuse_fips_endpoint = true\nendpoint_url = SANDBOX\n",
        "",
    )
    .await;
    let fips = [
        ("AWS_ENDPOINT_URL_S3", site.world.sandbox.url()),
        ("AWS_USE_FIPS_ENDPOINT", "true"),
    ];
    let ended = site
        .run(&COPY, &[right_keys().as_slice(), &fips].concat())
        .await;
    assert_eq!(ended.exit, 3, "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains("AWS_USE_FIPS_ENDPOINT asks for a FIPS endpoint"),
        "{}",
        ended.stderr
    );
    let ended = site
        .run(
            &COPY,
            &[right_keys().as_slice(), &[("AWS_PROFILE", "strict")]].concat(),
        )
        .await;
    assert_eq!(ended.exit, 3, "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains("profile strict asks for a FIPS endpoint"),
        "{}",
        ended.stderr
    );
}

#[rstest]
#[case::missing("/nonexistent.pem", "cannot be read")]
#[case::empty("config", "contains no certificate")]
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_bundle_without_certificates_is_refused_and_named(
    #[case] bundle: &str,
    #[case] why: &str,
) {
    let site = Site::new("[default]\n", "").await;
    let bundle = [
        ("AWS_CA_BUNDLE", bundle),
        ("AWS_ENDPOINT_URL_S3", "https://127.0.0.1:9"),
    ];
    let ended = site
        .run(&COPY, &[right_keys().as_slice(), &bundle].concat())
        .await;
    assert_eq!(ended.exit, 3, "{}", ended.stderr);
    assert!(
        ended.stderr.contains(why) && ended.stderr.contains("AWS_CA_BUNDLE"),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_not_utf8_is_not_an_unset_one() {
    use std::os::unix::ffi::OsStringExt as _;
    let site = Site::new("", "").await;
    let mut command = process();
    let url = [site.world.sandbox.url().as_bytes(), b"\xff"].concat();
    command
        .args(COPY)
        .envs(right_keys())
        .env("AWS_ENDPOINT_URL_S3", std::ffi::OsString::from_vec(url));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(
        stderr.contains("AWS_ENDPOINT_URL_S3 is not UTF-8"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_assumed_with_the_credentials_of_the_profile() {
    let site = Site::new(
        "[profile base]\nservices = lab\n[services lab]\ns3 =\n  endpoint_url = SANDBOX\n",
        &format!("[base]\n{WRONG}"),
    )
    .await;
    let issuer = Issuer::start(Reply::Fresh(Duration::from_hours(1))).await;
    let job = "version: 1\nendpoints: {a: {profile: base, assume_role: {arn: \"arn:aws:iam::111122223333:role/x\"}}}\n\
               transfers:\n  - {from: {s3: s3://source/, endpoint: a}, to: {s3: s3://destination/, endpoint: a}}\n";
    fs::write(site.file("job.yaml"), job).unwrap();
    let ended = site
        .run(&["run", "job.yaml"], &[(issuer.sts().0, &issuer.sts().1)])
        .await;
    assert_eq!(ended.exit, 0, "{}", ended.stderr);
    assert!(site.copied());
    assert!(
        issuer.requests()[0].contains("Action=AssumeRole&"),
        "{:?}",
        issuer.requests()
    );
}
