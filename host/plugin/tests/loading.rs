//! How plugins get into service: what is refused, what is cached, and what configuration says.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{call, fresh, granted, guest, start, start_in};
use hutch_broker::Permissions;
use hutch_driver::{Drivers, Options};
use hutch_plugin::{PluginConfig, PluginState};

const ID: &str = "org.hutch.test.faulty";

fn cached(state: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state.join("cache/plugins")).expect("the cache");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn code_is_compiled_once_and_mapped_afterwards() {
    let bench = start_in(fresh(), |_| {});
    bench.host.settled().await;
    let status = bench.host.plugin(ID).expect("listed");
    assert_eq!((status.state, status.reason.as_str()), (PluginState::Enabled, ""));
    assert_eq!(status.provides, ["faulty"]);
    assert_eq!(status.abilities, ["snapshot"]);
    let stored = bench
        .state
        .path()
        .join("plugins/sha256")
        .join(&status.digest)
        .join("plugin.wasm");
    assert_eq!(
        std::fs::read(&stored).expect("stored"),
        std::fs::read(guest()).expect("built")
    );
    let files = cached(bench.state.path());
    assert_eq!(files.len(), 1, "{files:?}");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(files[0].parent().expect("a directory")), 0o700);
    assert_eq!(mode(&files[0]), 0o600);

    // A second start compiles nothing: there is no compiler.
    let state = bench.state;
    drop(bench.host);
    let bench = start_in(state, |options| options.compiler.program = "/nonexistent".into());
    bench
        .host
        .storage("faulty")
        .expect("provided")
        .validate(&call(), &common::configured(&Options::new()), None)
        .await
        .expect("called");

    // Nor does one by digest, without the file that it came from.
    let digest = format!("sha256:{}", status.digest);
    let bench = start_in(bench.state, |options| {
        options.compiler.program = "/nonexistent".into();
        options.plugins = Some(vec![PluginConfig {
            digest: Some(digest),
            ..PluginConfig::default()
        }]);
    });
    bench
        .host
        .storage("faulty")
        .expect("provided")
        .validate(&call(), &common::configured(&Options::new()), None)
        .await
        .expect("called");
    assert_eq!(
        bench.host.plugin(ID).map(|status| status.granted),
        Some(Permissions::default()),
        "deny is the default"
    );

    // Damaged code is compiled again.
    let file = cached(bench.state.path()).remove(0);
    let state = bench.state;
    drop(bench.host);
    // By another file in its place: the old one is still mapped.
    std::fs::write(file.with_extension("new"), b"damaged").expect("written");
    std::fs::rename(file.with_extension("new"), &file).expect("renamed");
    let bench = start_in(state, |_| {});
    bench
        .host
        .storage("faulty")
        .expect("provided")
        .validate(&call(), &common::configured(&Options::new()), None)
        .await
        .expect("called");
    assert!(std::fs::metadata(&file).expect("there").len() > 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_loaded_is_listed_and_stops_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let wasm = std::fs::read(guest()).expect("built");
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        PluginConfig {
            path: Some(path),
            ..PluginConfig::default()
        }
    };
    let good = granted();
    let broken = [
        (file("empty.wasm", b""), "it is not WebAssembly"),
        (file("text.wasm", b"hello"), "it is not WebAssembly"),
        (file("truncated.wasm", &wasm[..wasm.len() / 2]), "not a valid component"),
        (
            file("module.wasm", b"\0asm\x01\0\0\0"),
            "core module and not a component",
        ),
        (
            file("bare.wasm", b"\0asm\x0d\0\x01\0"),
            "no custom section hutch:manifest",
        ),
        (
            file("copy.wasm", &wasm),
            "a plugin with the id org.hutch.test.faulty is loaded already",
        ),
        (
            PluginConfig {
                path: Some("/nonexistent.wasm".into()),
                ..PluginConfig::default()
            },
            "No such file",
        ),
        (
            PluginConfig {
                digest: Some("ab".repeat(32)),
                ..PluginConfig::default()
            },
            "no plugin with the digest",
        ),
        (
            PluginConfig {
                digest: Some("../../etc".into()),
                ..PluginConfig::default()
            },
            "is not a SHA-256 digest",
        ),
        (
            PluginConfig {
                digest: Some("ab".repeat(32)),
                ..good.clone()
            },
            "the configuration wants sha256:abab",
        ),
        (PluginConfig::default(), "neither a path nor a digest"),
    ];
    let bench = start(|options| {
        let list = std::iter::once(good).chain(broken.iter().map(|(config, _)| config.clone()));
        options.plugins = Some(list.collect());
    });
    bench
        .host
        .storage("faulty")
        .expect("provided")
        .validate(&call(), &common::configured(&Options::new()), None)
        .await
        .expect("called");
    let list = bench.host.plugins();
    assert_eq!(list.len(), 1 + broken.len());
    for (status, (_, expected)) in list[1..].iter().zip(&broken) {
        assert_eq!(status.state, PluginState::Failed);
        assert!(status.reason.contains(expected), "{expected}: {}", status.reason);
    }
    let error = bench.host.storage("zfs").err().expect("nobody provides it");
    assert_eq!(error.code, "not-found");
    assert!(
        error
            .message
            .starts_with("no plugin provides the storage driver \"zfs\"; there are faulty; "),
        "{error}"
    );
    assert!(error.message.contains("truncated.wasm was not loaded"), "{error}");
    assert_eq!(
        bench.host.network("faulty").err().map(|error| error.code).as_deref(),
        Some("not-found")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_held_against_the_schema() {
    let bench = start(|options| {
        let config = Options::from([("colour".to_owned(), "blue".to_owned())]);
        options.plugins = Some(vec![PluginConfig { config, ..granted() }]);
    });
    let reason = bench.host.plugins().remove(0).reason;
    assert!(reason.contains("colour: \"blue\" is not one of red, green"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_fails_makes_the_plugin_unavailable_until_it_works() {
    let tools = fresh();
    let compiler = tools.path().join("compiler");
    std::os::unix::fs::symlink("/bin/false", &compiler).expect("linked");
    let bench = start_in(fresh(), |options| options.compiler.program = compiler.clone());
    bench.host.settled().await;
    let status = bench.host.plugins().remove(0);
    assert_eq!(status.state, PluginState::Failed);
    assert!(
        status.reason.contains("the compiler failed (exit status: 1)"),
        "{}",
        status.reason
    );
    let error = bench.host.storage("faulty").err().expect("not usable");
    assert_eq!((error.code.as_str(), error.plugin.as_str()), ("unavailable", ID));
    assert!(cached(bench.state.path()).is_empty(), "nothing is left behind");

    std::fs::remove_file(&compiler).expect("removed");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_compile-plugin"), &compiler).expect("linked");
    bench.host.enable(ID).await.expect("known");
    let driver = bench.host.storage("faulty").expect("loading again");
    driver
        .validate(&call(), &common::configured(&Options::new()), None)
        .await
        .expect("called");
}

#[tokio::test(flavor = "multi_thread")]
async fn bundled_plugins_come_with_what_they_request() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::copy(guest(), directory.path().join("faulty.wasm")).expect("copied");
    std::fs::write(directory.path().join("notes.txt"), "not a plugin").expect("written");
    let bench = start(|options| {
        options.plugins = None;
        options.bundled = Some(directory.path().to_owned());
    });
    let list = bench.host.plugins();
    assert_eq!(list.len(), 1);
    assert!(list[0].granted.fs.roots && list[0].granted == list[0].requested);
    assert_eq!(
        bench
            .host
            .list("storage")
            .first()
            .map(|info| info.name.clone())
            .as_deref(),
        Some("faulty")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_file_that_was_changed_is_not_compiled() {
    let bench = start(|_| {});
    bench.host.settled().await;
    let digest = bench.host.plugin(ID).expect("listed").digest;
    let state = bench.state;
    drop(bench.host);
    std::fs::write(
        state.path().join("plugins/sha256").join(&digest).join("plugin.wasm"),
        b"other",
    )
    .expect("written");
    for file in cached(state.path()) {
        std::fs::remove_file(file).expect("removed");
    }
    let bench = start_in(state, |options| {
        options.plugins = Some(vec![PluginConfig {
            digest: Some(digest),
            ..PluginConfig::default()
        }]);
    });
    bench.host.settled().await;
    let reason = bench.host.plugins().remove(0).reason;
    assert!(
        reason.contains("was changed: its content has another digest"),
        "{reason}"
    );
}

/// As a daemon of other interfaces would have left it, which saw less in the file than there is.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_of_other_interfaces_found_out_is_found_out_again() {
    let bench = start(|_| {});
    bench.host.settled().await;
    let status = bench.host.plugin(ID).expect("listed");
    assert!(!status.abilities.is_empty());
    let state = bench.state;
    drop(bench.host);
    let place = state
        .path()
        .join("plugins/sha256")
        .join(&status.digest)
        .join("record.json");
    let text = std::fs::read(&place).expect("a record");
    let mut record: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    record["host"] = "host 0.1.9".into();
    record["abilities"] = serde_json::json!([]);
    std::fs::write(&place, record.to_string()).expect("written");
    let bench = start_in(state, |options| {
        options.plugins = Some(vec![PluginConfig {
            digest: Some(status.digest.clone()),
            ..granted()
        }]);
    });
    bench.host.settled().await;
    assert_eq!(bench.host.plugin(ID).expect("listed").abilities, status.abilities);
    assert_eq!(std::fs::read(&place).expect("a record"), text);
}
