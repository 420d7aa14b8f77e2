//! What an endpoint really does: measured on a scratch prefix, with the requests of a copy.
//!
//! A profile ([`Capabilities::profile`]) is what is known of a kind of server; this asks the one at hand. Each question
//! is put as a copy would put it, whatever the profile says: a condition that does not hold must be refused, a
//! checksum that is wrong too, tags must come back. Whatever was made is removed again, also when a question has no
//! answer, and what could not be removed is told. Findings bear the names of the manifest's `capabilities`, so that each
//! can be stated there.

mod questions;

use std::fmt;

use futures::TryStreamExt;
use serde::{Serialize, Serializer};

use crate::bucket::{Answer, Bucket};
use crate::location::ObjectKey;
use crate::multipart::{self, MultipartUpload};
use crate::s3::{
    Attributes, CannedAcl, Capabilities, Checksum, CompleteSpec, Failure, FailureKind, OnWrites, Operation,
    PartDone, SourcePin, WriteCondition, Written,
};

/// What a capability is, or was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// It is there, or not.
    Flag(bool),
    /// The writes that it holds for.
    Writes(OnWrites),
}

impl fmt::Display for Value {
    /// As a manifest writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.pad(if *flag { "true" } else { "false" }),
            Self::Writes(writes) => writes.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Writes(OnWrites { copy, put, complete }) => {
                let names = [(copy, "copy"), (put, "put"), (complete, "complete")];
                serializer.collect_seq(names.into_iter().filter(|(on, _)| **on).map(|(_, name)| name))
            }
        }
    }
}

/// How a finding stands to what is relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is as said.
    Agrees,
    /// The endpoint can do more; to say so saves requests or gives stronger proofs.
    CanDoMore,
    /// The endpoint does not do what would be relied on.
    Lacks,
    /// The question had no answer.
    Unknown,
}

/// One capability: what is relied on, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The name of the field under `capabilities:` in a manifest.
    pub name: &'static str,
    /// What the profile, or the manifest, says.
    pub said: Value,
    /// What the endpoint did; the reason when that could not be told.
    pub found: Result<Value, String>,
}

impl Finding {
    /// Whether what is said may be relied on.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        // To demand equal parts is the one "true" that takes something away.
        let takes_away = self.name == "equal_parts";
        match (self.said, &self.found) {
            (_, Err(_)) => Verdict::Unknown,
            (said, Ok(found)) if said == *found => Verdict::Agrees,
            (Value::Flag(said), Ok(_)) if said == takes_away => Verdict::CanDoMore,
            (Value::Writes(said), Ok(Value::Writes(found))) if found.covers(said) => Verdict::CanDoMore,
            _ => Verdict::Lacks,
        }
    }
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where it was at work.
    pub prefix: String,
    /// One per capability that can be measured.
    pub findings: Vec<Finding>,
    /// What it made and could not remove, in words.
    pub left: Vec<String>,
}

impl Probe {
    /// True when everything that is relied on is so, and nothing is left behind.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.left.is_empty() && self.findings.iter().all(|finding| finding.verdict() != Verdict::Lacks)
    }

    /// The value of `capabilities:` that states what was found otherwise than said; `None` when there is nothing.
    #[must_use]
    pub fn statement(&self) -> Option<String> {
        let differs = self.findings.iter().filter_map(|finding| {
            let found = finding.found.as_ref().ok().filter(|found| **found != finding.said)?;
            Some(format!("{}: {found}", finding.name))
        });
        let differs: Vec<_> = differs.collect();
        (!differs.is_empty()).then(|| format!("{{{}}}", differs.join(", ")))
    }
}

/// A scratch prefix that nobody else uses.
#[must_use]
pub fn scratch_prefix() -> String {
    format!(".s3haul-probe-{:08x}/", fastrand::u32(..))
}

