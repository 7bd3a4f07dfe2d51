//! What the host does for a plugin, and the check that it may.
//!
//! Every function of `wit/host` is a [`Request`] that answers with a [`Response`]; both can be serialised, so that a plugin
//! may one day run in another process without a line of its own changed. [`HostBroker`] carries them out. It asks the
//! [`Granter`] first, at the top of each function: what the manifest does not request is refused with `not-requested`,
//! what the operator has not granted with `not-granted`.
//!
//! There is no WebAssembly here and no driver's name.

mod about;
mod basics;
mod command;
pub mod context;
pub mod download;
pub mod error;
mod filter;
mod fs;
pub mod grant;
mod host;
mod http;
mod kv;
mod link;
pub mod permission;
pub mod powers;
mod records;
pub mod request;
pub mod response;
mod service;
mod system;
mod watch;

pub use context::{CallContext, DiscardMetrics, LogSink, MetricSink, Subject, SubjectLimits, TracingLog};
pub use download::{DownloadRequest, Downloaded, download};
pub use grant::{Granted, Granter, Grants};
pub use host::{HostBroker, HostBrokerConfig, state_id};
pub use permission::{CommandPermission, FixedPath, FsPermission, Permissions};
pub use request::{LogLevel, Request};
pub use response::{CommandOutput, DirEntry, FileInfo, HttpResponse, LinkInfo, Response, ServiceStatus, Space};

use hutch_driver::DriverError;

/// Carries out what plugins ask of the host.
#[async_trait::async_trait]
pub trait Broker: Send + Sync {
    /// Does `request` for the caller that `cx` names, within its grants.
    ///
    /// The answer has the shape that [`Request::response_shape`] names for the request.
    ///
    /// # Errors
    /// `not-requested` and `not-granted` where the caller may not; `invalid` for arguments that can't be; `limit` where a
    /// bound of the caller's is reached; `cancelled` where the caller's operation was; else what the function itself says.
    async fn call(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError>;

    /// Forgets what the plugin of this id keeps: the plugin was removed, or one is to be installed that is not the one before.
    ///
    /// # Errors
    /// `io` where it can't be.
    async fn forget(&self, plugin: &str) -> Result<(), DriverError>;
}
