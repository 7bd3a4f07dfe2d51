//! The driver against a host in memory.

use hutch_sdk::network::{Lease, Network, NetworkRef, Nic, NicRef};
use hutch_sdk::testing::{FakeHost, for_every_crash};
use hutch_sdk::{Options, Result};

use crate::Bridge;

fn pairs(config: &[(&str, &str)]) -> Vec<(String, String)> {
    config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn network(config: &[(&str, &str)]) -> NetworkRef {
    NetworkRef {
        project: "default".into(),
        name: "br0".into(),
        config: pairs(config),
    }
}

const CONFIG: [(&str, &str); 5] = [
    ("ipv4.address", "10.1.2.1/24"),
    ("ipv4.nat", "true"),
    ("ipv6.address", "fd42:1:2:3::1/64"),
    ("ipv6.nat", "true"),
    ("volatile.bridge.hwaddr", "00:16:3e:00:00:01"),
];

fn nic(instance: &str, config: &[(&str, &str)]) -> NicRef {
    NicRef {
        project: "default".into(),
        instance: instance.into(),
        device: "eth0".into(),
        host_name: format!("veth{instance}"),
        guest_name: "eth0".into(),
        hwaddr: "00:16:3e:aa:bb:cc".into(),
        netns: "1".into(),
        config: pairs(config),
    }
}

fn create(host: &FakeHost, config: &[(&str, &str)]) -> Result<Options> {
    <Bridge as Network>::validate(host, &network(config), None).map(|pairs| Options::new(&pairs))
}

fn started() -> FakeHost {
    let host = FakeHost::new(&[]);
    Bridge::start(&host, &network(&CONFIG)).unwrap();
    host
}

fn hosts_file(host: &FakeHost, name: &str) -> Option<String> {
    let file = host
        .state()
        .services
        .get("dnsmasq")?
        .files
        .get(&format!("hosts/{name}"))
        .cloned();
    file.map(|data| String::from_utf8(data).unwrap())
}

#[test]
fn a_new_network_gets_free_subnets_nat_and_a_hardware_address() {
    let host = FakeHost::new(&[]);
    host.state().subnets = vec![
        "0.0.0.0/0".into(),
        "::/0".into(),
        "192.168.0.0/16".into(),
        "nonsense".into(),
    ];
    let config = create(&host, &[]).unwrap();
    let (v4, v6) = (config.get("ipv4.address").unwrap(), config.get("ipv6.address").unwrap());
    assert!(v4.starts_with("10.") && v4.ends_with(".1/24"), "{v4}");
    assert!(v6.starts_with("fd42:") && v6.ends_with("::1/64"), "{v6}");
    assert_eq!(
        (config.get("ipv4.nat"), config.get("ipv6.nat")),
        (Some("true"), Some("true"))
    );
    assert!(config.get("volatile.bridge.hwaddr").unwrap().starts_with("00:16:3e:"));
    let again = <Bridge as Network>::validate(&host, &network(&[]), Some(&[]))
        .map(|pairs| Options::new(&pairs))
        .unwrap();
    assert_eq!(again.get("ipv4.address"), None, "a key that was taken away stays away");
    host.state().subnets = vec!["10.0.0.0/8".into()];
    assert!(create(&host, &[]).is_err_and(|e| e.is("unavailable") && e.message.contains("ipv4")));
    let config = create(&host, &[("ipv4.address", "none"), ("ipv6.address", "fd42::1/64")]).unwrap();
    assert_eq!(
        (config.get("ipv4.address"), config.get("ipv6.nat")),
        (Some("none"), None)
    );
}

#[test]
fn bad_values_are_refused_by_key() {
    let host = FakeHost::new(&[]);
    for (key, value) in [
        ("no.such.key", "1"),
        ("ipv4.address", "10.0.0.1"),
        ("ipv4.address", "10.0.0.0/24"),
        ("ipv4.address", "10.0.0.255/24"),
        ("ipv4.address", "10.0.0.1/31"),
        ("ipv6.address", "fd42::/64"),
        ("ipv6.address", "fd42::1/80"),
        ("ipv4.nat", "perhaps"),
        ("ipv4.dhcp.ranges", "10.9.9.1-10.9.9.9"),
        ("ipv4.dhcp.ranges", "10.1.2.9-10.1.2.8"),
        ("ipv4.dhcp.expiry", "1h,set:x"),
        ("ipv4.dhcp.gateway", "10.9.9.1"),
        ("ipv6.dhcp.expiry", "soon"),
        ("dns.mode", "maybe"),
        ("dns.domain", "a b"),
        ("dns.domain", "a,b"),
        ("dns.domain", "lan/192.168.0.1"),
        ("dns.search", "ok,-no"),
        ("bridge.mtu", "1000"),
        ("bridge.hwaddr", "01:00:00:00:00:00"),
        ("bridge.driver", "openvswitch"),
        ("raw.dnsmasq", "dhcp-script=/bin/sh"),
    ] {
        let mut config = CONFIG.to_vec();
        config.retain(|(k, _)| *k != key);
        config.push((key, value));
        let error = create(&host, &config).unwrap_err();
        assert!(error.message.contains(key), "{key}={value}: {error}");
    }
    host.state().config.insert("allow-raw-dnsmasq".into(), "true".into());
    assert!(create(&host, &[("raw.dnsmasq", "log-dhcp")]).is_ok());
    for name in ["", "x", "lo", "sixteen-letters-", "a/b", "br 0", "-br0", ".."] {
        let network = NetworkRef {
            name: name.into(),
            ..network(&CONFIG)
        };
        assert!(
            <Bridge as Network>::validate(&host, &network, None).is_err_and(|e| e.is("invalid")),
            "{name:?}"
        );
    }
}

#[test]
fn starting_makes_bridge_addresses_filter_and_dnsmasq_and_again_changes_nothing() {
    let host = started();
    let link = host.state().links.get("br0").cloned().unwrap();
    assert!(link.up);
    assert_eq!(link.hwaddr.as_deref(), Some("00:16:3e:00:00:01"));
    assert_eq!(link.addresses, ["10.1.2.1/24", "fd42:1:2:3::1/64"]);
    assert_eq!(link.options.get("ipv4.forwarding").map(String::as_str), Some("1"));
    let service = host.state().services.get("dnsmasq").cloned().unwrap();
    assert!(
        service.args.contains(&"--dhcp-range=10.1.2.2,10.1.2.254,1h".to_owned()),
        "{:?}",
        service.args
    );
    assert!(
        service
            .args
            .contains(&"--dhcp-range=::,constructor:br0,ra-stateless,ra-names".to_owned())
    );
    assert_eq!(
        host.state().watches,
        [("dnsmasq".into(), "leases".into(), "leases".into())]
    );
    Bridge::start(&host, &network(&CONFIG)).unwrap();
    assert_eq!(host.state().services.get("dnsmasq").unwrap().starts, 1);
    assert_eq!(host.state().links.get("br0"), Some(&link));
    for _ in 0..2 {
        Bridge::stop(&host, &network(&CONFIG)).unwrap();
        let state = host.state();
        assert!(state.links.is_empty() && state.services.is_empty() && state.tables.is_empty());
    }
}

#[test]
fn a_kernel_without_ipv6_gets_the_rest() {
    let host = FakeHost::new(&[]);
    host.state().lacks_ipv6 = true;
    Bridge::start(&host, &network(&CONFIG)).unwrap();
    let state = host.state();
    assert_eq!(state.links.get("br0").unwrap().addresses, ["10.1.2.1/24"]);
    assert!(state.log.iter().any(|(_, line)| line.contains("no IPv6")));
    assert!(
        !state
            .services
            .get("dnsmasq")
            .unwrap()
            .args
            .contains(&"--enable-ra".to_owned())
    );
}

#[test]
fn an_update_restarts_dnsmasq_only_where_it_must() {
    let host = started();
    let mut config = CONFIG.to_vec();
    config.push(("ipv4.firewall", "false"));
    Bridge::update(&host, &network(&config), &pairs(&CONFIG)).unwrap();
    assert_eq!(host.state().services.get("dnsmasq").unwrap().starts, 1);
    config.push(("dns.domain", "example.org"));
    Bridge::update(&host, &network(&config), &pairs(&CONFIG)).unwrap();
    assert_eq!(host.state().services.get("dnsmasq").unwrap().starts, 2);
    let bare = [("ipv4.address", "none"), ("ipv6.address", "none")];
    Bridge::update(&host, &network(&bare), &pairs(&config)).unwrap();
    let state = host.state();
    assert!(state.services.is_empty() && state.tables.is_empty());
    assert_eq!(state.links.get("br0").unwrap().addresses, Vec::<String>::new());
}

#[test]
fn the_filter_translates_routes_or_rejects() {
    let table = |config: &[(&str, &str)]| {
        let host = FakeHost::new(&[]);
        Bridge::start(&host, &network(config)).unwrap();
        let table = host
            .state()
            .tables
            .get(&("inet".to_owned(), "bridge".to_owned()))
            .cloned();
        table.unwrap_or_default()
    };
    let nat = table(&CONFIG);
    assert!(
        nat.contains("masquerade") && nat.contains(r#""addr":"10.1.2.0","len":24"#),
        "{nat}"
    );
    let fixed = table(&[CONFIG[0], CONFIG[1], ("ipv4.nat.address", "192.0.2.7")]);
    assert!(
        fixed.contains(r#""snat":{"addr":"192.0.2.7","family":"ip"}"#) && !fixed.contains("masquerade"),
        "{fixed}"
    );
    let closed = table(&[CONFIG[0], ("ipv4.routing", "false"), ("ipv4.firewall", "false")]);
    assert!(
        closed.contains("admin-prohibited") && !closed.contains("accept\":null"),
        "{closed}"
    );
    assert_eq!(table(&[CONFIG[0], ("ipv4.firewall", "false")]), "");
}

#[test]
fn connecting_an_instance_writes_its_file_and_never_restarts_dnsmasq() {
    let host = started();
    let n = nic("C1", &[("ipv4.address", "10.1.2.9")]);
    for _ in 0..2 {
        Bridge::attach(&host, &network(&CONFIG), &n).unwrap();
    }
    assert_eq!(
        hosts_file(&host, "default_C1.eth0").as_deref(),
        Some("00:16:3e:aa:bb:cc,10.1.2.9,c1\n")
    );
    let veth = host.state().links.get("vethC1").cloned().unwrap();
    assert_eq!(
        (veth.master.as_deref(), veth.guest),
        (Some("br0"), Some(("1".into(), "eth0".into())))
    );
    {
        let state = host.state();
        let service = state.services.get("dnsmasq").unwrap();
        assert_eq!(
            (service.starts, service.signals.len()),
            (1, 0),
            "a new file is read without a signal"
        );
    }
    Bridge::attach(&host, &network(&CONFIG), &nic("C1", &[])).unwrap();
    assert_eq!(host.state().services.get("dnsmasq").unwrap().signals, ["hup"]);
    let gone = NicRef {
        netns: String::new(),
        ..n.clone()
    };
    for _ in 0..2 {
        Bridge::detach(&host, &network(&CONFIG), &gone).unwrap();
    }
    assert_eq!(hosts_file(&host, "default_C1.eth0"), None);
    assert_eq!(host.state().services.get("dnsmasq").unwrap().signals.len(), 2);
    assert!(host.state().links.contains_key("vethC1"), "it goes with its namespace");
    Bridge::detach(&host, &network(&CONFIG), &n).unwrap();
    assert!(!host.state().links.contains_key("vethC1"));
}

#[test]
fn an_address_is_given_to_one_interface_alone() {
    let host = started();
    let attach =
        |name: &str, address: &str| Bridge::attach(&host, &network(&CONFIG), &nic(name, &[("ipv4.address", address)]));
    attach("c1", "10.1.2.9").unwrap();
    attach("c2", "10.1.2.90").unwrap();
    let error = attach("c3", "10.1.2.9").unwrap_err();
    assert!(
        error.is("in-use") && error.message.contains("default_c1.eth0"),
        "{error}"
    );
    assert_eq!(hosts_file(&host, "default_c3.eth0"), None);
    Bridge::detach(&host, &network(&CONFIG), &nic("c1", &[])).unwrap();
    attach("c3", "10.1.2.9").unwrap();
}

#[test]
fn interfaces_are_checked() {
    let host = FakeHost::new(&[]);
    let check = |config: &[(&str, &str)]| <Bridge as Nic>::validate(&host, &network(&CONFIG), &pairs(config));
    assert!(
        check(&[
            ("type", "nic"),
            ("network", "br0"),
            ("name", "eth0"),
            ("ipv4.address", "10.1.2.9")
        ])
        .is_ok()
    );
    for (key, value) in [
        ("ipv4.address", "10.1.3.9"),
        ("ipv4.address", "10.1.2.1"),
        ("ipv4.address", "10.1.2.255"),
        ("ipv4.address", "x"),
        ("ipv6.address", "fd42:1:2:3::9"),
        ("hwaddr", "zz"),
        ("mtu", "1"),
        ("security.acls", "x"),
    ] {
        assert!(
            check(&[(key, value)]).is_err_and(|e| e.message.contains(key)),
            "{key}={value}"
        );
    }
    let stateful: Vec<_> = CONFIG.into_iter().chain([("ipv6.dhcp.stateful", "true")]).collect();
    let v6 = pairs(&[("ipv6.address", "fd42:1:2:3::9")]);
    assert!(<Bridge as Nic>::validate(&host, &network(&stateful), &v6).is_ok());
}

#[test]
fn leases_are_static_dynamic_and_gateways() {
    let host = started();
    let file = "1700000000 00:16:3e:aa:bb:cc 10.1.2.77 other *\n\
                1700000000 00:16:3e:11:11:11 10.1.2.78 stranger *\n\
                1700000000 00:16:3e:aa:bb:cc 10.99.0.1 old *\n";
    host.service_file("leases", file);
    let leases = |config: &[(&str, &str)]| -> Vec<(String, String, String)> {
        let found = Bridge::leases(&host, &network(&CONFIG), &[nic("c1", config)]).unwrap();
        found.into_iter().map(|l| (l.hostname, l.address, l.kind)).collect()
    };
    let line = |h: &str, a: &str, k: &str| (h.to_owned(), a.to_owned(), k.to_owned());
    let common = [
        line("br0.gw", "10.1.2.1", "gateway"),
        line("br0.gw", "fd42:1:2:3::1", "gateway"),
    ];
    let own = line("c1", "fd42:1:2:3:216:3eff:feaa:bbcc", "dynamic");
    let dynamic = line("other", "10.1.2.77", "dynamic");
    assert_eq!(leases(&[]), [&common[..], &[own.clone(), dynamic.clone()]].concat());
    let fixed = line("c1", "10.1.2.9", "static");
    assert_eq!(
        leases(&[("ipv4.address", "10.1.2.9")]),
        [&common[..], &[fixed, own, dynamic]].concat()
    );
}

#[test]
fn reconcile_forgets_interfaces_that_are_gone() {
    let host = started();
    Bridge::attach(&host, &network(&CONFIG), &nic("c1", &[])).unwrap();
    Bridge::attach(&host, &network(&CONFIG), &nic("c2", &[])).unwrap();
    let removed = Bridge::reconcile(&host, &network(&CONFIG), &[nic("c1", &[])]).unwrap();
    assert_eq!(removed, ["the name and addresses of default_c2.eth0"]);
    assert!(hosts_file(&host, "default_c1.eth0").is_some() && hosts_file(&host, ".keep").is_some());
    assert_eq!(
        Bridge::reconcile(&host, &network(&CONFIG), &[nic("c1", &[])]).unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn every_operation_survives_a_death_at_every_call() {
    let config = network(&CONFIG);
    for_every_crash(
        &FakeHost::new(&[]),
        |h| Bridge::start(h, &config),
        |h, crash| {
            Bridge::start(h, &config).unwrap_or_else(|e| panic!("{crash:?}: {e}"));
            assert_eq!(h.state().services.get("dnsmasq").unwrap().starts, 1, "{crash:?}");
            Bridge::stop(h, &config).unwrap();
            assert!(
                h.state().links.is_empty() && h.state().services.is_empty() && h.state().tables.is_empty(),
                "{crash:?}"
            );
        },
    );
    let host = started();
    for_every_crash(
        &host,
        |h| Bridge::attach(h, &config, &nic("c1", &[])),
        |h, crash| {
            Bridge::attach(h, &config, &nic("c1", &[])).unwrap_or_else(|e| panic!("{crash:?}: {e}"));
            Bridge::detach(h, &config, &nic("c1", &[])).unwrap();
            assert_eq!(hosts_file(h, "default_c1.eth0"), None, "{crash:?}");
        },
    );
    for_every_crash(
        &host,
        |h| Bridge::stop(h, &config),
        |h, crash| {
            Bridge::stop(h, &config).unwrap_or_else(|e| panic!("{crash:?}: {e}"));
            assert!(h.state().links.is_empty() && h.state().services.is_empty(), "{crash:?}");
        },
    );
}

#[test]
fn the_operators_own_lines_change_the_arguments() {
    let host = FakeHost::new(&[]);
    host.state().config.insert("allow-raw-dnsmasq".into(), "true".into());
    let with = |lines| -> Vec<_> { CONFIG.into_iter().chain([("raw.dnsmasq", lines)]).collect() };
    for lines in ["log-dhcp", "log-queries", "log-queries"] {
        Bridge::start(&host, &network(&with(lines))).unwrap();
    }
    assert_eq!(host.state().services.get("dnsmasq").unwrap().starts, 2);
    host.state().config.clear();
    assert!(Bridge::start(&host, &network(&with("log-dhcp"))).is_err_and(|e| e.is("not-granted")));
}

#[test]
fn the_manifest_is_of_this_version() {
    let manifest = include_str!("../plugin.toml");
    assert!(manifest.contains(&format!("version = {:?}", env!("CARGO_PKG_VERSION"))));
}

trait WriteServiceFile {
    fn service_file(&self, path: &str, text: &str);
}

impl WriteServiceFile for FakeHost {
    fn service_file(&self, path: &str, text: &str) {
        self.state()
            .services
            .get_mut("dnsmasq")
            .unwrap()
            .files
            .insert(path.to_owned(), text.into());
    }
}

const FILTERED: [(&str, &str); 2] = [("security.ipv4_filtering", "true"), ("security.ipv6_filtering", "true")];

fn table(host: &FakeHost, port: &str) -> Option<String> {
    let at = ("bridge".to_owned(), format!("port.{port}"));
    host.state().tables.get(&at).cloned()
}

#[test]
fn what_is_filtered_knows_its_addresses() {
    let host = started();
    let network = network(&CONFIG);
    let given = |config: &[(&str, &str)], mac: &str, name: &str| {
        let nic = NicRef {
            hwaddr: mac.into(),
            ..nic(name, config)
        };
        Bridge::attach(&host, &network, &nic).unwrap();
        let line = hosts_file(&host, &format!("default_{name}.eth0")).unwrap();
        line.split(',').nth(1).unwrap().to_owned()
    };
    // The same hardware address would come to the same place in the range; the second finds that taken.
    let first = given(&FILTERED, "00:16:3e:00:00:07", "c1");
    let second = given(&FILTERED, "00:16:3e:00:00:07", "c2");
    assert_ne!(first, second);
    let rules = table(&host, "vethc1").unwrap();
    for expected in [
        "00:16:3e:00:00:07",
        &format!("\"{first}\""),
        // What it makes itself of the advertised subnet, and its link-local address.
        "fd42:1:2:3:216:3eff:fe00:7",
        "fe80::216:3eff:fe00:7",
        "0xfe8000000000000002163efffe000007",
    ] {
        assert!(rules.contains(expected), "{expected}: {rules}");
    }
    assert!(!rules.contains("limit"), "{rules}");
    // A static one is taken as it is; none lets nothing through.
    let fixed = [("security.ipv4_filtering", "true"), ("ipv4.address", "10.1.2.77")];
    assert_eq!(given(&fixed, "00:16:3e:00:00:08", "c3"), "10.1.2.77");
    assert!(table(&host, "vethc3").unwrap().contains("10.1.2.77"));
    let none = [("security.ipv4_filtering", "true"), ("ipv4.address", "none")];
    given(&none, "00:16:3e:00:00:09", "c4");
    assert!(!table(&host, "vethc4").unwrap().contains("saddr ip"));

    // Taken off where it is, and taken away.
    Bridge::attach(&host, &network, &nic("c3", &[])).unwrap();
    assert_eq!(table(&host, "vethc3"), None);
    Bridge::detach(&host, &network, &nic("c1", &FILTERED)).unwrap();
    assert_eq!(table(&host, "vethc1"), None);
    let removed = Bridge::reconcile(&host, &network, &[nic("c3", &[])]).unwrap();
    assert!(removed.iter().any(|what| what.contains("vethc2")), "{removed:?}");
    assert!(host.state().tables.keys().all(|(family, _)| family != "bridge"));
    assert!(host.state().kv.is_empty(), "{:?}", host.state().kv);
}

#[test]
fn limits_are_set_changed_and_lifted() {
    let host = started();
    let network = network(&CONFIG);
    let limit = |config: &[(&str, &str)]| {
        Bridge::attach(&host, &network, &nic("c1", config)).unwrap();
        let sent = host.state().links["vethc1"].limit;
        (sent, table(&host, "vethc1"))
    };
    assert_eq!(limit(&[]), (None, None));
    let (sent, rules) = limit(&[("limits.max", "8Mbit")]);
    assert_eq!(sent, Some(8_000_000));
    assert!(rules.unwrap().contains("\"rate\":1000000"));
    assert_eq!(limit(&[("limits.ingress", "1Mbit")]), (Some(1_000_000), None));
    assert_eq!(limit(&[]), (None, None));
}

#[test]
fn a_filter_that_could_know_no_address_is_refused() {
    let host = started();
    let check = |network_config: &[(&str, &str)], config: &[(&str, &str)]| {
        let network = network(network_config);
        <Bridge as Nic>::validate(&host, &network, &pairs(config)).map_err(|error| error.message)
    };
    let silent = [
        ("ipv4.address", "10.1.2.1/24"),
        ("ipv4.dhcp", "false"),
        ("ipv6.address", "none"),
    ];
    let error = check(&silent, &FILTERED).unwrap_err();
    assert!(error.contains("set ipv4.address"), "{error}");
    let mut fixed = FILTERED.to_vec();
    fixed.push(("ipv4.address", "10.1.2.9"));
    check(&silent, &fixed).unwrap();
    let error = check(&silent, &[("ipv4.address", "10.1.2.9")]).unwrap_err();
    assert!(error.contains("no DHCP"), "{error}");
    let error = check(&CONFIG, &[("ipv4.address", "none")]).unwrap_err();
    assert!(error.contains("filtered"), "{error}");
    for (key, value) in [("limits.egress", "fast"), ("security.mac_filtering", "perhaps")] {
        let error = check(&CONFIG, &[(key, value)]).unwrap_err();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn a_filter_is_there_after_a_repetition_whenever_it_was_interrupted() {
    let (network, nic) = (network(&CONFIG), nic("c1", &FILTERED));
    for_every_crash(
        &started(),
        |host| Bridge::attach(host, &network, &nic),
        |host, crash| {
            Bridge::attach(host, &network, &nic).unwrap_or_else(|error| panic!("{crash:?}: {error}"));
            assert!(table(host, "vethc1").is_some(), "{crash:?}");
            Bridge::detach(host, &network, &nic).unwrap();
            assert!(
                table(host, "vethc1").is_none() && host.state().kv.is_empty(),
                "{crash:?}"
            );
        },
    );
    let host = started();
    Bridge::attach(&host, &network, &nic).unwrap();
    for_every_crash(
        &host,
        |host| Bridge::detach(host, &network, &nic),
        |host, crash| {
            Bridge::detach(host, &network, &nic).unwrap_or_else(|error| panic!("{crash:?}: {error}"));
            assert!(
                table(host, "vethc1").is_none() && host.state().kv.is_empty(),
                "{crash:?}"
            );
        },
    );
}
