//! Questions about lists: of objects, of open uploads, and of parts.
//!
//! A key that the server does not accept is omitted and reported. The other keys still test the
//! list.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use jiff::Timestamp;

use super::doubts::false_date;
use super::finding::ProbeAnswer;
use super::scratch::{NotStored, Scratch, answer_from, is_refusal, plain, reason};
use crate::multipart::MultipartUpload;
use crate::s3::paging::{Order, PageVerdict, Paging};
use crate::s3::{Capabilities, Failure, FailureKind, OpenUpload, Operation, PartDone};
use crate::size::display_counted;

/// The keys of the listing, in byte order. A server that lists by directories would return `a/b`
/// before `a b`.
const LISTED: [&str; 7] = ["a", "a b", "a!", "a-b", "a/b", "a0", ODD];
/// A name that differs if the encoding is not decoded.
const ODD: &str = "é+%";

/// The answers about the list of objects.
pub(super) struct ObjectLists {
    pub(super) list: ProbeAnswer,
    pub(super) ordered: ProbeAnswer,
    pub(super) encoded: ProbeAnswer,
}

/// Determines whether a list shows all written keys, in byte order, and encoded on request.
pub(super) async fn objects(scratch: &mut Scratch) -> ObjectLists {
    let prefix = format!("{}list/", scratch.prefix);
    let mut stored = BTreeSet::new();
    let mut refusal = None;
    for name in LISTED {
        match scratch.put_plain(&format!("list/{name}"), b"").await {
            Ok(_) => drop(stored.insert(format!("{prefix}{name}"))),
            Err(failure) => refusal = Some(failure),
        }
    }
    let all = |measured: ProbeAnswer| ObjectLists {
        list: measured.clone(),
        ordered: measured.clone(),
        encoded: measured,
    };
    if let (true, Some(failure)) = (stored.is_empty(), refusal) {
        return all(ProbeAnswer::unknown(reason(&failure)));
    }
    let odd = format!("{prefix}{ODD}");
    // The other keys need no encoding, so this checks only the odd key.
    let is_right = |keys: &[String]| keys.contains(&odd) || !stored.contains(&odd);
    let (keys, encoded) = match list_keys(scratch, &prefix, true).await {
        Ok(keys) if is_right(&keys) => (keys, ProbeAnswer::kept()),
        first => match (first, list_keys(scratch, &prefix, false).await) {
            (_, Err(failure)) => return all(answer_from(&failure)),
            (Err(failure), Ok(keys)) => (keys, answer_from(&failure)),
            (Ok(_), Ok(keys)) if is_right(&keys) => {
                let why = "names come back otherwise than they were written";
                (keys, ProbeAnswer::ignored(why))
            }
            (Ok(_), Ok(keys)) => {
                let why = format!("the list lacks {odd} without an encoding too");
                (keys, ProbeAnswer::unknown(why))
            }
        },
    };
    let found: BTreeSet<&String> = keys.iter().collect();
    let missing: Vec<_> = stored
        .iter()
        .filter(|key| !found.contains(key) && **key != odd)
        .collect();
    let list = match missing.first() {
        None => ProbeAnswer::kept(),
        Some(key) => ProbeAnswer::ignored(format!(
            "the list lacks {}, for example {key}",
            display_counted(missing.len() as u64, "key")
        )),
    };
    let shown: Vec<_> = keys.iter().filter(|key| stored.contains(*key)).collect();
    let ordered = match &list {
        list if list.is_lacking() && shown.len() < 2 => ProbeAnswer::unknown(list.reason.clone()),
        _ if shown.is_sorted() => ProbeAnswer::kept(),
        _ => ProbeAnswer::ignored("keys come in another order than that of their bytes"),
    };
    let encoded = if stored.contains(&odd) {
        encoded
    } else {
        ProbeAnswer::moot(format!("the server does not store the key {odd}"))
    };
    ObjectLists {
        list,
        ordered,
        encoded,
    }
}

async fn list_keys(
    scratch: &Scratch,
    prefix: &str,
    encoded_lists: bool,
) -> Result<Vec<String>, Failure> {
    let bucket = scratch.bucket_for(Operation::ListObjects)?;
    let bucket = bucket.assuming(Capabilities {
        encoded_lists,
        ..bucket.capabilities().clone()
    });
    // The probe tests the order itself, so paging must not check it.
    let mut paging = Paging::new(Operation::ListObjects, bucket.name(), "", Order::Short);
    let (mut keys, mut token) = (Vec::new(), None);
    loop {
        let mut page = bucket.list(prefix, None, token.as_deref()).await?;
        if paging.check(&mut page)? == PageVerdict::Again {
            continue;
        }
        keys.extend(page.items.iter().map(|object| object.key.to_string()));
        token = page.next;
        if token.is_none() {
            return Ok(keys);
        }
        scratch.bucket_for(Operation::ListObjects)?;
    }
}

