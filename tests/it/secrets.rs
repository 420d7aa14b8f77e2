//! No secret is printed, whatever `S3HAUL_LOG` selects: neither raw, nor in base64 or hexadecimal.

use std::fs;

use assert_cmd::Command;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rstest::rstest;
use s3haul::sandbox::SandboxOptions;
use s3haul::size::MIB;

use crate::liar::{Answer, Asked, Liar, Lie};
use crate::world::program::{at, run};
use crate::world::{DESTINATION, World};

const KEY: &str = "customer-key-of-32-bytes-in-all!";
const TOKEN: &str = "session-token-that-nobody-may-see";
const PASSWORD: &str = "proxy-password";

/// Returns every form in which a log could contain a secret.
fn forms(secret: &str) -> Vec<String> {
    let hex = secret
        .bytes()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let list = secret
        .bytes()
        .map(|byte| byte.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    vec![
        secret.to_owned(),
        STANDARD.encode(secret),
        hex.to_uppercase(),
        hex,
        list,
    ]
}

#[rstest]
#[case::everything("trace", "text")]
#[case::json("trace", "json")]
#[case::by_name(
    "s3haul=trace,aws_sigv4=trace,aws_smithy_runtime=trace,aws_sdk_s3=trace,hyper=trace",
    "text"
)]
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_logged(#[case] directives: &str, #[case] format: &str) {
    let world = World::new().await;
    world.put("k", 10);
    let directory = tempfile::tempdir().unwrap();
    let (job, report) = (
        directory.path().join("job.yaml"),
        directory.path().join("report.jsonl"),
    );
    let text = "version: 1\nendpoints: {default: {provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}}\ntransfers:\n  \
                - {from: {s3: s3://source/}, to: {s3: s3://destination/, customer_key: {env: LAKE_KEY}}}\n";
    fs::write(&job, text).unwrap();
    let mut command = at(&world);
    // The sandbox is its own proxy.
    let proxy = world
        .sandbox
        .url()
        .replace("http://", &format!("http://user:{PASSWORD}@"));
    command
        .env("S3HAUL_LOG", directives)
        .env("LAKE_KEY", STANDARD.encode(KEY))
        .env("AWS_SESSION_TOKEN", TOKEN)
        .env("HTTP_PROXY", proxy);
    let arguments = [
        "run",
        job.to_str().unwrap(),
        "--report",
        report.to_str().unwrap(),
        "--log-format",
        format,
    ];
    let (exit, stdout, stderr) = run(command, &arguments).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.keys(DESTINATION), ["k"]);
    assert!(stderr.contains("DEBUG"), "the log is off: {stderr}");
    let all = stdout + &stderr + &fs::read_to_string(report).unwrap();
    let pair = format!("user:{PASSWORD}");
    for secret in [
        KEY,
        TOKEN,
        PASSWORD,
        &pair,
        &SandboxOptions::default().secret_key,
    ] {
        for form in forms(secret) {
            assert!(!all.contains(&form), "{form} in {all}");
        }
    }
    for word in ["AWS4-HMAC-SHA256", "Signature=", "Basic "] {
        assert!(!all.contains(word), "{word} in {all}");
    }
}

/// A server, or a gateway in front of it, quotes the headers that it refuses.
#[rstest]
#[case::small(10, "PUT")]
#[case::in_parts(12 * MIB, "POST")]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_quotes_of_a_request_is_no_secret(
    #[case] size: u64,
    #[case] method: &'static str,
    #[values("message", "code", "part")] quoted: &'static str,
) {
    const HEADERS: [&str; 5] = [
        "x-amz-server-side-encryption-customer-key",
        "x-amz-server-side-encryption-customer-key-md5",
        "x-amz-copy-source-server-side-encryption-customer-key",
        "x-amz-security-token",
        "authorization",
    ];
    let world = World::new().await;
    world.put("k", size);
    let lie = move |asked: &Asked| {
        if asked.method != method {
            return Lie::Truth;
        }
        let values = HEADERS.iter().filter_map(|name| asked.header(name));
        let values: Vec<&str> = match quoted {
            "part" => values.map(|value| &value[value.len() / 3..]).collect(),
            _ => values.collect(),
        };
        let text = values.join("; ");
        if quoted == "code" {
            let id = format!("x-amz-request-id: {}", values[0]);
            return Lie::Given(Answer::error(400, &text).with(&id));
        }
        let document =
            format!("<Error><Code>InvalidRequest</Code><Message>bad: {text}</Message></Error>");
        Lie::Instead(400, document)
    };
    let liar = Liar::lying(&world, lie).await;
    let mut command = at(&world);
    command
        .env("AWS_ENDPOINT_URL_S3", &liar.url)
        .env("S3HAUL_LOG", "trace")
        .env("LAKE_KEY", STANDARD.encode(KEY))
        .env("AWS_SESSION_TOKEN", TOKEN);
    let all = all_output(command, &["--customer-key", "env:LAKE_KEY"]).await;
    assert!(all.contains("[hidden]"), "{all}");
    let digest = s3haul::checksum::md5_etag(KEY.as_bytes());
    for secret in [KEY, TOKEN] {
        for form in forms(secret) {
            // If only a part is quoted, a third is missing.
            let shown = &form[form.len() / 3..];
            assert!(!all.contains(shown), "{shown} in {all}");
        }
    }
    assert!(!all.contains(&digest), "{all}");
}

/// Runs a copy with these flags, which fails. Returns everything that the command wrote: output,
/// report, and journal.
async fn all_output(command: Command, flags: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let (report, journal) = (directory.path().join("report"), directory.path().join("j"));
    let arguments = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--threshold",
        "5MiB",
        "--report",
        report.to_str().unwrap(),
        "--journal",
        journal.to_str().unwrap(),
    ];
    let (exit, stdout, stderr) = run(command, &[&arguments, flags].concat()).await;
    assert_eq!(exit, 1, "{stderr}");
    let mut all = stdout + &stderr + &fs::read_to_string(report).unwrap();
    for file in fs::read_dir(journal).unwrap() {
        all.push_str(&String::from_utf8_lossy(
            &fs::read(file.unwrap().path()).unwrap(),
        ));
    }
    all
}

/// A server answers with a header of the request instead of an `ETag` or an upload ID.
#[rstest]
#[case::etag(10, "etag")]
#[case::version(10, "x-amz-version-id")]
#[case::upload(12 * MIB, "UploadId")]
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_repeats_a_secret_is_neither_shown_nor_recorded(
    #[case] size: u64,
    #[case] place: &'static str,
) {
    let world = World::new().await;
    world.put("k", size);
    let liar = Liar::before(&world, move |asked: &Asked, answer: Answer| {
        let token = asked.header("x-amz-security-token").unwrap_or_default();
        match place {
            "UploadId" if asked.method == "POST" && asked.has("uploads") => {
                answer.replacing("<UploadId>", &format!("<UploadId>{token}"))
            }
            "UploadId" => answer,
            header if asked.path.ends_with("/k") && asked.method != "GET" => answer
                .without(header)
                .with(&format!("{header}: \"{token}\"")),
            _ => answer,
        }
    })
    .await;
    let mut command = at(&world);
    command
        .env("AWS_ENDPOINT_URL_S3", &liar.url)
        .env("AWS_SESSION_TOKEN", TOKEN);
    let all = all_output(command, &[]).await;
    assert!(all.contains("repeats a secret of the request"), "{all}");
    for form in forms(TOKEN) {
        assert!(!all.contains(&form), "{form} in {all}");
    }
}
