//! `hutch:host/command`: granted programs, run to their end.
//!
//! A program gets its arguments and nothing else: no shell, an environment of its own, `/dev/null` as its input, a mount
//! namespace in which it may mount what it likes, and a control group with which everything that it started is killed when
//! its time is over or nobody wants the result any more. The trees that it is given it finds in that namespace, at a place that
//! nobody else reaches, and follows no symbolic link in them.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hutch_container::CGROUP_PARENT;
use hutch_driver::{DriverError, Progress, TreePath};
use hutch_sys::cgroup::Hierarchies;
use hutch_sys::command::PrivateTrees;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Child;

use crate::error::{cancelled, internal, invalid, io};
use crate::fs::tree::{blocking, private_trees};
use crate::service::{PROGRAM_PATH, find_program};
use crate::{CallContext, CommandOutput, Request, Response};

/// How much of the output is kept, in bytes (`wit/host`).
const MAX_OUTPUT: usize = 256 << 10;
/// Most arguments, variables and trees, and most bytes of arguments and variables together.
const MAX_WORDS: usize = 4096;
const MAX_BYTES: usize = 1 << 20;
/// How often at most a line of the output is shown as progress, and how long it is at most, in bytes.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
const PROGRESS_LINE: usize = 120;

/// Programs of this daemon's.
#[derive(Debug)]
pub(crate) struct Commands {
    /// What the names of its control groups begin with.
    prefix: String,
    /// Where programs find trees, each for itself; empty for everybody else.
    places: PathBuf,
}

impl Commands {
    /// Kills what a daemon with the same state directory left running when it was killed. What can't be killed is said in
    /// the log and hinders nobody. `places` is a directory that is made where it is missing, and stays empty.
    ///
    /// # Errors
    /// `io` and its like where the directory can't be made.
    pub(crate) fn open(state_id: &str, places: PathBuf) -> Result<Self, DriverError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&places);
        made.map_err(|e| io(format_args!("can't make {}", places.display()), &e))?;
        let prefix = format!("command-{state_id}-");
        let parent = Hierarchies::find().unified().map(|root| root.join(CGROUP_PARENT));
        let entries = parent.and_then(|parent| fs::read_dir(parent).ok());
        for name in entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        {
            if name.starts_with(&prefix)
                && let Err(e) = Hierarchies::find().kill_and_remove(CGROUP_PARENT, &name)
            {
                tracing::warn!("can't kill what is left in the control group {name}: {e}");
            }
        }
        Ok(Self { prefix, places })
    }

    /// Does a `command` request.
    pub(crate) async fn call(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        match request {
            Request::CommandRun {
                program,
                args,
                env,
                trees,
            } => self
                .run(cx, &program, args, env, &trees)
                .await
                .map(Response::CommandOutput),
            other => Err(internal(format!("{} is not a function of command", other.function()))),
        }
    }

    async fn run(
        &self,
        cx: &CallContext,
        program: &str,
        args: Vec<String>,
        env: Vec<(String, String)>,
        trees: &[TreePath],
    ) -> Result<CommandOutput, DriverError> {
        let grant = cx.subject.granter().command(program, &args, &env)?;
        check_size(&args, &env, trees)?;
        let path = find_program(program)?;
        let (trees, private) = private_trees(cx, trees, &self.places).await?;
        let args = args
            .iter()
            .map(|arg| fill_in(arg, &trees))
            .collect::<Result<Vec<_>, _>>()?;
        let name = format!("{}{}", self.prefix, uuid::Uuid::new_v4().simple());
        let (group, procs) = blocking(move || Group::make(name)).await?;
        let mut child = start(&path, args, env, procs, private)?;
        let (status, stdout, stderr) = tokio::select! {
            done = tokio::time::timeout(grant.timeout, wait(&mut child, &group, &cx.call.progress)) => done.map_err(|_| {
                let seconds = grant.timeout.as_secs();
                DriverError::new("timeout", format!("{program} did not finish within {seconds} s and was killed"))
            })?,
            () = cx.call.cancel.cancelled() => return Err(cancelled(format_args!("{program} was killed"))),
        }
        .map_err(|e| io(format_args!("can't wait for {program}"), &e))?;
        group.remove().await?;
        Ok(CommandOutput {
            status: code(status),
            stdout,
            stderr,
        })
    }
}

