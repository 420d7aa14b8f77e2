//! Multipart uploads: the state between Create and Complete, and the rules for completing an
//! object.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::bucket::{Bucket, State};
use super::checksum::{Algorithm, Checksum, ChecksumKind, multipart_etag};
use super::condition::{WriteCondition, now};
use super::content::Content;
use super::object::{Attributes, LAST_PART_NUMBER, Object, PartInfo, SMALLEST_PART};
use super::payload::Payload;
use super::refusal::Refusal;
use super::store::{Quirks, Store};

/// An upload that is neither completed nor aborted.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) id: String,
    pub(super) initiated: SystemTime,
    pub(super) sequence: u64,
    pub(super) attributes: Arc<Attributes>,
    /// The checksum that Create declared.
    pub(super) declared: Declared,
    pub(super) parts: BTreeMap<i32, Part>,
    /// Set if the key was deleted since Create. A conditional Complete then fails.
    pub(super) key_was_deleted: bool,
}

/// The checksum that an upload declared at Create, if any.
pub(super) type Declared = Option<(Algorithm, ChecksumKind)>;

/// A part of an upload.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) content: Content,
    pub(super) etag: String,
    /// The checksum of the declared algorithm, or CRC64NVME if Create declared none; `None` only if
    /// checksums are switched off.
    pub(super) checksum: Option<String>,
    pub(super) last_modified: SystemTime,
}

/// An open upload as tests see it.
#[derive(Clone, Debug)]
pub struct UploadInfo {
    /// The key of the object.
    pub key: String,
    /// The upload id.
    pub upload_id: String,
    /// The time of its creation.
    pub initiated: SystemTime,
    /// The number, the size in bytes, and the `ETag` of each part, ordered by number.
    pub parts: Vec<(i32, u64, String)>,
    /// The attributes of the object.
    pub attributes: Arc<Attributes>,
}

impl UploadInfo {
    pub(super) fn of(key: &str, upload: &Upload) -> Self {
        Self {
            key: key.to_owned(),
            upload_id: upload.id.clone(),
            initiated: upload.initiated,
            parts: upload
                .parts
                .iter()
                .map(|(number, part)| (*number, part.content.len(), part.etag.clone()))
                .collect(),
            attributes: Arc::clone(&upload.attributes),
        }
    }
}

/// The answer to a successful Complete.
#[derive(Clone, Debug)]
pub(super) struct Completed {
    pub(super) key: String,
    pub(super) etag: String,
    pub(super) checksum: Option<Checksum>,
    pub(super) version_id: Option<String>,
    pub(super) attributes: Arc<Attributes>,
}

/// A part in the list of a Complete.
#[derive(Debug, Default)]
pub(super) struct ListedPart {
    pub(super) number: i32,
    pub(super) etag: String,
    pub(super) checksums: Vec<(Algorithm, String)>,
}

/// The parameters of a Complete.
#[derive(Debug, Default)]
pub(super) struct CompleteRequest {
    pub(super) parts: Vec<ListedPart>,
    pub(super) checksums: Vec<(Algorithm, String)>,
    pub(super) kind: Option<String>,
    pub(super) object_size: Option<i64>,
    pub(super) condition: WriteCondition,
}

/// Returns the checksum that a Create declares, according to the rules of S3 for algorithm and
/// type.
pub(super) fn declare(algorithm: Option<&str>, kind: Option<&str>) -> Result<Declared, Refusal> {
    let Some(name) = algorithm else {
        return match kind {
            Some(_) => Err(Refusal::invalid_request(
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )),
            None => Ok(None),
        };
    };
    let Some(algorithm) = Algorithm::from_name(name) else {
        return Err(Refusal::invalid_request(
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: \
             [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]",
        ));
    };
    let kind = match kind {
        None => algorithm.default_kind(),
        Some(name) => ChecksumKind::from_name(name).ok_or_else(|| {
            Refusal::invalid_request("Value for x-amz-checksum-type header is invalid.")
        })?,
    };
    if !algorithm.allows(kind) {
        return Err(Refusal::invalid_request(format!(
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            kind.name(),
            algorithm.name().to_lowercase()
        )));
    }
    Ok(Some((algorithm, kind)))
}

