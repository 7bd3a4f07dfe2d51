//! `snapshot` and `restore`.

use clap::{Args, Subcommand};
use hutch_api::Timestamp;
use hutch_api::instance::{InstanceSnapshot, InstanceSnapshotsPost};
use hyper::Method;
use serde_json::json;

use crate::client::{ApiPath, Progress};
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::output::{self, FormatArg, Table};
use crate::{edit, object::Place};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: Option<SnapshotCommand>,
    /// Without a subcommand: what `snapshot create` takes
    #[command(flatten)]
    create: Option<CreateArgs>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Create a snapshot
    Create(CreateArgs),
    /// List the snapshots of an instance
    #[command(alias = "ls")]
    List {
        /// The instance
        #[arg(value_name = "[REMOTE:]INSTANCE")]
        instance: String,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Show everything about a snapshot
    Show {
        /// The instance
        #[arg(value_name = "[REMOTE:]INSTANCE")]
        instance: String,
        /// The snapshot
        snapshot: String,
    },
    /// Set an instance back to a snapshot
    Restore {
        /// The instance
        #[arg(value_name = "[REMOTE:]INSTANCE")]
        instance: String,
        /// The snapshot
        snapshot: String,
        /// Restore memory, too
        #[arg(long)]
        stateful: bool,
    },
    /// Give a snapshot a new name
    #[command(alias = "mv")]
    Rename {
        /// The instance
        #[arg(value_name = "[REMOTE:]INSTANCE")]
        instance: String,
        /// The snapshot
        snapshot: String,
        /// Its new name
        new_name: String,
    },
    /// Delete snapshots
    #[command(alias = "rm")]
    Delete {
        /// The instance
        #[arg(value_name = "[REMOTE:]INSTANCE")]
        instance: String,
        /// The snapshots
        #[arg(required = true)]
        snapshot: Vec<String>,
        /// Ask before each
        #[arg(short, long)]
        interactive: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The instance
    #[arg(value_name = "[REMOTE:]INSTANCE")]
    instance: String,
    /// The snapshot's name; made from the instance's pattern without it
    snapshot: Option<String>,
    /// Keep memory, too
    #[arg(long)]
    stateful: bool,
    /// Never let it expire
    #[arg(long)]
    no_expiry: bool,
    /// Replace a snapshot of the same name
    #[arg(long, requires = "snapshot")]
    reuse: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The instance
    #[arg(value_name = "[REMOTE:]INSTANCE")]
    instance: String,
    /// The snapshot
    snapshot: String,
    /// Restore memory, too
    #[arg(long)]
    stateful: bool,
}

/// `snapshot`, in both of its shapes.
pub(crate) async fn snapshot(ctx: &Context, args: SnapshotArgs) -> Result<()> {
    match (args.command, args.create) {
        (None, Some(create)) => self::create(ctx, create).await,
        (Some(command), _) => command.run(ctx).await,
        (None, None) => Err(Error::usage("of which instance? `hutch snapshot --help` tells more")),
    }
}

impl SnapshotCommand {
    async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::Create(args) => create(ctx, args).await,
            Self::List { instance, format } => list(ctx, &instance, format).await,
            Self::Show { instance, snapshot } => {
                let target = ctx.named(&instance)?;
                let place = Place {
                    client: &target.client,
                    path: path(&target.name, &snapshot),
                    name: &snapshot,
                };
                place.show::<InstanceSnapshot>().await
            }
            Self::Restore {
                instance,
                snapshot,
                stateful,
            } => {
                restore(
                    ctx,
                    RestoreArgs {
                        instance,
                        snapshot,
                        stateful,
                    },
                )
                .await
            }
            Self::Rename {
                instance,
                snapshot,
                new_name,
            } => {
                let Target { client, name } = ctx.named(&instance)?;
                let body = json!({"name": new_name});
                let progress = ctx.progress(&name);
                client
                    .change(Method::POST, path(&name, &snapshot), &body, &progress)
                    .await
                    .map_err(|error| error.about(&format!("{name}/{snapshot}")))?;
                ctx.say(&format!("Snapshot {name}/{snapshot} renamed to {new_name}"))
            }
            Self::Delete {
                instance,
                snapshot: names,
                interactive,
            } => delete(ctx, &instance, &names, interactive).await,
        }
    }
}

fn path(instance: &str, snapshot: &str) -> ApiPath {
    ApiPath::new(["instances", instance, "snapshots", snapshot])
}

async fn create(ctx: &Context, args: CreateArgs) -> Result<()> {
    let Target { client, name } = ctx.named(&args.instance)?;
    let snapshot = args.snapshot.unwrap_or_default();
    if args.reuse {
        match client.remove(path(&name, &snapshot), &Progress::hidden()).await {
            Err(error) if error.status() != Some(404) => return Err(error.about(&format!("{name}/{snapshot}"))),
            _ => {}
        }
    }
    let post = InstanceSnapshotsPost {
        name: snapshot,
        stateful: args.stateful,
        expires_at: args.no_expiry.then_some(Timestamp::NEVER),
    };
    let progress = ctx.progress(&name);
    client
        .change(
            Method::POST,
            ApiPath::new(["instances", &name, "snapshots"]),
            &post,
            &progress,
        )
        .await
        .map_err(|error| error.about(&name))
        .map(drop)
}

async fn list(ctx: &Context, instance: &str, format: FormatArg) -> Result<()> {
    let Target { client, name } = ctx.named(instance)?;
    let snapshots: Vec<InstanceSnapshot> = client
        .get(ApiPath::new(["instances", &name, "snapshots"]).query("recursion", "1"))
        .await
        .map_err(|error| error.about(&name))?;
    output::print_list(format.format, &snapshots, |snapshots| {
        let mut table = Table::new(["NAME", "TAKEN AT", "EXPIRES AT", "STATEFUL"]);
        for snapshot in snapshots {
            table.row(vec![
                // Some daemons put the instance's name before it.
                snapshot.name.rsplit('/').next().unwrap_or_default().to_owned(),
                output::minute(snapshot.created_at),
                output::minute(snapshot.expires_at),
                output::yes_no(snapshot.stateful),
            ]);
        }
        table
    })
}

async fn delete(ctx: &Context, instance: &str, names: &[String], interactive: bool) -> Result<()> {
    let Target { client, name } = ctx.named(instance)?;
    for snapshot in names {
        let full = format!("{name}/{snapshot}");
        if interactive && !edit::confirm(&format!("Delete {full}?"))? {
            continue;
        }
        client
            .remove(path(&name, snapshot), &ctx.progress(&full))
            .await
            .map_err(|error| error.about(&full))?;
    }
    Ok(())
}

/// Sets an instance back to a snapshot.
pub(crate) async fn restore(ctx: &Context, args: RestoreArgs) -> Result<()> {
    let Target { client, name } = ctx.named(&args.instance)?;
    let full = format!("{name}/{}", args.snapshot);
    let body = json!({"restore": full, "stateful": args.stateful});
    client
        .change(
            Method::PUT,
            ApiPath::new(["instances", &name]),
            &body,
            &ctx.progress(&name),
        )
        .await
        .map_err(|error| error.about(&full))
        .map(drop)
}
