//! Networks.

use std::collections::BTreeSet;

use hutch_sdk::host::Level;
use hutch_sdk::network::{Network, NetworkRef, NicRef};
use hutch_sdk::{Host, Result};

use crate::config::Config;
use crate::dnsmasq::{HOSTS, SERVICE};
use crate::{Bridge, address, dnsmasq, firewall, nic, port, validate};

fn pair(key: &str, value: bool) -> (String, String) {
    (key.to_owned(), if value { "1" } else { "0" }.to_owned())
}

/// Switches IPv6 on or off for the bridge, and says whether it is on. A kernel without IPv6 has no such setting.
fn switch_ipv6(host: &impl Host, name: &str, wanted: bool) -> Result<bool> {
    match host.link_set_options(name, &[pair("ipv6.disable", !wanted)]) {
        Ok(()) => Ok(wanted),
        Err(error) if error.is("not-found") => {
            if wanted {
                host.log(
                    Level::Warn,
                    &format!("the kernel has no IPv6: network {name} goes without its IPv6 subnet"),
                    &[],
                );
            }
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The bridge and its addresses. Duplicate address detection is off, because on a bridge without ports it never ends, and
/// dnsmasq can't listen on an address before. IPv6 is taken out of the configuration where the kernel has none.
fn apply_link(host: &impl Host, name: &str, config: &mut Config) -> Result<()> {
    host.link_ensure_bridge(name, config.hwaddr.as_deref(), config.mtu)?;
    if !switch_ipv6(host, name, config.v6.is_some())? {
        config.v6 = None;
    }
    let mut options = Vec::new();
    if config.v6.is_some() {
        options.extend([
            pair("ipv6.autoconf", false),
            pair("ipv6.accept-ra", false),
            pair("ipv6.accept-dad", false),
        ]);
    }
    if config.v4.as_ref().is_some_and(|family| family.routing) {
        options.push(pair("ipv4.forwarding", true));
    }
    if config.v6.as_ref().is_some_and(|family| family.routing) {
        options.push(pair("ipv6.forwarding", true));
    }
    host.link_set_options(name, &options)?;
    host.link_set_addresses(name, &config.addresses())?;
    host.link_set_up(name, true)
}

/// Makes everything what the configuration says. Each step leaves alone what is so already.
fn apply(host: &impl Host, network: &NetworkRef) -> Result<()> {
    let mut config = Config::read(&network.config)?;
    apply_link(host, &network.name, &mut config)?;
    firewall::apply(host, &network.name, &config)?;
    dnsmasq::apply(host, &network.name, &config)
}

impl Network for Bridge {
    fn validate(
        host: &impl Host,
        network: &NetworkRef,
        current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>> {
        Ok(validate::complete(host, network, current.is_none())?.into_pairs())
    }

    fn start(host: &impl Host, network: &NetworkRef) -> Result<()> {
        apply(host, network)
    }

    fn update(host: &impl Host, network: &NetworkRef, _old: &[(String, String)]) -> Result<()> {
        apply(host, network)
    }

    fn stop(host: &impl Host, network: &NetworkRef) -> Result<()> {
        host.service_remove(SERVICE)?;
        port::reconcile(host, network, &[])?;
        address::release(host, network, |_| true)?;
        firewall::remove(host)?;
        host.link_delete(&network.name)
    }

    fn reconcile(host: &impl Host, network: &NetworkRef, nics: &[NicRef]) -> Result<Vec<String>> {
        let known: BTreeSet<String> = nics.iter().map(nic::file_name).collect::<Result<_>>()?;
        let files = host.service_list_files(SERVICE, HOSTS)?;
        let stale: Vec<String> = files
            .into_iter()
            .filter(|file| !file.starts_with('.') && !known.contains(file))
            .collect();
        for file in &stale {
            host.service_remove_file(SERVICE, &format!("{HOSTS}/{file}"))?;
        }
        if !stale.is_empty() {
            nic::reread(host)?;
        }
        address::release(host, network, |file| !known.contains(file))?;
        let mut removed = port::reconcile(host, network, nics)?;
        removed.extend(
            stale
                .into_iter()
                .map(|file| format!("the name and addresses of {file}")),
        );
        Ok(removed)
    }
}
