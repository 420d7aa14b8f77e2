//! `plan` counts the requests for tags that a copy may drop.

use rstest::rstest;
use s3haul::sandbox::Operation;
use serde_json::Value;

use crate::world::World;
use crate::world::program::{at, run};

#[rstest]
#[case::tried("try", "other", 100)]
#[case::required("require", "other", 105)]
#[case::amazon("require", "aws", 0)]
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_counts_the_questions_that_a_run_asks(
    #[case] policy: &str,
    #[case] provider: &str,
    #[case] questions: u64,
) {
    let world = World::new().await;
    for number in 0..105 {
        world.put(&format!("{number:03}"), 1);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("job.yaml");
    let job = format!(
        "version: 1\nendpoints: {{default: {{provider: {provider}, region: us-east-1, url: \"{}\", path_style: true}}}}\n\
         limits: {{in_flight: 1}}\ntransfers:\n  - {{from: {{s3: s3://source/}}, to: {{s3: s3://destination/}}, \
         preserve: {{tags: {policy}}}}}\n",
        world.sandbox.url()
    );
    std::fs::write(&path, job).unwrap();
    let path = path.to_str().unwrap();
    let (exit, stdout, stderr) = run(at(&world), &["plan", path, "--json"]).await;
    assert_eq!(exit, 0, "{stderr}");
    let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let planned = &last["totals"]["requests"]["GetObjectTagging"];
    assert_eq!(planned.as_u64().unwrap_or(0), questions, "{last}");
    assert_eq!(planned.is_null(), questions == 0, "{last}");
    let (exit, _, stderr) = run(at(&world), &["run", path]).await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.calls(Operation::GetObjectTagging), questions);
}
