//! Answers that contradict themselves, the request, or each other. Each would pass for a success if
//! s3haul did not compare them.

mod endless;
mod objects;

use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use jiff::Timestamp;
use rstest::rstest;
use s3haul::bucket::Bucket;
use s3haul::endpoint::Provider;
use s3haul::execute::receipt::Ending;
use s3haul::location::ObjectKey;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Limits, Transfer, Versions};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::Attributes;
use s3haul::sandbox::{Content, ObjectSpec, VersionInfo};
use tokio_util::sync::CancellationToken;

use crate::liar::{Answer, Asked, Liar};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all};

const KEYS: [&str; 3] = ["a", "b", "c"];

/// Starts a sandbox with three objects of 100 bytes with a tag.
async fn world_with_tagged_objects() -> World {
    let world = World::new().await;
    for key in KEYS {
        world.put_with(key, 100, &ObjectSpec::default().tag("t", "1"));
    }
    world
}

/// Starts a sandbox with three versions of a key, an hour apart.
async fn with_versions() -> World {
    let world = World::versioned().await;
    for (number, name) in (1..).zip(KEYS) {
        let time = SystemTime::now() - Duration::from_hours(9 - number);
        world.put_object(
            SOURCE,
            "k",
            Content::pattern(number, 100),
            &ObjectSpec::default()
                .last_modified(time)
                .metadata("name", name),
        );
    }
    world
}

/// Connects to a bucket through a proxy.
async fn bucket(world: &World, liar: &Liar, name: &str) -> Bucket {
    let job = liar.job(world, copy_all(), Provider::Aws);
    let mut connections =
        world.connections(&job, &CancellationToken::default(), &Limits::default());
    connections
        .bucket(DEFAULT_ENDPOINT, &name.parse().unwrap())
        .await
        .unwrap()
}

fn messages(run: &Run) -> Vec<String> {
    let failed = run
        .receipts
        .iter()
        .filter_map(|receipt| match &receipt.ending {
            Ending::Failed { error } => Some(format!("{}: {}", error.kind, error.message)),
            _ => None,
        });
    failed.collect()
}

/// Returns the only failure of a run that has copied nothing.
fn failure(run: &Run) -> String {
    assert_eq!(run.outcome.done_objects, 0, "{:?}", run.receipts);
    let messages = messages(run);
    assert_eq!(messages.len(), 1, "{messages:?}");
    messages.concat()
}

fn lists_versions(asked: &Asked) -> bool {
    asked.path.trim_matches('/') == SOURCE && asked.has("versions")
}

fn heads(asked: &Asked, bucket: &str) -> bool {
    asked.method == "HEAD" && asked.path.starts_with(&format!("/{bucket}/"))
}

