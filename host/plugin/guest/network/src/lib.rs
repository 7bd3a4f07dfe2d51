//! A network driver of bare bridges that misbehaves on request.
//!
//! Its configuration says in which function and how: `fault.network.start = "trap"` and the like, with the ways of `faults.rs`
//! and those of the functions themselves, which begin with `answer-`.

use hutch_sdk::host::Veth;
use hutch_sdk::network::{Lease, LeaseEntry, Network, NetworkRef, Nic, NicRef};
use hutch_sdk::{Host, Result};

#[allow(dead_code, reason = "some of it is the storage driver's alone")]
#[path = "../../src/faults.rs"]
mod faults;

use faults::{Pairs, gate, misbehave, wanted};

/// The driver.
#[derive(Debug)]
pub struct Faulty;

hutch_sdk::network_plugin! { driver: Faulty, exports: [network, nic, lease] }

impl Network for Faulty {
    fn validate(host: &impl Host, network: &NetworkRef, _: Option<&[(String, String)]>) -> Result<Pairs> {
        match wanted(&network.config, "network.validate") {
            "" => Ok(network.config.clone()),
            fault => misbehave(host, fault),
        }
    }

    fn start(host: &impl Host, network: &NetworkRef) -> Result<()> {
        host.link_ensure_bridge(&network.name, None, None)?;
        host.link_set_up(&network.name, true)?;
        // Late, so that there is something to be taken back.
        match wanted(&network.config, "network.start") {
            "filter" => host.filter_replace_table("faulty", "inet", ""),
            _ => gate(host, &network.config, "network.start"),
        }
    }

    fn update(host: &impl Host, network: &NetworkRef, _: &[(String, String)]) -> Result<()> {
        gate(host, &network.config, "network.update")
    }

    fn stop(host: &impl Host, network: &NetworkRef) -> Result<()> {
        gate(host, &network.config, "network.stop")?;
        host.link_delete(&network.name)
    }

    fn reconcile(host: &impl Host, network: &NetworkRef, _: &[NicRef]) -> Result<Vec<String>> {
        gate(host, &network.config, "network.reconcile")?;
        Ok(Vec::new())
    }
}

impl Nic for Faulty {
    fn validate(host: &impl Host, network: &NetworkRef, _: &[(String, String)]) -> Result<()> {
        gate(host, &network.config, "nic.validate")
    }

    fn attach(host: &impl Host, network: &NetworkRef, nic: &NicRef) -> Result<()> {
        let fault = wanted(&network.config, "nic.attach");
        let netns = if fault == "answer-netns" {
            "somebody else's"
        } else {
            &nic.netns
        };
        let name = if fault == "answer-name" { "lo" } else { &nic.host_name };
        let bridge = if fault == "answer-bridge" {
            "testbr0"
        } else {
            &network.name
        };
        host.link_ensure_veth(&Veth {
            name,
            bridge: Some(bridge),
            netns,
            guest_name: &nic.guest_name,
            hwaddr: &nic.hwaddr,
            mtu: None,
            options: &[],
        })?;
        gate(host, &network.config, "nic.attach")
    }

    fn detach(host: &impl Host, network: &NetworkRef, nic: &NicRef) -> Result<()> {
        gate(host, &network.config, "nic.detach")?;
        match nic.netns.is_empty() {
            true => Ok(()),
            false => host.link_delete(&nic.host_name),
        }
    }
}

impl Lease for Faulty {
    fn leases(host: &impl Host, network: &NetworkRef, _: &[NicRef]) -> Result<Vec<LeaseEntry>> {
        gate(host, &network.config, "lease.leases")?;
        let lease = |hostname: &str, address: &str, kind: &str| LeaseEntry {
            hostname: hostname.to_owned(),
            hwaddr: String::new(),
            address: address.to_owned(),
            kind: kind.to_owned(),
        };
        Ok(match wanted(&network.config, "lease.leases") {
            "answer-address" => vec![lease("c1", "10.0.0.2; reboot", "static")],
            "answer-name" => vec![lease("../c1", "10.0.0.2", "static")],
            "answer-control" => vec![lease("c\u{1b}[31m", "10.0.0.2", "static")],
            "answer-kind" => vec![lease("c1", "10.0.0.2", "borrowed")],
            "answer-many" => vec![lease("", "::1", "static"); 70_000],
            _ => Vec::new(),
        })
    }
}
