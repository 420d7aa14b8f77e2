//! Tests the controller against a model: a server with a token bucket and delayed responses, and a
//! client that wakes up once per millisecond.

use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::super::meter::Meter;
use super::*;

const TICK: Duration = Duration::from_millis(1);
const WRITES: f64 = 3500.0;

/// A server and the network in front of it.
#[derive(Clone, Copy)]
struct RateServer<L: Fn(f64) -> f64> {
    /// The requests per second that the server accepts, by the time in seconds.
    limit: L,
    /// The size of a burst, in seconds of the limit.
    burst: f64,
    /// The time until a refusal and until a good response arrives.
    refuses: Duration,
    answers: Duration,
    /// One in this many requests is refused for no reason.
    strays: Option<u32>,
}

impl<L: Fn(f64) -> f64> RateServer<L> {
    fn new(limit: L) -> Self {
        let ms = Duration::from_millis;
        Self {
            limit,
            burst: 0.25,
            refuses: ms(20),
            answers: ms(45),
            strays: None,
        }
    }
}

/// Accepted and throttled requests by second.
struct Run {
    accepted: Vec<f64>,
    throttled: Vec<f64>,
    seconds: f64,
}

impl Run {
    fn accepted(&self, from: usize) -> f64 {
        self.accepted[from..].iter().sum()
    }

    /// Returns the share of requests since the second `from` that were throttled.
    fn throttled(&self, from: usize) -> f64 {
        let throttled: f64 = self.throttled[from..].iter().sum();
        throttled / (throttled + self.accepted(from))
    }
}

/// The requests of a run.
#[derive(Clone, Copy)]
struct Load {
    /// The number of accepted requests at which the run ends.
    requests: f64,
    /// The maximum number of requests in flight.
    width: usize,
    /// The requests per second that the client wants to send.
    rate: f64,
    seconds: u32,
}

const ENDLESS: Load = Load {
    requests: 1e12,
    width: 2048,
    rate: 20_000.0,
    seconds: 60,
};

/// Runs the controller. Refused requests queue again after a while like new ones.
fn drive<L: Fn(f64) -> f64>(
    server: &RateServer<L>,
    load: Load,
    controller: &mut RateController,
) -> Run {
    let Load {
        requests,
        width,
        rate,
        seconds,
    } = load;
    let mut run = Run {
        accepted: vec![0.0],
        throttled: vec![0.0],
        seconds: f64::from(seconds),
    };
    let mut meter = Meter::new(controller.rate(Duration::ZERO), Duration::ZERO);
    let mut tokens = (server.limit)(0.0) * server.burst;
    // The times of responses, the earliest first. A refusal also has the time at which its request
    // was sent.
    let mut refusals: BinaryHeap<std::cmp::Reverse<(Duration, Duration)>> = BinaryHeap::new();
    let mut answers: BinaryHeap<std::cmp::Reverse<Duration>> = BinaryHeap::new();
    let (mut accepted, mut number, mut credit) = (0.0, 0u32, 0.0f64);
    let mut waiting = None;
    for step in 0..seconds * 1000 {
        let now = TICK * step;
        let second = now.as_secs_f64();
        let limit = (server.limit)(second);
        tokens = (tokens + limit / 1000.0).min((limit * server.burst).max(3.0));
        credit = (credit + rate / 1000.0).min(rate / 20.0 + 1.0);
        if step % 1000 == 0 && step > 0 {
            run.accepted.push(0.0);
            run.throttled.push(0.0);
        }
        while let Some(std::cmp::Reverse((at, sent_at))) = refusals.peek().copied()
            && at <= now
        {
            refusals.pop();
            controller.throttled(sent_at, now);
        }
        while answers.peek().is_some_and(|at| at.0 <= now) {
            answers.pop();
        }
        meter.set(controller.rate(now), now);
        while credit >= 1.0 && answers.len() + refusals.len() < width {
            let ticket = *waiting.get_or_insert_with(|| meter.draw(1.0, now));
            if meter.wait(ticket, now).is_some() {
                break;
            }
            waiting = None;
            credit -= 1.0;
            controller.sent(now);
            meter.set(controller.rate(now), now);
            number += 1;
            let stray = server.strays.is_some_and(|nth| number % nth == 0);
            if tokens >= 1.0 && !stray {
                tokens -= 1.0;
                accepted += 1.0;
                *run.accepted.last_mut().unwrap() += 1.0;
                answers.push(std::cmp::Reverse(now + server.answers));
            } else {
                *run.throttled.last_mut().unwrap() += 1.0;
                refusals.push(std::cmp::Reverse((now + server.refuses, now)));
            }
        }
        if accepted >= requests {
            run.seconds = second + server.answers.as_secs_f64();
            break;
        }
    }
    run
}

