//! The bridge driver with the kernel's bridges, nft and dnsmasq, and a client that asks for an address.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hutch_driver::network::{NetworkDriver, NetworkRef, NicRef};
use hutch_driver::{Call, Drivers as _, NetnsHandle, Options};
use hutch_plugin_tests::{Machine, Network, run, with_drivers};

const COMPILER: &str = env!("CARGO_BIN_EXE_compile-drivers");

const MAC: &str = "00:16:3e:77:00:09";

/// A network namespace, held by a process that sleeps in it.
struct Guest {
    process: std::process::Child,
}

impl Guest {
    fn new() -> Self {
        let process = std::process::Command::new("unshare")
            .args(["-n", "sleep", "infinity"])
            .spawn()
            .expect("unshare is needed");
        Self { process }
    }

    fn handle(&self) -> NetnsHandle {
        // `unshare` becomes `sleep` in the new namespace: until then its own is still the caller's.
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let place = format!("/proc/{}/ns/net", self.process.id());
        while std::fs::read_link(&place).unwrap() == own {
            std::thread::yield_now();
        }
        NetnsHandle {
            id: "guest".into(),
            fd: Arc::new(File::open(&place).unwrap().into()),
        }
    }

    fn run(&self, args: &[&str]) -> String {
        let pid = self.process.id().to_string();
        run("nsenter", &[&["-t", &pid, "-n"], args].concat())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pairs(list: &[(&str, &str)]) -> Options {
    list.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn nic(config: &[(&str, &str)], netns: &str) -> NicRef {
    NicRef {
        project: "default".into(),
        instance: "c1".into(),
        device: "eth0".into(),
        host_name: "vethtest0".into(),
        guest_name: "eth0".into(),
        hwaddr: MAC.into(),
        netns: netns.into(),
        config: pairs(config),
    }
}

/// Asks for an address by DHCP and sets it, as a busybox image does.
fn ask(guest: &Guest, dir: &Path) {
    let script = dir.join("udhcpc.sh");
    let text = "#!/bin/sh\n[ \"$1\" = bound ] && ip addr replace \"$ip/24\" dev \"$interface\" && ip route replace default via \"$router\"\nexit 0\n";
    std::fs::write(&script, text).unwrap();
    run("chmod", &["755", script.to_str().unwrap()]);
    guest.run(&["ip", "link", "set", "eth0", "up"]);
    guest.run(&[
        "busybox",
        "udhcpc",
        "-i",
        "eth0",
        "-n",
        "-q",
        "-f",
        "-t",
        "20",
        "-T",
        "1",
        "-s",
        script.to_str().unwrap(),
    ]);
}

async fn serves(machine: Machine) {
    let driver = machine.host.network("bridge").unwrap();
    let driver: &dyn NetworkDriver = driver.as_ref();
    let guest = Guest::new();
    let mut events = machine.host.events();
    let mut call = Call::new("default", "hbr0");
    call.links = vec!["hbr0".into(), "vethtest0".into()];
    call.netns.push(guest.handle());

    let mut network = NetworkRef {
        project: "default".into(),
        name: "hbr0".into(),
        config: Options::new(),
    };
    network.config = driver.validate(&call, &network, None).await.unwrap();
    assert!(network.config.contains_key("ipv4.address") && network.config.contains_key("ipv6.address"));
    network.config.extend(pairs(&[
        ("ipv4.address", "10.77.0.1/24"),
        ("ipv6.address", "fd42:77::1/64"),
    ]));
    for _ in 0..2 {
        driver.start(&call, &network).await.unwrap();
    }
    assert!(run("ip", &["-br", "addr", "show", "hbr0"]).contains("10.77.0.1/24"));
    assert!(run("nft", &["list", "ruleset"]).contains("masquerade"));

    let wanted = nic(&[("ipv4.address", "10.77.0.9")], "guest");
    driver.validate_nic(&call, &network, &wanted.config).await.unwrap();
    for _ in 0..2 {
        driver.attach(&call, &network, &wanted).await.unwrap();
    }
    ask(&guest, &machine.dir);
    let addresses = guest.run(&["ip", "-4", "addr", "show", "eth0"]);
    let has_static = addresses.contains("10.77.0.9/24");
    assert!(
        has_static,
        "the static lease is given: {addresses}{}",
        machine.service_logs()
    );
    guest.run(&["busybox", "ping", "-c", "1", "-W", "5", "10.77.0.1"]);
    let answer = guest.run(&["busybox", "nslookup", "c1.hutch", "10.77.0.1"]);
    assert!(answer.contains("10.77.0.9"), "{answer}");
    let event = tokio::time::timeout(Duration::from_secs(20), events.next())
        .await
        .expect("an event")
        .expect("more to come");
    assert_eq!((event.object.as_str(), event.topic.as_str()), ("hbr0", "leases"));

    let leases = driver
        .leases(&call, &network, std::slice::from_ref(&wanted))
        .await
        .unwrap();
    let of_kind = |kind: &str| leases.iter().filter(|lease| lease.kind == kind).count();
    assert_eq!((of_kind("gateway"), of_kind("static")), (2, 1), "{leases:?}");

    let mut changed = network.clone();
    changed
        .config
        .extend(pairs(&[("ipv4.nat", "false"), ("ipv6.nat", "false")]));
    driver.update(&call, &changed, &network.config).await.unwrap();
    assert!(!run("nft", &["list", "ruleset"]).contains("masquerade"));

    let logs = machine.service_logs();
    assert_eq!(
        logs.matches("started, version").count(),
        1,
        "dnsmasq was never restarted: {logs}"
    );

    let gone = nic(&[], "");
    for _ in 0..2 {
        driver.detach(&call, &network, &gone).await.unwrap();
    }
    let error = driver
        .validate_nic(&call, &network, &pairs(&[("ipv4.address", "192.0.2.1")]))
        .await
        .unwrap_err();
    assert!(
        error.is("invalid") && error.plugin == "org.hutch.network.bridge",
        "{error}"
    );
    for _ in 0..2 {
        driver.stop(&call, &network).await.unwrap();
    }
    let links = run("ip", &["-br", "link"]);
    assert!(!links.contains("hbr0"), "{links}");
    assert_eq!(run("nft", &["list", "ruleset"]).trim(), "");
}

#[test]
fn a_bridge_gives_addresses_names_and_nat() {
    with_drivers(&["hutch-plugin-network-bridge"], COMPILER, Network::Own, serves);
}
