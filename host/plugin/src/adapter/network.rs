//! Network drivers.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use hutch_driver::network::{Lease, NetworkDriver, NetworkRef, NicRef};
use hutch_driver::{Call, DriverError, DriverInfo, Options};

use super::{answer, pairs, picked};
use crate::bindings::network::types as wit;
use crate::export::{Exports, NetworkExports};
use crate::plugin::Slot;

/// Addresses that one network may have given out.
const MAX_LEASES: usize = 65_536;
/// Bytes of a host's name (RFC 1035 section 2.3.4).
const MAX_HOSTNAME: usize = 255;

/// A network driver that a plugin provides under one name.
pub(crate) struct NetworkAdapter {
    slot: Arc<Slot>,
    name: String,
}

impl NetworkAdapter {
    pub(crate) fn new(slot: Arc<Slot>, name: &str) -> Self {
        Self {
            slot,
            name: name.to_owned(),
        }
    }
}

impl Exports {
    fn network(&self) -> Option<&NetworkExports> {
        match self {
            Self::Network(exports) => Some(exports),
            _ => None,
        }
    }
}

fn network_ref(network: &NetworkRef) -> wit::NetworkRef {
    wit::NetworkRef {
        project: network.project.clone(),
        name: network.name.clone(),
        config: pairs(&network.config),
    }
}

fn nic_ref(nic: &NicRef) -> wit::NicRef {
    wit::NicRef {
        project: nic.project.clone(),
        instance: nic.instance.clone(),
        device: nic.device.clone(),
        host_name: nic.host_name.clone(),
        guest_name: nic.guest_name.clone(),
        hwaddr: nic.hwaddr.clone(),
        netns: nic.netns.clone(),
        config: pairs(&nic.config),
    }
}

fn nic_refs(nics: &[NicRef]) -> Vec<wit::NicRef> {
    nics.iter().map(nic_ref).collect()
}

/// What a call on a network as a whole works on.
fn target(network: &NetworkRef) -> String {
    format!("network/{}/{}", network.project, network.name)
}

/// What a call on one interface works on.
fn nic_target(network: &NetworkRef, nic: &NicRef) -> String {
    format!("{}/{}/{}/{}", target(network), nic.project, nic.instance, nic.device)
}

/// What a call that only reads or computes works on: nothing that another could be busy with.
fn reading(network: &NetworkRef) -> String {
    format!("network-reading/{}/{}", network.project, network.name)
}

#[async_trait]
impl NetworkDriver for NetworkAdapter {
    fn info(&self) -> DriverInfo {
        self.slot.current().info(&self.name)
    }

    async fn validate(
        &self,
        call: &Call,
        network: &NetworkRef,
        current: Option<&Options>,
    ) -> Result<Options, DriverError> {
        let plugin = self.slot.current();
        plugin.check_options(&network.config)?;
        let params = (network_ref(network), current.map(pairs));
        let pick = picked(|e| e.network().map(|n| &n.network.validate));
        plugin.call(call, reading(network), pick, params, answer::options).await
    }

    async fn start(&self, call: &Call, network: &NetworkRef) -> Result<(), DriverError> {
        let pick = picked(|e| e.network().map(|n| &n.network.start));
        self.slot
            .current()
            .call(call, target(network), pick, (network_ref(network),), Ok)
            .await
    }

    async fn update(&self, call: &Call, network: &NetworkRef, old: &Options) -> Result<(), DriverError> {
        let pick = picked(|e| e.network().map(|n| &n.network.update));
        self.slot
            .current()
            .call(call, target(network), pick, (network_ref(network), pairs(old)), Ok)
            .await
    }

    async fn stop(&self, call: &Call, network: &NetworkRef) -> Result<(), DriverError> {
        let pick = picked(|e| e.network().map(|n| &n.network.stop));
        self.slot
            .current()
            .call(call, target(network), pick, (network_ref(network),), Ok)
            .await
    }

    async fn reconcile(&self, call: &Call, network: &NetworkRef, nics: &[NicRef]) -> Result<Vec<String>, DriverError> {
        let pick = picked(|e| e.network().map(|n| &n.network.reconcile));
        self.slot
            .current()
            .call(
                call,
                target(network),
                pick,
                (network_ref(network), nic_refs(nics)),
                answer::report,
            )
            .await
    }

