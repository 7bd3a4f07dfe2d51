//! What is allowed to an interface: how fast, from which addresses, and to whom. Everything with traffic between containers.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::leftovers::Leftovers;
use hutch_tests::stock::Stock;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::network::address;

fn nic(network: &str, more: &[(&str, &str)]) -> Value {
    let mut device = json!({ "type": "nic", "name": "eth0", "network": network });
    for (key, value) in more {
        device[*key] = (*value).into();
    }
    device
}

/// Changes the interface of an instance that runs.
fn set(daemon: &Daemon, instance: &str, device: &Value) -> Result<()> {
    let path = format!("/1.0/instances/{instance}");
    let mut client = daemon.client();
    let mut now = client.get(&path)?;
    now["devices"]["eth0"] = device.clone();
    client.run("PUT", &path, &now).map(drop)
}

/// Counts what comes in one connection. Its own side stays open as long: whoever hears of its end stops sending.
const LISTEN: &str = "[ -p /root/open ] || mkfifo /root/open; nc -l -p 5000 0<>/root/open | wc -c";

/// Bits per second at which so many bytes go from one instance to the other, whose address is given.
fn rate(daemon: &Daemon, from: &str, (to, at): (&str, &str), bytes: u32) -> Result<f64> {
    let blocks = bytes.div_ceil(65536);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| daemon.shell(to, LISTEN));
        // The receiver listens when its socket is in the table (proc_net_tcp(5): port 5000, state LISTEN).
        let listens = "until grep -q ':1388 [0:]* 0A' /proc/net/tcp /proc/net/tcp6; do :; done";
        daemon.shell(to, listens)?;
        let script = format!("dd if=/dev/zero bs=65536 count={blocks} 2>/dev/null | nc {at} 5000");
        let begun = Instant::now();
        daemon.shell(from, &script)?;
        let received = receiver
            .join()
            .map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        let took = begun.elapsed();
        ensure!(received.trim() == (blocks * 65536).to_string(), "{received} bytes came");
        Ok(f64::from(blocks * 65536) * 8.0 / took.as_secs_f64())
    })
}

fn pings(daemon: &Daemon, from: &str, arguments: &str) -> Result<bool> {
    let answer = daemon.shell(
        from,
        &format!("ping -c 3 -W 1 {arguments} >/dev/null 2>&1 && echo yes || echo no"),
    )?;
    Ok(answer == "yes")
}

#[test]
fn traffic_is_as_fast_as_it_may_be() -> Result<()> {
    const LIMIT: f64 = 16e6;
    let daemon = Daemon::start()?;
    let network = daemon.network();
    daemon.instance("c1", &json!({ "devices": { "eth0": nic(&network, &[]) } }))?;
    daemon.instance("c2", &json!({}))?;
    let (first, second) = (address(&daemon, "c1")?, address(&daemon, "c2")?);
    let before = daemon.shell("c1", "cat /sys/class/net/eth0/ifindex")?;

    // In each direction, set while it runs; the interface stays the one that it is.
    for (key, from, to) in [
        ("limits.ingress", "c2", ("c1", &first)),
        ("limits.egress", "c1", ("c2", &second)),
    ] {
        set(&daemon, "c1", &nic(&network, &[(key, "16Mbit")]))?;
        let measured = rate(&daemon, from, (to.0, to.1), 12 << 20)?;
        ensure!(
            measured < LIMIT * 2.0 && measured > LIMIT / 8.0,
            "{key}: {measured} bit/s"
        );
        let other = match from {
            "c2" => rate(&daemon, "c1", ("c2", &second), 12 << 20)?,
            _ => rate(&daemon, "c2", ("c1", &first), 12 << 20)?,
        };
        ensure!(
            other > LIMIT * 2.5,
            "{key} limits the other direction, too: {other} bit/s"
        );
    }
    ensure!(
        daemon.shell("c1", "cat /sys/class/net/eth0/ifindex")? == before,
        "it was made anew"
    );

    // One key for both, kept by a stop and a start, and nothing of it left when it is taken away.
    set(&daemon, "c1", &nic(&network, &[("limits.max", "16Mbit")]))?;
    daemon.change("c1", "restart", true)?;
    let first = address(&daemon, "c1")?;
    for (from, to) in [("c2", ("c1", first.as_str())), ("c1", ("c2", second.as_str()))] {
        let measured = rate(&daemon, from, to, 12 << 20)?;
        ensure!(
            measured < LIMIT * 2.0 && measured > LIMIT / 8.0,
            "from {from}: {measured} bit/s"
        );
    }
    set(&daemon, "c1", &nic(&network, &[]))?;
    for (from, to) in [("c2", ("c1", first.as_str())), ("c1", ("c2", second.as_str()))] {
        let measured = rate(&daemon, from, to, 12 << 20)?;
        ensure!(measured > LIMIT * 2.5, "from {from} without a limit: {measured} bit/s");
    }
    let wrong = nic(&network, &[("limits.max", "10MB")]);
    let error = set(&daemon, "c1", &wrong).err().context("it was accepted")?;
    ensure!(format!("{error:#}").contains("limits.max"), "{error:#}");
    Ok(())
}

