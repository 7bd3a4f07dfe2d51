//! `setup`: what the machine needs besides rustup and a C linker.
//!
//! Everything is looked for first; nothing is fetched, and no privilege is needed, when it is all there.

use crate::{languages, run};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::Path;

/// What `setup` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Also install what only the tests need: the stock clients, a static busybox, and what builds plugins in C, Python and JavaScript
    #[arg(long)]
    pub(crate) tests: bool,
}

/// Something that must be on the machine, and the Debian and Ubuntu package that brings it.
pub(crate) struct Need {
    /// A program's name, or a file's absolute path.
    probe: &'static str,
    package: &'static str,
    /// Whether its absence from the package sources is an error. Stock clients are not packaged everywhere.
    required: bool,
}

pub(crate) const fn need(probe: &'static str, package: &'static str) -> Need {
    Need {
        probe,
        package,
        required: true,
    }
}

const fn wish(probe: &'static str, package: &'static str) -> Need {
    Need {
        probe,
        package,
        required: false,
    }
}

/// What the daemon and our drivers run.
const RUNTIME: &[Need] = &[
    need("ip", "iproute2"),
    need("nft", "nftables"),
    need("dnsmasq", "dnsmasq-base"),
    need("mmdebstrap", "mmdebstrap"),
    need("unsquashfs", "squashfs-tools"),
    need("zstd", "zstd"),
    need("xz", "xz-utils"),
    wish("/usr/sbin/apparmor_parser", "apparmor"),
];

/// What the tests run besides.
const TESTS: &[Need] = &[
    need("/bin/busybox", "busybox-static"),
    need("nsenter", "util-linux"),
    need("python3", "python3"),
    need("minisign", "minisign"),
    need("rsync", "rsync"),
    need("docker-registry", "docker-registry"),
    // BIND's reader of master files.
    need("named-compilezone", "bind9-utils"),
    // The database server of Open vSwitch, and OVN's schemas.
    need("ovsdb-server", "openvswitch-common"),
    need("/usr/share/ovn/ovn-nb.ovsschema", "ovn-central"),
    wish("incus", "incus-client"),
    wish("incus-simplestreams", "incus-extra"),
    wish("lxc", "lxd-client"),
    wish("/usr/lib/python3/dist-packages/pylxd/__init__.py", "python3-pylxd"),
    wish(
        "/usr/lib/python3/dist-packages/prometheus_client/__init__.py",
        "python3-prometheus-client",
    ),
];

/// What the lab's machine is made of.
const LAB: &[Need] = &[
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("setpriv", "util-linux"),
    wish("vng", "virtme-ng"),
];

/// What builds the lab's kernel.
const KERNEL: &[Need] = &[
    need("/usr/src/linux-source-6.12.tar.xz", "linux-source-6.12"),
    need("make", "make"),
    need("gcc", "gcc"),
    need("bc", "bc"),
    need("bison", "bison"),
    need("flex", "flex"),
    need("/usr/include/libelf.h", "libelf-dev"),
    need("/usr/include/openssl/ssl.h", "libssl-dev"),
    need("zstd", "zstd"),
    need("xz", "xz-utils"),
];

/// Installs what boots the lab's machine.
///
/// # Errors
/// As [`run()`], and when virtme-ng is not here, which not every release of Debian has.
pub(crate) fn lab_tools() -> Result<()> {
    packages(LAB)?;
    if run::find("vng").is_none() {
        bail!(
            "the lab needs virtme-ng, which no package source of this machine has: `pip install virtme-ng` brings it"
        );
    }
    Ok(())
}

/// Installs what the lab's kernel is built with.
///
/// # Errors
/// As [`run()`].
pub(crate) fn kernel_tools() -> Result<()> {
    packages(KERNEL)
}

/// The version of a package: of the one that is installed, or else of the one that would be.
///
/// # Errors
/// When this is no Debian or Ubuntu, or no package source has it.
pub(crate) fn package_version(package: &str) -> Result<String> {
    if run::find("apt-cache").is_none() {
        bail!("this is not Debian or Ubuntu, which have the package {package}");
    }
    if let Some(version) = version_of(package) {
        return Ok(version);
    }
    if run::is_root() {
        // A fresh machine may never have fetched its package lists.
        run::check(&mut apt(&["update"]))?;
    }
    version_of(package).with_context(|| format!("no package source of this machine has `{package}`"))
}

/// Adds the distribution's backports to the package sources where Incus is in no other: Debian 12. From the mirror that the
/// machine uses already.
///
/// # Errors
/// When the sources can't be written or fetched.
pub(crate) fn backports() -> Result<()> {
    const FILE: &str = "/etc/apt/sources.list.d/hutch-backports.list";
    if run::find("incus").is_some() || candidate("incus") || run::find("apt-get").is_none() || !run::is_root() {
        return Ok(());
    }
    let mut targets = run::program(
        "apt-get",
        ["indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"],
    );
    let Some(line) = run::output(&mut targets)?.lines().find_map(backports_of) else {
        return Ok(());
    };
    println!("setup: Incus is in the backports only: adding `{line}` to the package sources, in {FILE}");
    std::fs::write(FILE, format!("{line}\n")).with_context(|| format!("can't write {FILE}"))?;
    run::check(&mut apt(&["update"]))
}

/// The line for the backports of the same mirror, of a target `URI CODENAME COMPONENT` of Debian 12.
fn backports_of(target: &str) -> Option<String> {
    let mut words = target.split(' ');
    match (words.next()?, words.next()?, words.next()?) {
        (mirror, "bookworm", "main") => Some(format!("deb {mirror} bookworm-backports main")),
        _ => None,
    }
}

