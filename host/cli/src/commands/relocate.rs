//! `copy`, `move`, `rename`, within one daemon.

use std::collections::BTreeMap;

use clap::Args;
use hutch_api::instance::{Instance, InstancePost, InstancePut, InstanceSource, InstancesPost};
use hutch_api::{Config, Devices};
use hyper::Method;

use super::common::on_same_daemon;
use crate::client::{ApiPath, Client};
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::keyvalue;
use crate::object::Place;

/// The project of names without one, as the wire has it: empty.
const SAME_PROJECT: &str = "";

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The instance, or INSTANCE/SNAPSHOT
    #[arg(value_name = "[REMOTE:]SOURCE")]
    source: String,
    /// The copy's name; one is made up without it
    #[arg(value_name = "[REMOTE:]NAME")]
    target: Option<String>,
    #[command(flatten)]
    changes: Changes,
    /// Delete the copy when it stops
    #[arg(short, long)]
    ephemeral: bool,
    /// Leave snapshots out
    #[arg(long)]
    instance_only: bool,
    /// Copy even if files change meanwhile; hutchd freezes what runs for the copy, and has no need of it
    #[arg(long, hide = true)]
    allow_inconsistent: bool,
    /// Bring a stopped copy up to date that is there already: its root, configuration and snapshots become the source's
    #[arg(long)]
    refresh: bool,
}

/// What is hidden of these hutchd does not do; other servers do.
#[derive(Debug, Args)]
#[command(mut_args(|arg| match arg.get_id().as_str() {
    "target_project" => arg.hide(true),
    _ => arg,
}))]
pub(crate) struct MoveArgs {
    /// The instance, or INSTANCE/SNAPSHOT
    #[arg(value_name = "[REMOTE:]SOURCE")]
    source: String,
    /// Its new name; it keeps its own without one
    #[arg(value_name = "[REMOTE:]NAME")]
    target: Option<String>,
    #[command(flatten)]
    changes: Changes,
    /// Lose its snapshots on the way to another pool
    #[arg(long)]
    instance_only: bool,
    /// Copy even if files change meanwhile
    #[arg(long, hide = true)]
    allow_inconsistent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// The instance, or INSTANCE/SNAPSHOT
    #[arg(value_name = "[REMOTE:]INSTANCE")]
    source: String,
    /// The new name
    new_name: String,
}

/// What is to be different afterwards.
#[derive(Clone, Debug, Args)]
pub(crate) struct Changes {
    /// Set a configuration key (several times)
    #[arg(short, long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Set keys of a device, a profile's too (several times)
    #[arg(short, long, value_name = "DEVICE,KEY=VALUE,…")]
    device: Vec<String>,
    /// Apply a profile instead of those it has (several times)
    #[arg(short, long, value_name = "NAME")]
    profile: Vec<String>,
    /// Apply no profile
    #[arg(long, conflicts_with = "profile")]
    no_profiles: bool,
    /// Keep its root in this storage pool
    #[arg(short, long, value_name = "POOL")]
    storage: Option<String>,
    /// Put it into this project
    #[arg(long, value_name = "PROJECT")]
    target_project: Option<String>,
}

impl Changes {
    fn none(&self) -> bool {
        self.config.is_empty()
            && self.device.is_empty()
            && self.profile.is_empty()
            && !self.no_profiles
            && self.storage.is_none()
            && self.target_project.is_none()
    }

    fn profiles(&self) -> Option<Vec<String>> {
        (self.no_profiles || !self.profile.is_empty()).then(|| self.profile.clone())
    }

    /// Makes the changes to configuration and devices. What profiles give is copied before it is changed.
    fn apply(&self, original: &Instance, config: &mut Config, devices: &mut Devices) -> Result<()> {
        config.extend(keyvalue::pairs(&self.config)?);
        for text in &self.device {
            let name = text.split(',').next().unwrap_or_default();
            inherit(original, devices, name);
            keyvalue::device(devices, text)?;
        }
        if let Some(pool) = &self.storage {
            let root = original
                .expanded_devices
                .iter()
                .find(|(_, keys)| keyvalue::is_type(keys, "disk") && keys.get("path").is_some_and(|path| path == "/"));
            let (name, _) =
                root.ok_or_else(|| Error::usage(format!("{} has no root disk to put elsewhere", original.name)))?;
            inherit(original, devices, name);
            keyvalue::device(devices, &format!("{name},pool={pool}"))?;
        }
        Ok(())
    }
}

fn inherit(original: &Instance, devices: &mut Devices, name: &str) {
    if !devices.contains_key(name)
        && let Some(keys) = original.expanded_devices.get(name)
    {
        devices.insert(name.to_owned(), keys.clone());
    }
}

