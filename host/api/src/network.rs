//! Networks, their state and the leases in them.

use serde_json::Value;

use crate::wire::wire;
use crate::{Config, config};

wire! {
    /// A network.
    pub struct Network {
        /// Its name; of a managed network often also that of its interface.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// The driver's name, or what kind of interface an unmanaged one is.
        #[serde(rename = "type")]
        pub kind: String,
        /// Whether the server made it.
        pub managed: bool,
        /// `Created`, `Pending`, `Errored`, `Unavailable`; empty for an unmanaged one.
        pub status: String,
        /// Its configuration.
        pub config: Config,
        /// Paths of the instances and profiles that use it.
        pub used_by: Vec<String>,
        /// The cluster members that have it.
        pub locations: Vec<String>,
        /// Its project.
        pub project: String,
    }

    /// `POST /1.0/networks`.
    pub struct NetworksPost {
        /// Its name.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// The driver's name; empty for the operator's default.
        #[serde(rename = "type")]
        pub kind: String,
        /// Its configuration.
        pub config: Config,
    }

    /// `PUT /1.0/networks/{name}`.
    pub struct NetworkPut {
        /// Its configuration.
        pub config: Config,
        /// What people wrote of it.
        pub description: String,
    }

    /// `PATCH /1.0/networks/{name}`: what is absent stays.
    pub struct NetworkPatch {
        /// Keys to change; an empty value removes its key.
        pub config: Option<Config>,
        /// What people wrote of it.
        pub description: Option<String>,
    }

    /// `POST /1.0/networks/{name}`: a new name.
    pub struct NetworkPost {
        /// The new name.
        pub name: String,
    }

    /// An address that was given out in a network.
    pub struct NetworkLease {
        /// The client's name.
        pub hostname: String,
        /// Its MAC address.
        pub hwaddr: String,
        /// Its address.
        pub address: String,
        /// `static`, `dynamic`, `gateway`, `uplink`.
        #[serde(rename = "type")]
        pub kind: String,
        /// The cluster member that it is on.
        pub location: String,
        /// The project of the instance.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub project: String,
    }

    /// The state of a network's interface.
    pub struct NetworkState {
        /// Its addresses.
        pub addresses: Vec<NetworkStateAddress>,
        /// What went through it.
        pub counters: NetworkStateCounters,
        /// Its MAC address.
        pub hwaddr: String,
        /// The largest packet, in bytes.
        pub mtu: i64,
        /// `up` or `down`.
        pub state: String,
        /// `broadcast`, `loopback`, `point-to-point`, `unknown`.
        #[serde(rename = "type")]
        pub kind: String,
        /// Of a bond.
        pub bond: Option<NetworkStateBond>,
        /// Of a bridge.
        pub bridge: Option<NetworkStateBridge>,
        /// Of a VLAN.
        pub vlan: Option<NetworkStateVlan>,
        /// Of a logical network.
        pub ovn: Option<Value>,
    }

    /// An address.
    pub struct NetworkStateAddress {
        /// `inet` or `inet6`.
        pub family: String,
        /// The address.
        pub address: String,
        /// The length of the prefix, as text.
        pub netmask: String,
        /// `local`, `link`, `global`.
        pub scope: String,
    }

    /// What went through an interface.
    pub struct NetworkStateCounters {
        /// Bytes in.
        pub bytes_received: i64,
        /// Bytes out.
        pub bytes_sent: i64,
        /// Packets in.
        pub packets_received: i64,
        /// Packets out.
        pub packets_sent: i64,
    }

    /// A bond.
    pub struct NetworkStateBond {
        /// Its mode.
        pub mode: String,
        /// How a sender's interface is chosen.
        pub transmit_policy: String,
        /// Milliseconds before an interface counts as up.
        pub up_delay: u64,
        /// Milliseconds before it counts as down.
        pub down_delay: u64,
        /// Milliseconds between looks at the link.
        pub mii_frequency: u64,
        /// `up` or `down`.
        pub mii_state: String,
        /// Its interfaces.
        pub lower_devices: Vec<String>,
    }

    /// A bridge.
    pub struct NetworkStateBridge {
        /// Its id.
        pub id: String,
        /// Whether it speaks the spanning tree protocol.
        pub stp: bool,
        /// Hundredths of a second before a port forwards.
        pub forward_delay: u64,
        /// The VLAN of untagged frames.
        pub vlan_default: u64,
        /// Whether it filters by VLAN.
        pub vlan_filtering: bool,
        /// Its ports.
        pub upper_devices: Vec<String>,
    }

    /// A VLAN.
    pub struct NetworkStateVlan {
        /// What it is on.
        pub lower_device: String,
        /// Its number.
        pub vid: u64,
    }
}

impl Network {
    /// The changeable part, as a PUT would send it back.
    pub fn to_put(&self) -> NetworkPut {
        NetworkPut {
            config: self.config.clone(),
            description: self.description.clone(),
        }
    }

    /// What an ETag is made of.
    pub fn etag_parts(&self) -> Value {
        serde_json::json!([self.name, self.managed, self.kind, self.description, self.config])
    }
}

impl NetworkPatch {
    /// Changes `put` as the PATCH asks.
    pub fn apply(self, put: &mut NetworkPut) {
        if let Some(description) = self.description {
            put.description = description;
        }
        config::merge(&mut put.config, self.config.unwrap_or_default());
    }
}
