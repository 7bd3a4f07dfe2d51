//! The directory that a machine of the lab shares with this one: what it runs, and what comes of it.

use crate::run;
use anyhow::{Context, Result};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A command on its way into a machine. Dropping it removes the directory.
pub(super) struct Guest {
    folder: PathBuf,
    /// Another directory that the machine may write to.
    also: Option<PathBuf>,
}

impl Guest {
    /// Writes what the machine is to run in the current directory.
    pub(super) fn new(command: &[String], also: Option<&Path>) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("hutch-lab-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.with_context(|| format!("can't create {}", folder.display()))?;
        let this = Self {
            folder,
            also: also.map(Path::to_path_buf),
        };
        for name in ["stdout", "stderr"] {
            File::create(this.folder.join(name)).with_context(|| format!("can't create the file for {name}"))?;
        }
        let mut script = File::options()
            .create_new(true)
            .write(true)
            .mode(0o755)
            .open(this.script())
            .context("can't create the lab's script")?;
        std::io::Write::write_all(&mut script, this.text(command)?.as_bytes())
            .context("can't write the lab's script")?;
        Ok(this)
    }

    fn text(&self, command: &[String]) -> Result<String> {
        let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        let place = std::env::current_dir().context("can't tell the current directory")?;
        Ok(format!(
            "#!/bin/sh\n\
             umask 022\n\
             mount -t tmpfs -o mode=755 tmpfs /run\n\
             ip link set lo up\n\
             export PATH={path} HOME=/root LAB=1\n\
             uname -srvm > {kernel}\n\
             cd {place}\n\
             {line} >> {out} 2>> {err}\n\
             echo $? > {status}\n\
             sync\n",
            path = quoted(&std::env::var("PATH").unwrap_or_default()),
            kernel = self.quoted("kernel"),
            place = quoted(&place.to_string_lossy()),
            line = words.join(" "),
            out = self.quoted("stdout"),
            err = self.quoted("stderr"),
            status = self.quoted("status"),
        ))
    }

    fn quoted(&self, name: &str) -> String {
        quoted(&self.folder.join(name).to_string_lossy())
    }

    /// What the machine runs.
    pub(super) fn script(&self) -> PathBuf {
        self.folder.join("script")
    }

    /// The directories that it may write to.
    pub(super) fn shared(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.folder).chain(&self.also).map(PathBuf::as_path)
    }

    /// What the kernel calls itself, once the command was begun.
    pub(super) fn kernel(&self) -> Option<String> {
        self.read("kernel")
    }

    /// The command's exit status, once it has ended.
    pub(super) fn status(&self) -> Option<String> {
        self.read("status")
    }

    fn read(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.folder.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Prints what the command writes as it comes, until the process is gone.
    pub(super) fn print_until_end_of(&self, pid: u32) -> Result<[Child; 2]> {
        let printer = |name: &str| -> Command {
            let mut tail = run::program("tail", ["--lines=+1", "--follow=descriptor"]);
            tail.arg(format!("--pid={pid}")).arg(self.folder.join(name));
            tail
        };
        let errors = printer("stderr").stdout(std::io::stderr()).stdin(Stdio::null()).spawn();
        let output = printer("stdout").stdin(Stdio::null()).spawn();
        Ok([output.context("can't run tail")?, errors.context("can't run tail")?])
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("lab: can't remove {}: {error}", self.folder.display());
        }
    }
}

/// A word as a shell reads it back unchanged.
pub(super) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("plain"), "'plain'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
