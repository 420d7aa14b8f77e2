//! Asks the questions. Each question sends a few requests, creates its own objects, and gets its
//! own answer.
//!
//! Some questions depend on the answer to another. If that answer leaves nothing to ask, they are
//! moot; otherwise they may be asked differently. So each defect is reported once, as the answer to
//! its own question.

mod answers;

use futures::TryStreamExt;

use super::conditions;
use super::finding::{How, ProbeAnswer, ProbeFinding, RequestFinding};
use super::needs::Needs;
use super::scratch::{Scratch, answer_from, is_refusal, plain, reason};
use super::{attributes, lists};
use crate::checksum::{self, md5_etag, multipart_etag};
use crate::endpoint::capabilities::ConditionalWrite;
use crate::multipart::MultipartUpload;
use crate::s3::{
    Attributes, Capabilities, Checksum, ChecksumAlgorithm, ChecksumKind, CompleteSpec, Failure,
    FailureKind, Head, Operation, PartDone, SourcePin, WriteCondition, Written,
};
use crate::size::MIB;

use answers::Answers;

/// The bytes of the object that small copies read.
const OBJECT: &[u8] = b"s3haul probe";
/// The size of the source of part copies. It is enough for two parts with the larger one last.
const SOURCE: u64 = 11 * MIB;

/// The reason why questions about multipart uploads are moot.
pub(super) const NO_UPLOADS: &str = "no multipart upload can be completed";

/// All findings except those about the clean-up.
#[derive(Debug, Default)]
pub(super) struct ProbeFindings {
    pub(super) requests: Vec<RequestFinding>,
    pub(super) capabilities: Vec<ProbeFinding>,
    pub(super) attributes: Vec<super::AttributeFinding>,
}

/// Asks all questions. Fails if no object can be written, because then no question can be asked.
pub(super) async fn ask(
    scratch: &mut Scratch,
    stated: &Capabilities,
    needs: &Needs,
) -> Result<ProbeFindings, Failure> {
    let written = scratch
        .put("object", OBJECT, &plain(), None, WriteCondition::None)
        .await?;
    let head = scratch.head("object").await;
    refuse_default_lock(scratch, head.as_ref().ok())?;
    let object = pin(scratch, "object", &written)?;
    let put = scratch_effect(&head);
    let (multipart, object_size) = multipart(scratch).await;
    // Asked early, because the clean-up waits until the lock has expired.
    let lock = attributes::lock(scratch, &object, needs, head.as_ref().ok()).await;
    let copied = scratch
        .copy(&object, "copied", &plain(), WriteCondition::None)
        .await;
    let copy = match &copied {
        Ok(_) => {
            scratch
                .effect("copied", ConditionalWrite::Copy, OBJECT.len() as u64)
                .await
        }
        Err(failure) => answer_from(failure),
    };
    let body = random(SOURCE);
    let large = scratch
        .put("source", body.clone(), &plain(), None, WriteCondition::None)
        .await;
    let parts = match large {
        Ok(written) => {
            parts(
                scratch,
                &pin(scratch, "source", &written)?,
                multipart.is_lacking(),
            )
            .await
        }
        Err(failure) => ProbedUpload::unknown(&ProbeAnswer::unknown(format!(
            "no source of parts: {}",
            reason(&failure)
        ))),
    };
    let etags = content_etags(scratch, &head, &written, &copied, &parts, &body);
    drop(body);
    let works = WorkingWrites {
        copy: &copy,
        multipart: &multipart,
    };
    let conditions = conditions::ask(scratch, &object, &works, &parts.part_copy).await;
    let lists = lists::objects(scratch).await;
    let uploads = lists::uploads(scratch).await;
    let (attributes, set_tags) =
        attributes::ask(scratch, &object, &works, needs, stated, lock).await;
    let tags = attributes::knows_tags(&attributes, &set_tags);
    let tag_headers = attributes::gives_tags(&attributes);
    let are_believed = scratch.bucket.capabilities().checksums;
    let checksums = checksums(scratch, multipart.is_lacking()).await;
    scratch.assume(|capabilities| capabilities.checksums = are_believed);
    let odd_part_sources = match parts.part_copy.how {
        How::Refused | How::Ignored => ProbeAnswer::moot("there are no part copies"),
        _ => odd_part_sources(scratch).await,
    };
    let requests = vec![
        request(Operation::PutObject, put, true),
        request(Operation::CopyObject, copy, needs.copies),
        request(Operation::CompleteMultipartUpload, multipart, true),
        request(Operation::ListObjects, lists.list, true),
        request(Operation::ListParts, uploads.parts, false),
        request(Operation::ListMultipartUploads, uploads.list, false),
        request(Operation::PutObjectTagging, set_tags, false),
    ];
    let measured = Answers {
        part_copy: parts.part_copy,
        equal_parts: parts.equal,
        conditions,
        etags,
        checksums,
        object_size,
        ordered_lists: lists.ordered,
        encoded_lists: lists.encoded,
        encoded_uploads: uploads.encoded,
        tags,
        tag_headers,
        odd_part_sources,
    };
    Ok(ProbeFindings {
        requests,
        capabilities: measured.findings(stated, needs),
        attributes,
    })
}

