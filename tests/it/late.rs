//! A session that ends before an object is finished: the next one remembers attributes that were
//! left out, or are still to be set.

use std::time::{Duration, SystemTime};

use rstest::rstest;
use s3haul::execute::receipt::Ending;
use s3haul::journal::Intent;
use s3haul::manifest::job::{Compare, Job, Policy, Preset, Provider, Transfer, When};
use s3haul::plan::decide::{Basis, Reason, SetAttributes, Skip};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::MIB;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::liar::Liar;
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all, in_parts_of, restate};

const PART: u64 = 8 * MIB;
const PARTS: u64 = 40;
const NO_TAGS: &str = "tags not set: s3:PutObjectTagging missing on destination";

async fn slow_world() -> World {
    let mut world = World::with_copy_latency(Duration::from_millis(10)).await;
    world.ceiling = 8;
    world
}

fn transfer() -> Transfer {
    in_parts_of(PART, copy_all())
}

/// Runs a session that is stopped at the tenth part.
async fn stopped(world: &mut World, job: &Job, journal: &TempDir) {
    let stop = world.stop.clone();
    let fault = Fault::on(Operation::UploadPartCopy)
        .nth(10)
        .then(Effect::hook(move |_| stop.cancel()));
    world.add_fault(fault);
    let run = world.session(journal.path(), job, Intent::Resume).await;
    assert!(run.outcome.stopped, "{:?}", run.outcome);
    world.stop = CancellationToken::new();
    world.sandbox.calls().clear();
}

fn losses(run: &Run) -> Vec<String> {
    run.receipts[0]
        .losses
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[tokio::test]
async fn an_upload_without_a_refused_attribute_is_resumed() {
    let mut world = slow_world().await;
    world.put_with("large", PART * PARTS, &ObjectSpec::default().tag("a", "b"));
    world.deny(DESTINATION, Operation::PutObjectTagging, "");
    let (job, journal) = (world.job(transfer()), TempDir::new().unwrap());
    stopped(&mut world, &job, &journal).await;
    let held = world.open_uploads(DESTINATION)[0].parts.len() as u64;
    let run = world.session(journal.path(), &job, Intent::Resume).await;
    assert!(
        matches!(run.receipts[0].ending, Ending::Done { .. }),
        "{:?}",
        run.receipts
    );
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS - held);
    assert_eq!(
        losses(&run),
        [NO_TAGS],
        "told although this session was refused nothing"
    );
}

#[tokio::test]
async fn an_upload_without_an_attribute_that_is_now_required_is_created_anew() {
    let mut world = slow_world().await;
    world.put_with("large", PART * PARTS, &ObjectSpec::default().tag("a", "b"));
    world.deny(DESTINATION, Operation::PutObjectTagging, "");
    let (mut job, journal) = (world.job(transfer()), TempDir::new().unwrap());
    stopped(&mut world, &job, &journal).await;
    world.sandbox.store().allow_all();
    job.transfers[0].preserve.tags = Policy::Require;
    let run = world
        .session(journal.path(), &job, Intent::ResumeAnyway)
        .await;
    assert_eq!(losses(&run), [""; 0]);
    assert_eq!(world.calls(Operation::UploadPartCopy), PARTS);
    world.assert_equal("large", "large");
    world.assert_no_upload_is_left();
}

#[tokio::test]
async fn what_a_session_learns_about_a_bucket_does_not_hide_what_an_older_upload_has() {
    let mut world = slow_world().await;
    world.put_with("large", PART * PARTS, &ObjectSpec::default().tag("a", "b"));
    let (job, journal) = (world.job(transfer()), TempDir::new().unwrap());
    stopped(&mut world, &job, &journal).await;
    // From now on tags may not be set; the upload has them already. The other object is asked for
    // first.
    world.deny(DESTINATION, Operation::PutObjectTagging, "");
    let run = world.session(journal.path(), &job, Intent::Resume).await;
    assert_eq!(losses(&run), [""; 0], "{:?}", run.receipts);
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
    world.assert_equal("large", "large");
}

/// Describes an object whose tags are too long for headers.
fn long_tags() -> ObjectSpec {
    (0..10).fold(ObjectSpec::default(), |spec, i| {
        spec.tag(format!("k{i}"), "ü".repeat(256))
    })
}

fn with_late_tags(when: When) -> Transfer {
    let mut transfer = Transfer { when, ..transfer() };
    // CopyObject copies the source's tags without headers. With one more, they are too long for
    // headers.
    transfer.set.tags.insert("k0".into(), "v".into());
    transfer
}

