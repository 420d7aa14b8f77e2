//! Decides which keys are throttled: all keys of a bucket, or only the keys below one prefix. The
//! module is pure.
//!
//! S3 partitions a bucket by key prefixes, which may end anywhere and not only at slashes. It does
//! not publish them: a client sees only which requests are refused. While refusals arrive,
//! [`ThrottleStats`] counts requests by the next *piece* of their key: the characters up to the
//! next slash, or two characters if there is none. It counts in short windows, and computes for
//! each piece how many of a window's refusals the piece should have received. (Keys mostly come in
//! order, so a refusal now cannot be compared with an acceptance a second ago at another rate.) If
//! some pieces are refused in one window after another, and another piece is spared in the same
//! windows more often than chance explains, the refused pieces have separate partitions. A piece
//! that all keys share shows nothing. So requests are counted by the next piece instead, until a
//! key arrives that does not share the first one. At most [`PIECES`] pieces are counted one by one;
//! the rest are counted together.
//!
//! Behind a long queue of requests for a hot prefix, a request for a cold key would rarely be sent,
//! and nothing would show that the key is cold. So a request whose piece was never refused may skip
//! the queue now and then ([`ThrottleStats::may_skip_queue`]). It is sent beyond the rate that the
//! server accepts, so its acceptance is stronger evidence than that of a request that waited.
//!
//! A piece is cold only if its requests were *accepted*. Where everything is refused, each new
//! piece looks spared until its first refusal arrives, and a lane would be split again and again
//! for no reason. So until a request for a piece is accepted, at most [`TRIALS`] requests for it
//! skip the queue.

use std::time::Duration;

/// The maximum number of pieces that are counted one by one.
const PIECES: usize = 32;
/// The maximum number of bytes of a piece that ends with a slash.
const LONGEST: usize = 64;
/// The characters of a piece without a slash.
const CHARACTERS: usize = 2;
/// The bytes of a key that are divided into pieces.
const DEEPEST: usize = 256;
/// The time after the last refusal for which counting continues.
const TOGETHER: Duration = Duration::from_secs(10);
/// The requests after which a piece that all keys share is skipped.
const PLENTY: u32 = 100;
/// The shortest and the longest window. A window lasts twice as long as a refusal takes.
const WINDOW: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// A piece is hot once it was refused in `AGAIN.0` windows and received `AGAIN.1` refusals. It is
/// cold once it was spared in `AGAIN.0` windows.
const AGAIN: (u32, u32) = (3, 5);
/// The requests for a piece that may skip the queue until one of them is accepted.
const TRIALS: u32 = 3;
/// The refusals that a cold piece should have received. With n expected refusals, chance spares a
/// piece once in e^n times: for 7, once in a thousand.
const ODDS: f64 = 7.0;

/// Counts of the requests below a prefix that were sent, accepted, and refused.
#[derive(Clone, Debug)]
pub(super) struct ThrottleStats {
    /// The prefix of the lane.
    home: String,
    /// The prefix that all recent keys share.
    base: String,
    /// The time at which counting began.
    since: Option<Duration>,
    /// The time of the last refusal.
    last: Duration,
    /// The time at which the current window began.
    window: Duration,
    /// The counts of single pieces.
    pieces: Vec<(String, Count)>,
    /// The count of all other pieces.
    rest: Count,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// Requests sent in this window.
    sent: u32,
    /// Requests refused in this window.
    refused: u32,
    /// Requests accepted since counting began.
    accepted: u32,
    /// Requests that skipped the queue.
    trials: u32,
    /// The sum of the probabilities with which the requests that skipped the queue would have been
    /// refused.
    skip_odds: f64,
    /// Requests sent in earlier windows.
    sent_before: u32,
    /// Requests refused in earlier windows.
    refused_before: u32,
    /// Refusals that the piece would have received if all pieces were refused alike.
    expected: f64,
    /// Windows in which the piece was refused.
    hot: u32,
    /// Windows in which other pieces were refused and this one was not.
    spared: u32,
}