fn request(operation: Operation, measured: ProbeAnswer, is_needed: bool) -> RequestFinding {
    RequestFinding {
        operation,
        measured,
        is_needed,
    }
}

/// The answers about requests that create objects. Other questions depend on them.
pub(super) struct WorkingWrites<'t> {
    copy: &'t ProbeAnswer,
    multipart: &'t ProbeAnswer,
}

impl WorkingWrites<'_> {
    /// Returns the answer that questions about this write are moot, if they are.
    pub(super) fn moot(&self, by: ConditionalWrite) -> Option<ProbeAnswer> {
        match by {
            ConditionalWrite::Copy if self.copy.is_lacking() => {
                Some(ProbeAnswer::moot("CopyObject does not work"))
            }
            ConditionalWrite::Complete if self.multipart.is_lacking() => {
                Some(ProbeAnswer::moot(NO_UPLOADS))
            }
            _ => None,
        }
    }
}

/// Refuses a bucket that locks all new objects, because it would lock the probe's objects too.
fn refuse_default_lock(scratch: &Scratch, head: Option<&Head>) -> Result<(), Failure> {
    let Some(retention) = head.and_then(|head| head.lock.retention.as_ref()) else {
        return Ok(());
    };
    let message = format!(
        "the bucket locks each new object (until {}, {}), so that a probe cannot remove what it makes; probe another bucket \
         of this server",
        retention.until, retention.mode
    );
    Err(Failure::new(
        FailureKind::Invalid,
        Operation::PutObject,
        scratch.prefix.clone(),
        message,
    ))
}

fn pin(scratch: &Scratch, name: &str, written: &Written) -> Result<SourcePin, Failure> {
    Ok(SourcePin {
        bucket: scratch.bucket.name().clone(),
        key: scratch.key(name)?,
        version: written.version.clone(),
        etag: written.etag.clone(),
        customer_key: scratch.bucket.client().customer_key().cloned(),
    })
}

fn scratch_effect(head: &Result<Head, Failure>) -> ProbeAnswer {
    match head {
        Ok(head) if head.size == OBJECT.len() as u64 => ProbeAnswer::kept(),
        Ok(head) => ProbeAnswer::ignored(format!(
            "HEAD shows {} bytes of {}",
            head.size,
            OBJECT.len()
        )),
        Err(failure) if *failure.kind() == FailureKind::NotFound => {
            ProbeAnswer::ignored("PutObject was answered with success and made no object")
        }
        Err(failure) => ProbeAnswer::unknown(reason(failure)),
    }
}

