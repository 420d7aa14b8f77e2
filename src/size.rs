//! Byte sizes, byte rates, and durations as people write them in manifests and on command lines.
//!
//! `64M` means 64,000,000 bytes to some tools and 67,108,864 to others, and any difference in part
//! size changes every multipart `ETag`. So a unit must be binary (`KiB`, `MiB`, `GiB`, `TiB`) or
//! plain bytes (`B`). Anything else is refused with a message that suggests the right form.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// One kibibyte in bytes.
pub const KIB: u64 = 1 << 10;
/// One mebibyte in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;
/// One tebibyte in bytes.
pub const TIB: u64 = 1 << 40;

const UNITS: [(&str, u64); 5] = [
    ("TiB", TIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("B", 1),
];

/// A number of bytes, written with a unit: for instance `64MiB` or `1.5GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Bytes per second, written as a [`ByteSize`] with an optional `/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

/// The reason why a size, a rate, or a duration is refused. The message suggests the right form.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    /// The text has no number, or a malformed one.
    #[error("`{0}` is not a size: write a number and a unit, for instance 64MiB")]
    NotANumber(String),
    /// The text has no unit, or an ambiguous one.
    #[error("`{text}` has no binary unit: write {suggestion}")]
    Unit {
        /// The text as typed.
        text: String,
        /// The text that the user probably meant.
        suggestion: String,
    },
    /// The size is 2^64 bytes or more, or not a whole number of bytes.
    #[error("`{0}` is not a whole number of bytes below 16 EiB")]
    OutOfRange(String),
    /// The text is not a duration.
    #[error("`{0}` is not a duration: write for instance 30s, 15m, 2h, 1d, or 2w")]
    Duration(String),
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let digits = text.len()
            - text
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '_')
                .len();
        let (number, unit) = text.split_at(digits);
        let (number, unit) = (number.replace('_', ""), unit.trim());
        if number.is_empty() || number.ends_with('.') {
            return Err(SizeError::NotANumber(text.to_owned()));
        }
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(SizeError::Unit {
                text: text.to_owned(),
                suggestion: suggest(&number, unit),
            });
        };
        scale(&number, *factor)
            .map(Self)
            .ok_or_else(|| SizeError::OutOfRange(text.to_owned()))
    }
}

/// Suggests a replacement with exact values, because tools disagree whether `M` means 1,000^2 or
/// 1,024^2, and `Mbit` counts bits.
fn suggest(number: &str, unit: &str) -> String {
    let lower = unit.to_ascii_lowercase();
    let prefix = lower.chars().next().and_then(|letter| "kmgtp".find(letter));
    let power = prefix.map_or(0, |prefix| u32::try_from(prefix).unwrap_or(0) + 1);
    let rest = &lower[usize::from(prefix.is_some())..];
    let (is_binary, base) = rest
        .strip_prefix('i')
        .map_or((false, rest), |base| (true, base));
    let is_bits = matches!(base, "bit" | "bits" | "bps")
        || (power > 0 && unit.ends_with('b') && unit.starts_with(char::is_uppercase));
    if is_bits {
        let thousand = if is_binary { KIB } else { 1000 };
        return suggest_for_bits(number, unit, thousand.pow(power));
    }
    let is_known = power > 0 && matches!(base, "" | "b");
    let suggestion = is_known.then(|| suggest_for_bytes(number, &lower[..1], power, is_binary));
    suggestion
        .flatten()
        .unwrap_or_else(|| format!("{number}B for bytes, or {number}MiB"))
}

/// Suggests the number of bytes in `number` times `factor` bits.
fn suggest_for_bits(number: &str, unit: &str, factor: u64) -> String {
    let bits = scale(number, factor).filter(|bits| bits.is_multiple_of(8));
    match bits.map(|bits| bits / 8) {
        Some(bytes) => format!(
            "{bytes}B ({number}{unit} is {} bytes)",
            display_count(bytes)
        ),
        None => "it in bytes, for instance 1250000B".to_owned(),
    }
}

/// Suggests the binary unit. If the typed unit was not binary, also suggests its decimal value.
fn suggest_for_bytes(number: &str, prefix: &str, power: u32, is_binary: bool) -> Option<String> {
    let binary = scale(number, KIB.pow(power))?;
    let decimal = scale(number, 1000_u64.pow(power))?;
    let exact = UNITS
        .iter()
        .find(|(_, factor)| binary.is_multiple_of(*factor) && binary >= *factor);
    let written = match exact {
        // `PiB` is not a known unit, so use TiB.
        Some((name, factor)) if prefix == "p" => format!("{}{name}", binary / factor),
        _ => format!("{number}{}iB", prefix.to_ascii_uppercase()),
    };
    if is_binary {
        return Some(written);
    }
    Some(format!(
        "{written} ({} bytes) or {decimal}B ({} bytes)",
        display_count(binary),
        display_count(decimal)
    ))
}

