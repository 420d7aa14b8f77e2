//! The probe: its findings about servers that refuse, ignore, or lie, and what it leaves behind.

mod attributes;
mod command;
mod leftover;
mod lists;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use s3haul::bucket::Bucket;
use s3haul::manifest::job::{
    Attribute, DEFAULT_ENDPOINT, Limits, Policy, Provider, Transfer, When,
};
use s3haul::probe::{
    self, AttributeFinding, How, Needs, Probe, ProbeFinding, ProbeVerdict, RequestFinding,
};
use s3haul::s3::{Failure, OnWrites, Operation as Request};
use s3haul::sandbox::{BucketOptions, Content, Effect, Fault, ObjectSpec, Operation};
use tokio_util::sync::CancellationToken;

use crate::liar::{Asked, Liar, Lie};
use crate::world::{DESTINATION, World, copy_all, upload_all};

const EXPRESS: &str = "express--use1-az4--x-s3";

fn on(quirk: &AtomicBool) {
    quirk.store(true, Ordering::Relaxed);
}

/// Probes the endpoint of a bucket.
pub(crate) async fn measure(
    bucket: &Bucket,
    prefix: &str,
    needs: &Needs,
    stop: &CancellationToken,
) -> Result<Probe, Failure> {
    let begun = probe::begin(bucket, prefix).await?;
    begun.measure(needs, stop).await
}

async fn try_probe(bucket: &Bucket, needs: &Needs) -> Result<Probe, Failure> {
    measure(
        bucket,
        &probe::scratch_prefix(),
        needs,
        &CancellationToken::new(),
    )
    .await
}

async fn probed(world: &World) -> Probe {
    try_probe(&world.bucket(DESTINATION).await, &Needs::default())
        .await
        .unwrap()
}

/// Connects to the bucket through a proxy that answers wrongly.
async fn behind(world: &World, lie: impl Fn(&Asked) -> Lie + Send + Sync + 'static) -> Bucket {
    let job = Liar::lying(world, lie)
        .await
        .job(world, copy_all(), world.provider);
    let mut connections = world.connections(&job, &CancellationToken::new(), &Limits::default());
    connections
        .bucket(DEFAULT_ENDPOINT, &DESTINATION.parse().unwrap())
        .await
        .unwrap()
}

fn assert_clean(world: &World, bucket: &str) {
    let store = world.sandbox.store();
    assert_eq!(
        (
            store.keys(bucket).as_slice(),
            store.open_uploads(bucket).len()
        ),
        (&[][..], 0)
    );
}

fn finding<'p>(probe: &'p Probe, name: &str) -> &'p ProbeFinding {
    probe
        .findings
        .iter()
        .find(|finding| finding.name == name)
        .unwrap()
}

fn attribute(probe: &Probe, attribute: Attribute) -> &AttributeFinding {
    probe
        .attributes
        .iter()
        .find(|finding| finding.attribute == attribute)
        .unwrap()
}

fn request(probe: &Probe, operation: Request) -> &RequestFinding {
    probe
        .requests
        .iter()
        .find(|finding| finding.operation == operation)
        .unwrap()
}

/// Returns the findings that are neither as relied on nor moot.
fn odd(probe: &Probe) -> Vec<String> {
    let is_odd =
        |verdict: ProbeVerdict| !matches!(verdict, ProbeVerdict::Agrees | ProbeVerdict::Moot);
    let requests = probe
        .requests
        .iter()
        .filter(|finding| is_odd(finding.verdict()));
    let requests = requests.map(|finding| finding.operation.to_string());
    let capabilities = probe
        .findings
        .iter()
        .filter(|finding| is_odd(finding.verdict()));
    let capabilities = capabilities.map(|finding| finding.name.to_owned());
    let attributes = probe
        .attributes
        .iter()
        .filter(|finding| is_odd(finding.verdict()));
    let attributes = attributes.map(|finding| format!("{} of objects", finding.attribute));
    requests.chain(capabilities).chain(attributes).collect()
}

