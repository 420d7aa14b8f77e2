//! The questions themselves. Each is a few requests and one of three answers: yes, no, or why it can not be told.

use futures::TryStreamExt;

use super::{Finding, Scratch, Value};
use crate::checksum::{self, md5_etag, multipart_etag};
use crate::multipart::{self, MultipartUpload};
use crate::s3::paging::{Order, Paging, Turn};
use crate::s3::{
    Attributes, Capabilities, Checksum, ChecksumAlgorithm, ChecksumKind, CompleteSpec, Failure, FailureKind,
    OnWrites, Operation, PartDone, SourcePin, Tag, Tags, WriteCondition, Written,
};
use crate::size::MIB;

/// The source of all copies: two parts, of which the second can be the larger one.
const SOURCE: u64 = 11 * MIB;
/// An `ETag` that no object has.
const NO_ETAG: &str = "00000000000000000000000000000000";
/// The keys of a listing, in the order of their bytes. Listed by directories, `a/b` would come before `a b`.
const LISTED: [&str; 7] = ["a", "a b", "a!", "a-b", "a/b", "a0", "é+%"];

/// An answer; the reason why there is none.
type Told<T> = Result<T, String>;

/// Asks everything. The source is what nothing can be asked without.
pub(super) async fn ask(scratch: &mut Scratch, said: &Capabilities) -> Result<Vec<Finding>, Failure> {
    let body = random(SOURCE);
    let written = scratch.put("source", &body, &untagged(), None, WriteCondition::None).await?;
    let source = SourcePin {
        bucket: scratch.bucket.name().clone(),
        key: scratch.key("source")?,
        version: written.version,
        etag: written.etag.clone(),
        customer_key: None,
    };
    let parts = parts(scratch, &source, &body).await;
    let etags = content_etags(scratch, &source, &body, parts.as_ref()).await;
    let copy_conditions = refused(
        scratch.copy(&pinned_wrongly(&source), "unconditional", &untagged(), WriteCondition::None).await,
    );
    let part_conditions = part_conditions(scratch, &source).await;
    let if_none_match = if_none_match(scratch, &source).await;
    let if_match = if_match(scratch, &source).await;
    let (ordered, encoded) = lists(scratch).await;
    let tags = tags(scratch).await;
    let flag = |name, said, found: Told<bool>| Finding {
        name,
        said: Value::Flag(said),
        found: found.map(Value::Flag),
    };
    let writes = |name, said, found: Told<OnWrites>| Finding {
        name,
        said: Value::Writes(said),
        found: found.map(Value::Writes),
    };
    let (part_copy, equal_parts) = match parts {
        Ok(Parts::None) => (Ok(false), Err("there are no part copies".to_owned())),
        Ok(Parts::Copied { equal, .. }) => (Ok(true), Ok(equal)),
        Err(why) => (Err(why.clone()), Err(why)),
    };
    let tag_headers = match &tags {
        Ok(true) => tag_headers(scratch, &source).await,
        other => other.clone(),
    };
    Ok(vec![
        flag("part_copy", said.part_copy, part_copy),
        flag("equal_parts", said.parts.equal_parts, equal_parts),
        flag("copy_conditions", said.copy_conditions, copy_conditions),
        flag("part_conditions", said.part_conditions, part_conditions),
        writes("if_none_match", said.if_none_match, if_none_match),
        writes("if_match", said.if_match, if_match),
        flag("content_etags", said.content_etags, etags),
        flag("checksums", said.checksums, checksums(scratch).await),
        flag("object_size", said.object_size, object_size(scratch).await),
        flag("ordered_lists", said.ordered_lists, ordered),
        flag("encoded_lists", said.encoded_lists, encoded),
        flag("encoded_uploads", said.encoded_uploads, encoded_uploads(scratch).await),
        flag("tags", said.tags, tags),
        flag("tag_headers", said.tag_headers, tag_headers),
        flag("odd_part_sources", said.odd_part_sources, odd_part_sources(scratch).await),
    ])
}

/// What came of copying the source in parts.
enum Parts {
    /// There is no `UploadPartCopy`.
    None,
    /// An object of two parts; `equal` when a second part that is larger than the first one was refused.
    Copied { equal: bool, first: u64, etags: Vec<String>, written: Written },
}

