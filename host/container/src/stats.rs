//! Reading a container's counters.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::CGROUP_PARENT;
use crate::state::Stats;

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
    /// On v1 the swap counters include the memory.
    swap_includes_memory: bool,
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
        let swap_includes_memory = memory.is_some();
        let either = |old: (&Option<PathBuf>, &str), new: &str| match old {
            (dir @ Some(_), file) => open(dir, file, "", 1),
            (None, _) => open(&v2, new, "", 1),
        };
        Self {
            cpu: open(&v2, "cpu.stat", "usage_usec", 1000),
            memory: either((&memory, "memory.usage_in_bytes"), "memory.current"),
            memory_peak: either((&memory, "memory.max_usage_in_bytes"), "memory.peak"),
            memory_limit: either((&memory, "memory.limit_in_bytes"), "memory.max"),
            swap: either((&memory, "memory.memsw.usage_in_bytes"), "memory.swap.current"),
            swap_peak: either((&memory, "memory.memsw.max_usage_in_bytes"), "memory.swap.peak"),
            processes: either((&pids, "pids.current"), "pids.current"),
            swap_includes_memory,
        }
    }

    pub(crate) fn read(&self) -> Stats {
        let value = |counter: &Option<Counter>| counter.as_ref()?.value();
        let (memory, memory_peak) = (value(&self.memory), value(&self.memory_peak));
        let without_memory = |swap: Option<u64>, memory: Option<u64>| match self.swap_includes_memory {
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
    use super::parse;

    #[test]
    fn numbers_are_found() {
        assert_eq!(parse(b"4096\n", ""), Some(4096));
        assert_eq!(parse(b"max\n", ""), None);
        assert_eq!(parse(b"usage_usec 17\nuser_usec 9\n", "usage_usec"), Some(17));
        assert_eq!(parse(b"usage_usec_x 17\n", "usage_usec"), None);
        assert_eq!(parse(b"\xff", ""), None);
    }
}
