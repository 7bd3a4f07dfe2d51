//! `storage volume`.

use clap::{Args, Subcommand, ValueEnum};
use hutch_api::instance::Instance;
use hutch_api::storage::{StorageVolume, StorageVolumeSource, StorageVolumesPost};
use hyper::Method;
use serde_json::json;

use super::common::on_same_daemon;
use crate::client::ApiPath;
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::object::Place;
use crate::output::{self, FormatArg, Table};
use crate::{edit, keyvalue};

/// Volumes that people make; the others belong to instances and images.
const CUSTOM: &str = "custom";

/// What a volume holds: files, or a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Content {
    #[default]
    Filesystem,
    Block,
}

/// A volume in a pool.
#[derive(Debug, Args)]
pub(crate) struct VolumeName {
    /// The pool
    #[arg(value_name = "[REMOTE:]POOL")]
    pool: String,
    /// The volume; custom/ may stand before it, or container/ and an instance's name
    #[arg(value_name = "[TYPE/]VOLUME")]
    volume: String,
}

/// What is hidden of these is for volumes that people make, of which hutchd has none; other servers do.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List volumes
    #[command(alias = "ls")]
    List(ListArgs),
    /// Create a volume, from standard input if that is not a terminal
    #[command(hide = true)]
    Create {
        #[command(flatten)]
        name: VolumeName,
        /// Its keys
        #[arg(value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// What it holds
        #[arg(short = 't', long = "type", value_enum, default_value = "filesystem")]
        content: Content,
        /// Describe it
        #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
        description: String,
    },
    /// Show everything about a volume
    Show {
        #[command(flatten)]
        name: VolumeName,
    },
    /// Edit a volume in $EDITOR, or read it from standard input
    #[command(hide = true)]
    Edit {
        #[command(flatten)]
        name: VolumeName,
    },
    /// Print a key's value
    Get {
        #[command(flatten)]
        name: VolumeName,
        /// The key
        key: String,
        /// The key is a property of the volume itself, such as description
        #[arg(short, long)]
        property: bool,
    },
    /// Set keys
    #[command(hide = true)]
    Set {
        #[command(flatten)]
        name: VolumeName,
        /// The keys
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
        /// The keys are properties of the volume itself, such as description
        #[arg(short, long)]
        property: bool,
    },
    /// Remove a key
    #[command(hide = true)]
    Unset {
        #[command(flatten)]
        name: VolumeName,
        /// The key
        key: String,
        /// The key is a property of the volume itself, such as description
        #[arg(short, long)]
        property: bool,
    },
    /// Delete a volume
    #[command(hide = true)]
    #[command(alias = "rm")]
    Delete {
        #[command(flatten)]
        name: VolumeName,
    },
    /// Give a volume a new name
    #[command(hide = true)]
    #[command(alias = "mv")]
    Rename {
        #[command(flatten)]
        name: VolumeName,
        /// Its new name
        new_name: String,
    },
    /// Copy a volume, within the pool or to another
    #[command(hide = true)]
    #[command(alias = "cp")]
    Copy {
        /// The volume
        #[arg(value_name = "[REMOTE:]POOL/VOLUME")]
        source: String,
        /// The copy
        #[arg(value_name = "[REMOTE:]POOL/VOLUME")]
        target: String,
        /// Leave snapshots out
        #[arg(long)]
        volume_only: bool,
    },
    /// Attach a volume to an instance
    #[command(hide = true)]
    Attach {
        #[command(flatten)]
        name: VolumeName,
        /// The instance
        instance: String,
        /// The device's name, if a path follows; else the path, and the device is called as the volume
        device_or_path: Option<String>,
        /// Where it appears in the instance
        path: Option<String>,
    },
    /// Detach a volume from an instance
    #[command(hide = true)]
    Detach {
        #[command(flatten)]
        name: VolumeName,
        /// The instance
        instance: String,
        /// The device, if it is attached more than once
        device: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The pool; all pools without it
    #[arg(value_name = "[REMOTE:][POOL]")]
    pool: Option<String>,
    /// Volumes of all projects
    #[arg(long)]
    all_projects: bool,
    #[command(flatten)]
    format: FormatArg,
}

/// A volume's place on a daemon.
struct Volume {
    target: Target,
    kind: String,
    name: String,
}

impl Volume {
    fn find(ctx: &Context, name: &VolumeName) -> Result<Self> {
        let target = ctx.named(&name.pool)?;
        let (kind, name) = split(&name.volume);
        Ok(Self { target, kind, name })
    }

    fn path(&self) -> ApiPath {
        ApiPath::new(["storage-pools", &self.target.name, "volumes", &self.kind, &self.name])
    }

    fn place(&self) -> Place<'_> {
        Place {
            client: &self.target.client,
            path: self.path(),
            name: &self.name,
        }
    }
}

/// Splits `type/name`, where the type may be left out. Only types that exist count, because snapshots have a slash, too.
fn split(text: &str) -> (String, String) {
    match text.split_once('/') {
        Some((kind @ ("custom" | "container" | "virtual-machine" | "image"), name)) => (kind.into(), name.into()),
        _ => (CUSTOM.into(), text.into()),
    }
}

