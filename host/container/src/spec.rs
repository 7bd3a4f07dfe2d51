//! What a container is to be: the document that the daemon hands to a keeper.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::devices::DeviceControl;
use crate::idmap::IdMap;
use crate::limits::Limits;
use crate::syscalls::SeccompPolicy;

/// Version of [`ContainerSpec`]'s format. A keeper refuses another one; a running keeper has read its own already.
/// 2 brought what of [`SeccompPolicy`] is more than a list of names.
pub const SPEC_VERSION: u32 = 2;

/// Everything that a keeper needs to know to make and restart a container. Nothing in it changes while it runs, but
/// [`ContainerSpec::limits`], which [`crate::Keeper::set_limits`] replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// [`SPEC_VERSION`].
    pub version: u32,
    /// Names the keeper among those of one run directory: 1 to 64 bytes of `[A-Za-z0-9._-]`, not starting with a dot.
    pub id: String,
    /// Host name in the container's UTS namespace, at most 64 bytes.
    pub hostname: String,
    /// Program and arguments of PID 1; the program is looked up inside the container, as an absolute path.
    pub init: Vec<String>,
    /// Environment of PID 1, complete but for `container=lxc`, which the keeper adds because distributions look for it.
    pub env: Vec<(String, String)>,
    /// Id map of the user namespace; `None` makes a privileged container, which stays in the host's user namespace.
    pub idmap: Option<IdMap>,
    /// The root file system.
    pub root: RootFs,
    /// What is mounted besides, in this order.
    pub mounts: Vec<Mount>,
    /// Files of the root file system that are written before PID 1 begins, in this order.
    #[serde(default)]
    pub files: Vec<NewFile>,
    /// Whether containers can be made inside.
    pub nesting: bool,
    /// Name of its cgroup under [`crate::CGROUP_PARENT`]; as [`ContainerSpec::id`], unique on the machine.
    pub cgroup: String,
    /// Limits from the start.
    pub limits: Limits,
    /// Kernel settings that have namespaces, as `sysctl(8)` names them (`net.ipv4.ip_forward`), and their values.
    pub sysctls: Vec<(String, String)>,
    /// Resource limits of PID 1 (`setrlimit(2)`), which all that it starts inherits.
    pub rlimits: Vec<Rlimit>,
    /// The console.
    pub console: ConsoleSpec,
    /// Which system calls may be made.
    pub seccomp: SeccompPolicy,
    /// Device nodes that may be used beyond the usual ones ([`DeviceRule::DEFAULTS`]).
    pub devices: Vec<DeviceRule>,
    /// By what the others are refused. [`crate::Runtime::create`] sets it to what works on this machine.
    #[serde(default)]
    pub device_control: DeviceControl,
    /// The profile of AppArmor that confines it, which is loaded. [`crate::Runtime`] sets it to what works on this machine.
    #[serde(default)]
    pub apparmor: Option<String>,
}

/// Where the root file system comes from. All paths are absolute, without `..`, and have no symbolic link on the way: the keeper
/// refuses to follow one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "type", rename_all = "kebab-case")]
pub enum RootFs {
    /// A directory of the host with unshifted ids.
    Bind {
        /// The directory.
        path: PathBuf,
    },
    /// An overlay (the kernel's `filesystems/overlayfs`), mounted in the container's own user namespace.
    Overlay {
        /// Read-only directories, uppermost first; 1 to 500.
        layers: Vec<PathBuf>,
        /// The writable directory. Its own name must not have `,`, `:` or `\\`, which mount options give a meaning.
        upper: PathBuf,
        /// An empty directory beside `upper`, with such a name.
        work: PathBuf,
    },
}

