//! Making and changing interfaces.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fd::BorrowedFd;
use rustix::io::Errno;

use crate::address::{MacAddress, Prefix};
use crate::error::{Error, Result};
use crate::interface::Interface;
use crate::message::{Message, attributes, ifinfomsg};
use crate::probe::{addresses, interfaces};
use crate::rtnl::{
    AF_BRIDGE, AF_INET, AF_INET6, AF_UNSPEC, IFA_ADDRESS, IFA_BROADCAST, IFA_LOCAL, IFF_UP, IFLA_ADDRESS,
    IFLA_BRPORT_ISOLATED, IFLA_BRPORT_MODE, IFLA_EXT_MASK, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO,
    IFLA_MASTER, IFLA_MTU, IFLA_NET_NS_FD, IFLA_PROTINFO, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, RT_SCOPE_UNIVERSE,
    RTA_DST, RTEXT_FILTER_SKIP_STATS, RTM_DELADDR, RTM_DELLINK, RTM_GETLINK, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWROUTE, RTM_SETLINK, RTN_LOCAL, RTN_UNICAST, VETH_INFO_PEER,
};
use crate::socket::Socket;

/// Smallest and largest MTU that are taken (RFC 791; the kernel's `ETH_MAX_MTU`).
const MTU: std::ops::RangeInclusive<u32> = 68..=65535;

/// A pair of interfaces to be made.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// The host's end.
    pub name: &'a str,
    /// The bridge that it becomes a port of.
    pub bridge: Option<&'a str>,
    /// Where the guest's end goes.
    pub netns: BorrowedFd<'a>,
    /// What it is called there.
    pub guest_name: &'a str,
    /// The guest's hardware address.
    pub hwaddr: MacAddress,
    /// Of both ends; `None` for the bridge's own, or the kernel's default.
    pub mtu: Option<u32>,
}

/// Interfaces of the namespace in which the handle was opened. All functions block for as long as the kernel takes, which
/// is microseconds unless somebody else holds the lock of all interfaces.
#[derive(Debug)]
pub struct Handle {
    socket: Mutex<Socket>,
}

impl Handle {
    /// A handle on the namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Kernel`] where there is no room for a socket.
    pub fn open() -> Result<Self> {
        let socket = Socket::open().map_err(|e| Error::kernel("open a netlink socket", e))?;
        Ok(Self {
            socket: Mutex::new(socket),
        })
    }

    pub(crate) fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All interfaces with counters and addresses, in the order of their numbers.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn list(&self) -> Result<Vec<Interface>> {
        interfaces(&mut self.socket())
    }

    /// The interface `name`, without its addresses; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no name; [`Error::Kernel`].
    pub fn get(&self, name: &str) -> Result<Option<Interface>> {
        check_name(name)?;
        get(&mut self.socket(), name)
    }

