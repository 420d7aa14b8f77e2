//! Text from strangers (keys, server messages, codes, IDs, headers) never reaches a terminal or a
//! log unescaped: it cannot move a cursor, reorder a line, or forge one.

use std::sync::Arc;

use s3haul::printable::is_printable;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::liar::read_head;
use crate::world::program::{at, command, run};
use crate::world::{SOURCE, World};

/// A line of a log that a key tries to forge.
const FORGED: &str = "2026-01-01T00:00:00Z ERROR forged";

fn keys() -> [String; 6] {
    [
        format!("a\n{FORGED}"),
        "b\u{1b}[2J\u{1b}]0;title\u{7}".to_owned(),
        "c\u{202e}gpj\u{200b}\u{2028}".to_owned(),
        "d\u{9b}31m\u{7f}\r".to_owned(),
        "ü日本".to_owned(),
        "plain".to_owned(),
    ]
}

/// A server whose answers come from `answer`, which sees the request line and the headers.
struct Liar(String);

impl Liar {
    async fn new(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let Some((head, _)) = read_head(&mut stream).await else {
                        return;
                    };
                    let text = answer(&head);
                    let _ = stream.write_all(text.as_bytes()).await;
                });
            }
        });
        Self(url)
    }

    async fn run(&self, arguments: &[&str], log: &str) -> (i32, String, String) {
        let mut command = command();
        command
            .env("AWS_ENDPOINT_URL_S3", &self.0)
            .env("AWS_ACCESS_KEY_ID", "AKID")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("S3HAUL_LOG", log);
        run(command, arguments).await
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Asserts that a terminal shows the text literally, and that no line is forged.
fn assert_harmless(text: &str, context: &str) {
    let wild = text.chars().find(|c| *c != '\n' && !is_printable(*c));
    assert_eq!(wild, None, "{context}: {text}");
    assert!(
        !text.lines().any(|line| line.starts_with(FORGED)),
        "{context}: {text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_escaped_wherever_they_are_shown() {
    let world = World::new().await;
    world.put_all(keys(), 10);
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Error(403, "AccessDenied")));
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.jsonl");
    let report = report.to_str().unwrap();
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
    ];
    let verify = [
        "verify",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
    ];
    let plan = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
        "--dry-run",
    ];
    let mut seen = String::new();
    for (arguments, exit) in [
        ([&copy[..], &["--report", report]].concat(), 1),
        ([&copy[..], &["--json"]].concat(), 1),
        ([&copy[..], &["--log-format", "json"]].concat(), 1),
        (verify.to_vec(), 1),
        ([&verify[..], &["--json"]].concat(), 1),
        (plan.to_vec(), 0),
        ([&plan[..], &["--json"]].concat(), 0),
        (vec!["retry", report], 1),
    ] {
        let mut command = at(&world);
        command
            .env("S3HAUL_LOG", "trace")
            .env("XDG_STATE_HOME", directory.path());
        let (code, stdout, stderr) = run(command, &arguments).await;
        let context = arguments.join(" ");
        assert_eq!(code, exit, "{context}: {stderr}");
        assert_harmless(&stdout, &context);
        assert_harmless(&stderr, &context);
        for line in stdout
            .lines()
            .chain(stderr.lines())
            .filter(|line| line.starts_with('{'))
        {
            assert!(
                serde_json::from_str::<Value>(line).is_ok(),
                "{context}: {line}"
            );
        }
        seen += &(stdout + &stderr);
    }
    for shown in [
        "ü日本",
        r"a\n2026-01-01T00:00:00Z ERROR forged",
        r"b\u{1b}[2J",
        r"c\u{202e}gpj",
        r"\u009b31m",
    ] {
        assert!(seen.contains(shown), "{shown}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_uploads_are_listed_with_their_keys_escaped() {
    let uploads = keys().map(|key| {
        let key = percent(&key);
        format!("<Upload><Key>{key}</Key><UploadId>id</UploadId></Upload>")
    });
    let uploads = uploads.concat();
    let list = format!(
        "<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{uploads}\
         </ListMultipartUploadsResult>"
    );
    let server = Liar::new(move |request| {
        let is_list = request.contains("uploads");
        answer(
            "200 OK",
            "x-amz-request-id: 1\r\n",
            if is_list { &list } else { "" },
        )
    })
    .await;
    for more in [&[][..], &["--json"]] {
        let arguments = [&["uploads", "list", "s3://dest/"], more].concat();
        let (code, stdout, stderr) = server.run(&arguments, "trace").await;
        assert_harmless(&stdout, "uploads");
        assert_harmless(&stderr, "uploads");
        assert_eq!(
            (code, stdout.lines().count()),
            (0, keys().len()),
            "{stdout}{stderr}"
        );
    }
}

fn percent(text: &str) -> String {
    text.bytes()
        .fold(String::new(), |text, byte| format!("{text}%{byte:02X}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_is_escaped_and_cut() {
    let message = format!(
        "no\u{9b}31m\u{9b}1m\u{202e}\n{FORGED} {}",
        "long ".repeat(5_000)
    );
    let error = format!(
        "<Error><Code>Access\u{9b}Denied{}</Code><Message>{message}</Message><RequestId>R\u{9d}1</RequestId></Error>",
        "d".repeat(10_000)
    );
    let server =
        Liar::new(move |_| answer("403 Forbidden", "x-amz-request-id: R\u{9b}2\r\n", &error)).await;
    for arguments in [
        &["copy", "s3://from/", "s3://dest/"][..],
        &["uploads", "list", "s3://dest/"],
        &["verify", "s3://from/", "s3://dest/"],
        &["copy", "s3://from/", "s3://dest/", "--log-format", "json"],
    ] {
        let (code, stdout, stderr) = server.run(arguments, "trace").await;
        let context = arguments.join(" ");
        assert!(code > 0, "{context}: {stdout}");
        assert_harmless(&stdout, &context);
        assert_harmless(&stderr, &context);
        let errors = stderr.lines().filter(|line| line.starts_with("error: "));
        for line in errors {
            assert!(
                line.len() < 2000 && line.contains("(cut after "),
                "{context}: {line}"
            );
        }
    }
}

/// The journal has the keys of failed objects and of open uploads.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_is_shown_with_its_keys_escaped() {
    let world = World::new().await;
    let store = world.sandbox.store();
    let (large, odd) = ("large\u{1b}[2J\n\u{202e}", "e\0f\u{8}");
    for key in keys().iter().map(String::as_str).chain([odd]) {
        store.put_object(SOURCE, key, Content::pattern(1, 10), &ObjectSpec::default());
    }
    store.put_object(
        SOURCE,
        large,
        Content::pattern(1, 12 << 20),
        &ObjectSpec::default(),
    );
    for operation in [
        Operation::CopyObject,
        Operation::UploadPartCopy,
        Operation::AbortMultipartUpload,
    ] {
        world.add_fault(Fault::on(operation).then(Effect::Error(403, "AccessDenied")));
    }
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let mut copy = at(&world);
    copy.env("S3HAUL_JOURNAL", &journal);
    let arguments = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
        "--part-size",
        "5MiB",
    ];
    let (exit, _, stderr) = run(copy, &[&arguments[..], &["--threshold", "5MiB"]].concat()).await;
    assert_eq!(exit, 1, "{stderr}");
    assert_harmless(&stderr, "copy");
    let mut seen = String::new();
    for more in [&[][..], &["--json"]] {
        let arguments = [&["status", journal.to_str().unwrap()], more].concat();
        let (exit, stdout, stderr) = run(at(&world), &arguments).await;
        assert_eq!(exit, 0, "{stderr}");
        assert_harmless(&stdout, "status");
        assert_harmless(&stderr, "status");
        seen += &stdout;
    }
    for shown in [
        r"e\0f",
        r"b\u{1b}[2J",
        r"c\u{202e}gpj",
        r"large\u{1b}[2J\n",
        r"large\u001b[2J\n\u202e",
    ] {
        assert!(seen.contains(shown), "{shown}: {seen}");
    }
}

/// A manifest is untrusted text too: it may come with a repository that was just cloned.
#[tokio::test(flavor = "multi_thread")]
async fn names_in_a_manifest_are_escaped() {
    let world = World::new().await;
    world.put("k", 10);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("job.yaml");
    let path = path.to_str().unwrap();
    let odd = format!(r"\e[2J\u202E\n{FORGED}\x9B31m");
    let endpoint = "{provider: aws, url: \"${AWS_ENDPOINT_URL_S3}\"}";
    let manifest = |name: &str, end: &str, transfer: &str, from: &str, more: &str| {
        format!(
            "version: 1\nname: \"job{name}\"\nendpoints: {{\"end{end}\": {endpoint}}}\ntransfers:\n  \
             - {{name: \"transfer{transfer}\", from: {{s3: \"s3://{from}/\", endpoint: \"end{end}\"}}, \
             to: {{s3: \"s3://destination/to{transfer}/\", endpoint: \"end{end}\"}}{more}}}\n"
        )
    };
    let mut seen = String::new();
    for (what, text) in [
        ("job", manifest(&odd, "", "", "source", "")),
        ("endpoint", manifest("", &odd, "", "source", "")),
        ("transfer", manifest("", "", &odd, "source", "")),
        ("bucket", manifest("", "", "", &format!("bucket{odd}"), "")),
        (
            "no bucket",
            manifest("", "", "", &format!("missing{odd}/x"), ""),
        ),
        (
            "field",
            manifest("", "", "", "source", &format!(", \"{odd}\": 1")),
        ),
        (
            "value",
            manifest("", "", "", "source", &format!(", when: \"{odd}\"")),
        ),
        (
            "raw",
            manifest("", "", "", "source", "").replace("job", "job\u{202e}\u{200b}"),
        ),
    ] {
        std::fs::write(path, text).unwrap();
        for arguments in [
            &["check", path][..],
            &["check", path, "--json"],
            &["plan", path],
            &["plan", path, "--json"],
            &["run", path],
        ] {
            let (exit, stdout, stderr) = run(at(&world), arguments).await;
            let context = format!("{what}: {}", arguments[0]);
            assert_ne!(exit, 70, "{context}: {stderr}");
            assert_harmless(&stdout, &context);
            assert_harmless(&stderr, &context);
            seen += &(stdout + &stderr);
        }
    }
    assert!(seen.contains(r"\u{1b}[2J\u{202e}\n"), "{seen}");
}
