//! Taking in an examined file, as a new plugin (`install`) or as another version of one (`upgrade`).

use std::sync::Arc;

use hutch_broker::Permissions;
use hutch_driver::Options;

use super::Turn;
use super::error::{ChangeError, Result};
use crate::host::PluginHost;
use crate::ready::Ready;
use crate::registry::{Doubt, DoubtKind, Version};

/// How an examined file is taken in.
#[derive(Clone, Debug, Default)]
pub struct Intake {
    /// The plugin that it has to be another version of; none for a new one.
    pub upgrade: Option<String>,
    /// What is granted of that which it requests, by the names of [`hutch_broker::powers::Power`]; `all`, of an upgrade that is all
    /// that is new; `none`. Without it a new plugin is refused, and an upgrade that requests more is held.
    pub grants: Option<Vec<String>>,
    /// What an upgrade is taken in despite of. For anything else that speaks against it, it is held.
    pub despite: Vec<DoubtKind>,
    /// The operator's settings for it; none leaves them as they are.
    pub config: Option<Options>,
    /// The names of its drivers that are in use and that it has to provide.
    pub needed: Vec<String>,
}

/// What became of an upgrade.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in use.
    Active,
    /// It waits.
    Held {
        /// Until this is granted.
        missing: Permissions,
        /// Until the operator agrees to this.
        doubts: Vec<Doubt>,
    },
}

impl PluginHost {
    /// Makes an examined file a plugin of this daemon, or another version of one.
    ///
    /// # Errors
    /// When it was not examined lately, or does not fit what there is or what is wanted; nothing has changed then.
    pub async fn take_in(&self, digest: &str, intake: Intake) -> Result<Outcome> {
        let digest = digest.strip_prefix("sha256:").unwrap_or(digest);
        let pin = self.staged.pin(digest);
        let mut ready = Ready::default();
        let outcome = loop {
            let turn = Arc::clone(&self.registry).lock_owned().await;
            match self.try_take_in(turn, digest, &intake, &mut ready).await? {
                Some(outcome) => break outcome,
                None => self.make_ready(&mut ready).await?,
            }
        };
        pin.decided();
        drop(pin);
        self.sweep_all().await;
        Ok(outcome)
    }

    /// Answers nothing where it first needs what is `ready` to be made.
    async fn try_take_in(
        &self,
        turn: Turn,
        digest: &str,
        intake: &Intake,
        ready: &mut Ready,
    ) -> Result<Option<Outcome>> {
        let Some(mut version) = self.staged.version(digest) else {
            return Err(ChangeError::Invalid(format!(
                "sha256:{digest} was not offered in the last minutes: send it again"
            )));
        };
        let stored = self.loader.files.get(digest)?;
        self.verify_again(&mut version).await?;
        version.config = match (&intake.config, &intake.upgrade) {
            (Some(config), _) => config.clone(),
            (None, Some(id)) => self.slot(id)?.current().subject.config.clone(),
            (None, None) => Options::new(),
        };
        match &intake.upgrade {
            None => self.install(turn, stored, version, intake, ready).await,
            Some(id) => self.upgrade(turn, id, stored, version, intake, ready).await,
        }
    }

    /// Asks once more whether the publisher of a version is believed: it may have waited since, and the key been revoked.
    pub(crate) async fn verify_again(&self, version: &mut Version) -> Result<()> {
        let Some(signature) = version.signature.clone() else {
            return Ok(());
        };
        let (files, digest) = (Arc::clone(&self.loader.files), version.digest.clone());
        let bytes = tokio::task::spawn_blocking(move || files.read(&digest)).await??;
        version.provenance = self.trust.lock().verify(&bytes, &signature)?;
        Ok(())
    }
}
