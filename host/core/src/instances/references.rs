//! What instances and profiles refer to: it must be there when they are stored, and stays as long as they are.
//!
//! Whoever deletes a pool, network, profile or project looks for users under [`Core::changes`] and from then on shows it as going;
//! whoever refers to one looks under the same lock whether it stays, and is seen as a user before the lock is let go of.

use hutch_api::Devices;

use crate::Core;
use crate::error::{Error, Result};
use crate::instances::devices;
use crate::instances::view::View;
use crate::pools::Readiness;
use crate::projects::Feature;
use crate::records::InstanceRecord;

impl Core {
    /// Checks that all is there, and to stay, that an instance refers to but did not in `before`. The caller holds
    /// [`Core::changes`], and shows the record to everybody before it lets go of it.
    ///
    /// # Errors
    /// [`Error::Missing`] for the project, those of [`Core::check_devices_stay`], and the same for the pool and profiles.
    pub(crate) fn check_references(&self, record: &InstanceRecord, before: Option<&View>) -> Result<()> {
        self.project_record(&record.project)?;
        for profile in &record.profiles {
            if self.profile_record(&record.project, profile).is_err() {
                return Err(Error::invalid(format!("Profile {profile:?} not found")));
            }
        }
        let none = Devices::new();
        let known = before.map_or(&none, |view| &view.record.devices);
        self.check_devices_stay(&record.project, &record.devices, known)?;
        match before {
            Some(view) if view.record.pool == record.pool => Ok(()),
            _ if record.pool.is_empty() => Ok(()),
            _ => self.check_pool_stays(&record.pool),
        }
    }

    /// The same for devices of an instance or a profile, but for those that were the same in `before`. (Networks and pools that
    /// an instance has from its profiles are kept by these.)
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Invalid`] for a network that is not there, [`Error::Unavailable`] for a pool or network that
    /// can't be used, or is being deleted.
    pub(crate) fn check_devices_stay(&self, project: &str, all: &Devices, before: &Devices) -> Result<()> {
        for (name, device) in all {
            if before.get(name) == Some(device) {
                continue;
            }
            if let Some(network) = devices::network_of(device) {
                let scope = self.scope(project, Feature::Networks)?;
                let Some(found) = self.networks.get(&(scope, network.clone())) else {
                    return Err(Error::invalid(format!(
                        "Device {name:?}: network {network:?} not found"
                    )));
                };
                if let Readiness::Unavailable(why) = found.readiness() {
                    return Err(Error::Unavailable(format!("network {network} is unavailable: {why}")));
                }
            }
            if let Some(pool) = device.get("pool").filter(|_| devices::is_root(device)) {
                self.check_pool_stays(pool)?;
            }
        }
        Ok(())
    }

    fn check_pool_stays(&self, name: &str) -> Result<()> {
        let pool = self.pools.get(&name.to_owned());
        match pool.ok_or_else(|| Error::missing("Storage pool", name))?.readiness() {
            Readiness::Unavailable(why) => {
                Err(Error::Unavailable(format!("storage pool {name} is unavailable: {why}")))
            }
            _ => Ok(()),
        }
    }
}
