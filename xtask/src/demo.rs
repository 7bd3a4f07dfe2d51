//! `demo`: from a fresh machine to a Debian container with systemd and networking, in one command.
//!
//! Every step looks at what is there before it does anything, so a second run takes a moment and changes nothing.

use crate::artifacts::{self, Artifacts};
use crate::{run, setup};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What `demo` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the private daemon keeps everything
    #[arg(long, default_value = "/var/lib/hutch-demo", value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
    /// The release of Debian to launch
    #[arg(long, default_value = "bookworm")]
    pub(crate) release: String,
    /// Stop the container and the daemon, and keep them for the next time
    #[arg(long)]
    pub(crate) stop: bool,
    /// Stop them and remove everything that the demo made
    #[arg(long)]
    pub(crate) remove: bool,
}

/// What is run inside. A container runs from its first process on, before that answers anybody; an address comes by DHCP when
/// it comes. Both are waited for, half a minute at most.
const LOOK: &str = r#"
wait_for() {
    tries=300
    until eval "$1"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || { echo "$2"; exit 1; }
        sleep 0.1
    done
}
wait_for '[ -S /run/systemd/private ]' 'systemd does not answer'
printf 'systemd: '
systemctl is-system-running --wait || { systemctl --failed; exit 1; }
wait_for 'ip -4 route show default | grep -q via' 'there is no address by DHCP'
printf 'address: '
ip -4 -brief address show dev eth0
ping -c 1 -W 5 "$(ip -4 route show default | cut -d ' ' -f 3)"
"#;

/// The name of the container.
const NAME: &str = "c1";

/// How long a daemon may take until it answers. The first start compiles our plugins.
const START: Duration = Duration::from_secs(120);

/// How long a daemon may take to end when asked to.
const STOP: Duration = Duration::from_secs(30);

/// Runs the demo, or ends it.
///
/// # Errors
/// When a step fails; the steps before it stay done, and running it again goes on from there.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !run::is_root() {
        bail!("the demo makes containers, which takes root: run this as root");
    }
    if options.stop || options.remove {
        return end(options);
    }
    let begun = Instant::now();
    setup::run(&setup::Options { tests: false })?;
    let built = artifacts::build_release()?;
    let demo = Demo {
        state: options.state_dir.clone(),
        built,
    };
    demo.ensure_daemon()?;
    demo.ensure_container(&options.release)?;
    demo.show()?;
    println!("\nThat took {} s. Now try:\n", begun.elapsed().as_secs());
    demo.explain();
    Ok(())
}

/// A running demo.
struct Demo {
    state: PathBuf,
    built: Artifacts,
}

impl Demo {
    fn socket(&self) -> PathBuf {
        self.state.join("unix.socket")
    }

