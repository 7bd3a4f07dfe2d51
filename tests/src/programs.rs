//! Where the programs under test are.

use anyhow::{Result, bail};
use std::path::PathBuf;

/// The programs and plugins of one build.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The daemon.
    pub daemon: PathBuf,
    /// The command line.
    pub cli: PathBuf,
    /// What authors of plugins work with.
    pub workbench: PathBuf,
    /// The process that holds one container.
    pub keeper: PathBuf,
    /// The directory with our plugins.
    pub plugins: PathBuf,
    /// The directory with the plugins that misbehave on request, and with those that were built from the released interfaces.
    pub guests: Option<PathBuf>,
    /// What authors of plugins work with, of the version of the interfaces that follows this one.
    pub next: Option<PathBuf>,
    /// Where that lies which builds plugins in Python (`python/bin`) and JavaScript (`javascript/node_modules`).
    pub tools: Option<PathBuf>,
}

impl Programs {
    /// Takes them from the environment.
    ///
    /// # Errors
    /// When a variable is not set or names nothing; the message says how to run the tests.
    pub fn from_environment() -> Result<Self> {
        Ok(Self {
            daemon: named("HUTCHD")?,
            cli: named("HUTCH")?,
            workbench: named("HUTCH_PLUGIN_DEV")?,
            keeper: named("HUTCH_KEEPER")?,
            plugins: named("HUTCH_PLUGINS")?,
            guests: std::env::var_os("HUTCH_GUESTS").map(PathBuf::from),
            next: std::env::var_os("HUTCH_PLUGIN_DEV_NEXT").map(PathBuf::from),
            tools: std::env::var_os("HUTCH_TOOLS").map(PathBuf::from),
        })
    }
}

fn named(variable: &str) -> Result<PathBuf> {
    let Some(value) = std::env::var_os(variable) else {
        bail!("{variable} is not set: these tests are run by `cargo xtask test --whole`");
    };
    let path = PathBuf::from(value);
    if !path.exists() {
        bail!("{variable} names {}, which is not there", path.display());
    }
    Ok(path)
}
