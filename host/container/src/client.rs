//! The daemon's handle of one keeper.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, watch};

use crate::Error;
use crate::exec::{ExecSpec, ExecStdio};
use crate::limits::Limits;
use crate::link::{Link, Told, wait_exec};
use crate::protocol::{Answer, Request};
use crate::spec::Mount;
use crate::state::{ContainerState, ExecInfo, ExitStatus, KeeperEvent, Stats, Usage};
use crate::stats::StatsReader;

/// A container that a keeper holds. Clones are handles of the same one; dropping them leaves it running.
#[derive(Debug, Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    link: Arc<Link>,
    netns: OwnedFd,
    stats: Mutex<StatsReader>,
}

impl Keeper {
    pub(crate) fn new(link: Arc<Link>, mut fds: Vec<OwnedFd>, cgroup: &str) -> Result<Self, Error> {
        let id = || link.id().to_owned();
        let netns = fds.pop().ok_or_else(|| Error::Protocol {
            id: id(),
            what: "without its network namespace".to_owned(),
        })?;
        let stats = Mutex::new(StatsReader::new(cgroup));
        Ok(Self {
            inner: Arc::new(Inner { link, netns, stats }),
        })
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.inner.link.id()
    }

    /// The container's network namespace, which is there from [`crate::Runtime::create`] on and outlives reboots.
    #[must_use]
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.inner.netns.as_fd()
    }

    /// The keeper's process id.
    #[must_use]
    pub fn keeper_pid(&self) -> u32 {
        self.inner.link.pid
    }

    /// PID 1 as the host numbers it, while it runs.
    #[must_use]
    pub fn init_pid(&self) -> Option<u32> {
        match self.state() {
            ContainerState::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// What the container does, as last told; asks nobody.
    #[must_use]
    pub fn state(&self) -> ContainerState {
        self.inner.link.told.borrow().container.clone()
    }

    /// The events of the container from now on, without those of its programs, for which there is [`Exec::wait`]. A receiver
    /// that falls more than 16 behind is told how many it lost; [`Keeper::state`] is right all the same.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<KeeperEvent> {
        self.inner.link.events.subscribe()
    }

    /// Waits until the container has ended or its keeper is gone, and says which.
    pub async fn ended(&self) -> ContainerState {
        let mut told = self.inner.link.told.subscribe();
        let over = |told: &Told| matches!(told.container, ContainerState::Ended(_) | ContainerState::Lost);
        match told.wait_for(over).await {
            Ok(told) => told.container.clone(),
            Err(_) => ContainerState::Lost,
        }
    }

    /// Starts PID 1; returns when it has executed its program.
    ///
    /// # Errors
    /// A fault that names the step and the path that failed; the keeper is as before then and should be released.
    pub async fn start(&self) -> Result<(), Error> {
        self.inner.link.call(Request::Start).await
    }

    /// Runs a program inside. Descriptors in `stdio` are closed here once the keeper has them.
    ///
    /// # Errors
    /// Faults of kind `state` (not running), `not-found` and `not-executable`, beside failed system calls.
    pub async fn exec(&self, spec: ExecSpec, stdio: ExecStdio) -> Result<Exec, Error> {
        spec.check()?;
        let link = &self.inner.link;
        let id = spec.id.clone();
        let (pty, fds) = match stdio {
            ExecStdio::Pipes { stdin, stdout, stderr } => (None, vec![stdin, stdout, stderr]),
            ExecStdio::Pty { cols, rows } => (Some((cols, rows)), Vec::new()),
        };
        // Known before it is asked for, so that an end that overtakes the answer finds its entry.
        let entry = ExecInfo {
            id: id.clone(),
            pid: 0,
            status: None,
        };
        if self.list_execs().iter().any(|exec| exec.id == id) {
            return Err(crate::BadSpec(format!("there is a program with the id {id} already")).into());
        }
        let told = link.told.subscribe();
        link.told.send_modify(|told| told.execs.push(entry));
        match link.connection.call(Request::Exec { spec, pty }, &fds).await {
            Ok((Answer::Exec { pid }, mut fds)) => {
                let mine = |exec: &&mut ExecInfo| exec.id == id;
                link.told.send_modify(|told| {
                    told.execs.iter_mut().filter(mine).for_each(|exec| exec.pid = pid);
                });
                Ok(Exec {
                    keeper: self.clone(),
                    id,
                    pid,
                    pty: fds.pop(),
                    told,
                })
            }
            Ok(_) => Err(Error::Protocol {
                id,
                what: "something else than a process".to_owned(),
            }),
            Err(error) => {
                link.told.send_modify(|told| told.execs.retain(|exec| exec.id != id));
                Err(error)
            }
        }
    }

    /// Every program begun by [`Keeper::exec`] that runs or has not been forgotten, also from before a restart.
    #[must_use]
    pub fn list_execs(&self) -> Vec<ExecInfo> {
        self.inner.link.told.borrow().execs.clone()
    }

    /// Waits for the program's end; `None` when there is no such program, or the keeper is gone.
    pub async fn exec_result(&self, id: &str) -> Option<ExitStatus> {
        wait_exec(self.inner.link.told.subscribe(), id).await
    }

    /// Sends a signal to a program.
    ///
    /// # Errors
    /// A fault of kind `not-found` when it does not run.
    pub async fn signal_exec(&self, id: &str, signal: i32) -> Result<(), Error> {
        self.inner
            .link
            .call(Request::ExecSignal {
                id: id.to_owned(),
                signal,
            })
            .await
    }

    /// The end of a program is recorded elsewhere: the keeper need not keep it.
    ///
    /// # Errors
    /// A fault of kind `state` while it runs.
    pub async fn forget_exec(&self, id: &str) -> Result<(), Error> {
        self.inner.link.call(Request::ExecForget { id: id.to_owned() }).await?;
        self.inner
            .link
            .told
            .send_modify(|told| told.execs.retain(|exec| exec.id != id));
        Ok(())
    }

    /// Asks PID 1 to halt: by `SIGRTMIN+3` when it catches that, as systemd does, else `SIGPWR`. Returns when the signal is
    /// sent; [`Keeper::ended`] tells the rest.
    ///
    /// # Errors
    /// A fault of kind `state` when it does not run.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.inner.link.call(Request::Shutdown).await
    }

    /// Asks PID 1 to reboot (`SIGINT`), as Ctrl-Alt-Del does.
    ///
    /// # Errors
    /// A fault of kind `state` when it does not run.
    pub async fn reboot(&self) -> Result<(), Error> {
        self.inner.link.call(Request::Reboot).await
    }

    /// Kills every process; returns when none is left.
    ///
    /// # Errors
    /// What the keeper answers. A container that has ended is no error.
    pub async fn kill(&self) -> Result<(), Error> {
        self.inner.link.call(Request::Kill).await?;
        match self.ended().await {
            ContainerState::Lost => Err(self.inner.link.connection.lost()),
            _ => Ok(()),
        }
    }

    /// Freezes every process of the container's own, but not what serves its files ([`Keeper::sftp`]); returns when all are.
    ///
    /// # Errors
    /// A fault of kind `state` when it does not run.
    pub async fn freeze(&self) -> Result<(), Error> {
        self.set_frozen(true).await
    }

    /// Freezes every process, file servers as well, for as long as this daemon lives: when it dies the keeper makes the container
    /// what it was. Returns when all are frozen; [`Keeper::thaw`] ends it, or [`Keeper::freeze`] for a container that was frozen.
    ///
    /// # Errors
    /// As [`Keeper::freeze`].
    pub async fn hold(&self) -> Result<(), Error> {
        self.inner.link.call(Request::Hold).await?;
        self.note_frozen(true);
        Ok(())
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// As [`Keeper::freeze`].
    pub async fn thaw(&self) -> Result<(), Error> {
        self.set_frozen(false).await
    }

    async fn set_frozen(&self, want: bool) -> Result<(), Error> {
        self.inner.link.call(Request::Freeze { frozen: want }).await?;
        self.note_frozen(want);
        Ok(())
    }

    fn note_frozen(&self, now: bool) {
        self.inner.link.told.send_modify(|told| {
            if let ContainerState::Running { frozen, .. } = &mut told.container {
                *frozen = now;
            }
        });
    }

    /// A stream socket of the console: what is written is typed, what is read is the output from now on. Several may be
    /// open; one that does not read is cut off rather than waited for.
    ///
    /// # Errors
    /// What the keeper answers.
    pub async fn console(&self) -> Result<OwnedFd, Error> {
        self.inner.link.call_for_fd(Request::Console).await
    }

    /// Sets the size of the console's terminal.
    ///
    /// # Errors
    /// What the keeper answers.
    pub async fn console_resize(&self, cols: u16, rows: u16) -> Result<(), Error> {
        self.inner.link.call(Request::ConsoleResize { cols, rows }).await
    }

    /// The last output of the console, oldest first.
    ///
    /// # Errors
    /// What the keeper answers.
    pub async fn console_log(&self) -> Result<Vec<u8>, Error> {
        let fd = self.inner.link.call_for_fd(Request::ConsoleLog).await?;
        let mut log = Vec::new();
        // A memfd of at most 1 MiB: reading it waits for nothing.
        std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut log)
            .map_err(|error| Error::io("reading the console log of", self.id(), error))?;
        Ok(log)
    }

    /// Empties the console's log.
    ///
    /// # Errors
    /// What the keeper answers.
    pub async fn clear_console_log(&self) -> Result<(), Error> {
        self.inner.link.call(Request::ConsoleClear).await
    }

    /// A stream socket with an SFTP server (version 3) at its other end, which runs as the container's root in its mount
    /// and user namespace. It ends when the stream is closed.
    ///
    /// # Errors
    /// A fault of kind `state` when the container does not run; see [`crate::Runtime::files`].
    pub async fn sftp(&self) -> Result<OwnedFd, Error> {
        self.inner.link.call_for_fd(Request::Sftp).await
    }

    /// What the container uses: a few bounded reads of descriptors that stay open.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.stats.lock().unwrap_or_else(PoisonError::into_inner).read()
    }

    /// The same in more detail, by a few more of such reads.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let reader = self.inner.stats.lock().unwrap_or_else(PoisonError::into_inner);
        reader.usage()
    }

    /// Replaces the limits of the running container.
    ///
    /// # Errors
    /// A fault that names the limit the kernel refuses, such as one below what is used.
    pub async fn set_limits(&self, limits: &Limits) -> Result<(), Error> {
        limits.check().map_err(crate::BadSpec)?;
        self.inner
            .link
            .call(Request::SetLimits { limits: limits.clone() })
            .await
    }

    /// Replaces what is mounted besides the root in the running container, in this order; what is mounted already stays as it is,
    /// unless something above it changes. All of it happens, or nothing. What is unmounted vanishes from its place; files that
    /// are open and copies that the container has made of the mount stay until it ends.
    ///
    /// # Errors
    /// A fault that names what can't be mounted; of kind `state` when the container does not run, of kind `unsupported` when its
    /// keeper is of a version without this.
    pub async fn set_mounts(&self, mounts: &[Mount]) -> Result<(), Error> {
        mounts.iter().try_for_each(Mount::check)?;
        let mounts = mounts.to_vec();
        self.inner.link.call(Request::SetMounts { mounts }).await
    }

    /// The container has ended, or was never started, and that is recorded: the keeper removes cgroup and socket, lets the
    /// namespaces go and exits. Returns when names are free again; unmounting may take the kernel longer. A keeper that is
    /// gone is no error.
    ///
    /// # Errors
    /// A fault of kind `state` while the container runs.
    pub async fn release(&self) -> Result<(), Error> {
        let link = &self.inner.link;
        match link.call(Request::Release).await {
            Ok(()) => {
                link.released.get_or_init(|| ());
                link.remove_record()
            }
            Err(Error::Lost { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until the keeper's process is gone, and with it its last mount.
    pub async fn gone(&self) {
        self.inner.link.gone().await;
    }
}

/// A program that runs, or has run, inside a container.
#[derive(Debug)]
pub struct Exec {
    keeper: Keeper,
    id: String,
    pid: u32,
    pty: Option<OwnedFd>,
    told: watch::Receiver<Told>,
}

impl Exec {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its process id on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The terminal's master side, once, when it was begun with one. It blocks; its size is set by `TIOCSWINSZ`.
    pub fn take_pty(&mut self) -> Option<OwnedFd> {
        self.pty.take()
    }

    /// Waits for its end; `None` when the keeper went first.
    pub async fn wait(&self) -> Option<ExitStatus> {
        wait_exec(self.told.clone(), &self.id).await
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// As [`Keeper::signal_exec`].
    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        self.keeper.signal_exec(&self.id, signal).await
    }
}