/// Whether the daemon's own key of an instance belongs to a copy of it, too.
fn is_copied(key: &str) -> bool {
    !key.starts_with("volatile.") || key == "volatile.base_image"
}

/// Copies an instance, or makes one of a snapshot.
pub(crate) async fn copy(ctx: &Context, args: CopyArgs) -> Result<()> {
    let Target { client, name } = ctx.named(&args.source)?;
    let new_name = on_same_daemon(ctx, &client, args.target.as_deref().unwrap_or_default())?;
    let original = find(&client, &name).await?;
    let mut config: Config = original
        .config
        .clone()
        .into_iter()
        .filter(|(key, _)| is_copied(key))
        .collect();
    let mut devices = original.devices.clone();
    args.changes.apply(&original, &mut config, &mut devices)?;
    let post = InstancesPost {
        name: new_name.clone(),
        kind: original.kind.clone(),
        architecture: original.architecture.clone(),
        description: original.description.clone(),
        ephemeral: args.ephemeral || original.ephemeral,
        stateful: original.stateful,
        profiles: Some(args.changes.profiles().unwrap_or_else(|| original.profiles.clone())),
        source: InstanceSource {
            kind: "copy".into(),
            source: name.clone(),
            project: if args.changes.target_project.is_some() {
                client.project().to_owned()
            } else {
                SAME_PROJECT.into()
            },
            base_image: config.get("volatile.base_image").cloned().unwrap_or_default(),
            instance_only: args.instance_only,
            container_only: args.instance_only,
            allow_inconsistent: args.allow_inconsistent,
            refresh: args.refresh,
            ..InstanceSource::default()
        },
        config,
        devices,
        ..InstancesPost::default()
    };
    let in_project = |path: ApiPath| match &args.changes.target_project {
        Some(project) => path.query("project", project),
        None => path,
    };
    let path = in_project(ApiPath::new(["instances"]));
    let refreshed = Place {
        client: &client,
        path: in_project(ApiPath::new(["instances", &new_name])),
        name: &new_name,
    };
    let refreshed = match args.refresh && !new_name.is_empty() && is_there(&refreshed).await? {
        true => Some(refreshed),
        false => None,
    };
    let answer = client
        .send(Method::POST, path, &post, None)
        .await
        .map_err(|error| error.about(&name))?;
    let made = super::create::created_name(&answer).unwrap_or_else(|| new_name.clone());
    client
        .finish(answer, &ctx.progress(&made))
        .await
        .map_err(|error| error.about(&made))?;
    if let Some(copy) = refreshed {
        let change = |there: &Instance, put: &mut InstancePut| {
            adapt(there, put, &post);
            Ok(())
        };
        return copy.modify(change).await;
    }
    if post.name.is_empty() {
        ctx.say(&format!("Instance name is: {made}"))?;
    }
    Ok(())
}

