//! Instances: containers and virtual machines, their snapshots, and what can be done in them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::state::InstanceState;
use crate::wire::wire;
use crate::{Config, Devices, StatusCode, Timestamp, config};

/// The `type` of an instance that is a container.
pub const CONTAINER: &str = "container";
/// The `type` of an instance that is a virtual machine.
pub const VIRTUAL_MACHINE: &str = "virtual-machine";

wire! {
    /// `POST /1.0/instances`.
    pub struct InstancesPost {
        /// The instance's name; one is made up when it is empty.
        pub name: String,
        /// `container` (also when empty) or `virtual-machine`.
        #[serde(rename = "type")]
        pub kind: String,
        /// The name of the processor architecture, e.g. `x86_64`; empty for the image's.
        pub architecture: String,
        /// The instance's own configuration.
        pub config: Config,
        /// What people wrote of it.
        pub description: String,
        /// The instance's own devices.
        pub devices: Devices,
        /// Whether it is deleted when it stops.
        pub ephemeral: bool,
        /// A cloud's name for a size (`t2.micro`), which gives limits.
        pub instance_type: String,
        /// Profiles in the order they apply. Absent or `null`: the default profile. Empty: none.
        pub profiles: Option<Vec<String>>,
        /// A snapshot to restore; of no meaning on creation.
        pub restore: String,
        /// Whether the state of its memory is to be kept.
        pub stateful: bool,
        /// Where its root comes from.
        pub source: InstanceSource,
        /// Whether it is started once it exists.
        pub start: bool,
    }

    /// Where a new instance's root comes from.
    pub struct InstanceSource {
        /// `image`, `copy`, `migration`, `none`.
        #[serde(rename = "type")]
        pub kind: String,
        /// The alias of an image.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub alias: String,
        /// Whether a copy may be made of files that change meanwhile.
        pub allow_inconsistent: bool,
        /// The fingerprint of the image that the instance began as.
        #[serde(rename = "base-image", skip_serializing_if = "String::is_empty")]
        pub base_image: String,
        /// The certificate of the remote server, in PEM.
        pub certificate: String,
        /// Leave snapshots out (the name of old clients).
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub container_only: bool,
        /// The fingerprint of an image, or its beginning.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub fingerprint: String,
        /// Leave snapshots out.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub instance_only: bool,
        /// Whether the instance goes on running while it moves.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub live: bool,
        /// `pull` (also when empty), `push` or `local`.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub mode: String,
        /// The operation on the other server.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub operation: String,
        /// The project of the image or instance that is copied.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub project: String,
        /// Properties that choose an image.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub properties: BTreeMap<String, String>,
        /// The image source that `server` speaks.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub protocol: String,
        /// Whether an existing instance is brought up to date.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub refresh: bool,
        /// Whether a refresh leaves snapshots out that are older than the newest there.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub refresh_exclude_older: bool,
        /// What lets one download a private image.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub secret: String,
        /// The secrets of a migration's channels.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub secrets: BTreeMap<String, String>,
        /// The URL of an image server.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub server: String,
        /// The instance, or `instance/snapshot`, that is copied.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub source: String,
    }

    /// `PUT /1.0/instances/{name}`: the changeable part of an instance.
    pub struct InstancePut {
        /// The name of the processor architecture; empty leaves it.
        pub architecture: String,
        /// The instance's own configuration.
        pub config: Config,
        /// What people wrote of it.
        pub description: String,
        /// The instance's own devices.
        pub devices: Devices,
        /// Whether it is deleted when it stops.
        pub ephemeral: bool,
        /// Profiles in the order they apply.
        pub profiles: Vec<String>,
        /// When not empty, the snapshot to restore (`s1` or `c1/s1`), and all the rest is ignored.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub restore: String,
        /// Whether a restore brings memory back too.
        pub stateful: bool,
    }

    /// `PATCH /1.0/instances/{name}`: what is absent stays.
    pub struct InstancePatch {
        /// See [`InstancePut::architecture`].
        pub architecture: Option<String>,
        /// Keys to change; an empty value removes its key.
        pub config: Option<Config>,
        /// See [`InstancePut::description`].
        pub description: Option<String>,
        /// Devices to add or to replace.
        pub devices: Option<Devices>,
        /// See [`InstancePut::ephemeral`].
        pub ephemeral: Option<bool>,
        /// See [`InstancePut::profiles`].
        pub profiles: Option<Vec<String>>,
        /// See [`InstancePut::restore`].
        pub restore: Option<String>,
        /// See [`InstancePut::stateful`].
        pub stateful: Option<bool>,
    }

    /// `POST /1.0/instances/{name}`: rename, move or offer for migration.
    pub struct InstancePost {
        /// The new name; empty keeps it.
        pub name: String,
        /// Whether to offer the instance to another server or move it between pools or members.
        pub migration: bool,
        /// Whether the instance goes on running meanwhile; absent means so.
        pub live: Option<bool>,
        /// Leave snapshots out.
        pub instance_only: bool,
        /// The name of old clients for `instance_only`.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub container_only: bool,
        /// The server to push to.
        pub target: Option<InstancePostTarget>,
        /// The storage pool to move to.
        pub pool: String,
        /// The project to move to.
        pub project: String,
        /// Whether the copy may be of files that change meanwhile.
        pub allow_inconsistent: bool,
        /// Configuration to change on the way.
        #[serde(rename = "Config")]
        pub config: Option<Config>,
        /// Devices to change on the way.
        #[serde(rename = "Devices")]
        pub devices: Option<Devices>,
        /// Profiles to have instead.
        #[serde(rename = "Profiles")]
        pub profiles: Option<Vec<String>>,
    }

    /// Where a migration is pushed to.
    pub struct InstancePostTarget {
        /// The certificate of the other server, in PEM.
        pub certificate: String,
        /// The operation there.
        pub operation: String,
        /// The secrets of its channels.
        pub secrets: BTreeMap<String, String>,
    }

    /// An instance.
    pub struct Instance {
        /// Its name, unique in its project.
        pub name: String,
        /// What people wrote of it.
        pub description: String,
        /// The text of `status_code`.
        pub status: String,
        /// [`StatusCode::RUNNING`], [`StatusCode::STOPPED`], [`StatusCode::FROZEN`], [`StatusCode::ERROR`].
        pub status_code: StatusCode,
        /// When it was made.
        pub created_at: Timestamp,
        /// When it was last started.
        pub last_used_at: Timestamp,
        /// The cluster member it is on; `none` without a cluster.
        pub location: String,
        /// `container` or `virtual-machine`.
        #[serde(rename = "type")]
        pub kind: String,
        /// Its project.
        pub project: String,
        /// The name of its processor architecture.
        pub architecture: String,
        /// Whether it is deleted when it stops.
        pub ephemeral: bool,
        /// Whether the state of its memory is kept.
        pub stateful: bool,
        /// Profiles in the order they apply.
        pub profiles: Vec<String>,
        /// Its own configuration, with what the server keeps there under `volatile.`.
        pub config: Config,
        /// Its own devices.
        pub devices: Devices,
        /// Configuration with that of its profiles.
        pub expanded_config: Config,
        /// Devices with those of its profiles.
        pub expanded_devices: Devices,
    }

    /// `PUT /1.0/instances/{name}/state`.
    pub struct InstanceStatePut {
        /// `start`, `stop`, `restart`, `freeze`, `unfreeze`.
        pub action: String,
        /// Seconds to wait for a clean stop; -1 for as long as it takes, 0 for the instance's own setting.
        pub timeout: i64,
        /// Whether a stop is at once.
        pub force: bool,
        /// Whether memory is written out or read back.
        pub stateful: bool,
    }

    /// `PUT /1.0/instances`: the state of all of a project's instances.
    pub struct InstancesPut {
        /// What is to happen to them.
        pub state: Option<InstanceStatePut>,
    }

    /// `POST /1.0/instances/{name}/rebuild`.
    pub struct InstanceRebuildPost {
        /// The image of the new root.
        pub source: InstanceSource,
    }

    /// `POST /1.0/instances/{name}/snapshots`.
    pub struct InstanceSnapshotsPost {
        /// The snapshot's name; made from the instance's pattern when empty.
        pub name: String,
        /// Whether memory is part of it.
        pub stateful: bool,
        /// When it goes away. Absent or `null`: as `snapshots.expiry` says. Never: it stays.
        pub expires_at: Option<Timestamp>,
    }

    /// `POST /1.0/instances/{name}/snapshots/{snapshot}`.
    pub struct InstanceSnapshotPost {
        /// The new name.
        pub name: String,
        /// Whether to offer it to another server.
        pub migration: bool,
        /// With its memory.
        pub live: bool,
        /// The server to push to.
        pub target: Option<InstancePostTarget>,
    }

    /// `PUT` and `PATCH /1.0/instances/{name}/snapshots/{snapshot}`.
    pub struct InstanceSnapshotPut {
        /// When it goes away. Absent: unchanged on PATCH, never on PUT.
        pub expires_at: Option<Timestamp>,
    }

    /// A snapshot of an instance.
    pub struct InstanceSnapshot {
        /// Its name within the instance.
        pub name: String,
        /// When it was taken.
        pub created_at: Timestamp,
        /// When it goes away.
        pub expires_at: Timestamp,
        /// When the instance was last used before.
        pub last_used_at: Timestamp,
        /// Whether memory is part of it.
        pub stateful: bool,
        /// What it occupies, in bytes; -1 when that isn't known.
        pub size: i64,
        /// The instance's then.
        pub architecture: String,
        /// The instance's then.
        pub ephemeral: bool,
        /// The instance's then.
        pub profiles: Vec<String>,
        /// The instance's then.
        pub config: Config,
        /// The instance's then.
        pub devices: Devices,
        /// The instance's then.
        pub expanded_config: Config,
        /// The instance's then.
        pub expanded_devices: Devices,
    }

    /// A backup of an instance; Hutch has none yet, and lists none.
    pub struct InstanceBackup {
        /// Its name within the instance.
        pub name: String,
        /// When it was made.
        pub created_at: Timestamp,
        /// When it goes away.
        pub expires_at: Timestamp,
        /// Whether snapshots were left out.
        pub instance_only: bool,
        /// Whether it is in the pool's own format.
        pub optimized_storage: bool,
    }

    /// `POST /1.0/instances/{name}/exec`.
    pub struct InstanceExecPost {
        /// Program and arguments; without a slash the program is looked for in the instance's `PATH`.
        pub command: Vec<String>,
        /// Whether clients attach by websocket; else the process runs by itself.
        #[serde(rename = "wait-for-websocket")]
        pub wait_for_websocket: bool,
        /// Whether it gets a terminal.
        pub interactive: bool,
        /// Variables added to the instance's.
        pub environment: BTreeMap<String, String>,
        /// Columns of the terminal.
        pub width: i32,
        /// Rows of the terminal.
        pub height: i32,
        /// Without websockets: whether standard output and error are kept in files.
        #[serde(rename = "record-output")]
        pub record_output: bool,
        /// The user inside, by number.
        pub user: u32,
        /// The group inside, by number.
        pub group: u32,
        /// The working directory; empty for the user's home.
        pub cwd: String,
    }

    /// The `metadata` of an exec's operation.
    pub struct ExecMetadata {
        /// The command.
        pub command: Vec<String>,
        /// The variables that were added.
        pub environment: BTreeMap<String, String>,
        /// The secret of each websocket: `0`, `1`, `2`, `control`; with a terminal `0` and `control`.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub fds: BTreeMap<String, String>,
        /// Whether it has a terminal.
        pub interactive: bool,
        /// The exit status once it is over; 128 and the signal's number when one killed it.
        #[serde(rename = "return", skip_serializing_if = "Option::is_none")]
        pub status: Option<i32>,
        /// The paths of recorded output, by descriptor.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub output: BTreeMap<String, String>,
    }

    /// A message on the control websocket of an exec or a console.
    pub struct ExecControl {
        /// `window-resize`, `signal`.
        pub command: String,
        /// `width` and `height`.
        pub args: BTreeMap<String, String>,
        /// A signal's number.
        pub signal: i32,
    }

    /// `POST /1.0/instances/{name}/console`.
    pub struct InstanceConsolePost {
        /// Columns.
        pub width: i32,
        /// Rows.
        pub height: i32,
        /// `console` (also when empty) or `vga`.
        #[serde(rename = "type")]
        pub kind: String,
        /// Whether to take it from whoever has it.
        pub force: bool,
    }
}

