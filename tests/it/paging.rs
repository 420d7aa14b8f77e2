//! Lists that lie about their end, and answers without required elements.

use std::time::Duration;

use futures::TryStreamExt;
use rstest::rstest;
use s3haul::endpoint::Provider;
use s3haul::execute::receipt::Ending;
use s3haul::location::ObjectKey;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Limits, Transfer, Versions};
use s3haul::multipart::MultipartUpload;
use s3haul::s3::Attributes;
use s3haul::sandbox::{Effect, Fault, Operation};
use tokio_util::sync::CancellationToken;

use crate::liar::{Answer, Asked, Liar};
use crate::world::program::{at, run};
use crate::world::{DESTINATION, Run, SOURCE, World, copy_all};

const KEYS: [&str; 3] = ["a", "b", "c"];

/// Starts a sandbox with three objects, whose list is read as one range.
async fn world_of_one_range() -> World {
    let world = World {
        ceiling: 8,
        ..World::new().await
    };
    world.put_all(KEYS, 100);
    world
}

/// Returns a page of a list of objects: these keys, and `end`.
fn page(keys: &[&str], end: &str) -> Answer {
    let line = |key: &&str| {
        format!(
            "<Contents><Key>{key}</Key><Size>100</Size>\
             <LastModified>2026-11-22T18:05:01.000Z</LastModified></Contents>"
        )
    };
    let lines: String = keys.iter().map(line).collect();
    Answer::document(format!("<ListBucketResult>{lines}{end}</ListBucketResult>"))
}

fn token(number: usize) -> String {
    format!("<NextContinuationToken>{number}</NextContinuationToken>")
}

/// Returns the number of the requested page.
fn number(asked: &Asked) -> usize {
    asked
        .parameter("continuation-token")
        .map_or(0, |token| token.parse().unwrap())
}

/// Answers lists of the source with these pages, and everything else with the sandbox.
fn lists(
    pages: impl Fn(usize) -> Answer + Send + Sync + 'static,
) -> impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static {
    move |asked: &Asked, answer: Answer| {
        if asked.lists(SOURCE) {
            pages(number(asked))
        } else {
            answer
        }
    }
}

/// Returns the kinds of all failures.
fn failures(run: &Run) -> Vec<&str> {
    let kinds = run
        .receipts
        .iter()
        .filter_map(|receipt| match &receipt.ending {
            Ending::Failed { error } => Some(error.kind),
            _ => None,
        });
    kinds.collect()
}

/// Returns the message of the only failure.
fn message(run: &Run) -> String {
    let mut messages = run
        .receipts
        .iter()
        .filter_map(|receipt| match &receipt.ending {
            Ending::Failed { error } => Some(format!("{}: {}", receipt.destination, error.message)),
            _ => None,
        });
    let first = messages.next().expect("nothing failed");
    assert_eq!(messages.next(), None);
    first
}

fn listed(asked: &Asked) -> bool {
    asked.lists(SOURCE)
}

fn copied(liar: &Liar, key: &str) -> usize {
    liar.count(|asked| asked.method == "PUT" && asked.path.ends_with(&format!("/{key}")))
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_token_means_more_whatever_else_the_page_says(
    #[values(
        "",
        "<IsTruncated>false</IsTruncated>",
        "<IsTruncated>true</IsTruncated>"
    )]
    end: &'static str,
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_of_one_range().await;
    let pages = move |number: usize| {
        let more = (number < 2).then(|| format!("{end}{}", token(number + 1)));
        page(&[KEYS[number]], &more.unwrap_or_default())
    };
    let liar = Liar::before(&world, lists(pages)).await;
    let run = liar.run(&world, copy_all(), provider).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (3, 0)
    );
    assert_eq!(liar.count(listed), 3);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_list_without_a_token_fails_at_once(
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_of_one_range().await;
    let liar = Liar::before(
        &world,
        lists(|_| page(&["a"], "<IsTruncated>true</IsTruncated>")),
    )
    .await;
    let run = liar.run(&world, copy_all(), provider).await;
    assert_eq!((run.error(), run.outcome.done_objects), ("server-fault", 0));
    assert!(
        message(&run).contains("sends no token for the next page"),
        "{}",
        message(&run)
    );
    assert_eq!(
        liar.count(listed),
        1,
        "the same request would get the same answer"
    );
}

#[rstest]
#[case::the_same_page(vec![vec!["a", "b"], vec!["a", "b"]], 1, 2)]
#[case::pages_that_go_round(vec![vec!["a"], vec!["b"], vec!["c"]], 0, 3)]
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_comes_again_ends_and_nothing_is_copied_twice(
    #[case] pages: Vec<Vec<&'static str>>,
    #[case] back_to: usize,
    #[case] copies: u64,
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_of_one_range().await;
    let lie = move |number: usize| {
        let next = if number + 1 < pages.len() {
            number + 1
        } else {
            back_to
        };
        page(
            &pages[number],
            &format!("<IsTruncated>true</IsTruncated>{}", token(next)),
        )
    };
    let liar = Liar::before(&world, lists(lie)).await;
    let run = liar.run(&world, copy_all(), provider).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (copies, 1)
    );
    assert!(KEYS.iter().all(|key| copied(&liar, key) <= 1));
    assert!(liar.count(listed) <= 6, "{}", liar.count(listed));
    let message = message(&run);
    let says = if provider == Provider::Aws && back_to == 0 {
        "not byte order"
    } else {
        "the same page"
    };
    assert!(message.contains(says), "{message}");
}

