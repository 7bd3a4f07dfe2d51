//! An unmodified Debian with systemd as PID 1.

use anyhow::{Result, ensure};
use hutch_tests::daemon::{Daemon, Options, creation};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The Debian image's file. It is built where there is a mirror, which is not in a network namespace of a daemon's own.
pub(crate) fn image() -> Result<std::path::PathBuf> {
    let builder = Daemon::with(Options {
        shared_network: true,
        bare: true,
        ..Options::default()
    })?;
    hutch_tests::debian::image(&builder)
}

/// A daemon with the Debian image under the alias `debian`.
pub(crate) fn with_debian() -> Result<Daemon> {
    let image = image()?;
    let daemon = Daemon::start()?;
    daemon.client().import_image(&image, Some("debian"))?;
    Ok(daemon)
}

fn launch(daemon: &Daemon, name: &str, config: &Value) -> Result<()> {
    let mut body = creation(name, config, true);
    body["source"]["alias"] = json!("debian");
    daemon.client().run("POST", "/1.0/instances", &body).map(drop)
}

/// Waits until systemd has started all it should, and says whether something failed.
pub(crate) fn is_running(daemon: &Daemon, name: &str) -> Result<()> {
    // PID 1 runs as soon as the launch is answered; until it listens, nobody can ask it.
    daemon.shell(name, "until [ -S /run/systemd/private ]; do sleep 0.1; done")?;
    let state = daemon.shell(name, "systemctl is-system-running --wait || true")?;
    let failed = daemon.shell(name, "systemctl list-units --failed --no-legend")?;
    ensure!(state == "running", "{state}: {failed}");
    Ok(())
}

#[test]
fn systemd_comes_up_reboots_alone_and_shuts_down() -> Result<()> {
    let mut daemon = with_debian()?;
    launch(&daemon, "c1", &json!({}))?;
    is_running(&daemon, "c1")?;
    let address = crate::network::address(&daemon, "c1")?;
    ensure!(
        daemon
            .shell("c1", "ip -4 -brief address show dev eth0")?
            .contains(&address)
    );
    daemon.shell("c1", &format!("ping -c 1 -W 5 {}", daemon.gateway()))?;
    ensure!(daemon.shell("c1", "uname -n; stat -fc %T /sys/fs/cgroup")? == "c1\ncgroup2fs");

    let boot = daemon.shell("c1", "cat /proc/1/stat | cut -d' ' -f22")?;
    let init = daemon.client().get("/1.0/instances/c1/state")?["pid"].clone();
    // Timers may come a minute late unless they say otherwise (systemd.timer(5), AccuracySec=).
    daemon.shell(
        "c1",
        "systemd-run --on-active=1 --timer-property=AccuracySec=10ms systemctl reboot",
    )?;
    daemon.kill()?;
    let begun = Instant::now();
    while std::path::Path::new(&format!("/proc/{init}")).exists() {
        ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "it did not go down for its reboot"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    daemon.launch(&[])?;
    is_running(&daemon, "c1")?;
    ensure!(
        daemon.shell("c1", "cat /proc/1/stat | cut -d' ' -f22")? != boot,
        "it did not reboot while nobody watched"
    );
    ensure!(
        crate::network::address(&daemon, "c1")? == address,
        "another address after a reboot"
    );

    let begun = Instant::now();
    daemon.change("c1", "stop", false)?;
    ensure!(
        begun.elapsed() < Duration::from_secs(20),
        "systemd did not hear the request to stop"
    );
    ensure!(daemon.status("c1")? == "Stopped");
    Ok(())
}

#[test]
fn systemd_comes_up_privileged_nested_and_after_a_restore() -> Result<()> {
    let daemon = with_debian()?;
    launch(
        &daemon,
        "privileged",
        &json!({ "config": { "security.privileged": "true" } }),
    )?;
    launch(&daemon, "nesting", &json!({ "config": { "security.nesting": "true" } }))?;
    is_running(&daemon, "privileged")?;
    is_running(&daemon, "nesting")?;
    let mut client = daemon.client();
    client.run("POST", "/1.0/instances/nesting/snapshots", &json!({ "name": "s1" }))?;
    daemon.change("nesting", "stop", false)?;
    client.run("PUT", "/1.0/instances/nesting", &json!({ "restore": "s1" }))?;
    daemon.change("nesting", "start", false)?;
    is_running(&daemon, "nesting")
}
