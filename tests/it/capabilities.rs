//! Servers that are not quite S3, and buckets that are not quite buckets: what they lack is known before it is needed.
//!
//! The sandbox can lack things too; each test sets it up as the server that it names, so that what the profile is for
//! can be seen: the same copy with S3's own profile goes wrong.

use std::sync::atomic::{AtomicBool, Ordering};

use s3haul::endpoint::capabilities::Overrides;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Provider, Source, Transfer, When};
use s3haul::probe::{self, Probe, Verdict};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::{GIB, MIB};

use crate::cli::{at, run};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, destination, restate, uri};

const LARGE: u64 = 300 * MIB;

fn on(quirk: &AtomicBool) {
    quirk.store(true, Ordering::Relaxed);
}

fn put(world: &World, bucket: &str, key: &str, size: u64) {
    let spec = ObjectSpec::default().metadata("owner", "me");
    world.sandbox.store().put_object(bucket, key, Content::pattern(1, size), &spec);
}

async fn world(provider: Provider) -> World {
    World { provider, ..World::new().await }
}

fn error(run: &Run) -> String {
    serde_json::to_string(&run.receipts[0].ending).unwrap()
}

#[tokio::test]
async fn without_part_copies_a_large_object_is_copied_at_once_or_refused_with_the_remedy() {
    let world = world(Provider::Gcs).await;
    on(&world.sandbox.store().quirks().no_part_copy);
    put(&world, SOURCE, "k", 4 * GIB);
    let run = world.run(copy_all()).await;
    assert_eq!((run.receipts[0].route, run.outcome.done_objects), (Some("copy"), 1), "{:?}", run.receipts);
    // A server that has neither part copies nor copies of any size.
    put(&world, SOURCE, "k", 6 * GIB);
    let mut job = world.job(copy_all());
    let stated = Overrides { part_copy: Some(false), ..Overrides::default() };
    restate(&mut job, |endpoint| {
        endpoint.provider = Provider::Other;
        endpoint.capabilities = stated;
    });
    let run = world.try_run_job(&job).await.unwrap();
    assert!(error(&run).contains("s3haul copy - DST"), "{}", error(&run));
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 0, "it was refused before it was begun");
}

#[tokio::test]
async fn tags_are_not_spoken_of_where_there_are_none() {
    for (provider, done) in [(Provider::B2, 2), (Provider::Garage, 2), (Provider::Aws, 0)] {
        let world = world(provider).await;
        on(&world.sandbox.store().quirks().no_tags);
        put(&world, SOURCE, "small", 10);
        put(&world, SOURCE, "large", LARGE);
        let mut transfer = copy_all();
        transfer.preserve.tags = s3haul::manifest::job::Policy::Skip;
        let run = world.run(transfer).await;
        let large = run.receipts.iter().filter(|receipt| receipt.size == LARGE);
        assert!(large.clone().count() == 1);
        assert_eq!(run.outcome.done_objects.min(2) == 2, done == 2, "{provider:?}: {:?}", run.receipts);
    }
}

#[tokio::test]
async fn parts_of_one_size_satisfy_a_server_that_demands_them() {
    let world = world(Provider::R2).await;
    let quirks = world.sandbox.store().quirks();
    for quirk in [&quirks.equal_parts, &quirks.no_tags, &quirks.copies_overwrite] {
        on(quirk);
    }
    put(&world, SOURCE, "k", 5 * GIB + 7);
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    let sizes: Vec<_> = world.sandbox.store().object(DESTINATION, "k").unwrap().parts;
    assert!(sizes.len() > 2 && sizes.windows(2).all(|pair| pair[0].size >= pair[1].size));
}

/// R2 honours source conditions on CopyObject and not on UploadPartCopy.
#[tokio::test]
async fn a_source_that_changes_under_unconditional_parts_is_seen_before_it_is_published() {
    for (provider, looks) in [(Provider::R2, true), (Provider::Ceph, true), (Provider::Minio, false)] {
        let world = world(provider).await;
        put(&world, SOURCE, "k", LARGE);
        let run = world.run(copy_all()).await;
        assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
        let heads = world.sandbox.calls().of(Operation::HeadObject);
        let of_source = heads.iter().filter(|call| call.bucket == SOURCE).count();
        assert_eq!(of_source, if looks { 2 } else { 1 }, "{provider:?}");
    }
    let world = world(Provider::R2).await;
    on(&world.sandbox.store().quirks().ignore_source_conditions);
    put(&world, SOURCE, "k", LARGE);
    let overwrite = Effect::hook(|store| {
        store.put_object(SOURCE, "k", Content::pattern(6, LARGE), &ObjectSpec::default());
    });
    world.sandbox.faults().add(Fault::on(Operation::UploadPartCopy).nth(3).then(overwrite));
    let run = world.run(copy_all()).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    let copy = world.sandbox.store().object(DESTINATION, "k").unwrap();
    assert_eq!(copy.content, Content::pattern(6, LARGE));
}