/// The answers about open uploads.
pub(super) struct UploadLists {
    pub(super) parts: ProbeAnswer,
    pub(super) list: ProbeAnswer,
    pub(super) encoded: ProbeAnswer,
}

/// Determines whether an open upload and its part are listed, and whether its key survives the
/// encoding.
pub(super) async fn uploads(scratch: &mut Scratch) -> UploadLists {
    let odd = format!("uploads/{ODD} b");
    let created = Timestamp::now();
    let mut upload_and_part = scratch
        .create_upload_with_part(&odd, b"part", &plain())
        .await;
    let mut is_odd = true;
    if let Err(failure) = &upload_and_part
        && is_refusal(failure)
    {
        let key = format!("{}{odd}", scratch.prefix);
        scratch.not_stored.push(NotStored {
            key,
            reason: reason(failure),
        });
        is_odd = false;
        upload_and_part = scratch
            .create_upload_with_part("uploads/plain", b"part", &plain())
            .await;
    }
    let (upload, part) = match upload_and_part {
        Ok(upload_and_part) => upload_and_part,
        Err(failure) => {
            let why = ProbeAnswer::unknown(reason(&failure));
            return UploadLists {
                parts: why.clone(),
                list: why.clone(),
                encoded: why,
            };
        }
    };
    let parts = list_of_parts(scratch, &upload, &part).await;
    let (list, encoded) = list_of_uploads(scratch, &upload, created).await;
    let encoded = if is_odd {
        encoded
    } else {
        ProbeAnswer::moot(format!("the server does not take the key {odd}"))
    };
    UploadLists {
        parts,
        list,
        encoded,
    }
}

async fn list_of_parts(
    scratch: &Scratch,
    upload: &MultipartUpload,
    part: &PartDone,
) -> ProbeAnswer {
    if let Err(failure) = scratch.bucket_for(Operation::ListParts) {
        return answer_about_uploads(&failure);
    }
    match upload.parts().try_collect::<Vec<_>>().await {
        Ok(parts) if parts.iter().map(|part| part.size).eq([part.size]) => ProbeAnswer::kept(),
        Ok(parts) => ProbeAnswer::ignored(format!(
            "it shows {} of an upload that has one",
            display_counted(parts.len() as u64, "part")
        )),
        Err(failure) => answer_about_uploads(&failure),
    }
}

/// Returns the answers about the plain and the encoded list of uploads, which must show this
/// upload.
async fn list_of_uploads(
    scratch: &mut Scratch,
    upload: &MultipartUpload,
    created: Timestamp,
) -> (ProbeAnswer, ProbeAnswer) {
    let is_this_upload = |open: &OpenUpload| open.upload_id == upload.id();
    let encoded = list_open(scratch, true).await;
    let listed = encoded.iter().flatten().find(|open| is_this_upload(open));
    scratch.false_date = listed.and_then(|open| false_date(open, created));
    if let Ok(uploads) = &encoded
        && uploads
            .iter()
            .any(|open| is_this_upload(open) && open.key == upload.key().as_str())
    {
        return (ProbeAnswer::kept(), ProbeAnswer::kept());
    }
    let why = match &encoded {
        Ok(_) => ProbeAnswer::ignored("keys come back otherwise than they were written"),
        Err(failure) => answer_about_uploads(failure),
    };
    match list_open(scratch, false).await {
        Ok(uploads) if uploads.iter().any(is_this_upload) => (ProbeAnswer::kept(), why),
        Ok(_) => {
            let list = ProbeAnswer::ignored("the list does not show an upload that is open");
            (list.clone(), ProbeAnswer::unknown(list.reason))
        }
        Err(failure) => (
            answer_about_uploads(&failure),
            ProbeAnswer::unknown(reason(&failure)),
        ),
    }
}

async fn list_open(scratch: &Scratch, encoded_uploads: bool) -> Result<Vec<OpenUpload>, Failure> {
    let bucket = scratch.bucket_for(Operation::ListMultipartUploads)?;
    let bucket = bucket.assuming(Capabilities {
        encoded_uploads,
        ..bucket.capabilities().clone()
    });
    let prefix = format!("{}uploads/", scratch.prefix);
    MultipartUpload::list(&bucket, &prefix).try_collect().await
}

/// Converts the failure of a question about uploads into an answer. If the server does not know the
/// request or the upload, that is a refusal.
fn answer_about_uploads(failure: &Failure) -> ProbeAnswer {
    match failure.kind() {
        FailureKind::NoSuchUpload | FailureKind::NotUnderstood => {
            ProbeAnswer::refused(reason(failure))
        }
        _ => answer_from(failure),
    }
}
