//! Limits that take effect while the instance runs.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::exec;
use serde_json::{Value, json};
use std::time::Instant;

fn limit(daemon: &Daemon, key: &str, value: &str) -> Result<()> {
    let mut client = daemon.client();
    let answer = client.request("PATCH", "/1.0/instances/c1", &json!({ "config": { key: value } }))?;
    ensure!(answer.status < 300, "{key}={value}: {}", answer.error());
    if answer.status == 202 {
        let operation: Value = answer.json()?["metadata"].take();
        client.wait(&operation)?;
    }
    Ok(())
}

#[test]
fn memory_beyond_the_limit_is_not_had() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    // A process that holds as much as it is told in a variable.
    let eat = |mebibytes: u32| -> Result<i64> {
        let script = format!("x=$(dd if=/dev/zero bs=1M count={mebibytes} 2>/dev/null | tr '\\0' x); echo ${{#x}}");
        Ok(exec::run(&mut daemon.client(), "c1", &["/bin/sh", "-c", &script], b"")?.status)
    };
    ensure!(eat(40)? == 0);
    limit(&daemon, "limits.memory", "32MiB")?;
    ensure!(eat(40)? != 0, "40 MiB in a limit of 32");
    let state = daemon.client().get("/1.0/instances/c1/state")?;
    ensure!(
        state["memory"]["total"].as_i64() == Some(32 << 20),
        "{}",
        state["memory"]
    );
    limit(&daemon, "limits.memory", "256MiB")?;
    ensure!(eat(40)? == 0, "the limit stayed");
    ensure!(daemon.status("c1")? == "Running");
    Ok(())
}

#[test]
fn processes_beyond_the_limit_are_not_had() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let fork = "i=0; while [ $i -lt 60 ]; do sleep 2 & i=$((i+1)); done; wait";
    let run = || exec::run(&mut daemon.client(), "c1", &["/bin/sh", "-c", fork], b"");
    ensure!(run()?.status == 0);
    limit(&daemon, "limits.processes", "30")?;
    let refused = run()?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status != 0 || words.contains("fork"),
        "60 processes in a limit of 30"
    );
    limit(&daemon, "limits.processes", "")?;
    ensure!(run()?.status == 0, "the limit stayed");
    Ok(())
}

#[test]
fn processor_time_is_shared_out() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    limit(&daemon, "limits.cpu.allowance", "20ms/100ms")?;
    let used = || -> Result<f64> {
        let state = daemon.client().get("/1.0/instances/c1/state")?;
        let nanoseconds = state["cpu"]["usage"].as_u64().context("no processor time")?;
        Ok(std::time::Duration::from_nanos(nanoseconds).as_secs_f64())
    };
    daemon.shell("c1", "(while :; do :; done) >/dev/null 2>&1 & echo $! > /tmp/pid")?;
    let (begun, before) = (Instant::now(), used()?);
    std::thread::sleep(std::time::Duration::from_secs(2));
    let share = (used()? - before) / begun.elapsed().as_secs_f64();
    ensure!(
        share > 0.05 && share < 0.35,
        "a fifth of a processor is allowed, {share:.2} was used"
    );
    limit(&daemon, "limits.cpu", "1")?;
    ensure!(daemon.shell("c1", "nproc")? == "1");
    Ok(())
}

/// What the kernel holds of `c1` in the file of a controller: `new` where the controller is on version 2 of cgroups, `old` where it
/// has a hierarchy of version 1 (cgroups(7)).
fn held(daemon: &Daemon, controller: &str, old: &str, new: &str) -> Result<(bool, String)> {
    let state = daemon.client().get("/1.0/instances/c1/state")?;
    let own = std::fs::read_to_string(format!("/proc/{}/cgroup", state["pid"]))?;
    let paths: Vec<Vec<&str>> = own.lines().map(|line| line.splitn(3, ':').collect()).collect();
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let mounted = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let wanted = fields.get(2) == Some(&kind) && fields.get(3)?.split(',').any(|one| one == option);
            wanted.then(|| fields[1].to_owned())
        })
    };
    let legacy = paths
        .iter()
        .find(|path| path[1].split(',').any(|one| one == controller));
    let file = match legacy {
        Some(path) => mounted("cgroup", controller).context("it is not mounted")? + path[2] + "/" + old,
        None => {
            let path = paths.iter().find(|path| path[0] == "0").context("no version 2")?;
            let (limited, _) = path[2].rsplit_once('/').context("the root's own cgroup")?;
            mounted("cgroup2", "rw").context("version 2 is not mounted")? + limited + "/" + new
        }
    };
    let text = std::fs::read_to_string(&file).with_context(|| file.clone())?;
    Ok((legacy.is_none(), text.trim().to_owned()))
}