/// Installs what is missing.
///
/// # Errors
/// When something required is missing and can't be installed; the message says what to type.
pub(crate) fn run(options: &Options) -> Result<()> {
    packages(RUNTIME)?;
    if options.tests {
        packages(TESTS)?;
        languages::run()?;
    }
    targets()?;
    println!("setup: everything needed is here");
    Ok(())
}

fn present(need: &Need) -> bool {
    if need.probe.starts_with('/') {
        Path::new(need.probe).exists()
    } else {
        run::find(need.probe).is_some()
    }
}

/// Installs what is missing of these.
///
/// # Errors
/// As [`run()`].
pub(crate) fn packages(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !present(need)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    println!(
        "setup: missing: {}",
        missing.iter().map(|need| need.probe).collect::<Vec<_>>().join(", ")
    );
    if run::find("apt-get").is_none() {
        let required: Vec<&str> = missing
            .iter()
            .filter(|need| need.required)
            .map(|need| need.probe)
            .collect();
        if required.is_empty() {
            return Ok(());
        }
        bail!(
            "this is not Debian or Ubuntu: install by hand what provides {}",
            required.join(", ")
        );
    }
    if !run::is_root() {
        bail!(
            "packages are missing and only root can install them: apt-get install {}",
            names.join(" ")
        );
    }
    if missing.iter().any(|need| !candidate(need.package)) {
        // A fresh machine may never have fetched its package lists.
        run::check(&mut apt(&["update"]))?;
    }
    let (found, absent): (Vec<&Need>, Vec<&Need>) = missing.into_iter().partition(|need| candidate(need.package));
    if let Some(need) = absent.iter().find(|need| need.required) {
        bail!(
            "no package source of this machine has `{}`, which brings {}",
            need.package,
            need.probe
        );
    }
    for need in absent {
        println!(
            "setup: no package source has `{}`: tests that use {} will say that it is missing",
            need.package, need.probe
        );
    }
    if found.is_empty() {
        return Ok(());
    }
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(found.iter().map(|need| need.package));
    run::check(&mut apt(&arguments))
}

fn apt(arguments: &[&str]) -> std::process::Command {
    let mut command = run::program("apt-get", arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Whether a package is installed or the package lists offer it.
fn candidate(package: &str) -> bool {
    version_of(package).is_some()
}

/// As [`package_version()`], of what the package lists say now.
fn version_of(package: &str) -> Option<String> {
    let mut command = run::program("apt-cache", ["policy", package]);
    command.env("LC_ALL", "C");
    policy_version(&run::output(&mut command).ok()?)
}

/// The version in what `apt-cache policy PACKAGE` prints in the C locale.
fn policy_version(policy: &str) -> Option<String> {
    let field = |name| {
        let mut values = policy.lines().filter_map(|line| line.trim().strip_prefix(name));
        values.next().map(str::trim).filter(|value| *value != "(none)")
    };
    field("Installed:").or_else(|| field("Candidate:")).map(str::to_owned)
}

/// The target that the keeper is built for: static, for the machine's own architecture.
///
/// # Errors
/// On an architecture that Hutch does not support.
pub(crate) fn keeper_target() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("x86_64-unknown-linux-musl"),
        "aarch64" => Ok("aarch64-unknown-linux-musl"),
        other => bail!("the keeper has no target for {other}: Hutch runs on x86_64 and aarch64"),
    }
}

/// The target that plugins are built for.
pub(crate) const PLUGIN_TARGET: &str = "wasm32-wasip2";

/// Adds the compilation targets that are missing.
///
/// # Errors
/// When one is missing and rustup can't add it.
pub(crate) fn targets() -> Result<()> {
    let mut rustc = run::program("rustc", ["--print", "sysroot"]);
    let sysroot = run::output(&mut rustc).context("a Rust toolchain is needed: see https://rustup.rs")?;
    for target in [PLUGIN_TARGET, keeper_target()?] {
        let library = Path::new(&sysroot).join("lib/rustlib").join(target).join("lib");
        if library.is_dir() {
            continue;
        }
        println!("setup: the toolchain has no standard library for {target}");
        run::check(&mut run::program("rustup", ["target", "add", target])).with_context(|| {
            format!(
                "can't add {target}; by hand: unpack the archive rust-std-<version>-{target} of the very version that \
                 `rustc --version` prints, so that {} exists",
                library.display()
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{backports_of, policy_version};

    #[test]
    fn backports_come_from_the_machines_own_mirror() {
        let line = "deb http://mirror.example/debian/ bookworm-backports main";
        assert_eq!(
            backports_of("http://mirror.example/debian/ bookworm main").as_deref(),
            Some(line)
        );
        assert_eq!(
            backports_of("http://mirror.example/debian/ bookworm-updates main"),
            None
        );
        assert_eq!(backports_of("http://mirror.example/debian/ trixie main"), None);
    }

    #[test]
    fn an_installed_version_goes_before_the_candidate() {
        let policy = |installed, candidate| {
            format!("p:\n  Installed: {installed}\n  Candidate: {candidate}\n  Version table:\n")
        };
        assert_eq!(policy_version(&policy("1-1", "1-2")).as_deref(), Some("1-1"));
        assert_eq!(policy_version(&policy("(none)", "1-2")).as_deref(), Some("1-2"));
        assert_eq!(policy_version(&policy("(none)", "(none)")), None);
        assert_eq!(policy_version(""), None);
    }
}