impl VolumeCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::List(args) => list(ctx, args).await,
            Self::Create {
                name,
                config,
                content,
                description,
            } => create(ctx, &name, &config, content, description).await,
            Self::Show { name } => Volume::find(ctx, &name)?.place().show::<StorageVolume>().await,
            Self::Edit { name } => Volume::find(ctx, &name)?.place().edit::<StorageVolume>().await,
            Self::Get { name, key, property } => {
                Volume::find(ctx, &name)?
                    .place()
                    .print::<StorageVolume>(&key, property)
                    .await
            }
            Self::Set {
                name,
                settings,
                property,
            } => {
                let settings = keyvalue::settings(&settings)?;
                Volume::find(ctx, &name)?
                    .place()
                    .set::<StorageVolume>(settings, property)
                    .await
            }
            Self::Unset { name, key, property } => {
                Volume::find(ctx, &name)?
                    .place()
                    .unset::<StorageVolume>(&key, property)
                    .await
            }
            Self::Delete { name } => delete(ctx, &name).await,
            Self::Rename { name, new_name } => rename(ctx, &name, &new_name).await,
            Self::Copy {
                source,
                target,
                volume_only,
            } => copy(ctx, &source, &target, volume_only).await,
            Self::Attach {
                name,
                instance,
                device_or_path,
                path,
            } => attach(ctx, &name, &instance, device_or_path, path).await,
            Self::Detach { name, instance, device } => detach(ctx, &name, &instance, device).await,
        }
    }
}

async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    let target = ctx.target(args.pool.as_deref().unwrap_or_default())?;
    let pools: Vec<String> = if target.name.is_empty() {
        let pools: Vec<hutch_api::storage::StoragePool> = target
            .client
            .get(ApiPath::new(["storage-pools"]).query("recursion", "1"))
            .await?;
        pools.into_iter().map(|pool| pool.name).collect()
    } else {
        vec![target.name.clone()]
    };
    let mut volumes = Vec::new();
    for pool in &pools {
        let mut path = ApiPath::new(["storage-pools", pool, "volumes"]).query("recursion", "1");
        path = path.of_all_projects(args.all_projects);
        let found: Vec<StorageVolume> = target.client.get(path).await.map_err(|error| error.about(pool))?;
        volumes.extend(found.into_iter().map(|volume| (pool, volume)));
    }
    let objects: Vec<_> = volumes.iter().map(|(_, volume)| volume).collect();
    output::print_list(args.format.format, &objects, |_| {
        let head = ["TYPE", "NAME", "DESCRIPTION", "CONTENT TYPE", "USED BY"];
        let several = target.name.is_empty();
        let before = several
            .then_some("POOL")
            .into_iter()
            .chain(args.all_projects.then_some("PROJECT"));
        let mut table = Table::new(before.chain(head));
        for (pool, volume) in &volumes {
            let before = several.then(|| (*pool).clone());
            let before = before
                .into_iter()
                .chain(args.all_projects.then(|| volume.project.clone()));
            let cells = [
                volume.kind.clone(),
                volume.name.clone(),
                volume.description.clone(),
                volume.content_type.clone(),
                output::used_by(&volume.used_by),
            ];
            table.row(before.chain(cells).collect());
        }
        table
    })
}

async fn create(
    ctx: &Context,
    name: &VolumeName,
    config: &[String],
    content: Content,
    description: String,
) -> Result<()> {
    let volume = Volume::find(ctx, name)?;
    if volume.kind != CUSTOM {
        return Err(Error::usage(format!(
            "volumes of the type {} are made with what they belong to",
            volume.kind
        )));
    }
    let content_type = if content == Content::Block {
        "block"
    } else {
        "filesystem"
    };
    let mut post = StorageVolumesPost {
        name: volume.name.clone(),
        kind: CUSTOM.into(),
        content_type: content_type.into(),
        description,
        ..StorageVolumesPost::default()
    };
    if let Some(text) = edit::piped_file()? {
        let given: StorageVolumesPost = output::from_yaml(&text, "standard input")?;
        post.config = given.config;
        if post.description.is_empty() {
            post.description = given.description;
        }
    }
    post.config.extend(keyvalue::pairs(config)?);
    let path = ApiPath::new(["storage-pools", &volume.target.name, "volumes", CUSTOM]);
    let made = volume
        .target
        .client
        .change(Method::POST, path, &post, &ctx.progress(&volume.name))
        .await;
    made.map_err(|error| error.about(&volume.name))?;
    ctx.say(&format!("Storage volume {} created", volume.name))
}

async fn delete(ctx: &Context, name: &VolumeName) -> Result<()> {
    let volume = Volume::find(ctx, name)?;
    let progress = ctx.progress(&volume.name);
    let gone = volume.target.client.remove(volume.path(), &progress).await;
    gone.map_err(|error| error.about(&volume.name))?;
    ctx.say(&format!("Storage volume {} deleted", volume.name))
}

