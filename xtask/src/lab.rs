//! `lab`: a command, or the tests, in a virtual machine whose kernel has what this machine's may lack.

mod guest;
mod suites;

use crate::{artifacts, kernel, run, setup};
use anyhow::{Context, Result, bail};
use clap::Args;
use guest::Guest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long the machine may take until it begins its command. Some seconds are usual, and a minute or two when every
/// processor is busy; an emulated kernel hangs in its start once in a great while.
const BOOT: Duration = Duration::from_secs(600);

/// What `lab` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The kernel image to boot, with 9p and virtio built in; without one, it is built from Debian's source, once
    #[arg(long, env = "HUTCH_LAB_KERNEL", value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// How much memory the machine has
    #[arg(long, default_value = MEMORY)]
    pub(crate) memory: String,
    /// How many processors it has
    #[arg(long, default_value_t = CPUS)]
    pub(crate) cpus: u32,
    /// Use KVM; without it the machine is emulated, which is 10 to 20 times slower and works everywhere
    #[arg(long)]
    pub(crate) kvm: bool,
    /// After how many minutes the machine is turned off, wherever its command is
    #[arg(long, default_value_t = MINUTES, value_name = "MINUTES")]
    pub(crate) timeout: u32,
    /// Run tests of the whole there instead of a command: those whose names contain one of the texts, or else the suites that
    /// have to do with the kernel
    #[arg(long, value_name = "FILTER", num_args = 0.., conflicts_with = "command")]
    pub(crate) test: Option<Vec<String>>,
    /// The command and its arguments; it runs as root in the current directory
    #[arg(last = true, required_unless_present = "test")]
    pub(crate) command: Vec<String>,
}

const MEMORY: &str = "3G";
const CPUS: u32 = 2;
const MINUTES: u32 = 240;

impl Options {
    /// The machine as it is when nothing is told, with all of its suites.
    pub(crate) fn all_suites() -> Self {
        Self {
            kernel: std::env::var_os("HUTCH_LAB_KERNEL").map(PathBuf::from),
            memory: MEMORY.to_owned(),
            cpus: CPUS,
            kvm: false,
            timeout: MINUTES,
            test: Some(Vec::new()),
            command: Vec::new(),
        }
    }
}

/// Runs the command or the tests in the machine. It sees this one's files; what it writes to them is thrown away.
///
/// # Errors
/// When the machine can't be booted, or the command or a test fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (kernel, ran) = boot(options)?;
    println!("lab: ran on {kernel}");
    ran
}

/// As [`run()`], and returns what the kernel calls itself, with what came of the command.
///
/// # Errors
/// When the command was not even begun.
pub(crate) fn boot(options: &Options) -> Result<(String, Result<()>)> {
    setup::lab_tools()?;
    let kernel = match &options.kernel {
        Some(given) if given.is_file() => given.clone(),
        Some(given) => bail!("there is no kernel at {}", given.display()),
        None => kernel::ensure()?,
    };
    let guest = match &options.test {
        Some(filters) => {
            let built = artifacts::build_for_tests(false)?;
            let tests = artifacts::test_program("hutch-tests", "whole")?;
            let compiled = kernel::cache()?.join("plugins");
            std::fs::create_dir_all(&compiled).with_context(|| format!("can't make {}", compiled.display()))?;
            Guest::new(&suites::command(&built, &tests, &compiled, filters), Some(&compiled))?
        }
        None => Guest::new(&options.command, None)?,
    };
    let complaint = watch(start(options, &kernel, &guest)?, &guest)?;
    let Some(name) = guest.kernel() else {
        bail!("the lab ended before it began the command: {complaint}");
    };
    let ran = match guest.status().as_deref() {
        Some("0") => Ok(()),
        Some(status) => Err(anyhow::anyhow!("the command in the lab ended with status {status}")),
        None => Err(anyhow::anyhow!("the lab ended before its command did: {complaint}")),
    };
    Ok((name, ran))
}

/// Waits for the machine's end while what its command writes is printed, and returns what the machine monitor complained of.
fn watch(mut machine: Child, guest: &Guest) -> Result<String> {
    let pid = machine.id();
    let (sender, receiver) = mpsc::channel();
    let mut printers = guest.print_until_end_of(pid)?;
    let mut errors = machine.stderr.take().context("the lab has no standard error")?;
    let waiting = std::thread::spawn(move || -> std::io::Result<String> {
        let mut complaint = Vec::new();
        errors.read_to_end(&mut complaint)?;
        let status = machine.wait()?;
        // Nobody listens any more where the machine was found not to start.
        let _ = sender.send(());
        Ok(format!("{} ({status})", String::from_utf8_lossy(&complaint).trim()))
    });
    let slow = receiver.recv_timeout(BOOT).is_err() && guest.kernel().is_none();
    if slow {
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM).context("can't turn the lab off")?;
    }
    let complaint = match waiting.join() {
        Ok(complaint) => complaint.context("can't wait for the lab")?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    for printer in &mut printers {
        printer.wait().context("can't wait for what prints the output")?;
    }
    if slow {
        bail!("the lab's kernel has not begun the command after {} s", BOOT.as_secs());
    }
    Ok(complaint)
}

/// Starts the machine. It is turned off when its time is over or this process ends: the machine monitor is the grandchild of a
/// program that passes no signal on, so it is one process group, which `timeout` ends.
fn start(options: &Options, kernel: &Path, guest: &Guest) -> Result<Child> {
    let mut command = run::program("setpriv", ["--pdeathsig", "TERM", "timeout", "--kill-after=10"]);
    command
        .arg((u64::from(options.timeout) * 60).to_string())
        .args(["vng", "--run"])
        .arg(kernel)
        .args(["--force-9p", "--disable-microvm", "--user", "root", "--memory"])
        .arg(&options.memory);
    // One thread emulates all processors: with one each, a timer of the machine gets lost now and then.
    let accelerator = if options.kvm {
        ""
    } else {
        command.arg("--disable-kvm");
        "-accel tcg,thread=single "
    };
    for folder in guest.shared() {
        command.arg(format!("--rwdir={0}={0}", folder.display()));
    }
    // What the monitor returns tells nothing: without a terminal it can't hear of the command's end. It truncates a file that is
    // its standard error, so that is a pipe.
    command
        .arg(format!("--qemu-opts={accelerator}-cpu max -smp {}", options.cpus))
        .arg("--exec")
        .arg(guest.script())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("can't run vng")
}
