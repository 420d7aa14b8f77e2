//! Questions about attributes: does each request that creates an object keep them?
//!
//! One request sends all attributes. The probe compares the attributes of the object as a run does
//! ([`Asked::differences`]), so that the probe and the receipts of a run agree. If the server
//! refuses that request, the probe sends each attribute in a separate request.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::finding::{AttributeFinding, How, ProbeAnswer};
use super::needs::Needs;
use super::questions::WorkingWrites;
use super::scratch::{Scratch, is_refusal, plain, reason};
use crate::endpoint::capabilities::ConditionalWrite;
use crate::manifest::job::Attribute;
use crate::plan::asked::Asked;
use crate::s3::{
    Attributes, Capabilities, ContentHeaders, Failure, FailureKind, Head, Lock, Operation,
    Retention, SourcePin, Tag, Tags, WriteCondition,
};

/// The time for which scratch objects are locked. The clean-up waits until the lock has expired.
const LOCKED: Duration = Duration::from_secs(5);
/// The storage class to request if the job names none: a common one other than the default.
const CLASS: &str = "STANDARD_IA";

const ROUTES: [ConditionalWrite; 3] = [
    ConditionalWrite::Put,
    ConditionalWrite::Copy,
    ConditionalWrite::Complete,
];

/// The answers of one request, by attribute.
type Answers = BTreeMap<Attribute, ProbeAnswer>;

/// Asks about all attributes except ACLs and annotations. ACLs are left out because a visible grant
/// would give somebody access to an object. Also returns the answer about `PutObjectTagging`, which
/// is tried if another request does not set tags.
pub(super) async fn ask(
    scratch: &mut Scratch,
    source: &SourcePin,
    works: &WorkingWrites<'_>,
    needs: &Needs,
    stated: &Capabilities,
    lock: AttributeFinding,
) -> (Vec<AttributeFinding>, ProbeAnswer) {
    let asked = asked(needs, stated);
    let mut answers = Vec::new();
    for route in ROUTES {
        answers.push(match works.moot(route) {
            Some(moot) => asked
                .iter()
                .map(|(attribute, _)| (*attribute, moot.clone()))
                .collect(),
            None => all(scratch, source, route, &asked).await,
        });
    }
    let mut findings: Vec<_> = asked
        .iter()
        .map(|(attribute, _)| {
            let [put, copy, multipart] = [0, 1, 2].map(|route: usize| {
                let answer = answers
                    .get(route)
                    .and_then(|answers| answers.get(attribute));
                answer
                    .cloned()
                    .unwrap_or_else(|| ProbeAnswer::unknown("it was not asked for"))
            });
            finding(*attribute, needs, [put, copy, multipart])
        })
        .collect();
    let mut set_tags = ProbeAnswer::moot("each request that creates an object gives tags");
    if let Some(tags) = findings
        .iter_mut()
        .find(|finding| finding.attribute == Attribute::Tags)
        && tags
            .routes()
            .iter()
            .any(|(_, measured)| !matches!(measured.how, How::Kept | How::Moot))
    {
        set_tags = set_later(scratch, stated).await;
        // If the job does not rely on tags in these requests, a run sets them with
        // `PutObjectTagging`.
        tags.is_set_later = set_tags.how == How::Kept && stated.tags && !stated.tag_headers;
    }
    findings.push(lock);
    (findings, set_tags)
}

fn finding(
    attribute: Attribute,
    needs: &Needs,
    [put, copy, multipart]: [ProbeAnswer; 3],
) -> AttributeFinding {
    AttributeFinding {
        attribute,
        policy: needs.preserve.of(attribute),
        is_named: needs.named.contains(&attribute),
        put,
        copy,
        multipart,
        sent_by_job: needs.writes(),
        is_set_later: false,
    }
}

/// Returns the attributes to ask about, each with the fields of a request that sets only that
/// attribute.
fn asked(needs: &Needs, stated: &Capabilities) -> Vec<(Attribute, Attributes)> {
    let text = |text: &str| Some(text.to_owned());
    let headers = ContentHeaders {
        content_type: text("text/x-s3haul"),
        content_language: text("en"),
        content_disposition: text("attachment"),
        cache_control: text("no-store"),
        content_encoding: text("x-s3haul"),
        expires: text("Thu, 01 Jan 2037 00:00:00 GMT"),
        // Only websites have redirects, and many servers host none. A refused redirect would hide
        // the fate of the other headers.
        website_redirect: None,
    };
    let metadata = BTreeMap::from([("s3haul".to_owned(), "probe".to_owned())]);
    let mut all = vec![
        (
            Attribute::Metadata,
            Attributes {
                metadata,
                ..plain()
            },
        ),
        (Attribute::Headers, Attributes { headers, ..plain() }),
        (
            Attribute::Tags,
            Attributes {
                tags: Tags::Exactly(vec![tag()]),
                ..plain()
            },
        ),
    ];
    // A directory bucket has only one class.
    if needs.wants(Attribute::StorageClass) && !stated.directory {
        let storage_class = needs.storage_class.clone().or_else(|| text(CLASS));
        all.push((
            Attribute::StorageClass,
            Attributes {
                storage_class,
                ..plain()
            },
        ));
    }
    if let Some(encryption) = needs.encryption.clone() {
        all.push((
            Attribute::Encryption,
            Attributes {
                encryption: Some(encryption),
                ..plain()
            },
        ));
    }
    all
}

