//! A process contacts each bucket once, and only buckets that it needs.

use std::collections::BTreeMap;

use s3haul::sandbox::{Model, Operation};

use super::{STATE, Shards};
use crate::world::{DESTINATION, SOURCE};

impl Shards {
    /// Returns the requests since the last call, by bucket: the first contacts, and all requests.
    fn requests_by_bucket(&self) -> BTreeMap<String, (usize, usize)> {
        let calls = self.world.sandbox.calls();
        let mut requests: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for call in calls.list() {
            let (contacts, all) = requests.entry(call.bucket).or_default();
            *contacts += usize::from(call.operation == Operation::HeadBucket);
            *all += 1;
        }
        calls.clear();
        requests
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_process_asks_each_bucket_once() {
    let shards = Shards::new(Model::default()).await;
    shards.put_many(40);
    // The first process plans, and the second one reads the plan.
    for shard in 0..2 {
        shards.expect_done(shard, 2).await;
        let requests = shards.requests_by_bucket();
        for bucket in ["ops", SOURCE, DESTINATION] {
            assert_eq!(
                requests[bucket].0, 1,
                "shard {shard}, {bucket}: {requests:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_work_asks_the_bucket_of_the_state_alone() {
    let shards = Shards::new(Model::default()).await;
    shards.put_many(40);
    let plan = ["plan", "job.yaml", "--shards", "2", "--out", STATE];
    shards.run(&plan).await;
    shards.expect_done(0, 2).await;
    shards.requests_by_bucket();
    let planned = shards.run(&plan).await;
    assert!(
        planned.stdout.contains("is there already"),
        "{}",
        planned.stdout
    );
    // The first contact and the plan.
    let requests = shards.requests_by_bucket();
    assert_eq!(requests, BTreeMap::from([("ops".to_owned(), (1, 2))]));
    let done = shards.shard(0, 2).await;
    assert!(done.stdout.contains("is done already"), "{}", done.stdout);
    let requests = shards.requests_by_bucket();
    assert_eq!(requests.len(), 1, "{requests:?}");
    // The first contact, the plan, the end of the shard, and a look for the summary.
    assert_eq!(requests["ops"], (1, 6), "{requests:?}");
}
