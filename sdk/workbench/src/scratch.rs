//! The scratch host: a process in mount, network and process namespaces of its own, with a file system of its own in memory. All
//! that is made in it is gone with it, also when it is killed.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use hutch_broker::FixedPath;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

/// Says to the program that it is the one inside, and where its place is.
const INSIDE: &str = "HUTCH_PLUGIN_SCRATCH";

/// The file system that pools lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Filesystem {
    /// In memory
    Tmpfs,
    /// On a loop device, with project quotas where the kernel has them
    Ext4,
    /// On a loop device, with reflinks, and with project quotas where the kernel has them
    Xfs,
    /// On a loop device, with reflinks
    Btrfs,
}

impl Filesystem {
    /// Its name for `mount`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// How it is made: the program and its options.
    fn make(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::Tmpfs => None,
            Self::Ext4 => Some(("mkfs.ext4", &["-q", "-F"])),
            Self::Xfs => Some(("mkfs.xfs", &["-q", "-f", "-K"])),
            Self::Btrfs => Some(("mkfs.btrfs", &["-q", "-f", "-K"])),
        }
    }

    /// How it is made so that trees can be limited, where that is another way, and how it is mounted then.
    fn limited(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Ext4 => Some(&["-O", "quota,project", "-E", "quotatype=prjquota"]),
            Self::Xfs => Some(&[]),
            Self::Tmpfs | Self::Btrfs => None,
        }
    }
}

/// The size of a file system on a loop device. What is not written takes no memory.
const LOOP_BYTES: u64 = 1 << 30;

/// The place of the scratch host, when this process is in one.
pub(crate) fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// The network that a run is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// One of its own, with the loopback interface alone
    #[default]
    Own,
    /// The machine's, for what has to be fetched
    Machine,
}

/// Runs this program again with the same arguments inside a scratch host and answers with its exit status.
///
/// # Errors
/// When this is not root, or the namespaces can't be made.
pub(crate) fn enter(network: Network) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("the scratch host has namespaces and mounts of its own, which takes root: run this as root (sudo)");
    }
    // Names of control groups and tables are made from the place, so that it must be no other run's.
    let place = format!("/run/hutch-plugin-{}", std::process::id());
    let mut namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC;
    if network == Network::Own {
        namespaces |= UnshareFlags::NEWNET;
    }
    #[allow(
        deprecated,
        reason = "the safe form: the flags that its successor is unsafe for are not used here"
    )]
    rustix::thread::unshare(namespaces).context("can't make namespaces")?;
    let program = std::env::current_exe().context("can't find this program")?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let status = Command::new(program)
        .args(arguments)
        .env(INSIDE, &place)
        .status()
        .context("can't start the scratch host")?;
    if let Some(signal) = status.signal() {
        bail!("the scratch host was ended by signal {signal}");
    }
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

/// Makes the inside: what is mounted here stays here, `/proc` shows the processes that are here, and `place` is a directory in memory.
///
/// # Errors
/// When something can't be mounted.
pub(crate) fn furnish(place: &Path, network: Network) -> Result<()> {
    // It is the first process of its namespace: when it ends, so do all.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("can't keep mounts to this process")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).context("can't mount /proc")?;
    let servers = name_servers()?;
    // Nothing in it is the machine's, but for the addresses of name servers where those are needed.
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", "/run", "tmpfs", flags, Some(c"mode=755")).context("can't mount a file system in memory")?;
    std::fs::create_dir(place).with_context(|| format!("can't create {}", place.display()))?;
    match (network, servers) {
        (Network::Own, _) => run("ip", &["link", "set", "lo", "up"]),
        (Network::Machine, Some((at, text))) => {
            let folder = at.parent().unwrap_or(Path::new("/run"));
            std::fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
            std::fs::write(&at, text).with_context(|| format!("can't write {}", at.display()))
        }
        (Network::Machine, None) => Ok(()),
    }
}

/// The file with the addresses of name servers (resolv.conf(5)), where it lies below `/run`, and what is in it.
fn name_servers() -> Result<Option<(PathBuf, Vec<u8>)>> {
    let Ok(at) = std::fs::canonicalize("/etc/resolv.conf") else {
        return Ok(None);
    };
    if !at.starts_with("/run") {
        return Ok(None);
    }
    let text = std::fs::read(&at).with_context(|| format!("can't read {}", at.display()))?;
    Ok(Some((at, text)))
}

/// Mounts an empty file system of this kind at `at`, with project quotas in force where it and the kernel have them. Answers with
/// what to tell of it.
///
/// # Errors
/// When it can't be made or mounted, with what the programs said.
pub(crate) fn filesystem(kind: Filesystem, at: &Path) -> Result<String> {
    std::fs::create_dir_all(at).with_context(|| format!("can't create {}", at.display()))?;
    let target = at.display().to_string();
    let Some((program, options)) = kind.make() else {
        run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", &target])?;
        return Ok(kind.name().to_owned());
    };
    let file = at.with_extension("image");
    let image = file.display().to_string();
    let made = |more: &[&str], mounted: &str| -> Result<()> {
        let sparse = std::fs::File::create(&file).with_context(|| format!("can't create {image}"))?;
        sparse.set_len(LOOP_BYTES)?;
        run(program, &[options, more, &[image.as_str()]].concat())?;
        run("mount", &["-t", kind.name(), "-o", mounted, &image, &target])
    };
    let limited = kind.limited().map(|more| made(more, "loop,prjquota"));
    if let Some(Ok(())) = limited {
        return Ok(format!("{} with project quotas", kind.name()));
    }
    made(&[], "loop").context("a loop device is needed; --filesystem tmpfs goes without")?;
    Ok(match limited {
        Some(_) => format!("{} without project quotas, which this kernel has not", kind.name()),
        None => kind.name().to_owned(),
    })
}

/// Gives the scratch host an empty directory of its own at each fixed place that a plugin may change, so that a run finds the same
/// on every machine and leaves the machine's own as it is. What is only read is the machine's.
///
/// # Errors
/// When something can't be mounted.
pub(crate) fn places(place: &Path, paths: &[FixedPath]) -> Result<()> {
    for (number, wanted) in paths.iter().filter(|wanted| wanted.writable).enumerate() {
        let path = wanted.path.as_path();
        if !path.is_dir() {
            // A directory can be made only on top of the machine's own.
            let above = path.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("/"));
            if above == Path::new("/") {
                bail!(
                    "the plugin works in {}, of which the machine has not even the first directory",
                    path.display()
                );
            }
            let (upper, work) = (
                place.join(format!("upper{number}")),
                place.join(format!("work{number}")),
            );
            for directory in [&upper, &work] {
                std::fs::create_dir(directory).with_context(|| format!("can't create {}", directory.display()))?;
            }
            let (lower, upper, work) = (above.display(), upper.display(), work.display());
            let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
            run(
                "mount",
                &["-t", "overlay", "-o", &options, "overlay", &lower.to_string()],
            )?;
            std::fs::create_dir_all(path).with_context(|| format!("can't create {}", path.display()))?;
        }
        run(
            "mount",
            &["-t", "tmpfs", "-o", "mode=755", "tmpfs", &path.display().to_string()],
        )?;
    }
    Ok(())
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("can't run {program}, which is needed"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} {} failed ({}): {}",
            arguments.join(" "),
            output.status,
            said.trim()
        );
    }
    Ok(())
}
