//! Interfaces of the kind macvlan (ip-link(8)): a hardware address of an instance's own on an interface of the machine. There is no end
//! of it on the host: it is made in the instance's namespace and goes with that.

use std::os::fd::AsRawFd as _;
use std::str::FromStr;

use rustix::fd::BorrowedFd;
use rustix::io::Errno;

use crate::address::MacAddress;
use crate::error::{Error, Result};
use crate::handle::{Handle, check_mtu, check_name, delete, get, index_of, put_address, wrong_kind};
use crate::interface::Interface;
use crate::message::Message;
use crate::probe::interfaces;
use crate::rtnl::{
    AF_UNSPEC, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINKINFO, IFLA_MACVLAN_MODE,
    IFLA_NET_NS_FD, NLM_F_CREATE, NLM_F_EXCL, RTM_NEWLINK, RTM_SETLINK,
};
use crate::socket::Socket;

const KIND: &str = "macvlan";

/// Whom an interface may speak with: `enum macvlan_mode` of `linux/if_link.h`, without `source`, which needs a list of addresses, and
/// `passthru`, whose interface has its parent's address and not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    /// With nobody on the same parent.
    Private,
    /// With others on the same parent by way of a switch outside that sends back what it got (IEEE 802.1Qbg).
    Vepa,
    /// With the others on the same parent at once.
    Bridge,
}

impl MacvlanMode {
    fn number(self) -> u32 {
        match self {
            Self::Private => 1,
            Self::Vepa => 2,
            Self::Bridge => 4,
        }
    }
}

impl FromStr for MacvlanMode {
    type Err = Error;

    /// Reads the names that ip-link(8) has for the modes.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "private" => Ok(Self::Private),
            "vepa" => Ok(Self::Vepa),
            "bridge" => Ok(Self::Bridge),
            _ => Err(Error::Invalid(format!(
                "{text:?} is no mode of a macvlan: there are private, vepa and bridge"
            ))),
        }
    }
}

/// A macvlan to be made.
#[derive(Clone, Copy, Debug)]
pub struct Macvlan<'a> {
    /// The interface that it lies on, in the handle's namespace.
    pub parent: &'a str,
    /// Where it goes.
    pub netns: BorrowedFd<'a>,
    /// What it is called there.
    pub guest_name: &'a str,
    /// Its hardware address.
    pub hwaddr: MacAddress,
    /// Whom it may speak with.
    pub mode: MacvlanMode,
    /// `None` for its parent's.
    pub mtu: Option<u32>,
}

impl Handle {
    /// Makes a macvlan in the namespace of an instance. It is down.
    ///
    /// One that is there already with the same name, address and parent takes mode and MTU as they are now. One of the same name
    /// and address on another parent is made anew.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such parent; [`Error::WrongKind`] and [`Error::Taken`] where the name in the namespace
    /// belongs to something else; [`Error::Invalid`]; [`Error::Kernel`], with `EBUSY` where the parent is the port of a bridge, and
    /// with `EINVAL` for an MTU that is larger than the parent's.
    pub fn ensure_macvlan(&self, wanted: &Macvlan<'_>) -> Result<()> {
        check_name(wanted.parent)?;
        check_name(wanted.guest_name)?;
        check_mtu(wanted.mtu)?;
        let mut socket = self.socket();
        let parent = get(&mut socket, wanted.parent)?.ok_or_else(|| Error::NotFound {
            name: wanted.parent.to_owned(),
        })?;
        let mut inside = enter(wanted.netns)?;
        let Some(found) = get(&mut inside, wanted.guest_name)? else {
            return make(&mut socket, &mut inside, wanted, &parent);
        };
        if found.kind != KIND {
            return Err(wrong_kind(found, "a macvlan"));
        }
        if found.hwaddr != wanted.hwaddr.to_string() {
            return Err(Error::Taken { name: found.name });
        }
        if found.link_elsewhere && found.link == Some(parent.index) {
            return adapt(&mut inside, &found, wanted, &parent);
        }
        delete(&mut inside, wanted.guest_name)?;
        make(&mut socket, &mut inside, wanted, &parent)
    }

    /// Removes the macvlan with this hardware address, or else this name, from the namespace of an instance: whoever is root in
    /// there may have changed one of them. One that lies on an interface of the instance itself is its own and stays. What is not
    /// there succeeds.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Kernel`].
    pub fn delete_macvlan(&self, netns: BorrowedFd<'_>, guest_name: &str, hwaddr: MacAddress) -> Result<()> {
        check_name(guest_name)?;
        let mut inside = enter(netns)?;
        let hwaddr = hwaddr.to_string();
        let ours: Vec<Interface> = interfaces(&mut inside)?
            .into_iter()
            .filter(|interface| interface.kind == KIND && interface.link_elsewhere)
            .collect();
        let by_address = ours.iter().find(|interface| interface.hwaddr == hwaddr);
        let found = by_address.or_else(|| ours.iter().find(|interface| interface.name == guest_name));
        found.map_or(Ok(()), |interface| delete(&mut inside, &interface.name))
    }
}

