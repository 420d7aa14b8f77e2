//! Compares one pair by the lists, then by HEAD, then by the bytes. Stops as soon as one step
//! decides.

use std::path::{Path, PathBuf};

use super::walk::DestinationEntry;
use super::{Deep, Verdict, VerifyFinding, VersionLocation};
use crate::bucket::Bucket;
use crate::checksum::{looks_like_md5, may_be_of_content};
use crate::execute::prove::{Expected, ProofVerdict, against_weak_sum, judge_checksum};
use crate::execute::read;
use crate::execute::receipt::Proof;
use crate::listing::local::path_of;
use crate::listing::sizes_contradict;
use crate::manifest::job::Source;
use crate::planner::hash::{self, Hashes, WantedHash};
use crate::planner::{Sides, Step};
use crate::s3::{
    Checksum, ChecksumAlgorithm, ChecksumKind, Failure, FailureKind, Head, Operation, SourcePin,
};

/// The checksum algorithm for reading, unless one side has a usable checksum of another algorithm.
const USUAL: ChecksumAlgorithm = ChecksumAlgorithm::Crc64Nvme;

/// The two sides to compare.
#[derive(Debug)]
pub(super) struct Pair {
    origin: PairSource,
    destination: VersionLocation,
    /// The size of the source, as listed.
    size: Option<u64>,
    etag: Option<String>,
    /// True if the job names this one object, so that no list shows its size.
    is_named: bool,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one per comparison under way, and nearly all are objects"
)]
enum PairSource {
    Object(VersionLocation),
    File(PathBuf),
    /// Standard input, which cannot be read again.
    Gone,
}

impl Pair {
    pub(super) fn of_step(sides: &Sides, step: &Step) -> Self {
        let place = |bucket: &Bucket, key: &crate::location::ObjectKey, version: Option<String>| {
            VersionLocation {
                bucket: bucket.clone(),
                key: key.clone(),
                version,
            }
        };
        let origin = match (&sides.source, &sides.transfer.from) {
            (Some(source), _) => {
                PairSource::Object(place(source, &step.entry.key, step.entry.version.clone()))
            }
            (None, Source::Files { path, .. }) => PairSource::File(path_of(path, &step.entry)),
            (None, _) => PairSource::Gone,
        };
        Self {
            origin,
            destination: place(&sides.destination, &step.key, None),
            size: Some(step.entry.size),
            etag: step.entry.etag.clone(),
            is_named: matches!(sides.transfer.from, Source::Object { .. }),
        }
    }

    pub(super) fn of_places(source: VersionLocation, destination: VersionLocation) -> Self {
        Self {
            origin: PairSource::Object(source),
            destination,
            size: None,
            etag: None,
            is_named: false,
        }
    }

    /// Compares the pair. `found` is the destination's listed entry, if it is known.
    pub(super) async fn settle(&self, found: &DestinationEntry, deep: Deep) -> VerifyFinding {
        let mut size = self.size.unwrap_or(0);
        let verdict = match self.by_lists(found, deep) {
            Some(verdict) => verdict,
            None => match self.by_looking(found, deep, &mut size).await {
                Ok(verdict) => verdict,
                Err(failure) => Verdict::failed(&failure),
            },
        };
        let source = match &self.origin {
            PairSource::Object(place) => place.uri(),
            PairSource::File(path) => path.display().to_string(),
            PairSource::Gone => "-".to_owned(),
        };
        VerifyFinding {
            source: Some(source),
            destination: self.destination.uri(),
            size,
            verdict,
        }
    }

