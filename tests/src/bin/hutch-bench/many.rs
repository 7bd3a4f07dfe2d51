//! Figures about many running containers, of one daemon after the other.

use crate::table::{Goal, Row, Unit};
use crate::{Contest, Side};
use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, IMAGE};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// How often the listing is asked for.
const LISTINGS: usize = 20;
/// How often the daemon is started again.
const RESTARTS: usize = 5;

/// The figures, in the order of the table.
struct Rows {
    launch: Row,
    listing: Row,
    metrics: Row,
    keeper: Row,
    memory: Row,
    restart: Row,
}

/// Launches many containers with the peer's own benchmark, and measures while they run.
pub(crate) fn figures(contest: &mut Contest) -> Result<Vec<Row>> {
    let count = contest.count;
    let mut rows = Rows {
        launch: Row::new(
            format!("`incus-benchmark launch --count {count}`, busybox, bridged nic"),
            Unit::PerSecond,
            Goal::Times(10.0),
        ),
        listing: Row::new(
            format!("`GET /1.0/instances?recursion=2`, {count} running"),
            Unit::Milliseconds,
            Goal::AtMost(20.0),
        ),
        metrics: Row::new(
            format!("`GET /1.0/metrics`, {count} running"),
            Unit::Milliseconds,
            Goal::AtMost(20.0),
        ),
        keeper: Row::new(
            "memory of one idle container's keeper (PSS)",
            Unit::Mebibytes,
            Goal::AtMost(0.5),
        ),
        memory: Row::new(
            format!("memory of the daemon (RSS), {count} running"),
            Unit::Mebibytes,
            Goal::AtMost(40.0),
        ),
        restart: Row::new(
            format!("restart of the daemon to its first answer, {count} running"),
            Unit::Milliseconds,
            Goal::AtMost(150.0),
        ),
    };
    for side in contest.sides() {
        measure(contest.daemon_mut(side)?, side, count, &mut rows)?;
    }
    Ok(vec![
        rows.launch,
        rows.listing,
        rows.metrics,
        rows.keeper,
        rows.memory,
        rows.restart,
    ])
}

fn measure(daemon: &mut Daemon, side: Side, count: usize, rows: &mut Rows) -> Result<()> {
    rows.launch.of(side).push(launch_rate(daemon, count)?);
    listing(daemon, side, count, rows)?;
    metrics(daemon, side, count, rows)?;
    let holders = keepers(daemon)?;
    ensure!(
        holders.len() >= count,
        "{} keepers for {count} containers",
        holders.len()
    );
    for pid in holders {
        rows.keeper.of(side).push(proportional(pid)?);
    }
    rows.memory.of(side).push(resident(daemon.pid()?)?);
    for _ in 0..RESTARTS {
        daemon.stop()?;
        rows.restart.of(side).push_time(daemon.launch(&[])?);
        // All are found again before the next stop.
        keepers(daemon)?;
    }
    benchmark(daemon, &["delete"])
}

/// Containers a second, by the wall clock of `incus-benchmark`, which knows nothing of either daemon but its socket.
fn launch_rate(daemon: &Daemon, count: usize) -> Result<f64> {
    let begun = Instant::now();
    benchmark(daemon, &["launch", "--count", &count.to_string(), IMAGE])?;
    let seconds = begun.elapsed().as_secs_f64();
    let running = daemon.client().get("/1.0/instances?recursion=1")?;
    let running = running
        .as_array()
        .context("a listing that is no list")?
        .iter()
        .filter(|instance| instance["status"] == "Running")
        .count();
    ensure!(running == count, "{running} of {count} containers run");
    let count = u32::try_from(count)?;
    Ok(f64::from(count) / seconds)
}

fn benchmark(daemon: &Daemon, arguments: &[&str]) -> Result<()> {
    let status = Command::new("incus-benchmark")
        .args(arguments)
        .env("INCUS_SOCKET", daemon.socket())
        .env("INCUS_CONF", daemon.sandbox().path().join("incus"))
        .stdout(Stdio::null())
        .status()
        .context("can't run incus-benchmark, of the package incus-extra")?;
    ensure!(status.success(), "incus-benchmark {}: {status}", arguments.join(" "));
    Ok(())
}

fn listing(daemon: &Daemon, side: Side, count: usize, rows: &mut Rows) -> Result<()> {
    let mut client = daemon.client();
    for turn in 0..=LISTINGS {
        let begun = Instant::now();
        let answer = client.request("GET", "/1.0/instances?recursion=2", &Value::Null)?;
        let time = begun.elapsed();
        let listed = answer.json()?;
        let complete = listed["metadata"]
            .as_array()
            .is_some_and(|all| all.len() == count && all.iter().all(|one| one["state"]["pid"].as_i64() > Some(0)));
        ensure!(complete, "the listing lacks instances or their state");
        if turn > 0 {
            rows.listing.of(side).push_time(time);
        }
    }
    Ok(())
}

/// Incus answers from what it found out within the last seconds, so that its first answer is its worst.
fn metrics(daemon: &Daemon, side: Side, count: usize, rows: &mut Rows) -> Result<()> {
    let mut client = daemon.client();
    for _ in 0..LISTINGS {
        let begun = Instant::now();
        let answer = client.request("GET", "/1.0/metrics", &Value::Null)?;
        let time = begun.elapsed();
        let text = String::from_utf8(answer.body)?;
        let told = text.lines().filter(|line| line.starts_with("incus_procs_total{"));
        let told = told.count();
        ensure!(told == count, "metrics of {told} instances, of which {count} run");
        rows.metrics.of(side).push_time(time);
    }
    Ok(())
}

/// The processes that hold containers: the parents of their PID 1, whatever they are called.
fn keepers(daemon: &Daemon) -> Result<Vec<i32>> {
    let listed = daemon.client().get("/1.0/instances?recursion=2")?;
    let mut found = Vec::new();
    for instance in listed.as_array().into_iter().flatten() {
        let pid = instance["state"]["pid"].as_i64().unwrap_or_default();
        if pid > 0 {
            found.push(parent(pid)?);
        }
    }
    Ok(found)
}

/// The parent of a process: proc_pid_status(5).
fn parent(pid: i64) -> Result<i32> {
    let file = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&file).with_context(|| format!("can't read {file}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("{file} has no PPid"))
}

/// Proportional set size, in mebibytes: proc_pid_smaps(5), `smaps_rollup`.
fn proportional(pid: i32) -> Result<f64> {
    field(Path::new(&format!("/proc/{pid}/smaps_rollup")), "Pss:")
}

/// Resident set size, in mebibytes: proc_pid_status(5).
pub(crate) fn resident(pid: i32) -> Result<f64> {
    field(Path::new(&format!("/proc/{pid}/status")), "VmRSS:")
}

fn field(file: &Path, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    let kibibytes: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{} has no {name}", file.display()))?;
    Ok(kibibytes / 1024.0)
}
