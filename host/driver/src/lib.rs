//! The traits through which the core speaks to drivers, and the plain data that crosses them.
//!
//! They mirror the WIT packages under `wit/`, so that the core knows no version of a package and no WebAssembly: the only
//! implementation outside tests is the plugin host's adapter. There is no I/O here.

pub mod call;
pub mod error;
pub mod image;
pub mod network;
pub mod storage;
pub mod zone;

pub use call::{Call, Cancel, NetnsHandle, NoProgress, Progress, Root};
pub use error::DriverError;

use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Keys and values under the schema in a driver's manifest.
pub type Options = std::collections::BTreeMap<String, String>;

/// A place below a root of a call. `path` is relative, without `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TreePath {
    /// The root's id.
    pub root: String,
    /// Relative to the root; empty for the root itself.
    pub path: String,
}

/// How a volume's file tree is made to appear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// `bind` or `overlay`.
    pub kind: String,
    /// Read-only layers, uppermost first; for `bind` the one tree.
    pub layers: Vec<TreePath>,
    /// The writable layer of an overlay.
    pub upper: Option<TreePath>,
    /// The overlay's work directory, on the upper layer's file system.
    pub work: Option<TreePath>,
    /// Open space; nothing in it is required to be understood.
    pub options: Options,
}

/// Who a driver is, for errors, logs and listings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverInfo {
    /// The name that configuration selects it by (`provides` in the manifest).
    pub name: String,
    /// The plugin's id.
    pub plugin: String,
    /// The plugin's version.
    pub version: String,
    /// The optional interfaces that it exports (`snapshot`, `clone`, …).
    pub abilities: Vec<String>,
}

impl DriverInfo {
    /// Whether the driver exports the optional interface `ability`.
    pub fn can(&self, ability: &str) -> bool {
        self.abilities.iter().any(|a| a == ability)
    }
}

/// Something of a driver's changed without anybody asking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverEvent {
    /// The driver's family: `storage`, `network`, `zone`, `image`.
    pub family: String,
    /// The project of the object.
    pub project: String,
    /// The object: a network's or pool's name.
    pub object: String,
    /// What changed: `leases`, `state`.
    pub topic: String,
}

/// Where the core finds the drivers that plugins provide. A name that nobody provides gives an error that lists what
/// there is and why a known provider can't be used.
pub trait Drivers: Send + Sync {
    /// The storage driver of this name.
    fn storage(&self, name: &str) -> Result<Arc<dyn storage::StorageDriver>, DriverError>;
    /// The network driver of this name.
    fn network(&self, name: &str) -> Result<Arc<dyn network::NetworkDriver>, DriverError>;
    /// The zone driver of this name.
    fn zone(&self, name: &str) -> Result<Arc<dyn zone::ZoneDriver>, DriverError>;
    /// The image source of this name.
    fn image(&self, name: &str) -> Result<Arc<dyn image::ImageDriver>, DriverError>;
    /// What is provided for `family` (`storage`, `network`, `zone`, `image`), the operator's default first.
    fn list(&self, family: &str) -> Vec<DriverInfo>;
    /// Returns once it is known of every plugin whether it can be used, so that [`Drivers::list`] is complete.
    fn settled(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// Changes that drivers report. Each subscriber gets every event; one that lags loses the oldest and is told.
    fn events(&self) -> Box<dyn EventStream>;
}

/// See [`Drivers::events`].
#[async_trait::async_trait]
pub trait EventStream: Send {
    /// The next event; `None` once the daemon goes down.
    async fn next(&mut self) -> Option<DriverEvent>;
}