/// Refuses part numbers outside 1 to 10,000.
pub(super) fn check_part_number(number: i32) -> Result<(), Refusal> {
    if (1..=LAST_PART_NUMBER).contains(&number) {
        return Ok(());
    }
    Err(Refusal::invalid_argument(
        "partNumber",
        number,
        "Part number must be an integer between 1 and 10000, inclusive",
    ))
}

impl State {
    pub(super) fn upload(&self, key: &str, upload_id: &str) -> Result<&Upload, Refusal> {
        self.uploads_of(key)
            .find(|upload| upload.id == upload_id)
            .ok_or_else(|| Refusal::no_such_upload(upload_id))
    }

    fn upload_mut(&mut self, key: &str, upload_id: &str) -> Result<&mut Upload, Refusal> {
        self.uploads_of_mut(key)
            .find(|upload| upload.id == upload_id)
            .ok_or_else(|| Refusal::no_such_upload(upload_id))
    }
}

impl Bucket {
    /// Creates an upload and returns its id.
    pub(super) fn create_upload(
        &self,
        store: &Store,
        key: &str,
        attributes: Arc<Attributes>,
        declared: Declared,
    ) -> String {
        let sequence = store.next_sequence();
        let id = store.unique();
        let upload = Upload {
            id: id.clone(),
            initiated: now(),
            sequence,
            attributes,
            declared,
            parts: BTreeMap::new(),
            key_was_deleted: false,
        };
        self.write()
            .uploads
            .insert((key.to_owned(), sequence), upload);
        id
    }

    /// Returns the settings that each part of the upload must match: the declared checksum and the
    /// attributes.
    pub(super) fn upload_settings(
        &self,
        key: &str,
        upload_id: &str,
    ) -> Result<(Declared, Arc<Attributes>), Refusal> {
        let state = self.read();
        let upload = state.upload(key, upload_id)?;
        Ok((upload.declared, Arc::clone(&upload.attributes)))
    }

    /// Creates a part. Takes no lock, because it hashes the bytes.
    pub(super) fn make_part(
        &self,
        store: &Store,
        payload: Payload,
        declared: Declared,
        attributes: &Attributes,
    ) -> Part {
        let algorithm = declared.map_or(Algorithm::Crc64Nvme, |(algorithm, _)| algorithm);
        let checksum = (!Quirks::on(&store.quirks().no_checksums)).then(|| payload.sum(algorithm));
        Part {
            etag: self.etag(store, &payload.content, &attributes.encryption),
            checksum,
            content: payload.content,
            last_modified: now(),
        }
    }

    /// Stores a part and replaces an earlier one with the same number.
    pub(super) fn put_part(
        &self,
        key: &str,
        upload_id: &str,
        number: i32,
        part: Part,
    ) -> Result<(), Refusal> {
        let mut state = self.write();
        if let Some((aborted_key, upload)) = state.aborted.remove(upload_id) {
            state.uploads.insert((aborted_key, upload.sequence), upload);
        }
        state.upload_mut(key, upload_id)?.parts.insert(number, part);
        Ok(())
    }

    /// Deletes an upload and its parts.
    pub(super) fn abort(&self, store: &Store, key: &str, upload_id: &str) -> Result<(), Refusal> {
        let mut state = self.write();
        let sequence = state.upload(key, upload_id)?.sequence;
        if let Some(mut upload) = state.uploads.remove(&(key.to_owned(), sequence))
            && Quirks::on(&store.quirks().late_parts_survive_aborts)
        {
            upload.parts.clear();
            state
                .aborted
                .insert(upload_id.to_owned(), (key.to_owned(), upload));
        }
        Ok(())
    }

