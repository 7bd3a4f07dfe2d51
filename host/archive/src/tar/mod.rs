//! Reading and writing of tar archives: POSIX ustar and pax (IEEE Std 1003.1, pax), GNU tar (its manual, "Basic Tar
//! Format" and "Sparse Formats") and what was there before them.

pub(crate) mod header;
pub(crate) mod pax;
pub(crate) mod reader;
pub(crate) mod sparse;
pub(crate) mod writer;

/// Everything in a tar archive comes in blocks of this many bytes.
pub(crate) const BLOCK: usize = 512;
