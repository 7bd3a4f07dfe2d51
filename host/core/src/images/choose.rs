//! Which image a request is about: one that is here, or one that a driver is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use hutch_api::Timestamp;
use hutch_api::image::ImagesPost;
use hutch_api::instance::InstanceSource;
use hutch_driver::image::ImageDriver;

use super::architecture;
use super::fetch::Fetching;
use super::import::{check_properties, image_operation};
use super::record::{ImageRecord, Origin};
use crate::error::{Error, Result};
use crate::projects::Feature;
use crate::{Caller, Core, Operation};

/// Bytes of the longest alias or fingerprint that a source is asked for.
pub(super) const LONGEST_NAME: usize = 1024;

/// The image that a request names.
pub enum ImageChoice {
    /// One that is here.
    Local(Arc<ImageRecord>),
    /// One that a driver knows.
    Elsewhere(Wanted),
}

/// An image that a driver is to be asked for.
pub struct Wanted {
    pub(super) driver: Arc<dyn ImageDriver>,
    pub(super) origin: Origin,
}

impl Core {
    /// Finds out which image an instance is to be made from, as far as that can be told without asking anybody else.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an alias or fingerprint that is not here, [`Error::Invalid`] for a request that names none,
    /// [`Error::Driver`] for a protocol that no plugin provides.
    pub fn image_choose(&self, project: &str, source: &InstanceSource) -> Result<ImageChoice> {
        let project = self.scope(project, Feature::Images)?;
        let elsewhere = !source.server.is_empty() || !source.protocol.is_empty();
        if !source.fingerprint.is_empty() {
            let local = self.images.find(&project, &source.fingerprint);
            if local.is_ok() || !elsewhere {
                return local.map(ImageChoice::Local);
            }
        }
        if elsewhere {
            let name = if source.alias.is_empty() {
                &source.fingerprint
            } else {
                &source.alias
            };
            return self
                .wanted(&source.protocol, &source.server, name, &source.properties)
                .map(ImageChoice::Elsewhere);
        }
        if !source.alias.is_empty() {
            // Clients also put a fingerprint where an alias belongs.
            let by_alias = self.images.by_alias(&project, &source.alias);
            return by_alias
                .or_else(|error| self.images.find(&project, &source.alias).map_err(|_| error))
                .map(ImageChoice::Local);
        }
        if source.properties.is_empty() {
            return Err(Error::invalid(
                "Must specify one of alias, fingerprint or properties for init from image",
            ));
        }
        let mut matching = self.images.records.list();
        matching.retain(|record| {
            let has = |(key, value): (&String, &String)| record.properties.get(key) == Some(value);
            record.project == project && source.properties.iter().all(has)
        });
        matching
            .into_iter()
            .max_by_key(|record| record.created_at)
            .map(ImageChoice::Local)
            .ok_or(Error::NotFound("Image"))
    }

