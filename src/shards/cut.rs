//! Divides the keys of a job among shards. This module is pure.
//!
//! The keys of all transfers form one sequence of stretches: neighboring keys with a known or
//! estimated weight. A shard is a span of neighboring stretches, so it has at most one range of
//! each transfer. A stretch is never divided. An object of several terabytes is a single stretch,
//! and becomes a separate shard.
//!
//! The number of spans follows from a bound on their weight. A binary search finds the lowest bound
//! that gives no more spans than shards. A single stretch may exceed the bound.
//!
//! Neighboring ranges often share a partition of S3, and engines start indices in order. So shards
//! are indexed in the order of the reversed bits of their positions. Shards that run at the same
//! time are then far apart. Heavy shards come first, because a run ends with its slowest shard.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::record::{PlannedShard, ShardRange, ShardWeight};
use crate::location::ObjectKey;

/// The number of steps of the search for the bound. Each step halves the interval.
const STEPS: u32 = 60;
/// Neighbors whose weight is at most this share of the bound join a stretch that exceeds the
/// bound.
const SLIGHT: f64 = 0.125;

/// Neighboring keys of a transfer. A shard may end where a stretch ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The transfer, by position in the job.
    pub transfer: u32,
    /// The last key. `None` if the stretch ends with the transfer.
    pub until: Option<ObjectKey>,
    /// Its weight.
    pub weight: ShardWeight,
}

/// Divides stretches among `shards` shards. The result has one shard for each index.
///
/// The stretches must be in order, and the last one of each transfer must have no end.
#[must_use]
pub fn divide(stretches: &[Stretch], shards: u32) -> Vec<PlannedShard> {
    let most = shards as usize;
    let weights: Vec<f64> = stretches
        .iter()
        .map(|stretch| stretch.weight.units())
        .collect();
    let spans = split_further(&bounded(&weights, most), &weights, most);
    let planned: Vec<_> = planned(stretches, &spans).collect();
    in_order_of_indices(planned, most)
}

/// Neighboring stretches, by position.
type Span = std::ops::Range<usize>;

/// Returns the spans for the lowest bound that gives at most `most` of them.
fn bounded(weights: &[f64], most: usize) -> Vec<Span> {
    let all: f64 = weights.iter().sum();
    let (mut low, mut high) = (0.0, all);
    let mut best = spans_under(all, weights);
    if best.len() > most {
        // A rounding error: if the sum of all weights is the bound, one span must be enough.
        let whole = 0..weights.len();
        return Vec::from([whole]);
    }
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        let spans = spans_under(middle, weights);
        if spans.len() > most {
            low = middle;
        } else {
            (best, high) = (spans, middle);
        }
    }
    best
}

/// Returns the longest spans whose weights do not exceed a bound. A stretch that exceeds the bound
/// forms a span with its light neighbors.
fn spans_under(bound: f64, weights: &[f64]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let (mut first, mut weight, mut follows_heavy) = (0, 0.0, false);
    for (at, next) in weights.iter().copied().enumerate() {
        if at > first && weight + next > bound && (next <= bound || weight > bound * SLIGHT) {
            spans.push(first..at);
            (first, weight, follows_heavy) = (at, 0.0, weight > bound);
        }
        weight += next;
    }
    if first < weights.len() {
        spans.push(first..weights.len());
    }
    // A light remainder after a heavy stretch gets no separate shard.
    let is_slight = weight <= 0.0 || (follows_heavy && weight <= bound * SLIGHT);
    if is_slight && spans.len() > 1 {
        let end = spans.pop().map_or(weights.len(), |span| span.end);
        if let Some(last) = spans.last_mut() {
            last.end = end;
        }
    }
    spans
}

/// Splits the heaviest spans until there are `most` of them. A span of one stretch cannot be split.
fn split_further(spans: &[Span], weights: &[f64], most: usize) -> Vec<Span> {
    /// A span with its weight in thousandths, as integers, which can be ordered.
    type ByWeight = (u64, Reverse<usize>, usize);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a weight is positive, and a cast saturates"
    )]
    let by_weight = |span: &Span| -> ByWeight {
        let weight: f64 = weights.get(span.clone()).unwrap_or_default().iter().sum();
        ((weight * 1000.0) as u64, Reverse(span.start), span.end)
    };
    let mut heap: BinaryHeap<ByWeight> = spans.iter().map(by_weight).collect();
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
    whole.sort_by_key(|span| span.start);
    whole
}

/// Returns the position that splits a span into two parts of about the same weight.
fn middle_of(span: Span, weights: &[f64]) -> Option<usize> {
    let all: f64 = weights.get(span.clone())?.iter().sum();
    let (mut before, mut best, mut least) = (0.0, None, f64::INFINITY);
    for at in span.start + 1..span.end {
        before += weights.get(at - 1)?;
        let heavier = f64::max(before, all - before);
        if heavier < least {
            (best, least) = (Some(at), heavier);
        }
    }
    best
}

/// Returns the shards of these spans, in the order of their keys.
fn planned<'a>(
    stretches: &'a [Stretch],
    spans: &'a [Span],
) -> impl Iterator<Item = PlannedShard> + 'a {
    let mut before: Option<&Stretch> = None;
    spans.iter().map(move |span| {
        let mut shard = PlannedShard::default();
        for stretch in stretches.get(span.clone()).unwrap_or_default() {
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

/// Puts shards into the order of their indices: heavy ones first, then others by bit reversal of
/// their positions, and empty shards last.
fn in_order_of_indices(planned: Vec<PlannedShard>, most: usize) -> Vec<PlannedShard> {
    let all: f64 = planned.iter().map(|shard| shard.weight.units()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let usual = all / planned.len().max(1) as f64;
    let mut order: Vec<usize> = reversed_bits(planned.len()).collect();
    // The sort is stable, so shards of one class keep their order.
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

/// Returns the number of halvings after which a weight is less than twice the usual one.
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
