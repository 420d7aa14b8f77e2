//! Treats keys as numbers: computes the position of a key between two others, and the text halfway
//! between two keys.
//!
//! A key is a fraction whose digits are its characters, in the order of their code points, which is
//! the order of S3's lists. Only characters that occur in keys are digits. So hexadecimal names
//! have sixteen digits, and the midpoint between `0…` and the end is `8…`, not a character between
//! `9` and `a`.
//!
//! Many keys have a fixed form: `year=2026/month=03/day=17/…`. At most positions, only one or a few
//! characters occur in such keys. If every character counted as a digit everywhere, almost no keys
//! would come before the midpoint of a directory. So each position gets its own digits once enough
//! different beginnings of keys show the same characters there ([`KeyPosition`]). The leading zeros
//! of a counter do not count, because they all follow the same beginning.

use std::collections::BTreeSet;

/// The number of characters of a key that make up its number. More would exceed the precision.
const DIGITS: usize = 8;
/// The number of different beginnings that must show the same characters at a position before other
/// characters are ruled out.
const BEGINNINGS: usize = 6;
/// The number of byte positions with their own characters.
const PLACES: usize = 128;
/// The maximum number of characters that are distinguished. Keys in Chinese may have thousands of
/// characters. Further characters lie between their neighbors.
const MAX_CHARACTERS: usize = 4096;

/// The characters that occur in keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Alphabet {
    /// The ASCII characters, one bit each.
    ascii: u128,
    /// The other characters.
    others: BTreeSet<char>,
    /// All characters, in order.
    sorted: Vec<char>,
    /// The byte positions after the prefix.
    places: Vec<KeyPosition>,
}

/// One position in the keys.
#[derive(Clone, Debug, Default)]
struct KeyPosition {
    /// The ASCII characters that occurred here.
    ascii: u128,
    /// True if a byte outside ASCII occurred here.
    has_others: bool,
    /// Hashes of the different beginnings before this position, since its last new character.
    beginnings: Vec<u64>,
}

impl KeyPosition {
    fn learn(&mut self, byte: u8, beginning: u64) {
        self.has_others |= !byte.is_ascii();
        let bit = 1_u128.checked_shl(byte.into()).unwrap_or_default();
        if self.ascii & bit != bit {
            self.ascii |= bit;
            self.beginnings.clear();
        }
        if self.beginnings.len() < BEGINNINGS && !self.beginnings.contains(&beginning) {
            self.beginnings.push(beginning);
        }
    }

    /// Returns the characters of this position, if other characters are unlikely.
    fn settled(&self) -> Option<Characters> {
        let is_settled = self.beginnings.len() >= BEGINNINGS && !self.has_others;
        is_settled.then_some(Characters(self.ascii))
    }
}

/// A non-empty set of ASCII characters.
#[derive(Clone, Copy, Debug)]
struct Characters(u128);

impl Characters {
    fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Returns how many of the characters come before `char`, and true if it is one of them.
    fn find(self, char: char) -> (u32, bool) {
        match 1_u128.checked_shl(char.into()) {
            Some(bit) => ((self.0 & (bit - 1)).count_ones(), self.0 & bit == bit),
            None => (self.count(), false),
        }
    }

    fn get(self, index: u32) -> Option<char> {
        let mut left = self.0;
        for _ in 0..index {
            left &= left.wrapping_sub(1);
        }
        u8::try_from(left.trailing_zeros()).ok().map(char::from)
    }
}

