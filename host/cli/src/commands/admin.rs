//! `admin init`: a daemon's first set-up.

mod ask;

use clap::{Args, Subcommand};
use hutch_api::network::{Network, NetworksPost};
use hutch_api::profile::{Profile, ProfilesPost};
use hutch_api::project::{Project, ProjectsPost};
use hutch_api::server::Server;
use hutch_api::storage::{StoragePool, StoragePoolsPost};
use hutch_api::{Config, Devices};
use hyper::Method;
use serde::{Deserialize, Serialize};

use crate::client::{ApiPath, Client, Progress};
use crate::commands::plugin::preseed::{self, KeySeed, PluginSeed};
use crate::context::Context;
use crate::edit;
use crate::error::{Error, Result};
use crate::object::{Object, Place};
use crate::output;

/// What a pool is called that nobody named.
const DEFAULT_POOL: &str = "default";
/// What the name of a network begins with that nobody named; a number follows.
const BRIDGES: &str = "hutchbr";

#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Set a daemon up: plugins, a storage pool, a network, and the default profile with both
    Init(InitArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Ask nothing
    #[arg(long, conflicts_with_all = ["preseed", "dump"])]
    auto: bool,
    /// Take it from YAML on standard input
    #[arg(long, conflicts_with = "dump")]
    preseed: bool,
    /// Print the daemon's present set-up, as --preseed takes it
    #[arg(long)]
    dump: bool,
    /// The storage driver of the pool
    #[arg(long, value_name = "DRIVER")]
    storage_backend: Option<String>,
    /// The name of the network
    #[arg(long, value_name = "NAME")]
    network_name: Option<String>,
}

/// The YAML of `--preseed` and `--dump`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Preseed {
    config: Config,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plugin_keys: Vec<KeySeed>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plugins: Vec<PluginSeed>,
    networks: Vec<NetworksPost>,
    storage_pools: Vec<StoragePoolsPost>,
    profiles: Vec<ProfilesPost>,
    projects: Vec<ProjectsPost>,
}

impl AdminCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        let Self::Init(args) = self;
        let client = ctx.default_client()?;
        if args.dump {
            return output::print_yaml(&dump(&client).await?);
        }
        let preseed = if args.preseed {
            let text = edit::piped()?.ok_or_else(|| Error::usage("--preseed reads YAML from standard input"))?;
            output::from_yaml(&text, "standard input")?
        } else if args.auto {
            plan(&client, &args).await?
        } else {
            return ask::set_up(ctx, &args).await;
        };
        apply(ctx, &client, preseed).await
    }
}

async fn list<T: serde::de::DeserializeOwned>(client: &Client, collection: &str) -> Result<Vec<T>> {
    client.get(ApiPath::new([collection]).query("recursion", "1")).await
}

async fn dump(client: &Client) -> Result<Preseed> {
    let server: Server = client.get(ApiPath::new([""; 0])).await?;
    let networks: Vec<Network> = list(client, "networks").await?;
    let pools: Vec<StoragePool> = list(client, "storage-pools").await?;
    let profiles: Vec<Profile> = list(client, "profiles").await?;
    let projects: Vec<Project> = list(client, "projects").await?;
    let (plugin_keys, plugins) = preseed::dump(client).await?;
    let own = |config: Config| {
        config
            .into_iter()
            .filter(|(key, _)| !key.starts_with("volatile."))
            .collect()
    };
    Ok(Preseed {
        config: server.config,
        plugin_keys,
        plugins,
        networks: networks
            .into_iter()
            .filter(|network| network.managed)
            .map(|network| NetworksPost {
                config: own(network.config),
                description: network.description,
                name: network.name,
                kind: network.kind,
            })
            .collect(),
        storage_pools: pools
            .into_iter()
            .map(|pool| StoragePoolsPost {
                config: own(pool.config),
                description: pool.description,
                name: pool.name,
                driver: pool.driver,
            })
            .collect(),
        profiles: profiles
            .into_iter()
            .map(|profile| ProfilesPost {
                config: profile.config,
                description: profile.description,
                devices: profile.devices,
                name: profile.name,
            })
            .collect(),
        projects: projects
            .into_iter()
            .map(|project| ProjectsPost {
                config: project.config,
                description: project.description,
                name: project.name,
            })
            .collect(),
    })
}

