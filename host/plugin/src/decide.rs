//! What is decided about a plugin that is there: what it may do, whether it is in service, which of its versions is used, and that
//! it goes. The module `change` says how a change is made.

use std::sync::Arc;

use hutch_broker::Permissions;

use crate::change::{ChangeError, Outcome, Result, Turn, chosen};
use crate::doubt::doubts_of_held;
use crate::fault;
use crate::files::FileError;
use crate::host::PluginHost;
use crate::plugin::Phase;
use crate::ready::Ready;
use crate::registry::Record;
use crate::status::Origin;
use crate::trust::TrustedKey;

impl PluginHost {
    /// The publishers' keys, also those that were revoked.
    pub fn trusted_keys(&self) -> Vec<TrustedKey> {
        self.trust.lock().keys().to_vec()
    }

    /// Trusts a publisher's key: what minisign calls a public key, or the content of its file.
    ///
    /// # Errors
    /// When it is none, or can't be recorded.
    pub async fn trust_key(self: &Arc<Self>, name: String, key: String) -> Result<TrustedKey> {
        let host = Arc::clone(self);
        Ok(tokio::task::spawn_blocking(move || host.trust.lock().add(&name, &key)).await??)
    }

    /// Revokes a key by its id, or the keys of a publisher. What they signed and is installed stays.
    ///
    /// # Errors
    /// When there is none, or it can't be recorded.
    pub async fn revoke_key(self: &Arc<Self>, which: String) -> Result<()> {
        let host = Arc::clone(self);
        Ok(tokio::task::spawn_blocking(move || host.trust.lock().revoke(&which)).await??)
    }

    /// Goes back to the version before; the one that was in use becomes the one before. What it may do stays as it is.
    ///
    /// # Errors
    /// When there is none, or it does not provide what is in use (`needed`).
    pub async fn rollback(&self, id: &str, needed: &[String]) -> Result<()> {
        let mut ready = Ready::default();
        loop {
            let turn = Arc::clone(&self.registry).lock_owned().await;
            if self.try_rollback(turn, id, needed, &mut ready).await? {
                break;
            }
            self.make_ready(&mut ready).await?;
        }
        self.sweep_all().await;
        Ok(())
    }

    /// False where it first needs what is `ready` to be made.
    async fn try_rollback(&self, turn: Turn, id: &str, needed: &[String], ready: &mut Ready) -> Result<bool> {
        let (mut record, slot) = self.changeable(&turn, id)?;
        let bundled = self.bundled(id);
        let stored = match (&record.previous, bundled) {
            (Some(version), _) => self.loader.files.get(&version.digest)?,
            (None, Some(stored)) if record.active.is_some() => stored,
            _ => {
                return Err(ChangeError::Invalid(format!(
                    "{id} has no version before the one in use"
                )));
            }
        };
        self.check_version(&slot.current(), &stored, needed)?;
        let config = record.previous.as_ref().map(|version| version.config.clone());
        let Some(prepared) = ready.plugin(stored, Some(&slot.standing), &config.unwrap_or_default()) else {
            return Ok(false);
        };
        std::mem::swap(&mut record.active, &mut record.previous);
        self.commit(turn, "plugin-rollback", record, &[prepared]).await?;
        Ok(true)
    }

    /// Gives a plugin more of what it requests. Where that is all that a held version waits for, it comes into use. `all` and `none`
    /// decide about a held version, also where something else speaks against it: `all` grants what it asks for that is new, and
    /// nothing that was taken away before; `none` takes it into use with what is granted now. What speaks against it only since it
    /// began to wait is answered with first, and agreed to by saying so again.
    ///
    /// # Errors
    /// For a name that it requests nothing under, and one of a plugin that the configuration lists; and where the publisher of a held
    /// version is no longer believed.
    pub async fn grant(&self, id: &str, names: &[String], needed: &[String]) -> Result<Outcome> {
        something(names)?;
        let mut ready = Ready::default();
        let outcome = loop {
            let turn = Arc::clone(&self.registry).lock_owned().await;
            match self.try_grant(turn, id, names, needed, &mut ready).await? {
                Some(outcome) => break outcome,
                None => self.make_ready(&mut ready).await?,
            }
        };
        self.sweep_all().await;
        Ok(outcome)
    }

