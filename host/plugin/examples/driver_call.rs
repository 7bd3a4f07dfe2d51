//! Measures one driver call through WebAssembly, instance included, against the same call answered natively.
//!
//! `driver_call PLUGIN.wasm [COUNT]` calls `pool.validate` of a storage plugin (with `network` and `image` plugins the function
//! that comes closest) COUNT times, one after the other, and prints one line of JSON:
//! `{"calls":N,"wasm":{"p50_us":…,"p99_us":…,"max_us":…},"native":{…},"parallel":{…},"start_ms":…,"rss_kib":…}`, where `parallel` is
//! four callers at once, `start_ms` the time from nothing to a callable plugin with its code in the cache, and `rss_kib` the
//! memory of this process afterwards. `cargo xtask bench` reads it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hutch_broker::{Broker, CallContext, Permissions, Request, Response};
use hutch_driver::network::NetworkRef;
use hutch_driver::{Call, DriverError, Drivers, Options};
use hutch_plugin::{PluginConfig, PluginHost, PluginHostOptions, PluginState};

/// Refuses everything: what is measured asks for nothing.
struct NoBroker;

#[async_trait]
impl Broker for NoBroker {
    async fn call(&self, _cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        Err(DriverError::new(
            "not-granted",
            format!("{} is not part of the measurement", request.function()),
        ))
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
}

#[async_trait]
impl Validate for Plugin {
    async fn validate(&self, call: &Call, config: &Options) -> Result<Options, DriverError> {
        match self.family.as_str() {
            "network" => {
                let network = NetworkRef {
                    project: "default".into(),
                    name: "bench0".into(),
                    config: config.clone(),
                };
                self.host
                    .network(&self.name)?
                    .validate_nic(call, &network, config)
                    .await
            }
            _ => self.host.storage(&self.name)?.validate(call, config).await,
        }
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    if first.as_deref() == Some(hutch_plugin::SUBCOMMAND) {
        return hutch_plugin::compile_child_main(args);
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
    let plugin = PluginConfig {
        path: Some(path),
        grants: Some(Permissions::default()),
        ..PluginConfig::default()
    };
    let options = PluginHostOptions {
        plugins: Some(vec![plugin]),
        ..PluginHostOptions::new(state.path().to_owned())
    };
    let start = async || -> Result<Arc<PluginHost>, hutch_plugin::HostError> {
        let (events, _) = tokio::sync::broadcast::channel(1);
        let host = PluginHost::start(options.clone(), Arc::new(NoBroker), events)?;
        host.settled().await;
        Ok(host)
    };
    drop(start().await?);
    let started = Instant::now();
    let host = start().await?;
    let start_ms = started.elapsed().as_secs_f64() * 1e3;
    let status = host.plugins().pop().ok_or("no plugin was loaded")?;
    if status.state != PluginState::Enabled {
        return Err(format!("the plugin is {:?}: {}", status.state, status.reason).into());
    }
    let name = status.provides.first().cloned().ok_or("the plugin provides no name")?;
    let wasm: Arc<dyn Validate> = Arc::new(Plugin {
        host,
        family: status.family,
        name,
    });
    let native: Arc<dyn Validate> = Arc::new(Native);
    // The task is spawned as the daemon's are: the main thread of a runtime is not one of its workers.
    for driver in [&native, &wasm] {
        tokio::spawn(series(Arc::clone(driver), count / 10)).await??;
    }
    let native_times = tokio::spawn(series(native, count)).await??;
    let wasm_times = tokio::spawn(series(Arc::clone(&wasm), count)).await??;
    let tasks: Vec<_> = (0..4)
        .map(|_| tokio::spawn(series(Arc::clone(&wasm), count / 4)))
        .collect();
    let mut parallel = Vec::new();
    for task in tasks {
        parallel.extend(task.await??);
    }
    Ok(serde_json::json!({
        "calls": count,
        "wasm": summary(wasm_times),
        "native": summary(native_times),
        "parallel": summary(parallel),
        "start_ms": start_ms,
        "rss_kib": rss_kib()?,
    })
    .to_string())
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
