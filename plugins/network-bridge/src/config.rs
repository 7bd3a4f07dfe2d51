//! A network's configuration, read. Whoever reads it has validated it, so that errors here are for configurations that were
//! changed behind our back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hutch_sdk::{Error, Options, Result};

use crate::cidr::{Address, Cidr};

/// The domain of instances' names where none is configured.
pub(crate) const DEFAULT_DOMAIN: &str = "hutch";

/// Who gives names to instances in DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DnsMode {
    /// The daemon: an instance is known by its own name.
    Managed,
    /// The instance: by the name that it sends with its DHCP request, too.
    Dynamic,
    /// Nobody: there is no DNS.
    None,
}

/// One family's half of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Family<A> {
    /// The bridge's address.
    pub(crate) gateway: Cidr<A>,
    /// Whether packets that leave are given an address of the machine.
    pub(crate) nat: bool,
    /// That address; `None` for the one of the interface by which a packet leaves.
    pub(crate) nat_address: Option<A>,
    /// Whether DHCP gives out addresses (IPv6: whether DHCP answers at all).
    pub(crate) dhcp: bool,
    /// Addresses to give out, first and last.
    pub(crate) ranges: Vec<(A, A)>,
    /// How long for, as dnsmasq has it.
    pub(crate) expiry: String,
    /// Whether packets are routed between the network and others.
    pub(crate) routing: bool,
    /// Whether there are packet filter rules at all.
    pub(crate) firewall: bool,
}

/// A network's configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) v4: Option<Family<Ipv4Addr>>,
    pub(crate) v6: Option<Family<Ipv6Addr>>,
    /// Whether IPv6 addresses are given out by DHCP; else instances choose their own in the advertised subnet.
    pub(crate) v6_stateful: bool,
    /// The router that DHCP names, if it is not the bridge.
    pub(crate) v4_router: Option<Ipv4Addr>,
    pub(crate) dns: DnsMode,
    pub(crate) domain: String,
    pub(crate) search: Vec<String>,
    pub(crate) mtu: Option<u32>,
    pub(crate) hwaddr: Option<String>,
    pub(crate) raw: Option<String>,
}

/// Reads `FIRST-LAST,FIRST-LAST` within a subnet.
pub(crate) fn parse_ranges<A: Address>(key: &str, text: &str, subnet: &Cidr<A>) -> Result<Vec<(A, A)>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-')?;
        let (first, last) = (first.trim().parse::<A>().ok()?, last.trim().parse::<A>().ok()?);
        (first <= last && subnet.contains(first) && subnet.contains(last)).then_some((first, last))
    };
    let wrong = |part: &str| {
        Error::invalid(format!(
            "invalid value for {key:?}: {part:?} is not a range of addresses in {subnet}"
        ))
    };
    text.split(',')
        .map(|part| range(part.trim()).ok_or_else(|| wrong(part)))
        .collect()
}

fn family<A: Address>(options: &Options, name: &str) -> Result<Option<Family<A>>> {
    let key = |rest: &str| format!("{name}.{rest}");
    let Some(text) = options.get(&key("address")).filter(|text| *text != "none") else {
        return Ok(None);
    };
    let wrong = || {
        Error::invalid(format!(
            "invalid value for \"{name}.address\": {text:?} is not an address with a prefix length"
        ))
    };
    let gateway = Cidr::parse(text).ok_or_else(wrong)?;
    let ranges = options
        .get(&key("dhcp.ranges"))
        .map(|text| parse_ranges(&key("dhcp.ranges"), text, &gateway));
    Ok(Some(Family {
        gateway,
        nat: options.flag(&key("nat"), false)?,
        nat_address: options.get(&key("nat.address")).and_then(|text| text.parse().ok()),
        dhcp: options.flag(&key("dhcp"), true)?,
        ranges: ranges.transpose()?.unwrap_or_default(),
        expiry: options.get(&key("dhcp.expiry")).unwrap_or("1h").to_owned(),
        routing: options.flag(&key("routing"), true)?,
        firewall: options.flag(&key("firewall"), true)?,
    }))
}

impl Config {
    pub(crate) fn read(config: &[(String, String)]) -> Result<Self> {
        let options = Options::new(config);
        let owned = |key: &str| options.get(key).map(str::to_owned);
        Ok(Self {
            v4: family(&options, "ipv4")?,
            v6: family(&options, "ipv6")?,
            v6_stateful: options.flag("ipv6.dhcp.stateful", false)?,
            v4_router: options.get("ipv4.dhcp.gateway").and_then(|text| text.parse().ok()),
            dns: match options.get("dns.mode") {
                None | Some("managed") => DnsMode::Managed,
                Some("dynamic") => DnsMode::Dynamic,
                Some("none") => DnsMode::None,
                Some(other) => return Err(Error::invalid(format!("invalid value for \"dns.mode\": {other:?}"))),
            },
            domain: owned("dns.domain").unwrap_or_else(|| DEFAULT_DOMAIN.to_owned()),
            search: options
                .get("dns.search")
                .map(|text| text.split(',').map(|part| part.trim().to_owned()).collect())
                .unwrap_or_default(),
            mtu: options.number("bridge.mtu", 68..=65535)?,
            hwaddr: owned("bridge.hwaddr").or_else(|| owned("volatile.bridge.hwaddr")),
            raw: owned("raw.dnsmasq"),
        })
    }

    /// The bridge's addresses.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let v4 = self.v4.iter().map(|family| family.gateway.to_string());
        v4.chain(self.v6.iter().map(|family| family.gateway.to_string()))
            .collect()
    }

    /// Whether an address is in one of the network's subnets.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.as_ref().is_some_and(|family| family.gateway.contains(address)),
            IpAddr::V6(address) => self.v6.as_ref().is_some_and(|family| family.gateway.contains(address)),
        }
    }
}
