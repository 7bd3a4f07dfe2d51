//! The network's packet filter table: rulesets as JSON (libnftables-json(5)).
//!
//! One table of the family `inet` with a chain for each hook. Rules that accept are for people who read the table and for
//! later rules in it: in another table, nft lets a packet be dropped all the same.

use hutch_sdk::{Error, Host, Result};
use serde_json::{Value, json};

use crate::cidr::{Address, Cidr};
use crate::config::{Config, DnsMode, Family};

/// The table's name, before which the host puts the network's.
const TABLE: &str = "bridge";

pub(crate) fn matches(left: &Value, op: &str, right: &Value) -> Value {
    json!({ "match": { "op": op, "left": left, "right": right } })
}

pub(crate) fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

pub(crate) fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn prefix<A: Address>(subnet: &Cidr<A>) -> Value {
    json!({ "prefix": { "addr": subnet.network().to_string(), "len": subnet.prefix } })
}

pub(crate) fn rule(chain: &str, expr: Vec<Value>) -> Value {
    json!({ "rule": { "chain": chain, "expr": expr } })
}

pub(crate) fn chain(name: &str, kind: &str, hook: &str, priority: i32) -> Value {
    json!({ "chain": { "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept" } })
}

/// What differs between the families.
struct Names {
    /// As `meta nfproto` has it.
    family: &'static str,
    /// In payload expressions and `snat`.
    protocol: &'static str,
    /// The port that DHCP servers listen on (RFC 2131; RFC 8415).
    dhcp_port: u16,
}

const V4: Names = Names {
    family: "ipv4",
    protocol: "ip",
    dhcp_port: 67,
};
const V6: Names = Names {
    family: "ipv6",
    protocol: "ip6",
    dhcp_port: 547,
};

/// The rules of one family: DHCP and DNS come in, packets are routed or rejected, and leave with the machine's address.
fn family_rules<A: Address>(bridge: &str, names: &Names, family: &Family<A>, dns: bool) -> Vec<Value> {
    let mut rules = Vec::new();
    let is_family = matches(&meta("nfproto"), "==", &json!(names.family));
    let from = matches(&meta("iifname"), "==", &json!(bridge));
    let to = matches(&meta("oifname"), "==", &json!(bridge));
    if family.firewall {
        let mut ports = Vec::new();
        if dns {
            ports.extend([("udp", 53), ("tcp", 53)]);
        }
        if family.dhcp {
            ports.push(("udp", names.dhcp_port));
        }
        for (protocol, port) in ports {
            let is_port = matches(&payload(protocol, "dport"), "==", &json!(port));
            rules.push(rule(
                "input",
                vec![from.clone(), is_family.clone(), is_port, json!({ "accept": null })],
            ));
        }
    }
    if family.firewall || !family.routing {
        let verdict = match family.routing {
            true => json!({ "accept": null }),
            false => json!({ "reject": { "type": "icmpx", "expr": "admin-prohibited" } }),
        };
        rules.extend([from, to].map(|side| rule("forward", vec![is_family.clone(), side, verdict.clone()])));
    }
    if family.nat {
        let address = |field: &str, op: &str| matches(&payload(names.protocol, field), op, &prefix(&family.gateway));
        let nat = match &family.nat_address {
            Some(address) => json!({ "snat": { "family": names.protocol, "addr": address.to_string() } }),
            None => json!({ "masquerade": null }),
        };
        rules.push(rule(
            "postrouting",
            vec![address("saddr", "=="), address("daddr", "!="), nat],
        ));
    }
    rules
}

/// The whole table; `None` when it would be empty.
pub(crate) fn ruleset(bridge: &str, config: &Config) -> Option<Value> {
    let dns = config.dns != DnsMode::None;
    let mut rules = Vec::new();
    if let Some(v4) = &config.v4 {
        rules.extend(family_rules(bridge, &V4, v4, dns));
    }
    if let Some(v6) = &config.v6 {
        rules.extend(family_rules(bridge, &V6, v6, dns));
    }
    if rules.is_empty() {
        return None;
    }
    // The standard priorities `filter` and `srcnat` of nft(8).
    let mut objects = vec![
        chain("input", "filter", "input", 0),
        chain("forward", "filter", "forward", 0),
        chain("postrouting", "nat", "postrouting", 100),
    ];
    objects.extend(rules);
    Some(Value::Array(objects))
}

/// Makes the table what the configuration says.
pub(crate) fn apply(host: &impl Host, bridge: &str, config: &Config) -> Result<()> {
    match ruleset(bridge, config) {
        Some(objects) => {
            let text = serde_json::to_string(&objects)
                .map_err(|error| Error::internal(format!("can't write a ruleset: {error}")))?;
            host.filter_replace_table(TABLE, "inet", &text)
        }
        None => remove(host),
    }
}

/// Removes the table.
pub(crate) fn remove(host: &impl Host) -> Result<()> {
    host.filter_delete_table(TABLE, "inet")
}