    /// Returns the verdict if the two lists are enough.
    fn by_lists(&self, found: &DestinationEntry, deep: Deep) -> Option<Verdict> {
        let entry = match found {
            DestinationEntry::Entry(entry) => entry,
            DestinationEntry::Absent => return Some(Verdict::Missing),
            DestinationEntry::Unknown => return None,
        };
        if let Some(size) = self.size.filter(|size| *size != entry.size) {
            return Some(sizes_differ(size, entry.size));
        }
        let PairSource::Object(source) = &self.origin else {
            return None;
        };
        let follow = source.bucket.capabilities().content_etags
            && self.destination.bucket.capabilities().content_etags;
        let believed = source.bucket.capabilities().believes_answers()
            && self.destination.bucket.capabilities().believes_answers();
        let equal = follow
            && believed
            && self.etag.as_deref().is_some_and(may_be_of_content)
            && self.etag == entry.etag
            && deep != Deep::All;
        equal.then_some(Verdict::Equal { proof: Proof::Etag })
    }

    /// Returns an error if HEAD of the destination contradicts the list.
    async fn as_listed_there(&self, found: &DestinationEntry, there: &Head) -> Result<(), Failure> {
        let DestinationEntry::Entry(entry) = found else {
            return Ok(());
        };
        size_as_listed(&self.destination, entry.size, entry.etag.as_deref(), there)?;
        etag_as_listed(&self.destination, entry.etag.as_deref(), there).await
    }

    /// Compares by HEAD, and by reading the bytes. Sets `size` to the size in HEAD of the source.
    async fn by_looking(
        &self,
        found: &DestinationEntry,
        deep: Deep,
        size: &mut u64,
    ) -> Result<Verdict, Failure> {
        let there = async {
            match head(&self.destination).await {
                Ok(head) => Ok(Some(head)),
                Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(None),
                Err(failure) => Err(failure),
            }
        };
        match &self.origin {
            PairSource::Object(source) => {
                let (here, there) = tokio::join!(head(source), there);
                let (here, there) = (here?, there?);
                *size = here.size;
                if let Some(size) = self.size {
                    size_as_listed(source, size, self.etag.as_deref(), &here)?;
                }
                let Some(there) = there else {
                    return Ok(Verdict::Missing);
                };
                etag_as_listed(source, self.etag.as_deref(), &here).await?;
                self.as_listed_there(found, &there).await?;
                self.objects(source, &here, &there, deep).await
            }
            PairSource::File(path) => match there.await? {
                None => Ok(Verdict::Missing),
                Some(there) => {
                    self.as_listed_there(found, &there).await?;
                    self.file(path, &there, deep).await
                }
            },
            PairSource::Gone => Ok(Verdict::Unprovable {
                why: "standard input cannot be read again".to_owned(),
            }),
        }
    }

    /// Compares two objects by their HEADs, and by reading both.
    async fn objects(
        &self,
        source: &VersionLocation,
        here: &Head,
        there: &Head,
        deep: Deep,
    ) -> Result<Verdict, Failure> {
        if here.size != there.size {
            return Ok(sizes_differ(here.size, there.size));
        }
        let shown = by_heads(source, here, &self.destination, there);
        if self.is_named && matches!(shown, Some(Verdict::Equal { .. })) && deep != Deep::All {
            tokio::try_join!(
                confirm_size(source, here),
                confirm_size(&self.destination, there)
            )?;
        }
        match (shown, deep) {
            // Reading cannot outweigh checksums that differ.
            (Some(verdict), Deep::No | Deep::Unproven)
            | (Some(verdict @ Verdict::Different { .. }), Deep::All) => return Ok(verdict),
            (None, Deep::No) => {
                let why = format!(
                    "the source has {}, the destination {}",
                    has(source, here),
                    has(&self.destination, there)
                );
                return Ok(Verdict::Unprovable { why });
            }
            _ => {}
        }
        let usable = |head: &Head| {
            let sum = head.checksum.as_ref()?;
            (sum.kind == ChecksumKind::FullObject && sum.algorithm.combines())
                .then_some(sum.algorithm)
        };
        let algorithm = usable(there).or_else(|| usable(here)).unwrap_or(USUAL);
        let sum = |place: &VersionLocation, head: &Head| {
            let (bucket, pin) = (place.bucket.clone(), pin(place, head));
            let size = head.size;
            async move { read::checksum(&bucket, &pin, size, algorithm).await }
        };
        let (ours, theirs) = tokio::try_join!(sum(source, here), sum(&self.destination, there))?;
        Ok(judged(&ours, &theirs))
    }