fn fresh<L: Fn(f64) -> f64>(server: &RateServer<L>, load: Load) -> Run {
    drive(server, load, &mut RateController::new(WRITES))
}

fn servers(limit: impl Fn(f64) -> f64 + Copy) -> [RateServer<impl Fn(f64) -> f64 + Copy>; 4] {
    let ms = Duration::from_millis;
    let model = RateServer::new(limit);
    [
        model,
        // Refusals arrive at once, as on the loopback interface.
        RateServer {
            refuses: ms(2),
            ..model
        },
        // The burst is only as large as a client's clock needs.
        RateServer {
            burst: 0.01,
            ..model
        },
        RateServer {
            burst: 0.01,
            answers: ms(200),
            ..model
        },
    ]
}

#[test]
fn a_fixed_limit_is_found_and_held_with_little_throttling() {
    for limit in [20.0, 437.0, 3500.0] {
        for server in servers(move |_| limit) {
            let run = fresh(
                &server,
                Load {
                    seconds: 40,
                    ..ENDLESS
                },
            );
            let share = run.accepted(10) / (30.0 * limit);
            assert!(share >= 0.95, "{limit}/s: {share:.3} of it is used");
            assert!(
                run.throttled(10) < 0.01,
                "{limit}/s: {:.4} throttled",
                run.throttled(10)
            );
        }
    }
}

#[test]
fn a_server_with_a_long_burst_and_one_far_away_are_used_too() {
    let ms = Duration::from_millis;
    let model = RateServer::new(|_| 3500.0);
    for server in [
        RateServer {
            burst: 1.0,
            ..model
        },
        RateServer {
            refuses: ms(150),
            answers: ms(250),
            burst: 0.25,
            ..model
        },
    ] {
        let run = fresh(&server, ENDLESS);
        assert!(
            run.accepted(10) >= 0.92 * 50.0 * 3500.0,
            "{}",
            run.accepted(10)
        );
        assert!(run.throttled(10) < 0.01, "{}", run.throttled(10));
    }
}

/// The time counts from the first request to the last response.
#[test]
fn a_short_run_loses_nothing_to_the_search() {
    for server in servers(|_| 3500.0) {
        let run = fresh(
            &server,
            Load {
                requests: 20_000.0,
                ..ENDLESS
            },
        );
        assert!(run.seconds <= 6.2, "{} s", run.seconds);
        assert!(run.throttled(0) < 0.01, "{} throttled", run.throttled(0));
    }
}

#[test]
fn a_server_that_takes_everything_is_not_made_to_wait() {
    let server = RateServer::new(|_| 1e9);
    let run = fresh(
        &server,
        Load {
            requests: 20_000.0,
            ..ENDLESS
        },
    );
    assert!(
        run.seconds < 3.0,
        "{} s, where the demand alone takes 1 s",
        run.seconds
    );
    // 50 GiB in parts of 64 MiB.
    let parts = Load {
        requests: 800.0,
        ..ENDLESS
    };
    let run = fresh(
        &RateServer {
            answers: Duration::from_millis(870),
            ..server
        },
        parts,
    );
    assert!(run.seconds < 1.2, "{} s", run.seconds);
}

#[test]
fn a_limit_that_doubles_is_followed() {
    let eighth = WRITES / 8.0;
    for server in servers(move |second| eighth * 2f64.powf((second / 10.0).floor().min(3.0))) {
        // Exactly at the limit, the run takes 23.8 s.
        let run = fresh(
            &server,
            Load {
                requests: 20_000.0,
                ..ENDLESS
            },
        );
        assert!(run.seconds <= 26.0, "{} s", run.seconds);
        assert!(run.throttled(0) < 0.03, "{} throttled", run.throttled(0));
    }
    for server in servers(move |second| eighth * 2f64.powf((second / 10.0).min(3.0))) {
        let run = fresh(
            &server,
            Load {
                requests: 20_000.0,
                ..ENDLESS
            },
        );
        assert!(
            run.seconds <= 22.5,
            "{} s where the limit alone takes 20.6 s",
            run.seconds
        );
        assert!(run.throttled(0) < 0.03, "{} throttled", run.throttled(0));
    }
}

#[test]
fn a_limit_that_drops_to_a_quarter_is_met_within_seconds() {
    for server in servers(|second| if second < 20.0 { 3500.0 } else { 875.0 }) {
        let run = fresh(&server, ENDLESS);
        for second in 22..60 {
            let accepted = run.accepted[second];
            assert!(accepted >= 0.9 * 875.0, "second {second}: {accepted}");
            assert!(
                run.throttled[second] <= 0.03 * 875.0,
                "second {second}: {}",
                run.throttled[second]
            );
        }
        // A tenth of the requests per second that had passed until then.
        assert!(
            run.throttled[20] < 350.0,
            "{} when it dropped",
            run.throttled[20]
        );
    }
}

