//! Answers about one object that contradict the request or the list.

use std::time::Duration;

use jiff::Timestamp;
use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::manifest::job::{Compare, DEFAULT_ENDPOINT, Source, Transfer, Versions};
use s3haul::planner::Sides;
use s3haul::sandbox::{ObjectSpec, VersionInfo};
use s3haul::size::{ByteSize, MIB};
use s3haul::verify::{self, Deep, Finding, Verdict};

use crate::liar::{Answer, Asked, Liar};
use crate::world::{DESTINATION, SOURCE, World, copy_all, uri};

use super::{bucket, failure, heads, put, run, with_versions};

/// The oldest version, by its id.
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
        put(&world, SOURCE, "k", 1, 12 * MIB, &ObjectSpec::default());
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
    let run = run(&world, &liar, transfer, provider).await;
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
    let run = run(&world, &liar, first_version(&world), provider).await;
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
    put(&world, SOURCE, "a", 1, 100, &ObjectSpec::default());
    put(&world, DESTINATION, "a", 2, 10, &ObjectSpec::default());
    let lie = move |asked: &Asked, answer: Answer| {
        if heads(asked, SOURCE) {
            answer.with(&format!("content-length: {size}"))
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let run = run(&world, &liar, copy_all(), provider).await;
    let says = format!("HEAD shows {size} bytes, the list shows 100");
    assert!(failure(&run).contains(&says), "{}", failure(&run));
    assert_eq!(
        world
            .sandbox
            .store()
            .object(DESTINATION, "a")
            .unwrap()
            .content
            .len(),
        10
    );
}

async fn verified(world: &World, liar: &Liar) -> Vec<Finding> {
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

#[tokio::test(flavor = "multi_thread")]
async fn objects_whose_heads_are_empty_are_not_equal() {
    let world = World::new().await;
    put(
        &world,
        SOURCE,
        "a",
        1,
        100,
        &ObjectSpec::default().without_checksum(),
    );
    put(
        &world,
        DESTINATION,
        "a",
        2,
        100,
        &ObjectSpec::default().without_checksum(),
    );
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
            [Finding {
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
    let run = run(&world, &liar, transfer, Provider::Aws).await;
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
    let world = World::new().await;
    put(
        &world,
        SOURCE,
        "a",
        1,
        100,
        &ObjectSpec::default().without_checksum(),
    );
    put(
        &world,
        DESTINATION,
        "a",
        1,
        100,
        &ObjectSpec::default().without_checksum(),
    );
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
        [Finding {
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
    put(&world, SOURCE, "a", 1, 100, &ObjectSpec::default());
    let lie = move |asked: &Asked, mut answer: Answer| {
        if heads(asked, SOURCE) {
            answer.head.push(header.to_owned());
        }
        answer
    };
    let liar = Liar::before(&world, lie).await;
    let run = run(&world, &liar, copy_all(), Provider::Aws).await;
    assert!(
        failure(&run).contains(&format!("the answer's header {says}")),
        "{}",
        failure(&run)
    );
}
