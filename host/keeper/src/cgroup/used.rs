//! What a container uses, for those inside who ask.

use std::fs;
use std::path::Path;

use super::Cgroup;

/// In bytes, and numbers of processes with their threads. What the kernel does not tell is nothing, or `None` where it matters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) memory: Option<u64>,
    /// Of the memory, what holds files.
    pub(crate) cache: u64,
    /// Of the cache, what lies nowhere else.
    pub(crate) shared: u64,
    pub(crate) swap: u64,
    pub(crate) processes: Option<u64>,
}

impl Cgroup {
    /// What all of the container uses, file servers as well.
    pub(crate) fn used(&self) -> Used {
        let number = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
        let processes = number(self.legacy_of("pids").unwrap_or(&self.unified), "pids.current");
        let legacy = self.legacy_of("memory");
        let dir = legacy.unwrap_or(&self.unified);
        let text = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let memory;
        let swap;
        let [cache, shared] = if legacy.is_some() {
            memory = number(dir, "memory.usage_in_bytes");
            // With the memory in it, if swap is counted at all.
            swap = number(dir, "memory.memsw.usage_in_bytes").map(|both| both.saturating_sub(memory.unwrap_or(both)));
            ["total_cache", "total_shmem"]
        } else {
            memory = number(dir, "memory.current");
            swap = number(dir, "memory.swap.current");
            ["file", "shmem"]
        }
        .map(|key| value(&text, key));
        Used {
            memory,
            cache,
            shared,
            swap: swap.unwrap_or(0),
            processes,
        }
    }
}

/// The number on the line of this name; 0 where there is none.
fn value(text: &str, key: &str) -> u64 {
    let line = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(line).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn figures_are_found_by_their_whole_name() {
        let text = "anon 1\nfile_mapped 2\nfile 3\n";
        assert_eq!((value(text, "file"), value(text, "shmem")), (3, 0));
    }
}
