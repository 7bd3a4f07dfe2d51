//! Metrics of instances, by the names and labels that Incus has for them, so that what was drawn for Incus can be drawn of Hutch.

use std::time::Duration;

use hutch_api::openmetrics::{Exposition, Family, Kind};
use hutch_container::{MemoryUse, Usage};
use hutch_net::Interface;

use crate::instances::devices::nics;
use crate::instances::view::View;
use crate::machine::Machine;

/// Interfaces of one instance that are counted, unless it was given more.
const MAX_INTERFACES: usize = 32;

/// What was read of one running instance.
pub(super) struct Reading {
    project: String,
    name: String,
    usage: Usage,
    /// Its disks' names, in the order of `usage.disks`.
    disks: Vec<String>,
    interfaces: Vec<Interface>,
    /// Bytes of memory that it may have.
    memory_total: u64,
}

/// Reads an instance's counters.
pub(super) fn read(view: &View, machine: &Machine) -> Reading {
    let usage = view.keeper.as_ref().map(|keeper| keeper.usage()).unwrap_or_default();
    let interfaces = view
        .probe
        .as_ref()
        .zip(view.keeper.as_ref())
        .map(|(probe, keeper)| probe.interfaces(keeper));
    let interfaces = interfaces.unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|error| {
        tracing::debug!(instance = view.record.name, %error, "the network's counters can't be read");
        Vec::new()
    });
    let nics = nics(&view.record, &view.devices);
    let nics: Vec<_> = nics
        .iter()
        .map(|nic| (nic.reference.guest_name.as_str(), nic.reference.hwaddr.as_str()))
        .collect();
    let limit = usage.stats.memory_limit;
    Reading {
        project: view.record.project.clone(),
        name: view.record.name.clone(),
        disks: usage
            .disks
            .iter()
            .map(|disk| machine.disk(disk.major, disk.minor))
            .collect(),
        memory_total: limit.map_or(machine.memory_bytes, |limit| limit.min(machine.memory_bytes)),
        usage,
        interfaces: counted(interfaces, &nics),
    }
}

/// Those of the interfaces that are counted, by their numbers: root in a container can make thousands. First come those that the
/// instance was given, by their names or where they were renamed by their addresses; `nics` are these, all of which are counted.
fn counted(mut interfaces: Vec<Interface>, nics: &[(&str, &str)]) -> Vec<Interface> {
    interfaces.sort_by_cached_key(|interface| {
        let named = nics.iter().any(|(name, _)| *name == interface.name);
        let given = named
            || nics
                .iter()
                .any(|(_, address)| address.eq_ignore_ascii_case(&interface.hwaddr));
        (!named, !given, interface.index)
    });
    interfaces.truncate(MAX_INTERFACES.max(nics.len()));
    interfaces.sort_by_key(|interface| interface.index);
    interfaces
}

/// A family: its name, what it is, and its samples of one instance.
type Metric = (&'static str, Kind, &'static str, fn(&Reading, &mut Samples<'_, '_>));

/// Where the samples of one instance go.
struct Samples<'a, 'f> {
    family: &'a mut Family<'f>,
    of: &'a Reading,
}

impl Samples<'_, '_> {
    fn add(&mut self, labels: &[(&str, &str)], value: impl Into<hutch_api::openmetrics::Value>) {
        let mut all = labels.to_vec();
        all.extend([
            ("name", self.of.name.as_str()),
            ("project", self.of.project.as_str()),
            ("type", "container"),
        ]);
        self.family.sample(&all, value);
    }

    fn memory(&mut self, pick: fn(&MemoryUse) -> u64) {
        if let Some(memory) = &self.of.usage.memory {
            self.add(&[], pick(memory));
        }
    }

    fn disks(&mut self, pick: fn(&hutch_container::DiskUse) -> u64) {
        for (disk, name) in self.of.usage.disks.iter().zip(&self.of.disks) {
            self.add(&[("device", name)], pick(disk));
        }
    }

    fn interfaces(&mut self, pick: fn(&Interface) -> u64) {
        for interface in &self.of.interfaces {
            self.add(&[("device", &interface.name)], pick(interface));
        }
    }
}

