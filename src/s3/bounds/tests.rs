//! Requests and their bounds.

use aws_sdk_s3::primitives::ByteStream;
use rstest::rstest;

use super::*;
use crate::s3::causes::find;

#[rstest]
#[case("GET", "http://h/b/?list-type=2&prefix=a", Operation::ListObjects)]
#[case("GET", "http://h/b/?uploads", Operation::ListMultipartUploads)]
#[case(
    "GET",
    "http://b.h/?versions&key-marker=uploads",
    Operation::ListObjectVersions
)]
#[case("GET", "http://h/b/k?x-id=ListParts&uploadId=u", Operation::ListParts)]
#[case(
    "GET",
    "http://h/b/k?tagging&versionId=acl",
    Operation::GetObjectTagging
)]
#[case("GET", "http://h/b/uploads?x-id=GetObject", Operation::GetObject)]
#[case("POST", "http://h/b/k?uploads", Operation::CreateMultipartUpload)]
#[case(
    "POST",
    "http://h/b/k?x-id=x&uploadId=u",
    Operation::CompleteMultipartUpload
)]
#[case(
    "POST",
    "http://h/b/k?restore&versionId=uploads",
    Operation::RestoreObject
)]
#[case("PUT", "http://h/b/k?tagging&versionId=v", Operation::PutObjectTagging)]
#[case(
    "DELETE",
    "http://h/b/k?x-id=AbortMultipartUpload&uploadId=u",
    Operation::AbortMultipartUpload
)]
#[case(
    "PUT",
    "http://h/b/k?annotation&annotationName=tagging",
    Operation::PutObjectAnnotation
)]
#[case("DELETE", "http://b.h/k?versionId=uploadId", Operation::DeleteObject)]
fn requests_are_recognized(#[case] method: &str, #[case] uri: &str, #[case] operation: Operation) {
    assert_eq!(
        ExpectedBody::from_parts(method, uri, None, false),
        ExpectedBody::Document(operation)
    );
}

/// Returns the method and the query of a request.
fn sample(operation: Operation) -> Option<(&'static str, &'static str)> {
    Some(match operation {
        Operation::ReadFile => return None,
        Operation::HeadBucket | Operation::HeadObject => ("HEAD", ""),
        Operation::ListObjects => ("GET", "list-type=2"),
        Operation::GetObject => ("GET", "x-id=GetObject"),
        Operation::GetObjectTagging => ("GET", "tagging"),
        Operation::PutObjectTagging => ("PUT", "tagging"),
        Operation::GetObjectAcl => ("GET", "acl"),
        Operation::GetObjectRetention => ("GET", "retention"),
        Operation::GetObjectLegalHold => ("GET", "legal-hold"),
        Operation::ListObjectAnnotations => ("GET", "annotation&x-id=ListObjectAnnotations"),
        Operation::GetObjectAnnotation => ("GET", "annotation&x-id=GetObjectAnnotation"),
        Operation::PutObjectAnnotation => ("PUT", "annotation"),
        Operation::CopyObject => ("PUT", "x-id=CopyObject"),
        Operation::PutObject => ("PUT", "x-id=PutObject"),
        Operation::DeleteObject => ("DELETE", "x-id=DeleteObject"),
        Operation::CreateMultipartUpload => ("POST", "uploads"),
        Operation::UploadPart => ("PUT", "x-id=UploadPart&partNumber=1&uploadId=u"),
        Operation::UploadPartCopy => ("PUT", "x-id=UploadPartCopy&partNumber=1&uploadId=u"),
        Operation::CompleteMultipartUpload => ("POST", "uploadId=u"),
        Operation::AbortMultipartUpload => ("DELETE", "x-id=AbortMultipartUpload&uploadId=u"),
        Operation::ListParts => ("GET", "x-id=ListParts&uploadId=u"),
        Operation::ListMultipartUploads => ("GET", "uploads"),
        Operation::ListObjectVersions => ("GET", "versions"),
        Operation::GetBucketVersioning => ("GET", "versioning"),
        Operation::RestoreObject => ("POST", "restore"),
    })
}

