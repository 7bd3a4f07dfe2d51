//! The journal: what was being changed when the daemon died.
//!
//! A change of anything outside the store (a volume, a container, an interface) is written down before it begins and
//! struck out in the transaction that records its result. What is still there when the daemon starts was interrupted;
//! [`crate::recovery`] finishes it or takes it back, kind by kind as [`Entry`] says.

use std::sync::Arc;

use hutch_api::Devices;
use hutch_store::{Store, Transaction};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::records::InstanceRecord;

/// Version of the entries' format. A newer one is refused, so that nothing is undone by a guess.
const VERSION: u32 = 1;
const PREFIX: &str = "journal/";

/// A change that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Entry {
    /// Taken back: the volume goes, no record was written.
    InstanceCreate {
        /// The instance's project.
        project: String,
        /// Its name.
        name: String,
        /// The pool of its volume.
        pool: String,
    },
    /// Finished: the volume and the record go.
    InstanceDelete {
        /// The instance's project.
        project: String,
        /// Its name.
        name: String,
    },
    /// Finished: the volume gets its new name, then the record.
    InstanceRename {
        /// The instance's project.
        project: String,
        /// What it was called.
        name: String,
        /// What it shall be called.
        new_name: String,
    },
    /// Finished: the old volume goes, and the new one is made; done again that gives the same.
    InstanceRebuild {
        /// The instance's project.
        project: String,
        /// Its name.
        name: String,
        /// What it becomes.
        rebuilt: Box<Rebuilt>,
    },
    /// Taken back: what was copied to another pool goes, and the record still names the old one.
    InstanceMove {
        /// The instance's project.
        project: String,
        /// Its name.
        name: String,
        /// The pool that it was to move to.
        pool: String,
    },
    /// Finished: the volume that an instance has left in its old pool goes.
    InstanceLeave {
        /// The instance's project.
        project: String,
        /// Its name at that time.
        name: String,
        /// The old pool.
        pool: String,
    },
    /// Taken back: snapshots that were copied and that no record names go.
    InstanceRefresh {
        /// The project of the copy that is refreshed.
        project: String,
        /// Its name.
        name: String,
    },
    /// Finished: a copy becomes what was copied into it.
    InstanceRenew {
        /// The project of the copy that is refreshed.
        project: String,
        /// Its name.
        name: String,
        /// What is left to be done.
        renewal: Renewal,
    },
    /// Taken back: the volume's size, and limits, disks and interfaces of a running container are again what the record says.
    InstanceUpdate {
        /// The instance's project.
        project: String,
        /// Its name.
        name: String,
        /// What was tried, of which interfaces may be there already; missing in entries of earlier daemons.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tried: Option<Box<Tried>>,
    },
    /// Taken back unless PID 1 runs, in which case it is finished.
    InstanceStart {
        /// The instance's project.
        project: String,
        /// Its name.
        name: String,
    },
    /// Finished: a container that still runs is killed, or asked to halt again.
    InstanceStop {
        /// The instance's project.
        project: String,
        /// Its name.
        name: String,
        /// Whether it is killed.
        force: bool,
    },
    /// Finished: a container that was stopped to be started again is started. It spans an [`Entry::InstanceStop`], what is done
    /// meanwhile and an [`Entry::InstanceStart`].
    InstanceRestart {
        /// The instance's project.
        project: String,
        /// Its name.
        name: String,
    },
    /// Taken back.
    SnapshotCreate {
        /// The instance's project.
        project: String,
        /// The instance.
        name: String,
        /// The snapshot.
        snapshot: String,
    },
    /// Finished.
    SnapshotDelete {
        /// The instance's project.
        project: String,
        /// The instance.
        name: String,
        /// The snapshot.
        snapshot: String,
    },
    /// Finished.
    SnapshotRename {
        /// The instance's project.
        project: String,
        /// The instance.
        name: String,
        /// What the snapshot was called.
        snapshot: String,
        /// What it shall be called.
        new_name: String,
    },
    /// Finished: restoring again gives the same.
    SnapshotRestore {
        /// The instance's project.
        project: String,
        /// The instance.
        name: String,
        /// The snapshot.
        snapshot: String,
    },
    /// Taken back: files of the store of images that no record names are removed.
    ImageImport {
        /// The fingerprint, where it is known already.
        fingerprint: String,
    },
    /// Finished.
    ImageDelete {
        /// The fingerprint.
        fingerprint: String,
    },
    /// Taken back: the half-filled volume goes.
    ImageUnpack {
        /// The fingerprint.
        fingerprint: String,
        /// The pool.
        pool: String,
    },
    /// Taken back.
    NetworkCreate {
        /// The network's project.
        project: String,
        /// Its name.
        name: String,
        /// The driver.
        driver: String,
        /// The configuration with which it was started.
        config: std::collections::BTreeMap<String, String>,
    },
    /// Finished.
    NetworkDelete {
        /// The network's project.
        project: String,
        /// Its name.
        name: String,
    },
    /// Taken back.
    PoolCreate {
        /// The pool.
        name: String,
        /// The driver.
        driver: String,
        /// The configuration with which it was made.
        config: std::collections::BTreeMap<String, String>,
        /// The mark of its directory: where there is another, nothing is taken back.
        token: String,
        /// The directory was missing before.
        made: bool,
    },
    /// Finished.
    PoolDelete {
        /// The pool.
        name: String,
    },
}

