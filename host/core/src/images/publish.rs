//! Images made from instances.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hutch_api::image::ImagesPostSource;
use hutch_archive::{ImageMetadata, Progress};
use hutch_container::RootFs;
use hutch_driver::MountPlan;

use super::fetch::Fetching;
use super::files::StagedFile;
use super::import::{NewImage, Templates, archive_error, image_operation};
use crate::error::{Error, Result};
use crate::instances::owner::Owner;
use crate::instances::{Instance, metadata};
use crate::pools::{OpenPool, instance_volume};
use crate::{Core, Operation, settings};

/// What of an instance becomes an image.
struct Published {
    instance: Arc<Instance>,
    snapshot: Option<String>,
}

impl Core {
    /// Makes an image of an instance that is stopped, or of a snapshot. `project` is the instance's, `into` the image's.
    pub(super) async fn publish(
        self: &Arc<Self>,
        project: &str,
        into: String,
        source: &ImagesPostSource,
        how: Fetching,
    ) -> Result<Arc<Operation>> {
        let (name, snapshot) = match source.name.split_once('/') {
            Some((name, snapshot)) if source.kind == "snapshot" => (name, Some(snapshot.to_owned())),
            None if source.kind != "snapshot" => (source.name.as_str(), None),
            _ => {
                return Err(Error::invalid(format!(
                    "Invalid name {:?} of a {} to publish",
                    source.name, source.kind
                )));
            }
        };
        let instance = self.instances.get(project, name)?;
        if let Some(snapshot) = &snapshot {
            self.snapshot(project, name, snapshot)?;
        } else if instance.view().keeper.is_some() {
            return Err(Error::invalid(format!(
                "Instance {name} is running: stop it, or publish a snapshot of it"
            )));
        }
        let about = image_operation(&into, "Publishing instance").also("instances", format!("/1.0/instances/{name}"));
        let (core, published) = (Arc::clone(self), Published { instance, snapshot });
        let work = move |operation: Arc<Operation>| async move {
            let main = core.pack(published, &how.properties, &operation).await?;
            let new = NewImage {
                project: into,
                main,
                rootfs: None,
                filename: how.filename,
                public: how.public,
                auto_update: false,
                cached: false,
                properties: how.properties,
                aliases: how.aliases,
                fingerprint: None,
                profiles: how.profiles,
                expires_at: how.expires_at,
                origin: None,
                source_aliases: Vec::new(),
                // One that is the same to the byte has properties and readers of its own already.
                may_exist: false,
            };
            core.take_in(new, &operation).await.map(drop)
        };
        self.operations.begin(about, work).await
    }

    /// Packs a unified image with these properties besides those of the instance's own image. The owner does it, so that the
    /// instance is not started or changed meanwhile.
    async fn pack(
        self: &Arc<Self>,
        published: Published,
        properties: &BTreeMap<String, String>,
        operation: &Arc<Operation>,
    ) -> Result<StagedFile> {
        let Published { instance, snapshot } = published;
        let record = Arc::clone(&instance.view().record);
        let kept = self.kept_templates(&record.id).await?;
        let (templates, said) = kept.map(|kept| (kept.templates, kept.metadata)).unwrap_or_default();
        let mut all = match &said {
            Some(said) => said.properties.clone(),
            None => metadata::of_image(&record),
        };
        all.extend(properties.clone());
        let metadata = ImageMetadata {
            architecture: record.architecture.clone(),
            creation_date: time::OffsetDateTime::now_utc().unix_timestamp(),
            expiry_date: said.map_or(0, |said| said.expiry_date),
            properties: settings::pruned(all),
            templates: templates.templates.clone(),
        };
        let (staged, operation) = (self.stage_upload()?, Arc::clone(operation));
        let packed = instance.ask_for_root(move |owner| {
            Box::pin(async move { owner.pack(snapshot, metadata, templates, staged, operation).await })
        });
        packed.await
    }
}

impl Owner {
    async fn pack(
        &mut self,
        snapshot: Option<String>,
        metadata: ImageMetadata,
        templates: Templates,
        out: StagedFile,
        operation: Arc<Operation>,
    ) -> Result<StagedFile> {
        if snapshot.is_none() && self.keeper.is_some() {
            return Err(Error::invalid(format!(
                "Instance {} has been started meanwhile",
                self.record.name
            )));
        }
        match &snapshot {
            Some(snapshot) => drop(self.whole_snapshot(snapshot)?),
            None => self.require_whole("publish it")?,
        }
        self.close_files().await;
        let action = format!("publishing instance {}", self.record.name);
        let pool = self.core.open_pool(&self.record.pool).await?;
        self.use_root();
        let (call, reference, volume) = (
            pool.call(Some(&operation)),
            pool.reference(),
            instance_volume(&self.record),
        );
        let plan = match &snapshot {
            Some(snapshot) => {
                pool.require("snapshot")?;
                pool.driver.snapshot_mount(&call, &reference, &volume, snapshot).await
            }
            None => pool.driver.mount(&call, &reference, &volume).await,
        };
        let layers = layers(&pool, &plan.map_err(Error::driver(&action))?)?;
        let (unpacker, what) = (self.core.images.unpacker.clone(), action.clone());
        let work = move || {
            let mut told = 0;
            let watch = &mut |progress: Progress| {
                let megabytes = progress.unpacked >> 20;
                if megabytes >= told + 8 {
                    told = megabytes;
                    operation.set_metadata(
                        super::import::PROGRESS,
                        format!("Packing image: {megabytes} MiB").into(),
                    );
                }
                super::import::go_on(&operation)
            };
            unpacker
                .pack(&layers, &metadata, &templates.texts, out.file(), watch)
                .map_err(archive_error(&what))?;
            Ok::<_, Error>(out)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::io(action)(std::io::Error::other(e)))?
    }
}

/// The directories that a plan shows, uppermost first. A snapshot's plan may have no layer that can be written.
fn layers(pool: &OpenPool, plan: &MountPlan) -> Result<Vec<PathBuf>> {
    if plan.upper.is_none() && !plan.layers.is_empty() {
        return plan.layers.iter().map(|layer| pool.path(layer)).collect();
    }
    Ok(match pool.root_fs(plan)? {
        RootFs::Bind { path } => vec![path],
        RootFs::Overlay { layers, upper, .. } => [upper].into_iter().chain(layers).collect(),
    })
}
