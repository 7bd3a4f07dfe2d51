//! `check`: whether a file is a plugin that a host would take, and whether what it imports is what it requests. It needs neither
//! root nor a daemon.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hutch_broker::Permissions;
use hutch_conformance::Permission;
use hutch_plugin::PluginState;
use hutch_plugin::binary::{self, BinaryError, Inspected};
use hutch_plugin::versions::{self, Fit};

use crate::component::{Which, size};
use crate::{machine, runtime};

/// What `check` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    which: Which,
    /// Only read the file: do not compile it, and so leave out whether its functions have the types of the interfaces
    #[arg(long)]
    quick: bool,
    /// Fail on warnings, too
    #[arg(long)]
    strict: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) errors: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// Checks, prints what was found, and answers with the exit status.
///
/// # Errors
/// When the file can't be read or the check itself can't be done.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let path = options.which.path()?;
    let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    println!("{}: {}", path.display(), size(bytes.len()));
    let found = match binary::inspect(&bytes) {
        Err(error) => Findings {
            errors: vec![explained(&error)],
            warnings: Vec::new(),
        },
        Ok(inspected) => {
            describe(&inspected);
            let mut found = examine(&inspected);
            if !options.quick && found.errors.is_empty() {
                found.errors.extend(compile(&path)?);
            }
            found
        }
    };
    for warning in &found.warnings {
        println!("warning: {warning}");
    }
    for error in &found.errors {
        println!("error: {error}");
    }
    let bad = !found.errors.is_empty() || options.strict && !found.warnings.is_empty();
    if !bad {
        println!("ok");
    }
    Ok(ExitCode::from(u8::from(bad)))
}

/// What the file says that it is. The list of exports is sorted, so that it is the same for the same abilities.
fn describe(inspected: &Inspected) {
    let manifest = &inspected.manifest;
    println!(
        "  plugin    {} {} ({})",
        manifest.id, manifest.version, manifest.license
    );
    println!("  provides  {}: {}", manifest.family(), manifest.names().join(", "));
    let interfaces: Vec<_> = sorted(&inspected.exports)
        .into_iter()
        .filter(|name| name.contains(':'))
        .collect();
    println!("  exports   {}", interfaces.join(" "));
    let host: Vec<_> = sorted(&inspected.imports)
        .into_iter()
        .filter(|name| name.starts_with("hutch:host/"))
        .collect();
    println!(
        "  imports   {}",
        if host.is_empty() {
            "nothing of the host's".to_owned()
        } else {
            host.join(" ")
        }
    );
    let requested: Vec<_> = Permission::ALL
        .into_iter()
        .filter(|permission| permission.is_in(&manifest.permissions))
        .map(Permission::name)
        .collect();
    println!(
        "  requests  {}",
        if requested.is_empty() {
            "nothing".to_owned()
        } else {
            requested.join(" ")
        }
    );
}

fn sorted(names: &[String]) -> Vec<&str> {
    names
        .iter()
        .map(String::as_str)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// Holds what the file imports and exports against its manifest and this host's interfaces.
pub(crate) fn examine(inspected: &Inspected) -> Findings {
    let mut found = Findings::default();
    let manifest = &inspected.manifest;
    let family = manifest.family();
    let version = versions::of_family(family);
    let ours = format!("hutch:{family}/");
    // What has no package is a compiler's own and no interface.
    for export in inspected.exports.iter().filter(|name| name.contains(':')) {
        let (name, theirs) = export.split_once('@').unwrap_or((export, ""));
        // One that the host knows was refused before.
        if name.starts_with(&ours) && versions::fit(theirs, version) != Fit::Fits {
            found.warnings.push(format!(
                "it exports {export}, which this host does not call: it has version {version} of that package"
            ));
        } else if !name.starts_with(&ours) {
            found.warnings.push(format!(
                "it exports {export}, which no host calls in a plugin of the family {family}"
            ));
        }
    }
    permissions(&manifest.permissions, &inspected.imports, &mut found);
    found
}

/// Every import that needs a permission must have one requested, and every permission should have its import.
fn permissions(requested: &Permissions, imports: &[String], found: &mut Findings) {
    for permission in Permission::ALL {
        let name = permission.name();
        let interface = format!("hutch:host/{name}");
        let imported = imports
            .iter()
            .any(|import| import.split('@').next() == Some(&interface));
        match (imported, permission.is_in(requested)) {
            (true, false) => found.errors.push(format!(
                "it imports {interface} and its manifest does not request it: each call would fail with not-requested. Add {} below \
                 [permissions] in plugin.toml, or don't call it",
                example(permission)
            )),
            (false, true) => found.warnings.push(format!(
                "its manifest requests {name} and nothing imports {interface}: whoever installs it is asked for more than it uses. \
                 Take it out of [permissions] in plugin.toml"
            )),
            _ => {}
        }
    }
}

/// How a permission is requested.
fn example(permission: Permission) -> &'static str {
    match permission {
        Permission::Fs => "`fs = { roots = true }`",
        Permission::Link => "`link = true`",
        Permission::Filter => "`filter = true`",
        Permission::Service => "`service = [\"PROGRAM\"]`",
        Permission::Command => "a table `[[permissions.command]]` with the program and its arguments",
        Permission::Http => "`http = [\"origin\"]`",
        Permission::Watch => "`watch = true`",
        Permission::System => "`system = true`",
        Permission::Records => "`records = true`",
    }
}

/// Compiles the plugin as a daemon would, which also shows that its functions have the types that the interfaces say. Answers with
/// why not.
fn compile(path: &Path) -> Result<Option<String>> {
    let directory = tempfile::Builder::new().prefix("hutch-plugin-check-").tempdir()?;
    let loaded = runtime()?.block_on(machine::load(path, directory.path()))?;
    Ok((loaded.state != PluginState::Enabled).then_some(loaded.reason))
}

/// A refusal with its causes and what to do about it.
pub(crate) fn explained(error: &BinaryError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    let advice = match error {
        BinaryError::Missing(interface) => format!(
            "add it to `exports` in the macro of the SDK (in another language: to the world) and implement {interface}"
        ),
        BinaryError::NoManifest => {
            "in Rust the macros of the SDK embed plugin.toml; for another language `hutch plugin new` shows \
                                    how the build embeds it"
                .to_owned()
        }
        BinaryError::Version { package, ours, .. } => {
            format!(
                "build it with the SDK of this version, or against hutch:{package}@{ours} or an earlier one on its track"
            )
        }
        BinaryError::Import(_) => {
            "a plugin may import hutch:host and WASI 0.2 without http; look for the dependency that wants it".to_owned()
        }
        _ => return text,
    };
    format!("{text}\n  {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_and_requests_are_held_against_each_other() {
        let requested = Permissions {
            link: true,
            ..Permissions::default()
        };
        let imports = ["hutch:host/fs@0.1.0", "hutch:host/log@0.1.0", "wasi:cli/stdout@0.2.6"].map(str::to_owned);
        let mut found = Findings::default();
        permissions(&requested, &imports, &mut found);
        assert_eq!(found.errors.len(), 1, "{found:?}");
        assert!(found.errors[0].contains("hutch:host/fs") && found.errors[0].contains("fs = { roots = true }"));
        assert_eq!(found.warnings.len(), 1, "{found:?}");
        assert!(found.warnings[0].contains("requests link"));
    }
}
