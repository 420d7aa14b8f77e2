//! Tests the ranges against a model of a server: no key is missed, and the work is divided evenly.

#![expect(clippy::cast_possible_truncation, reason = "small numbers of a model")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use proptest::prelude::*;

use super::*;
use crate::manifest::job::Selection;

/// A server that lists `size` keys per page.
struct Model {
    keys: BTreeSet<String>,
    size: usize,
}

impl Model {
    fn of(keys: impl IntoIterator<Item = String>, size: usize) -> Self {
        Self {
            keys: keys.into_iter().collect(),
            size,
        }
    }

    fn page(&self, prefix: &str, after: Option<&str>) -> (Vec<String>, bool) {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_owned()),
            _ => Bound::Included(prefix.to_owned()),
        };
        let rest = self.keys.range((start, Bound::Unbounded));
        let mut rest = rest.take_while(|key| key.starts_with(prefix));
        let page = rest.by_ref().take(self.size).cloned().collect();
        (page, rest.next().is_some())
    }
}

/// The keys that were listed, by range and in the order of arrival.
struct Listers {
    ranges: Ranges,
    reach: Reach,
    /// The index of the prefix that is listed next, by range.
    at: BTreeMap<u32, usize>,
    open: Vec<(KeyRange, Vec<String>)>,
    done: Vec<(KeyRange, Vec<String>)>,
    requests: usize,
}

impl Listers {
    fn new(most: usize) -> Self {
        Self::of(Reach::below(&ObjectKey::empty()), most)
    }

    fn of(reach: Reach, most: usize) -> Self {
        let whole = KeyRange::default();
        let ranges = Ranges::new(
            reach.clone(),
            std::slice::from_ref(&whole),
            most,
            1,
            u32::MAX,
        );
        Self {
            ranges,
            reach,
            at: BTreeMap::new(),
            open: vec![(whole, Vec::new())],
            done: Vec::new(),
            requests: 0,
        }
    }

    /// Sends one request of one range.
    fn step(&mut self, at: usize, server: &Model) {
        self.requests += 1;
        let (range, keys) = &mut self.open[at];
        let after = range.after.as_ref().map(ObjectKey::as_str);
        let prefix = *self
            .at
            .entry(range.range)
            .or_insert_with(|| self.reach.first_behind(after));
        let all = self.reach.prefixes();
        let (page, more) = server.page(
            all.get(prefix).map_or("\u{10FFFF}", ObjectKey::as_str),
            after,
        );
        let names: Vec<_> = page.iter().map(String::as_str).collect();
        let behind = Behind {
            more,
            prefix: prefix + usize::from(!more),
        };
        let until = self.ranges.page(range.range, &names, behind);
        let inside = |key: &String| until.as_ref().is_none_or(|until| **key <= *until.as_str());
        keys.extend(page.iter().filter(|key| inside(key)).cloned());
        let next = all
            .get(behind.prefix)
            .filter(|next| more || until.as_ref().is_none_or(|until| *next <= until));
        if next.is_some() && page.iter().all(inside) {
            self.at.insert(range.range, behind.prefix);
            if let Some(last) = page.last() {
                range.after = ObjectKey::new(last).ok();
            }
        } else {
            self.ranges.end(range.range);
            let (range, keys) = self.open.remove(at);
            self.done.push((KeyRange { until, ..range }, keys));
        }
    }

    fn cut(&mut self) {
        while let Some(RangeSplit { range, new }) = self.ranges.cut() {
            let (cut, _) = self
                .open
                .iter_mut()
                .find(|(open, _)| open.range == range)
                .expect("an open range is cut");
            assert!(new.after > cut.after, "a cut lies behind what was read");
            self.open.push((new, Vec::new()));
        }
    }

    /// Lists all ranges at the same pace. Returns the number of rounds.
    fn rounds(&mut self, server: &Model) -> usize {
        let mut rounds = 0;
        while !self.open.is_empty() {
            for at in (0..self.open.len()).rev() {
                self.step(at, server);
            }
            self.cut();
            rounds += 1;
        }
        rounds
    }