    /// Creates the object from the listed parts, or returns the reason for a refusal. In that case
    /// the upload stays as it was.
    pub(super) fn complete(
        &self,
        store: &Store,
        key: &str,
        upload_id: &str,
        request: &CompleteRequest,
    ) -> Result<Completed, Refusal> {
        let mut state = self.write();
        if let Some(completed) = state
            .completed(upload_id)
            .filter(|completed| completed.key == key)
        {
            return Ok(completed.clone());
        }
        let upload = state.upload(key, upload_id)?;
        let parts = upload.listed_parts(request, self.directory)?;
        if Quirks::on(&store.quirks().equal_parts) {
            check_equal(&parts)?;
        }
        let checksum = upload.checksum(&parts, request)?;
        upload.check_condition(key, state.current(key).map(Arc::as_ref), &request.condition)?;

        let content = Content::concat(parts.iter().map(|part| &part.content));
        let etag = if self.directory {
            store.unique()
        } else if Quirks::on(&store.quirks().opaque_etags) {
            format!("{}-{}", store.unique(), parts.len())
        } else {
            multipart_etag(parts.iter().map(|part| part.etag.as_str()))
        };
        let composite = matches!(upload.declared, Some((_, ChecksumKind::Composite)));
        let infos = parts
            .iter()
            .map(|part| PartInfo {
                size: part.content.len(),
                checksum: part.checksum.clone().filter(|_| composite),
            })
            .collect();
        let object = Object {
            content,
            etag: etag.clone(),
            checksum: checksum.clone(),
            attributes: Arc::clone(&upload.attributes),
            parts: Some(infos),
            last_modified: upload.initiated,
            sequence: upload.sequence,
            version_id: None,
        };
        let attributes = Arc::clone(&upload.attributes);
        let sequence = upload.sequence;
        let lost = upload.key_was_deleted && Quirks::on(&store.quirks().deletes_win_over_uploads);

        state.uploads.remove(&(key.to_owned(), sequence));
        let version_id = if lost {
            None
        } else {
            state.insert(key, object, || store.unique())
        };
        let version_id = state.shown_id(version_id.as_deref());
        let completed = Completed {
            key: key.to_owned(),
            etag,
            checksum,
            version_id,
            attributes,
        };
        state.remember(upload_id.to_owned(), completed.clone());
        Ok(completed)
    }
}

/// Refuses the parts unless all but the last have the same size and the last is not larger.
fn check_equal(parts: &[&Part]) -> Result<(), Refusal> {
    let sizes: Vec<_> = parts.iter().map(|part| part.content.len()).collect();
    let [first, middle @ .., last] = sizes.as_slice() else {
        return Ok(());
    };
    if middle.iter().all(|size| size == first) && last <= first {
        return Ok(());
    }
    Err(Refusal::invalid_request(
        "All non-trailing parts must have the same length.",
    ))
}

impl Upload {
    /// Returns the parts that a Complete lists, in order, after checking them against the uploaded
    /// ones.
    fn listed_parts(
        &self,
        request: &CompleteRequest,
        requires_consecutive_numbers: bool,
    ) -> Result<Vec<&Part>, Refusal> {
        if request.parts.is_empty() {
            return Err(Refusal::invalid_request(
                "You must specify at least one part",
            ));
        }
        if request
            .parts
            .windows(2)
            .any(|pair| pair[0].number >= pair[1].number)
        {
            return Err(Refusal::invalid_part_order());
        }
        let mut chosen = Vec::with_capacity(request.parts.len());
        for listed in &request.parts {
            let part = self
                .parts
                .get(&listed.number)
                .filter(|part| part.etag == listed.etag)
                .ok_or_else(|| Refusal::invalid_part(listed.number, &listed.etag))?;
            self.check_listed_checksums(listed, part)?;
            chosen.push(part);
        }
        if (requires_consecutive_numbers || self.declared.is_some())
            && (1..)
                .zip(&request.parts)
                .any(|(expected, part)| part.number != expected)
        {
            return Err(Refusal::invalid_part_order());
        }
        let last = chosen.len() - 1;
        if let Some((at, part)) = chosen
            .iter()
            .take(last)
            .enumerate()
            .find(|(_, part)| part.content.len() < SMALLEST_PART)
        {
            return Err(Refusal::entity_too_small(
                request.parts[at].number,
                part.content.len(),
            ));
        }
        let size: u64 = chosen.iter().map(|part| part.content.len()).sum();
        if let Some(expected) = request.object_size
            && u64::try_from(expected) != Ok(size)
        {
            return Err(Refusal::invalid_request(format!(
                "The provided 'x-amz-mp-object-size' header value {expected} does not match what was computed: {size}"
            )));
        }
        Ok(chosen)
    }