    /// The addresses of the interface with this number.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn addresses(&self, index: u32) -> Result<Vec<Prefix>> {
        let all = addresses(&mut self.socket())?;
        Ok(all
            .into_iter()
            .filter(|(of, _)| *of == index)
            .map(|(_, prefix)| prefix)
            .collect())
    }

    /// The name of the interface with this number.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn name_of(&self, index: u32) -> Result<Option<String>> {
        let index = i32::try_from(index).map_err(|_| Error::Protocol("an interface has a number out of range"))?;
        let mut found = None;
        let asked = self.socket().ask(
            RTM_GETLINK,
            |kind, flags| Message::link(kind, flags, AF_UNSPEC, index, 0, 0),
            &mut |received| {
                found = Interface::read(received).map(|interface| interface.name);
            },
        );
        match asked {
            Ok(()) => Ok(found),
            Err(Errno::NODEV) => Ok(None),
            Err(e) => Err(Error::kernel(format!("look at interface {index}"), e)),
        }
    }

    /// Makes a bridge, which stays down, or gives the one of that name this address and MTU.
    ///
    /// # Errors
    /// [`Error::WrongKind`] where the name is taken; [`Error::Invalid`]; [`Error::Kernel`].
    pub fn ensure_bridge(&self, name: &str, hwaddr: Option<MacAddress>, mtu: Option<u32>) -> Result<()> {
        check_name(name)?;
        check_mtu(mtu)?;
        let mut socket = self.socket();
        let made = socket.change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |kind, flags| {
            let mut message = Message::link(kind, flags, AF_UNSPEC, 0, 0, 0);
            message.text(IFLA_IFNAME, name);
            put_address(&mut message, hwaddr, mtu);
            let info = message.open(IFLA_LINKINFO);
            message.text(IFLA_INFO_KIND, "bridge");
            message.close(&info);
            message
        });
        match made {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(Error::kernel(format!("make the bridge {name}"), e)),
        }
        let found = get(&mut socket, name)?.ok_or_else(|| Error::NotFound { name: name.to_owned() })?;
        if found.kind != "bridge" {
            return Err(wrong_kind(found, "a bridge"));
        }
        let hwaddr = hwaddr.filter(|mac| mac.to_string() != found.hwaddr);
        let mtu = mtu.filter(|mtu| *mtu != found.mtu);
        if hwaddr.is_none() && mtu.is_none() {
            return Ok(());
        }
        let changed = socket.change(RTM_SETLINK, 0, |kind, flags| {
            let mut message = Message::link(kind, flags, AF_UNSPEC, index_of(&found), 0, 0);
            put_address(&mut message, hwaddr, mtu);
            message
        });
        changed.map_err(|e| Error::kernel(format!("change the bridge {name}"), e))
    }

    /// Makes a pair of interfaces: one message, after which the host's end is up and a port of its bridge and the guest's
    /// end is in its namespace with its name and address, and down.
    ///
    /// A pair of the same ends that is there already is brought into this state. One with other ends is replaced when it was
    /// made for the same guest address: it is what a namespace left that is still being taken down. The address of the host's
    /// end tells ([`MacAddress::of_host_end`]).
    ///
    /// # Errors
    /// [`Error::WrongKind`] where the name belongs to another kind of interface, [`Error::Taken`] to a pair that was not made for
    /// this guest; [`Error::NotFound`] where there is no such bridge; [`Error::Kernel`], with `EEXIST` where the guest's name is taken.
    pub fn ensure_veth(&self, veth: &Veth<'_>) -> Result<()> {
        check_name(veth.name)?;
        check_name(veth.guest_name)?;
        check_mtu(veth.mtu)?;
        let mut socket = self.socket();
        let bridge = match veth.bridge {
            None => None,
            Some(name) => {
                check_name(name)?;
                Some(get(&mut socket, name)?.ok_or_else(|| Error::NotFound { name: name.to_owned() })?)
            }
        };
        match make_veth(&mut socket, veth, bridge.as_ref()) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(e) => {
                return Err(Error::kernel(
                    format!("make the pair {} and {}", veth.name, veth.guest_name),
                    e,
                ));
            }
        }
        let Some(found) = get(&mut socket, veth.name)? else {
            return Err(Error::kernel(
                format!("make {}: that name is taken in its namespace", veth.guest_name),
                Errno::EXIST,
            ));
        };
        if found.kind != "veth" {
            return Err(wrong_kind(found, "one end of a pair"));
        }
        if is_same_pair(veth, &found)? {
            return set_port(&mut socket, veth.name, &found, bridge.as_ref());
        }
        if found.hwaddr != veth.hwaddr.of_host_end().to_string() {
            return Err(Error::Taken {
                name: veth.name.to_owned(),
            });
        }
        delete(&mut socket, veth.name)?;
        make_veth(&mut socket, veth, bridge.as_ref())
            .map_err(|e| Error::kernel(format!("make the pair {} and {}", veth.name, veth.guest_name), e))
    }

    /// Deletes an interface. What is not there succeeds.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Kernel`].
    pub fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        delete(&mut self.socket(), name)
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`]; [`Error::Kernel`].
    pub fn set_up(&self, name: &str, up: bool) -> Result<()> {
        check_name(name)?;
        let flag = if up { IFF_UP } else { 0 };
        let set = self.socket().change(RTM_SETLINK, 0, |kind, flags| {
            let mut message = Message::link(kind, flags, AF_UNSPEC, 0, flag, IFF_UP);
            message.text(IFLA_IFNAME, name);
            message
        });
        set.map_err(|e| not_found_or(name, format!("set {name} {}", if up { "up" } else { "down" }), e))
    }

    /// Makes `wanted` the addresses of an interface, beside IPv6's link-local ones. Those that stay are not touched.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`]; [`Error::Kernel`].
    pub fn set_addresses(&self, name: &str, wanted: &[Prefix]) -> Result<()> {
        check_name(name)?;
        let mut socket = self.socket();
        let interface = get(&mut socket, name)?.ok_or_else(|| Error::NotFound { name: name.to_owned() })?;
        let present: BTreeSet<Prefix> = addresses(&mut socket)?
            .into_iter()
            .filter(|(of, p)| *of == interface.index && !p.is_link_local_v6())
            .map(|(_, p)| p)
            .collect();
        let wanted: BTreeSet<Prefix> = wanted.iter().copied().collect();
        for prefix in present.difference(&wanted) {
            match socket.change(RTM_DELADDR, 0, |kind, flags| {
                address(kind, flags, interface.index, *prefix)
            }) {
                // IPv4 takes secondary addresses away with their primary one.
                Ok(()) | Err(Errno::ADDRNOTAVAIL) => {}
                Err(e) => return Err(Error::kernel(format!("remove the address {prefix} from {name}"), e)),
            }
        }
        // All are set again where some went, since the removal of one may have taken others with it.
        let removed = present.difference(&wanted).next().is_some();
        for prefix in wanted.iter().filter(|prefix| removed || !present.contains(prefix)) {
            socket
                .change(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, |kind, flags| {
                    address(kind, flags, interface.index, *prefix)
                })
                .map_err(|e| Error::kernel(format!("give {name} the address {prefix}"), e))?;
        }
        Ok(())
    }

    /// Whether a port of a bridge may talk to isolated ports, and whether what comes from it may go back to it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`]; [`Error::Kernel`], with `EINVAL` for what is not a bridge's port.
    pub fn set_bridge_port(&self, name: &str, isolated: Option<bool>, hairpin: Option<bool>) -> Result<()> {
        check_name(name)?;
        let mut socket = self.socket();
        let interface = get(&mut socket, name)?.ok_or_else(|| Error::NotFound { name: name.to_owned() })?;
        let set = socket.change(RTM_SETLINK, 0, |kind, flags| {
            let mut message = Message::link(kind, flags, AF_BRIDGE, index_of(&interface), 0, 0);
            let info = message.open(IFLA_PROTINFO);
            for (attribute, value) in [(IFLA_BRPORT_ISOLATED, isolated), (IFLA_BRPORT_MODE, hairpin)] {
                if let Some(value) = value {
                    message.attribute(attribute, &[u8::from(value)]);
                }
            }
            message.close(&info);
            message
        });
        set.map_err(|e| Error::kernel(format!("change the bridge port {name}"), e))
    }

    /// Networks that addresses and routes of this namespace use, without default routes, multicast and link-local ones.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn subnets_in_use(&self) -> Result<BTreeSet<Prefix>> {
        let mut socket = self.socket();
        let mut found: BTreeSet<Prefix> = addresses(&mut socket)?
            .into_iter()
            .map(|(_, prefix)| prefix.network())
            .collect();
        let mut routes = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut some = Vec::new();
            let question = |kind, flags| Message::new(kind, flags, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            socket
                .dump(RTM_GETROUTE, question, &mut some, Vec::clear, |list, received| {
                    list.extend(read_route(received));
                })
                .map_err(|e| Error::kernel("list routes", e))?;
            routes.append(&mut some);
        }
        found.extend(routes);
        found.retain(|prefix| prefix.length > 0 && !prefix.is_link_local_v6() && !prefix.address.is_loopback());
        Ok(found)
    }
}

