//! A clock that is wrong from the start, or becomes wrong during a run.
//!
//! The server in front of the sandbox has its own clock, and refuses signatures that are more than
//! 5 minutes off. The sandbox behind it allows 15.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};
use rstest::rstest;
use s3haul::sandbox::SandboxOptions;

use crate::liar::{Answer, Asked, Liar, Lie};
use crate::world::program::{command, run};
use crate::world::{DESTINATION, World};

const OBJECTS: usize = 60;
const MINUTE: i64 = 60;

/// Returns a `Date` header with this time.
pub(crate) fn date_header(time: &jiff::Zoned) -> String {
    format!("date: {}", time.strftime("%a, %d %b %Y %H:%M:%S GMT"))
}

/// A server with its own clock.
struct Server {
    liar: Liar,
    refusals: Arc<AtomicUsize>,
}

pub(crate) fn signed_at(asked: &Asked) -> Option<Timestamp> {
    let date = civil::DateTime::strptime("%Y%m%dT%H%M%SZ", asked.header("x-amz-date")?).ok()?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

impl Server {
    /// Starts a proxy with its own clock. `ahead` returns how many seconds ahead the clock is after
    /// this many requests. If `tells`, answers have a date.
    async fn before(
        world: &World,
        tells: bool,
        ahead: impl Fn(usize) -> i64 + Send + Sync + 'static,
    ) -> Self {
        let (refusals, taken) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let count = Arc::clone(&refusals);
        let lie = move |asked: &Asked| {
            let offset = ahead(taken.load(Ordering::SeqCst));
            let now = Timestamp::now() + SignedDuration::from_secs(offset);
            let date = date_header(&now.to_zoned(TimeZone::UTC));
            let off = signed_at(asked)
                .map(|signed| (now - signed).total(jiff::Unit::Second).unwrap().abs());
            if off.is_some_and(|off| off <= 300.0) {
                taken.fetch_add(1, Ordering::SeqCst);
                return Lie::Changed(Box::new(move |answer| answer.with(&date)));
            }
            count.fetch_add(1, Ordering::SeqCst);
            let refusal = Answer::error(403, "RequestTimeTooSkewed");
            Lie::Given(if tells { refusal.with(&date) } else { refusal })
        };
        Self {
            liar: Liar::lying(world, lie).await,
            refusals,
        }
    }

    async fn copy(&self) -> (i32, String) {
        let SandboxOptions {
            access_key,
            secret_key,
            ..
        } = SandboxOptions::default();
        let mut program = command();
        program
            .env("AWS_ACCESS_KEY_ID", access_key)
            .env("AWS_SECRET_ACCESS_KEY", secret_key)
            .env("AWS_ENDPOINT_URL_S3", &self.liar.url);
        let copy = [
            "copy",
            "s3://source/",
            "s3://destination/",
            "--in-flight",
            "8",
        ];
        let (exit, _, stderr) = run(program, &copy).await;
        (exit, stderr)
    }
}

#[rstest]
#[case::behind_from_the_start(|_| 10 * MINUTE)]
#[case::ahead_from_the_start(|_| -10 * MINUTE)]
#[case::set_once(|taken| if taken < 50 { 0 } else { 10 * MINUTE })]
#[case::set_twice(|taken| if taken < 30 { 10 * MINUTE } else if taken < 80 { 0 } else { -10 * MINUTE })]
#[tokio::test(flavor = "multi_thread")]
async fn the_servers_time_is_learned_from_its_refusals(#[case] ahead: fn(usize) -> i64) {
    let world = World::with_numbered(OBJECTS, 10).await;
    let server = Server::before(&world, true, ahead).await;
    let (exit, stderr) = server.copy().await;
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.keys(DESTINATION).len(), OBJECTS);
    assert!(stderr.contains("this machine's clock is"), "{stderr}");
    let refusals = server.refusals.load(Ordering::SeqCst);
    assert!(
        (1..=40).contains(&refusals),
        "{refusals} refusals with 8 requests in flight"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_cannot_be_corrected_ends_with_the_remedy() {
    let world = World::with_numbered(OBJECTS, 10).await;
    let server = Server::before(&world, false, |_| 10 * MINUTE).await;
    let (exit, stderr) = server.copy().await;
    assert_eq!(exit, 3, "{stderr}");
    assert!(
        stderr.contains("RequestTimeTooSkewed") && stderr.contains("NTP"),
        "{stderr}"
    );
}
