//! What the tests of containers share. They run real ones and need root, a kernel of 5.19 or later and `busybox` (static).
//!
//! The keeper is `$HUTCH_KEEPER`, or the newest `hutch-keeper` below `target/`. The tests that boot systemd make a Debian with
//! `mmdebstrap` (a minute, once), or take the tar file `$HUTCH_DEBIAN_ROOT`; it is kept below `target/tmp`, or in `$HUTCH_TEST_CACHE`.
#![allow(dead_code, reason = "each test binary uses its part of it")]
#![allow(unreachable_pub, missing_docs, reason = "it is part of test binaries")]
#![allow(clippy::missing_panics_doc, reason = "tests panic to fail")]

pub mod sftp;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hutch_container::{ContainerSpec, ExecSpec, ExecStdio, ExitStatus, IdMap, Keeper, RootFs, Runtime};

/// The keeper's program.
pub fn keeper_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("HUTCH_KEEPER") {
        return path.into();
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let candidates = [
        "x86_64-unknown-linux-musl/keeper",
        "aarch64-unknown-linux-musl/keeper",
        "release",
        "debug",
    ];
    let built = candidates.iter().map(|dir| target.join(dir).join("hutch-keeper"));
    let newest = built
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max();
    newest.expect("no hutch-keeper is built: cargo build -p hutch-keeper").1
}