/// Refuses what can't be the name of an interface (`dev_valid_name` of the kernel) or would be a path in `/proc/sys`.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && name != "all"
        && name != "default"
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'/' && b != b':' && b != b'%');
    if good {
        Ok(())
    } else {
        Err(Error::Invalid(format!("{name:?} is not the name of an interface")))
    }
}

pub(crate) fn check_mtu(mtu: Option<u32>) -> Result<()> {
    match mtu {
        Some(mtu) if !MTU.contains(&mtu) => Err(Error::Invalid(format!(
            "an mtu of {mtu} is not between {} and {}",
            MTU.start(),
            MTU.end()
        ))),
        _ => Ok(()),
    }
}

pub(crate) fn get(socket: &mut Socket, name: &str) -> Result<Option<Interface>> {
    let mut found = None;
    let question = |kind, flags| {
        let mut message = Message::link(kind, flags, AF_UNSPEC, 0, 0, 0);
        message.text(IFLA_IFNAME, name);
        message.number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        message
    };
    match socket.ask(RTM_GETLINK, question, &mut |received| found = Interface::read(received)) {
        Ok(()) => Ok(found),
        Err(Errno::NODEV) => Ok(None),
        Err(e) => Err(Error::kernel(format!("look at {name}"), e)),
    }
}

pub(crate) fn delete(socket: &mut Socket, name: &str) -> Result<()> {
    let deleted = socket.change(RTM_DELLINK, 0, |kind, flags| {
        let mut message = Message::link(kind, flags, AF_UNSPEC, 0, 0, 0);
        message.text(IFLA_IFNAME, name);
        message
    });
    match deleted {
        Ok(()) | Err(Errno::NODEV) => Ok(()),
        Err(e) => Err(Error::kernel(format!("delete {name}"), e)),
    }
}

