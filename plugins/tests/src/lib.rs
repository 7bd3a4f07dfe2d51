//! What the tests of our drivers share: a plugin host with the drivers in it, over the real broker, in namespaces of its own.
//!
//! Everything here needs root. A test that can't be set up panics with the reason.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use hutch_broker::{HostBroker, HostBrokerConfig};
use hutch_container::Runtime;
use hutch_driver::{Call, DriverEvent, Root};
use hutch_plugin::{Compiler, PluginHost, PluginHostOptions, PluginState};
use rustix::thread::UnshareFlags;
use tokio::sync::broadcast;

/// The crates of our drivers.
const DRIVERS: [&str; 6] = [
    "hutch-plugin-image-debian",
    "hutch-plugin-image-simplestreams",
    "hutch-plugin-network-bridge",
    "hutch-plugin-storage-dir",
    "hutch-plugin-storage-overlay",
    "hutch-plugin-zone-files",
];

/// Runs cargo in a target directory of its own, because the one that runs the test holds the lock of the usual one.
fn cargo(args: &[&str]) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--target-dir"])
        .arg(&target)
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build {}", args.join(" "));
    target
}

/// The directory with the drivers, built once for a test program.
fn drivers() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let mut args = vec!["--profile", "plugin", "--target", "wasm32-wasip2"];
        args.extend(DRIVERS.iter().flat_map(|name| ["-p", name]));
        cargo(&args).join("wasm32-wasip2/plugin")
    })
}

/// The program that holds helper services.
fn keeper() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| cargo(&["-p", "hutch-keeper"]).join("debug/hutch-keeper"))
}

/// A plugin host with some of our drivers.
pub struct Machine {
    /// Where the core would ask for drivers.
    pub host: Arc<PluginHost>,
    /// What drivers report.
    pub events: broadcast::Receiver<DriverEvent>,
    /// A directory that goes with the test. The daemon's state would be in `state`.
    pub dir: PathBuf,
}

impl Machine {
    /// A call for `object` that may work in the directory `root` of the machine's.
    pub fn call(&self, object: &str, root: &str) -> Call {
        let mut call = Call::new("default", object);
        let path = self.dir.join(root);
        std::fs::create_dir_all(&path).expect("a directory");
        call.roots.push(Root {
            id: root.to_owned(),
            path,
            writable: true,
        });
        call
    }

    /// What helper services said.
    pub fn service_logs(&self) -> String {
        let files = std::fs::read_dir(self.dir.join("state/services"))
            .into_iter()
            .flatten()
            .flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
        logs.filter_map(|log| std::fs::read_to_string(log.path()).ok())
            .collect()
    }
}

/// The network that a test is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// One of its own, with loopback alone.
    Own,
    /// The machine's.
    Machine,
}

/// Runs `test` with the drivers of these crates, on a thread with a mount and perhaps a network namespace of its own, so that
/// nothing it mounts or makes outlives it.
pub fn with_drivers<F: Future<Output = ()>>(
    crates: &'static [&'static str],
    compiler: &str,
    network: Network,
    test: impl FnOnce(Machine) -> F + Send + 'static,
) {
    let (drivers, keeper, compiler) = (drivers(), keeper(), PathBuf::from(compiler));
    let thread = std::thread::spawn(move || {
        let own = network == Network::Own;
        let namespaces = if own {
            UnshareFlags::NEWNS | UnshareFlags::NEWNET
        } else {
            UnshareFlags::NEWNS
        };
        #[allow(
            deprecated,
            reason = "the safe form: the flags that its successor is unsafe for are not used here"
        )]
        rustix::thread::unshare(namespaces).expect("root is needed");
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).expect("mounts of its own");
        if own {
            run("ip", &["link", "set", "lo", "up"]);
            // Nothing in it is the machine's, which may have the addresses of its name servers there.
            run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]);
        }
        let directory = tempfile::Builder::new()
            .prefix("hutch-drivers-")
            .tempdir()
            .expect("a directory");
        // Helper programs that have given up root pass through it.
        run("chmod", &["711", &directory.path().to_string_lossy()]);
        // Dropped after the runtime, with which the host's connections go, and before the directory.
        let _helpers = Helpers(directory.path().to_owned());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let machine = machine(directory.path(), crates, drivers, keeper, compiler).await;
            test(machine).await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Ends the helper services of a test that did not come to its end: they outlive whoever started them, as they should.
struct Helpers(PathBuf);

impl Drop for Helpers {
    fn drop(&mut self) {
        let ours = self.0.as_os_str().as_encoded_bytes();
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let number: Option<i32> = process.file_name().to_str().and_then(|name| name.parse().ok());
            let has_our_directory = command.windows(ours.len()).any(|part| part == ours);
            if let Some(pid) = number
                .filter(|_| has_our_directory)
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

async fn machine(dir: &Path, crates: &[&str], drivers: &Path, keeper: &Path, compiler: PathBuf) -> Machine {
    let (state, bundled) = (dir.join("state"), dir.join("plugins"));
    std::fs::create_dir(&bundled).expect("a directory");
    std::fs::create_dir(&state).expect("a directory");
    for name in crates {
        let file = format!("{}.wasm", name.replace('-', "_"));
        std::fs::copy(drivers.join(&file), bundled.join(&file)).expect("the driver was built");
    }
    let (sender, events) = broadcast::channel(64);
    let runtime = Runtime::new(keeper, dir.join("run")).expect("a runtime");
    let config = HostBrokerConfig {
        state_dir: state.clone(),
        runtime,
        events: sender.clone(),
    };
    let broker = HostBroker::new(config).await.expect("a broker");
    let compiler = Compiler {
        program: compiler,
        args: Vec::new(),
    };
    let options = PluginHostOptions {
        plugins: None,
        bundled: Some(bundled),
        compiler,
        ..PluginHostOptions::new(state)
    };
    let host = PluginHost::start(options, Arc::new(broker), sender).expect("a plugin host");
    host.settled().await;
    for plugin in host.plugins() {
        assert_eq!(plugin.state, PluginState::Enabled, "{}: {}", plugin.id, plugin.reason);
    }
    Machine {
        host,
        events,
        dir: dir.to_owned(),
    }
}

/// Runs a program to its end, in the caller's namespaces, and answers with what it printed.
///
/// # Panics
/// When it is not there or fails, with what it said.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {}: {} {said}",
        args.join(" "),
        output.status
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
