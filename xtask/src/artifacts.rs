//! `build`: the programs and the plugins, and where they end up.

use crate::{languages, next, run, setup};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Plugins that are no part of what is shipped: those that misbehave on request, and those that were built from the released interfaces.
const GUESTS: [&str; 7] = [
    "hutch-faulty-guest",
    "hutch-faulty-image",
    "hutch-faulty-network",
    "hutch-malicious-guest",
    "hutch-mutant-guest",
    "hutch-released-storage",
    "hutch-released-zone",
];

/// Where the programs and plugins of one build are.
#[derive(Debug)]
pub(crate) struct Artifacts {
    /// The daemon.
    pub(crate) daemon: PathBuf,
    /// The command line.
    pub(crate) cli: PathBuf,
    /// What authors of plugins work with.
    pub(crate) workbench: PathBuf,
    /// The process that holds one container; always the static one.
    pub(crate) keeper: PathBuf,
    /// The directory with our plugins.
    pub(crate) plugins: PathBuf,
    /// The directory with the plugins that are only for tests, where their programs were built.
    pub(crate) guests: Option<PathBuf>,
    /// What authors of plugins work with, of the version of the interfaces that follows this one.
    pub(crate) next: Option<PathBuf>,
    /// Where that lies which builds plugins in other languages, for the tests.
    pub(crate) tools: Option<PathBuf>,
}

impl Artifacts {
    /// Tells a program (the tests, the benchmarks) where everything is.
    pub(crate) fn announce<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if let Some(tools) = &self.tools {
            command.env("HUTCH_TOOLS", tools);
        }
        command
            .env("HUTCHD", &self.daemon)
            .env("HUTCH", &self.cli)
            .env("HUTCH_PLUGIN_DEV", &self.workbench)
            .env("HUTCH_KEEPER", &self.keeper)
            .env("HUTCH_PLUGINS", &self.plugins);
        if let Some(next) = &self.next {
            command.env("HUTCH_PLUGIN_DEV_NEXT", next);
        }
        if let Some(guests) = &self.guests {
            command.env("HUTCH_GUESTS", guests);
        }
        command
    }

    /// Prints what was made.
    pub(crate) fn describe(&self) {
        for path in [&self.daemon, &self.cli, &self.workbench, &self.keeper] {
            println!("{:>10}  {}", size(path), path.display());
        }
        let mut plugins: Vec<PathBuf> = std::fs::read_dir(&self.plugins)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        plugins.sort();
        for path in plugins {
            println!("{:>10}  {}", size(&path), path.display());
        }
    }
}

fn size(path: &Path) -> String {
    std::fs::metadata(path).map_or_else(|_| "missing".to_owned(), |found| format!("{} KiB", found.len() / 1024))
}

/// The part of `cargo metadata` that is used.
#[derive(Debug, Deserialize)]
struct Metadata {
    target_directory: PathBuf,
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}

fn metadata() -> Result<Metadata> {
    let mut command = run::cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let text = run::output(&mut command)?;
    serde_json::from_str(&text).context("can't read the output of `cargo metadata`")
}

/// Where cargo puts what it builds.
///
/// # Errors
/// When cargo can't say.
pub(crate) fn target_directory() -> Result<PathBuf> {
    Ok(metadata()?.target_directory)
}

/// The names of our plugins' packages: every member of the workspace below `plugins/`.
///
/// # Errors
/// When cargo can't list the workspace.
pub(crate) fn plugin_packages() -> Result<Vec<String>> {
    plugin_packages_of(&metadata()?)
}

fn plugin_packages_of(metadata: &Metadata) -> Result<Vec<String>> {
    let folder = run::top().join("plugins");
    let names: Vec<String> = metadata
        .packages
        .iter()
        .filter(|package| package.manifest_path.starts_with(&folder))
        // What tests them is not one.
        .filter(|package| package.manifest_path.with_file_name("plugin.toml").exists())
        .map(|package| package.name.clone())
        .collect();
    if names.is_empty() {
        bail!("the workspace has no member below {}", folder.display());
    }
    Ok(names)
}

/// Builds what is shipped.
///
/// # Errors
/// When a build fails.
pub(crate) fn build_release() -> Result<Artifacts> {
    build("release")
}

/// Builds the daemon and the command line in cargo's development profile, for the tests; the keeper and the plugins are those that
/// are shipped, because they are small and their profile is part of what they are. `next` asks for the host that follows, too.
///
/// # Errors
/// When a build fails.
pub(crate) fn build_for_tests(next: bool) -> Result<Artifacts> {
    let mut artifacts = with_guests(build("dev")?)?;
    if next {
        artifacts.next = Some(next::build(&target_directory()?)?);
    }
    Ok(artifacts)
}

