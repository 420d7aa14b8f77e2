//! Which keys are throttled: all of a bucket's, or those behind one prefix. Pure.
//!
//! S3 partitions a bucket by leading strings of its keys, anywhere and not only at slashes, and tells nobody where. What
//! can be seen is who is refused. While refusals come, requests are counted by the next *piece* of their key: up to its next
//! slash, or two characters where there is none. When some pieces are refused again and again, and another one is not
//! although chance would hardly spare it, the former lie in partitions of their own. When all keys share one piece, that
//! tells nothing, and the next one is looked at. Only as many pieces are counted as are worth a lane each; the others are
//! counted together.
//!
//! A piece that nobody has asked for yet, or that was never refused, gets the benefit of the doubt ([`Evidence::may_scout`]):
//! behind a long line of requests for hot keys it would hardly be tried, and nobody would ever find out that it is cold.

use std::time::Duration;

/// Pieces that are counted one by one.
const PIECES: usize = 32;
/// A piece ends here even without a slash.
const LONGEST: usize = 64;
/// Characters of a piece where no slash comes.
const CHARACTERS: usize = 2;
/// How deep into a key pieces are looked for, in bytes.
const DEEPEST: usize = 256;
/// Refusals that belong together come within this time.
const TOGETHER: Duration = Duration::from_secs(10);
/// Requests that must have been seen before a shared piece is passed by.
const PLENTY: u32 = 100;
/// Refusals that make a piece hot.
const AGAIN: u32 = 5;
/// A piece is spared by chance once in so many times, as a logarithm: e^7 is a thousand.
const ODDS: f64 = 7.0;

/// Who was refused, below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// What all counted keys begin with.
    base: String,
    since: Option<Duration>,
    last: Duration,
    pieces: Vec<(String, Count)>,
    rest: Count,
}

/// Requests, and how many of them were throttled.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    sent: u32,
    throttled: u32,
}

/// A prefix that is throttled by itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hot {
    pub(super) prefix: String,
    /// Requests a second that were accepted meanwhile.
    pub(super) accepted: f64,
}

impl Evidence {
    /// Nothing is known about the keys that begin with `base`.
    pub(super) fn new(base: &str) -> Self {
        Self {
            base: base.to_owned(),
            since: None,
            last: Duration::ZERO,
            pieces: Vec::new(),
            rest: Count::default(),
        }
    }

    /// Whether requests have to be counted at `now`; nothing is counted while nothing is refused.
    pub(super) fn is_open(&self, now: Duration) -> bool {
        self.since.is_some() && now <= self.last + TOGETHER
    }

    /// Takes note of a request for `key`.
    pub(super) fn sent(&mut self, key: &str) {
        self.count(key).sent += 1;
    }

    /// Takes note that the request for `key` that was sent at `sent_at` was throttled. Returns the prefixes that are throttled
    /// alone, once that is clear.
    pub(super) fn throttled(&mut self, key: &str, sent_at: Duration, now: Duration) -> Vec<Hot> {
        if !self.is_open(now) {
            let base = std::mem::take(&mut self.base);
            *self = Self { base, since: Some(now), ..Self::new("") };
        }
        self.last = now;
        let since = self.since.unwrap_or(now);
        // What was sent before the counting began is not among those counted.
        if sent_at <= since {
            return Vec::new();
        }
        self.count(key).throttled += 1;
        self.verdict(now.saturating_sub(since).as_secs_f64())
    }

    /// Whether a request for `key` may go ahead of the line: others are hot, and its piece was never refused.
    pub(super) fn may_scout(&self, key: &str) -> bool {
        let piece = key.strip_prefix(&*self.base).map_or("", piece);
        let Some((_, count)) = self.pieces.iter().find(|(known, _)| known == piece) else {
            return !piece.is_empty() && self.pieces.len() < PIECES && self.is_somebody_hot();
        };
        count.throttled == 0 && self.is_somebody_hot()
    }

    fn is_somebody_hot(&self) -> bool {
        self.pieces.iter().any(|(_, count)| count.throttled >= AGAIN)
    }

    fn count(&mut self, key: &str) -> &mut Count {
        let piece = key.strip_prefix(&*self.base).map_or("", piece);
        if piece.is_empty() {
            return &mut self.rest;
        }
        let found = self.pieces.iter().position(|(known, _)| known == piece);
        match found {
            Some(at) => &mut self.pieces[at].1,
            None if self.pieces.len() < PIECES => {
                self.pieces.push((piece.to_owned(), Count::default()));
                // Just pushed.
                self.pieces.last_mut().map_or(&mut self.rest, |(_, count)| count)
            }
            None => &mut self.rest,
        }
    }

