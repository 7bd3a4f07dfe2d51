//! Addresses with prefix lengths, and hardware addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and how many of its leading bits name the network: `10.0.0.1/24`, `fd00::1/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Up to 32 or 128.
    pub length: u8,
}

/// What can't be read as an address with a prefix length, or as a hardware address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct BadPrefix {
    /// What was given.
    pub text: String,
    /// What was expected.
    pub wanted: &'static str,
}

impl Prefix {
    /// The network: the address with its host's bits cleared.
    #[must_use]
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length.min(32))).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.length.min(128)))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
        };
        Self { address, ..self }
    }

    /// The address of all hosts of an IPv4 network; `None` where there is none (RFC 3021 for /31).
    pub(crate) fn broadcast(self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(a) if self.length <= 30 => {
                let hosts = u32::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
                Some(Ipv4Addr::from(u32::from(a) | hosts))
            }
            _ => None,
        }
    }

    /// Whether it is of IPv6's link-local range (RFC 4291, 2.5.6), which the kernel manages itself.
    pub(crate) fn is_link_local_v6(self) -> bool {
        matches!(self.address, IpAddr::V6(a) if a.segments().first().is_some_and(|s| s & 0xffc0 == 0xfe80))
    }

    pub(crate) fn octets(self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        }
    }

    pub(crate) fn from_octets(octets: &[u8], length: u8) -> Option<Self> {
        let address = if let Ok(four) = <[u8; 4]>::try_from(octets) {
            IpAddr::from(four)
        } else {
            IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)
        };
        Some(Self { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let plain = length.bytes().all(|b| b.is_ascii_digit());
            let length: u8 = length.parse().ok()?;
            (plain && length <= most).then_some(Self { address, length })
        };
        parse().ok_or_else(|| BadPrefix {
            text: text.to_owned(),
            wanted: "an address with a prefix length",
        })
    }
}

/// A hardware address of Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address of the host's end of a guest's pair: the guest's with a first byte that is local and higher than those in
    /// use, so that a bridge, which takes the lowest of its ports' addresses for its own, never takes this one.
    #[must_use]
    pub fn of_host_end(self) -> Self {
        let [first, rest @ ..] = self.0;
        let [a, b, c, d, e] = rest;
        // Both ends of a pair must differ.
        let mark = if first == 0xfe { 0xfa } else { 0xfe };
        Self([mark, a, b, c, d, e])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = BadPrefix;

    /// Six pairs of hexadecimal digits with colons; a group address can't be an interface's own.
    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let parse = || {
            let mut bytes = [0; 6];
            let mut parts = text.split(':');
            for byte in &mut bytes {
                let part = parts.next()?;
                if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                *byte = u8::from_str_radix(part, 16).ok()?;
            }
            let usable = parts.next().is_none() && bytes.first()? & 1 == 0 && bytes != [0; 6];
            usable.then_some(Self(bytes))
        };
        parse().ok_or_else(|| BadPrefix {
            text: text.to_owned(),
            wanted: "the hardware address of an interface",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_masked() {
        for (text, network) in [
            ("10.1.2.3/24", "10.1.2.0/24"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("10.1.2.3/32", "10.1.2.3/32"),
            ("fd00:1::5/64", "fd00:1::/64"),
            ("::1/0", "::/0"),
        ] {
            let prefix: Prefix = text.parse().unwrap();
            assert_eq!(prefix.to_string(), text);
            assert_eq!(prefix.network().to_string(), network);
        }
        for bad in [
            "10.0.0.1",
            "10.0.0.1/33",
            "10.0.0.1/+8",
            "::/129",
            "x/1",
            "10.0.0.1/",
            "10.0.0.1/24/1",
            "",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn broadcasts() {
        let broadcast = |text: &str| text.parse::<Prefix>().unwrap().broadcast().map(|a| a.to_string());
        assert_eq!(broadcast("10.1.2.3/24").as_deref(), Some("10.1.2.255"));
        assert_eq!(broadcast("10.1.2.3/0").as_deref(), Some("255.255.255.255"));
        assert_eq!(broadcast("10.1.2.3/31"), None);
        assert_eq!(broadcast("fd00::1/64"), None);
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(
            "00:16:3E:0a:0b:0c".parse::<MacAddress>().unwrap().to_string(),
            "00:16:3e:0a:0b:0c"
        );
        for bad in [
            "",
            "00:16:3e:0a:0b",
            "00:16:3e:0a:0b:0c:0d",
            "01:16:3e:0a:0b:0c",
            "0:16:3e:0a:0b:0c",
            "00:00:00:00:00:00",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?}");
        }
    }
}