impl Count {
    /// Ends a window in which the fraction `share` of all requests was refused.
    fn fold(&mut self, share: f64) {
        let expected = f64::from(self.sent) * share + std::mem::take(&mut self.skip_odds);
        self.expected += expected;
        self.hot += u32::from(self.refused > 0);
        self.spared += u32::from(self.refused == 0 && expected > 0.0);
        self.sent_before += std::mem::take(&mut self.sent);
        self.refused_before += std::mem::take(&mut self.refused);
    }

    fn is_hot(&self) -> bool {
        self.hot >= AGAIN.0
            && self.refused_before >= AGAIN.1
            && f64::from(self.refused_before) * 2.0 >= self.expected
    }

    fn is_cold(&self) -> bool {
        self.spared >= AGAIN.0
            && self.expected >= ODDS
            && f64::from(self.refused_before) * 10.0 <= self.expected
            && f64::from(self.accepted) * 2.0 >= self.expected
    }

    /// Returns the sum of two counts.
    fn and(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            refused: self.refused + other.refused,
            accepted: self.accepted + other.accepted,
            trials: self.trials + other.trials,
            skip_odds: self.skip_odds + other.skip_odds,
            sent_before: self.sent_before + other.sent_before,
            refused_before: self.refused_before + other.refused_before,
            expected: self.expected + other.expected,
            hot: self.hot.max(other.hot),
            spared: self.spared.min(other.spared),
        }
    }
}

/// A prefix that is throttled separately from the other keys of its lane.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HotPrefix {
    pub(super) prefix: String,
    /// Requests per second that were accepted while it was throttled.
    pub(super) accepted: f64,
}

impl ThrottleStats {
    /// Creates empty statistics for the keys that begin with `home`.
    pub(super) fn new(home: &str) -> Self {
        Self::at(home.to_owned(), home.to_owned())
    }

    fn at(home: String, base: String) -> Self {
        Self {
            home,
            base,
            since: None,
            last: Duration::ZERO,
            window: Duration::ZERO,
            pieces: Vec::new(),
            rest: Count::default(),
        }
    }

    /// Returns true if requests must be counted at `now`. Nothing is counted while nothing is
    /// refused.
    pub(super) fn is_open(&self, now: Duration) -> bool {
        self.since.is_some() && now <= self.last + TOGETHER
    }

    /// Moves the prefixes of these statistics into empty ones for the same keys, and returns those.
    fn restarted(&mut self) -> Self {
        Self::at(
            std::mem::take(&mut self.home),
            std::mem::take(&mut self.base),
        )
    }

    /// Counts a request for `key`.
    pub(super) fn sent(&mut self, key: &str) {
        self.widen_base(key);
        self.count(key).sent += 1;
    }

    /// Counts a request for `key` that skips the queue. The server would refuse it with the
    /// probability `odds` if it throttled the key together with the keys in the queue. Returns the
    /// prefixes that are throttled separately, once that is clear.
    pub(super) fn skipped_queue(&mut self, key: &str, odds: f64, now: Duration) -> Vec<HotPrefix> {
        self.widen_base(key);
        let hot = if now >= self.window + WINDOW.1 {
            self.fold(now)
        } else {
            Vec::new()
        };
        let count = self.count(key);
        count.sent += 1;
        count.trials += 1;
        count.skip_odds += odds;
        hot
    }

    /// Counts the acceptance of a request for `key`.
    pub(super) fn accepted(&mut self, key: &str) {
        self.widen_base(key);
        self.count(key).accepted += 1;
    }

    /// Counts the acceptance of a request for `key` that waited in the queue of a lane in which
    /// everything was refused. If the key's piece had been refused too, the refusals are over. Then
    /// the statistics start over, because earlier refusals cannot be compared with acceptances from
    /// now on.
    pub(super) fn accepted_again(&mut self, key: &str) {
        self.widen_base(key);
        let count = self.count(key);
        if count.refused + count.refused_before >= AGAIN.1 {
            *self = self.restarted();
        } else {
            count.accepted += 1;
        }
    }