/// Writes all families, each with the samples of every instance.
pub(super) fn write(text: &mut Exposition, readings: &[Reading]) {
    for (name, kind, help, samples) in METRICS {
        let mut family = text.family(name, *kind, help);
        for reading in readings {
            samples(
                reading,
                &mut Samples {
                    family: &mut family,
                    of: reading,
                },
            );
        }
    }
}

/// Containers don't have the processor's numbers of a machine; Incus calls what they use on v2 that of `cpu="0"`.
fn cpu(of: &Reading, to: &mut Samples<'_, '_>) {
    for (mode, time) in [("system", of.usage.cpu_system_ns), ("user", of.usage.cpu_user_ns)] {
        if let Some(time) = time {
            to.add(&[("cpu", "0"), ("mode", mode)], Duration::from_nanos(time));
        }
    }
}

fn free(of: &Reading) -> Option<u64> {
    of.usage.stats.memory.map(|used| of.memory_total.saturating_sub(used))
}

const METRICS: &[Metric] = &[
    (
        "incus_cpu_seconds",
        Kind::Counter,
        "Processor time used, in seconds.",
        cpu,
    ),
    ("incus_disk_read_bytes", Kind::Counter, "Bytes read.", |_, to| {
        to.disks(|disk| disk.read_bytes);
    }),
    (
        "incus_disk_reads_completed",
        Kind::Counter,
        "Completed reads.",
        |_, to| to.disks(|disk| disk.reads),
    ),
    ("incus_disk_written_bytes", Kind::Counter, "Bytes written.", |_, to| {
        to.disks(|disk| disk.written_bytes);
    }),
    (
        "incus_disk_writes_completed",
        Kind::Counter,
        "Completed writes.",
        |_, to| {
            to.disks(|disk| disk.writes);
        },
    ),
    (
        "incus_memory_Active_anon_bytes",
        Kind::Gauge,
        "Anonymous memory on the active list.",
        |_, to| {
            to.memory(|memory| memory.active_anonymous);
        },
    ),
    (
        "incus_memory_Active_bytes",
        Kind::Gauge,
        "Memory on the active lists.",
        |_, to| {
            to.memory(|memory| memory.active_anonymous.saturating_add(memory.active_file));
        },
    ),
    (
        "incus_memory_Active_file_bytes",
        Kind::Gauge,
        "Page cache on the active list.",
        |_, to| {
            to.memory(|memory| memory.active_file);
        },
    ),
    ("incus_memory_Cached_bytes", Kind::Gauge, "Page cache.", |_, to| {
        to.memory(|memory| memory.cached);
    }),
    (
        "incus_memory_Dirty_bytes",
        Kind::Gauge,
        "Memory that is to be written to a disk.",
        |_, to| {
            to.memory(|memory| memory.dirty);
        },
    ),
    (
        "incus_memory_Inactive_anon_bytes",
        Kind::Gauge,
        "Anonymous memory on the inactive list.",
        |_, to| {
            to.memory(|memory| memory.inactive_anonymous);
        },
    ),
    (
        "incus_memory_Inactive_bytes",
        Kind::Gauge,
        "Memory on the inactive lists.",
        |_, to| {
            to.memory(|memory| memory.inactive_anonymous.saturating_add(memory.inactive_file));
        },
    ),
    (
        "incus_memory_Inactive_file_bytes",
        Kind::Gauge,
        "Page cache on the inactive list.",
        |_, to| {
            to.memory(|memory| memory.inactive_file);
        },
    ),
    (
        "incus_memory_Mapped_bytes",
        Kind::Gauge,
        "Files mapped into memory.",
        |_, to| {
            to.memory(|memory| memory.mapped);
        },
    ),
    (
        "incus_memory_MemAvailable_bytes",
        Kind::Gauge,
        "Memory that can be had.",
        |of, to| {
            if let (Some(free), Some(memory)) = (free(of), &of.usage.memory) {
                to.add(&[], free.saturating_add(memory.cached).min(of.memory_total));
            }
        },
    ),
    (
        "incus_memory_MemFree_bytes",
        Kind::Gauge,
        "Memory that is not used.",
        |of, to| {
            if let Some(free) = free(of) {
                to.add(&[], free);
            }
        },
    ),
    (
        "incus_memory_MemTotal_bytes",
        Kind::Gauge,
        "Memory that it may have.",
        |of, to| to.add(&[], of.memory_total),
    ),
    (
        "incus_memory_OOM_kills",
        Kind::Counter,
        "Processes killed for lack of memory.",
        |of, to| {
            if let Some(kills) = of.usage.oom_kills {
                to.add(&[], kills);
            }
        },
    ),
    (
        "incus_memory_RSS_bytes",
        Kind::Gauge,
        "Anonymous memory and swap cache.",
        |_, to| {
            to.memory(|memory| memory.anonymous);
        },
    ),
    ("incus_memory_Shmem_bytes", Kind::Gauge, "Shared memory.", |_, to| {
        to.memory(|memory| memory.shared);
    }),
    (
        "incus_memory_Swap_bytes",
        Kind::Gauge,
        "Swap that is used.",
        |of, to| {
            if let Some(swap) = of.usage.stats.swap {
                to.add(&[], swap);
            }
        },
    ),
    (
        "incus_memory_Unevictable_bytes",
        Kind::Gauge,
        "Memory that can't be reclaimed.",
        |_, to| {
            to.memory(|memory| memory.unevictable);
        },
    ),
    (
        "incus_memory_Writeback_bytes",
        Kind::Gauge,
        "Memory that is being written to a disk.",
        |_, to| {
            to.memory(|memory| memory.writeback);
        },
    ),
    (
        "incus_network_receive_bytes",
        Kind::Counter,
        "Bytes received.",
        |_, to| {
            to.interfaces(|interface| interface.counters.rx_bytes);
        },
    ),
    (
        "incus_network_receive_drop",
        Kind::Counter,
        "Received packets that were dropped.",
        |_, to| {
            to.interfaces(|interface| interface.counters.rx_dropped);
        },
    ),
    (
        "incus_network_receive_errs",
        Kind::Counter,
        "Packets received with errors.",
        |_, to| {
            to.interfaces(|interface| interface.counters.rx_errors);
        },
    ),
    (
        "incus_network_receive_packets",
        Kind::Counter,
        "Packets received.",
        |_, to| {
            to.interfaces(|interface| interface.counters.rx_packets);
        },
    ),
    ("incus_network_transmit_bytes", Kind::Counter, "Bytes sent.", |_, to| {
        to.interfaces(|interface| interface.counters.tx_bytes);
    }),
    (
        "incus_network_transmit_drop",
        Kind::Counter,
        "Packets dropped before they were sent.",
        |_, to| {
            to.interfaces(|interface| interface.counters.tx_dropped);
        },
    ),
    (
        "incus_network_transmit_errs",
        Kind::Counter,
        "Packets that could not be sent.",
        |_, to| {
            to.interfaces(|interface| interface.counters.tx_errors);
        },
    ),
    (
        "incus_network_transmit_packets",
        Kind::Counter,
        "Packets sent.",
        |_, to| {
            to.interfaces(|interface| interface.counters.tx_packets);
        },
    ),
    // A number that goes down, whatever its name says: so Incus has it.
    ("incus_procs_total", Kind::Gauge, "Processes and threads.", |of, to| {
        if let Some(processes) = of.usage.stats.processes {
            to.add(&[], processes);
        }
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_that_a_container_makes_do_not_hide_its_own() {
        let interface = |index, name: String, hwaddr: &str| Interface {
            index,
            name,
            hwaddr: hwaddr.to_owned(),
            ..Interface::default()
        };
        let mut all = vec![interface(1, "lo".to_owned(), "")];
        all.extend((2..5000).map(|index| interface(index, format!("dummy{index}"), "02:00:00:00:00:01")));
        all.push(interface(5000, "lan".to_owned(), "00:16:3E:00:00:02"));
        all.push(interface(5001, "eth0".to_owned(), "00:16:3e:00:00:01"));
        let counted = counted(all, &[("eth0", "00:16:3e:00:00:01"), ("eth1", "00:16:3e:00:00:02")]);
        assert_eq!(counted.len(), MAX_INTERFACES);
        assert_eq!(counted[0].name, "lo");
        let last: Vec<&str> = counted[MAX_INTERFACES - 2..].iter().map(|i| i.name.as_str()).collect();
        assert_eq!(last, ["lan", "eth0"]);
    }
}
