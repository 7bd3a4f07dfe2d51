//! Addresses of interfaces: those that they are always given, and those that are chosen for interfaces whose filter has to know
//! theirs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hutch_sdk::network::{NetworkRef, NicRef};
use hutch_sdk::{Error, Host, Options, Result};

use crate::cidr::{Address, Cidr, Mac};
use crate::config::{Config, Family};
use crate::dnsmasq::{HOSTS, SERVICE};
use crate::lease;
use crate::port::{Own, Wanted};

/// How many addresses are tried before giving up.
const ATTEMPTS: u128 = 4096;
/// The subnet of link-local addresses (RFC 4291, section 2.5.6).
const LINK_LOCAL: Cidr<Ipv6Addr> = Cidr {
    address: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
    prefix: 64,
};

/// An address that is always given to an interface, or with a filter the only one that passes. `gives`: the network has DHCP for it.
fn fixed<A: Address>(
    options: &Options,
    key: &str,
    family: Option<&Family<A>>,
    gives: bool,
    filtered: bool,
) -> Result<Option<A>> {
    let Some(text) = options.get(key) else { return Ok(None) };
    let wrong = |why: &str| Error::invalid(format!("invalid value for {key:?}: {text:?} {why}")).with("key", key);
    if text == "none" {
        return match filtered {
            true => Ok(None),
            false => Err(wrong("is for interfaces whose addresses are filtered")),
        };
    }
    let address: A = text.parse().map_err(|_| wrong("is not an address"))?;
    if !gives && !filtered {
        return Err(wrong("can't be given out by this network, which has no DHCP for it"));
    }
    let Some(subnet) = family.map(|family| &family.gateway) else {
        return Ok(Some(address));
    };
    if !subnet.contains(address) {
        return Err(wrong(&format!("is not in the network's subnet {subnet}")));
    }
    if address == subnet.address || address == subnet.network() || (A::BITS == 32 && address == subnet.last()) {
        return Err(wrong("is the network's own"));
    }
    Ok(Some(address))
}

fn gives_v4(config: &Config) -> bool {
    config.v4.as_ref().is_some_and(|family| family.dhcp)
}

fn gives_v6(config: &Config) -> bool {
    config
        .v6
        .as_ref()
        .is_some_and(|family| family.dhcp && config.v6_stateful)
}

/// The addresses that are always given to an interface.
pub(crate) fn fixed_addresses(config: &Config, options: &Options) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>)> {
    let wanted = Wanted::read(options)?;
    Ok((
        fixed(options, "ipv4.address", config.v4.as_ref(), gives_v4(config), wanted.v4)?,
        fixed(options, "ipv6.address", config.v6.as_ref(), gives_v6(config), wanted.v6)?,
    ))
}

/// Whether a family is to be filtered by an address that is neither given nor excluded by the configuration.
fn is_open(options: &Options, key: &str, filtered: bool) -> bool {
    filtered && options.get(key).is_none()
}

/// Checks the addresses of an interface, and that its filter can know them.
///
/// # Errors
/// `invalid` with the key.
pub(crate) fn check(config: &Config, options: &Options) -> Result<()> {
    fixed_addresses(config, options)?;
    let wanted = Wanted::read(options)?;
    let needs = |family: &str, why: &str| {
        let key = format!("security.{family}_filtering");
        let message = format!("{key} takes an address to let through: {why}; set {family}.address");
        Err(Error::invalid(message).with("key", key))
    };
    if is_open(options, "ipv4.address", wanted.v4) && config.v4.is_some() && !gives_v4(config) {
        return needs("ipv4", "the network gives out none");
    }
    if is_open(options, "ipv6.address", wanted.v6)
        && !gives_v6(config)
        && config.v6.as_ref().is_some_and(|family| family.gateway.prefix != 64)
    {
        return needs(
            "ipv6",
            "the network gives out none, and instances choose theirs in subnets of 64 bits only",
        );
    }
    Ok(())
}

/// What an interface is given by DHCP, and all that it may use.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    pub(crate) own: Own,
}

