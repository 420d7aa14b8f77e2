//! A hostile server: each operation that the program sends, answered in each wrong way, under each
//! kind of profile.
//!
//! The cases are the product of [`Scenario`], [`Way`], and [`Profile`]; nobody lists them. All have
//! the same assertion: the run ends soon; whatever it reports as done equals the source, or the
//! loss is reported; its exit code is true; everything left open is named; and a failure names the
//! request. Each profile trusts a server with something, which [`trusted`] lists. A test fails if
//! an entry there is no longer needed.

mod commands;
mod documents;
mod large;
mod probe;
mod scenario;
mod server;
mod trusted;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use s3haul::manifest::job::{Endpoint, Provider, Trust};
use s3haul::sandbox::Operation;

use self::scenario::Scenario;
use self::ways::Way;

/// Cases that run at the same time. Most of them wait.
const AT_ONCE: usize = 16;

/// The profile under which the run addresses the server, and its trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Profile {
    /// The profile of AWS: answers and checksums are trusted.
    Aws,
    /// No profile.
    Auto,
    /// The profile of Tencent: the order of lists is trusted, and sizes are the proof.
    Tencent,
    /// The profile of AWS with `trust: nothing`.
    AwsNothing,
    /// No profile, and `trust: nothing`.
    AutoNothing,
}

impl Profile {
    const ALL: [Self; 5] = [
        Self::Aws,
        Self::Auto,
        Self::Tencent,
        Self::AwsNothing,
        Self::AutoNothing,
    ];

    fn provider(self) -> Provider {
        match self {
            Self::Aws | Self::AwsNothing => Provider::Aws,
            Self::Auto | Self::AutoNothing => Provider::Auto,
            Self::Tencent => Provider::Tencent,
        }
    }

    /// Returns true for requests on which this profile behaves differently from the others. The
    /// first two profiles cover all requests.
    fn is_about(self, operation: Operation) -> bool {
        let lists = matches!(
            operation,
            Operation::ListObjectsV2 | Operation::ListObjectVersions
        );
        let looks = operation == Operation::HeadObject;
        let publishes = matches!(
            operation,
            Operation::CopyObject
                | Operation::PutObject
                | Operation::CompleteMultipartUpload
                | Operation::DeleteObject
        );
        match self {
            Self::Aws | Self::Auto => true,
            Self::Tencent => lists || looks,
            Self::AwsNothing => lists || looks || publishes,
            Self::AutoNothing => publishes,
        }
    }

    fn state(self, endpoint: &mut Endpoint) {
        endpoint.provider = self.provider();
        endpoint.trust = match self {
            Self::AwsNothing | Self::AutoNothing => Trust::Nothing,
            Self::Aws | Self::Auto | Self::Tencent => Trust::Answers,
        };
    }
}

/// One case.
#[derive(Clone, Copy, Debug)]
struct Case {
    scenario: Scenario,
    profile: Profile,
    operation: Operation,
    way: Way,
}

/// Returns all cases, from the operations that each scenario sends to an honest server.
fn cases() -> Vec<Case> {
    let bases: Vec<(Scenario, Profile)> = Scenario::ALL
        .iter()
        .flat_map(|scenario| Profile::ALL.map(|profile| (*scenario, profile)))
        .collect();
    let asked = in_parallel(&bases, |(scenario, profile)| {
        let (verdict, asked) = scenario.run(*profile, None);
        assert_eq!(
            verdict,
            Ok(()),
            "{scenario:?} under {profile:?}, answered well"
        );
        asked.into_iter().collect::<BTreeSet<_>>()
    });
    let mut seen = BTreeSet::new();
    let mut cases = Vec::new();
    for ((scenario, profile), asked) in bases.into_iter().zip(asked) {
        let is_about = |operation: &Operation| {
            scenario.is_about(*operation, profile) && profile.is_about(*operation)
        };
        for operation in asked.into_iter().filter(is_about) {
            // A later scenario only adds operations that no earlier one sends.
            let is_new = seen.insert((scenario.command(), profile, operation));
            let ways = Way::ALL
                .into_iter()
                .filter(|way| is_new && !way.is_large() && way.applies(operation));
            cases.extend(ways.map(|way| Case {
                scenario,
                profile,
                operation,
                way,
            }));
        }
    }
    cases
}

/// Maps the items on several threads, and returns the results in the items' order.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, results) = (
        Mutex::new(items.iter().enumerate()),
        Mutex::new(BTreeMap::new()),
    );
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((number, item)) = next.lock().unwrap().next() else {
                        return;
                    };
                    let result = work(item);
                    results.lock().unwrap().insert(number, result);
                }
            });
        }
    });
    results.into_inner().unwrap().into_values().collect()
}

#[test]
fn a_server_that_answers_wrongly_makes_no_false_success() {
    let mut cases = cases();
    // Limits the test to one operation, for debugging.
    let only = std::env::var("S3HAUL_TEST_HOSTILE").ok();
    let is_meant = |operation: Operation| only.as_ref().is_none_or(|only| operation.name() == only);
    cases.retain(|case| is_meant(case.operation));
    let verdicts = in_parallel(&cases, |case| {
        let run = || {
            case.scenario
                .run(case.profile, Some((case.operation, case.way)))
                .0
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("it panicked".to_owned()))
    });
    let mut failed: BTreeMap<(Operation, Way, Profile), Vec<String>> = BTreeMap::new();
    for (case, verdict) in cases.iter().zip(verdicts) {
        if let Err(why) = verdict {
            let told = format!("{:?}: {why}", case.scenario);
            failed
                .entry((case.operation, case.way, case.profile))
                .or_default()
                .push(told);
        }
    }
    let trusted: BTreeSet<_> = trusted::all()
        .filter(|(operation, ..)| is_meant(*operation))
        .collect();
    let mut told = String::new();
    for (case, whys) in failed.iter().filter(|(case, _)| !trusted.contains(case)) {
        let _ = writeln!(told, "{case:?}: {}", whys.join(" | "));
    }
    for case in trusted.iter().filter(|case| !failed.contains_key(case)) {
        let _ = writeln!(told, "withstood, to be removed: {case:?}");
    }
    assert!(told.is_empty(), "of {} cases:\n{told}", cases.len());
}
