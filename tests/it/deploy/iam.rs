//! The policies allow exactly the requests that s3haul sends.

use std::collections::BTreeSet;

use s3haul::s3::Operation;
use serde_json::Value;

use super::{files, read};

/// Maps a request to the permissions that it needs at the source and at the destination, by S3's
/// API reference. HEAD needs that of GET, and a named version its own.
fn permissions(operation: Operation) -> (&'static [&'static str], &'static [&'static str]) {
    const LIST: &[&str] = &["s3:ListBucket"];
    const READ: &[&str] = &["s3:GetObject", "s3:GetObjectVersion"];
    const READ_TAGS: &[&str] = &["s3:GetObjectTagging", "s3:GetObjectVersionTagging"];
    // A copy of a locked object has headers for it.
    const WRITE: &[&str] = &[
        "s3:PutObject",
        "s3:PutObjectTagging",
        "s3:PutObjectRetention",
        "s3:PutObjectLegalHold",
    ];
    match operation {
        Operation::HeadBucket | Operation::ListObjects => (LIST, LIST),
        Operation::HeadObject | Operation::GetObject => (READ, READ),
        // s3haul reads the tags of a copy, by its version if it has one, after `--adopt` has
        // completed an upload of unknown origin.
        Operation::GetObjectTagging => (READ_TAGS, READ_TAGS),
        Operation::PutObjectTagging => (&[], &["s3:PutObjectTagging"]),
        Operation::GetObjectRetention => (&["s3:GetObjectRetention"], &[]),
        Operation::GetObjectLegalHold => (&["s3:GetObjectLegalHold"], &[]),
        // CopyObject copies the source's tags by itself.
        Operation::CopyObject => (
            &[
                "s3:GetObject",
                "s3:GetObjectVersion",
                "s3:GetObjectTagging",
                "s3:GetObjectVersionTagging",
            ],
            WRITE,
        ),
        Operation::UploadPartCopy => (READ, &["s3:PutObject"]),
        Operation::PutObject | Operation::CreateMultipartUpload => (&[], WRITE),
        Operation::UploadPart | Operation::CompleteMultipartUpload => (&[], &["s3:PutObject"]),
        Operation::AbortMultipartUpload => (&[], &["s3:AbortMultipartUpload"]),
        Operation::ListParts => (&[], &["s3:ListMultipartUploadParts"]),
        Operation::ListMultipartUploads => (&[], &["s3:ListBucketMultipartUploads"]),
        Operation::ListObjectVersions => (&["s3:ListBucketVersions"], &["s3:ListBucketVersions"]),
        Operation::GetBucketVersioning => {
            (&["s3:GetBucketVersioning"], &["s3:GetBucketVersioning"])
        }
        Operation::RestoreObject => (&["s3:RestoreObject"], &[]),
        // Without a version ID, it only adds a delete marker. Deleting a version needs another
        // permission.
        Operation::DeleteObject => (&[], &["s3:DeleteObject"]),
        Operation::ReadFile
        | Operation::GetObjectAcl
        | Operation::ListObjectAnnotations
        | Operation::GetObjectAnnotation
        | Operation::PutObjectAnnotation => (&[], &[]),
    }
}

/// Returns the further permissions for jobs with `acl:` or `annotations:`. Writes then have ACL
/// headers.
fn opted_in(operation: Operation) -> (&'static [&'static str], &'static [&'static str]) {
    match operation {
        Operation::GetObjectAcl => (&["s3:GetObjectAcl", "s3:GetObjectVersionAcl"], &[]),
        Operation::CopyObject | Operation::PutObject | Operation::CreateMultipartUpload => {
            (&[], &["s3:PutObjectAcl"])
        }
        Operation::ListObjectAnnotations => (&["s3:ListObjectAnnotations"], &[]),
        Operation::GetObjectAnnotation => (&["s3:GetObjectAnnotation"], &[]),
        Operation::PutObjectAnnotation => (&[], &["s3:PutObjectAnnotation"]),
        _ => (&[], &[]),
    }
}

/// Returns true for operations that only jobs with versions or archives send. They have their own
/// policy.
fn is_about_history(operation: Operation) -> bool {
    use Operation::{DeleteObject, GetBucketVersioning, ListObjectVersions, RestoreObject};
    matches!(
        operation,
        ListObjectVersions | GetBucketVersioning | RestoreObject | DeleteObject
    )
}

/// Returns the permissions that the operations need on both sides, or on one.
fn needed(
    bucket: &str,
    is_source: bool,
    of: impl Fn(Operation) -> bool,
) -> BTreeSet<(String, String)> {
    const OF_BUCKETS: [&str; 4] = [
        "s3:ListBucket",
        "s3:ListBucketMultipartUploads",
        "s3:ListBucketVersions",
        "s3:GetBucketVersioning",
    ];
    operations()
        .into_iter()
        .filter(|operation| of(*operation))
        .flat_map(|operation| {
            let (source, destination) = permissions(operation);
            if is_source { source } else { destination }
        })
        .map(|action| {
            let objects = if OF_BUCKETS.contains(action) {
                ""
            } else {
                "/*"
            };
            (
                (*action).to_owned(),
                format!("arn:aws:s3:::{bucket}{objects}"),
            )
        })
        .collect()
}

