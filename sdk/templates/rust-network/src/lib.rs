//! Networks that are a bridge and nothing else: the instances on one reach one another, and nobody outside. They give themselves
//! addresses.
//!
//! There is nothing to be remembered and nothing to be tidied up: the bridge is the network, an instance's interface goes with its
//! namespace, and every function of the host's makes what is there match.

use hutch_sdk::host::Veth;
use hutch_sdk::network::{Network, NetworkRef, Nic, NicRef};
use hutch_sdk::{Error, Host, Options, Result};

/// The driver. It has no state: each call gets a fresh instance.
pub struct Driver;

hutch_sdk::network_plugin! { driver: Driver, exports: [network, nic] }

const MTU: &str = "bridge.mtu";

/// What the core lets an interface have on any network; this driver adds nothing.
const NIC_KEYS: [&str; 8] = ["boot.priority", "host_name", "hwaddr", "name", "network", "nictype", "parent", "type"];

fn mtu(network: &NetworkRef) -> Result<Option<u32>> {
    Options::new(&network.config).number(MTU, 1280..=65535)
}

impl Network for Driver {
    fn validate(
        _host: &impl Host,
        network: &NetworkRef,
        _current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>> {
        let options = Options::new(&network.config);
        options.check_keys(&format!("network {}", network.name), &[MTU])?;
        mtu(network)?;
        Ok(options.into_pairs())
    }

    fn start(host: &impl Host, network: &NetworkRef) -> Result<()> {
        host.link_ensure_bridge(&network.name, None, mtu(network)?)?;
        host.link_set_up(&network.name, true)
    }

    fn update(host: &impl Host, network: &NetworkRef, _old: &[(String, String)]) -> Result<()> {
        <Self as Network>::start(host, network)
    }

    fn stop(host: &impl Host, network: &NetworkRef) -> Result<()> {
        host.link_delete(&network.name)
    }

    fn reconcile(_host: &impl Host, _network: &NetworkRef, _nics: &[NicRef]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

impl Nic for Driver {
    fn validate(_host: &impl Host, network: &NetworkRef, config: &[(String, String)]) -> Result<()> {
        Options::new(config).check_keys(&format!("an interface on network {}", network.name), &NIC_KEYS)
    }

    fn attach(host: &impl Host, network: &NetworkRef, nic: &NicRef) -> Result<()> {
        if nic.netns.is_empty() {
            return Err(Error::unsupported(format!(
                "interface {} of {} has no network namespace to be put into",
                nic.device, nic.instance
            )));
        }
        host.link_ensure_veth(&Veth {
            name: &nic.host_name,
            bridge: Some(&network.name),
            netns: &nic.netns,
            guest_name: &nic.guest_name,
            hwaddr: &nic.hwaddr,
            mtu: mtu(network)?,
            options: &[],
        })
    }

    fn detach(host: &impl Host, _network: &NetworkRef, nic: &NicRef) -> Result<()> {
        // Without a namespace the interface went with it, and deleting one takes the kernel some 20 ms.
        if nic.netns.is_empty() {
            return Ok(());
        }
        host.link_delete(&nic.host_name)
    }
}

#[cfg(test)]
mod tests {
    use hutch_sdk::testing::{FakeHost, for_every_crash};

    use super::*;

    fn network(mtu: &str) -> NetworkRef {
        NetworkRef {
            project: "default".into(),
            name: "net1".into(),
            config: vec![(MTU.into(), mtu.into())],
        }
    }

    #[test]
    fn a_network_is_a_bridge_that_is_up_wherever_its_start_was_interrupted() {
        let host = FakeHost::default();
        let start = |host: &FakeHost| <Driver as Network>::start(host, &network("1400"));
        for_every_crash(&host, start, |host, crash| {
            start(host).unwrap();
            let bridge = host.state().links["net1"].clone();
            assert!(bridge.up && bridge.mtu == Some(1400), "{crash:?}");
        });
    }

    #[test]
    fn an_mtu_is_a_number_in_range() {
        let host = FakeHost::default();
        for (mtu, good) in [("1280", true), ("9000", true), ("100", false), ("large", false)] {
            let answer = <Driver as Network>::validate(&host, &network(mtu), None);
            assert_eq!(answer.is_ok(), good, "{mtu}");
        }
    }
}
