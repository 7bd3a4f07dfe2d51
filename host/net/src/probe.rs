//! Reading the interfaces of a namespace through a socket that stays open in it.

use rustix::fd::BorrowedFd;

use crate::error::{Error, Result};
use crate::interface::{Interface, read_address};
use crate::message::Message;
use crate::rtnl::{AF_UNSPEC, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS, RTM_GETADDR, RTM_GETLINK};
use crate::socket::Socket;

/// Looks at one network namespace. The socket keeps the namespace alive: drop the probe when its instance has ended.
#[derive(Debug)]
pub struct NetnsProbe {
    socket: Socket,
}

impl NetnsProbe {
    /// A probe for the namespace that `netns` refers to.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the namespace can't be entered or there is no room for a socket.
    pub fn open(netns: BorrowedFd<'_>) -> Result<Self> {
        let socket = Socket::open_in(netns).map_err(|e| Error::kernel("open a socket in a network namespace", e))?;
        Ok(Self { socket })
    }

    /// Opens a probe for the namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Kernel`] where there is no room for a socket.
    pub fn here() -> Result<Self> {
        let socket = Socket::open().map_err(|e| Error::kernel("open a netlink socket", e))?;
        Ok(Self { socket })
    }

    /// All interfaces with their counters and addresses, in the order of their numbers. Two questions and their answers,
    /// some tens of microseconds for a usual namespace; it does not wait for anything but the kernel.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn interfaces(&mut self) -> Result<Vec<Interface>> {
        interfaces(&mut self.socket)
    }
}

pub(crate) fn interfaces(socket: &mut Socket) -> Result<Vec<Interface>> {
    let mut list: Vec<Interface> = Vec::new();
    let links = |kind, flags| {
        let mut message = Message::link(kind, flags, AF_UNSPEC, 0, 0, 0);
        message.number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        message
    };
    socket
        .dump(RTM_GETLINK, links, &mut list, Vec::clear, |list, received| {
            list.extend(Interface::read(received));
        })
        .map_err(|e| Error::kernel("list interfaces", e))?;
    list.sort_by_key(|interface| interface.index);
    for (index, prefix) in addresses(socket)? {
        if let Ok(at) = list.binary_search_by_key(&index, |interface| interface.index)
            && let Some(interface) = list.get_mut(at)
        {
            interface.addresses.push(prefix);
        }
    }
    Ok(list)
}

pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<(u32, crate::Prefix)>> {
    let mut list = Vec::new();
    socket
        .dump(
            RTM_GETADDR,
            |kind, flags| Message::new(kind, flags, &[AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0]),
            &mut list,
            Vec::clear,
            |list, received| {
                list.extend(read_address(received));
            },
        )
        .map_err(|e| Error::kernel("list addresses", e))?;
    Ok(list)
}
