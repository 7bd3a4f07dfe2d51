//! The plugins of a daemon at one moment: those of its configuration or of the bundled directory, and those that were installed.
//! A change makes a new table; whoever reads has the old one or the new one.

use std::sync::Arc;

use hutch_broker::Permissions;
use hutch_driver::Options;

use crate::files::{FileStore, Stored};
use crate::load::{Candidate, make_plugin, with_causes};
use crate::plugin::{Plugin, Shared, Slot, Standing};
use crate::registry::{Record, Version};
use crate::status::Origin;

/// A file, digest or record that did not become a plugin.
pub(crate) struct Refused {
    /// The plugin's id, as far as that is known.
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) origin: Origin,
    pub(crate) reason: String,
}

/// A plugin and what is known about it besides itself.
pub(crate) struct Entry {
    pub(crate) slot: Arc<Slot>,
    pub(crate) origin: Origin,
    /// Where its file came from, for people.
    pub(crate) source: String,
    /// Names of its manifest under which it is found. Others were taken.
    pub(crate) names: Vec<String>,
    /// What was decided about it by command.
    pub(crate) record: Option<Record>,
}

impl Entry {
    /// The plugin's id.
    pub(crate) fn id(&self) -> String {
        self.slot.current().id().to_owned()
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
    pub(crate) refused: Vec<Refused>,
}

impl Table {
    /// The plugin with this id.
    pub(crate) fn entry(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.slot.current().id() == id)
    }

    /// The plugin that is found under `name`.
    pub(crate) fn find(&self, family: &str, name: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.slot.current().manifest.family() == family && entry.names.iter().any(|own| own == name))
    }
}

/// What a table is made of.
pub(crate) struct Sources<'a> {
    /// The configuration or the bundled directory, in order.
    pub(crate) bases: &'a [Candidate],
    /// What was decided by command.
    pub(crate) records: &'a [Record],
    /// The table before, whose plugins stay where nothing changed about them.
    pub(crate) before: &'a Table,
    /// Plugins whose code is in memory already, to be used where they fit.
    pub(crate) prepared: &'a [Arc<Plugin>],
    pub(crate) files: &'a FileStore,
    pub(crate) shared: &'a Arc<Shared>,
}

/// One plugin on its way into a table.
struct Wanted<'a> {
    stored: Result<Stored, String>,
    id: String,
    origin: Origin,
    source: String,
    config: &'a Options,
    /// What it gets where nothing was decided.
    grants: Permissions,
    record: Option<&'a Record>,
}