    /// Goes back to the lane's prefix as the base if `key` does not share the base of all earlier
    /// keys, and counts those keys as one piece.
    fn widen_base(&mut self, key: &str) {
        if key.starts_with(&*self.base) {
            return;
        }
        let Some(deeper) = self
            .base
            .strip_prefix(&*self.home)
            .filter(|deeper| !deeper.is_empty())
        else {
            return;
        };
        let deeper = piece(deeper).to_owned();
        let all = self.pieces.drain(..).map(|(_, count)| count);
        let all = all
            .reduce(Count::and)
            .unwrap_or_default()
            .and(std::mem::take(&mut self.rest));
        self.pieces.push((deeper, all));
        self.base.clone_from(&self.home);
    }

    /// Counts the refusal of a request for `key` that was sent at `sent_at`. Returns the prefixes
    /// that are throttled separately, once that is clear.
    pub(super) fn throttled(
        &mut self,
        key: &str,
        sent_at: Duration,
        now: Duration,
    ) -> Vec<HotPrefix> {
        if !self.is_open(now) {
            *self = Self {
                since: Some(now),
                window: now,
                ..self.restarted()
            };
        }
        self.last = now;
        let since = self.since.unwrap_or(now);
        // A request that was sent before counting began was not counted as sent.
        if sent_at <= since {
            return Vec::new();
        }
        let window = (now.saturating_sub(sent_at) * 2).clamp(WINDOW.0, WINDOW.1);
        let hot = if now >= self.window + window {
            self.fold(now)
        } else {
            Vec::new()
        };
        self.widen_base(key);
        self.count(key).refused += 1;
        hot
    }

    /// Returns true if a request for `key` may skip the queue: others are refused, and its piece
    /// never was.
    pub(super) fn may_skip_queue(&self, key: &str) -> bool {
        let was_never_refused = match key.strip_prefix(&*self.base).map(piece) {
            // No key outside `base` was refused.
            None => true,
            Some(piece) => match self.pieces.iter().find(|(known, _)| known == piece) {
                Some((_, count)) => {
                    let used_its_trials = count.accepted == 0 && count.trials >= TRIALS;
                    count.refused + count.refused_before == 0 && !used_its_trials
                }
                None => !piece.is_empty() && self.pieces.len() < PIECES,
            },
        };
        was_never_refused
            && self
                .pieces
                .iter()
                .any(|(_, count)| count.refused + count.refused_before >= AGAIN.1)
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
                // The piece was just pushed.
                self.pieces
                    .last_mut()
                    .map_or(&mut self.rest, |(_, count)| count)
            }
            None => &mut self.rest,
        }
    }

    /// Ends a window. Returns the prefixes that are throttled separately, once all windows together
    /// show that.
    fn fold(&mut self, now: Duration) -> Vec<HotPrefix> {
        let all = self
            .pieces
            .iter()
            .map(|(_, count)| *count)
            .chain([self.rest]);
        let (sent, refused) = all.fold((0, 0), |sum, c| (sum.0 + c.sent, sum.1 + c.refused));
        let share = f64::from(refused) / f64::from(sent.max(1));
        self.window = now;
        for count in self
            .pieces
            .iter_mut()
            .map(|(_, count)| count)
            .chain([&mut self.rest])
        {
            count.fold(share);
        }
        if let [(piece, count)] = &self.pieces[..]
            && count.sent_before >= PLENTY
            && self.rest.sent_before * 50 < count.sent_before
        {
            if self.base.len() + piece.len() <= DEEPEST {
                let base = format!("{}{piece}", self.base);
                *self = Self::at(std::mem::take(&mut self.home), base);
            }
            return Vec::new();
        }
        let seconds = now
            .saturating_sub(self.since.unwrap_or(now))
            .as_secs_f64()
            .max(0.1);
        let hot: Vec<_> = self
            .pieces
            .iter()
            .filter(|(_, count)| count.is_hot())
            .collect();
        if hot.is_empty() || !self.pieces.iter().any(|(_, count)| count.is_cold()) {
            return Vec::new();
        }
        let hot = hot.into_iter().map(|(piece, count)| HotPrefix {
            prefix: format!("{}{piece}", self.base),
            accepted: f64::from(count.sent_before.saturating_sub(count.refused_before)) / seconds,
        });
        let hot = hot.collect();
        *self = self.restarted();
        hot
    }
}