    /// Compares a local file with an object, by reading the file and, if necessary, the object.
    async fn file(&self, path: &Path, there: &Head, deep: Deep) -> Result<Verdict, Failure> {
        let stored = there
            .checksum
            .clone()
            .filter(|sum| sum.kind == ChecksumKind::FullObject && sum.algorithm.combines());
        let content = self.destination.bucket.capabilities().content_etags && !there.kms;
        let md5 = content && looks_like_md5(&there.etag);
        if stored.is_none() && !md5 && deep == Deep::No {
            return Ok(Verdict::Unprovable {
                why: format!("the destination has {}", has(&self.destination, there)),
            });
        }
        let algorithm = stored.as_ref().map_or(USUAL, |sum| sum.algorithm);
        let want = WantedHash {
            checksum: Some((algorithm, ChecksumKind::FullObject)),
            etag: stored.as_ref().is_none_or(|sum| sum.algorithm.is_weak())
                && md5
                && deep != Deep::All,
            part_size: None,
        };
        let Hashes {
            bytes,
            checksum,
            etag,
        } = hash::file(path, want).await?;
        if bytes != there.size {
            return Ok(sizes_differ(bytes, there.size));
        }
        // An equal MD5 leaves the proof to the stored checksum.
        if let Some(etag) = etag.filter(|etag| stored.is_none() || *etag != there.etag) {
            return Ok(if etag == there.etag {
                Verdict::Equal { proof: Proof::Etag }
            } else {
                Verdict::different(format!("MD5 is {}, the file's {etag}", there.etag))
            });
        }
        let Some(local) = checksum else {
            let why = format!("the {algorithm} of the file is not known");
            return Ok(Verdict::Unprovable { why });
        };
        if let Some(stored) = stored {
            let shown = judged(&local, &stored).of_answers(&stored);
            // Reading cannot outweigh checksums that differ.
            if deep != Deep::All || matches!(shown, Verdict::Different { .. }) {
                return Ok(shown);
            }
        }
        let pin = pin(&self.destination, there);
        let read = read::checksum(&self.destination.bucket, &pin, there.size, algorithm).await?;
        Ok(judged(&local, &read))
    }
}

impl Verdict {
    /// Replaces the proof of an equal pair with the proof by the stored checksum.
    fn of_answers(self, stored: &Checksum) -> Self {
        match self {
            Self::Equal { .. } => Self::Equal {
                proof: Proof::by(stored),
            },
            other => other,
        }
    }
}

async fn head(place: &VersionLocation) -> Result<Head, Failure> {
    let head = place.bucket.head(&place.key, place.version.as_deref());
    place.bucket.with_slot(head).await
}

/// Reads the last byte of an object whose size is not in a list, if HEAD is not trusted. Returns an
/// error if the size in HEAD is wrong.
async fn confirm_size(place: &VersionLocation, head: &Head) -> Result<(), Failure> {
    if place.bucket.capabilities().believes_answers() {
        return Ok(());
    }
    let pin = pin(place, head);
    let confirmed = read::confirm_size(&place.bucket, &pin, head.size);
    place.bucket.with_slot(confirmed).await
}

/// Returns an error if HEAD shows a different `ETag` from the list. Accepts the difference if the
/// object was replaced since, so that a new list shows the same `ETag` as HEAD.
async fn etag_as_listed(
    place: &VersionLocation,
    listed: Option<&str>,
    head: &Head,
) -> Result<(), Failure> {
    let capabilities = place.bucket.capabilities();
    let tells = capabilities.content_etags || !capabilities.believes_answers();
    let Some(listed) = listed.filter(|listed| tells && *listed != head.etag) else {
        return Ok(());
    };
    let first = place.bucket.first(place.key.as_str(), None);
    let now = place.bucket.with_slot(first).await?;
    let is_replaced = now.is_some_and(|now| {
        *now.key == *place.key.as_str() && now.etag.as_ref() == Some(&head.etag)
    });
    if is_replaced {
        return Ok(());
    }
    let message = format!(
        "HEAD shows the ETag {}, but the list shows {listed}",
        head.etag
    );
    let place = place.bucket.place(&place.key);
    Err(Failure::new(
        FailureKind::SourceChanged,
        Operation::HeadObject,
        place,
        message,
    ))
}

