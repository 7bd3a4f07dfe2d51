//! Links, addresses and packet filters of the host.
//!
//! [`Handle`] changes and reads interfaces over netlink (rtnetlink(7)), without a task or a thread of its own: a request is
//! one message and its answer, because making an interface is on the path of every launch. [`NetnsProbe`] reads the
//! interfaces of an instance's namespace through a socket that stays open. [`nft`] hands rulesets to `nft`, confined to one
//! table. There is no driver's knowledge here: only what the kernel can do.

mod address;
mod error;
mod handle;
mod interface;
mod macvlan;
mod message;
pub mod nft;
mod probe;
mod rtnl;
mod shape;
mod socket;
pub mod sysctl;

pub use address::{BadPrefix, MacAddress, Prefix};
pub use error::{Error, Result};
pub use handle::{Handle, Veth};
pub use interface::{Counters, Interface};
pub use macvlan::{Macvlan, MacvlanMode};
pub use probe::NetnsProbe;
pub use shape::LEAST_RATE;
