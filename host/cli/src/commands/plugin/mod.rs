//! `plugin`: the drivers of the daemon, and what they may do.

mod archive;
mod carry;
pub(crate) mod install;
pub(crate) mod preseed;
mod show;
mod top;
mod trust;

pub(crate) use archive::ArchiveError;
use clap::{Args, Subcommand};
use hutch_api::plugin::{Plugin, PluginGrantsPut, PluginHeld, PluginLogLine, PluginStatePut};
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::client::{ApiPath, Progress};
use crate::commands::author::AuthorCommand;
use crate::context::{Context, Target};
use crate::edit;
use crate::error::{Error, Result};
use crate::object::Place;
use crate::output::{self, FormatArg, Table};
use crate::terminal;

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// List plugins
    #[command(alias = "ls")]
    List(ListArgs),
    /// Show a plugin: what it provides, may do and has done
    Info {
        /// The plugin
        #[arg(value_name = "[REMOTE:]PLUGIN")]
        plugin: String,
        #[command(flatten)]
        format: InfoFormat,
    },
    /// Install a plugin: show what it asks for, grant that, and take it into service
    Install(install::InstallArgs),
    /// Bring another version of an installed plugin into use, while it is used
    Upgrade(install::UpgradeArgs),
    /// Go back to the version before an upgrade
    Rollback(PluginArg),
    /// Give a plugin more of what it asks for
    #[command(after_help = GRANTS)]
    Grant(MoreArgs),
    /// Take away what a plugin was granted, from its next call on
    #[command(after_help = GRANTS)]
    Revoke(GrantArgs),
    /// Take a plugin into service, also out of quarantine; load one again that could not be loaded
    Enable(PluginArg),
    /// Take a plugin out of service; what uses it is unavailable until it is enabled
    Disable(PluginArg),
    /// Remove an installed plugin that nothing uses
    #[command(alias = "rm")]
    Remove(RemoveArgs),
    /// Write plugins with their signatures into an archive, for machines that nothing can be fetched from
    Save(carry::SaveArgs),
    /// Take in the plugins of an archive, as new ones or as other versions of those that are there
    Load(carry::LoadArgs),
    /// Manage whose signatures of plugins are believed
    #[command(subcommand)]
    Trust(trust::TrustCommand),
    /// Show what plugins do at this moment: calls, times, memory, errors; again and again on a terminal
    Top(top::TopArgs),
    /// Print what a plugin has logged
    Logs {
        /// The plugin
        #[arg(value_name = "[REMOTE:]PLUGIN")]
        plugin: String,
        /// Only the last lines
        #[arg(short = 'n', long, value_name = "COUNT")]
        lines: Option<usize>,
    },
    #[command(flatten)]
    Author(AuthorCommand),
}

/// How permissions are named.
const GRANTS: &str = "\
Permissions are named as `hutch plugin info` shows them (link, service=dnsmasq), by their kind (http) or all at once (all). \
With a version that waits, `hutch plugin grant PLUGIN all` grants what it asks for that is new and takes it into use, and \
`hutch plugin grant PLUGIN none` takes it into use without.";

#[derive(Debug, Args)]
pub(crate) struct PluginArg {
    /// The plugin
    #[arg(value_name = "[REMOTE:]PLUGIN")]
    plugin: String,
}

