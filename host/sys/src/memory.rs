//! What a process that waits for years need not keep in memory.

use std::ffi::c_void;

unsafe extern "C" {
    /// Where the program's first segment begins and its code ends: made by the linker (`end(3)`).
    static __executable_start: u8;
    static etext: u8;
}

/// Takes this program's code out of this process's memory. It is mapped from its file and read-only, and comes back, from the page
/// cache as a rule, where it is executed next: after a phase that will not come again this leaves what the next one needs.
pub fn forget_code() {
    const PAGE: usize = 4096;
    let start = (&raw const __executable_start).addr().next_multiple_of(PAGE);
    let end = (&raw const etext).addr() / PAGE * PAGE;
    let length = end.saturating_sub(start);
    // SAFETY: these pages hold the ELF header, the tables of the linker and code, which nothing writes to: what is dropped is what the
    // file has. Relocated constants lie behind `etext`. An error changes nothing.
    unsafe {
        libc::madvise(
            std::ptr::with_exposed_provenance_mut::<c_void>(start),
            length,
            libc::MADV_DONTNEED,
        )
    };
}

/// Bounds how many heaps there are for threads that allocate at the same time (`M_ARENA_MAX`, mallopt(3)). The C library makes one
/// for each thread up to eight a processor, and keeps what a thread that has ended had freed. To be called before there are
/// threads.
#[cfg(target_env = "gnu")]
pub fn limit_heaps(most: u8) {
    // SAFETY: it changes a number that the allocator looks at when a thread allocates for the first time.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, most.into()) };
}

/// Gives back to the kernel what was freed and is still this process's: whole pages anywhere in the heaps (malloc_trim(3)). Takes
/// about a millisecond for 50 MiB that are in use, and the time of giving back for the rest.
#[cfg(target_env = "gnu")]
pub fn trim_heaps() {
    // SAFETY: it takes the allocator's own locks and touches nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_env = "gnu")]
    fn freed_memory_goes_back_to_the_kernel() {
        let resident = || -> usize {
            let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
            let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
            pages.expect("proc_pid_statm(5)") * 4096
        };
        // Small ones, with some kept in between, so that the heap can't just be shortened.
        let mut blocks: Vec<Option<Vec<u8>>> = (0..16_384).map(|_| Some(vec![1_u8; 4000])).collect();
        let full = resident();
        for (number, block) in blocks.iter_mut().enumerate() {
            if number % 64 != 0 {
                *block = None;
            }
        }
        super::trim_heaps();
        let left = resident();
        assert!(left + (48 << 20) < full, "{left} of {full} bytes are left");
    }

    #[test]
    fn code_comes_back() {
        super::forget_code();
        assert_eq!((0..10).map(|n| n * n).sum::<u32>(), 285);
    }
}