fn make_veth(socket: &mut Socket, veth: &Veth<'_>, bridge: Option<&Interface>) -> std::result::Result<(), Errno> {
    let mtu = veth.mtu.or(bridge.map(|bridge| bridge.mtu));
    socket.change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |kind, flags| {
        let mut message = Message::link(kind, flags, AF_UNSPEC, 0, IFF_UP, IFF_UP);
        message.text(IFLA_IFNAME, veth.name);
        put_address(&mut message, Some(veth.hwaddr.of_host_end()), mtu);
        if let Some(bridge) = bridge {
            message.number(IFLA_MASTER, bridge.index);
        }
        let info = message.open(IFLA_LINKINFO);
        message.text(IFLA_INFO_KIND, "veth");
        let data = message.open(IFLA_INFO_DATA);
        let peer = message.open(VETH_INFO_PEER);
        message.raw(&ifinfomsg(AF_UNSPEC, 0, 0, 0));
        message.text(IFLA_IFNAME, veth.guest_name);
        message.attribute(IFLA_NET_NS_FD, &veth.netns.as_raw_fd().to_ne_bytes());
        put_address(&mut message, Some(veth.hwaddr), mtu);
        message.close(&peer);
        message.close(&data);
        message.close(&info);
        message
    })
}

/// Whether the other end of `host` is the one that `veth` asks for.
fn is_same_pair(veth: &Veth<'_>, host: &Interface) -> Result<bool> {
    let mut inside =
        Socket::open_in(veth.netns).map_err(|e| Error::kernel("open a socket in a network namespace", e))?;
    let guest = get(&mut inside, veth.guest_name)?;
    Ok(guest.is_some_and(|guest| {
        guest.link == Some(host.index) && host.link == Some(guest.index) && guest.hwaddr == veth.hwaddr.to_string()
    }))
}

fn set_port(socket: &mut Socket, name: &str, interface: &Interface, bridge: Option<&Interface>) -> Result<()> {
    let wanted = bridge.map_or(0, |bridge| bridge.index);
    if interface.up && interface.master.unwrap_or(0) == wanted {
        return Ok(());
    }
    let set = socket.change(RTM_SETLINK, 0, |kind, flags| {
        let mut message = Message::link(kind, flags, AF_UNSPEC, index_of(interface), IFF_UP, IFF_UP);
        message.number(IFLA_MASTER, wanted);
        message
    });
    set.map_err(|e| Error::kernel(format!("make {name} a port of its bridge"), e))
}

pub(crate) fn put_address(message: &mut Message, hwaddr: Option<MacAddress>, mtu: Option<u32>) {
    if let Some(MacAddress(bytes)) = hwaddr {
        message.attribute(IFLA_ADDRESS, &bytes);
    }
    if let Some(mtu) = mtu {
        message.number(IFLA_MTU, mtu);
    }
}

/// `struct ifaddrmsg` of `linux/if_addr.h` and the address.
fn address(kind: u16, flags: u16, index: u32, prefix: Prefix) -> Message {
    let family = if prefix.address.is_ipv4() { AF_INET } else { AF_INET6 };
    let [a, b, c, d] = index.to_ne_bytes();
    let mut message = Message::new(kind, flags, &[family, prefix.length, 0, RT_SCOPE_UNIVERSE, a, b, c, d]);
    let octets = prefix.octets();
    message.attribute(IFA_LOCAL, &octets);
    message.attribute(IFA_ADDRESS, &octets);
    if let Some(broadcast) = prefix.broadcast() {
        message.attribute(IFA_BROADCAST, &broadcast.octets());
    }
    message
}

/// The destination of a route to a network (`struct rtmsg`).
fn read_route(received: crate::message::Received<'_>) -> Option<Prefix> {
    let length = *received.body.get(1)?;
    let kind = *received.body.get(7)?;
    if received.kind != RTM_NEWROUTE || !matches!(kind, RTN_UNICAST | RTN_LOCAL) {
        return None;
    }
    let (_, destination) = attributes(received.body.get(12..)?).find(|(kind, _)| *kind == RTA_DST)?;
    Prefix::from_octets(destination, length).map(Prefix::network)
}

pub(crate) fn index_of(interface: &Interface) -> i32 {
    i32::try_from(interface.index).unwrap_or_default()
}

pub(crate) fn wrong_kind(found: Interface, wanted: &'static str) -> Error {
    let what = if found.kind.is_empty() {
        "hardware".to_owned()
    } else {
        format!("of kind {}", found.kind)
    };
    Error::WrongKind {
        name: found.name,
        found: what,
        wanted,
    }
}

fn not_found_or(name: &str, what: String, errno: Errno) -> Error {
    if errno == Errno::NODEV {
        Error::NotFound { name: name.to_owned() }
    } else {
        Error::kernel(what, errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_or_proc_would_misread_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:1",
            "sixteen-letters-",
            "all",
            "default",
            "veth%d",
            "ä",
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["eth0", "veth1a2b3c4d", "br-x.y", "fifteen-letters"] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }
}
