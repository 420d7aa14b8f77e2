//! Unusual answers that are still readable, and answers that lack required elements.

use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Transfer, Versions};
use s3haul::size::{ByteSize, MIB};

use crate::liar::{Answer, Asked, Liar};
use crate::world::{Run, World, copy_all};

const KEYS: [&str; 2] = ["large", "small"];

/// Starts a sandbox with a small object, and with one that is copied in parts.
async fn world_with_small_and_large() -> World {
    let world = World::new().await;
    for (key, size) in [("large", 40 * MIB), ("small", 100)] {
        world.put(key, size);
    }
    world
}

/// Copies everything; objects larger than 16 MiB in parts.
fn in_parts() -> Transfer {
    let mut transfer = copy_all();
    transfer.parts.threshold = ByteSize(16 * MIB);
    transfer
}

fn errors(run: &Run) -> Vec<(&str, &str)> {
    let errors = run
        .receipts
        .iter()
        .filter_map(|receipt| match &receipt.ending {
            Ending::Failed { error } => Some((error.kind, &*error.message)),
            _ => None,
        });
    errors.collect()
}

/// The root elements of S3's documents, and the names that other servers use.
const ROOTS: [(&str, &str); 6] = [
    ("InitiateMultipartUploadResult", "InitiateMultipartUpload"),
    ("ListPartsResult", "ListPartsResponse"),
    ("CompleteMultipartUploadResult", "CompleteMultipartUpload"),
    ("CopyObjectResult", "CopyObjectResponse"),
    ("CopyPartResult", "UploadPartCopyResult"),
    ("ListBucketResult", "ListObjectsV2Response"),
];

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn documents_are_read_by_their_elements(
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_with_small_and_large().await;
    let rename = |_: &Asked, answer: Answer| {
        let tag = |begin: &str, name: &str| format!("<{begin}{name}");
        ROOTS.iter().fold(answer, |answer, (root, other)| {
            answer
                .replacing(&tag("", root), &tag("", other))
                .replacing(&tag("/", root), &tag("/", other))
        })
    };
    let liar = Liar::before(&world, rename).await;
    let run = liar.run(&world, in_parts(), provider).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        errors(&run)
    );
    let creates =
        liar.count(|asked| asked.method == "POST" && asked.parameter("uploads").is_some());
    assert_eq!(creates, 1, "nothing was sent again");
    world.assert_no_upload_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_are_read_by_their_elements() {
    let world = World::versioned().await;
    for size in [1, 2] {
        world.put("k", size);
    }
    let rename = |_: &Asked, answer: Answer| {
        answer
            .replacing("VersioningConfiguration", "GetBucketVersioningResponse")
            .replacing("ListVersionsResult", "ListObjectVersionsResponse")
    };
    let liar = Liar::before(&world, rename).await;
    let transfer = Transfer {
        versions: Versions::All,
        ..copy_all()
    };
    let run = liar.run(&world, transfer, Provider::Aws).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        errors(&run)
    );
}

/// Some servers send the version `null` for buckets without versions, and refuse it in requests.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn null_is_no_version_of_a_bucket_without_versions(
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_with_small_and_large().await;
    let lie = |asked: &Asked, answer: Answer| match asked.parameter("versionId") {
        Some(_) => Answer {
            head: vec!["HTTP/1.1 400 Bad Request".to_owned()],
            body: Vec::new(),
        },
        None if ["HEAD", "PUT", "POST"].contains(&&*asked.method) => {
            answer.with("x-amz-version-id: null")
        }
        None => answer,
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, in_parts(), provider).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        errors(&run)
    );
    for receipt in &run.receipts {
        let Ending::Done {
            destination_version,
            ..
        } = &receipt.ending
        else {
            panic!("{receipt:?}")
        };
        assert_eq!(*destination_version, None);
    }
    assert_eq!(
        liar.count(|asked| asked.parameter("versionId").is_some()),
        0
    );
    assert_eq!(
        liar.count(|asked| asked.parameter("versioning").is_some()),
        2,
        "asked once per bucket"
    );
}

