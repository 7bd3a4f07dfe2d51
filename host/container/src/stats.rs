//! Reading a container's counters.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::CGROUP_PARENT;
use crate::state::{DiskUse, MemoryUse, Stats, Usage};

/// Bytes of a file with numbers of many things that are read. They have two or three thousand, or a line of less than a hundred for
/// each disk; the rest of a longer one is not read.
const MANY: usize = 8 << 10;
/// Disks that are told of.
const MAX_DISKS: usize = 32;

/// The counters' files, opened once and read at offset 0 from then on.
#[derive(Debug)]
pub(crate) struct StatsReader {
    cpu: Option<Counter>,
    memory: Option<Counter>,
    memory_peak: Option<Counter>,
    memory_limit: Option<Counter>,
    swap: Option<Counter>,
    swap_peak: Option<Counter>,
    processes: Option<Counter>,
    cpu_user: Option<Counter>,
    cpu_system: Option<Counter>,
    oom_kills: Option<Counter>,
    memory_use: Option<File>,
    /// `io.stat`, which the unified hierarchy alone has for containers.
    disks: Option<File>,
    /// The memory controller is on v1: its swap counters include the memory, and its names are others.
    memory_is_v1: bool,
}

#[derive(Debug)]
struct Counter {
    file: File,
    /// The line's first word, in files of several; empty in files of one number.
    key: &'static str,
    /// What a unit of it is in the unit of [`Stats`].
    scale: u64,
}

impl StatsReader {
    /// Opens what the kernel has for the cgroup `name`. On the unified hierarchy everything is in one directory, on v1 in
    /// those of its controllers (the kernel's `admin-guide/cgroup-v2` and `cgroup-v1/memory`).
    pub(crate) fn new(name: &str) -> Self {
        let hierarchies = hutch_sys::cgroup::Hierarchies::find();
        let v2 = hierarchies.unified().map(|root| root.join(CGROUP_PARENT).join(name));
        let v1 = |controller: &str| {
            hierarchies
                .legacy(controller)
                .map(|root| root.join(CGROUP_PARENT).join(name))
        };
        let open = |dir: &Option<PathBuf>, file: &str, key, scale| Counter::open(dir.as_deref()?, file, key, scale);
        let (memory, pids) = (v1("memory"), v1("pids"));
        let memory_is_v1 = memory.is_some();
        let either = |old: (&Option<PathBuf>, &str), new: &str| match old {
            (dir @ Some(_), file) => open(dir, file, "", 1),
            (None, _) => open(&v2, new, "", 1),
        };
        let all = |dir: &Option<PathBuf>, file: &str| File::open(dir.as_deref()?.join(file)).ok();
        Self {
            cpu_user: open(&v2, "cpu.stat", "user_usec", 1000),
            cpu_system: open(&v2, "cpu.stat", "system_usec", 1000),
            oom_kills: match &memory {
                dir @ Some(_) => open(dir, "memory.oom_control", "oom_kill", 1),
                None => open(&v2, "memory.events", "oom_kill", 1),
            },
            memory_use: all(if memory_is_v1 { &memory } else { &v2 }, "memory.stat"),
            disks: all(&v2, "io.stat"),
            cpu: open(&v2, "cpu.stat", "usage_usec", 1000),
            memory: either((&memory, "memory.usage_in_bytes"), "memory.current"),
            memory_peak: either((&memory, "memory.max_usage_in_bytes"), "memory.peak"),
            memory_limit: either((&memory, "memory.limit_in_bytes"), "memory.max"),
            swap: either((&memory, "memory.memsw.usage_in_bytes"), "memory.swap.current"),
            swap_peak: either((&memory, "memory.memsw.max_usage_in_bytes"), "memory.swap.peak"),
            processes: either((&pids, "pids.current"), "pids.current"),
            memory_is_v1,
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let value = |counter: &Option<Counter>| counter.as_ref()?.value();
        Usage {
            stats: self.read(),
            cpu_user_ns: value(&self.cpu_user),
            cpu_system_ns: value(&self.cpu_system),
            memory: self.memory_use.as_ref().and_then(text).map(|text| {
                if self.memory_is_v1 {
                    memory_use_v1(&text)
                } else {
                    memory_use(&text)
                }
            }),
            oom_kills: value(&self.oom_kills),
            disks: self
                .disks
                .as_ref()
                .and_then(text)
                .map_or_else(Vec::new, |text| disks(&text)),
        }
    }

    pub(crate) fn read(&self) -> Stats {
        let value = |counter: &Option<Counter>| counter.as_ref()?.value();
        let (memory, memory_peak) = (value(&self.memory), value(&self.memory_peak));
        let without_memory = |swap: Option<u64>, memory: Option<u64>| match self.memory_is_v1 {
            // The two are read one after the other, so the difference may be a little below nothing.
            true => Some(swap?.saturating_sub(memory?)),
            false => swap,
        };
        Stats {
            cpu_ns: value(&self.cpu),
            memory,
            memory_peak,
            // v1 says "no limit" by the greatest multiple of the page size that fits a signed number.
            memory_limit: value(&self.memory_limit).filter(|limit| *limit < i64::MAX as u64 - 65_536),
            swap: without_memory(value(&self.swap), memory),
            swap_peak: without_memory(value(&self.swap_peak), memory_peak),
            processes: value(&self.processes),
        }
    }
}

/// The lines of a file of the kernel's that are whole.
fn text(file: &File) -> Option<String> {
    let mut buffer = vec![0; MANY];
    let length = file.read_at(&mut buffer, 0).ok()?;
    buffer.truncate(length);
    let end = buffer.iter().rposition(|byte| *byte == b'\n')?;
    buffer.truncate(end);
    String::from_utf8(buffer).ok()
}

/// `memory.stat` of v2 (the kernel's `admin-guide/cgroup-v2`).
fn memory_use(text: &str) -> MemoryUse {
    let mut used = MemoryUse::default();
    for (name, bytes) in numbers(text) {
        match name {
            "anon" => used.anonymous = bytes,
            "file" => used.cached = bytes,
            "shmem" => used.shared = bytes,
            "file_mapped" => used.mapped = bytes,
            "file_dirty" => used.dirty = bytes,
            "file_writeback" => used.writeback = bytes,
            "active_anon" => used.active_anonymous = bytes,
            "inactive_anon" => used.inactive_anonymous = bytes,
            "active_file" => used.active_file = bytes,
            "inactive_file" => used.inactive_file = bytes,
            "unevictable" => used.unevictable = bytes,
            _ => {}
        }
    }
    used
}

/// `memory.stat` of v1 (the kernel's `admin-guide/cgroup-v1/memory`): with what is below, `total_`.
fn memory_use_v1(text: &str) -> MemoryUse {
    let mut used = MemoryUse::default();
    for (name, bytes) in numbers(text) {
        match name {
            "total_rss" => used.anonymous = bytes,
            "total_cache" => used.cached = bytes,
            "total_shmem" => used.shared = bytes,
            "total_mapped_file" => used.mapped = bytes,
            "total_dirty" => used.dirty = bytes,
            "total_writeback" => used.writeback = bytes,
            "total_active_anon" => used.active_anonymous = bytes,
            "total_inactive_anon" => used.inactive_anonymous = bytes,
            "total_active_file" => used.active_file = bytes,
            "total_inactive_file" => used.inactive_file = bytes,
            "total_unevictable" => used.unevictable = bytes,
            _ => {}
        }
    }
    used
}

/// Names, each with its number.
fn numbers(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name, number.trim().parse().ok()?))
    })
}