    /// The command line, for this daemon.
    fn hutch(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.built.cli);
        command.args(arguments).env("HUTCH_SOCKET", self.socket());
        command
    }

    /// Starts the daemon unless it runs. One that was built anew since is started again: its containers run on meanwhile.
    fn ensure_daemon(&self) -> Result<()> {
        std::fs::create_dir_all(&self.state).with_context(|| format!("can't create {}", self.state.display()))?;
        std::fs::set_permissions(&self.state, Permissions::from_mode(0o711))
            .with_context(|| format!("can't set the mode of {}", self.state.display()))?;
        if let Some(running) = Running::find(&self.state)? {
            if !running.outdated() && run::succeeds(&mut self.hutch(&["query", "/1.0"])) {
                println!("demo: the daemon runs already (process {})", running.pid);
                return Ok(());
            }
            println!("demo: the daemon was built anew: starting it again, while its containers run on");
            running.terminate()?;
        }
        self.start_daemon()
    }

    fn start_daemon(&self) -> Result<()> {
        let log_path = self.state.join("hutchd.log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("can't open {}", log_path.display()))?;
        let mut command = Command::new(&self.built.daemon);
        command
            .arg("--state-dir")
            .arg(&self.state)
            .current_dir("/")
            .stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        // A group of its own, so that Ctrl-C in this terminal does not reach it.
        let mut child = self
            .built
            .announce(&mut command)
            .process_group(0)
            .spawn()
            .context("can't start hutchd")?;
        std::fs::write(pid_file(&self.state), child.id().to_string()).context("can't record the daemon's process")?;
        let begun = Instant::now();
        while !run::succeeds(&mut self.hutch(&["query", "/1.0"])) {
            if let Some(status) = child.try_wait()? {
                bail!("hutchd ended at once ({status}): see {}", log_path.display());
            }
            if begun.elapsed() > START {
                bail!("hutchd does not answer: see {}", log_path.display());
            }
            // Nothing tells a stranger when a socket begins to answer, so it is asked.
            std::thread::sleep(Duration::from_millis(50));
        }
        println!(
            "demo: the daemon runs (process {}), its log is {}",
            child.id(),
            log_path.display()
        );
        Ok(())
    }

    fn ensure_container(&self, release: &str) -> Result<()> {
        if !run::succeeds(&mut self.hutch(&["config", "show", NAME])) {
            println!("demo: building Debian {release} from this machine's package mirror, and launching it");
            return run::check(&mut self.hutch(&["launch", &format!("debian:{release}"), NAME]));
        }
        let status = run::output(&mut self.hutch(&["list", NAME, "--format", "csv", "--columns", "s"]))?;
        if status.eq_ignore_ascii_case("running") {
            println!("demo: container {NAME} runs already");
            return Ok(());
        }
        run::check(&mut self.hutch(&["start", NAME]))
    }

    /// Shows that the container is a whole system, from inside it.
    fn show(&self) -> Result<()> {
        println!("demo: waiting until the container has booted, then looking at it from inside");
        run::check(&mut self.hutch(&["exec", NAME, "-T", "--", "sh", "-c", LOOK]))?;
        run::check(&mut self.hutch(&["list"]))
    }

    fn explain(&self) {
        let state = self.state.display();
        let cli = self.built.cli.display();
        println!("  export HUTCH_SOCKET={state}/unix.socket");
        println!("  {cli} shell {NAME}                      # a shell inside");
        println!("  {cli} snapshot create {NAME} before     # constant time when it is stopped");
        println!("  {cli} launch debian:bookworm c2      # the image is built already");
        println!("  {cli} --help");
        println!("\nThe clients that you may have work, too:\n");
        println!("  INCUS_SOCKET={state}/unix.socket incus list");
        println!("  LXD_DIR={state} lxc list");
        println!("\nTo stop it:               cargo xtask demo --stop");
        println!("To remove all it made:    cargo xtask demo --remove");
    }

    fn instances(&self) -> Result<Vec<String>> {
        let list = run::output(&mut self.hutch(&["list", "--format", "csv", "--columns", "n"]))?;
        Ok(list.lines().map(str::to_owned).collect())
    }
}

fn pid_file(state: &Path) -> PathBuf {
    state.join("hutchd.pid")
}

/// A daemon of the demo that lives.
struct Running {
    pid: u32,
    program: PathBuf,
}