/// A versioned bucket may hold objects from before it was versioned; `null` is their version.
#[tokio::test(flavor = "multi_thread")]
async fn null_is_a_version_of_a_bucket_with_versions() {
    let world = world_with_small_and_large().await;
    let lie = |asked: &Asked, answer: Answer| match asked.parameter("versioning") {
        Some(_) => Answer::document(
            "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>",
        ),
        None if asked.method == "HEAD" => answer.with("x-amz-version-id: null"),
        None => answer,
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, in_parts(), Provider::Aws).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        errors(&run)
    );
    assert!(
        run.receipts
            .iter()
            .all(|receipt| receipt.source_version.as_deref() == Some("null"))
    );
}

#[rstest]
#[case::length("content-length", "the answer has no Content-Length")]
#[case::etag("etag", "the answer has no ETag")]
#[tokio::test(flavor = "multi_thread")]
async fn what_head_must_say_is_not_made_up(
    #[case] header: &'static str,
    #[case] says: &str,
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_with_small_and_large().await;
    let lie = move |asked: &Asked, answer: Answer| {
        let is_object = asked.method == "HEAD" && KEYS.iter().any(|key| asked.path.ends_with(key));
        if is_object {
            answer.without(header)
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, in_parts(), provider).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (0, 2),
        "{:?}",
        errors(&run)
    );
    assert_eq!(
        liar.count(|asked| asked.path == "/source/small"),
        1,
        "nothing was sent again"
    );
    for (kind, message) in errors(&run) {
        assert_eq!(kind, "server-fault", "{message}");
        assert!(message.contains(says), "{message}");
    }
    world.assert_no_upload_is_left();
}

#[rstest]
#[case::upload_id("<UploadId>", "</UploadId>", "an upload id of 10000 bytes")]
#[case::etag_of_a_part("<ETag>", "</ETag>", "an ETag of 10000 bytes")]
#[tokio::test(flavor = "multi_thread")]
async fn ids_beyond_the_limits_of_s3_are_errors(
    #[case] begin: &'static str,
    #[case] end: &'static str,
    #[case] says: &str,
) {
    let world = world_with_small_and_large().await;
    let lie = move |asked: &Asked, answer: Answer| {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let is_write = asked.method != "GET" && asked.path.ends_with("large");
        match (text.find(begin), text.find(end)) {
            (Some(from), Some(to)) if is_write => {
                let honest = &text[from + begin.len()..to];
                answer.replacing(honest, &"x".repeat(10_000))
            }
            _ => answer,
        }
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, in_parts(), Provider::Aws).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (1, 1),
        "{:?}",
        errors(&run)
    );
    let [(kind, message)] = errors(&run)[..] else {
        panic!("{:?}", errors(&run))
    };
    assert_eq!(kind, "server-fault", "{message}");
    assert!(message.contains(says), "{message}");
}

#[rstest]
#[case::version("x-amz-version-id", "a version id of 5000 bytes")]
#[case::etag("etag", "an ETag of 5000 bytes")]
#[tokio::test(flavor = "multi_thread")]
async fn headers_beyond_the_limits_of_s3_are_errors(
    #[case] header: &'static str,
    #[case] says: &str,
) {
    let world = world_with_small_and_large().await;
    let lie = move |asked: &Asked, answer: Answer| {
        let is_of_object = asked.method == "HEAD" && asked.path.ends_with('l');
        let long = format!("{header}: {}", "x".repeat(5000));
        if is_of_object || asked.path.ends_with("large") {
            answer.with(&long)
        } else {
            answer
        }
    };
    let liar = Liar::before(&world, lie).await;
    let run = liar.run(&world, in_parts(), Provider::Aws).await;
    assert_eq!(run.outcome.done_objects, 0);
    for (kind, message) in errors(&run) {
        assert_eq!(kind, "server-fault", "{message}");
        assert!(message.contains(says), "{message}");
    }
}