/// Returns the first piece of the rest of a key.
fn piece(rest: &str) -> &str {
    let mut ends = rest
        .char_indices()
        .map(|(at, character)| (at + character.len_utf8(), character));
    let slash = ends
        .by_ref()
        .take_while(|(end, _)| *end <= LONGEST)
        .find(|(_, character)| *character == '/');
    let end = match slash {
        Some((end, _)) => end,
        None => rest
            .char_indices()
            .nth(CHARACTERS)
            .map_or(rest.len(), |(at, _)| at),
    };
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pieces_end_at_slashes_or_after_two_characters() {
        for (rest, expected) in [
            ("a/b/c", "a/"),
            ("/x", "/"),
            ("0123", "01"),
            ("äöü", "äö"),
            ("x", "x"),
            ("", ""),
        ] {
            assert_eq!(piece(rest), expected, "{rest}");
        }
        let long = format!("{}/", "y".repeat(100));
        assert_eq!(piece(&long), "yy");
    }

    /// Sends requests round robin over these keys. `refuse` returns true for throttled requests.
    /// Stops at the first hot prefix.
    fn drive(
        base: &str,
        keys: &[&str],
        refuse: impl Fn(usize, &str) -> bool,
    ) -> (usize, Vec<HotPrefix>) {
        let mut stats = ThrottleStats::new(base);
        for round in 0..2000 {
            let now = MS * u32::try_from(round).unwrap();
            let key = keys[round % keys.len()];
            if stats.is_open(now) {
                stats.sent(key);
            }
            if refuse(round, key) {
                let hot = stats.throttled(key, now, now + MS);
                if !hot.is_empty() {
                    return (round, hot);
                }
            } else if stats.is_open(now) {
                stats.accepted(key);
            }
        }
        (2000, Vec::new())
    }

    #[test]
    fn a_prefix_that_is_throttled_alone_is_found_soon() {
        let keys = ["a/1", "b/1", "c/1", "hot/1", "d/1", "hot/2"];
        let (rounds, hot) = drive("", &keys, |round, key| {
            key.starts_with("hot/") && round % 2 == 1
        });
        assert_eq!(
            hot.iter().map(|hot| &*hot.prefix).collect::<Vec<_>>(),
            ["hot/"]
        );
        assert!(rounds < 1000, "{rounds}");
        let (_, hot) = drive("", &["a/1", "b/1", "c/1", "d/1"], |_, key| key < "c");
        assert_eq!(hot.len(), 2, "{hot:?}");
    }

    #[test]
    fn all_throttled_alike_is_one_lane() {
        let keys = ["a/1", "b/1", "c/1", "d/1", "e/1"];
        for every in [3, 7, 53] {
            assert_eq!(drive("", &keys, |round, _| round % every == 0).1, []);
        }
        // A hundred prefixes are too many to distinguish.
        let many: Vec<String> = (0..100).map(|n| format!("{n:03}/x")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(drive("", &many, |round, _| round % 7 == 0).1, []);
        // Keys come in order, so each piece is requested at another time and at another rate.
        let mut stats = ThrottleStats::new("");
        for round in 0..10_000u32 {
            let (now, key) = (MS * round, format!("{:02}x", round / 400));
            if stats.is_open(now) {
                stats.sent(&key);
            }
            if round % 400 < 300 - round / 40 {
                assert_eq!(stats.throttled(&key, now, now), [], "at {round}");
            }
        }
        // There is only one prefix, and nothing to compare it with.
        assert_eq!(drive("", &["a/x"], |round, _| round % 2 == 0).1, []);
    }

    #[test]
    fn a_key_that_was_never_refused_may_skip_the_queue() {
        let mut stats = ThrottleStats::new("");
        assert!(!stats.may_skip_queue("cold/1"), "nothing is refused");
        for round in 1..10 {
            stats.sent("hot/1");
            stats.throttled("hot/1", MS * round, MS * round);
        }
        assert!(stats.may_skip_queue("cold/1") && !stats.may_skip_queue("hot/2"));
        stats.sent("cold/1");
        assert!(stats.may_skip_queue("cold/2"));
        stats.throttled("cold/1", MS * 20, MS * 20);
        assert!(!stats.may_skip_queue("cold/2") && !stats.may_skip_queue(""));
    }

    #[test]
    fn refusals_before_an_acceptance_are_forgotten() {
        let mut stats = ThrottleStats::new("");
        for round in 1..40 {
            stats.sent("a/1");
            stats.throttled("a/1", MS * 50 * round, MS * 50 * round + MS);
        }
        stats.accepted_again("b/1");
        assert!(
            stats.may_skip_queue("c/1"),
            "no refused piece is accepted yet"
        );
        stats.accepted_again("a/2");
        assert!(!stats.may_skip_queue("c/1") && !stats.is_open(MS * 2001));
    }

    /// Each new piece is spared until its first refusal arrives, many windows after its first
    /// request.
    #[test]
    fn where_everything_is_refused_nothing_is_split_and_few_requests_go_ahead() {
        let (mut stats, mut now, mut ahead) = (ThrottleStats::new("a/"), Duration::ZERO, 0);
        for piece in 0..200 {
            let key = format!("a/{piece:03}/x");
            let sent_at = now;
            for _ in 0..40 {
                let before = now;
                now += MS * 20;
                if stats.may_skip_queue(&key) {
                    ahead += 1;
                    assert_eq!(stats.skipped_queue(&key, 1.0, now), []);
                } else if stats.is_open(now) {
                    stats.sent(&key);
                }
                // Others are refused meanwhile.
                assert_eq!(stats.throttled("a/000/x", before, now), []);
            }
            assert_eq!(stats.throttled(&key, sent_at, now), []);
        }
        assert!(ahead <= 32 * TRIALS, "{ahead} requests skipped the queue");
    }

    /// Keys come in order, the throttled ones first. When the others come, no request is refused
    /// any more, because the rate has been lowered for the first ones.
    #[test]
    fn a_cold_prefix_that_comes_late_is_told_from_the_hot_one_before_it() {
        let mut stats = ThrottleStats::new("");
        let mut now = Duration::ZERO;
        for round in 0..2000 {
            now += MS;
            let key = format!("hot/2026/{round:04}");
            stats.sent(&key);
            if round % 5 == 0 {
                assert_eq!(stats.throttled(&key, now, now + MS), []);
            }
        }
        assert!(stats.base.starts_with("hot/2026/"), "{}", stats.base);
        let mut skips = 0;
        let found = loop {
            now += MS * 50;
            stats.sent("hot/2026/x");
            assert!(stats.may_skip_queue("cold/2026/x"), "after {skips}");
            skips += 1;
            let hot = stats.skipped_queue("cold/2026/x", 0.25, now);
            stats.accepted("cold/2026/x");
            if !hot.is_empty() {
                break hot;
            }
        };
        assert_eq!(found[0].prefix, "hot/");
        assert!((28..40).contains(&skips), "{skips}");
    }

    #[test]
    fn a_prefix_that_all_keys_share_is_skipped() {
        let keys = [
            "lake/events/2026/1",
            "lake/logs/2026/1",
            "lake/events/2025/1",
            "lake/raw/1",
        ];
        let (_, hot) = drive("", &keys, |_, key| key.contains("logs"));
        assert_eq!(hot[0].prefix, "lake/logs/");
        let (_, hot) = drive(
            "lake/",
            &["lake/e0f1", "lake/11aa", "lake/e0aa", "lake/77"],
            |_, key| key.starts_with("lake/77"),
        );
        assert_eq!(hot[0].prefix, "lake/77");
    }
}
