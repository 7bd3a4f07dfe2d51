//! `image alias`.

use clap::{Args, Subcommand};
use hutch_api::image::{ImageAliasesEntry, ImageAliasesEntryPost};
use hyper::Method;

use super::source::Source;
use crate::client::{ApiPath, Progress};
use crate::commands::common::on_same_daemon;
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::object::Place;
use crate::output::{self, FormatArg, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum AliasCommand {
    /// Give an image another name
    Create {
        /// The alias
        #[arg(value_name = "[REMOTE:]ALIAS")]
        alias: String,
        /// The image's fingerprint, or the beginning of it
        image: String,
        /// Describe it
        #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
        description: String,
    },
    /// Take names away; the images stay
    #[command(alias = "rm")]
    Delete {
        /// The aliases
        #[arg(value_name = "[REMOTE:]ALIAS", required = true)]
        aliases: Vec<String>,
    },
    /// List aliases
    #[command(alias = "ls")]
    List(ListArgs),
    /// Change an alias
    #[command(alias = "mv")]
    Rename {
        /// The alias
        #[arg(value_name = "[REMOTE:]ALIAS")]
        alias: String,
        /// The new one
        new_name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// A daemon, an image server or source, and what the aliases must contain
    #[arg(value_name = "[REMOTE:] FILTER")]
    filters: Vec<String>,
    #[command(flatten)]
    format: FormatArg,
}

fn path(alias: &str) -> ApiPath {
    ApiPath::new(["images", "aliases", alias])
}

impl AliasCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::Create {
                alias,
                image,
                description,
            } => {
                let Target { client, name } = ctx.named(&alias)?;
                let fingerprint = super::fingerprint(&client, &image).await?;
                // An alias is of a whole fingerprint, and the image has to be there.
                let place = Place {
                    client: &client,
                    path: ApiPath::new(["images", &fingerprint]),
                    name: &image,
                };
                let found: hutch_api::image::Image = place.get().await?;
                let entry = ImageAliasesEntry {
                    name,
                    description,
                    target: found.fingerprint,
                    ..ImageAliasesEntry::default()
                };
                let path = ApiPath::new(["images", "aliases"]);
                let made = client.change(Method::POST, path, &entry, &Progress::hidden()).await;
                made.map(drop).map_err(|error| error.about(&entry.name))
            }
            Self::Delete { aliases } => {
                for alias in &aliases {
                    let Target { client, name } = ctx.named(alias)?;
                    let gone = client.remove(path(&name), &Progress::hidden()).await;
                    gone.map_err(|error| error.about(&name))?;
                }
                Ok(())
            }
            Self::List(args) => list(ctx, args).await,
            Self::Rename { alias, new_name } => {
                let Target { client, name } = ctx.named(&alias)?;
                let post = ImageAliasesEntryPost {
                    name: on_same_daemon(ctx, &client, &new_name)?,
                };
                let renamed = client
                    .change(Method::POST, path(&name), &post, &Progress::hidden())
                    .await;
                renamed.map(drop).map_err(|error: Error| error.about(&name))
            }
        }
    }
}

async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    let source = match args.filters.first() {
        Some(first) => Source::of(ctx, first).await?,
        None => None,
    };
    let (mut aliases, filters): (Vec<ImageAliasesEntry>, Vec<String>) = match source {
        Some((source, word)) => {
            let rest = args.filters.iter().skip(1).cloned();
            (
                source.aliases().await?,
                std::iter::once(word.to_owned()).chain(rest).collect(),
            )
        }
        None => {
            let (target, filters) = ctx.daemon_and_rest(&args.filters)?;
            let path = ApiPath::new(["images", "aliases"]).query("recursion", "1");
            (target.client.get(path).await?, filters)
        }
    };
    aliases.retain(|alias| filters.iter().all(|filter| alias.name.contains(filter.as_str())));
    aliases.sort_by(|a, b| a.name.cmp(&b.name));
    output::print_list(args.format.format, &aliases, |aliases| {
        let mut table = Table::new(["ALIAS", "FINGERPRINT", "TYPE", "DESCRIPTION"]);
        for alias in aliases {
            let fingerprint = alias.target.chars().take(super::SHORT).collect();
            table.row(vec![
                alias.name.clone(),
                fingerprint,
                alias.kind.to_uppercase(),
                alias.description.clone(),
            ]);
        }
        table
    })
}