async fn parts(scratch: &mut Scratch, source: &SourcePin, body: &[u8]) -> Told<Parts> {
    match in_parts(scratch, source, body, 5 * MIB).await {
        Ok(Some((etags, written))) => Ok(Parts::Copied { equal: false, first: 5 * MIB, etags, written }),
        Ok(None) => Ok(Parts::None),
        Err(failure) if *failure.kind() == FailureKind::Invalid => {
            match in_parts(scratch, source, body, 6 * MIB).await.map_err(|failure| reason(&failure))? {
                Some((etags, written)) => Ok(Parts::Copied { equal: true, first: 6 * MIB, etags, written }),
                None => Ok(Parts::None),
            }
        }
        Err(failure) => Err(reason(&failure)),
    }
}

/// Copies the source as a part of `first` bytes and one of the rest; `None` when there are no part copies.
async fn in_parts(
    scratch: &mut Scratch,
    source: &SourcePin,
    body: &[u8],
    first: u64,
) -> Result<Option<(Vec<String>, Written)>, Failure> {
    let upload = scratch.begin(&format!("parts-{first}"), &untagged()).await?;
    let size = body.len() as u64;
    let mut done: Vec<PartDone> = Vec::new();
    for (number, range) in (1..).zip([0..=first - 1, first..=size - 1]) {
        let bytes = range.end() - range.start() + 1;
        match upload.copy_part(number, source, Some(range), bytes).await {
            Ok(part) => done.push(part),
            Err(failure) if is_missing(&failure) && number == 1 => return Ok(None),
            Err(failure) => return Err(failure),
        }
    }
    let spec = CompleteSpec { size, ..CompleteSpec::default() };
    let written = scratch.complete(&upload, &done, &spec).await?;
    let found = scratch.bucket.head(upload.key(), written.version.as_deref()).await?;
    if found.size != size {
        // Something was made, and it is not what its parts are: such part copies are none.
        return Ok(None);
    }
    Ok(Some((done.into_iter().map(|part| part.etag).collect(), written)))
}

/// `ETag`s that follow from the bytes: of what is put, of what is copied, of parts and of what they make.
async fn content_etags(
    scratch: &mut Scratch,
    source: &SourcePin,
    body: &[u8],
    parts: Result<&Parts, &String>,
) -> Told<bool> {
    let md5 = md5_etag(body);
    let copied = scratch.copy(source, "copied", &untagged(), WriteCondition::None).await;
    let copied = copied.map_err(|failure| reason(&failure))?;
    let single = source.etag == md5 && copied.etag == md5;
    Ok(match parts {
        Ok(Parts::Copied { first, etags, written, .. }) => {
            let (head, tail) = body.split_at(usize::try_from(*first).unwrap_or(usize::MAX).min(body.len()));
            let expected = [md5_etag(head), md5_etag(tail)];
            let whole = multipart_etag(expected.iter().map(String::as_str));
            single && *etags == expected && whole.as_ref() == Some(&written.etag)
        }
        _ => single,
    })
}

async fn part_conditions(scratch: &mut Scratch, source: &SourcePin) -> Told<bool> {
    let upload = scratch.begin("unconditional", &untagged()).await.map_err(|failure| reason(&failure))?;
    let range = Some(0..=5 * MIB - 1);
    let answer = upload.copy_part(1, &pinned_wrongly(source), range, 5 * MIB).await;
    if answer.as_ref().is_err_and(is_missing) {
        return Err("there are no part copies".to_owned());
    }
    refused(answer)
}

/// A key that is absent may be written, one that is taken may not.
async fn if_none_match(scratch: &mut Scratch, source: &SourcePin) -> Told<OnWrites> {
    let absent = || WriteCondition::Absent;
    let free = scratch.put("put", b"1", &untagged(), None, absent()).await;
    let taken = scratch.put("put", b"2", &untagged(), None, absent()).await;
    let put = honours(free, taken)?;
    let free = scratch.copy(source, "copy", &untagged(), absent()).await;
    let taken = scratch.copy(source, "copy", &untagged(), absent()).await;
    let copy = honours(free, taken)?;
    let free = complete_one(scratch, "complete", absent()).await;
    let taken = complete_one(scratch, "complete", absent()).await;
    Ok(OnWrites { copy, put, complete: honours(free, taken)? })
}

