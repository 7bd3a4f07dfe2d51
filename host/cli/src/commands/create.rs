//! `launch`, `create` (`init`).

use std::collections::BTreeMap;

use clap::Args;
use hutch_api::instance::{CONTAINER, Instance, InstanceSource, InstanceStatePut, InstancesPost, VIRTUAL_MACHINE};
use hutch_api::profile::Profile;
use hutch_api::server::Server;
use hutch_api::{Config, Devices};
use hyper::Method;
use serde::Deserialize;

use crate::client::{Answer, ApiPath, Client};
use crate::commands::image_name;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::{edit, keyvalue, output, terminal};

/// The extension of daemons that start what they create in the same request.
const CREATE_START: &str = "instance_create_start";

#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    #[command(flatten)]
    create: InstanceArgs,
    /// Attach to the console once it runs
    #[arg(long)]
    console: bool,
    /// The image
    #[arg(value_name = "[REMOTE:]IMAGE")]
    image: String,
    /// The instance's name; one is made up without it
    #[arg(value_name = "[REMOTE:]NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    create: InstanceArgs,
    /// Create it without an image, with an empty root
    #[arg(long)]
    empty: bool,
    /// The image, and the instance's name; one is made up without it
    #[arg(value_names = ["[REMOTE:]IMAGE", "[REMOTE:]NAME"], num_args = 0..=2)]
    names: Vec<String>,
}

/// What an instance is to be like.
#[derive(Debug, Args)]
pub(crate) struct InstanceArgs {
    /// Set a configuration key (several times)
    #[arg(short, long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Set keys of a device, a profile's too (several times)
    #[arg(short, long, value_name = "DEVICE,KEY=VALUE,…")]
    device: Vec<String>,
    /// Apply a profile instead of the default one (several times)
    #[arg(short, long, value_name = "NAME")]
    profile: Vec<String>,
    /// Apply no profile
    #[arg(long, conflicts_with = "profile")]
    no_profiles: bool,
    /// Delete it when it stops
    #[arg(short, long)]
    ephemeral: bool,
    /// Connect it to this network
    #[arg(short, long, value_name = "NAME")]
    network: Option<String>,
    /// Keep its root in this storage pool
    #[arg(short, long, value_name = "POOL")]
    storage: Option<String>,
    /// Give it the size that a cloud has under this name
    #[arg(
        short = 't',
        long = "type",
        default_value = "",
        value_name = "SIZE",
        hide_default_value = true
    )]
    size: String,
    /// Describe it
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    description: String,
    /// Create a virtual machine, of a server that has them
    #[arg(long, hide = true)]
    vm: bool,
}

/// What can be given on standard input.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Preset {
    architecture: String,
    config: Config,
    description: String,
    devices: Devices,
    ephemeral: bool,
    profiles: Option<Vec<String>>,
}

/// Creates and starts an instance.
pub(crate) async fn launch(ctx: &Context, args: LaunchArgs) -> Result<()> {
    let name = make(
        ctx,
        &args.create,
        Some(&args.image),
        args.name.as_deref().unwrap_or_default(),
        true,
    )
    .await?;
    if args.console {
        super::console::attach(ctx, &name).await
    } else {
        Ok(())
    }
}

/// Creates an instance.
pub(crate) async fn create(ctx: &Context, args: CreateArgs) -> Result<()> {
    let (image, name) = match (args.names.as_slice(), args.empty) {
        ([], true) => (None, ""),
        ([name], true) => (None, name.as_str()),
        ([image], false) => (Some(image.as_str()), ""),
        ([image, name], false) => (Some(image.as_str()), name.as_str()),
        (_, true) => {
            return Err(Error::usage(
                "with --empty there is only the instance's name, and no image",
            ));
        }
        (_, false) => {
            return Err(Error::usage(
                "which image? `hutch image list` shows those that are here",
            ));
        }
    };
    make(ctx, &args.create, image, name, false).await?;
    Ok(())
}

/// Creates an instance and returns its name, with its remote.
async fn make(ctx: &Context, args: &InstanceArgs, image: Option<&str>, name: &str, start: bool) -> Result<String> {
    let (remote, _) = ctx.split(name);
    let target = ctx.target(name)?;
    let client = &*target.client;
    let source = match image {
        Some(image) => image_name::resolve(ctx, client, image).await?,
        None => InstanceSource {
            kind: "none".into(),
            ..InstanceSource::default()
        },
    };
    let server: Server = client.get(ApiPath::new([""; 0])).await?;
    let at_once = start && server.api_extensions.iter().any(|name| name == CREATE_START);
    let mut post = args.request(client, preset()?).await?;
    post.name.clone_from(&target.name);
    post.source = source;
    post.start = at_once;
    let doing = if start { "Launching" } else { "Creating" };
    ctx.say(&if name.is_empty() {
        format!("{doing} the instance")
    } else {
        format!("{doing} {name}")
    })?;
    let progress = ctx.progress(if target.name.is_empty() {
        "instance"
    } else {
        &target.name
    });
    let path = ApiPath::new(["instances"]);
    let answer = client
        .send(Method::POST, path, &post, None)
        .await
        .map_err(|error| about(error, image, name))?;
    let made = created_name(&answer).unwrap_or_else(|| target.name.clone());
    if target.name.is_empty() && !made.is_empty() {
        ctx.say(&format!("Instance name is: {made}"))?;
    }
    client
        .finish(answer, &progress)
        .await
        .map_err(|error| about(error, image, &made))?;
    if start && !at_once {
        let state = InstanceStatePut {
            action: "start".into(),
            timeout: -1,
            ..InstanceStatePut::default()
        };
        client
            .change(
                Method::PUT,
                ApiPath::new(["instances", &made, "state"]),
                &state,
                &progress,
            )
            .await?;
    }
    if start {
        mention_missing_network(ctx, client, &made).await?;
    }
    Ok(format!("{remote}:{made}"))
}

