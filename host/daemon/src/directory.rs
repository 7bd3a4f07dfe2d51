//! What the core is given of the plugin host and the broker: listings and changes of plugins, and the end of a pool's root.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use hutch_api::plugin::{Plugin, PluginHeld, PluginKey, PluginKeysPost, PluginLogLine, PluginOffer, PluginsPost};
use hutch_broker::HostBroker;
use hutch_core::plugins::{PluginDirectory, PluginFile};
use hutch_core::pools::Roots;
use hutch_driver::{Call, Cancel, DriverError, MountPlan, Progress, TreePath};
use hutch_plugin::{Address, ChangeError, DoubtKind, Intake, Offer, OfferKind, PluginHost, TrustedKey};

use crate::render;

/// Has the broker let go of roots, and copy between them.
pub(crate) struct PoolRoots(pub(crate) Arc<HostBroker>);

#[async_trait]
impl Roots for PoolRoots {
    async fn release(&self, root: &Path) -> Result<(), DriverError> {
        self.0.release_root(root).await
    }

    async fn copy(&self, call: &Call, plan: &MountPlan, to: &TreePath) -> Result<(), DriverError> {
        self.0.copy_between(call, plan, to).await
    }
}

/// Lists what the plugin host has, and has it changed.
pub(crate) struct Directory {
    /// The plugin host.
    pub(crate) host: Arc<PluginHost>,
    /// Has what plugins keep.
    pub(crate) broker: Arc<HostBroker>,
}

#[async_trait]
impl PluginDirectory for Directory {
    fn plugins(&self) -> Vec<Plugin> {
        let plugins = self.host.plugins();
        let rendered = plugins
            .iter()
            .map(|status| render::plugin(status, self.broker.kept_bytes(&status.id)));
        rendered.collect()
    }

    fn logs(&self, id: &str) -> Option<Vec<PluginLogLine>> {
        Some(self.host.logs(id)?.into_iter().map(render::log_line).collect())
    }

    fn lost_with(&self, id: &str) -> (String, Vec<String>) {
        self.host.lost_with(id)
    }

    async fn file(&self, id: &str) -> Result<PluginFile, DriverError> {
        let (bytes, signature) = self.host.file(id).await.map_err(failed)?;
        Ok(PluginFile {
            bytes,
            signature: signature.map(String::into_bytes),
        })
    }

    async fn examine(
        &self,
        post: &PluginsPost,
        file: Option<PluginFile>,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<PluginOffer, DriverError> {
        let source = &post.source;
        let (name, bytes, signature) = match file {
            Some(file) => (source.name.clone(), file.bytes, file.signature),
            None => {
                let address = Address {
                    url: &source.url,
                    signature: &source.signature_url,
                    digest: &source.digest,
                    plain_http: source.plain_http,
                };
                let fetched = self.host.fetch(address, progress, cancel).await.map_err(failed)?;
                (fetched.source, fetched.bytes, fetched.signature)
            }
        };
        let offer = Offer {
            bytes,
            signature,
            source: name,
            kind: if source.kind == "upload" {
                OfferKind::Upload
            } else {
                OfferKind::Foreign
            },
            digest: Some(source.digest.clone()).filter(|digest| !digest.is_empty()),
            allow_unsigned: post.allow_unsigned,
        };
        let examined = self.host.examine(offer).await.map_err(failed)?;
        Ok(render::offer(examined, post.grants.as_deref().unwrap_or_default()))
    }

    async fn take_in(
        &self,
        digest: &str,
        post: &PluginsPost,
        upgrade: Option<&str>,
        needed: Vec<String>,
    ) -> Result<Option<PluginHeld>, DriverError> {
        let intake = Intake {
            upgrade: upgrade.map(str::to_owned),
            grants: post.grants.clone(),
            config: post.config.clone(),
            despite: [
                (post.allow_publisher, DoubtKind::Publisher),
                (post.allow_downgrade, DoubtKind::Downgrade),
            ]
            .into_iter()
            .filter_map(|(allowed, kind)| allowed.then_some(kind))
            .collect(),
            needed,
        };
        let outcome = self.host.take_in(digest, intake).await.map_err(failed)?;
        Ok(render::outcome(&outcome))
    }

    async fn enable(&self, id: &str) -> Result<(), DriverError> {
        self.host.enable(id).await.map_err(failed)
    }

    async fn disable(&self, id: &str) -> Result<(), DriverError> {
        self.host.disable(id).await.map_err(failed)
    }

    async fn grant(&self, id: &str, names: &[String], needed: Vec<String>) -> Result<Option<PluginHeld>, DriverError> {
        let outcome = self.host.grant(id, names, &needed).await.map_err(failed)?;
        Ok(render::outcome(&outcome))
    }

    async fn set_grants(&self, id: &str, names: &[String]) -> Result<bool, DriverError> {
        self.host.set_grants(id, names).await.map_err(failed)
    }

    async fn revoke(&self, id: &str, names: &[String]) -> Result<(), DriverError> {
        self.host.revoke(id, names).await.map_err(failed)
    }

    async fn rollback(&self, id: &str, needed: Vec<String>) -> Result<(), DriverError> {
        self.host.rollback(id, &needed).await.map_err(failed)
    }

    async fn remove(&self, id: &str) -> Result<(), DriverError> {
        self.host.remove(id).await.map_err(failed)
    }

    fn keys(&self) -> Vec<PluginKey> {
        self.host.trusted_keys().iter().map(key).collect()
    }

    async fn trust(&self, post: PluginKeysPost) -> Result<PluginKey, DriverError> {
        let trusted = self.host.trust_key(post.name, post.key).await;
        trusted.map(|trusted| key(&trusted)).map_err(failed)
    }

    async fn distrust(&self, which: &str) -> Result<(), DriverError> {
        self.host.revoke_key(which.to_owned()).await.map_err(failed)
    }
}

/// A key in the API's terms.
fn key(key: &TrustedKey) -> PluginKey {
    PluginKey {
        id: key.id(),
        name: key.name.clone(),
        key: key.key.clone(),
        revoked: key.revoked,
        added_at: (UNIX_EPOCH + Duration::from_secs(key.added)).into(),
    }
}

/// A refused or failed change in the core's terms, with its causes.
fn failed(error: ChangeError) -> DriverError {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let text = error.to_string();
        // A transparent error repeats its source; each is said once.
        if !message.ends_with(&text) {
            message.push_str(&format!(": {text}"));
        }
        cause = error.source();
    }
    DriverError::new(error.code(), message)
}
