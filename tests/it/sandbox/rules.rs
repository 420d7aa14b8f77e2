//! Rules that can be changed while a sandbox runs, through its control port.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use rstest::rstest;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation, Sandbox, SandboxOptions};
use serde_json::{Value, json};

use super::serving::Serving;
use super::{is, refused, start_with, unsigned};

/// Sends a request to a control port. Returns the status and the document.
fn ask(control: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(control.trim_start_matches("http://")).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap(),
    )
}

/// Starts a sandbox with the object `src/k` and a control port.
async fn controlled() -> (Sandbox, Client, String) {
    let control = Some("127.0.0.1:0".parse().unwrap());
    let (sandbox, client) = start_with(SandboxOptions {
        control,
        ..SandboxOptions::default()
    })
    .await;
    sandbox.store().put_object(
        "src",
        "k",
        Content::bytes("123456789"),
        &ObjectSpec::default(),
    );
    let control = sandbox.control_url().unwrap().to_owned();
    (sandbox, client, control)
}

/// Adds a rule from another thread, as another process would.
async fn arm(control: &str, rule: Value) -> Value {
    let control = control.to_owned();
    let asking = move || ask(&control, "POST", "/_sandbox/rules", &rule.to_string());
    let (status, said) = tokio::task::spawn_blocking(asking).await.unwrap();
    assert_eq!(status, 201, "{said}");
    said["ids"][0].clone()
}

async fn shown(control: &str, path: String) -> (u16, Value) {
    let control = control.to_owned();
    tokio::task::spawn_blocking(move || ask(&control, "GET", &path, ""))
        .await
        .unwrap()
}

#[tokio::test]
async fn rules_are_armed_counted_and_cleared() {
    let (sandbox, client, control) = controlled().await;
    let get = || client.get_object().bucket("src").key("k").send();
    get().await.unwrap();
    let rule = json!({
        "operation": "GetObject", "bucket": "src", "prefix": "k", "every": 2, "count": 2,
        "effect": { "answer": { "status": 403, "code": "AccessDenied" } },
    });
    let id = arm(&control, rule.clone()).await;
    for number in 1..=6 {
        let answered = get().await;
        if number == 2 || number == 4 {
            assert_eq!(refused(answered), is(403, "AccessDenied"), "{number}");
        } else {
            answered.unwrap_or_else(|error| panic!("{number}: {error:?}"));
        }
    }
    client
        .head_object()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap();
    let (status, rules) = shown(&control, "/_sandbox/rules".to_owned()).await;
    let mut expected = rule;
    expected["operation"] = json!(["GetObject"]);
    for (name, value) in [
        ("id", id.clone()),
        ("matched", json!(6)),
        ("struck", json!(2)),
    ] {
        expected[name] = value;
    }
    assert_eq!((status, &rules), (200, &json!({ "rules": [expected] })));
    let (status, one) = shown(&control, format!("/_sandbox/rules/{id}")).await;
    assert_eq!((status, &one), (200, &rules["rules"][0]));

    arm(&control, json!({ "effect": "throttle" })).await;
    assert_eq!(refused(get().await), is(503, "SlowDown"));
    // Faults that the test adds directly are rules too.
    sandbox
        .faults()
        .add(Fault::on(Operation::HeadObject).then(Effect::Error(500, "InternalError")));
    let at = control.clone();
    let cleared = move || ask(&at, "DELETE", "/_sandbox/rules", "");
    let (status, said) = tokio::task::spawn_blocking(cleared).await.unwrap();
    assert_eq!((status, said), (200, json!({ "cleared": 3 })));
    get().await.unwrap();
    client
        .head_object()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap();
}

