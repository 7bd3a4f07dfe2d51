//! Changes of which plugins there are and what they may do, while the daemon runs.
//!
//! Each is made in the same order: files first (the store, compiled code), then one write of the registry, then the switch in
//! memory. A daemon that is killed in between has the old state or the new one after its next start, and files that nobody
//! refers to are removed then. Changes wait for each other and not for a compiler (`ready.rs`); calls of plugins wait for none of
//! them.
//!
//! A file is looked at first (`offer`), and taken in once it is decided (`intake`). What is decided about a plugin that is there
//! is in the module `decide`.

mod error;
mod install;
mod intake;
mod offer;
mod upgrade;

use std::path::PathBuf;
use std::sync::Arc;

use hutch_broker::Permissions;
use hutch_driver::Options;
use tokio::sync::OwnedMutexGuard;

use crate::fault;
use crate::files::{FileError, Stored};
use crate::host::PluginHost;
use crate::load::{make_plugin, with_causes};
use crate::plugin::{Plugin, Slot, Standing};
use crate::registry::{Record, Registry};
use crate::status::Origin;

pub use error::ChangeError;
pub(crate) use error::Result;
pub use intake::{Intake, Outcome};
pub use offer::{Examined, Offer, OfferKind};

/// The turn of one change.
pub(crate) type Turn = OwnedMutexGuard<Registry>;

impl PluginHost {
    pub(crate) fn slot(&self, id: &str) -> Result<Arc<Slot>> {
        let table = self.table.load();
        let entry = table.entry(id).ok_or_else(|| ChangeError::Unknown(id.to_owned()))?;
        Ok(Arc::clone(&entry.slot))
    }

    /// A plugin that may be changed by command, with what was decided about it so far.
    pub(crate) fn changeable(&self, registry: &Registry, id: &str) -> Result<(Record, Arc<Slot>)> {
        let table = self.table.load();
        let entry = table.entry(id).ok_or_else(|| ChangeError::Unknown(id.to_owned()))?;
        if entry.origin == Origin::Configuration {
            return Err(ChangeError::Declared(id.to_owned()));
        }
        let record = registry.get(id).cloned().unwrap_or_else(|| Record::new(id));
        Ok((record, Arc::clone(&entry.slot)))
    }

    /// The plugin of this id that came with the daemon.
    pub(crate) fn bundled(&self, id: &str) -> Option<Stored> {
        let mut bundled = self.bases.iter().filter(|base| base.origin == Origin::Bundled);
        bundled.find_map(|base| {
            base.found
                .as_ref()
                .ok()
                .filter(|stored| stored.manifest.id == id)
                .cloned()
        })
    }

    /// A plugin whose code is in memory.
    pub(crate) async fn prepare(
        &self,
        stored: Stored,
        standing: Arc<Standing>,
        config: Options,
    ) -> Result<Arc<Plugin>> {
        let id = stored.manifest.id.clone();
        let plugin = make_plugin(stored, standing, config, &self.shared).map_err(ChangeError::Invalid)?;
        let plugin = Arc::new(plugin);
        match self.loader.bring_in(&plugin).await {
            Ok(()) => Ok(plugin),
            Err(reason) => Err(ChangeError::Invalid(format!("{id} can't be used: {reason}"))),
        }
    }

    /// Writes what was decided, then has it hold.
    pub(crate) async fn commit(
        &self,
        mut turn: Turn,
        change: &'static str,
        record: Record,
        prepared: &[Arc<Plugin>],
    ) -> Result<()> {
        fault::point(change, "begin");
        let turn = tokio::task::spawn_blocking(move || turn.put(change, record).map(|()| turn)).await??;
        self.arrange(turn.records(), prepared);
        fault::point(change, "switched");
        Ok(())
    }

    /// Removes the files that nobody refers to. What can't be removed is told in the log, and tried again after the next change.
    pub(crate) async fn sweep_all(&self) {
        let turn = self.registry.lock().await;
        let bases = self.bases.iter().filter_map(|base| base.found.as_ref().ok());
        let mut kept: Vec<String> = bases.map(|stored| stored.digest.clone()).collect();
        kept.extend(turn.records().iter().flat_map(Record::digests).map(str::to_owned));
        let (loader, staged) = (Arc::clone(&self.loader), Arc::clone(&self.staged));
        let swept = tokio::task::spawn_blocking(move || {
            let remove = |digest: &str| {
                loader.files.remove(digest)?;
                loader.cache.remove(digest).map_err(|source| FileError::Io {
                    path: PathBuf::from(digest),
                    source,
                })
            };
            let stored = loader.files.digests()?;
            // One in quarantine stays, so that it is in quarantine still when it is asked for again.
            let unneeded = stored
                .iter()
                .filter(|digest| !kept.contains(digest) && loader.files.quarantine(digest).is_none());
            for digest in unneeded {
                staged.unless_kept(digest, || remove(digest)).unwrap_or(Ok(()))?;
            }
            Ok(())
        });
        let swept: Result<Result<(), FileError>, _> = swept.await;
        match swept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("plugins that nobody needs are left: {}", with_causes(&error)),
            Err(error) => tracing::error!(%error, "plugins that nobody needs are left"),
        }
        drop(turn);
    }
}

/// What `names` choose of `offered`, where `all` stands for all of `all`.
pub(crate) fn chosen(offered: &Permissions, all: &Permissions, names: &[String]) -> Result<Permissions> {
    let mut chosen = Permissions::default();
    for name in names.iter().filter(|name| *name != "none") {
        let some = match name.as_str() {
            "all" => all.clone(),
            name => offered.named(name).map_err(ChangeError::Invalid)?,
        };
        chosen = chosen.with(&some);
    }
    Ok(chosen)
}
