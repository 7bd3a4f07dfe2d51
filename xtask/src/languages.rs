//! What builds plugins that are not in Rust, for the tests of what `hutch plugin new` makes: programs of the distribution's, and what
//! an author would fetch from PyPI and npm, in `target/languages`, where it is in nobody's way.

use crate::setup::{Need, need, packages};
use crate::{artifacts, run};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// What an author in Python installs.
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";

/// What an author in JavaScript installs is said by the template's own file, so that the tests build with that.
const PACKAGE_JSON: &str = "sdk/templates/javascript/package.json";

const C: &[Need] = &[
    need("clang", "clang"),
    need("wasm-ld", "lld"),
    need("/usr/include/wasm32-wasi/stdio.h", "wasi-libc"),
];

const JAVASCRIPT: &[Need] = &[need("node", "nodejs"), need("npm", "npm")];

/// Where it lies: `python/bin/componentize-py`, `javascript/node_modules`.
///
/// # Errors
/// When cargo can't say where it builds.
pub(crate) fn tools() -> Result<PathBuf> {
    Ok(artifacts::target_directory()?.join("languages"))
}

/// Installs what is missing.
///
/// # Errors
/// When something is missing and can't be installed.
pub(crate) fn run() -> Result<()> {
    c()?;
    let tools = tools()?;
    python(&tools.join("python"))?;
    javascript(&tools.join("javascript"))
}

fn c() -> Result<()> {
    packages(C)?;
    if builtins()? {
        return Ok(());
    }
    // A probe for a file would have to know clang's version.
    packages(&[need("/no-such-file", "libclang-rt-dev-wasm32")])?;
    if !builtins()? {
        bail!(
            "clang has no built-in functions for WebAssembly: install the libclang-rt-VERSION-dev-wasm32 of its version"
        );
    }
    Ok(())
}

/// Whether clang finds its built-in functions for WebAssembly.
fn builtins() -> Result<bool> {
    let mut clang = run::program("clang", ["--target=wasm32-wasi", "--print-libgcc-file-name"]);
    let file = run::output(&mut clang)?;
    // `wasip1` is what later versions call the same system.
    Ok(Path::new(&file).exists())
}

fn python(folder: &Path) -> Result<()> {
    let version = COMPONENTIZE_PY.rsplit('=').next().unwrap_or_default();
    let program = folder.join("bin/componentize-py");
    let mut there = std::process::Command::new(&program);
    if run::output(there.arg("--version")).is_ok_and(|said| said.ends_with(version)) {
        return Ok(());
    }
    if !run::succeeds(&mut run::program("python3", ["-c", "import ensurepip"])) {
        packages(&[need("/no-such-file", "python3-venv")])?;
    }
    let place = folder.to_string_lossy();
    run::check(&mut run::program("python3", ["-m", "venv", "--clear", &place]))?;
    let mut pip = std::process::Command::new(folder.join("bin/pip"));
    run::check(pip.args(["install", "--quiet", "--disable-pip-version-check", COMPONENTIZE_PY]))
}

fn javascript(folder: &Path) -> Result<()> {
    packages(JAVASCRIPT)?;
    let wanted = std::fs::read(run::top().join(PACKAGE_JSON)).with_context(|| format!("can't read {PACKAGE_JSON}"))?;
    let (place, modules) = (folder.join("package.json"), folder.join("node_modules"));
    if std::fs::read(&place).is_ok_and(|present| present == wanted) && modules.is_dir() {
        return Ok(());
    }
    if modules.exists() {
        std::fs::remove_dir_all(&modules).with_context(|| format!("can't remove {}", modules.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    let named = String::from_utf8_lossy(&wanted).replace("@name@", "tools");
    std::fs::write(&place, named).with_context(|| format!("can't write {}", place.display()))?;
    let mut npm = run::program("npm", ["install", "--no-audit", "--no-fund"]);
    run::check(npm.current_dir(folder))?;
    // What stands there only now says that all of it is there.
    std::fs::write(&place, wanted).with_context(|| format!("can't write {}", place.display()))
}
