//! The broker that does what is asked of it in the daemon's own process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hutch_container::Runtime;
use hutch_driver::{Call, DriverError, DriverEvent, MountPlan, TreePath};
use sha2::{Digest as _, Sha256};
use tokio::sync::broadcast;

use crate::error::{invalid, io};
use crate::{
    Broker, CallContext, Request, Response, basics, command, filter, fs, http, kv, link, records, service, system,
    watch,
};

/// What a [`HostBroker`] needs.
#[derive(Clone, Debug)]
pub struct HostBrokerConfig {
    /// The daemon's state directory. The broker keeps `plugins/kv.db` and `services/` in it. Helper services that give up
    /// root must be able to pass through it (mode 0711).
    pub state_dir: PathBuf,
    /// Starts helper services and finds them again.
    pub runtime: Runtime,
    /// Where drivers' events go.
    pub events: broadcast::Sender<DriverEvent>,
}

/// Carries out requests here. One per daemon.
#[derive(Debug)]
pub struct HostBroker {
    fs: Arc<fs::Trees>,
    kv: kv::Store,
    link: link::Links,
    filter: filter::Tables,
    service: Arc<service::Services>,
    command: command::Commands,
    http: http::Client,
    watch: watch::Watches,
}

impl HostBroker {
    /// A broker for the daemon with this state directory. Watches that drivers set up before go on.
    ///
    /// # Errors
    /// `io` and its like when the state directory can't be used; `unavailable` for a store of a newer version.
    pub async fn new(config: HostBrokerConfig) -> Result<Self, DriverError> {
        let HostBrokerConfig {
            state_dir,
            runtime,
            events,
        } = config;
        let state_dir = std::fs::canonicalize(&state_dir).map_err(|e| {
            io(
                format_args!("can't use the state directory {}", state_dir.display()),
                &e,
            )
        })?;
        let state_id = state_id(&state_dir);
        let service = Arc::new(service::Services::new(&state_dir, runtime)?);
        let watch = watch::Watches::open(&state_dir, Arc::clone(&service), events)?;
        let fs = Arc::new(fs::Trees::new()?);
        for root in service.roots()? {
            if let Err(e) = fs.empty_trash(&root) {
                tracing::warn!("files that an earlier daemon left are not removed: {e}");
            }
        }
        Ok(Self {
            fs,
            kv: kv::Store::open(&state_dir.join("plugins/kv.db")).await?,
            link: link::Links::open()?,
            filter: filter::Tables::new(&state_id),
            service,
            command: command::Commands::open(&state_id, state_dir.join("plugins/trees"))?,
            http: http::Client,
            watch,
        })
    }

    /// Removes what the broker keeps in a root: the core calls it before it removes the directory of a pool that is
    /// deleted. Returns when everything that was discarded there is gone.
    ///
    /// # Errors
    /// `io` and its like where something can't be removed.
    pub async fn release_root(&self, path: &Path) -> Result<(), DriverError> {
        let (trees, path) = (Arc::clone(&self.fs), path.to_owned());
        fs::tree::blocking(move || trees.release(&path)).await
    }

    /// Copies what `plan` shows to the empty directory `to`, for the core: between pools of different drivers there is no plugin
    /// that could ask for it. The roots of `call` are where both lie; its progress is told, and its cancellation ends the copy. `to`
    /// is complete afterwards, or as it was.
    ///
    /// # Errors
    /// `cancelled`; `no-space`; `not-found` where a tree is gone; `invalid` for a plan that can't be read.
    pub async fn copy_between(&self, call: &Call, plan: &MountPlan, to: &TreePath) -> Result<(), DriverError> {
        self.fs.copy_between(call, plan, to).await
    }

    /// Bytes of keys and values in a plugin's key-value store, as far as its writes have been answered. Nothing is read for it.
    pub fn kept_bytes(&self, plugin: &str) -> u64 {
        self.kv.used(plugin)
    }
}

impl HostBroker {
    /// A service that is removed takes the watches of its files with it.
    async fn service(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        let removed = match &request {
            Request::ServiceRemove { name } => Some(service::ServiceId::of(cx, name)?),
            _ => None,
        };
        let response = self.service.call(cx, request).await?;
        if let Some(removed) = removed {
            self.watch.forget(removed).await?;
        }
        Ok(response)
    }
}

#[async_trait::async_trait]
impl Broker for HostBroker {
    async fn call(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        match request.interface() {
            "fs" => self.fs.call(cx, request).await,
            "kv" => self.kv.call(cx, request).await,
            "link" => self.link.call(cx, request).await,
            "filter" => self.filter.call(cx, request).await,
            "service" => self.service(cx, request).await,
            "command" => self.command.call(cx, request).await,
            "http" => self.http.call(cx, request).await,
            "watch" => self.watch.call(cx, request).await,
            "system" => system::call(cx, request).await,
            "records" => records::call(cx, &request),
            _ => basics::call(cx, request),
        }
    }

    async fn forget(&self, plugin: &str) -> Result<(), DriverError> {
        self.kv.forget(plugin).await
    }
}

/// A short name of a daemon by its state directory, for objects that daemons on one machine share a name space in: packet
/// filter tables, control groups. Eight hexadecimal digits.
pub fn state_id(state_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    hex::encode(
        Sha256::digest(state_dir.as_os_str().as_bytes())
            .get(..4)
            .unwrap_or_default(),
    )
}

/// Names of objects, of networks and of what a driver makes for them become parts of names on the host. They are checked
/// here although the core has checked them before.
///
/// # Errors
/// `invalid` for what is not 1 to 63 letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), DriverError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let good =
        name.len() <= 63 && name.bytes().all(plain) && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if good {
        Ok(())
    } else {
        Err(invalid(format!(
            "{what} {name:?} is not 1 to 63 letters, digits, dots, underscores and dashes"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_paths_are_refused() {
        for bad in ["", ".", "..", "a/b", "-a", ".a", "a b", "a\n", &"a".repeat(64)] {
            assert!(check_name("name", bad).is_err(), "{bad:?}");
        }
        for good in ["a", "0", "a.b_c-d"] {
            assert!(check_name("name", good).is_ok(), "{good:?}");
        }
    }
}
