//! Starts the process that reads an archive and listens to it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::child::{Message, SUBCOMMAND, Task, WriteMode};
use crate::error::{Errno, Error, Result};
use crate::layout::Content;
use crate::limits::Limits;
use crate::walk::{Inspection, Progress, Report};

/// Bytes of one answer: the templates of an image are in it.
const MOST_ANSWER: u64 = 512 << 20;

/// Reads image archives in processes of their own.
///
/// The calls block until the process has ended; nothing of it is left when they return. While the process works, `watch` is
/// told how far it is, at least every few mebibytes, and can answer [`ControlFlow::Break`] to end it.
#[derive(Clone, Debug)]
pub struct Unpacker {
    program: PathBuf,
    limits: Limits,
}

impl Unpacker {
    /// Uses this very program, whose `main` begins with [`crate::run_if_asked`], even if its file has been replaced since.
    pub fn this_program(limits: Limits) -> Self {
        Self::with_program(PathBuf::from("/proc/self/exe"), limits)
    }

    /// Uses another program of which the same is true, such as `hutch-unpack-image`.
    pub fn with_program(program: PathBuf, limits: Limits) -> Self {
        Self { program, limits }
    }

    /// Reads all of an archive without unpacking it: its metadata and templates, and whether [`Unpacker::unpack`] would
    /// accept it.
    pub fn inspect(
        &self,
        archive: &File,
        content: Content,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Inspection> {
        let task = Task {
            content,
            limits: self.limits.clone(),
            write: None,
        };
        match self.run(&task, archive, None, watch)? {
            Message::Inspected(found) => Ok(*found),
            _ => Err(Error::Process("its answer is not one to this question".to_owned())),
        }
    }

    /// Unpacks the root file system of an archive into the directory `target`, which is open for reading and which nobody
    /// else changes. After an error the directory holds some of it, and the caller discards it. With `sync` the tree has
    /// reached the disk when this returns.
    pub fn unpack(
        &self,
        archive: &File,
        content: Content,
        target: &OwnedFd,
        sync: bool,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Report> {
        let task = Task {
            content,
            limits: self.limits.clone(),
            write: Some(WriteMode { sync }),
        };
        match self.run(&task, archive, Some(target), watch)? {
            Message::Unpacked(report) => Ok(report),
            _ => Err(Error::Process("its answer is not one to this question".to_owned())),
        }
    }

    fn run(
        &self,
        task: &Task,
        archive: &File,
        directory: Option<&OwnedFd>,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Message> {
        let mut running = Running(self.spawn(task, archive, directory)?);
        let answer = listen(&mut running.0, watch);
        if matches!(answer, Err(Error::Cancelled)) {
            return answer;
        }
        let status = running.0.wait().map_err(|e| Error::Process(e.to_string()))?;
        match answer? {
            Message::Failed(e) => Err(e),
            // Its last line ends every answer, so a process without one crashed or was killed.
            Message::Progress(_) => Err(Error::Process(describe(status))),
            message => Ok(message),
        }
    }

    fn spawn(&self, task: &Task, archive: &File, directory: Option<&OwnedFd>) -> Result<Child> {
        let task = serde_json::to_string(task).map_err(|e| Error::Process(e.to_string()))?;
        let stdin = archive
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::Read(Errno::from(&e)))?;
        let mut command = Command::new(&self.program);
        command
            .args([SUBCOMMAND, &task])
            .env_clear()
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::piped());
        // Signals of a terminal are for the daemon, which then ends its children in order.
        command.process_group(0);
        match directory {
            // Resolved by the new process, which still has the descriptor at that moment.
            Some(fd) => command.current_dir(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            None => command.current_dir("/"),
        };
        command
            .spawn()
            .map_err(|e| Error::Process(format!("it cannot be started: {e}")))
    }
}

/// Ends and reaps the process whatever happens.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process has been reaped already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Reads answers until the last one, or until the process ends.
fn listen(child: &mut Child, watch: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Message> {
    let Some(stdout) = child.stdout.take() else {
        return Err(Error::Process("it has no output".to_owned()));
    };
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.by_ref().take(MOST_ANSWER).read_until(b'\n', &mut line);
        read.map_err(|e| Error::Process(format!("its answers cannot be read: {e}")))?;
        if line.pop() != Some(b'\n') {
            return Ok(Message::Progress(Progress::default()));
        }
        let message =
            serde_json::from_slice(&line).map_err(|e| Error::Process(format!("its answer is invalid: {e}")))?;
        match message {
            Message::Progress(progress) => {
                if watch(progress).is_break() {
                    return Err(Error::Cancelled);
                }
            }
            message => return Ok(message),
        }
    }
}

fn describe(status: ExitStatus) -> String {
    format!("it ended without an answer ({status})")
}