    fn verdict(&mut self, seconds: f64) -> Vec<Hot> {
        if let [(piece, count)] = &self.pieces[..]
            && count.sent >= PLENTY
            && self.rest.sent * 50 < count.sent
        {
            if self.base.len() + piece.len() <= DEEPEST {
                let base = format!("{}{piece}", self.base);
                *self = Self::new(&base);
            }
            return Vec::new();
        }
        let hot: Vec<_> = self.pieces.iter().filter(|(_, count)| count.throttled >= AGAIN).collect();
        let sum = |of: fn(&Count) -> u32| hot.iter().map(|(_, count)| f64::from(of(count))).sum::<f64>();
        let share = sum(|count| count.throttled) / sum(|count| count.sent).max(1.0);
        let expected = |count: &Count| f64::from(count.sent) * share;
        let is_spared =
            |count: &Count| expected(count) >= ODDS && f64::from(count.throttled) * 10.0 < expected(count);
        if !self.pieces.iter().any(|(_, count)| is_spared(count)) {
            return Vec::new();
        }
        let hot = hot.into_iter().filter(|(_, count)| f64::from(count.throttled) * 2.0 >= expected(count));
        let seconds = seconds.max(0.1);
        let hot = hot.map(|(piece, count)| Hot {
            prefix: format!("{}{piece}", self.base),
            accepted: f64::from(count.sent.saturating_sub(count.throttled)) / seconds,
        });
        let hot = hot.collect();
        *self = Self { base: std::mem::take(&mut self.base), ..Self::new("") };
        hot
    }
}

/// The next piece of what is left of a key.
fn piece(rest: &str) -> &str {
    let mut ends = rest.char_indices().map(|(at, character)| (at + character.len_utf8(), character));
    let slash = ends.by_ref().take_while(|(end, _)| *end <= LONGEST).find(|(_, character)| *character == '/');
    let end = match slash {
        Some((end, _)) => end,
        None => rest.char_indices().nth(CHARACTERS).map_or(rest.len(), |(at, _)| at),
    };
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pieces_end_at_slashes_or_after_two_characters() {
        for (rest, expected) in
            [("a/b/c", "a/"), ("/x", "/"), ("0123", "01"), ("äöü", "äö"), ("x", "x"), ("", "")]
        {
            assert_eq!(piece(rest), expected, "{rest}");
        }
        let long = format!("{}/", "y".repeat(100));
        assert_eq!(piece(&long), "yy");
    }

    /// Sends requests round robin over these keys; `refuse` says which are throttled. Ends with the first verdict.
    fn drive(base: &str, keys: &[&str], refuse: impl Fn(usize, &str) -> bool) -> (usize, Vec<Hot>) {
        let mut evidence = Evidence::new(base);
        for round in 0..2000 {
            let now = MS * u32::try_from(round).unwrap();
            let key = keys[round % keys.len()];
            if evidence.is_open(now) {
                evidence.sent(key);
            }
            if refuse(round, key) {
                let hot = evidence.throttled(key, now, now + MS);
                if !hot.is_empty() {
                    return (round, hot);
                }
            }
        }
        (2000, Vec::new())
    }

    #[test]
    fn a_prefix_that_is_throttled_alone_is_found_soon() {
        let keys = ["a/1", "b/1", "c/1", "hot/1", "d/1", "hot/2"];
        let (rounds, hot) = drive("", &keys, |round, key| key.starts_with("hot/") && round % 2 == 1);
        assert_eq!(hot.iter().map(|hot| &*hot.prefix).collect::<Vec<_>>(), ["hot/"]);
        assert!(rounds < 100, "{rounds}");
        let (_, hot) = drive("", &["a/1", "b/1", "c/1", "d/1"], |_, key| key < "c");
        assert_eq!(hot.len(), 2, "{hot:?}");
    }

    #[test]
    fn all_throttled_alike_is_one_lane() {
        let keys = ["a/1", "b/1", "c/1", "d/1", "e/1"];
        for every in [3, 7, 53] {
            assert_eq!(drive("", &keys, |round, _| round % every == 0).1, []);
        }
        // A hundred prefixes are more than can be told apart.
        let many: Vec<String> = (0..100).map(|n| format!("{n:03}/x")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(drive("", &many, |round, _| round % 7 == 0).1, []);
        // One prefix, and nothing to compare it with.
        assert_eq!(drive("", &["a/x"], |round, _| round % 2 == 0).1, []);
    }

    #[test]
    fn who_was_never_refused_need_not_stand_in_line() {
        let mut evidence = Evidence::new("");
        assert!(!evidence.may_scout("cold/1"), "nobody is refused");
        for round in 1..10 {
            evidence.sent("hot/1");
            evidence.throttled("hot/1", MS * round, MS * round);
        }
        assert!(evidence.may_scout("cold/1") && !evidence.may_scout("hot/2"));
        evidence.sent("cold/1");
        assert!(evidence.may_scout("cold/2"));
        evidence.throttled("cold/1", MS * 20, MS * 20);
        assert!(!evidence.may_scout("cold/2") && !evidence.may_scout(""));
    }

    #[test]
    fn what_all_keys_share_is_passed_by() {
        let keys = ["lake/events/2026/1", "lake/logs/2026/1", "lake/events/2025/1", "lake/raw/1"];
        let (_, hot) = drive("", &keys, |_, key| key.contains("logs"));
        assert_eq!(hot[0].prefix, "lake/logs/");
        let (_, hot) = drive("lake/", &["lake/e0f1", "lake/11aa", "lake/e0aa", "lake/77"], |_, key| {
            key.starts_with("lake/77")
        });
        assert_eq!(hot[0].prefix, "lake/77");
    }
}
