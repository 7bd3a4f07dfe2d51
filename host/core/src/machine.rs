//! The machine that the daemon runs on: memory, processors, links.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hutch_api::network::{NetworkState, NetworkStateAddress, NetworkStateCounters};
use hutch_api::resources::{
    Resources, ResourcesCpu, ResourcesCpuCore, ResourcesCpuSocket, ResourcesCpuThread, ResourcesLoad, ResourcesMemory,
    ResourcesSystem,
};
use hutch_net::{Interface, NetnsProbe};

use crate::Core;
use crate::error::{Error, Result};
use crate::instances::state::{address, kind, net_error};

/// What was read of the machine when the daemon started, and a socket to ask for its links.
#[derive(Debug)]
pub struct Machine {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Numbers of the processors that are online.
    pub cpus: Vec<u32>,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// When the daemon was started.
    pub(crate) started: Instant,
    probe: Mutex<Option<NetnsProbe>>,
    /// The names of disks, by their numbers.
    disks: Mutex<BTreeMap<(u32, u32), String>>,
}

/// Names of disks that are remembered.
const MAX_DISKS: usize = 1024;

/// A link of the machine.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// What the API calls its type: `physical`, `bridge`, `loopback`, …
    pub kind: String,
}

impl Machine {
    pub(crate) fn read() -> Self {
        Self {
            memory_bytes: memory_info().get("MemTotal").copied().unwrap_or(0),
            cpus: online_cpus(),
            architecture: nix::sys::utsname::uname()
                .map_or_else(|_| String::new(), |name| name.machine().to_string_lossy().into_owned()),
            started: Instant::now(),
            probe: Mutex::new(None),
            disks: Mutex::default(),
        }
    }

    /// The name of a disk, `sda`, which the kernel has in memory (sysfs-block); its numbers where it is gone.
    pub(crate) fn disk(&self, major: u32, minor: u32) -> String {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = disks.get(&(major, minor)) {
            return name.clone();
        }
        let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).unwrap_or_default();
        let Some(name) = text.lines().find_map(|line| line.strip_prefix("DEVNAME=")) else {
            return format!("{major}:{minor}");
        };
        // Disks that went are forgotten with all others once there are many.
        if disks.len() >= MAX_DISKS {
            disks.clear();
        }
        disks.insert((major, minor), name.to_owned());
        name.to_owned()
    }

    fn interfaces(&self) -> Result<Vec<Interface>> {
        let mut probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = net_error("listing the machine's links");
        match &mut *probe {
            Some(open) => open.interfaces().map_err(failed),
            None => NetnsProbe::here()
                .and_then(|open| probe.insert(open).interfaces())
                .map_err(failed),
        }
    }

    pub(crate) async fn links(&self) -> Result<Vec<Link>> {
        Ok(self.interfaces()?.iter().map(link).collect())
    }

    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>> {
        Ok(self
            .interfaces()?
            .iter()
            .find(|interface| interface.name == name)
            .map(link))
    }

    pub(crate) async fn network_state(&self, name: &str) -> Result<Option<NetworkState>> {
        Ok(self
            .interfaces()?
            .iter()
            .find(|interface| interface.name == name)
            .map(network_state))
    }
}

fn link(interface: &Interface) -> Link {
    let kind = match interface.kind.as_str() {
        _ if interface.loopback => "loopback",
        "" => "physical",
        "bridge" => "bridge",
        "vlan" => "vlan",
        "bond" => "bond",
        _ => "unknown",
    };
    Link {
        name: interface.name.clone(),
        kind: kind.to_owned(),
    }
}

