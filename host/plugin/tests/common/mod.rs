//! What the tests of the plugin host share: a guest that misbehaves on request, a broker that answers in memory, and a host
//! that loads the one over the other.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use hutch_broker::{Broker, CallContext, Permissions, Request, Response};
use hutch_driver::storage::PoolRef;
use hutch_driver::{Call, DriverError, DriverEvent, Options, Root};
use hutch_plugin::{Compiler, PluginConfig, PluginHost, PluginHostOptions, QuarantinePolicy, Workers};
use tokio::sync::{Notify, broadcast};

/// Builds the misbehaving guest, once per test program, and answers with its file.
pub fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../guest");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "hutch-faulty-guest", "--profile", "plugin"])
            .args(["--target", "wasm32-wasip2", "--target-dir"])
            .arg(&target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the guest is built");
        target.join("wasm32-wasip2/plugin/hutch_faulty_guest.wasm")
    })
}

/// A pool with this configuration, of which there need be nothing.
pub fn configured(config: &Options) -> PoolRef {
    PoolRef {
        name: "p1".to_owned(),
        root: "pool".to_owned(),
        config: config.clone(),
    }
}

/// Answers in memory, within the grants.
#[derive(Default)]
pub struct MemoryBroker {
    /// Lets a function go on that was asked for the path `blocked`.
    pub release: Notify,
    /// Blocked functions that have begun and ended.
    pub begun: AtomicU32,
    pub ended: AtomicU32,
    pub events: Mutex<Option<broadcast::Sender<DriverEvent>>>,
    /// The plugins of which everything was forgotten, as often as it was.
    pub forgotten: Mutex<Vec<String>>,
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn call(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        match request {
            Request::Log { level, message, fields } => cx.log.write(level, &message, &fields),
            Request::MetricCount { name, delta } => cx.metrics.count(&name, delta),
            Request::MetricGauge { name, value } => cx.metrics.gauge(&name, value),
            Request::ConfigGet { key } if key == "large" => {
                return Ok(Response::Text(Some("x".repeat(39 << 20))));
            }
            Request::ConfigGet { key } => return Ok(Response::Text(cx.subject.config.get(&key).cloned())),
            Request::Cancelled => return Ok(Response::Bool(cx.call.cancel.is_cancelled())),
            Request::FsStat { .. } => {
                cx.subject.granter().fs_roots()?;
                self.begun.fetch_add(1, Ordering::SeqCst);
                self.release.notified().await;
                self.ended.fetch_add(1, Ordering::SeqCst);
                return Ok(Response::FileInfo(None));
            }
            Request::FsMakeDir { .. } => cx.subject.granter().fs_roots()?,
            Request::LinkSetUp { .. } => cx.subject.granter().link()?,
            Request::SystemArchitecture => {
                cx.subject.granter().system()?;
                return Ok(Response::Text(Some("amd64".to_owned())));
            }
            Request::WatchChanged { topic } => {
                cx.subject.granter().watch()?;
                let event = DriverEvent {
                    family: cx.subject.family.clone(),
                    project: cx.call.project.clone(),
                    object: cx.call.object.clone(),
                    topic,
                };
                if let Some(events) = &*self.events.lock().expect("not poisoned") {
                    events
                        .send(event)
                        .map_err(|_| DriverError::new("unavailable", "nobody listens"))?;
                }
            }
            other => {
                return Err(DriverError::new(
                    "unsupported",
                    format!("{} is not in memory", other.function()),
                ));
            }
        }
        Ok(Response::Unit)
    }

    async fn forget(&self, plugin: &str) -> Result<(), DriverError> {
        self.forgotten.lock().expect("not poisoned").push(plugin.to_owned());
        Ok(())
    }
}

/// A plugin host with its surroundings.
pub struct Bench {
    pub host: Arc<PluginHost>,
    pub broker: Arc<MemoryBroker>,
    pub state: tempfile::TempDir,
}

pub fn options(state: &Path) -> PluginHostOptions {
    PluginHostOptions {
        bundled: None,
        compiler: Compiler {
            program: env!("CARGO_BIN_EXE_compile-plugin").into(),
            args: Vec::new(),
        },
        workers: Workers {
            program: env!("CARGO_BIN_EXE_plugin-worker").into(),
            args: Vec::new(),
            ..Workers::default()
        },
        // Tests make more faults than any plugin should.
        quarantine: QuarantinePolicy {
            faults: 1000,
            window: Duration::from_secs(600),
            ..QuarantinePolicy::default()
        },
        ..PluginHostOptions::new(state.to_owned())
    }
}

/// The guest with what it requests.
pub fn granted() -> PluginConfig {
    let mut grants = Permissions {
        watch: true,
        ..Permissions::default()
    };
    grants.fs.roots = true;
    PluginConfig {
        path: Some(guest().to_owned()),
        grants: Some(grants),
        ..PluginConfig::default()
    }
}

/// Starts a host in a state directory of its own. The guest's compiled code is there already, except for tests that are
/// about it: a compiler without optimisation takes seconds.
pub fn start(change: impl FnOnce(&mut PluginHostOptions)) -> Bench {
    let state = fresh();
    let cache = state.path().join("cache/plugins");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&cache)
        .expect("a directory");
    for file in std::fs::read_dir(compiled()).expect("the code").flatten() {
        std::fs::copy(file.path(), cache.join(file.file_name())).expect("copied");
    }
    start_in(state, change)
}

/// An empty state directory.
pub fn fresh() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// The cache of a host that has compiled the guest, made once per test program.
fn compiled() -> &'static Path {
    static STATE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let state = STATE.get_or_init(|| {
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let bench = start_in(fresh(), |_| {});
                bench.host.settled().await;
                bench.state
            })
        })
        .join()
        .expect("the guest is compiled")
    });
    Box::leak(state.path().join("cache/plugins").into_boxed_path())
}

pub fn start_in(state: tempfile::TempDir, change: impl FnOnce(&mut PluginHostOptions)) -> Bench {
    let mut options = options(state.path());
    options.plugins = Some(vec![granted()]);
    change(&mut options);
    let (events, _) = broadcast::channel(16);
    let broker = Arc::new(MemoryBroker::default());
    *broker.events.lock().expect("not poisoned") = Some(events.clone());
    let host = PluginHost::start(options, Arc::clone(&broker) as _, events).expect("the host starts");
    Bench { host, broker, state }
}

pub fn call() -> Call {
    let mut call = Call::new("default", "pool1");
    call.roots.push(Root {
        id: "pool".to_owned(),
        path: "/nonexistent".into(),
        writable: true,
    });
    call
}

pub fn fault(name: &str) -> Options {
    Options::from([("fault".to_owned(), name.to_owned())])
}
