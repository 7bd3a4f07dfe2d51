//! A host in memory, for drivers' unit tests.
//!
//! [`FakeHost`] keeps trees, interfaces, tables, services and keys in memory, answers commands and HTTP requests from a
//! script, records every call, and can die at any of them: [`for_every_crash`] repeats an operation with the host's death
//! before and after each of its calls in turn, which is how a driver shows that it is crash-consistent.

mod fake;
mod tree;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::host::{Change, CommandOutput, HttpResponse, Level, RecordSet};
use crate::{Error, Result, TreePath};

pub use tree::{Node, Tree};

/// An interface of [`FakeHost`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeLink {
    /// `bridge`, `veth` or `macvlan`.
    pub kind: String,
    /// As it was asked for.
    pub hwaddr: Option<String>,
    /// As it was asked for.
    pub mtu: Option<u32>,
    /// Whether it is up.
    pub up: bool,
    /// The bridge that it is a port of, or the parent of a macvlan.
    pub master: Option<String>,
    /// With prefix lengths.
    pub addresses: Vec<String>,
    /// Settings made with `link.set-options` or `link.ensure-veth`.
    pub options: BTreeMap<String, String>,
    /// Of a veth pair: the namespace's id and the name of the other end. Of a macvlan its own; it is kept under `NAMESPACE/NAME`.
    pub guest: Option<(String, String)>,
    /// What was set with `link.limit-sent`, in bits per second.
    pub limit: Option<u64>,
}

/// A service of [`FakeHost`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeService {
    /// `None` until it is started: files may be written before.
    pub program: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// The account that it runs as.
    pub user: Option<String>,
    /// Files in its directory, by their paths.
    pub files: BTreeMap<String, Vec<u8>>,
    /// How often it was started.
    pub starts: u32,
    /// Signals that it got.
    pub signals: Vec<String>,
}

/// A command as a driver ran it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program.
    pub program: String,
    /// Its arguments, placeholders as they are.
    pub args: Vec<String>,
    /// Additions to its environment.
    pub env: Vec<(String, String)>,
    /// What the placeholders stand for.
    pub trees: Vec<TreePath>,
}

type CommandScript = Rc<dyn Fn(&FakeHost, &Command) -> Result<CommandOutput>>;

/// When the host dies. Calls are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The call of this number does nothing, and neither does any after it.
    Before(usize),
    /// The call of this number has its effect, but its answer is lost; no call after it does anything.
    After(usize),
}

/// What a [`FakeHost`] holds. Tests read and change it through [`FakeHost::state`].
#[derive(Clone, Default)]
pub struct State {
    /// File trees by root.
    pub tree: Tree,
    /// What `fs.features` answers.
    pub features: Vec<String>,
    /// Limits by place.
    pub quotas: BTreeMap<(String, String), u64>,
    /// The kernel has no IPv6: settings of it fail with `not-found`.
    pub lacks_ipv6: bool,
    /// Interfaces by name.
    pub links: BTreeMap<String, FakeLink>,
    /// What `link.subnets-in-use` answers, beside the addresses of `links`.
    pub subnets: Vec<String>,
    /// Packet filter tables by family and name.
    pub tables: BTreeMap<(String, String), String>,
    /// Services by name.
    pub services: BTreeMap<String, FakeService>,
    /// The key-value store.
    pub kv: BTreeMap<String, Vec<u8>>,
    /// The operator's settings.
    pub config: BTreeMap<String, String>,
    /// Documents by address. Others are answered with the status 404.
    pub documents: BTreeMap<String, HttpResponse>,
    /// What `system.architecture` answers.
    pub architecture: String,
    /// What `system.package-sources` answers.
    pub package_sources: Vec<String>,
    /// Lines that the driver logged.
    pub log: Vec<(Level, String)>,
    /// Files of services that are watched: service, path, topic.
    pub watches: Vec<(String, String, String)>,
    /// Topics that the driver reported as changed.
    pub changed: Vec<String>,
    /// Whether `progress.cancelled` says so.
    pub cancelled: bool,
    /// The content of the call's zone, where the call is about one.
    pub records: Option<FakeRecords>,
}

/// The content of a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeRecords {
    /// Its version.
    pub version: u64,
    /// Its record sets, in the order in which they are read.
    pub sets: Vec<RecordSet>,
    /// What `records.changes` knows, oldest first; since the version before the first of them.
    pub changes: Vec<Change>,
}

