//! Treats keys as numbers: computes where a key lies between two others, and which text lies in the
//! middle between them.
//!
//! A key is a fraction whose digits are its characters, in the order of their code points, which is
//! the order of S3's lists. Only characters that occur in keys are digits. Hexadecimal names then
//! have sixteen digits, and the middle between `0…` and the end is `8…`, not a character between
//! `9` and `a`.

use std::collections::BTreeSet;

/// Characters of a key that a number is made of. More would not fit the precision.
const DIGITS: usize = 8;
/// Characters that are kept apart. Keys in Chinese have thousands; what is beyond lies between its
/// neighbours.
const MOST: usize = 4096;

/// The characters that keys are made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Alphabet {
    ascii: u128,
    others: BTreeSet<char>,
    /// All of them, in order.
    sorted: Vec<char>,
}

impl Alphabet {
    /// Takes the characters of a key in.
    pub(super) fn learn(&mut self, text: &str) {
        let mut grown = false;
        for char in text.chars() {
            if char.is_ascii() {
                let bit = 1 << u32::from(char);
                grown |= self.ascii & bit == 0;
                self.ascii |= bit;
            } else if self.others.len() < MOST {
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

    /// One more than there are characters, because a key that ends comes before all that go on, and
    /// one for characters behind the last.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    fn base(&self) -> f64 {
        self.sorted.len() as f64 + 2.0
    }

    /// Returns the position of a text among all texts: 0 is the empty one, 1 is behind all.
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    pub(super) fn value(&self, text: &str) -> f64 {
        let (mut value, mut unit) = (0.0, 1.0);
        for char in text.chars().take(DIGITS) {
            unit /= self.base();
            value += unit * (self.sorted.partition_point(|known| *known < char) as f64 + 1.0);
        }
        value
    }

    /// A short text whose value is about this one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a digit is at least 0"
    )]
    pub(super) fn text(&self, value: f64, precision: f64) -> String {
        let (mut rest, mut unit, mut text) = (value, 1.0, String::new());
        while text.chars().count() < DIGITS && (text.is_empty() || unit > precision) {
            rest *= self.base();
            unit /= self.base();
            let digit = rest.floor();
            rest -= digit;
            let Some(index) = (digit as usize).checked_sub(1) else {
                break;
            };
            match self
                .sorted
                .get(index.min(self.sorted.len().saturating_sub(1)))
            {
                Some(char) => text.push(*char),
                None => break,
            }
        }
        text
    }
}

/// Returns the bytes that two texts begin with alike, up to whole characters.
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

/// Returns the next character that can be sent without trouble: no control character, no surrogate,
/// and none that XML forbids.
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
        let middle = alphabet.text(f64::midpoint(alphabet.value("0000"), 1.0), 0.1);
        assert!(["7", "8"].contains(&middle.as_str()), "{middle}");
        let middle = alphabet.text(
            f64::midpoint(alphabet.value("80"), alphabet.value("90")),
            0.01,
        );
        assert!(
            middle.starts_with('8') && ("86".."89").contains(&middle.as_str()),
            "{middle}"
        );
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
        #[test]
        fn values_are_in_the_order_of_texts(
            learned in proptest::collection::vec("[a-zé/0-9]{0,6}", 0..10),
            one in "[a-z0-9éü/]{0,8}",
            other in "[a-z0-9éü/]{0,8}",
        ) {
            let mut alphabet = of(&learned.iter().map(String::as_str).collect::<Vec<_>>());
            alphabet.learn(&one);
            alphabet.learn(&other);
            prop_assert_eq!(one.cmp(&other), alphabet.value(&one).total_cmp(&alphabet.value(&other)));
            prop_assert!(alphabet.value(&one) < 1.0);
        }
    }
}
