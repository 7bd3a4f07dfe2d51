//! Metrics: what instances use, how plugins fare, and what the daemon has to do, for Prometheus and its like.
//!
//! Nothing here waits for an instance, a plugin or a disk: instances' counters are bounded reads of descriptors that stay open, and
//! all else is in memory.

mod instances;
mod plugins;

use std::sync::Arc;

use hutch_api::openmetrics::{Exposition, Format, Kind};

use crate::Core;
use crate::error::{Error, Result};
use crate::instances::view::View;

impl Core {
    /// All metrics; with a `project` only those of its instances.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a project that there is not.
    pub async fn metrics(self: &Arc<Self>, project: Option<&str>, format: Format) -> Result<String> {
        if let Some(name) = project
            && self.projects.get(&name.to_owned()).is_none()
        {
            return Err(Error::missing("Project", name));
        }
        let views: Vec<Arc<View>> = self
            .instances
            .list(project)
            .iter()
            .map(|instance| instance.view())
            .filter(|view| view.keeper.is_some())
            .collect();
        let (core, all) = (Arc::clone(self), project.is_none());
        // The kernel answers at once, but it is asked a few times for each instance: not on a thread that serves others.
        let written = tokio::task::spawn_blocking(move || {
            let readings: Vec<_> = views.iter().map(|view| instances::read(view, &core.machine)).collect();
            let mut text = Exposition::new(format);
            instances::write(&mut text, &readings);
            if all {
                core.own_metrics(&mut text);
                plugins::write(&mut text, &core.plugins());
            }
            text.finish()
        });
        written
            .await
            .map_err(|error| Error::io("putting the metrics together")(error.into()))
    }

    /// What the daemon says of itself, by the names that Incus has for it.
    fn own_metrics(&self, text: &mut Exposition) {
        let operations = self.operations(None).len() as u64;
        // Both go up and down, whatever their names say: so Incus has them.
        text.family(
            "incus_operations_total",
            Kind::Gauge,
            "Operations that run, or have just ended.",
        )
        .sample(&[], operations);
        let warnings = self.warnings().len() as u64;
        text.family("incus_warnings_total", Kind::Gauge, "Active warnings.")
            .sample(&[], warnings);
        text.family(
            "incus_uptime_seconds",
            Kind::Gauge,
            "How long the daemon has been running.",
        )
        .sample(&[], self.machine.started.elapsed());
    }
}