/// Adds the plugins that are only for tests.
///
/// # Errors
/// When a build fails.
pub(crate) fn with_guests(mut artifacts: Artifacts) -> Result<Artifacts> {
    let metadata = metadata()?;
    let mut command = run::cargo();
    command.args(["build", "--profile", "plugin", "--target", setup::PLUGIN_TARGET]);
    run::check(command.args(GUESTS.iter().flat_map(|guest| ["--package", guest])))?;
    let directory = metadata.target_directory.join(setup::PLUGIN_TARGET).join("plugin");
    artifacts.guests = Some(directory);
    artifacts.tools = Some(languages::tools()?);
    Ok(artifacts)
}

/// Builds the test program `name` of a package and returns its path.
///
/// # Errors
/// When the build fails or makes no such program.
pub(crate) fn test_program(package: &str, name: &str) -> Result<PathBuf> {
    let mut command = run::cargo();
    command.args(["test", "--no-run", "--package", package, "--test", name]);
    let messages = run::output(command.args(["--message-format", "json"]))?;
    let made = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Made>(line).ok())
        .find(|made| made.target.name == name);
    made.map(|made| made.executable)
        .with_context(|| format!("`{}` made no test program", run::shown(&command)))
}

/// A message of cargo about a program that it made (the Cargo Book, "External tools", "Artifact Messages").
#[derive(Debug, Deserialize)]
struct Made {
    target: Target,
    executable: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

fn build(profile: &str) -> Result<Artifacts> {
    let metadata = metadata()?;
    let target = &metadata.target_directory;
    run::check(run::cargo().args([
        "build",
        "--profile",
        profile,
        "--package",
        "hutchd",
        "--package",
        "hutch",
        "--package",
        "hutch-plugin-dev",
    ]))?;
    let programs = target.join(if profile == "dev" { "debug" } else { profile });
    let artifacts = Artifacts {
        daemon: programs.join("hutchd"),
        cli: programs.join("hutch"),
        workbench: programs.join("hutch-plugin-dev"),
        keeper: build_keeper(target)?,
        plugins: build_plugins(&metadata)?,
        guests: None,
        next: None,
        tools: None,
    };
    Ok(artifacts)
}

fn build_keeper(target: &Path) -> Result<PathBuf> {
    let triple = setup::keeper_target()?;
    run::check(run::cargo().args([
        "build",
        "--profile",
        "keeper",
        "--package",
        "hutch-keeper",
        "--target",
        triple,
    ]))?;
    let place = target.join("release/hutch-keeper");
    install(&target.join(triple).join("keeper/hutch-keeper"), &place)?;
    Ok(place)
}

fn build_plugins(metadata: &Metadata) -> Result<PathBuf> {
    let packages = plugin_packages_of(metadata)?;
    let mut command = run::cargo();
    command.args(["build", "--profile", "plugin", "--target", setup::PLUGIN_TARGET]);
    for package in &packages {
        command.args(["--package", package]);
    }
    run::check(&mut command)?;
    let target = &metadata.target_directory;
    let place = target.join("plugins");
    std::fs::create_dir_all(&place).with_context(|| format!("can't create {}", place.display()))?;
    for package in &packages {
        let built = target
            .join(setup::PLUGIN_TARGET)
            .join("plugin")
            .join(format!("{}.wasm", package.replace('-', "_")));
        install(
            &built,
            &place.join(format!("{}.wasm", package.trim_start_matches("hutch-plugin-"))),
        )?;
    }
    remove_strangers(&place, &packages)?;
    Ok(place)
}

/// Removes plugins of packages that are no more, which a daemon would load otherwise.
fn remove_strangers(place: &Path, packages: &[String]) -> Result<()> {
    for entry in std::fs::read_dir(place).with_context(|| format!("can't list {}", place.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.extension().is_some_and(|kind| kind == "wasm") && !packages.contains(&format!("hutch-plugin-{name}")) {
            std::fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Puts a built file in its place in one step, so that a daemon or a container that runs the old one keeps it. Does nothing when
/// the content is there already, so that what watches the place sees no change.
fn install(built: &Path, place: &Path) -> Result<()> {
    let content = std::fs::read(built).with_context(|| format!("the build did not make {}", built.display()))?;
    if std::fs::read(place).is_ok_and(|present| present == content) {
        return Ok(());
    }
    if let Some(parent) = place.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("can't create {}", parent.display()))?;
    }
    let fresh = place.with_extension("new");
    std::fs::copy(built, &fresh).with_context(|| format!("can't write {}", fresh.display()))?;
    std::fs::rename(&fresh, place).with_context(|| format!("can't replace {}", place.display()))
}