/// Returns all operations. serde lists their names in its error about an unknown one.
fn operations() -> Vec<Operation> {
    let message = serde_json::from_value::<Operation>("none".into())
        .unwrap_err()
        .to_string();
    let names: Vec<_> = message
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| *name != "none")
        .collect();
    let operations: Vec<_> = names
        .into_iter()
        .map(|name| serde_json::from_value(name.into()).unwrap())
        .collect();
    assert!(
        operations.contains(&Operation::HeadBucket) && operations.contains(&Operation::ReadFile),
        "{message}"
    );
    operations
}

fn policy(name: &str) -> Value {
    serde_json::from_str(&read(format!("deploy/iam/{name}.json"))).unwrap()
}

fn statements(policy: &Value) -> &Vec<Value> {
    assert_eq!(policy["Version"], "2012-10-17");
    policy["Statement"].as_array().unwrap()
}

/// Returns the pairs of action and resource that a policy allows.
fn allowed(policy: &Value) -> BTreeSet<(String, String)> {
    let mut allowed = BTreeSet::new();
    for statement in statements(policy) {
        assert_eq!(statement["Effect"], "Allow");
        let resource = statement["Resource"].as_str().unwrap();
        for action in statement["Action"].as_array().unwrap() {
            let action = action.as_str().unwrap();
            assert!(!action.contains('*'), "{action}");
            assert!(
                allowed.insert((action.to_owned(), resource.to_owned())),
                "{action} is there twice"
            );
        }
    }
    allowed
}

#[test]
fn each_side_allows_exactly_what_is_sent_to_it() {
    for (name, bucket, is_source) in [
        ("source", "lake-prod", true),
        ("destination", "lake-replica", false),
    ] {
        let needed = needed(bucket, is_source, |operation| !is_about_history(operation));
        assert_eq!(allowed(&policy(name)), needed, "{name}");
    }
}

#[test]
fn a_journal_and_a_state_in_s3_need_no_more_than_their_own_prefixes() {
    let on = |actions: &[&str], resource: &str| -> Vec<_> {
        actions
            .iter()
            .map(|action| ((*action).to_owned(), resource.to_owned()))
            .collect()
    };
    let objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"];
    for (name, below) in [("journal", "s3haul/*"), ("state", "s3haul/lake/*")] {
        let needed = on(&objects, &format!("arn:aws:s3:::lake-ops/{below}"));
        let needed: BTreeSet<_> = needed
            .into_iter()
            .chain(on(&["s3:ListBucket"], "arn:aws:s3:::lake-ops"))
            .collect();
        assert_eq!(allowed(&policy(name)), needed, "{name}");
    }
}

#[test]
fn versions_and_archives_need_a_policy_more() {
    let mut both = needed("lake-prod", true, is_about_history);
    both.extend(needed("lake-replica", false, is_about_history));
    assert_eq!(allowed(&policy("versions")), both);
}

#[test]
fn everything_takes_what_is_opted_in() {
    let needed: BTreeSet<_> = operations()
        .into_iter()
        .flat_map(|operation| {
            let (source, destination) = opted_in(operation);
            let on = |bucket: &'static str, actions: &'static [&str]| {
                actions
                    .iter()
                    .map(move |action| ((*action).to_owned(), format!("arn:aws:s3:::{bucket}/*")))
            };
            on("lake-prod", source).chain(on("lake-replica", destination))
        })
        .collect();
    assert_eq!(allowed(&policy("everything")), needed);
}

#[test]
fn keys_are_used_as_s3_uses_them() {
    let policy = policy("kms");
    let [source, destination] = statements(&policy).as_slice() else {
        panic!("two statements")
    };
    assert_eq!(source["Action"], serde_json::json!(["kms:Decrypt"]));
    // S3 reads and decrypts the parts of an upload when it completes the upload.
    assert_eq!(
        destination["Action"],
        serde_json::json!(["kms:GenerateDataKey", "kms:Decrypt"])
    );
    assert_ne!(source["Resource"], destination["Resource"]);
}

#[test]
fn the_role_trusts_the_service_account_of_the_overlay() {
    let policy = policy("trust");
    let [statement] = statements(&policy).as_slice() else {
        panic!("one statement")
    };
    assert_eq!(statement["Action"], "sts:AssumeRoleWithWebIdentity");
    let conditions = statement["Condition"]["StringEquals"].as_object().unwrap();
    let (_, subject) = conditions
        .iter()
        .find(|(name, _)| name.ends_with(":sub"))
        .unwrap();
    let namespace = super::yaml("deploy/overlays/eks/kustomization.yaml")["namespace"].clone();
    let account = super::yaml("deploy/overlays/eks/role.yaml")["metadata"]["name"].clone();
    let expected = format!(
        "system:serviceaccount:{}:{}",
        namespace.as_str().unwrap(),
        account.as_str().unwrap()
    );
    assert_eq!(subject.as_str(), Some(expected.as_str()));
    assert_eq!(
        files("deploy/iam", "json").len(),
        8,
        "a policy that no test reads"
    );
}