impl Alphabet {
    /// Learns the characters of a key from the end of its prefix on.
    pub(super) fn learn(&mut self, text: &str) {
        let mut beginning = 0xcbf2_9ce4_8422_2325_u64;
        let places = text.len().min(PLACES).max(self.places.len());
        self.places.resize_with(places, KeyPosition::default);
        for (place, byte) in self.places.iter_mut().zip(text.bytes()) {
            place.learn(byte, beginning);
            beginning = (beginning ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut grown = false;
        for char in text.chars() {
            if char.is_ascii() {
                let bit = 1 << u32::from(char);
                grown |= self.ascii & bit == 0;
                self.ascii |= bit;
            } else if self.others.len() < MAX_CHARACTERS {
                grown |= self.others.insert(char);
            }
        }
        if grown {
            let ascii = (0..128_u8)
                .filter(|byte| (self.ascii >> byte) & 1 == 1)
                .map(char::from);
            self.sorted = ascii.chain(self.others.iter().copied()).collect();
        }
    }

    fn settled(&self, place: usize) -> Option<Characters> {
        self.places.get(place)?.settled()
    }

    /// Returns the number of digits: one per character, one for the end of a key, which sorts
    /// before all characters, and one for characters after the last one.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    fn base(&self) -> f64 {
        self.sorted.len() as f64 + 2.0
    }

    /// Returns the value of a text at a position, from 0 for the empty text to 1 after all texts.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    pub(super) fn value(&self, text: &str, place: usize) -> f64 {
        let (mut value, mut unit, mut digits) = (0.0, 1.0, 0);
        for (at, char) in text.char_indices() {
            if let Some(characters) = self.settled(place + at) {
                let (before, is_one) = characters.find(char);
                let count = characters.count();
                // A position with only one character carries no information.
                if count == 1 && is_one {
                    continue;
                }
                unit /= f64::from(count);
                value += unit * f64::from(before);
                if !is_one {
                    break;
                }
            } else {
                unit /= self.base();
                let before = self.sorted.partition_point(|known| *known < char);
                value += unit * (before as f64 + 1.0);
            }
            digits += 1;
            if digits == DIGITS {
                break;
            }
        }
        value
    }

    /// Returns a short text that has about this value at this position.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a digit is at least 0"
    )]
    pub(super) fn text(&self, value: f64, precision: f64, place: usize) -> String {
        let (mut rest, mut unit, mut text, mut digits) = (value, 1.0, String::new(), 0);
        while digits < DIGITS && (digits == 0 || unit > precision) {
            let characters = self.settled(place + text.len());
            if let Some(characters) = characters.filter(|characters| characters.count() == 1) {
                text.extend(characters.get(0));
                continue;
            }
            let base = characters.map_or(self.base(), |characters| f64::from(characters.count()));
            rest *= base;
            unit /= base;
            digits += 1;
            let digit = rest.floor();
            rest -= digit;
            let digit = digit as usize;
            let char = if let Some(characters) = characters {
                let last = characters.count() - 1;
                characters.get(u32::try_from(digit).unwrap_or(last).min(last))
            } else {
                let last = self.sorted.len().saturating_sub(1);
                let index = digit.checked_sub(1).map(|index| index.min(last));
                index.and_then(|index| self.sorted.get(index)).copied()
            };
            let Some(char) = char else { break };
            text.push(char);
        }
        text
    }
}

