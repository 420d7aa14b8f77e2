//! Servers that answer with success and do nothing, or that answer about another object. No such
//! copy counts as done, and no upload stays open unreported.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, OnMismatch, Source, Transfer, Trust, When};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::Attributes;
use s3haul::sandbox::{BucketOptions, Content, ObjectSpec, Operation, Store};
use s3haul::size::MIB;

use crate::liar::{Answer, Asked, Liar, Lie};
use crate::world::program::{at, run as run_command};
use crate::world::{
    DESTINATION, Run, SOURCE, World, copy_all, in_parts_of, restate, upload_all, uri,
};

const LARGE: u64 = 12 * MIB;

/// Copies everything, whatever the destination has, and in parts of 5 MiB if it is larger.
fn always() -> Transfer {
    let mut transfer = copy_all();
    transfer.when = When::Always;
    in_parts_of(5 * MIB, transfer)
}

/// Copies the same way one object that is named.
fn named() -> Transfer {
    Transfer {
        from: Source::Object {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location: uri("s3://source/k"),
            version: None,
        },
        ..always()
    }
}

/// Starts a sandbox with one object without checksum.
async fn world_without_checksum(size: u64) -> World {
    let mut world = World::new().await;
    world.retry.attempts = 2;
    let spec = ObjectSpec::default().without_checksum();
    world.put_with("k", size, &spec);
    world
}

/// Puts the object of another writer at the destination.
fn other(store: &Store, size: u64, spec: &ObjectSpec) {
    store.put_object(DESTINATION, "k", Content::pattern(9, size), spec);
}

fn an_hour_ago() -> SystemTime {
    SystemTime::now() - Duration::from_hours(1)
}

async fn run_through(
    world: &World,
    transfer: Transfer,
    provider: Provider,
    lie: impl Fn(&Asked) -> Lie + Send + Sync + 'static,
) -> Run {
    let liar = Liar::lying(world, lie).await;
    let job = liar.job(world, transfer, provider);
    world.try_run_job(&job).await.unwrap()
}

/// Returns the only failure of a run that has copied nothing.
fn failure(run: &Run) -> String {
    assert_eq!(run.outcome.done_objects, 0, "{:?}", run.receipts);
    match &run.receipts[..] {
        [receipt] => match &receipt.ending {
            Ending::Failed { error } => format!("{}: {}", error.kind, error.message),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn notes(run: &Run) -> Vec<&str> {
    let notes = run.receipts.iter().flat_map(|receipt| &receipt.notes);
    notes.map(String::as_str).collect()
}

fn open(world: &World) -> usize {
    world.open_uploads(DESTINATION).len()
}

fn completes(asked: &Asked) -> bool {
    asked.method == "POST" && asked.has("uploadId")
}

fn heads(asked: &Asked, bucket: &str) -> bool {
    asked.method == "HEAD" && asked.path == format!("/{bucket}/k")
}

fn copies(asked: &Asked) -> bool {
    asked.method == "PUT" && asked.header("x-amz-copy-source").is_some() && !asked.has("uploadId")
}

#[rstest]
#[case::of_one_request(ObjectSpec::default())]
#[case::of_other_parts(ObjectSpec::default().part_sizes([6 * MIB]))]
#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_complete_takes_no_object_of_another_writer_for_its_own(
    #[case] theirs: ObjectSpec,
    #[values(Provider::Auto, Provider::Tencent, Provider::Ceph)] provider: Provider,
) {
    let world = world_without_checksum(LARGE).await;
    let (store, is_gone) = (world.sandbox.store().clone(), AtomicBool::new(false));
    let run = run_through(&world, always(), provider, move |asked| match asked {
        _ if completes(asked) => {
            other(&store, LARGE, &theirs);
            is_gone.store(true, Ordering::Relaxed);
            Lie::error(500, "InternalError")
        }
        _ if asked.lists_parts() && is_gone.load(Ordering::Relaxed) => {
            Lie::error(404, "NoSuchUpload")
        }
        _ => Lie::Truth,
    })
    .await;
    let failure = failure(&run);
    let why = "the upload is gone, and the object at its key is not the one that its parts make";
    assert!(failure.contains(why), "{failure}");
}

#[rstest]
#[case::counted(Provider::Auto, None)]
#[case::opaque(Provider::Oracle, Some("etag: \"opaque\""))]
#[case::by_chunks(
    Provider::Seaweedfs,
    Some("etag: \"0123456789abcdef0123456789abcdef-7\"")
)]
#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_complete_that_took_effect_is_found(
    #[case] provider: Provider,
    #[case] etag: Option<&'static str>,
) {
    let world = world_without_checksum(LARGE).await;
    let run = run_through(&world, always(), provider, move |asked| match asked {
        _ if completes(asked) => Lie::Changed(Box::new(|_| Answer::error(500, "InternalError"))),
        _ if heads(asked, DESTINATION) => Lie::Changed(Box::new(move |answer| match etag {
            Some(etag) if answer.head[0].contains("200") => answer.with(etag),
            _ => answer,
        })),
        _ => Lie::Truth,
    })
    .await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    world.assert_equal("k", "k");
}

