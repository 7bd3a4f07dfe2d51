//! Interfaces of instances.

use std::net::{Ipv4Addr, Ipv6Addr};

use hutch_sdk::host::Veth;
use hutch_sdk::network::{NetworkRef, Nic, NicRef};
use hutch_sdk::paths::check_component;
use hutch_sdk::{Error, Host, Options, Result};

use crate::Bridge;
use crate::cidr::{Address, Cidr, Mac};
use crate::config::Config;
use crate::dnsmasq::{HOSTS, SERVICE};
use crate::validate::is_domain;

/// Keys of an interface.
const KEYS: [&str; 12] = [
    "boot.priority",
    "host_name",
    "hwaddr",
    "ipv4.address",
    "ipv6.address",
    "mtu",
    "name",
    "network",
    "nictype",
    "parent",
    "security.port_isolation",
    "type",
];

/// An address that is always given to the interface.
fn fixed<A: Address>(options: &Options, key: &str, subnet: Option<&Cidr<A>>) -> Result<Option<A>> {
    let Some(text) = options.get(key) else { return Ok(None) };
    let wrong = |why: &str| Error::invalid(format!("invalid value for {key:?}: {text:?} {why}")).with("key", key);
    let address: A = text.parse().map_err(|_| wrong("is not an address"))?;
    let subnet = subnet.ok_or_else(|| wrong("can't be given out by this network, which has no DHCP for it"))?;
    if !subnet.contains(address) {
        return Err(wrong(&format!("is not in the network's subnet {subnet}")));
    }
    if address == subnet.address || address == subnet.network() || (A::BITS == 32 && address == subnet.last()) {
        return Err(wrong("is the network's own"));
    }
    Ok(Some(address))
}

/// The addresses that are always given to an interface.
pub(crate) fn fixed_addresses(config: &Config, options: &Options) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>)> {
    let v4 = config
        .v4
        .as_ref()
        .filter(|family| family.dhcp)
        .map(|family| &family.gateway);
    let v6 = config
        .v6
        .as_ref()
        .filter(|family| family.dhcp && config.v6_stateful)
        .map(|family| &family.gateway);
    Ok((fixed(options, "ipv4.address", v4)?, fixed(options, "ipv6.address", v6)?))
}

/// The name by which DNS knows an instance: its own, with the project's unless that is the default one. Nothing for what can't be
/// a name in DNS.
pub(crate) fn hostname(nic: &NicRef) -> Option<String> {
    let name = match nic.project.as_str() {
        "" | "default" => nic.instance.to_ascii_lowercase(),
        project => format!("{}-{project}", nic.instance).to_ascii_lowercase(),
    };
    (is_domain(&name) && !name.contains('.')).then_some(name)
}

/// The file that dnsmasq reads the interface's name and addresses from.
pub(crate) fn file_name(nic: &NicRef) -> Result<String> {
    let name = format!("{}_{}.{}", nic.project, nic.instance, nic.device);
    check_component("network interface", &name)?;
    Ok(name)
}

/// A line of `dhcp-hostsfile`, dnsmasq(8): the hardware address, addresses, the name.
fn host_line(nic: &NicRef, addresses: &[String]) -> Result<String> {
    let mac = Mac::parse(&nic.hwaddr)?.to_string();
    let fields: Vec<String> = std::iter::once(mac)
        .chain(addresses.iter().cloned())
        .chain(hostname(nic))
        .collect();
    Ok(fields.join(",") + "\n")
}

/// The fields of such a line for the addresses that are always given to the interface.
fn address_fields(config: &Config, nic: &NicRef) -> Result<Vec<String>> {
    let (v4, v6) = fixed_addresses(config, &Options::new(&nic.config))?;
    let v4 = v4.map(|address| address.to_string());
    Ok(v4.into_iter().chain(v6.map(|address| format!("[{address}]"))).collect())
}