fn network_state(interface: &Interface) -> NetworkState {
    let counters = &interface.counters;
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    NetworkState {
        addresses: interface
            .addresses
            .iter()
            .map(|prefix| {
                let rendered = address(prefix.address, prefix.length);
                NetworkStateAddress {
                    family: rendered.family,
                    address: rendered.address,
                    netmask: rendered.netmask,
                    scope: rendered.scope,
                }
            })
            .collect(),
        counters: NetworkStateCounters {
            bytes_received: signed(counters.rx_bytes),
            bytes_sent: signed(counters.tx_bytes),
            packets_received: signed(counters.rx_packets),
            packets_sent: signed(counters.tx_packets),
        },
        hwaddr: interface.hwaddr.clone(),
        mtu: i64::from(interface.mtu),
        state: if interface.up { "up" } else { "down" }.to_owned(),
        kind: kind(interface).to_owned(),
        ..NetworkState::default()
    }
}

/// `/proc/meminfo` (proc(5)) in bytes.
fn memory_info() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let number: u64 = rest.split_whitespace().next()?.parse().ok()?;
        Some((name.to_owned(), number * 1024))
    };
    text.lines().filter_map(line).collect()
}

/// `/sys/devices/system/cpu/online` (sysfs-devices-system-cpu), `0-3,5`.
fn online_cpus() -> Vec<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    text.trim()
        .parse::<hutch_container::CpuSet>()
        .map_or_else(|_| vec![0], |set| set.cpus().to_vec())
}

fn topology(cpu: u32, file: &str) -> u64 {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{file}");
    std::fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

impl Core {
    /// The machine's hardware, as far as instances are concerned with it: processors, memory, load.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn resources(&self) -> Result<Resources> {
        let info = memory_info();
        let get = |name: &str| info.get(name).copied().unwrap_or(0);
        let load = std::fs::read_to_string("/proc/loadavg").map_err(Error::io("reading /proc/loadavg"))?;
        let mut fields = load.split_whitespace();
        let mut average = || fields.next().and_then(|field| field.parse().ok()).unwrap_or(0.0);
        let (one, five, ten) = (average(), average(), average());
        let processes = fields
            .next()
            .and_then(|field| field.split_once('/')?.1.parse().ok())
            .unwrap_or(0);
        Ok(Resources {
            cpu: self.cpu(),
            memory: ResourcesMemory {
                total: get("MemTotal"),
                used: get("MemTotal").saturating_sub(get("MemAvailable")),
                hugepages_total: get("HugePages_Total") / 1024 * get("Hugepagesize"),
                hugepages_used: (get("HugePages_Total").saturating_sub(get("HugePages_Free"))) / 1024
                    * get("Hugepagesize"),
                hugepages_size: get("Hugepagesize"),
                ..ResourcesMemory::default()
            },
            load: ResourcesLoad {
                average_1_min: one,
                average_5_min: five,
                average_10_min: ten,
                processes,
            },
            system: ResourcesSystem {
                kind: "physical".to_owned(),
                ..ResourcesSystem::default()
            },
            ..Resources::default()
        })
    }

    fn cpu(&self) -> ResourcesCpu {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let first = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let mut sockets: BTreeMap<u64, BTreeMap<u64, Vec<ResourcesCpuThread>>> = BTreeMap::new();
        for cpu in &self.machine.cpus {
            let cores = sockets.entry(topology(*cpu, "physical_package_id")).or_default();
            let threads = cores.entry(topology(*cpu, "core_id")).or_default();
            threads.push(ResourcesCpuThread {
                id: i64::from(*cpu),
                thread: threads.len() as u64,
                online: true,
                ..ResourcesCpuThread::default()
            });
        }
        let sockets = sockets
            .into_iter()
            .map(|(socket, cores)| ResourcesCpuSocket {
                name: first("model name"),
                vendor: first("vendor_id"),
                socket,
                cores: cores
                    .into_iter()
                    .map(|(core, threads)| ResourcesCpuCore {
                        core,
                        threads,
                        ..ResourcesCpuCore::default()
                    })
                    .collect(),
                ..ResourcesCpuSocket::default()
            })
            .collect();
        ResourcesCpu {
            architecture: self.machine.architecture.clone(),
            sockets,
            total: self.machine.cpus.len() as u64,
        }
    }
}