fn tag() -> Tag {
    Tag {
        key: "s3haul".to_owned(),
        value: "a b/1".to_owned(),
    }
}

/// Sends all attributes in one request, or, if the server refuses it, each in a separate one.
async fn all(
    scratch: &mut Scratch,
    source: &SourcePin,
    route: ConditionalWrite,
    asked: &[(Attribute, Attributes)],
) -> Answers {
    let route_name = match route {
        ConditionalWrite::Put => "put",
        ConditionalWrite::Copy => "copy",
        ConditionalWrite::Complete => "multipart",
    };
    let mut together = plain();
    for (_, attributes) in asked {
        let Attributes {
            headers,
            metadata,
            tags,
            storage_class,
            encryption,
            // `asked` sets none of these.
            checksum: _,
            lock: _,
            grants: _,
            acl: _,
            annotations: _,
        } = attributes.clone();
        if headers != ContentHeaders::default() {
            together.headers = headers;
        }
        if tags != Tags::AsSource {
            together.tags = tags;
        }
        together.metadata.extend(metadata);
        together.storage_class = together.storage_class.or(storage_class);
        together.encryption = together.encryption.or(encryption);
    }
    let name = format!("kept-{route_name}");
    match scratch
        .write(route, &name, source, &together, WriteCondition::None)
        .await
    {
        Ok(_) => {
            let kinds: Vec<_> = asked.iter().map(|(attribute, _)| *attribute).collect();
            return look(scratch, &name, &together, &kinds).await;
        }
        Err(failure) if !is_refused_or_denied(&failure) => {
            let why = reason(&failure);
            return asked
                .iter()
                .map(|(attribute, _)| (*attribute, ProbeAnswer::unknown(why.clone())))
                .collect();
        }
        Err(_) => {}
    }
    let mut answers = Answers::new();
    for (attribute, attributes) in asked {
        let name = format!("kept-{route_name}-{attribute}");
        match scratch
            .write(route, &name, source, attributes, WriteCondition::None)
            .await
        {
            Ok(_) => answers.extend(look(scratch, &name, attributes, &[*attribute]).await),
            Err(failure) => drop(answers.insert(*attribute, answer(&failure))),
        }
    }
    answers
}

/// Returns true if the server refused the attribute. A denied request counts, because a job with
/// these credentials would be denied too.
fn is_refused_or_denied(failure: &Failure) -> bool {
    is_refusal(failure) || *failure.kind() == FailureKind::Denied
}

fn answer(failure: &Failure) -> ProbeAnswer {
    if is_refused_or_denied(failure) {
        ProbeAnswer::refused(reason(failure))
    } else {
        ProbeAnswer::unknown(reason(failure))
    }
}

/// Compares the attributes of an object with the requested ones.
async fn look(
    scratch: &Scratch,
    name: &str,
    attributes: &Attributes,
    kinds: &[Attribute],
) -> Answers {
    let customer_key = scratch.bucket.client().customer_key().is_some();
    let asked = Asked::of(attributes, Operation::PutObject, customer_key);
    let mut answers = Answers::new();
    match scratch.head(name).await {
        Ok(head) => {
            answers.extend(
                kinds
                    .iter()
                    .map(|attribute| (*attribute, ProbeAnswer::kept())),
            );
            for (attribute, how) in asked.differences(&head) {
                answers.insert(attribute, ProbeAnswer::ignored(format!("it shows {how}")));
            }
        }
        Err(failure) => {
            let why = reason(&failure);
            answers.extend(
                kinds
                    .iter()
                    .map(|attribute| (*attribute, ProbeAnswer::unknown(why.clone()))),
            );
        }
    }
    if kinds.contains(&Attribute::Tags) {
        answers.insert(Attribute::Tags, has_tag(scratch, name).await);
    }
    answers
}

async fn has_tag(scratch: &Scratch, name: &str) -> ProbeAnswer {
    let tags = async {
        let bucket = scratch.bucket_for(Operation::GetObjectTagging)?;
        bucket.tags(&scratch.key(name)?, None).await
    };
    match tags.await {
        Ok(tags) if tags == [tag()] => ProbeAnswer::kept(),
        Ok(tags) if tags.is_empty() => ProbeAnswer::ignored("it shows no tags"),
        Ok(_) => ProbeAnswer::ignored("it shows other tags"),
        Err::<_, Failure>(failure) => match failure.kind() {
            FailureKind::NotUnderstood | FailureKind::Unreadable => {
                ProbeAnswer::refused(reason(&failure))
            }
            _ => answer(&failure),
        },
    }
}

