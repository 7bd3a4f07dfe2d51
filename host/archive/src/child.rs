//! The process that reads an archive: confined, with the archive as its standard input and its answers on its standard
//! output, one JSON object a line.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::disk::DiskTree;
use crate::entry::Source;
use crate::error::{Errno, Error, Result};
use crate::jail::{self, Purpose};
use crate::layout::Content;
use crate::limits::{Budget, Limits};
use crate::squashfs::SquashfsReader;
use crate::stream::{Format, Stream};
use crate::tar::reader::TarReader;
use crate::walk::{self, Inspection, Meter, Progress, Report};

/// The first argument of a program that makes it the process that reads an archive.
pub const SUBCOMMAND: &str = "unpack-image";

/// What the process is to do; its second argument.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Task {
    pub(crate) content: Content,
    pub(crate) limits: Limits,
    /// How to write into the working directory; `None` only to read.
    pub(crate) write: Option<WriteMode>,
}

/// How the tree is written.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct WriteMode {
    /// Whether it must have reached the disk before success is reported.
    pub(crate) sync: bool,
}

/// What the process answers: any number of `Progress`, then one of the others.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Message {
    Progress(Progress),
    Inspected(Box<Inspection>),
    Unpacked(Report),
    Failed(Error),
}

/// Does the work of the process if this program was started as one, which a program that uses this crate asks first of all,
/// before it starts threads or opens files. `None` when it was started for something else.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != SUBCOMMAND {
        return None;
    }
    let task = args.next().and_then(|t| t.into_string().ok()).unwrap_or_default();
    Some(unpack_child_main(&task))
}

/// The whole life of the process. The exit status says only whether an answer was given.
fn unpack_child_main(task: &str) -> ExitCode {
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    let (Ok(archive), Ok(mut answers)) = (own(std::io::stdin().as_fd()), own(std::io::stdout().as_fd())) else {
        return ExitCode::FAILURE;
    };
    let answer = match run(task, archive, &mut answers) {
        Ok(message) => message,
        Err(e) => Message::Failed(e),
    };
    if send(&mut answers, &answer).is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(task: &str, mut archive: File, answers: &mut File) -> Result<Message> {
    let task: Task = serde_json::from_str(task).map_err(|e| Error::Process(format!("its task is invalid: {e}")))?;
    jail::enter(if task.write.is_some() {
        Purpose::Unpack
    } else {
        Purpose::Inspect
    })?;
    let read = Arc::new(AtomicU64::new(0));
    let mut source: Box<dyn Source> = match Format::of(&mut archive)? {
        Format::Tar(compression) => {
            let stream = Stream::open(archive, compression, task.limits.decoder_memory, Arc::clone(&read))?;
            Box::new(TarReader::new(stream, task.limits.depth))
        }
        Format::Squashfs => Box::new(SquashfsReader::open(archive, task.limits.depth, Arc::clone(&read))?),
    };
    let mut tell = |progress| send(answers, &Message::Progress(progress));
    let meter = Meter::new(Budget::new(task.limits, read), &mut tell);
    let Some(write) = task.write else {
        let found = walk::inspect(source.as_mut(), task.content, meter)?;
        return Ok(Message::Inspected(Box::new(found)));
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::openat(rustix::fs::CWD, ".", flags, Mode::empty()).map_err(|e| Error::tree("open", b".", e))?;
    let mut tree = DiskTree::new(root);
    let report = walk::unpack(source.as_mut(), task.content, meter, &mut tree)?;
    tree.finish(write.sync)?;
    Ok(Message::Unpacked(report))
}

/// Writes one line. It fails when the daemon is gone, and then nobody wants the work done.
fn send(answers: &mut File, message: &Message) -> Result<()> {
    let mut line = serde_json::to_vec(message).map_err(|e| Error::Process(e.to_string()))?;
    line.push(b'\n');
    answers.write_all(&line).map_err(|e| Error::Write(Errno::from(&e)))
}
