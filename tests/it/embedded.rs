//! `--sandbox`: the job runs on an S3 in its own process, and connects to nothing else, whatever
//! the job and the environment name.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rstest::rstest;

use crate::world::World;
use crate::world::program::{command, run};

/// Opens a port that counts its connections.
fn trap() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (url, connections)
}

/// A job whose endpoints name another server: by URL, by profile, by role, and by the environment.
const NAMED: &str = "\
version: 1
endpoints:
  prod: {url: \"URL\", region: eu-west-1, provider: minio}
  dr: {profile: dr}
  vault: {region: eu-central-1, assume_role: {arn: \"arn:aws:iam::111122223333:role/x\"}}
transfers:
  - {name: up, from: {files: ./files}, to: {s3: s3://source/, endpoint: prod}}
  - {name: over, from: {s3: s3://source/, endpoint: prod}, to: {s3: s3://destination/, endpoint: prod}}
  - {name: kept, from: {s3: s3://kept/a/, endpoint: dr}, to: {s3: s3://kept/b/, endpoint: dr}}
  - {name: locked, from: {s3: s3://locked/a/, endpoint: vault}, to: {s3: s3://locked/b/, endpoint: vault, expected_owner: \"111122223333\"}}
  - {name: plain, from: {files: ./files}, to: {s3: s3://plain/}}
";

#[rstest]
#[case::run(&["run"])]
#[case::dry_run(&["run", "--dry-run"])]
#[case::plan(&["plan"])]
#[case::check(&["check"])]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_reached(#[case] words: &[&str]) {
    let world = World::new().await;
    let (url, connections) = trap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("files")).unwrap();
    fs::write(path("files/a"), "bytes").unwrap();
    let journal = "journal: s3://destination/journal/\n";
    fs::write(
        path("job.yaml"),
        format!("{}{journal}", NAMED.replace("URL", world.sandbox.url())),
    )
    .unwrap();
    let asked = path("asked");
    let config = format!(
        "[default]\ncredential_process = touch {asked}\n[profile dr]\nendpoint_url = {0}\ncredential_process = touch {asked}\n",
        world.sandbox.url()
    );
    fs::write(path("config"), config).unwrap();
    let mut command = command();
    command
        .current_dir(dir.path())
        .env_remove("S3HAUL_JOURNAL")
        .env("AWS_CONFIG_FILE", path("config"))
        .env("AWS_ENDPOINT_URL_S3", world.sandbox.url())
        .env("AWS_ENDPOINT_URL_STS", &url)
        .env(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("{url}/credentials"),
        )
        .env("AWS_EC2_METADATA_DISABLED", "false")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env(name, &url).env(name.to_lowercase(), &url);
    }
    for name in ["NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    let (exit, stdout, stderr) = run(command, &[words, &["job.yaml", "--sandbox"]].concat()).await;
    assert_eq!(exit, 0, "{stdout}{stderr}");
    assert_eq!(
        world.sandbox.calls().total(),
        0,
        "requests to the server that the job names: {stdout}{stderr}"
    );
    assert_eq!(
        connections.load(Ordering::Relaxed),
        0,
        "connections: {stdout}{stderr}"
    );
    assert!(
        !fs::exists(asked).unwrap(),
        "a provider of credentials was asked"
    );
    assert!(!fs::exists(path(".s3haul")).unwrap(), "a journal was kept");
    if words == ["run"] {
        assert!(stdout.contains("3 objects copied"), "{stdout}");
    }
}

#[rstest]
#[case::access_point(
    "transfers: [{from: {s3: \"s3://arn:aws:s3:eu-west-1:111122223333:accesspoint/ap/x/\"}, to: {s3: s3://copies/}}]",
    &[],
    "no access points"
)]
#[case::a_journal(
    "transfers: [{from: {files: .}, to: {s3: s3://copies/}}]",
    &["--journal", "s3://copies/journal/"],
    "no journal is kept"
)]
#[case::adoption("transfers: [{from: {files: .}, to: {s3: s3://copies/}}]", &["--adopt"], "no journal is kept")]
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_into_the_sandbox_is_refused(
    #[case] transfers: &str,
    #[case] flags: &[&str],
    #[case] said: &str,
) {
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job.yaml");
    fs::write(&job, format!("version: 1\n{transfers}\n")).unwrap();
    let arguments = [&["run", job.to_str().unwrap(), "--sandbox"], flags].concat();
    let (exit, stdout, stderr) = run(command(), &arguments).await;
    assert_eq!((exit, stdout.as_str()), (2, ""), "{stderr}");
    assert!(stderr.contains(said), "{stderr}");
}