/// Returns the same answer with another status.
fn with_status(mut answer: Answer, status: &str) -> Answer {
    if answer.head[0].contains(" 200") {
        answer.head[0] = format!("HTTP/1.1 {status}");
    }
    answer
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_read_whatever_success_its_status_tells(
    #[values(
        "201 Created",
        "202 Accepted",
        "203 Non-Authoritative Information",
        "206 Partial Content"
    )]
    status: &'static str,
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_with_tagged_objects().await;
    let lie = move |asked: &Asked, answer: Answer| {
        if asked.method == "GET" {
            with_status(answer, status)
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, copy_all(), provider).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (3, 0),
        "{:?}",
        messages(&run)
    );
    for key in KEYS {
        let object = world.object(DESTINATION, key).unwrap();
        assert_eq!(object.attributes.tags.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_uploads_and_parts_are_read_whatever_success_their_status_tells() {
    let world = with_versions().await;
    let lie = |asked: &Asked, answer: Answer| {
        if asked.method == "GET" {
            with_status(answer, "203 X")
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let all = Transfer {
        versions: Versions::All,
        ..copy_all()
    };
    let run = liar.run(&world, all, Provider::Aws).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (3, 0),
        "{:?}",
        messages(&run)
    );
    let (bucket, key) = (
        bucket(&world, &liar, DESTINATION).await,
        ObjectKey::new("u").unwrap(),
    );
    let upload = bucket
        .create_upload(&key, &Attributes::default())
        .await
        .unwrap()
        .value;
    bucket
        .upload_part(&key, &upload.id, 1, bytes::Bytes::from_static(b"x"), None)
        .await
        .unwrap();
    let listed: Vec<_> = MultipartUpload::list(&bucket, "")
        .try_collect()
        .await
        .unwrap();
    let opened = MultipartUpload::open(&bucket, &key, upload.id);
    let parts: Vec<_> = opened.parts().try_collect().await.unwrap();
    assert_eq!((listed.len(), parts.len()), (1, 1));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_success_without_a_document_is_no_empty_list(
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_with_tagged_objects().await;
    let lie = |asked: &Asked, answer: Answer| {
        if !asked.lists(SOURCE) {
            return answer;
        }
        Answer {
            head: vec!["HTTP/1.1 204 No Content".to_owned()],
            body: Vec::new(),
        }
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, copy_all(), provider).await;
    assert!(
        failure(&run).starts_with("unreadable-answer"),
        "{}",
        failure(&run)
    );
}

/// Returns a page with one key and `rest`.
fn page(rest: &str) -> String {
    let key = "<Contents><Key>a</Key><Size>100</Size></Contents>";
    format!("<ListBucketResult>{key}{rest}</ListBucketResult>")
}

#[rstest]
#[case::groups(
    "<Delimiter>/</Delimiter><CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>",
    "contains `d/` instead of the keys below it"
)]
#[case::count(
    "<KeyCount>5</KeyCount><IsTruncated>false</IsTruncated>",
    "the page contains 1 key, but its KeyCount says 5"
)]
#[case::late(
    "<Error><Code>AccessDenied</Code><Message>disk</Message></Error>",
    "denied: disk"
)]
#[case::end("<IsTruncated/>", "unreadable-answer")]
#[case::hollow("<Contents/>", "an object without a key")]
#[case::prefix("<Prefix>other/</Prefix>", "contains the keys below `other/`")]
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_contradicts_itself_is_no_list(
    #[case] rest: &'static str,
    #[case] says: &str,
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_with_tagged_objects().await;
    let lie = move |asked: &Asked, answer: Answer| {
        if asked.lists(SOURCE) {
            Answer::document(page(rest))
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, copy_all(), provider).await;
    assert!(failure(&run).contains(says), "{}", failure(&run));
}

#[rstest]
#[case::error(
    "</ListMultipartUploadsResult>",
    "<Error><Code>InternalError</Code></Error></ListMultipartUploadsResult>"
)]
#[case::groups(
    "</ListMultipartUploadsResult>",
    "<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes></ListMultipartUploadsResult>"
)]
#[case::prefix(
    "</ListMultipartUploadsResult>",
    "<Prefix>x</Prefix></ListMultipartUploadsResult>"
)]
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_uploads_that_contradicts_itself_is_no_list(
    #[case] end: &'static str,
    #[case] other: &'static str,
) {
    let world = World::new().await;
    let lie = move |_: &Asked, answer: Answer| {
        answer
            .replacing("<Prefix></Prefix>", "")
            .replacing(end, other)
    };
    let liar = Liar::before(&world, lie).await;
    let bucket = bucket(&world, &liar, DESTINATION).await;
    let listed: Result<Vec<_>, _> = MultipartUpload::list(&bucket, "").try_collect().await;
    let kind = listed.unwrap_err().kind().name();
    assert!(
        ["server-fault", "unreadable-answer"].contains(&kind),
        "{kind}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_another_upload_are_no_list() {
    let world = World::new().await;
    let lie = |asked: &Asked, answer: Answer| {
        let id = asked
            .parameter("uploadId")
            .filter(|_| asked.method == "GET")
            .map(str::to_owned);
        id.map_or(answer.clone(), |id| answer.replacing(&id, "another"))
    };
    let liar = Liar::before(&world, lie).await;
    let (bucket, key) = (
        bucket(&world, &liar, DESTINATION).await,
        ObjectKey::new("u").unwrap(),
    );
    let upload = bucket
        .create_upload(&key, &Attributes::default())
        .await
        .unwrap()
        .value;
    let opened = MultipartUpload::open(&bucket, &key, upload.id);
    let parts: Result<Vec<_>, _> = opened.parts().try_collect().await;
    let failure = parts.unwrap_err();
    assert!(
        failure
            .to_string()
            .contains("parts of another upload, `another`"),
        "{failure}"
    );
}

/// An encoder that leaves `+` unchanged, and writes a space as `+` too.
#[tokio::test(flavor = "multi_thread")]
async fn two_keys_with_the_same_encoding_are_reported() {
    let world = World::new().await;
    world.put_all(["a b", "a+b"], 100);
    let lie = |asked: &Asked, answer: Answer| {
        if asked.lists(SOURCE) {
            answer.replacing("%2B", "+").replacing("%20", "+")
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let mut job = liar.job(&world, copy_all(), Provider::Auto);
    crate::world::restate(&mut job, |endpoint| {
        endpoint.capabilities.ordered_lists = Some(false);
    });
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 1);
    let messages = messages(&run);
    assert!(
        messages
            .concat()
            .contains("the same key twice on one page (1, for example `a b`)"),
        "{messages:?}"
    );
}

/// Returns the names of the versions at the destination, oldest first.
fn copied(world: &World) -> String {
    let versions = world
        .sandbox
        .store()
        .versions(DESTINATION, "k")
        .into_iter()
        .rev();
    versions
        .map(|version| match version {
            VersionInfo::DeleteMarker(_) => "M".to_owned(),
            VersionInfo::Object(object) => object.attributes.metadata["name"].clone(),
        })
        .collect()
}

/// Reorders the versions of a page.
fn reordered(answer: Answer, order: fn(&mut Vec<&str>)) -> Answer {
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    let (Some(begin), Some(end)) = (body.find("<Version>"), body.rfind("</Version>")) else {
        return answer;
    };
    let end = end + "</Version>".len();
    let mut versions: Vec<_> = body[begin..end].split_inclusive("</Version>").collect();
    order(&mut versions);
    Answer::document(format!(
        "{}{}{}",
        &body[..begin],
        versions.concat(),
        &body[end..]
    ))
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn versions_that_are_listed_oldest_first_are_copied_in_their_order(
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = with_versions().await;
    let lie = |asked: &Asked, answer: Answer| {
        if lists_versions(asked) {
            reordered(answer, |versions| versions.reverse())
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let past = Timestamp::now() - Duration::from_mins(1);
    let then = Transfer {
        versions: Versions::AsOf(past),
        ..copy_all()
    };
    let run_then = liar.run(&world, then, provider).await;
    assert_eq!(
        (run_then.outcome.done_objects, copied(&world)),
        (1, "c".to_owned())
    );
    let world_again = with_versions().await;
    let liar = Liar::before(&world_again, lie).await;
    let all = Transfer {
        versions: Versions::All,
        ..copy_all()
    };
    let run = liar.run(&world_again, all, provider).await;
    assert_eq!(
        (run.outcome.done_objects, copied(&world_again)),
        (3, "abc".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_in_no_order_are_no_list() {
    let world = with_versions().await;
    let lie = |asked: &Asked, answer: Answer| {
        if lists_versions(asked) {
            reordered(answer, |versions| versions.swap(0, 1))
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let all = Transfer {
        versions: Versions::All,
        ..copy_all()
    };
    let run = liar.run(&world, all, Provider::Aws).await;
    assert!(
        failure(&run).contains("other versions of `k` before its latest one"),
        "{}",
        failure(&run)
    );
}

/// Removes all modification times from an answer.
fn undated(answer: Answer) -> Answer {
    let mut body = String::from_utf8_lossy(&answer.body).into_owned();
    while let Some(begin) = body.find("<LastModified>") {
        let end = body[begin..].find("</LastModified>").unwrap();
        body.replace_range(begin..begin + end + "</LastModified>".len(), "");
    }
    if answer.body.is_empty() {
        answer
    } else {
        Answer::document(body)
    }
}

#[rstest]
#[case::later(Some(1), None)]
#[case::earlier(None, Some(1))]
#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_a_time_fails_where_a_time_selects(
    #[case] after: Option<u64>,
    #[case] before: Option<u64>,
    #[values(false, true)] is_history: bool,
) {
    let world = if is_history {
        with_versions().await
    } else {
        world_with_tagged_objects().await
    };
    let lie = |asked: &Asked, answer: Answer| {
        if asked.lists(SOURCE) || lists_versions(asked) {
            undated(answer)
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let time = |hours: u64| Timestamp::now() - Duration::from_hours(hours);
    let mut transfer = copy_all();
    (
        transfer.select.modified_after,
        transfer.select.modified_before,
    ) = (after.map(time), before.map(time));
    transfer.versions = if is_history {
        Versions::All
    } else {
        Versions::Current
    };
    let dated = liar.run(&world, transfer, Provider::Aws).await;
    let failed = if is_history { 1 } else { 3 };
    assert_eq!(
        (dated.outcome.done_objects, dated.outcome.failed_objects),
        (0, failed)
    );
    let messages = messages(&dated);
    assert!(
        messages
            .iter()
            .all(|message| message.contains("which `modified_after`")),
        "{messages:?}"
    );
    // Nobody else needs it.
    let all = liar.run(&world, copy_all(), Provider::Aws).await;
    assert_eq!(all.outcome.failed_objects, 0, "{:?}", all.receipts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_a_time_fails_where_the_past_is_asked_for() {
    let world = with_versions().await;
    let lie = |asked: &Asked, answer: Answer| {
        if lists_versions(asked) {
            undated(answer)
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let then = Transfer {
        versions: Versions::AsOf(Timestamp::now()),
        ..copy_all()
    };
    let run = liar.run(&world, then, Provider::Aws).await;
    assert!(
        failure(&run).contains("without a Last-Modified time"),
        "{}",
        failure(&run)
    );
}