/// Claims success with this `ETag`.
fn pretended(root: &str, etag: &str) -> Lie {
    let body =
        format!("<{root}><Bucket>destination</Bucket><Key>k</Key><ETag>{etag}</ETag></{root}>");
    Lie::Given(Answer::document(body).with(&format!("etag: \"{etag}\"")))
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_effect_over_an_older_object_of_the_same_size_fails(
    #[values("copy", "put", "complete")] how: &'static str,
    #[values(Provider::Auto, Provider::Tencent)] provider: Provider,
) {
    let size = if how == "complete" { LARGE } else { 1000 };
    let world = world_without_checksum(size).await;
    let old = ObjectSpec::default().last_modified(an_hour_ago());
    let old = if how == "complete" {
        old.part_sizes([5 * MIB, 5 * MIB])
    } else {
        old
    };
    other(world.sandbox.store(), size, &old);
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("k"), vec![1; 1000]).unwrap();
    let transfer = Transfer {
        from: if how == "put" {
            upload_all(files.path()).from
        } else {
            always().from
        },
        ..always()
    };
    let run = run_through(&world, transfer, provider, move |asked| match how {
        "copy" if copies(asked) => pretended("CopyObjectResult", "opaque"),
        "put" if asked.method == "PUT" => pretended("Nothing", "opaque"),
        "complete" if completes(asked) => pretended("CompleteMultipartUploadResult", "opaque-3"),
        _ => Lie::Truth,
    })
    .await;
    let failure = failure(&run);
    assert!(
        failure.starts_with("not-equal")
            && failure.contains("answered with success and did not write it"),
        "{failure}"
    );
}

/// The `ETag`s of answers and objects differ. s3haul then relies on the time that the server shows.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_answered_with_another_etag_and_took_effect_is_done(
    #[values(1000, LARGE)] size: u64,
    #[values(0, 3600)] behind: u64,
) {
    let world = world_without_checksum(size).await;
    let old = ObjectSpec::default().last_modified(an_hour_ago() - Duration::from_hours(2));
    other(world.sandbox.store(), size, &old);
    // The server's clock may be slow.
    let now = SystemTime::now() - Duration::from_secs(behind);
    let liar = Liar::before(&world, move |asked, answer| {
        let answer = if copies(asked) || completes(asked) {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            let begin = body.find("<ETag>").unwrap();
            let end = body.find("</ETag>").unwrap();
            answer.replacing(&body[begin..end], "<ETag>opaque")
        } else {
            answer
        };
        let date = httpdate(now);
        let answer = answer.with(&format!("date: {date}"));
        if heads(asked, DESTINATION) {
            answer.with(&format!("last-modified: {date}"))
        } else {
            answer
        }
    })
    .await;
    let job = liar.job(&world, always(), Provider::Auto);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
}

