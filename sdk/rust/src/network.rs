//! Network drivers: `hutch:network`.

use crate::{Host, Result};

pub use crate::bindings::imports::hutch::network::types::{Lease as LeaseEntry, NetworkRef, NicRef};

/// Networks. Required.
pub trait Network {
    /// Checks a configuration and completes it. `current` is what the network has, when it is changed.
    fn validate(
        host: &impl Host,
        network: &NetworkRef,
        current: Option<&[(String, String)]>,
    ) -> Result<Vec<(String, String)>>;
    /// Brings a network up, or makes what is there match.
    fn start(host: &impl Host, network: &NetworkRef) -> Result<()>;
    /// Changes a running network from `old` to its configuration.
    fn update(host: &impl Host, network: &NetworkRef, old: &[(String, String)]) -> Result<()>;
    /// Takes down everything that [`Network::start`] made.
    fn stop(host: &impl Host, network: &NetworkRef) -> Result<()>;
    /// Removes everything of interfaces that are not in `nics`, and says what.
    fn reconcile(host: &impl Host, network: &NetworkRef, nics: &[NicRef]) -> Result<Vec<String>>;
}

/// Interfaces of instances. Required.
pub trait Nic {
    /// Checks a device's configuration.
    fn validate(host: &impl Host, network: &NetworkRef, config: &[(String, String)]) -> Result<()>;
    /// Connects an instance.
    fn attach(host: &impl Host, network: &NetworkRef, nic: &NicRef) -> Result<()>;
    /// Disconnects it. What is not there is a success.
    fn detach(host: &impl Host, network: &NetworkRef, nic: &NicRef) -> Result<()>;
}

/// Addresses given out. Optional.
pub trait Lease {
    /// All of them.
    fn leases(host: &impl Host, network: &NetworkRef, nics: &[NicRef]) -> Result<Vec<LeaseEntry>>;
}
