//! The container's cgroups: made, limited, entered, watched and removed from outside.
//!
//! ```text
//! hutch/NAME             what limits everything of the container's; no process is in it itself
//! hutch/NAME/container   what the container sees as the root of its tree, delegated to it; what is frozen
//! …/container/.hutch     programs that were begun from outside
//! hutch/NAME/files       file servers: they serve a frozen container's files
//! ```
//!
//! This tree is of the unified hierarchy. Limits are set there by the controllers that the machine has on it, and on the legacy
//! hierarchies by those that are still mounted so, where the container has one cgroup each.

mod devices;
mod limits;
mod used;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, chown};
use std::path::{Path, PathBuf};

use hutch_container::{CGROUP_PARENT, ContainerSpec, DeviceControl, Fault, FaultKind, Limits};
use hutch_sys::cgroup::{Hierarchies, is_occupied, remove_tree};
use rustix::event::epoll::EventFlags;
use rustix::fs::{Mode, OFlags, open};

use crate::fault::{At, Result};
use crate::reactor::{Reactor, Source};

/// How deep and how many the cgroups of one container may be: systemd in a container in a container takes some ten levels, and a
/// hundred for each system. Their memory is the host's.
const MOST_DEEP: &str = "64";
const MOST: &str = "20000";

/// The container's own tree.
const CONTAINER: &str = "container";

/// File servers. They are not of the container's tree, because a tree is frozen as a whole.
const FILES: &str = "files";

/// The cgroup below the container's own in which programs run that were begun from outside. A leaf of its own because the
/// container's manager may turn on controllers for its children, after which its root can't hold processes.
const GUESTS: &str = ".hutch";

/// The cgroups of one container.
pub(crate) struct Cgroup {
    unified: PathBuf,
    /// Its `cgroup.events`, where it shows that the last process is gone.
    events: fs::File,
    /// Whether file servers are to be frozen, too.
    all_frozen: bool,
    tree: Tree,
    legacy: Vec<Legacy>,
}

/// The container's cgroup in a legacy hierarchy.
struct Legacy {
    controller: &'static str,
    /// Where the host's settings are.
    dir: PathBuf,
    /// Where the processes are: there or below.
    processes: PathBuf,
}

/// What is below the container's cgroup, and made anew for every boot.
struct Tree {
    container: OwnedFd,
    guests: OwnedFd,
    files: OwnedFd,
    /// The container's `cgroup.events`, where it shows that every process is frozen.
    frozen: fs::File,
}

impl Tree {
    /// Makes it, or takes what is there, and gives it to the container's root (the kernel's `admin-guide/cgroup-v2`, "Model of
    /// Delegation"): the directory to make children in, and these three files. What limits it stays the host's.
    fn make(unified: &Path, spec: &ContainerSpec) -> Result<Self> {
        let container = unified.join(CONTAINER);
        let (guests, files) = (container.join(GUESTS), unified.join(FILES));
        for dir in [&container, &guests, &files] {
            make_directory(dir)?;
        }
        for dir in [&container, &guests] {
            delegate(dir, spec)?;
        }
        Ok(Self {
            frozen: open_events(&container)?,
            container: open_directory(&container)?,
            guests: open_directory(&guests)?,
            files: open_directory(&files)?,
        })
    }
}

/// Gives a cgroup to the container's root.
fn delegate(dir: &Path, spec: &ContainerSpec) -> Result<()> {
    let Some(map) = &spec.idmap else { return Ok(()) };
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        let path = if file.is_empty() {
            dir.to_owned()
        } else {
            dir.join(file)
        };
        chown(&path, map.host_uid(0), map.host_gid(0)).at("delegating", &path)?;
    }
    Ok(())
}

