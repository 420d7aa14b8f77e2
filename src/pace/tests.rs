//! Tests of what a pacer admits.

use super::*;
use crate::size::{ByteRate, MIB};

#[tokio::test(start_paused = true)]
async fn a_request_that_skips_the_queue_does_not_wait_for_a_rate() {
    let pacer = Pacer::new(&Limits::default(), 100, RetryPolicy::default());
    let slow = learned::LearnedLane {
        bucket: "here/lake".to_owned(),
        class: RequestClass::Write,
        prefix: String::new(),
        accepted: 2,
    };
    pacer.recall(&Learned {
        lanes: vec![slow],
        concurrency: 100,
    });
    let lanes = pacer.lanes("here", "lake", RequestClass::Write);
    let patience = Duration::from_mins(1);
    for _ in 0..40 {
        let admitted = pacer.admit_without_queue(&lanes, "k", 0, patience).await;
        assert!(!admitted.unwrap().paced);
    }
    assert_eq!(pacer.elapsed(), Duration::ZERO);
    for _ in 0..4 {
        let admitted = pacer.admit(&lanes, "k", 0, patience).await;
        admitted.unwrap();
    }
    assert!(pacer.elapsed() >= Duration::from_secs(1));
}

/// One server accepts few connections, and the other is down.
#[tokio::test(start_paused = true)]
async fn a_connection_that_cannot_be_opened_is_silence_from_its_start() {
    let (second, head) = (Duration::from_secs(1), Operation::HeadObject);
    let late = Failure::new(FailureKind::Unreachable, head, "", "timed out");
    for answers in [true, false] {
        let pacer = Pacer::new(&Limits::default(), 1000, RetryPolicy::default());
        let lanes = pacer.lanes("here", "lake", RequestClass::Read);
        tokio::time::sleep(second * 10).await;
        let mut admitted = Vec::new();
        for _ in 0..200 {
            admitted.push(pacer.admit(&lanes, "k", 0, second).await.unwrap());
        }
        let answered = admitted.pop().filter(|_| answers);
        tokio::time::sleep(second * 3).await;
        if let Some(one) = answered {
            pacer.learn(one, head, None, 0, second, second);
        }
        tokio::time::sleep(second * 2).await;
        for one in admitted {
            pacer.learn(one, head, Some(&late), 0, second * 5, second * 60);
        }
        let outages = pacer.outages().into_iter().map(|(_, lasts, _)| lasts);
        let expected = if answers { vec![] } else { vec![second * 5] };
        assert_eq!(outages.collect::<Vec<_>>(), expected);
    }
}

/// Two servers share a limit, and one is down. Its probes must not delay the other server, unless
/// their bytes may have moved.
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_not_sent_costs_no_bytes() {
    let (second, patience) = (Duration::from_secs(1), Duration::from_mins(15));
    let (copy, part) = (Operation::UploadPartCopy, 128 * MIB);
    for (kind, expected) in [
        (FailureKind::Unreachable, 9.9..10.3),
        (FailureKind::TimedOut, 19.0..23.0),
    ] {
        let limits = Limits {
            bytes_per_second: Some(ByteRate(10 * MIB)),
            ..Limits::default()
        };
        let pacer = Pacer::new(&limits, 1000, RetryPolicy::default());
        let away = pacer.lanes("away", "lake", RequestClass::Write);
        let failure = Failure::new(kind, copy, "", "no answer");
        while pacer.outages().is_empty() {
            let admitted = pacer.admit(&away, "k", 0, patience).await.unwrap();
            pacer.learn(admitted, copy, Some(&failure), 0, second, second);
        }
        let probe = pacer.admit(&away, "k", part, patience).await.unwrap();
        assert!(probe.pass.is_probe());
        pacer.learn(probe, copy, Some(&failure), part, Duration::ZERO, second);
        let began = pacer.elapsed();
        let up = pacer.lanes("up", "lake", RequestClass::Write);
        pacer.admit(&up, "k", 100 * MIB, patience).await.unwrap();
        let waited = pacer.elapsed().saturating_sub(began).as_secs_f64();
        assert!(
            expected.contains(&waited),
            "{}: {waited}",
            failure.kind().name()
        );
    }
}

#[test]
fn patience_bounds_all_that_the_policy_waits_for() {
    let minutes = Duration::from_mins;
    let policy = RetryPolicy {
        patience: minutes(15),
        persistence: minutes(3),
        ..RetryPolicy::default()
    };
    for (patience, persistence) in [
        (Some(minutes(1)), minutes(1)),
        (Some(minutes(20)), minutes(3)),
        (None, minutes(3)),
    ] {
        let retry = Pacer::new(
            &Limits {
                patience,
                ..Limits::default()
            },
            8,
            policy,
        )
        .retry;
        assert_eq!(
            (retry.patience, retry.persistence),
            (patience.unwrap_or(minutes(15)), persistence)
        );
    }
}
