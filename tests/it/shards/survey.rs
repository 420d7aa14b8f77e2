//! The plan is balanced, whatever the keys look like, and stays within its budget of lists.

use s3haul::journal::{LeaseTerms, Writer};
use s3haul::manifest::job::Selection;
use s3haul::sandbox::Operation;
use s3haul::shards::make::{connect, make};
use s3haul::shards::record::ShardPlan;
use s3haul::shards::survey::Extent;
use s3haul::size::GIB;
use tokio_util::sync::CancellationToken;

use crate::world::{SOURCE, World, copy_all};

async fn planned(world: &World, extent: Extent, select: Selection) -> ShardPlan {
    let mut transfer = copy_all();
    transfer.select = select;
    let job = world.job(transfer);
    let mut connections = world.connections(&job, &CancellationToken::new(), &job.limits);
    let buckets = connect(&job, &mut connections).await.unwrap();
    let by = Writer::this_process(&LeaseTerms::default());
    world.sandbox.calls().clear();
    let plan = make(&job, &buckets, extent, &by).await.unwrap();
    // A list with an overdue answer is sent once more.
    assert!(world.calls(Operation::ListObjectsV2) >= plan.lists);
    assert_eq!(plan.shards.len(), extent.shards as usize);
    plan
}

/// Returns how many of the source's keys each shard has.
fn counts(world: &World, plan: &ShardPlan) -> Vec<u64> {
    let mut counts = vec![0; plan.shards.len()];
    for key in world.keys(SOURCE) {
        let mut holders = 0;
        for (shard, planned) in plan.shards.iter().enumerate() {
            let has = planned.ranges.iter().any(|range| {
                range
                    .after
                    .as_ref()
                    .is_none_or(|after| *key > *after.as_str())
                    && range
                        .until
                        .as_ref()
                        .is_none_or(|until| *key <= *until.as_str())
            });
            holders += u32::from(has);
            counts[shard] += u64::from(has);
        }
        assert_eq!(holders, 1, "{key}");
    }
    counts
}

const QUICK: Extent = Extent {
    shards: 16,
    exact: false,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_with_few_pages_is_known_exactly() {
    let world = World::new().await;
    for number in 0..8000_u32 {
        world.put(&format!("k/{:08x}", number.wrapping_mul(2_654_435_761)), 1);
    }
    let plan = planned(&world, QUICK, Selection::default()).await;
    assert!(
        plan.exact && plan.weight.objects == 8000,
        "{:?}",
        plan.weight
    );
    assert!(plan.lists <= 30, "{} lists", plan.lists);
    let counts = counts(&world, &plan);
    assert!(
        // The last shard has the rest.
        counts.iter().all(|count| (300..=550).contains(count)),
        "{counts:?}"
    );
}

/// Keys with long common prefixes, most of them in one of many directories.
#[tokio::test(flavor = "multi_thread")]
async fn estimates_are_good_enough_for_balance() {
    let world = World::new().await;
    for number in 0..100_000_u32 {
        let day = (number % 400) / 2;
        let hash = number.wrapping_mul(2_654_435_761);
        let key = if number % 2 == 0 {
            format!("lake/events/year=2026/part-{hash:08x}.parquet")
        } else {
            format!("lake/logs/{day:03}/{hash:08x}.gz")
        };
        world.put(&key, 1);
    }
    let few = Extent {
        shards: 4,
        exact: false,
    };
    let plan = planned(&world, few, Selection::default()).await;
    assert!(!plan.exact && plan.lists <= 64, "{} lists", plan.lists);
    let counts = counts(&world, &plan);
    assert!(counts.iter().all(|count| *count < 60_000), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exact_plan_balances_objects_and_bytes() {
    let world = World::new().await;
    for number in 0..5000 {
        world.put(&format!("small/{number:05}"), 10);
    }
    world.put("huge", 900 * GIB);
    let exact = Extent {
        shards: 8,
        exact: true,
    };
    let plan = planned(&world, exact, Selection::default()).await;
    assert!(plan.exact);
    assert_eq!(plan.weight.bytes, 900 * GIB + 50_000);
    assert_eq!(
        plan.shards[0].weight.objects, 1,
        "the object of 900 GiB comes first"
    );
    let counts = counts(&world, &plan);
    assert_eq!(counts[0], 1);
    assert!(
        counts[1..].iter().all(|count| (600..=850).contains(count)),
        "{counts:?}"
    );
    // An excluded object has no weight.
    let select = Selection {
        exclude: vec!["huge".parse().unwrap()],
        ..Selection::default()
    };
    let plan = planned(&world, exact, select).await;
    assert_eq!(plan.weight.objects, 5000);
    let heaviest = plan.shards.iter().map(|shard| shard.weight.objects).max();
    assert!(heaviest <= Some(700), "{heaviest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_source_has_one_shard_for_what_may_come() {
    let world = World::new().await;
    let plan = planned(&world, QUICK, Selection::default()).await;
    assert_eq!((plan.lists, plan.weight.objects), (1, 0));
    let with_keys = plan.shards.iter().filter(|shard| !shard.ranges.is_empty());
    assert_eq!(with_keys.count(), 1);
    world.put("late", 1);
    assert_eq!(counts(&world, &plan).iter().sum::<u64>(), 1);
}