#[tokio::test]
async fn ceph_16_is_copied_on_as_it_is() {
    let world = world(Provider::Ceph).await;
    let quirks = world.sandbox.store().quirks();
    for quirk in [
        &quirks.ignore_source_conditions,
        &quirks.copies_overwrite,
        &quirks.completes_overwrite,
        &quirks.copies_drop_tags,
        &quirks.no_checksums,
    ] {
        on(quirk);
    }
    let spec = ObjectSpec::default().tag("a", "b");
    for (key, size) in [("small", 10), ("large", LARGE), ("large 100%", LARGE), ("large?versionId=1", LARGE)]
    {
        world.sandbox.store().put_object(SOURCE, key, Content::pattern(2, size), &spec);
    }
    // Its Complete is answered without an ETag, and the upload that is gone then is a key that there is not.
    let faults = world.sandbox.faults();
    faults.add(Fault::on(Operation::CompleteMultipartUpload).nth(1).then(Effect::EmptyBody));
    faults.add(Fault::on(Operation::ListParts).nth(1).then(Effect::Error(404, "NoSuchKey")));
    let run = world.run(copy_all()).await;
    assert_eq!((run.outcome.done_objects, run.outcome.failed_objects), (4, 0), "{:?}", run.receipts);
    for receipt in &run.receipts {
        let route = if receipt.source.ends_with("/large") { "multipart-copy" } else { "copy" };
        assert_eq!(receipt.route, Some(route), "{}: a name that it would decode twice", receipt.source);
        assert!(receipt.losses.is_empty(), "tags are put on the finished object: {receipt:?}");
    }
    assert!(world.calls(Operation::UploadPartCopy) <= 8);
}

#[tokio::test]
async fn what_the_manifest_states_is_relied_on() {
    let world = world(Provider::Other).await;
    put(&world, SOURCE, "k", 10);
    let mut job = world.job(copy_all());
    let stated = Overrides { copy_conditions: Some(true), ..Overrides::default() };
    restate(&mut job, |endpoint| endpoint.capabilities = stated);
    for (job, looks) in [(&job, 1), (&world.job(Transfer { when: When::Always, ..copy_all() }), 2)] {
        world.sandbox.calls().clear();
        world.try_run_job(job).await.unwrap();
        let heads = world.sandbox.calls().of(Operation::HeadObject);
        assert_eq!(heads.iter().filter(|call| call.bucket == SOURCE).count(), looks);
    }
}

const EXPRESS: &str = "express--use1-az4--x-s3";

fn from(bucket: &str) -> Source {
    Source::Prefix { endpoint: DEFAULT_ENDPOINT.to_owned(), location: uri(&format!("s3://{bucket}/")) }
}

/// Lists of a directory bucket have no order, its `ETag`s follow from nothing, and tags are refused.
#[tokio::test]
async fn a_directory_bucket_is_copied_into_and_compared_without_an_order() {
    let world = World::new().await;
    world.sandbox.store().create_bucket(EXPRESS, s3haul::sandbox::BucketOptions::default());
    for index in 0..40 {
        let spec = ObjectSpec::default().metadata("n", "1").tag("a", "b");
        let yesterday = std::time::SystemTime::now() - std::time::Duration::from_hours(24);
        let spec = spec.last_modified(yesterday);
        let size = if index == 7 { LARGE } else { 10 + index };
        world.sandbox.store().put_object(SOURCE, &format!("d/k{index:02}"), Content::pattern(1, size), &spec);
    }
    let transfer = Transfer { to: destination(&format!("s3://{EXPRESS}/")), ..copy_all() };
    let run = world.run(transfer.clone()).await;
    assert_eq!((run.outcome.done_objects, run.outcome.failed_objects), (40, 0), "{:?}", run.receipts);
    assert_eq!(run.outcome.proofs.get("etag"), None, "its ETags prove nothing");
    let copy = world.sandbox.store().object(EXPRESS, "d/k07").unwrap();
    assert_eq!((copy.content, copy.attributes.tags.len()), (Content::pattern(1, LARGE), 0));
    let again = world.run(transfer).await;
    assert_eq!((again.outcome.done_objects, again.outcome.skipped_objects), (0, 40), "{:?}", again.receipts);
    // And out of it again, where it is nobody's to ask for tags.
    world.sandbox.calls().clear();
    let run = world.run(Transfer { from: from(EXPRESS), ..copy_all() }).await;
    assert_eq!((run.outcome.done_objects, run.outcome.failed_objects), (40, 0), "{:?}", run.receipts);
    assert_eq!(world.calls(Operation::GetObjectTagging), 0);
}