#[test]
fn no_request_of_this_crate_counts_as_one_to_another_service() {
    for operation in Operation::ALL {
        let Some((method, query)) = sample(operation) else {
            continue;
        };
        let is_copy = matches!(operation, Operation::CopyObject | Operation::UploadPartCopy);
        let uri = format!("http://h/b/k?{query}");
        let expected = ExpectedBody::from_parts(method, &uri, None, is_copy);
        match expected {
            ExpectedBody::None => assert_eq!(method, "HEAD"),
            ExpectedBody::Document(found) => {
                assert_eq!(
                    Bound::of(found),
                    Bound::of(operation),
                    "{operation}: {found}"
                );
            }
            other => panic!("{operation}: {other:?}"),
        }
    }
}

#[test]
fn a_range_bounds_its_answer_and_a_copy_is_no_upload() {
    let uri = "http://h/b/k?x-id=GetObject";
    assert_eq!(
        ExpectedBody::from_parts("GET", uri, Some("bytes=5-9"), false),
        ExpectedBody::Range(5)
    );
    assert_eq!(
        ExpectedBody::from_parts("HEAD", "http://h/b/k", None, false),
        ExpectedBody::None
    );
    let part = "http://h/b/k?x-id=UploadPartCopy&partNumber=1&uploadId=u";
    assert_eq!(
        ExpectedBody::from_parts("PUT", part, None, true),
        ExpectedBody::Document(Operation::UploadPartCopy)
    );
    assert_eq!(
        ExpectedBody::from_parts("POST", "https://sts.amazonaws.com/", None, false),
        ExpectedBody::OtherService
    );
    for range in ["bytes=5-", "bytes=9-5", "bytes=-5", "lines=1-2"] {
        assert_eq!(length(range), None, "{range}");
    }
}

/// Returns a row of the table in the documentation, without its first cell.
fn row(bound: Bound) -> String {
    let tags = bound
        .tags
        .map(|tags| format!("{tags} "))
        .unwrap_or_default();
    format!("| {} | {tags}|", ByteSize(bound.bytes))
}

#[test]
fn the_documented_bounds_are_those_of_the_code() {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/semantics.md")).unwrap();
    let rows: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect();
    let documented = |name: &str| {
        let mut named = rows.iter().filter(|row| {
            let names = row.split('|').nth(1).unwrap_or_default();
            names.split(", ").any(|cell| cell.trim() == name)
        });
        named
            .next()
            .map(|row| format!("|{}", row.splitn(3, '|').nth(2).unwrap()))
    };
    let small = Bound::of(Operation::CopyObject);
    for operation in Operation::ALL {
        let bound = Bound::of(operation);
        let name = match operation {
            Operation::ReadFile => continue,
            Operation::GetObject => "of a journal's segment".to_owned(),
            _ => operation.to_string(),
        };
        match documented(&name) {
            Some(said) => assert_eq!(said, row(bound), "{operation}"),
            None => assert_eq!(bound, small, "{operation} is not in the table"),
        }
    }
    let others = [
        ("any other operation", small),
        (
            "a refusal (status other than 2xx) of any operation",
            REFUSAL,
        ),
        ("services other than S3 (STS", OTHER_SERVICE),
        ("names and values together", Bound::bytes(HEADERS)),
    ];
    for (name, bound) in others {
        assert_eq!(documented(name), Some(row(bound)), "{name}");
    }
}

fn limited(bound: Bound, body: &'static [u8], announced: u64) -> ByteStream {
    let (body, permit) = (SdkBody::from(body), LargePermit::None);
    let limited = Limited {
        body,
        bound,
        is_range: false,
        announced,
        bytes: 0,
        tags: 0,
        gathered: BytesMut::new(),
        permit,
        progress: None,
    };
    ByteStream::new(SdkBody::from_body_1_x(limited))
}

#[tokio::test]
async fn bodies_are_read_up_to_their_bound() {
    let bound = Bound::list(7, 2);
    let read = limited(bound, b"<a></a>", 7).collect().await.unwrap();
    assert_eq!(read.into_bytes(), &b"<a></a>"[..]);
    for (body, announced, error) in [
        (&b"12345678"[..], 0, TooLong::Body(7)),
        (b"1", 8, TooLong::Body(7)),
        (b"<<<", 3, TooLong::Document(2)),
    ] {
        let failed = limited(bound, body, announced).collect().await.unwrap_err();
        assert_eq!(find::<TooLong>(&failed), Some(&error));
    }
}
