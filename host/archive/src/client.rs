//! Starts the process that reads an archive and listens to it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::SystemTime;

use crate::child::{Job, Message, SUBCOMMAND, Task};
use crate::error::{Errno, Error, Result};
use crate::layout::Content;
use crate::limits::Limits;
use crate::metadata::ImageMetadata;
use crate::pack::Placed;
use crate::render::{Page, Surroundings};
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
        match self.run(content, Job::Inspect, archive, Aim::Nothing, watch)? {
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
        match self.run(content, Job::Unpack { sync }, archive, Aim::Directory(target), watch)? {
            Message::Unpacked(report) => Ok(report),
            _ => Err(Error::Process("its answer is not one to this question".to_owned())),
        }
    }

    /// Writes the root file system `archive` once more into `out`, as zstd-compressed tar, with `placed` in it, whose entries
    /// have the time of this moment. After an error `out` holds some of it, and the caller discards it.
    pub fn repack(
        &self,
        archive: &File,
        placed: &[Placed],
        out: &File,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Report> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let job = Job::Repack {
            placed: placed.to_vec(),
            time: i64::try_from(now).unwrap_or_default(),
        };
        match self.run(Content::Rootfs, job, archive, Aim::File(out), watch)? {
            Message::Unpacked(report) => Ok(report),
            _ => Err(Error::Process("its answer is not one to this question".to_owned())),
        }
    }

    /// Writes a root file system as a unified image into `out`, as zstd-compressed tar. `layers` is the directory that it is
    /// in, or, uppermost first, the directories that an overlay shows it of; nobody changes them meanwhile. After an error
    /// `out` holds some of it, and the caller discards it.
    pub fn pack(
        &self,
        layers: &[PathBuf],
        metadata: &ImageMetadata,
        templates: &BTreeMap<String, String>,
        out: &File,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Report> {
        let job = Job::Pack {
            layers: layers.to_vec(),
            metadata: metadata.clone(),
            templates: templates.clone(),
        };
        let nothing = File::open("/dev/null").map_err(|e| Error::Read(Errno::from(&e)))?;
        match self.run(Content::Unified, job, &nothing, Aim::File(out), watch)? {
            Message::Unpacked(report) => Ok(report),
            _ => Err(Error::Process("its answer is not one to this question".to_owned())),
        }
    }

    /// Renders templates of an image, in order, each within the bounds that [`Page`] says.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the template that can't be rendered, and the line.
    pub fn render(&self, pages: Vec<Page>, surroundings: Surroundings) -> Result<Vec<String>> {
        let job = Job::Render { pages, surroundings };
        let nothing = File::open("/dev/null").map_err(|e| Error::Read(Errno::from(&e)))?;
        let mut watch = |_| ControlFlow::Continue(());
        match self.run(Content::Unified, job, &nothing, Aim::Nothing, &mut watch)? {
            Message::Rendered(texts) => Ok(texts),
            _ => Err(Error::Process("its answer is not one to this question".to_owned())),
        }
    }

    fn run(
        &self,
        content: Content,
        job: Job,
        archive: &File,
        aim: Aim<'_>,
        watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Message> {
        let task = Task {
            content,
            limits: self.limits.clone(),
            job,
        };
        let mut running = self.spawn(&task, archive, aim)?;
        let answer = listen(&mut running.child, watch);
        if matches!(answer, Err(Error::Cancelled)) {
            return answer;
        }
        let status = running.child.wait().map_err(|e| Error::Process(e.to_string()))?;
        match answer? {
            Message::Failed(e) => Err(e),
            // Its last line ends every answer, so a process without one crashed or was killed.
            Message::Progress(_) => Err(Error::Process(describe(status))),
            message => Ok(message),
        }
    }

    fn spawn(&self, task: &Task, archive: &File, aim: Aim<'_>) -> Result<Running> {
        let task = task_file(task)?;
        let input = archive
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::Read(Errno::from(&e)))?;
        let mut command = Command::new(&self.program);
        command
            .arg(SUBCOMMAND)
            .arg(path_of(&task))
            .env_clear()
            .stdin(input)
            .current_dir("/");
        // Signals of a terminal are for the daemon, which then ends its children in order.
        command.process_group(0);
        match aim {
            Aim::Nothing => command.stdout(Stdio::piped()),
            Aim::Directory(fd) => command.stdout(Stdio::piped()).current_dir(path_of(fd)),
            Aim::File(file) => {
                let out = file
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(|e| Error::Write(Errno::from(&e)))?;
                command.stdout(out).stderr(Stdio::piped())
            }
        };
        let child = command
            .spawn()
            .map_err(|e| Error::Process(format!("it cannot be started: {e}")))?;
        Ok(Running { child, _task: task })
    }
}

/// What the process writes to.
#[derive(Clone, Copy)]
enum Aim<'a> {
    Nothing,
    Directory(&'a OwnedFd),
    File(&'a File),
}

/// A file in memory that holds the task: one that is too long for an argument, and nobody else's business.
fn task_file(task: &Task) -> Result<OwnedFd> {
    let json = serde_json::to_vec(task).map_err(|e| Error::Process(e.to_string()))?;
    let fd = rustix::fs::memfd_create("unpack-image", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|e| Error::Process(format!("its task cannot be written: {e}")))?;
    let mut file = File::from(fd);
    file.write_all(&json)
        .map_err(|e| Error::Process(format!("its task cannot be written: {e}")))?;
    Ok(file.into())
}

/// A name of a descriptor of this process for a process of the same user, which opens it before it is confined.
fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// Ends and reaps the process whatever happens.
struct Running {
    child: Child,
    /// Read by the process after it has started.
    _task: OwnedFd,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process has been reaped already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads answers until the last one, or until the process ends.
fn listen(child: &mut Child, watch: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Message> {
    // A pipe is made for only one of them.
    let output: Box<dyn Read> = match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), _) => Box::new(stdout),
        (None, Some(stderr)) => Box::new(stderr),
        (None, None) => return Err(Error::Process("it has no output".to_owned())),
    };
    let mut lines = BufReader::new(output);
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
