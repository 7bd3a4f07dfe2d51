//! The daemon itself: what it is, what it can do, its configuration.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use hutch_api::server::{Server, ServerEnvironment, ServerPut, ServerStorageDriverInfo};
use hutch_api::{Config, extensions};
use hutch_container::AppArmorSupport;
use hutch_store::Transaction;

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::records::{ServerRecord, key};
use crate::{Core, Tagged, check_etag, etag};

/// The version of the daemon.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Clients take versions of the server for versions of the one they know; these ask for at least this (LXD's provider of
/// Terraform wants 5.0.0).
const COMPATIBLE: &str = "5.0.0";

impl Core {
    /// What `GET /1.0` shows.
    pub fn server(&self, caller: &Caller, project: &str) -> Tagged<Server> {
        let config = self
            .server
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .config
            .clone();
        let value = Server {
            api_extensions: extensions::EXTENSIONS.iter().map(|name| (*name).to_owned()).collect(),
            api_status: "stable".to_owned(),
            api_version: hutch_api::API_VERSION.to_owned(),
            auth: "trusted".to_owned(),
            public: false,
            auth_methods: vec!["tls".to_owned()],
            auth_user_name: caller.name(),
            auth_user_method: "unix".to_owned(),
            config,
            environment: self.environment(project),
        };
        Tagged {
            etag: etag(&value.etag_parts()),
            value,
        }
    }

    fn environment(&self, project: &str) -> ServerEnvironment {
        let uname = nix::sys::utsname::uname().ok();
        let field = |get: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
            uname
                .as_ref()
                .map(|name| get(name).to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let (os_name, os_version) = os_release();
        let drivers = self.drivers.list("storage");
        let names: Vec<&str> = drivers.iter().map(|driver| driver.name.as_str()).collect();
        let versions: Vec<&str> = drivers.iter().map(|driver| driver.version.as_str()).collect();
        ServerEnvironment {
            architectures: vec![self.machine.architecture.clone()],
            driver: "hutch".to_owned(),
            driver_version: VERSION.to_owned(),
            firewall: "nftables".to_owned(),
            kernel: field(nix::sys::utsname::UtsName::sysname),
            kernel_architecture: self.machine.architecture.clone(),
            kernel_features: self.kernel_features(),
            kernel_version: field(nix::sys::utsname::UtsName::release),
            os_name,
            os_version,
            project: project.to_owned(),
            server: "hutch".to_owned(),
            server_event_mode: "full-mesh".to_owned(),
            server_name: field(nix::sys::utsname::UtsName::nodename),
            server_pid: i64::from(std::process::id()),
            server_version: COMPATIBLE.to_owned(),
            storage: names.join(" | "),
            storage_version: versions.join(" | "),
            storage_supported_drivers: drivers
                .iter()
                .map(|driver| ServerStorageDriverInfo {
                    name: driver.name.clone(),
                    version: driver.version.clone(),
                    remote: false,
                })
                .collect(),
            ..ServerEnvironment::default()
        }
    }

    /// What containers get of the kernel. Whether they have profiles of AppArmor is told here because LXD has no other place for it.
    fn kernel_features(&self) -> BTreeMap<String, String> {
        let apparmor = match self.runtime.apparmor_support() {
            AppArmorSupport::Used | AppArmorSupport::Enclosing => "true",
            AppArmorSupport::Missing | AppArmorSupport::Unusable(_) => "false",
        };
        // All others are in every kernel that containers start on.
        let features = [
            ("apparmor", apparmor),
            ("idmapped_mounts", "true"),
            ("seccomp_listener", "true"),
            ("seccomp_listener_continue", "true"),
        ];
        features
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Replaces the daemon's configuration.
    ///
    /// # Errors
    /// [`Error::Changed`], [`Error::Invalid`].
    pub async fn server_update(&self, put: ServerPut, if_match: Option<&str>) -> Result<()> {
        check(&put.config)?;
        let _guard = self.changes.lock().await;
        let record = self.server.read().unwrap_or_else(PoisonError::into_inner).clone();
        check_etag(&serde_json::json!([record.config]), if_match)?;
        let mut config = put.config;
        config.retain(|_, value| !value.is_empty());
        let record = ServerRecord { config, ..record };
        self.store.commit(Transaction::new().put(key::SERVER, &record)?).await?;
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = record;
        self.events
            .lifecycle("", "config-updated", "/1.0", serde_json::Map::new());
        Ok(())
    }

    /// Changes some of the daemon's configuration.
    ///
    /// # Errors
    /// As [`Core::server_update`].
    pub async fn server_patch(&self, patch: ServerPut, if_match: Option<&str>) -> Result<()> {
        let config = self
            .server
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .config
            .clone();
        let seen = etag(&serde_json::json!([config]));
        check_etag(&serde_json::json!([config]), if_match)?;
        let mut put = ServerPut { config };
        put.apply(patch);
        self.server_update(put, Some(&seen)).await
    }
}

/// Only text of the operator's own: what has no effect is refused.
fn check(config: &Config) -> Result<()> {
    match config.keys().find(|key| !key.starts_with("user.")) {
        Some(key) => Err(Error::invalid(format!("Unknown configuration key: {key}"))),
        None => Ok(()),
    }
}

/// Name and version of the distribution (os-release(5)).
fn os_release() -> (String, String) {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    (field("NAME"), field("VERSION_ID"))
}
