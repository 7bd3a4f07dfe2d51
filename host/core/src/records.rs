//! What the store holds, object by object. These formats have their own version (`v`), which has nothing to do with the
//! API's; a reader refuses what it does not know.

use std::collections::BTreeMap;

use hutch_api::{Config, Devices, Timestamp};
use serde::{Deserialize, Serialize};

/// The version of all records that this daemon writes.
pub const RECORD_VERSION: u32 = 1;

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceRecord {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// Never changes, also not by a rename; names the instance to the host (keeper, cgroup).
    pub id: uuid::Uuid,
    /// The project.
    pub project: String,
    /// The name, unique in the project.
    pub name: String,
    /// `container`.
    pub kind: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// For people.
    pub description: String,
    /// Its own keys, `volatile.*` among them; profiles are added when it is read.
    pub config: Config,
    /// Its own devices.
    pub devices: Devices,
    /// Profiles, the later ones overriding.
    pub profiles: Vec<String>,
    /// Deleted when it stops.
    pub ephemeral: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last started.
    pub last_used_at: Timestamp,
    /// The pool of its root volume.
    pub pool: String,
    /// The pool of its root volume holds it as a plain tree (`security.nesting`).
    pub plain: bool,
    /// Why its root can't be relied on: a change of it failed half-way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// A snapshot of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRecord {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// The snapshot's own name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it may go; never by default.
    pub expires_at: Timestamp,
    /// The instance as it was.
    pub instance: InstanceRecord,
    /// Why it can't be relied on: a change of it failed half-way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// The templates of the image that an instance was made from, and what else it says of the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplatesRecord {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// The image's fingerprint; empty where the instance had no image.
    pub image: String,
    /// As the image had them, or as they were changed.
    pub templates: crate::images::Templates,
    /// What else the image was made to say of this instance, without templates; absent as long as nobody changed that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<hutch_archive::ImageMetadata>,
}

/// A storage pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolRecord {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// The name.
    pub name: String,
    /// The name of the driver.
    pub driver: String,
    /// For people.
    pub description: String,
    /// The configuration, completed by the driver.
    pub config: Config,
    /// The mark that its directory bears; random, so that no other pool's does.
    pub token: String,
}

/// A managed network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRecord {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// The project.
    pub project: String,
    /// The name, which is the name of its interface, too.
    pub name: String,
    /// The name of the driver.
    pub driver: String,
    /// For people.
    pub description: String,
    /// The configuration, completed by the driver.
    pub config: Config,
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileRecord {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// The project.
    pub project: String,
    /// The name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Keys for the instances that use it.
    pub config: Config,
    /// Devices for the instances that use it.
    pub devices: Devices,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectRecord {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// The name.
    pub name: String,
    /// For people.
    pub description: String,
    /// `features.*` and `user.*`.
    pub config: Config,
}

/// The daemon itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRecord {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// Eight hexadecimal digits that tell this daemon's names on the machine from another daemon's.
    pub id: String,
    /// The keys of `PUT /1.0`.
    pub config: Config,
    /// The first pool, network and profile were made.
    pub prepared: bool,
}

/// Keys of the store. Names of objects hold no `/`.
pub mod key {
    /// Where an instance's record is.
    pub fn instance(project: &str, name: &str) -> String {
        format!("instance/{project}/{name}")
    }
    /// Where a snapshot's record is.
    pub fn snapshot(project: &str, instance: &str, name: &str) -> String {
        format!("snapshot/{project}/{instance}/{name}")
    }
    /// Where the templates are that an instance keeps, by its id, which no rename changes.
    pub fn templates(instance: &uuid::Uuid) -> String {
        format!("templates/{instance}")
    }
    /// Where a pool's record is.
    pub fn pool(name: &str) -> String {
        format!("pool/{name}")
    }
    /// Where a network's record is.
    pub fn network(project: &str, name: &str) -> String {
        format!("network/{project}/{name}")
    }
    /// Where a profile's record is.
    pub fn profile(project: &str, name: &str) -> String {
        format!("profile/{project}/{name}")
    }
    /// Where a project's record is.
    pub fn project(name: &str) -> String {
        format!("project/{name}")
    }
    /// Where an operation's record is.
    pub fn operation(id: &str) -> String {
        format!("operation/{id}")
    }
    /// Where it is kept what an operator said to a warning.
    pub fn warning(id: &str) -> String {
        format!("warning/{id}")
    }
    /// Where the daemon's own record is.
    pub const SERVER: &str = "server";
}

/// The name that a volume of `project` has in a pool: one path component, unique there, because `_` is in no instance's
/// name.
pub fn volume_name(project: &str, name: &str) -> String {
    if project == crate::DEFAULT_PROJECT {
        name.to_owned()
    } else {
        format!("{project}_{name}")
    }
}

/// Keys and values that drivers take.
pub fn options(config: &Config) -> BTreeMap<String, String> {
    config.clone()
}