#[tokio::test]
async fn a_prefix_of_a_directory_bucket_ends_in_a_slash_or_is_refused_in_these_words() {
    let world = World::new().await;
    world.sandbox.store().create_bucket(EXPRESS, s3haul::sandbox::BucketOptions::default());
    let bucket = world.bucket(EXPRESS).await;
    for failure in [
        bucket.list("logs", None, None).await.unwrap_err(),
        bucket.list_uploads("logs", None).await.unwrap_err(),
    ] {
        assert!(failure.to_string().contains("write `logs/` instead of `logs`"), "{failure}");
    }
    assert!(bucket.list("logs/", None, None).await.is_ok());
}

async fn probed(world: &World) -> Probe {
    probe::probe(&world.bucket(DESTINATION).await, &probe::scratch_prefix()).await.unwrap()
}

fn assert_clean(world: &World, bucket: &str) {
    let keys = world.sandbox.store().keys(bucket);
    let versions = keys.iter().map(|key| world.sandbox.store().versions(bucket, key)).collect::<Vec<_>>();
    assert_eq!(
        (keys.as_slice(), world.sandbox.store().open_uploads(bucket).len()),
        (&[][..], 0),
        "{versions:?}"
    );
}

#[tokio::test]
async fn a_probe_of_s3_finds_s3_and_leaves_nothing() {
    for versioning in [false, true] {
        let options = s3haul::sandbox::BucketOptions { versioning, ..Default::default() };
        let world = World::with(s3haul::sandbox::SandboxOptions::default(), options).await;
        let probe = probed(&world).await;
        for finding in &probe.findings {
            assert_eq!(finding.verdict(), Verdict::Agrees, "{finding:?}");
        }
        assert_eq!((probe.left.as_slice(), probe.statement()), (&[][..], None));
        assert_clean(&world, DESTINATION);
        if versioning {
            // Not hidden by markers, but gone.
            let sum: u64 = world.calls(Operation::DeleteObject);
            assert!(sum > 20 && world.sandbox.store().versions(DESTINATION, "source").is_empty());
        }
        assert!(world.sandbox.calls().total() < 160, "{}", world.sandbox.calls().total());
    }
}

