//! Attempts on programs, interfaces, packet filters, services, servers and other plugins' stores.

use hutch_sdk::host::{Macvlan, Veth};
use hutch_sdk::{Host, TreePath};

use crate::{Attempt, Outcome, at, escaped, idle, never, within};

pub(crate) fn attempt(host: &impl Host, name: &str) -> Attempt {
    match name.split('.').next().unwrap_or_default() {
        "command" => command(host, name),
        "link" => link(host, name),
        "filter" => filter(host, name),
        "service" => service(host, name),
        "kv" => kv(host, name),
        "http" => http(host, name),
        _ => other(host, name),
    }
}

/// The grant is `cat -- {tree:0}`.
fn command(host: &impl Host, name: &str) -> Attempt {
    let run = |program: &str, args: &[&str], env: &[(&str, &str)], trees: &[TreePath]| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let env: Vec<_> = env
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let output = host.command_run(program, &args, &env, trees)?;
        escaped(format!("{program} ran and ended with {}", output.status))
    };
    let planted = [at("planted")];
    match name {
        "command.other" => run("sh", &["-c", "id"], &[], &[]),
        "command.path" => run("/bin/cat", &["--", "{tree:0}"], &[], &planted),
        "command.parent" => run("../bin/cat", &["--", "{tree:0}"], &[], &planted),
        "command.argument" => run("cat", &["--", "/etc/shadow"], &[], &planted),
        "command.more" => run("cat", &["--", "{tree:0}", "/etc/shadow"], &[], &planted),
        "command.option" => run("cat", &["--number", "{tree:0}"], &[], &planted),
        "command.nul" => run("cat", &["--", "{tree:0}\0"], &[], &planted),
        "command.environment" => run("cat", &["--", "{tree:0}"], &[("LD_PRELOAD", "/tmp/x.so")], &planted),
        "command.no-tree" => run("cat", &["--", "{tree:0}"], &[], &[]),
        "command.other-tree" => run("cat", &["--", "{tree:0}"], &[], &[within("testpool", "")]),
        "command.tree-above" => run("cat", &["--", "{tree:0}"], &[], &[at("../..")]),
        "command.tree-link" => run("cat", &["--", "{tree:0}"], &[], &[at("planted/link")]),
        _ => escaped(format!("there is no attempt {name:?}")),
    }
}

/// A pool has no interfaces, so that each of the machine's is somebody else's.
fn link(host: &impl Host, name: &str) -> Attempt {
    let veth = |name, netns| Veth {
        name,
        bridge: None,
        netns,
        guest_name: "eth9",
        hwaddr: "02:00:00:00:00:09",
        mtu: None,
        options: &[],
    };
    let macvlan = |parent, netns| Macvlan {
        parent,
        netns,
        guest_name: "eth9",
        hwaddr: "02:00:00:00:00:09",
        mode: "bridge",
        mtu: None,
    };
    match name {
        "link.loopback" => never(host.link_set_up("lo", false), "took the loopback interface down"),
        "link.delete" => never(host.link_delete("testbr0"), "deleted another network's bridge"),
        "link.addresses" => never(
            host.link_set_addresses("testbr0", &[]),
            "took another network's addresses",
        ),
        "link.look" => never(host.link_get("testbr0"), "looked at another network's bridge"),
        "link.options" => never(
            host.link_set_options("lo", &[("ipv4.forwarding".to_owned(), "true".to_owned())]),
            "made the machine a router",
        ),
        "link.path" => never(host.link_set_up("../../net/ipv4", true), "used a path as a name"),
        "link.new" => never(host.link_ensure_bridge("evil0", None, None), "made a bridge"),
        "link.veth" => never(host.link_ensure_veth(&veth("evil0", "")), "made a pair of interfaces"),
        "link.namespace" => never(
            host.link_ensure_veth(&veth("evil0", "/proc/1/ns/net")),
            "got into a namespace by its path",
        ),
        "link.macvlan" => never(
            host.link_ensure_macvlan(&macvlan("testbr0", "")),
            "put an interface on another network's bridge",
        ),
        "link.macvlan-delete" => never(
            host.link_delete_macvlan("/proc/1/ns/net", "eth0", "02:00:00:00:00:09"),
            "took an interface away in a namespace by its path",
        ),
        _ => escaped(format!("there is no attempt {name:?}")),
    }
}