    /// The driver of an image source, by its name.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a name, and for the address of a server that none has; [`Error::Driver`] for one that no plugin
    /// provides.
    pub(super) fn image_driver(&self, driver: &str, server: &str, action: &str) -> Result<Arc<dyn ImageDriver>> {
        if server.len() > 2048 {
            return Err(Error::invalid(format!(
                "The address of an image server has {} bytes, and may have 2048",
                server.len()
            )));
        }
        // A driver builds addresses of it, which would be taken for its own nonsense.
        if server.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Error::invalid(format!(
                "The address of an image server has white space or control characters in it: {server:?}"
            )));
        }
        if driver.is_empty() {
            let known: Vec<String> = self.drivers.list("image").into_iter().map(|info| info.name).collect();
            return Err(Error::invalid(format!(
                "The protocol of image server {server} is missing: one of {}",
                known.join(", ")
            )));
        }
        self.drivers.image(driver).map_err(Error::driver(action))
    }

    fn wanted(&self, driver: &str, server: &str, name: &str, options: &BTreeMap<String, String>) -> Result<Wanted> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(Error::invalid(
                "Must specify one of alias or fingerprint for an image of a server",
            ));
        }
        let implementation = self.image_driver(driver, server, &format!("finding image {name}"))?;
        let origin = Origin {
            driver: driver.to_owned(),
            server: server.to_owned(),
            name: name.to_owned(),
            options: options.clone(),
            build_key: None,
        };
        Ok(Wanted {
            driver: implementation,
            origin,
        })
    }

    /// The image that an instance is to be made from, fetched or built if it is not here; see [`Core::image_choose`] and
    /// [`Core::image_take`].
    ///
    /// # Errors
    /// Theirs.
    pub(crate) async fn image_for_instance(
        self: &Arc<Self>,
        _caller: &Caller,
        project: &str,
        source: &InstanceSource,
        operation: &Arc<Operation>,
    ) -> Result<Arc<ImageRecord>> {
        let choice = self.image_choose(project, source)?;
        self.image_take(project, choice, operation).await
    }

    /// The image that was chosen, fetched or built if it is not here. However many ask for it at a time, that is done once.
    ///
    /// # Errors
    /// The driver's and the download's, and [`Error::Invalid`] for an image that is not for this machine.
    pub async fn image_take(
        self: &Arc<Self>,
        project: &str,
        choice: ImageChoice,
        operation: &Arc<Operation>,
    ) -> Result<Arc<ImageRecord>> {
        let project = self.scope(project, Feature::Images)?;
        let record = match choice {
            ImageChoice::Local(record) => record,
            ImageChoice::Elsewhere(wanted) => {
                let fetching = Fetching {
                    cached: true,
                    auto_update: false,
                    public: false,
                    filename: String::new(),
                    aliases: Vec::new(),
                    properties: BTreeMap::new(),
                    profiles: Vec::new(),
                    expires_at: Timestamp::NEVER,
                };
                self.fetch(&project, wanted, fetching, operation).await?
            }
        };
        if record.architecture != architecture::of_this_machine() {
            return Err(Error::invalid(format!(
                "Image {} is for {}, and this machine is {}",
                record.fingerprint,
                record.architecture,
                architecture::of_this_machine()
            )));
        }
        self.image_used(&record).await
    }

    /// Makes an image of what a request describes: a copy of one at an image server, an instance or a snapshot.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a source that can't be, [`Error::NotFound`] for the project.
    pub async fn image_create(self: &Arc<Self>, project: &str, post: ImagesPost) -> Result<Arc<Operation>> {
        let of_instance = project;
        let project = self.scope(project, Feature::Images)?;
        let source = post.source.unwrap_or_default();
        if !matches!(post.compression_algorithm.as_str(), "" | "zstd") {
            let asked = &post.compression_algorithm;
            return Err(Error::invalid(format!(
                "Images are compressed with zstd here, not with {asked:.32?}"
            )));
        }
        check_properties(&post.properties)?;
        self.check_new_aliases(&project, &post.aliases)?;
        let profiles = self.check_image_profiles(&project, post.profiles)?;
        let fetching = Fetching {
            cached: false,
            auto_update: post.auto_update,
            public: post.public,
            filename: post.filename,
            aliases: post.aliases,
            properties: post.properties,
            profiles,
            expires_at: post.expires_at,
        };
        match source.kind.as_str() {
            "image" => {
                let name = if source.alias.is_empty() {
                    &source.fingerprint
                } else {
                    &source.alias
                };
                let wanted = self.wanted(&source.protocol, &source.server, name, &BTreeMap::new())?;
                let core = Arc::clone(self);
                let about = image_operation(&project, "Downloading image");
                let work = move |operation: Arc<Operation>| async move {
                    core.fetch(&project, wanted, fetching, &operation).await.map(drop)
                };
                self.operations.begin(about, work).await
            }
            _ if fetching.auto_update && source.kind != "image" => {
                Err(Error::invalid("Only an image of a server can be kept up to date"))
            }
            "instance" | "container" | "snapshot" => self.publish(of_instance, project, &source, fetching).await,
            other => Err(Error::invalid(format!(
                "Images can't be made from a source of type {other:?}"
            ))),
        }
    }

    /// Asks an image's origin for what it has now. A newer image takes over the aliases of the old one, which is deleted.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for an image that has no origin.
    pub async fn image_refresh(self: &Arc<Self>, project: &str, fingerprint: &str) -> Result<Arc<Operation>> {
        let project = self.scope(project, Feature::Images)?;
        let old = self.images.find(&project, fingerprint)?;
        let Some(origin) = &old.origin else {
            return Err(Error::invalid(
                "This image has no source from which it could be refreshed",
            ));
        };
        let wanted = self.wanted(&origin.driver, &origin.server, &origin.name, &origin.options)?;
        let core = Arc::clone(self);
        let about =
            image_operation(&project, "Refreshing image").also("images", format!("/1.0/images/{}", old.fingerprint));
        self.operations
            .begin(about, move |operation| async move {
                core.refresh(&old, wanted, &operation).await
            })
            .await
    }

    /// Refreshes all images that are kept up to date, one after the other. What fails is logged and tried again next time.
    pub async fn refresh_images(self: &Arc<Self>) {
        let kept = |record: &Arc<ImageRecord>| record.auto_update && record.origin.is_some();
        for record in self.images.records.list().into_iter().filter(kept) {
            match self.image_refresh(&record.project, &record.fingerprint).await {
                Ok(operation) => operation.wait(None).await,
                Err(error) => {
                    tracing::warn!(
                        image = record.fingerprint,
                        error = error.report(),
                        "an image could not be refreshed"
                    );
                }
            }
        }
    }

    async fn refresh(
        self: &Arc<Self>,
        old: &Arc<ImageRecord>,
        wanted: Wanted,
        operation: &Arc<Operation>,
    ) -> Result<()> {
        let fetching = Fetching {
            cached: old.cached,
            auto_update: old.auto_update,
            public: old.public,
            filename: old.filename.clone(),
            aliases: Vec::new(),
            properties: BTreeMap::new(),
            profiles: old.profiles.clone(),
            expires_at: Timestamp::NEVER,
        };
        let new = self.fetch(&old.project, wanted, fetching, operation).await?;
        let changed = new.fingerprint != old.fingerprint;
        operation.set_metadata("refreshed", changed.into());
        if !changed {
            return Ok(());
        }
        self.move_aliases(old, &new).await?;
        self.delete_image(old, operation.id()).await
    }
}
