//! Plugins that don't come with the daemon run in processes of their own: a container whose root is on such a driver, and what happens
//! when the process or the daemon is killed.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options, POOL, creation};
use hutch_tests::programs::Programs;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The driver that the tests give a place of its own, so that it is a stranger's.
const FILE: &str = "storage-dir.wasm";
const ID: &str = "org.hutch.storage.dir";

/// A daemon whose pool is on a stranger's driver.
fn start(scratch: &Path) -> Result<Daemon> {
    let ours = Programs::from_environment()?.plugins;
    let stranger = scratch.join("stranger.wasm");
    std::fs::copy(ours.join(FILE), &stranger)?;
    let mut configuration = format!("[[plugin]]\npath = {stranger:?}\ngrants = {{ fs = {{ roots = true }} }}\n\n");
    for entry in std::fs::read_dir(&ours)? {
        let path = entry?.path();
        if path.file_name().is_none_or(|name| name != FILE) {
            configuration.push_str(&format!("[[plugin]]\npath = {path:?}\n\n"));
        }
    }
    Daemon::with(Options {
        configuration: Some(configuration),
        storage: "dir",
        ..Options::default()
    })
}

/// The processes of plugins: children of the daemon that were started as such.
fn workers(daemon: &Daemon) -> Result<Vec<OwnedFd>> {
    let parent = daemon.pid()?.to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        // The parent is the second field behind the name (proc_pid_stat(5)).
        let of_parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)) == Some(parent.as_str());
        if !of_parent || !read("cmdline").contains("plugin-worker") {
            continue;
        }
        let pid = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        found.push(pidfd_open(
            pid.context("a process without a number")?,
            PidfdFlags::empty(),
        )?);
    }
    Ok(found)
}

fn only(daemon: &Daemon) -> Result<OwnedFd> {
    let mut workers = workers(daemon)?;
    ensure!(workers.len() == 1, "{} processes for one plugin", workers.len());
    workers.pop().context("no process")
}

fn ended(process: &OwnedFd) -> Result<bool> {
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit))? == 1)
}

#[test]
fn a_container_lives_on_a_stranger_s_driver() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let daemon = start(scratch.path())?;
    daemon.instance("c1", &json!({}))?;
    ensure!(daemon.shell("c1", "echo written > /kept && cat /kept")? == "written");
    let mut client = daemon.client();
    client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
    daemon.shell("c1", "rm /kept")?;
    daemon.change("c1", "stop", true)?;
    client.run("PUT", "/1.0/instances/c1", &json!({ "restore": "s1" }))?;
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "cat /kept")? == "written");
    only(&daemon)?;
    Ok(())
}

#[test]
fn a_worker_killed_in_the_middle_fails_one_operation() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let daemon = start(scratch.path())?;
    daemon.instance("c1", &json!({}))?;
    let worker = only(&daemon)?;
    // It does not get to the call that is made now.
    pidfd_send_signal(&worker, Signal::STOP)?;
    let mut client = daemon.client();
    let operation = client.begin("POST", "/1.0/instances", &creation("c2", &json!({}), true))?;
    // The call is made when what the daemon does for it is in the journal and the pool's root is asked for.
    std::thread::sleep(std::time::Duration::from_secs(2));
    pidfd_send_signal(&worker, Signal::KILL)?;
    let error = client
        .wait(&operation)
        .err()
        .context("the operation succeeded without its driver")?;
    let message = format!("{error:#}");
    for part in [ID, "0.1.0", "killed by signal 9"] {
        ensure!(message.contains(part), "{part:?} is not in the error: {message}");
    }
    ensure!(daemon.shell("c1", "echo here")? == "here");
    daemon.instance("c2", &json!({}))?;
    ensure!(daemon.shell("c2", "echo here")? == "here");
    let pool = client.get(&format!("/1.0/storage-pools/{POOL}"))?;
    ensure!(pool["status"] == "Created", "{pool}");
    Ok(())
}

#[test]
fn a_killed_daemon_leaves_no_worker() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut daemon = start(scratch.path())?;
    daemon.instance("c1", &json!({}))?;
    let running = only(&daemon)?;
    daemon.kill()?;
    ensure!(ended(&running)?, "the process of a plugin outlived the daemon");
    daemon.launch(&[])?;
    ensure!(daemon.shell("c1", "echo here")? == "here");
    // One that is stopped can't see that its socket was closed.
    let stopped = only(&daemon)?;
    pidfd_send_signal(&stopped, Signal::STOP)?;
    daemon.kill()?;
    ensure!(ended(&stopped)?, "a stopped process of a plugin outlived the daemon");
    daemon.launch(&[]).map(drop)
}
