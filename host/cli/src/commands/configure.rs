//! `config`: of instances and of the daemon itself.

use clap::Subcommand;
use hutch_api::instance::{Instance, InstancePut, InstanceSnapshot};
use hutch_api::server::Server;

use super::device::DeviceCommand;
use crate::client::ApiPath;
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::object::Place;
use crate::{keyvalue, output};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Manage devices
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Edit the configuration of an instance or of the daemon, or read it from standard input
    Edit {
        /// The instance or INSTANCE/SNAPSHOT; the daemon without it
        #[arg(value_name = "[REMOTE:][INSTANCE]")]
        name: Option<String>,
    },
    /// Print a key's value
    Get {
        /// The instance; the daemon without it
        #[arg(value_names = ["[REMOTE:][INSTANCE]", "KEY"], num_args = 1..=2, required = true)]
        names: Vec<String>,
        /// The key is a property of the instance itself, such as description
        #[arg(short, long)]
        property: bool,
        /// Print the value that applies, a profile's too
        #[arg(short, long, conflicts_with = "property")]
        expanded: bool,
    },
    /// Set keys
    Set {
        /// The instance (the daemon without it) and the keys
        #[arg(value_names = ["[REMOTE:][INSTANCE]", "KEY=VALUE"], num_args = 1.., required = true)]
        names: Vec<String>,
        /// The keys are properties of the instance itself, such as description
        #[arg(short, long)]
        property: bool,
    },
    /// Show the configuration of an instance or of the daemon
    Show {
        /// The instance or INSTANCE/SNAPSHOT; the daemon without it
        #[arg(value_name = "[REMOTE:][INSTANCE]")]
        name: Option<String>,
        /// With what comes from profiles
        #[arg(short, long)]
        expanded: bool,
    },
    /// Remove a key
    Unset {
        /// The instance (the daemon without it) and the key
        #[arg(value_names = ["[REMOTE:][INSTANCE]", "KEY"], num_args = 1..=2, required = true)]
        names: Vec<String>,
        /// The key is a property of the instance itself, such as description
        #[arg(short, long)]
        property: bool,
    },
}

/// What a name stands for.
enum Kind {
    Server,
    Instance,
    Snapshot,
}

fn kind_of(name: &str) -> Kind {
    match name {
        "" => Kind::Server,
        name if name.contains('/') => Kind::Snapshot,
        _ => Kind::Instance,
    }
}

fn place(target: &Target) -> Place<'_> {
    let path = match target.name.split_once('/') {
        Some((instance, snapshot)) => ApiPath::new(["instances", instance, "snapshots", snapshot]),
        None if target.name.is_empty() => ApiPath::new([""; 0]),
        None => ApiPath::new(["instances", &target.name]),
    };
    let name = if target.name.is_empty() {
        "the daemon"
    } else {
        &target.name
    };
    Place {
        client: &target.client,
        path,
        name,
    }
}

/// Splits `[name] key`.
fn name_and_key(names: &[String]) -> (Option<&str>, &str) {
    match names {
        [name, key] => (Some(name), key),
        [key] => (None, key),
        _ => (None, ""),
    }
}

/// Splits `[name] key=value …` and `[name] key value`. An instance's name has neither `=` nor a dot, and keys of the
/// daemon's configuration have a dot.
fn name_and_settings(names: &[String]) -> (Option<&str>, &[String]) {
    match names {
        [first, ..] if first.contains('=') => (None, names),
        [first, value] if first.contains('.') && !first.contains(':') && !value.contains('=') => (None, names),
        [first, rest @ ..] => (Some(first), rest),
        [] => (None, names),
    }
}

impl ConfigCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::Device(command) => command.on_instance(ctx).await,
            Self::Edit { name } => {
                let target = ctx.target(name.as_deref().unwrap_or_default())?;
                match kind_of(&target.name) {
                    Kind::Server => place(&target).edit::<Server>().await,
                    Kind::Instance => place(&target).edit::<Instance>().await,
                    Kind::Snapshot => place(&target).edit::<InstanceSnapshot>().await,
                }
            }
            Self::Get {
                names,
                property,
                expanded,
            } => {
                let (name, key) = name_and_key(&names);
                let target = ctx.target(name.unwrap_or_default())?;
                match kind_of(&target.name) {
                    Kind::Server => place(&target).print::<Server>(key, property).await,
                    Kind::Instance if expanded => {
                        let instance: Instance = place(&target).get().await?;
                        output::print_line(instance.expanded_config.get(key).map_or("", String::as_str))
                    }
                    Kind::Instance => place(&target).print::<Instance>(key, property).await,
                    Kind::Snapshot => place(&target).print::<InstanceSnapshot>(key, property).await,
                }
            }
            Self::Set { names, property } => {
                let (name, settings) = name_and_settings(&names);
                if settings.is_empty() {
                    return Err(Error::usage(format!(
                        "what is to be set? {} KEY=VALUE",
                        name.unwrap_or_default()
                    )));
                }
                let target = ctx.target(name.unwrap_or_default())?;
                let settings = keyvalue::settings(settings)?;
                match kind_of(&target.name) {
                    Kind::Server => place(&target).set::<Server>(settings, false).await,
                    Kind::Instance => place(&target).set::<Instance>(settings, property).await,
                    Kind::Snapshot => place(&target).set::<InstanceSnapshot>(settings, true).await,
                }
            }
            Self::Unset { names, property } => {
                let (name, key) = name_and_key(&names);
                let target = ctx.target(name.unwrap_or_default())?;
                match kind_of(&target.name) {
                    Kind::Server => place(&target).unset::<Server>(key, false).await,
                    Kind::Instance => place(&target).unset::<Instance>(key, property).await,
                    Kind::Snapshot => Err(Error::usage("a snapshot's configuration can't be changed")),
                }
            }
            Self::Show { name, expanded } => {
                let target = ctx.target(name.as_deref().unwrap_or_default())?;
                show(&place(&target), &kind_of(&target.name), expanded).await
            }
        }
    }
}

async fn show(place: &Place<'_>, kind: &Kind, expanded: bool) -> Result<()> {
    match kind {
        Kind::Server => {
            let server: Server = place.get().await?;
            output::print_yaml(&hutch_api::server::ServerPut { config: server.config })
        }
        Kind::Instance => {
            let instance: Instance = place.get().await?;
            let mut shown: InstancePut = instance.to_put();
            if expanded {
                shown.config = instance.expanded_config;
                shown.devices = instance.expanded_devices;
            }
            output::print_yaml(&shown)
        }
        Kind::Snapshot => {
            let mut snapshot: InstanceSnapshot = place.get().await?;
            if expanded {
                snapshot.config = std::mem::take(&mut snapshot.expanded_config);
                snapshot.devices = std::mem::take(&mut snapshot.expanded_devices);
            }
            output::print_yaml(&snapshot)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(words: &[&str]) -> (Option<String>, usize) {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let (name, settings) = name_and_settings(&words);
        (name.map(str::to_owned), settings.len())
    }

    #[test]
    fn the_daemon_is_told_from_instances() {
        assert_eq!(split(&["c1", "limits.cpu=2"]), (Some("c1".into()), 1));
        assert_eq!(split(&["c1", "limits.cpu", "2"]), (Some("c1".into()), 2));
        assert_eq!(split(&["core.https_address", ":8443"]), (None, 2));
        assert_eq!(split(&["core.https_address=:8443", "images.x=y"]), (None, 2));
        assert_eq!(split(&["r:", "core.https_address=:8443"]), (Some("r:".into()), 1));
        assert_eq!(split(&["c1"]), (Some("c1".into()), 0));
    }
}