/// Determines whether Complete creates an object, and whether it accepts the object size. If the
/// server does not accept the size, later requests omit it.
async fn multipart(scratch: &mut Scratch) -> (ProbeAnswer, ProbeAnswer) {
    let size = b"part".len() as u64;
    let sized = match scratch
        .complete_one("sized", &plain(), WriteCondition::None)
        .await
    {
        Ok(_) => {
            let effect = scratch
                .effect("sized", ConditionalWrite::Complete, size)
                .await;
            // The server accepted the size, whatever happened to the object.
            return (effect, ProbeAnswer::kept());
        }
        Err(failure) => answer_from(&failure),
    };
    scratch.assume(|capabilities| capabilities.object_size = false);
    match scratch
        .complete_one("unsized", &plain(), WriteCondition::None)
        .await
    {
        Ok(_) => (
            scratch
                .effect("unsized", ConditionalWrite::Complete, size)
                .await,
            sized,
        ),
        Err(failure) => (answer_from(&failure), ProbeAnswer::moot(NO_UPLOADS)),
    }
}

/// The answers about part copies, and the object that they created.
struct ProbedUpload {
    part_copy: ProbeAnswer,
    equal: ProbeAnswer,
    made: Option<MadeOfParts>,
}

struct MadeOfParts {
    first: u64,
    etags: Vec<String>,
    etag: String,
}

impl ProbedUpload {
    fn unknown(why: &ProbeAnswer) -> Self {
        Self {
            part_copy: why.clone(),
            equal: why.clone(),
            made: None,
        }
    }
}

/// The reason why part copies created no object.
struct PartsFailed {
    part_copy: ProbeAnswer,
    why: ProbeAnswer,
    is_invalid: bool,
}

/// Copies the source in two parts with the larger one last. If the server refuses that, copies it
/// with a smaller second part.
async fn parts(scratch: &mut Scratch, source: &SourcePin, cannot_complete: bool) -> ProbedUpload {
    let unequal = match in_parts(scratch, source, 5 * MIB).await {
        Ok(made) => {
            let equal = ProbeAnswer::ignored("a last part may be the largest one");
            return ProbedUpload {
                part_copy: ProbeAnswer::kept(),
                equal,
                made: Some(made),
            };
        }
        Err(failed) => failed,
    };
    // If no upload can be completed, other part sizes make no difference.
    if cannot_complete || !unequal.is_invalid {
        let equal = if unequal.part_copy.is_lacking() {
            ProbeAnswer::moot("there are no part copies")
        } else if cannot_complete {
            ProbeAnswer::moot(NO_UPLOADS)
        } else {
            ProbeAnswer::unknown(unequal.why.reason)
        };
        return ProbedUpload {
            part_copy: unequal.part_copy,
            equal,
            made: None,
        };
    }
    match in_parts(scratch, source, 6 * MIB).await {
        Ok(made) => ProbedUpload {
            part_copy: ProbeAnswer::kept(),
            equal: ProbeAnswer::kept(),
            made: Some(made),
        },
        Err(PartsFailed { part_copy, why, .. }) => ProbedUpload {
            part_copy,
            equal: ProbeAnswer::unknown(why.reason),
            made: None,
        },
    }
}

/// Copies the source as a part of `first` bytes and a part with the rest.
async fn in_parts(
    scratch: &mut Scratch,
    source: &SourcePin,
    first: u64,
) -> Result<MadeOfParts, PartsFailed> {
    let failed = |failure: &Failure, part_copy: Option<ProbeAnswer>| PartsFailed {
        part_copy: part_copy.unwrap_or_else(|| ProbeAnswer::unknown(reason(failure))),
        why: answer_from(failure),
        is_invalid: *failure.kind() == FailureKind::Invalid,
    };
    let name = format!("parts-{}", first / MIB);
    let upload = scratch
        .create_upload(&name, &plain())
        .await
        .map_err(|failure| failed(&failure, None))?;
    let mut done: Vec<PartDone> = Vec::new();
    for (number, range) in (1..).zip([(0, first - 1), (first, SOURCE - 1)]) {
        let size = range.1 - range.0 + 1;
        match scratch
            .copy_part(&upload, number, source, Some(range), size)
            .await
        {
            Ok(part) => done.push(part),
            Err(failure) if number == 1 && is_unknown_request(&failure) => {
                let refused = ProbeAnswer::refused(reason(&failure));
                return Err(PartsFailed {
                    is_invalid: false,
                    ..failed(&failure, Some(refused))
                });
            }
            Err(failure) => return Err(failed(&failure, None)),
        }
    }
    let spec = CompleteSpec {
        size: SOURCE,
        ..CompleteSpec::default()
    };
    let written = match scratch.complete(&upload, &done, &spec).await {
        Ok(written) => written,
        Err(failure) => {
            let part_copy = by_list_of_parts(scratch, &upload, &done).await;
            return Err(failed(&failure, part_copy));
        }
    };
    let effect = scratch
        .effect(&name, ConditionalWrite::Complete, SOURCE)
        .await;
    if effect.how == How::Kept {
        let etags = done.into_iter().map(|part| part.etag).collect();
        return Ok(MadeOfParts {
            first,
            etags,
            etag: written.etag,
        });
    }
    let listed = by_list_of_parts(scratch, &upload, &done).await;
    let part_copy = listed.unwrap_or_else(|| effect.clone());
    Err(PartsFailed {
        part_copy,
        why: effect,
        is_invalid: false,
    })
}