impl Sources<'_> {
    /// Makes the table, has what was decided hold, and answers with it and the plugins whose code has to be loaded.
    pub(crate) fn arrange(&self) -> (Table, Vec<Arc<Plugin>>) {
        let (mut table, mut fresh) = (Table::default(), Vec::new());
        for wanted in self.wanted() {
            let (id, source, origin) = (wanted.id.clone(), wanted.source.clone(), wanted.origin);
            match self.place(wanted, &table, &mut fresh) {
                Ok(entry) => table.entries.push(entry),
                Err(reason) => {
                    if !self
                        .before
                        .refused
                        .iter()
                        .any(|r| r.source == source && r.reason == reason)
                    {
                        tracing::error!(source, "plugin not loaded: {reason}");
                    }
                    table.refused.push(Refused {
                        id,
                        source,
                        origin,
                        reason,
                    });
                }
            }
        }
        (table, fresh)
    }

    fn wanted(&self) -> Vec<Wanted<'_>> {
        let record = |id: &str| self.records.iter().find(|record| record.id == id);
        let mut wanted = Vec::new();
        for base in self.bases {
            let id = base.found.as_ref().map_or("", |stored| stored.manifest.id.as_str());
            let decided = record(id).filter(|_| base.origin == Origin::Bundled);
            let installed = decided.and_then(|record| Some((record, record.active.as_ref()?)));
            wanted.push(match installed {
                Some((record, version)) => self.installed(record, version),
                None => Wanted {
                    stored: base.found.clone(),
                    id: id.to_owned(),
                    origin: base.origin,
                    source: base.source.display().to_string(),
                    config: &base.config,
                    grants: base.grants.clone().unwrap_or_default(),
                    record: decided,
                },
            });
        }
        for record in self.records {
            if let Some(version) = &record.active
                && !wanted.iter().any(|other| other.id == record.id)
            {
                wanted.push(self.installed(record, version));
            }
        }
        wanted
    }

    fn installed<'a>(&self, record: &'a Record, version: &'a Version) -> Wanted<'a> {
        Wanted {
            stored: self.files.get(&version.digest).map_err(|error| with_causes(&error)),
            id: record.id.clone(),
            origin: Origin::Installed,
            source: version.source.clone(),
            config: &version.config,
            grants: Permissions::default(),
            record: Some(record),
        }
    }

    fn place(&self, wanted: Wanted<'_>, table: &Table, fresh: &mut Vec<Arc<Plugin>>) -> Result<Entry, String> {
        let stored = wanted.stored?;
        let id = stored.manifest.id.clone();
        if let Some(other) = table.entry(&id) {
            let version = other.slot.current().manifest.version.clone();
            return Err(format!(
                "a plugin with the id {id} is loaded already (version {version})"
            ));
        }
        let decided = wanted.record.and_then(|record| record.grants.clone());
        let granted = decided.unwrap_or(wanted.grants);
        granted
            .validate()
            .map_err(|reason| format!("its grants are not valid: {reason}"))?;
        let enabled = wanted.record.is_none_or(|record| record.enabled);
        let slot = self.slot(stored, wanted.config, (enabled, &granted), fresh)?;
        let plugin = slot.current();
        Ok(Entry {
            names: free_names(table, &plugin),
            slot,
            origin: wanted.origin,
            source: wanted.source,
            record: wanted.record.cloned(),
        })
    }

    /// The place of a plugin, which has this version of it from now on.
    fn slot(
        &self,
        stored: Stored,
        config: &Options,
        (enabled, granted): (bool, &Permissions),
        fresh: &mut Vec<Arc<Plugin>>,
    ) -> Result<Arc<Slot>, String> {
        let fits = |plugin: &Plugin| plugin.digest == stored.digest && plugin.subject.config == *config;
        let place = self.before.entry(&stored.manifest.id).map(|entry| &entry.slot);
        if let Some(slot) = place {
            // Before the switch: the new version may need what the one before was not granted.
            slot.standing.decide(enabled, granted);
        }
        if let Some(slot) = place.filter(|slot| fits(&slot.current())) {
            return Ok(Arc::clone(slot));
        }
        let plugin = match self.prepared.iter().find(|plugin| fits(plugin)) {
            Some(prepared) => Arc::clone(prepared),
            None => {
                let standing = place.map_or_else(
                    || Arc::new(Standing::new(&stored.manifest.id)),
                    |slot| Arc::clone(&slot.standing),
                );
                let made = Arc::new(make_plugin(stored, standing, config.clone(), self.shared)?);
                fresh.push(Arc::clone(&made));
                made
            }
        };
        match place {
            Some(slot) => {
                slot.switch(plugin);
                Ok(Arc::clone(slot))
            }
            None => {
                plugin.standing.decide(enabled, granted);
                Ok(Arc::new(Slot::new(plugin)))
            }
        }
    }
}

/// The names of a plugin that nobody before it in the table provides.
fn free_names(table: &Table, plugin: &Plugin) -> Vec<String> {
    let family = plugin.manifest.family();
    let (free, taken): (Vec<_>, Vec<_>) = plugin
        .manifest
        .names()
        .iter()
        .cloned()
        .partition(|name| table.find(family, name).is_none());
    for name in taken {
        tracing::warn!(
            plugin = plugin.id(),
            family,
            name,
            "the name is provided by an earlier plugin"
        );
    }
    free
}