    fn check_listed_checksums(&self, listed: &ListedPart, part: &Part) -> Result<(), Refusal> {
        let declared = self.declared.map(|(algorithm, _)| algorithm);
        for (algorithm, value) in &listed.checksums {
            if Some(*algorithm) != declared || part.checksum.as_ref() != Some(value) {
                return Err(Refusal::invalid_part(listed.number, &listed.etag));
            }
        }
        match self.declared {
            Some((algorithm, ChecksumKind::Composite)) if listed.checksums.is_empty() => {
                Err(Refusal::invalid_request(format!(
                    "The upload was created using a {} checksum. The complete request must include the checksum for \
                     each part. It was missing for part {} in the request.",
                    algorithm.name().to_lowercase(),
                    listed.number
                )))
            }
            _ => Ok(()),
        }
    }

    /// Returns the checksum of the object after checking it against the ones in the request.
    fn checksum(
        &self,
        parts: &[&Part],
        request: &CompleteRequest,
    ) -> Result<Option<Checksum>, Refusal> {
        let (algorithm, kind) = self
            .declared
            .unwrap_or((Algorithm::Crc64Nvme, ChecksumKind::FullObject));
        if let Some(requested) = &request.kind
            && (self.declared.is_none() || requested != kind.name())
        {
            let mode = if self.declared.is_some() {
                kind.name()
            } else {
                "null"
            };
            return Err(Refusal::invalid_request(format!(
                "The upload was created using the {mode} checksum mode. The complete request must use the same \
                 checksum mode."
            )));
        }
        let sums: Option<Vec<_>> = parts
            .iter()
            .map(|part| Some((part.checksum.as_deref()?, part.content.len())))
            .collect();
        // If a part has no checksum, checksums are switched off.
        let Some(sums) = sums else { return Ok(None) };
        let value = match kind {
            ChecksumKind::Composite => algorithm.composite(sums.iter().map(|(value, _)| *value)),
            ChecksumKind::FullObject => algorithm.joined(sums.iter().copied()),
        };
        let summed = if kind == ChecksumKind::Composite {
            parts.len()
        } else {
            0
        };
        let checksum = value.map(|value| Checksum {
            algorithm,
            kind,
            value,
            parts: summed,
        });
        for (claimed, value) in &request.checksums {
            let matches = checksum.as_ref().is_some_and(|sum| {
                sum.algorithm == *claimed && (sum.value == *value || sum.shown() == *value)
            });
            if !matches {
                return Err(Refusal::bad_digest(claimed.name()));
            }
        }
        Ok(checksum)
    }

    /// Checks the condition of a Complete. If the key was deleted or rewritten since Create, the
    /// answer is a conflict.
    fn check_condition(
        &self,
        key: &str,
        current: Option<&Object>,
        condition: &WriteCondition,
    ) -> Result<(), Refusal> {
        condition.check(key, current)?;
        match (condition, current) {
            (WriteCondition::Absent, _) if self.key_was_deleted => {
                Err(Refusal::conditional_conflict(key, "If-None-Match"))
            }
            (WriteCondition::Match(_), Some(object)) if object.sequence > self.sequence => {
                Err(Refusal::conditional_conflict(key, "If-Match"))
            }
            _ => Ok(()),
        }
    }
}
