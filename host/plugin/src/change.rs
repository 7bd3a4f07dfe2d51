//! Changes of which plugins there are and what they may do, while the daemon runs.
//!
//! Each is made in the same order: files first (the store, compiled code), then one write of the registry, then the switch in
//! memory. A daemon that is killed in between has the old state or the new one after its next start, and files that nobody
//! refers to are removed then. Changes wait for each other and not for a compiler (`ready.rs`); calls of plugins wait for none of
//! them.

use std::path::PathBuf;
use std::sync::Arc;

use hutch_broker::Permissions;
use hutch_driver::{DriverError, Options};
use tokio::sync::OwnedMutexGuard;

use crate::doubt::{doubts, doubts_of_lost};
use crate::fault;
use crate::files::{FileError, Stored, digest_of};
use crate::host::PluginHost;
use crate::load::{make_plugin, with_causes};
use crate::manifest::Manifest;
use crate::plugin::{Plugin, Slot, Standing};
use crate::ready::Ready;
use crate::registry::{Doubt, DoubtKind, Held, Provenance, Record, Registry, RegistryError, Version, now};
use crate::status::Origin;
use crate::trust::TrustError;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such plugin.
    #[error("there is no plugin {0:?}")]
    Unknown(String),
    /// The configuration decides about it.
    #[error("{0} is listed in the daemon's configuration: change it there, and start the daemon again")]
    Declared(String),
    /// It can't be done with this plugin or these arguments.
    #[error("{0}")]
    Invalid(String),
    /// Something else is in the way.
    #[error("{0}")]
    Conflict(String),
    /// Nobody whom the operator trusts answers for the file.
    #[error("{0}")]
    Untrusted(String),
    /// What its signature says is not enough, or the publishers' keys can't be worked with.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It can't be fetched.
    #[error("can't fetch the file")]
    Fetch(#[source] DriverError),
    /// The file can't be taken in.
    #[error(transparent)]
    File(#[from] FileError),
    /// The change can't be recorded.
    #[error("can't record the change")]
    Registry(#[from] RegistryError),
    /// What it or its predecessor keeps can't be forgotten.
    #[error("what the plugin keeps can't be forgotten")]
    Kept(#[source] DriverError),
    /// A fault of the daemon's own.
    #[error("the daemon's own fault")]
    Own(#[from] tokio::task::JoinError),
}

impl ChangeError {
    /// The code of a driver's error that says the same: `not-found`, `invalid`, `in-use`, `not-granted`, `io`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) | Self::File(FileError::Unknown(_)) => "not-found",
            Self::Conflict(_) | Self::Declared(_) => "in-use",
            Self::Untrusted(_) => "not-granted",
            Self::Trust(error) => match error {
                TrustError::Stranger(_) | TrustError::Revoked { .. } | TrustError::Mismatch { .. } => "not-granted",
                TrustError::Key(_)
                | TrustError::Name(_)
                | TrustError::Many
                | TrustError::Taken { .. }
                | TrustError::Signature(_) => "invalid",
                TrustError::Unknown(_) => "not-found",
                TrustError::Io { .. } | TrustError::Damaged { .. } => "io",
            },
            Self::Fetch(error) => match error.code.as_str() {
                "not-found" => "not-found",
                "limit" | "invalid" => "invalid",
                "cancelled" => "cancelled",
                _ => "unavailable",
            },
            Self::Invalid(_) | Self::File(FileError::NotAPlugin { .. } | FileError::Digest(_)) => "invalid",
            Self::File(_) | Self::Registry(_) | Self::Kept(_) => "io",
            Self::Own(_) => "internal",
        }
    }
}

/// The results of changes.
pub(crate) type Result<T, E = ChangeError> = std::result::Result<T, E>;

/// How a file came to the daemon, which says what it takes to believe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfferKind {
    /// Somebody who may do everything here sent it. Without a signature it is a developer's.
    Upload,
    /// It was fetched, or carried from elsewhere. It has to be signed, unless the operator waives that.
    Foreign,
}

/// A file that somebody wants to have as a plugin.
#[derive(Debug)]
pub struct Offer {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Where it came from, for people.
    pub source: String,
    /// How it came.
    pub kind: OfferKind,
    /// A signature of it, as minisign writes it.
    pub signature: Option<Vec<u8>>,
    /// What its digest has to be, in lower-case hexadecimal, with or without `sha256:` before it.
    pub digest: Option<String>,
    /// Whether it may have no signature.
    pub allow_unsigned: bool,
}

/// What was found out about an offered file, which waits for a decision.
#[derive(Debug)]
pub struct Examined {
    /// Its manifest.
    pub manifest: Manifest,
    /// The optional interfaces that it exports.
    pub abilities: Vec<String>,
    /// The file with who answers for it.
    pub version: Version,
    /// The version of the same plugin that there is already.
    pub present: Option<String>,
    /// What it requests that the present version neither requests nor was granted; everything where there is none.
    pub more: Permissions,
    /// What else there is to be agreed to, where it would take the place of another version.
    pub doubts: Vec<Doubt>,
}

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

/// The turn of one change.
pub(crate) type Turn = OwnedMutexGuard<Registry>;

impl PluginHost {
    /// Takes a file into the store, says what it is, and compiles it. Nothing is decided yet: whoever decides names its digest
    /// within some minutes.
    ///
    /// # Errors
    /// When it is no plugin of this host, can't be compiled, is not what it was said to be, or nobody answers for it.
    pub async fn examine(&self, offer: Offer) -> Result<Examined> {
        let digest = digest_of(&offer.bytes);
        if let Some(wanted) = &offer.digest
            && wanted.strip_prefix("sha256:").unwrap_or(wanted) != digest
        {
            return Err(ChangeError::Invalid(format!(
                "{}: its digest is sha256:{digest}, and not {wanted}",
                offer.source
            )));
        }
        let signature = offer
            .signature
            .as_deref()
            .map(String::from_utf8_lossy)
            .map(String::from);
        let provenance = match (&signature, offer.kind, offer.allow_unsigned) {
            // One that is there has to be right, whatever the operator waives.
            (Some(signature), ..) => self.trust.lock().verify(&offer.bytes, signature)?,
            (None, OfferKind::Upload, _) => Provenance::Dev,
            (None, OfferKind::Foreign, true) => Provenance::Unsigned,
            (None, OfferKind::Foreign, false) => {
                return Err(ChangeError::Untrusted(format!(
                    "{} has no signature, and what comes from elsewhere needs one; --allow-unsigned waives it",
                    offer.source
                )));
            }
        };
        let pin = self.staged.pin(&digest);
        let (files, source) = (Arc::clone(&self.loader.files), PathBuf::from(&offer.source));
        let stored = tokio::task::spawn_blocking(move || files.add_bytes(&source, &offer.bytes)).await??;
        fault::point("plugin-install", "stored");
        let version = Version {
            digest,
            version: stored.manifest.version.clone(),
            source: offer.source,
            provenance,
            signature,
            config: Options::new(),
            taken_in: now(),
        };
        // Its own settings come with the decision; the code is the same.
        let mut trial = stored.clone();
        trial.manifest.config.schema = None;
        let standing = Arc::new(Standing::new(&stored.manifest.id));
        self.prepare(trial, standing, Options::new()).await?;
        fault::point("plugin-install", "compiled");
        pin.examined(version.clone());
        let table = self.table.load();
        let entry = table.entry(&stored.manifest.id);
        let present = entry.map(|entry| entry.slot.current());
        let taken_in = entry.and_then(|entry| entry.record.as_ref()?.active.as_ref());
        Ok(Examined {
            more: beyond(&stored.manifest, present.as_deref()),
            doubts: present
                .as_ref()
                .map_or_else(Vec::new, |present| doubts(present, taken_in, &version)),
            present: present.map(|plugin| plugin.manifest.version.clone()),
            manifest: stored.manifest,
            abilities: stored.abilities,
            version,
        })
    }

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

    async fn install(
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
        if let Some(active) = lost.as_ref().and_then(|record| record.active.as_ref())
            && intake.config.is_none()
        {
            version.config.clone_from(&active.config);
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

    async fn upgrade(
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

    /// Whether nothing of this id is left when the installed plugin, which may be one that could not be loaded, is removed: none came
    /// with the daemon, and the configuration lists none.
    pub(crate) fn goes_whole(&self, id: &str) -> bool {
        let table = self.table.load();
        let installed = table.entry(id).is_none_or(|entry| entry.origin == Origin::Installed);
        installed && self.bundled(id).is_none()
    }

    /// The names that would no longer be provided if the plugin were removed, by family; empty where one that came with the
    /// daemon provides them, too.
    pub fn lost_with(&self, id: &str) -> (String, Vec<String>) {
        let table = self.table.load();
        let Some(entry) = table.entry(id) else {
            return Default::default();
        };
        let bundled = self.bundled(id);
        let stays = |name: &String| bundled.as_ref().is_some_and(|b| b.manifest.names().contains(name));
        let names = entry.names.iter().filter(|name| !stays(name)).cloned().collect();
        (entry.slot.current().manifest.family().to_owned(), names)
    }

    /// The file of a plugin that is in use, with its signature if it has one, for `save`.
    ///
    /// # Errors
    /// When there is no such plugin, or its file was changed.
    pub async fn file(&self, id: &str) -> Result<(Vec<u8>, Option<String>)> {
        let digest = self.slot(id)?.current().digest.clone();
        let registry = self.registry.lock().await;
        let active = registry.get(id).and_then(|record| record.active.as_ref());
        let signature = active.filter(|version| version.digest == digest);
        let signature = signature.and_then(|version| version.signature.clone());
        drop(registry);
        let files = Arc::clone(&self.loader.files);
        let bytes = tokio::task::spawn_blocking(move || files.read(&digest)).await??;
        Ok((bytes, signature))
    }

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

/// What `manifest` requests that is new: the present version neither requests it nor was granted it.
fn beyond(manifest: &Manifest, present: Option<&Plugin>) -> Permissions {
    let requested = &manifest.permissions;
    match present {
        Some(present) => {
            let known = present.manifest.permissions.with(&present.standing.granted.get());
            requested.beyond(&known)
        }
        None => requested.clone(),
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

/// The same file with what is better known of it: another signature by a publisher who is believed, or else the time and place of when
/// it first came.
fn known_better(active: Option<&Version>, new: Version) -> Version {
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
