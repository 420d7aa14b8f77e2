//! The initial content of a sandbox: objects, and copies of them.

use crate::location::S3Uri;
use crate::size::ByteSize;
use s3haul_sandbox::{Content, ObjectSpec, Sandbox};

/// The number of different sizes in a range of sizes. It is small enough to cache all checksums: if
/// the sandbox had to hash each object, a benchmark would measure the sandbox and not its clients.
const SIZES: u64 = 256;

/// Initial objects: one, or `count` below a prefix, of `smallest` to `largest` bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seed {
    pub(super) location: S3Uri,
    count: Option<u32>,
    smallest: ByteSize,
    largest: ByteSize,
}

/// Initial copies.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeedCopies {
    pub(super) from: S3Uri,
    pub(super) to: S3Uri,
}

/// Parses a seed: `s3://data/big.bin=1TiB`, `s3://data/s/=20000x64KiB`, or
/// `s3://data/s/=20000x64KiB-1MiB`.
pub(super) fn seed(text: &str) -> Result<Seed, String> {
    let (uri, size) = text
        .rsplit_once('=')
        .ok_or("write s3://bucket/key=SIZE, for instance s3://data/big.bin=1TiB")?;
    let location: S3Uri = uri.parse().map_err(|error| format!("{error}"))?;
    let (count, sizes) = match size.split_once('x') {
        Some((count, size)) => (
            Some(
                count
                    .parse()
                    .map_err(|_| format!("`{count}` is not a number of objects"))?,
            ),
            size,
        ),
        None => (None, size),
    };
    if location.key.is_prefix() != count.is_some() {
        return Err(format!(
            "{location}: an object takes a SIZE, a prefix a COUNTxSIZE such as 20000x64KiB"
        ));
    }
    let bytes = |text: &str| text.parse::<ByteSize>().map_err(|error| format!("{error}"));
    let (smallest, largest) = match sizes.split_once('-') {
        None => (bytes(sizes)?, bytes(sizes)?),
        Some(_) if count.is_none() => return Err(format!("{location}: one object has one SIZE")),
        Some((smallest, largest)) => (bytes(smallest)?, bytes(largest)?),
    };
    if smallest > largest {
        return Err(format!("{sizes}: write the smaller size first"));
    }
    Ok(Seed {
        location,
        count,
        smallest,
        largest,
    })
}

/// Parses a copy: `s3://data/s/=s3://copies/s/`.
pub(super) fn copied(text: &str) -> Result<SeedCopies, String> {
    // The source key may contain `=` too.
    let (from, _) = text
        .split_once("=s3://")
        .ok_or("write s3://bucket/prefix/=s3://other/prefix/, the source of the copies first")?;
    let to = &text[from.len() + 1..];
    let [from, to] = [from, to].map(|uri| uri.parse::<S3Uri>().map_err(|error| format!("{error}")));
    Ok(SeedCopies {
        from: from?,
        to: to?,
    })
}

impl Seed {
    /// Creates the objects. Their keys resemble those of sensors or users, evenly spread, so that
    /// listings have no pattern to exploit.
    pub(super) fn plant(&self, sandbox: &Sandbox, number: u64) {
        let bucket = self.location.bucket.as_str();
        let put = |key: &str, size: u64| {
            let content = Content::pattern(number + 1, size);
            sandbox
                .store()
                .put_object(bucket, key, content, &ObjectSpec::default());
        };
        match self.count {
            None => put(self.location.key.as_str(), self.largest.0),
            Some(count) => {
                let mut keys: Vec<_> = (0..count)
                    .map(|index| (index.wrapping_mul(0x9E37_79B1), index))
                    .collect();
                // Inserting ten million keys in order takes half the time.
                keys.sort_unstable();
                for (spread, index) in keys {
                    put(
                        &format!("{}{spread:08x}", self.location.key),
                        self.size(index),
                    );
                }
            }
        }
    }

    /// Returns the size of the object at this index. Any series of consecutive objects mixes all
    /// [`SIZES`] sizes evenly.
    fn size(&self, index: u32) -> u64 {
        let step = u64::from(index).wrapping_mul(167) % SIZES;
        let range = u128::from(self.largest.0 - self.smallest.0);
        let more = range * u128::from(step) / u128::from(SIZES - 1);
        self.smallest.0 + u64::try_from(more).unwrap_or(0)
    }
}

impl SeedCopies {
    /// Copies the objects, and returns their number.
    pub(super) fn plant(&self, sandbox: &Sandbox) -> usize {
        let from = (self.from.bucket.as_str(), self.from.key.as_str());
        sandbox
            .store()
            .copy_prefix(from, (self.to.bucket.as_str(), self.to.key.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::{KIB, MIB};

    #[test]
    fn sizes_are_spread_over_their_range() {
        let few = seed("s3://data/s/=20000x64KiB-1MiB").unwrap();
        let sizes: Vec<_> = (0..256).map(|index| few.size(index)).collect();
        assert_eq!(
            (sizes.iter().min(), sizes.iter().max()),
            (Some(&(64 * KIB)), Some(&MIB))
        );
        let mean = sizes.iter().sum::<u64>() / 256;
        assert!(mean.abs_diff(u64::midpoint(64 * KIB, MIB)) <= 1, "{mean}");
        assert_eq!(few.size(256), few.size(0));
        let first = sizes[..16].iter().sum::<u64>() / 16;
        assert!(
            first.abs_diff(mean) < mean / 4,
            "mixed from the beginning: {first} beside {mean}"
        );
        assert_eq!(seed("s3://data/s/=3x64KiB").unwrap().size(2), 64 * KIB);
    }

    #[test]
    fn what_is_not_understood_is_told() {
        assert!(
            seed("s3://data/s/=1MiB")
                .unwrap_err()
                .contains("COUNTxSIZE")
        );
        assert!(
            seed("s3://data/k=2x1MiB")
                .unwrap_err()
                .contains("COUNTxSIZE")
        );
        assert!(
            seed("s3://data/k=1MiB-2MiB")
                .unwrap_err()
                .contains("one SIZE")
        );
        assert!(
            seed("s3://data/s/=2x2MiB-1MiB")
                .unwrap_err()
                .contains("smaller size first")
        );
        assert!(seed("s3://data/s/=2x64K").unwrap_err().contains("64"));
        assert!(copied("s3://data/s/").unwrap_err().contains("source"));
        for from in ["s3://data/s/", "s3://data/day=1/", "s3://data/a=b=/"] {
            let copies = copied(&format!("{from}=s3://copies/x=y/")).unwrap();
            assert_eq!(copies.from, from.parse().unwrap());
            assert_eq!(copies.to, "s3://copies/x=y/".parse().unwrap());
        }
        assert!(
            copied("s3://data/s/=copies/")
                .unwrap_err()
                .contains("source")
        );
    }
}