/// Runs a session that is killed after it has copied an object and before it sets the tags.
async fn killed_before_the_tags(world: &World, job: &Job, journal: &TempDir, key: &str) {
    let stall = Fault::on(Operation::PutObjectTagging)
        .nth(1)
        .then(Effect::StallBefore(None));
    world.add_fault(stall);
    let killed = async {
        while world.calls(Operation::PutObjectTagging) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        run = world.session(journal.path(), job, Intent::Resume) => panic!("{:?}", run.outcome),
        () = killed => {}
    }
    let copy = world.object(DESTINATION, key).unwrap();
    assert!(copy.attributes.tags.is_empty(), "{key}");
}

#[rstest]
#[case::large_and_changed("large", PART * PARTS, When::Changed)]
#[case::small_and_changed("small", 10, When::Changed)]
#[case::large_and_missing("large", PART * PARTS, When::Missing)]
#[case::small_and_missing("small", 10, When::Missing)]
#[tokio::test]
async fn tags_that_are_set_late_are_set_by_the_next_session(
    #[case] key: &str,
    #[case] size: u64,
    #[case] when: When,
) {
    let world = slow_world().await;
    world.put_with(key, size, &long_tags());
    // S3's times are in whole seconds, and a copy of the same second counts as older.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (job, journal) = (world.job(with_late_tags(when)), TempDir::new().unwrap());
    killed_before_the_tags(&world, &job, &journal, key).await;
    let run = world.session(journal.path(), &job, Intent::Resume).await;
    assert!(
        matches!(run.receipts[0].ending, Ending::Done { .. }),
        "{:?}",
        run.receipts
    );
    let copy = world.object(DESTINATION, key).unwrap();
    assert_eq!(copy.attributes.tags.len(), 10, "{key}");
    assert_eq!(
        copy.attributes.tags.get("k0").map(String::as_str),
        Some("v"),
        "{key}"
    );
    // An object with its tags is not copied again.
    world.sandbox.calls().clear();
    let again = world.session(journal.path(), &job, Intent::Resume).await;
    assert_eq!(
        (again.outcome.done_objects, again.outcome.skipped_objects),
        (0, 1),
        "{key}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_no_head_counts_are_set_by_the_next_session() {
    let world = slow_world().await;
    world.put_with("large", PART * PARTS, &long_tags());
    // S3's times are in whole seconds, and a copy of the same second counts as older.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let liar = Liar::uncounted(&world).await;
    let job = liar.job(&world, transfer(), Provider::Other);
    let journal = TempDir::new().unwrap();
    killed_before_the_tags(&world, &job, &journal, "large").await;
    let run = world.session(journal.path(), &job, Intent::Resume).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    let copy = world.object(DESTINATION, "large").unwrap();
    assert_eq!(copy.attributes.tags.len(), 10, "{:?}", run.receipts);
}

#[tokio::test]
async fn tags_are_set_late_on_a_copy_whose_answer_was_lost() {
    let world = slow_world().await;
    world.put("small", 10);
    let lost = Effect::ErrorAfterEffect(500, "InternalError");
    let fault = Fault::on(Operation::CopyObject).nth(1).then(lost);
    world.add_fault(fault);
    // With `content-only`, the list is enough.
    let mut transfer = copy_all();
    transfer.preserve = Preset::ContentOnly.into();
    for i in 0..10 {
        let (key, value) = (format!("k{i}"), "ü".repeat(256));
        transfer.set.tags.insert(key, value);
    }
    let run = world.run(transfer).await;
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    assert_eq!(world.calls(Operation::CopyObject), 2);
    let copy = world.object(DESTINATION, "small").unwrap();
    assert_eq!(copy.attributes.tags.len(), 10);
}

#[rstest]
#[case::other_bytes(ObjectSpec::default(), 2)]
#[case::bytes_of_which_nothing_tells(ObjectSpec::default().without_checksum(), 1)]
#[tokio::test]
async fn what_may_be_somebody_elses_stays_where_only_the_missing_is_copied(
    #[case] spec: ObjectSpec,
    #[case] seed: u64,
) {
    let world = slow_world().await;
    let put = |bucket: &str, seed: u64, spec: &ObjectSpec| {
        world.put_object(bucket, "large", Content::pattern(seed, PART * PARTS), spec);
    };
    put(SOURCE, 1, &long_tags());
    let (job, journal) = (
        world.job(with_late_tags(When::Missing)),
        TempDir::new().unwrap(),
    );
    killed_before_the_tags(&world, &job, &journal, "large").await;
    put(DESTINATION, seed, &spec.part_sizes([PART / 2 * 3]));
    let theirs = world.object(DESTINATION, "large").unwrap();
    world.sandbox.calls().clear();
    let run = world.session(journal.path(), &job, Intent::Resume).await;
    assert_eq!(
        run.receipts[0].ending,
        Ending::Skipped {
            reason: Skip::Present
        }
    );
    assert_eq!(
        world.object(DESTINATION, "large").unwrap().etag,
        theirs.etag
    );
    assert_eq!(world.calls(Operation::CreateMultipartUpload), 0);
}

fn writes(world: &World) -> u64 {
    world.calls(Operation::CopyObject) + world.calls(Operation::CreateMultipartUpload)
}

/// Returns a job that compares checksums and sets tags in a second request.
fn by_checksum(mut job: Job) -> Job {
    job.transfers[0].compare = Compare::Checksum;
    restate(&mut job, |endpoint| {
        endpoint.capabilities.tag_headers = Some(false);
    });
    job
}

/// Puts a tagged source, and a copy of it that is a day younger and has no tags.
fn put_untagged_copy(world: &World) {
    let dated = |hours| {
        let time = SystemTime::now() - Duration::from_hours(hours);
        ObjectSpec::default().last_modified(time)
    };
    let here = dated(48).part_sizes([PART]).tag("a", "b");
    world.put_with("k", PART + 1, &here);
    world.put_object(DESTINATION, "k", Content::pattern(1, PART + 1), &dated(24));
}

/// S3 shows the number of tags only if there are any.
#[tokio::test]
async fn a_copy_that_lacks_its_late_tags_gets_them() {
    let world = World::new().await;
    put_untagged_copy(&world);
    let job = by_checksum(world.job(copy_all()));
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        run.outcome.reasons,
        [(Reason::LacksTags, 1)].into(),
        "{:?}",
        run.receipts
    );
    assert_eq!(writes(&world), 0, "only the tags are set");
    let tags = || {
        world
            .object(DESTINATION, "k")
            .unwrap()
            .attributes
            .tags
            .len()
    };
    assert_eq!(tags(), 1);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 0, "{:?}", run.receipts);
}

