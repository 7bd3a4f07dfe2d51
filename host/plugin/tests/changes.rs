//! Changes of plugins: what waits for what.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Bench, call, fault, granted, guest, start};
use hutch_driver::{Drivers, Options};
use hutch_plugin::{ChangeError, Compiler, Intake, Offer, OfferKind, Outcome, PluginState, Record};
use nix::sys::stat::Mode;

const ID: &str = "org.hutch.test.faulty";

fn offer() -> Offer {
    Offer {
        bytes: std::fs::read(guest()).expect("the guest"),
        source: "guest.wasm".to_owned(),
        kind: OfferKind::Upload,
        signature: None,
        digest: None,
        allow_unsigned: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_s_change_waits_for_a_compiler() {
    let scratch = common::fresh();
    let gate = scratch.path().join("gate");
    // A compiler that waits, once there is a gate, until somebody has come to it and gone again.
    let script = format!(
        "if [ -p \"$0\" ]; then read -r line <\"$0\"; fi; exec {} \"$@\"",
        env!("CARGO_BIN_EXE_compile-plugin")
    );
    let bench = start(|options| {
        options.plugins = Some(Vec::new());
        options.compiler = Compiler {
            program: "/bin/sh".into(),
            args: vec!["-c".to_owned(), script, gate.display().to_string()],
        };
    });
    let digest = bench.host.examine(offer()).await.expect("a plugin").version.digest;
    for code in std::fs::read_dir(bench.state.path().join("cache/plugins")).expect("a cache") {
        std::fs::remove_file(code.expect("a file").path()).expect("removed");
    }
    nix::unistd::mkfifo(&gate, Mode::S_IRWXU).expect("a gate");
    let installing = {
        let (host, digest) = (Arc::clone(&bench.host), digest.clone());
        tokio::spawn(async move {
            let intake = Intake {
                grants: Some(vec!["all".to_owned()]),
                ..Intake::default()
            };
            host.take_in(&digest, intake).await
        })
    };
    let opening = tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(gate));
    let at_the_gate = opening.await.expect("no panic").expect("the compiler has begun");
    // Another change has its turn meanwhile, and is answered.
    let other = tokio::time::timeout(Duration::from_secs(10), bench.host.disable(ID));
    let other = other.await.expect("it does not wait for the compiler");
    assert!(matches!(other, Err(ChangeError::Unknown(_))), "{other:?}");
    assert!(!installing.is_finished());
    drop(at_the_gate);
    let installed = installing.await.expect("no panic").expect("it is installed");
    assert_eq!(installed, Outcome::Active);
    assert_eq!(bench.host.plugin(ID).expect("listed").state, PluginState::Enabled);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_keeps_goes_with_it() {
    let bench = start(|options| options.plugins = Some(Vec::new()));
    let forgotten = || bench.broker.forgotten.lock().expect("not poisoned").len();
    let digest = bench.host.examine(offer()).await.expect("a plugin").version.digest;
    let intake = Intake {
        grants: Some(vec!["all".to_owned()]),
        ..Intake::default()
    };
    bench.host.take_in(&digest, intake).await.expect("installed");
    assert_eq!(forgotten(), 1, "whatever one of this id has left");
    let driver = bench.host.storage("faulty").expect("provided");
    // A call that is in the middle of a function of the host's when the plugin goes.
    let going_on = {
        let driver = Arc::clone(&driver);
        tokio::spawn(async move {
            driver
                .validate(&call(), &common::configured(&fault("blocked")), None)
                .await
        })
    };
    while bench.broker.begun.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    bench.host.remove(ID).await.expect("removed");
    // Before, so that a daemon that is killed in between can remove it again, and after, for what calls have written since.
    assert_eq!(forgotten(), 3);
    bench.broker.release.notify_one();
    // It asks for nothing more, so it may end well.
    drop(going_on.await.expect("no panic"));
    driver
        .validate(&call(), &common::configured(&Options::new()), None)
        .await
        .expect_err("it is gone");
    assert_eq!(*bench.broker.forgotten.lock().expect("not poisoned"), [ID; 3]);
}

/// A host as it finds itself after a start without the file of the installed plugin.
fn without_its_file(bench: Bench, digest: &str) -> Bench {
    let Bench { host, state, .. } = bench;
    drop(host);
    std::fs::remove_dir_all(state.path().join("plugins/sha256").join(digest)).expect("lost");
    let bench = common::start_in(state, |options| options.plugins = None);
    let listed = bench.host.plugins();
    let lost = listed
        .iter()
        .any(|plugin| plugin.id == ID && plugin.state == PluginState::Failed);
    assert!(lost, "{listed:?}");
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_file_was_lost_is_installed_anew_with_what_it_kept() {
    let bench = start(|options| options.plugins = None);
    let intake = |config: Option<Options>| Intake {
        grants: Some(vec!["all".to_owned()]),
        config,
        ..Intake::default()
    };
    let record = |bench: &Bench| bench.host.plugin(ID).and_then(|status| status.record);
    let red = Options::from([("colour".to_owned(), "red".to_owned())]);
    let digest = bench.host.examine(offer()).await.expect("a plugin").version.digest;
    bench.host.take_in(&digest, intake(Some(red))).await.expect("installed");
    bench.host.disable(ID).await.expect("disabled");
    let before = record(&bench).expect("recorded");
    let bench = without_its_file(bench, &digest);
    bench.host.examine(offer()).await.expect("a plugin");
    bench.host.take_in(&digest, intake(None)).await.expect("installed");
    let forgotten = || bench.broker.forgotten.lock().expect("not poisoned").clone();
    assert_eq!(forgotten(), [] as [&str; 0], "what it kept is gone");
    let after = record(&bench).expect("recorded");
    let settings = |record: &Record| record.active.as_ref().map(|version| version.config.clone());
    assert_eq!(
        (after.installed_at, after.enabled, settings(&after)),
        (before.installed_at, false, settings(&before))
    );
    // Whoever removes it gives that up, also where its file is lost.
    let bench = without_its_file(bench, &digest);
    bench.host.remove(ID).await.expect("removed");
    let forgotten = bench.broker.forgotten.lock().expect("not poisoned").clone();
    assert!(
        !forgotten.is_empty() && forgotten.iter().all(|id| id == ID),
        "{forgotten:?}"
    );
    assert!(bench.host.plugins().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_granted_and_revoked_holds_for_the_version_that_comes() {
    let bench = start(|options| options.plugins = Some(Vec::new()));
    let digest = bench.host.examine(offer()).await.expect("a plugin").version.digest;
    let intake = Intake {
        grants: Some(vec!["none".to_owned()]),
        ..Intake::default()
    };
    bench.host.take_in(&digest, intake).await.expect("installed");
    assert!(bench.host.plugin(ID).expect("listed").granted.is_nothing());
    bench.host.grant(ID, &["fs".to_owned()], &[]).await.expect("granted");
    let status = bench.host.plugin(ID).expect("listed");
    assert_eq!(status.granted.fs.roots, granted().grants.expect("some").fs.roots);
    let subject = bench.host.subject(ID).expect("there");
    assert!(subject.granter().fs_roots().is_ok());
    bench.host.revoke(ID, &["fs".to_owned()]).await.expect("revoked");
    assert!(subject.granter().fs_roots().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_their_turn_do_not_wake_a_plugin_that_was_disabled() {
    let bench = start(|options| options.plugins = Some(Vec::new()));
    let digest = bench.host.examine(offer()).await.expect("a plugin").version.digest;
    let intake = Intake {
        grants: Some(vec!["all".to_owned()]),
        ..Intake::default()
    };
    bench.host.take_in(&digest, intake).await.expect("installed");
    let process = bench.host.plugin(ID).expect("listed").process;
    let begin = |options: Options| {
        let driver = bench.host.storage("faulty").expect("provided");
        tokio::spawn(async move { driver.validate(&call(), &common::configured(&options), None).await })
    };
    // As many as it may be in at once.
    let going_on: Vec<_> = (0..4).map(|_| begin(fault("blocked"))).collect();
    while bench.broker.begun.load(Ordering::SeqCst) < 4 {
        tokio::task::yield_now().await;
    }
    let waiting = begin(Options::new());
    bench.host.disable(ID).await.expect("disabled");
    while bench.broker.ended.load(Ordering::SeqCst) < 4 {
        bench.broker.release.notify_one();
        tokio::task::yield_now().await;
    }
    for running in going_on {
        drop(running.await.expect("no panic"));
    }
    let error = waiting.await.expect("no panic").expect_err("out of service");
    assert!(error.message.contains("it is disabled"), "{error}");
    assert_eq!(
        bench.host.plugin(ID).expect("listed").process,
        process,
        "no other was started"
    );
    bench.host.enable(ID).await.expect("enabled");
    begin(Options::new())
        .await
        .expect("no panic")
        .expect("served by another");
    assert_ne!(bench.host.plugin(ID).expect("listed").process, process);
}