/// Whether there is an instance.
async fn is_there(place: &Place<'_>) -> Result<bool> {
    match place.get::<Instance>().await {
        Ok(_) => Ok(true),
        Err(error) if error.status() == Some(404) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives a refreshed copy the configuration that a new one would have. It stays in its own storage pool.
fn adapt(there: &Instance, put: &mut InstancePut, wanted: &InstancesPost) {
    put.config.clone_from(&wanted.config);
    put.devices.clone_from(&wanted.devices);
    put.profiles = wanted.profiles.clone().unwrap_or_default();
    put.description.clone_from(&wanted.description);
    put.ephemeral = wanted.ephemeral;
    let is_root = |keys: &BTreeMap<String, String>| {
        keyvalue::is_type(keys, "disk") && keys.get("path").is_some_and(|path| path == "/")
    };
    let own = there.expanded_devices.iter().find(|(_, keys)| is_root(keys));
    let Some((name, own)) = own else { return };
    match (put.devices.values_mut().find(|keys| is_root(keys)), own.get("pool")) {
        (Some(keys), Some(pool)) => drop(keys.insert("pool".to_owned(), pool.clone())),
        // The profiles of the source may put it elsewhere.
        (None, _) if there.devices.contains_key(name) => drop(put.devices.insert(name.clone(), own.clone())),
        _ => {}
    }
}

/// An instance, or what a snapshot would be as one.
async fn find(client: &Client, name: &str) -> Result<Instance> {
    let Some((instance, snapshot)) = name.split_once('/') else {
        return Place {
            client,
            path: ApiPath::new(["instances", name]),
            name,
        }
        .get()
        .await;
    };
    let instance = find_plain(client, instance).await?;
    let path = ApiPath::new(["instances", &instance.name, "snapshots", snapshot]);
    let snapshot: hutch_api::instance::InstanceSnapshot = Place { client, path, name }.get().await?;
    Ok(Instance {
        architecture: snapshot.architecture,
        config: snapshot.config,
        devices: snapshot.devices,
        ephemeral: snapshot.ephemeral,
        expanded_config: snapshot.expanded_config,
        expanded_devices: snapshot.expanded_devices,
        profiles: snapshot.profiles,
        stateful: snapshot.stateful,
        ..instance
    })
}

async fn find_plain(client: &Client, name: &str) -> Result<Instance> {
    Place {
        client,
        path: ApiPath::new(["instances", name]),
        name,
    }
    .get()
    .await
}

/// Moves an instance to another name, pool or project.
pub(crate) async fn relocate(ctx: &Context, args: MoveArgs) -> Result<()> {
    let Target { client, name } = ctx.named(&args.source)?;
    let new_name = match args.target.as_deref() {
        None => name.clone(),
        Some(target) => on_same_daemon(ctx, &client, target)?,
    };
    if args.changes.none() && args.target.is_some() {
        return rename_to(ctx, &client, &name, &new_name).await;
    }
    if args.changes.none() {
        return Err(Error::usage(format!(
            "{name} is to be moved where? It needs a new name"
        )));
    }
    let original = find_plain(&client, &name).await?;
    let (mut config, mut devices) = (original.config.clone(), original.devices.clone());
    // The pool goes by a field of its own, with which the daemon changes the root's device itself.
    let others = Changes {
        storage: None,
        ..args.changes.clone()
    };
    others.apply(&original, &mut config, &mut devices)?;
    let post = InstancePost {
        name: new_name.clone(),
        migration: true,
        live: Some(false),
        instance_only: args.instance_only,
        allow_inconsistent: args.allow_inconsistent,
        pool: args.changes.storage.clone().unwrap_or_default(),
        project: args.changes.target_project.clone().unwrap_or_default(),
        config: (!args.changes.config.is_empty()).then_some(config),
        devices: (!args.changes.device.is_empty()).then_some(devices),
        profiles: args.changes.profiles(),
        ..InstancePost::default()
    };
    client
        .change(
            Method::POST,
            ApiPath::new(["instances", &name]),
            &post,
            &ctx.progress(&name),
        )
        .await
        .map_err(|error| error.about(&name))
        .map(drop)
}

/// Gives an instance or a snapshot a new name.
pub(crate) async fn rename(ctx: &Context, args: RenameArgs) -> Result<()> {
    let Target { client, name } = ctx.named(&args.source)?;
    let new_name = on_same_daemon(ctx, &client, &args.new_name)?;
    rename_to(ctx, &client, &name, &new_name).await
}

async fn rename_to(ctx: &Context, client: &Client, name: &str, new_name: &str) -> Result<()> {
    let (path, new_name) = match name.split_once('/') {
        None => (ApiPath::new(["instances", name]), new_name),
        Some((instance, snapshot)) => {
            // `c1/s1 c1/s2` and `c1/s1 s2` mean the same.
            let short = new_name.strip_prefix(&format!("{instance}/")).unwrap_or(new_name);
            (ApiPath::new(["instances", instance, "snapshots", snapshot]), short)
        }
    };
    let post = InstancePost {
        name: new_name.to_owned(),
        live: Some(false),
        ..InstancePost::default()
    };
    client
        .change(Method::POST, path, &post, &ctx.progress(name))
        .await
        .map_err(|error| error.about(name))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_leaves_the_originals_addresses_behind() {
        assert!(is_copied("limits.cpu") && is_copied("volatile.base_image"));
        assert!(!is_copied("volatile.eth0.hwaddr"));
    }

    #[test]
    fn a_profiles_device_is_copied_before_it_is_changed() {
        let original: Instance = serde_json::from_value(serde_json::json!({
            "name": "c1",
            "expanded_devices": {"root": {"type": "disk", "path": "/", "pool": "a"}}
        }))
        .unwrap();
        let changes = Changes {
            config: vec!["user.x=1".into()],
            device: vec!["root,size=1GiB".into()],
            profile: Vec::new(),
            no_profiles: false,
            storage: Some("b".into()),
            target_project: None,
        };
        let (mut config, mut devices) = (Config::new(), Devices::new());
        changes.apply(&original, &mut config, &mut devices).unwrap();
        assert_eq!(devices["root"]["pool"], "b");
        assert_eq!(devices["root"]["size"], "1GiB");
        assert_eq!(config["user.x"], "1");
    }
}
