//! Answers about one object that contradict the request or a list.

use std::time::Duration;

use jiff::Timestamp;
use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::manifest::job::{Compare, DEFAULT_ENDPOINT, Source, Transfer, Versions};
use s3haul::planner::Sides;
use s3haul::sandbox::{Content, ObjectSpec, VersionInfo};
use s3haul::size::{ByteSize, MIB};
use s3haul::verify::{self, Deep, Verdict, VerifyFinding};

use crate::liar::{Answer, Asked, Liar, Lie};
use crate::world::{DESTINATION, SOURCE, World, copy_all, upload_all, uri};

use super::{bucket, failure, heads, with_versions};
use crate::world::program::{at, run};

/// Returns a transfer of the oldest version, named by its ID.
fn first_version(world: &World) -> Transfer {
    let Some(VersionInfo::Object(oldest)) = world
        .sandbox
        .store()
        .versions(SOURCE, "k")
        .into_iter()
        .next_back()
    else {
        panic!("no version");
    };
    let version = Some(oldest.version_id.clone().unwrap());
    Transfer {
        from: Source::Object {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location: uri("s3://source/k"),
            version,
        },
        ..copy_all()
    }
}

#[rstest]
#[case::head("HEAD", "x-amz-version-id")]
#[case::copy("PUT", "x-amz-copy-source-version-id")]
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_another_version_is_refused(
    #[case] method: &'static str,
    #[case] header: &'static str,
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
    #[values(false, true)] in_parts: bool,
) {
    let world = with_versions().await;
    if in_parts {
        world.put("k", 12 * MIB);
    }
    let lie = move |asked: &Asked, answer: Answer| {
        let is_about_it = asked.method == method && (method == "PUT" || asked.has("versionId"));
        if is_about_it {
            answer.with(&format!("{header}: other"))
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let mut transfer = if in_parts {
        copy_all()
    } else {
        first_version(&world)
    };
    transfer.parts.threshold = ByteSize(if in_parts { 6 * MIB } else { 16 * MIB });
    if in_parts {
        transfer.versions = Versions::AsOf(Timestamp::now() + Duration::from_hours(1));
    }
    let run = liar.run(&world, transfer, provider).await;
    assert!(
        failure(&run).contains("the version `other`"),
        "{}",
        failure(&run)
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_versions_has_not_the_one_that_is_asked_for(
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = with_versions().await;
    let lie = |asked: &Asked, answer: Answer| match asked.has("versioning") {
        true => Answer::document("<VersioningConfiguration/>"),
        false if asked.method == "HEAD" => answer.without("x-amz-version-id"),
        false => answer,
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, first_version(&world), provider).await;
    assert!(
        failure(&run).contains("the bucket has none"),
        "{}",
        failure(&run)
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn head_and_list_agree_on_the_size_before_anything_is_written(
    #[values(0, 50, 5_000_000_000_000)] size: u64,
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = World::new().await;
    world.put("a", 100);
    world.put_object(
        DESTINATION,
        "a",
        Content::pattern(2, 10),
        &ObjectSpec::default(),
    );
    let lie = move |asked: &Asked, answer: Answer| {
        if heads(asked, SOURCE) {
            answer.with(&format!("content-length: {size}"))
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, copy_all(), provider).await;
    let says = format!("HEAD shows {size} bytes, the list shows 100");
    assert!(failure(&run).contains(&says), "{}", failure(&run));
    assert_eq!(world.object(DESTINATION, "a").unwrap().content.len(), 10);
}

async fn verified(world: &World, liar: &Liar) -> Vec<VerifyFinding> {
    let source = Some(bucket(world, liar, SOURCE).await);
    let sides = Sides {
        transfer: copy_all().into(),
        source,
        destination: bucket(world, liar, DESTINATION).await,
    };
    let mut findings = Vec::new();
    verify::transfer(&sides, Deep::All, |finding| findings.push(finding.clone())).await;
    findings
}

/// Starts a sandbox with one object of 100 bytes on both sides, without checksums, made from these
/// seeds.
async fn without_checksums(source: u64, destination: u64) -> World {
    let world = World::new().await;
    for (bucket, seed) in [(SOURCE, source), (DESTINATION, destination)] {
        let spec = ObjectSpec::default().without_checksum();
        world.put_object(bucket, "a", Content::pattern(seed, 100), &spec);
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_whose_heads_are_empty_are_not_equal() {
    let world = without_checksums(1, 2).await;
    let lie = |asked: &Asked, answer: Answer| {
        if heads(asked, SOURCE) || heads(asked, DESTINATION) {
            answer.with("content-length: 0")
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let findings = verified(&world, &liar).await;
    assert!(
        matches!(
            &findings[..],
            [VerifyFinding {
                verdict: Verdict::Failed { .. },
                ..
            }]
        ),
        "{findings:?}"
    );
    let transfer = Transfer {
        compare: Compare::Checksum,
        ..copy_all()
    };
    let run = liar.run(&world, transfer, Provider::Aws).await;
    assert!(
        failure(&run).contains("HEAD shows 0 bytes, the list shows 100"),
        "{}",
        failure(&run)
    );
}

#[rstest]
#[case::other("bytes 100-199/300", false)]
#[case::total("bytes 0-99/300", false)]
#[case::shorter("bytes 0-98/100", false)]
#[case::unknown_total("bytes 0-99/*", true)]
#[case::right("bytes 0-99/100", true)]
#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_another_range_are_not_read(#[case] range: &'static str, #[case] is_right: bool) {
    let world = without_checksums(1, 1).await;
    let lie = move |asked: &Asked, answer: Answer| {
        let reads = asked.method == "GET"
            && asked.path.ends_with("/a")
            && asked.query.contains("GetObject");
        if reads {
            answer.with(&format!("content-range: {range}"))
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let findings = verified(&world, &liar).await;
    let is_equal = matches!(
        &findings[..],
        [VerifyFinding {
            verdict: Verdict::Equal { .. },
            ..
        }]
    );
    assert_eq!(is_equal, is_right, "{findings:?}");
    let reads = liar.count(|asked| asked.method == "GET" && asked.path.ends_with("/a"));
    assert!(reads > 0, "nothing was read");
}

#[rstest]
#[case::etag("etag: \"other\"", "`etag`")]
#[case::length("last-modified: yesterday", "`last-modified`")]
#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_cannot_be_read_is_named(#[case] header: &'static str, #[case] says: &str) {
    let world = World::new().await;
    world.put("a", 100);
    let lie = move |asked: &Asked, mut answer: Answer| {
        if heads(asked, SOURCE) {
            answer.head.push(header.to_owned());
        }
        answer
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, copy_all(), Provider::Aws).await;
    assert!(
        failure(&run).contains(&format!("the answer's header {says}")),
        "{}",
        failure(&run)
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn an_etag_that_contradicts_the_bytes_of_an_upload_fails_it(
    #[values(Provider::Minio, Provider::Auto)] provider: Provider,
    #[values(false, true)] in_parts: bool,
    #[values(false, true)] size_only: bool,
) {
    let world = World::new().await;
    let files = tempfile::tempdir().unwrap();
    let size = if in_parts { 11 * MIB } else { 100 };
    for (seed, name) in [(1, "a"), (2, "b")] {
        let content = s3haul::sandbox::Content::pattern_bytes(seed, size);
        std::fs::write(files.path().join(name), content.to_bytes()).unwrap();
    }
    // The server claims a wrong ETag for the second object, and shows no checksum. Without a
    // profile, the first object shows how its ETags follow from bytes.
    let wrong = "ffffffffffffffffffffffffffffffff";
    let is_wrong = move |asked: &Asked| {
        asked.path.ends_with("/b") && (asked.method == "HEAD" || asked.method == "PUT")
    };
    let lie = move |asked: &Asked, answer: Answer| {
        let mut answer = answer;
        answer
            .head
            .retain(|line| !line.to_ascii_lowercase().starts_with("x-amz-checksum-"));
        let is_part_or_whole = asked.method == "PUT" || !in_parts;
        if is_wrong(asked) && is_part_or_whole && answer.head[0].contains(" 200") {
            answer.with(&format!("etag: \"{wrong}\""))
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let mut transfer = upload_all(files.path());
    transfer.parts.size = s3haul::manifest::job::PartSize::Exactly(ByteSize(5 * MIB));
    transfer.parts.threshold = ByteSize(5 * MIB);
    if size_only {
        transfer.proof.verify = s3haul::manifest::job::Verify::Size;
    }
    let mut job = liar.job(&world, transfer, provider);
    job.limits.in_flight = Some(1);
    let run = world.try_run_job(&job).await.unwrap();
    let failed = super::messages(&run);
    assert_eq!(
        (run.outcome.done_objects, failed.len()),
        (1, 1),
        "{failed:?}"
    );
    assert!(failed[0].contains(wrong), "{failed:?}");
    assert!(failed[0].contains("MD5 of the sent bytes"), "{failed:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_contradicts_itself_is_not_a_source_that_changed(
    #[values(false, true)] in_parts: bool,
) {
    let world = World::new().await;
    let size = if in_parts { 12 * MIB } else { 100 };
    world.put("a", size);
    let wrong = "ffffffffffffffffffffffffffffffff";
    let lie = move |asked: &Asked, answer: Answer| {
        if heads(asked, SOURCE) {
            answer.with(&format!("etag: \"{wrong}\""))
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let mut transfer = copy_all();
    transfer.parts.threshold = ByteSize(6 * MIB);
    let run = liar.run(&world, transfer, Provider::Auto).await;
    let told = failure(&run);
    let says = format!("HEAD shows the ETag {wrong} each time");
    assert!(
        told.starts_with("server-fault") && told.contains(&says),
        "{told}"
    );
    let listed = world.object(SOURCE, "a").unwrap().etag;
    assert!(told.contains(&format!("its list shows {listed}")), "{told}");
}

/// One answer has a stale `Date`.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_date_in_one_answer_does_not_hide_a_write_without_effect(
    #[values("list-type", "HEAD")] stale: &'static str,
) {
    let world = World::new().await;
    world.put("a", 100);
    let yesterday = std::time::SystemTime::now() - Duration::from_hours(24);
    let old = ObjectSpec::default().last_modified(yesterday);
    world.put_object(DESTINATION, "a", Content::pattern(2, 100), &old);
    let is_first = std::sync::atomic::AtomicBool::new(true);
    let lie = move |asked: &Asked| {
        use std::sync::atomic::Ordering::Relaxed;
        if asked.method == "PUT" {
            let body = "<CopyObjectResult><ETag>\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"</ETag>\
                        <LastModified>2030-01-01T00:00:00.000Z</LastModified></CopyObjectResult>";
            return Lie::Given(Answer::document(body));
        }
        let is_stale = (asked.method == stale || asked.has(stale)) && is_first.swap(false, Relaxed);
        Lie::Changed(Box::new(move |answer: Answer| {
            let mut answer = answer;
            answer
                .head
                .retain(|line| !line.to_ascii_lowercase().starts_with("x-amz-checksum-"));
            if is_stale {
                answer.with("date: Thu, 01 Jan 1970 00:00:00 GMT")
            } else {
                answer
            }
        }))
    };
    let liar = Liar::lying(&world, lie).await;
    let mut transfer = copy_all();
    transfer.when = s3haul::manifest::job::When::Always;
    let run = liar.run(&world, transfer, Provider::Auto).await;
    let told = failure(&run);
    assert!(told.contains("did not write it"), "{told}");
}

#[rstest]
#[case::nothing_published(false, "is the one that was there before")]
#[case::parts_that_come_and_go(true, "changed between two lists")]
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_completed_from_parts_that_stay_and_is_there_afterwards(
    #[case] forgets: bool,
    #[case] says: &str,
) {
    let world = World::new().await;
    world.put_in(DESTINATION, "u", 100);
    let bucket_of = world.bucket(DESTINATION).await;
    let attributes = s3haul::s3::Attributes::default();
    let key = "u".parse().unwrap();
    let upload = s3haul::multipart::MultipartUpload::initiate(&bucket_of, &key, &attributes);
    let upload = upload.await.unwrap();
    upload.upload_part(1, &[7_u8; 100][..]).await.unwrap();
    let lists = std::sync::atomic::AtomicU32::new(0);
    let lie = move |asked: &Asked| {
        let is_first =
            asked.lists_parts() && lists.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        if forgets && is_first {
            return Lie::rewrite(|body| body.replace("<Size>100</Size>", "<Size>50</Size>"));
        }
        if !forgets && asked.method == "POST" && asked.has("uploadId") {
            let body = "<CompleteMultipartUploadResult>\
                        <ETag>\"0123456789abcdef0123456789abcdef-1\"</ETag></CompleteMultipartUploadResult>";
            return Lie::Given(Answer::document(body));
        }
        Lie::Truth
    };
    let liar = Liar::lying(&world, lie).await;
    let mut command = at(&world);
    command.env("AWS_ENDPOINT_URL_S3", &liar.url);
    let arguments = [
        "uploads",
        "complete",
        "s3://destination/u",
        upload.id(),
        "--provider",
        "other",
    ];
    let (exit, stdout, stderr) = run(command, &arguments).await;
    assert_eq!(exit, if forgets { 3 } else { 1 }, "{stdout}{stderr}");
    assert!(stderr.contains(says), "{stderr}");
    assert!(!stderr.contains("retry REPORT"), "{stderr}");
}
