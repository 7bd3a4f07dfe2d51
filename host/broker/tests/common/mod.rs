//! A broker for tests, which need root: each test has namespaces of its own, so that nothing it mounts or makes outlives it.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hutch_broker::{
    Broker as _, CallContext, DiscardMetrics, FsPermission, Grants, HostBroker, HostBrokerConfig, LogLevel, LogSink,
    Permissions, Request, Response, Subject, SubjectLimits,
};
use hutch_container::Runtime;
use hutch_driver::{Call, DriverError, DriverEvent, Root, TreePath};
use rustix::thread::UnshareFlags;
use tokio::sync::broadcast;

/// Runs `test` on a thread with a mount and a network namespace of its own.
pub(crate) fn isolated<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        #[allow(
            deprecated,
            reason = "the safe form: the flags that its successor is unsafe for are not used here"
        )]
        rustix::thread::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET).expect("root is needed");
        let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).expect("mounts of its own");
        let dir = std::env::temp_dir().join(format!("hutch-broker-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&dir).expect("a directory");
        let cleanup = Cleanup(dir.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(test(dir));
        drop(runtime);
        drop(cleanup);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        // Deepest first; what can't be unmounted goes with the namespace.
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        for place in mounts
            .lines()
            .rev()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|place| Path::new(place).starts_with(&self.0))
        {
            let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = std::process::Command::new("rm")
            .args(["-rf", "--one-file-system"])
            .arg(&self.0)
            .status();
    }
}

/// Keeps what is logged.
#[derive(Default)]
pub(crate) struct Lines(pub(crate) Mutex<Vec<(LogLevel, String)>>);

impl LogSink for Lines {
    fn write(&self, level: LogLevel, message: &str, _fields: &[(String, String)]) {
        self.0.lock().unwrap().push((level, message.to_owned()));
    }
}

pub(crate) struct Host {
    pub(crate) broker: HostBroker,
    pub(crate) events: broadcast::Receiver<DriverEvent>,
    pub(crate) lines: Arc<Lines>,
}

/// A broker with its state in `dir/state`.
pub(crate) async fn host(dir: &Path) -> Host {
    let state_dir = dir.join("state");
    std::fs::create_dir_all(&state_dir).unwrap();
    let runtime = Runtime::new(keeper(), dir.join("run")).unwrap();
    let (sender, events) = broadcast::channel(100);
    let broker = HostBroker::new(HostBrokerConfig {
        state_dir,
        runtime,
        events: sender,
    })
    .await
    .unwrap();
    Host {
        broker,
        events,
        lines: Arc::default(),
    }
}

/// The keeper's program, for tests of services: `HUTCH_KEEPER`, or where `cargo build` puts it.
pub(crate) fn keeper() -> PathBuf {
    std::env::var_os("HUTCH_KEEPER").map_or_else(
        || {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
            ["x86_64-unknown-linux-musl/keeper", "keeper", "debug"]
                .into_iter()
                .map(|profile| target.join(profile).join("hutch-keeper"))
                .find(|path| path.exists())
                .unwrap_or_else(|| target.join("debug/hutch-keeper"))
        },
        PathBuf::from,
    )
}

/// Everything that needs no list of names.
pub(crate) fn everything() -> Permissions {
    Permissions {
        fs: FsPermission {
            roots: true,
            paths: Vec::new(),
        },
        link: true,
        filter: true,
        watch: true,
        system: true,
        records: true,
        ..Permissions::default()
    }
}

pub(crate) fn subject(grants: Grants) -> Subject {
    Subject {
        plugin: "org.example.test".into(),
        version: "1.2.3".into(),
        digest: "00".into(),
        family: "network".into(),
        grants,
        limits: SubjectLimits::default(),
        config: [("key".to_owned(), "value".to_owned())].into(),
    }
}

impl Host {
    pub(crate) fn context(&self, grants: Grants, call: Call) -> CallContext {
        CallContext {
            subject: Arc::new(subject(grants)),
            call,
            log: self.lines.clone(),
            metrics: Arc::new(DiscardMetrics),
        }
    }

    /// With one root `pool` at `path`.
    pub(crate) fn with_root(&self, path: &Path) -> CallContext {
        let mut call = Call::new("default", "object");
        call.roots.push(Root {
            id: "pool".into(),
            path: path.to_owned(),
            writable: true,
        });
        self.context(Grants::as_requested(everything()), call)
    }

    pub(crate) async fn call(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        let shape = request.response_shape();
        let response = self.broker.call(cx, request).await?;
        let debug = format!("{response:?}");
        assert!(debug.starts_with(shape), "{debug} is not of the shape {shape}");
        Ok(response)
    }
}

pub(crate) fn at(path: &str) -> TreePath {
    TreePath {
        root: "pool".into(),
        path: path.into(),
    }
}