#[tokio::test]
async fn a_probe_finds_each_thing_that_a_server_lacks() {
    let world = World::new().await;
    let quirks = world.sandbox.store().quirks();
    for (quirk, statement) in [
        (&quirks.ignore_source_conditions, "{copy_conditions: false, part_conditions: false}"),
        (&quirks.copies_overwrite, "{if_none_match: [put, complete], if_match: [put, complete]}"),
        (&quirks.puts_overwrite, "{if_none_match: [copy, complete], if_match: [copy, complete]}"),
        (&quirks.completes_overwrite, "{if_none_match: [copy, put], if_match: [copy, put]}"),
        (&quirks.no_part_copy, "{part_copy: false}"),
        (&quirks.equal_parts, "{equal_parts: true}"),
        (&quirks.no_tags, "{tags: false, tag_headers: false}"),
        (&quirks.copies_drop_tags, "{tag_headers: false}"),
        (&quirks.opaque_etags, "{content_etags: false}"),
        (&quirks.no_checksums, "{checksums: false}"),
    ] {
        on(quirk);
        let probe = probed(&world).await;
        assert_eq!(probe.statement().as_deref(), Some(statement), "{:?}", probe.findings);
        assert!(!probe.is_good() && probe.left.is_empty());
        assert_clean(&world, DESTINATION);
        quirk.store(false, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_probe_of_an_unknown_server_says_what_may_be_stated_and_that_is_then_relied_on() {
    let world = world(Provider::Other).await;
    let probe = probed(&world).await;
    assert!(probe.is_good());
    let statement = probe.statement().unwrap();
    assert!(statement.contains("copy_conditions: true") && statement.contains("[copy, put, complete]"));
    // The statement is YAML that a manifest takes.
    let yaml = format!(
        "version: 1\nendpoints:\n  default: {{url: \"{}\", capabilities: {statement}}}\ntransfers:\n  \
         - {{from: {{s3: s3://source/}}, to: {{s3: s3://destination/}}}}\n",
        world.sandbox.url()
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("job.yaml");
    std::fs::write(&path, yaml).unwrap();
    let job = s3haul::manifest::load(&path, &s3haul::endpoint::Environment::default()).unwrap();
    let stated = s3haul::s3::Capabilities::of(&job.endpoints[DEFAULT_ENDPOINT]);
    assert!(stated.checksums && stated.part_conditions && stated.if_match.copy && stated.ordered_lists);
}

#[tokio::test]
async fn a_probe_that_meets_faults_cleans_up_and_says_what_it_could_not_tell() {
    for operation in [Operation::CompleteMultipartUpload, Operation::UploadPartCopy, Operation::ListObjectsV2]
    {
        let mut world = World::new().await;
        world.retry.attempts = 1;
        let fails = Fault::on(operation).nth(2).then(Effect::Error(403, "AccessDenied"));
        world.sandbox.faults().add(fails);
        let probe = probed(&world).await;
        let unknown = probe.findings.iter().filter(|finding| finding.verdict() == Verdict::Unknown).count();
        // The second list is that of the connection or of the keys; what is left is then looked for all the same.
        assert!(unknown > 0 || operation == Operation::ListObjectsV2, "{:?}", probe.findings);
        assert_clean(&world, DESTINATION);
    }
}

#[tokio::test]
async fn a_probe_tells_what_it_could_not_remove() {
    let world = World::new().await;
    world.sandbox.store().deny(DESTINATION, Operation::DeleteObject, "");
    let probe = probed(&world).await;
    assert!(!probe.is_good() && probe.left.iter().any(|left| left.contains("source")), "{:?}", probe.left);
    assert!(world.sandbox.store().open_uploads(DESTINATION).is_empty());
}

#[tokio::test]
async fn a_probe_stays_out_of_what_is_there() {
    let world = World::new().await;
    put(&world, DESTINATION, "data/k", 10);
    let bucket = world.bucket(DESTINATION).await;
    for (prefix, words) in [("data/", "not empty"), ("", "ends in a slash"), ("data", "ends in a slash")] {
        let failure = probe::probe(&bucket, prefix).await.unwrap_err();
        assert!(failure.to_string().contains(words), "{failure}");
    }
    assert_eq!(world.sandbox.store().keys(DESTINATION), ["data/k"]);
}

#[tokio::test]
async fn a_probe_finds_a_directory_bucket_to_be_one() {
    let world = World::new().await;
    world.sandbox.store().create_bucket(EXPRESS, s3haul::sandbox::BucketOptions::default());
    let probe = probe::probe(&world.bucket(EXPRESS).await, &probe::scratch_prefix()).await.unwrap();
    for finding in &probe.findings {
        assert_eq!(finding.verdict(), Verdict::Agrees, "{finding:?}");
    }
    assert_clean(&world, EXPRESS);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_probe_prints_what_it_found_and_exits_by_it() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("job.yaml");
    let manifest = |provider: &str| {
        format!(
            "version: 1\nendpoints:\n  default: {{url: \"{}\", region: us-east-1, provider: {provider}}}\n\
             transfers:\n  - {{from: {{s3: s3://source/}}, to: {{s3: s3://destination/a/}}}}\n  \
             - {{from: {{s3: s3://source/}}, to: {{s3: s3://destination/b/}}}}\n",
            world.sandbox.url()
        )
    };
    let check = async |provider: &str, more: &[&str]| {
        std::fs::write(&path, manifest(provider)).unwrap();
        run(at(&world), &[&["check", path.to_str().unwrap()], more].concat()).await
    };
    let (exit, stdout, stderr) = check("aws", &["--probe", "--probe-prefix", "scratch/"]).await;
    assert_eq!(exit, 0, "{stdout}{stderr}");
    assert_eq!(
        stdout.matches("probe of s3://destination/scratch/").count(),
        1,
        "one bucket, one probe: {stdout}"
    );
    assert!(!stdout.contains("capabilities:"), "{stdout}");
    let (exit, stdout, _) = check("other", &["--probe"]).await;
    assert!(exit == 0 && stdout.contains("can do more"), "{stdout}");
    assert!(stdout.contains("state it under `endpoints.default` of the manifest:"), "{stdout}");
    on(&world.sandbox.store().quirks().copies_overwrite);
    let (exit, stdout, _) = check("aws", &["--probe"]).await;
    assert!(exit == 1 && stdout.contains("RELIED ON, AND NOT SO"), "{stdout}");
    let (exit, stdout, _) = check("aws", &["--probe", "--json"]).await;
    let last: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let findings = last["probe"]["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["capability"] == "if_match").unwrap();
    assert_eq!((exit, found["verdict"].as_str()), (1, Some("lacks")), "{found}");
    assert_eq!(found["found"], serde_json::json!(["put", "complete"]));
    world.sandbox.store().deny(DESTINATION, Operation::PutObject, "");
    let (exit, stdout, stderr) = check("aws", &["--probe"]).await;
    assert_eq!(exit, 3, "{stdout}{stderr}");
    assert_clean(&world, DESTINATION);
}