/// Tells a person who may wonder why the instance has no network. Scripts need no advice.
async fn mention_missing_network(ctx: &Context, client: &Client, name: &str) -> Result<()> {
    if !terminal::stdout_is_terminal() {
        return Ok(());
    }
    match client.get::<Instance>(ApiPath::new(["instances", name])).await {
        Ok(instance)
            if !instance
                .expanded_devices
                .values()
                .any(|device| keyvalue::is_type(device, "nic")) =>
        {
            ctx.say(&format!(
                "It has no network interface; `hutch network attach NETWORK {name}` gives it one"
            ))
        }
        Ok(_) => Ok(()),
        // An ephemeral instance may be gone by now.
        Err(error) if error.status() == Some(404) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Names what the request was about, in the words of the command line.
fn about(error: Error, image: Option<&str>, name: &str) -> Error {
    match image {
        Some(image) if error.status() == Some(404) => error.about(image),
        _ if name.is_empty() => error,
        _ => error.about(name),
    }
}

/// The name of the instance that an operation makes, from the resources that it says it is about.
pub(crate) fn created_name(answer: &Answer) -> Option<String> {
    let Answer::Operation(operation) = answer else {
        return None;
    };
    ["instances", "containers"].iter().find_map(|kind| {
        let path = operation.initial["resources"][kind][0].as_str()?;
        let path = path.split('?').next()?;
        Some(crate::client::decode(path.rsplit('/').next()?))
    })
}

/// The devices of the profiles that an instance gets.
async fn expanded_by_profiles(client: &Client, post: &InstancesPost) -> Result<Devices> {
    let mut devices = Devices::new();
    for name in post.profiles.as_deref().unwrap_or(&["default".to_owned()]) {
        let profile: Profile = client.get(ApiPath::new(["profiles", name])).await?;
        devices.extend(profile.devices);
    }
    Ok(devices)
}

/// What standard input says, if it is a file or a pipe.
fn preset() -> Result<Preset> {
    let Some(text) = edit::piped_file()? else {
        return Ok(Preset::default());
    };
    output::from_yaml(&text, "standard input (which is read as the instance's configuration)")
}

impl InstanceArgs {
    async fn request(&self, client: &Client, preset: Preset) -> Result<InstancesPost> {
        let mut post = InstancesPost {
            kind: if self.vm { VIRTUAL_MACHINE } else { CONTAINER }.into(),
            architecture: preset.architecture,
            config: preset.config,
            description: if self.description.is_empty() {
                preset.description
            } else {
                self.description.clone()
            },
            devices: preset.devices,
            ephemeral: self.ephemeral || preset.ephemeral,
            instance_type: self.size.clone(),
            profiles: preset.profiles,
            ..InstancesPost::default()
        };
        if self.no_profiles {
            post.profiles = Some(Vec::new());
        } else if !self.profile.is_empty() {
            post.profiles = Some(self.profile.clone());
        }
        post.config.extend(keyvalue::pairs(&self.config)?);
        self.devices(client, &mut post).await?;
        Ok(post)
    }

    /// Devices of its own: those of profiles that flags change are copied first, because a device replaces its namesake whole.
    async fn devices(&self, client: &Client, post: &mut InstancesPost) -> Result<()> {
        if self.device.is_empty() && self.network.is_none() && self.storage.is_none() {
            return Ok(());
        }
        let inherited = expanded_by_profiles(client, post).await?;
        if let Some(pool) = &self.storage {
            let (name, mut root) = root_disk(&post.devices)
                .or_else(|| root_disk(&inherited))
                .unwrap_or_else(|| {
                    let keys = [("type", "disk"), ("path", "/")];
                    (
                        "root".into(),
                        keys.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                    )
                });
            root.insert("pool".into(), pool.clone());
            post.devices.insert(name, root);
        }
        if let Some(network) = &self.network {
            let network = super::network::nic(client, network).await?;
            post.devices.insert("eth0".into(), network);
        }
        for text in &self.device {
            let name = text.split(',').next().unwrap_or_default();
            if !post.devices.contains_key(name)
                && let Some(device) = inherited.get(name)
            {
                post.devices.insert(name.to_owned(), device.clone());
            }
            keyvalue::device(&mut post.devices, text)?;
        }
        Ok(())
    }
}

fn root_disk(devices: &Devices) -> Option<(String, BTreeMap<String, String>)> {
    devices
        .iter()
        .find(|(_, device)| keyvalue::is_type(device, "disk") && device.get("path").is_some_and(|path| path == "/"))
        .map(|(name, device)| (name.clone(), device.clone()))
}
