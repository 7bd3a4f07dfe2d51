//! `profile`.

use clap::{Args, Subcommand};
use hutch_api::instance::Instance;
use hutch_api::profile::{Profile, ProfilesPost};
use hyper::Method;

use super::common::{Common, Kind, Naming, on_same_daemon};
use super::device::DeviceCommand;
use crate::client::{ApiPath, Progress};
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::object::Place;
use crate::output::{self, FormatArg, Table};
use crate::{edit, keyvalue};

const KIND: Kind = Kind {
    collection: "profiles",
    noun: "Profile",
};

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// List profiles
    #[command(alias = "ls")]
    List(ListArgs),
    /// Create a profile, from standard input if that is not a terminal
    Create {
        /// Its name
        #[arg(value_name = "[REMOTE:]PROFILE")]
        name: String,
        /// Its keys
        #[arg(value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// Describe it
        #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
        description: String,
    },
    #[command(flatten)]
    Common(Common),
    #[command(flatten)]
    Naming(Naming),
    /// Copy a profile
    #[command(alias = "cp")]
    Copy {
        /// The profile
        #[arg(value_name = "[REMOTE:]PROFILE")]
        source: String,
        /// The copy's name
        #[arg(value_name = "[REMOTE:]NAME")]
        target: String,
        /// Replace the copy if it is there
        #[arg(long)]
        refresh: bool,
    },
    /// Manage devices
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Apply a profile to an instance, after those it has
    Add {
        /// The instance
        #[arg(value_name = "[REMOTE:]INSTANCE")]
        instance: String,
        /// The profile
        profile: String,
    },
    /// Replace all profiles of an instance
    #[command(alias = "apply")]
    Assign {
        /// The instance
        #[arg(value_name = "[REMOTE:]INSTANCE")]
        instance: String,
        /// The profiles in the order they apply, separated by commas; "" for none
        #[arg(value_name = "PROFILE,…")]
        profiles: String,
    },
    /// Take a profile from an instance
    Remove {
        /// The instance
        #[arg(value_name = "[REMOTE:]INSTANCE")]
        instance: String,
        /// The profile
        profile: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    /// Profiles of all projects
    #[arg(long)]
    all_projects: bool,
    #[command(flatten)]
    format: FormatArg,
}

impl ProfileCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::List(args) => list(ctx, args).await,
            Self::Create {
                name,
                config,
                description,
            } => create(ctx, &name, &config, description).await,
            Self::Common(common) => common.run::<Profile>(ctx, &KIND).await,
            Self::Naming(naming) => naming.run(ctx, &KIND).await,
            Self::Copy {
                source,
                target,
                refresh,
            } => copy(ctx, &source, &target, refresh).await,
            Self::Device(command) => command.on_other::<Profile>(ctx, KIND.collection).await,
            Self::Add { instance, profile } => {
                let what = format!("Profile {profile} added to");
                change(ctx, &instance, &what, |profiles, name| {
                    if profiles.contains(&profile) {
                        return Err(Error::usage(format!("{name} has the profile {profile} already")));
                    }
                    profiles.push(profile);
                    Ok(())
                })
                .await
            }
            Self::Assign {
                instance,
                profiles: new,
            } => {
                change(ctx, &instance, "Profiles assigned to", |profiles, _| {
                    *profiles = new
                        .split(',')
                        .filter(|name| !name.is_empty())
                        .map(str::to_owned)
                        .collect();
                    Ok(())
                })
                .await
            }
            Self::Remove { instance, profile } => {
                let what = format!("Profile {profile} removed from");
                change(ctx, &instance, &what, |profiles, name| {
                    if !profiles.contains(&profile) {
                        return Err(Error::usage(format!("{name} has no profile {profile}")));
                    }
                    profiles.retain(|other| *other != profile);
                    Ok(())
                })
                .await
            }
        }
    }
}

async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let path = ApiPath::new([KIND.collection])
        .query("recursion", "1")
        .of_all_projects(args.all_projects);
    let profiles: Vec<Profile> = target.client.get(path).await?;
    output::print_list(args.format.format, &profiles, |profiles| {
        let head = ["NAME", "DESCRIPTION", "USED BY"];
        let project = args.all_projects.then_some("PROJECT");
        let mut table = Table::new(project.into_iter().chain(head));
        for profile in profiles {
            let cells = [
                profile.name.clone(),
                profile.description.clone(),
                output::used_by(&profile.used_by),
            ];
            let project = args.all_projects.then(|| profile.project.clone());
            table.row(project.into_iter().chain(cells).collect());
        }
        table
    })
}

async fn create(ctx: &Context, name: &str, config: &[String], description: String) -> Result<()> {
    let Target { client, name } = ctx.named(name)?;
    let mut post = ProfilesPost {
        name,
        description,
        ..ProfilesPost::default()
    };
    if let Some(text) = edit::piped_file()? {
        let given: Profile = output::from_yaml(&text, "standard input")?;
        post.config = given.config;
        post.devices = given.devices;
        if post.description.is_empty() {
            post.description = given.description;
        }
    }
    post.config.extend(keyvalue::pairs(config)?);
    KIND.create(ctx, &client, &post.name, &post).await
}

async fn copy(ctx: &Context, source: &str, target: &str, refresh: bool) -> Result<()> {
    let Target { client, name } = ctx.named(source)?;
    let new_name = on_same_daemon(ctx, &client, target)?;
    let place = Place {
        client: &client,
        path: KIND.path(&name),
        name: &name,
    };
    let profile: Profile = place.get().await?;
    let post = ProfilesPost {
        name: new_name.clone(),
        description: profile.description.clone(),
        config: profile.config.clone(),
        devices: profile.devices.clone(),
    };
    let copy = Place {
        client: &client,
        path: KIND.path(&new_name),
        name: &new_name,
    };
    if refresh && copy.get::<Profile>().await.is_ok() {
        copy.modify::<Profile>(|_, put| {
            *put = profile.to_put();
            Ok(())
        })
        .await?;
    } else {
        let made = client
            .change(
                Method::POST,
                ApiPath::new([KIND.collection]),
                &post,
                &Progress::hidden(),
            )
            .await;
        made.map_err(|error| error.about(&new_name))?;
    }
    KIND.done(ctx, &name, &format!("copied to {new_name}"))
}

/// Changes the profiles of an instance.
async fn change(
    ctx: &Context,
    instance: &str,
    what: &str,
    change: impl FnOnce(&mut Vec<String>, &str) -> Result<()>,
) -> Result<()> {
    let Target { client, name } = ctx.named(instance)?;
    let place = Place {
        client: &client,
        path: ApiPath::new(["instances", &name]),
        name: &name,
    };
    place
        .modify::<Instance>(|_, put| change(&mut put.profiles, &name))
        .await?;
    ctx.say(&format!("{what} {name}"))
}
