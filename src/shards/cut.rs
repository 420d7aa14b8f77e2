//! Divides the keys of a job among shards. Pure.
//!
//! The key spaces of all transfers stand one behind the other, as a sequence of stretches with known
//! or estimated weights. A shard is a run of neighbouring stretches, so that it has at most one range
//! of each transfer. A stretch is never divided, so that an object of terabytes, which is one, is a
//! shard of its own. The bound is the least at which the shards suffice; what exceeds it alone stands
//! alone.
//!
//! Neighbouring ranges often share a partition of S3, and engines start indices in order. So the
//! shards are given indices by bit reversal of their positions: those that run at the same time are
//! far apart. Heavy ones come first, because a run ends with its slowest shard.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::record::{PlannedShard, ShardRange, ShardWeight};
use crate::location::ObjectKey;

/// The steps of the search for the bound. Each halves what is left of the interval.
const STEPS: u32 = 60;
/// The share of the bound below which neighbours are added to a stretch that exceeds it.
const SLIGHT: f64 = 0.125;

/// Neighbouring keys of a transfer, at whose end a shard may end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The transfer, by position in the job.
    pub transfer: u32,
    /// Its last key. `None` if it ends with the transfer.
    pub until: Option<ObjectKey>,
    /// Its weight.
    pub weight: ShardWeight,
}

/// Divides stretches among `shards` shards. The result has one for each index.
///
/// The stretches must be in order, and the last one of each transfer must have no end.
#[must_use]
pub fn divide(stretches: &[Stretch], shards: u32) -> Vec<PlannedShard> {
    let most = shards as usize;
    let weights: Vec<f64> = stretches
        .iter()
        .map(|stretch| stretch.weight.units())
        .collect();
    let runs = split_further(bounded(&weights, most), &weights, most);
    let planned: Vec<_> = planned(stretches, &runs).collect();
    in_order_of_indices(planned, most)
}

/// Neighbouring stretches: the positions of the first one, and of the first one behind.
type Run = std::ops::Range<usize>;

/// Returns runs under the least bound at which they are no more than `most`.
fn bounded(weights: &[f64], most: usize) -> Vec<Run> {
    let all: f64 = weights.iter().sum();
    let (mut low, mut high) = (0.0, all);
    let mut best = runs_under(all, weights);
    if best.len() > most {
        // Rounding: the sum of all is a bound for one run.
        return vec![0..weights.len()];
    }
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        let runs = runs_under(middle, weights);
        if runs.len() > most {
            low = middle;
        } else {
            (best, high) = (runs, middle);
        }
    }
    best
}

/// Returns the longest runs whose weights do not exceed a bound. A stretch that exceeds it forms one
/// with its slight neighbours.
fn runs_under(bound: f64, weights: &[f64]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut first, mut weight, mut follows_heavy) = (0, 0.0, false);
    for (at, next) in weights.iter().copied().enumerate() {
        if at > first && weight + next > bound && (next <= bound || weight > bound * SLIGHT) {
            runs.push(first..at);
            (first, weight, follows_heavy) = (at, 0.0, weight > bound);
        }
        weight += next;
    }
    if first < weights.len() {
        runs.push(first..weights.len());
    }
    // A slight end behind a heavy stretch has no shard of its own.
    let is_slight = weight <= 0.0 || (follows_heavy && weight <= bound * SLIGHT);
    if is_slight && runs.len() > 1 {
        let end = runs.pop().map_or(weights.len(), |run| run.end);
        if let Some(last) = runs.last_mut() {
            last.end = end;
        }
    }
    runs
}