/// What the default profile lacks, made up.
async fn plan(client: &Client, args: &InitArgs) -> Result<Preseed> {
    let server: Server = client.get(ApiPath::new([""; 0])).await?;
    let pools: Vec<StoragePool> = list(client, "storage-pools").await?;
    let networks: Vec<Network> = list(client, "networks").await?;
    let profile: Profile = client.get(ApiPath::new(["profiles", "default"])).await?;
    let mut preseed = Preseed::default();
    let mut devices = Devices::new();
    if lacks(&profile, "disk") {
        let pool = match pools.first() {
            Some(pool) => pool.name.clone(),
            None => {
                preseed.storage_pools.push(pool_plan(&server, args)?);
                DEFAULT_POOL.into()
            }
        };
        devices.insert("root".into(), root_disk(&pool));
    }
    if lacks(&profile, "nic") {
        let network = match networks.iter().find(|network| network.managed) {
            Some(network) => network.name.clone(),
            None => {
                let name = args.network_name.clone().unwrap_or_else(|| format!("{BRIDGES}0"));
                preseed.networks.push(NetworksPost {
                    name: name.clone(),
                    ..NetworksPost::default()
                });
                name
            }
        };
        devices.insert("eth0".into(), nic(&network));
    }
    if !devices.is_empty() {
        preseed.profiles.push(default_profile(devices));
    }
    Ok(preseed)
}

/// Whether a profile has no device of a type.
fn lacks(profile: &Profile, kind: &str) -> bool {
    let is = |device| crate::keyvalue::is_type(device, kind);
    !profile.devices.values().any(is)
}

fn device(pairs: &[(&str, &str)]) -> Config {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn root_disk(pool: &str) -> Config {
    device(&[("type", "disk"), ("path", "/"), ("pool", pool)])
}

fn nic(network: &str) -> Config {
    device(&[("type", "nic"), ("name", "eth0"), ("network", network)])
}

fn default_profile(devices: Devices) -> ProfilesPost {
    ProfilesPost {
        name: "default".into(),
        devices,
        ..ProfilesPost::default()
    }
}

fn pool_plan(server: &Server, args: &InitArgs) -> Result<StoragePoolsPost> {
    let drivers = &server.environment.storage_supported_drivers;
    let first = drivers.first().map(|driver| driver.name.clone());
    let driver = args
        .storage_backend
        .clone()
        .or(first)
        .ok_or_else(|| Error::usage("the daemon has no storage driver; `hutch plugin list` shows why"))?;
    Ok(StoragePoolsPost {
        name: DEFAULT_POOL.into(),
        driver,
        ..StoragePoolsPost::default()
    })
}

/// Makes what is not there, and changes what is.
async fn apply(ctx: &Context, client: &Client, preseed: Preseed) -> Result<()> {
    if !preseed.config.is_empty() {
        let place = Place {
            client,
            path: ApiPath::new([""; 0]),
            name: "the daemon",
        };
        place.set::<Server>(preseed.config, false).await?;
    }
    // Before what is made with the drivers that they bring.
    preseed::apply_keys(ctx, client, &preseed.plugin_keys).await?;
    if !preseed.plugins.is_empty() {
        preseed::apply_plugins(ctx, &ctx.daemon(None)?, &preseed.plugins).await?;
    }
    for project in &preseed.projects {
        let (config, description) = (project.config.clone(), project.description.clone());
        ensure::<Project>(ctx, client, ("projects", &project.name), project, |put| {
            put.config.extend(config);
            replace(&mut put.description, description);
        })
        .await?;
    }
    for pool in &preseed.storage_pools {
        let (config, description) = (pool.config.clone(), pool.description.clone());
        ensure::<StoragePool>(ctx, client, ("storage-pools", &pool.name), pool, |put| {
            put.config.extend(config);
            replace(&mut put.description, description);
        })
        .await?;
    }
    for network in &preseed.networks {
        let (config, description) = (network.config.clone(), network.description.clone());
        ensure::<Network>(ctx, client, ("networks", &network.name), network, |put| {
            put.config.extend(config);
            replace(&mut put.description, description);
        })
        .await?;
    }
    for profile in &preseed.profiles {
        let given = profile.clone();
        ensure::<Profile>(ctx, client, ("profiles", &profile.name), profile, |put| {
            put.config.extend(given.config);
            put.devices.extend(given.devices);
            replace(&mut put.description, given.description);
        })
        .await?;
    }
    Ok(())
}

fn replace(old: &mut String, new: String) {
    if !new.is_empty() {
        *old = new;
    }
}

async fn ensure<T: Object>(
    ctx: &Context,
    client: &Client,
    (collection, name): (&str, &str),
    post: &impl Serialize,
    change: impl FnOnce(&mut T::Put),
) -> Result<()> {
    let place = Place {
        client,
        path: ApiPath::new([collection, name]),
        name,
    };
    match place.get::<T>().await {
        Ok(_) => {
            place
                .modify::<T>(|_, put| {
                    change(put);
                    Ok(())
                })
                .await
        }
        Err(error) if error.status() == Some(404) => {
            let made = client
                .change(Method::POST, ApiPath::new([collection]), post, &Progress::hidden())
                .await;
            made.map_err(|error| error.about(name))?;
            ctx.say(&format!("Created {name} ({})", collection.replace('-', " ")))
        }
        Err(error) => Err(error),
    }
}
