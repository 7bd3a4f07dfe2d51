//! Code that a change needs in memory before it can be made. It takes seconds to compile, so it is brought there while nobody's
//! turn to change anything passes: a change that finds under its turn that it lacks code says so, gives the turn back, and
//! is tried again from its beginning.

use std::sync::Arc;

use hutch_driver::Options;

use crate::change::Result;
use crate::files::Stored;
use crate::host::PluginHost;
use crate::plugin::{Plugin, Standing};

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Ready {
    /// What was prepared.
    plugin: Option<Arc<Plugin>>,
    /// What was missing when it was last asked for.
    wanted: Option<Wanted>,
}

struct Wanted {
    stored: Stored,
    standing: Arc<Standing>,
    config: Options,
}

impl Ready {
    /// The plugin made of `stored` with these settings, and with the `standing` of the one in whose place it comes, if it comes in
    /// one's. `None` where it has to be made first.
    pub(crate) fn plugin(
        &mut self,
        stored: Stored,
        standing: Option<&Arc<Standing>>,
        config: &Options,
    ) -> Option<Arc<Plugin>> {
        let fits = |plugin: &&Arc<Plugin>| {
            plugin.digest == stored.digest
                && plugin.subject.config == *config
                && standing.is_none_or(|standing| Arc::ptr_eq(standing, &plugin.standing))
        };
        if let Some(plugin) = self.plugin.as_ref().filter(fits) {
            return Some(Arc::clone(plugin));
        }
        let standing = standing.map_or_else(|| Arc::new(Standing::new(&stored.manifest.id)), Arc::clone);
        self.wanted = Some(Wanted {
            stored,
            standing,
            config: config.clone(),
        });
        None
    }
}

impl PluginHost {
    /// Makes what was missing. Whoever waits for a turn has it meanwhile.
    ///
    /// # Errors
    /// When its code can't be compiled or used.
    pub(crate) async fn make_ready(&self, ready: &mut Ready) -> Result<()> {
        if let Some(wanted) = ready.wanted.take() {
            // Its file is in the store as long as this goes on, whatever is decided about it by others.
            let _pin = self.staged.pin(&wanted.stored.digest);
            let plugin = self.prepare(wanted.stored, wanted.standing, wanted.config).await?;
            ready.plugin = Some(plugin);
        }
        Ok(())
    }
}