/// How a copy becomes what was copied into it. Its records say so already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// Snapshots that go.
    pub dropped: Vec<String>,
    /// Snapshots by the names that they have for the moment, with those that they get.
    pub added: Vec<(String, String)>,
    /// The snapshot that becomes the root.
    pub root: String,
}

/// What an instance was to become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Its record, with the names and addresses that were chosen for its interfaces.
    pub record: InstanceRecord,
    /// Its devices, with those of its profiles.
    pub devices: Devices,
}

/// What an instance becomes that gets a new root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Its record.
    pub record: InstanceRecord,
    /// The fingerprint of the image that the root is made from; none for an empty root.
    pub image: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    operation: String,
    #[serde(flatten)]
    entry: Entry,
}

/// Writes and strikes out entries. See the module.
pub struct Journal {
    store: Arc<dyn Store>,
    fault: Option<String>,
}

/// An entry that was written; [`Journal::done`] strikes it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    key: String,
    kind: &'static str,
}

/// Names a step at which a test ends the daemon as `kill -9` would: `instance-create:volume`.
pub const FAULT_VARIABLE: &str = "HUTCH_STOP_AT";

impl Journal {
    /// A journal in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            fault: std::env::var(FAULT_VARIABLE).ok(),
        }
    }

    /// Writes `entry` down for `operation`.
    ///
    /// # Errors
    /// The store's.
    pub async fn begin(&self, operation: &str, entry: Entry) -> Result<Open> {
        let (open, result) = Self::write(operation, entry, Transaction::new())?;
        self.store.commit(result).await?;
        self.step(&open, "begin");
        Ok(open)
    }

    /// A point between two effects. Tests end the process here; otherwise it costs a comparison.
    pub fn step(&self, open: &Open, step: &str) {
        self.point(open.kind, step);
    }

    /// The same in something that has no entry, since every start of the daemon makes up for it whether it was begun or not.
    pub fn point(&self, kind: &str, step: &str) {
        if let Some(fault) = &self.fault
            && fault.strip_prefix(kind).and_then(|rest| rest.strip_prefix(':')) == Some(step)
        {
            tracing::error!(%fault, "ending the process as the test asked");
            // SIGKILL and not an exit: nothing may be flushed or cleaned up.
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Strikes the entry out together with `result`.
    ///
    /// # Errors
    /// The store's.
    pub async fn done(&self, open: Open, result: Transaction) -> Result<()> {
        self.all_done(&[open], result).await
    }

    /// Strikes out the entry of a change that has failed and was told so: it must not go on after the next start of the daemon,
    /// when the object may be another of the same name, or have been used meanwhile.
    ///
    /// # Errors
    /// The change's, and the store's.
    pub async fn unless_failed(&self, open: Open, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.done(open, Transaction::new()).await?;
        }
        result
    }

    /// Goes over to the next entry of a change, together with `result`: at any instant one of the two is there.
    ///
    /// # Errors
    /// The store's.
    pub async fn turn(&self, open: Open, operation: &str, next: Entry, result: Transaction) -> Result<Open> {
        self.step(&open, "commit");
        let (next, result) = Self::write(operation, next, result)?;
        self.store.commit(result.delete(&open.key)).await?;
        self.step(&open, "committed");
        self.step(&next, "begin");
        Ok(next)
    }

    fn write(operation: &str, entry: Entry, result: Transaction) -> Result<(Open, Transaction)> {
        let kind = entry.kind();
        let key = format!("{PREFIX}{}", uuid::Uuid::now_v7());
        let stored = Stored {
            version: VERSION,
            operation: operation.to_owned(),
            entry,
        };
        let result = result.put(&key, &stored)?;
        Ok((Open { key, kind }, result))
    }

    /// Strikes several entries out together with what they came to: two requests to stop one instance end at the same moment.
    ///
    /// # Errors
    /// The store's.
    pub async fn all_done(&self, open: &[Open], mut result: Transaction) -> Result<()> {
        for open in open {
            self.step(open, "commit");
            result = result.delete(&open.key);
        }
        self.store.commit(result).await?;
        for open in open {
            self.step(open, "committed");
        }
        Ok(())
    }

    /// Everything that was interrupted, oldest first, with the operation that it belongs to.
    ///
    /// # Errors
    /// The store's, and an entry of a newer version.
    pub async fn interrupted(&self) -> Result<Vec<(Open, String, Entry)>> {
        let mut out = Vec::new();
        for (key, stored) in hutch_store::load::<Stored>(self.store.as_ref(), PREFIX).await? {
            if stored.version > VERSION {
                return Err(crate::Error::Unavailable(format!(
                    "journal entry {key} has version {}, and this daemon knows {VERSION}: start the version that wrote it",
                    stored.version
                )));
            }
            out.push((
                Open {
                    key: format!("{PREFIX}{key}"),
                    kind: stored.entry.kind(),
                },
                stored.operation,
                stored.entry,
            ));
        }
        Ok(out)
    }
}