#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    /// The plugin
    #[arg(value_name = "[REMOTE:]PLUGIN")]
    plugin: String,
    /// What to grant or revoke
    #[arg(required = true)]
    permissions: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct MoreArgs {
    #[command(flatten)]
    which: GrantArgs,
    /// Grant this and nothing else: what was granted besides is taken away
    #[arg(long)]
    only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The plugin
    #[arg(value_name = "[REMOTE:]PLUGIN")]
    plugin: String,
    /// Remove it without asking
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The daemon
    #[arg(value_name = "REMOTE:")]
    remote: Option<String>,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct InfoFormat {
    /// Print all that the daemon knows of it as JSON
    #[arg(long)]
    json: bool,
    /// The same as YAML
    #[arg(long, conflicts_with = "json")]
    yaml: bool,
}

impl PluginCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::Author(command) => command.run(),
            Self::List(args) => list(ctx, args).await,
            Self::Info { plugin, format } => info(ctx, &plugin, &format).await,
            Self::Install(args) => install::install(ctx, args).await,
            Self::Upgrade(args) => install::upgrade(ctx, args).await,
            Self::Rollback(args) => {
                let (target, id) = find(ctx, &args.plugin).await?;
                let path = ApiPath::new(["plugins", &id, "rollback"]);
                target
                    .client
                    .change(Method::POST, path, &Value::Null, &Progress::hidden())
                    .await?;
                let now: Plugin = target.client.get(ApiPath::new(["plugins", &id])).await?;
                ctx.say(&format!("{id} is version {} again", now.version))
            }
            Self::Grant(args) => grant(ctx, args).await,
            Self::Revoke(args) => {
                let (target, id) = find(ctx, &args.plugin).await?;
                change_grants(&target, &id, "revoke", args.permissions).await?;
                Ok(())
            }
            Self::Enable(args) => set_state(ctx, &args.plugin, "enable").await,
            Self::Disable(args) => set_state(ctx, &args.plugin, "disable").await,
            Self::Remove(args) => remove(ctx, args).await,
            Self::Save(args) => carry::save(ctx, args).await,
            Self::Load(args) => carry::load(ctx, args).await,
            Self::Trust(command) => command.run(ctx).await,
            Self::Top(args) => top::top(ctx, args).await,
            Self::Logs { plugin, lines } => logs(ctx, &plugin, lines).await,
        }
    }
}

async fn info(ctx: &Context, plugin: &str, format: &InfoFormat) -> Result<()> {
    let (target, id) = find(ctx, plugin).await?;
    let place = Place {
        client: &target.client,
        path: ApiPath::new(["plugins", &id]),
        name: &id,
    };
    let plugin: Plugin = place.get().await?;
    if format.json {
        return output::print_json(&plugin);
    }
    if format.yaml {
        return output::print_yaml(&plugin);
    }
    output::write_out(show::describe(&plugin).as_bytes())
}

async fn logs(ctx: &Context, plugin: &str, lines: Option<usize>) -> Result<()> {
    let (target, id) = find(ctx, plugin).await?;
    let place = Place {
        client: &target.client,
        path: ApiPath::new(["plugins", &id, "logs"]),
        name: &id,
    };
    let log: Vec<PluginLogLine> = place.get().await?;
    let skip = lines.map_or(0, |lines| log.len().saturating_sub(lines));
    log.iter().skip(skip).try_for_each(|line| {
        output::print_line(&format!(
            "{} {:5} {}",
            line.timestamp,
            line.level.to_uppercase(),
            line.message
        ))
    })
}

async fn set_state(ctx: &Context, plugin: &str, action: &str) -> Result<()> {
    let (target, id) = find(ctx, plugin).await?;
    let put = PluginStatePut {
        action: action.to_owned(),
    };
    let path = ApiPath::new(["plugins", &id, "state"]);
    target.client.send(Method::PUT, path, &put, None).await?;
    Ok(())
}

async fn grant(ctx: &Context, args: MoreArgs) -> Result<()> {
    let (target, id) = find(ctx, &args.which.plugin).await?;
    let action = if args.only { "set" } else { "grant" };
    match change_grants(&target, &id, action, args.which.permissions).await? {
        Some(held) => install::tell_held(ctx, &id, &held),
        None => Ok(()),
    }
}

/// What the daemon answers to a change of grants.
#[derive(Debug, Deserialize)]
struct Changed {
    /// Whether a version waits.
    held: bool,
    /// For what.
    #[serde(flatten)]
    what: PluginHeld,
}

/// Grants or revokes, and returns what a held version still waits for.
async fn change_grants(
    target: &Target,
    id: &str,
    action: &str,
    permissions: Vec<String>,
) -> Result<Option<PluginHeld>> {
    let put = PluginGrantsPut {
        action: action.to_owned(),
        permissions,
    };
    let path = ApiPath::new(["plugins", id, "grants"]);
    let answer = target
        .client
        .change(Method::PUT, path, &put, &Progress::hidden())
        .await?;
    let answer: Changed = serde_json::from_value(answer).map_err(|source| Error::Json {
        what: "the daemon's answer".to_owned(),
        source,
    })?;
    Ok(answer.held.then_some(answer.what))
}