async fn rename(ctx: &Context, name: &VolumeName, new_name: &str) -> Result<()> {
    let volume = Volume::find(ctx, name)?;
    let (client, progress) = (&volume.target.client, ctx.progress(&volume.name));
    let renamed = client
        .change(Method::POST, volume.path(), &json!({"name": new_name}), &progress)
        .await;
    renamed.map_err(|error| error.about(&volume.name))?;
    ctx.say(&format!("Storage volume {} renamed to {new_name}", volume.name))
}

fn pool_and_volume(text: &str) -> Result<(&str, &str)> {
    text.split_once('/')
        .filter(|(pool, volume)| !pool.is_empty() && !volume.is_empty())
        .ok_or_else(|| Error::usage(format!("{text:?} is not of the form POOL/VOLUME")))
}

async fn copy(ctx: &Context, source: &str, target: &str, volume_only: bool) -> Result<()> {
    let Target { client, name } = ctx.named(source)?;
    let copy = on_same_daemon(ctx, &client, target)?;
    let ((from_pool, from), (to_pool, to)) = (pool_and_volume(&name)?, pool_and_volume(&copy)?);
    let place = Place {
        client: &client,
        path: ApiPath::new(["storage-pools", from_pool, "volumes", CUSTOM, from]),
        name: from,
    };
    let original: StorageVolume = place.get().await?;
    let post = StorageVolumesPost {
        name: to.to_owned(),
        kind: CUSTOM.into(),
        content_type: original.content_type,
        description: original.description,
        // What the daemon keeps there belongs to the original.
        config: original
            .config
            .into_iter()
            .filter(|(key, _)| !key.starts_with("volatile."))
            .collect(),
        source: StorageVolumeSource {
            kind: "copy".into(),
            name: from.to_owned(),
            pool: from_pool.to_owned(),
            volume_only,
            ..StorageVolumeSource::default()
        },
    };
    let path = ApiPath::new(["storage-pools", to_pool, "volumes", CUSTOM]);
    let made = client.change(Method::POST, path, &post, &ctx.progress(to)).await;
    made.map_err(|error| error.about(to))?;
    ctx.say(&format!("Storage volume {name} copied to {copy}"))
}

async fn attach(
    ctx: &Context,
    name: &VolumeName,
    instance: &str,
    device_or_path: Option<String>,
    path: Option<String>,
) -> Result<()> {
    let volume = Volume::find(ctx, name)?;
    let (device, path) = match (device_or_path, path) {
        (Some(device), Some(path)) => (device, Some(path)),
        (path, None) => (volume.name.clone(), path),
        (None, path) => (volume.name.clone(), path),
    };
    let place = Place {
        client: &volume.target.client,
        path: ApiPath::new(["instances", instance]),
        name: instance,
    };
    place
        .modify::<Instance>(|_, put| {
            if put.devices.contains_key(&device) {
                return Err(Error::usage(format!("{instance} has a device {device} already")));
            }
            let keys = [
                ("type", "disk"),
                ("pool", &volume.target.name),
                ("source", &volume.name),
            ];
            let mut keys: hutch_api::Config = keys
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            keys.extend(path.map(|path| ("path".to_owned(), path)));
            put.devices.insert(device.clone(), keys);
            Ok(())
        })
        .await?;
    ctx.say(&format!(
        "Storage volume {} attached to {instance} by the device {device}",
        volume.name
    ))
}

async fn detach(ctx: &Context, name: &VolumeName, instance: &str, device: Option<String>) -> Result<()> {
    let volume = Volume::find(ctx, name)?;
    let place = Place {
        client: &volume.target.client,
        path: ApiPath::new(["instances", instance]),
        name: instance,
    };
    place
        .modify::<Instance>(|_, put| {
            let is = |keys: &hutch_api::Config, key: &str, value: &str| keys.get(key).is_some_and(|it| it == value);
            let found: Vec<_> = put
                .devices
                .iter()
                .filter(|(name, keys)| {
                    keyvalue::is_type(keys, "disk")
                        && is(keys, "pool", &volume.target.name)
                        && is(keys, "source", &volume.name)
                        && device.as_ref().is_none_or(|device| device == *name)
                })
                .map(|(name, _)| name.clone())
                .collect();
            match found.as_slice() {
                [only] => put.devices.remove(only),
                [] => return Err(Error::usage(format!("{} is not attached to {instance}", volume.name))),
                several => {
                    let several = several.join(", ");
                    return Err(Error::usage(format!(
                        "{} is attached as {several}; name one of them",
                        volume.name
                    )));
                }
            };
            Ok(())
        })
        .await?;
    ctx.say(&format!("Storage volume {} detached from {instance}", volume.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_may_stand_before_the_name() {
        assert_eq!(split("container/c1"), ("container".into(), "c1".into()));
        assert_eq!(split("v1"), ("custom".into(), "v1".into()));
        assert_eq!(split("v1/snap"), ("custom".into(), "v1/snap".into()));
    }

    #[test]
    fn copies_name_pools() {
        assert_eq!(pool_and_volume("p/v").unwrap(), ("p", "v"));
        assert!(pool_and_volume("v").is_err() && pool_and_volume("p/").is_err());
    }
}