/// Refuses addresses that another connected interface is given: dnsmasq would give them to whoever asks first.
fn check_unique(host: &impl Host, own: &str, addresses: &[String]) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    for file in host
        .service_list_files(SERVICE, HOSTS)?
        .iter()
        .filter(|file| *file != own)
    {
        let line = host
            .service_read_file(SERVICE, &format!("{HOSTS}/{file}"))?
            .unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if let Some(taken) = line
            .trim_end()
            .split(',')
            .find(|field| addresses.iter().any(|address| address == field))
        {
            return Err(Error::in_use(format!("the address {taken} is already given to {file}")));
        }
    }
    Ok(())
}

/// Makes dnsmasq forget what its files no longer say.
pub(crate) fn reread(host: &impl Host) -> Result<()> {
    match host.service_status(SERVICE)?.is_some_and(|status| status.running) {
        true => host.service_signal(SERVICE, "hup"),
        false => Ok(()),
    }
}

/// Writes the interface's file. dnsmasq reads a new one by itself, but adds what a changed one says to what it knows already.
fn announce(host: &impl Host, config: &Config, nic: &NicRef) -> Result<()> {
    let file = file_name(nic)?;
    let path = format!("{HOSTS}/{file}");
    let addresses = address_fields(config, nic)?;
    let line = host_line(nic, &addresses)?;
    let old = host.service_read_file(SERVICE, &path)?;
    if old.as_deref() == Some(line.as_bytes()) {
        return Ok(());
    }
    check_unique(host, &file, &addresses)?;
    host.service_write_file(SERVICE, &path, line.as_bytes())?;
    old.map_or(Ok(()), |_| reread(host))
}

fn mtu(config: &Config, options: &Options) -> Result<Option<u32>> {
    Ok(options.number("mtu", 68..=65535)?.or(config.mtu))
}

impl Nic for Bridge {
    fn validate(_host: &impl Host, network: &NetworkRef, config: &[(String, String)]) -> Result<Vec<(String, String)>> {
        let options = Options::new(config);
        options.check_keys(&format!("an interface on network {}", network.name), &KEYS)?;
        let network = Config::read(&network.config)?;
        if let Some(mac) = options.get("hwaddr") {
            Mac::parse(mac).map_err(|error| error.context("invalid value for \"hwaddr\""))?;
        }
        mtu(&network, &options)?;
        options.number("boot.priority", 0..=u32::MAX)?;
        options.flag("security.port_isolation", false)?;
        fixed_addresses(&network, &options)?;
        Ok(options.into_pairs())
    }

    fn attach(host: &impl Host, network: &NetworkRef, nic: &NicRef) -> Result<()> {
        let config = Config::read(&network.config)?;
        let options = Options::new(&nic.config);
        if nic.netns.is_empty() {
            let (instance, device) = (&nic.instance, &nic.device);
            return Err(Error::unsupported(format!(
                "interface {device} of {instance} has no network namespace to be put into"
            )));
        }
        // The name and the addresses first, so that they are there when the instance asks.
        announce(host, &config, nic)?;
        let isolated = options.flag("security.port_isolation", false)?;
        let settings = if isolated {
            vec![("bridge.isolated".to_owned(), "1".to_owned())]
        } else {
            Vec::new()
        };
        host.link_ensure_veth(&Veth {
            name: &nic.host_name,
            bridge: Some(&network.name),
            netns: &nic.netns,
            guest_name: &nic.guest_name,
            hwaddr: &nic.hwaddr,
            mtu: mtu(&config, &options)?,
            options: &settings,
        })
    }

    fn detach(host: &impl Host, _network: &NetworkRef, nic: &NicRef) -> Result<()> {
        let path = format!("{HOSTS}/{}", file_name(nic)?);
        if host.service_read_file(SERVICE, &path)?.is_some() {
            host.service_remove_file(SERVICE, &path)?;
            reread(host)?;
        }
        // Without a namespace the interface is gone already, and deleting one takes the kernel some 20 ms.
        match nic.netns.is_empty() {
            true => Ok(()),
            false => host.link_delete(&nic.host_name),
        }
    }
}