/// Returns the length in bytes of the common prefix of two texts, in whole characters.
pub(super) fn common(one: &str, other: &str) -> usize {
    let same = one
        .bytes()
        .zip(other.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    (0..=same)
        .rev()
        .find(|at| one.is_char_boundary(*at))
        .unwrap_or(0)
}

/// Returns the next character that is safe to send: no control character, no surrogate, and none
/// that XML forbids.
pub(super) fn next_char(char: char) -> Option<char> {
    let next = match u32::from(char) {
        0..0x20 => 0x20,
        0x7e..0xa0 => 0xa0,
        0xd7ff => 0xe000,
        0xfffd => 0x10000,
        code => code + 1,
    };
    char::from_u32(next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(keys: &[&str]) -> Alphabet {
        let mut alphabet = Alphabet::default();
        for key in keys {
            alphabet.learn(key);
        }
        alphabet
    }

    #[test]
    fn the_middle_of_hexadecimal_names_is_the_middle_of_their_digits() {
        let alphabet = of(&["0123456789", "abcdef"]);
        let middle = alphabet.text(f64::midpoint(alphabet.value("0000", 0), 1.0), 0.1, 0);
        assert!(["7", "8"].contains(&middle.as_str()), "{middle}");
        let middle = alphabet.text(
            f64::midpoint(alphabet.value("80", 0), alphabet.value("90", 0)),
            0.01,
            0,
        );
        assert!(
            middle.starts_with('8') && ("86".."89").contains(&middle.as_str()),
            "{middle}"
        );
    }

    #[test]
    fn a_place_has_characters_of_its_own_once_different_beginnings_show_them() {
        let mut alphabet = Alphabet::default();
        for number in 0..100_000 {
            alphabet.learn(&format!("{number:08}"));
        }
        let settled = |alphabet: &Alphabet, place| {
            let characters = alphabet.settled(place).map(Characters::count);
            characters.unwrap_or_default()
        };
        assert_eq!(settled(&alphabet, 0), 0, "each key begins at this place");
        assert_eq!(settled(&alphabet, 2), 0, "all keys begin alike");
        assert_eq!(settled(&alphabet, 6), 10);
        let mut alphabet = Alphabet::default();
        for day in 0..700 {
            let (month, day) = (day / 28 % 12 + 1, day % 28 + 1);
            alphabet.learn(&format!("202{}/{month:02}/{day:02}/x", day % 7));
        }
        assert_eq!(
            (4..8)
                .map(|place| settled(&alphabet, place))
                .collect::<Vec<_>>(),
            [1, 2, 10, 1]
        );
        assert_eq!((settled(&alphabet, 8), settled(&alphabet, 10)), (3, 1));
        let value = |text| alphabet.value(text, 4);
        let middle = f64::midpoint(value("/03/01/x"), value("/09/30/x"));
        assert!(alphabet.text(middle, 0.001, 4).starts_with("/06/"));
        let difference = value("/") - value("");
        assert!(difference.abs() < 1e-9, "the only character says nothing");
    }

    #[test]
    fn what_texts_have_in_common_ends_at_a_character() {
        assert_eq!(common("é", "è"), 0, "both begin with the same byte");
        assert_eq!(
            (common("aé", "aè"), common("ab", "abc"), common("", "x")),
            (1, 2, 0)
        );
        assert_eq!(next_char('9'), Some(':'));
        assert_eq!(
            (next_char('~'), next_char('\u{d7ff}')),
            (Some('\u{a0}'), Some('\u{e000}'))
        );
        assert_eq!(
            (next_char('\u{1}'), next_char(char::MAX)),
            (Some(' '), None)
        );
    }

    proptest! {
        /// Texts that settled positions rule out share values with other texts, so equal values are
        /// allowed. Unknown characters share values too, so the test learns all characters of the
        /// texts.
        #[test]
        fn values_are_in_the_order_of_texts_where_places_are_settled(
            days in proptest::collection::vec((0..4_u32, 0..13_u32, 0..32_u32), 30..60),
            one in "[0-4a]/[01]{2}/[0-3é][0-9]/x|[0-9/]{0,8}",
            other in "[0-4a]/[01]{2}/[0-3é][0-9]/x|[0-9/]{0,8}",
            place in 0..3_usize,
            value in 0.0..1.0_f64,
        ) {
            let mut alphabet = of(&["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a"]);
            for (year, month, day) in days {
                alphabet.learn(&format!("{year}/{month:02}/{day:02}/x"));
            }
            let (one_at, other_at) = (alphabet.value(&one, place), alphabet.value(&other, place));
            if one < other {
                prop_assert!(one_at <= other_at, "{} {}", one_at, other_at);
            }
            prop_assert!((0.0..=1.0).contains(&one_at));
            let text = alphabet.text(value, 1e-6, place);
            prop_assert!((alphabet.value(&text, place) - value).abs() < 0.3, "{}", text);
        }

        #[test]
        fn values_are_in_the_order_of_texts(
            learned in proptest::collection::vec("[a-zé/0-9]{0,6}", 0..3),
            one in "[a-z0-9éü/]{0,8}",
            other in "[a-z0-9éü/]{0,8}",
        ) {
            let mut alphabet = of(&learned.iter().map(String::as_str).collect::<Vec<_>>());
            alphabet.learn(&one);
            alphabet.learn(&other);
            let (one_at, other_at) = (alphabet.value(&one, 0), alphabet.value(&other, 0));
            prop_assert_eq!(one.cmp(&other), one_at.total_cmp(&other_at));
            prop_assert!(one_at < 1.0);
        }
    }
}