/// Returns `number` (digits with at most one decimal point) times `factor`, if the result is a
/// whole number.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut bytes = u128::from(whole) * u128::from(factor);
    if !fraction.is_empty() {
        let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = fraction
            .parse::<u128>()
            .ok()?
            .checked_mul(u128::from(factor))?;
        if part % scale != 0 {
            return None;
        }
        bytes += part / scale;
    }
    u64::try_from(bytes).ok()
}

impl ByteSize {
    /// Returns a text that parses to exactly the same size, for repeating a user's value.
    #[must_use]
    pub fn exact(self) -> String {
        let shown = self.to_string();
        if shown.parse() == Ok(self) {
            shown
        } else {
            format!("{}B", self.0)
        }
    }
}

impl fmt::Display for ByteSize {
    /// Writes the size exactly if its largest unit divides it. Otherwise rounds it down to two
    /// decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0;
        let (name, factor) = UNITS
            .iter()
            .find(|(_, factor)| bytes >= *factor)
            .unwrap_or(&("B", 1));
        if bytes.is_multiple_of(*factor) {
            return f.pad(&format!("{}{name}", bytes / factor));
        }
        let hundredths = u128::from(bytes) * 100 / u128::from(*factor);
        f.pad(&format!(
            "{}.{:02}{name}",
            hundredths / 100,
            hundredths % 100
        ))
    }
}

impl FromStr for ByteRate {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let trimmed = text.trim();
        trimmed
            .strip_suffix("/s")
            .unwrap_or(trimmed)
            .parse::<ByteSize>()
            .map(|size| Self(size.0))
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", ByteSize(self.0)))
    }
}

/// Parses `90s`, `15m`, `2h 30m`, or `1d`. A bare number is refused, because its unit would be a
/// guess.
///
/// # Errors
/// Returns [`SizeError::Duration`], whose message has examples.
pub fn parse_duration(text: &str) -> Result<Duration, SizeError> {
    let refuse = || SizeError::Duration(text.to_owned());
    let (mut rest, mut hours) = (text.trim(), 0_i64);
    // Weeks and days come first, and always have 168 and 24 hours.
    for (unit, factor) in [('w', 7 * 24), ('d', 24)] {
        if let Some((number, after)) = rest.split_once(unit)
            && let Ok(number) = number.trim_end().parse::<u32>()
        {
            hours = hours
                .checked_add(i64::from(number) * factor)
                .ok_or_else(refuse)?;
            rest = after.trim_start();
        }
    }
    let long = jiff::SignedDuration::from_hours(hours);
    let short: jiff::SignedDuration = match rest {
        "" if hours > 0 || rest != text.trim() => jiff::SignedDuration::ZERO,
        rest => rest.parse().map_err(|_| refuse())?,
    };
    let is_negative = short.is_negative();
    let span = long
        .checked_add(short)
        .filter(|_| !is_negative)
        .ok_or_else(refuse)?;
    Duration::try_from(span).map_err(|_| refuse())
}

