//! What becomes of an instance when a change of its volume fails or is interrupted.
//!
//! A failure that was told to whoever asked is final: the journal's entry is struck out, so that nothing is done once more when the
//! daemon starts the next time. What may have been half done is taken back or, where that can't be, noted in the record: such an
//! instance is shown as broken, and can't be started before it is repaired. Only an interruption leaves an entry; until that is
//! settled, nothing else is done with the instance.

use std::sync::Arc;

use hutch_store::Transaction;

use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::journal::{Entry, Open};
use crate::records::{InstanceRecord, SnapshotRecord, key};

impl Owner {
    /// Why nothing can be done with the instance, if so.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.broken
            .as_deref()
            .or(self.unfinished.as_deref())
            .or(self.record.broken.as_deref())
    }

    /// Refuses work on an instance that may run out of reach, or with which something was begun and is not over.
    pub(crate) fn require_settled(&self, what: &str) -> Result<()> {
        match self.broken.as_ref().or(self.unfinished.as_ref()).or(self.busy.as_ref()) {
            Some(why) => Err(self.unusable(what, why)),
            None => Ok(()),
        }
    }

    /// Refuses work that needs a whole root, too.
    pub(crate) fn require_whole(&self, what: &str) -> Result<()> {
        self.require_settled(what)?;
        match &self.record.broken {
            Some(why) => Err(self.unusable(what, why)),
            None => Ok(()),
        }
    }

    /// Refuses work that needs the instance to be stopped.
    pub(crate) fn require_stopped(&self, what: &str) -> Result<()> {
        self.require_settled(what)?;
        if self.keeper.is_some() {
            return Err(Error::invalid(format!(
                "Instance {:?} is running: stop it first to {what}",
                self.record.name
            )));
        }
        Ok(())
    }

    pub(super) fn unusable(&self, what: &str, why: &str) -> Error {
        Error::Unavailable(format!(
            "Instance {:?} can't be used to {what}: {why}",
            self.record.name
        ))
    }

    /// Says why nothing can be done with the instance, or that something can.
    pub(crate) fn set_unfinished(&mut self, why: Option<String>) {
        self.unfinished = why;
        self.publish();
    }

    /// A change of the volume failed and could not be taken back: the entry is struck out, and the record says what is wrong.
    pub(crate) async fn break_off(&mut self, entry: Open, why: String) {
        let record = InstanceRecord {
            broken: Some(why.clone()),
            ..InstanceRecord::clone(&self.record)
        };
        let noted = match Self::write(&record) {
            Ok(change) => self.core.journal.done(entry, change).await,
            Err(error) => Err(error),
        };
        match noted {
            Ok(()) => self.record = Arc::new(record),
            Err(error) => self.unfinished = Some(self.unnoted(why, &error)),
        }
        self.publish();
    }

    /// The same for a change of a snapshot.
    pub(crate) async fn break_off_snapshot(&mut self, entry: Open, name: &str, why: String) {
        let Some(at) = self.snapshots.iter().position(|snapshot| snapshot.name == name) else {
            return;
        };
        let record = SnapshotRecord {
            broken: Some(why.clone()),
            ..SnapshotRecord::clone(&self.snapshots[at])
        };
        let key = key::snapshot(&self.record.project, &self.record.name, name);
        let noted = match Transaction::new().put(key, &record) {
            Ok(change) => self.core.journal.done(entry, change).await,
            Err(error) => Err(error.into()),
        };
        match noted {
            Ok(()) => self.snapshots[at] = Arc::new(record),
            Err(error) => self.unfinished = Some(self.unnoted(why, &error)),
        }
        self.publish();
    }

    fn unnoted(&self, why: String, error: &Error) -> String {
        tracing::error!(
            instance = self.record.name,
            why,
            error = error.report(),
            "what is wrong with an instance could not be recorded"
        );
        why
    }

    /// What an interrupted change is about is still as it was left, and may be gone on with. Otherwise it is over.
    pub(crate) async fn resume(&mut self, entry: &Open, needs_stopped: bool) -> Result<()> {
        if let Some(why) = &self.broken {
            // It may run: its keeper knows, if it answers later, or the next start of the daemon finds out.
            return Err(self.unusable("go on with what was interrupted", why));
        }
        if needs_stopped && self.keeper.is_some() {
            self.set_unfinished(None);
            self.core.journal.done(entry.clone(), Transaction::new()).await?;
            return Err(Error::invalid(format!(
                "Instance {:?} runs: what was interrupted is not gone on with",
                self.record.name
            )));
        }
        Ok(())
    }
}

/// Whether a driver that failed to rename something left it under its old name.
///
/// Drivers answer a repetition after success with success, so `not-found` says that neither name is there, and `already-exists` that
/// both are, of which only the old one can be what was to be renamed. With a failure of the way back it is the same.
pub(super) fn left_as_it_was(error: &Error) -> bool {
    matches!(error, Error::Driver { source, .. } if source.is("not-found") || source.is("already-exists"))
}

/// Why nothing can be done with an instance before this change, which was interrupted, is finished; nothing for changes that may
/// wait.
pub(crate) fn interrupted(entry: &Entry) -> Option<(&str, &str, String)> {
    let (project, name, what) = match entry {
        Entry::InstanceDelete { project, name } => (project, name, "its deletion".to_owned()),
        Entry::InstanceRename {
            project,
            name,
            new_name,
        } => (project, name, format!("its renaming to {new_name}")),
        Entry::InstanceRebuild { project, name, .. } => (project, name, "its rebuilding".to_owned()),
        Entry::InstanceRenew { project, name, .. } => (project, name, "its refreshing".to_owned()),
        Entry::SnapshotDelete {
            project,
            name,
            snapshot,
        } => (project, name, format!("the deletion of snapshot {snapshot}")),
        Entry::SnapshotRename {
            project,
            name,
            snapshot,
            ..
        } => (project, name, format!("the renaming of snapshot {snapshot}")),
        Entry::SnapshotRestore {
            project,
            name,
            snapshot,
        } => (project, name, format!("the restoring of snapshot {snapshot}")),
        _ => return None,
    };
    let why = format!("{what} was interrupted and is not finished yet, because its pool or driver can't be used");
    Some((project, name, why))
}
