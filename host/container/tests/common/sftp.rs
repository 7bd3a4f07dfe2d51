//! As much of an SFTP client as the tests need.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

pub struct Sftp(UnixStream);

impl Sftp {
    pub fn new(stream: OwnedFd) -> Self {
        let stream = UnixStream::from(stream);
        stream.set_nonblocking(false).unwrap();
        let mut this = Self(stream);
        this.0.write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).unwrap();
        let version = this.packet();
        assert_eq!(version[..5], [2, 0, 0, 0, 3]);
        this
    }

    /// Waits for the other end to say something, and tells whether it was nothing but its end.
    pub fn is_over(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }

    fn packet(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut packet).unwrap();
        packet
    }

    fn ask(&mut self, kind: u8, parts: &[&[u8]]) -> (u8, Vec<u8>) {
        let body: Vec<u8> = [&[kind, 0, 0, 0, 7][..]]
            .iter()
            .chain(parts)
            .flat_map(|part| part.iter().copied())
            .collect();
        self.0
            .write_all(&u32::try_from(body.len()).unwrap().to_be_bytes())
            .unwrap();
        self.0.write_all(&body).unwrap();
        let answer = self.packet();
        (answer[0], answer[5..].to_vec())
    }

    /// Writes a new file with this mode.
    pub fn put(&mut self, path: &str, data: &[u8], mode: u32) {
        let flags = 2_u32 | 8 | 16;
        let handle = self.ask(
            3,
            &[
                &string(path.as_bytes()),
                &flags.to_be_bytes(),
                &4_u32.to_be_bytes(),
                &mode.to_be_bytes(),
            ],
        );
        assert_eq!(handle.0, 102, "{path}: {handle:?}");
        let handle = string(&handle.1[4..]);
        for (number, block) in (0_u64..).zip(data.chunks(1 << 17)) {
            let offset = (number << 17).to_be_bytes();
            assert_eq!(self.ask(6, &[&handle, &offset, &string(block)]).1[..4], [0; 4]);
        }
        assert_eq!(self.ask(4, &[&handle]).1[..4], [0; 4]);
    }

    /// Reads a short file; the error's code when it can't be.
    pub fn get(&mut self, path: &str) -> Result<Vec<u8>, u32> {
        let handle = self.ask(
            3,
            &[&string(path.as_bytes()), &1_u32.to_be_bytes(), &0_u32.to_be_bytes()],
        );
        if handle.0 != 102 {
            return Err(u32::from_be_bytes(handle.1[..4].try_into().unwrap()));
        }
        let handle = string(&handle.1[4..]);
        let data = self.ask(5, &[&handle, &0_u64.to_be_bytes(), &4096_u32.to_be_bytes()]);
        assert_eq!(data.0, 103);
        Ok(data.1[4..].to_vec())
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}