impl Entry {
    /// Project and name of the instance that it is about, if it is about one.
    pub fn instance(&self) -> Option<(&str, &str)> {
        match self {
            Self::InstanceCreate { project, name, .. }
            | Self::InstanceDelete { project, name }
            | Self::InstanceRename { project, name, .. }
            | Self::InstanceRebuild { project, name, .. }
            | Self::InstanceMove { project, name, .. }
            | Self::InstanceLeave { project, name, .. }
            | Self::InstanceRefresh { project, name }
            | Self::InstanceRenew { project, name, .. }
            | Self::InstanceUpdate { project, name, .. }
            | Self::InstanceStart { project, name }
            | Self::InstanceStop { project, name, .. }
            | Self::InstanceRestart { project, name }
            | Self::SnapshotCreate { project, name, .. }
            | Self::SnapshotDelete { project, name, .. }
            | Self::SnapshotRename { project, name, .. }
            | Self::SnapshotRestore { project, name, .. } => Some((project, name)),
            Self::ImageImport { .. }
            | Self::ImageDelete { .. }
            | Self::ImageUnpack { .. }
            | Self::NetworkCreate { .. }
            | Self::NetworkDelete { .. }
            | Self::PoolCreate { .. }
            | Self::PoolDelete { .. } => None,
        }
    }

    /// Whether it is about a pool or a network, which others need.
    pub fn is_infrastructure(&self) -> bool {
        matches!(
            self,
            Self::PoolCreate { .. } | Self::PoolDelete { .. } | Self::NetworkCreate { .. } | Self::NetworkDelete { .. }
        )
    }

    /// The entry's kind as the store and the tests have it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InstanceCreate { .. } => "instance-create",
            Self::InstanceDelete { .. } => "instance-delete",
            Self::InstanceRename { .. } => "instance-rename",
            Self::InstanceRebuild { .. } => "instance-rebuild",
            Self::InstanceMove { .. } => "instance-move",
            Self::InstanceLeave { .. } => "instance-leave",
            Self::InstanceRefresh { .. } => "instance-refresh",
            Self::InstanceRenew { .. } => "instance-renew",
            Self::InstanceUpdate { .. } => "instance-update",
            Self::InstanceStart { .. } => "instance-start",
            Self::InstanceStop { .. } => "instance-stop",
            Self::InstanceRestart { .. } => "instance-restart",
            Self::SnapshotCreate { .. } => "snapshot-create",
            Self::SnapshotDelete { .. } => "snapshot-delete",
            Self::SnapshotRename { .. } => "snapshot-rename",
            Self::SnapshotRestore { .. } => "snapshot-restore",
            Self::ImageImport { .. } => "image-import",
            Self::ImageDelete { .. } => "image-delete",
            Self::ImageUnpack { .. } => "image-unpack",
            Self::NetworkCreate { .. } => "network-create",
            Self::NetworkDelete { .. } => "network-delete",
            Self::PoolCreate { .. } => "pool-create",
            Self::PoolDelete { .. } => "pool-delete",
        }
    }
}
