//! The probe: what it finds at servers that refuse, ignore, or lie, and what it leaves behind.

mod command;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use s3haul::bucket::Bucket;
use s3haul::manifest::job::{
    Attribute, DEFAULT_ENDPOINT, Limits, Policy, Preserve, Preset, Provider, Transfer, When,
};
use s3haul::probe::{
    self, AttributeFinding, Finding, How, Needs, Probe, RequestFinding, Thing, Verdict,
};
use s3haul::s3::{Failure, OnWrites, Operation as Request};
use s3haul::sandbox::{
    BucketOptions, Content, Effect, Fault, ObjectSpec, Operation, SandboxOptions, VersionInfo,
};
use tokio_util::sync::CancellationToken;

use crate::liar::{Asked, Liar, Lie};
use crate::world::{DESTINATION, World, copy_all, upload_all};

const EXPRESS: &str = "express--use1-az4--x-s3";

fn on(quirk: &AtomicBool) {
    quirk.store(true, Ordering::Relaxed);
}

async fn try_probe(bucket: &Bucket, needs: &Needs) -> Result<Probe, Failure> {
    probe::probe(
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

/// The bucket as it is reached through a server that lies.
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

fn finding<'p>(probe: &'p Probe, name: &str) -> &'p Finding {
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

/// The findings that are neither as relied on nor moot.
fn odd(probe: &Probe) -> Vec<String> {
    let is_odd = |verdict: Verdict| !matches!(verdict, Verdict::Agrees | Verdict::Moot);
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
        let world = World::with(SandboxOptions::default(), options).await;
        let probe = probed(&world).await;
        assert!(probe.is_good(), "{probe:?}");
        // The bucket has no Object Lock, and the job has no need for it.
        assert_eq!(odd(&probe), ["lock of objects"]);
        assert_eq!((probe.left.as_slice(), probe.statement()), (&[][..], None));
        assert_eq!(probe.not_stored, []);
        assert_clean(&world, DESTINATION);
        if versioning {
            // Not hidden by markers, but gone.
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
async fn locked_scratch_objects_are_removed_when_their_lock_ends() {
    let options = BucketOptions {
        object_lock: true,
        ..BucketOptions::default()
    };
    let world = World::with(SandboxOptions::default(), options).await;
    let probe = probed(&world).await;
    let lock = attribute(&probe, Attribute::Lock);
    assert_eq!(
        (lock.copy.how, lock.multipart.how, lock.put.how),
        (How::Kept, How::Kept, How::Moot)
    );
    assert_eq!((odd(&probe), probe.left.as_slice()), (vec![], &[][..]));
    assert_clean(&world, DESTINATION);
}

/// A server that ignores locks makes objects that nothing protects.
#[tokio::test]
async fn a_lock_that_is_ignored_fails_a_job_that_requires_it_and_one_that_is_refused_does_not() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let preserve = Preserve {
        lock: Policy::Require,
        ..Preserve::default()
    };
    let needs = Needs {
        preserve,
        ..Needs::default()
    };
    let refused = try_probe(&bucket, &needs).await.unwrap();
    let lock = attribute(&refused, Attribute::Lock);
    assert_eq!(
        (lock.copy.how, lock.verdict()),
        (How::Refused, Verdict::Loses)
    );
    assert!(
        refused.is_good()
            && lock
                .consequence()
                .unwrap()
                .contains("all others are copied"),
        "{lock:?}"
    );
    let ignored = [
        "x-amz-object-lock-mode",
        "x-amz-object-lock-retain-until-date",
    ]
    .as_slice();
    let faults = world.sandbox.faults();
    for operation in [Operation::CopyObject, Operation::CreateMultipartUpload] {
        faults.add(
            Fault::on(operation)
                .key("locked")
                .then(Effect::Ignore(ignored)),
        );
    }
    let ignored = try_probe(&bucket, &needs).await.unwrap();
    let lock = attribute(&ignored, Attribute::Lock);
    assert_eq!(
        (lock.copy.how, lock.verdict()),
        (How::Ignored, Verdict::Lacks),
        "{lock:?}"
    );
    assert!(
        !ignored.is_good() && odd(&ignored) == ["lock of objects"],
        "{:?}",
        odd(&ignored)
    );
    assert_clean(&world, DESTINATION);
}

#[tokio::test]
async fn a_bucket_that_locks_all_objects_is_not_probed() {
    let retention = Some(("GOVERNANCE".to_owned(), 30));
    let options = BucketOptions {
        object_lock: true,
        retention,
        ..BucketOptions::default()
    };
    let world = World::with(SandboxOptions::default(), options).await;
    let failure = try_probe(&world.bucket(DESTINATION).await, &Needs::default())
        .await
        .unwrap_err();
    let told = failure.to_string();
    assert!(
        told.contains("locks each new object") && told.contains("another bucket"),
        "{told}"
    );
    let keys = world.sandbox.store().keys(DESTINATION);
    assert!(
        keys.len() == 1 && told.contains("left behind") && told.contains(&keys[0]),
        "{told}"
    );
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
            .filter(|finding| finding.verdict() == Verdict::Lacks)
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
async fn a_condition_that_is_ignored_is_told_from_one_that_is_refused() {
    let world = World::new().await;
    on(&world.sandbox.store().quirks().puts_overwrite);
    let refusal = Effect::Error(501, "NotImplemented");
    world.sandbox.faults().add(
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
    // A condition on the source has its own answer.
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
async fn ignored_attributes_are_losses_or_failures_by_the_policy() {
    let world = World::new().await;
    let bucket = world.bucket(DESTINATION).await;
    let faults = world.sandbox.faults();
    // One fault takes effect on a request, so that each request ignores both.
    let ignored = ["x-amz-tagging", "x-amz-meta-s3haul"].as_slice();
    for operation in [Operation::CopyObject, Operation::CreateMultipartUpload] {
        faults.add(Fault::on(operation).then(Effect::Ignore(ignored)));
    }
    for (policy, verdict, fails) in [
        (Policy::Try, Verdict::Loses, false),
        (Policy::Require, Verdict::Lacks, true),
        (Policy::Skip, Verdict::Moot, false),
    ] {
        let mut preserve = Preserve::from(Preset::ContentOnly);
        (preserve.tags, preserve.metadata) = (policy, policy);
        let probe = try_probe(
            &bucket,
            &Needs {
                preserve,
                ..Needs::default()
            },
        )
        .await
        .unwrap();
        for name in [Attribute::Tags, Attribute::Metadata] {
            let found = attribute(&probe, name);
            let routes = [found.put.how, found.copy.how, found.multipart.how];
            assert_eq!(routes, [How::Kept, How::Ignored, How::Ignored], "{found:?}");
            assert_eq!(
                (found.verdict(), found.fails()),
                (verdict, fails),
                "{found:?}"
            );
            assert_eq!(
                found.consequence().is_none(),
                policy == Policy::Skip,
                "{found:?}"
            );
        }
        // The profile relies on tags by these requests, whatever this job keeps.
        assert!(finding(&probe, "tag_headers").fails());
        assert!(
            finding(&probe, "tags").verdict() == Verdict::Agrees,
            "they can be set afterwards"
        );
        assert_eq!(attribute(&probe, Attribute::Headers).copy.how, How::Kept);
    }
    // A job that only uploads sends neither request with tags, but for parts.
    let directory = tempfile::tempdir().unwrap();
    let probe = try_probe(&bucket, &Needs::of(&[upload_all(directory.path())]))
        .await
        .unwrap();
    assert_eq!(attribute(&probe, Attribute::Tags).verdict(), Verdict::Moot);
    assert_clean(&world, DESTINATION);
}

#[tokio::test]
async fn an_attribute_that_is_refused_does_not_hide_the_others() {
    let world = World::new().await;
    on(&world.sandbox.store().quirks().no_tags);
    let probe = probed(&world).await;
    let tags = attribute(&probe, Attribute::Tags);
    assert_eq!(
        [tags.put.how, tags.copy.how, tags.multipart.how],
        [How::Refused; 3],
        "{tags:?}"
    );
    for name in [
        Attribute::Metadata,
        Attribute::Headers,
        Attribute::StorageClass,
    ] {
        let found = attribute(&probe, name);
        assert_eq!(
            [found.put.how, found.copy.how, found.multipart.how],
            [How::Kept; 3],
            "{found:?}"
        );
    }
    assert_eq!(
        request(&probe, Request::PutObjectTagging).told.how,
        How::Refused
    );
    assert!(
        world.sandbox.calls().total() < 160,
        "{}",
        world.sandbox.calls().total()
    );
}

#[tokio::test]
async fn a_class_that_the_job_names_is_part_of_each_request() {
    let world = World::new().await;
    let mut transfer = copy_all();
    transfer.to.storage_class = Some("NO_SUCH_CLASS".to_owned());
    let needs = Needs::of(&[transfer]);
    let probe = try_probe(&world.bucket(DESTINATION).await, &needs)
        .await
        .unwrap();
    let class = attribute(&probe, Attribute::StorageClass);
    assert!(
        class.fails() && class.consequence().unwrap().contains("each object fails"),
        "{class:?}"
    );
    assert!(!attribute(&probe, Attribute::Metadata).fails() && !probe.is_good());
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
    // The key that an encoding is for: there is nothing to ask about.
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
        assert_eq!(finding(&probe, name).verdict(), Verdict::Moot, "{name}");
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
        world
            .sandbox
            .faults()
            .add(Fault::on(operation).then(refusal("AccessDenied")));
        let probe = probed(&world).await;
        let is_unknown = |finding: &&Finding| finding.verdict() == Verdict::Unknown;
        let capabilities = probe
            .findings
            .iter()
            .filter(is_unknown)
            .map(|finding| finding.name.to_owned());
        let requests = probe
            .requests
            .iter()
            .filter(|finding| finding.told.how == How::Unknown);
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

/// What is not known fails a job that depends on it, and no other one.
#[tokio::test]
async fn what_is_unknown_fails_only_the_job_that_needs_it() {
    let world = World::new().await;
    let denied = Effect::Error(403, "AccessDenied");
    world
        .sandbox
        .faults()
        .add(Fault::on(Operation::UploadPartCopy).then(denied));
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

#[tokio::test]
async fn parts_that_cannot_be_listed_leave_nothing_behind_and_fail_nothing() {
    let world = World::new().await;
    let bucket = behind(&world, |asked| {
        if asked.lists_parts() {
            Lie::unreadable()
        } else {
            Lie::Truth
        }
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    assert_eq!(odd(&probe), ["ListParts", "lock of objects"]);
    assert_eq!((probe.is_good(), probe.left.as_slice()), (true, &[][..]));
    let consequence = request(&probe, Request::ListParts).consequence().unwrap();
    assert!(consequence.contains("start over"), "{consequence}");
    assert_clean(&world, DESTINATION);
}

/// Where neither list exists, an abort that is accepted proves nothing; that is told, and is no
/// failure.
#[tokio::test]
async fn what_nothing_shows_may_be_left() {
    let world = World::new().await;
    let bucket = behind(&world, |asked| match asked {
        _ if asked.lists_parts() || asked.lists_uploads() => Lie::error(501, "NotImplemented"),
        _ => Lie::Truth,
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    assert!(probe.is_good(), "{probe:?}");
    assert!(
        !probe.left.is_empty() && probe.left.iter().all(|left| !left.is_certain),
        "{:?}",
        probe.left
    );
    assert_eq!(
        request(&probe, Request::AbortMultipartUpload).told.how,
        How::Unknown
    );
    assert_clean(&world, DESTINATION);
}

fn completes(asked: &Asked) -> bool {
    asked.method == "POST" && asked.has("uploadId")
}

#[tokio::test]
async fn a_complete_without_effect_fails_and_its_uploads_are_ended() {
    let world = World::new().await;
    let answer = "<CompleteMultipartUploadResult><ETag>\"0123456789abcdef0123456789abcdef-1\"</ETag>\
                  </CompleteMultipartUploadResult>";
    let bucket = behind(&world, move |asked| match asked {
        _ if completes(asked) => Lie::Instead(200, answer.to_owned()),
        _ => Lie::Truth,
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    let complete = request(&probe, Request::CompleteMultipartUpload);
    assert_eq!(
        (complete.word(), complete.fails()),
        ("no-effect", true),
        "{complete:?}"
    );
    // The parts were seen, although nothing came of them.
    assert_eq!(finding(&probe, "part_copy").verdict(), Verdict::Agrees);
    for name in [
        "copy_conditions",
        "part_conditions",
        "ordered_lists",
        "encoded_uploads",
        "odd_part_sources",
    ] {
        assert_eq!(finding(&probe, name).verdict(), Verdict::Agrees, "{name}");
    }
    assert_eq!(attribute(&probe, Attribute::Tags).copy.how, How::Kept);
    assert_eq!((probe.left.as_slice(), probe.is_good()), (&[][..], false));
    assert_clean(&world, DESTINATION);
}

/// A DELETE of an object, not of an upload.
fn deletes(asked: &Asked) -> bool {
    asked.method == "DELETE" && !asked.has("uploadId")
}

#[tokio::test]
async fn a_delete_without_effect_leaves_what_is_then_named_with_its_command() {
    for versioning in [false, true] {
        let options = BucketOptions {
            versioning,
            ..BucketOptions::default()
        };
        let world = World::with(SandboxOptions::default(), options).await;
        let bucket = behind(&world, |asked| match asked {
            _ if deletes(asked) => Lie::Instead(204, String::new()),
            _ => Lie::Truth,
        })
        .await;
        let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
        let store = world.sandbox.store();
        let told: BTreeSet<_> = probe
            .left
            .iter()
            .map(|left| (left.key.clone(), left.id.clone()))
            .collect();
        let id = |version| match version {
            VersionInfo::Object(object) => object.version_id,
            VersionInfo::DeleteMarker(id) => id,
        };
        let versions = |key: String| {
            let all = store
                .versions(DESTINATION, &key)
                .into_iter()
                .map(id)
                .collect::<Vec<_>>();
            all.into_iter().map(move |id| (key.clone(), id))
        };
        let there: BTreeSet<_> = store
            .keys(DESTINATION)
            .into_iter()
            .flat_map(versions)
            .collect();
        assert_eq!(told, there);
        assert!(told.len() > 20 && !probe.is_good() && store.open_uploads(DESTINATION).is_empty());
        for left in &probe.left {
            let kind = if versioning {
                Thing::Version
            } else {
                Thing::Object
            };
            assert_eq!((left.what, left.is_certain), (kind, true));
            assert!(
                left.command
                    .starts_with("aws s3api delete-object --bucket destination --key ")
            );
            assert_eq!(
                left.command.contains("--version-id"),
                versioning,
                "{}",
                left.command
            );
        }
        assert_eq!(request(&probe, Request::DeleteObject).word(), "no-effect");
        let others = odd(&probe);
        assert_eq!(others, ["DeleteObject", "lock of objects"]);
    }
}

#[tokio::test]
async fn an_abort_without_effect_leaves_uploads_that_are_named_with_their_command() {
    let world = World::new().await;
    let bucket = behind(&world, |asked| {
        if asked.aborts() {
            Lie::Instead(204, String::new())
        } else {
            Lie::Truth
        }
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    let told: BTreeSet<_> = probe
        .left
        .iter()
        .filter_map(|left| left.id.clone())
        .collect();
    let open = world.sandbox.store().open_uploads(DESTINATION);
    assert_eq!(
        told,
        open.into_iter().map(|upload| upload.upload_id).collect()
    );
    for left in &probe.left {
        assert!(left.what == Thing::Upload && left.is_certain, "{left:?}");
        assert!(
            left.command.starts_with("s3haul uploads abort "),
            "{}",
            left.command
        );
        assert!(
            left.command.contains("s3://destination/.s3haul-probe-"),
            "{}",
            left.command
        );
    }
    assert!(!told.is_empty() && !probe.is_good());
}

#[tokio::test]
async fn a_probe_tells_what_it_may_not_remove() {
    let world = World::new().await;
    world
        .sandbox
        .store()
        .deny(DESTINATION, Operation::DeleteObject, "");
    let probe = probed(&world).await;
    let source = probe
        .left
        .iter()
        .find(|left| left.key.contains("source"))
        .unwrap();
    assert!(
        !probe.is_good() && source.reason.contains("AccessDenied"),
        "{source:?}"
    );
    assert_eq!(
        request(&probe, Request::DeleteObject).told.how,
        How::Refused
    );
    assert!(world.sandbox.store().open_uploads(DESTINATION).is_empty());
}

/// Answers that are lost, after an effect that nobody is told of.
#[tokio::test]
async fn what_was_made_without_an_answer_is_found_and_removed() {
    for operation in [
        Operation::PutObject,
        Operation::CopyObject,
        Operation::CreateMultipartUpload,
    ] {
        let options = BucketOptions {
            versioning: true,
            ..BucketOptions::default()
        };
        let world = World::with(SandboxOptions::default(), options).await;
        let lost = Fault::on(operation)
            .when(s3haul::sandbox::When::Every(3))
            .then(Effect::ResetAfter);
        world.sandbox.faults().add(lost);
        let probe = probed(&world).await;
        assert_eq!(probe.left, [], "{operation:?}");
        assert_clean(&world, DESTINATION);
        let store = world.sandbox.store();
        assert!(
            store
                .versions(DESTINATION, &format!("{}object", probe.prefix))
                .is_empty(),
            "{operation:?}"
        );
    }
}

#[tokio::test]
async fn a_probe_that_is_stopped_cleans_up() {
    for operation in [
        Operation::CreateMultipartUpload,
        Operation::CopyObject,
        Operation::ListObjectsV2,
    ] {
        let world = World::new().await;
        let bucket = world.bucket(DESTINATION).await;
        let stop = CancellationToken::new();
        let token = stop.clone();
        let hook = Effect::hook(move |_| token.cancel());
        world
            .sandbox
            .faults()
            .add(Fault::on(operation).nth(2).then(hook));
        let needs = Needs::default();
        let probe = probe::probe(&bucket, &probe::scratch_prefix(), &needs, &stop)
            .await
            .unwrap();
        assert!(probe.stopped && !probe.is_good(), "{operation:?}");
        assert_eq!(probe.left, [], "{operation:?}");
        assert_clean(&world, DESTINATION);
        let sent = world.calls(operation);
        assert!(
            sent <= 3,
            "{sent} requests, and no question is asked after the stop"
        );
    }
}

#[tokio::test]
async fn a_probe_of_an_unknown_server_says_what_may_be_stated_and_that_is_then_relied_on() {
    let mut world = World::new().await;
    world.provider = Provider::Other;
    let probe = probed(&world).await;
    assert!(probe.is_good());
    let statement = probe.statement().unwrap();
    assert!(
        statement.contains("copy_conditions: true") && statement.contains("[copy, put, complete]")
    );
    let more = finding(&probe, "copy_conditions").consequence().unwrap();
    assert!(more.starts_with("until that is stated"), "{more}");
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
    assert!(
        stated.checksums && stated.part_conditions && stated.if_match.copy && stated.ordered_lists
    );
    assert_eq!(stated.if_none_match, OnWrites::ALL);
}

#[tokio::test]
async fn a_probe_stays_out_of_what_is_there() {
    let world = World::new().await;
    let spec = ObjectSpec::default();
    world
        .sandbox
        .store()
        .put_object(DESTINATION, "data/k", Content::pattern(1, 10), &spec);
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
        let failure = probe::probe(&bucket, prefix, &Needs::default(), &stop)
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
    world
        .sandbox
        .store()
        .create_bucket(EXPRESS, BucketOptions::default());
    let probe = try_probe(&world.bucket(EXPRESS).await, &Needs::default())
        .await
        .unwrap();
    for finding in &probe.findings {
        assert_eq!(finding.verdict(), Verdict::Agrees, "{finding:?}");
    }
    assert_eq!(
        (probe.is_good(), probe.left.as_slice()),
        (true, &[][..]),
        "{probe:?}"
    );
    assert_clean(&world, EXPRESS);
}

/// A key of KMS or of the customer hides `ETag`s, whatever the server makes of them elsewhere.
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
    let world = World::with(SandboxOptions::default(), options).await;
    let probe = probed(&world).await;
    assert_eq!(finding(&probe, "content_etags").verdict(), Verdict::Moot);
    assert_eq!(
        (odd(&probe), probe.is_good()),
        (vec!["lock of objects".to_owned()], true)
    );
}
