//! A plugin host with one plugin: with nothing behind it to see whether it loads, or with the real broker to call it.

use std::fs::{DirBuilder, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hutch_broker::{Broker, CallContext, HostBroker, HostBrokerConfig, Request, Response};
use hutch_conformance::Faults;
use hutch_container::Runtime;
use hutch_driver::DriverError;
use hutch_plugin::{PluginConfig, PluginHost, PluginHostOptions, PluginState, PluginStatus, QuarantinePolicy, Workers};
use tokio::sync::broadcast;

/// Events of drivers that may wait.
const EVENTS: usize = 256;

/// A broker that does nothing for anybody.
struct Nothing;

#[async_trait::async_trait]
impl Broker for Nothing {
    async fn call(&self, _cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        let message = format!("{} is not there while a plugin is only looked at", request.function());
        Err(DriverError::new("unavailable", message))
    }

    async fn forget(&self, _plugin: &str) -> Result<(), DriverError> {
        // It keeps nothing.
        Ok(())
    }
}

/// Loads the plugin in `path` as a daemon would, without anything that it could reach, and says what came of it. `state_dir` is
/// an empty directory.
///
/// # Errors
/// When no plugin could be loaded at all.
pub(crate) async fn load(path: &Path, state_dir: &Path) -> Result<PluginStatus> {
    let (events, _) = broadcast::channel(EVENTS);
    let host = PluginHost::start(options(path, state_dir, None), Arc::new(Nothing), events)?;
    status(&host).await
}

/// `workers` is how the plugin's process is started; without it, the plugin runs in this one.
fn options(path: &Path, state_dir: &Path, workers: Option<Workers>) -> PluginHostOptions {
    let granted = std::fs::read(path)
        .ok()
        .and_then(|bytes| hutch_plugin::binary::inspect(&bytes).ok())
        .map(|inspected| inspected.manifest.permissions);
    PluginHostOptions {
        plugins: Some(vec![PluginConfig {
            path: Some(path.to_owned()),
            grants: granted,
            worker: Some(workers.is_some()),
            ..PluginConfig::default()
        }]),
        bundled: None,
        // Each fault is a case's to tell; none may keep the next from being run.
        quarantine: QuarantinePolicy {
            faults: usize::MAX,
            window: Duration::from_secs(1),
            ..QuarantinePolicy::default()
        },
        workers: workers.unwrap_or_default(),
        ..PluginHostOptions::new(state_dir.to_owned())
    }
}

async fn status(host: &PluginHost) -> Result<PluginStatus> {
    host.settled().await;
    host.plugins()
        .into_iter()
        .next()
        .context("the plugin host forgot the plugin")
}

/// A plugin that can be called.
pub(crate) struct Machine {
    /// The plugin host.
    pub(crate) host: Arc<PluginHost>,
    /// What stands between the plugin and the machine.
    pub(crate) faults: Arc<Faults>,
    /// What the plugin is.
    pub(crate) plugin: PluginStatus,
}

/// Where the user ids of plugins' processes are locked for the whole machine, by a way that goes on when other files lie before it.
///
/// # Errors
/// When the directory can't be made or opened.
pub(crate) fn workers() -> Result<(Workers, File)> {
    let usual = Workers::default();
    let ids = usual.ids.display();
    // As plugin hosts make it: others have their places in the directory above.
    let above = usual.ids.parent().context("it is in no directory")?;
    let make = |at: &Path, mode| DirBuilder::new().recursive(true).mode(mode).create(at);
    make(above, 0o755)
        .and_then(|()| make(&usual.ids, 0o700))
        .with_context(|| format!("can't create {ids}"))?;
    let open = File::open(&usual.ids).with_context(|| format!("can't open {ids}"))?;
    let ids = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    Ok((Workers { ids, ..usual }, open))
}

/// Loads the plugin in `path` with what it requests granted, over the real broker. By itself it runs in this process: its author looks
/// at its cost and its faults, and not at those of a process around it.
///
/// # Errors
/// When it can't be loaded, with the reason.
pub(crate) async fn start(path: &Path, dir: &Path, workers: Option<Workers>) -> Result<Machine> {
    let state_dir = dir.join("state");
    std::fs::create_dir(&state_dir).with_context(|| format!("can't create {}", state_dir.display()))?;
    let (events, _) = broadcast::channel(EVENTS);
    let config = HostBrokerConfig {
        state_dir: state_dir.clone(),
        runtime: Runtime::new(keeper(), dir.join("run"))?,
        events: events.clone(),
    };
    let faults = Faults::new(Arc::new(HostBroker::new(config).await?));
    let host = PluginHost::start(
        options(path, &state_dir, workers),
        Arc::clone(&faults) as Arc<dyn Broker>,
        events,
    )?;
    let plugin = status(&host).await?;
    if plugin.state != PluginState::Enabled {
        bail!(
            "the plugin can't be used: {}; `hutch plugin check` says more",
            plugin.reason
        );
    }
    Ok(Machine { host, faults, plugin })
}

/// The program that holds helper services: named by the environment, or beside this one.
fn keeper() -> PathBuf {
    if let Some(named) = std::env::var_os("HUTCH_KEEPER") {
        return PathBuf::from(named);
    }
    std::env::current_exe().map_or_else(
        |_| PathBuf::from("hutch-keeper"),
        |own| own.with_file_name("hutch-keeper"),
    )
}