impl Cgroup {
    /// Makes them, or takes those that are there.
    pub(crate) fn make(spec: &ContainerSpec) -> Result<Self> {
        let hierarchies = Hierarchies::find();
        let root = hierarchies.unified().ok_or_else(|| {
            Fault::new(
                FaultKind::Unsupported,
                "looking for",
                "cgroup v2",
                "the unified hierarchy is not mounted",
            )
        })?;
        let parent = root.join(CGROUP_PARENT);
        make_directory(&parent)?;
        turn_on_controllers(root)?;
        turn_on_controllers(&parent)?;
        let unified = parent.join(&spec.cgroup);
        make_directory(&unified)?;
        let made = Self::fill(unified, spec, hierarchies);
        if made.is_err() {
            // Nobody is in them: that they can't be removed is not to be feared, and no reason to hide the first fault.
            for root in hierarchies.roots() {
                drop(remove_tree(&root.join(CGROUP_PARENT).join(&spec.cgroup)));
            }
        }
        made
    }

    fn fill(unified: PathBuf, spec: &ContainerSpec, hierarchies: &Hierarchies) -> Result<Self> {
        for (file, most) in [("cgroup.max.depth", MOST_DEEP), ("cgroup.max.descendants", MOST)] {
            let path = unified.join(file);
            fs::write(&path, most).at("limiting", &path)?;
        }
        turn_on_controllers(&unified)?;
        let mut this = Self {
            events: open_events(&unified)?,
            all_frozen: false,
            tree: Tree::make(&unified, spec)?,
            unified,
            legacy: Vec::new(),
        };
        this.make_legacy(spec, hierarchies)?;
        this.restrict_devices(spec, hierarchies)?;
        this.set_limits(&spec.limits, &Limits::default())?;
        Ok(this)
    }

    fn make_legacy(&mut self, spec: &ContainerSpec, hierarchies: &Hierarchies) -> Result<()> {
        for controller in Limits::CONTROLLERS {
            let Some(root) = hierarchies.legacy(controller) else {
                continue;
            };
            let parent = root.join(CGROUP_PARENT);
            let dir = parent.join(&spec.cgroup);
            for dir in [&parent, &dir] {
                make_directory(dir)?;
                if controller == "cpuset" {
                    inherit_cpuset(dir)?;
                }
            }
            self.legacy.push(Legacy {
                controller,
                processes: dir.clone(),
                dir,
            });
        }
        Ok(())
    }

    fn restrict_devices(&mut self, spec: &ContainerSpec, hierarchies: &Hierarchies) -> Result<()> {
        match spec.device_control {
            DeviceControl::Bpf => {
                let directory = open_directory(&self.unified)?;
                devices::restrict_by_program(directory.as_fd(), spec).at("restricting the devices of", &self.unified)
            }
            DeviceControl::Legacy => {
                let root = hierarchies
                    .legacy(devices::CONTROLLER)
                    .ok_or_else(devices::no_controller)?;
                let parent = root.join(CGROUP_PARENT);
                make_directory(&parent)?;
                let dir = parent.join(&spec.cgroup);
                self.legacy.push(Legacy {
                    controller: devices::CONTROLLER,
                    processes: devices::restrict_by_controller(&dir, spec)?,
                    dir,
                });
                Ok(())
            }
            DeviceControl::Enclosing => Ok(()),
        }
    }

