//! Sparse files in tar archives: GNU's old format, and its three versions on top of pax (GNU tar manual, "Sparse Formats").

use super::BLOCK;
use super::header::unsigned;
use super::pax::decimal;
use crate::error::{Error, Result};

/// Pieces of data that one file may have. GNU tar writes one for every run of blocks with data.
const MOST_PIECES: usize = 1 << 20;

/// A run of data in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Where the data of a sparse file belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SparseMap {
    /// In ascending order, not overlapping.
    pub(crate) pieces: Vec<Piece>,
    /// The apparent size.
    pub(crate) size: u64,
}

impl SparseMap {
    /// Adds a piece; they must come in order.
    pub(crate) fn push(&mut self, offset: u64, length: u64) -> Result<()> {
        let end_of_last = self.pieces.last().map_or(0, |p| p.offset + p.length);
        let in_order = offset >= end_of_last && offset.checked_add(length).is_some();
        if !in_order || self.pieces.len() >= MOST_PIECES {
            return Err(Error::corrupt("the map of a sparse file is inconsistent"));
        }
        // Empty pieces only mark the end of the file.
        if length > 0 {
            self.pieces.push(Piece { offset, length });
        }
        Ok(())
    }

    /// Checks that the pieces are inside the file and make up the `stored` bytes of data.
    pub(crate) fn check(&self, stored: u64) -> Result<()> {
        let end = self.pieces.last().map_or(0, |p| p.offset + p.length);
        let sum: u64 = self.pieces.iter().map(|p| p.length).sum();
        if end > self.size || sum != stored {
            return Err(Error::corrupt("the map of a sparse file does not fit its size"));
        }
        Ok(())
    }

    /// Adds `count` entries of the old GNU format: offset and length in twelve characters each. An empty one ends them.
    pub(crate) fn push_old(&mut self, field: &[u8], count: usize) -> Result<()> {
        for entry in field.as_chunks::<24>().0.iter().take(count) {
            if entry[0] == 0 {
                return Ok(());
            }
            let (Some(offset), Some(length)) = (unsigned(&entry[..12]), unsigned(&entry[12..])) else {
                return Err(Error::corrupt("the map of a sparse file is not made of numbers"));
            };
            self.push(offset, length)?;
        }
        Ok(())
    }
}

/// The keys `GNU.sparse.*` of an extended header.
#[derive(Clone, Debug, Default)]
pub(crate) struct PaxSparse {
    major: Option<u64>,
    minor: Option<u64>,
    /// The file's real name (the header's own is made up).
    pub(crate) name: Option<Vec<u8>>,
    size: Option<u64>,
    map: SparseMap,
    /// The offset of version 0.0 that waits for its length.
    pending: Option<u64>,
}

