//! Signs of life survive a lost answer, and the end of a process that may not record its end.

use std::sync::Arc;

use s3haul::journal::state::RunState;
use s3haul::journal::{LeaseTerms, Writer};
use s3haul::s3::WriteCondition;
use s3haul::sandbox::{BucketOptions, Effect, Fault, Model, Operation};
use s3haul::shards::live::{LiveCounts, LiveIdentity, LiveWriter};
use s3haul::shards::names::PerShard;
use s3haul::shards::record::{LiveRecord, ShardActivity};
use s3haul::shards::store::StateStore;
use s3haul::size::MIB;
use serde_json::Value;

use super::{Ended, STATE, Shards, flags};
use crate::reports::deny_copy;
use crate::world::program::kill;
use crate::world::{DESTINATION, SOURCE, World};

/// Returns a writer of signs of life, and the store that it writes to.
async fn writer(world: &World) -> (StateStore, LiveWriter) {
    let store = world.sandbox.store();
    store.create_bucket("ops", BucketOptions::default());
    let bucket = world.bucket("ops").await.outliving_the_run();
    let pacer = Arc::clone(bucket.pacer());
    let store = StateStore::new(bucket, "run/".parse().unwrap());
    let identity = LiveIdentity {
        shard: 0,
        process: Writer::this_process(&LeaseTerms::default()),
        run: "run".to_owned(),
    };
    let counts = Arc::new(LiveCounts::of(&RunState::default()));
    let writer = LiveWriter::new(store.clone(), identity, counts, pacer);
    (store, writer)
}

async fn written(store: &StateStore) -> LiveRecord {
    let live = store.get(&PerShard::Live.of(0)).await.unwrap();
    live.unwrap().record
}

