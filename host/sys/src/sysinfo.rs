//! What `sysinfo(2)` tells, and its structure as programs of either ABI expect it.

use std::io;
use std::mem::MaybeUninit;

/// The figures of `sysinfo(2)`; sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Seconds since the start.
    pub uptime: u64,
    /// Load averages of 1, 5 and 15 minutes, in 65,536ths.
    pub loads: [u64; 3],
    /// Memory.
    pub total_ram: u64,
    /// Memory that holds nothing.
    pub free_ram: u64,
    /// Memory of shared files that lie nowhere else.
    pub shared_ram: u64,
    /// Memory of buffers.
    pub buffer_ram: u64,
    /// Swap space.
    pub total_swap: u64,
    /// Swap space that holds nothing.
    pub free_swap: u64,
    /// Processes and threads.
    pub processes: u64,
}

impl Figures {
    /// The machine's.
    ///
    /// # Errors
    /// Those of `sysinfo(2)`.
    pub fn of_machine() -> io::Result<Self> {
        let mut raw = MaybeUninit::<libc::sysinfo>::zeroed();
        // SAFETY: the structure is what the call fills.
        if unsafe { libc::sysinfo(raw.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is one of numbers, which were zero before the call filled them.
        let raw = unsafe { raw.assume_init() };
        let bytes = |size: libc::c_ulong| size.saturating_mul(libc::c_ulong::from(raw.mem_unit));
        Ok(Self {
            // Signed with one C library and not with another.
            uptime: u64::try_from(raw.uptime).unwrap_or_default(),
            loads: raw.loads,
            total_ram: bytes(raw.totalram),
            free_ram: bytes(raw.freeram),
            shared_ram: bytes(raw.sharedram),
            buffer_ram: bytes(raw.bufferram),
            total_swap: bytes(raw.totalswap),
            free_swap: bytes(raw.freeswap),
            processes: raw.procs.into(),
        })
    }

    const fn sizes(&self) -> [u64; 6] {
        [
            self.total_ram,
            self.free_ram,
            self.shared_ram,
            self.buffer_ram,
            self.total_swap,
            self.free_swap,
        ]
    }

    fn short_processes(&self) -> u16 {
        u16::try_from(self.processes).unwrap_or(u16::MAX)
    }

    /// `struct sysinfo` of `linux/sysinfo.h`, as programs of the processor's own ABI expect it.
    #[must_use]
    pub fn native(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [self.uptime].into_iter().chain(self.loads).chain(self.sizes()) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(self.short_processes().to_ne_bytes());
        bytes.extend([0; 6]);
        // No high memory.
        bytes.extend([0; 16]);
        // Sizes are in bytes; the last word is padding.
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    /// The structure of the 32-bit ABI, `struct compat_sysinfo` of kernel/sys.c: sizes are in pages where one has no room in bytes.
    #[must_use]
    pub fn compat(&self) -> Vec<u8> {
        const PAGE: u32 = 4096;
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let sizes = self.sizes();
        let fit = sizes.iter().all(|size| u32::try_from(*size).is_ok());
        let unit = if fit { 1 } else { PAGE };
        let mut bytes = Vec::new();
        let words = [self.uptime]
            .into_iter()
            .chain(self.loads)
            .chain(sizes.map(|size| size / u64::from(unit)));
        for word in words {
            bytes.extend(short(word).to_ne_bytes());
        }
        bytes.extend(self.short_processes().to_ne_bytes());
        bytes.extend([0; 2]);
        // No high memory.
        bytes.extend([0; 8]);
        bytes.extend(unit.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_the_kernel_has_them() {
        let figures = Figures {
            uptime: 7,
            total_ram: 256 << 20,
            processes: 70_000,
            ..Figures::default()
        };
        let native = figures.native();
        assert_eq!(native.len(), 112);
        assert_eq!(native[..8], 7_u64.to_ne_bytes());
        assert_eq!(native[32..40], (256_u64 << 20).to_ne_bytes());
        assert_eq!(native[80..82], u16::MAX.to_ne_bytes());
        assert_eq!(native[104..108], 1_u32.to_ne_bytes());
        let compat = figures.compat();
        assert_eq!(compat.len(), 64);
        assert_eq!(compat[16..20], (256_u32 << 20).to_ne_bytes());
        assert_eq!(compat[52..56], 1_u32.to_ne_bytes());
        let large = Figures {
            total_ram: 8 << 30,
            ..figures
        };
        assert_eq!(large.compat()[16..20], (2_u32 << 20).to_ne_bytes());
        assert_eq!(large.compat()[52..56], 4096_u32.to_ne_bytes());
    }

    #[test]
    fn the_machine_has_memory() {
        let figures = Figures::of_machine().unwrap();
        assert!(figures.total_ram > 1 << 20 && figures.free_ram <= figures.total_ram);
    }
}
