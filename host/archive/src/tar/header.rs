//! The header block of a tar archive: fixed fields, numbers in octal text or in base 256.

use super::BLOCK;
use crate::error::{Error, Result};

/// Where the checksum stands; it is computed as if it were eight spaces.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// A header block whose checksum is right.
pub(crate) struct Header<'a>(&'a [u8; BLOCK]);

/// Which of the historical formats a header is in; it decides what the fields after the link name mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Before POSIX: nothing after the link name.
    V7,
    /// POSIX: a prefix of the name.
    Ustar,
    /// GNU: times and sparse maps.
    Gnu,
}

impl<'a> Header<'a> {
    /// Checks the checksum.
    pub(crate) fn new(block: &'a [u8; BLOCK]) -> Result<Self> {
        if checksum_matches(block) {
            Ok(Self(block))
        } else {
            Err(Error::corrupt("a header's checksum is wrong"))
        }
    }

    pub(crate) fn flavour(&self) -> Flavour {
        match &self.0[257..263] {
            b"ustar\0" => Flavour::Ustar,
            b"ustar " => Flavour::Gnu,
            _ => Flavour::V7,
        }
    }

    pub(crate) fn typeflag(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix of the POSIX format before it.
    pub(crate) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[0..100]);
        let prefix = if self.flavour() == Flavour::Ustar {
            text(&self.0[345..500])
        } else {
            &[]
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(crate) fn link_name(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(crate) fn mode(&self) -> Result<u32> {
        // Only the permission bits count; some programs store the type of the file above them.
        u32::try_from(self.unsigned(100..108, "mode")? & 0o7777).map_err(|_| Error::corrupt("a mode is out of range"))
    }

    pub(crate) fn uid(&self) -> Result<u64> {
        self.unsigned(108..116, "owner")
    }

    pub(crate) fn gid(&self) -> Result<u64> {
        self.unsigned(116..124, "group")
    }

    pub(crate) fn size(&self) -> Result<u64> {
        self.unsigned(124..136, "size")
    }

    pub(crate) fn mtime(&self) -> Result<i64> {
        number(&self.0[136..148]).ok_or_else(|| Error::corrupt("a header's time is no number"))
    }

    /// The bytes of a field, for what only one flavour has.
    pub(crate) fn raw(&self, range: std::ops::Range<usize>) -> &'a [u8] {
        &self.0[range]
    }

    fn unsigned(&self, range: std::ops::Range<usize>, what: &str) -> Result<u64> {
        unsigned(&self.0[range]).ok_or_else(|| Error::corrupt(format!("a header's {what} is no number")))
    }
}

/// A number that is not negative.
pub(crate) fn unsigned(field: &[u8]) -> Option<u64> {
    number(field).and_then(|n| u64::try_from(n).ok())
}

/// A number: octal digits between optional spaces and zero bytes, or, with the first bit set, a big-endian two's
/// complement in all following bits (GNU tar manual, "Extensions"). An empty field is 0.
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // The bit after the marker is the sign.
        let mut value: i128 = i128::from(first & 0x7f);
        if first & 0x40 != 0 {
            value -= 0x80;
        }
        for &byte in &field[1..] {
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).ok();
    }
    let digits = field.trim_ascii_start();
    let end = digits
        .iter()
        .position(|b| matches!(b, 0 | b' '))
        .unwrap_or(digits.len());
    let mut value: i64 = 0;
    for &digit in &digits[..end] {
        if !(b'0'..=b'7').contains(&digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

/// A text field up to its first zero byte.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}

/// Whether a block's checksum is right, summed as unsigned bytes or, as some old programs did, as signed ones.
pub(crate) fn checksum_matches(block: &[u8]) -> bool {
    let Some(stored) = number(&block[CHECKSUM]) else {
        return false;
    };
    let sums = |value: fn(u8) -> i64| -> i64 {
        block
            .iter()
            .enumerate()
            .map(|(i, &b)| value(if CHECKSUM.contains(&i) { b' ' } else { b }))
            .sum()
    };
    stored != 0 && (stored == sums(i64::from) || stored == sums(|b| i64::from(b.cast_signed())))
}

/// Puts the checksum into a block that is otherwise complete.
pub(crate) fn seal(block: &mut [u8; BLOCK]) {
    block[CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    let text = format!("{sum:06o}\0 ");
    block[CHECKSUM].copy_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0\0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777777"), Some(0o77_777_777_777));
        assert_eq!(number(b"0000x44\0"), None);
        assert_eq!(number(b"-1\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn checksums() {
        let mut block = [0u8; BLOCK];
        block[..4].copy_from_slice(b"name");
        assert!(!checksum_matches(&block));
        seal(&mut block);
        assert!(checksum_matches(&block));
        block[0] ^= 1;
        assert!(!checksum_matches(&block));
        assert!(!checksum_matches(&[0; BLOCK]));
    }

    proptest! {
        #[test]
        fn no_block_panics(mut bytes in proptest::collection::vec(any::<u8>(), BLOCK), sealed: bool) {
            let block: &mut [u8; BLOCK] = bytes.as_mut_slice().try_into().unwrap();
            if sealed {
                seal(block);
            }
            if let Ok(header) = Header::new(block) {
                let _ = (header.name(), header.link_name(), header.flavour(), header.typeflag());
                let _ = (header.mode(), header.uid(), header.gid(), header.size(), header.mtime());
            }
        }
    }
}
