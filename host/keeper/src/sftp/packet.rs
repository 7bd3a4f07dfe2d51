//! The encoding of SFTP version 3 (draft-ietf-secsh-filexfer-02): big-endian numbers, strings with their length before them.

use std::os::unix::fs::MetadataExt;

/// Reads values off the front of a packet. `None` means that the packet is too short for what is asked.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }

    pub(super) fn attributes(&mut self) -> Option<Attributes> {
        let flags = self.u32()?;
        let has = |flag| flags & flag != 0;
        let attributes = Attributes {
            size: if has(SIZE) { Some(self.u64()?) } else { None },
            owner: if has(OWNER) {
                Some((self.u32()?, self.u32()?))
            } else {
                None
            },
            permissions: if has(PERMISSIONS) { Some(self.u32()?) } else { None },
            times: if has(TIMES) {
                Some((self.u32()?, self.u32()?))
            } else {
                None
            },
        };
        if has(EXTENDED) {
            // Nobody has defined any; they are read over.
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Some(attributes)
    }
}

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;

/// What is to be set of a file, or what it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// User and group.
    pub(super) owner: Option<(u32, u32)>,
    /// Mode, with the file's type.
    pub(super) permissions: Option<u32>,
    /// Of the last access and the last change, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

impl From<&std::fs::Metadata> for Attributes {
    fn from(metadata: &std::fs::Metadata) -> Self {
        // The format ends in 2106.
        let time = |seconds: i64| u32::try_from(seconds.max(0)).unwrap_or(u32::MAX);
        Self {
            size: Some(metadata.size()),
            owner: Some((metadata.uid(), metadata.gid())),
            permissions: Some(metadata.mode()),
            times: Some((time(metadata.atime()), time(metadata.mtime()))),
        }
    }
}

/// Builds a packet.
#[derive(Debug)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// A packet of this type, with room for its length.
    pub(super) fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn string(mut self, value: &[u8]) -> Self {
        // Strings here are file names and blocks of at most a packet's length.
        self.0
            .extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend(value);
        self
    }

    pub(super) fn attributes(self, attributes: &Attributes) -> Self {
        let flag = |has: bool, flag| if has { flag } else { 0 };
        let flags = flag(attributes.size.is_some(), SIZE)
            | flag(attributes.owner.is_some(), OWNER)
            | flag(attributes.permissions.is_some(), PERMISSIONS)
            | flag(attributes.times.is_some(), TIMES);
        let mut this = self.u32(flags);
        if let Some(size) = attributes.size {
            this = this.u64(size);
        }
        for (first, second) in attributes.owner.into_iter() {
            this = this.u32(first).u32(second);
        }
        if let Some(permissions) = attributes.permissions {
            this = this.u32(permissions);
        }
        for (first, second) in attributes.times.into_iter() {
            this = this.u32(first).u32(second);
        }
        this
    }

    /// The packet, with its length in front.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_round_trip() {
        let all = Attributes {
            size: Some(7),
            owner: Some((1, 2)),
            permissions: Some(0o644),
            times: Some((3, 4)),
        };
        for attributes in [
            all,
            Attributes::default(),
            Attributes {
                permissions: Some(1),
                ..Attributes::default()
            },
        ] {
            let packet = Writer::new(0).attributes(&attributes).finish();
            assert_eq!(Reader::new(&packet[5..]).attributes(), Some(attributes));
        }
    }

    #[test]
    fn short_and_lying_packets_end_in_nothing() {
        let packet = Writer::new(0)
            .attributes(&Attributes {
                size: Some(1),
                ..Attributes::default()
            })
            .finish();
        for length in 0..packet.len() - 5 {
            assert_eq!(Reader::new(&packet[5..5 + length]).attributes(), None);
        }
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 1]).string(), None);
        let many = Writer::new(0).u32(EXTENDED).u32(u32::MAX).finish();
        assert_eq!(Reader::new(&many[5..]).attributes(), None);
    }
}
