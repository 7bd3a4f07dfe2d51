//! The process that reads an archive: confined, with the archive as its standard input and its answers on its standard
//! output, one JSON object a line.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use crate::disk::DiskTree;
use crate::entry::{Source, Time};
use crate::error::{Errno, Error, Result};
use crate::jail::{self, Purpose};
use crate::layout::Content;
use crate::limits::{Budget, Limits};
use crate::metadata::ImageMetadata;
use crate::pack::{Packer, Placed, place_metadata};
use crate::render::{self, Page, Surroundings};
use crate::squashfs::SquashfsReader;
use crate::stream::{Format, Stream};
use crate::tar::reader::TarReader;
use crate::tree::TreeReader;
use crate::walk::{self, Inspection, Meter, Progress, Report};

/// The first argument of a program that makes it the process that reads an archive.
pub const SUBCOMMAND: &str = "unpack-image";

/// What the process is to do; its second argument names a file with it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Task {
    pub(crate) content: Content,
    pub(crate) limits: Limits,
    pub(crate) job: Job,
}

/// Which of its jobs the process does.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Job {
    /// Read the archive.
    Inspect,
    /// Write the tree into the working directory. With `sync` it has reached the disk when success is reported.
    Unpack { sync: bool },
    /// Write the tree, with more placed in it, as another archive. That goes to the standard output, and the answers then
    /// to the standard error.
    Repack { placed: Vec<Placed>, time: i64 },
    /// Write a tree, which is a directory or several as layers of an overlay, as a unified archive to the standard output. The
    /// standard input is not used.
    Pack {
        layers: Vec<PathBuf>,
        metadata: ImageMetadata,
        templates: BTreeMap<String, String>,
    },
    /// Render templates of an image. The standard input is not used.
    Render {
        pages: Vec<Page>,
        surroundings: Surroundings,
    },
}

/// What the process answers: any number of `Progress`, then one of the others.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Message {
    Progress(Progress),
    Inspected(Box<Inspection>),
    Unpacked(Report),
    Rendered(Vec<String>),
    Failed(Error),
}

/// Does the work of the process if this program was started as one, which a program that uses this crate asks first of all,
/// before it starts threads or opens files. `None` when it was started for something else.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != SUBCOMMAND {
        return None;
    }
    Some(unpack_child_main(&args.next().unwrap_or_default()))
}

/// The whole life of the process. The exit status says only whether an answer was given.
fn unpack_child_main(task: &OsStr) -> ExitCode {
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    let task = std::fs::read(task).map_err(|e| Error::Process(format!("its task cannot be read: {e}")));
    let task = task.and_then(|task| {
        serde_json::from_slice::<Task>(&task).map_err(|e| Error::Process(format!("its task is invalid: {e}")))
    });
    let writes = |task: &Task| matches!(task.job, Job::Repack { .. } | Job::Pack { .. });
    let writes = task.as_ref().is_ok_and(writes);
    let answers = if writes {
        own(std::io::stderr().as_fd())
    } else {
        own(std::io::stdout().as_fd())
    };
    let (Ok(archive), Ok(mut answers)) = (own(std::io::stdin().as_fd()), answers) else {
        return ExitCode::FAILURE;
    };
    let answer = match task.and_then(|task| run(task, archive, &mut answers)) {
        Ok(message) => message,
        Err(e) => Message::Failed(e),
    };
    if send(&mut answers, &answer).is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(task: Task, mut archive: File, answers: &mut File) -> Result<Message> {
    let Task { content, limits, job } = task;
    if let Job::Render { pages, surroundings } = job {
        jail::enter(Purpose::Render)?;
        return render::render(&pages, &surroundings).map(Message::Rendered);
    }
    let (depth, memory) = (limits.depth, limits.decoder_memory);
    let read = Arc::new(AtomicU64::new(0));
    let mut tell = |progress| send(answers, &Message::Progress(progress));
    let meter = Meter::new(Budget::new(limits, Arc::clone(&read)), &mut tell);
    if let Job::Pack {
        layers,
        metadata,
        templates,
    } = job
    {
        jail::enter(Purpose::Pack(&layers))?;
        return pack(meter, depth, read, &metadata, &templates);
    }
    jail::enter(if matches!(job, Job::Unpack { .. }) {
        Purpose::Unpack
    } else {
        Purpose::Inspect
    })?;
    let mut source: Box<dyn Source> = match Format::of(&mut archive)? {
        Format::Tar(compression) => {
            let stream = Stream::open(archive, compression, memory, Arc::clone(&read))?;
            Box::new(TarReader::new(stream, depth))
        }
        Format::Squashfs => Box::new(SquashfsReader::open(archive, depth, Arc::clone(&read))?),
    };
    match job {
        Job::Unpack { sync } => unpack(source.as_mut(), content, meter, sync),
        Job::Repack { placed, time } => repack(source.as_mut(), content, meter, depth, &placed, time),
        Job::Inspect | Job::Pack { .. } | Job::Render { .. } => Ok(Message::Inspected(Box::new(walk::inspect(
            source.as_mut(),
            content,
            meter,
        )?))),
    }
}

/// The directory that this process works in.
fn working_directory() -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // By openat2, which the jail of every job that has a directory lets through.
    rustix::fs::openat2(rustix::fs::CWD, ".", flags, Mode::empty(), ResolveFlags::empty())
        .map_err(|e| Error::tree("open", b".", e))
}

fn standard_output() -> Result<File> {
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    Ok(File::from(out.map_err(|e| Error::Write(Errno::from(&e)))?))
}

fn pack(
    meter: Meter<'_>,
    depth: usize,
    read: Arc<AtomicU64>,
    metadata: &ImageMetadata,
    templates: &BTreeMap<String, String>,
) -> Result<Message> {
    // One component more than in the tree: the directory that it has in the archive.
    let mut packer = Packer::new(standard_output()?, depth + 1)?;
    place_metadata(
        &mut packer,
        metadata,
        templates,
        Time {
            seconds: metadata.creation_date,
            nanoseconds: 0,
        },
    )?;
    let mut source = TreeReader::new(working_directory()?, depth, read);
    let report = walk::pack(&mut source, meter, &mut packer)?;
    packer.finish()?;
    Ok(Message::Unpacked(report))
}

fn unpack(source: &mut dyn Source, content: Content, meter: Meter<'_>, sync: bool) -> Result<Message> {
    let mut tree = DiskTree::new(working_directory()?);
    let report = walk::unpack(source, content, meter, &mut tree)?;
    tree.finish(sync)?;
    Ok(Message::Unpacked(report))
}

fn repack(
    source: &mut dyn Source,
    content: Content,
    meter: Meter<'_>,
    depth: usize,
    placed: &[Placed],
    time: i64,
) -> Result<Message> {
    let mut packer = Packer::new(standard_output()?, depth)?;
    let report = walk::unpack(source, content, meter, &mut packer)?;
    for placed in placed {
        packer.place(
            placed,
            Time {
                seconds: time,
                nanoseconds: 0,
            },
        )?;
    }
    packer.finish()?;
    Ok(Message::Unpacked(report))
}

/// Writes one line. It fails when the daemon is gone, and then nobody wants the work done.
fn send(answers: &mut File, message: &Message) -> Result<()> {
    let mut line = serde_json::to_vec(message).map_err(|e| Error::Process(e.to_string()))?;
    line.push(b'\n');
    answers.write_all(&line).map_err(|e| Error::Write(Errno::from(&e)))
}
