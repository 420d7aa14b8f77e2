//! Tags that s3haul may not read or set.

use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::{Attribute, Policy};
use s3haul::report::summary;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::size::MIB;

use super::{BOTH, assert_failed, assert_lost, put_both, with};
use crate::world::{DESTINATION, SOURCE, World, copy_all};

#[tokio::test]
async fn tags_that_may_not_be_read() {
    for (policy, denied) in [(Policy::Try, None), (Policy::Require, Some("denied"))] {
        let world = World::new().await;
        put_both(
            &world,
            &ObjectSpec::default().tag("a", "b").metadata("m", "n"),
        );
        world.deny(SOURCE, Operation::GetObjectTagging, "");
        let run = world.run(with(Attribute::Tags, policy)).await;
        if let Some(kind) = denied {
            assert_failed(&world, &run, kind);
            continue;
        }
        assert_lost(
            &world,
            &run,
            "tags not readable: s3:GetObjectTagging missing on source",
        );
        for (key, _) in BOTH {
            let copy = world.object(DESTINATION, key).unwrap();
            assert_eq!(
                (copy.attributes.tags.len(), copy.attributes.metadata.len()),
                (0, 1),
                "{key}"
            );
        }
    }
}

#[tokio::test]
async fn a_denial_is_found_out_once() {
    let world = World::new().await;
    for index in 0..50 {
        let spec = ObjectSpec::default().tag("a", "b");
        world.put_object(
            SOURCE,
            &format!("k{index:02}"),
            Content::pattern(index, 10),
            &spec,
        );
    }
    world.deny(SOURCE, Operation::GetObjectTagging, "");
    let mut job = world.job(copy_all());
    // One request at a time, so that the second object knows what the first one has learned.
    job.limits.in_flight = Some(1);
    let run = world.try_run_job(&job).await.unwrap();
    assert_eq!(
        (run.outcome.done_objects, run.outcome.objects_with_losses),
        (50, 50)
    );
    assert_eq!(world.calls(Operation::GetObjectTagging), 1);
    assert_eq!(
        world.calls(Operation::CopyObject),
        51,
        "one of them to find out"
    );
    let text = summary(&run.outcome);
    let line = "tags not readable on 50 objects: s3:GetObjectTagging missing on source\n";
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn tags_that_may_not_be_set() {
    for (policy, denied) in [(Policy::Try, None), (Policy::Require, Some("denied"))] {
        let world = World::new().await;
        put_both(&world, &ObjectSpec::default().tag("a", "b"));
        world.deny(DESTINATION, Operation::PutObjectTagging, "");
        let run = world.run(with(Attribute::Tags, policy)).await;
        match denied {
            Some(kind) => assert_failed(&world, &run, kind),
            None => assert_lost(
                &world,
                &run,
                "tags not set: s3:PutObjectTagging missing on destination",
            ),
        }
    }
}

/// Long tags are set after the copy, so the object already exists when they are denied.
#[tokio::test]
async fn long_tags_that_may_not_be_set() {
    let long = (0..10).fold(ObjectSpec::default(), |spec, i| {
        spec.tag(format!("k{i}"), "ü".repeat(256))
    });
    for policy in [Policy::Try, Policy::Require] {
        let world = World::new().await;
        world.put_with("large", 300 * MIB, &long);
        let denied =
            Fault::on(Operation::PutObjectTagging).then(Effect::Error(403, "AccessDenied"));
        world.add_fault(denied);
        let run = world.run(with(Attribute::Tags, policy)).await;
        assert!(world.object(DESTINATION, "large").is_some());
        match &run.receipts[0].ending {
            Ending::Done { .. } => {
                let losses = &run.receipts[0].losses;
                assert_eq!(policy, Policy::Try);
                assert_eq!(
                    losses[0].to_string(),
                    "tags not set: s3:PutObjectTagging missing on destination"
                );
            }
            Ending::Failed { error } => {
                assert_eq!(policy, Policy::Require);
                assert!(
                    error
                        .message
                        .ends_with("(the object is there, without its tags)"),
                    "{error:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Tags that the job sets are required: unlike tags of the source, they cannot become a loss.
#[tokio::test]
async fn tags_that_the_job_sets_are_no_loss() {
    let world = World::new().await;
    put_both(&world, &ObjectSpec::default());
    world.deny(DESTINATION, Operation::PutObjectTagging, "");
    let mut transfer = copy_all();
    transfer.set.tags.insert("run".to_owned(), "1".to_owned());
    let run = world.run(transfer).await;
    assert_failed(&world, &run, "denied");
}