impl Running {
    /// Finds it by the number it left behind, and makes sure that the process of that number is a hutchd of this state directory.
    fn find(state: &Path) -> Result<Option<Self>> {
        let Ok(text) = std::fs::read_to_string(pid_file(state)) else {
            return Ok(None);
        };
        let Ok(pid) = text.trim().parse::<u32>() else {
            return Ok(None);
        };
        let Ok(program) = std::fs::read_link(format!("/proc/{pid}/exe")) else {
            return Ok(None);
        };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_hutchd = program
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("hutchd"));
        let wanted = state.to_string_lossy();
        let is_ours = line.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes());
        Ok((is_hutchd && is_ours).then_some(Self { pid, program }))
    }

    /// Whether the program that it runs has been replaced on disk, which the kernel shows by this ending.
    fn outdated(&self) -> bool {
        self.program.to_string_lossy().ends_with(" (deleted)")
    }

    /// Asks it to end, and waits until it has.
    fn terminate(&self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid).context("a process number out of range")?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("can't end the daemon")?;
        let begun = Instant::now();
        while Path::new(&format!("/proc/{}/exe", self.pid)).read_link().is_ok() {
            if begun.elapsed() > STOP {
                bail!("the daemon (process {}) does not end", self.pid);
            }
            // It is not a child of this process, which alone could wait for it.
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Ends the demo, and removes it when told so.
fn end(options: &Options) -> Result<()> {
    let Some(running) = Running::find(&options.state_dir)? else {
        if options.remove && options.state_dir.exists() {
            bail!(
                "no daemon of the demo runs, and only a daemon removes containers cleanly: run `cargo xtask demo` and then \
                 `cargo xtask demo --remove`"
            );
        }
        println!("demo: nothing runs");
        return Ok(());
    };
    let program = PathBuf::from(running.program.to_string_lossy().trim_end_matches(" (deleted)"));
    let folder = program.parent().unwrap_or(Path::new("/")).to_path_buf();
    let built = Artifacts {
        cli: folder.join("hutch"),
        workbench: folder.join("hutch-plugin-dev"),
        keeper: folder.join("hutch-keeper"),
        plugins: folder.join("../plugins"),
        guests: None,
        next: None,
        tools: None,
        daemon: program,
    };
    let demo = Demo {
        state: options.state_dir.clone(),
        built,
    };
    for name in demo.instances()? {
        if options.remove {
            run::check(&mut demo.hutch(&["delete", "--force", &name]))?;
        } else {
            let status = run::output(&mut demo.hutch(&["list", &name, "--format", "csv", "--columns", "s"]))?;
            if status.eq_ignore_ascii_case("running") {
                run::check(&mut demo.hutch(&["stop", &name]))?;
            }
        }
    }
    if options.remove {
        remove_objects(&demo)?;
    }
    running.terminate()?;
    std::fs::remove_file(pid_file(&options.state_dir)).context("can't remove the daemon's process file")?;
    if options.remove {
        std::fs::remove_dir_all(&options.state_dir)
            .with_context(|| format!("can't remove {}", options.state_dir.display()))?;
        println!("demo: everything is removed");
    } else {
        println!("demo: stopped; `cargo xtask demo` starts it again");
    }
    Ok(())
}

/// Removes what outlives a daemon on the machine: the images' volumes, the pool and the network.
fn remove_objects(demo: &Demo) -> Result<()> {
    for fingerprint in run::output(&mut demo.hutch(&["image", "list", "--format", "csv", "--columns", "F"]))?.lines() {
        run::check(&mut demo.hutch(&["image", "delete", fingerprint]))?;
    }
    for device in ["root", "eth0"] {
        run::check(&mut demo.hutch(&["profile", "device", "remove", "default", device]))?;
    }
    for network in managed(demo)? {
        run::check(&mut demo.hutch(&["network", "delete", &network]))?;
    }
    let pools = run::output(&mut demo.hutch(&["storage", "list", "--format", "json"]))?;
    for pool in names(&pools, |_| true)? {
        run::check(&mut demo.hutch(&["storage", "delete", &pool]))?;
    }
    Ok(())
}

fn managed(demo: &Demo) -> Result<Vec<String>> {
    let list = run::output(&mut demo.hutch(&["network", "list", "--format", "json"]))?;
    names(&list, |object| {
        object.get("managed").and_then(serde_json::Value::as_bool) == Some(true)
    })
}

/// The names of the objects in a JSON list that satisfy a condition.
fn names(list: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> Result<Vec<String>> {
    let objects: Vec<serde_json::Value> = serde_json::from_str(list).context("the list is not JSON")?;
    Ok(objects
        .iter()
        .filter(|object| wanted(object))
        .filter_map(|object| {
            object
                .get("name")
                .and_then(serde_json::Value::as_str)
                .map(str::to_owned)
        })
        .collect())
}