/// The addresses of an interface; what its filter has to know and nobody has said is chosen, and claimed for it.
pub(crate) fn of_nic(
    host: &impl Host,
    network: &NetworkRef,
    config: &Config,
    nic: &NicRef,
    file: &str,
) -> Result<Addresses> {
    let options = Options::new(&nic.config);
    let wanted = Wanted::read(&options)?;
    let (mut v4, mut v6) = fixed_addresses(config, &options)?;
    let mac = Mac::parse(&nic.hwaddr)?;
    let chooser = Chooser {
        host,
        prefix: key_prefix(network),
        file,
        mac,
    };
    if let (true, Some(family)) = (
        is_open(&options, "ipv4.address", wanted.v4) && gives_v4(config),
        &config.v4,
    ) {
        v4 = Some(chooser.choose(family)?);
    }
    let open_v6 = is_open(&options, "ipv6.address", wanted.v6);
    if let (true, Some(family)) = (open_v6 && gives_v6(config), &config.v6) {
        v6 = Some(chooser.choose(family)?);
    }
    let mut own = Own {
        v4: v4.into_iter().collect(),
        v6: v6.into_iter().collect(),
    };
    if open_v6
        && !gives_v6(config)
        && let Some(family) = &config.v6
    {
        own.v6.extend(mac.slaac(&family.gateway));
    }
    if !own.v6.is_empty() {
        own.v6.extend(mac.slaac(&LINK_LOCAL));
    }
    Ok(Addresses { v4, v6, own })
}

fn key_prefix(network: &NetworkRef) -> String {
    format!("address/{}/{}/", network.project, network.name)
}

struct Chooser<'a, H> {
    host: &'a H,
    prefix: String,
    file: &'a str,
    mac: Mac,
}

impl<H: Host> Chooser<'_, H> {
    /// An address that nobody else has: the one that the interface had, if it had one, and else as the hardware address says, so that
    /// it comes out the same again.
    fn choose<A: Address + Into<IpAddr>>(&self, family: &Family<A>) -> Result<A> {
        let subnet = &family.gateway;
        let ranges = match family.ranges.as_slice() {
            [] => vec![(subnet.nth(2), subnet.nth_last(1))],
            ranges => ranges.to_vec(),
        };
        let sizes = ranges
            .iter()
            .map(|(first, last)| last.bits().saturating_sub(first.bits()).saturating_add(1));
        let total = sizes.clone().fold(0, u128::saturating_add).max(1);
        let start = self.mac.number() % total;
        let nth = |mut n: u128| {
            let found = ranges.iter().zip(sizes.clone()).find_map(|((first, _), size)| {
                let here = n < size;
                let at = first.bits().saturating_add(n);
                n = n.saturating_sub(size);
                here.then(|| A::of(at))
            });
            found.unwrap_or(subnet.nth(2))
        };
        let leases = lease::lines(self.host)?;
        let (own, others): (Vec<_>, Vec<_>) = leases.into_iter().partition(|line| line.mac == self.mac);
        let mut taken: BTreeSet<IpAddr> = others.into_iter().map(|line| line.address).collect();
        taken.extend(self.of_other_files()?);
        taken.insert(subnet.address.into());
        let had = own.into_iter().filter_map(|line| A::from_ip(line.address));
        let had = had.filter(|address| subnet.contains(*address));
        let rest = (0..total.min(ATTEMPTS)).map(|n| nth((start + n) % total));
        for address in had.chain(rest) {
            if !taken.contains(&address.into()) && self.claim(&address.to_string())? {
                return Ok(address);
            }
        }
        Err(Error::limit(format!(
            "network {subnet} has no address left for {}",
            self.file
        )))
    }

    /// Whether the address is the interface's from now on.
    fn claim(&self, address: &str) -> Result<bool> {
        let key = format!("{}{address}", self.prefix);
        Ok(self.host.kv_get(&key)?.as_deref() == Some(self.file.as_bytes())
            || self.host.kv_compare_and_set(&key, None, self.file.as_bytes())?)
    }

    fn of_other_files(&self) -> Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        for file in self.host.service_list_files(SERVICE, HOSTS)? {
            if file != self.file {
                let line = self.host.service_read_file(SERVICE, &format!("{HOSTS}/{file}"))?;
                let line = String::from_utf8_lossy(&line.unwrap_or_default()).into_owned();
                let fields = line.trim_end().split(',');
                found.extend(fields.filter_map(|field| field.trim_matches(['[', ']']).parse::<IpAddr>().ok()));
            }
        }
        Ok(found)
    }
}

/// Gives up what was claimed for interfaces other than those of these files, or for this one alone.
pub(crate) fn release(host: &impl Host, network: &NetworkRef, is_over: impl Fn(&str) -> bool) -> Result<()> {
    let prefix = key_prefix(network);
    let mut after: Option<String> = None;
    loop {
        let keys = host.kv_keys(&prefix, after.as_deref(), 256)?;
        let Some(last) = keys.last() else { return Ok(()) };
        after = Some(last.clone());
        for key in &keys {
            let file = host.kv_get(key)?.unwrap_or_default();
            if is_over(&String::from_utf8_lossy(&file)) {
                host.kv_delete(key)?;
            }
        }
    }
}