async fn remove(ctx: &Context, args: RemoveArgs) -> Result<()> {
    let (target, id) = find(ctx, &args.plugin).await?;
    if !args.yes && terminal::stdin_is_terminal() && !edit::confirm(&format!("Remove {id} and what it has kept?"))? {
        return Err(Error::usage("nothing was removed"));
    }
    let path = ApiPath::new(["plugins", &id]);
    target.client.remove(path, &Progress::hidden()).await?;
    Ok(())
}

async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let mut plugins = all(&target).await?;
    plugins.sort_by(|a, b| a.id.cmp(&b.id));
    output::print_list(args.format.format, &plugins, |plugins| {
        let mut table = Table::new(["ID", "VERSION", "PROVIDES", "SIGNATURE", "STATE", "CALLS", "ERRORS"]);
        for plugin in plugins {
            let state = plugin.state.to_uppercase();
            let reason = if plugin.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", plugin.reason)
            };
            let faults = match plugin.recent_faults {
                0 => String::new(),
                1 => "\n1 recent fault".to_owned(),
                faults => format!("\n{faults} recent faults"),
            };
            let held = plugin
                .held
                .as_ref()
                .map_or_else(String::new, |held| format!("\n{} waits for you", held.version));
            table.row(vec![
                plugin.id.clone(),
                plugin.version.clone(),
                provides(plugin).join("\n"),
                install::signature(&plugin.signature),
                format!("{state}{reason}{faults}{held}"),
                plugin.metrics.calls.to_string(),
                plugin.metrics.errors.values().sum::<u64>().to_string(),
            ]);
        }
        table
    })
}

async fn all(target: &Target) -> Result<Vec<Plugin>> {
    let plugins = target
        .client
        .get(ApiPath::new(["plugins"]).query("recursion", "1"))
        .await;
    plugins.map_err(|error| match error.status() {
        Some(404) => Error::usage("this daemon has no plugins, because it is not Hutch's"),
        _ => error,
    })
}

/// `family: name, name`.
fn provides(plugin: &Plugin) -> Vec<String> {
    plugin
        .provides
        .iter()
        .map(|(family, names)| format!("{family}: {}", names.join(", ")))
        .collect()
}

/// A plugin by its id, by the end of its id, or by the name of what it provides.
async fn find(ctx: &Context, text: &str) -> Result<(Target, String)> {
    let target = ctx.named(text)?;
    let plugins = all(&target).await?;
    let id = choose(&plugins, &target.name)?;
    Ok((target, id))
}

fn choose(plugins: &[Plugin], name: &str) -> Result<String> {
    if plugins.iter().any(|plugin| plugin.id == name) {
        return Ok(name.to_owned());
    }
    let ends = |plugin: &Plugin| plugin.id.rsplit('.').next() == Some(name);
    let offers = |plugin: &Plugin| plugin.provides.values().flatten().any(|offered| offered == name);
    let found: Vec<_> = plugins.iter().filter(|plugin| ends(plugin) || offers(plugin)).collect();
    match found.as_slice() {
        [only] => Ok(only.id.clone()),
        [] => Err(Error::usage(format!(
            "there is no plugin {name:?}; `hutch plugin list` shows them"
        ))),
        several => {
            let ids: Vec<_> = several.iter().map(|plugin| plugin.id.as_str()).collect();
            Err(Error::usage(format!(
                "{name:?} may be {}; give the whole id",
                ids.join(" or ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugins() -> Vec<Plugin> {
        serde_json::from_value(serde_json::json!([
            {"id": "org.x.storage-a", "provides": {"storage": ["a"]}},
            {"id": "org.x.storage-b", "provides": {"storage": ["b", "c"]}},
            {"id": "org.y.storage-b", "provides": {"storage": ["d"]}},
        ]))
        .unwrap()
    }

    #[test]
    fn a_plugin_is_found_by_what_people_call_it() {
        let choose = |name| choose(&plugins(), name);
        assert_eq!(choose("org.x.storage-a").unwrap(), "org.x.storage-a");
        assert_eq!(choose("storage-a").unwrap(), "org.x.storage-a");
        assert_eq!(choose("c").unwrap(), "org.x.storage-b");
        assert!(
            choose("storage-b")
                .unwrap_err()
                .to_string()
                .contains("org.x.storage-b or org.y.storage-b")
        );
        assert!(choose("none").is_err());
    }
}