fn enter(netns: BorrowedFd<'_>) -> Result<Socket> {
    Socket::open_in(netns).map_err(|e| Error::kernel("open a socket in a network namespace", e))
}

fn not_made(wanted: &Macvlan<'_>, errno: Errno) -> Error {
    Error::kernel(
        format!("make the macvlan {} on {}", wanted.guest_name, wanted.parent),
        errno,
    )
}

/// Makes it under a passing name, and gives it its own one there: before Linux 6.15 the kernel also looks for the name of a new
/// interface in the namespace of who asks for it, where `eth0` may be the machine's.
fn make(socket: &mut Socket, inside: &mut Socket, wanted: &Macvlan<'_>, parent: &Interface) -> Result<()> {
    let passing = passing_name(wanted.hwaddr);
    let mut created = create(socket, wanted, &passing, parent);
    if created == Err(Errno::EXIST)
        && let Some(left) = get(inside, &passing)?
        && left.kind == KIND
        && left.link_elsewhere
    {
        // By somebody who was killed before it had its own name.
        delete(inside, &passing)?;
        created = create(socket, wanted, &passing, parent);
    }
    created.map_err(|e| not_made(wanted, e))?;
    let made = get(inside, &passing)?.ok_or_else(|| not_made(wanted, Errno::NODEV))?;
    let renamed = inside.change(RTM_SETLINK, 0, |kind, flags| {
        let mut message = Message::link(kind, flags, AF_UNSPEC, index_of(&made), 0, 0);
        message.text(IFLA_IFNAME, wanted.guest_name);
        message
    });
    renamed.map_err(|e| {
        // Why it could not have its name is what is told; one that stays is replaced by the next try.
        let _ = delete(inside, &passing);
        not_made(wanted, e)
    })
}

/// What it is called for as long as it has no name: that of nothing else, as it is made of an address that is given out once.
fn passing_name(MacAddress(bytes): MacAddress) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("mv{digits}")
}

/// The kernel looks the parent up in the socket's namespace and makes the interface in the one that is named.
fn create(socket: &mut Socket, wanted: &Macvlan<'_>, name: &str, parent: &Interface) -> std::result::Result<(), Errno> {
    socket.change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |kind, flags| {
        let mut message = Message::link(kind, flags, AF_UNSPEC, 0, 0, 0);
        message.text(IFLA_IFNAME, name);
        message.number(IFLA_LINK, parent.index);
        message.attribute(IFLA_NET_NS_FD, &wanted.netns.as_raw_fd().to_ne_bytes());
        put_address(&mut message, Some(wanted.hwaddr), wanted.mtu);
        put_mode(&mut message, wanted.mode);
        message
    })
}

/// Gives the interface in there the mode and MTU that are wanted.
fn adapt(inside: &mut Socket, found: &Interface, wanted: &Macvlan<'_>, parent: &Interface) -> Result<()> {
    if found.macvlan_mode != Some(wanted.mode.number()) {
        let changed = inside.change(RTM_NEWLINK, 0, |kind, flags| {
            let mut message = Message::link(kind, flags, AF_UNSPEC, index_of(found), 0, 0);
            put_mode(&mut message, wanted.mode);
            message
        });
        changed.map_err(|e| Error::kernel(format!("change the mode of {}", found.name), e))?;
    }
    let mtu = wanted.mtu.unwrap_or(parent.mtu);
    if found.mtu != mtu {
        let changed = inside.change(RTM_SETLINK, 0, |kind, flags| {
            let mut message = Message::link(kind, flags, AF_UNSPEC, index_of(found), 0, 0);
            put_address(&mut message, None, Some(mtu));
            message
        });
        changed.map_err(|e| Error::kernel(format!("set the mtu of {}", found.name), e))?;
    }
    Ok(())
}

fn put_mode(message: &mut Message, mode: MacvlanMode) {
    let info = message.open(IFLA_LINKINFO);
    message.text(IFLA_INFO_KIND, KIND);
    let data = message.open(IFLA_INFO_DATA);
    message.number(IFLA_MACVLAN_MODE, mode.number());
    message.close(&data);
    message.close(&info);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_one_of_the_three() {
        for (text, number) in [("private", 1), ("vepa", 2), ("bridge", 4)] {
            assert_eq!(text.parse::<MacvlanMode>().unwrap().number(), number);
        }
        for bad in ["", "source", "passthru", "Bridge", "bridge "] {
            assert!(matches!(bad.parse::<MacvlanMode>(), Err(Error::Invalid(_))), "{bad:?}");
        }
    }
}
