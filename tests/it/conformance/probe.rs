//! The probe, on servers with a known profile: it must find what the profile says.

use std::collections::BTreeMap;

use s3haul::bucket::Bucket;
use s3haul::manifest::job::{Provider, Transfer, When};
use s3haul::probe::{self, Needs, Probe, ProbeVerdict};
use s3haul::s3::Capabilities;
use tokio_util::sync::CancellationToken;

use super::{PART, a_second_later, bytes, on_server};

/// Providers whose servers may do more than the profile says: SeaweedFS's profile covers old
/// releases too, and that of unnamed servers covers any server.
const CAN_DO_MORE: [Provider; 2] = [Provider::Seaweedfs, Provider::Other];

async fn probed(bucket: &Bucket) -> Probe {
    let prefix = probe::scratch_prefix();
    crate::probe::measure(
        bucket,
        &prefix,
        &Needs::default(),
        &CancellationToken::new(),
    )
    .await
    .unwrap()
}

#[tokio::test]
async fn a_probe_finds_what_the_profile_says_and_leaves_nothing() {
    on_server(async |server| {
        let bucket = server.bucket(&server.destination).await;
        let found = probed(&bucket).await;
        for finding in &found.findings {
            let verdict = finding.verdict();
            let more = verdict == ProbeVerdict::CanDoMore
                && CAN_DO_MORE.contains(&server.endpoint.provider);
            // A question that does not apply here has no answer.
            assert!(
                matches!(verdict, ProbeVerdict::Agrees | ProbeVerdict::Moot) || more,
                "{finding:?}"
            );
        }
        assert_eq!(found.left, []);
        assert_eq!(server.keys(&server.destination).await, [""; 0]);
        server.assert_no_upload_is_left().await;
    })
    .await;
}

/// If the manifest states everything that the probe has found, the same guarantees hold.
#[tokio::test]
async fn what_a_probe_found_can_be_stated_and_relied_on() {
    on_server(async |server| {
        let bucket = server.bucket(&server.destination).await;
        let found = probed(&bucket).await;
        let Some(statement) = found.statement() else {
            return eprintln!("there is nothing to state");
        };
        let statement = with_given(&statement);
        let manifest = format!(
            "version: 1\nendpoints: {{default: {{url: {}, capabilities: {statement}}}}}\n\
             transfers: [{{from: {{s3: s3://source/}}, to: {{s3: s3://destination/}}}}]\n",
            server.endpoint.url.as_deref().unwrap()
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("job.yaml");
        std::fs::write(&path, manifest).unwrap();
        let stated =
            s3haul::manifest::job::Job::load(&path, &s3haul::endpoint::Environment::default())
                .unwrap()
                .endpoints["default"]
                .stated
                .capabilities
                .clone();
        let mut server = server.again();
        server.endpoint.capabilities = stated;
        let server = &server;
        assert_ne!(
            server.capabilities(),
            Capabilities::profile(server.endpoint.provider)
        );
        for (seed, size) in [(1, 0), (2, 100), (3, PART + 1)] {
            server.put(&size.to_string(), &bytes(seed, size)).await;
        }
        a_second_later().await;
        for (when, done) in [
            (When::Missing, 3),
            (When::Missing, 0),
            (When::Changed, 0),
            (When::Always, 3),
        ] {
            let is_told_by_time = when == When::Changed && !server.capabilities().content_etags;
            let done = if is_told_by_time {
                server.unrecognized().await
            } else {
                done
            };
            let run = server
                .run(Transfer {
                    when,
                    ..server.copy_all()
                })
                .await;
            assert_eq!(
                run.outcome.done_objects, done,
                "{when:?}: {:?}",
                run.receipts
            );
        }
        server.put("100", &bytes(9, 100)).await;
        server
            .put(&(PART + 1).to_string(), &bytes(9, PART + 1))
            .await;
        let changed = if server.capabilities().content_etags {
            2
        } else {
            server.unrecognized().await
        };
        let run = server.run(server.copy_all()).await;
        assert_eq!(
            run.outcome.done_objects, changed,
            "what was compared is what is replaced: {:?}",
            run.receipts
        );
        for key in server.keys(&server.source).await {
            server.assert_equal(&key, &key).await;
        }
    })
    .await;
}

/// Adds the capabilities of the environment to the statement.
fn with_given(statement: &str) -> String {
    let given = std::env::var("S3HAUL_TEST_CAPABILITIES").unwrap_or_default();
    let given: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&given).unwrap_or_default();
    let is_new = |name: &str| !statement.contains(&format!("{name}:"));
    let new = given
        .iter()
        .filter(|(name, _)| is_new(name))
        .map(|(name, value)| format!(", {name}: {value}"));
    format!(
        "{}{}}}",
        statement.trim_end_matches('}'),
        new.collect::<String>()
    )
}
