//! Permission to read tags that is granted during a run is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::manifest::job::Policy;
use s3haul::sandbox::Operation;
use tokio::time::sleep;

use super::{job_in_order, place, questions, tagged};
use crate::liar::{Answer, Asked, Liar, Lie};
use crate::world::{DESTINATION, SOURCE, World};

const OBJECTS: u64 = 400;

#[rstest]
#[case::of_the_source(SOURCE, true)]
#[case::of_the_source_never(SOURCE, false)]
#[case::of_the_destination(DESTINATION, true)]
#[case::of_the_destination_never(DESTINATION, false)]
#[tokio::test(flavor = "multi_thread")]
async fn tags_that_may_be_read_at_last_are_compared(
    #[case] bucket: &'static str,
    #[case] is_granted: bool,
) {
    let mut world = World::new().await;
    world.retry.questions = (Duration::from_millis(20), Duration::from_secs(2));
    for number in 0..OBJECTS {
        world.put_with(&format!("k{number:04}"), 9, &tagged());
    }
    let granted = Arc::new(AtomicBool::new(false));
    let may_read = Arc::clone(&granted);
    let liar = Liar::lying(&world, move |asked: &Asked| match asked.method.as_str() {
        "GET"
            if asked.has("tagging")
                && place(asked).0 == bucket
                && !may_read.load(Ordering::Relaxed) =>
        {
            Lie::error(403, "AccessDenied")
        }
        "HEAD" => Lie::Changed(Box::new(|answer: Answer| {
            answer.without("x-amz-tagging-count")
        })),
        _ => Lie::Truth,
    })
    .await;
    let mut job = job_in_order(&world, &liar, Policy::Try, Provider::Other);
    job.limits.in_flight = Some(4);
    let grant = async {
        while world.calls(Operation::CopyObject) < OBJECTS / 8 {
            sleep(Duration::from_millis(1)).await;
        }
        granted.store(is_granted, Ordering::Relaxed);
        questions(&liar, bucket)
    };
    let (run, before) = tokio::join!(world.try_run_job(&job), grant);
    let run = run.unwrap();
    assert_eq!(run.outcome.done_objects, OBJECTS, "{:?}", run.receipts);
    let asked = questions(&liar, bucket);
    assert!(asked > before, "nobody asks again after {before} questions");
    let last = run.receipts.last().unwrap();
    if is_granted {
        assert_eq!(last.notes, Vec::<String>::new());
    } else if bucket == DESTINATION {
        let note = "tags not compared: s3:GetObjectTagging missing on destination";
        assert_eq!(last.notes, [note]);
        assert!(asked < 40, "{asked} questions for {OBJECTS} objects");
    } else {
        assert!(asked < 40, "{asked} questions for {OBJECTS} objects");
    }
}
