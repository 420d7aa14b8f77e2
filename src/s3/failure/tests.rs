//! Messages of failures: the place, the code, the request, and the remedy.

use super::*;

#[test]
fn a_refusal_of_its_own_is_one_sentence_about_a_place() {
    let message = "write `a/` instead of `a`";
    let own = Failure::new(
        FailureKind::Invalid,
        Operation::ListObjects,
        "s3://b",
        message,
    );
    assert_eq!(own.to_string(), format!("s3://b: {message}"));
    let mut of_server = own.clone();
    of_server.0.code = "InvalidArgument".to_owned();
    let text = of_server.to_string();
    assert!(
        text.contains("InvalidArgument") && text.contains("; see the server's"),
        "{text}"
    );
}

#[test]
fn the_message_holds_place_code_request_and_remedy() {
    let mut failure = Failure::new(
        FailureKind::Denied,
        Operation::CopyObject,
        "b/k",
        "Access Denied.",
    )
    .after(2);
    failure.0.request_id = Some("R1".to_owned());
    let text = failure.to_string();
    assert!(
        text.starts_with(
            "CopyObject b/k: denied: Access Denied (after 2 attempts) [request R1]; grant"
        ),
        "{text}"
    );
}

#[test]
fn a_denied_request_names_the_permission() {
    for (operation, remedy) in [
        (
            Operation::CopyObject,
            "; grant s3:PutObject on this object and s3:GetObject on its source, or exclude the object",
        ),
        (
            Operation::HeadObject,
            "; grant s3:GetObject (for a version s3:GetObjectVersion) on the object, or exclude it",
        ),
        (
            Operation::ListObjects,
            "; grant s3:ListBucket on the bucket; a destination is not listed with `when: always`",
        ),
        (
            Operation::RestoreObject,
            "; grant s3:RestoreObject on the object, or exclude it",
        ),
    ] {
        let denied = Failure::new(FailureKind::Denied, operation, "b/k", "no");
        assert!(denied.to_string().ends_with(remedy), "{denied}");
    }
}

#[test]
fn a_denied_record_names_the_permission_and_the_key() {
    for (operation, remedy) in [
        (Operation::PutObject, "; grant s3:PutObject on s3://b/k"),
        (Operation::HeadObject, "; grant s3:GetObject on s3://b/k"),
        (Operation::ListObjects, "; grant s3:ListBucket on s3://b/k"),
    ] {
        let denied = Failure::new(FailureKind::Denied, operation, "b/k", "no").about_record();
        assert!(denied.to_string().ends_with(remedy), "{denied}");
    }
}