    /// Answers nothing where it first needs what is `ready` to be made.
    async fn try_grant(
        &self,
        turn: Turn,
        id: &str,
        names: &[String],
        needed: &[String],
        ready: &mut Ready,
    ) -> Result<Option<Outcome>> {
        let (mut record, slot) = self.changeable(&turn, id)?;
        let present = slot.current();
        let requested = &present.manifest.permissions;
        let before = slot.standing.granted.get();
        let Some(mut held) = record.held.clone() else {
            record.grants = Some(before.with(&chosen(requested, requested, names)?));
            self.commit(turn, "plugin-grant", record, &[]).await?;
            return Ok(Some(Outcome::Active));
        };
        let stored = self.loader.files.get(&held.version.digest)?;
        let requested = requested.with(&stored.manifest.permissions);
        let granted = before.with(&chosen(&requested, &held.more, names)?);
        let missing = held.more.beyond(&granted);
        let doubts = doubts_of_held(&present, record.active.as_ref(), &held);
        let decided = names.iter().any(|name| name == "all") || names.iter().all(|name| name == "none");
        // Nobody agrees to what nobody was told: what speaks against it only now is answered with first.
        let agreed = decided && doubts.iter().all(|doubt| held.doubts.contains(doubt));
        if agreed || missing.is_nothing() && doubts.is_empty() {
            self.verify_again(&mut held.version).await?;
            self.check_version(&present, &stored, needed)?;
            let Some(prepared) = ready.plugin(stored, Some(&slot.standing), &held.version.config) else {
                return Ok(None);
            };
            self.switch(turn, record, prepared, held.version, granted).await?;
            return Ok(Some(Outcome::Active));
        }
        let missing = if decided {
            // What was meant to come with the version waits with it.
            held.more.beyond(&before)
        } else {
            record.grants = Some(granted);
            missing
        };
        held.doubts.clone_from(&doubts);
        record.held = Some(held);
        self.commit(turn, "plugin-grant", record, &[]).await?;
        Ok(Some(Outcome::Held { missing, doubts }))
    }

    /// Has a plugin granted exactly this of what it requests, and answers with whether that is a change. A version that is held goes on
    /// to wait.
    ///
    /// # Errors
    /// For a name that it requests nothing under, and one of a plugin that the configuration lists.
    pub async fn set_grants(&self, id: &str, names: &[String]) -> Result<bool> {
        something(names)?;
        let turn = Arc::clone(&self.registry).lock_owned().await;
        let slot = self.slot(id)?;
        let requested = slot.current().manifest.permissions.clone();
        let (wanted, now) = (chosen(&requested, &requested, names)?, slot.standing.granted.get());
        if wanted.beyond(&now).is_nothing() && now.beyond(&wanted).is_nothing() {
            return Ok(false);
        }
        let (mut record, _) = self.changeable(&turn, id)?;
        record.grants = Some(wanted);
        self.commit(turn, "plugin-grant-only", record, &[]).await?;
        Ok(true)
    }

    /// Takes away what a plugin was granted, for every host function from now on.
    ///
    /// # Errors
    /// For a name that it was granted nothing under, and one of a plugin that the configuration lists.
    pub async fn revoke(&self, id: &str, names: &[String]) -> Result<()> {
        something(names)?;
        let turn = Arc::clone(&self.registry).lock_owned().await;
        let (mut record, slot) = self.changeable(&turn, id)?;
        let granted = slot.standing.granted.get();
        let mut left = granted.powers();
        for power in chosen(&granted, &granted, names)?.powers() {
            let before = left.len();
            left.retain(|other| *other != power);
            if left.len() == before {
                return Err(ChangeError::Invalid(format!(
                    "{power} is a part of what was granted as one: revoke that, and grant the rest of it"
                )));
            }
        }
        record.grants = Some(Permissions::of(left));
        self.commit(turn, "plugin-revoke", record, &[]).await
    }

