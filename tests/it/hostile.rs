//! A hostile server: each operation that the program sends, answered in each wrong way, under each kind of profile.
//!
//! The cases are the product of [`Scenario`], [`Way`] and [`PROFILES`]; nobody lists them. All have one assertion: the run
//! ends soon, whatever it calls done is what the source holds (or the loss is told), whatever is left open is named, and
//! a failure names the request. What does not hold yet stands in [`known`], and a test fails when an entry there is mended.

mod known;
mod large;
mod probe;
mod scenario;
mod server;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use s3haul::manifest::job::Provider;
use s3haul::sandbox::Operation;

use self::scenario::Scenario;
use self::ways::Way;

/// One that trusts, one that trusts nothing, and one that trusts lists and proves by size.
const PROFILES: [Provider; 3] = [Provider::Aws, Provider::Auto, Provider::Tencent];

/// Cases under way together. Most of them wait.
const AT_ONCE: usize = 12;

/// One case.
#[derive(Clone, Copy, Debug)]
struct Case {
    scenario: Scenario,
    provider: Provider,
    operation: Operation,
    way: Way,
}

/// All cases, from what each scenario asks for when it is answered well.
fn cases() -> Vec<Case> {
    let bases: Vec<(Scenario, Provider)> =
        Scenario::ALL.iter().flat_map(|scenario| PROFILES.map(|provider| (*scenario, provider))).collect();
    let asked = in_parallel(&bases, |(scenario, provider)| {
        let (verdict, asked) = scenario.run(*provider, None);
        assert_eq!(verdict, Ok(()), "{scenario:?} under {provider:?}, answered well");
        asked.into_iter().collect::<BTreeSet<_>>()
    });
    let mut seen = BTreeSet::new();
    let mut cases = Vec::new();
    for ((scenario, provider), asked) in bases.into_iter().zip(asked) {
        for operation in asked {
            // A scenario that comes later adds what no earlier one asks for.
            if !seen.insert((format!("{provider:?}"), operation)) {
                continue;
            }
            let ways = Way::ALL.into_iter().filter(|way| !way.is_large() && way.applies(operation));
            cases.extend(ways.map(|way| Case { scenario, provider, operation, way }));
        }
    }
    cases
}

/// Does something with each of them on some threads, and returns the results in their order.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, results) = (Mutex::new(items.iter().enumerate()), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((number, item)) = next.lock().unwrap().next() else { return };
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
    // For looking at one operation by hand.
    let only = std::env::var("S3HAUL_TEST_HOSTILE").ok();
    let is_meant = |operation: Operation| only.as_ref().is_none_or(|only| operation.name() == only);
    cases.retain(|case| is_meant(case.operation));
    let verdicts = in_parallel(&cases, |case| {
        let run = || case.scenario.run(case.provider, Some((case.operation, case.way))).0;
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("it panicked".to_owned()))
    });
    let mut failed: BTreeMap<(Operation, Way), Vec<String>> = BTreeMap::new();
    for (case, verdict) in cases.iter().zip(verdicts) {
        if let Err(why) = verdict {
            let told = format!("{:?} under {:?}: {why}", case.scenario, case.provider);
            failed.entry((case.operation, case.way)).or_default().push(told);
        }
    }
    let known: BTreeSet<(Operation, Way)> = known::TRUSTED.iter().chain(known::KNOWN).copied().collect();
    let mut told = String::new();
    for ((operation, way), whys) in &failed {
        if !known.contains(&(*operation, *way)) {
            let _ = writeln!(told, "(Operation::{operation:?}, Way::{way:?}), // {}", whys.join(" | "));
        }
    }
    for (operation, way) in known.iter().filter(|known| is_meant(known.0) && !failed.contains_key(known)) {
        let _ = writeln!(told, "mended, to be removed: (Operation::{operation:?}, Way::{way:?})");
    }
    assert!(told.is_empty(), "of {} cases:\n{told}", cases.len());
}
