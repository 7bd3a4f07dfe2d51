//! Interfaces for real: needs root. Each test works in a network namespace of its own.

use std::os::fd::AsFd as _;

use hutch_net::{Handle, MacAddress, NetnsProbe, Prefix, Veth};

/// Runs `test` in a new network namespace, which everything that it starts belongs to.
fn in_new_netns(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        leave_netns();
        test();
    });
    thread.join().expect("the test in its namespace");
}

/// This thread, which ends with its test, leaves its namespace for a new one.
fn leave_netns() {
    #[allow(
        deprecated,
        reason = "the safe form; the newer one is unsafe because of flags that are not used here"
    )]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("root is needed");
}

/// Another namespace, held open.
fn other_netns() -> std::fs::File {
    std::thread::spawn(|| {
        leave_netns();
        std::fs::File::open("/proc/thread-self/ns/net").expect("the namespace's file")
    })
    .join()
    .expect("a namespace")
}

fn mac(text: &str) -> MacAddress {
    text.parse().expect("a hardware address")
}

#[test]
fn a_pair_is_made_in_one_step_and_again() {
    in_new_netns(|| {
        let handle = Handle::open().unwrap();
        handle
            .ensure_bridge("br0", Some(mac("00:16:3e:00:00:01")), Some(1400))
            .unwrap();
        handle
            .ensure_bridge("br0", Some(mac("00:16:3e:00:00:02")), Some(1300))
            .unwrap();
        let bridge = handle.get("br0").unwrap().unwrap();
        assert_eq!(
            (bridge.kind.as_str(), bridge.hwaddr.as_str(), bridge.mtu),
            ("bridge", "00:16:3e:00:00:02", 1300)
        );

        let netns = other_netns();
        let veth = Veth {
            name: "veth0",
            bridge: Some("br0"),
            netns: netns.as_fd(),
            guest_name: "eth0",
            hwaddr: mac("00:16:3e:00:00:03"),
            mtu: None,
        };
        handle.ensure_veth(&veth).unwrap();
        let host = handle.get("veth0").unwrap().unwrap();
        assert_eq!(
            (host.kind.as_str(), host.master, host.up, host.mtu),
            ("veth", Some(bridge.index), true, 1300)
        );

        let mut probe = NetnsProbe::open(netns.as_fd()).unwrap();
        let inside = probe.interfaces().unwrap();
        let eth0 = inside.iter().find(|i| i.name == "eth0").expect("the guest's end");
        assert_eq!(
            (eth0.hwaddr.as_str(), eth0.up, eth0.mtu),
            ("00:16:3e:00:00:03", false, 1300)
        );
        assert!(inside.iter().any(|i| i.loopback));

        // The same again changes nothing, and a port that was taken out is put back.
        handle.ensure_veth(&veth).unwrap();
        assert_eq!(handle.get("veth0").unwrap().unwrap().index, host.index);
        handle.ensure_veth(&Veth { bridge: None, ..veth }).unwrap();
        assert_eq!(handle.get("veth0").unwrap().unwrap().master, None);

        // Another guest wants the name: the pair that has it stays.
        let second = other_netns();
        let other = Veth {
            netns: second.as_fd(),
            hwaddr: mac("00:16:3e:00:00:04"),
            ..veth
        };
        assert!(matches!(
            handle.ensure_veth(&other),
            Err(hutch_net::Error::Taken { .. })
        ));
        assert!(probe.interfaces().unwrap().iter().any(|i| i.name == "eth0"));

        // Another namespace of the same guest wants it: the old pair goes.
        handle
            .ensure_veth(&Veth {
                netns: second.as_fd(),
                ..veth
            })
            .unwrap();
        assert!(!probe.interfaces().unwrap().iter().any(|i| i.name == "eth0"));

        assert!(handle.set_bridge_port("br0", Some(true), None).is_err());
        handle.set_bridge_port("veth0", Some(true), Some(true)).unwrap();
        let shown = std::process::Command::new("bridge")
            .args(["-d", "link", "show", "dev", "veth0"])
            .output()
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("hairpin on") && shown.contains("isolated on"), "{shown}");
        handle.delete("veth0").unwrap();
        handle.delete("veth0").unwrap();
        assert!(handle.get("veth0").unwrap().is_none());
    });
}

