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

#[cfg(test)]
mod tests {
    #[test]
    fn code_comes_back() {
        super::forget_code();
        assert_eq!((0..10).map(|n| n * n).sum::<u32>(), 285);
    }
}
