//! Zone drivers.

use std::sync::Arc;

use async_trait::async_trait;
use hutch_driver::zone::{ZoneDriver, ZoneRef};
use hutch_driver::{Call, DriverError, DriverInfo, Options};

use super::{answer, pairs, picked};
use crate::bindings::zone::types as wit;
use crate::export::{Exports, ZoneExports};
use crate::plugin::Slot;

/// A zone driver that a plugin provides under one name.
pub(crate) struct ZoneAdapter {
    slot: Arc<Slot>,
    name: String,
}

impl ZoneAdapter {
    pub(crate) fn new(slot: Arc<Slot>, name: &str) -> Self {
        Self {
            slot,
            name: name.to_owned(),
        }
    }
}

impl Exports {
    fn zone(&self) -> Option<&ZoneExports> {
        match self {
            Self::Zone(exports) => Some(exports),
            _ => None,
        }
    }
}

fn zone_ref(zone: &ZoneRef) -> wit::ZoneRef {
    wit::ZoneRef {
        project: zone.project.clone(),
        name: zone.name.clone(),
        config: pairs(&zone.config),
    }
}

/// What a call on a zone works on.
fn target(zone: &ZoneRef) -> String {
    format!("zone/{}", zone.name)
}

#[async_trait]
impl ZoneDriver for ZoneAdapter {
    fn info(&self) -> DriverInfo {
        self.slot.current().info(&self.name)
    }

    async fn validate(&self, call: &Call, zone: &ZoneRef, current: Option<&Options>) -> Result<Options, DriverError> {
        let plugin = self.slot.current();
        plugin.check_options(&zone.config)?;
        let pick = picked(|e| e.zone().map(|z| &z.zone.validate));
        let params = (zone_ref(zone), current.map(pairs));
        // It only reads: nothing that another call could be busy with.
        let target = format!("zone-reading/{}", zone.name);
        plugin.call(call, target, pick, params, answer::options).await
    }

    async fn publish(&self, call: &Call, zone: &ZoneRef, version: u64) -> Result<(), DriverError> {
        let pick = picked(|e| e.zone().map(|z| &z.zone.publish));
        let params = (zone_ref(zone), version);
        self.slot.current().call(call, target(zone), pick, params, Ok).await
    }

    async fn delete(&self, call: &Call, zone: &ZoneRef) -> Result<(), DriverError> {
        let pick = picked(|e| e.zone().map(|z| &z.zone.delete));
        let params = (zone_ref(zone),);
        self.slot.current().call(call, target(zone), pick, params, Ok).await
    }

    async fn reconcile(&self, call: &Call, valid: &[ZoneRef]) -> Result<Vec<String>, DriverError> {
        let pick = picked(|e| e.zone().map(|z| &z.zone.reconcile));
        let params = (valid.iter().map(zone_ref).collect::<Vec<_>>(),);
        let target = format!("zones/{}", self.name);
        self.slot
            .current()
            .call(call, target, pick, params, answer::report)
            .await
    }
}
