//! Our own storage drivers through the real broker on a real directory: the whole way from a trait's method to the disk.
//! As root, because volumes keep owners.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hutch_broker::{HostBroker, HostBrokerConfig};
use hutch_driver::storage::{PoolRef, StorageDriver, VolumeRef, VolumeState};
use hutch_driver::{Call, Drivers, Options, Root};
use hutch_plugin::{PluginHost, PluginHostOptions, PluginState};

fn build() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../guest");
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "-p",
            "hutch-plugin-storage-dir",
            "-p",
            "hutch-plugin-storage-overlay",
        ])
        .args(["--profile", "plugin", "--target", "wasm32-wasip2", "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the drivers are built");
    target.join("wasm32-wasip2/plugin")
}

struct Machine {
    host: Arc<PluginHost>,
    state: tempfile::TempDir,
}

async fn machine() -> Machine {
    let built = tokio::task::spawn_blocking(build).await.expect("no panic");
    let state = tempfile::tempdir().expect("a directory");
    let bundled = state.path().join("bundled");
    std::fs::create_dir(&bundled).expect("made");
    for name in ["hutch_plugin_storage_dir.wasm", "hutch_plugin_storage_overlay.wasm"] {
        std::fs::copy(built.join(name), bundled.join(name)).expect("copied");
    }
    let (events, _) = tokio::sync::broadcast::channel(16);
    let runtime = hutch_container::Runtime::new("/nonexistent", state.path().join("run")).expect("a runtime");
    let config = HostBrokerConfig {
        state_dir: state.path().to_owned(),
        runtime,
        events: events.clone(),
    };
    let broker = HostBroker::new(config).await.expect("a broker");
    let options = PluginHostOptions {
        bundled: Some(bundled),
        plugins: None,
        ..common::options(state.path())
    };
    let host = PluginHost::start(options, Arc::new(broker), events).expect("a host");
    host.settled().await;
    for plugin in host.plugins() {
        assert_eq!(plugin.state, PluginState::Enabled, "{}: {}", plugin.id, plugin.reason);
    }
    Machine { host, state }
}

fn volume(kind: &str, name: &str) -> VolumeRef {
    VolumeRef {
        kind: kind.into(),
        name: name.into(),
        content: "filesystem".into(),
        config: Options::new(),
    }
}

/// Makes an image volume with one file in it, a container from it, a snapshot and a copy, and takes all of it away.
async fn life(machine: &Machine, driver: &dyn StorageDriver) {
    let name = driver.info().name;
    let root = machine.state.path().join(format!("pool-{name}"));
    std::fs::create_dir(&root).expect("made");
    let mut call = Call::new("default", &name);
    call.roots.push(Root {
        id: "pool".into(),
        path: root.clone(),
        writable: true,
    });
    let config = driver
        .validate(&call, &common::configured(&Options::new()), None)
        .await
        .expect("validate");
    let pool = PoolRef {
        name: name.clone(),
        root: "pool".into(),
        config,
    };
    driver.create_pool(&call, &pool).await.expect("create pool");
    driver.create_pool(&call, &pool).await.expect("create pool again");
    driver.open_pool(&call, &pool).await.expect("open pool");
    assert!(driver.space(&call, &pool).await.expect("space").total_bytes > 0);

    let image = volume("image", &"ab".repeat(32));
    let at = driver
        .begin_fill(&call, &pool, &image, false)
        .await
        .expect("begin fill");
    std::fs::write(root.join(&at.path).join("hello"), "world").expect("filled");
    driver.end_fill(&call, &pool, &image, false).await.expect("end fill");

    let container = volume("container", "default_c1");
    driver
        .create_from_image(&call, &pool, &image, &container, false)
        .await
        .expect("create from image");
    let plan = driver.mount(&call, &pool, &container).await.expect("mount");
    assert!(layers_hold(&root, &plan, "hello"), "{plan:?}");
    driver
        .snapshot_create(&call, &pool, &container, "s1", false)
        .await
        .expect("snapshot");
    let copy = volume("container", "default_c2");
    driver
        .copy(&call, &pool, &container, Some("s1"), &copy, false, false)
        .await
        .expect("copy");
    let plan = driver.mount(&call, &pool, &copy).await.expect("mount the copy");
    assert!(layers_hold(&root, &plan, "hello"), "{plan:?}");

    let state = |volume: &VolumeRef, snapshots: &[&str]| VolumeState {
        kind: volume.kind.clone(),
        name: volume.name.clone(),
        snapshots: snapshots.iter().map(|&s| s.to_owned()).collect(),
    };
    let valid = [state(&image, &[]), state(&container, &["s1"])];
    let removed = driver.reconcile(&call, &pool, &valid).await.expect("reconcile");
    assert!(removed.iter().any(|line| line.contains("default_c2")), "{removed:?}");
    for volume in [&container, &image] {
        driver.delete(&call, &pool, volume).await.expect("delete");
        driver.delete(&call, &pool, volume).await.expect("delete again");
    }
    driver.reconcile(&call, &pool, &[]).await.expect("reconcile nothing");
    driver.delete_pool(&call, &pool).await.expect("delete pool");
    let error = driver.open_pool(&call, &pool).await.expect_err("it is gone");
    assert!(!error.plugin.is_empty(), "{error}");
}

fn layers_hold(root: &Path, plan: &hutch_driver::MountPlan, file: &str) -> bool {
    plan.layers
        .iter()
        .any(|layer| root.join(&layer.path).join(file).exists())
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_drivers_work_through_the_broker() {
    let machine = machine().await;
    let names: Vec<_> = machine.host.list("storage").into_iter().map(|info| info.name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for name in names {
        let driver = machine.host.storage(&name).expect("provided");
        life(&machine, driver.as_ref()).await;
    }
}
