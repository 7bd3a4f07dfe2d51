//! Taking in another version of a plugin, or having it wait for the operator.

use std::sync::Arc;

use hutch_broker::Permissions;

use super::error::{ChangeError, Result};
use super::intake::{Intake, Outcome};
use super::offer::beyond;
use super::{Turn, chosen};
use crate::doubt::doubts;
use crate::files::Stored;
use crate::host::PluginHost;
use crate::plugin::Plugin;
use crate::ready::Ready;
use crate::registry::{Held, Record, Version};

impl PluginHost {
    pub(super) async fn upgrade(
        &self,
        turn: Turn,
        id: &str,
        stored: Stored,
        version: Version,
        intake: &Intake,
        ready: &mut Ready,
    ) -> Result<Option<Outcome>> {
        if stored.manifest.id != id {
            return Err(ChangeError::Invalid(format!(
                "the file is {} and not another version of {id}",
                stored.manifest.id
            )));
        }
        let (mut record, slot) = self.changeable(&turn, id)?;
        let present = slot.current();
        self.check_version(&present, &stored, &intake.needed)?;
        let version = known_better(record.active.as_ref(), version);
        let more = beyond(&stored.manifest, Some(&present));
        let before = slot.standing.granted.get();
        let granted = match &intake.grants {
            Some(grants) => before.with(&chosen(&stored.manifest.permissions, &more, grants)?),
            None => Permissions::clone(&before),
        };
        let same = match &record.active {
            Some(active) => *active == version,
            None => present.digest == version.digest && present.subject.config == version.config,
        };
        if same && granted.beyond(&before).is_nothing() {
            return Ok(Some(Outcome::Active));
        }
        let mut doubts = doubts(&present, record.active.as_ref(), &version);
        doubts.retain(|doubt| !intake.despite.contains(&doubt.kind));
        if !doubts.is_empty() || intake.grants.is_none() && !more.is_nothing() {
            // Nothing is granted to a version that is not in use: that is agreed to with it.
            record.held = Some(Held {
                version,
                more: more.clone(),
                doubts: doubts.clone(),
                despite: intake.despite.clone(),
            });
            self.commit(turn, "plugin-hold", record, &[]).await?;
            return Ok(Some(Outcome::Held { missing: more, doubts }));
        }
        let Some(prepared) = ready.plugin(stored, Some(&slot.standing), &version.config) else {
            return Ok(None);
        };
        self.switch(turn, record, prepared, version, granted).await?;
        Ok(Some(Outcome::Active))
    }

    /// Refuses a version that is of another family than `present`, does not provide what is in use (`needed`), can't do with it what
    /// the present one can, is in quarantine, or provides what another plugin does.
    pub(crate) fn check_version(&self, present: &Plugin, stored: &Stored, needed: &[String]) -> Result<()> {
        let manifest = &stored.manifest;
        let conflict = |why: String| {
            Err(ChangeError::Conflict(format!(
                "{} {} {why}",
                manifest.id, manifest.version
            )))
        };
        if manifest.family() != present.manifest.family() {
            let (new, old) = (manifest.family(), present.manifest.family());
            return conflict(format!("is a {new} plugin, and the one in use a {old} plugin"));
        }
        let table = self.table.load();
        let others = manifest.names().iter().find_map(|name| {
            let entry = table.find(manifest.family(), name)?;
            let other = entry.id();
            (other != manifest.id).then_some((name, other))
        });
        if let Some((name, other)) = others {
            return conflict(format!("provides {name}, which {other} provides already"));
        }
        let lost = needed.iter().filter(|name| !manifest.names().contains(name));
        let lost: Vec<&str> = lost.map(String::as_str).collect();
        if !lost.is_empty() {
            return conflict(format!("no longer provides {}, which is in use", lost.join(", ")));
        }
        if let Some(quarantine) = self.loader.files.quarantine(&stored.digest) {
            return conflict(format!("is in quarantine ({}), and would not serve", quarantine.reason));
        }
        // What was made by an ability (a snapshot, a quota) could not be worked with any more.
        let abilities = present
            .abilities
            .iter()
            .filter(|ability| !stored.abilities.contains(ability));
        let abilities: Vec<&str> = abilities.map(String::as_str).collect();
        if needed.is_empty() || abilities.is_empty() {
            return Ok(());
        }
        conflict(format!(
            "lacks the interface {} of the version in use, and {} is in use",
            abilities.join(", "),
            needed.join(", ")
        ))
    }

    /// Has another version of a plugin, which is ready, take the place of the one that is in use.
    pub(crate) async fn switch(
        &self,
        turn: Turn,
        mut record: Record,
        prepared: Arc<Plugin>,
        version: Version,
        granted: Permissions,
    ) -> Result<()> {
        // The same file with other settings leaves the version before as it is.
        let same = record
            .active
            .as_ref()
            .is_some_and(|active| active.digest == version.digest);
        let before = record.active.replace(version);
        if !same {
            record.previous = before;
        }
        record.held = None;
        record.grants = Some(granted);
        self.commit(turn, "plugin-upgrade", record, &[prepared]).await
    }
}

/// The same file with what is better known of it: another signature by a publisher who is believed, or else the time and place of when
/// it first came.
pub(super) fn known_better(active: Option<&Version>, new: Version) -> Version {
    let Some(active) = active.filter(|active| active.digest == new.digest) else {
        return new;
    };
    if new.is_signed() && new.signature != active.signature {
        return new;
    }
    Version {
        config: new.config,
        ..active.clone()
    }
}
