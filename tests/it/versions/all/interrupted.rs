//! Histories whose run is stopped, or whose answers are lost: no version is missing or duplicated.

use rstest::rstest;
use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::OnMismatch;
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};

use super::super::{all_versions, endings, ids, kinds, there, write};
use crate::world::{DESTINATION, SOURCE, World};

#[rstest]
#[case(Operation::CopyObject, 2, "ab")]
#[case(Operation::DeleteObject, 1, "ab")]
#[tokio::test]
async fn an_interrupted_key_resumes_where_it_was(
    #[case] operation: Operation,
    #[case] done: u64,
    #[case] so_far: &str,
) {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "abMcM");
    write(&world, SOURCE, "other", "xMy");
    let nth = if operation == Operation::CopyObject {
        done + 1
    } else {
        done
    };
    let fault = Fault::on(operation)
        .key("k")
        .nth(nth)
        .then(Effect::Error(400, "InvalidRequest"));
    world.add_fault(fault);
    let run = world.run(all_versions()).await;
    let so_far = if operation == Operation::CopyObject {
        "abM"
    } else {
        so_far
    };
    assert_eq!(
        (there(&world, "k"), there(&world, "other")),
        (so_far.to_owned(), "xMy".to_owned())
    );
    let left = 5 - so_far.len();
    assert_eq!(
        kinds(&run),
        vec!["invalid"; left],
        "what follows cannot be put in order any more"
    );
    let Ending::Failed { error } = &endings(&run, "k").last().unwrap().ending else {
        panic!()
    };
    assert!(
        error
            .message
            .contains("an older version of the key was not copied"),
        "{error:?}"
    );
    let run = world.run(all_versions()).await;
    assert_eq!(there(&world, "k"), "abMcM", "{:?}", run.receipts);
    assert_eq!(run.outcome.failed_objects, 0);
}

/// The copy whose answer was lost has made a version. Sending it again would make another one.
#[rstest]
#[tokio::test]
async fn a_lost_answer_makes_no_second_version(
    #[values(Operation::CopyObject, Operation::DeleteObject)] operation: Operation,
    #[values(1, 2)] nth: u64,
    #[values(
        Effect::ErrorAfterEffect(500, "InternalError"),
        Effect::ResetAfter,
        Effect::EmptyBody,
        Effect::Error(500, "InternalError"),
        Effect::SlowDown
    )]
    effect: Effect,
) {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "abMcM");
    world.add_fault(Fault::on(operation).nth(nth).then(effect));
    let run = world.run(all_versions()).await;
    assert_eq!(there(&world, "k"), "abMcM", "{:?}", run.receipts);
    assert_eq!(
        (run.outcome.done_objects, run.outcome.delete_markers),
        (3, 2)
    );
    let weak = ["size", "delete-marker"]
        .iter()
        .any(|proof| run.outcome.proofs.contains_key(*proof));
    assert!(
        !weak,
        "what was found is proven like what was made: {:?}",
        run.outcome.proofs
    );
    let made: Vec<_> = endings(&run, "k")
        .iter()
        .map(|receipt| match &receipt.ending {
            Ending::Done {
                destination_version,
                ..
            } => destination_version.clone().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(made, ids(&world, DESTINATION, "k"));
}

/// After a lost answer, the newest version may be another writer's. It is never proven, and never
/// removed.
#[tokio::test]
async fn the_version_of_another_writer_is_not_taken_for_the_copy() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "ab");
    let copy = Fault::on(Operation::CopyObject).nth(1);
    world.add_fault(copy.then(Effect::Error(500, "InternalError")));
    let intrusion = Effect::hook(|store| {
        let spec = ObjectSpec::default().metadata("name", 'x');
        store.put_object(DESTINATION, "k", Content::bytes("x"), &spec);
    });
    // The lists of the plan have no prefix.
    let look = Fault::on(Operation::ListObjectVersions).key("k").nth(1);
    world.add_fault(look.then(intrusion));
    let mut transfer = all_versions();
    transfer.proof.on_mismatch = OnMismatch::Remove;
    let run = world.run(transfer).await;
    assert_eq!(world.sandbox.faults().fired(), 2);
    assert_eq!(there(&world, "k"), "x", "{:?}", run.receipts);
    assert_eq!(kinds(&run)[0], "not-equal", "{:?}", run.receipts);
    let Ending::Failed { error } = &endings(&run, "k")[0].ending else {
        panic!()
    };
    assert!(
        error.message.contains("it may be somebody else's"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_stop_leaves_a_beginning_of_the_history() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "abcdef");
    let stop = world.stop.clone();
    let stopping = Effect::hook(move |_| stop.cancel());
    world.add_fault(Fault::on(Operation::CopyObject).nth(3).then(stopping));
    let run = world.run(all_versions()).await;
    let done = there(&world, "k");
    assert!("abcdef".starts_with(&done) && done.len() < 6, "{done}");
    let stopped = run.outcome.stopped_objects + run.outcome.done_objects;
    assert_eq!(
        (stopped, run.receipts.len()),
        (6, 6),
        "every version is on record: {:?}",
        run.receipts
    );
}
