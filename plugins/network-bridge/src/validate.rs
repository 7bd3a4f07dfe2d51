//! Checking a configuration and completing it.

use std::net::{Ipv4Addr, Ipv6Addr};

use hutch_sdk::network::NetworkRef;
use hutch_sdk::{Error, Host, Options, Result};

use crate::cidr::{Address, Cidr, Mac, overlaps_v4, overlaps_v6};
use crate::config::{Config, parse_ranges};

/// Keys of a network.
const KEYS: [&str; 26] = [
    "bridge.driver",
    "bridge.hwaddr",
    "bridge.mtu",
    "dns.domain",
    "dns.mode",
    "dns.search",
    "ipv4.address",
    "ipv4.dhcp",
    "ipv4.dhcp.expiry",
    "ipv4.dhcp.gateway",
    "ipv4.dhcp.ranges",
    "ipv4.firewall",
    "ipv4.nat",
    "ipv4.nat.address",
    "ipv4.routing",
    "ipv6.address",
    "ipv6.dhcp",
    "ipv6.dhcp.expiry",
    "ipv6.dhcp.ranges",
    "ipv6.dhcp.stateful",
    "ipv6.firewall",
    "ipv6.nat",
    "ipv6.nat.address",
    "ipv6.routing",
    "raw.dnsmasq",
    "volatile.bridge.hwaddr",
];

/// How many random subnets are tried before giving up.
const ATTEMPTS: usize = 100;

fn invalid(key: &str, value: &str, why: &str) -> Error {
    Error::invalid(format!("invalid value for {key:?}: {value:?} {why}")).with("key", key)
}

/// Checks the configuration and replaces what is `auto`, or missing in a network that is new.
pub(crate) fn complete(host: &impl Host, network: &NetworkRef, is_new: bool) -> Result<Options> {
    check_name(&network.name)?;
    let mut options = Options::new(&network.config);
    options.check_keys(&format!("network {}", network.name), &KEYS)?;
    if is_new {
        for family in ["ipv4", "ipv6"] {
            let key = format!("{family}.address");
            if options.get(&key).is_none() {
                options.set(key, "auto");
            }
        }
    }
    check_plain_values(&options)?;
    check_raw(host, options.get("raw.dnsmasq"))?;
    complete_address(host, &mut options, "ipv4", random_v4)?;
    complete_address(host, &mut options, "ipv6", random_v6)?;
    check_family::<Ipv4Addr>(&options, "ipv4", 30)?;
    check_family::<Ipv6Addr>(&options, "ipv6", 126)?;
    if options.get("bridge.hwaddr").is_none() && options.get("volatile.bridge.hwaddr").is_none() {
        // A bridge without an address of its own takes its ports', and changes it with them.
        options.set("volatile.bridge.hwaddr", Mac::random(host.random()).to_string());
    }
    Config::read(&options.clone().into_pairs())?;
    Ok(options)
}

/// The network's name is the bridge's: at most 15 bytes (`IFNAMSIZ`), and what the kernel and dnsmasq take.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = (2..=15).contains(&name.len()) && name.chars().all(plain);
    if fits && !name.starts_with(['-', '.']) && name != "lo" {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name:?} can't be a bridge's name: it takes 2 to 15 letters, digits, -, _ and ."
    )))
}

fn check_plain_values(options: &Options) -> Result<()> {
    let one_of = |key: &str, values: &[&str]| match options.get(key) {
        Some(value) if !values.contains(&value) => {
            Err(invalid(key, value, &format!("is not one of {}", values.join(", "))))
        }
        _ => Ok(()),
    };
    one_of("bridge.driver", &["native"])?;
    one_of("dns.mode", &["managed", "dynamic", "none"])?;
    for key in [
        "ipv4.dhcp",
        "ipv4.firewall",
        "ipv4.nat",
        "ipv4.routing",
        "ipv6.dhcp",
        "ipv6.dhcp.stateful",
        "ipv6.firewall",
        "ipv6.nat",
        "ipv6.routing",
    ] {
        options.flag(key, true)?;
    }
    if let Some(mac) = options.get("bridge.hwaddr") {
        Mac::parse(mac).map_err(|error| error.context("invalid value for \"bridge.hwaddr\""))?;
    }
    // IPv6 asks for 1,280 bytes (RFC 8200, section 5), IPv4 for 68 (RFC 791).
    let has_v6 = options.get("ipv6.address").is_some_and(|address| address != "none");
    options.number("bridge.mtu", if has_v6 { 1280 } else { 68 }..=65535)?;
    for key in ["dns.domain", "dns.search"] {
        let names = options.get(key).into_iter().flat_map(|value| value.split(','));
        for name in names.map(str::trim) {
            if !is_domain(name) {
                return Err(invalid(key, name, "is not a domain name"));
            }
        }
    }
    if let Some(domain) = options.get("dns.domain").filter(|domain| domain.contains(',')) {
        return Err(invalid("dns.domain", domain, "is more than one name"));
    }
    for key in ["ipv4.dhcp.expiry", "ipv6.dhcp.expiry"] {
        if let Some(value) = options.get(key).filter(|value| !is_duration(value)) {
            return Err(invalid(
                key,
                value,
                "is not a time such as 90s, 45m, 1h, 2d, 1w or infinite",
            ));
        }
    }
    Ok(())
}

