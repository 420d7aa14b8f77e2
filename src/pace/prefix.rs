//! Which keys are throttled: all of a bucket's, or those behind one prefix. Pure.
//!
//! S3 partitions a bucket by leading strings of its keys, anywhere and not only at slashes, and
//! tells nobody where. What can be seen is who is refused. While refusals come, requests are
//! counted by the next *piece* of their key: up to its next slash, or two characters where there is
//! none. In each fraction of a second, every piece has its share of the refusals to expect: keys
//! mostly come in order, and what is refused now cannot be compared with what went through a
//! second ago, at another rate. When some pieces are refused again and again, and another one that
//! was there at the same times is spared although chance would hardly do that, the former lie in
//! partitions of their own. When all keys share one piece, that tells nothing, and the next one is
//! looked at, until a key comes that does not share it. Only as many pieces are counted as are
//! worth a lane each; the others are counted together.
//!
//! Behind a long line of requests for hot keys a cold one would hardly be tried, and nobody would
//! ever find out that it is cold. So requests whose piece was never refused may go ahead of the
//! line now and then ([`Evidence::may_scout`]). They are more than the server takes of those in
//! line; that it takes them all the same tells more than an answer in turn.
//!
//! A piece is cold only if its requests were *accepted*. Where everything is refused, each new
//! piece looks spared until its first refusal arrives, and a lane would be split again and again
//! for no reason. So a piece of which nothing was accepted yet sends no more than [`TRIALS`]
//! requests ahead of the line.

use std::time::Duration;

/// Pieces that are counted one by one.
const PIECES: usize = 32;
/// A piece ends here even without a slash.
const LONGEST: usize = 64;
/// Characters of a piece where no slash comes.
const CHARACTERS: usize = 2;
/// The depth in a key up to which pieces are looked for, in bytes.
const DEEPEST: usize = 256;
/// Refusals that belong together come within this time.
const TOGETHER: Duration = Duration::from_secs(10);
/// Requests that must have been seen before a shared piece is passed by.
const PLENTY: u32 = 100;
/// Requests within so short and so long a time are compared with each other: two times what a
/// refusal takes.
const WINDOW: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// Windows in which a piece must have been refused to be hot, or spared to be cold, and refusals
/// that make it hot.
const AGAIN: (u32, u32) = (3, 5);
/// Requests that a piece may send ahead of the line before the first of them is accepted.
const TRIALS: u32 = 3;
/// A piece is spared by chance once in so many times, as a logarithm: e^7 is a thousand.
const ODDS: f64 = 7.0;

/// Who was refused, below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// The prefix of all keys.
    home: String,
    /// The prefix of all recent keys.
    base: String,
    since: Option<Duration>,
    /// The last refusal.
    last: Duration,
    window: Duration,
    pieces: Vec<(String, Count)>,
    rest: Count,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// In this window.
    sent: u32,
    refused: u32,
    /// In all windows, since the counting began.
    accepted: u32,
    /// Requests ahead of the line.
    trials: u32,
    /// Those that were more than the server takes, weighed by how likely it was to refuse them for
    /// that.
    scouted: f64,
    /// In all windows before.
    sent_before: u32,
    refused_before: u32,
    /// Refusals that the piece would have had, had all been refused alike.
    expected: f64,
    /// Windows with refusals, and those in which it was spared.
    hot: u32,
    spared: u32,
}

impl Count {
    /// Ends a window in which this share of all requests was refused.
    fn fold(&mut self, share: f64) {
        let expected = f64::from(self.sent) * share + std::mem::take(&mut self.scouted);
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

    /// Both as one.
    fn and(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            refused: self.refused + other.refused,
            accepted: self.accepted + other.accepted,
            trials: self.trials + other.trials,
            scouted: self.scouted + other.scouted,
            sent_before: self.sent_before + other.sent_before,
            refused_before: self.refused_before + other.refused_before,
            expected: self.expected + other.expected,
            hot: self.hot.max(other.hot),
            spared: self.spared.min(other.spared),
        }
    }
}

