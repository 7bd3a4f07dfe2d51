//! Packets of SFTP version 3 (draft-ietf-secsh-filexfer-02), as far as a client needs them.

use bytes::{Buf, Bytes};

/// A packet that makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What a file is, by its `st_mode` (inode(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

/// A file's attributes (section 5); what is absent isn't sent or wasn't said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attrs {
    pub(super) size: Option<u64>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) permissions: Option<u32>,
    /// Access and modification, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 1 << 31;

impl Attrs {
    pub(super) fn kind(&self) -> Kind {
        match self.permissions.unwrap_or_default() & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o120_000 => Kind::Symlink,
            _ => Kind::Other,
        }
    }

    /// Whether there is nothing to set.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let flags = flag(self.size.is_some(), SIZE)
            | flag(self.owner.is_some(), OWNER)
            | flag(self.permissions.is_some(), PERMISSIONS)
            | flag(self.times.is_some(), TIMES);
        out.extend(flags.to_be_bytes());
        if let Some(size) = self.size {
            out.extend(size.to_be_bytes());
        }
        if let Some((uid, gid)) = self.owner {
            out.extend(uid.to_be_bytes());
            out.extend(gid.to_be_bytes());
        }
        if let Some(permissions) = self.permissions {
            out.extend(permissions.to_be_bytes());
        }
        if let Some((accessed, modified)) = self.times {
            out.extend(accessed.to_be_bytes());
            out.extend(modified.to_be_bytes());
        }
    }

    pub(super) fn read(packet: &mut Reader) -> Result<Self, Malformed> {
        let flags = packet.u32()?;
        let mut attrs = Self::default();
        if flags & SIZE != 0 {
            attrs.size = Some(packet.u64()?);
        }
        if flags & OWNER != 0 {
            attrs.owner = Some((packet.u32()?, packet.u32()?));
        }
        if flags & PERMISSIONS != 0 {
            attrs.permissions = Some(packet.u32()?);
        }
        if flags & TIMES != 0 {
            attrs.times = Some((packet.u32()?, packet.u32()?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..packet.u32()? {
                packet.bytes()?;
                packet.bytes()?;
            }
        }
        Ok(attrs)
    }
}

/// Reads the fields of a packet; beyond its end everything is malformed.
pub(super) struct Reader(pub(super) Bytes);

impl Reader {
    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.0.try_get_u64().map_err(|_| Malformed)
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if length > self.0.len() {
            Err(Malformed)
        } else {
            Ok(self.0.split_to(length))
        }
    }

    /// Text; what is no UTF-8 in it is replaced, since JSON has no way to write it.
    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }
}

/// Appends a counted string (section 3 of the draft's "Data Type Representations").
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Callers bound what they send by far less than 4 GiB.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend(length.to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_went() {
        for attrs in [
            Attrs::default(),
            Attrs {
                permissions: Some(0o100_644),
                ..Attrs::default()
            },
            Attrs {
                size: Some(1 << 40),
                owner: Some((1, 2)),
                permissions: Some(3),
                times: Some((4, 5)),
            },
            Attrs {
                owner: Some((1, 2)),
                times: Some((4, 5)),
                ..Attrs::default()
            },
        ] {
            let mut out = Vec::new();
            attrs.write(&mut out);
            let mut reader = Reader(out.into());
            assert_eq!(Attrs::read(&mut reader), Ok(attrs));
            assert!(reader.0.is_empty());
        }
    }

    #[test]
    fn what_lies_about_its_length_is_malformed() {
        assert_eq!(Reader(Bytes::from_static(&[0, 0, 0, 9, 1])).bytes(), Err(Malformed));
        assert_eq!(
            Reader(Bytes::from_static(&[255, 255, 255, 255])).bytes(),
            Err(Malformed)
        );
        // Four thousand million extensions in an empty packet.
        assert_eq!(
            Attrs::read(&mut Reader(Bytes::from_static(&[128, 0, 0, 0, 255, 255, 255, 255]))),
            Err(Malformed)
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// The server runs inside the instance, and whoever is root there may have replaced it.
        #[test]
        fn no_packet_panics(bytes in proptest::collection::vec(0_u8..4, 0..64), noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            for bytes in [bytes, noise] {
                let mut reader = Reader(bytes.into());
                while Attrs::read(&mut reader).is_ok() && reader.text().is_ok() && reader.u8().is_ok() {}
            }
        }
    }
}