/// RFC 1035, section 2.3.1, and digits at the beginning of a label (RFC 1123, section 2.1).
pub(crate) fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        let plain = label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        (1..=63).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// The times of dnsmasq(8), `--dhcp-range`, of which the least is two minutes.
fn is_duration(text: &str) -> bool {
    let digits = text.trim_end_matches(['s', 'm', 'h', 'd', 'w']);
    let unit_fits = text.len() - digits.len() <= 1;
    text == "infinite" || (unit_fits && (1..=8).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit()))
}

/// Lines for dnsmasq's configuration can name programs that it runs, so the operator of the machine must have allowed them.
pub(crate) fn check_raw(host: &impl Host, raw: Option<&str>) -> Result<()> {
    if raw.is_none() || host.config_get("allow-raw-dnsmasq").as_deref() == Some("true") {
        return Ok(());
    }
    Err(Error::new(
        "not-granted",
        "\"raw.dnsmasq\" can make dnsmasq run any program: it needs allow-raw-dnsmasq = true in the plugin's configuration",
    ))
}

/// Replaces `auto` by a free subnet, with NAT unless that is said.
fn complete_address(
    host: &impl Host,
    options: &mut Options,
    family: &str,
    choose: impl Fn(u64, &[String]) -> Option<String>,
) -> Result<()> {
    let (address, nat) = (format!("{family}.address"), format!("{family}.nat"));
    if options.get(&address) != Some("auto") {
        return Ok(());
    }
    let used = host.link_subnets_in_use()?;
    let free = (0..ATTEMPTS).find_map(|_| choose(host.random(), &used));
    let free =
        free.ok_or_else(|| Error::unavailable(format!("no free {family} subnet was found; {address} can name one")))?;
    options.set(address, free);
    if options.get(&nat).is_none() {
        options.set(nat, "true");
    }
    Ok(())
}

/// `10.X.Y.1/24`, unless something of it is in use.
fn random_v4(random: u64, used: &[String]) -> Option<String> {
    let [a, b, ..] = random.to_le_bytes();
    let subnet = Cidr::new(Ipv4Addr::new(10, a, b, 1), 24);
    (!used.iter().any(|other| overlaps_v4(&subnet, other))).then(|| subnet.to_string())
}

/// `fd42:…::1/64`: a unique local subnet (RFC 4193) with 48 random bits.
fn random_v6(random: u64, used: &[String]) -> Option<String> {
    let [a, b, c, d, e, f, ..] = random.to_le_bytes().map(u16::from);
    let subnet = Cidr::new(
        Ipv6Addr::new(0xfd42, a << 8 | b, c << 8 | d, e << 8 | f, 0, 0, 0, 1),
        64,
    );
    (!used.iter().any(|other| overlaps_v6(&subnet, other))).then(|| subnet.to_string())
}

/// Checks the address and everything that must lie in its subnet. `longest` is the longest prefix that leaves room for an
/// instance.
fn check_family<A: Address>(options: &Options, family: &str, longest: u8) -> Result<()> {
    let key = |rest: &str| format!("{family}.{rest}");
    let address = options.get(&key("address")).filter(|address| *address != "none");
    let Some(text) = address else {
        return match ["nat.address", "dhcp.ranges", "dhcp.gateway"]
            .map(key)
            .into_iter()
            .find(|key| options.get(key).is_some())
        {
            Some(key) => Err(Error::invalid(format!("{key:?} needs \"{family}.address\"")).with("key", key)),
            None => Ok(()),
        };
    };
    let wrong = |why: &str| invalid(&key("address"), text, why);
    let subnet =
        Cidr::<A>::parse(text).ok_or_else(|| wrong("is not an address with a prefix length, such as 10.0.0.1/24"))?;
    if !(8..=longest).contains(&subnet.prefix) {
        return Err(wrong(&format!("has a prefix length that is not from 8 to {longest}")));
    }
    if subnet.address == subnet.network() || (A::BITS == 32 && subnet.address == subnet.last()) {
        return Err(wrong("is the address of the subnet itself and not of the bridge"));
    }
    if let Some(ranges) = options.get(&key("dhcp.ranges")) {
        parse_ranges(&key("dhcp.ranges"), ranges, &subnet)?;
    }
    if let Some(value) = options
        .get(&key("nat.address"))
        .filter(|value| value.parse::<A>().is_err())
    {
        return Err(invalid(&key("nat.address"), value, "is not an address"));
    }
    if let Some(value) = options
        .get(&key("dhcp.gateway"))
        .filter(|value| value.parse().map_or(true, |a: A| !subnet.contains(a)))
    {
        return Err(invalid(&key("dhcp.gateway"), value, "is not an address in the network"));
    }
    if family == "ipv6" && subnet.prefix != 64 && !options.flag("ipv6.dhcp.stateful", false)? {
        return Err(wrong(
            "has a prefix length other than 64, in which instances can't choose addresses; set ipv6.dhcp.stateful",
        ));
    }
    Ok(())
}