#[rstest]
#[case::mistake(
    "POST",
    "/_sandbox/rules",
    r#"[{"effect": "throttle"}, {"effect": {"delay": 7}}]"#,
    400,
    "rules[1].effect.delay: 7"
)]
#[case::no_json("POST", "/_sandbox/rules", "{", 400, "this is not JSON")]
#[case::elsewhere("GET", "/", "", 404, "rules are at /_sandbox/rules")]
#[case::no_number("GET", "/_sandbox/rules/first", "", 404, "names no rule")]
#[case::no_such_rule("DELETE", "/_sandbox/rules/9", "", 404, "there is no rule 9")]
#[case::method("PUT", "/_sandbox/rules", "", 405, "PUT does nothing here")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_rule_is_refused(
    #[case] method: &'static str,
    #[case] path: &'static str,
    #[case] body: &'static str,
    #[case] status: u16,
    #[case] told: &str,
) {
    let (sandbox, client, control) = controlled().await;
    let asking = move || ask(&control, method, path, body);
    let answered = tokio::task::spawn_blocking(asking).await.unwrap();
    assert_eq!(answered.0, status);
    assert!(
        answered.1["error"].as_str().unwrap().contains(told),
        "{}",
        answered.1
    );
    assert!(
        sandbox.faults().armed().is_empty(),
        "if one rule is wrong, none is added"
    );
    client
        .get_object()
        .bucket("src")
        .key("k")
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn the_port_of_s3_has_no_rules() {
    let (sandbox, _client, _control) = controlled().await;
    sandbox.faults().add(Fault::on(Operation::GetObject));
    let url = sandbox.url().to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
        stream
            .write_all(b"DELETE /_sandbox/rules HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    let said = asked.await.unwrap();
    assert!(said.contains("<Code>"), "it is a key of a bucket: {said}");
    assert_eq!(sandbox.faults().armed().len(), 1);
}

/// The client sees the two kinds of closed connections: an end of the stream, and ECONNRESET.
#[rstest]
#[case::close_before(json!({ "close": "before" }), false, false)]
#[case::close_after(json!({ "close": "after" }), false, true)]
#[case::reset_before(json!({ "reset": "before" }), true, false)]
#[case::reset_after(json!({ "reset": "after" }), true, true)]
#[tokio::test]
async fn connections_end_before_and_after_the_effect(
    #[case] effect: Value,
    #[case] is_reset: bool,
    #[case] is_done: bool,
) {
    let (sandbox, client, control) = controlled().await;
    let rule = json!({ "operation": "CopyObject", "effect": effect });
    arm(&control, rule).await;
    let error = client
        .copy_object()
        .bucket("dst")
        .key("k")
        .copy_source("src/k")
        .send()
        .await
        .unwrap_err();
    assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");
    let told = format!("{error:?}");
    assert_eq!(told.contains("ConnectionReset"), is_reset, "{told}");
    assert_eq!(sandbox.store().object("dst", "k").is_some(), is_done);
}

#[rstest]
#[case::before("freeze", false)]
#[case::after(json!({ "freeze": "after" }), true)]
#[tokio::test]
async fn a_frozen_call_is_never_answered(#[case] effect: impl Into<Value>, #[case] is_done: bool) {
    let (sandbox, client, control) = controlled().await;
    let rule = json!({ "operation": "PutObject", "prefix": "frozen/", "effect": effect.into() });
    let id = arm(&control, rule).await.as_u64().unwrap();
    let put = |key: &str| {
        client
            .put_object()
            .bucket("dst")
            .key(key)
            .body(ByteStream::from_static(b"x"))
            .send()
    };
    put("k").await.unwrap();
    let frozen = tokio::spawn(put("frozen/k"));
    while sandbox.faults().counts(id).unwrap().struck == 0
        || sandbox.store().object("dst", "frozen/k").is_some() != is_done
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    put("other").await.unwrap();
    assert!(!frozen.is_finished());
    sandbox.stop().await;
    frozen.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_delay_goes_before_another_effect() {
    let (_sandbox, client, control) = controlled().await;
    arm(&control, json!({ "effect": { "delay": "300ms" } })).await;
    arm(
        &control,
        json!({ "effect": { "answer": { "status": 500, "code": "InternalError" } } }),
    )
    .await;
    let began = Instant::now();
    let got = client.get_object().bucket("src").key("k").send().await;
    assert_eq!(refused(got), is(500, "InternalError"));
    assert!(began.elapsed() >= Duration::from_millis(300));
}

/// Returns a client with these credentials.
fn client_of(sandbox: &Sandbox, access_key: &str, token: Option<&str>) -> Client {
    let token = token.map(str::to_owned);
    let credentials = Credentials::new(access_key, "sandbox-secret", token, None, "test");
    Client::from_conf(
        unsigned(sandbox.url())
            .credentials_provider(credentials)
            .build(),
    )
}

#[tokio::test]
async fn sessions_expire_and_are_revoked_by_token_and_by_key() {
    let (sandbox, _client, control) = controlled().await;
    sandbox.accept_key("other", "sandbox-secret");
    let get = async |key: &str, token| {
        client_of(&sandbox, key, token)
            .get_object()
            .bucket("src")
            .key("k")
            .send()
            .await
    };
    for (key, token) in [
        ("sandbox", Some("t1")),
        ("sandbox", Some("t2")),
        ("other", None),
    ] {
        get(key, token).await.unwrap();
    }
    arm(&control, json!({ "token": "t1", "effect": "expire" })).await;
    arm(
        &control,
        json!({ "access_key": "other", "effect": "revoke" }),
    )
    .await;
    assert_eq!(
        refused(get("sandbox", Some("t1")).await),
        is(400, "ExpiredToken")
    );
    get("sandbox", Some("t2")).await.unwrap();
    assert_eq!(refused(get("other", None).await), is(400, "InvalidToken"));
    sandbox.faults().clear();
    sandbox.forget_key("other");
    assert_eq!(
        refused(get("other", None).await),
        is(403, "InvalidAccessKeyId")
    );
}

/// The SDK corrects its clock by the answer, so it signs its second request an hour late.
#[tokio::test]
async fn a_clock_that_is_wrong_refuses_signatures_and_shows_its_time() {
    let (sandbox, client, control) = controlled().await;
    arm(&control, json!({ "effect": { "skew": "-1h" } })).await;
    let get =
        async |client: &Client, key: &str| client.get_object().bucket("src").key(key).send().await;
    assert_eq!(
        refused(get(&client, "k").await),
        is(403, "RequestTimeTooSkewed")
    );
    get(&client, "k").await.unwrap();
    let error = get(&client, "missing").await.unwrap_err();
    let date = error.raw_response().unwrap().headers().get("date").unwrap();
    let shown = jiff::fmt::rfc2822::parse(date).unwrap().timestamp();
    let behind = jiff::Timestamp::now().duration_since(shown);
    assert!((59..=61).contains(&behind.as_mins()), "{behind:?}");
    sandbox.faults().clear();
    arm(&control, json!({ "effect": { "skew": "10m" } })).await;
    // S3 tolerates ten minutes.
    get(&client_of(&sandbox, "sandbox", None), "k")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_of_its_own_is_controlled_from_outside() {
    let serving = Serving::start(&[
        "--control",
        "127.0.0.1:0",
        "--object",
        "s3://data/s/=3x1KiB",
        "--bucket",
        "copies",
    ]);
    let control = serving.variables["S3HAUL_SANDBOX_CONTROL"].clone();
    assert_ne!(control, serving.variables["AWS_ENDPOINT_URL_S3"]);
    let refuse = json!({ "operation": "CopyObject", "effect": { "answer": { "status": 403, "code": "AccessDenied" } } });
    arm(&control, refuse).await;
    assert_eq!(serving.copy(&[]).await.0, 1);
    let (_, rules) = shown(&control, "/_sandbox/rules".to_owned()).await;
    assert!(rules["rules"][0]["struck"].as_u64() >= Some(3), "{rules}");
    let at = control.clone();
    tokio::task::spawn_blocking(move || ask(&at, "DELETE", "/_sandbox/rules", ""))
        .await
        .unwrap();
    assert_eq!(serving.copy(&[]).await.0, 0);
}
