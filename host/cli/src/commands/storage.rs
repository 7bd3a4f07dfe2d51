//! `storage`: pools.

use clap::{Args, Subcommand};
use hutch_api::storage::{ResourcesStoragePool, StoragePool, StoragePoolsPost};
use serde_json::json;

use super::common::{Common, Kind};
use super::volume::VolumeCommand;
use crate::client::ApiPath;
use crate::context::{Context, Target};
use crate::error::Result;
use crate::output::{self, FormatArg, Table};
use crate::{edit, keyvalue};

const KIND: Kind = Kind {
    collection: "storage-pools",
    noun: "Storage pool",
};

#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// List storage pools
    #[command(alias = "ls")]
    List(ListArgs),
    /// Create a storage pool, from standard input if that is not a terminal
    Create {
        /// Its name
        #[arg(value_name = "[REMOTE:]POOL")]
        name: String,
        /// The driver; `hutch plugin list` shows those there are
        driver: String,
        /// Its keys
        #[arg(value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// Describe it
        #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
        description: String,
    },
    #[command(flatten)]
    Common(Common),
    /// Show what a storage pool has, and who uses it
    Info {
        /// Its name
        #[arg(value_name = "[REMOTE:]POOL")]
        name: String,
        /// In bytes
        #[arg(long)]
        bytes: bool,
    },
    /// Show the volumes of instances and images
    #[command(subcommand)]
    Volume(VolumeCommand),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    #[command(flatten)]
    format: FormatArg,
}

impl StorageCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::List(args) => list(ctx, args).await,
            Self::Create {
                name,
                driver,
                config,
                description,
            } => create(ctx, &name, driver, &config, description).await,
            Self::Common(common) => common.run::<StoragePool>(ctx, &KIND).await,
            Self::Info { name, bytes } => info(ctx, &name, bytes).await,
            Self::Volume(command) => command.run(ctx).await,
        }
    }
}

async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let pools: Vec<StoragePool> = target
        .client
        .get(ApiPath::new([KIND.collection]).query("recursion", "1"))
        .await?;
    output::print_list(args.format.format, &pools, |pools| {
        let mut table = Table::new(["NAME", "DRIVER", "SOURCE", "DESCRIPTION", "USED BY", "STATE"]);
        for pool in pools {
            table.row(vec![
                pool.name.clone(),
                pool.driver.clone(),
                pool.config.get("source").cloned().unwrap_or_default(),
                pool.description.clone(),
                output::used_by(&pool.used_by),
                pool.status.to_uppercase(),
            ]);
        }
        table
    })
}

async fn create(ctx: &Context, name: &str, driver: String, config: &[String], description: String) -> Result<()> {
    let Target { client, name } = ctx.named(name)?;
    let mut post = StoragePoolsPost {
        name,
        driver,
        description,
        ..StoragePoolsPost::default()
    };
    if let Some(text) = edit::piped_file()? {
        let given: StoragePoolsPost = output::from_yaml(&text, "standard input")?;
        post.config = given.config;
        if post.description.is_empty() {
            post.description = given.description;
        }
    }
    post.config.extend(keyvalue::pairs(config)?);
    KIND.create(ctx, &client, &post.name, &post).await
}

async fn info(ctx: &Context, name: &str, exact: bool) -> Result<()> {
    let Target { client, name } = ctx.named(name)?;
    let pool: StoragePool = client.get(KIND.path(&name)).await.map_err(|error| error.about(&name))?;
    let resources: ResourcesStoragePool = client
        .get(KIND.path(&name).join(["resources"]))
        .await
        .map_err(|error| error.about(&name))?;
    let size = |count: u64| match i64::try_from(count) {
        Ok(count) if !exact => output::bytes(count),
        _ => count.to_string(),
    };
    // Paths of users, in groups by what they are.
    let mut users = serde_json::Map::new();
    for path in &pool.used_by {
        let path = path.split('?').next().unwrap_or_default();
        let mut segments = path.trim_start_matches("/1.0/").splitn(2, '/');
        let (kind, user) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
        let group = users.entry(kind).or_insert_with(|| json!([]));
        if let Some(group) = group.as_array_mut() {
            group.push(json!(crate::client::decode(user)));
        }
    }
    output::print_yaml(&json!({
        "info": {
            "name": pool.name,
            "description": pool.description,
            "driver": pool.driver,
            "status": pool.status,
            "space used": size(resources.space.used),
            "total space": size(resources.space.total),
        },
        "used by": users,
    }))
}
