//! Addresses with prefix lengths, and hardware addresses. No I/O here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hutch_sdk::{Error, Result};

/// An address of 32 or 128 bits.
pub(crate) trait Address: Copy + Ord + fmt::Display + std::str::FromStr {
    /// How long it is.
    const BITS: u8;
    /// Its bits as a number.
    fn bits(self) -> u128;
    /// The address of a number.
    fn of(bits: u128) -> Self;
    /// The same address, if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;
}

impl Address for Ipv4Addr {
    const BITS: u8 = 32;

    fn bits(self) -> u128 {
        u128::from(self.to_bits())
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "numbers above 32 bits don't come from IPv4 addresses"
    )]
    fn of(bits: u128) -> Self {
        Self::from_bits(bits as u32)
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }
}

impl Address for Ipv6Addr {
    const BITS: u8 = 128;

    fn bits(self) -> u128 {
        self.to_bits()
    }

    fn of(bits: u128) -> Self {
        Self::from_bits(bits)
    }

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }
}

/// An address in a subnet, such as `10.0.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr<A> {
    pub(crate) address: A,
    pub(crate) prefix: u8,
}

impl<A: Address> Cidr<A> {
    pub(crate) fn new(address: A, prefix: u8) -> Self {
        Self { address, prefix }
    }

    /// Reads `ADDRESS/PREFIX`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= A::BITS).then_some(Self {
            address: address.parse().ok()?,
            prefix,
        })
    }

    fn mask(&self) -> u128 {
        let all = u128::MAX >> (128 - u32::from(A::BITS));
        all & !all.checked_shr(u32::from(self.prefix)).unwrap_or(0)
    }

    /// The subnet's own address.
    pub(crate) fn network(&self) -> A {
        A::of(self.address.bits() & self.mask())
    }

    /// The subnet's last address, which IPv4 broadcasts to.
    pub(crate) fn last(&self) -> A {
        let all = u128::MAX >> (128 - u32::from(A::BITS));
        A::of(self.address.bits() | (all & !self.mask()))
    }

    /// Whether an address is in the subnet.
    pub(crate) fn contains(&self, address: A) -> bool {
        address.bits() & self.mask() == self.network().bits()
    }

    /// Whether two subnets have an address in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// The address so many after the subnet's own.
    pub(crate) fn nth(&self, n: u128) -> A {
        A::of(self.network().bits() + n)
    }

    /// The address so many before the last one.
    pub(crate) fn nth_last(&self, n: u128) -> A {
        A::of(self.last().bits().saturating_sub(n))
    }
}

impl<A: Address> fmt::Display for Cidr<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Whether a subnet, given as text of either family, overlaps with `own`. Text that is none does not.
pub(crate) fn overlaps_v4(own: &Cidr<Ipv4Addr>, text: &str) -> bool {
    Cidr::parse(text).is_some_and(|other: Cidr<Ipv4Addr>| other.prefix > 0 && own.overlaps(&other))
}

/// The same for IPv6. Default routes (`::/0`) overlap with everything and don't count.
pub(crate) fn overlaps_v6(own: &Cidr<Ipv6Addr>, text: &str) -> bool {
    Cidr::parse(text).is_some_and(|other: Cidr<Ipv6Addr>| other.prefix > 0 && own.overlaps(&other))
}

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac([u8; 6]);

impl Mac {
    /// An address in the block that LXD and Xen give to virtual interfaces.
    pub(crate) fn random(random: u64) -> Self {
        let [a, b, c, ..] = random.to_le_bytes();
        Self([0x00, 0x16, 0x3e, a, b, c])
    }

    /// Reads six pairs of hexadecimal digits with colons between. One of a group (the lowest bit of the first byte) can't be an
    /// interface's.
    ///
    /// # Errors
    /// `invalid` for anything else.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("{text:?} is not the hardware address of an interface"));
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| !part.starts_with('+'))
                .ok_or_else(wrong)?;
        }
        if parts.next().is_some() || bytes[0] & 1 == 1 {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }

    /// Its bits as a number.
    pub(crate) fn number(self) -> u128 {
        self.0.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
    }

    /// The address that an interface gives itself in a subnet of 64 bits (RFC 4291, appendix A).
    pub(crate) fn slaac(&self, subnet: &Cidr<Ipv6Addr>) -> Option<Ipv6Addr> {
        let [a, b, c, d, e, f] = self.0;
        let interface = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        (subnet.prefix == 64).then(|| subnet.nth(u128::from(interface)))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Reads an address of either family.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> Cidr<Ipv4Addr> {
        Cidr::parse(text).unwrap()
    }

    #[test]
    fn subnets() {
        let net = v4("10.1.2.3/24");
        assert_eq!(net.network().to_string(), "10.1.2.0");
        assert_eq!(net.last().to_string(), "10.1.2.255");
        assert_eq!(net.nth(2).to_string(), "10.1.2.2");
        assert_eq!(net.nth_last(1).to_string(), "10.1.2.254");
        assert_eq!(v4("1.2.3.4/0").last().to_string(), "255.255.255.255");
        assert_eq!(v4("1.2.3.4/32").network().to_string(), "1.2.3.4");
        let six: Cidr<Ipv6Addr> = Cidr::parse("fd42:1::1/64").unwrap();
        assert_eq!(six.last().to_string(), "fd42:1::ffff:ffff:ffff:ffff");
        assert_eq!(Cidr::<Ipv6Addr>::parse("::1/0").unwrap().network().to_string(), "::");
        for bad in [
            "10.0.0.1",
            "10.0.0.1/33",
            "10.0.0/8",
            "/24",
            "10.0.0.1/",
            "10.0.0.1/-1",
            "fd42::1/24",
        ] {
            assert!(Cidr::<Ipv4Addr>::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn overlaps() {
        assert!(overlaps_v4(&v4("10.0.0.1/24"), "10.0.0.0/8"));
        assert!(overlaps_v4(&v4("10.0.0.1/24"), "10.0.0.77/32"));
        assert!(!overlaps_v4(&v4("10.0.0.1/24"), "10.0.1.0/24"));
        assert!(!overlaps_v4(&v4("10.0.0.1/24"), "0.0.0.0/0"));
        assert!(!overlaps_v4(&v4("10.0.0.1/24"), "fd42::/64"));
    }

    #[test]
    fn hardware_addresses() {
        let mac = Mac::parse("00:16:3E:12:34:56").unwrap();
        assert_eq!(mac.to_string(), "00:16:3e:12:34:56");
        let net = Cidr::parse("fd42:1:2:3::1/64").unwrap();
        assert_eq!(mac.slaac(&net).unwrap().to_string(), "fd42:1:2:3:216:3eff:fe12:3456");
        for bad in [
            "",
            "00:16:3e:12:34",
            "00:16:3e:12:34:56:78",
            "01:16:3e:12:34:56",
            "00:16:3e:12:34:+5",
            "0:16:3e:12:34:56",
        ] {
            assert!(Mac::parse(bad).is_err(), "{bad}");
        }
        assert!(Mac::random(u64::MAX).to_string().starts_with("00:16:3e:ff"));
    }
}
