//! Interfaces of instances.

use hutch_sdk::host::Veth;
use hutch_sdk::network::{NetworkRef, Nic, NicRef};
use hutch_sdk::paths::check_component;
use hutch_sdk::{Error, Host, Options, Result};

use crate::address::{self, Addresses};
use crate::cidr::Mac;
use crate::config::Config;
use crate::dnsmasq::{HOSTS, SERVICE};
use crate::port::Wanted;
use crate::validate::is_domain;
use crate::{Bridge, port, rate};

/// Keys of an interface, beside those of [`port`].
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
fn address_fields(addresses: &Addresses) -> Vec<String> {
    let v4 = addresses.v4.map(|address| address.to_string());
    let v6 = addresses.v6.map(|address| format!("[{address}]"));
    v4.into_iter().chain(v6).collect()
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

/// Writes the interface's file, and says whether it had one. dnsmasq reads a new one by itself, but adds what a changed one says to
/// what it knows already.
fn announce(host: &impl Host, nic: &NicRef, addresses: &Addresses) -> Result<bool> {
    let file = file_name(nic)?;
    let path = format!("{HOSTS}/{file}");
    let addresses = address_fields(addresses);
    let line = host_line(nic, &addresses)?;
    let old = host.service_read_file(SERVICE, &path)?;
    if old.as_deref() == Some(line.as_bytes()) {
        return Ok(true);
    }
    check_unique(host, &file, &addresses)?;
    host.service_write_file(SERVICE, &path, line.as_bytes())?;
    match old {
        Some(_) => reread(host).map(|()| true),
        None => Ok(false),
    }
}

fn mtu(config: &Config, options: &Options) -> Result<Option<u32>> {
    Ok(options.number("mtu", 68..=65535)?.or(config.mtu))
}

/// Removes an interface that has another MTU than it is to have: it is set when the pair is made.
fn drop_other_mtu(host: &impl Host, network: &NetworkRef, nic: &NicRef, mtu: Option<u32>) -> Result<()> {
    let Some(link) = host.link_get(&nic.host_name)? else {
        return Ok(());
    };
    let wanted = match mtu {
        Some(mtu) => Some(mtu),
        None => host.link_get(&network.name)?.map(|bridge| bridge.mtu),
    };
    match wanted {
        Some(wanted) if wanted != link.mtu => host.link_delete(&nic.host_name),
        _ => Ok(()),
    }
}

impl Nic for Bridge {
    fn validate(_host: &impl Host, network: &NetworkRef, config: &[(String, String)]) -> Result<()> {
        let options = Options::new(config);
        let keys: Vec<&str> = KEYS.into_iter().chain(port::KEYS).collect();
        options.check_keys(&format!("an interface on network {}", network.name), &keys)?;
        let network = Config::read(&network.config)?;
        if let Some(mac) = options.get("hwaddr") {
            Mac::parse(mac).map_err(|error| error.context("invalid value for \"hwaddr\""))?;
        }
        mtu(&network, &options)?;
        options.number("boot.priority", 0..=u32::MAX)?;
        options.flag("security.port_isolation", false)?;
        rate::of(&options, "limits.ingress")?;
        rate::of(&options, "limits.egress")?;
        address::check(&network, &options)
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
        // The name and the addresses first, so that they are there when the instance asks, and what is filtered before anything can
        // come from it.
        let addresses = address::of_nic(host, network, &config, nic, &file_name(nic)?)?;
        let again = announce(host, nic, &addresses)?;
        let wanted = Wanted::read(&options)?;
        port::apply(host, network, nic, &wanted, &addresses.own, again)?;
        let mtu = mtu(&config, &options)?;
        if again {
            drop_other_mtu(host, network, nic, mtu)?;
        }
        let isolated = options.flag("security.port_isolation", false)?;
        let settings = match isolated || again {
            true => vec![("bridge.isolated".to_owned(), u8::from(isolated).to_string())],
            false => Vec::new(),
        };
        host.link_ensure_veth(&Veth {
            name: &nic.host_name,
            bridge: Some(&network.name),
            netns: &nic.netns,
            guest_name: &nic.guest_name,
            hwaddr: &nic.hwaddr,
            mtu,
            options: &settings,
        })?;
        let limit = rate::of(&options, "limits.ingress")?;
        match limit.is_some() || again {
            true => host.link_limit_sent(&nic.host_name, limit),
            false => Ok(()),
        }
    }

    fn detach(host: &impl Host, network: &NetworkRef, nic: &NicRef) -> Result<()> {
        // Without a namespace the interface is gone already, and deleting one takes the kernel some 20 ms.
        if !nic.netns.is_empty() {
            host.link_delete(&nic.host_name)?;
        }
        port::remove(host, network, &nic.host_name)?;
        let file = file_name(nic)?;
        address::release(host, network, |owner| owner == file)?;
        let path = format!("{HOSTS}/{file}");
        if host.service_read_file(SERVICE, &path)?.is_some() {
            host.service_remove_file(SERVICE, &path)?;
            reread(host)?;
        }
        Ok(())
    }
}
