//! The state of instances: bounded reads of descriptors that stay open. Nothing here can be held up by an instance.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hutch_api::state::{
    InstanceState, InstanceStateCpu, InstanceStateMemory, InstanceStateNetwork, InstanceStateNetworkAddress,
    InstanceStateNetworkCounters,
};
use hutch_container::{Keeper, Stats};
use hutch_net::{Interface, NetnsProbe};

use crate::error::{Error, Result};
use crate::instances::devices;
use crate::instances::view::View;
use crate::{Core, Tagged};

/// The socket in a running container's network namespace, opened at the first question.
#[derive(Debug, Default)]
pub struct Probe(Mutex<Option<NetnsProbe>>);

impl Probe {
    pub(crate) fn interfaces(&self, keeper: &Keeper) -> Result<Vec<Interface>, hutch_net::Error> {
        let mut probe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *probe {
            Some(open) => open.interfaces(),
            None => probe.insert(NetnsProbe::open(keeper.netns())?).interfaces(),
        }
    }
}

impl Core {
    /// The state of one instance.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn instance_state(&self, project: &str, name: &str) -> Result<Tagged<InstanceState>> {
        let view = self.instances.get(project, name)?.view();
        let value = self.states(std::slice::from_ref(&view)).await.pop().unwrap_or_default();
        Ok(Tagged {
            value,
            etag: view.etag(),
        })
    }

    /// The states of these instances, in their order.
    pub(crate) async fn states(&self, views: &[Arc<View>]) -> Vec<InstanceState> {
        if views.iter().all(|view| view.keeper.is_none()) {
            return views
                .iter()
                .map(|view| state(view, self.machine.memory_bytes))
                .collect();
        }
        let (views, total) = (views.to_vec(), self.machine.memory_bytes);
        // The kernel answers at once, but it is asked a few times for each instance: not on a thread that serves others.
        let read = tokio::task::spawn_blocking(move || views.iter().map(|view| state(view, total)).collect());
        read.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the states could not be read");
            Vec::new()
        })
    }
}

fn state(view: &View, total_memory: u64) -> InstanceState {
    let status = view.status();
    let mut state = InstanceState {
        status: status.to_string(),
        status_code: status,
        started_at: view.started_at,
        ..InstanceState::default()
    };
    let Some(keeper) = &view.keeper else { return state };
    let stats = keeper.stats();
    state.pid = keeper.init_pid().map_or(0, i64::from);
    state.processes = stats.processes.map_or(-1, signed);
    state.cpu = InstanceStateCpu {
        usage: stats.cpu_ns.map_or(-1, signed),
        ..InstanceStateCpu::default()
    };
    state.memory = memory(&stats, total_memory);
    match view.probe.as_ref().map(|probe| probe.interfaces(keeper)) {
        Some(Ok(interfaces)) => state.network = network(view, &interfaces),
        Some(Err(error)) => tracing::debug!(instance = view.record.name, %error, "the network's state can't be read"),
        None => {}
    }
    state
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn memory(stats: &Stats, total: u64) -> InstanceStateMemory {
    InstanceStateMemory {
        usage: stats.memory.map_or(0, signed),
        usage_peak: stats.memory_peak.map_or(0, signed),
        total: signed(stats.memory_limit.map_or(total, |limit| limit.min(total))),
        swap_usage: stats.swap.map_or(0, signed),
        swap_usage_peak: stats.swap_peak.map_or(0, signed),
    }
}

fn network(view: &View, interfaces: &[Interface]) -> BTreeMap<String, InstanceStateNetwork> {
    let nics = devices::nics(&view.record, &view.devices);
    let mut all = BTreeMap::new();
    for interface in interfaces {
        let host_name = nics
            .iter()
            .find(|nic| nic.reference.hwaddr.eq_ignore_ascii_case(&interface.hwaddr))
            .map(|nic| nic.reference.host_name.clone())
            .unwrap_or_default();
        all.insert(interface.name.clone(), render(interface, host_name));
    }
    all
}

fn render(interface: &Interface, host_name: String) -> InstanceStateNetwork {
    let counters = &interface.counters;
    InstanceStateNetwork {
        addresses: interface
            .addresses
            .iter()
            .map(|prefix| address(prefix.address, prefix.length))
            .collect(),
        counters: InstanceStateNetworkCounters {
            bytes_received: signed(counters.rx_bytes),
            bytes_sent: signed(counters.tx_bytes),
            packets_received: signed(counters.rx_packets),
            packets_sent: signed(counters.tx_packets),
            errors_received: signed(counters.rx_errors),
            errors_sent: signed(counters.tx_errors),
            packets_dropped_outbound: signed(counters.tx_dropped),
            packets_dropped_inbound: signed(counters.rx_dropped),
        },
        hwaddr: if interface.loopback {
            String::new()
        } else {
            interface.hwaddr.clone()
        },
        host_name,
        mtu: i64::from(interface.mtu),
        state: if interface.up { "up" } else { "down" }.to_owned(),
        kind: kind(interface).to_owned(),
    }
}

/// What the API calls an interface's type.
pub(crate) fn kind(interface: &Interface) -> &'static str {
    if interface.loopback {
        "loopback"
    } else if interface.point_to_point {
        "point-to-point"
    } else {
        "broadcast"
    }
}

/// An address with the scope that the API gives it: `local`, `link` or `global`.
pub(crate) fn address(address: IpAddr, length: u8) -> InstanceStateNetworkAddress {
    let scope = match address {
        _ if address.is_loopback() => "local",
        IpAddr::V4(v4) if v4.is_link_local() => "link",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "link",
        _ => "global",
    };
    InstanceStateNetworkAddress {
        family: if address.is_ipv4() { "inet" } else { "inet6" }.to_owned(),
        address: address.to_string(),
        netmask: length.to_string(),
        scope: scope.to_owned(),
    }
}

/// An error of the network crate during `action`.
pub(crate) fn net_error(action: &str) -> impl FnOnce(hutch_net::Error) -> Error {
    Error::container(action.to_owned())
}