/// HEADs that show no number of tags, and tags that may not be read.
#[rstest]
#[case::at_the_destination(DESTINATION)]
#[case::at_the_source(SOURCE)]
#[tokio::test(flavor = "multi_thread")]
async fn late_tags_that_may_not_be_read_are_reported_as_not_compared(#[case] bucket: &str) {
    let world = World::new().await;
    put_untagged_copy(&world);
    let liar = Liar::uncounted(&world).await;
    world.deny(bucket, Operation::GetObjectTagging, "");
    let job = by_checksum(liar.job(&world, copy_all(), Provider::Other));
    let run = world.try_run_job(&job).await.unwrap();
    let reason = Skip::Equal {
        equal_by: Basis::Checksum,
        set_attributes: SetAttributes::TagsNotCompared,
    };
    assert_eq!(run.receipts[0].ending, Ending::Skipped { reason });
    assert_eq!(run.outcome.unchanged.tags_not_compared, 1);
    let summary = s3haul::report::summary(&run.outcome);
    assert!(
        summary.contains("1 unchanged object was not compared by tags"),
        "{summary}"
    );
}

/// A server whose HEADs show no number of tags.
#[tokio::test(flavor = "multi_thread")]
async fn late_tags_are_found_missing_although_no_head_counts_tags() {
    let world = World::new().await;
    put_untagged_copy(&world);
    let liar = Liar::uncounted(&world).await;
    let job = by_checksum(liar.job(&world, copy_all(), Provider::Other));
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
    let copy = world.object(DESTINATION, "k").unwrap();
    assert_eq!((copy.attributes.tags.len(), writes(&world)), (1, 0));
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(run.outcome.done_objects, 0, "{:?}", run.receipts);
}

#[tokio::test]
async fn late_tags_that_may_not_be_set_cost_no_copy_in_each_run() {
    let world = World::new().await;
    put_untagged_copy(&world);
    world.deny(DESTINATION, Operation::PutObjectTagging, "");
    let mut job = by_checksum(world.job(copy_all()));
    for policy in [Policy::Try, Policy::Try, Policy::Require] {
        job.transfers[0].preserve.tags = policy;
        let run = world.try_run_job(&job).await.unwrap();
        if policy == Policy::Try {
            assert_eq!(run.outcome.done_objects, 1, "{:?}", run.receipts);
            assert_eq!(losses(&run), [NO_TAGS]);
        } else {
            assert_eq!(run.error(), "denied");
        }
        assert_eq!(writes(&world), 0);
    }
}

/// Another copy sets the other attributes too.
#[tokio::test]
async fn an_object_that_lacks_more_than_its_late_tags_is_copied_again() {
    let world = World::new().await;
    put_untagged_copy(&world);
    let mut job = by_checksum(world.job(copy_all()));
    job.transfers[0].set.cache_control = Some("no-store".to_owned());
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        run.outcome.reasons,
        [(Reason::AttributesDiffer, 1)].into(),
        "{:?}",
        run.receipts
    );
    let copy = world.object(DESTINATION, "k").unwrap();
    assert_eq!((copy.attributes.tags.len(), writes(&world)), (1, 1));
}
