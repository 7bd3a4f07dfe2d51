//! What can be done with objects of every kind that have a name and a configuration.

use clap::{Args, Subcommand};
use hyper::Method;
use serde::Serialize;

use crate::client::{ApiPath, Client};
use crate::context::{Context, Target};
use crate::error::{Error, Failures, Result};
use crate::keyvalue;
use crate::object::{Object, Place};

/// Several of a kind.
#[derive(Debug, Args)]
pub(crate) struct ManyNames {
    /// Their names
    #[arg(value_name = "[REMOTE:]NAME", required = true)]
    names: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Common {
    /// Show everything about one
    Show {
        /// Its name
        #[arg(value_name = "[REMOTE:]NAME")]
        name: String,
    },
    /// Edit one in $EDITOR, or read it from standard input
    Edit {
        /// Its name
        #[arg(value_name = "[REMOTE:]NAME")]
        name: String,
    },
    /// Print a key's value
    Get {
        /// Its name
        #[arg(value_name = "[REMOTE:]NAME")]
        name: String,
        /// The key
        key: String,
        /// The key is a property of the object itself, such as description
        #[arg(short, long)]
        property: bool,
    },
    /// Set keys
    Set {
        /// Its name
        #[arg(value_name = "[REMOTE:]NAME")]
        name: String,
        /// The keys
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
        /// The keys are properties of the object itself, such as description
        #[arg(short, long)]
        property: bool,
    },
    /// Remove a key
    Unset {
        /// Its name
        #[arg(value_name = "[REMOTE:]NAME")]
        name: String,
        /// The key
        key: String,
        /// The key is a property of the object itself, such as description
        #[arg(short, long)]
        property: bool,
    },
    /// Delete them
    #[command(alias = "rm")]
    Delete(ManyNames),
}

/// What can be done with objects of a kind that can have another name.
#[derive(Debug, Subcommand)]
pub(crate) enum Naming {
    /// Give one a new name
    #[command(alias = "mv")]
    Rename {
        /// Its name
        #[arg(value_name = "[REMOTE:]NAME")]
        name: String,
        /// Its new name
        new_name: String,
    },
}

impl Naming {
    /// Does it to an object of a kind.
    pub(crate) async fn run(self, ctx: &Context, kind: &Kind) -> Result<()> {
        match self {
            Self::Rename { name, new_name } => rename(ctx, kind, &name, &new_name).await,
        }
    }
}

/// A kind of object.
pub(crate) struct Kind {
    /// The segment of their paths.
    pub(crate) collection: &'static str,
    /// What they are called, in messages.
    pub(crate) noun: &'static str,
}

impl Kind {
    /// Where one is.
    pub(crate) fn path(&self, name: &str) -> ApiPath {
        ApiPath::new([self.collection, name])
    }

    /// Makes one, with progress where it takes long, and says so.
    pub(crate) async fn create<T: Serialize>(
        &self,
        ctx: &Context,
        client: &Client,
        name: &str,
        post: &T,
    ) -> Result<()> {
        client
            .change(Method::POST, ApiPath::new([self.collection]), post, &ctx.progress(name))
            .await
            .map_err(|error| error.about(name))?;
        self.done(ctx, name, "created")
    }

    /// The message that something was done.
    pub(crate) fn done(&self, ctx: &Context, name: &str, what: &str) -> Result<()> {
        ctx.say(&format!("{} {name} {what}", self.noun))
    }
}

impl Common {
    /// Does it to objects of a kind.
    pub(crate) async fn run<T: Object>(self, ctx: &Context, kind: &Kind) -> Result<()> {
        match self {
            Self::Show { name } => at(ctx, kind, &name, async |place| place.show::<T>().await).await,
            Self::Edit { name } => at(ctx, kind, &name, async |place| place.edit::<T>().await).await,
            Self::Get { name, key, property } => {
                at(ctx, kind, &name, async |place| place.print::<T>(&key, property).await).await
            }
            Self::Set {
                name,
                settings,
                property,
            } => {
                let settings = keyvalue::settings(&settings)?;
                at(ctx, kind, &name, async |place| place.set::<T>(settings, property).await).await
            }
            Self::Unset { name, key, property } => {
                at(ctx, kind, &name, async |place| place.unset::<T>(&key, property).await).await
            }
            Self::Delete(names) => {
                let mut failures = Failures::default();
                for text in &names.names {
                    failures.note(delete(ctx, kind, text).await);
                }
                failures.result()
            }
        }
    }
}

async fn delete(ctx: &Context, kind: &Kind, text: &str) -> Result<()> {
    let Target { client, name } = ctx.named(text)?;
    client
        .remove(kind.path(&name), &ctx.progress(&name))
        .await
        .map_err(|error| error.about(&name))?;
    kind.done(ctx, &name, "deleted")
}

async fn at(ctx: &Context, kind: &Kind, name: &str, work: impl AsyncFnOnce(Place<'_>) -> Result<()>) -> Result<()> {
    let Target { client, name } = ctx.named(name)?;
    work(Place {
        client: &client,
        path: kind.path(&name),
        name: &name,
    })
    .await
}

async fn rename(ctx: &Context, kind: &Kind, name: &str, new_name: &str) -> Result<()> {
    let Target { client, name } = ctx.named(name)?;
    let new_name = on_same_daemon(ctx, &client, new_name)?;
    let body = serde_json::json!({"name": new_name});
    client
        .change(hyper::Method::POST, kind.path(&name), &body, &ctx.progress(&name))
        .await
        .map_err(|error| error.about(&name))?;
    kind.done(ctx, &name, &format!("renamed to {new_name}"))
}

/// A new name without its remote, which has to be the one of the old name if it is given.
pub(crate) fn on_same_daemon(ctx: &Context, client: &Client, new_name: &str) -> Result<String> {
    match new_name.split_once(':') {
        Some((remote, name)) if ctx.is_same(remote, client) => Ok(name.to_owned()),
        Some((remote, _)) => Err(Error::usage(format!(
            "{remote:?} is another daemon, and this works within one"
        ))),
        None => Ok(new_name.to_owned()),
    }
}
