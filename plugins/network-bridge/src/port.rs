//! What may come from an interface, and how fast: one packet filter table of the family `bridge` per interface that is limited so,
//! replaced as a whole. It looks at frames as they come from the instance, before the bridge learns anything from them.

use std::net::{Ipv4Addr, Ipv6Addr};

use hutch_sdk::network::{NetworkRef, NicRef};
use hutch_sdk::{Error, Host, Options, Result};
use serde_json::{Value, json};

use crate::cidr::{Address, Mac};
use crate::firewall::{chain, matches, meta, payload, rule};
use crate::rate;

/// Keys of an interface that are this module's and [`rate`]'s.
pub(crate) const KEYS: [&str; 6] = [
    "limits.egress",
    "limits.ingress",
    "limits.max",
    "security.ipv4_filtering",
    "security.ipv6_filtering",
    "security.mac_filtering",
];
const FAMILY: &str = "bridge";
const CHAIN: &str = "from";
/// Bytes that may come at once beside those of a second: some packets as large as segmentation offload makes them.
const BURST: u64 = 256 << 10;

/// What is wanted of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Only frames of its own hardware address pass.
    pub(crate) mac: bool,
    /// Only its own IPv4 addresses do.
    pub(crate) v4: bool,
    /// Only its own IPv6 addresses do.
    pub(crate) v6: bool,
    /// Bits per second that may come from it.
    pub(crate) rate: Option<u64>,
}

impl Wanted {
    /// Reads an interface's keys.
    ///
    /// # Errors
    /// `invalid` with the key.
    pub(crate) fn read(options: &Options) -> Result<Self> {
        let (v4, v6) = (
            options.flag("security.ipv4_filtering", false)?,
            options.flag("security.ipv6_filtering", false)?,
        );
        Ok(Self {
            // An address is nobody's own if the hardware address that it is asked for at is not.
            mac: options.flag("security.mac_filtering", false)? || v4 || v6,
            v4,
            v6,
            rate: rate::of(options, "limits.egress")?,
        })
    }

    fn is_nothing(&self) -> bool {
        !self.mac && self.rate.is_none()
    }
}

/// Addresses that an interface may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) v4: Vec<Ipv4Addr>,
    pub(crate) v6: Vec<Ipv6Addr>,
}

fn drop_if(mut conditions: Vec<Value>) -> Value {
    conditions.push(json!({ "drop": null }));
    rule(CHAIN, conditions)
}

fn accept_if(mut conditions: Vec<Value>) -> Value {
    conditions.push(json!({ "accept": null }));
    rule(CHAIN, conditions)
}

fn is_type(kind: &str) -> Value {
    matches(&payload("ether", "type"), "==", &json!(kind))
}

fn icmp6(kinds: &[u8]) -> Value {
    matches(&payload("icmpv6", "type"), "==", &json!({ "set": kinds }))
}

/// Bits of the network header and after, by their place in it.
fn raw(offset: u32, length: u32) -> Value {
    json!({ "payload": { "base": "nh", "offset": offset, "len": length } })
}

/// The types of ICMPv6 (RFC 4861, section 4; RFC 3810, section 5.2) that are looked at.
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const LISTENER_REPORT: u8 = 143;
/// Where the target of an advertisement is, and the hardware address of its first option, in bits from the beginning of the IPv6
/// header (RFC 8200, section 3; RFC 4861, section 4.4).
const TARGET: u32 = 384;
const TARGET_HARDWARE: u32 = 528;

fn mac_rules(mac: &Mac, rules: &mut Vec<Value>) {
    let text = mac.to_string();
    let digits = format!("0x{}", text.replace(':', ""));
    rules.extend([
        drop_if(vec![matches(&payload("ether", "saddr"), "!=", &json!(text))]),
        drop_if(vec![matches(&payload("arp", "saddr ether"), "!=", &json!(text))]),
        drop_if(vec![
            icmp6(&[NEIGHBOUR_ADVERTISEMENT]),
            matches(&raw(TARGET_HARDWARE, 48), "!=", &json!(digits)),
        ]),
    ]);
}

fn v4_rules(own: &[Ipv4Addr], rules: &mut Vec<Value>) {
    if own.is_empty() {
        rules.extend([drop_if(vec![is_type("arp")]), drop_if(vec![is_type("ip")])]);
        return;
    }
    let texts: Vec<String> = own.iter().map(ToString::to_string).collect();
    // A probe for an address that is not used yet says that it comes from none (RFC 5227, section 2.1.1).
    let probing: Vec<&str> = texts.iter().map(String::as_str).chain(["0.0.0.0"]).collect();
    rules.extend([
        drop_if(vec![matches(
            &payload("arp", "saddr ip"),
            "!=",
            &json!({ "set": probing }),
        )]),
        // DHCP before there is an address (RFC 2131, section 4.1).
        accept_if(vec![
            matches(&payload("ip", "saddr"), "==", &json!("0.0.0.0")),
            matches(&payload("ip", "daddr"), "==", &json!("255.255.255.255")),
            matches(&payload("udp", "dport"), "==", &json!(67)),
        ]),
        drop_if(vec![matches(&payload("ip", "saddr"), "!=", &json!({ "set": texts }))]),
    ]);
}