/// A directory or file of the host that is mounted inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Absolute path on the host: a directory, or a file or socket.
    pub source: PathBuf,
    /// Path in the container, taken from its root whether or not it starts with `/`. It is created when it is missing
    /// (directories 0755, as the container's root); symbolic links in it are followed inside the root only.
    pub target: PathBuf,
    /// Writes through this mount are refused.
    pub readonly: bool,
    /// What is mounted below the source is taken along.
    pub recursive: bool,
    /// Ids on disk are the container's (an id-mapped mount, `mount_setattr(2)`). Without it, files of ids that the
    /// container does not have appear as the overflow id 65534. Without meaning in a privileged container.
    pub shift: bool,
    /// A missing source or a failed mount stops the start; otherwise it is left out.
    pub required: bool,
}

impl Mount {
    /// Checks what can be checked without touching the system.
    ///
    /// # Errors
    /// A source that is not an absolute path, or a target that is the root itself.
    pub fn check(&self) -> Result<(), BadSpec> {
        check_path("source", &self.source)?;
        if self.place().next().is_none() {
            let target = self.target.display();
            return Err(BadSpec(format!("mount target {target} is the root itself")));
        }
        Ok(())
    }

    /// Whether it lies at the same place as the other, or below.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        let mut place = self.place();
        other.place().all(|part| place.next() == Some(part))
    }

    /// The names that its target's path goes through.
    fn place(&self) -> impl Iterator<Item = &std::ffi::OsStr> {
        self.target.components().filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name),
            _ => None,
        })
    }
}

/// A file that is written into the root file system, as its root: with mode 0644 where there is none yet, below directories
/// with 0755; with the owner and the mode that it has where there is one. Symbolic links in its path are followed inside the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewFile {
    /// Absolute path in the container.
    pub path: PathBuf,
    /// What it is to hold.
    pub content: String,
    /// What is there already is left as it is.
    pub create_only: bool,
    /// It is written again when the container reboots.
    pub every_boot: bool,
    /// Where it comes from, for the error if it can't be written.
    pub origin: String,
}

/// The console of PID 1, a pseudo-terminal on `/dev/console`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleSpec {
    /// Bytes of output that are kept for [`crate::Keeper::console_log`], 4 KiB to 1 MiB; older ones are dropped.
    pub log_bytes: u32,
}

impl Default for ConsoleSpec {
    fn default() -> Self {
        Self { log_bytes: 128 * 1024 }
    }
}

/// One resource limit of PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// Name without prefix, in lower case, as in `prlimit(1)`: `nofile`, `memlock`, `nproc`, …
    pub resource: String,
    /// Soft limit; `None` is unlimited.
    pub soft: Option<u64>,
    /// Hard limit; `None` is unlimited.
    pub hard: Option<u64>,
}

/// Device nodes of one kind, as the v1 `devices` controller writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRule {
    /// `true` for a block device, `false` for a character device.
    pub block: bool,
    /// Major number; `None` for all.
    pub major: Option<u32>,
    /// Minor number; `None` for all.
    pub minor: Option<u32>,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written.
    pub write: bool,
    /// Whether nodes of it may be made (`mknod(2)`).
    pub mknod: bool,
}

impl DeviceRule {
    /// A character device that may be read, written and made.
    #[must_use]
    pub const fn character(major: u32, minor: Option<u32>) -> Self {
        Self {
            block: false,
            major: Some(major),
            minor,
            read: true,
            write: true,
            mknod: true,
        }
    }

    /// What every container may use: making any node (which opens nothing), and opening `null`, `zero`, `full`,
    /// `random`, `urandom`, `tty`, `console`, `ptmx`, the pseudo-terminals, `fuse` and `net/tun`. Numbers are from the
    /// kernel's `admin-guide/devices.txt`.
    pub const DEFAULTS: [Self; 13] = [
        Self {
            block: false,
            major: None,
            minor: None,
            read: false,
            write: false,
            mknod: true,
        },
        Self {
            block: true,
            major: None,
            minor: None,
            read: false,
            write: false,
            mknod: true,
        },
        Self::character(1, Some(3)),
        Self::character(1, Some(5)),
        Self::character(1, Some(7)),
        Self::character(1, Some(8)),
        Self::character(1, Some(9)),
        Self::character(5, Some(0)),
        Self::character(5, Some(1)),
        Self::character(5, Some(2)),
        Self::character(136, None),
        Self::character(10, Some(229)),
        Self::character(10, Some(200)),
    ];
}

