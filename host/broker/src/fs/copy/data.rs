//! The bytes of a file, with its holes, shared or copied.

use rustix::fd::BorrowedFd;
use rustix::fs::{SeekFrom, Stat};
use rustix::io::Errno;

use super::{Copier, XATTR_MAX};

/// Bytes that are copied between two looks at whether the copy is still wanted.
const CHUNK: usize = 16 << 20;

/// Bytes between two reports of how far a copy is.
const STEP: u64 = 16 << 20;
/// What is reported, with its unit.
const STAGE: &str = "MiB copied";

impl Copier<'_> {
    /// Gives an empty file what another holds.
    pub(super) fn copy_data(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        stat: &Stat,
    ) -> Result<(), Errno> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if self.job.reflink && rustix::fs::ioctl_ficlone(target, source).is_ok() {
            self.advance(size);
            return Ok(());
        }
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if allocated >= size {
            return self.copy_range(source, target, 0, size);
        }
        // There are holes: only what holds data is copied.
        let mut at = 0;
        while at < size {
            let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL) => return self.copy_range(source, target, at, size),
                other => other?,
            };
            let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
            self.copy_range(source, target, start, end.min(size))?;
            at = end;
        }
        rustix::fs::ftruncate(target, size)
    }

    /// Copies the bytes from `start` to `end` to the same place. A file that became shorter meanwhile ends there.
    fn copy_range(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        start: u64,
        end: u64,
    ) -> Result<(), Errno> {
        let (mut from, mut to) = (start, start);
        while from < end {
            if self.job.cancel.is_cancelled() {
                return Err(Errno::CANCELED);
            }
            let length = usize::try_from(end - from).unwrap_or(CHUNK).min(CHUNK);
            match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length) {
                Ok(0) => return Ok(()),
                Ok(copied) => self.advance(copied as u64),
                // Between file systems, and on those that know nothing of it (copy_file_range(2)).
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    return self.copy_plain(source, target, from, end);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn copy_plain(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        mut at: u64,
        end: u64,
    ) -> Result<(), Errno> {
        while at < end {
            if self.job.cancel.is_cancelled() {
                return Err(Errno::CANCELED);
            }
            let want = usize::try_from(end - at).unwrap_or(XATTR_MAX).min(self.buffer.len());
            let buffer = self.buffer.get_mut(..want).unwrap_or_default();
            let got = rustix::io::retry_on_intr(|| rustix::io::pread(source, &mut *buffer, at))?;
            if got == 0 {
                return Ok(());
            }
            let mut written = 0;
            while written < got {
                let rest = self.buffer.get(written..got).unwrap_or_default();
                written += rustix::io::retry_on_intr(|| rustix::io::pwrite(target, rest, at + written as u64))?;
            }
            at += got as u64;
            self.advance(got as u64);
        }
        Ok(())
    }

    /// Says how far the copy is, in steps that whoever listens can follow.
    fn advance(&mut self, bytes: u64) {
        self.copied += bytes;
        if self.copied - self.told >= STEP {
            self.told = self.copied;
            self.job.progress.report(STAGE, self.copied >> 20, None);
        }
    }
}
