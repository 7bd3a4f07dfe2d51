//! Zone drivers, as `wit/zone` has them, and the content of a zone as they read it.
//!
//! A record set's type is in `hutch:host` and not in `hutch:zone`, because the functions that read it are the host's: a family may use
//! what the host offers, and the host knows no family. A call reads one [`Content`], which never changes: the core may be versions
//! ahead before a large zone is read, and whoever reads it still comes to its end.

mod content;
mod form;

pub use content::{Content, MAX_CHANGED, MAX_SETS, Position};
pub use form::{MAX_NAME, MAX_SET_BYTES, check_zone_name};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Call, DriverError, DriverInfo, Options};

/// A zone in a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ZoneRef {
    /// The zone's project.
    pub project: String,
    /// The domain in lower case, without a final dot. [`check_zone_name`] says what it may be.
    pub name: String,
    /// Its configuration.
    pub config: Options,
}

/// All records of one name and type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordSet {
    /// Relative to the zone, in lower case; `@` is the apex.
    pub name: String,
    /// `A`, `AAAA`, … in upper case.
    pub kind: String,
    /// In seconds.
    pub ttl: u32,
    /// Each in presentation format (RFC 1035 section 5), on one line.
    pub values: Vec<String>,
}

/// What made a version of a zone's content of the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The version that it made.
    pub version: u64,
    /// What is no more. A set that was changed is removed and added.
    pub removed: Vec<RecordSet>,
    /// What is new.
    pub added: Vec<RecordSet>,
}

/// A zone driver; see `wit/zone` for what each call means.
#[async_trait]
pub trait ZoneDriver: Send + Sync {
    /// Who provides it, and its abilities.
    fn info(&self) -> DriverInfo;

    /// `zone.validate`.
    async fn validate(&self, call: &Call, zone: &ZoneRef, current: Option<&Options>) -> Result<Options, DriverError>;
    /// `zone.publish`. The content is in [`Call::records`].
    async fn publish(&self, call: &Call, zone: &ZoneRef, version: u64) -> Result<(), DriverError>;
    /// `zone.delete`.
    async fn delete(&self, call: &Call, zone: &ZoneRef) -> Result<(), DriverError>;
    /// `zone.reconcile`.
    async fn reconcile(&self, call: &Call, valid: &[ZoneRef]) -> Result<Vec<String>, DriverError>;
}