/// An object with the named `ETag` may be replaced, another one may not.
async fn if_match(scratch: &mut Scratch, source: &SourcePin) -> Told<OnWrites> {
    let matches = |etag: &str| WriteCondition::Matches(etag.to_owned());
    let there = scratch.put("matched", b"1", &untagged(), None, WriteCondition::None).await;
    let there = there.map_err(|failure| reason(&failure))?.etag;
    // What must be refused comes first: what replaces the object gives it another ETag.
    let other = scratch.put("matched", b"2", &untagged(), None, matches(NO_ETAG)).await;
    let same = scratch.put("matched", b"3", &untagged(), None, matches(&there)).await;
    let there = now(scratch, "matched").await?;
    let put = honours(same, other)?;
    let other = scratch.copy(source, "matched", &untagged(), matches(NO_ETAG)).await;
    let there = if other.is_ok() { now(scratch, "matched").await? } else { there };
    let same = scratch.copy(source, "matched", &untagged(), matches(&there)).await;
    let there = now(scratch, "matched").await?;
    let copy = honours(same, other)?;
    let other = complete_one(scratch, "matched", matches(NO_ETAG)).await;
    let there = if other.is_ok() { now(scratch, "matched").await? } else { there };
    let same = complete_one(scratch, "matched", matches(&there)).await;
    Ok(OnWrites { copy, put, complete: honours(same, other)? })
}

/// The `ETag` that stands at the key now.
async fn now(scratch: &Scratch, name: &str) -> Told<String> {
    let key = scratch.key(name).map_err(|failure| reason(&failure))?;
    scratch.bucket.head(&key, None).await.map(|head| head.etag).map_err(|failure| reason(&failure))
}

/// An upload of one part to the key.
async fn complete_one(
    scratch: &mut Scratch,
    name: &str,
    condition: WriteCondition,
) -> Result<Written, Failure> {
    let (upload, part) = begin_one(scratch, name, &untagged()).await?;
    let spec = CompleteSpec { size: part.size, condition, ..CompleteSpec::default() };
    scratch.complete(&upload, &[part], &spec).await
}

async fn begin_one(
    scratch: &mut Scratch,
    name: &str,
    attributes: &Attributes,
) -> Result<(MultipartUpload, PartDone), Failure> {
    let upload = scratch.begin(name, attributes).await?;
    let part = upload.upload_part(1, &b"part"[..]).await?;
    Ok((upload, part))
}

/// A checksum that is right is stored and told, one that is wrong is refused, and parts make that of the whole.
async fn checksums(scratch: &mut Scratch) -> Told<bool> {
    let algorithm = ChecksumAlgorithm::Crc64Nvme;
    let (right, wrong) = (checksum::compute(algorithm, b"part"), checksum::compute(algorithm, b"other"));
    let put = scratch.put("summed", b"part", &untagged(), Some(&right), WriteCondition::None).await;
    if !is_told(scratch, "summed", put, &right).await? {
        return Ok(false);
    }
    let put = scratch.put("summed", b"part", &untagged(), Some(&wrong), WriteCondition::None).await;
    if put.is_ok() {
        return Ok(false);
    }
    let attributes = Attributes { checksum: Some((algorithm, ChecksumKind::FullObject)), ..untagged() };
    let begun = begin_one(scratch, "summed-parts", &attributes).await;
    let completed = match begun {
        Ok((upload, part)) => {
            let full_checksum = Some(right.clone());
            let spec = CompleteSpec { size: part.size, full_checksum, ..CompleteSpec::default() };
            scratch.complete(&upload, &[part], &spec).await
        }
        Err(failure) => Err(failure),
    };
    is_told(scratch, "summed-parts", completed, &right).await
}