/// Splits the heaviest runs until there are enough, as far as they have several stretches.
fn split_further(runs: Vec<Run>, weights: &[f64], most: usize) -> Vec<Run> {
    /// A run by its weight in thousandths, which can be compared.
    type ByWeight = (u64, Reverse<usize>, usize);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a weight is positive, and a cast saturates"
    )]
    let by_weight = |run: &Run| -> ByWeight {
        let weight: f64 = weights.get(run.clone()).unwrap_or_default().iter().sum();
        ((weight * 1000.0) as u64, Reverse(run.start), run.end)
    };
    let mut heap: BinaryHeap<ByWeight> = runs.iter().map(by_weight).collect();
    let mut whole = Vec::new();
    while heap.len() + whole.len() < most {
        let Some((weight, Reverse(start), end)) = heap.pop() else {
            break;
        };
        match middle_of(start..end, weights).filter(|_| weight > 0) {
            Some(middle) => heap.extend([start..middle, middle..end].iter().map(by_weight)),
            None => whole.push(start..end),
        }
    }
    whole.extend(heap.into_iter().map(|(_, Reverse(start), end)| start..end));
    whole.sort_by_key(|run| run.start);
    whole
}

/// Returns where a run is cut into two parts of about the same weight.
fn middle_of(run: Run, weights: &[f64]) -> Option<usize> {
    let all: f64 = weights.get(run.clone())?.iter().sum();
    let (mut before, mut best, mut least) = (0.0, None, f64::INFINITY);
    for at in run.start + 1..run.end {
        before += weights.get(at - 1)?;
        let heavier = f64::max(before, all - before);
        if heavier < least {
            (best, least) = (Some(at), heavier);
        }
    }
    best
}

/// Returns the shards of runs, in the order of their keys.
fn planned<'a>(
    stretches: &'a [Stretch],
    runs: &'a [Run],
) -> impl Iterator<Item = PlannedShard> + 'a {
    let mut before: Option<&Stretch> = None;
    runs.iter().map(move |run| {
        let mut shard = PlannedShard::default();
        for stretch in stretches.get(run.clone()).unwrap_or_default() {
            shard.weight.add(stretch.weight);
            match shard.ranges.last_mut() {
                Some(range) if range.transfer == stretch.transfer => {
                    range.until.clone_from(&stretch.until);
                }
                _ => {
                    let before = before.filter(|before| before.transfer == stretch.transfer);
                    shard.ranges.push(ShardRange {
                        transfer: stretch.transfer,
                        after: before.and_then(|before| before.until.clone()),
                        until: stretch.until.clone(),
                    });
                }
            }
            before = Some(stretch);
        }
        shard
    })
}

/// Gives shards their indices: the heavy ones first, others by bit reversal of their positions. Shards
/// that have nothing come last.
fn in_order_of_indices(planned: Vec<PlannedShard>, most: usize) -> Vec<PlannedShard> {
    let all: f64 = planned.iter().map(|shard| shard.weight.units()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let usual = all / planned.len().max(1) as f64;
    let mut order: Vec<usize> = reversed_bits(planned.len()).collect();
    // A stable sort: shards of one class keep their order.
    order.sort_by_key(|at| {
        let weight = planned.get(*at).map_or(0.0, |shard| shard.weight.units());
        Reverse(class(weight, usual))
    });
    let mut planned: Vec<_> = planned.into_iter().map(Some).collect();
    let mut shards: Vec<_> = order
        .into_iter()
        .filter_map(|at| planned.get_mut(at)?.take())
        .collect();
    shards.resize_with(most, PlannedShard::default);
    shards
}

/// Returns how often a weight can be halved until it is less than twice the usual one.
fn class(weight: f64, usual: f64) -> u32 {
    let (mut class, mut weight) = (0, weight);
    while usual > 0.0 && weight >= 2.0 * usual && class < 64 {
        (class, weight) = (class + 1, weight / 2.0);
    }
    class
}

/// Returns the numbers below `count` in the order of their reversed bits.
fn reversed_bits(count: usize) -> impl Iterator<Item = usize> {
    let bits = count.next_power_of_two().trailing_zeros();
    (0..count.next_power_of_two())
        .map(move |number| {
            number
                .reverse_bits()
                .checked_shr(usize::BITS - bits)
                .unwrap_or(0)
        })
        .filter(move |number| *number < count)
}

#[cfg(test)]
mod tests;