/// Formats a time for a header.
fn httpdate(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap();
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Answers Create with this upload.
fn created(bucket: &str, key: &str, id: &str) -> Lie {
    let inside = format!("<Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>");
    let root = "InitiateMultipartUploadResult";
    Lie::Given(Answer::document(format!("<{root}>{inside}</{root}>")))
}

async fn begin(world: &World, key: &str) -> String {
    let bucket = world.bucket(DESTINATION).await;
    let (key, attributes) = (key.parse().unwrap(), Attributes::default());
    let upload = MultipartUpload::initiate(&bucket, &key, &attributes).await;
    upload.unwrap().id().to_owned()
}

#[rstest]
#[case::told("other")]
#[case::not_told("k")]
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_created_under_another_key_is_aborted_there(
    #[case] named: &'static str,
) {
    let world = world_without_checksum(LARGE).await;
    let id = begin(&world, "other").await;
    let run = run_through(&world, always(), Provider::Aws, move |asked| match asked {
        _ if asked.creates_upload() => created(DESTINATION, named, &id),
        _ => Lie::Truth,
    })
    .await;
    let failure = failure(&run);
    assert_eq!((open(&world), notes(&run)), (0, vec![]), "{failure}");
    if named == "other" {
        assert!(
            failure.contains(
                "an upload to `destination/other`, but the request was for `destination/k`"
            ),
            "{failure}"
        );
        assert_eq!(world.calls(Operation::UploadPartCopy), 0);
    }
}

/// The server does not know the upload that it created, and lists this many others.
#[rstest]
#[case::all(10_000, false)]
#[case::too_many(10_001, true)]
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_nowhere_is_reported_if_not_all_are_looked_at(
    #[case] others: u32,
    #[case] is_reported: bool,
) {
    let upload = |n| format!("<Upload><Key>u{n}</Key><UploadId>i{n}</UploadId></Upload>");
    let uploads: String = (0..others).map(upload).collect();
    let world = world_without_checksum(LARGE).await;
    let run = run_through(&world, always(), Provider::Aws, move |asked| match asked {
        _ if asked.creates_upload() => created(DESTINATION, "k", "lost"),
        _ if asked.lists_uploads() => {
            let is_of_all = asked.parameter("prefix").unwrap_or_default().is_empty();
            let uploads = if is_of_all { uploads.as_str() } else { "" };
            let root = "ListMultipartUploadsResult";
            Lie::Given(Answer::document(format!("<{root}>{uploads}</{root}>")))
        }
        _ => Lie::Truth,
    })
    .await;
    let told = notes(&run);
    let says = |note: &&str| note.contains("not among the first 10000 open uploads");
    assert_eq!(told.iter().any(says), is_reported, "{told:?}");
}

/// The answer names another key, but the upload is at the requested one.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_only_said_to_be_elsewhere_is_aborted() {
    let world = world_without_checksum(LARGE).await;
    let run = run_through(&world, always(), Provider::Aws, |asked| match asked {
        _ if asked.creates_upload() => Lie::rewrite(|body| body.replace("<Key>k<", "<Key>other<")),
        _ => Lie::Truth,
    })
    .await;
    assert!(
        failure(&run).starts_with("server-fault"),
        "{}",
        failure(&run)
    );
    assert_eq!((open(&world), notes(&run)), (0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_another_bucket_is_reported_with_its_id() {
    let world = world_without_checksum(LARGE).await;
    let run = run_through(&world, always(), Provider::Aws, |asked| match asked {
        _ if asked.creates_upload() => created("foreign", "k", "lost-id"),
        _ => Lie::Truth,
    })
    .await;
    let failure = failure(&run);
    let command = "the upload lost-id may be left open; abort it with `s3haul uploads abort s3://foreign/k --endpoint-url";
    assert!(failure.contains(command), "{failure}");
}

/// The server encodes the key in its answer differently.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_in_another_spelling_is_no_other_key() {
    let world = World::new().await;
    let content = Content::pattern(1, LARGE);
    let store = world.sandbox.store();
    store.put_object(SOURCE, "a b+c", content, &ObjectSpec::default());
    let run = run_through(&world, always(), Provider::Aws, |asked| match asked {
        _ if asked.creates_upload() => Lie::rewrite(|body| body.replace("a b+c", "a%20b%2Bc")),
        _ => Lie::Truth,
    })
    .await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
}

/// Abort has no effect, the list of parts is empty, and the list of uploads is refused.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_of_parts_proves_no_abort(#[values(403, 501)] refusal: u16) {
    let world = world_without_checksum(LARGE).await;
    let liar = Liar::lying(&world, move |asked| match asked {
        _ if asked.aborts() => Lie::Instead(204, String::new()),
        _ if asked.lists_uploads() && refusal == 403 => Lie::error(403, "AccessDenied"),
        _ if asked.lists_uploads() => Lie::error(501, "NotImplemented"),
        _ if asked.header("x-amz-copy-source").is_some() => Lie::error(400, "InvalidRequest"),
        _ => Lie::Truth,
    })
    .await;
    let job = liar.job(&world, always(), Provider::Aws);
    let run = world.try_run_job(&job).await.unwrap();
    failure(&run);
    let id = world.open_uploads(DESTINATION)[0].upload_id.clone();
    let told = notes(&run);
    assert!(
        told.len() == 1 && told[0].contains(&format!("the upload {id} may be left open")),
        "{told:?}"
    );
    let command = format!(
        "`s3haul uploads abort s3://destination/k --endpoint-url {}",
        liar.url
    );
    assert!(told[0].contains(&command), "{told:?}");
    let arguments = [
        "uploads",
        "abort",
        "s3://destination/k",
        &id,
        "--provider",
        "aws",
    ];
    let all = [&arguments[..], &["--endpoint-url", &liar.url]].concat();
    let (exit, stdout, stderr) = run_command(at(&world), &all).await;
    assert!(
        exit == 1 && stdout.is_empty() && stderr.contains(&id),
        "{exit} {stdout} {stderr}"
    );
}

/// Halves the size that HEAD shows for an object of this bucket.
fn halved(asked: &Asked, bucket: &str, size: u64) -> Lie {
    if heads(asked, bucket) {
        Lie::Changed(Box::new(move |answer| {
            answer.with(&format!("content-length: {}", size / 2))
        }))
    } else {
        Lie::Truth
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_named_object_that_is_longer_than_head_says_is_not_cut(
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_without_checksum(2 * LARGE).await;
    let reads = |asked: &Asked| asked.method == "GET" && asked.header("range").is_some();
    let liar = Liar::lying(&world, |asked| halved(asked, SOURCE, 2 * LARGE)).await;
    let mut job = liar.job(&world, named(), provider);
    restate(&mut job, |endpoint| endpoint.trust = Trust::Nothing);
    let run = world.try_run_job(&job).await.unwrap();
    let failure = failure(&run);
    let sizes = format!("/{}` of an object of {LARGE} bytes", 2 * LARGE);
    assert!(failure.contains(&sizes), "{failure}");
    assert_eq!((open(&world), liar.count(reads)), (0, 1));
    assert!(world.object(DESTINATION, "k").is_none());
    // An honest server gets one more request for a named object, and none for an object of a list.
    for (transfer, asked) in [(named(), 1), (always(), 0)] {
        let liar = Liar::lying(&world, |_| Lie::Truth).await;
        let mut job = liar.job(&world, transfer, provider);
        restate(&mut job, |endpoint| endpoint.trust = Trust::Nothing);
        let run = world.try_run_job(&job).await.unwrap();
        assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
        assert_eq!(liar.count(reads), asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_one_request_of_an_object_that_head_halves_fails_with_both_sizes() {
    let world = world_without_checksum(1000).await;
    let run = run_through(&world, named(), Provider::Auto, |asked| {
        halved(asked, SOURCE, 1000)
    })
    .await;
    assert!(
        failure(&run).contains("1000 bytes arrived of 500"),
        "{}",
        failure(&run)
    );
}

/// A change in place would truncate the object.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_head_halves_is_not_changed_in_place() {
    let world = world_without_checksum(2 * LARGE).await;
    let mut transfer = always();
    transfer.to = crate::world::destination("s3://source/");
    transfer.to.storage_class = Some("STANDARD_IA".to_owned());
    let run = run_through(&world, transfer, Provider::Aws, |asked| {
        halved(asked, SOURCE, 2 * LARGE)
    })
    .await;
    assert!(
        failure(&run).contains(&format!(
            "HEAD shows {LARGE} bytes, the list shows {}",
            2 * LARGE
        )),
        "{}",
        failure(&run)
    );
    let object = world.object(SOURCE, "k").unwrap();
    assert_eq!(object.content.len(), 2 * LARGE);
}

/// `uploads complete` does not know when the upload was created.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn uploads_complete_takes_no_older_object_for_the_result(#[values(200, 500)] status: u16) {
    let world = World::new().await;
    let (bucket, key) = (world.bucket(DESTINATION).await, "k".parse().unwrap());
    let upload = MultipartUpload::initiate(&bucket, &key, &Attributes::default()).await;
    let upload = upload.unwrap();
    upload.upload_part(1, &[1; 100][..]).await.unwrap();
    other(
        world.sandbox.store(),
        100,
        &ObjectSpec::default().without_checksum().part_sizes([100]),
    );
    let is_gone = AtomicBool::new(false);
    let liar = Liar::lying(&world, move |asked| match asked {
        _ if completes(asked) && status == 200 => {
            pretended("CompleteMultipartUploadResult", "opaque-1")
        }
        _ if completes(asked) => {
            is_gone.store(true, Ordering::Relaxed);
            Lie::error(500, "InternalError")
        }
        _ if asked.lists_parts() && is_gone.load(Ordering::Relaxed) => {
            Lie::error(404, "NoSuchUpload")
        }
        _ => Lie::Truth,
    })
    .await;
    let arguments = ["uploads", "complete", "s3://destination/k", upload.id()];
    let all = [&arguments[..], &["--endpoint-url", &liar.url]].concat();
    let (exit, stdout, stderr) = run_command(at(&world), &all).await;
    assert!(exit != 0 && stdout.is_empty(), "{exit} {stdout} {stderr}");
    assert!(
        stderr.contains("is the one that was there before"),
        "{stderr}"
    );
}

/// The server claims to delete a bad copy, and does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_without_effect_is_not_reported_as_one() {
    let versioned = BucketOptions {
        versioning: true,
        ..BucketOptions::default()
    };
    for is_removed in [false, true] {
        let world = World::with_buckets(versioned.clone()).await;
        let content = Content::pattern(1, 1000);
        let store = world.sandbox.store();
        store.put_object(SOURCE, "k", content, &ObjectSpec::default());
        let mut transfer = always();
        transfer.proof.on_mismatch = OnMismatch::Remove;
        let run = run_through(&world, transfer, Provider::Auto, move |asked| match asked {
            _ if heads(asked, DESTINATION) => {
                Lie::Changed(Box::new(|answer| match &answer.head[0] {
                    status if status.contains("200") => answer.with("content-length: 7"),
                    _ => answer,
                }))
            }
            _ if asked.method == "DELETE" && !is_removed => Lie::Instead(204, String::new()),
            _ => Lie::Truth,
        })
        .await;
        let failure = failure(&run);
        let told = if is_removed {
            " was removed"
        } else {
            "the copy is still there, although the server answered that it removed it"
        };
        assert!(failure.contains(told), "{failure}");
    }
}