/// Replaces the record without its writer's knowledge.
async fn replace(store: &StateStore, record: &LiveRecord) {
    let name = PerShard::Live.of(0);
    let put = store.put(&name, record, WriteCondition::None);
    put.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_does_not_silence_a_shard() {
    let world = World::new().await;
    let (store, writer) = writer(&world).await;
    writer.write(ShardActivity::Running, None, None).await;
    // The server has a later record of the same process, whose ETag its writer does not know.
    let mut record = written(&store).await;
    record.in_flight = 7;
    replace(&store, &record).await;
    writer.write(ShardActivity::Stopping, None, None).await;
    assert_eq!(written(&store).await.state, ShardActivity::Stopping);
    writer.write(ShardActivity::Ended, Some(0), None).await;
    assert_eq!(written(&store).await.state, ShardActivity::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_of_life_of_another_process_is_not_replaced() {
    let world = World::new().await;
    let (store, writer) = writer(&world).await;
    writer.write(ShardActivity::Running, None, None).await;
    let mut record = written(&store).await;
    record.process = Writer::this_process(&LeaseTerms::default());
    replace(&store, &record).await;
    for _ in 0..2 {
        writer.write(ShardActivity::Ended, Some(0), None).await;
        assert_eq!(written(&store).await, record);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_of_life_that_somebody_deletes_is_written_again() {
    let world = World::new().await;
    let (store, writer) = writer(&world).await;
    writer.write(ShardActivity::Running, None, None).await;
    let name = PerShard::Live.of(0);
    for activity in [ShardActivity::Stopping, ShardActivity::Ended] {
        store.delete(&name).await.unwrap();
        writer.write(activity, None, None).await;
        assert_eq!(written(&store).await.state, activity);
    }
    // A process that takes the shard over still silences this one.
    let record = LiveRecord {
        process: Writer::this_process(&LeaseTerms::default()),
        ..written(&store).await
    };
    store.delete(&name).await.unwrap();
    replace(&store, &record).await;
    writer.write(ShardActivity::Ended, Some(0), None).await;
    assert_eq!(written(&store).await, record);
}

/// The bytes of an open upload count as done while the process may still resume it.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_an_upload_that_is_not_resumed_do_not_stay_counted() {
    let shards = Shards::new(Model::default()).await;
    let (large, small) = (300 * MIB, 7);
    shards.put("large", large);
    let complete = Operation::CompleteMultipartUpload;
    let hangs = Fault::on(complete).then(Effect::StallBefore(None));
    shards.world.add_fault(hangs);
    let child = shards.start(&flags("0", "1"), None);
    shards.requests(complete, 1).await;
    kill(child).await;
    shards.world.sandbox.faults().clear();
    // The upload is of no use for the new content.
    shards.put("large", small);
    shards.expect_done(0, 1).await;
    shards.world.assert_no_upload_is_left();
    let live = shards.state("live/0.json").unwrap();
    assert_eq!(live["totals"]["done_bytes"], small, "{live}");
}

/// The requests so far cover a longer time than the one since the session began.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_sign_of_life_has_no_rates() {
    let world = World::new().await;
    let (store, writer) = writer(&world).await;
    for _ in 0..20 {
        let none = store.get::<LiveRecord>(&PerShard::Live.of(0)).await;
        assert_eq!(none, Ok(None));
    }
    writer.write(ShardActivity::Running, None, None).await;
    let record = written(&store).await;
    assert!(record.requests.requests >= 20, "{record:?}");
    assert!(record.rates.requests < 20.0, "{record:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_may_not_record_its_end_is_refused_until_it_may() {
    // Not exit code 4, which the pod failure policy ignores: pods would come and go without limit.
    for (denied, state) in [("run/done/", "stopped"), ("run/summary.json", "ended")] {
        let shards = Shards::new(Model::default()).await;
        shards.put_many(20);
        let fault = Fault::on(Operation::PutObject)
            .key(denied)
            .then(Effect::Error(403, "AccessDenied"));
        shards.world.add_fault(fault);
        let Ended { exit, stderr, .. } = shards.shard(0, 1).await;
        assert_eq!(exit, 3, "{denied}: {stderr}");
        assert!(
            stderr.contains("the end of the shard could not be recorded"),
            "{denied}: {stderr}"
        );
        let live = shards.state("live/0.json").unwrap();
        assert_eq!(live["state"], state, "{denied}: {live}");
        let again = shards.shard(0, 1).await;
        assert_eq!(again.exit, 3, "{denied}: {}", again.stderr);
        shards.world.sandbox.faults().clear();
        shards.expect_done(0, 1).await;
        assert_eq!(shards.world.calls(Operation::CopyObject), 20);
        assert_eq!(shards.state("summary.json").unwrap()["done"], 1);
        assert_eq!(shards.keys(DESTINATION), shards.keys(SOURCE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_refused_later_keeps_its_totals() {
    let shards = Shards::new(Model::default()).await;
    shards.put_many(20);
    shards.put("secret", 1);
    deny_copy(&shards.world, "secret");
    assert_eq!(shards.shard(0, 1).await.exit, 1);
    let end = shards.state("failed/0.json").unwrap();
    assert!(end["resumable"].is_null(), "a retry copies the rest: {end}");
    let store = shards.world.sandbox.store();
    store.deny("ops", Operation::PutObject, "run/shards/0/report/");
    let refused = shards.shard(0, 1).await;
    assert_eq!(refused.exit, 3, "{}", refused.stderr);
    let end = shards.state("failed/0.json").unwrap();
    assert_eq!(
        (&end["exit"], &end["resumable"]),
        (&3.into(), &true.into()),
        "{end}"
    );
    assert_eq!(end["totals"]["done_objects"], 20, "{end}");
    let status = shards.run(&["status", STATE]).await;
    assert!(
        status.stdout.contains("20 copied")
            && status.stdout.contains("to continue: fix the cause")
            && !status.stdout.contains("s3haul retry"),
        "{}",
        status.stdout
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_gave_up_counts_what_failed() {
    let shards = Shards::new(Model::default()).await;
    shards.put_many(1000);
    let store = shards.world.sandbox.store();
    store.deny(DESTINATION, Operation::CopyObject, "");
    let Ended { exit, stderr, .. } = shards.shard(0, 1).await;
    assert_eq!(exit, 1, "{stderr}");
    assert!(stderr.contains("failed alike"), "{stderr}");
    let status = shards.run(&["status", STATE, "--json"]).await;
    let shown: Value = serde_json::from_str(&status.stdout).unwrap();
    let failed = shown["failed"][0]["failed_objects"].as_u64().unwrap();
    assert!(failed >= 300, "{shown}");
    assert_eq!(shown["totals"]["failed_objects"], failed);
    let next = shown["next"].as_str().unwrap();
    assert!(next.contains("start the job again"), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_done_already_says_so_as_an_event() {
    let shards = Shards::new(Model::default()).await;
    shards.put("a", 1);
    shards.expect_done(0, 1).await;
    let mut words = flags("0", "1");
    words.extend(["--log-format", "json"]);
    let done = shards.run(&words).await;
    assert_eq!((done.exit, done.stdout.as_str()), (0, ""));
    let events = done.stderr.lines();
    let mut events = events.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let event = events.find(|event| event["event"] == "shard_done").unwrap();
    assert_eq!(
        (&event["shard"], &event["done_objects"]),
        (&0.into(), &1.into())
    );
}
