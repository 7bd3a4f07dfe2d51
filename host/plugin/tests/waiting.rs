//! Host functions that take long: they are given up in time, what can't be interrupted goes on and keeps its object, and a
//! caller that goes away leaves nothing behind.

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Bench, call, fault, start};
use hutch_driver::{Call, DriverError, Drivers, Options};

async fn validate(bench: &Bench, call: &Call, options: &Options) -> Result<Options, DriverError> {
    bench
        .host
        .storage("faulty")
        .expect("provided")
        .validate(call, &common::configured(options), None)
        .await
}

/// Waits for something that another task brings about, without guessing how long that takes.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_takes_too_long_is_answered_to_the_guest_and_goes_on() {
    let bench = start(|_| {});
    bench.host.settled().await;
    let started = Instant::now();
    let error = validate(&bench, &call(), &fault("blocked"))
        .await
        .expect_err("it takes too long");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(error.code, "timeout");
    assert_eq!(
        error.message,
        "gave up: fs.stat did not end within the time of the call"
    );
    assert!(error.retryable);

    // The object is locked as long as the function goes on; another object is not.
    let started = Instant::now();
    let error = validate(&bench, &call(), &Options::new())
        .await
        .expect_err("the object is locked");
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "it waited: {:?}",
        started.elapsed()
    );
    assert!(
        error.message.contains("has to wait for fs.stat of an earlier call"),
        "{error}"
    );
    validate(&bench, &Call::new("default", "pool2"), &Options::new())
        .await
        .expect("another object");

    // A retry that is waiting goes on as soon as the function ends.
    let retry = {
        let driver = bench.host.storage("faulty").expect("provided");
        tokio::spawn(async move {
            driver
                .validate(&call(), &common::configured(&Options::new()), None)
                .await
        })
    };
    assert_eq!(bench.broker.ended.load(Ordering::SeqCst), 0);
    bench.broker.release.notify_waiters();
    retry.await.expect("no panic").expect("served after the function's end");
    assert_eq!(bench.broker.ended.load(Ordering::SeqCst), 1, "it was not interrupted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_does_not_interrupt_what_can_not_be() {
    let bench = start(|_| {});
    bench.host.settled().await;
    let calling = {
        let driver = bench.host.storage("faulty").expect("provided");
        tokio::spawn(async move {
            driver
                .validate(&call(), &common::configured(&fault("blocked")), None)
                .await
        })
    };
    until("the function begins", || bench.broker.begun.load(Ordering::SeqCst) == 1).await;
    calling.abort();
    assert!(calling.await.expect_err("aborted").is_cancelled());
    assert_eq!(bench.broker.ended.load(Ordering::SeqCst), 0);
    bench.broker.release.notify_waiters();
    validate(&bench, &call(), &Options::new())
        .await
        .expect("the object is free again");
    assert_eq!(bench.broker.ended.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_calls_are_bounded_by_the_manifest() {
    let bench = start(|_| {});
    bench.host.settled().await;
    let calls: Vec<_> = (0..12)
        .map(|i| {
            let driver = bench.host.storage("faulty").expect("provided");
            let mut call = call();
            call.object = format!("pool{i}");
            tokio::spawn(async move {
                driver
                    .validate(&call, &common::configured(&fault("blocked")), None)
                    .await
            })
        })
        .collect();
    until("four begin", || bench.broker.begun.load(Ordering::SeqCst) == 4).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        bench.broker.begun.load(Ordering::SeqCst),
        4,
        "the manifest allows four at once"
    );
    for round in 1..=3 {
        until("the next begin", || {
            bench.broker.begun.load(Ordering::SeqCst) == 4 * round
        })
        .await;
        bench.broker.release.notify_waiters();
    }
    for call in calls {
        call.await.expect("no panic").expect("served in its turn");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_operation_is_seen_by_the_guest() {
    let bench = start(|_| {});
    let call = call();
    let answer = validate(&bench, &call, &fault("cancelled")).await.expect("answered");
    assert_eq!(answer.get("cancelled").map(String::as_str), Some("false"));
    assert!(
        !call.cancel.is_cancelled(),
        "the end of a call does not cancel its operation"
    );
    call.cancel.cancel();
    let answer = validate(&bench, &call, &fault("cancelled")).await.expect("answered");
    assert_eq!(answer.get("cancelled").map(String::as_str), Some("true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_leave_nothing_behind() {
    let bench = start(|_| {});
    bench.host.settled().await;
    for round in 0..4 {
        let calls: Vec<_> = (0..250)
            .map(|i| {
                let driver = bench.host.storage("faulty").expect("provided");
                let options = if (i + round) % 10 == 0 {
                    fault("trap")
                } else {
                    Options::new()
                };
                tokio::spawn(async move { driver.validate(&call(), &common::configured(&options), None).await })
            })
            .collect();
        for (i, call) in calls.into_iter().enumerate() {
            let outcome = call.await.expect("no panic");
            if (i + round) % 10 == 0 {
                assert_eq!(outcome.expect_err("asked for").code, "trap");
            } else {
                outcome.expect("served");
            }
        }
    }
}
