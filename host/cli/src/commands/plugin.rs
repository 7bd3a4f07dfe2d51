//! `plugin`: the drivers that the daemon has loaded.

use clap::{Args, Subcommand};
use hutch_api::plugin::{Plugin, PluginLogLine, PluginStatePut};
use hyper::Method;
use serde_json::Value;

use crate::client::ApiPath;
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::object::Place;
use crate::output::{self, FormatArg, Table};

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
    /// Take a plugin out of quarantine, or load one again that could not be loaded
    Enable {
        /// The plugin
        #[arg(value_name = "[REMOTE:]PLUGIN")]
        plugin: String,
    },
    /// Print what a plugin has logged
    Logs {
        /// The plugin
        #[arg(value_name = "[REMOTE:]PLUGIN")]
        plugin: String,
        /// Only the last lines
        #[arg(short = 'n', long, value_name = "COUNT")]
        lines: Option<usize>,
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

#[derive(Debug, Args)]
pub(crate) struct InfoFormat {
    /// Print it as JSON instead of YAML
    #[arg(long)]
    json: bool,
}

impl PluginCommand {
    /// Does it.
    pub(crate) async fn run(self, ctx: &Context) -> Result<()> {
        match self {
            Self::List(args) => list(ctx, args).await,
            Self::Info { plugin, format } => {
                let (target, id) = find(ctx, &plugin).await?;
                let place = Place {
                    client: &target.client,
                    path: ApiPath::new(["plugins", &id]),
                    name: &id,
                };
                let mut plugin: Plugin = place.get().await?;
                if format.json {
                    return output::print_json(&plugin);
                }
                // A person who wants the whole schemas asks for JSON.
                plugin.config_schema = options(&plugin.config_schema);
                plugin.options_schema = options(&plugin.options_schema);
                output::print_yaml(&plugin)
            }
            Self::Enable { plugin } => {
                let (target, id) = find(ctx, &plugin).await?;
                let put = PluginStatePut {
                    action: "enable".to_owned(),
                };
                let path = ApiPath::new(["plugins", &id, "state"]);
                target.client.send(Method::PUT, path, &put, None).await?;
                Ok(())
            }
            Self::Logs { plugin, lines } => {
                let (target, id) = find(ctx, &plugin).await?;
                let path = ApiPath::new(["plugins", &id, "logs"]);
                let log: Vec<PluginLogLine> = Place {
                    client: &target.client,
                    path,
                    name: &id,
                }
                .get()
                .await?;
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
        }
    }
}

async fn list(ctx: &Context, args: ListArgs) -> Result<()> {
    let target = ctx.daemon(args.remote.as_deref())?;
    let mut plugins = all(&target).await?;
    plugins.sort_by(|a, b| a.id.cmp(&b.id));
    output::print_list(args.format.format, &plugins, |plugins| {
        let mut table = Table::new(["ID", "VERSION", "PROVIDES", "STATE", "CALLS", "ERRORS"]);
        for plugin in plugins {
            let state = plugin.state.to_uppercase();
            let reason = if plugin.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", plugin.reason)
            };
            table.row(vec![
                plugin.id.clone(),
                plugin.version.clone(),
                provides(plugin).join("\n"),
                format!("{state}{reason}"),
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

/// The names of a schema's properties, each with its description.
fn options(schema: &Value) -> Value {
    let Some(properties) = schema["properties"].as_object() else {
        return Value::Null;
    };
    properties
        .iter()
        .map(|(name, property)| (name.clone(), property["description"].clone()))
        .collect()
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
