//! Addresses given out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hutch_sdk::network::{Lease, LeaseEntry, NetworkRef, NicRef};
use hutch_sdk::{Host, Options, Result};

use crate::Bridge;
use crate::address::fixed_addresses;
use crate::cidr::{Mac, parse_ip};
use crate::config::Config;
use crate::dnsmasq::{LEASES, SERVICE};
use crate::nic::hostname;

/// A line of dnsmasq's file of leases.
#[derive(Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) mac: Mac,
    pub(crate) address: IpAddr,
    hostname: Option<String>,
}

/// Reads a line: when it ends, who has it, the address, the name or `*`, the client's id. For IPv6 the second field is a
/// number, and the hardware address the end of the client's id (RFC 8415, section 11). What is not such a line (the server's
/// own id, a line cut short because it is being written) is nobody's lease.
fn parse_line(line: &str) -> Option<Line> {
    let mut fields = line.split_ascii_whitespace();
    let (_ends, who, address, name) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let client = fields.next()?;
    let mac = Mac::parse(who)
        .ok()
        .or_else(|| Mac::parse(client.get(client.len().checked_sub(17)?..)?).ok())?;
    Some(Line {
        mac,
        address: parse_ip(address)?,
        hostname: (name != "*").then(|| name.to_owned()),
    })
}

/// What dnsmasq has given out.
pub(crate) fn lines(host: &impl Host) -> Result<Vec<Line>> {
    let file = host.service_read_file(SERVICE, LEASES)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&file).lines().filter_map(parse_line).collect())
}

/// The bridge's own addresses.
fn gateways(network: &NetworkRef, config: &Config) -> Vec<LeaseEntry> {
    let v4 = config.v4.iter().map(|family| family.gateway.address.to_string());
    let addresses = v4.chain(config.v6.iter().map(|family| family.gateway.address.to_string()));
    let entry = |address| LeaseEntry {
        hostname: format!("{}.gw", network.name),
        hwaddr: String::new(),
        address,
        kind: "gateway".into(),
    };
    addresses.map(entry).collect()
}

/// The addresses that an interface is always given, and the one that it chooses itself from the advertised subnet.
fn of_nic(config: &Config, nic: &NicRef, mac: &Mac) -> Result<Vec<(IpAddr, &'static str)>> {
    let (v4, v6) = fixed_addresses(config, &Options::new(&nic.config))?;
    let chosen = match &config.v6 {
        Some(family) if !config.v6_stateful => mac.slaac(&family.gateway),
        _ => None,
    };
    let v6 = v6
        .map(|address| (address.into(), "static"))
        .or(chosen.map(|address| (address.into(), "dynamic")));
    Ok(v4
        .map(|address| (address.into(), "static"))
        .into_iter()
        .chain(v6)
        .collect())
}

impl Lease for Bridge {
    fn leases(host: &impl Host, network: &NetworkRef, nics: &[NicRef]) -> Result<Vec<LeaseEntry>> {
        let config = Config::read(&network.config)?;
        let lines = lines(host)?;
        let mut leases = gateways(network, &config);
        let mut seen: BTreeSet<IpAddr> = BTreeSet::new();
        for nic in nics {
            // An interface whose instance never ran may not have an address yet.
            let Ok(mac) = Mac::parse(&nic.hwaddr) else { continue };
            let name = hostname(nic).unwrap_or_else(|| nic.instance.clone());
            let given = lines
                .iter()
                .filter(|line| line.mac == mac && config.contains(line.address));
            let dynamic = given.map(|line| (line.address, "dynamic", line.hostname.clone()));
            let known = of_nic(&config, nic, &mac)?
                .into_iter()
                .map(|(address, kind)| (address, kind, None));
            for (address, kind, hostname) in known.chain(dynamic) {
                if seen.insert(address) {
                    let hostname = hostname.unwrap_or_else(|| name.clone());
                    leases.push(LeaseEntry {
                        hostname,
                        hwaddr: mac.to_string(),
                        address: address.to_string(),
                        kind: kind.into(),
                    });
                }
            }
        }
        Ok(leases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families() {
        let v4 = parse_line("1716900000 00:16:3e:aa:bb:cc 10.0.0.5 c1 ff:00:16").unwrap();
        assert_eq!(
            (v4.mac.to_string().as_str(), v4.address.to_string().as_str()),
            ("00:16:3e:aa:bb:cc", "10.0.0.5")
        );
        assert_eq!(v4.hostname.as_deref(), Some("c1"));
        let v6 = parse_line("1716900000 1052345 fd42::5 * 00:01:00:01:2d:f1:00:16:3e:aa:bb:cc").unwrap();
        assert_eq!((v6.mac.to_string().as_str(), v6.hostname), ("00:16:3e:aa:bb:cc", None));
        for bad in [
            "",
            "duid 00:01:00:01:2d:f1",
            "1716900000 00:16:3e:aa:bb:cc 10.0.0",
            "1 2 3 4 5",
            "1 2 ::1 * é",
        ] {
            assert_eq!(parse_line(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        /// Guests choose their names and ids, and dnsmasq writes them down.
        #[test]
        fn no_line_panics(line in "[0-9a-f:.* éx]{0,80}", rest in "\\PC{0,40}") {
            let _ = parse_line(&line);
            let _ = parse_line(&format!("1716900000 00:16:3e:aa:bb:cc 10.0.0.5 {rest} {line}"));
            let _ = parse_line(&format!("1716900000 1052345 fd42::5 * {rest}{line}"));
        }
    }
}
