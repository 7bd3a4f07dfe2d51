//! `operation`.

use clap::{Args, Subcommand};
use hutch_api::operation::Operation;

use crate::client::{ApiPath, Progress};
use crate::context::{Context, Target};
use crate::error::Result;
use crate::object::Place;
use crate::output::{self, FormatArg, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// List operations
    #[command(alias = "ls")]
    List(ListArgs),
    /// Show an operation
    Show {
        /// The operation
        #[arg(value_name = "[REMOTE:]ID")]
        id: String,
    },
    /// Cancel operations
    #[command(alias = "cancel", alias = "rm")]
    Delete {
        /// The operations
        #[arg(value_name = "[REMOTE:]ID", required = true)]
        ids: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    /// Operations of all projects
    #[arg(long)]
    all_projects: bool,
    #[command(flatten)]
    format: FormatArg,
}

impl OperationCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::List(args) => list(ctx, args).await,
            Self::Show { id } => {
                let Target { client, name } = ctx.named(&id)?;
                let place = Place {
                    client: &client,
                    path: ApiPath::new(["operations", &name]),
                    name: &name,
                };
                output::print_yaml(&place.get::<Operation>().await?)
            }
            Self::Delete { ids } => {
                for id in &ids {
                    let Target { client, name } = ctx.named(id)?;
                    let gone = client
                        .remove(ApiPath::new(["operations", &name]), &Progress::hidden())
                        .await;
                    gone.map_err(|error| error.about(&name))?;
                    ctx.say(&format!("Operation {name} cancelled"))?;
                }
                Ok(())
            }
        }
    }
}

async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let path = ApiPath::new(["operations"])
        .query("recursion", "1")
        .of_all_projects(args.all_projects);
    // In groups by their state.
    let groups: std::collections::BTreeMap<String, Vec<Operation>> = target.client.get(path).await?;
    let mut operations: Vec<Operation> = groups.into_values().flatten().collect();
    operations.sort_by_key(|operation| operation.created_at);
    output::print_list(args.format.format, &operations, |operations| {
        let mut table = Table::new(["ID", "TYPE", "DESCRIPTION", "STATE", "CANCELABLE", "CREATED"]);
        for operation in operations {
            table.row(vec![
                operation.id.clone(),
                operation.class.to_uppercase(),
                operation.description.clone(),
                operation.status.to_uppercase(),
                output::yes_no(operation.may_cancel),
                output::minute(operation.created_at),
            ]);
        }
        table
    })
}