/// An instance with all that belongs to it: `recursion=2` of a list, `recursion=1` of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceFull {
    /// The instance.
    #[serde(flatten)]
    pub instance: Instance,
    /// Its backups.
    #[serde(default, deserialize_with = "crate::wire::Lenient::lenient")]
    pub backups: Vec<InstanceBackup>,
    /// Its state.
    #[serde(default, deserialize_with = "crate::wire::Lenient::lenient")]
    pub state: InstanceState,
    /// Its snapshots, oldest first.
    #[serde(default, deserialize_with = "crate::wire::Lenient::lenient")]
    pub snapshots: Vec<InstanceSnapshot>,
}

impl Instance {
    /// The changeable part, as a PUT would send it back.
    pub fn to_put(&self) -> InstancePut {
        InstancePut {
            architecture: self.architecture.clone(),
            config: self.config.clone(),
            description: self.description.clone(),
            devices: self.devices.clone(),
            ephemeral: self.ephemeral,
            profiles: self.profiles.clone(),
            restore: String::new(),
            stateful: self.stateful,
        }
    }

    /// What an ETag is made of: the changeable part without what the server itself changes.
    pub fn etag_parts(&self) -> Value {
        serde_json::json!([
            self.architecture,
            self.config,
            self.description,
            self.devices,
            self.ephemeral,
            self.profiles
        ])
    }
}

impl InstancePatch {
    /// Changes `put` as the PATCH asks.
    pub fn apply(self, put: &mut InstancePut) {
        if let Some(architecture) = self.architecture {
            put.architecture = architecture;
        }
        if let Some(description) = self.description {
            put.description = description;
        }
        if let Some(ephemeral) = self.ephemeral {
            put.ephemeral = ephemeral;
        }
        if let Some(profiles) = self.profiles {
            put.profiles = profiles;
        }
        if let Some(restore) = self.restore {
            put.restore = restore;
        }
        if let Some(stateful) = self.stateful {
            put.stateful = stateful;
        }
        config::merge(&mut put.config, self.config.unwrap_or_default());
        put.devices.extend(self.devices.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
