//! The daemon: configuration and wiring. What it does is in the crates that it puts together.

mod config;
mod directory;
mod download;
mod logging;
mod render;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use hutch_broker::{Broker, HostBroker, HostBrokerConfig};
use hutch_container::{AppArmorSupport, Runtime};
use hutch_core::Core;
use hutch_driver::Drivers;
use hutch_plugin::{PluginHost, PluginHostOptions};
use hutch_server::Listener;
use hutch_store::SqliteStore;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, watch};

use config::Config;

/// Heaps for threads that allocate at the same time. The daemon's threads mostly wait for the kernel and for drivers.
const HEAPS: u8 = 2;
/// Events of drivers that may wait for the core.
const DRIVER_EVENTS: usize = 1024;
/// Where the daemons of this machine lock ranges of user ids. All must use the same.
const ID_RANGES: &str = "/run/hutch/id-ranges";

/// The daemon of Hutch: runs system containers, with drivers that are WebAssembly plugins.
///
/// It runs in the foreground, serves the REST API on DIR/unix.socket and logs to standard error. Containers go on while it
/// is stopped, and are found again.
#[derive(Debug, Parser)]
#[command(name = "hutchd", version)]
struct Arguments {
    /// Where everything is kept: state, pools, images, and the socket
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hutch", env = "HUTCH_DIR")]
    state_dir: PathBuf,
    /// The configuration, in TOML; without one, the plugins beside the program are offered with what they ask for
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log: a level (error, warn, info, debug, trace), or targets with levels (info,hutch_plugin=debug)
    #[arg(long, value_name = "FILTER", default_value = "info", env = "HUTCH_LOG")]
    log: String,
    /// Log what helps to find faults, as --log debug: requests, calls of plugins, and what these have the host do
    #[arg(long, conflicts_with = "log")]
    debug: bool,
}

fn main() -> ExitCode {
    // The same program does confined work in children; they must not get as far as threads or logs.
    if let Some(code) = hutch_archive::run_if_asked() {
        return code;
    }
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some(hutch_plugin::SUBCOMMAND) => return hutch_plugin::compile_child_main(arguments),
        Some(hutch_plugin::WORKER_SUBCOMMAND) => return hutch_plugin::worker_main(arguments),
        _ => {}
    }
    hutch_sys::memory::limit_heaps(HEAPS);
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hutchd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    logging::init(if arguments.debug { "debug" } else { &arguments.log })?;
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("containers can be made by root only: start hutchd as root");
    }
    let config = Config::read(arguments.config.as_deref())?;
    let state_dir = prepare_state_dir(&arguments.state_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16))
        .build()
        .context("starting the threads that serve requests")?;
    runtime.block_on(serve(state_dir, config))
}

/// Makes the state directory. Others may pass through it (helper services that give up root do), but not look into it.
fn prepare_state_dir(path: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .with_context(|| format!("making the state directory {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711))
        .with_context(|| format!("setting the mode of {}", path.display()))?;
    std::fs::canonicalize(path).with_context(|| format!("finding {}", path.display()))
}

async fn serve(state_dir: PathBuf, config: Config) -> Result<()> {
    // From here on a signal means an orderly end.
    let (stop, stopping) = watch::channel(false);
    let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(stop_on_signal(stop, signals));
    // The socket first: it refuses a second daemon on the same state before anything is touched.
    let listener = Listener::bind(&state_dir.join("unix.socket"))?;
    let store = Arc::new(SqliteStore::open(&state_dir.join("state.db"))?);
    let keeper = keeper_binary(&config)?;
    let runtime = Runtime::new(keeper.clone(), state_dir.join("run"))?;
    look_at_kernel(&runtime);
    let (events, _) = broadcast::channel(DRIVER_EVENTS);
    let broker = HostBrokerConfig {
        state_dir: state_dir.clone(),
        runtime: runtime.clone(),
        events: events.clone(),
    };
    let broker = Arc::new(HostBroker::new(broker).await?);
    let options = PluginHostOptions {
        plugins: config.plugin,
        bundled: config.plugin_directory.or_else(hutch_plugin::bundled_directory),
        ..PluginHostOptions::new(state_dir.clone())
    };
    let plugins = PluginHost::start(options, Arc::clone(&broker) as Arc<dyn Broker>, events)?;
    let core = Core::open(hutch_core::Options {
        state_dir: state_dir.clone(),
        runtime,
        id_ranges: PathBuf::from(ID_RANGES),
        drivers: Arc::clone(&plugins) as Arc<dyn Drivers>,
        roots: Arc::new(directory::PoolRoots(Arc::clone(&broker))),
        plugins: Arc::new(directory::Directory {
            host: Arc::clone(&plugins),
            broker,
        }),
        downloader: Arc::new(download::Fetcher(Arc::clone(&plugins))),
        store,
    })
    .await
    .map_err(|error| anyhow::anyhow!(error.report()))?;
    tracing::info!(state_dir = %state_dir.display(), socket = %listener.path().display(), "serving");
    hutch_server::serve(Arc::clone(&core), listener, stopping).await;
    tracing::info!("stopping; containers go on");
    core.close().await.map_err(|error| anyhow::anyhow!(error.report()))
}

/// Tells what containers go without on this kernel, and has ready what they get.
fn look_at_kernel(runtime: &Runtime) {
    if let Some(reason) = &runtime.device_support().reason {
        tracing::warn!("{reason}");
    }
    if let Some(reason) = runtime.unavailable_limits() {
        tracing::warn!("{reason}");
    }
    match runtime.apparmor_support() {
        AppArmorSupport::Unusable(reason) => tracing::warn!("{reason}"),
        AppArmorSupport::Used => {
            let runtime = runtime.clone();
            tokio::spawn(async move {
                if let Err(error) = runtime.load_profiles().await {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "containers can't be started");
                }
            });
        }
        AppArmorSupport::Missing | AppArmorSupport::Enclosing => {}
    }
}

/// The keeper beside the daemon's own program, unless the configuration names another.
fn keeper_binary(config: &Config) -> Result<PathBuf> {
    if let Some(path) = &config.keeper {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().context("finding the daemon's own program")?;
    let keeper = own.with_file_name("hutch-keeper");
    if !keeper.exists() {
        anyhow::bail!(
            "{} is missing: it belongs beside hutchd, or name it with keeper= in the configuration",
            keeper.display()
        );
    }
    Ok(keeper)
}

async fn stop_on_signal(stop: watch::Sender<bool>, (mut terminate, mut interrupt): (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.send_replace(true);
    // A second signal while requests are ending ends them, too.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    std::process::exit(1);
}