/// A device's numbers, `8:0`.
fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `io.stat` (the kernel's `admin-guide/cgroup-v2`): `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn disks(text: &str) -> Vec<DiskUse> {
    let disk = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next().and_then(device)?;
        let mut disk = DiskUse {
            major,
            minor,
            ..DiskUse::default()
        };
        for (name, number) in words.filter_map(|word| word.split_once('=')) {
            let number = number.parse().unwrap_or(0);
            match name {
                "rbytes" => disk.read_bytes = number,
                "wbytes" => disk.written_bytes = number,
                "rios" => disk.reads = number,
                "wios" => disk.writes = number,
                _ => {}
            }
        }
        Some(disk)
    };
    text.lines().filter_map(disk).take(MAX_DISKS).collect()
}

impl Counter {
    fn open(dir: &Path, file: &str, key: &'static str, scale: u64) -> Option<Self> {
        File::open(dir.join(file)).ok().map(|file| Self { file, key, scale })
    }

    fn value(&self) -> Option<u64> {
        let mut buffer = [0; 512];
        let length = self.file.read_at(&mut buffer, 0).ok()?;
        parse(&buffer[..length], self.key)?.checked_mul(self.scale)
    }
}

/// The number in a file of one number, or on the line that begins with `key`; `max` is none.
fn parse(text: &[u8], key: &str) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let number = match key {
        "" => text.trim(),
        key => text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?
            .trim(),
    };
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found() {
        assert_eq!(parse(b"4096\n", ""), Some(4096));
        assert_eq!(parse(b"max\n", ""), None);
        assert_eq!(parse(b"usage_usec 17\nuser_usec 9\n", "usage_usec"), Some(17));
        assert_eq!(parse(b"usage_usec_x 17\n", "usage_usec"), None);
        assert_eq!(parse(b"\xff", ""), None);
    }

    #[test]
    fn disks_are_told_apart() {
        let expected = [
            DiskUse {
                major: 8,
                minor: 0,
                read_bytes: 4096,
                written_bytes: 8192,
                reads: 1,
                writes: 2,
            },
            DiskUse {
                major: 259,
                minor: 3,
                read_bytes: 1,
                ..DiskUse::default()
            },
        ];
        let v2 = "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=9 dios=9\n259:3 rbytes=1\nnonsense\n7:x rbytes=1";
        assert_eq!(disks(v2), expected);
        let many: String = (0..1000).map(|minor| format!("8:{minor} rbytes=1\n")).collect();
        assert_eq!(disks(&many).len(), MAX_DISKS);
    }

    #[test]
    fn memory_is_told_apart_in_both_versions() {
        let used = MemoryUse {
            anonymous: 1,
            cached: 2,
            ..MemoryUse::default()
        };
        assert_eq!(memory_use("anon 1\nfile 2\nfile_x 3\nkernel"), used);
        assert_eq!(memory_use_v1("cache 9\nrss 9\ntotal_cache 2\ntotal_rss 1"), used);
    }
}