/// Checks the upload's list of parts for part copies that worked but were not published.
async fn by_list_of_parts(
    scratch: &Scratch,
    upload: &MultipartUpload,
    done: &[PartDone],
) -> Option<ProbeAnswer> {
    scratch.bucket_for(Operation::ListParts).ok()?;
    let held: Vec<PartDone> = upload.parts().try_collect().await.ok()?;
    let sizes = |parts: &[PartDone]| parts.iter().map(|part| part.size).collect::<Vec<_>>();
    (sizes(&held) == sizes(done)).then(ProbeAnswer::kept)
}

/// Determines whether `ETag`s are derived from the bytes: those of uploaded objects, of copies, of
/// parts, and of multipart objects.
fn content_etags(
    scratch: &Scratch,
    head: &Result<Head, Failure>,
    written: &Written,
    copied: &Result<Written, Failure>,
    parts: &ProbedUpload,
    body: &[u8],
) -> ProbeAnswer {
    if scratch.bucket.client().customer_key().is_some() || head.as_ref().is_ok_and(|head| head.kms)
    {
        return ProbeAnswer::moot("a KMS or customer key hides the ETags");
    }
    let md5 = md5_etag(OBJECT);
    if written.etag != md5 {
        return ProbeAnswer::ignored("the ETag of an object is not the MD5 of its bytes");
    }
    if copied.as_ref().is_ok_and(|copied| copied.etag != md5) {
        return ProbeAnswer::ignored("the ETag of a copy is not the MD5 of its bytes");
    }
    let Some(made) = &parts.made else {
        return ProbeAnswer::kept();
    };
    let (head, tail) = body.split_at(
        usize::try_from(made.first)
            .unwrap_or(usize::MAX)
            .min(body.len()),
    );
    let expected = [md5_etag(head), md5_etag(tail)];
    let whole = multipart_etag(expected.iter().map(String::as_str));
    if made.etags == expected && whole.as_ref() == Some(&made.etag) {
        return ProbeAnswer::kept();
    }
    ProbeAnswer::ignored("the ETags of parts, or of what they make, are not those of S3")
}

/// Determines whether a right checksum is stored and shown, a wrong one is refused, and a multipart
/// object has the checksum of the whole.
async fn checksums(scratch: &mut Scratch, only_puts: bool) -> ProbeAnswer {
    // If the manifest does not rely on checksums, s3haul would ignore those in responses.
    scratch.assume(|capabilities| capabilities.checksums = true);
    let algorithm = ChecksumAlgorithm::Crc64Nvme;
    let (right, wrong) = (
        checksum::compute(algorithm, b"part"),
        checksum::compute(algorithm, b"other"),
    );
    let put = scratch
        .put(
            "summed",
            &b"part"[..],
            &plain(),
            Some(&right),
            WriteCondition::None,
        )
        .await;
    let shown = shows(scratch, "summed", put, &right).await;
    if shown.how != How::Kept {
        return shown;
    }
    let put = scratch
        .put(
            "summed",
            &b"part"[..],
            &plain(),
            Some(&wrong),
            WriteCondition::None,
        )
        .await;
    match put {
        Ok(_) => return ProbeAnswer::ignored("bytes with a wrong checksum are accepted"),
        Err(failure) if !is_refusal(&failure) => return ProbeAnswer::unknown(reason(&failure)),
        Err(_) if only_puts => return ProbeAnswer::kept(),
        Err(_) => {}
    }
    let attributes = Attributes {
        checksum: Some((algorithm, ChecksumKind::FullObject)),
        ..plain()
    };
    let completed = match scratch
        .create_upload_with_part("summed-parts", b"part", &attributes)
        .await
    {
        Ok((upload, part)) => {
            let full_checksum = Some(right.clone());
            let spec = CompleteSpec {
                size: part.size,
                full_checksum,
                ..CompleteSpec::default()
            };
            scratch.complete(&upload, &[part], &spec).await
        }
        Err(failure) => Err(failure),
    };
    shows(scratch, "summed-parts", completed, &right).await
}

