//! `examples/network-macvlan`: networks on an interface of the machine, in C. Its containers talk to a machine on the same wire.

use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, IMAGE, creation};
use hutch_tests::programs::Programs;
use hutch_tests::sandbox::Sandbox;
use hutch_tests::stock::Stock;
use serde_json::{Value, json};

use super::{build, conforms};
use crate::debian::with_debian;
use crate::network::address;

/// The address on the wire of who is not on this machine.
const OUTSIDE: &str = "10.98.0.1";

fn plugin() -> Result<PathBuf> {
    let hutch = Programs::from_environment()?.cli;
    let hutch = hutch.to_str().context("a path that is no text")?;
    build("network-macvlan", &[hutch, "plugin", "build"], "macvlan.wasm")
}

#[test]
fn it_conforms() -> Result<()> {
    conforms("network-macvlan", &plugin()?, &[], 40)
}

/// Somebody else's machine on the wire that a card of this one is on. It gives out addresses.
struct Outside {
    sandbox: Sandbox,
    server: Child,
}

impl Outside {
    fn new(daemon: &Daemon, card: &str) -> Result<Self> {
        let sandbox = Sandbox::isolated()?;
        let name = sandbox.path().file_name().context("a sandbox has a name")?;
        let name = name.to_string_lossy().into_owned();
        ip(
            daemon.sandbox(),
            &[
                "link", "add", card, "type", "veth", "peer", "name", "wire", "netns", &name,
            ],
        )?;
        ip(daemon.sandbox(), &["link", "set", card, "up"])?;
        ip(&sandbox, &["link", "set", "wire", "up"])?;
        ip(&sandbox, &["address", "add", &format!("{OUTSIDE}/24"), "dev", "wire"])?;
        let leases = sandbox.path().join("leases");
        let server = sandbox
            .command(Path::new("dnsmasq"))
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--port=0",
                "--user=root",
            ])
            .args(["--interface=wire", "--bind-interfaces", "--dhcp-authoritative"])
            .args(["--dhcp-range=10.98.0.10,10.98.0.99,1h", "--pid-file="])
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .spawn()
            .context("can't run dnsmasq")?;
        Ok(Self { sandbox, server })
    }

    /// Whether it reaches an address.
    fn pings(&self, address: &str) -> Result<bool> {
        let mut ping = self.sandbox.command(Path::new("busybox"));
        let output = ping.args(["ping", "-c", "1", "-W", "5", address]).output()?;
        Ok(output.status.success())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // What lives in the sandbox's network goes with that; this one is our child.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn ip(sandbox: &Sandbox, arguments: &[&str]) -> Result<()> {
    let output = sandbox.command(Path::new("ip")).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {said}", arguments.join(" "));
    Ok(())
}

/// An interface on the network `lan`.
fn on_lan() -> Value {
    json!({ "eth0": { "type": "nic", "name": "eth0", "network": "lan" } })
}

/// Starts an instance on the wire, which gets its address from outside.
fn launch(daemon: &Daemon, name: &str, alias: &str) -> Result<String> {
    let mut body = creation(name, &json!({ "devices": on_lan() }), true);
    body["source"]["alias"] = alias.into();
    daemon.client().run("POST", "/1.0/instances", &body)?;
    let found = address(daemon, name)?;
    ensure!(found.starts_with("10.98.0."), "{name} has the address {found}");
    Ok(found)
}

#[test]
fn containers_on_it_are_on_the_wire() -> Result<()> {
    let file = plugin()?;
    let mut daemon = with_debian()?;
    let outside = Outside::new(&daemon, "card0")?;
    let before = daemon.sandbox().interfaces()?;
    let hutch = Stock::hutch(&daemon)?;
    hutch.run(&["plugin", "install", &file.to_string_lossy(), "--yes"])?;
    let (_, refusal) = hutch.fails(&["network", "create", "lan", "--type", "macvlan", "parent=card9"])?;
    ensure!(
        refusal.contains("card9, which network lan lies on, is not there"),
        "{refusal}"
    );
    let (_, refusal) = hutch.fails(&["network", "create", "lan", "--type", "macvlan"])?;
    ensure!(refusal.contains("parent"), "{refusal}");
    hutch.run(&["network", "create", "lan", "--type", "macvlan", "parent=card0"])?;

    let small = launch(&daemon, "small", IMAGE)?;
    let large = launch(&daemon, "large", "debian")?;
    for (name, own, other) in [("small", &small, &large), ("large", &large, &small)] {
        daemon.shell(name, &format!("ping -c 1 -W 5 {OUTSIDE}"))?;
        daemon.shell(name, &format!("ping -c 1 -W 5 {other}"))?;
        ensure!(outside.pings(own)?, "{name} can't be reached from outside");
        // A hardware address of its own on the wire.
        let mac = daemon.client().get(&format!("/1.0/instances/{name}"))?["config"]["volatile.eth0.hwaddr"].clone();
        let mac = mac.as_str().context("no hardware address")?.to_owned();
        ensure!(daemon.shell(name, "cat /sys/class/net/eth0/address")? == mac);
    }

    ensure!(
        daemon.sandbox().interfaces()? == before,
        "there is something of it on the host"
    );

    // It runs on without the daemon, is stopped and started, and is taken off and put on while it runs.
    daemon.crash_and_restart()?;
    ensure!(outside.pings(&small)?, "small went with the daemon");
    daemon.change("small", "restart", true)?;
    ensure!(
        address(&daemon, "small")? == small,
        "another address for the same hardware address"
    );
    daemon.shell("small", &format!("ping -c 1 -W 5 {OUTSIDE}"))?;
    let path = "/1.0/instances/small";
    let mut client = daemon.client();
    let mut without = client.get(path)?;
    without["devices"]["eth0"] = json!({ "type": "none" });
    client.run("PUT", path, &without)?;
    let there = "[ -e /sys/class/net/eth0 ] && echo there || echo gone";
    ensure!(daemon.shell("small", there)? == "gone");
    without["devices"] = on_lan();
    client.run("PUT", path, &without)?;
    ensure!(daemon.shell("small", there)? == "there");

    // Without the permission nobody is put on the card, and the network says so.
    hutch.run(&["plugin", "revoke", "net.example.macvlan", "link"])?;
    let (_, refusal) = hutch.fails(&["launch", IMAGE, "refused", "--network", "lan"])?;
    ensure!(refusal.contains("link") && refusal.contains("not granted"), "{refusal}");
    hutch.run(&["plugin", "grant", "net.example.macvlan", "link"])?;
    for name in ["small", "large"] {
        hutch.run(&["delete", name, "--force"])?;
    }
    // Its creation was not at fault.
    if client.get("/1.0/instances/refused").is_ok() {
        hutch.run(&["delete", "refused", "--force"])?;
    }
    hutch.run(&["network", "delete", "lan"])?;
    hutch.run(&["plugin", "remove", "net.example.macvlan"])?;
    ensure!(daemon.sandbox().interfaces()? == before);
    Ok(())
}
