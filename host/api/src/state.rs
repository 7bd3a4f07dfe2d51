//! The state of instances: what `GET …/state` and `recursion=2` show.

use std::collections::BTreeMap;

use crate::wire::wire;
use crate::{StatusCode, Timestamp};

wire! {
    /// What an instance is doing.
    pub struct InstanceState {
        /// The text of `status_code`.
        pub status: String,
        /// As the instance's own.
        pub status_code: StatusCode,
        /// Disk devices with the space they take; `null` on the wire when there are none to show.
        #[serde(serialize_with = "crate::wire::empty_as_null")]
        pub disk: BTreeMap<String, InstanceStateDisk>,
        /// Memory.
        pub memory: InstanceStateMemory,
        /// Interfaces by their name inside; `null` on the wire when it is not running.
        #[serde(serialize_with = "crate::wire::empty_as_null")]
        pub network: BTreeMap<String, InstanceStateNetwork>,
        /// The process id of its init on the host; 0 when it is not running.
        pub pid: i64,
        /// How many processes it has; -1 when that isn't known, 0 when it is not running.
        pub processes: i64,
        /// Processor time.
        pub cpu: InstanceStateCpu,
        /// When it was started.
        pub started_at: Timestamp,
        /// What the guest says of itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub os_info: Option<InstanceStateOsInfo>,
    }

    /// A disk device.
    pub struct InstanceStateDisk {
        /// Bytes in use.
        pub usage: i64,
        /// Bytes there are; 0 when there is no limit.
        pub total: i64,
    }

    /// Memory, in bytes.
    pub struct InstanceStateMemory {
        /// In use.
        pub usage: i64,
        /// The most that was ever in use.
        pub usage_peak: i64,
        /// The limit, or the machine's memory.
        pub total: i64,
        /// Swap in use.
        pub swap_usage: i64,
        /// The most swap that was ever in use.
        pub swap_usage_peak: i64,
    }

    /// Processor time.
    pub struct InstanceStateCpu {
        /// Nanoseconds used.
        pub usage: i64,
        /// Nanoseconds a second that it may use; 0 when there is no limit.
        pub allocated_time: i64,
    }

    /// An interface.
    pub struct InstanceStateNetwork {
        /// Its addresses.
        pub addresses: Vec<InstanceStateNetworkAddress>,
        /// What went through it.
        pub counters: InstanceStateNetworkCounters,
        /// Its MAC address.
        pub hwaddr: String,
        /// The host's end.
        pub host_name: String,
        /// The largest packet, in bytes.
        pub mtu: i64,
        /// `up` or `down`.
        pub state: String,
        /// `broadcast`, `loopback`, `point-to-point`, `unknown`.
        #[serde(rename = "type")]
        pub kind: String,
    }

    /// An address of an interface.
    pub struct InstanceStateNetworkAddress {
        /// `inet` or `inet6`.
        pub family: String,
        /// The address.
        pub address: String,
        /// The length of the prefix, as text.
        pub netmask: String,
        /// `local`, `link`, `global`.
        pub scope: String,
    }

    /// What went through an interface, as the instance sees it.
    pub struct InstanceStateNetworkCounters {
        /// Bytes in.
        pub bytes_received: i64,
        /// Bytes out.
        pub bytes_sent: i64,
        /// Packets in.
        pub packets_received: i64,
        /// Packets out.
        pub packets_sent: i64,
        /// Errors on the way in.
        pub errors_received: i64,
        /// Errors on the way out.
        pub errors_sent: i64,
        /// Dropped on the way out.
        pub packets_dropped_outbound: i64,
        /// Dropped on the way in.
        pub packets_dropped_inbound: i64,
    }

    /// What the guest says of itself.
    pub struct InstanceStateOsInfo {
        /// The operating system's name.
        pub os: String,
        /// Its version.
        pub os_version: String,
        /// Its kernel's version.
        pub kernel_version: String,
        /// Its name.
        pub hostname: String,
        /// Its name with the domain.
        pub fqdn: String,
    }
}
