//! Building and reading netlink messages (netlink(7)): a header, a fixed part, attributes.

use crate::rtnl::{NLA_F_NESTED, NLA_TYPE_MASK};

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// A message that is being built. Lengths are filled in as it grows.
#[derive(Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

/// The place of a nested attribute that is not complete.
#[derive(Debug)]
#[must_use = "a nested attribute has to be closed"]
pub(crate) struct Nest(usize);

impl Message {
    /// A message with this fixed part after the header. The number of the request is the socket's to set.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// A message about a link: `struct ifinfomsg`. `change` says which of `flags` count.
    pub(crate) fn link(kind: u16, message_flags: u16, family: u8, index: i32, flags: u32, change: u32) -> Self {
        Self::new(kind, message_flags, &ifinfomsg(family, index, flags, change))
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Opens a nested attribute, which what follows belongs to until it is closed.
    pub(crate) fn open(&mut self, kind: u16) -> Nest {
        let at = self.bytes.len();
        self.attribute(kind | NLA_F_NESTED, &[]);
        Nest(at)
    }

    /// Bytes without a header of their own, in a nested attribute that begins with a structure.
    pub(crate) fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub(crate) fn close(&mut self, nest: &Nest) {
        let length = u16::try_from(self.bytes.len() - nest.0).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(nest.0..nest.0 + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// The finished message with its length and number.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(..4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        if let Some(place) = self.bytes.get_mut(8..12) {
            place.copy_from_slice(&sequence.to_ne_bytes());
        }
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// `struct ifinfomsg` of `linux/rtnetlink.h`.
pub(crate) fn ifinfomsg(family: u8, index: i32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    let parts = [
        (0, vec![family]),
        (4, index.to_ne_bytes().to_vec()),
        (8, flags.to_ne_bytes().to_vec()),
        (12, change.to_ne_bytes().to_vec()),
    ];
    for (at, part) in parts {
        if let Some(place) = bytes.get_mut(at..at + part.len()) {
            place.copy_from_slice(&part);
        }
    }
    bytes
}

/// One message of the kernel's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

/// The messages in what was received. Ends at the first one that can't be.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let body = bytes.get(HEADER..length)?;
        let received = Received {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}

/// The attributes in `bytes`, by type without flags. Ends at the first one that can't be.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

/// A text that ends with a zero byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_read() {
        let mut message = Message::new(16, 5, &[7; 16]);
        message.text(3, "eth0");
        let outer = message.open(18);
        message.text(1, "veth");
        let inner = message.open(2);
        message.number(4, 1500);
        message.close(&inner);
        message.close(&outer);
        let bytes = message.finish(42);
        assert_eq!(bytes.len() % 4, 0);

        let received: Vec<_> = messages(&bytes).collect();
        let [one] = received.as_slice() else {
            panic!("{received:?}")
        };
        assert_eq!((one.kind, one.flags, one.sequence), (16, 5, 42));
        let list: Vec<_> = attributes(&one.body[16..]).collect();
        assert_eq!(text(list[0].1), "eth0");
        assert_eq!(list[1].0, 18);
        let nested: Vec<_> = attributes(list[1].1).collect();
        assert_eq!(text(nested[0].1), "veth");
        assert_eq!(
            attributes(nested[1].1).next().and_then(|(_, v)| u32_at(v, 0)),
            Some(1500)
        );
    }

    #[test]
    fn broken_lengths_end_the_reading() {
        for bytes in [
            &[][..],
            &[0; 3],
            &[0; 16],
            &[255; 64],
            &[3, 0, 1, 0],
            &[200, 0, 1, 0, 1],
        ] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
    }
}