/// Returns an error if HEAD shows the `ETag` of the list but another size, because one of the two
/// responses must be wrong.
fn size_as_listed(
    place: &VersionLocation,
    size: u64,
    etag: Option<&str>,
    head: &Head,
) -> Result<(), Failure> {
    match sizes_contradict(size, etag, head) {
        None => Ok(()),
        Some(message) => {
            let place = place.bucket.place(&place.key);
            Err(Failure::new(
                FailureKind::ServerFault,
                Operation::HeadObject,
                place,
                message,
            ))
        }
    }
}

fn pin(place: &VersionLocation, head: &Head) -> SourcePin {
    SourcePin {
        bucket: place.bucket.name().clone(),
        key: place.key.clone(),
        version: place.version.clone().or_else(|| head.version.clone()),
        etag: head.etag.clone(),
        customer_key: place
            .bucket
            .client()
            .customer_key()
            .filter(|_| head.customer_key)
            .cloned(),
    }
}

fn sizes_differ(here: u64, there: u64) -> Verdict {
    Verdict::Different {
        why: format!("{there} bytes instead of {here}"),
        by_size: true,
    }
}

/// Compares two checksums over all bytes. At least one of them was computed by reading.
fn judged(here: &Checksum, there: &Checksum) -> Verdict {
    if here.value == there.value {
        return Verdict::Equal { proof: Proof::Read };
    }
    let why = format!(
        "{} is {}, the source's {}",
        there.algorithm, there.value, here.value
    );
    Verdict::different(why)
}

/// Compares the HEADs of two objects of the same size. Returns `None` if they prove nothing.
fn by_heads(
    source: &VersionLocation,
    here: &Head,
    destination: &VersionLocation,
    there: &Head,
) -> Option<Verdict> {
    let expected = Expected::of(here, source.bucket.capabilities());
    let there_etag = Expected::of(there, destination.bucket.capabilities()).etag;
    match judge_checksum(&expected, there.checksum.as_ref()) {
        Some(ProofVerdict::Proven(proof)) => {
            let against = there_etag.as_deref();
            let against = against
                .and_then(|etag| against_weak_sum(&expected, &ProofVerdict::Proven(proof), etag));
            return Some(against.map_or(Verdict::Equal { proof }, Verdict::different));
        }
        Some(ProofVerdict::Contradicted(why)) => return Some(Verdict::different(why)),
        Some(ProofVerdict::Unknown) | None => {}
    }
    if here.size == 0 {
        return Some(Verdict::Equal { proof: Proof::Size });
    }
    let there_etag = there_etag?;
    let here_etag = expected.etag?;
    if here_etag == there_etag && may_be_of_content(&here_etag) {
        return Some(Verdict::Equal { proof: Proof::Etag });
    }
    (looks_like_md5(&here_etag) && looks_like_md5(&there_etag)).then(|| {
        Verdict::different(format!(
            "the ETag is {there_etag}, the source's {here_etag}"
        ))
    })
}

/// Describes the checksum and the `ETag` of an object.
fn has(place: &VersionLocation, head: &Head) -> String {
    let sum = match &head.checksum {
        Some(sum) if sum.kind == ChecksumKind::Composite => {
            format!("a composite {}", sum.algorithm)
        }
        Some(sum) => sum.algorithm.to_string(),
        None if !place.bucket.capabilities().checksums => "no checksum that counts".to_owned(),
        None => "no checksum".to_owned(),
    };
    let etag = if head.kms {
        "an ETag that is not derived from the bytes".to_owned()
    } else {
        format!("ETag {}", head.etag)
    };
    format!("{sum} and {etag}")
}