/// A prefix that is throttled by itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hot {
    pub(super) prefix: String,
    /// Requests a second that were accepted meanwhile.
    pub(super) accepted: f64,
}

impl Evidence {
    /// Nothing is known about the keys that begin with `home`.
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

    /// Returns true if requests have to be counted at `now`; nothing is counted while nothing is
    /// refused.
    pub(super) fn is_open(&self, now: Duration) -> bool {
        self.since.is_some() && now <= self.last + TOGETHER
    }

    /// Starts over, and returns what was counted so far.
    fn anew(&mut self) -> Self {
        Self::at(
            std::mem::take(&mut self.home),
            std::mem::take(&mut self.base),
        )
    }

    /// Takes note of a request for `key`.
    pub(super) fn sent(&mut self, key: &str) {
        self.meet(key);
        self.count(key).sent += 1;
    }

    /// Takes note of a request for `key` that goes ahead of the line, and that the server would
    /// refuse with this probability if it counted the key with those in line. Returns the prefixes
    /// that are throttled alone, once that is clear.
    pub(super) fn scouted(&mut self, key: &str, odds: f64, now: Duration) -> Vec<Hot> {
        self.meet(key);
        let hot = if now >= self.window + WINDOW.1 {
            self.fold(now)
        } else {
            Vec::new()
        };
        let count = self.count(key);
        count.sent += 1;
        count.trials += 1;
        count.scouted += odds;
        hot
    }

    /// Takes note that a request for `key` was accepted.
    pub(super) fn accepted(&mut self, key: &str) {
        self.meet(key);
        self.count(key).accepted += 1;
    }

    /// Takes note that a request for `key` was accepted in its turn although everything had been
    /// refused before. If its own kind had been refused too, that is over, and says nothing about
    /// keys that were refused then and others that are accepted now.
    pub(super) fn accepted_again(&mut self, key: &str) {
        self.meet(key);
        let count = self.count(key);
        if count.refused + count.refused_before >= AGAIN.1 {
            *self = self.anew();
        } else {
            count.accepted += 1;
        }
    }

    /// Notes a key. If it does not begin as all others did, those others are one piece.
    fn meet(&mut self, key: &str) {
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

    /// Takes note that the request for `key` that was sent at `sent_at` was throttled. Returns the
    /// prefixes that are throttled alone, once that is clear.
    pub(super) fn throttled(&mut self, key: &str, sent_at: Duration, now: Duration) -> Vec<Hot> {
        if !self.is_open(now) {
            *self = Self {
                since: Some(now),
                window: now,
                ..self.anew()
            };
        }
        self.last = now;
        let since = self.since.unwrap_or(now);
        // What was sent before the counting began is not among those counted.
        if sent_at <= since {
            return Vec::new();
        }
        let window = (now.saturating_sub(sent_at) * 2).clamp(WINDOW.0, WINDOW.1);
        let hot = if now >= self.window + window {
            self.fold(now)
        } else {
            Vec::new()
        };
        self.meet(key);
        self.count(key).refused += 1;
        hot
    }

    /// Returns true if a request for `key` may go ahead of the line: somebody is refused, and its
    /// piece never was.
    pub(super) fn may_scout(&self, key: &str) -> bool {
        let is_innocent = match key.strip_prefix(&*self.base).map(piece) {
            // None that begins like this was refused.
            None => true,
            Some(piece) => match self.pieces.iter().find(|(known, _)| known == piece) {
                Some((_, count)) => {
                    let is_tried = count.accepted == 0 && count.trials >= TRIALS;
                    count.refused + count.refused_before == 0 && !is_tried
                }
                None => !piece.is_empty() && self.pieces.len() < PIECES,
            },
        };
        is_innocent
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
                // Just pushed.
                self.pieces
                    .last_mut()
                    .map_or(&mut self.rest, |(_, count)| count)
            }
            None => &mut self.rest,
        }
    }

    /// Ends a window and looks at what all of them say together.
    fn fold(&mut self, now: Duration) -> Vec<Hot> {
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
        let hot = hot.into_iter().map(|(piece, count)| Hot {
            prefix: format!("{}{piece}", self.base),
            accepted: f64::from(count.sent_before.saturating_sub(count.refused_before)) / seconds,
        });
        let hot = hot.collect();
        *self = self.anew();
        hot
    }
}

