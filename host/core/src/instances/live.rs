//! Changing what runs with the configuration of its instance, and back.

use std::sync::Arc;

use hutch_container::Keeper;

use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::instances::view::View;
use crate::instances::{create, devices, spec};
use crate::journal::{Open, Tried};
use crate::records::InstanceRecord;

impl Owner {
    /// Whether anything outside the store follows a change of configuration. What a container is made with (`security.*`,
    /// `environment.*`) follows at its next start.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for limits that the machine hasn't.
    pub(crate) fn is_live_change(&self, before: &View, after: &View) -> Result<bool> {
        let resized = root_size(before) != root_size(after);
        if self.keeper.is_none() {
            return Ok(resized);
        }
        let machine = &self.core.machine;
        let limits = |view: &View| spec::limits(view, machine);
        let (old, new) = (nics(before), nics(after));
        Ok(resized
            || limits(before)? != limits(after)?
            || devices::mounts(&before.devices) != devices::mounts(&after.devices)
            || old.len() != new.len()
            || !missing_in(&old, &new).is_empty())
    }

    /// Changes what runs, and the volume, from `before` to `after`.
    ///
    /// # Errors
    /// The first that went wrong; what has been changed by then is still so.
    pub(crate) async fn change_live(&self, before: &View, after: &View, entry: &Open) -> Result<()> {
        let core = &self.core;
        if root_size(before) != root_size(after) {
            let pool = core.open_pool(&self.record.pool).await?;
            create::set_size(&pool, &self.record, root_size(after)).await?;
            core.journal.step(entry, "size");
        }
        let Some(keeper) = &self.keeper else { return Ok(()) };
        self.set_limits(keeper, after).await?;
        core.journal.step(entry, "limits");
        if devices::mounts(&before.devices) != devices::mounts(&after.devices) {
            let mounts = devices::present(devices::mounts(&after.devices))?;
            let action = format!("changing the disks of instance {}", self.record.name);
            keeper.set_mounts(&mounts).await.map_err(Error::container(action))?;
        }
        core.journal.step(entry, "disks");
        let (old, new) = (nics(before), nics(after));
        for nic in gone_from(&old, &new) {
            self.detach_nic(nic, Some(keeper)).await?;
        }
        // Those that stay take their new configuration where they are.
        for nic in missing_in(&new, &old) {
            self.attach_nic(keeper, nic.clone()).await?;
        }
        core.journal.step(entry, "nics");
        Ok(())
    }

    /// Takes back a change to `tried` that failed, all of it as far as that goes: the caller hears of the first failure, and what can't
    /// be taken back is logged.
    pub(crate) async fn take_back_live(&self, before: &View, tried: &View) {
        if let Some(keeper) = &self.keeper {
            for nic in gone_from(&nics(tried), &nics(before)) {
                if let Err(error) = self.detach_nic(nic, Some(keeper)).await {
                    self.warn(&error);
                }
            }
        }
        if let Err(error) = self.follow_record().await {
            self.warn(&error);
        }
    }

    fn warn(&self, error: &Error) {
        let (instance, error) = (&self.record.name, error.report());
        tracing::warn!(instance, error, "a change that failed could not be taken back whole");
    }

    /// Makes volume and container what the record says, whatever they are: each step finds out by itself what there is to do.
    async fn follow_record(&self) -> Result<()> {
        let view = self.instance.view();
        let pool = self.core.open_pool(&self.record.pool).await?;
        match root_size(&view) {
            None if pool.require("quota").is_err() => {}
            size => create::set_size(&pool, &self.record, size).await?,
        }
        let Some(keeper) = &self.keeper else { return Ok(()) };
        self.set_limits(keeper, &view).await?;
        let mut mounts = devices::mounts(&view.devices);
        // What the host has lost meanwhile is lost.
        mounts.retain(|mount| mount.source.exists());
        let action = format!("restoring the disks of instance {}", self.record.name);
        keeper.set_mounts(&mounts).await.map_err(Error::container(action))?;
        for nic in nics(&view) {
            self.attach_nic(keeper, nic).await?;
        }
        Ok(())
    }

    /// A change of configuration was interrupted before its record was written: back to that, and to what profiles are now.
    pub(crate) async fn finish_update(&mut self, entry: &Open, tried: Option<&Tried>) -> Result<()> {
        self.resume(entry, false).await?;
        let mut record = InstanceRecord::clone(&self.record);
        let (_, expanded) = self.core.expand(&record);
        // Interfaces that came from a profile, which was stored before, keep the names that were chosen for them.
        for (key, value) in tried.iter().flat_map(|tried| &tried.record.config) {
            if key.starts_with("volatile.") && (key.ends_with(".hwaddr") || key.ends_with(".host_name")) {
                record.config.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        devices::complete_volatile(&mut record.config, &expanded);
        if let (Some(keeper), Some(tried)) = (&self.keeper, tried) {
            let wanted = devices::nics(&record, &expanded);
            for nic in gone_from(&devices::nics(&tried.record, &tried.devices), &wanted) {
                self.detach_nic(nic, Some(keeper)).await?;
            }
        }
        self.record = Arc::new(record);
        self.publish();
        self.follow_record().await?;
        let change = Self::write(&self.record)?;
        self.core.journal.done(entry.clone(), change).await
    }

    async fn set_limits(&self, keeper: &Keeper, view: &View) -> Result<()> {
        let limits = spec::limits(view, &self.core.machine)?;
        let action = format!("changing the limits of instance {}", self.record.name);
        keeper.set_limits(&limits).await.map_err(Error::container(action))
    }
}

/// The size that the root disk is to have.
fn root_size(view: &View) -> Option<&str> {
    let size = devices::root(&view.devices).ok()?.get("size")?;
    (!size.is_empty()).then_some(size.as_str())
}

fn nics(view: &View) -> Vec<devices::Nic> {
    devices::nics(&view.record, &view.devices)
}

/// Whether these are one interface, however its driver is to have it.
fn is_same(a: &devices::Nic, b: &devices::Nic) -> bool {
    let (x, y) = (&a.reference, &b.reference);
    a.network == b.network
        && x.device == y.device
        && x.host_name == y.host_name
        && x.hwaddr == y.hwaddr
        && x.guest_name == y.guest_name
}

/// Interfaces of the first list that the second has not.
fn gone_from<'a>(these: &'a [devices::Nic], those: &[devices::Nic]) -> Vec<&'a devices::Nic> {
    let stays = |nic: &devices::Nic| those.iter().any(|other| is_same(nic, other));
    these.iter().filter(|nic| !stays(nic)).collect()
}

/// Interfaces of the first list that the second has not, as they are.
fn missing_in<'a>(these: &'a [devices::Nic], those: &[devices::Nic]) -> Vec<&'a devices::Nic> {
    let same = |a: &devices::Nic, b: &devices::Nic| is_same(a, b) && a.reference.config == b.reference.config;
    these
        .iter()
        .filter(|nic| !those.iter().any(|other| same(nic, other)))
        .collect()
}