/// Rounds to thousandths, so that the number survives a JSON round trip.
#[must_use]
pub fn to_thousandths(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// Formats a duration briefly enough for a progress line: `1h 02m`, `3m 20s`, `4.2s`.
#[must_use]
pub fn display_duration(duration: Duration) -> String {
    // From 59.95 seconds on, this format would round to 60.0s.
    if duration < Duration::from_millis(59_950) {
        return format!("{:.1}s", duration.as_secs_f64());
    }
    let seconds = duration.as_secs().max(60);
    match seconds {
        ..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// Formats `1234567` as `1,234,567`.
#[must_use]
pub fn display_count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats a count and a noun that forms its plural with s: `1 object`, `2,000 objects`.
#[must_use]
pub fn display_counted(count: u64, noun: &str) -> String {
    format!(
        "{} {noun}{}",
        display_count(count),
        by_number(count, "", "s")
    )
}

/// Returns `one` for a count of 1, otherwise `many`. Both are the ending of a noun, or a verb.
#[must_use]
pub const fn by_number<'t>(count: u64, one: &'t str, many: &'t str) -> &'t str {
    if count == 1 { one } else { many }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_binary_units_are_read_exactly() {
        for (text, bytes) in [
            ("0B", 0),
            ("64MiB", 64 * MIB),
            ("1.5GiB", 3 * GIB / 2),
            (" 5 TiB ", 5 * TIB),
            ("0.5KiB", 512),
            ("1_000B", 1000),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn ambiguous_units_are_refused_with_what_to_write() {
        for (text, remedy) in [
            ("64M", "64MiB"),
            ("64MB", "64MiB"),
            ("1g", "1GiB"),
            ("12", "12B"),
            ("5mib", "5MiB"),
        ] {
            let message = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(message.contains(remedy), "{message}");
        }
        for (text, remedy) in [
            (
                "64MB",
                "write 64MiB (67,108,864 bytes) or 64000000B (64,000,000 bytes)",
            ),
            (
                "5GB",
                "write 5GiB (5,368,709,120 bytes) or 5000000000B (5,000,000,000 bytes)",
            ),
            (
                "1.5T",
                "write 1.5TiB (1,649,267,441,664 bytes) or 1500000000000B (1,500,000,000,000 bytes)",
            ),
            (
                "2PB",
                "write 2048TiB (2,251,799,813,685,248 bytes) or 2000000000000000B",
            ),
            ("10Mbit", "write 1250000B (10Mbit is 1,250,000 bytes)"),
            ("1Gb", "write 125000000B (1Gb is 125,000,000 bytes)"),
            ("100kbps", "write 12500B (100kbps is 12,500 bytes)"),
            ("8Mibit", "write 1048576B (8Mibit is 1,048,576 bytes)"),
            ("1bit", "write it in bytes"),
            ("5 parsecs", "write 5B for bytes, or 5MiB"),
            ("5ü", "write 5B for bytes, or 5MiB"),
        ] {
            let message = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(message.contains(remedy), "{message}");
        }
        let message = "10Mbit/s".parse::<ByteRate>().unwrap_err().to_string();
        assert!(message.contains("write 1250000B"), "{message}");
        assert!(
            "MiB"
                .parse::<ByteSize>()
                .unwrap_err()
                .to_string()
                .contains("64MiB")
        );
        for wrong in ["0.3B", ".B", ".GiB", "5.GiB", "5_.GiB", "1.2.3GiB"] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
        assert!("99999999TiB".parse::<ByteSize>().is_err());
    }

    #[test]
    fn what_is_printed_exactly_reads_back() {
        for bytes in [0, 1, 1023, 1024, 5 * MIB, 53_687_091_200_000, GIB + MIB] {
            let shown = ByteSize(bytes).to_string();
            if !shown.contains('.') {
                assert_eq!(shown.parse(), Ok(ByteSize(bytes)));
            }
        }
        assert_eq!(ByteSize(1536 * MIB).to_string(), "1.50GiB");
        assert_eq!(
            (ByteSize(1536 * MIB).exact(), ByteSize(10_000_000).exact()),
            ("1.50GiB".into(), "10000000B".into())
        );
        assert_eq!(ByteRate(GIB).to_string(), "1GiB/s");
        assert_eq!("40GiB/s".parse(), Ok(ByteRate(40 * GIB)));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("15m"), Ok(Duration::from_mins(15)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_hours(48)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_duration("2w"), Ok(Duration::from_hours(14 * 24)));
        assert_eq!(
            parse_duration("1w 1d 12h"),
            Ok(Duration::from_hours(8 * 24 + 12))
        );
        assert_eq!(parse_duration("1d12h"), Ok(Duration::from_hours(36)));
        for wrong in ["", "d", "1d -1h", "1d 2d", "-1d", "w1"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert!(parse_duration("15").is_err());
        assert!(parse_duration("-3s").is_err());
    }

    #[test]
    fn durations_are_rounded_once() {
        for (millis, shown) in [
            (0, "0.0s"),
            (4_249, "4.2s"),
            (59_949, "59.9s"),
            (59_950, "1m 00s"),
            (59_960, "1m 00s"),
            (60_000, "1m 00s"),
            (200_999, "3m 20s"),
            (3_720_000, "1h 02m"),
        ] {
            assert_eq!(display_duration(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(display_count(0), "0");
        assert_eq!(display_counted(1, "object"), "1 object");
        assert_eq!(display_counted(2000, "open upload"), "2,000 open uploads");
        assert_eq!(display_count(999), "999");
        assert_eq!(display_count(53_687_091_200_000), "53,687,091,200,000");
    }
}