    async fn validate_nic(&self, call: &Call, network: &NetworkRef, config: &Options) -> Result<(), DriverError> {
        let pick = picked(|e| e.network().map(|n| &n.nic.validate));
        self.slot
            .current()
            .call(call, reading(network), pick, (network_ref(network), pairs(config)), Ok)
            .await
    }

    async fn attach(&self, call: &Call, network: &NetworkRef, nic: &NicRef) -> Result<(), DriverError> {
        let pick = picked(|e| e.network().map(|n| &n.nic.attach));
        self.slot
            .current()
            .call(
                call,
                nic_target(network, nic),
                pick,
                (network_ref(network), nic_ref(nic)),
                Ok,
            )
            .await
    }

    async fn detach(&self, call: &Call, network: &NetworkRef, nic: &NicRef) -> Result<(), DriverError> {
        let pick = picked(|e| e.network().map(|n| &n.nic.detach));
        self.slot
            .current()
            .call(
                call,
                nic_target(network, nic),
                pick,
                (network_ref(network), nic_ref(nic)),
                Ok,
            )
            .await
    }

    async fn leases(&self, call: &Call, network: &NetworkRef, nics: &[NicRef]) -> Result<Vec<Lease>, DriverError> {
        let pick = picked(|e| e.network()?.lease.as_ref().map(|l| &l.leases));
        self.slot
            .current()
            .call(
                call,
                reading(network),
                pick,
                (network_ref(network), nic_refs(nics)),
                leases,
            )
            .await
    }
}

fn leases(answer: Vec<wit::Lease>) -> Result<Vec<Lease>, String> {
    if answer.len() > MAX_LEASES {
        return Err(format!("{} leases, and {MAX_LEASES} are allowed", answer.len()));
    }
    answer.into_iter().map(lease).collect()
}

fn lease(lease: wit::Lease) -> Result<Lease, String> {
    answer::word("host's name", &lease.hostname, MAX_HOSTNAME, true)?;
    if lease.address.parse::<IpAddr>().is_err() {
        return Err(format!("the address {:?}", answer::shortened(&lease.address)));
    }
    if !lease.hwaddr.is_empty() && !is_mac(&lease.hwaddr) {
        return Err(format!("the MAC address {:?}", answer::shortened(&lease.hwaddr)));
    }
    if !["dynamic", "static", "gateway"].contains(&lease.kind.as_str()) {
        return Err(format!("a lease of the kind {:?}", answer::shortened(&lease.kind)));
    }
    Ok(Lease {
        hostname: lease.hostname,
        hwaddr: lease.hwaddr,
        address: lease.address,
        kind: lease.kind,
    })
}

/// Six bytes in hexadecimal, separated by colons.
fn is_mac(text: &str) -> bool {
    text.split(':').count() == 6
        && text
            .split(':')
            .all(|byte| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wit(hostname: &str, hwaddr: &str, address: &str, kind: &str) -> wit::Lease {
        wit::Lease {
            hostname: hostname.into(),
            hwaddr: hwaddr.into(),
            address: address.into(),
            kind: kind.into(),
        }
    }

    #[test]
    fn leases_are_what_they_say() {
        let good = [
            wit("c1", "00:16:3e:aa:bb:cc", "10.0.0.2", "dynamic"),
            wit("c1", "00:16:3e:aa:bb:cc", "fd42::2", "static"),
            wit("net.gw", "", "10.0.0.1", "gateway"),
        ];
        assert_eq!(leases(good.to_vec()).map(|l| l.len()), Ok(3));
        for bad in [
            wit("c1", "00:16:3e:aa:bb", "10.0.0.2", "dynamic"),
            wit("c1", "", "10.0.0.2/24", "dynamic"),
            wit("c1", "", "10.0.0.2", "borrowed"),
            wit("c\n1", "", "10.0.0.2", "static"),
        ] {
            assert!(leases(vec![bad]).is_err());
        }
    }
}
