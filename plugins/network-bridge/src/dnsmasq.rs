//! dnsmasq(8): its arguments, and its files.

use hutch_sdk::{Host, Result};

use crate::cidr::Address;
use crate::config::{Config, DnsMode, Family};
use crate::validate::check_raw;

/// The service's name, and the program's.
pub(crate) const SERVICE: &str = "dnsmasq";
/// The file of leases, in the service's directory.
pub(crate) const LEASES: &str = "leases";
/// The directory with one file per instance's interface, in the service's directory.
pub(crate) const HOSTS: &str = "hosts";

/// Whether there is anything to do for dnsmasq.
fn is_needed(config: &Config) -> bool {
    let has_address = config.v4.is_some() || config.v6.is_some();
    let gives = config.v4.as_ref().is_some_and(|family| family.dhcp) || config.v6.is_some();
    gives || (has_address && config.dns != DnsMode::None)
}

/// What is the same whatever is configured: no configuration of the machine's, this bridge alone, its own files. `nobody` is
/// what it becomes once it has its sockets.
fn base(bridge: &str) -> Vec<String> {
    let mut args: Vec<String> = [
        "--keep-in-foreground",
        "--conf-file=",
        "--user=nobody",
        "--pid-file=",
        "--log-facility=-",
        // Plain names are those of instances: nobody else is asked for the addresses that they have not.
        "--domain-needed",
        "--strict-order",
        "--bind-dynamic",
        "--except-interface=lo",
        "--no-ping",
    ]
    .map(String::from)
    .to_vec();
    args.push(format!("--interface={bridge}"));
    args
}

fn dns(bridge: &str, config: &Config) -> Vec<String> {
    if config.dns == DnsMode::None {
        return vec!["--port=0".into()];
    }
    let domain = &config.domain;
    let mut args = vec![
        format!("--domain={domain}"),
        // Names of the network's own domain are never asked for elsewhere.
        format!("--local=/{domain}/"),
        format!("--interface-name=_gateway.{domain},{bridge}"),
        "--no-hosts".into(),
        "--localise-queries".into(),
    ];
    if config.dns == DnsMode::Managed {
        args.push("--dhcp-ignore-names".into());
    }
    args
}

/// The ranges, or all addresses after the first two and before the last.
fn ranges<A: Address>(family: &Family<A>) -> Vec<(A, A)> {
    match family.ranges.as_slice() {
        [] => vec![(family.gateway.nth(2), family.gateway.nth_last(1))],
        ranges => ranges.to_vec(),
    }
}

fn dhcp_v4(config: &Config) -> Vec<String> {
    let Some(family) = config.v4.as_ref().filter(|family| family.dhcp) else {
        return Vec::new();
    };
    let mut args = vec![
        "--dhcp-authoritative".into(),
        "--dhcp-no-override".into(),
        "--dhcp-rapid-commit".into(),
    ];
    for (first, last) in ranges(family) {
        args.push(format!("--dhcp-range={first},{last},{}", family.expiry));
    }
    if let Some(router) = config.v4_router {
        args.push(format!("--dhcp-option-force=option:router,{router}"));
    }
    if let Some(mtu) = config.mtu {
        args.push(format!("--dhcp-option-force=option:mtu,{mtu}"));
    }
    if !config.search.is_empty() {
        args.push(format!(
            "--dhcp-option-force=option:domain-search,{}",
            config.search.join(",")
        ));
    }
    args
}

/// Router advertisements always, as instances have no other way to a default route.
fn ra_v6(bridge: &str, config: &Config) -> Vec<String> {
    let Some(family) = &config.v6 else { return Vec::new() };
    let mut args = vec!["--enable-ra".into()];
    match (family.dhcp, config.v6_stateful) {
        (true, true) => {
            let (prefix, expiry) = (family.gateway.prefix, &family.expiry);
            args.extend(
                ranges(family)
                    .into_iter()
                    .map(|(first, last)| format!("--dhcp-range={first},{last},{prefix},{expiry}")),
            );
        }
        (true, false) => args.push(format!("--dhcp-range=::,constructor:{bridge},ra-stateless,ra-names")),
        (false, _) => args.push(format!("--dhcp-range=::,constructor:{bridge},ra-only")),
    }
    if !config.search.is_empty() {
        args.push(format!(
            "--dhcp-option-force=option6:domain-search,{}",
            config.search.join(",")
        ));
    }
    args
}

/// All arguments; `None` when dnsmasq has nothing to do. `raw` is the file with the operator's own lines.
pub(crate) fn arguments(bridge: &str, config: &Config, raw: Option<&str>) -> Option<Vec<String>> {
    if !is_needed(config) {
        return None;
    }
    let mut args = base(bridge);
    args.extend(dns(bridge, config));
    args.extend(dhcp_v4(config));
    args.extend(ra_v6(bridge, config));
    args.push(format!("--dhcp-leasefile={{dir}}/{LEASES}"));
    args.push(format!("--dhcp-hostsdir={{dir}}/{HOSTS}"));
    args.extend(raw.map(|file| format!("--conf-file={{dir}}/{file}")));
    Some(args)
}

/// A name for the operator's lines that changes with them, because dnsmasq reads its configuration only once: another
/// argument makes the host restart it. (FNV-1a, 64 bits: nobody gains by a collision.)
fn raw_name(lines: &str) -> String {
    let hash = lines.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("raw-{hash:016x}")
}

/// Runs dnsmasq as the configuration says, or not at all.
pub(crate) fn apply(host: &impl Host, bridge: &str, config: &Config) -> Result<()> {
    // It may have been allowed when the network was configured.
    check_raw(host, config.raw.as_deref())?;
    let raw = config.raw.as_deref().map(|lines| (raw_name(lines), lines));
    let Some(args) = arguments(bridge, config, raw.as_ref().map(|(name, _)| name.as_str())) else {
        return host.service_remove(SERVICE);
    };
    if let Some((name, lines)) = raw {
        host.service_write_file(SERVICE, &name, lines.as_bytes())?;
    }
    // dnsmasq refuses to start when a directory that it is to watch is not there. It ignores names that begin with a dot.
    host.service_write_file(SERVICE, &format!("{HOSTS}/.keep"), b"")?;
    host.service_ensure(SERVICE, SERVICE, &args, None)?;
    host.watch_service_file(SERVICE, LEASES, "leases")
}
