//! Messages in the words that the user typed: flags for commands without a manifest, the permission
//! that is missing, and the flag of another tool.

use rstest::rstest;
use s3haul::sandbox::{Effect, Fault, Operation};

use crate::world::program::{at, run};
use crate::world::{DESTINATION, World};

const COPY: [&str; 3] = ["copy", "s3://source/", "s3://destination/"];

#[rstest]
#[case::joined_tags(
    &["--tag", "a=b,c=d"],
    "invalid value 'a=b,c=d' for '--tag <KEY=VALUE>': write --tag KEY=VALUE once for each tag"
)]
#[case::a_bad_tag(&["--tag", "good=x", "--tag", "a=x?"], "--tag a: S3 does not accept")]
#[case::expires(&["--expires", "2030-01-01"], "there is no flag --expires: s3haul keeps")]
#[case::redirect(&["--website-redirect", "/x"], "there is no flag --website-redirect: s3haul keeps")]
#[case::pages(&["--no-paginate"], "there is no flag --no-paginate: s3haul always reads")]
#[case::case_conflict(&["--case-conflict", "skip"], "there is no flag --case-conflict: keys are")]
#[case::checksum(&["--checksum-algorithm", "SHA256"], "there is no flag --checksum-algorithm: ")]
#[case::loopback(
    &["--endpoint-url", "127.0.0.1:19311"],
    "write http://127.0.0.1:19311, or https://127.0.0.1:19311 if the server speaks TLS"
)]
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_flag_is_answered_in_its_own_words(#[case] flags: &[&str], #[case] told: &str) {
    let world = World::new().await;
    let (exit, _, stderr) = run(at(&world), &[&COPY, flags].concat()).await;
    assert_eq!(exit, 2, "{stderr}");
    assert!(stderr.contains(told), "{stderr}");
    assert!(!stderr.contains("similar argument"), "{stderr}");
    assert_eq!(world.sandbox.calls().total(), 0);
}

#[rstest]
#[case::misspelled("--metdata", true)]
#[case::another("--max-frobnication", false)]
#[tokio::test(flavor = "multi_thread")]
async fn only_a_similar_flag_is_suggested(#[case] flag: &str, #[case] is_suggested: bool) {
    let world = World::new().await;
    let (exit, _, stderr) = run(at(&world), &[&COPY[..], &[flag, "x"]].concat()).await;
    assert_eq!(exit, 2, "{stderr}");
    assert_eq!(
        stderr.contains("similar argument"),
        is_suggested,
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn joined_metadata_is_written_with_a_warning() {
    let world = World::new().await;
    world.put("a", 10);
    let words = [
        &COPY[..],
        &["--metadata", "team=x,foo=bar", "--metadata", "list=a,b"],
    ]
    .concat();
    let (exit, _, stderr) = run(at(&world), &words).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stderr.contains("warning: --metadata team: the value is the whole text"),
        "{stderr}"
    );
    assert!(!stderr.contains("--metadata list"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_onto_itself_names_the_flags_that_change_something() {
    let world = World::new().await;
    let (exit, _, stderr) = run(at(&world), &["copy", "s3://source/", "s3://source/"]).await;
    assert_eq!(exit, 2, "{stderr}");
    let told = "name what to change: --storage-class, --metadata, --sse, or --acl";
    assert!(stderr.contains(told), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_names_the_flag_that_shortens_it() {
    let world = World::new().await;
    let silent = Fault::on(Operation::ListObjectsV2).then(Effect::Error(503, "ServiceUnavailable"));
    world.add_fault(silent);
    let words = [&COPY[..], &["--patience", "3s"]].concat();
    let (_, _, stderr) = run(at(&world), &words).await;
    assert!(!stderr.contains("`patience`"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_list_names_the_permission_and_the_way_without() {
    let world = World::new().await;
    world.put("a", 10);
    world.deny(DESTINATION, Operation::ListObjectsV2, "");
    let (exit, _, stderr) = run(at(&world), &COPY).await;
    assert_ne!(exit, 0, "{stderr}");
    let told = "grant s3:ListBucket on the bucket; a destination is not listed with --when always";
    assert!(stderr.contains(told), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_are_alike_are_shown_three_times() {
    let world = World::new().await;
    for number in 0..12 {
        world.put(&format!("k{number}"), 10);
    }
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::Error(403, "AccessDenied")));
    let (exit, _, stderr) = run(at(&world), &COPY).await;
    assert_eq!(exit, 1, "{stderr}");
    assert_eq!(
        stderr.matches("failed: s3://source/k").count(),
        3,
        "{stderr}"
    );
    assert!(stderr.contains("more objects have failed"), "{stderr}");
}