/// A host in memory.
pub struct FakeHost {
    state: RefCell<State>,
    calls: RefCell<Vec<String>>,
    commands: RefCell<Vec<Command>>,
    script: RefCell<Option<CommandScript>>,
    crash: Cell<Option<Crash>>,
    dead: Cell<bool>,
    entropy: Cell<u64>,
}

impl Default for FakeHost {
    fn default() -> Self {
        let state = State {
            architecture: "amd64".into(),
            features: ["reflink", "project-quota", "overlay-upper"].map(String::from).to_vec(),
            ..State::default()
        };
        Self {
            state: RefCell::new(state),
            calls: RefCell::default(),
            commands: RefCell::default(),
            script: RefCell::default(),
            crash: Cell::new(None),
            dead: Cell::new(false),
            entropy: Cell::new(0),
        }
    }
}

impl FakeHost {
    /// A host with empty roots of these names, whose file system can do everything.
    pub fn new(roots: &[&str]) -> Self {
        let host = Self::default();
        for root in roots {
            host.state.borrow_mut().tree.add_root(root);
        }
        host
    }

    /// What the host holds.
    pub fn state(&self) -> std::cell::RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// The calls made so far, as `fs.rename root:a root:b`.
    pub fn calls(&self) -> Vec<String> {
        self.calls.borrow().clone()
    }

    /// Forgets the calls made so far.
    pub fn clear_calls(&self) {
        self.calls.borrow_mut().clear();
    }

    /// The commands run so far.
    pub fn commands(&self) -> Vec<Command> {
        self.commands.borrow().clone()
    }

    /// Answers commands from now on. Without a script every command fails with `not-found`.
    pub fn on_command(&self, script: impl Fn(&FakeHost, &Command) -> Result<CommandOutput> + 'static) {
        *self.script.borrow_mut() = Some(Rc::new(script));
    }

    /// Serves a document with the status 200.
    pub fn serve(&self, url: &str, body: impl Into<Vec<u8>>) {
        let response = HttpResponse {
            status: 200,
            headers: Vec::new(),
            body: body.into(),
        };
        self.state().documents.insert(url.to_owned(), response);
    }

    /// The content of the zone that calls are about from now on. `sets` are in the order in which the host gives them.
    pub fn set_records(&self, version: u64, sets: Vec<RecordSet>) {
        self.state().records = Some(FakeRecords {
            version,
            sets,
            changes: Vec::new(),
        });
    }

    /// Dies as `crash` says, counted from now. From then on every call fails with the code `crashed`.
    pub fn crash_at(&self, crash: Crash) {
        self.clear_calls();
        self.crash.set(Some(crash));
        self.dead.set(false);
    }

    /// Whether the host has died.
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// Lives again, with everything as the death left it.
    pub fn restart(&self) {
        self.crash.set(None);
        self.dead.set(false);
    }

    /// A copy of everything that the host holds, in a new host without a crash ahead.
    pub fn snapshot(&self) -> Self {
        let copy = Self::default();
        *copy.state.borrow_mut() = self.state.borrow().clone();
        *copy.script.borrow_mut() = self.script.borrow().clone();
        copy.entropy.set(self.entropy.get());
        copy
    }

    fn call<T>(&self, description: String, effect: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let number = self.calls.borrow().len();
        let dies_before = self.crash.get() == Some(Crash::Before(number));
        if self.dead.get() || dies_before {
            self.dead.set(true);
            return Err(Error::new("crashed", format!("the host died before {description}")));
        }
        self.calls.borrow_mut().push(description.clone());
        let result = effect(&mut self.state.borrow_mut());
        if self.crash.get() == Some(Crash::After(number)) {
            self.dead.set(true);
            return Err(Error::new("crashed", format!("the host died after {description}")));
        }
        result
    }
}

/// Runs `operation` on copies of `host` with the host's death before and after each call in turn, restarts the host and lets
/// `check` look at it. Ends with the first run that needs no death, and answers with the number of calls that it made.
///
/// # Panics
/// When `operation` fails without a death, or makes more than 10,000 calls.
pub fn for_every_crash(
    host: &FakeHost,
    operation: impl Fn(&FakeHost) -> Result<()>,
    check: impl Fn(&FakeHost, Crash),
) -> usize {
    for number in 0..10_000 {
        for crash in [Crash::Before(number), Crash::After(number)] {
            let copy = host.snapshot();
            copy.crash_at(crash);
            let result = operation(&copy);
            if !copy.is_dead() {
                if let Err(error) = result {
                    panic!("the operation failed without a crash: {error}");
                }
                return copy.calls().len();
            }
            copy.restart();
            check(&copy, crash);
        }
    }
    panic!("the operation makes too many calls");
}