/// A list in several ranges starts in the middle, which this server ignores.
#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_server_that_begins_where_it_likes_fail_and_nothing_is_copied_twice() {
    let world = World {
        ceiling: 256,
        ..world_of_one_range().await
    };
    let pages = |number: usize| {
        // A list that ends at once gets no second range.
        if number > 0 {
            tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(300)));
        }
        let more = (number < 2).then(|| token(number + 1));
        page(&[KEYS[number]], &more.unwrap_or_default())
    };
    let liar = Liar::before(&world, lists(pages)).await;
    let run = liar.run(&world, copy_all(), Provider::Aws).await;
    assert!(
        liar.count(|asked| asked.parameter("start-after").is_some()) > 0,
        "it was read in ranges"
    );
    assert!(run.outcome.failed_objects > 0);
    assert!(KEYS.iter().all(|key| copied(&liar, key) <= 1));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn empty_pages_without_end_are_no_list(
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_of_one_range().await;
    let lie = |number: usize| {
        let keys = if number == 0 { &KEYS[..1] } else { &[] };
        page(
            keys,
            &format!("<IsTruncated>true</IsTruncated>{}", token(number + 1)),
        )
    };
    let liar = Liar::before(&world, lists(lie)).await;
    let run = liar.run(&world, copy_all(), provider).await;
    assert_eq!((run.error(), run.outcome.done_objects), ("server-fault", 1));
    assert_eq!(liar.count(listed), 102);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn odd_pages_of_honest_servers_are_followed(
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = world_of_one_range().await;
    // An empty page because keys were deleted, a page that a cache repeats once, and an empty last
    // page.
    let asked_again = std::sync::atomic::AtomicU32::new(0);
    let lie = move |number: usize| match number {
        0 => page(&["a"], &token(1)),
        1 => page(&[], &format!("<IsTruncated>true</IsTruncated>{}", token(2))),
        2 if asked_again.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 => {
            page(&["a"], &token(1))
        }
        2 => page(&["b", "c"], &token(3)),
        _ => page(&[], "<IsTruncated>false</IsTruncated>"),
    };
    let liar = Liar::before(&world, lists(lie)).await;
    let run = liar.run(&world, copy_all(), provider).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (3, 0)
    );
    assert_eq!(liar.count(listed), 5);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_nobody_asked_for_are_reported_and_not_copied(
    #[values("aws", "auto")] provider: &'static str,
    #[values(SOURCE, DESTINATION)] side: &'static str,
) {
    let world = World::new().await;
    world.put_all(["p/1", "p/2"], 100);
    let long = format!("p/1{}", "x".repeat(1100));
    let lie = move |asked: &Asked, answer: Answer| match asked.lists(side) {
        true if side == SOURCE => page(&["o/9", "p/1", &long, "p/2", "q/1", "q/2"], ""),
        true => page(&["o/9", &long], ""),
        false => answer,
    };
    let liar = Liar::before(&world, lie).await;
    let mut command = at(&world);
    command.env("AWS_ENDPOINT_URL_S3", &liar.url);
    let arguments = [
        "copy",
        "s3://source/p/",
        "s3://destination/p/",
        "--provider",
        provider,
    ];
    let (exit, stdout, stderr) = run(command, &arguments).await;
    assert_eq!(exit, 1, "{stdout}{stderr}");
    assert_eq!(world.keys(DESTINATION), ["p/1", "p/2"]);
    let count = if side == SOURCE { 3 } else { 1 };
    let says = format!("keys outside the requested prefix ({count}, for example `o/9`)");
    assert!(
        stderr.contains(&says) && stderr.contains("keys of more than 1,024 bytes (1,"),
        "{stderr}"
    );
    assert!(stderr.contains(&format!("s3://{side}/p/")), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_out_of_a_promised_order_end_the_list() {
    let world = world_of_one_range().await;
    let liar = Liar::before(&world, lists(|_| page(&["a", "c", "b"], ""))).await;
    let run = liar.run(&world, copy_all(), Provider::Aws).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (0, 1)
    );
    assert!(
        message(&run).contains("ordered_lists: false"),
        "{}",
        message(&run)
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn versions_whose_markers_go_round_end(
    #[values(Provider::Aws, Provider::Auto)] provider: Provider,
) {
    let world = World::versioned().await;
    world.put_all(KEYS, 100);
    let lie = |asked: &Asked, answer: Answer| {
        let is_list =
            asked.path.trim_matches('/') == SOURCE && asked.parameter("versions").is_some();
        if !is_list {
            return answer;
        }
        let end = "<IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker><NextVersionIdMarker>x</NextVersionIdMarker>";
        answer.replacing("<IsTruncated>false</IsTruncated>", end)
    };
    let liar = Liar::before(&world, lie).await;
    let transfer = Transfer {
        versions: Versions::All,
        ..copy_all()
    };
    let run = liar.run(&world, transfer, provider).await;
    assert_eq!(run.outcome.failed_objects, 1, "{:?}", failures(&run));
    assert!(KEYS.iter().all(|key| copied(&liar, key) <= 1));
    let lists = liar.count(|asked| {
        asked.path.trim_matches('/') == SOURCE && asked.parameter("versions").is_some()
    });
    assert!(lists <= 5, "{lists}");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_parts_that_go_round_end() {
    let world = World::new().await;
    let direct = world.bucket(DESTINATION).await;
    let key = ObjectKey::new("k").unwrap();
    let upload = direct
        .create_upload(&key, &Attributes::default())
        .await
        .unwrap()
        .value;
    let body = bytes::Bytes::from_static(b"x");
    direct
        .upload_part(&key, &upload.id, 1, body, None)
        .await
        .unwrap();
    let lie = |_: &Asked, answer: Answer| {
        let markers = "<IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>\
                       <NextUploadIdMarker>x</NextUploadIdMarker><NextPartNumberMarker>1</NextPartNumberMarker>";
        answer.replacing("<IsTruncated>false</IsTruncated>", markers)
    };
    let liar = Liar::before(&world, lie).await;
    let job = liar.job(&world, copy_all(), Provider::Aws);
    let mut connections =
        world.connections(&job, &CancellationToken::default(), &Limits::default());
    let bucket = connections
        .bucket(DEFAULT_ENDPOINT, &DESTINATION.parse().unwrap())
        .await
        .unwrap();
    let listed: Result<Vec<_>, _> = MultipartUpload::list(&bucket, "").try_collect().await;
    assert_eq!(listed.unwrap_err().kind().name(), "server-fault");
    let opened = s3haul::multipart::MultipartUpload::open(&bucket, &key, upload.id);
    let parts: Result<Vec<_>, _> = opened.parts().try_collect().await;
    assert_eq!(parts.unwrap_err().kind().name(), "server-fault");
    assert!(liar.count(|asked| asked.method == "GET") <= 10);
}

/// Returns the first key of a bucket, on a server whose lists are these pages.
async fn first_key(liar: &Liar, world: &World) -> Result<Option<String>, &'static str> {
    let job = liar.job(world, copy_all(), Provider::Aws);
    let mut connections =
        world.connections(&job, &CancellationToken::default(), &Limits::default());
    let bucket = connections
        .bucket(DEFAULT_ENDPOINT, &SOURCE.parse().unwrap())
        .await
        .unwrap();
    let first = bucket.first("", None).await;
    first
        .map(|found| found.map(|object| object.key.to_string()))
        .map_err(|failure| failure.kind().name())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_page_that_leads_on_does_not_say_that_there_is_no_object() {
    let world = world_of_one_range().await;
    let more = |number: usize| format!("<IsTruncated>true</IsTruncated>{}", token(number + 1));
    let late = move |number: usize| {
        if number < 3 {
            page(&[], &more(number))
        } else {
            page(&["a"], "")
        }
    };
    let liar = Liar::before(&world, lists(late)).await;
    assert_eq!(first_key(&liar, &world).await, Ok(Some("a".to_owned())));
    assert_eq!(liar.count(listed), 4);
    let liar = Liar::before(&world, lists(move |number| page(&[], &more(number)))).await;
    assert_eq!(
        first_key(&liar, &world).await,
        Err("server-fault"),
        "pages without end"
    );
    assert_eq!(liar.count(listed), 101);
    let liar = Liar::before(&world, lists(|_| page(&[], ""))).await;
    assert_eq!(first_key(&liar, &world).await, Ok(None));
}

/// s3haul looks for an append whose answer was lost before it sends it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_behind_an_empty_page_is_found_and_not_written_twice() {
    let world = World::versioned().await;
    world.put("a", 100);
    world.add_fault(
        Fault::on(Operation::CopyObject)
            .nth(1)
            .then(Effect::EmptyBody),
    );
    let looks = |asked: &Asked| asked.has("versions") && asked.has("max-keys");
    let lie = move |asked: &Asked, answer: Answer| {
        if !looks(asked) || asked.has("key-marker") {
            return answer;
        }
        let end = "<IsTruncated>true</IsTruncated><NextKeyMarker>Z</NextKeyMarker>";
        Answer::document(format!("<ListVersionsResult>{end}</ListVersionsResult>"))
    };
    let liar = Liar::before(&world, lie).await;
    let transfer = Transfer {
        versions: Versions::All,
        ..copy_all()
    };
    let run = liar.run(&world, transfer, Provider::Aws).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (1, 0),
        "{:?}",
        failures(&run)
    );
    assert_eq!((liar.count(looks), copied(&liar, "a")), (2, 1));
}
