//! A right to read tags that is granted in mid-run is used.

use std::time::Duration;

use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::manifest::job::Policy;
use s3haul::sandbox::Operation;
use tokio::time::sleep;

use super::{job, put, tagged, uncounted};
use crate::world::{DESTINATION, SOURCE, World};

const OBJECTS: u64 = 400;

#[rstest]
#[case::of_the_source(SOURCE)]
#[case::of_the_copy(DESTINATION)]
#[tokio::test(flavor = "multi_thread")]
async fn tags_that_may_be_read_at_last_are_compared(#[case] bucket: &str) {
    let mut world = World::new().await;
    world.retry.questions = (Duration::from_millis(20), Duration::from_secs(2));
    for number in 0..OBJECTS {
        put(&world, &format!("k{number:04}"), 9, &tagged());
    }
    let store = world.sandbox.store().clone();
    store.deny(bucket, Operation::GetObjectTagging, "");
    let liar = uncounted(&world).await;
    let mut job = job(&world, &liar, Policy::Try, Provider::Other);
    job.limits.in_flight = Some(4);
    let grant = async {
        while world.calls(Operation::CopyObject) < OBJECTS / 8 {
            sleep(Duration::from_millis(1)).await;
        }
        store.allow_all();
    };
    let (run, ()) = tokio::join!(world.try_run_job(&job), grant);
    let run = run.unwrap();
    assert_eq!(run.outcome.done_objects, OBJECTS, "{:?}", run.receipts);
    let note = format!("tags not compared: s3:GetObjectTagging missing on {bucket}");
    let noted = run
        .receipts
        .iter()
        .filter(|done| done.notes == [note.as_str()]);
    let noted = noted.count() as u64;
    assert!((1..OBJECTS).contains(&noted), "{noted} without a look");
    let last = run.receipts.last().unwrap();
    assert_eq!(last.notes, Vec::<String>::new());
}
