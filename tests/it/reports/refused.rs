//! Refused requests for journals and reports.

use s3haul::sandbox::Operation;

use super::s3::{OPS, manifest, world_with_reports_bucket};
use crate::world::program::run_in;

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_journal_names_the_permission_that_is_missing() {
    let world = world_with_reports_bucket().await;
    world.put_all(["a"], 100);
    let job = manifest(&world, "journal: s3://ops/journal/\n");
    let store = world.sandbox.store();
    store.deny(OPS, Operation::PutObject, "journal/");
    let (exit, _, stderr) = run_in(&world, job.path(), &["run", "job.yaml"]).await;
    assert!(
        exit == 3
            && stderr.contains("; grant s3:PutObject on s3://ops/journal/")
            && !stderr.contains("exclude"),
        "{exit} {stderr}"
    );
    // A command that only reads names the permission in the same way.
    store.allow_all();
    store.deny(OPS, Operation::ListObjectsV2, "");
    let status = ["status", "s3://ops/journal/"];
    let (exit, _, stderr) = run_in(&world, job.path(), &status).await;
    assert!(
        exit == 3 && stderr.contains("; grant s3:ListBucket on s3://ops"),
        "{exit} {stderr}"
    );
    assert_eq!(world.calls(Operation::CopyObject), 0);
}
