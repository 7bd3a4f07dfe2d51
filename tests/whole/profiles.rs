//! Profiles that instances use.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, POOL};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const PROFILE: &str = "/1.0/profiles/default";

#[test]
fn a_profile_keeps_the_root_disks_of_its_instances() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    daemon.instance("c1", &json!({}))?;
    daemon.change("c1", "stop", true)?;
    let before = client.get(PROFILE)?;
    let mut devices = before["devices"].clone();
    devices["root"] = json!({ "type": "disk", "path": "/", "pool": "default" });
    for devices in [json!({}), devices] {
        let body = json!({ "config": {}, "description": "", "devices": devices });
        let (status, message) = client.refused("PUT", PROFILE, &body)?;
        ensure!(
            status == 400 && message.contains("root disk") && message.contains("c1"),
            "{status} {message}"
        );
    }
    ensure!(client.get(PROFILE)? == before, "what was refused was stored");
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "echo fine")? == "fine");
    // With a root disk of its own it needs the profile's no longer.
    let own = json!({ "devices": { "root": { "type": "disk", "path": "/", "pool": POOL } } });
    client.sync("PATCH", "/1.0/instances/c1", &own)?;
    let body = json!({ "config": {}, "description": "", "devices": {} });
    client.sync("PUT", PROFILE, &body).map(drop)
}

#[test]
fn instances_that_can_not_follow_a_profile_are_named() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    for name in ["runs", "stopped"] {
        daemon.instance(name, &json!({}))?;
    }
    daemon.change("stopped", "stop", true)?;
    let before = client.get(PROFILE)?["devices"].clone();
    let mut devices = before.clone();
    devices["nowhere"] = json!({ "type": "disk", "source": "/usr", "path": "/etc/passwd/below" });
    let patch = json!({ "config": { "user.seen": "yes" }, "devices": devices });
    let (_, message) = client.refused("PATCH", PROFILE, &patch)?;
    ensure!(
        message.contains("runs") && message.contains("/etc/passwd/below") && !message.contains("stopped"),
        "{message}"
    );
    ensure!(
        client.get(PROFILE)?["config"] == patch["config"],
        "the profile was not changed"
    );
    for name in ["runs", "stopped"] {
        let instance = client.get(&format!("/1.0/instances/{name}"))?;
        ensure!(
            instance["expanded_config"]["user.seen"] == "yes",
            "{name} shows an old profile: {instance}"
        );
    }
    ensure!(daemon.shell("runs", "echo fine")? == "fine");
    let body = json!({ "config": patch["config"], "description": "", "devices": before });
    client.sync("PUT", PROFILE, &body)?;
    daemon.change("runs", "restart", true)?;
    Ok(())
}

#[test]
fn an_instance_follows_its_profile_once_its_keeper_answers() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let init = daemon.client().get("/1.0/instances/c1/state")?["pid"].clone();
    let status = std::fs::read_to_string(format!("/proc/{init}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let keeper = Pid::from_raw(parent.context("no parent")?.trim().parse()?);
    daemon.stop()?;
    kill(keeper, Signal::SIGSTOP)?;
    let changed = daemon.launch(&[]).and_then(|_| {
        let mut devices = daemon.client().get(PROFILE)?["devices"].clone();
        devices["usr"] = json!({ "type": "disk", "source": "/usr", "path": "/outside" });
        let patch = json!({ "config": { "limits.memory": "48MiB" }, "devices": devices });
        daemon.client().refused("PATCH", PROFILE, &patch)
    });
    kill(keeper, Signal::SIGCONT)?;
    let (_, message) = changed?;
    ensure!(
        message.contains("c1") && message.contains("follow its profiles") && message.contains("keeper"),
        "{message}"
    );
    crate::lifecycle::wait_for_status(&daemon, "c1", "Running")?;
    // Its turn comes after whatever follows from the keeper's answer.
    let mut client = daemon.client();
    client.sync(
        "PATCH",
        "/1.0/instances/c1",
        &json!({ "config": { "user.turn": "mine" } }),
    )?;
    let memory = client.get("/1.0/instances/c1/state")?["memory"].clone();
    ensure!(memory["total"].as_i64() == Some(48 << 20), "{memory}");
    daemon.shell("c1", "test -d /outside/bin").map(drop)
}

#[test]
fn what_a_profile_or_instance_refers_to_stays() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    daemon.instance("c1", &json!({}))?;
    let config = json!({ "ipv4.address": "10.217.0.1/24", "ipv6.address": "none" });
    let network = json!({ "name": "net2", "config": config });
    let nic = json!({ "type": "nic", "network": "net2", "name": "eth1" });
    // Deletion and use at the same moment: one of both wins, and never is there a user without a network.
    for round in 0..8 {
        client.sync("POST", "/1.0/networks", &network)?;
        let path = if round % 2 == 0 { PROFILE } else { "/1.0/instances/c1" };
        let devices = client.get(path)?["devices"].clone();
        let mut with = devices.clone();
        with["eth1"] = nic.clone();
        let mut other = daemon.client();
        let (used, deleted) = std::thread::scope(|scope| {
            let body = json!({ "devices": with });
            let used = scope.spawn(move || other.request("PATCH", path, &body).map(|answer| answer.status));
            let deleted = client
                .request("DELETE", "/1.0/networks/net2", &Value::Null)
                .map(|answer| answer.status);
            (used.join(), deleted)
        });
        let used = used.map_err(|_| anyhow::anyhow!("the other client panicked"))??;
        ensure!(
            (used == 200) != (deleted? == 200),
            "{path}: used with {used}, and the network was deleted, or neither"
        );
        let mut put = client.get(path)?;
        put["devices"] = devices;
        if path == PROFILE {
            client.sync("PUT", path, &put)?;
        } else {
            client.run("PUT", path, &put)?;
        }
        if used == 200 {
            client.sync("DELETE", "/1.0/networks/net2", &Value::Null)?;
        }
    }
    Ok(())
}
