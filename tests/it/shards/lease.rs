//! One process plans and the others wait. A process that dies while it plans is replaced.

use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use s3haul::journal::fingerprint::Fingerprint;
use s3haul::journal::{LeaseTerms, Writer};
use s3haul::s3::WriteCondition;
use s3haul::sandbox::{BucketOptions, Effect, Fault, Model, Operation};
use s3haul::shards::make::MakeError;
use s3haul::shards::names::{LEASE, PLAN};
use s3haul::shards::obtain::{ObtainError, ObtainedPlan, PlanTerms, obtain};
use s3haul::shards::record::{FORMAT, PlanLease, PlannedShard, ShardPlan, ShardWeight};
use s3haul::shards::store::{StateError, StateStore, StateWrite};

use super::{Shards, ended, flags};
use crate::signals::send;
use crate::world::{SOURCE, World};

const TERMS: PlanTerms = PlanTerms {
    free_after: Duration::from_millis(600),
    renewal: Duration::from_millis(50),
    look: Duration::from_millis(10),
    patience: Duration::from_secs(30),
};

async fn store(world: &World) -> StateStore {
    let store = world.sandbox.store();
    store.create_bucket("ops", BucketOptions::default());
    let bucket = world.bucket("ops").await.outliving_the_run();
    StateStore::new(bucket, "run/".parse().unwrap())
}

fn writer(job: &str) -> Writer {
    Writer::this_process(&LeaseTerms::of_job(job))
}

fn plan(by: &Writer) -> ShardPlan {
    ShardPlan {
        format: FORMAT,
        tool: "test".to_owned(),
        job: "lake".to_owned(),
        planned: Timestamp::UNIX_EPOCH,
        by: by.clone(),
        counted_from: None,
        settings: Fingerprint::default(),
        transfers: vec!["all".to_owned()],
        exact: true,
        lists: 1,
        weight: ShardWeight::default(),
        shards: vec![PlannedShard::default()],
    }
}

