//! `project`.

use clap::{Args, Subcommand};
use hutch_api::project::{DEFAULT, Project, ProjectState, ProjectsPost};

use super::common::{Common, Kind, Naming};
use crate::client::ApiPath;
use crate::config::{Config, Remote};
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::keyvalue;
use crate::output::{self, FormatArg, Table};

const KIND: Kind = Kind {
    collection: "projects",
    noun: "Project",
};

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// List projects
    #[command(alias = "ls")]
    List(ListArgs),
    /// Create a project
    Create {
        /// Its name
        #[arg(value_name = "[REMOTE:]PROJECT")]
        name: String,
        /// Set a key (several times)
        #[arg(short, long, value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// Describe it
        #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
        description: String,
    },
    #[command(flatten)]
    Common(Common),
    #[command(flatten)]
    Naming(Naming),
    /// Make a project the one that commands are about
    Switch {
        /// The project
        #[arg(value_name = "[REMOTE:]PROJECT")]
        name: String,
    },
    /// Print the project that commands are about
    Current {
        /// The daemon
        #[arg(value_name = "REMOTE:")]
        remote: Option<String>,
    },
    /// Show what a project uses of what it may
    Info {
        /// The project
        #[arg(value_name = "[REMOTE:]PROJECT")]
        name: String,
        #[command(flatten)]
        format: FormatArg,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    #[command(flatten)]
    format: FormatArg,
}

impl ProjectCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::List(args) => list(ctx, args).await,
            Self::Create {
                name,
                config,
                description,
            } => {
                let Target { client, name } = ctx.named(&name)?;
                let post = ProjectsPost {
                    name,
                    description,
                    config: keyvalue::pairs(&config)?,
                };
                KIND.create(ctx, &client, &post.name, &post).await
            }
            Self::Common(common) => common.run::<Project>(ctx, &KIND).await,
            Self::Naming(naming) => naming.run(ctx, &KIND).await,
            Self::Switch { name } => switch(ctx, &name).await,
            Self::Current { remote } => {
                let target = ctx.daemon(remote.as_deref())?;
                output::print_line(current(target.client.project()))
            }
            Self::Info { name, format } => info(ctx, &name, format).await,
        }
    }
}

fn current(project: &str) -> &str {
    if project.is_empty() { DEFAULT } else { project }
}

async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let projects: Vec<Project> = target
        .client
        .get(ApiPath::new([KIND.collection]).query("recursion", "1"))
        .await?;
    output::print_list(args.format.format, &projects, |projects| {
        let mut table = Table::new(["NAME", "DESCRIPTION", "USED BY"]);
        for project in projects {
            let mark = if project.name == current(target.client.project()) {
                " (current)"
            } else {
                ""
            };
            table.row(vec![
                format!("{}{mark}", project.name),
                project.description.clone(),
                output::used_by(&project.used_by),
            ]);
        }
        table
    })
}

async fn switch(ctx: &Context, text: &str) -> Result<()> {
    let Target { client, name } = ctx.named(text)?;
    let _exists: Project = client.get(KIND.path(&name)).await.map_err(|error| error.about(&name))?;
    let (remote, _) = ctx.split(text);
    let mut config: Config = ctx.config.clone();
    let entry = config.remotes.entry(remote.to_owned()).or_insert_with(|| Remote {
        addr: "unix://".into(),
        ..Remote::default()
    });
    entry.project = if name == DEFAULT { String::new() } else { name.clone() };
    config.save()?;
    ctx.say(&format!("Commands are about the project {name} now"))
}

async fn info(ctx: &Context, name: &str, format: FormatArg) -> Result<()> {
    let Target { client, name } = ctx.named(name)?;
    let state: ProjectState = client
        .get(KIND.path(&name).join(["state"]))
        .await
        .map_err(|error: Error| error.about(&name))?;
    let rows: Vec<_> = state.resources.into_iter().collect();
    output::print_list(format.format, &rows, |rows| {
        let mut table = Table::new(["RESOURCE", "LIMIT", "USAGE"]);
        for (resource, state) in rows {
            let shown = |amount: i64| match amount {
                -1 => "UNLIMITED".to_owned(),
                amount if matches!(resource.as_str(), "memory" | "disk") => output::bytes(amount),
                amount => amount.to_string(),
            };
            table.row(vec![resource.to_uppercase(), shown(state.limit), shown(state.usage)]);
        }
        table
    })
}