#[test]
fn addresses_become_exactly_those_asked_for() {
    in_new_netns(|| {
        let handle = Handle::open().unwrap();
        handle.ensure_bridge("br0", None, None).unwrap();
        handle.set_up("br0", true).unwrap();
        let index = handle.get("br0").unwrap().unwrap().index;
        let addresses = |list: &[&str]| list.iter().map(|p| p.parse().unwrap()).collect::<Vec<Prefix>>();
        let present = || {
            let mut list: Vec<String> = handle
                .addresses(index)
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .filter(|a| !a.starts_with("fe80"))
                .collect();
            list.sort();
            list
        };
        handle
            .set_addresses("br0", &addresses(&["10.9.0.1/24", "10.9.0.2/24", "fd09::1/64"]))
            .unwrap();
        assert_eq!(present(), ["10.9.0.1/24", "10.9.0.2/24", "fd09::1/64"]);
        // The primary address goes, and its secondary one stays.
        handle
            .set_addresses("br0", &addresses(&["10.9.0.2/24", "fd09::2/64"]))
            .unwrap();
        assert_eq!(present(), ["10.9.0.2/24", "fd09::2/64"]);
        let subnets: Vec<String> = handle
            .subnets_in_use()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            subnets.contains(&"10.9.0.0/24".to_owned()) && subnets.contains(&"fd09::/64".to_owned()),
            "{subnets:?}"
        );
        handle.set_addresses("br0", &[]).unwrap();
        assert!(present().is_empty());
        assert!(matches!(
            handle.set_addresses("nope", &[]),
            Err(hutch_net::Error::NotFound { .. })
        ));
        assert!(matches!(
            handle.set_up("nope", true),
            Err(hutch_net::Error::NotFound { .. })
        ));
        assert!(matches!(
            handle.ensure_bridge("lo", None, None),
            Err(hutch_net::Error::WrongKind { .. })
        ));
    });
}

#[test]
fn settings_are_written_and_read_back() {
    in_new_netns(|| {
        let handle = Handle::open().unwrap();
        handle.ensure_bridge("br0", None, None).unwrap();
        hutch_net::sysctl::set("ipv6", "br0", "disable_ipv6", "1").unwrap();
        hutch_net::sysctl::set("ipv6", "br0", "disable_ipv6", "1").unwrap();
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv6/conf/br0/disable_ipv6")
                .unwrap()
                .trim(),
            "1"
        );
        hutch_net::sysctl::enable_forwarding("ipv4").unwrap();
        hutch_net::sysctl::enable_forwarding("ipv6").unwrap();
        assert!(hutch_net::sysctl::forwarding("ipv4").unwrap() && hutch_net::sysctl::forwarding("ipv6").unwrap());
        assert!(hutch_net::sysctl::set("ipv6", "../../kernel", "x", "1").is_err());
        assert!(matches!(
            hutch_net::sysctl::set("ipv6", "nope", "disable_ipv6", "1"),
            Err(hutch_net::Error::NotFound { .. })
        ));
    });
}