/// Sets tags on an existing object, and checks them.
async fn set_later(scratch: &mut Scratch, stated: &Capabilities) -> ProbeAnswer {
    if stated.directory {
        return ProbeAnswer::moot("a directory bucket has no tags");
    }
    let set = async {
        let (bucket, key) = (
            scratch.bucket_for(Operation::PutObjectTagging)?,
            scratch.key("object")?,
        );
        bucket.put_tags(&key, None, &[tag()]).await
    };
    match set.await {
        Ok(()) => has_tag(scratch, "object").await,
        Err(failure) => answer(&failure),
    }
}

/// Determines whether objects can have tags at all.
pub(super) fn knows_tags(attributes: &[AttributeFinding], set_tags: &ProbeAnswer) -> ProbeAnswer {
    let Some(tags) = attributes
        .iter()
        .find(|finding| finding.attribute == Attribute::Tags)
    else {
        return ProbeAnswer::unknown("it was not asked for");
    };
    if set_tags.how == How::Kept {
        ProbeAnswer::kept()
    } else {
        tags.put.clone()
    }
}

/// Determines whether copies and multipart uploads set tags.
pub(super) fn gives_tags(attributes: &[AttributeFinding]) -> ProbeAnswer {
    let Some(tags) = attributes
        .iter()
        .find(|finding| finding.attribute == Attribute::Tags)
    else {
        return ProbeAnswer::unknown("it was not asked for");
    };
    let both = [&tags.copy, &tags.multipart];
    let lacking = both.into_iter().find(|measured| measured.is_lacking());
    let worst = lacking.or_else(|| both.into_iter().find(|measured| measured.how != How::Kept));
    worst.cloned().unwrap_or_else(ProbeAnswer::kept)
}

/// Locks a copy and a multipart object for a few seconds, and checks the lock. Uploads of files
/// send no lock.
pub(super) async fn lock(
    scratch: &mut Scratch,
    source: &SourcePin,
    needs: &Needs,
    head: Option<&Head>,
) -> AttributeFinding {
    let put = ProbeAnswer::moot("s3haul sends no lock with it");
    if !needs.preserve.lock.keeps() {
        let moot = || ProbeAnswer::moot("the job does not keep locks");
        return finding(Attribute::Lock, needs, [put, moot(), moot()]);
    }
    // The retention is relative to the server's clock.
    let now = head
        .and_then(|head| head.modified)
        .unwrap_or_else(Timestamp::now);
    let until = now.checked_add(LOCKED).unwrap_or(now);
    let retention = Some(Retention {
        mode: "GOVERNANCE".to_owned(),
        until,
    });
    let attributes = Attributes {
        lock: Lock {
            retention,
            legal_hold: None,
        },
        ..plain()
    };
    let mut answers = Vec::new();
    for (route, name) in [
        (ConditionalWrite::Copy, "locked-copy"),
        (ConditionalWrite::Complete, "locked-parts"),
    ] {
        let written = scratch
            .write(route, name, source, &attributes, WriteCondition::None)
            .await;
        answers.push(match written {
            Ok(_) => {
                // The lock ends no later than this; servers use whole seconds.
                scratch.locked_until = Some(Instant::now() + LOCKED + Duration::from_secs(1));
                is_locked(scratch, name).await
            }
            Err(failure) => answer(&failure),
        });
    }
    let mut answers = answers.into_iter();
    let mut next = || {
        answers
            .next()
            .unwrap_or_else(|| ProbeAnswer::unknown("it was not asked for"))
    };
    let (copy, multipart) = (next(), next());
    finding(Attribute::Lock, needs, [put, copy, multipart])
}

async fn is_locked(scratch: &Scratch, name: &str) -> ProbeAnswer {
    let retention = async {
        let shown = scratch.head(name).await?.lock.retention;
        // HEAD does not show the retention to every caller.
        match shown {
            Some(retention) => Ok(Some(retention)),
            None => {
                scratch
                    .bucket_for(Operation::GetObjectRetention)?
                    .retention(&scratch.key(name)?, None)
                    .await
            }
        }
    };
    match retention.await {
        Ok(Some(_)) => ProbeAnswer::kept(),
        Ok(None) => ProbeAnswer::ignored("it shows no retention"),
        Err::<_, Failure>(failure)
            if is_refusal(&failure) || *failure.kind() == FailureKind::NotUnderstood =>
        {
            ProbeAnswer::ignored(format!("it shows no retention ({})", reason(&failure)))
        }
        Err(failure) => ProbeAnswer::unknown(reason(&failure)),
    }
}
