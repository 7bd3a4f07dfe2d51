//! Networks of a bridge with addresses, DHCP, DNS and NAT.
//!
//! The bridge, its addresses and its ports are the host's typed operations (netlink), NAT and the packet filter are one nft
//! table, replaced as a whole, and DHCP, router advertisements and DNS come from dnsmasq, which runs as a supervised service.
//! What may come from an instance's interface, and how fast, is said by a table of that interface's own in the family `bridge`.
//! Connecting an instance never restarts it: it reads an instance's name and addresses from a file of that instance's own in a
//! directory that it watches (`dhcp-hostsdir`, dnsmasq(8)). Removing one takes a SIGHUP, for which it forgets what the
//! files no longer say.

mod address;
mod cidr;
mod config;
mod dnsmasq;
mod firewall;
mod lease;
mod network;
mod nic;
mod port;
mod rate;
mod validate;

/// The driver.
#[derive(Debug)]
pub struct Bridge;

hutch_sdk::network_plugin! { driver: Bridge, exports: [network, nic, lease] }

#[cfg(test)]
mod tests;
