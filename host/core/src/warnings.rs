//! Warnings: pools, networks and plugins that can't be used, for as long as they can't, and what the kernel lacks.
//!
//! They are found anew whenever somebody asks. What an operator acknowledged or removed stays so, over restarts, until
//! something else is said of the same object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use hutch_api::Timestamp;
use hutch_api::warning::{Warning, WarningPut};
use hutch_container::AppArmorSupport;
use hutch_store::Transaction;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Core;
use crate::error::{Error, Result};
use crate::pools::Readiness;
use crate::records::{RECORD_VERSION, key};

/// What is remembered of warnings.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    /// When each of the present ones was first met, by its id.
    since: BTreeMap<String, Timestamp>,
    /// What an operator said to them.
    marks: BTreeMap<String, Mark>,
}

/// What an operator said to a warning, in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mark {
    v: u32,
    /// What was said; of anything else this says nothing.
    message: String,
    /// It is not shown any more; otherwise it is acknowledged.
    removed: bool,
}

/// Something that is wrong now.
struct Trouble {
    kind: &'static str,
    url: String,
    message: String,
    since: Timestamp,
}

impl Trouble {
    /// The same trouble keeps its id from one listing to the next.
    fn id(&self) -> String {
        let digest = Sha256::digest(format!("{} {}", self.kind, self.url));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
    }
}

impl Core {
    /// Reads what operators said to warnings before.
    pub(crate) async fn load_warnings(&self) -> Result<()> {
        let marks = hutch_store::load::<Mark>(self.store.as_ref(), "warning/").await?;
        self.warnings.0.lock().unwrap_or_else(PoisonError::into_inner).marks = marks.into_iter().collect();
        Ok(())
    }

    /// What the operator should know: pools, networks and plugins that can't be used, and what the kernel lacks.
    pub fn warnings(&self) -> Vec<Warning> {
        let troubles = self.troubles();
        let now = Timestamp::now();
        let mut memory = self.warnings.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = BTreeSet::new();
        let mut warnings = Vec::new();
        for trouble in troubles {
            let id = trouble.id();
            let first = if trouble.since.is_never() { now } else { trouble.since };
            let first = *memory.since.entry(id.clone()).or_insert(first);
            present.insert(id.clone());
            let mark = memory.marks.get(&id).filter(|mark| mark.message == trouble.message);
            if mark.is_some_and(|mark| mark.removed) {
                continue;
            }
            warnings.push(Warning {
                uuid: id,
                location: "none".to_owned(),
                entity_url: trouble.url,
                status: if mark.is_some() { "acknowledged" } else { "new" }.to_owned(),
                severity: "high".to_owned(),
                kind: trouble.kind.to_owned(),
                count: 1,
                first_seen_at: first,
                last_seen_at: now,
                last_message: trouble.message,
                ..Warning::default()
            });
        }
        memory.since.retain(|id, _| present.contains(id));
        warnings
    }

    fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let mut unavailable = |kind, url, readiness| {
            if let Readiness::Unavailable(message) = readiness {
                troubles.push(Trouble {
                    kind,
                    url,
                    message,
                    since: Timestamp::NEVER,
                });
            }
        };
        for pool in self.pools.list() {
            let url = format!("/1.0/storage-pools/{}", pool.record().name);
            unavailable("Storage pool unavailable", url, self.pool_condition(&pool));
        }
        for network in self.networks.list() {
            let url = format!("/1.0/networks/{}", network.record().name);
            unavailable("Network unavailable", url, self.network_condition(&network));
        }
        let devices = self.runtime.device_support().reason.clone();
        let apparmor = match self.runtime.apparmor_support() {
            AppArmorSupport::Unusable(reason) => Some(reason.clone()),
            _ => None,
        };
        let lacking = [("Device control limited", devices), ("AppArmor not used", apparmor)];
        troubles.extend(lacking.into_iter().filter_map(|(kind, message)| {
            Some(Trouble {
                kind,
                url: "/1.0".to_owned(),
                message: message?,
                since: Timestamp::NEVER,
            })
        }));
        troubles.extend(self.runtime.unavailable_limits().map(|message| Trouble {
            kind: "Missing cgroup controllers",
            url: "/1.0".to_owned(),
            message: message.to_owned(),
            since: Timestamp::NEVER,
        }));
        let plugins = self.plugins().into_iter().filter(|plugin| !plugin.reason.is_empty());
        troubles.extend(plugins.map(|plugin| Trouble {
            kind: "Plugin unavailable",
            url: format!("/1.0/plugins/{}", plugin.id),
            message: plugin.reason,
            since: plugin.quarantined_at,
        }));
        troubles
    }

    /// One warning.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for one that is over.
    pub fn warning(&self, id: &str) -> Result<Warning> {
        let found = self.warnings().into_iter().find(|warning| warning.uuid == id);
        found.ok_or(Error::NotFound("Warning"))
    }

    /// Acknowledges a warning, or takes that back.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for another status than `acknowledged` and `new`, and the store's.
    pub async fn warning_update(&self, id: &str, put: WarningPut) -> Result<()> {
        let warning = self.warning(id)?;
        match put.status.as_str() {
            "acknowledged" => self.mark_warning(&warning, false).await,
            "new" => {
                self.store.commit(Transaction::new().delete(key::warning(id))).await?;
                let mut memory = self.warnings.0.lock().unwrap_or_else(PoisonError::into_inner);
                memory.marks.remove(id);
                Ok(())
            }
            other => Err(Error::invalid(format!(
                "Invalid warning status {other:?}: a warning can be \"new\" or \"acknowledged\""
            ))),
        }
    }

    /// Removes a warning until something else is said of its object.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the store's.
    pub async fn warning_delete(&self, id: &str) -> Result<()> {
        self.mark_warning(&self.warning(id)?, true).await
    }

    async fn mark_warning(&self, warning: &Warning, removed: bool) -> Result<()> {
        let mark = Mark {
            v: RECORD_VERSION,
            message: warning.last_message.clone(),
            removed,
        };
        let change = Transaction::new().put(key::warning(&warning.uuid), &mark)?;
        self.store.commit(change).await?;
        let mut memory = self.warnings.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.marks.insert(warning.uuid.clone(), mark);
        Ok(())
    }
}