    /// The container's own cgroup, for `CLONE_INTO_CGROUP`.
    pub(crate) fn container(&self) -> BorrowedFd<'_> {
        self.tree.container.as_fd()
    }

    /// The same for programs begun from outside.
    pub(crate) fn guests(&self) -> BorrowedFd<'_> {
        self.tree.guests.as_fd()
    }

    /// Makes the one for programs again, which the container's root may remove while it is empty.
    pub(crate) fn renew_guests(&self, spec: &ContainerSpec) -> Result<OwnedFd> {
        let guests = self.unified.join(CONTAINER).join(GUESTS);
        make_directory(&guests)?;
        delegate(&guests, spec)?;
        open_directory(&guests)
    }

    /// The same for file servers.
    pub(crate) fn files(&self) -> BorrowedFd<'_> {
        self.tree.files.as_fd()
    }

    /// Moves this process, which has a single thread, into the legacy cgroups.
    ///
    /// By `tasks` and not by `cgroup.procs`: a process whose other threads might be in the middle of a `fork` or `execve` makes the
    /// kernel hold all of those on the machine off, which takes it a grace period of 6 to 20 ms; one thread that moves itself does
    /// not (`cgroup_procs_write_start` in kernel/cgroup/cgroup.c, since Linux 5.7), and takes 0.1 ms.
    pub(crate) fn enter_legacy(&self) -> Result<()> {
        for legacy in &self.legacy {
            let path = legacy.processes.join("tasks");
            fs::write(&path, "0").at("entering", &path)?;
        }
        Ok(())
    }

    /// Has changes of [`Cgroup::is_populated`] and [`Cgroup::is_frozen`] signalled. Once each: a cgroup that somebody else
    /// removes would be signalled for ever.
    pub(crate) fn watch(&self, reactor: &Reactor) -> Result<()> {
        for file in [&self.events, &self.tree.frozen] {
            reactor
                .add(file, Source::Cgroup, 0, EventFlags::PRI | EventFlags::ET)
                .at("watching", &self.unified)?;
        }
        Ok(())
    }

    /// Whether any process is left.
    pub(crate) fn is_populated(&self) -> bool {
        has_line(&self.events, b"populated 1")
    }

    /// Whether every process is frozen that [`Cgroup::freeze`] was to freeze.
    pub(crate) fn is_frozen(&self) -> bool {
        has_line(&self.tree.frozen, b"frozen 1") && (!self.all_frozen || has_line(&self.events, b"frozen 1"))
    }

    pub(crate) fn kill(&self) -> Result<()> {
        write(self.unified.join("cgroup.kill"), "1")
    }

    /// Freezes the container's own tree, and file servers as well when `all` is wanted; or lets everything go on.
    pub(crate) fn freeze(&mut self, frozen: bool, all: bool) -> Result<()> {
        self.all_frozen = frozen && all;
        let text = |frozen| if frozen { "1" } else { "0" };
        write(self.unified.join("cgroup.freeze"), text(self.all_frozen))?;
        write(self.unified.join(CONTAINER).join("cgroup.freeze"), text(frozen))
    }

    /// Makes the tree anew: PID 1 of a reboot must find no children, and no controllers turned on for them. That the cgroups are
    /// other ones matters, too: kernels up to 6.18 at least kill whatever is forked into one that `cgroup.kill` was used on
    /// before (`cgroup_css_set_fork` compares with the parent's count of kills).
    pub(crate) fn renew(&mut self, reactor: &Reactor, spec: &ContainerSpec, limits: &Limits) -> Result<()> {
        for file in [&self.events, &self.tree.frozen] {
            reactor.remove(file);
        }
        for name in [CONTAINER, FILES] {
            let dir = self.unified.join(name);
            remove_tree(&dir).at("removing", dir)?;
        }
        self.tree = Tree::make(&self.unified, spec)?;
        self.show_limits(limits, &Limits::default())?;
        self.watch(reactor)
    }

    /// Removes them. No process may be left.
    pub(crate) fn remove(&self) -> Result<()> {
        for dir in [&self.unified]
            .into_iter()
            .chain(self.legacy.iter().map(|legacy| &legacy.dir))
        {
            remove_tree(dir).at("removing", dir)?;
        }
        Ok(())
    }

    /// Sets every limit in which the two differ.
    pub(crate) fn set_limits(&self, new: &Limits, old: &Limits) -> Result<()> {
        for (controller, settings) in limits::SETTINGS {
            let legacy = self.legacy_of(controller);
            let is_legacy = legacy.is_some();
            let dir = legacy.unwrap_or(&self.unified);
            limits::change(dir, controller, &settings(new, is_legacy), &settings(old, is_legacy))?;
        }
        self.show_limits(new, old)
    }

    /// Sets them on the root of the container's own tree as well, where programs inside look for what they may use.
    fn show_limits(&self, new: &Limits, old: &Limits) -> Result<()> {
        let dir = self.unified.join(CONTAINER);
        for (controller, settings) in limits::SETTINGS {
            if self.legacy_of(controller).is_none() {
                limits::change(&dir, controller, &settings(new, false), &settings(old, false))?;
            }
        }
        Ok(())
    }

    fn legacy_of(&self, controller: &str) -> Option<&Path> {
        let found = self.legacy.iter().find(|legacy| legacy.controller == controller);
        found.map(|legacy| legacy.dir.as_path())
    }
}

