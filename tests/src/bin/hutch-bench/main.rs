//! The benchmark of SPECIFICATION.md: every figure from the same driver code against Hutch and against Incus, in one run.
//!
//! Short figures are taken in turns, one of each daemon after the other, so that what else the machine does falls on both.
//! Figures about many containers are taken with only one daemon's containers running.

mod few;
mod many;
mod plugins;
mod table;

use anyhow::{Context, Result, bail};
use clap::Parser;
use hutch_tests::daemon::{Daemon, Kind, Options};
use hutch_tests::programs::Programs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use table::{Goal, Row, Samples, Unit};

/// The command line of `hutch-bench`, which `cargo xtask bench` calls.
#[derive(Debug, Parser)]
#[command(about = "Measure Hutch beside Incus")]
struct Arguments {
    /// Where the table is written, in Markdown
    #[arg(long)]
    table: PathBuf,
    /// How many containers run in the figures about many of them
    #[arg(long, default_value_t = 128)]
    count: usize,
    /// Measure Hutch alone
    #[arg(long)]
    without_peer: bool,
    /// Measure only the peer, to try the benchmark itself
    #[arg(long, conflicts_with = "without_peer")]
    only_peer: bool,
    /// Measure only the figures whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// The unified Debian image to launch; without it, it is built by Hutch's own image source
    #[arg(long)]
    debian: Option<PathBuf>,
}

/// The peer's daemon and the version that is compared with.
const PEER: &str = "/usr/libexec/incus/incusd";
const PEER_VERSION: &str = "6.0.4";

/// The daemons that are compared.
struct Contest {
    hutch: Option<Daemon>,
    peer: Option<Daemon>,
    count: usize,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Hutch,
    Peer,
}

impl Contest {
    fn sides(&self) -> Vec<Side> {
        let hutch = self.hutch.as_ref().map(|_| Side::Hutch);
        hutch
            .into_iter()
            .chain(self.peer.as_ref().map(|_| Side::Peer))
            .collect()
    }

    fn daemon(&self, side: Side) -> Result<&Daemon> {
        let daemon = if side == Side::Hutch { &self.hutch } else { &self.peer };
        daemon.as_ref().context("a daemon that was not started")
    }

    fn daemon_mut(&mut self, side: Side) -> Result<&mut Daemon> {
        let daemon = if side == Side::Hutch {
            &mut self.hutch
        } else {
            &mut self.peer
        };
        daemon.as_mut().context("a daemon that was not started")
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hutch-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut contest = start(arguments)?;
    let wanted = |name: &str| arguments.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let mut rows = Vec::new();
    if wanted("memory of the idle daemon") {
        rows.push(idle_memory(&contest)?);
    }
    if wanted("exec") {
        rows.extend(few::exec(&contest)?);
    }
    if wanted("stop, delete, launch") {
        rows.extend(few::lives(&contest)?);
    }
    if wanted("launch of Debian") {
        rows.push(few::debian(&contest, arguments.debian.as_deref())?);
    }
    if wanted("many") {
        rows.extend(many::figures(&mut contest)?);
    }
    if wanted("driver call") && !arguments.only_peer {
        rows.extend(driver_call()?);
    }
    if wanted("plugins") && !arguments.only_peer {
        rows.extend(plugins::many()?);
    }
    if wanted("runaway") && !arguments.only_peer {
        rows.extend(plugins::runaway()?);
    }
    if rows.is_empty() {
        bail!("no figure is called {:?}", arguments.only);
    }
    let text = table::markdown(&rows, contest.peer.is_some().then_some(PEER_VERSION))?;
    std::fs::write(&arguments.table, text).with_context(|| format!("can't write {}", arguments.table.display()))
}

fn start(arguments: &Arguments) -> Result<Contest> {
    let options = Options {
        shared_network: true,
        ..Options::default()
    };
    let peer = if arguments.without_peer {
        None
    } else {
        if !Path::new(PEER).exists() {
            bail!("Incus is not installed (Debian: incus and incus-extra): install it, or say --without-peer");
        }
        let version = hutch_tests::sandbox::must(PEER, &["--version"])?;
        if version.trim() != PEER_VERSION {
            bail!(
                "the figures are compared with Incus {PEER_VERSION}, and here is {}",
                version.trim()
            );
        }
        Some(Daemon::of_kind(Kind::Incus(PEER.into()), options.clone()).context("Incus")?)
    };
    let hutch = if arguments.only_peer {
        None
    } else {
        Some(Daemon::of_kind(Kind::Hutch(Programs::from_environment()?), options).context("Hutch")?)
    };
    Ok(Contest {
        hutch,
        peer,
        count: arguments.count,
    })
}

/// How long a daemon has had nothing to do when it counts as idle.
const IDLE: Duration = Duration::from_secs(10);

/// Resident memory of daemons that were set up and hold no instance.
fn idle_memory(contest: &Contest) -> Result<Row> {
    let mut row = Row::new("memory of the daemon (RSS), idle", Unit::Mebibytes, Goal::AtMost(25.0));
    std::thread::sleep(IDLE);
    for side in contest.sides() {
        let pid = contest.daemon(side)?.pid()?;
        row.of(side).push(many::resident(pid)?);
    }
    Ok(row)
}

/// One call of a driver through Wasm with its instance, in the daemon and in a process of the plugin's own, from the plugin host's
/// own benchmark.
fn driver_call() -> Result<Vec<Row>> {
    let program = std::env::var_os("HUTCH_DRIVER_CALL").context("HUTCH_DRIVER_CALL does not name the benchmark")?;
    let plugin = Programs::from_environment()?.plugins.join("storage-overlay.wasm");
    let output = hutch_tests::sandbox::must(&program.to_string_lossy(), &[&plugin.to_string_lossy()])?;
    let figures: serde_json::Value = serde_json::from_str(&output).context("the benchmark of calls printed no JSON")?;
    let figure = |value: &serde_json::Value, name: &str| {
        value
            .as_f64()
            .with_context(|| format!("the benchmark of calls printed no {name}"))
    };
    let mut rows = Vec::new();
    for (key, name, most) in [
        ("wasm", "one driver call through Wasm, instance included", 60.0),
        (
            "worker",
            "one driver call through Wasm in a process of the plugin's own",
            150.0,
        ),
        ("worker_asking", "the same with one function of the host", 150.0),
    ] {
        let mut row = Row::new(name, Unit::Microseconds, Goal::AtMost(most));
        let times = &figures[key];
        row.hutch = Samples::summary(figure(&times["p50_us"], key)?, figure(&times["p99_us"], key)?);
        rows.push(row);
    }
    let mut row = Row::new(
        "memory of a plugin's own process (PSS)",
        Unit::Mebibytes,
        Goal::AtMost(10.0),
    );
    row.hutch
        .push(figure(&figures["worker_pss_kib"], "worker_pss_kib")? / 1024.0);
    rows.push(row);
    let mut row = Row::new(
        "memory of the process that compiles a plugin, for each MB of WebAssembly",
        Unit::Mebibytes,
        Goal::AtMost(200.0),
    );
    let peak = figure(&figures["compile_peak_kib"], "compile_peak_kib")? / 1024.0;
    row.hutch.push(peak / plugins::megabytes(&plugin)?);
    rows.push(row);
    Ok(rows)
}
