//! Measures one driver call through WebAssembly, instance included, against the same call answered natively.
//!
//! `driver_call PLUGIN.wasm [COUNT]` calls `pool.validate` of a storage plugin (with `network` and `image` plugins the function
//! that comes closest) COUNT times, one after the other, and prints one line of JSON:
//! `{"calls":N,"wasm":{"p50_us":…,"p99_us":…,"max_us":…},"worker":{…},"worker_asking":{…},"native":{…},"parallel":{…},
//! "worker_parallel":{…},"compile_ms":…,"compile_peak_kib":…,"start_ms":…,"worker_start_ms":…,"worker_pss_kib":…,"rss_kib":…}`.
//!
//! `wasm` is a plugin in this process and `worker` one in a process of its own, `worker_asking` such a call (`pool.space`) in which the
//! guest asks the host once, `parallel` four callers at once. `compile_ms` is the time from nothing to a callable plugin that has to
//! be compiled, `compile_peak_kib` the most memory of the process that compiled it, `start_ms` the time to a callable plugin with its
//! code in the cache, `worker_start_ms` that of one in a process of its own, and `rss_kib` the memory of this process afterwards. `cargo xtask bench` reads it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hutch_broker::{Broker, CallContext, FsPermission, Permissions, Request, Response, Space};
use hutch_driver::network::NetworkRef;
use hutch_driver::storage::PoolRef;
use hutch_driver::{Call, DriverError, Drivers, Options};
use hutch_plugin::{PluginConfig, PluginHost, PluginHostOptions, PluginState};
use nix::sys::resource::{UsageWho, getrusage};

/// Knows how full a file system is, and refuses everything else: what is measured asks for nothing more.
struct BenchBroker;

#[async_trait]
impl Broker for BenchBroker {
    async fn call(&self, _cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        match request {
            Request::FsSpace { .. } => Ok(Response::Space(Space {
                total_bytes: 2,
                used_bytes: 1,
                total_inodes: 2,
                used_inodes: 1,
            })),
            request => Err(DriverError::new(
                "not-granted",
                format!("{} is not part of the measurement", request.function()),
            )),
        }
    }

    async fn forget(&self, _plugin: &str) -> Result<(), DriverError> {
        // It keeps nothing.
        Ok(())
    }
}

/// What the plugin does, natively and behind the same kind of interface.
#[async_trait]
trait Validate: Send + Sync {
    async fn validate(&self, call: &Call, config: &Options) -> Result<Options, DriverError>;
}

struct Native;

#[async_trait]
impl Validate for Native {
    async fn validate(&self, _call: &Call, config: &Options) -> Result<Options, DriverError> {
        Ok(config.clone())
    }
}

struct Plugin {
    host: Arc<PluginHost>,
    family: String,
    name: String,
    /// Whether a function is called that asks the host.
    asks: bool,
}