fn filter(host: &impl Host, name: &str) -> Attempt {
    let replace = |table: &str, family: &str, ruleset: &str| {
        never(host.filter_replace_table(table, family, ruleset), "loaded a ruleset")
    };
    // What names another table is put into this driver's own, whatever it says, and is gone with it.
    let own = |ruleset: &str| {
        host.filter_replace_table("t", "inet", ruleset)?;
        idle(host.filter_delete_table("t", "inet"))
    };
    match name {
        "filter.flush" => replace("t", "inet", r#"[{"flush":{"ruleset":null}}]"#),
        "filter.delete" => replace(
            "t",
            "inet",
            r#"[{"delete":{"table":{"family":"inet","name":"other"}}}]"#,
        ),
        "filter.other-table" => own(r#"[{"chain":{"name":"c","table":"other"}}]"#),
        "filter.other-family" => own(r#"[{"chain":{"name":"c","family":"ip"}}]"#),
        "filter.include" => replace("t", "inet", r#"[{"include":"/etc/shadow"}]"#),
        "filter.not-json" => replace("t", "inet", "flush ruleset"),
        "filter.deep" => replace("t", "inet", &"[".repeat(100_000)),
        "filter.name" => replace("t; flush ruleset", "inet", "[]"),
        "filter.family" => replace("t", "inet other", "[]"),
        "filter.elements" => never(
            host.filter_change_elements(
                "t",
                "inet",
                "s",
                &["\"x\"}]},{\"flush\":{\"ruleset\":null}".to_owned()],
                &[],
            ),
            "put a command among elements",
        ),
        _ => escaped(format!("there is no attempt {name:?}")),
    }
}

/// The grant is the program dnsmasq.
fn service(host: &impl Host, name: &str) -> Attempt {
    let ensure = |name: &str, program: &str, args: &[String]| {
        never(host.service_ensure(name, program, args, None), "started a service")
    };
    let write = |path: &str| never(host.service_write_file("evil", path, b"x"), "wrote a file");
    match name {
        "service.other" => ensure("evil", "sh", &["-c".to_owned(), "id".to_owned()]),
        "service.path" => ensure("evil", "/usr/sbin/dnsmasq", &[]),
        "service.name" => ensure("../evil", "dnsmasq", &[]),
        "service.arguments" => ensure("evil", "dnsmasq", &vec!["--test".to_owned(); 5000]),
        "service.file-above" => write("../../state.db"),
        "service.file-absolute" => write("/etc/cron.d/evil"),
        "service.file-reserved" => write(".hutch-trash/x"),
        "service.file-read" => match host.service_read_file("evil", "../../state.db")? {
            Some(_) => escaped("read a file outside"),
            None => escaped("was told that there is nothing outside"),
        },
        "service.signal" => never(host.service_signal("evil", "kill"), "sent a signal"),
        _ => escaped(format!("there is no attempt {name:?}")),
    }
}

/// The store has 64 KiB.
fn kv(host: &impl Host, name: &str) -> Attempt {
    match name {
        "kv.fill" => {
            for i in 0..10_000 {
                host.kv_set(&format!("key{i}"), &[7; 1024])?;
            }
            escaped("kept 10 MiB")
        }
        "kv.empty-values" => {
            for i in 0..100_000 {
                host.kv_set(&format!("empty{i}"), &[])?;
            }
            escaped("kept 100,000 keys")
        }
        "kv.large" => never(host.kv_set("large", &vec![7; 1 << 20]), "kept 1 MiB in one value"),
        "kv.key" => never(host.kv_set(&"k".repeat(600), b"x"), "used a key of 600 bytes"),
        "kv.others" => {
            for prefix in ["", "org.hutch.", "../", "%"] {
                let keys = host.kv_keys(prefix, None, 1000)?;
                if let Some(key) = keys
                    .iter()
                    .find(|key| !key.starts_with("key") && !key.starts_with("empty"))
                {
                    return escaped(format!("saw the key {key:?}"));
                }
            }
            Ok(Outcome::Harmless)
        }
        _ => escaped(format!("there is no attempt {name:?}")),
    }
}

/// The grant is the server that the caller named, and a pool's caller names none.
fn http(host: &impl Host, name: &str) -> Attempt {
    let get = |url: &str| never(host.http_get(url, &[], None), "fetched an address");
    match name {
        "http.loopback" => get("http://127.0.0.1:80/"),
        "http.metadata" => get("http://169.254.169.254/latest/meta-data/"),
        "http.file" => get("file:///etc/shadow"),
        "http.socket" => get("unix:///run/systemd/private"),
        "http.header" => never(
            host.http_get(
                "http://127.0.0.1/",
                &[("X".to_owned(), "a\r\nHost: b".to_owned())],
                None,
            ),
            "put a line into a header",
        ),
        _ => escaped(format!("there is no attempt {name:?}")),
    }
}

fn other(host: &impl Host, name: &str) -> Attempt {
    match name {
        "watch.topic" => idle(host.watch_changed("everything")),
        "watch.file" => never(
            host.watch_service_file("evil", "../../state.db", "state"),
            "watches a file outside",
        ),
        "watch.flood" => {
            for _ in 0..10_000 {
                host.watch_changed("state")?;
            }
            idle(Ok(()))
        }
        "system.sources" => never(host.system_package_sources(), "was told what the machine installs from"),
        _ => escaped(format!("there is no attempt {name:?}")),
    }
}
