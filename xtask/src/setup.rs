//! `setup`: what the machine needs besides rustup and a C linker.
//!
//! Everything is looked for first; nothing is fetched, and no privilege is needed, when it is all there.

use crate::run;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::Path;

/// What `setup` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Also install what only the tests need: the stock clients and a static busybox
    #[arg(long)]
    pub(crate) tests: bool,
}

/// Something that must be on the machine, and the Debian and Ubuntu package that brings it.
struct Need {
    /// A program's name, or a file's absolute path.
    probe: &'static str,
    package: &'static str,
    /// Whether its absence from the package sources is an error. Stock clients are not packaged everywhere.
    required: bool,
}

const fn need(probe: &'static str, package: &'static str) -> Need {
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
];

/// What the tests run besides.
const TESTS: &[Need] = &[
    need("/bin/busybox", "busybox-static"),
    need("nsenter", "util-linux"),
    need("python3", "python3"),
    wish("incus", "incus-client"),
    wish("incus-simplestreams", "incus-extra"),
    wish("lxc", "lxd-client"),
    wish("/usr/lib/python3/dist-packages/pylxd/__init__.py", "python3-pylxd"),
];

/// Installs what is missing.
///
/// # Errors
/// When something required is missing and can't be installed; the message says what to type.
pub(crate) fn run(options: &Options) -> Result<()> {
    packages(RUNTIME)?;
    if options.tests {
        packages(TESTS)?;
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

fn packages(needs: &[Need]) -> Result<()> {
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

/// Whether the package lists offer a package.
fn candidate(package: &str) -> bool {
    let mut command = run::program("apt-cache", ["policy", package]);
    command.env("LC_ALL", "C");
    run::output(&mut command).is_ok_and(|policy| {
        policy
            .lines()
            .any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)"))
    })
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
