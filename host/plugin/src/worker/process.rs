//! The process of a worker, as the daemon holds it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Once};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::{oneshot, watch};

use super::cage::Cage;
use super::{Workers, ids};
use crate::log::one_line;

/// Bytes of what a worker writes to its standard error that are kept: the message of a panic.
const MAX_WORDS: u64 = 4096;

/// A running worker. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    /// Its process id.
    pub(super) pid: u32,
    fd: OwnedFd,
    ended: watch::Receiver<Option<Arc<str>>>,
}

impl Process {
    /// Ends it, whatever it does.
    pub(super) fn kill(&self) {
        // Fails when it has ended.
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
    }

    /// Waits until it has ended. Answers how, in words that follow "it".
    pub(super) async fn ended(&self) -> Arc<str> {
        let mut ended = self.ended.clone();
        let how = ended.wait_for(Option::is_some).await;
        how.ok().and_then(|how| how.clone()).unwrap_or_else(|| "ended".into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a worker that reads the code in `code` and may write to `memory` bytes. Answers with it and the daemon's end of its
/// socket, which blocks.
pub(super) async fn start(workers: &Workers, code: File, memory: u64) -> io::Result<(Process, UnixStream)> {
    let (tell, told) = oneshot::channel();
    let workers = workers.clone();
    // A thread as long as the worker lives: it dies with the thread that started it (PR_SET_PDEATHSIG(2const)), and one of the
    // runtime's may end before the daemon does. It also waits for its end.
    std::thread::Builder::new()
        .name("plugin-worker".to_owned())
        .spawn(move || keep(&workers, code, memory, tell))?;
    told.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

/// Removes what a daemon left that was killed, beside all else: a process of its that the kernel does not let end (it waits for a disk)
/// keeps no plugin from being started.
fn sweep(ids: PathBuf) {
    let begun = std::thread::Builder::new()
        .name("plugin-sweep".to_owned())
        .spawn(move || Cage::sweep(&ids));
    if let Err(error) = begun {
        tracing::warn!(%error, "control groups of an earlier daemon's plugins are left");
    }
}

type Started = io::Result<(Process, UnixStream)>;

/// The thread: starts the process, tells of it, and waits for its end.
fn keep(workers: &Workers, code: File, memory: u64, tell: oneshot::Sender<Started>) {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| sweep(workers.ids.clone()));
    let id = match ids::take(&workers.ids) {
        Ok(id) => id,
        Err(error) => {
            let error = io::Error::new(error.kind(), format!("a user id in {}: {error}", workers.ids.display()));
            drop(tell.send(Err(error)));
            return;
        }
    };
    let (mut child, socket, fd, cage) = match spawn(workers, code, id.id, memory) {
        Ok(spawned) => spawned,
        Err(error) => {
            drop(tell.send(Err(error)));
            return;
        }
    };
    let (end, ended) = watch::channel(None);
    let pid = child.id();
    // Nobody who waits for it any more drops the process, which kills it.
    drop(tell.send(Ok((Process { pid, fd, ended }, socket))));
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What can't be read is not said. What is too much is not read, and the rest fails where it is written.
        let _ = stderr.take(MAX_WORDS).read_to_end(&mut words);
    }
    let status = child.wait();
    // Before anybody is told, so that a worker that is started next may have the id, and the cage after it.
    drop(cage);
    drop(id);
    end.send_replace(Some(describe(status, &words).into()));
}

/// A process, the daemon's end of its socket, what tells of its end, and what bounds its memory.
type Spawned = (Child, UnixStream, OwnedFd, Option<Cage>);

fn spawn(workers: &Workers, code: File, id: u32, memory: u64) -> io::Result<Spawned> {
    let root = rustix::process::geteuid().is_root();
    let cage = match root {
        true => Cage::make(id, memory)?,
        false => None,
    };
    if root {
        // Children of this thread begin a namespace of process ids, in which the first of them is alone.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID)?;
    }
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = Command::new(&workers.program)
        .args(&workers.args)
        .args([id.to_string(), memory.to_string()])
        .env_clear()
        // One heap for its two threads (mallopt(3)).
        .env("MALLOC_ARENA_MAX", "1")
        .current_dir("/")
        // Signals of a terminal are for the daemon.
        .process_group(0)
        .stdin(OwnedFd::from(theirs))
        .stdout(code)
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // It has not been waited for, so the number is its own.
    let fd = pid
        .ok_or_else(|| io::ErrorKind::NotFound.into())
        .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
    // Before it is greeted, until when it does nothing but to put up its walls.
    let fd = fd.and_then(|fd| {
        let held = cage.as_ref().map_or(Ok(()), |cage| cage.hold(child.id()));
        held.map(|()| fd)
    });
    match fd {
        Ok(fd) => Ok((child, ours, fd, cage)),
        Err(error) => {
            // Both fail only where it has ended.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

fn describe(status: io::Result<ExitStatus>, words: &[u8]) -> String {
    let mut text = match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(libc::SIGSYS), _) => "was killed for a system call that it may not make".to_owned(),
            (Some(signal), _) => format!("was killed by signal {signal}"),
            (None, Some(code)) => format!("ended with status {code}"),
            (None, None) => "ended".to_owned(),
        },
        Err(error) => format!("ended ({error})"),
    };
    let words = one_line(&String::from_utf8_lossy(words), 1024);
    if !words.is_empty() {
        text.push_str(&format!(", saying: {words}"));
    }
    text
}
