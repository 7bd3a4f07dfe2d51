//! Figures about plugins, which no peer has: what many of them cost a start, what an installation takes, and what others notice of
//! one that runs away.

use crate::table::{Goal, Row, Samples, Unit};
use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Kind, Options};
use hutch_tests::faulty;
use hutch_tests::programs::Programs;
use hutch_tests::rest::Client;
use hutch_tests::stock::Stock;
use hutch_tests::variant::Variant;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// How many plugins a start is burdened with.
const PLUGINS: usize = 12;
/// How often each daemon is started.
const STARTS: usize = 15;
/// How long plugins may take until they can be used.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the plugin runs away.
const RUNS: usize = 15;
/// What the plugin that runs away is allowed of the processor: `cpu-time` in its manifest.
const DEADLINE: Duration = Duration::from_millis(300);
/// The pool whose driver runs away, and one whose driver is another plugin.
const WILD: &str = "/1.0/storage-pools/wild";
const TAME: &str = "/1.0/storage-pools/testpool/resources";

/// Starts a daemon with twelve plugins and one with none in turns; the seven that are installed for it say what that takes.
pub(crate) fn many() -> Result<Vec<Row>> {
    let mut none = bare("plugin = []\n")?;
    let mut full = bare("")?;
    let (time, megabytes) = install(&full)?;
    let mut starts = [Vec::new(), Vec::new()];
    let compiled = code(&full)?;
    for _ in 0..STARTS {
        for ((daemon, plugins), times) in [(&mut none, 0), (&mut full, PLUGINS)].into_iter().zip(&mut starts) {
            daemon.stop()?;
            times.push(start(daemon, plugins)?);
        }
    }
    ensure!(code(&full)? == compiled, "a start compiled or removed code");
    let name = format!("start to the first answer with {PLUGINS} plugins, beyond one with none");
    let mut beyond = Row::new(name, Unit::Milliseconds, Goal::AtMost(25.0));
    for (none, full) in starts[0].iter().zip(&starts[1]) {
        beyond.hutch.push(full - none);
    }
    let mut each = Row::new(
        "installation of a plugin, for each MB of WebAssembly",
        Unit::Milliseconds,
        Goal::AtMost(2500.0),
    );
    each.hutch = time.into_iter().fold(Samples::default(), |mut samples, time| {
        samples.push(time.as_secs_f64() * 1e3 / megabytes);
        samples
    });
    Ok(vec![beyond, each])
}

fn bare(configuration: &str) -> Result<Daemon> {
    let options = Options {
        bare: true,
        configuration: Some(configuration.to_owned()),
        ..Options::default()
    };
    Daemon::of_kind(Kind::Hutch(Programs::from_environment()?), options)
}

/// Installs what is missing to so many plugins, and returns how long each took and its size in millions of bytes.
fn install(daemon: &Daemon) -> Result<(Vec<Duration>, f64)> {
    let ours = enabled(&mut daemon.client())?;
    let hutch = Stock::hutch(daemon)?;
    let (mut times, mut size) = (Vec::new(), 0);
    for number in ours..PLUGINS {
        let file = Variant::storage(&format!("plain{number}"), "1.0.0").write(daemon.sandbox().path())?;
        size = std::fs::metadata(&file)?.len();
        let begun = Instant::now();
        hutch.run(&["plugin", "install", &file.to_string_lossy(), "--yes"])?;
        times.push(begun.elapsed());
    }
    ensure!(!times.is_empty(), "there are {ours} plugins already");
    Ok((times, f64::from(u32::try_from(size)?) / 1e6))
}

/// Starts the daemon, returns how many milliseconds it took to its first answer, and waits until so many plugins can be used, so that
/// the next start meets nothing of this one.
fn start(daemon: &mut Daemon, plugins: usize) -> Result<f64> {
    let time = daemon.launch(&[])?;
    let (mut client, begun) = (daemon.client(), Instant::now());
    while enabled(&mut client)? != plugins {
        ensure!(begun.elapsed() < PATIENCE, "not all of {plugins} plugins can be used");
    }
    Ok(time.as_secs_f64() * 1e3)
}