/// Checks that a written object shows this checksum.
async fn shows(
    scratch: &Scratch,
    name: &str,
    answer: Result<Written, Failure>,
    expected: &Checksum,
) -> ProbeAnswer {
    if let Err(failure) = answer {
        return answer_from(&failure);
    }
    match scratch.head(name).await {
        Ok(head) if head.checksum.as_ref() == Some(expected) => ProbeAnswer::kept(),
        Ok(_) => ProbeAnswer::ignored("HEAD does not show the checksum of what was sent"),
        Err(failure) => ProbeAnswer::unknown(reason(&failure)),
    }
}

/// Determines whether `UploadPartCopy` reads the named key, and not the key that results from
/// decoding the name again.
async fn odd_part_sources(scratch: &mut Scratch) -> ProbeAnswer {
    const MEANT: (&str, &[u8]) = ("odd%20name", b"meant");
    const OTHER: (&str, &[u8]) = ("odd name", b"another one");
    // The decoded name must exist too: otherwise, a wrong read would fail instead of reading it.
    let _ = scratch.put_plain(OTHER.0, OTHER.1).await;
    let meant = match scratch.put_plain(MEANT.0, MEANT.1).await {
        Ok(written) => written,
        Err(failure) if is_refusal(&failure) => {
            return ProbeAnswer::moot(format!("the server does not store the key `{}`", MEANT.0));
        }
        Err(failure) => return ProbeAnswer::unknown(reason(&failure)),
    };
    let copied = async {
        let source = pin(scratch, MEANT.0, &meant)?;
        // The size could make a wrong copy fail, so it is not sent.
        let size_is_sent = scratch.bucket.capabilities().object_size;
        scratch.assume(|capabilities| capabilities.object_size = false);
        let upload = scratch.create_upload("odd-parts", &plain()).await;
        scratch.assume(|capabilities| capabilities.object_size = size_is_sent);
        let upload = upload?;
        let part = scratch
            .copy_part(&upload, 1, &source, None, MEANT.1.len() as u64)
            .await?;
        let is_of = |bytes: &[u8]| part.etag == md5_etag(bytes);
        if is_of(MEANT.1) || is_of(OTHER.1) {
            return Ok(is_of(MEANT.1));
        }
        scratch
            .complete(&upload, &[part], &CompleteSpec::default())
            .await?;
        Ok(scratch.head("odd-parts").await?.size == MEANT.1.len() as u64)
    };
    match copied.await {
        Ok(true) => ProbeAnswer::kept(),
        Ok(false) => ProbeAnswer::ignored("the part came from another key"),
        Err::<_, Failure>(failure) if *failure.kind() == FailureKind::NotFound => {
            ProbeAnswer::refused(reason(&failure))
        }
        Err(failure) => ProbeAnswer::unknown(reason(&failure)),
    }
}

/// Returns true if the server does not know the request.
fn is_unknown_request(failure: &Failure) -> bool {
    matches!(
        failure.kind(),
        FailureKind::Unsupported | FailureKind::Invalid | FailureKind::NotFound
    )
}

/// Returns random bytes.
fn random(size: u64) -> bytes::Bytes {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    fastrand::fill(&mut bytes);
    bytes.into()
}
