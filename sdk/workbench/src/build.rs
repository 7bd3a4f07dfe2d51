//! `build`: the project in this folder, by the tools of the language that it is written in. What those of C lack is here
//! ([`crate::module`]).

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::module;

/// What `build` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {}

/// What a project is written in, which a file in it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Project {
    /// `Cargo.toml`
    Rust,
    /// `build.py`
    Python,
    /// `package.json`
    JavaScript,
    /// `src/driver.c`
    C,
}

/// What the project in `folder` is written in.
///
/// # Errors
/// When it is none of these.
pub(crate) fn project(folder: &Path) -> Result<Project> {
    let known = [
        ("Cargo.toml", Project::Rust),
        ("build.py", Project::Python),
        ("package.json", Project::JavaScript),
        ("src/driver.c", Project::C),
    ];
    let found = known.iter().find(|(file, _)| folder.join(file).exists());
    match found {
        Some((_, project)) => Ok(*project),
        None => bail!(
            "this folder is no project of a plugin: it has neither Cargo.toml, build.py, package.json nor src/driver.c"
        ),
    }
}

/// Builds it.
///
/// # Errors
/// When it is no project, or a tool is missing or fails, which has said why.
pub(crate) fn run(_: &Options) -> Result<ExitCode> {
    let folder = Path::new(".");
    match project(folder)? {
        Project::Rust => tool("cargo", &["build"]),
        Project::Python => tool("python3", &["build.py"]),
        Project::JavaScript => {
            if !folder.join("node_modules").is_dir() {
                tool("npm", &["install", "--no-audit", "--no-fund"])?;
            }
            tool("npm", &["run", "--silent", "build"])
        }
        Project::C => module::build(folder),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a program to its end, with what it prints.
///
/// # Errors
/// When it can't be run, or fails.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(|| format!("can't run {program}, which builds this project"))?;
    if !status.success() {
        bail!("{program} failed ({status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_what_a_project_is_written_in() {
        let folder = tempfile::tempdir().unwrap();
        assert!(project(folder.path()).is_err());
        std::fs::create_dir(folder.path().join("src")).unwrap();
        for (file, expected) in [
            ("src/driver.c", Project::C),
            ("package.json", Project::JavaScript),
            ("build.py", Project::Python),
            ("Cargo.toml", Project::Rust),
        ] {
            std::fs::write(folder.path().join(file), "").unwrap();
            assert_eq!(project(folder.path()).unwrap(), expected);
        }
    }
}