fn start(
    path: &Path,
    args: Vec<String>,
    env: Vec<(String, String)>,
    procs: OwnedFd,
    trees: PrivateTrees,
) -> Result<Child, DriverError> {
    let mut command = std::process::Command::new(path);
    command.args(args).current_dir("/");
    command
        .env_clear()
        .env("PATH", PROGRAM_PATH.join(":"))
        .env("LANG", "C.UTF-8")
        .envs(env);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    hutch_sys::command::confine(&mut command, procs, trees);
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn();
    child.map_err(|e| io(format_args!("can't run {}", path.display()), &e))
}

/// Waits for the program's end and reads what it says. What it leaves running in the background may hold the pipes; that
/// ends with the control group.
async fn wait(
    child: &mut Child,
    group: &Group,
    progress: &Arc<dyn Progress>,
) -> std::io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let drain = async { tokio::try_join!(tail(stdout, progress), tail(stderr, progress)) };
    let mut drain = std::pin::pin!(drain);
    let status = tokio::select! {
        output = &mut drain => {
            let (stdout, stderr) = output?;
            return Ok((child.wait().await?, stdout, stderr));
        }
        status = child.wait() => status?,
    };
    group.kill()?;
    let (stdout, stderr) = drain.await?;
    Ok((status, stdout, stderr))
}

/// The control group of one program. Dropped, it is killed and removed in the background.
#[derive(Debug)]
struct Group {
    name: String,
    dir: PathBuf,
    removed: bool,
}

impl Group {
    fn make(name: String) -> Result<(Self, OwnedFd), DriverError> {
        let root = Hierarchies::find().unified().ok_or_else(|| {
            DriverError::new(
                "unavailable",
                "programs need the unified control group hierarchy, which is not mounted",
            )
        })?;
        let dir = root.join(CGROUP_PARENT).join(&name);
        let fail = |e| io(format_args!("can't make the control group {}", dir.display()), &e);
        fs::create_dir_all(&dir).map_err(fail)?;
        let group = Self {
            name,
            dir: dir.clone(),
            removed: false,
        };
        let procs = fs::OpenOptions::new()
            .write(true)
            .open(dir.join("cgroup.procs"))
            .map_err(fail)?;
        Ok((group, procs.into()))
    }

    /// Kills everything in it. Does not wait.
    fn kill(&self) -> std::io::Result<()> {
        fs::write(self.dir.join("cgroup.kill"), "1")
    }