    fn listed(&self) -> Vec<String> {
        let mut all: Vec<_> = self
            .done
            .iter()
            .flat_map(|(_, keys)| keys.clone())
            .collect();
        for (range, keys) in &self.done {
            assert!(keys.is_sorted(), "range {} is in order", range.range);
        }
        all.sort();
        all
    }
}

/// Returns a pseudo-random number.
fn hash(number: u64) -> u64 {
    let mixed = (number ^ 0x5851_f42d_4c95_7f2d).wrapping_mul(0x2545_f491_4f6c_dd1d);
    (mixed ^ (mixed >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

const KEYS: u64 = 30_000;

/// Returns the keys of several buckets, each with a name.
#[expect(clippy::too_many_lines, reason = "a table")]
fn buckets() -> Vec<(&'static str, Vec<String>)> {
    let all = |key: &dyn Fn(u64) -> String| (0..KEYS).map(key).collect::<Vec<_>>();
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789".as_bytes();
    let base62 = |mut number: u64| {
        let mut text = String::new();
        for _ in 0..10 {
            text.push(char::from(letters[(number % 62) as usize]));
            number /= 62;
        }
        text
    };
    vec![
        ("hashes", all(&|i| format!("{:016x}", hash(i)))),
        ("base 62", all(&|i| base62(hash(i)))),
        ("a counter", all(&|i| format!("{i:012}"))),
        (
            "a counter without zeros",
            all(&|i| format!("photo-{i}.jpg")),
        ),
        (
            "dates",
            all(&|i| {
                let (day, left) = (i / 60, i % 60);
                format!(
                    "logs/{}/{:02}/{:02}/{:02}-{:08x}.gz",
                    2020 + day / 336,
                    day / 28 % 12 + 1,
                    day % 28 + 1,
                    left,
                    hash(i) as u32
                )
            }),
        ),
        (
            "a deep tree",
            all(&|i| {
                let hash = hash(i % 700);
                format!(
                    "warehouse/db/table/{}/{}/{}/part-{i:05}",
                    hash % 9,
                    hash / 9 % 10,
                    hash / 90 % 8
                )
            }),
        ),
        (
            "a deep tree with numbers",
            all(&|i| {
                let leaf = i % 1500;
                format!(
                    "warehouse/db/table/a{}/b{:02}/c{:02}/part-{:05}",
                    leaf % 10,
                    leaf / 10 % 15,
                    leaf / 150,
                    i / 1500
                )
            }),
        ),
        (
            "hours",
            all(&|i| {
                let hour = i % 6000;
                format!(
                    "w/year=2026/month={:02}/day={:02}/hour={:02}/{:08x}.parquet",
                    hour % 12 + 1,
                    hour / 12 % 28 + 1,
                    hour / 336 % 24,
                    hash(i) as u32
                )
            }),
        ),
        (
            "a directory for each",
            all(&|i| format!("users/{:05}/profile.json", i * 3)),
        ),
        (
            "UUIDs",
            all(&|i| {
                let (high, low) = (hash(i), hash(i + KEYS));
                format!(
                    "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
                    high >> 32,
                    high >> 16 & 0xffff,
                    high & 0xfff,
                    low >> 52,
                    low & 0xffff_ffff_ffff
                )
            }),
        ),
        (
            "one hot directory",
            all(&|i| match i {
                0..500 => format!("{:08x}/readme", hash(i) as u32),
                _ => format!(
                    "data/events/region=eu-west-1/{:010}",
                    hash(i) % 10_000_000_000
                ),
            }),
        ),
        (
            "Japanese and more",
            all(&|i| {
                let char =
                    |at: u64| char::from_u32(0x4e00 + (hash(i + at * KEYS) % 5000) as u32).unwrap();
                format!("写真/{}{}/ünï-{i}", char(1), char(2))
            }),
        ),
        (
            "long keys",
            all(&|i| format!("{}{:024}", "x".repeat(1000), i * 7919)),
        ),
        (
            "long keys of many bytes",
            all(&|i| format!("{}/{:016x}", "長い".repeat(160), hash(i))),
        ),
    ]
}

#[test]
fn all_kinds_of_keys_are_cut_well() {
    const PAGE: usize = 100;
    const MAX_LISTERS: usize = 32;
    for (name, keys) in buckets() {
        let server = Model::of(keys, PAGE);
        let mut listers = Listers::new(MAX_LISTERS);
        let rounds = listers.rounds(&server);
        assert_eq!(
            listers.listed(),
            server.keys.iter().cloned().collect::<Vec<_>>(),
            "{name}"
        );
        let pages = server.keys.len().div_ceil(PAGE);
        let best = pages.div_ceil(MAX_LISTERS);
        assert!(
            rounds <= 2 * best + 12,
            "{name}: {rounds} rounds for {pages} pages"
        );
        assert!(
            listers.requests <= 2 * pages + 40,
            "{name}: {} requests for {pages} pages",
            listers.requests
        );
    }
}

#[test]
fn no_common_kind_of_keys_takes_more_than_twice_as_long_as_the_best() {
    const PAGE: usize = 50;
    let common = [
        "a counter",
        "dates",
        "hours",
        "a deep tree with numbers",
        "a directory for each",
        "UUIDs",
        "one hot directory",
    ];
    for most in [16, 32] {
        let measured: Vec<_> = buckets()
            .into_iter()
            .filter(|(name, _)| common.contains(name))
            .map(|(name, keys)| {
                let server = Model::of(keys, PAGE);
                let mut listers = Listers::new(most);
                let rounds = listers.rounds(&server);
                let pages = server.keys.len().div_ceil(PAGE);
                assert!(
                    listers.requests <= pages + pages / 4,
                    "{name}: {} requests for {pages} pages",
                    listers.requests
                );
                (rounds, name)
            })
            .collect();
        let (best, _) = measured.iter().min().expect("there are some");
        let (worst, _) = measured.iter().max().expect("there are some");
        assert_eq!(measured.len(), common.len());
        assert!(*worst <= 2 * best, "{most} at once: {measured:?}");
    }
}

#[test]
fn a_few_pages_are_not_cut() {
    for count in [0, 1, 999, 1000, 1999, 2000] {
        let server = Model::of((0..count).map(|i| format!("{:08x}", hash(i) as u32)), 1000);
        let mut listers = Listers::new(32);
        listers.rounds(&server);
        assert_eq!(
            listers.requests as u64,
            count.div_ceil(1000).max(1),
            "{count} keys"
        );
    }
}

#[test]
fn no_more_ranges_than_asked_for_and_none_after_a_failure() {
    let server = Model::of((0..KEYS).map(|i| format!("{:016x}", hash(i))), 100);
    for most in [1, 2, 5] {
        let mut listers = Listers::new(most);
        while !listers.open.is_empty() {
            listers.step(0, &server);
            listers.cut();
            assert!(listers.open.len() <= most);
        }
    }
    let mut listers = Listers::new(32);
    for _ in 0..3 {
        listers.step(0, &server);
    }
    assert!(listers.ranges.wants_cut());
    listers.ranges.stop();
    assert!(!listers.ranges.wants_cut() && listers.ranges.cut().is_none());
}

#[test]
fn a_session_goes_on_with_several_ranges() {
    let server = Model::of((0..KEYS).map(|i| format!("{:016x}", hash(i))), 100);
    let key = |text: &str| ObjectKey::new(text).ok();
    let left = [
        KeyRange {
            range: 3,
            after: key("2"),
            until: key("4"),
        },
        KeyRange {
            range: 7,
            after: key("a"),
            until: None,
        },
    ];
    let reach = Reach::below(&ObjectKey::empty());
    let ranges = Ranges::new(reach.clone(), &left, 8, 9, 12);
    let open = left
        .iter()
        .map(|range| (range.clone(), Vec::new()))
        .collect();
    let mut listers = Listers {
        ranges,
        reach,
        at: BTreeMap::new(),
        open,
        done: Vec::new(),
        requests: 0,
    };
    listers.rounds(&server);
    let wanted = server
        .keys
        .iter()
        .filter(|key| ("2".."4").contains(&key.as_str()) || key.as_str() > "a");
    assert_eq!(listers.listed(), wanted.cloned().collect::<Vec<_>>());
    let numbers: BTreeSet<_> = listers.done.iter().map(|(range, _)| range.range).collect();
    assert_eq!(
        numbers,
        [3, 7, 9, 10, 11, 12].into(),
        "no more numbers than there are"
    );
}

/// Returns the keys that include patterns reach.
fn reach(include: &[String]) -> Reach {
    let include = include.iter().map(|glob| glob.parse().unwrap()).collect();
    Reach::of_source(
        &Selection {
            include,
            ..Selection::default()
        },
        &ObjectKey::empty(),
    )
}

#[test]
fn a_range_is_cut_between_prefixes_before_anything_is_known() {
    let days: Vec<_> = (1..=20).map(|day| format!("2026-11-{day:02}/*")).collect();
    let keys =
        (0..40 * 300).map(|i| format!("2026-{:02}-{:02}/{i:06}", 10 + i % 2, 1 + i / 2 % 20));
    let server = Model::of(keys, 100);
    let mut listers = Listers::of(reach(&days), 8);
    assert!(listers.ranges.wants_cut());
    listers.cut();
    assert_eq!(listers.open.len(), 8);
    let rounds = listers.rounds(&server);
    assert_eq!(listers.listed().len(), 20 * 300);
    assert!(rounds <= 20 * 3 / 8 + 6, "{rounds} rounds");
    assert!(
        listers.requests <= 20 * 3 + 12,
        "{} requests",
        listers.requests
    );
    let whole = Listers::new(8);
    assert!(
        !whole.ranges.wants_cut(),
        "one prefix is not cut at a guess before a page was read"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Checks all keys, with ranges that send requests in any order, while others write and delete
    /// keys.
    #[test]
    fn no_key_is_missed_or_listed_twice(
        keys in proptest::collection::btree_set("[a-c/é\u{10FFFF}]{1,5}|[0-9]{6}|x{200}[0-9]{1,20}", 0..400),
        size in 1..12_usize,
        most in 1..20_usize,
        order in proptest::collection::vec(any::<(u16, u16, bool)>(), 40..400),
        include in proptest::collection::vec("[a-c0-3x]{1,2}\\*\\*", 0..4),
    ) {
        let mut server = Model::of(keys.clone(), size);
        // Others write and delete every second key.
        let fickle: Vec<_> = keys.iter().enumerate().filter(|(at, _)| at % 2 == 1).map(|(_, key)| key.clone()).collect();
        let stable: Vec<_> = keys.iter().enumerate().filter(|(at, _)| at % 2 == 0).map(|(_, key)| key.clone()).collect();
        let mut listers = Listers::of(reach(&include), most);
        let is_reached = |key: &String| include.is_empty() || include.iter().any(|glob| key.starts_with(glob.trim_end_matches('*')));
        let stable: Vec<_> = stable.into_iter().filter(is_reached).collect();
        let mut order = order.into_iter().cycle();
        while !listers.open.is_empty() {
            let (turn, key, cut) = order.next().unwrap();
            if let Some(key) = fickle.get(usize::from(key) % fickle.len().max(1))
                && !server.keys.remove(key)
            {
                server.keys.insert(key.clone());
            }
            listers.step(usize::from(turn) % listers.open.len(), &server);
            if cut {
                listers.cut();
            }
        }
        let mut listed = listers.listed();
        let all = listed.len();
        listed.dedup();
        prop_assert_eq!(all, listed.len(), "a key is listed twice");
        listed.retain(|key| !fickle.contains(key));
        prop_assert_eq!(listed, stable);
    }
}
