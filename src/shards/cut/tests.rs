//! Tests that shards tile the keys of all transfers, have similar weights, and are spread.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn stretch(transfer: u32, until: Option<&str>, objects: u64) -> Stretch {
    Stretch {
        transfer,
        until: until.map(key),
        weight: ShardWeight { objects, bytes: 0 },
    }
}

/// Returns stretches of one transfer with these weights.
fn stretches(weights: &[u64]) -> Vec<Stretch> {
    let last = weights.len() - 1;
    let of = |(at, objects): (usize, &u64)| {
        let until = format!("k{at:05}");
        stretch(0, (at < last).then_some(&*until), *objects)
    };
    weights.iter().enumerate().map(of).collect()
}

fn weights(shards: &[PlannedShard]) -> Vec<u64> {
    shards.iter().map(|shard| shard.weight.objects).collect()
}

/// Returns true if a shard has a key of a transfer.
fn has(shard: &PlannedShard, transfer: u32, key: &str) -> bool {
    shard.ranges.iter().any(|range| {
        range.transfer == transfer
            && range
                .after
                .as_ref()
                .is_none_or(|after| key > after.as_str())
            && range
                .until
                .as_ref()
                .is_none_or(|until| key <= until.as_str())
    })
}

#[test]
fn equal_stretches_make_equal_shards() {
    let shards = divide(&stretches(&[1; 64]), 16);
    assert_eq!(weights(&shards), [4; 16]);
}

#[test]
fn a_heavy_object_is_a_shard_of_its_own_and_comes_first() {
    let mut all = vec![10; 40];
    all[17] = 100_000;
    let shards = divide(&stretches(&all), 8);
    assert_eq!(shards[0].weight.objects, 100_000);
    assert_eq!(
        (&shards[0].ranges[0].after, &shards[0].ranges[0].until),
        (&Some(key("k00016")), &Some(key("k00017")))
    );
    let others = weights(&shards[1..]);
    assert!(
        others.iter().all(|weight| (40..=70).contains(weight)),
        "{others:?}"
    );
}

#[test]
fn an_indivisible_run_leaves_shards_empty() {
    let shards = divide(&stretches(&[5]), 4);
    assert_eq!(weights(&shards), [5, 0, 0, 0]);
    assert_eq!(
        shards[0].ranges,
        [ShardRange {
            transfer: 0,
            after: None,
            until: None
        }]
    );
    assert!(shards[1..].iter().all(|shard| shard.ranges.is_empty()));
    assert_eq!(
        divide(&stretches(&[0, 0]), 3)[0].ranges.len(),
        1,
        "keys may still come"
    );
}

#[test]
fn small_transfers_share_a_shard() {
    let mut all = stretches(&[100; 10]);
    all.push(stretch(1, None, 1));
    all.push(stretch(2, Some("m"), 1));
    all.push(stretch(2, None, 1));
    let shards = divide(&all, 5);
    let last = shards.iter().find(|shard| shard.ranges.len() > 1).unwrap();
    let transfers: Vec<_> = last.ranges.iter().map(|range| range.transfer).collect();
    assert_eq!(transfers, [0, 1, 2]);
    assert_eq!(
        last.ranges[2],
        ShardRange {
            transfer: 2,
            after: None,
            until: None
        }
    );
}

#[test]
fn neighbours_have_indices_far_apart() {
    let shards = divide(&stretches(&[1; 16]), 16);
    let begins: Vec<_> = shards
        .iter()
        .map(|shard| shard.ranges[0].until.clone())
        .collect();
    let place = |at: usize| {
        let until = (at < 15).then(|| key(&format!("k{at:05}")));
        begins.iter().position(|begin| *begin == until).unwrap()
    };
    assert_eq!((place(0), place(8), place(4), place(12)), (0, 1, 2, 3));
    assert_eq!(reversed_bits(1).collect::<Vec<_>>(), [0]);
    assert_eq!(reversed_bits(5).collect::<Vec<_>>(), [0, 4, 2, 1, 3]);
}

proptest! {
    #[test]
    fn indices_are_a_permutation_of_positions(count in 0_usize..3000) {
        let numbers: BTreeSet<_> = reversed_bits(count).collect();
        prop_assert_eq!(reversed_bits(count).count(), count);
        prop_assert_eq!(numbers, (0..count).collect());
    }

    /// Checks that each possible key is in exactly one shard.
    #[test]
    fn shards_tile_the_keys_of_each_transfer(
        cuts in prop::collection::vec(prop::collection::btree_set("[a-c/é]{1,4}", 0..20), 1..4),
        weights in prop::collection::vec(prop_oneof![Just(0), 0_u64..100, 1000_u64..100_000], 80),
        shards in 1_u32..40,
        keys in prop::collection::vec("[a-d/é]{0,5}", 0..30),
    ) {
        let mut all = Vec::new();
        for (transfer, cuts) in (0..).zip(&cuts) {
            let ends = cuts.iter().map(|cut| Some(cut.as_str())).chain([None]);
            for end in ends {
                all.push(stretch(transfer, end, weights[all.len() % weights.len()]));
            }
        }
        let planned = divide(&all, shards);
        prop_assert_eq!(planned.len(), shards as usize);
        let sum: u64 = planned.iter().map(|shard| shard.weight.objects).sum();
        prop_assert_eq!(sum, all.iter().map(|stretch| stretch.weight.objects).sum::<u64>());
        for transfer in 0..u32::try_from(cuts.len()).unwrap() {
            // Keys at the ends of ranges are the ones that a mistake would miss or take twice.
            let ends = cuts[transfer as usize].iter();
            for key in keys.iter().chain(ends) {
                let holders = planned.iter().filter(|shard| has(shard, transfer, key)).count();
                prop_assert_eq!(holders, 1, "{} of {}", key, transfer);
            }
        }
        for shard in &planned {
            let transfers: BTreeSet<_> = shard.ranges.iter().map(|range| range.transfer).collect();
            prop_assert_eq!(transfers.len(), shard.ranges.len());
        }
    }

    /// Checks that no shard weighs more than twice the sum of the average and the heaviest stretch.
    #[test]
    fn shards_are_balanced(
        weights in prop::collection::vec(0_u64..1000, 1..200),
        shards in 1_u32..50,
    ) {
        let planned = divide(&stretches(&weights), shards);
        let average = weights.iter().sum::<u64>() / u64::from(shards);
        let heaviest = weights.iter().max().unwrap();
        for shard in &planned {
            prop_assert!(shard.weight.objects <= 2 * (average + heaviest) + 1, "{:?}", shard);
        }
    }
}