/// What tc(8) says of the classes of an interface.
fn classes(name: &str) -> String {
    let output = std::process::Command::new("tc")
        .args(["class", "show", "dev", name])
        .output()
        .expect("tc");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_sent_is_limited_and_the_limit_lifted() {
    in_new_netns(|| {
        let handle = Handle::open().unwrap();
        let netns = other_netns();
        let veth = Veth {
            name: "veth0",
            bridge: None,
            netns: netns.as_fd(),
            guest_name: "eth0",
            hwaddr: mac("00:16:3e:00:00:09"),
            mtu: None,
        };
        handle.ensure_veth(&veth).unwrap();
        handle.limit_sent("veth0", None).unwrap();
        // The last one is more bytes in a second than 32 bits count.
        for (rate, shown) in [
            (1000, "rate 1Kbit"),
            (16_000_000, "rate 16Mbit"),
            (80_000_000_000, "rate 80Gbit"),
        ] {
            handle.limit_sent("veth0", Some(rate)).unwrap();
            let classes = classes("veth0");
            assert!(
                classes.contains(shown) && classes.lines().count() == 1,
                "{rate}: {classes}"
            );
        }
        for _ in 0..2 {
            handle.limit_sent("veth0", None).unwrap();
            assert_eq!(classes("veth0"), "");
        }
        let slow = handle.limit_sent("veth0", Some(999)).unwrap_err();
        assert!(matches!(slow, hutch_net::Error::Invalid(_)), "{slow}");
        let missing = handle.limit_sent("veth1", Some(1_000_000)).unwrap_err();
        assert!(matches!(missing, hutch_net::Error::NotFound { .. }), "{missing}");
    });
}

#[test]
fn tables_are_replaced_as_a_whole() {
    in_new_netns(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let table = hutch_net::nft::Table::new("inet", "hutch_test/a-b").unwrap();
            let chain = r#"{"chain": {"name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": "accept"}}"#;
            let set = r#"{"set": {"name": "s", "type": "ipv4_addr"}}"#;
            let rule = |address: &str| format!(r#"{{"rule": {{"chain": "in", "expr": [{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "ip", "field": "saddr"}}}}, "right": "{address}"}}}}, {{"drop": null}}]}}}}"#);
            table.replace(&format!("[{chain},{set},{}]", rule("10.0.0.1"))).await.unwrap();
            table.replace(&format!("[{chain},{set},{}]", rule("10.0.0.2"))).await.unwrap();
            let shown = list();
            assert!(shown.contains("10.0.0.2") && !shown.contains("10.0.0.1"), "{shown}");
            table.change_elements("s", &[r#""10.1.1.1""#.into(), r#""10.1.1.2""#.into()], &[]).await.unwrap();
            table.change_elements("s", &[], &[r#""10.1.1.1""#.into(), r#""10.1.1.9""#.into()]).await.unwrap();
            let shown = list();
            assert!(shown.contains("10.1.1.2") && !shown.contains("10.1.1.1 ") && !shown.contains("10.1.1.9"), "{shown}");
            // A broken ruleset leaves the table as it was.
            let error = table.replace(r#"[{"rule": {"chain": "none", "expr": [{"drop": null}]}}]"#).await.unwrap_err();
            assert!(error.to_string().contains("nft refused"), "{error}");
            assert_eq!(list(), shown);
            table.delete().await.unwrap();
            table.delete().await.unwrap();
            assert!(!list().contains("hutch_test"));
        });
    });
}

fn list() -> String {
    let output = std::process::Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .expect("nft");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn making_a_pair_is_fast() {
    in_new_netns(|| {
        let handle = Handle::open().unwrap();
        handle.ensure_bridge("br0", None, None).unwrap();
        handle.set_up("br0", true).unwrap();
        let namespaces: Vec<_> = (0..20).map(|_| other_netns()).collect();
        let mut times = Vec::new();
        for (index, netns) in namespaces.iter().enumerate() {
            let name = format!("veth{index}");
            let start = std::time::Instant::now();
            let veth = Veth {
                name: &name,
                bridge: Some("br0"),
                netns: netns.as_fd(),
                guest_name: "eth0",
                hwaddr: mac("00:16:3e:00:00:03"),
                mtu: None,
            };
            handle.ensure_veth(&veth).unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        let mut probes: Vec<_> = namespaces
            .iter()
            .map(|netns| NetnsProbe::open(netns.as_fd()).unwrap())
            .collect();
        let start = std::time::Instant::now();
        let count: usize = probes.iter_mut().map(|probe| probe.interfaces().unwrap().len()).sum();
        let each = start.elapsed() / 20;
        println!(
            "a pair: p50 {:?}, worst {:?}; a look at a namespace: {each:?}",
            times[10], times[19]
        );
        assert!(count >= 40);
        assert!(times[10].as_millis() < 5, "{times:?}");
    });
}
