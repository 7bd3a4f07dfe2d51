//! What an image is known by: the SHA-256 of its files, one after the other.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};

use sha2::{Digest, Sha256};

use crate::error::{Errno, Error, Result};

/// Computes a fingerprint piece by piece, for whoever has the bytes in hand anyway.
#[derive(Clone, Debug, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Lower-case hexadecimal, 64 characters.
    pub fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

/// The fingerprint of an image whose files are `files`: the one of a unified image, metadata and root file system of a split
/// one. Lower-case hexadecimal, 64 characters. The files are read from their beginning.
pub fn fingerprint(files: &[&File]) -> Result<String> {
    let fail = |e: std::io::Error| Error::Read(Errno::from(&e));
    let mut state = Fingerprint::default();
    let mut buffer = vec![0; 256 << 10];
    for mut file in files.iter().copied() {
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => state.update(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(e)),
            }
        }
    }
    Ok(state.finish())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn files_count_one_after_the_other() {
        let file = |data: &[u8]| {
            let mut f = tempfile::tempfile().unwrap();
            f.write_all(data).unwrap();
            f
        };
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(fingerprint(&[&file(b"abc")]).unwrap(), abc);
        assert_eq!(fingerprint(&[&file(b"a"), &file(b"bc")]).unwrap(), abc);
    }
}