/// Everything is refused for ten seconds, whatever was known before.
#[test]
fn the_rate_before_an_outage_is_reached_soon_after_it() {
    for limit in [100.0, 3500.0, 1e9] {
        for began in [0.0, 20.0] {
            let is_shut = move |second: f64| (began..began + 10.0).contains(&second);
            for server in servers(move |second| if is_shut(second) { 0.0 } else { limit }) {
                let usual = f64::min(limit, 5000.0);
                let load = Load {
                    rate: 5000.0,
                    ..ENDLESS
                };
                let run = fresh(&server, load);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "whole"
                )]
                let (began, over) = (began as usize, began as usize + 10);
                let back = (over..60).find(|second| run.accepted[*second] >= 0.8 * usual);
                let back = back.map(|second| second - over);
                assert!(
                    back.is_some_and(|seconds| seconds <= 10),
                    "{limit}/s, from {began}: {back:?}"
                );
                for second in began + 2..over {
                    let refused = run.throttled[second];
                    assert!(
                        refused <= 3.0,
                        "{limit}/s, second {second}: {refused} were refused"
                    );
                }
                assert!(
                    run.throttled(over) < 0.02,
                    "{limit}/s: {} throttled afterwards",
                    run.throttled(over)
                );
            }
        }
    }
}

/// The server accepts less than the lowest rate, or only a few requests now and then.
#[test]
fn a_server_that_hardly_accepts_anything_is_not_stormed() {
    for limit in [0.0, 0.5, 1.5] {
        for server in servers(move |_| limit) {
            let run = fresh(&server, ENDLESS);
            let (accepted, sent) = (
                run.accepted(5),
                run.accepted(5) + run.throttled[5..].iter().sum::<f64>(),
            );
            assert!(
                sent <= 55.0 * 6.0,
                "{limit}/s: {sent} sent, {accepted} accepted"
            );
            assert!(
                accepted >= 0.7 * 55.0 * limit,
                "{limit}/s: {accepted} accepted"
            );
        }
    }
}

#[test]
fn strays_do_not_slow_a_run_down() {
    for nth in [1000, 300, 100] {
        let server = RateServer {
            strays: Some(nth),
            ..RateServer::new(|_| 1e9)
        };
        let run = fresh(
            &server,
            Load {
                rate: 5000.0,
                ..ENDLESS
            },
        );
        assert!(
            run.accepted(10) > 0.95 * 50.0 * 5000.0,
            "one in {nth}: {}",
            run.accepted(10) / 50.0
        );
    }
}

#[test]
fn a_lane_that_is_hardly_used_does_not_dream_of_millions() {
    let mut controller = RateController::new(WRITES);
    for step in 0..600_000 {
        if step % 10 == 0 {
            controller.sent(TICK * step);
        }
    }
    assert!(controller.rate(TICK * 600_000) <= WRITES);
    let mut controller = RateController::known(WRITES, 500.0, Duration::ZERO);
    controller.sent(TICK);
    assert!(controller.rate(TICK) < 500.0);
    assert!(controller.rate(TICK * 600_000) <= 500.0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn any_limit_is_found(
        limit in 30.0..6000.0f64,
        burst in 0.01..0.5f64,
        refuses in 1u64..50,
        answers in 5u64..100,
    ) {
        let ms = Duration::from_millis;
        let model = RateServer::new(move |_| limit);
        let server = RateServer { burst, refuses: ms(refuses), answers: ms(answers), ..model };
        let run = fresh(&server, Load { seconds: 40, ..ENDLESS });
        let share = run.accepted(15) / (25.0 * limit);
        prop_assert!(share >= 0.9, "{share:.3} of {limit}");
        prop_assert!(run.throttled(15) < 0.02, "{:.4} throttled at {limit}", run.throttled(15));
    }
}

proptest! {
    /// Checks that, for any responses, the rate never falls below the floor and only rises between
    /// two cuts.
    #[test]
    fn the_rate_keeps_its_floor_and_rises_between_cuts(
        start in 1.0..10_000.0f64,
        answers in prop::collection::vec((0u64..40, 0u64..300, prop::bool::weighted(0.4)), 1..400),
    ) {
        let mut controller = RateController::new(start);
        let (mut now, mut last) = (Duration::ZERO, 0.0);
        for (pause, took, throttled) in answers {
            now += Duration::from_millis(pause);
            controller.sent(now);
            let cut = throttled && controller.throttled(now.saturating_sub(Duration::from_millis(took)), now);
            // The bound by the used rate does not matter here.
            let rate = controller.curve(now);
            prop_assert!(rate >= FLOOR && controller.rate(now) >= FLOOR);
            prop_assert!(cut || rate >= last || last - rate < 1e-9, "{rate} after {last}");
            last = rate;
        }
    }
}