/// True when the write went through and HEAD shows this checksum.
async fn is_told(
    scratch: &Scratch,
    name: &str,
    answer: Result<Written, Failure>,
    expected: &Checksum,
) -> Told<bool> {
    match answer {
        Ok(_) => {}
        Err(failure) if is_refusal(&failure) => return Ok(false),
        Err(failure) => return Err(reason(&failure)),
    }
    let key = scratch.key(name).map_err(|failure| reason(&failure))?;
    let head = scratch.bucket.head(&key, None).await.map_err(|failure| reason(&failure))?;
    Ok(head.checksum.as_ref() == Some(expected))
}

/// Whether Complete takes the size of the object, checked or not.
async fn object_size(scratch: &mut Scratch) -> Told<bool> {
    match complete_one(scratch, "sized", WriteCondition::None).await {
        Ok(_) => Ok(true),
        Err(failure) if is_refusal(&failure) => Ok(false),
        Err(failure) => Err(reason(&failure)),
    }
}

/// Whether a list is in the order of bytes, and whether it can be asked for in an encoding.
async fn lists(scratch: &mut Scratch) -> (Told<bool>, Told<bool>) {
    match listed(scratch).await {
        Ok((ordered, encoded)) => (Ok(ordered), Ok(encoded)),
        Err(failure) => (Err(reason(&failure)), Err(reason(&failure))),
    }
}

async fn listed(scratch: &mut Scratch) -> Result<(bool, bool), Failure> {
    let prefix = format!("{}list/", scratch.prefix);
    let expected: Vec<_> = LISTED.iter().map(|name| format!("{prefix}{name}")).collect();
    for name in LISTED {
        scratch.put(&format!("list/{name}"), b"", &untagged(), None, WriteCondition::None).await?;
    }
    let in_order = keys(scratch, &prefix, true).await?;
    let mut sorted = in_order.clone();
    sorted.sort_unstable();
    let encoded = sorted == expected;
    let in_order = if encoded { in_order } else { keys(scratch, &prefix, false).await? };
    Ok((in_order == expected, encoded))
}

/// Whether the keys of open uploads come back from an encoding.
async fn encoded_uploads(scratch: &mut Scratch) -> Told<bool> {
    let listed = async {
        let upload = scratch.begin("uploads/é+% b", &untagged()).await?;
        let prefix = format!("{}uploads/", scratch.prefix);
        let uploads: Vec<_> = multipart::uploads(&scratch.bucket, &prefix).try_collect().await?;
        Ok(uploads.iter().any(|open| open.upload_id == upload.id() && open.key == upload.key().as_str()))
    };
    listed.await.map_err(|failure: Failure| reason(&failure))
}

/// Whether a part is copied from the key that was named, and not from what its name means when it is decoded again.
async fn odd_part_sources(scratch: &mut Scratch) -> Told<bool> {
    let none = WriteCondition::None;
    let other = scratch.put("odd name", b"another one", &untagged(), None, none.clone()).await;
    other.map_err(|failure| reason(&failure))?;
    let meant = scratch.put("odd%20name", b"meant", &untagged(), None, none).await;
    let meant = meant.map_err(|failure| reason(&failure))?;
    let source = SourcePin {
        bucket: scratch.bucket.name().clone(),
        key: scratch.key("odd%20name").map_err(|failure| reason(&failure))?,
        version: meant.version,
        etag: meant.etag,
        customer_key: None,
    };
    let copied = async {
        let upload = scratch.begin("odd-parts", &untagged()).await?;
        upload.copy_part(1, &source, None, 5).await?;
        let parts: Vec<_> = upload.parts().try_collect().await?;
        Ok(parts.iter().map(|part| part.size).collect::<Vec<_>>() == [5])
    };
    match copied.await {
        Ok(found) => Ok(found),
        Err(failure) if *failure.kind() == FailureKind::NotFound => Ok(false),
        Err::<_, Failure>(failure) => Err(reason(&failure)),
    }
}