/// Why a specification can't be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("container specification: {0}")]
pub struct BadSpec(pub String);

impl ContainerSpec {
    /// A specification with these essentials and defaults for the rest: unprivileged by `idmap`, `/sbin/init`, no
    /// limits, no further mounts. The cgroup has the name of the container.
    #[must_use]
    pub fn new(id: impl Into<String>, idmap: Option<IdMap>, root: RootFs) -> Self {
        let id = id.into();
        Self {
            version: SPEC_VERSION,
            hostname: id.clone(),
            cgroup: id.clone(),
            id,
            init: vec!["/sbin/init".to_owned()],
            env: Vec::new(),
            idmap,
            root,
            mounts: Vec::new(),
            files: Vec::new(),
            nesting: false,
            limits: Limits::default(),
            sysctls: Vec::new(),
            rlimits: Vec::new(),
            console: ConsoleSpec::default(),
            seccomp: SeccompPolicy::default(),
            devices: Vec::new(),
            device_control: DeviceControl::default(),
            apparmor: None,
        }
    }

    /// Checks what can be checked without touching the system. The keeper does it again.
    ///
    /// # Errors
    /// The first rule that is broken, with the offending value.
    pub fn check(&self) -> Result<(), BadSpec> {
        let bad = |text: String| Err(BadSpec(text));
        if self.version != SPEC_VERSION {
            return bad(format!("version {} is not {SPEC_VERSION}", self.version));
        }
        check_file_name("id", &self.id)?;
        check_file_name("cgroup", &self.cgroup)?;
        if self.hostname.is_empty() || self.hostname.len() > 64 || self.hostname.contains(['\0', '/']) {
            return bad(format!(
                "host name `{}` is not 1 to 64 bytes",
                self.hostname.escape_debug()
            ));
        }
        if self.init.first().is_none_or(|program| !program.starts_with('/')) {
            return bad("init is not an absolute path".to_owned());
        }
        check_strings("init", self.init.iter().map(String::as_str))?;
        check_environment(&self.env)?;
        if let Some(map) = &self.idmap {
            map.check().map_err(BadSpec)?;
        }
        self.limits.check().map_err(BadSpec)?;
        self.seccomp.check().map_err(BadSpec)?;
        self.check_root()?;
        self.mounts.iter().try_for_each(Mount::check)?;
        for file in &self.files {
            check_path("file", &file.path)?;
        }
        for (name, _) in &self.sysctls {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
            if name.is_empty() || name.len() > 255 || name.contains("..") || !name.bytes().all(plain) {
                return bad(format!("sysctl `{}` is not a name", name.escape_debug()));
            }
        }
        if !(4096..=1024 * 1024).contains(&self.console.log_bytes) {
            return bad(format!(
                "console log of {} bytes is not 4 KiB to 1 MiB",
                self.console.log_bytes
            ));
        }
        Ok(())
    }

    fn check_root(&self) -> Result<(), BadSpec> {
        match &self.root {
            RootFs::Bind { path } => check_plain_path("root", path),
            RootFs::Overlay { layers, upper, work } => {
                if layers.is_empty() || layers.len() > 500 {
                    return Err(BadSpec(format!(
                        "{} overlay layers, of 1 to 500 that are possible",
                        layers.len()
                    )));
                }
                layers
                    .iter()
                    .chain([upper, work])
                    .try_for_each(|path| check_plain_path("overlay directory", path))?;
                check_overlay_pair(upper, work)
            }
        }
    }
}

/// Both directories have to be reached through one mount, which the keeper makes of the directory that they are in.
fn check_overlay_pair(upper: &Path, work: &Path) -> Result<(), BadSpec> {
    let plain = |path: &Path| {
        let name = path.file_name().map(|name| name.as_encoded_bytes());
        name.is_some_and(|name| !name.iter().any(|byte| b",:\\".contains(byte)))
    };
    if upper.parent() != work.parent() || upper == work || !plain(upper) || !plain(work) {
        let (upper, work) = (upper.display(), work.display());
        return Err(BadSpec(format!(
            "overlay directories {upper} and {work} are not two plain names in one directory"
        )));
    }
    Ok(())
}