/// A directory, a runtime in it, and names of its own.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub runtime: Runtime,
    keepers: Mutex<Vec<u32>>,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hutch-container-").tempdir().unwrap();
        let runtime = Runtime::new(keeper_binary(), dir.path().join("run")).unwrap();
        Self {
            dir,
            runtime,
            keepers: Mutex::default(),
        }
    }

    /// An id that no other test uses, on this machine and in this run.
    pub fn id(&self, name: &str) -> String {
        format!(
            "test-{}-{}-{name}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// A map of its own to ids that nothing else uses.
    pub fn idmap(&self) -> IdMap {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        IdMap::contiguous(
            1_900_000_000 + (std::process::id() % 1000) * 655_360 + number * 65_536,
            65_536,
        )
    }

    /// A root with busybox, whose init does nothing but wait.
    pub fn busybox_root(&self, name: &str) -> PathBuf {
        let root = self.dir.path().join(name);
        for dir in ["bin", "dev", "proc", "sys", "etc", "root", "tmp", "sbin", "run"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is needed");
        let list = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
        for applet in String::from_utf8(list)
            .unwrap()
            .lines()
            .filter(|name| *name != "busybox")
        {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::os::unix::fs::symlink("../bin/busybox", root.join("sbin/init")).unwrap();
        std::fs::write(
            root.join("etc/inittab"),
            "::sysinit:/bin/echo booted\n::respawn:/bin/sleep 1000000\n",
        )
        .unwrap();
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
        )
        .unwrap();
        root
    }

    /// A specification of an unprivileged busybox on a plain tree.
    pub fn busybox(&self, name: &str) -> ContainerSpec {
        let id = self.id(name);
        let root = self.busybox_root(&id);
        let mut spec = ContainerSpec::new(id, Some(self.idmap()), RootFs::Bind { path: root });
        spec.hostname = name.to_owned();
        spec
    }

    /// A Debian, made once and kept for later runs; a lower layer, so that nothing changes it.
    pub fn debian_root(&self) -> PathBuf {
        let cache = std::env::var_os("HUTCH_TEST_CACHE").map_or(env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
        let cache = cache.join("containers");
        std::fs::create_dir_all(&cache).unwrap();
        std::fs::set_permissions(&cache, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        // Whoever comes second, in this process or another, waits for the first.
        let lock = std::fs::File::create(cache.join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let root = cache.join("debian");
        if !root.exists() {
            let part = cache.join("debian.part");
            drop(std::fs::remove_dir_all(&part));
            let mut make = match std::env::var_os("HUTCH_DEBIAN_ROOT") {
                Some(tar) => {
                    std::fs::create_dir(&part).unwrap();
                    let mut unpack = Command::new("tar");
                    unpack.args(["--numeric-owner", "-xpf"]).arg(tar).arg("-C").arg(&part);
                    unpack
                }
                None => {
                    let mut build = Command::new("mmdebstrap");
                    build.args(["--quiet", "--mode=root", "--format=directory", "--variant=minbase"]);
                    build.arg("--include=systemd-sysv,dbus,iproute2,iputils-ping,ifupdown,isc-dhcp-client");
                    build.arg("bookworm").arg(&part);
                    build
                }
            };
            assert!(
                make.status().expect("mmdebstrap is needed").success(),
                "no Debian could be made: {make:?}"
            );
            std::fs::rename(&part, &root).unwrap();
        }
        root
    }

    /// A specification of an unprivileged Debian on an overlay.
    pub fn debian(&self, name: &str) -> ContainerSpec {
        let id = self.id(name);
        let dir = self.dir.path().join(&id);
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        std::fs::create_dir_all(&upper).unwrap();
        std::fs::create_dir_all(&work).unwrap();
        let root = RootFs::Overlay {
            layers: vec![self.debian_root()],
            upper,
            work,
        };
        let mut spec = ContainerSpec::new(id, Some(self.idmap()), root);
        spec.hostname = name.to_owned();
        spec
    }

    /// Creates and starts.
    pub async fn start(&self, spec: &ContainerSpec) -> Keeper {
        let keeper = self
            .runtime
            .create(spec, None)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        keeper.start().await.unwrap_or_else(|error| panic!("{error}"));
        keeper
    }

    /// Kills and releases.
    pub async fn stop(&self, keeper: &Keeper) {
        keeper.kill().await.unwrap();
        keeper.release().await.unwrap();
        keeper.gone().await;
    }
}

/// Whatever a failed test leaves behind.
impl Drop for Lab {
    fn drop(&mut self) {
        for keeper in self.keepers.lock().unwrap().drain(..) {
            // Its own process, still, unless it has gone; another one with that number has another name.
            let name = std::fs::read_to_string(format!("/proc/{keeper}/comm")).unwrap_or_default();
            if let (true, Ok(raw)) = (name.starts_with("hutch:test-"), i32::try_from(keeper)) {
                let pid = rustix::process::Pid::from_raw(raw).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for entry in std::fs::read_dir(self.dir.path().join("run"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let spec = std::fs::read(entry.path())
                .ok()
                .filter(|_| entry.path().extension().is_some_and(|e| e == "json"));
            if let Some(Ok(spec)) = spec.map(|text| serde_json::from_slice::<ContainerSpec>(&text)) {
                drop(hutch_sys::cgroup::Hierarchies::find().kill_and_remove("hutch", &spec.cgroup));
            }
        }
    }
}

/// A program with the usual environment.
pub fn program(id: &str, command: &[&str]) -> ExecSpec {
    ExecSpec {
        id: id.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![
            (
                "PATH".into(),
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            ),
            ("HOME".into(), "/root".into()),
        ],
        cwd: None,
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    }
}

/// Runs a program and returns how it ended and what it wrote on standard output and error.
pub async fn run(keeper: &Keeper, command: &[&str]) -> (ExitStatus, String) {
    let id = format!("run-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    run_spec(keeper, program(&id, command)).await
}

pub async fn run_spec(keeper: &Keeper, spec: ExecSpec) -> (ExitStatus, String) {
    let id = spec.id.clone();
    let (read, write) = std::io::pipe().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let stdio = ExecStdio::Pipes {
        stdin: null.into(),
        stdout: OwnedFd::from(write.try_clone().unwrap()),
        stderr: OwnedFd::from(write),
    };
    let exec = keeper.exec(spec, stdio).await.unwrap_or_else(|error| panic!("{error}"));
    let output = tokio::task::spawn_blocking(move || std::io::read_to_string(read).unwrap());
    let status = timeout(exec.wait()).await.expect("the keeper is gone");
    keeper.forget_exec(&id).await.unwrap();
    (status, timeout(output).await.unwrap())
}

/// Fails a test that waits for what does not come: within a minute, or `$HUTCH_TEST_PATIENCE` seconds for emulated machines.
pub async fn timeout<T>(future: impl Future<Output = T>) -> T {
    let seconds = std::env::var("HUTCH_TEST_PATIENCE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let waited = tokio::time::timeout(Duration::from_secs(seconds), future).await;
    waited.unwrap_or_else(|_| panic!("nothing came within {seconds} s"))
}
