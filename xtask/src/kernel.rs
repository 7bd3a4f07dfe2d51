//! The lab's kernel: Debian's source with `tests/lab/kernel.config`, built once for each such configuration and kept outside
//! the tree.

use crate::{run, setup};
use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The package with Debian's source of the kernel; it puts an archive of its own name into `/usr/src`.
const PACKAGE: &str = "linux-source-6.12";

/// The kernel image for the lab; it takes half an hour to build the first time, and again when the configuration or
/// Debian's source is another one.
///
/// # Errors
/// When the source or a tool can't be installed, or the build fails.
pub(crate) fn ensure() -> Result<PathBuf> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the lab builds kernels for x86_64 only: give one with --kernel or HUTCH_LAB_KERNEL");
    }
    let fragment = run::top().join("tests/lab/kernel.config");
    let text = std::fs::read_to_string(&fragment).with_context(|| format!("can't read {}", fragment.display()))?;
    let image = place(&text)?.join("bzImage");
    if image.is_file() {
        return Ok(image);
    }
    let source = source()?;
    // Asked again: with the source, newer package lists may have come.
    let place = place(&text)?;
    let image = place.join("bzImage");
    std::fs::create_dir_all(&place).with_context(|| format!("can't make {}", place.display()))?;
    // A second chore that wants the same kernel waits for the first one's.
    let lock = place.join("lock");
    let lock = File::create(&lock).with_context(|| format!("can't create {}", lock.display()))?;
    lock.lock().context("can't lock the kernel's place")?;
    if !image.is_file() {
        build(&source, &image, &fragment, &text)?;
    }
    Ok(image)
}

/// Where the kernel of this configuration is kept.
fn place(text: &str) -> Result<PathBuf> {
    Ok(cache()?.join(key(&setup::package_version(PACKAGE)?, text)))
}

/// The name of the directory of one kernel: of Debian's version and of what the configuration says.
fn key(version: &str, text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let digest = hex::encode(digest.get(..8).unwrap_or(&digest));
    format!("{version}-{digest}")
}

fn build(source: &Path, image: &Path, fragment: &Path, text: &str) -> Result<()> {
    let build = image.with_file_name("build");
    println!(
        "lab: building {PACKAGE} with tests/lab/kernel.config, once, in {}",
        build.display()
    );
    if build.exists() {
        std::fs::remove_dir_all(&build).with_context(|| format!("can't remove {}", build.display()))?;
    }
    std::fs::create_dir(&build).with_context(|| format!("can't make {}", build.display()))?;
    let mut unpack = run::program("tar", ["--extract", "--strip-components=1", "--file"]);
    run::check(unpack.arg(source).arg("--directory").arg(&build))?;
    configure(&build, fragment, text)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    run::check(&mut make(&build, &[&format!("--jobs={jobs}"), "bzImage"]))?;
    // Moved into place whole: half a kernel is never taken for one.
    std::fs::rename(build.join("arch/x86/boot/bzImage"), image)
        .with_context(|| format!("can't make {}", image.display()))?;
    std::fs::remove_dir_all(&build).with_context(|| format!("can't remove {}", build.display()))
}

/// Where the lab keeps what took long to make.
///
/// # Errors
/// When nothing says whose home this is.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("XDG_CACHE_HOME").filter(|given| !given.is_empty()) {
        return Ok(PathBuf::from(given).join("hutch-lab"));
    }
    let home = std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/hutch-lab"))
}

/// Debian's source, installed when it is missing, with what builds it.
fn source() -> Result<PathBuf> {
    setup::kernel_tools()?;
    let archive = PathBuf::from(format!("/usr/src/{PACKAGE}.tar.xz"));
    if !archive.is_file() {
        bail!("the package {PACKAGE} has no {}", archive.display());
    }
    Ok(archive)
}

/// The architecture's defaults, then ours, then whatever these entail; what we ask for must still be there.
fn configure(build: &Path, fragment: &Path, text: &str) -> Result<()> {
    run::check(&mut make(build, &["x86_64_defconfig"]))?;
    let mut merge = run::program("scripts/kconfig/merge_config.sh", ["-m", ".config"]);
    run::check(merge.arg(fragment).current_dir(build))?;
    run::check(&mut make(build, &["olddefconfig"]))?;
    let config = build.join(".config");
    let made = std::fs::read_to_string(&config).with_context(|| format!("can't read {}", config.display()))?;
    let lost = lost(text, &made);
    if !lost.is_empty() {
        bail!(
            "this kernel can't have what tests/lab/kernel.config asks for: {}",
            lost.join(", ")
        );
    }
    Ok(())
}

/// What is asked for and was not taken.
fn lost<'t>(wanted: &'t str, made: &str) -> Vec<&'t str> {
    wanted
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|line| !made.lines().any(|other| other == *line))
        .collect()
}

fn make(build: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = run::program("make", arguments);
    command.current_dir(build);
    command
}

#[cfg(test)]
mod tests {
    use super::{key, lost};

    #[test]
    fn what_was_not_taken_is_named() {
        let wanted = "# a comment\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\n";
        assert_eq!(lost(wanted, "CONFIG_A=y\n# CONFIG_C is not set\n"), ["CONFIG_C=y"]);
        assert!(lost(wanted, "CONFIG_C=y\nCONFIG_A=y\n").is_empty());
    }

    #[test]
    fn another_configuration_or_source_is_another_kernel() {
        let here = key("6.12.1-1", "CONFIG_A=y\n");
        assert!(here.starts_with("6.12.1-1-"), "{here}");
        assert_eq!(here, key("6.12.1-1", "CONFIG_A=y\n"));
        assert_ne!(here, key("6.12.1-2", "CONFIG_A=y\n"));
        assert_ne!(here, key("6.12.1-1", "CONFIG_A=m\n"));
    }
}
