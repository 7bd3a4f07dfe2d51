//! The clients that people have, as black boxes: `hutch`, `incus`, `lxc` and pylxd.

use crate::daemon::Daemon;
use crate::programs::Programs;
use anyhow::{Context, Result, bail};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A client program that speaks to one daemon, with settings of its own.
#[derive(Clone, Debug)]
pub struct Stock {
    program: String,
    environment: Vec<(String, String)>,
}

impl Stock {
    /// Our own command line.
    ///
    /// # Errors
    /// When the environment does not say where it is.
    pub fn hutch(daemon: &Daemon) -> Result<Self> {
        let program = Programs::from_environment()?.cli.to_string_lossy().into_owned();
        Ok(Self::new(daemon, &program, &[("HUTCH_SOCKET", &daemon.socket())]))
    }

    /// Incus's command line, or `None`, said aloud, where it is not installed.
    #[must_use]
    pub fn incus(daemon: &Daemon) -> Option<Self> {
        let settings = daemon.sandbox().path().join("incus");
        installed("incus").then(|| {
            Self::new(
                daemon,
                "incus",
                &[("INCUS_SOCKET", &daemon.socket()), ("INCUS_CONF", &settings)],
            )
        })
    }

    /// LXD's command line, or `None`, said aloud, where it is not installed.
    #[must_use]
    pub fn lxc(daemon: &Daemon) -> Option<Self> {
        let settings = daemon.sandbox().path().join("lxc");
        installed("lxc").then(|| {
            Self::new(
                daemon,
                "lxc",
                &[("LXD_DIR", &daemon.state_dir()), ("LXD_CONF", &settings)],
            )
        })
    }

    /// Python with pylxd, or `None`, said aloud, where it is not installed.
    #[must_use]
    pub fn pylxd(daemon: &Daemon) -> Option<Self> {
        Self::python(daemon, "pylxd")
    }

    /// Python with Prometheus's own parsers, or `None`, said aloud, where they are not installed.
    #[must_use]
    pub fn prometheus(daemon: &Daemon) -> Option<Self> {
        Self::python(daemon, "prometheus_client")
    }

    fn python(daemon: &Daemon, module: &str) -> Option<Self> {
        let stock = Self::new(daemon, "python3", &[("LXD_DIR", &daemon.state_dir())]);
        let there = stock
            .command(&["-c", &format!("import {module}")])
            .output()
            .is_ok_and(|output| output.status.success());
        if !there {
            println!("NOT TESTED: {module} is not installed");
        }
        there.then_some(stock)
    }

    fn new(daemon: &Daemon, program: &str, environment: &[(&str, &Path)]) -> Self {
        let home = daemon.sandbox().path().to_string_lossy().into_owned();
        let mut environment: Vec<(String, String)> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_string_lossy().into_owned()))
            .collect();
        environment.push(("HOME".to_owned(), home));
        Self {
            program: program.to_owned(),
            environment,
        }
    }

    /// The command, to be run by the caller.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Runs the client and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it wrote to standard error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(arguments)
            .output()
            .with_context(|| format!("can't run {}", self.program))?;
        self.printed(arguments, output)
    }

    /// Runs the client with something on its standard input.
    ///
    /// # Errors
    /// When it fails.
    pub fn feed(&self, arguments: &[&str], input: &[u8]) -> Result<String> {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("can't run {}", self.program))?;
        child.stdin.take().context("no standard input")?.write_all(input)?;
        let output = child.wait_with_output()?;
        self.printed(arguments, output)
    }

    /// Runs the client, which must fail, and returns its exit status and what it wrote to standard error.
    ///
    /// # Errors
    /// When it succeeds or is ended by a signal.
    pub fn fails(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = self
            .command(arguments)
            .output()
            .with_context(|| format!("can't run {}", self.program))?;
        match output.status.code() {
            Some(0) => bail!("{} {} should have failed", self.program, arguments.join(" ")),
            Some(status) => Ok((status, String::from_utf8_lossy(&output.stderr).trim().to_owned())),
            None => bail!("{} {} was ended by a signal", self.program, arguments.join(" ")),
        }
    }

    fn printed(&self, arguments: &[&str], output: Output) -> Result<String> {
        if !output.status.success() {
            bail!(
                "{} {}: {}: {}",
                self.program,
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !there {
        println!("NOT TESTED: {program} is not installed");
    }
    there
}