/// Obtains the plan as a process that takes this long to make it.
async fn process(
    store: &StateStore,
    own: &Writer,
    takes: Duration,
    made: &AtomicU32,
) -> Result<ObtainedPlan, ObtainError<MakeError>> {
    let plan_once = || async {
        made.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(takes).await;
        Ok(plan(own))
    };
    obtain(store, own, TERMS, plan_once, |_| {}, pending()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_too_long_is_not_reported_as_a_damaged_object() {
    let store = store(&World::new().await).await;
    let error = store.get::<PlanLease>(&"n".repeat(1021)).await.unwrap_err();
    assert!(matches!(error, StateError::KeyTooLong { .. }), "{error}");
    assert!(!error.to_string().contains("cannot be read"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_plans_and_all_have_its_plan() {
    let world = World::new().await;
    let (store, made) = (store(&world).await, Arc::new(AtomicU32::new(0)));
    let mut processes = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (store, made) = (store.clone(), Arc::clone(&made));
        // Longer than the lease lasts without a renewal.
        let takes = Duration::from_millis(1500);
        processes.spawn(async move {
            let own = writer(&format!("uid/{number}"));
            process(&store, &own, takes, &made).await.unwrap()
        });
    }
    let obtained = processes.join_all().await;
    assert_eq!(made.load(Ordering::Relaxed), 1, "several have planned");
    assert_eq!(
        obtained.iter().filter(|obtained| obtained.is_new).count(),
        1
    );
    assert!(obtained.iter().all(|other| other.plan == obtained[0].plan));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_it_plans_is_replaced() {
    let world = World::new().await;
    let (store, made) = (store(&world).await, AtomicU32::new(0));
    let dead = writer("uid/0");
    let forever = process(&store, &dead, Duration::from_mins(10), &made);
    let killed = tokio::time::timeout(Duration::from_millis(300), forever).await;
    assert!(killed.is_err(), "it was killed while it planned");
    let own = writer("uid/1");
    let obtained = process(&store, &own, Duration::ZERO, &made).await.unwrap();
    assert!(obtained.is_new && obtained.plan.by.id == own.id);
    // A process that was slow, not dead, finds the existing plan.
    let written = store
        .put(PLAN, &plan(&dead), WriteCondition::Absent)
        .await
        .unwrap();
    assert_eq!(written, StateWrite::Refused);
    assert_eq!(
        store
            .get::<ShardPlan>(PLAN)
            .await
            .unwrap()
            .unwrap()
            .record
            .by
            .id,
        own.id
    );
}

/// The process that Kubernetes starts instead of the dead one need not wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_takes_the_lease_of_its_predecessor_at_once() {
    let world = World::new().await;
    let (store, made) = (store(&world).await, AtomicU32::new(0));
    let terms = PlanTerms {
        free_after: Duration::from_hours(1),
        ..TERMS
    };
    let of = |by: &Writer, released| PlanLease {
        format: FORMAT,
        by: by.clone(),
        renewed: Timestamp::UNIX_EPOCH,
        released,
    };
    for (number, (before, after, released)) in [("uid/0", "uid/0", false), ("uid/0", "uid/1", true)]
        .into_iter()
        .enumerate()
    {
        let lease = of(&writer(before), released);
        store
            .put(LEASE, &lease, WriteCondition::None)
            .await
            .unwrap();
        let own = writer(after);
        let plan_once = || async {
            made.fetch_add(1, Ordering::Relaxed);
            Ok::<_, MakeError>(plan(&own))
        };
        let obtained = obtain(&store, &own, terms, plan_once, |_| {}, pending())
            .await
            .unwrap();
        assert!(obtained.is_new, "{number}");
        store.delete(PLAN).await.unwrap();
    }
    // A live process is waited for, but not beyond the patience.
    store
        .put(LEASE, &of(&writer("uid/0"), false), WriteCondition::None)
        .await
        .unwrap();
    let impatient = PlanTerms {
        patience: Duration::from_millis(50),
        ..terms
    };
    let own = writer("uid/1");
    let plan_once = || async { Ok::<_, MakeError>(plan(&own)) };
    let told = Mutex::new(Vec::new());
    let tell = |text: &str| told.lock().unwrap().push(text.to_owned());
    let error = obtain(&store, &own, impatient, plan_once, tell, pending())
        .await
        .unwrap_err();
    assert!(matches!(error, ObtainError::NoPlan { .. }), "{error}");
    assert!(
        error.to_string().contains("plan.lease is held by process"),
        "{error}"
    );
    let told = told.into_inner().unwrap();
    assert!(
        told.len() == 1 && told[0].contains("(Job uid/0)"),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_plan_gives_the_lease_up() {
    let world = World::new().await;
    let store = store(&world).await;
    let own = writer("uid/0");
    let plan_once = || async {
        Err(MakeError::NothingSelected {
            transfer: "all".to_owned(),
            place: "s3://source/".to_owned(),
        })
    };
    let error = obtain(&store, &own, TERMS, plan_once, |_| {}, pending())
        .await
        .unwrap_err();
    assert!(matches!(error, ObtainError::Plan(_)), "{error}");
    let lease = store.get::<PlanLease>(LEASE).await.unwrap().unwrap().record;
    assert!(lease.released && lease.by.id == own.id);
}

/// A renewal in flight when the process is stopped does not keep the lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_while_it_plans_releases_the_lease() {
    let world = World::new().await;
    let (store, made) = (store(&world).await, AtomicU32::new(0));
    let own = writer("uid/0");
    let plan_once = || async {
        made.fetch_add(1, Ordering::Relaxed);
        pending::<Result<ShardPlan, MakeError>>().await
    };
    let terms = PlanTerms {
        renewal: Duration::from_millis(1),
        ..TERMS
    };
    let renewed_often = async {
        while world.calls(Operation::PutObject) < 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let error = obtain(&store, &own, terms, plan_once, |_| {}, renewed_often)
        .await
        .unwrap_err();
    assert!(matches!(error, ObtainError::Stopped), "{error}");
    let lease = store.get::<PlanLease>(LEASE).await.unwrap().unwrap().record;
    assert!(lease.released && lease.by.id == own.id);
    assert_eq!(made.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_while_it_waits_leaves_the_lease_alone() {
    let world = World::new().await;
    let store = store(&world).await;
    let (holder, waiting) = (writer("uid/0"), writer("uid/1"));
    let held = PlanLease {
        format: FORMAT,
        by: holder,
        renewed: Timestamp::UNIX_EPOCH,
        released: false,
    };
    store.put(LEASE, &held, WriteCondition::None).await.unwrap();
    let terms = PlanTerms {
        free_after: Duration::from_hours(1),
        ..TERMS
    };
    let told = tokio::sync::Notify::new();
    let plan_once = || async { Ok::<_, MakeError>(plan(&waiting)) };
    let tell = |_: &str| told.notify_one();
    let error = obtain(&store, &waiting, terms, plan_once, tell, told.notified())
        .await
        .unwrap_err();
    assert!(matches!(error, ObtainError::Stopped), "{error}");
    let lease = store.get::<PlanLease>(LEASE).await.unwrap().unwrap();
    assert_eq!(lease.record, held);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_sigterm_while_planning_the_next_process_plans_at_once() {
    let shards = Shards::new(Model::default()).await;
    shards.put_many(20);
    let lists = Fault::on(Operation::ListObjectsV2).bucket(SOURCE);
    let faults = shards.world.sandbox.faults();
    faults.add(lists.then(Effect::Delay(Duration::from_mins(10))));
    let planner = shards.start(&flags("0", "2"), Some("one"));
    shards.requests(Operation::ListObjectsV2, 1).await;
    send("TERM", &planner);
    let planner = ended(planner).await;
    assert_eq!(planner.exit, 4, "{}", planner.stderr);
    assert!(
        planner.stderr.contains("interrupted; nothing was copied"),
        "{}",
        planner.stderr
    );
    let lease = shards.state(LEASE).unwrap();
    assert_eq!(lease["released"], true, "{lease}");
    faults.clear();
    // The process belongs to another Job, so only the lease tells it that it need not wait.
    let next = ended(shards.start(&flags("1", "2"), Some("other"))).await;
    assert_eq!(next.exit, 0, "{}", next.stderr);
    assert!(
        next.stderr.contains("planned 2 shards") && !next.stderr.contains("waiting for it"),
        "{}",
        next.stderr
    );
}
