//! The socket: who may use it, and that there is one daemon to it.

use anyhow::{Result, ensure};
use hutch_tests::daemon::{Daemon, Options};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;

fn bare() -> Result<Daemon> {
    Daemon::with(Options {
        bare: true,
        ..Options::default()
    })
}

/// The number of a group, from group(5).
fn group(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))?
        .get(2)?
        .parse()
        .ok()
}

#[test]
fn the_socket_is_roots_and_the_groups() -> Result<()> {
    let daemon = bare()?;
    let found = std::fs::metadata(daemon.socket())?;
    ensure!(found.mode() & 0o7777 == 0o660, "mode {:o}", found.mode());
    ensure!(
        found.uid() == 0 && found.gid() == group("hutch").unwrap_or(0),
        "{}:{}",
        found.uid(),
        found.gid()
    );
    Ok(())
}

#[test]
fn a_second_daemon_for_the_same_state_is_refused() -> Result<()> {
    let mut daemon = bare()?;
    let programs = hutch_tests::programs::Programs::from_environment()?;
    let second = daemon
        .sandbox()
        .command(&programs.daemon)
        .arg("--state-dir")
        .arg(daemon.state_dir())
        .arg("--config")
        .arg(daemon.sandbox().path().join("hutchd.toml"))
        .output()?;
    ensure!(!second.status.success(), "a second daemon started");
    daemon.client().get("/1.0")?;
    daemon.stop()
}

#[test]
fn a_stale_socket_is_replaced() -> Result<()> {
    let mut daemon = bare()?;
    daemon.kill()?;
    ensure!(daemon.socket().exists() && UnixStream::connect(daemon.socket()).is_err());
    daemon.launch(&[])?;
    daemon.client().get("/1.0").map(drop)
}

#[test]
fn two_daemons_live_side_by_side() -> Result<()> {
    let (first, second) = (Daemon::start()?, Daemon::start()?);
    for daemon in [&first, &second] {
        daemon.instance("c1", &serde_json::json!({}))?;
    }
    first.shell("c1", "echo one > /root/file")?;
    second.shell("c1", "echo two > /root/file")?;
    drop(first);
    ensure!(second.shell("c1", "cat /root/file")? == "two");
    Ok(())
}
