//! `dev`: builds, checks and tries a project again whenever one of its files changes.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use hutch_plugin::binary;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::{build, component};

/// How long nothing must change before a build begins, in milliseconds: editors write several files, and each more than once.
const QUIET: u8 = 100;

/// Directories that hold what is made, or what is not the author's.
const SKIPPED: [&str; 7] = [
    "target",
    "build",
    "node_modules",
    "vendor",
    "__pycache__",
    "wit_world",
    "componentize_py_async_support",
];

/// What `dev` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Build and check only: do not try the driver, which takes root
    #[arg(long)]
    no_test: bool,
    /// All cases of the suite instead of the quick ones
    #[arg(long)]
    all: bool,
    /// Bring what passed into use in the running daemon, with all that it asks for granted
    #[arg(long)]
    reload: bool,
}

/// Goes on until it is interrupted.
///
/// # Errors
/// When this folder is no project, or can't be watched.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    build::project(Path::new("."))?;
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).context("can't watch files")?;
    loop {
        watch_below(&watch, Path::new("."))?;
        round(options)?;
        println!("dev: waiting for a change");
        wait(&watch)?;
    }
}

/// Builds, checks and tries it, as far as that goes. What fails has said why.
fn round(options: &Options) -> Result<()> {
    let own = std::env::current_exe().context("can't find this program")?;
    let name = own.to_string_lossy().into_owned();
    let build = vec![name.as_str(), "build"];
    let check = vec![name.as_str(), "check", "--quick"];
    let mut test = vec![name.as_str(), "test"];
    if !options.all {
        test.push("--quick");
    }
    let mut steps = vec![build, check];
    if !options.no_test {
        steps.push(test);
    }
    for step in steps {
        let (program, arguments) = step.split_first().context("a step has a program")?;
        let status = Command::new(program)
            .args(arguments)
            .status()
            .with_context(|| format!("can't run {program}"))?;
        if !status.success() {
            return Ok(());
        }
    }
    if options.reload { reload(&own) } else { Ok(()) }
}

/// Has the daemon use the plugin that was built: as an upgrade where it has one of this id.
fn reload(own: &Path) -> Result<()> {
    let file = component::newest()?;
    let bytes = std::fs::read(&file).with_context(|| format!("can't read {}", file.display()))?;
    let id = binary::inspect(&bytes)?.manifest.id;
    let hutch = |arguments: &[&OsStr]| {
        let mut command = Command::new(own.with_file_name("hutch"));
        command.arg("plugin").args(arguments);
        command
    };
    let (id, yes) = (OsStr::new(&id), OsStr::new("--yes"));
    let info = hutch(&[OsStr::new("info"), id]).output().context("can't run hutch")?;
    let mut command = if info.status.success() {
        // Whatever is there: it is the author's own machine and own plugin.
        let mine = ["--allow-downgrade", "--allow-publisher"].map(OsStr::new);
        hutch(&[OsStr::new("upgrade"), id, file.as_os_str(), yes, mine[0], mine[1]])
    } else {
        hutch(&[OsStr::new("install"), file.as_os_str(), yes])
    };
    // What it failed with, it has said.
    command.status().map(|_| ()).context("can't run hutch")
}

/// Watches a directory and those below it. One that is watched already stays so.
fn watch_below(watch: &Inotify, directory: &Path) -> Result<()> {
    let events = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM;
    watch
        .add_watch(directory, events)
        .with_context(|| format!("can't watch {}", directory.display()))?;
    let entries = std::fs::read_dir(directory).with_context(|| format!("can't list {}", directory.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = !name.to_string_lossy().starts_with('.') && !SKIPPED.iter().any(|skipped| name == *skipped);
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            watch_below(watch, &entry.path())?;
        }
    }
    Ok(())
}

/// Waits for a change of something that the author writes, and then until nothing changes any more.
fn wait(watch: &Inotify) -> Result<()> {
    let mut changed = false;
    loop {
        let mut ready = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        let time = if changed {
            PollTimeout::from(QUIET)
        } else {
            PollTimeout::NONE
        };
        if poll(&mut ready, time).context("can't wait for changes")? == 0 {
            return Ok(());
        }
        let events = watch.read_events().context("can't read what changed")?;
        changed |= events.iter().any(|event| event.name.as_deref().is_none_or(matters));
    }
}

/// Whether a file's change asks for a build: not what builds make, nor what editors leave for a moment.
fn matters(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    // Cargo makes its directory under a name with six more letters, and renames it.
    let coming = name.strip_prefix("target").is_some_and(|rest| rest.len() == 6);
    let made = name.ends_with(".wasm") || name == "Cargo.lock" || SKIPPED.contains(&&*name) || coming;
    !(made || name.starts_with('.') || name.ends_with('~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_makes_starts_no_build() {
        for name in [
            "shelf.wasm",
            "Cargo.lock",
            ".lib.rs.swp",
            "lib.rs~",
            "target",
            "targetq3Xy9Z",
        ] {
            assert!(!matters(OsStr::new(name)), "{name}");
        }
        for name in ["lib.rs", "plugin.toml", "app.py", "index.json"] {
            assert!(matters(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_change_is_noticed_in_a_folder_below() {
        let project = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(project.path().join("src/deep")).unwrap();
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
        watch_below(&watch, project.path()).unwrap();
        std::fs::write(project.path().join("src/deep/lib.rs"), "").unwrap();
        wait(&watch).unwrap();
    }
}
