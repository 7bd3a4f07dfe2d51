//! Network drivers, as `wit/network` has them.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Call, DriverError, DriverInfo, Options};

/// A network in a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkRef {
    /// The network's project.
    pub project: String,
    /// Its name.
    pub name: String,
    /// Its configuration.
    pub config: Options,
}

/// An instance's interface in a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NicRef {
    /// The instance's project.
    pub project: String,
    /// The instance.
    pub instance: String,
    /// The device in the instance's configuration.
    pub device: String,
    /// The name of the host's end.
    pub host_name: String,
    /// The name inside the instance.
    pub guest_name: String,
    /// The MAC address.
    pub hwaddr: String,
    /// The id of a namespace in [`Call::netns`], or empty.
    pub netns: String,
    /// The device's configuration.
    pub config: Options,
}

/// An address given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Without a domain.
    pub hostname: String,
    /// Empty for a gateway.
    pub hwaddr: String,
    /// IPv4 or IPv6.
    pub address: String,
    /// `dynamic`, `static`, `gateway`.
    pub kind: String,
}

/// A network driver; see `wit/network` for what each call means.
#[async_trait]
pub trait NetworkDriver: Send + Sync {
    /// Who provides it, and its abilities: `lease`, …
    fn info(&self) -> DriverInfo;

    /// `network.validate`.
    async fn validate(
        &self,
        call: &Call,
        network: &NetworkRef,
        current: Option<&Options>,
    ) -> Result<Options, DriverError>;
    /// `network.start`.
    async fn start(&self, call: &Call, network: &NetworkRef) -> Result<(), DriverError>;
    /// `network.update`.
    async fn update(&self, call: &Call, network: &NetworkRef, old: &Options) -> Result<(), DriverError>;
    /// `network.stop`.
    async fn stop(&self, call: &Call, network: &NetworkRef) -> Result<(), DriverError>;
    /// `network.reconcile`.
    async fn reconcile(&self, call: &Call, network: &NetworkRef, nics: &[NicRef]) -> Result<Vec<String>, DriverError>;

    /// `nic.validate`.
    async fn validate_nic(&self, call: &Call, network: &NetworkRef, config: &Options) -> Result<(), DriverError>;
    /// `nic.attach`.
    async fn attach(&self, call: &Call, network: &NetworkRef, nic: &NicRef) -> Result<(), DriverError>;
    /// `nic.detach`.
    async fn detach(&self, call: &Call, network: &NetworkRef, nic: &NicRef) -> Result<(), DriverError>;

    /// `lease.leases`.
    async fn leases(&self, call: &Call, network: &NetworkRef, nics: &[NicRef]) -> Result<Vec<Lease>, DriverError>;
}
