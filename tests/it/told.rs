//! Errors that name their cause: the bundle, the file, the page of a portal, the variable, or
//! standard input.

use std::process::{Command, Stdio};

use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::network::{Site, right_keys, tls};
use crate::world::program::{at, command, journaled, process_at, run};
use crate::world::{DESTINATION, World};

const COPY: [&str; 3] = ["copy", "s3://source/", "s3://destination/"];

#[rstest]
#[case::flag(true, "")]
#[case::variable(false, " (AWS_CA_BUNDLE)")]
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_without_the_issuer_is_named(#[case] by_flag: bool, #[case] origin: &str) {
    let site = Site::new("", "").await;
    let (at, _) = tls(site.address()).await;
    let (_, other) = tls(site.address()).await;
    let bundle = site.file("other.pem");
    std::fs::write(&bundle, other).unwrap();
    let (bundle, url) = (
        bundle.to_str().unwrap(),
        format!("https://localhost:{}", at.port()),
    );
    let mut variables = right_keys().to_vec();
    variables.push(("AWS_ENDPOINT_URL_S3", &url));
    let mut words = COPY.to_vec();
    if by_flag {
        words.extend(["--ca-bundle", bundle]);
    } else {
        variables.push(("AWS_CA_BUNDLE", bundle));
    }
    let ended = site.run(&words, &variables).await;
    assert_eq!(ended.exit, 3, "{}", ended.stderr);
    let told = format!(
        "the CA bundle {bundle}{origin} does not contain the issuer of the server's certificate, or contains an old \
         certificate of it"
    );
    assert!(ended.stderr.contains(&told), "{}", ended.stderr);
    assert!(
        !ended.stderr.contains("SSL_CERT_FILE"),
        "no other bundle is needed: {}",
        ended.stderr
    );
}

#[rstest]
#[case::config("[default\nregion = x\n", "", "config")]
#[case::credentials("[default]\n", "[default\naws_access_key_id = x\n", "credentials")]
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_file_that_is_broken_is_named(
    #[case] config: &str,
    #[case] credentials: &str,
    #[case] file: &str,
) {
    let site = Site::new(config, credentials).await;
    let ended = site.run(&COPY, &right_keys()).await;
    assert_eq!(ended.exit, 3, "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains(&format!("{}: ", site.file(file).display())),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_a_login_page_is_no_s3() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 8192];
            let _ = stream.read(&mut request).await;
            let answer = "HTTP/1.1 302 Found\r\nLocation: https://login.example/?back=1\r\nContent-Length: 0\r\nConnection: \
                          close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    for words in [&COPY[..], &["uploads", "list", "s3://source/"]] {
        let mut program = command();
        program
            .env("AWS_ENDPOINT_URL_S3", &url)
            .env("AWS_ACCESS_KEY_ID", "a")
            .env("AWS_SECRET_ACCESS_KEY", "b");
        let (exit, _, stderr) = run(program, words).await;
        assert_eq!(exit, 3, "{stderr}");
        let told = format!(
            "{url} is not an S3 server: it answers with a redirect (HTTP 302), as the login page"
        );
        assert!(stderr.contains(&told), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_sts_without_a_scheme_is_found_before_anything_is_sent() {
    let site = Site::new("", "").await;
    let job = "version: 1\nendpoints: {a: {assume_role: {arn: \"arn:aws:iam::111122223333:role/x\"}}}\n\
               transfers:\n  - {from: {s3: s3://source/, endpoint: a}, to: {s3: s3://destination/, endpoint: a}}\n";
    std::fs::write(site.file("job.yaml"), job).unwrap();
    let sts = [("AWS_ENDPOINT_URL_STS", "sts.corp.example:8443")];
    let ended = site
        .run(
            &["run", "job.yaml"],
            &[right_keys().as_slice(), &sts].concat(),
        )
        .await;
    assert_eq!(ended.exit, 3, "{}", ended.stderr);
    let told = "AWS_ENDPOINT_URL_STS: `sts.corp.example:8443` is not a URL of STS; write https://sts.corp.example:8443";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    assert_eq!(site.world.sandbox.calls().total(), 0);
}

#[rstest]
#[case::a_path(
    "./missing",
    3,
    "there is no file or directory ./missing; check the path"
)]
#[case::perhaps_s3("source/k", 2, "s3://source/k")]
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_local_source_is_distinguished_from_a_mistyped_one(
    #[case] source: &str,
    #[case] expected: i32,
    #[case] told: &str,
) {
    let world = World::new().await;
    let (exit, _, stderr) = run(at(&world), &["copy", source, "s3://destination/"]).await;
    assert_eq!(exit, expected, "{stderr}");
    assert!(stderr.contains(told), "{stderr}");
}

/// A program that is started with `<&-` reads from `/dev/null`, which is not what the user means.
#[rstest]
#[case::closed("<&-", 3)]
#[case::empty("</dev/null", 0)]
#[tokio::test(flavor = "multi_thread")]
async fn standard_input_that_is_closed_is_no_empty_object(
    #[case] redirection: &str,
    #[case] expected: i32,
) {
    let world = World::new().await;
    let program = process_at(&world);
    let mut shell = Command::new("/bin/sh");
    shell.args([
        "-c",
        &format!("exec \"$0\" copy - s3://destination/k {redirection}"),
    ]);
    shell
        .arg(program.get_program())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let output = tokio::task::spawn_blocking(move || shell.output().unwrap())
        .await
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(expected), "{stderr}");
    assert_eq!(world.object(DESTINATION, "k").is_some(), expected == 0);
    assert_eq!(
        stderr.contains("standard input is closed"),
        expected != 0,
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_without_a_journal_is_a_short_list() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let program = || journaled(&world, directory.path());
    for name in ["one", "two"] {
        let job = format!(
            "version: 1\nname: {name}\ntransfers:\n  - {{from: {{s3: s3://source/}}, to: {{s3: s3://destination/{name}/}}}}\n"
        );
        std::fs::write(directory.path().join("job.yaml"), job).unwrap();
        let (exit, _, stderr) = run(program(), &["run", "job.yaml"]).await;
        assert_eq!(exit, 0, "{stderr}");
        let (exit, stdout, stderr) = run(program(), &["status"]).await;
        assert_eq!(exit, 0, "{stderr}");
        if name == "one" {
            assert!(
                stdout.starts_with("one (.s3haul/one): ended\n"),
                "one is shown as a whole: {stdout}"
            );
        } else {
            let lines: Vec<_> = stdout.lines().collect();
            let [one, two, more] = lines.as_slice() else {
                panic!("{stdout}")
            };
            assert!(
                one.starts_with(".s3haul/one: ended, 0 objects done (0B), 0 failed, 0 pending"),
                "{one}"
            );
            assert!(two.starts_with(".s3haul/two: ended"), "{two}");
            assert!(
                two.contains(", s3://source/ at http")
                    && two.contains(" -> s3://destination/two/ at http"),
                "{two}"
            );
            assert!(more.contains("s3haul status JOURNAL"), "{more}");
        }
    }
}
