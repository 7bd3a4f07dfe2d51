//! Taking in a new plugin, and one that is there already or was: the same file again, and one in the place of a file that was lost.

use super::error::{ChangeError, Result};
use super::intake::{Intake, Outcome};
use super::upgrade::known_better;
use super::{Turn, chosen};
use crate::doubt::{doubts, doubts_of_lost};
use crate::files::Stored;
use crate::host::PluginHost;
use crate::plugin::Plugin;
use crate::ready::Ready;
use crate::registry::{DoubtKind, Record, Registry, Version};
use crate::status::Origin;

impl PluginHost {
    pub(super) async fn install(
        &self,
        turn: Turn,
        stored: Stored,
        mut version: Version,
        intake: &Intake,
        ready: &mut Ready,
    ) -> Result<Option<Outcome>> {
        let manifest = &stored.manifest;
        let table = self.table.load_full();
        if let Some(entry) = table.entry(&manifest.id) {
            let plugin = entry.slot.current();
            if plugin.digest == version.digest && entry.origin == Origin::Installed {
                installed_already(&plugin, &version, intake)?;
                return self.sign_again(turn, &plugin, version, intake).await.map(Some);
            }
            return Err(ChangeError::Conflict(format!(
                "{} {} is there already: `hutch plugin upgrade` brings another version of it",
                manifest.id, plugin.manifest.version
            )));
        }
        for name in manifest.names() {
            if let Some(entry) = table.find(manifest.family(), name) {
                return Err(ChangeError::Conflict(format!(
                    "the {} driver {name:?}, which {} provides, is provided by {} already",
                    manifest.family(),
                    manifest.id,
                    entry.id()
                )));
            }
        }
        let Some(grants) = &intake.grants else {
            return Err(ChangeError::Invalid(format!(
                "nothing was said about what {} may do: name what it is granted, `all` that it requests, or `none`",
                manifest.id
            )));
        };
        let granted = chosen(&manifest.permissions, &manifest.permissions, grants)?;
        let id = manifest.id.clone();
        let lost = lost(&turn, &id, &version, &intake.despite)?;
        if let Some(active) = lost.as_ref().and_then(|record| record.active.as_ref()) {
            if intake.config.is_none() {
                version.config.clone_from(&active.config);
            }
            // Or who answers for the file would be forgotten, and the next version came without a question whose it is.
            version = known_better(Some(active), version);
        }
        let Some(prepared) = ready.plugin(stored, None, &version.config) else {
            return Ok(None);
        };
        if lost.is_none() {
            // Of one of this id that was removed something may be left, where the daemon was killed right then.
            self.shared.broker.forget(&id).await.map_err(ChangeError::Kept)?;
        }
        let record = Record {
            active: Some(version),
            grants: Some(granted),
            ..lost.unwrap_or_else(|| Record::new(&id))
        };
        self.commit(turn, "plugin-install", record, &[prepared]).await?;
        Ok(Some(Outcome::Active))
    }

    /// Takes the signature with which a file comes that is installed already, where that is better than what is known of it.
    async fn sign_again(&self, turn: Turn, present: &Plugin, version: Version, intake: &Intake) -> Result<Outcome> {
        let id = present.id();
        let record = turn.get(id).cloned();
        let Some((record, active)) = record.and_then(|record| Some((record.clone(), record.active?))) else {
            return Ok(Outcome::Active);
        };
        let version = Version {
            config: active.config.clone(),
            ..known_better(Some(&active), version)
        };
        if version == active {
            return Ok(Outcome::Active);
        }
        let mut doubts = doubts(present, Some(&active), &version);
        doubts.retain(|doubt| !intake.despite.contains(&doubt.kind));
        if let Some(doubt) = doubts.first() {
            return Err(ChangeError::Conflict(format!(
                "{id} {} is installed already, and the file {}: `hutch plugin upgrade` takes it in their name",
                version.version, doubt.reason
            )));
        }
        let record = Record {
            active: Some(version),
            ..record
        };
        self.commit(turn, "plugin-upgrade", record, &[]).await?;
        Ok(Outcome::Active)
    }
}

/// What is known of the installed plugin `id` that could not be loaded, and in whose place `version` is installed: what it kept and what
/// was decided about it stays.
fn lost(registry: &Registry, id: &str, version: &Version, despite: &[DoubtKind]) -> Result<Option<Record>> {
    let Some(mut record) = registry.get(id).cloned() else {
        return Ok(None);
    };
    let Some(active) = &record.active else {
        return Ok(None);
    };
    let mut doubts = doubts_of_lost(active, version);
    doubts.retain(|doubt| !despite.contains(&doubt.kind));
    if let Some(doubt) = doubts.first() {
        return Err(ChangeError::Conflict(format!(
            "{id} {} {}; that one can't be loaded, and `hutch plugin remove {id}` gives up what it kept",
            version.version, doubt.reason
        )));
    }
    // What is in use is nothing to go back to, and waits for nothing.
    record.previous = record.previous.filter(|previous| previous.digest != version.digest);
    record.held = record.held.filter(|held| held.version.digest != version.digest);
    Ok(Some(record))
}

/// Answers who installs what is installed: it is done where it is as it was said, and it is not changed in passing.
fn installed_already(present: &Plugin, version: &Version, intake: &Intake) -> Result<Outcome> {
    let requested = &present.manifest.permissions;
    let granted = match &intake.grants {
        Some(grants) => Some(chosen(requested, requested, grants)?),
        None => None,
    };
    let now = present.standing.granted.get();
    let differs =
        granted.is_some_and(|granted| !granted.beyond(&now).is_nothing() || !now.beyond(&granted).is_nothing());
    if differs || intake.config.is_some() && present.subject.config != version.config {
        return Err(ChangeError::Conflict(format!(
            "{} {} is installed already, with other grants or settings: `hutch plugin grant`, `revoke` and `upgrade` change them",
            present.manifest.id, present.manifest.version
        )));
    }
    Ok(Outcome::Active)
}
