//! A plugin that traps, spins, eats memory, hangs, floods, lies or asks for what it was not granted: each failure is told
//! with the plugin's name, and the host serves the next call.

mod common;

use std::time::Duration;

use common::{Bench, call, fault, granted, start, start_in};
use hutch_driver::storage::{PoolRef, VolumeRef};
use hutch_driver::{DriverError, Drivers, Options};
use hutch_plugin::{PluginState, QuarantinePolicy};

const ID: &str = "org.hutch.test.faulty";

async fn validate(bench: &Bench, options: &Options) -> Result<Options, DriverError> {
    bench
        .host
        .storage("faulty")?
        .validate(&call(), &common::configured(options), None)
        .await
}

/// The call fails with `code`, names the plugin, and the next one is served.
async fn fails(bench: &Bench, name: &str, code: &str) -> DriverError {
    let error = validate(bench, &fault(name)).await.expect_err(name);
    assert_eq!(error.code, code, "{name}: {error}");
    assert_eq!((error.plugin.as_str(), error.version.as_str()), (ID, "0.1.0"), "{name}");
    assert!(
        error.to_string().starts_with("plugin org.hutch.test.faulty 0.1.0: "),
        "{error}"
    );
    let good = Options::from([("number".to_owned(), "3".to_owned())]);
    assert_eq!(validate(bench, &good).await, Ok(good), "after {name}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_attributed_and_isolated() {
    let bench = start(|_| {});

    let error = fails(&bench, "trap", "trap").await;
    assert!(!error.answered, "the host's word in the driver's place");
    assert!(error.message.contains("pool.validate crashed"), "{error}");
    assert!(
        error.log.iter().any(|line| line.contains("deliberately")),
        "the panic's message is there: {error}"
    );
    assert!(
        error.log.iter().any(|line| line == "asked to validate options=1"),
        "{error}"
    );

    let error = fails(&bench, "loop", "timeout").await;
    assert!(error.message.contains("after running for 0.3 s"), "{error}");

    fails(&bench, "recursion", "trap").await;
    let error = fails(&bench, "memory", "limit").await;
    assert!(error.message.contains("needs more memory than the 8192 KiB"), "{error}");
    let error = fails(&bench, "exit", "trap").await;
    assert!(
        error.message.contains("status 1") || error.message.contains("status 3"),
        "{error}"
    );

    let error = fails(&bench, "many-options", "internal").await;
    assert!(error.message.contains("invalid answer: 5000 options"), "{error}");
    fails(&bench, "twice", "internal").await;

    let metrics = bench.host.plugin(ID).expect("listed").metrics;
    assert_eq!(metrics.traps, 3);
    assert_eq!(metrics.timeouts, 1);
    assert_eq!(metrics.errors.get("limit"), Some(&1));
    assert_eq!(metrics.latency.iter().sum::<u64>(), metrics.calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_break_the_abi_are_not_read() {
    let bench = start(|_| {});
    for (name, code, expected) in [
        ("not-utf8", "internal", "utf-8"),
        ("out-of-bounds", "internal", "out of bounds"),
        ("amplified", "limit", "passed or answered more than 16 mib at once"),
    ] {
        let error = fails(&bench, name, code).await;
        assert!(error.message.to_lowercase().contains(expected), "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_hangs_is_ended_and_others_go_on() {
    let bench = start(|_| {});
    bench.host.settled().await;
    let hanging = {
        let driver = bench.host.storage("faulty").expect("provided");
        tokio::spawn(async move {
            driver
                .validate(&call(), &common::configured(&fault("sleep")), None)
                .await
        })
    };
    let spinning = {
        let driver = bench.host.storage("faulty").expect("provided");
        tokio::spawn(async move {
            driver
                .validate(&call(), &common::configured(&fault("loop")), None)
                .await
        })
    };
    let mut beside = 0;
    for _ in 0..50 {
        validate(&bench, &Options::new()).await.expect("served beside them");
        beside += usize::from(!hanging.is_finished());
    }
    assert!(beside > 0, "others waited for the one that hangs");
    assert_eq!(spinning.await.expect("no panic").expect_err("it spins").code, "timeout");
    let error = hanging.await.expect("no panic").expect_err("it hangs");
    assert_eq!(error.code, "timeout");
    assert!(error.message.contains("did not end within 2 s"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_guest_s_own_are_bounded() {
    let bench = start(|_| {});
    let error = fails(&bench, "own-error", "org.hutch.test.faulty/odd").await;
    assert!(error.answered, "the driver's own word");
    assert_eq!(error.message, "the thing is odd  [31m");
    assert!(error.retryable);
    assert_eq!(error.details, [("key".to_owned(), "value".to_owned())]);
    let error = fails(&bench, "bad-code", "internal").await;
    assert!(error.message.len() < 3000, "{}", error.message.len());
    let error = validate(&bench, &Options::from([("number".to_owned(), "10".to_owned())]))
        .await
        .expect_err("schema");
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("invalid", "number: \"10\" is more than 9")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_are_two_sided() {
    let bench = start(|options| {
        let mut config = granted();
        // More than is requested, and less.
        config.grants = config.grants.map(|mut grants| {
            grants.fs.roots = false;
            grants.link = true;
            grants
        });
        options.plugins = Some(vec![config]);
    });
    let error = fails(&bench, "not-requested", "not-requested").await;
    assert!(
        error.message.contains("does not request the permission link"),
        "{error}"
    );
    let error = fails(&bench, "not-granted", "not-granted").await;
    assert!(error.message.contains("fs.roots"), "{error}");
    // A function without an error in its signature ends the call with the same code, and not as a trap.
    fails(&bench, "architecture", "not-requested").await;
    let status = bench.host.plugin(ID).expect("listed");
    assert_eq!(status.metrics.denied.values().sum::<u64>(), 3);
    assert_eq!(status.metrics.traps, 0);
    assert!(status.granted.link && !status.requested.link);
}

#[tokio::test(flavor = "multi_thread")]
async fn wasi_is_empty() {
    let bench = start(|_| {});
    let found = validate(&bench, &fault("look-around")).await.expect("it may look");
    for (key, value) in [
        ("variables", "0"),
        ("root", "false"),
        ("connected", "false"),
        ("written", "false"),
    ] {
        assert_eq!(found.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_point_elsewhere_are_refused() {
    let bench = start(|_| {});
    let driver = bench.host.storage("faulty").expect("provided");
    let pool = |function: &str, fault: &str| PoolRef {
        name: "pool1".into(),
        root: "pool".into(),
        config: Options::from([(format!("fault.{function}"), fault.to_owned())]),
    };
    let volume = VolumeRef {
        kind: "container".into(),
        name: "c1".into(),
        content: "filesystem".into(),
        config: Options::new(),
    };
    let good = pool("volume.mount", "");
    let plan = driver.mount(&call(), &good, &volume).await.expect("a good plan");
    assert_eq!(
        plan.layers.first().map(|layer| layer.path.as_str()),
        Some("container/c1/rootfs")
    );
    for bad in ["escape", "absolute", "other-root", "kind", "many-layers", "within"] {
        let pool = pool("volume.mount", &format!("answer-{bad}"));
        let error = driver.mount(&call(), &pool, &volume).await.expect_err(bad);
        assert_eq!((error.code.as_str(), error.plugin.as_str()), ("internal", ID));
        assert!(error.message.contains("volume.mount gave an invalid answer"), "{error}");
    }
    for bad in ["other-root", "above", "absolute"] {
        let pool = pool("volume.begin-fill", &format!("answer-{bad}"));
        let error = driver.begin_fill(&call(), &pool, &volume, false).await.expect_err(bad);
        assert_eq!(error.code, "internal", "{error}");
    }
    let error = driver
        .space(&call(), &pool("pool.space", "answer-more-than-all"))
        .await
        .expect_err("more used than there is");
    assert_eq!(error.code, "internal", "{error}");
    let error = driver
        .reconcile(&call(), &pool("pool.reconcile", "answer-many-lines"), &[])
        .await
        .expect_err("too many lines");
    assert_eq!(error.code, "internal", "{error}");
    let error = driver
        .set_quota(&call(), &good, &volume, None)
        .await
        .expect_err("no such ability");
    assert_eq!(error.code, "unsupported");
    assert!(driver.info().can("snapshot") && !driver.info().can("quota"));
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_faults_end_in_quarantine_until_it_is_lifted() {
    let bench = start(|options| {
        options.quarantine = QuarantinePolicy {
            faults: 3,
            window: Duration::from_secs(600),
            ..QuarantinePolicy::default()
        };
    });
    for _ in 0..3 {
        assert_eq!(validate(&bench, &fault("trap")).await.expect_err("trap").code, "trap");
    }
    let error = validate(&bench, &Options::new()).await.expect_err("quarantine");
    assert_eq!(error.code, "unavailable");
    assert!(
        error.message.contains("quarantine (3 faults within 600 s") && error.message.contains("hutch plugin enable")
    );
    let status = bench.host.plugin(ID).expect("listed");
    assert_eq!(status.state, PluginState::Quarantined);
    bench.host.enable(ID).await.expect("known");
    validate(&bench, &Options::new()).await.expect("back in service");
    assert_eq!(
        bench.host.plugin(ID).map(|status| status.state),
        Some(PluginState::Enabled)
    );
    assert_eq!(
        bench
            .host
            .enable("org.example.nobody.x")
            .await
            .expect_err("unknown")
            .code(),
        "not-found"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_outlives_the_daemon_and_ends_with_another_version() {
    let strict = |options: &mut hutch_plugin::PluginHostOptions| {
        options.quarantine = QuarantinePolicy {
            faults: 2,
            window: Duration::from_secs(600),
            ..QuarantinePolicy::default()
        };
    };
    let state_of = |bench: &Bench| bench.host.plugin(ID).expect("listed");
    let bench = start(strict);
    for _ in 0..2 {
        validate(&bench, &fault("trap")).await.expect_err("trap");
    }
    let before = state_of(&bench);
    assert!(before.quarantined_at.is_some() && before.loaded_at.is_some());

    // Another daemon on the same state, the same file.
    let bench = start_in(bench.state, strict);
    bench.host.settled().await;
    let after = state_of(&bench);
    assert_eq!((after.state, &after.reason), (PluginState::Quarantined, &before.reason));
    let seconds = |status: &hutch_plugin::PluginStatus| {
        let since = status.quarantined_at.expect("quarantined");
        since
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs()
    };
    assert_eq!(seconds(&after), seconds(&before));
    let error = validate(&bench, &Options::new()).await.expect_err("quarantine");
    assert_eq!((error.code.as_str(), error.plugin.as_str()), ("unavailable", ID));

    // The same code in another file: a custom section more (WebAssembly Core Specification, section 5.5.3).
    let other = bench.state.path().join("other.wasm");
    let mut bytes = std::fs::read(common::guest()).expect("built");
    bytes.extend_from_slice(b"\0\x05\x04more");
    std::fs::write(&other, bytes).expect("written");
    let bench = start_in(bench.state, |options| {
        options.plugins = Some(vec![hutch_plugin::PluginConfig {
            path: Some(other),
            ..granted()
        }]);
    });
    validate(&bench, &Options::new()).await.expect("not in quarantine");

    // The first one is, until the operator says otherwise; and that outlives the daemon, too.
    let bench = start_in(bench.state, strict);
    assert_eq!(state_of(&bench).state, PluginState::Quarantined);
    bench.host.enable(ID).await.expect("known");
    let bench = start_in(bench.state, strict);
    validate(&bench, &Options::new()).await.expect("back in service");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_bounded_and_kept() {
    let bench = start(|_| {});
    validate(&bench, &fault("flood")).await.expect("it only talks");
    let lines = bench.host.logs(ID).expect("listed");
    assert_eq!(lines.len(), hutch_plugin::KEPT_LINES);
    assert!(
        lines
            .last()
            .is_some_and(|line| line.text.starts_with("too many lines") && line.object == "pool1")
    );
    assert!(bench.host.logs("org.example.nobody.x").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_metrics_and_events_pass() {
    let bench = start(|options| {
        let config = Options::from([("colour".to_owned(), "green".to_owned())]);
        options.plugins = Some(vec![hutch_plugin::PluginConfig { config, ..granted() }]);
    });
    let mut events = bench.host.events();
    let answer = validate(&bench, &fault("measure")).await.expect("measured");
    assert_eq!(answer.get("colour").map(String::as_str), Some("green"));
    let metrics = bench.host.plugin(ID).expect("listed").metrics;
    assert_eq!(
        (metrics.counts.get("things"), metrics.gauges.get("level")),
        (Some(&3), Some(&-7))
    );
    validate(&bench, &fault("event")).await.expect("told");
    let event = events.next().await.expect("an event");
    assert_eq!(
        (event.family.as_str(), event.object.as_str(), event.topic.as_str()),
        ("storage", "pool1", "state")
    );
}