#[tokio::test]
async fn a_probe_of_s3_finds_s3_and_leaves_nothing() {
    for versioning in [false, true] {
        let options = BucketOptions {
            versioning,
            ..BucketOptions::default()
        };
        let world = World::with_buckets(options).await;
        let probe = probed(&world).await;
        assert!(probe.is_good(), "{probe:?}");
        // The bucket has no Object Lock, and the job does not need it.
        assert_eq!(odd(&probe), ["lock of objects"]);
        assert_eq!((probe.left.as_slice(), probe.statement()), (&[][..], None));
        assert_eq!(probe.not_stored, []);
        assert_clean(&world, DESTINATION);
        if versioning {
            // The scratch objects are deleted, not hidden by delete markers.
            let sum: u64 = world.calls(Operation::DeleteObject);
            assert!(
                sum > 20
                    && world
                        .sandbox
                        .store()
                        .versions(DESTINATION, "source")
                        .is_empty()
            );
        }
        assert!(
            world.sandbox.calls().total() < 160,
            "{}",
            world.sandbox.calls().total()
        );
    }
}

#[tokio::test]
async fn a_probe_finds_each_thing_that_a_server_lacks() {
    let world = World::new().await;
    let quirks = world.sandbox.store().quirks();
    for (quirk, statement) in [
        (
            &quirks.ignore_source_conditions,
            "{copy_conditions: false, part_conditions: false}",
        ),
        (
            &quirks.copies_overwrite,
            "{if_none_match: [put, complete], if_match: [put, complete]}",
        ),
        (
            &quirks.puts_overwrite,
            "{if_none_match: [copy, complete], if_match: [copy, complete]}",
        ),
        (
            &quirks.completes_overwrite,
            "{if_none_match: [copy, put], if_match: [copy, put]}",
        ),
        (&quirks.no_part_copy, "{part_copy: false}"),
        (&quirks.equal_parts, "{equal_parts: true}"),
        (&quirks.no_tags, "{tags: false, tag_headers: false}"),
        (&quirks.copies_drop_tags, "{tag_headers: false}"),
        (&quirks.opaque_etags, "{content_etags: false}"),
        (&quirks.no_checksums, "{checksums: false}"),
    ] {
        on(quirk);
        let probe = probed(&world).await;
        assert_eq!(
            probe.statement().as_deref(),
            Some(statement),
            "{:?}",
            probe.findings
        );
        assert!(!probe.is_good() && probe.left.is_empty());
        for finding in probe
            .findings
            .iter()
            .filter(|finding| finding.verdict() == ProbeVerdict::Lacks)
        {
            assert!(
                finding.fails() && finding.consequence().is_some(),
                "{finding:?}"
            );
        }
        assert_clean(&world, DESTINATION);
        quirk.store(false, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn an_ignored_condition_is_distinguished_from_a_refused_one() {
    let world = World::new().await;
    on(&world.sandbox.store().quirks().puts_overwrite);
    let refusal = Effect::Error(501, "NotImplemented");
    world.add_fault(
        Fault::on(Operation::CompleteMultipartUpload)
            .key("absent")
            .then(refusal),
    );
    let probe = probed(&world).await;
    let absent = finding(&probe, "if_none_match");
    let told: Vec<_> = absent.writes().map(|(_, told)| told.how).collect();
    assert_eq!(
        told,
        [How::Kept, How::Ignored, How::Refused],
        "copy, put, complete: {absent:?}"
    );
    let reason = absent.reason();
    assert!(
        reason.contains("PutObject ignored") && reason.contains("CompleteMultipartUpload refused"),
        "{reason}"
    );
    assert!(
        absent.consequence().unwrap().contains("is overwritten"),
        "{absent:?}"
    );
    // Conditions on the source are a separate finding.
    on(&world.sandbox.store().quirks().ignore_source_conditions);
    let probe = probed(&world).await;
    let source = finding(&probe, "part_conditions");
    assert!(
        source.fails() && source.consequence().unwrap().contains("may mix"),
        "{source:?}"
    );
    assert_clean(&world, DESTINATION);
}

#[tokio::test]
async fn a_key_that_is_refused_is_named_and_the_others_answer() {
    let world = World::new().await;
    let faults = world.sandbox.faults();
    faults.add(
        Fault::on(Operation::PutObject)
            .key("a b")
            .then(Effect::Error(400, "InvalidObjectName")),
    );
    let probe = probed(&world).await;
    let key = format!("{}list/a b", probe.prefix);
    assert_eq!(
        probe
            .not_stored
            .iter()
            .map(|key| key.key.clone())
            .collect::<Vec<_>>(),
        [key]
    );
    assert!(
        probe.not_stored[0].reason.contains("InvalidObjectName"),
        "{:?}",
        probe.not_stored
    );
    assert_eq!(
        (odd(&probe), probe.is_good()),
        (vec!["lock of objects".to_owned()], true)
    );
    // Without a key that needs an encoding, the encoding cannot be probed.
    faults.clear();
    let refusal = Effect::Error(400, "InvalidObjectName");
    for operation in [Operation::PutObject, Operation::CreateMultipartUpload] {
        faults.add(Fault::on(operation).key("é").then(refusal.clone()));
    }
    faults.add(
        Fault::on(Operation::PutObject)
            .key("odd%20name")
            .then(refusal),
    );
    let probe = probed(&world).await;
    for name in ["encoded_lists", "encoded_uploads", "odd_part_sources"] {
        assert_eq!(
            finding(&probe, name).verdict(),
            ProbeVerdict::Moot,
            "{name}"
        );
    }
    assert_eq!(
        (odd(&probe), probe.not_stored.len()),
        (vec!["lock of objects".to_owned()], 3)
    );
    assert!(probe.is_good());
    assert_clean(&world, DESTINATION);
}

#[tokio::test]
async fn one_request_that_fails_makes_no_other_question_unknown() {
    let world = World::new().await;
    let refusal = |code| Effect::Error(403, code);
    for (operation, unknown, fails) in [
        (
            Operation::UploadPartCopy,
            vec![
                "part_copy",
                "equal_parts",
                "part_conditions",
                "odd_part_sources",
            ],
            true,
        ),
        (Operation::GetObjectTagging, vec![], true),
        (
            Operation::ListMultipartUploads,
            vec!["ListMultipartUploads", "encoded_uploads"],
            false,
        ),
        (Operation::ListParts, vec!["ListParts"], false),
        (Operation::ListObjectVersions, vec![], false),
    ] {
        world.sandbox.faults().clear();
        world.add_fault(Fault::on(operation).then(refusal("AccessDenied")));
        let probe = probed(&world).await;
        let is_unknown = |finding: &&ProbeFinding| finding.verdict() == ProbeVerdict::Unknown;
        let capabilities = probe
            .findings
            .iter()
            .filter(is_unknown)
            .map(|finding| finding.name.to_owned());
        let requests = probe
            .requests
            .iter()
            .filter(|finding| finding.measured.how == How::Unknown);
        let requests = requests.map(|finding| finding.operation.to_string());
        let found: BTreeSet<_> = requests.chain(capabilities).collect();
        assert_eq!(
            found,
            unknown.into_iter().map(str::to_owned).collect(),
            "{operation:?}"
        );
        assert_eq!(!probe.is_good(), fails, "{operation:?}: {probe:?}");
        assert_eq!(probe.left, [], "{operation:?}");
        assert_clean(&world, DESTINATION);
    }
}

/// An unknown capability fails only jobs that depend on it.
#[tokio::test]
async fn what_is_unknown_fails_only_the_job_that_needs_it() {
    let world = World::new().await;
    let denied = Effect::Error(403, "AccessDenied");
    world.add_fault(Fault::on(Operation::UploadPartCopy).then(denied));
    let bucket = world.bucket(DESTINATION).await;
    let copies = try_probe(&bucket, &Needs::of(&[copy_all()])).await.unwrap();
    let consequence = finding(&copies, "part_copy").consequence().unwrap();
    assert!(
        !copies.is_good() && consequence.contains("copied in parts fails"),
        "{consequence}"
    );
    let directory = tempfile::tempdir().unwrap();
    let uploads = try_probe(&bucket, &Needs::of(&[upload_all(directory.path())]))
        .await
        .unwrap();
    let consequence = finding(&uploads, "part_copy").consequence().unwrap();
    assert!(
        uploads.is_good() && consequence.contains("does not need it"),
        "{consequence}"
    );
}

#[tokio::test]
async fn needs_are_those_of_all_transfers_to_the_bucket() {
    let directory = tempfile::tempdir().unwrap();
    let always = Transfer {
        when: When::Always,
        ..upload_all(directory.path())
    };
    let needs = Needs::of([&always]);
    assert!(
        needs.uploads && !needs.copies && !needs.conditions && needs.preserve.is_content_only()
    );
    let mut strict = copy_all();
    strict.preserve.tags = Policy::Require;
    strict.set.metadata.insert("a".to_owned(), "b".to_owned());
    let needs = Needs::of(&[always, copy_all(), strict]);
    assert!(needs.uploads && needs.copies && needs.conditions);
    assert_eq!(
        (needs.preserve.tags, needs.preserve.acl),
        (Policy::Require, Policy::Skip)
    );
    assert_eq!(needs.named, [Attribute::Metadata].into());
}

fn completes(asked: &Asked) -> bool {
    asked.method == "POST" && asked.has("uploadId")
}

/// Returns true for a DELETE of an object, not of an upload.
fn deletes(asked: &Asked) -> bool {
    asked.method == "DELETE" && !asked.has("uploadId")
}

#[tokio::test]
async fn a_probe_of_an_unknown_server_says_what_may_be_stated_and_that_is_then_relied_on() {
    let world = World::of_provider(Provider::Other).await;
    let probe = probed(&world).await;
    assert!(probe.is_good());
    let statement = probe.statement().unwrap();
    assert!(
        statement.contains("copy_conditions: true") && statement.contains("[copy, put, complete]")
    );
    let more = finding(&probe, "copy_conditions").consequence().unwrap();
    assert!(more.starts_with("until that is stated"), "{more}");
    // The statement is valid YAML for a manifest.
    let yaml = format!(
        "version: 1\nendpoints:\n  default: {{url: \"{}\", capabilities: {statement}}}\ntransfers:\n  \
         - {{from: {{s3: s3://source/}}, to: {{s3: s3://destination/}}}}\n",
        world.sandbox.url()
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("job.yaml");
    std::fs::write(&path, yaml).unwrap();
    let job =
        s3haul::manifest::job::Job::load(&path, &s3haul::endpoint::Environment::default()).unwrap();
    let stated = s3haul::s3::Capabilities::of(&job.endpoints[DEFAULT_ENDPOINT]);
    assert!(
        stated.checksums && stated.part_conditions && stated.if_match.copy && stated.ordered_lists
    );
    assert_eq!(stated.if_none_match, OnWrites::ALL);
}

#[tokio::test]
async fn a_probe_stays_out_of_what_is_there() {
    let world = World::new().await;
    let spec = ObjectSpec::default();
    world.put_object(DESTINATION, "data/k", Content::pattern(1, 10), &spec);
    let bucket = world.bucket(DESTINATION).await;
    let key = "open/upload".parse().unwrap();
    let attributes = s3haul::s3::Attributes::default();
    s3haul::multipart::MultipartUpload::initiate(&bucket, &key, &attributes)
        .await
        .unwrap();
    let long = format!("{}/", "x".repeat(1000));
    for (prefix, words) in [
        ("data/", "not empty"),
        ("open/", "open uploads"),
        ("", "ends in a slash"),
        ("data", "ends in a slash"),
        (&long, "no room"),
    ] {
        let stop = CancellationToken::new();
        let failure = measure(&bucket, prefix, &Needs::default(), &stop)
            .await
            .unwrap_err();
        assert!(failure.to_string().contains(words), "{failure}");
    }
    let store = world.sandbox.store();
    assert_eq!(
        (
            store.keys(DESTINATION).as_slice(),
            store.open_uploads(DESTINATION).len()
        ),
        (&["data/k".to_owned()][..], 1)
    );
}

#[tokio::test]
async fn a_probe_finds_a_directory_bucket_to_be_one() {
    let world = World::new().await;
    world.create_bucket(EXPRESS);
    let probe = try_probe(&world.bucket(EXPRESS).await, &Needs::default())
        .await
        .unwrap();
    for finding in &probe.findings {
        assert_eq!(finding.verdict(), ProbeVerdict::Agrees, "{finding:?}");
    }
    assert_eq!(
        (probe.is_good(), probe.left.as_slice()),
        (true, &[][..]),
        "{probe:?}"
    );
    assert_clean(&world, EXPRESS);
}

/// A KMS key or a customer key hides `ETag`s, whatever the server does otherwise.
#[tokio::test]
async fn hidden_etags_are_no_failing() {
    let encryption = s3haul::sandbox::Encryption::Kms {
        key_id: "key".to_owned(),
        bucket_key: false,
        dual_layer: false,
    };
    let options = BucketOptions {
        encryption,
        ..BucketOptions::default()
    };
    let world = World::with_buckets(options).await;
    let probe = probed(&world).await;
    assert_eq!(
        finding(&probe, "content_etags").verdict(),
        ProbeVerdict::Moot
    );
    assert_eq!(
        (odd(&probe), probe.is_good()),
        (vec!["lock of objects".to_owned()], true)
    );
}