impl PaxSparse {
    /// One record, without the prefix of its key.
    pub(crate) fn set(&mut self, field: &[u8], value: &[u8]) -> Result<()> {
        match field {
            b"major" => self.major = decimal(field, value)?,
            b"minor" => self.minor = decimal(field, value)?,
            b"name" => self.name = (!value.is_empty()).then(|| value.to_vec()),
            b"size" | b"realsize" => self.size = decimal(field, value)?,
            b"offset" => self.pending = decimal(field, value)?,
            b"numbytes" => {
                let length = decimal(field, value)?;
                let (Some(offset), Some(length)) = (self.pending.take(), length) else {
                    return Err(Error::corrupt(
                        "the map of a sparse file has a length without an offset",
                    ));
                };
                self.map.push(offset, length)?;
            }
            b"map" => {
                let mut numbers = value.split(|&b| b == b',');
                while let Some(offset) = numbers.next() {
                    let pair = (
                        decimal(field, offset)?,
                        numbers.next().map(|n| decimal(field, n)).transpose()?.flatten(),
                    );
                    let (Some(offset), Some(length)) = pair else {
                        return Err(Error::corrupt("the map of a sparse file is not made of pairs"));
                    };
                    self.map.push(offset, length)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the file is sparse, and how: `None` for an ordinary file.
    pub(crate) fn kind(&self) -> Result<Option<PaxKind>> {
        match (self.major, self.minor, self.size) {
            (None | Some(0), _, None) => Ok(None),
            (None | Some(0), _, Some(size)) => Ok(Some(PaxKind::InHeader(SparseMap {
                size,
                ..self.map.clone()
            }))),
            (Some(1), Some(0), Some(size)) => Ok(Some(PaxKind::InData { size })),
            _ => Err(Error::corrupt("the format of a sparse file is not known")),
        }
    }
}

/// Where the map of a sparse file is.
#[derive(Debug)]
pub(crate) enum PaxKind {
    /// Versions 0.0 and 0.1: in the extended header.
    InHeader(SparseMap),
    /// Version 1.0: before the data.
    InData {
        /// The apparent size.
        size: u64,
    },
}

/// Reads the map of version 1.0, which is decimal numbers on lines of their own: how many pieces, then offset and length
/// of each; padded to whole blocks. `next_block` answers the blocks. The bytes used are answered with the map.
pub(crate) fn read_map(size: u64, mut next_block: impl FnMut() -> Result<[u8; BLOCK]>) -> Result<(SparseMap, u64)> {
    let mut map = SparseMap {
        size,
        pieces: Vec::new(),
    };
    let mut used = 0;
    let mut block = [0; BLOCK];
    let mut at = BLOCK;
    let mut number = || -> Result<u64> {
        let mut value: u64 = 0;
        for digits in 0.. {
            if at == BLOCK {
                block = next_block()?;
                used += BLOCK as u64;
                at = 0;
            }
            let byte = block[at];
            at += 1;
            let digit = match byte {
                b'\n' if digits > 0 => return Ok(value),
                b'0'..=b'9' => u64::from(byte - b'0'),
                _ => break,
            };
            match value.checked_mul(10).and_then(|v| v.checked_add(digit)) {
                Some(next) => value = next,
                None => break,
            }
        }
        Err(Error::corrupt("the map of a sparse file is not made of numbers"))
    };
    let count = number()?;
    for _ in 0..count {
        let (offset, length) = (number()?, number()?);
        map.push(offset, length)?;
    }
    Ok((map, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_of(text: &str) -> Result<(SparseMap, u64)> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let mut blocks = bytes.as_chunks::<BLOCK>().0.to_vec().into_iter();
        read_map(1000, move || blocks.next().ok_or(Error::Truncated))
    }

    #[test]
    fn maps_before_the_data() {
        let (map, used) = map_of("2\n0\n10\n512\n20\n").unwrap();
        assert_eq!(
            map.pieces,
            [
                Piece { offset: 0, length: 10 },
                Piece {
                    offset: 512,
                    length: 20
                }
            ]
        );
        assert_eq!(used, 512);
        map.check(30).unwrap();
        assert!(map.check(31).is_err());
        assert!(map_of("2\n512\n10\n0\n20\n").is_err(), "pieces out of order");
        assert!(map_of("1\n18446744073709551615\n1\n").is_err(), "overflow");
        assert!(map_of("99999999999999999999\n").is_err());
        assert!(map_of("x\n").is_err());
        assert!(map_of("\n").is_err());
        assert_eq!(
            map_of("5000\n0\n1\n"),
            Err(Error::corrupt("the map of a sparse file is not made of numbers"))
        );
    }

    #[test]
    fn maps_in_the_header() {
        let mut sparse = PaxSparse::default();
        sparse.set(b"size", b"100").unwrap();
        sparse.set(b"map", b"0,5,50,5").unwrap();
        let Some(PaxKind::InHeader(map)) = sparse.kind().unwrap() else {
            panic!("not sparse")
        };
        map.check(10).unwrap();
        let mut sparse = PaxSparse::default();
        assert!(sparse.set(b"numbytes", b"1").is_err());
        assert!(sparse.set(b"map", b"1").is_err());
        assert!(sparse.set(b"map", b"1,").is_err());
    }
}