/// A name that can be a file's: 1 to 64 bytes of letters, digits, `.`, `_` and `-`, not starting with a dot.
///
/// # Errors
/// Names `what` and the value.
pub fn check_file_name(what: &str, name: &str) -> Result<(), BadSpec> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(BadSpec(format!(
            "{what} `{}` is not 1 to 64 of [A-Za-z0-9._-]",
            name.escape_debug()
        )));
    }
    Ok(())
}

pub(crate) fn check_strings<'a>(what: &str, strings: impl Iterator<Item = &'a str>) -> Result<(), BadSpec> {
    for text in strings {
        if text.contains('\0') {
            return Err(BadSpec(format!(
                "{what} contains a zero byte: `{}`",
                text.escape_debug()
            )));
        }
    }
    Ok(())
}

pub(crate) fn check_environment(env: &[(String, String)]) -> Result<(), BadSpec> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(BadSpec(format!(
                "environment variable `{}` can't be set",
                name.escape_debug()
            )));
        }
    }
    Ok(())
}

fn check_plain_path(what: &str, path: &Path) -> Result<(), BadSpec> {
    check_path(what, path)?;
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(BadSpec(format!("{what} {} leads upwards", path.display())));
    }
    Ok(())
}

fn check_path(what: &str, path: &Path) -> Result<(), BadSpec> {
    if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(BadSpec(format!("{what} {} is not an absolute path", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec::new(
            "c1",
            Some(IdMap::contiguous(1_000_000, 65_536)),
            RootFs::Bind { path: "/srv/c1".into() },
        )
    }

    #[test]
    fn round_trips_and_refuses_unknown_fields() {
        let text = serde_json::to_string(&spec()).unwrap();
        assert_eq!(serde_json::from_str::<ContainerSpec>(&text).unwrap(), spec());
        let more = text.replacen('{', "{\"later\":1,", 1);
        assert!(
            serde_json::from_str::<ContainerSpec>(&more)
                .unwrap_err()
                .to_string()
                .contains("later")
        );
    }

    #[test]
    fn bad_values_are_named() {
        type Change = fn(&mut ContainerSpec);
        let cases: [(Change, &str); 10] = [
            (
                |s| {
                    s.root = RootFs::Overlay {
                        layers: vec!["/l".into()],
                        upper: "/a/u".into(),
                        work: "/b/w".into(),
                    }
                },
                "one directory",
            ),
            (|s| s.version = 9, "version 9"),
            (|s| s.id = "../x".into(), "id `../x`"),
            (|s| s.cgroup = String::new(), "cgroup"),
            (|s| s.init.clear(), "init"),
            (|s| s.env.push(("A=B".into(), String::new())), "A=B"),
            (|s| s.root = RootFs::Bind { path: "srv".into() }, "root srv"),
            (
                |s| {
                    s.root = RootFs::Bind {
                        path: "/srv/../etc".into(),
                    }
                },
                "root /srv/../etc",
            ),
            (|s| s.sysctls.push(("net/../x".into(), String::new())), "net/../x"),
            (|s| s.console.log_bytes = 1, "console log"),
        ];
        assert_eq!(spec().check(), Ok(()));
        let pair = |upper: &str, work: &str| check_overlay_pair(upper.as_ref(), work.as_ref());
        assert_eq!(pair("/p/v/fs", "/p/v/work"), Ok(()));
        assert!(pair("/p/fs", "/p/fs").is_err() && pair("/p/a,b", "/p/w").is_err() && pair("/", "/").is_err());
        for (change, text) in cases {
            let mut spec = spec();
            change(&mut spec);
            let message = spec.check().unwrap_err().to_string();
            assert!(message.contains(text), "{message}");
        }
    }
}
