//! `bench`: what a call of the driver costs, beside a call that does nothing and is native.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use hutch_driver::network::NetworkRef;
use hutch_driver::storage::{PoolRef, VolumeRef};
use hutch_driver::zone::{Content, RecordSet, ZoneRef};
use hutch_driver::{Call, DriverError, Drivers, Options as Settings, Root};

use crate::component::Which;
use crate::machine::Machine;
use crate::scratch::{Filesystem, Network};
use crate::{machine, runtime, scratch};

/// What `bench` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    which: Which,
    /// Calls of each function
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    calls: u32,
    /// Where pools lie
    #[arg(long, default_value = "tmpfs")]
    filesystem: Filesystem,
    /// An option of the pool, network or zone
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = crate::test::pair)]
    options: Vec<(String, String)>,
}

/// Measures, and prints a line for each function.
///
/// # Errors
/// When the driver can't be loaded or a call fails.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match scratch::inside() {
        None => scratch::enter(Network::Own),
        Some(place) => {
            let path = options.which.path()?;
            scratch::furnish(&place, Network::Own)?;
            runtime()?.block_on(figures(options, &path, &place))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What stands for a driver that is native and does nothing: the same kind of call, through a trait's object.
#[async_trait::async_trait]
trait Driver: Send + Sync {
    async fn nothing(&self) -> Result<(), DriverError>;
}

struct Native;

#[async_trait::async_trait]
impl Driver for Native {
    async fn nothing(&self) -> Result<(), DriverError> {
        Ok(())
    }
}

async fn figures(options: &Options, path: &Path, place: &Path) -> Result<()> {
    let machine = machine::start(path, place, None).await?;
    println!("{:<26} {:>10} {:>10} {:>12}", "FUNCTION", "P50 µs", "P99 µs", "CALLS/S");
    let native: Box<dyn Driver> = Box::new(Native);
    measure("a native no-op", options.calls, async |_| native.nothing().await).await?;
    match machine.plugin.family.as_str() {
        "storage" => storage(options, &machine, place).await,
        "network" => network(options, &machine).await,
        "zone" => {
            scratch::places(place, &machine.plugin.requested.fs.paths)?;
            zone(options, &machine).await
        }
        family => bail!("there is nothing to measure without a server in the family {family}: a call waits for it"),
    }
}

fn name(machine: &Machine) -> Result<&str> {
    machine
        .plugin
        .provides
        .first()
        .map(String::as_str)
        .context("the plugin provides nothing")
}

async fn storage(options: &Options, machine: &Machine, place: &Path) -> Result<()> {
    let driver = machine.host.storage(name(machine)?)?;
    let root = place.join("scratch");
    scratch::filesystem(options.filesystem, &root)?;
    let mut call = Call::new("default", "bench");
    call.roots.push(Root {
        id: "pool".to_owned(),
        path: root,
        writable: true,
    });
    let mut pool = PoolRef {
        name: "bench".to_owned(),
        root: "pool".to_owned(),
        config: options.options.iter().cloned().collect(),
    };
    pool.config = driver.validate(&call, &pool, None).await?;
    let volume = |number: u32| VolumeRef {
        kind: "custom".to_owned(),
        name: format!("v{number}"),
        content: "filesystem".to_owned(),
        config: Settings::new(),
    };
    driver.create_pool(&call, &pool).await?;
    let calls = options.calls;
    measure("pool.validate", calls, async |_| {
        driver.validate(&call, &pool, Some(&pool.config)).await.map(|_| ())
    })
    .await?;
    measure("volume.create", calls, async |n| {
        driver.create(&call, &pool, &volume(n)).await
    })
    .await?;
    measure("volume.mount", calls, async |n| {
        driver.mount(&call, &pool, &volume(n)).await.map(|_| ())
    })
    .await?;
    if machine.plugin.abilities.iter().any(|ability| ability == "snapshot") {
        let snapshot = async |n| driver.snapshot_create(&call, &pool, &volume(n), "s", false).await;
        measure("snapshot.create, empty", calls, snapshot).await?;
    }
    measure("volume.delete", calls, async |n| {
        driver.delete(&call, &pool, &volume(n)).await
    })
    .await
}

async fn network(options: &Options, machine: &Machine) -> Result<()> {
    let driver = machine.host.network(name(machine)?)?;
    let mut call = Call::new("default", "bench0");
    call.links.push("bench0".to_owned());
    let config: Settings = options.options.iter().cloned().collect();
    let mut network = NetworkRef {
        project: "default".to_owned(),
        name: "bench0".to_owned(),
        config: config.clone(),
    };
    network.config = driver.validate(&call, &network, None).await?;
    let (calls, none) = (options.calls, Settings::new());
    let validate = async |_| {
        driver
            .validate(&call, &network, Some(&network.config))
            .await
            .map(|_| ())
    };
    measure("network.validate", calls, validate).await?;
    measure("nic.validate", calls, async |_| {
        driver.validate_nic(&call, &network, &none).await
    })
    .await?;
    driver.start(&call, &network).await?;
    measure("network.start, repeated", calls, async |_| {
        driver.start(&call, &network).await
    })
    .await?;
    driver.stop(&call, &network).await?;
    Ok(())
}

/// Record sets of the zone that is published.
const SETS: u16 = 100;

async fn zone(options: &Options, machine: &Machine) -> Result<()> {
    let driver = machine.host.zone(name(machine)?)?;
    let mut zone = ZoneRef {
        project: "default".to_owned(),
        name: "bench.example".to_owned(),
        config: options.options.iter().cloned().collect(),
    };
    let mut call = Call::new("default", &zone.name);
    zone.config = driver.validate(&call, &zone, None).await?;
    let set = |number: u16| RecordSet {
        name: format!("n{number}"),
        kind: "A".to_owned(),
        ttl: 300,
        values: vec![format!("192.0.2.{number}")],
    };
    let content = Content::new(&zone.name, 1, (0..SETS).map(set).collect())?;
    call.records = Some(Arc::new(content));
    let calls = options.calls;
    measure("zone.validate", calls, async |_| {
        driver.validate(&call, &zone, Some(&zone.config)).await.map(|_| ())
    })
    .await?;
    measure(&format!("zone.publish, {SETS} sets"), calls, async |_| {
        driver.publish(&call, &zone, 1).await
    })
    .await?;
    driver.delete(&call, &zone).await?;
    Ok(())
}

/// Makes the calls one after another, and prints what they took.
async fn measure(name: &str, calls: u32, mut call: impl AsyncFnMut(u32) -> Result<(), DriverError>) -> Result<()> {
    let mut times: Vec<Duration> = Vec::new();
    let all = Instant::now();
    for number in 0..calls {
        let begun = Instant::now();
        call(number).await.with_context(|| name.to_owned())?;
        times.push(begun.elapsed());
    }
    let rate = f64::from(calls) / all.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| times.get((times.len() - 1) * share / 100).copied().unwrap_or_default();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{name:<26} {:>10.1} {:>10.1} {rate:>12.0}",
        micros(at(50)),
        micros(at(99))
    );
    Ok(())
}