fn enabled(client: &mut Client) -> Result<usize> {
    let listed = client.get("/1.0/plugins?recursion=1")?;
    let listed = listed.as_array().context("the list of plugins is none")?;
    Ok(listed.iter().filter(|plugin| plugin["state"] == "enabled").count())
}

/// The compiled code that a daemon has, with the time at which each file was written.
fn code(daemon: &Daemon) -> Result<BTreeMap<String, SystemTime>> {
    std::fs::read_dir(daemon.state_dir().join("cache/plugins"))?
        .map(|entry| {
            let entry = entry?;
            Ok((
                entry.file_name().to_string_lossy().into_owned(),
                entry.metadata()?.modified()?,
            ))
        })
        .collect()
}

/// Lets a plugin run away again and again: how long after its deadline it is stopped, and what another plugin's callers notice.
pub(crate) fn runaway() -> Result<Vec<Row>> {
    let options = Options {
        configuration: Some(faulty::configuration(&faulty::storage_file()?, "")?),
        ..Options::default()
    };
    let daemon = Daemon::of_kind(Kind::Hutch(Programs::from_environment()?), options)?;
    let wild = json!({ "name": "wild", "driver": "faulty", "config": {} });
    daemon.client().sync("POST", "/1.0/storage-pools", &wild)?;
    let config = json!({ "config": { "fault.pool.space": "loop" } });
    daemon.client().sync("PATCH", WILD, &config)?;
    let quiet = percentile(&beside(&daemon, || {
        std::thread::sleep(DEADLINE * u32::try_from(RUNS).unwrap_or(1));
    })?);
    let mut late = Row::new(
        "a plugin that runs away in its process is stopped, after its deadline",
        Unit::Milliseconds,
        Goal::AtMost(20.0),
    );
    let mut failed = Ok(());
    let others = beside(&daemon, || {
        failed = (0..RUNS).try_for_each(|_| run_away(&daemon, &mut late.hutch));
    })?;
    failed?;
    let mut moved = Row::new(
        "99th percentile of another plugin's calls by REST meanwhile, beyond that without",
        Unit::Milliseconds,
        Goal::AtMost(1.0),
    );
    moved.hutch.push(percentile(&others) - quiet);
    Ok(vec![late, moved])
}

fn run_away(daemon: &Daemon, late: &mut Samples) -> Result<()> {
    let mut client = daemon.client();
    let begun = Instant::now();
    let (_, message) = client.refused("GET", &format!("{WILD}/resources"), &Value::Null)?;
    let time = begun.elapsed();
    ensure!(
        message.contains(faulty::STORAGE),
        "another error than the plugin's: {message}"
    );
    ensure!(time >= DEADLINE, "it was stopped after {time:?} already: {message}");
    late.push_time(time.saturating_sub(DEADLINE));
    // Or the fifth ends in quarantine.
    let path = format!("/1.0/plugins/{}/state", faulty::STORAGE);
    client.sync("PUT", &path, &json!({ "action": "enable" })).map(drop)
}

/// Asks another plugin again and again while `work` is done, and returns how long each answer took, in milliseconds.
fn beside(daemon: &Daemon, work: impl FnOnce()) -> Result<Vec<f64>> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| -> Result<Vec<f64>> {
            let (mut client, mut times) = (daemon.client(), Vec::new());
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                client.get(TAME)?;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
                // As a monitor asks, and not as a flood: this leaves a processor to what is measured.
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(times)
        });
        work();
        over.store(true, Ordering::Relaxed);
        asker.join().map_err(|_| anyhow::anyhow!("who asked panicked"))?
    })
}

fn percentile(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN)
}

/// Megabytes of a file.
pub(crate) fn megabytes(file: &Path) -> Result<f64> {
    let size = std::fs::metadata(file)
        .with_context(|| file.display().to_string())?
        .len();
    Ok(f64::from(u32::try_from(size)?) / 1e6)
}