fn write(path: PathBuf, value: &str) -> Result<()> {
    fs::write(&path, value).at("writing", path)
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).at("opening", path)
}

fn open_events(dir: &Path) -> Result<fs::File> {
    let path = dir.join("cgroup.events");
    fs::File::open(&path).at("opening", path)
}

/// Whether a `cgroup.events` has this line. One of a cgroup that is gone has none.
fn has_line(file: &fs::File, line: &[u8]) -> bool {
    let mut buffer = [0; 128];
    let length = file.read_at(&mut buffer, 0).unwrap_or(0);
    buffer[..length].split(|byte| *byte == b'\n').any(|have| have == line)
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error).at("making", path),
        _ => Ok(()),
    }
}

/// Lets the cgroups below `dir` have the controllers that are here and not on yet.
///
/// All at once: one by one, those that can count threads would be turned on also where processes are in `dir` itself, which makes
/// it the root of a threaded tree, whose children can hold no processes (the kernel's `admin-guide/cgroup-v2`, "Threads").
fn turn_on_controllers(dir: &Path) -> Result<()> {
    let read = |file: &str| fs::read_to_string(dir.join(file)).at("reading", dir.join(file));
    let (here, on) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    let has = |list: &str, name: &str| list.split_whitespace().any(|one| one == name);
    let missing = Limits::CONTROLLERS
        .into_iter()
        .filter(|name| has(&here, name) && !has(&on, name));
    let wanted: Vec<String> = missing.map(|name| format!("+{name}")).collect();
    // Where they can't be had, containers run without limits, and limits are refused.
    if wanted.is_empty() || is_occupied(dir).at("reading", dir.join("cgroup.procs"))? {
        return Ok(());
    }
    let path = dir.join("cgroup.subtree_control");
    fs::write(&path, wanted.join(" ")).at("turning on controllers in", path)
}

/// A new legacy cpuset is empty and can hold nobody (`cpuset(7)`): it begins with what its parent has.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = dir.join(file);
        if fs::read_to_string(&path).at("reading", &path)?.trim().is_empty() {
            let parent = dir.parent().unwrap_or(dir).join(file);
            let value = fs::read_to_string(&parent).at("reading", parent)?;
            fs::write(&path, value).at("writing", &path)?;
        }
    }
    Ok(())
}

/// Takes the keeper itself out of the cgroup of the service that its daemon is, lest stopping that kills it, in the hierarchies
/// that service managers go by.
pub(crate) fn leave_service() -> Result<()> {
    let own = fs::read_to_string("/proc/self/cgroup").at("reading", "/proc/self/cgroup")?;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        // See `enter_legacy` for why by `tasks` where there is that.
        let (root, file) = match controllers {
            "" => (Hierarchies::find().unified(), "cgroup.procs"),
            named if named.starts_with("name=") => (Hierarchies::find().legacy(named), "tasks"),
            _ => continue,
        };
        let Some(root) = root else { continue };
        // At the root there is no service to leave.
        if path != "/" && !path.starts_with("/hutch.keepers") {
            let dir = root.join("hutch.keepers");
            make_directory(&dir)?;
            fs::write(dir.join(file), "0").at("entering", dir)?;
        }
    }
    Ok(())
}
