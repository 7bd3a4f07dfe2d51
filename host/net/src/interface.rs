//! What the kernel says of an interface.

use crate::address::{MacAddress, Prefix};
use crate::message::{Received, attributes, i32_at, text, u16_at, u32_at, u64_at};
use crate::rtnl::{
    AF_INET, AF_INET6, IFA_ADDRESS, IFA_LOCAL, IFF_LOOPBACK, IFF_POINTOPOINT, IFF_UP, IFLA_ADDRESS, IFLA_CARRIER,
    IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINK_NETNSID, IFLA_LINKINFO, IFLA_MACVLAN_MODE,
    IFLA_MASTER, IFLA_MTU, IFLA_OPERSTATE, IFLA_STATS64, RTM_NEWADDR, RTM_NEWLINK,
};

/// An interface, its state, its counters and its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The kernel's word for what it is (`bridge`, `veth`, `vlan`, …); empty for hardware and loopback.
    pub kind: String,
    /// In lower case with colons; empty where it has none.
    pub hwaddr: String,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether there is a carrier.
    pub carrier: bool,
    /// `IF_OPER_*` of `linux/if.h`: 6 is up, 0 unknown, which loopback interfaces stay at.
    pub operstate: u8,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Whether it has one peer and no broadcast.
    pub point_to_point: bool,
    /// `ARPHRD_*` of `linux/if_arp.h`: 1 is Ethernet.
    pub hardware: u16,
    /// The number of the interface that it is a port of.
    pub master: Option<u32>,
    /// The number of the interface that it lies on or that is its other end, in whatever namespace that is.
    pub link: Option<u32>,
    /// Whether that number counts in another namespace than this interface's own.
    pub link_elsewhere: bool,
    /// Of a macvlan: its mode, a number of `enum macvlan_mode` of `linux/if_link.h`.
    pub macvlan_mode: Option<u32>,
    /// What went through.
    pub counters: Counters,
    /// Its addresses.
    pub addresses: Vec<Prefix>,
}

/// Counters since the interface was made: `struct rtnl_link_stats64` of `linux/if_link.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets that were received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets that were dropped before they were sent.
    pub tx_dropped: u64,
}

impl Interface {
    /// Reads a message of the kind `RTM_NEWLINK`; `None` for others and for what is too short.
    pub(crate) fn read(received: Received<'_>) -> Option<Self> {
        if received.kind != RTM_NEWLINK {
            return None;
        }
        let flags = u32_at(received.body, 8)?;
        let mut interface = Self {
            index: u32::try_from(i32_at(received.body, 4)?).ok()?,
            hardware: u16_at(received.body, 2)?,
            up: flags & IFF_UP != 0,
            loopback: flags & IFF_LOOPBACK != 0,
            point_to_point: flags & IFF_POINTOPOINT != 0,
            ..Self::default()
        };
        for (kind, value) in attributes(received.body.get(16..)?) {
            match kind {
                IFLA_IFNAME => interface.name = text(value),
                IFLA_MTU => interface.mtu = u32_at(value, 0).unwrap_or_default(),
                IFLA_ADDRESS => interface.hwaddr = hardware_address(value),
                IFLA_OPERSTATE => interface.operstate = value.first().copied().unwrap_or_default(),
                IFLA_CARRIER => interface.carrier = value.first() == Some(&1),
                IFLA_MASTER => interface.master = u32_at(value, 0),
                IFLA_LINK => interface.link = u32_at(value, 0),
                IFLA_STATS64 => interface.counters = Counters::read(value),
                IFLA_LINK_NETNSID => interface.link_elsewhere = true,
                IFLA_LINKINFO => interface.read_kind(value),
                _ => {}
            }
        }
        Some(interface)
    }

    /// Reads `IFLA_LINKINFO`. What `IFLA_INFO_DATA` means depends on the kind, which stands before it.
    fn read_kind(&mut self, info: &[u8]) {
        for (attribute, value) in attributes(info) {
            match attribute {
                IFLA_INFO_KIND => self.kind = text(value),
                IFLA_INFO_DATA if self.kind == "macvlan" => {
                    let mode = attributes(value).find(|(kind, _)| *kind == IFLA_MACVLAN_MODE);
                    self.macvlan_mode = mode.and_then(|(_, value)| u32_at(value, 0));
                }
                _ => {}
            }
        }
    }
}

impl Counters {
    fn read(bytes: &[u8]) -> Self {
        let at = |index: usize| u64_at(bytes, index * 8).unwrap_or_default();
        Self {
            rx_packets: at(0),
            tx_packets: at(1),
            rx_bytes: at(2),
            tx_bytes: at(3),
            rx_errors: at(4),
            tx_errors: at(5),
            rx_dropped: at(6),
            tx_dropped: at(7),
        }
    }
}

fn hardware_address(bytes: &[u8]) -> String {
    match <[u8; 6]>::try_from(bytes) {
        Ok(mac) => MacAddress(mac).to_string(),
        Err(_) => bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"),
    }
}

/// Reads a message of the kind `RTM_NEWADDR`: the number of the interface and an address.
pub(crate) fn read_address(received: Received<'_>) -> Option<(u32, Prefix)> {
    if received.kind != RTM_NEWADDR || !matches!(*received.body.first()?, AF_INET | AF_INET6) {
        return None;
    }
    let length = *received.body.get(1)?;
    let index = u32_at(received.body, 4)?;
    // Where there is a peer, IFA_ADDRESS is the peer's and IFA_LOCAL the own one.
    let mut own = None;
    for (kind, value) in attributes(received.body.get(8..)?) {
        match kind {
            IFA_LOCAL => own = Prefix::from_octets(value, length),
            IFA_ADDRESS if own.is_none() => own = Prefix::from_octets(value, length),
            _ => {}
        }
    }
    Some((index, own?))
}