/// In the terms of whichever version of cgroups a controller is on; on version 2 the container sees its limits, too, where
/// programs look for them.
#[test]
fn limits_are_what_the_kernel_holds() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let check = |controller: &str, (old, old_value): (&str, &str), (new, new_value): (&str, &str)| -> Result<()> {
        let (version_2, value) = held(&daemon, controller, old, new)?;
        let wanted = if version_2 { new_value } else { old_value };
        ensure!(value == wanted, "{controller}: {value} instead of {wanted}");
        if version_2 {
            let inside = daemon.shell("c1", &format!("cat /sys/fs/cgroup/{new}"))?;
            ensure!(inside == new_value, "{new} inside: {inside}");
        }
        Ok(())
    };
    for (key, value) in [
        ("limits.memory", "64MiB"),
        ("limits.processes", "50"),
        ("limits.cpu", "0-0"),
        ("limits.cpu.allowance", "25ms/50ms"),
    ] {
        limit(&daemon, key, value)?;
    }
    check(
        "memory",
        ("memory.limit_in_bytes", "67108864"),
        ("memory.max", "67108864"),
    )?;
    check("pids", ("pids.max", "50"), ("pids.max", "50"))?;
    check("cpuset", ("cpuset.cpus", "0"), ("cpuset.cpus", "0"))?;
    check("cpu", ("cpu.cfs_quota_us", "25000"), ("cpu.max", "25000 50000"))?;
    // They outlive a restart, whose cgroups are others.
    daemon.change("c1", "restart", true)?;
    check(
        "memory",
        ("memory.limit_in_bytes", "67108864"),
        ("memory.max", "67108864"),
    )?;
    check("cpu", ("cpu.cfs_quota_us", "25000"), ("cpu.max", "25000 50000"))?;
    for key in ["limits.memory", "limits.processes", "limits.cpu.allowance"] {
        limit(&daemon, key, "")?;
    }
    check("pids", ("pids.max", "max"), ("pids.max", "max"))?;
    check(
        "memory",
        ("memory.limit_in_bytes", "9223372036854771712"),
        ("memory.max", "max"),
    )?;
    check("cpu", ("cpu.cfs_quota_us", "-1"), ("cpu.max", "max 100000"))
}

/// A count beyond the machine's processors asks for all of them, as with Incus: configurations and profiles go from machine to
/// machine, and what fits a large one has to start on a small one.
#[test]
fn more_processors_than_there_are_means_all_of_them() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({ "config": { "limits.cpu": "99999" } }))?;
    let all = daemon.shell("c1", "grep -c ^processor /proc/cpuinfo")?;
    ensure!(daemon.shell("c1", "nproc")? == all);
    limit(&daemon, "limits.cpu", "1")?;
    ensure!(daemon.shell("c1", "nproc")? == "1");
    limit(&daemon, "limits.cpu", "99999")?;
    ensure!(daemon.shell("c1", "nproc")? == all, "the narrower limit stayed");
    ensure!(daemon.client().get("/1.0/instances/c1")?["config"]["limits.cpu"] == "99999");
    Ok(())
}

/// A count is no place: instances with one processor each do not all get the first.
#[test]
fn counted_processors_are_spread_over_instances() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut chosen = std::collections::BTreeSet::new();
    for number in 0..12 {
        let name = format!("c{number}");
        daemon.instance(&name, &json!({ "config": { "limits.cpu": "1" } }))?;
        chosen.insert(daemon.shell(&name, "grep Cpus_allowed_list /proc/self/status")?);
    }
    let several = std::thread::available_parallelism()?.get() > 1;
    ensure!(chosen.len() > 1 || !several, "all are on {chosen:?}");
    Ok(())
}

#[test]
fn limits_that_make_no_sense_are_refused() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let before = daemon.client().get("/1.0/instances/c1")?["config"].clone();
    for (key, value) in [
        ("limits.memory", "much"),
        ("limits.memory", "-5MiB"),
        ("limits.memory", "1"),
        ("limits.memory", "200%"),
        ("limits.cpu", "4000-4001"),
        ("limits.processes", "many"),
        ("limits.cpu", "none"),
        ("limits.cpu.allowance", "0ms/0ms"),
        ("security.privileged", "perhaps"),
        ("no.such.key", "1"),
    ] {
        let body = json!({ "config": { key: value } });
        let refused = daemon.client().refused("PATCH", "/1.0/instances/c1", &body);
        let (status, message) = refused.with_context(|| format!("{key}={value}"))?;
        ensure!(
            status == 400 && message.contains(key),
            "{key}={value}: {status} {message}"
        );
    }
    ensure!(daemon.client().get("/1.0/instances/c1")?["config"] == before);
    for refused in [
        json!({ "name": "c2", "source": { "type": "none" }, "architecture": "foo" }),
        json!({ "name": "c2", "source": { "type": "none" }, "config": { "limits.cpu": "4000-4001" } }),
    ] {
        ensure!(
            daemon.client().refused("POST", "/1.0/instances", &refused)?.0 == 400,
            "{refused}"
        );
    }
    Ok(())
}

#[test]
fn less_memory_than_is_in_use_is_refused_or_taken_but_never_half() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    // Held by a file system in memory, which nothing takes back from it.
    daemon.shell("c1", "dd if=/dev/zero of=/dev/shm/held bs=1M count=24 2>/dev/null")?;
    let body = json!({ "config": { "limits.memory": "4MiB" } });
    let answer = daemon.client().request("PATCH", "/1.0/instances/c1", &body)?;
    let limit = daemon.client().get("/1.0/instances/c1")?["config"]["limits.memory"].clone();
    if answer.status < 300 {
        // Version 2 of cgroups takes the limit and ends what is over it.
        ensure!(limit == "4MiB");
    } else {
        ensure!(
            answer.status == 400 && answer.error().contains("in use"),
            "{}",
            answer.error()
        );
        ensure!(!answer.error().contains("/sys/"), "{}", answer.error());
        ensure!(limit.is_null() && daemon.status("c1")? == "Running");
    }
    Ok(())
}