/// Returns the next piece of what is left of a key.
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

    /// Sends requests round robin over these keys; `refuse` says which are throttled. Ends with the
    /// first verdict.
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
            } else if evidence.is_open(now) {
                evidence.accepted(key);
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
        // A hundred prefixes are more than can be told apart.
        let many: Vec<String> = (0..100).map(|n| format!("{n:03}/x")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(drive("", &many, |round, _| round % 7 == 0).1, []);
        // Keys that come in order: each piece has its time, and another rate.
        let mut evidence = Evidence::new("");
        for round in 0..10_000u32 {
            let (now, key) = (MS * round, format!("{:02}x", round / 400));
            if evidence.is_open(now) {
                evidence.sent(&key);
            }
            if round % 400 < 300 - round / 40 {
                assert_eq!(evidence.throttled(&key, now, now), [], "at {round}");
            }
        }
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
    fn what_was_refused_in_an_outage_is_not_told_from_what_comes_after_it() {
        let mut evidence = Evidence::new("");
        for round in 1..40 {
            evidence.sent("a/1");
            evidence.throttled("a/1", MS * 50 * round, MS * 50 * round + MS);
        }
        evidence.accepted_again("b/1");
        assert!(
            evidence.may_scout("c/1"),
            "nobody that was refused is accepted"
        );
        evidence.accepted_again("a/2");
        assert!(!evidence.may_scout("c/1") && !evidence.is_open(MS * 2001));
    }

    /// Each new piece is spared until its first refusal arrives, many windows after its first
    /// request.
    #[test]
    fn where_everything_is_refused_nothing_is_split_and_few_requests_go_ahead() {
        let (mut evidence, mut now, mut ahead) = (Evidence::new("a/"), Duration::ZERO, 0);
        for piece in 0..200 {
            let key = format!("a/{piece:03}/x");
            let sent_at = now;
            for _ in 0..40 {
                let before = now;
                now += MS * 20;
                if evidence.may_scout(&key) {
                    ahead += 1;
                    assert_eq!(evidence.scouted(&key, 1.0, now), []);
                } else if evidence.is_open(now) {
                    evidence.sent(&key);
                }
                // Others are refused meanwhile.
                assert_eq!(evidence.throttled("a/000/x", before, now), []);
            }
            assert_eq!(evidence.throttled(&key, sent_at, now), []);
        }
        assert!(
            ahead <= 32 * TRIALS,
            "{ahead} requests went ahead of the line"
        );
    }

    /// Keys come in order: first those that are throttled, and when the others come nobody is
    /// refused any more, because the rate is what the first ones need.
    #[test]
    fn a_cold_prefix_that_comes_late_is_told_from_the_hot_one_before_it() {
        let mut evidence = Evidence::new("");
        let mut now = Duration::ZERO;
        for round in 0..2000 {
            now += MS;
            let key = format!("hot/2026/{round:04}");
            evidence.sent(&key);
            if round % 5 == 0 {
                assert_eq!(evidence.throttled(&key, now, now + MS), []);
            }
        }
        assert!(evidence.base.starts_with("hot/2026/"), "{}", evidence.base);
        let mut scouts = 0;
        let found = loop {
            now += MS * 50;
            evidence.sent("hot/2026/x");
            assert!(evidence.may_scout("cold/2026/x"), "after {scouts}");
            scouts += 1;
            let hot = evidence.scouted("cold/2026/x", 0.25, now);
            evidence.accepted("cold/2026/x");
            if !hot.is_empty() {
                break hot;
            }
        };
        assert_eq!(found[0].prefix, "hot/");
        assert!((28..40).contains(&scouts), "{scouts}");
    }

    #[test]
    fn what_all_keys_share_is_passed_by() {
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
