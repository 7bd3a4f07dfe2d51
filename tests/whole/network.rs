//! Networks: addresses by DHCP, names by DNS, leases, and what is left when a network goes.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::leftovers::Leftovers;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Waits for an instance's IPv4 address as its state shows it.
pub(crate) fn address(daemon: &Daemon, instance: &str) -> Result<String> {
    let begun = Instant::now();
    loop {
        let state = daemon.client().get(&format!("/1.0/instances/{instance}/state"))?;
        let found = state["network"]["eth0"]["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|address| address["family"] == "inet" && address["scope"] == "global");
        if let Some(found) = found {
            return Ok(found["address"]
                .as_str()
                .context("an address that is no text")?
                .to_owned());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "{instance} got no address: {}",
            state["network"]
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn instances_get_addresses_names_and_reach_each_other() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.instance("c2", &json!({}))?;
    let (first, second) = (address(&daemon, "c1")?, address(&daemon, "c2")?);
    ensure!(first.starts_with("10.213.") && first != second, "{first} {second}");
    daemon.shell("c1", &format!("ping -c 1 -W 5 {second}"))?;
    let gateway = daemon.gateway();
    daemon.shell("c1", &format!("ping -c 1 -W 5 {gateway}"))?;
    let by_name = daemon.shell("c1", &format!("nslookup c2 {gateway}"))?;
    ensure!(by_name.contains(&second), "{by_name}");
    let leases = daemon
        .client()
        .get(&format!("/1.0/networks/{}/leases", daemon.network()))?;
    for (name, address) in [("c1", &first), ("c2", &second)] {
        let found = leases
            .as_array()
            .into_iter()
            .flatten()
            .any(|lease| lease["hostname"] == name && lease["address"] == **address && lease["type"] == "dynamic");
        ensure!(found, "no lease of {name} for {address}: {leases}");
    }
    Ok(())
}

#[test]
fn a_static_address_is_given_and_listed() -> Result<()> {
    let daemon = Daemon::start()?;
    let network = daemon.network();
    let nic = json!({ "type": "nic", "name": "eth0", "network": network, "ipv4.address": "10.213.0.77" });
    daemon.instance("c1", &json!({ "devices": { "eth0": nic } }))?;
    ensure!(address(&daemon, "c1")? == "10.213.0.77");
    let leases = daemon.client().get(&format!("/1.0/networks/{network}/leases"))?;
    let fixed = leases
        .as_array()
        .into_iter()
        .flatten()
        .any(|lease| lease["address"] == "10.213.0.77" && lease["type"] == "static");
    ensure!(fixed, "{leases}");
    Ok(())
}

#[test]
fn leases_and_names_outlive_the_daemon() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let before = address(&daemon, "c1")?;
    daemon.kill()?;
    // Nobody but the network's own services is there now.
    let busybox = std::path::Path::new("/bin/busybox");
    let lookup = daemon
        .sandbox()
        .command(busybox)
        .args(["nslookup", "c1", daemon.gateway()])
        .output()?;
    let lookup = String::from_utf8_lossy(&lookup.stdout).into_owned();
    ensure!(
        lookup.contains(&before),
        "the name is not known without the daemon: {lookup}"
    );
    let alive = daemon
        .sandbox()
        .command(busybox)
        .args(["ping", "-c", "1", "-W", "5", &before])
        .output()?;
    ensure!(
        alive.status.success(),
        "the container is not reached without the daemon"
    );
    daemon.launch(&[])?;
    ensure!(address(&daemon, "c1")? == before);
    daemon.instance("c2", &json!({}))?;
    ensure!(address(&daemon, "c2")? != before);
    Ok(())
}

#[test]
fn a_network_in_use_stays_and_an_unused_one_goes_whole() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let before = Leftovers::settled(&daemon)?;
    let body = json!({ "name": "second", "type": "bridge", "config": { "ipv4.address": "10.214.0.1/24", "ipv4.nat": "true", "ipv6.address": "fd42:1::1/64" } });
    client.sync("POST", "/1.0/networks", &body)?;
    let network = client.get("/1.0/networks/second")?;
    ensure!(
        network["managed"] == true && network["status"] == "Created" && network["type"] == "bridge",
        "{network}"
    );
    let state = client.get("/1.0/networks/second/state")?;
    let addresses = state["addresses"].to_string();
    ensure!(
        addresses.contains("10.214.0.1") && addresses.contains("fd42:1::1"),
        "{state}"
    );
    let nic = json!({ "type": "nic", "name": "eth1", "network": "second" });
    daemon.instance("c1", &json!({ "devices": { "eth1": nic } }))?;
    let used_by = client.get("/1.0/networks/second")?["used_by"].to_string();
    ensure!(used_by.contains("/1.0/instances/c1"), "{used_by}");
    let (status, message) = client.refused("DELETE", "/1.0/networks/second", &Value::Null)?;
    ensure!(
        status == 400 && message.to_lowercase().contains("in use"),
        "{status} {message}"
    );
    daemon.change("c1", "stop", true)?;
    client.run("DELETE", "/1.0/instances/c1", &Value::Null)?;
    client.sync("DELETE", "/1.0/networks/second", &Value::Null)?;
    let after = Leftovers::settled(&daemon)?;
    ensure!(!format!("{after:?}").contains("second"), "left over: {after:?}");
    drop(before);
    Ok(())
}

#[test]
fn wrong_settings_are_refused_by_name_and_change_nothing() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let path = format!("/1.0/networks/{}", daemon.network());
    let before = client.get(&path)?["config"].clone();
    for (key, value) in [
        ("ipv4.address", "10.213.0.1"),
        ("ipv4.address", "no address"),
        ("ipv4.nat", "perhaps"),
        ("bridge.mtu", "-1"),
        ("no.such.key", "1"),
        ("ipv4.dhcp.ranges", "10.213.0.9-$(reboot)"),
    ] {
        let (status, message) = client.refused("PATCH", &path, &json!({ "config": { key: value } }))?;
        ensure!(
            status == 400 && message.contains(key),
            "{key}={value}: {status} {message}"
        );
    }
    for name in ["x", "a-name-longer-than-fifteen", "a/b", "..", "a b"] {
        let (status, message) = client.refused(
            "POST",
            "/1.0/networks",
            &json!({ "name": name, "type": "bridge", "config": {} }),
        )?;
        ensure!(status == 400, "{name}: {status} {message}");
    }
    ensure!(client.get(&path)?["config"] == before);
    Ok(())
}

#[test]
fn an_automatic_subnet_is_free_and_stays() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let mut client = daemon.client();
    client.sync(
        "POST",
        "/1.0/networks",
        &json!({ "name": "auto0", "type": "bridge", "config": {} }),
    )?;
    let config = client.get("/1.0/networks/auto0")?["config"].clone();
    let chosen = config["ipv4.address"]
        .as_str()
        .context("no subnet was chosen")?
        .to_owned();
    ensure!(chosen.ends_with("/24") && !chosen.starts_with("10.213."), "{chosen}");
    ensure!(
        config["ipv6.address"]
            .as_str()
            .is_some_and(|prefix| prefix.starts_with("fd42:") && prefix.ends_with("/64")),
        "{config}"
    );
    daemon.stop()?;
    daemon.launch(&[])?;
    ensure!(daemon.client().get("/1.0/networks/auto0")?["config"]["ipv4.address"] == chosen.as_str());
    Ok(())
}