/// Measures what `bucket`'s endpoint does, with some 80 requests and 11 MiB of bytes below `prefix`, which must end
/// in a slash and hold nothing.
///
/// # Errors
/// What makes the bucket unusable for a probe: it can not be listed or written to, or the prefix is not empty.
pub async fn probe(bucket: &Bucket, prefix: &str) -> Result<Probe, Failure> {
    probe_with_acl(bucket, prefix, None).await
}

/// The same in a bucket that demands a canned ACL of all objects.
///
/// # Errors
/// Those of [`probe`].
pub async fn probe_with_acl(bucket: &Bucket, prefix: &str, acl: Option<CannedAcl>) -> Result<Probe, Failure> {
    let place = format!("{}/{prefix}", bucket.name());
    let refuse = |message: &str| {
        Err(Failure::new(FailureKind::Invalid, Operation::ListObjects, place.clone(), message))
    };
    if !prefix.ends_with('/') || prefix.starts_with('/') {
        return refuse("a scratch prefix ends in a slash and begins with something else");
    }
    let said = bucket.capabilities().clone();
    let everything = Capabilities { directory: said.directory, tag_sets: false, ..Capabilities::AWS };
    let bucket = bucket.for_probes().assuming(everything);
    if !bucket.list(prefix, None, None).await?.items.is_empty() {
        return refuse("the scratch prefix is not empty; name another one");
    }
    let prefix = prefix.to_owned();
    let mut scratch =
        Scratch { bucket, prefix: prefix.clone(), acl, objects: Vec::new(), uploads: Vec::new() };
    let findings = questions::ask(&mut scratch, &said).await;
    let left = scratch.clean().await;
    Ok(Probe { prefix, findings: findings?, left })
}

/// The prefix, and what was made below it.
struct Scratch {
    bucket: Bucket,
    prefix: String,
    /// The canned ACL of all that is written.
    acl: Option<CannedAcl>,
    objects: Vec<(ObjectKey, Option<String>)>,
    uploads: Vec<MultipartUpload>,
}

impl Scratch {
    /// A key of 32 bytes and less behind the prefix; a prefix that leaves no room for it is told by the first write.
    fn key(&self, name: &str) -> Result<ObjectKey, Failure> {
        ObjectKey::new(&format!("{}{name}", self.prefix)).map_err(|error| {
            Failure::new(FailureKind::Invalid, Operation::PutObject, self.prefix.as_str(), error.to_string())
        })
    }

    /// Takes note of a write; one whose outcome is not known may have happened too.
    fn note(&mut self, key: &ObjectKey, answer: &Result<Written, Failure>) {
        match answer {
            Ok(written) => self.objects.push((key.clone(), written.version.clone())),
            Err(failure) if failure.kind().outcome_unknown() => self.objects.push((key.clone(), None)),
            Err(_) => {}
        }
    }

    fn with_acl(&self, attributes: &Attributes) -> Attributes {
        Attributes { acl: self.acl, ..attributes.clone() }
    }

    async fn put(
        &mut self,
        name: &str,
        body: &[u8],
        attributes: &Attributes,
        checksum: Option<&Checksum>,
        condition: WriteCondition,
    ) -> Result<Written, Failure> {
        let key = self.key(name)?;
        let body = bytes::Bytes::copy_from_slice(body);
        let attributes = self.with_acl(attributes);
        let answer = self.bucket.put_object(&key, body, &attributes, checksum, condition).await;
        let answer = answer.map(|Answer { value, .. }| value);
        self.note(&key, &answer);
        answer
    }

    async fn copy(
        &mut self,
        source: &SourcePin,
        name: &str,
        attributes: &Attributes,
        condition: WriteCondition,
    ) -> Result<Written, Failure> {
        let key = self.key(name)?;
        let attributes = self.with_acl(attributes);
        let answer = self.bucket.copy_object(source, 0, &key, &attributes, condition).await;
        let answer = answer.map(|Answer { value, .. }| value);
        self.note(&key, &answer);
        answer
    }