    async fn remove(mut self) -> Result<(), DriverError> {
        self.removed = true;
        let name = self.name.clone();
        blocking(move || {
            let removed = Hierarchies::find().kill_and_remove(CGROUP_PARENT, &name);
            removed.map_err(|e| io(format_args!("can't remove the control group {name}"), &e))
        })
        .await
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        if let Err(e) = self.kill() {
            tracing::warn!("can't kill the control group {}: {e}", self.name);
        }
        let name = self.name.clone();
        let remove = move || {
            if let Err(e) = Hierarchies::find().kill_and_remove(CGROUP_PARENT, &name) {
                tracing::warn!("can't remove the control group {name}: {e}");
            }
        };
        // Waiting for processes to die is nothing for the thread that drops this.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn check_size(args: &[String], env: &[(String, String)], trees: &[TreePath]) -> Result<(), DriverError> {
    let words = args.iter().chain(env.iter().flat_map(|(name, value)| [name, value]));
    let (mut count, mut bytes) = (trees.len(), 0);
    for word in words {
        count += 1;
        bytes += word.len();
        if word.contains('\0') {
            return Err(invalid("an argument or variable has a zero byte in it"));
        }
    }
    if env.iter().any(|(name, _)| name.is_empty() || name.contains('=')) {
        return Err(invalid("a variable of the environment has no name"));
    }
    if count > MAX_WORDS || bytes > MAX_BYTES {
        return Err(DriverError::new(
            "limit",
            format!("a command of {count} words and {bytes} bytes: at most {MAX_WORDS} and {MAX_BYTES}"),
        ));
    }
    Ok(())
}

/// Puts the paths of trees where `{tree:N}` stands. The text is gone through once, so that nothing in a path is filled in.
fn fill_in(arg: &str, trees: &[PathBuf]) -> Result<String, DriverError> {
    const MARK: &str = "{tree:";
    let mut filled = String::new();
    let mut rest = arg;
    while let Some((before, after)) = rest.split_once(MARK) {
        let wrong = || invalid(format!("{arg:?} refers to a tree that is not given"));
        let (number, after) = after.split_once('}').ok_or_else(wrong)?;
        let tree = number
            .parse::<usize>()
            .ok()
            .and_then(|number| trees.get(number))
            .ok_or_else(wrong)?;
        filled.push_str(before);
        filled.push_str(
            tree.to_str()
                .ok_or_else(|| invalid("the path of a tree is not UTF-8"))?,
        );
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Reads to the end and keeps the last [`MAX_OUTPUT`] bytes. Now and then the last line is shown as progress.
async fn tail(stream: Option<impl AsyncRead + Unpin>, progress: &Arc<dyn Progress>) -> std::io::Result<Vec<u8>> {
    let Some(mut stream) = stream else {
        return Ok(Vec::new());
    };
    let mut kept = Vec::new();
    let mut shown: Option<Instant> = None;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let got = stream.read(&mut buffer).await?;
        if got == 0 {
            let start = kept.len().saturating_sub(MAX_OUTPUT);
            kept.drain(..start);
            return Ok(kept);
        }
        kept.extend_from_slice(buffer.get(..got).unwrap_or_default());
        // Only now and then, or each piece would move a quarter of a megabyte.
        if kept.len() > 2 * MAX_OUTPUT {
            let start = kept.len() - MAX_OUTPUT;
            kept.drain(..start);
        }
        if shown.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY)
            && let Some(line) = last_line(&kept)
        {
            shown = Some(Instant::now());
            progress.report(&line, 0, None);
        }
    }
}

/// The last line that is complete, without what moves a terminal.
fn last_line(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().rposition(|&b| b == b'\n')?;
    let start = bytes
        .get(..end)?
        .iter()
        .rposition(|&b| b == b'\n' || b == b'\r')
        .map_or(0, |at| at + 1);
    let line = bytes.get(start..end.min(start + PROGRESS_LINE))?;
    let text: String = String::from_utf8_lossy(line)
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// As a shell has it: the exit status, or 128 and the signal.
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_once() {
        let trees = [PathBuf::from("/srv/{tree:1}"), PathBuf::from("/b")];
        assert_eq!(
            fill_in("--to={tree:0}/x:{tree:1}", &trees).unwrap(),
            "--to=/srv/{tree:1}/x:/b"
        );
        assert_eq!(fill_in("plain {x}", &trees).unwrap(), "plain {x}");
        for bad in ["{tree:2}", "{tree:", "{tree:x}", "{tree:-1}"] {
            assert!(fill_in(bad, &trees).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_line_is_shown_clean() {
        assert_eq!(last_line(b"a\nI: \x1b[1mdone\nrest").as_deref(), Some("I: [1mdone"));
        assert_eq!(last_line(b"0%\r50%\r100%\n").as_deref(), Some("100%"));
        assert_eq!(last_line(b"no end"), None);
    }
}