async fn keys(scratch: &Scratch, prefix: &str, encoded_lists: bool) -> Result<Vec<String>, Failure> {
    let capabilities = Capabilities { encoded_lists, ..scratch.bucket.capabilities().clone() };
    let bucket = scratch.bucket.assuming(capabilities);
    // The order is asked for elsewhere.
    let mut paging = Paging::new(Operation::ListObjects, bucket.name(), "", Order::Short);
    let (mut keys, mut token) = (Vec::new(), None);
    loop {
        let mut page = bucket.list(prefix, None, token.as_deref()).await?;
        if paging.check(&mut page)? == Turn::Again {
            continue;
        }
        keys.extend(page.items.into_iter().map(|object| object.key));
        token = page.next;
        if token.is_none() {
            return Ok(keys);
        }
    }
}

/// Whether an object can have tags at all.
async fn tags(scratch: &mut Scratch) -> Told<bool> {
    let put = scratch.put("tagged", b"1", &tagged(), None, WriteCondition::None).await;
    has_tags(scratch, "tagged", put).await
}

/// Whether copies and uploads can give tags.
async fn tag_headers(scratch: &mut Scratch, source: &SourcePin) -> Told<bool> {
    let copied = scratch.copy(source, "tagged-copy", &tagged(), WriteCondition::None).await;
    let copy = has_tags(scratch, "tagged-copy", copied).await?;
    let completed = match begin_one(scratch, "tagged-parts", &tagged()).await {
        Ok((upload, part)) => {
            let spec = CompleteSpec { size: part.size, ..CompleteSpec::default() };
            scratch.complete(&upload, &[part], &spec).await
        }
        Err(failure) => Err(failure),
    };
    Ok(copy && has_tags(scratch, "tagged-parts", completed).await?)
}

async fn has_tags(scratch: &Scratch, name: &str, answer: Result<Written, Failure>) -> Told<bool> {
    let key = scratch.key(name).map_err(|failure| reason(&failure))?;
    let found = match answer {
        Ok(_) => scratch.bucket.tags(&key, None).await,
        Err(failure) => Err(failure),
    };
    match found {
        Ok(found) => Ok(Tags::Exactly(found) == tagged().tags),
        Err(failure) if is_refusal(&failure) => Ok(false),
        Err(failure) => Err(reason(&failure)),
    }
}

fn untagged() -> Attributes {
    Attributes { tags: Tags::AsSource, ..Attributes::default() }
}

fn tagged() -> Attributes {
    let tag = Tag { key: "s3haul".to_owned(), value: "a b/1".to_owned() };
    Attributes { tags: Tags::Exactly(vec![tag]), ..Attributes::default() }
}

fn pinned_wrongly(source: &SourcePin) -> SourcePin {
    SourcePin { etag: NO_ETAG.to_owned(), ..source.clone() }
}

/// Whether a request was refused for its condition.
fn refused<T>(answer: Result<T, Failure>) -> Told<bool> {
    match answer {
        Ok(_) => Ok(false),
        Err(failure) if *failure.kind() == FailureKind::PreconditionFailed => Ok(true),
        Err(failure) if is_refusal(&failure) => Ok(false),
        Err(failure) => Err(reason(&failure)),
    }
}

/// A condition is honoured when it lets through what it must, and nothing else.
fn honours(allowed: Result<Written, Failure>, forbidden: Result<Written, Failure>) -> Told<bool> {
    match allowed {
        Ok(_) => refused(forbidden),
        Err(failure) if is_refusal(&failure) || *failure.kind() == FailureKind::PreconditionFailed => {
            Ok(false)
        }
        Err(failure) => Err(reason(&failure)),
    }
}

/// The server does not want this request as it is, now or ever.
fn is_refusal(failure: &Failure) -> bool {
    matches!(
        failure.kind(),
        FailureKind::Unsupported | FailureKind::Invalid | FailureKind::Corrupted | FailureKind::NotFound
    )
}

/// The server has no such request.
fn is_missing(failure: &Failure) -> bool {
    matches!(failure.kind(), FailureKind::Unsupported | FailureKind::Invalid | FailureKind::NotFound)
}

fn reason(failure: &Failure) -> String {
    let details = failure.details();
    format!("{}: {} {}", details.operation, details.code, details.message).trim_end().to_owned()
}

/// Bytes without a pattern.
fn random(size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    fastrand::fill(&mut bytes);
    bytes
}