    async fn begin(&mut self, name: &str, attributes: &Attributes) -> Result<MultipartUpload, Failure> {
        let attributes = self.with_acl(attributes);
        let upload = MultipartUpload::initiate(&self.bucket, &self.key(name)?, &attributes).await?;
        self.uploads.push(upload.clone());
        Ok(upload)
    }

    async fn complete(
        &mut self,
        upload: &MultipartUpload,
        parts: &[PartDone],
        spec: &CompleteSpec,
    ) -> Result<Written, Failure> {
        let answer = upload.complete(parts, spec).await;
        self.note(upload.key(), &answer);
        answer
    }

    /// Removes all that was made, and looks whether it is gone.
    async fn clean(self) -> Vec<String> {
        let mut left = Vec::new();
        for upload in &self.uploads {
            if let Err(failure) = upload.cancel().await {
                left.push(format!("upload {} of {}: {failure}", upload.id(), upload.key()));
            }
        }
        for (key, version) in &self.objects {
            if let Err(failure) = self.bucket.delete_object(key, version.as_deref(), None).await {
                left.push(format!("object {key}: {failure}"));
            }
        }
        // Names may come back in an encoding that the server does not undo; here they only need to be few.
        let plain = Capabilities { encoded_lists: false, ..self.bucket.capabilities().clone() };
        let bucket = self.bucket.assuming(plain);
        match bucket.list(&self.prefix, None, None).await {
            Ok(page) => left.extend(page.items.iter().map(|object| format!("object {}", object.key))),
            Err(failure) => left.push(format!("what is left could not be listed: {failure}")),
        }
        let uploads: Result<Vec<_>, _> = multipart::uploads(&bucket, &self.prefix).try_collect().await;
        match uploads {
            Ok(uploads) => {
                left.extend(
                    uploads.iter().map(|upload| format!("upload {} of {}", upload.upload_id, upload.key)),
                );
            }
            Err(failure) => left.push(format!("what is left could not be listed: {failure}")),
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &'static str, said: Value, found: Value) -> Finding {
        Finding { name, said, found: Ok(found) }
    }

    #[test]
    fn a_verdict_tells_more_from_less() {
        let (yes, no) = (Value::Flag(true), Value::Flag(false));
        let put = Value::Writes(OnWrites { put: true, ..OnWrites::NONE });
        let copy = Value::Writes(OnWrites { copy: true, ..OnWrites::NONE });
        for (name, said, found, verdict) in [
            ("tags", yes, yes, Verdict::Agrees),
            ("tags", yes, no, Verdict::Lacks),
            ("tags", no, yes, Verdict::CanDoMore),
            ("equal_parts", no, yes, Verdict::Lacks),
            ("equal_parts", yes, no, Verdict::CanDoMore),
            ("if_match", Value::Writes(OnWrites::NONE), put, Verdict::CanDoMore),
            ("if_match", put, copy, Verdict::Lacks),
            ("if_match", Value::Writes(OnWrites::ALL), put, Verdict::Lacks),
        ] {
            assert_eq!(finding(name, said, found).verdict(), verdict, "{name} {said} {found}");
        }
    }

    #[test]
    fn what_differs_is_stated_as_a_manifest_states_it() {
        let writes = OnWrites { put: true, complete: true, ..OnWrites::NONE };
        let findings = vec![
            finding("tags", Value::Flag(true), Value::Flag(true)),
            finding("copy_conditions", Value::Flag(false), Value::Flag(true)),
            finding("if_match", Value::Writes(OnWrites::ALL), Value::Writes(writes)),
            Finding { name: "checksums", said: Value::Flag(true), found: Err("no answer".to_owned()) },
        ];
        let probe = Probe { prefix: "p/".to_owned(), findings, left: Vec::new() };
        assert_eq!(probe.statement().unwrap(), "{copy_conditions: true, if_match: [put, complete]}");
        assert!(!probe.is_good());
    }
}