    /// Takes a plugin into service: one that was disabled, one in quarantine, and one whose code could not be compiled or mapped
    /// (a full disk, a machine without memory). Returns before the code is there; calls wait for it.
    ///
    /// # Errors
    /// When there is no such plugin, and when its quarantine can't be struck off the disk: it is back in service then, and would
    /// be in quarantine again after the next start.
    pub async fn enable(&self, id: &str) -> Result<()> {
        let turn = Arc::clone(&self.registry).lock_owned().await;
        let slot = self.slot(id)?;
        let plugin = slot.current();
        plugin.health.lift();
        let again = plugin.phase.send_if_modified(|phase| {
            let failed = matches!(phase, Phase::Failed(_));
            if failed {
                *phase = Phase::Loading;
            }
            failed
        });
        if again {
            tokio::spawn(Arc::clone(&self.loader).load(Arc::clone(&plugin)));
        }
        plugin.keep_health().await.map_err(|error| {
            ChangeError::File(FileError::Io {
                path: self.loader.files.wasm(&plugin.digest),
                source: std::io::Error::other(error.message),
            })
        })?;
        if slot.standing.enabled() {
            return Ok(());
        }
        let (mut record, _) = self.changeable(&turn, id)?;
        record.enabled = true;
        self.commit(turn, "plugin-enable", record, &[]).await
    }

    /// Takes a plugin out of service. Calls that run end; what it provides is unavailable until it is enabled.
    ///
    /// # Errors
    /// When there is no such plugin, or the configuration lists it.
    pub async fn disable(&self, id: &str) -> Result<()> {
        let turn = Arc::clone(&self.registry).lock_owned().await;
        let (mut record, _) = self.changeable(&turn, id)?;
        record.enabled = false;
        self.commit(turn, "plugin-disable", record, &[]).await?;
        if let Ok(slot) = self.slot(id) {
            slot.current().rest();
        }
        Ok(())
    }

    /// Removes an installed plugin. One that came with the daemon under the same id is used again, as far as it was left in service and
    /// with its permissions. Whether what it provides is in use is asked before.
    ///
    /// # Errors
    /// When there is no such plugin, or it was not installed by command.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let mut turn = Arc::clone(&self.registry).lock_owned().await;
        if turn.get(id).is_none_or(|record| record.active.is_none()) {
            self.changeable(&turn, id)?;
            return Err(ChangeError::Invalid(format!(
                "{id} came with the daemon and can't be removed: `hutch plugin disable` takes it out of service"
            )));
        }
        let whole = self.goes_whole(id);
        if whole {
            // Before the plugin itself: a daemon that is killed in between has a plugin that nothing uses and that kept nothing, and
            // it can be removed again.
            self.shared.broker.forget(id).await.map_err(ChangeError::Kept)?;
        }
        let slot = self.slot(id).ok();
        let left = self.bundled(id).zip(turn.get(id).cloned()).map(|(stored, record)| {
            let granted = record
                .grants
                .map(|granted| stored.manifest.permissions.within(&granted));
            Record {
                active: None,
                previous: None,
                held: None,
                // All of it is what one without a decision has.
                grants: granted.filter(|granted| !stored.manifest.permissions.beyond(granted).is_nothing()),
                ..record
            }
        });
        let name = id.to_owned();
        let remove = move || match left {
            Some(left) => turn.put("plugin-remove", left).map(|()| turn),
            None => turn.remove("plugin-remove", &name).map(|()| turn),
        };
        let turn = tokio::task::spawn_blocking(remove).await??;
        self.arrange(turn.records(), &[]);
        if let Some(slot) = slot.filter(|_| self.slot(id).is_err()) {
            // For whoever still has it.
            slot.standing.leave();
        }
        fault::point("plugin-remove", "switched");
        if whole {
            // And what calls that went on have written since.
            self.shared.broker.forget(id).await.map_err(ChangeError::Kept)?;
        }
        drop(turn);
        self.sweep_all().await;
        Ok(())
    }

    /// Whether nothing of this id is left when the installed plugin, which may be one that could not be loaded, is removed: none came
    /// with the daemon, and the configuration lists none.
    fn goes_whole(&self, id: &str) -> bool {
        let table = self.table.load();
        let installed = table.entry(id).is_none_or(|entry| entry.origin == Origin::Installed);
        installed && self.bundled(id).is_none()
    }
}

/// Refuses to decide about nothing: an empty list is more likely a mistake than a way to say `none`.
fn something(names: &[String]) -> Result<()> {
    if names.is_empty() {
        let why = "no permission was named: there are those that it asks for, `all` and `none`";
        return Err(ChangeError::Invalid(why.to_owned()));
    }
    Ok(())
}
