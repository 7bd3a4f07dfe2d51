//! Profiles of AppArmor for containers, where the kernel has it.
//!
//! They are few, and compiled once by `apparmor_parser(8)`, which keeps what it made of them; after that they are in the kernel until the
//! machine is started again, and a container's start looks whether its own is there.

mod policy;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::error::Error;
use crate::spec::ContainerSpec;
use policy::Kind;

/// Whether the kernel has AppArmor (`admin-guide/LSM/apparmor`).
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

/// The profiles that the kernel has, a line each.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// What confines this process (`apparmor(7)`).
const OWN: &str = "/proc/self/attr/apparmor/current";

/// Where distributions have the program that compiles profiles and gives them to the kernel.
const PARSERS: [&str; 4] = [
    "/sbin/apparmor_parser",
    "/usr/sbin/apparmor_parser",
    "/usr/local/sbin/apparmor_parser",
    "/usr/bin/apparmor_parser",
];

/// What there is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppArmorSupport {
    /// The kernel has none.
    Missing,
    /// The daemon is confined itself, and its containers with it.
    Enclosing,
    /// The kernel has it, but containers can't be given profiles, for this reason that the operator can read.
    Unusable(String),
    /// Containers get profiles.
    Used,
}

/// Gives containers their profiles.
#[derive(Debug, Clone)]
pub(crate) struct AppArmor {
    pub(crate) support: AppArmorSupport,
    parser: PathBuf,
    /// Holds the text of the profiles, and what the parser made of them.
    directory: PathBuf,
    /// Whoever loads.
    turn: Arc<Mutex<()>>,
}

impl AppArmor {
    /// Looks what this machine has.
    pub(crate) fn probe(directory: PathBuf) -> Self {
        let parser = PARSERS.iter().map(PathBuf::from).find(|path| path.exists());
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let enabled = read(ENABLED).trim_end() == "Y";
        let readable = std::fs::metadata(LOADED).map(drop);
        Self {
            support: support(enabled, &read(OWN), readable, parser.is_some()),
            parser: parser.unwrap_or_default(),
            directory,
            turn: Arc::new(Mutex::new(())),
        }
    }

    /// Loads the profiles, if containers are to have any and they are not there.
    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        match self.support {
            AppArmorSupport::Used => self.ensure(&Kind::new(false, false).profile()).await,
            _ => Ok(()),
        }
    }

    /// The profile for a container, which is loaded; `None` where there are to be none.
    ///
    /// # Errors
    /// [`Error::Io`] when the profiles can't be given to the kernel.
    pub(crate) async fn profile_of(&self, spec: &ContainerSpec) -> Result<Option<String>, Error> {
        if self.support != AppArmorSupport::Used {
            return Ok(None);
        }
        let profile = Kind::new(spec.idmap.is_none(), spec.nesting).profile();
        self.ensure(&profile).await?;
        Ok(Some(profile))
    }

    async fn ensure(&self, profile: &str) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        if is_loaded(profile)? {
            return Ok(());
        }
        self.load().await
    }

    /// Has the parser compile all of them, unless it has, and give them to the kernel.
    async fn load(&self) -> Result<(), Error> {
        let this = self.clone();
        let loaded = tokio::task::spawn_blocking(move || this.run_parser()).await;
        let done = loaded.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|error| Error::io("loading the AppArmor profiles of", &self.directory, error))
    }

    fn run_parser(&self) -> io::Result<()> {
        let cache = self.directory.join("compiled");
        std::fs::create_dir_all(&cache)?;
        let text = policy::text();
        let file = self.directory.join(format!("hutch-{}", policy::fingerprint()));
        // The parser goes by the file's age to know whether it has compiled it.
        if std::fs::read(&file).ok().as_deref() != Some(text.as_bytes()) {
            std::fs::write(&file, text)?;
        }
        let mut command = Command::new(&self.parser);
        command
            .args(["--replace", "--write-cache", "--cache-loc"])
            .args([&cache, &file]);
        command.env_clear().current_dir("/");
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(io::Error::other(format!(
            "{} ended with {}: {said}",
            self.parser.display(),
            output.status
        )))
    }
}

fn support(enabled: bool, own: &str, readable: io::Result<()>, parser: bool) -> AppArmorSupport {
    let unusable = |what: &str| {
        let leads_to = "containers run without a profile until that is so and the daemon is started again";
        AppArmorSupport::Unusable(format!("the kernel has AppArmor, but {what}: {leads_to}"))
    };
    if !enabled {
        return AppArmorSupport::Missing;
    }
    if own.trim_end() != "unconfined" {
        return AppArmorSupport::Enclosing;
    }
    match readable {
        Err(error) => unusable(&format!(
            "{LOADED} can't be read ({error}; mount -t securityfs securityfs /sys/kernel/security)"
        )),
        Ok(()) if !parser => unusable("apparmor_parser is missing (install the package apparmor)"),
        Ok(()) => AppArmorSupport::Used,
    }
}

/// Whether the kernel has a profile. Somebody may have removed it again (`aa-remove-unknown(8)`).
fn is_loaded(profile: &str) -> Result<bool, Error> {
    let list = std::fs::read_to_string(LOADED).map_err(|error| Error::io("reading", Path::new(LOADED), error))?;
    let names = list.lines().filter_map(|line| line.split_once(' '));
    Ok(names.into_iter().any(|(name, _)| name == profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let gone = || Err(io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(support(false, "", gone(), false), AppArmorSupport::Missing);
        assert_eq!(support(true, "unconfined\n", Ok(()), true), AppArmorSupport::Used);
        let inside = support(true, "hutch-unprivileged-nesting-1 (enforce)\n", gone(), true);
        assert_eq!(inside, AppArmorSupport::Enclosing);
        for (readable, parser, told) in [(Ok(()), false, "package apparmor"), (gone(), true, "securityfs")] {
            match support(true, "unconfined\n", readable, parser) {
                AppArmorSupport::Unusable(why) => assert!(why.contains(told), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