#[async_trait]
impl Validate for Plugin {
    async fn validate(&self, call: &Call, config: &Options) -> Result<Options, DriverError> {
        let pool = PoolRef {
            name: "bench".into(),
            root: "pool".into(),
            config: config.clone(),
        };
        match self.family.as_str() {
            "storage" if self.asks => {
                let space = self.host.storage(&self.name)?.space(call, &pool).await;
                space.map(|_| Options::new())
            }
            "network" => {
                let network = NetworkRef {
                    project: "default".into(),
                    name: "bench0".into(),
                    config: config.clone(),
                };
                let driver = self.host.network(&self.name)?;
                let valid = driver.validate_nic(call, &network, config).await;
                valid.map(|()| Options::new())
            }
            _ => self.host.storage(&self.name)?.validate(call, &pool, None).await,
        }
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    match first.as_deref() {
        Some(hutch_plugin::SUBCOMMAND) => return hutch_plugin::compile_child_main(args),
        Some(hutch_plugin::WORKER_SUBCOMMAND) => return hutch_plugin::worker_main(args),
        _ => {}
    }
    let Some(plugin) = first else {
        eprintln!("usage: driver_call PLUGIN.wasm [COUNT]");
        return ExitCode::FAILURE;
    };
    let count = args.next().and_then(|count| count.parse().ok()).unwrap_or(20_000);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("can't start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(measure(plugin.into(), count)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(path: std::path::PathBuf, count: usize) -> Result<String, Box<dyn std::error::Error>> {
    let state = tempfile::tempdir()?;
    let options = |worker: bool| PluginHostOptions {
        plugins: Some(vec![PluginConfig {
            path: Some(path.clone()),
            grants: Some(Permissions {
                fs: FsPermission {
                    roots: true,
                    ..FsPermission::default()
                },
                ..Permissions::default()
            }),
            worker: Some(worker),
            ..PluginConfig::default()
        }]),
        ..PluginHostOptions::new(state.path().to_owned())
    };
    let start = async |worker: bool| -> Result<Arc<PluginHost>, hutch_plugin::HostError> {
        let (events, _) = tokio::sync::broadcast::channel(1);
        let host = PluginHost::start(options(worker), Arc::new(BenchBroker), events)?;
        host.settled().await;
        Ok(host)
    };
    let started = Instant::now();
    drop(start(false).await?);
    let compile_ms = started.elapsed().as_secs_f64() * 1e3;
    // Of all children there were until here, which is the one that compiled.
    let compile_peak_kib = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    let started = Instant::now();
    let here = driver(start(false).await?, false)?;
    let start_ms = started.elapsed().as_secs_f64() * 1e3;
    let started = Instant::now();
    let host = start(true).await?;
    let worker_start_ms = started.elapsed().as_secs_f64() * 1e3;
    let process = host.plugins().pop().and_then(|status| status.process);
    let worker = driver(Arc::clone(&host), false)?;
    let native: Arc<dyn Validate> = Arc::new(Native);
    // The task is spawned as the daemon's are: the main thread of a runtime is not one of its workers.
    for driver in [&native, &here, &worker] {
        tokio::spawn(series(Arc::clone(driver), count / 10)).await??;
    }
    let native = tokio::spawn(series(native, count)).await??;
    let wasm = tokio::spawn(series(Arc::clone(&here), count)).await??;
    let apart = tokio::spawn(series(Arc::clone(&worker), count)).await??;
    let parallel = four(&here, count).await?;
    let parallel_apart = four(&worker, count).await?;
    let asking = driver(host, true)?;
    let asking = tokio::spawn(series(asking, count)).await??;
    Ok(serde_json::json!({
        "calls": count,
        "wasm": summary(wasm),
        "worker": summary(apart),
        "worker_asking": summary(asking),
        "native": summary(native),
        "parallel": summary(parallel),
        "worker_parallel": summary(parallel_apart),
        "compile_ms": compile_ms,
        "compile_peak_kib": compile_peak_kib,
        "start_ms": start_ms,
        "worker_start_ms": worker_start_ms,
        "worker_pss_kib": process.map(pss_kib).transpose()?,
        "rss_kib": rss_kib()?,
    })
    .to_string())
}

/// The only driver of a host.
fn driver(host: Arc<PluginHost>, asks: bool) -> Result<Arc<dyn Validate>, Box<dyn std::error::Error>> {
    let status = host.plugins().pop().ok_or("no plugin was loaded")?;
    if status.state != PluginState::Enabled {
        return Err(format!("the plugin is {:?}: {}", status.state, status.reason).into());
    }
    let name = status.provides.first().cloned().ok_or("the plugin provides no name")?;
    let family = status.family;
    Ok(Arc::new(Plugin {
        host,
        family,
        name,
        asks,
    }))
}

/// Four callers at once.
async fn four(driver: &Arc<dyn Validate>, count: usize) -> Result<Vec<Duration>, Box<dyn std::error::Error>> {
    let tasks: Vec<_> = (0..4)
        .map(|_| tokio::spawn(series(Arc::clone(driver), count / 4)))
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    Ok(times)
}

/// `Pss` of proc_pid_smaps(5): the process's own memory and its share of what it has in common with others.
fn pss_kib(process: u32) -> Result<u64, Box<dyn std::error::Error>> {
    let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .ok_or("no Pss in smaps_rollup")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// `VmRSS` of proc_pid_status(5).
fn rss_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

async fn series(driver: Arc<dyn Validate>, count: usize) -> Result<Vec<Duration>, DriverError> {
    let (call, options) = (Call::new("default", "bench"), Options::new());
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        std::hint::black_box(driver.validate(&call, &options).await?);
        times.push(start.elapsed());
    }
    Ok(times)
}

fn summary(mut times: Vec<Duration>) -> serde_json::Value {
    times.sort_unstable();
    let at = |part: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index below the length"
        )]
        let index = (part * times.len().saturating_sub(1) as f64) as usize;
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    serde_json::json!({ "p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1.0) })
}