/// Waits for an address that an instance made itself.
fn address_v6(daemon: &Daemon, instance: &str) -> Result<String> {
    let begun = Instant::now();
    loop {
        let found = daemon.shell(
            instance,
            "ip -6 addr show dev eth0 scope global | grep -v tentative | sed -n 's|.*inet6 \\([0-9a-f:]*\\)/.*|\\1|p' | head -n 1",
        )?;
        if !found.is_empty() {
            return Ok(found);
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "{instance} made itself no address"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn only_an_instances_own_addresses_pass() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let mut client = daemon.client();
    let config = json!({ "ipv4.address": "10.214.0.1/24", "ipv6.address": "fd42:7::1/64", "ipv4.nat": "false" });
    client.sync(
        "POST",
        "/1.0/networks",
        &json!({ "name": "filt0", "type": "bridge", "config": config }),
    )?;
    daemon.instance("peer", &json!({ "devices": { "eth0": nic("filt0", &[]) } }))?;
    let (peer, peer_v6) = (address(&daemon, "peer")?, address_v6(&daemon, "peer")?);
    let before = Leftovers::settled(&daemon)?;
    let filtered = nic(
        "filt0",
        &[("security.ipv4_filtering", "true"), ("security.ipv6_filtering", "true")],
    );
    daemon.instance("c1", &json!({ "devices": { "eth0": filtered } }))?;
    let (own, own_v6) = (address(&daemon, "c1")?, address_v6(&daemon, "c1")?);
    ensure!(
        pings(&daemon, "c1", &peer)? && pings(&daemon, "peer", &own)?,
        "its own address does not pass"
    );
    ensure!(
        pings(&daemon, "c1", &format!("-6 {peer_v6}"))?,
        "its own IPv6 address {own_v6} does not pass"
    );
    ensure!(pings(&daemon, "peer", &format!("-6 {own_v6}"))?);

    daemon.shell(
        "c1",
        "ip addr add 10.214.0.200/24 dev eth0; ip -6 addr add fd42:7::bad/64 dev eth0; \
         while ip -6 addr show dev eth0 | grep -q tentative; do sleep 0.1; done",
    )?;
    // At a time: what does not pass is waited for.
    let spoofs = |daemon: &Daemon| -> Result<[bool; 4]> {
        let tries = [
            ("c1", format!("-I 10.214.0.200 {peer}")),
            ("peer", "10.214.0.200".to_owned()),
            ("c1", format!("-6 -I fd42:7::bad {peer_v6}")),
            ("peer", "-6 fd42:7::bad".to_owned()),
        ];
        std::thread::scope(|scope| {
            let running = tries.map(|(from, arguments)| scope.spawn(move || pings(daemon, from, &arguments)));
            let mut passed = [false; 4];
            for (passed, one) in passed.iter_mut().zip(running) {
                *passed = one.join().map_err(|_| anyhow::anyhow!("a ping panicked"))??;
            }
            Ok(passed)
        })
    };
    ensure!(
        spoofs(&daemon)? == [false; 4],
        "another's address passes: {:?}",
        spoofs(&daemon)?
    );
    ensure!(pings(&daemon, "c1", &peer)?);
    // Without a daemon, and with its next one.
    daemon.crash_and_restart()?;
    ensure!(
        spoofs(&daemon)? == [false; 4],
        "after a restart of the daemon: {:?}",
        spoofs(&daemon)?
    );

    // Taken off and put on again while it runs, where it is.
    set(&daemon, "c1", &nic("filt0", &[]))?;
    ensure!(
        spoofs(&daemon)? == [true; 4],
        "without a filter: {:?}",
        spoofs(&daemon)?
    );
    set(&daemon, "c1", &nic("filt0", &[("security.mac_filtering", "true")]))?;
    ensure!(
        pings(&daemon, "c1", &format!("-I 10.214.0.200 {peer}"))?,
        "addresses are filtered, too"
    );
    let hwaddr = daemon.shell("c1", "cat /sys/class/net/eth0/address")?;
    let as_other = |mac: &str| daemon.shell("c1", &format!("ip link set eth0 address {mac}"));
    as_other("02:00:00:00:00:99")?;
    ensure!(!pings(&daemon, "c1", &peer)?, "another's hardware address passes");
    as_other(&hwaddr)?;
    ensure!(
        pings(&daemon, "c1", &peer)?,
        "its own hardware address does not pass any more"
    );
    set(&daemon, "c1", &filtered)?;
    ensure!(spoofs(&daemon)? == [false; 4], "filtered again: {:?}", spoofs(&daemon)?);

    // No address of a family at all, and one that the network does not give out.
    set(
        &daemon,
        "c1",
        &nic(
            "filt0",
            &[("security.ipv4_filtering", "true"), ("ipv4.address", "none")],
        ),
    )?;
    ensure!(!pings(&daemon, "c1", &peer)?, "IPv4 passes");
    let wrong = nic("filt0", &[("ipv4.address", "none")]);
    ensure!(
        set(&daemon, "c1", &wrong).is_err(),
        "an address none without a filter was accepted"
    );
    if let Some(incus) = Stock::incus(&daemon) {
        incus.run(&["config", "device", "unset", "c1", "eth0", "ipv4.address"])?;
        incus.run(&["config", "device", "set", "c1", "eth0", "security.ipv4_filtering=true"])?;
        ensure!(!pings(&daemon, "peer", "10.214.0.200")?);
    }
    daemon.change("c1", "stop", true)?;
    daemon.client().run("DELETE", "/1.0/instances/c1", &Value::Null)?;
    before.compare_with_now(&daemon)?;
    let tables = daemon
        .sandbox()
        .command(std::path::Path::new("/usr/sbin/nft"))
        .args(["list", "tables", "bridge"])
        .output()?;
    ensure!(tables.stdout.is_empty(), "{}", String::from_utf8_lossy(&tables.stdout));
    Ok(())
}

#[test]
fn isolated_ports_reach_the_others_only() -> Result<()> {
    let daemon = Daemon::start()?;
    let network = daemon.network();
    let isolated = nic(&network, &[("security.port_isolation", "true")]);
    daemon.instance("c1", &json!({ "devices": { "eth0": isolated } }))?;
    daemon.instance("c2", &json!({ "devices": { "eth0": isolated } }))?;
    daemon.instance("c3", &json!({}))?;
    let (second, third) = (address(&daemon, "c2")?, address(&daemon, "c3")?);
    ensure!(!pings(&daemon, "c1", &second)?, "isolated ports reach each other");
    ensure!(pings(&daemon, "c1", &third)? && pings(&daemon, "c1", daemon.gateway())?);
    set(&daemon, "c2", &nic(&network, &[]))?;
    ensure!(pings(&daemon, "c1", &second)?, "it is still isolated");
    set(&daemon, "c2", &isolated)?;
    ensure!(!pings(&daemon, "c1", &second)?, "it is not isolated again");
    Ok(())
}