fn v6_rules(own: &[Ipv6Addr], rules: &mut Vec<Value>) {
    if own.is_empty() {
        rules.push(drop_if(vec![is_type("ip6")]));
        return;
    }
    let from = |address: &str| matches(&payload("ip6", "saddr"), "==", &json!(address));
    let texts: Vec<String> = own.iter().map(ToString::to_string).collect();
    let targets: Vec<String> = own.iter().map(|address| format!("{:#034x}", address.bits())).collect();
    rules.extend([
        // An instance is no router.
        drop_if(vec![icmp6(&[ROUTER_ADVERTISEMENT, REDIRECT])]),
        drop_if(vec![
            icmp6(&[NEIGHBOUR_ADVERTISEMENT]),
            matches(&raw(TARGET, 128), "!=", &json!({ "set": targets })),
        ]),
        // What is asked before there is an address (RFC 4862, section 5.4.2).
        accept_if(vec![
            from("::"),
            icmp6(&[ROUTER_SOLICITATION, NEIGHBOUR_SOLICITATION, LISTENER_REPORT]),
        ]),
        drop_if(vec![matches(&payload("ip6", "saddr"), "!=", &json!({ "set": texts }))]),
    ]);
}

/// The table of an interface; `None` when it would let everything through.
pub(crate) fn ruleset(port: &str, mac: &Mac, wanted: &Wanted, own: &Own) -> Option<Value> {
    if wanted.is_nothing() {
        return None;
    }
    // The standard priority `filter` of the family is -200 (nft(8)). Everybody else's frames are none of this table's business.
    let mut objects = vec![
        chain(CHAIN, "filter", "prerouting", -200),
        accept_if(vec![matches(&meta("iifname"), "!=", &json!(port))]),
    ];
    if wanted.v4 || wanted.v6 {
        // Behind a tag of a VLAN, or in whatever else there is, addresses are not seen.
        let known = json!({ "set": ["arp", "ip", "ip6"] });
        objects.push(drop_if(vec![matches(&payload("ether", "type"), "!=", &known)]));
    }
    let mut accepting = Vec::new();
    if wanted.mac {
        mac_rules(mac, &mut objects);
    }
    if let Some(rate) = wanted.rate {
        // Before what accepts, which ends the looking.
        let limit = json!({ "limit": {
            "rate": rate / 8, "per": "second", "rate_unit": "bytes", "burst": BURST, "burst_unit": "bytes", "inv": true
        } });
        accepting.push(drop_if(vec![limit]));
    }
    if wanted.v4 {
        v4_rules(&own.v4, &mut accepting);
    }
    if wanted.v6 {
        v6_rules(&own.v6, &mut accepting);
    }
    objects.extend(accepting);
    Some(Value::Array(objects))
}

fn key_prefix(network: &NetworkRef) -> String {
    format!("port/{}/{}/", network.project, network.name)
}

/// Makes the interface's table what is wanted. `again`: it may have one.
pub(crate) fn apply(
    host: &impl Host,
    network: &NetworkRef,
    nic: &NicRef,
    wanted: &Wanted,
    own: &Own,
    again: bool,
) -> Result<()> {
    let mac = Mac::parse(&nic.hwaddr)?;
    let Some(objects) = ruleset(&nic.host_name, &mac, wanted, own) else {
        return if again {
            remove(host, network, &nic.host_name)
        } else {
            Ok(())
        };
    };
    let text =
        serde_json::to_string(&objects).map_err(|error| Error::internal(format!("can't write a ruleset: {error}")))?;
    // Before the table is there, so that none is forgotten.
    let key = key_prefix(network) + &nic.host_name;
    host.kv_set(&key, b"1")?;
    host.filter_replace_table(&table(&nic.host_name), FAMILY, &text)
}

/// Removes the interface's table, if it has one.
pub(crate) fn remove(host: &impl Host, network: &NetworkRef, port: &str) -> Result<()> {
    let key = key_prefix(network) + port;
    if host.kv_get(&key)?.is_none() {
        return Ok(());
    }
    host.filter_delete_table(&table(port), FAMILY)?;
    host.kv_delete(&key)
}

/// Removes the tables of interfaces that are not among these, and says whose they were.
pub(crate) fn reconcile(host: &impl Host, network: &NetworkRef, nics: &[NicRef]) -> Result<Vec<String>> {
    let prefix = key_prefix(network);
    let mut removed = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let keys = host.kv_keys(&prefix, after.as_deref(), 256)?;
        let Some(last) = keys.last() else { return Ok(removed) };
        after = Some(last.clone());
        for port in keys.iter().filter_map(|key| key.strip_prefix(&prefix)) {
            if !nics.iter().any(|nic| nic.host_name == port) {
                remove(host, network, port)?;
                removed.push(format!("the packet filter of {port}"));
            }
        }
    }
}

/// A table's name begins with a letter or digit, and an interface's need not.
fn table(port: &str) -> String {
    format!("port.{port}")
}
