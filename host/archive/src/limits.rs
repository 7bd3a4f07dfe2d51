//! How much an archive may ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Bounds on what one archive may unpack to. The defaults let every image of a distribution through and stop bombs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of all files together, holes of sparse files not counted.
    pub total_bytes: u64,
    /// Bytes of one file, holes counted (its apparent size).
    pub file_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Components of a path.
    pub depth: usize,
    /// How many bytes one byte of the archive may unpack to, on the average of what has been read…
    pub ratio: u64,
    /// …once more than this many bytes have been unpacked.
    pub ratio_free_bytes: u64,
    /// Bytes of `metadata.yaml`.
    pub metadata_bytes: u64,
    /// Bytes of one template.
    pub template_bytes: u64,
    /// Number of templates.
    pub templates: usize,
    /// Memory that a decompressor may take, in bytes. `xz -9` needs 65 MiB, `zstd --ultra -22` 128 MiB.
    pub decoder_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total_bytes: 128 << 30,
            file_bytes: 1 << 40,
            entries: 2_000_000,
            depth: 256,
            ratio: 200,
            ratio_free_bytes: 256 << 20,
            metadata_bytes: 1 << 20,
            template_bytes: 1 << 20,
            templates: 256,
            decoder_memory: 192 << 20,
        }
    }
}

/// What has been used of the [`Limits`].
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    read: Arc<AtomicU64>,
    entries: u64,
    bytes: u64,
}

impl Budget {
    /// `read` counts the bytes of the archive that have been read.
    pub(crate) fn new(limits: Limits, read: Arc<AtomicU64>) -> Self {
        Self {
            limits,
            read,
            entries: 0,
            bytes: 0,
        }
    }

    /// Bytes of the archive that have been read.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One more entry.
    pub(crate) fn entry(&mut self) -> Result<()> {
        self.entries += 1;
        at_most(self.entries, self.limits.entries, "entries")
    }

    /// A file of this apparent size begins.
    pub(crate) fn file(&self, size: u64) -> Result<()> {
        at_most(size, self.limits.file_bytes, "bytes in one file")
    }

    /// `n` more bytes came out of the archive.
    pub(crate) fn data(&mut self, n: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(n);
        at_most(self.bytes, self.limits.total_bytes, "bytes in all")?;
        let earned = self.read().saturating_mul(self.limits.ratio);
        if self.bytes > self.limits.ratio_free_bytes.saturating_add(earned) {
            return Err(exceeded(self.limits.ratio, "bytes for every byte of the archive"));
        }
        Ok(())
    }
}

/// An error unless `value` is at most `limit`.
pub(crate) fn at_most(value: u64, limit: u64, unit: &str) -> Result<()> {
    if value > limit {
        Err(exceeded(limit, unit))
    } else {
        Ok(())
    }
}

pub(crate) fn exceeded(limit: u64, unit: &str) -> Error {
    Error::Limit {
        limit,
        unit: unit.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_counts_only_after_its_free_bytes() {
        let limits = Limits {
            ratio: 10,
            ratio_free_bytes: 1000,
            ..Limits::default()
        };
        let read = Arc::new(AtomicU64::new(0));
        let mut budget = Budget::new(limits, Arc::clone(&read));
        budget.data(1000).unwrap();
        read.store(10, Ordering::Relaxed);
        budget.data(100).unwrap();
        let unit = "bytes for every byte of the archive".into();
        assert_eq!(budget.data(1), Err(Error::Limit { limit: 10, unit }));
    }

    #[test]
    fn entries_and_bytes_are_counted() {
        let mut budget = Budget::new(
            Limits {
                entries: 1,
                total_bytes: 5,
                ..Limits::default()
            },
            Arc::default(),
        );
        budget.entry().unwrap();
        assert!(budget.entry().is_err());
        budget.data(5).unwrap();
        assert!(budget.data(1).is_err());
        assert!(budget.file(u64::MAX).is_err());
    }
}
