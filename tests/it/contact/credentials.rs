//! The credentials of the first requests: s3haul waits for those that come late, and names the
//! source of those that never come.

use std::time::Duration;

use rstest::rstest;
use s3haul::manifest::job::Limits;
use s3haul::pace::RetryPolicy;
use s3haul::sandbox::{Effect, Fault, Operation, When};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{COPY, Odd, nobody, start};
use crate::issuer::{Issuer, Reply};
use crate::world::program::{Ended, command, ended, process_at, run};
use crate::world::{DEFAULT, DESTINATION, SOURCE, World, copy_all};

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_come_late_are_waited_for() {
    let (world, address) = (World::with_objects(["k"], 10).await, nobody().await);
    let mut program = process_at(&world);
    program
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("http://{address}/creds"),
        )
        .args(COPY);
    let child = start(program);
    sleep(Duration::from_secs(4)).await;
    let issuer = Issuer::at(address, Reply::Fresh(Duration::from_hours(1))).await;
    let Ended { exit, stderr, .. } = ended(child).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stderr.contains(&format!(
            "waiting for container credentials at http://{address}/creds"
        )),
        "{stderr}"
    );
    assert!(issuer.asked() >= 1);
}

#[rstest]
#[case::nobody_there(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:9/c")], "http://127.0.0.1:9/c")]
#[case::no_token_yet(
    &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/no/such/token"), ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/x")],
    "/no/such/token"
)]
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_of_credentials_that_stays_away_is_named(
    #[case] env: &[(&str, &str)],
    #[case] named: &str,
) {
    let mut program = command();
    program
        .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        .envs(env.iter().copied());
    let arguments = [COPY.as_slice(), &["--patience", "3s"]].concat();
    let (exit, _, stderr) = run(program, &arguments).await;
    assert_eq!(exit, 4, "{stderr}");
    assert!(
        stderr.contains("credentials not available") && stderr.contains(named),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_of_credentials_that_hangs_is_named() {
    let (name, url) = Issuer::start(Reply::Hang).await.container();
    let mut program = command();
    program
        .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        .env(name, &url);
    let arguments = [COPY.as_slice(), &["--patience", "1s"]].concat();
    let (exit, _, stderr) = run(program, &arguments).await;
    assert_eq!(exit, 4, "{stderr}");
    assert!(
        stderr.contains(&url) && stderr.contains("no answer"),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_process_that_hangs_does_not_outlast_patience() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config");
    std::fs::write(
        &config,
        "[profile slow]\ncredential_process = /bin/sleep 30\n",
    )
    .unwrap();
    let mut program = command();
    program
        .env("AWS_CONFIG_FILE", &config)
        .env("AWS_PROFILE", "slow")
        .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9");
    let arguments = [COPY.as_slice(), &["--patience", "1s"]].concat();
    let (exit, _, stderr) = run(program, &arguments).await;
    assert_eq!(exit, 4, "{stderr}");
    assert!(
        stderr.contains("`slow`") && !stderr.contains("attempts)"),
        "one attempt: {stderr}"
    );
}

#[rstest]
#[case::none(&[], "none found in the environment")]
#[case::half(&[("AWS_ACCESS_KEY_ID", "a")], "AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not")]
#[tokio::test(flavor = "multi_thread")]
async fn without_any_credentials_a_command_ends_at_once(
    #[case] env: &[(&str, &str)],
    #[case] told: &str,
) {
    let odd = Odd::at("127.0.0.1:0".parse().unwrap(), None).await;
    let mut program = command();
    program
        .env("AWS_ENDPOINT_URL_S3", odd.url())
        .envs(env.iter().copied());
    let (exit, _, stderr) = run(program, &COPY).await;
    assert_eq!((exit, odd.requests()), (3, 0), "{stderr}");
    assert!(stderr.contains(told), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one sentence: {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_refuses_ends_a_command_at_once() {
    let issuer = Issuer::start(Reply::Status(403, "{}")).await;
    let mut program = command();
    program
        .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        .envs([issuer.container()]);
    let (exit, _, stderr) = run(program, &COPY).await;
    assert_eq!((exit, issuer.asked()), (3, 1), "{stderr}");
    assert!(stderr.contains("HTTP 403"), "{stderr}");
}

/// The message names the manifest's field as well as the variables, because a user of `run` can set
/// both.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_credentials_hears_where_a_profile_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    let transfers = "transfers: [{from: {s3: s3://source/}, to: {s3: s3://destination/}}]\n";
    std::fs::write(&job, format!("version: 1\n{transfers}")).unwrap();
    for (words, said) in [
        (
            vec!["run", job.to_str().unwrap()],
            "AWS_PROFILE, AWS_ACCESS_KEY_ID, and `endpoints.default.profile`",
        ),
        (
            COPY.to_vec(),
            "AWS_PROFILE, AWS_ACCESS_KEY_ID, and --profile",
        ),
    ] {
        let mut program = command();
        program
            .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
            .env("S3HAUL_JOURNAL", "none");
        let (exit, _, stderr) = run(program, &words).await;
        assert_eq!(exit, 3, "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
}

/// A refusal may be about the credentials, and the list that would show it hangs.
#[tokio::test(start_paused = true)]
async fn an_inquiry_does_not_outlast_patience() {
    let mut world = World::new().await;
    world.retry = RetryPolicy::default();
    let limits = Limits {
        patience: Some(Duration::from_secs(6)),
        ..Limits::default()
    };
    let job = world.job(copy_all());
    let mut connections = world.connections(&job, &CancellationToken::new(), &limits);
    let (source, destination) = (SOURCE.parse().unwrap(), DESTINATION.parse().unwrap());
    connections.bucket(DEFAULT, &source).await.unwrap();
    let on = |operation| Fault::on(operation).bucket(DESTINATION);
    let refused = |code| Effect::Error(403, code);
    world.add_fault(on(Operation::HeadBucket).then(refused("AccessDenied")));
    world.add_fault(
        on(Operation::ListObjectsV2)
            .first(1)
            .then(refused("SignatureDoesNotMatch")),
    );
    let later = on(Operation::ListObjectsV2).when(When::After(1));
    world.add_fault(later.then(Effect::StallBefore(None)));
    let began = Instant::now();
    let refused = connections.bucket(DEFAULT, &destination).await;
    assert!(refused.is_err());
    assert!(
        (4..15).contains(&began.elapsed().as_secs()),
        "{:?}",
        began.elapsed()
    );
}
