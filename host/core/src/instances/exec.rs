//! Running commands in instances.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use hutch_api::instance::{ExecControl, InstanceExecPost};
use hutch_api::operation;
use hutch_container::{ContainerState, Exec, ExecSpec, ExecStdio, ExitStatus, FaultKind, Keeper};
use rustix::termios::Winsize;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};

use crate::error::{Error, Result};
use crate::events;
use crate::instances::view::View;
use crate::operations::{NewOperation, Socket, Sockets};
use crate::profiles::with_project;
use crate::{Core, Operation, idrange, settings};

/// What a shell says when there is no such program, and when it can't be run (`sh(1p)`, 2.8.2).
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
/// How long a client may take to connect.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(30);

impl Core {
    /// Runs a command. With websockets it starts when all of them are connected; without, its output goes nowhere or into
    /// log files.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for a stopped instance or a command that can't be.
    pub async fn instance_exec(
        self: &Arc<Self>,
        project: &str,
        name: &str,
        post: InstanceExecPost,
    ) -> Result<Arc<Operation>> {
        let view = self.instances.get(project, name)?.view();
        let keeper = view
            .keeper
            .clone()
            .ok_or_else(|| Error::invalid("Instance is not running"))?;
        if matches!(keeper.state(), ContainerState::Running { frozen: true, .. }) {
            return Err(Error::invalid(format!("Instance {name:?} is frozen: resume it first")));
        }
        if post.command.is_empty() {
            return Err(Error::invalid("The request names no command"));
        }
        if post.interactive && post.record_output {
            return Err(Error::invalid("The output of an interactive command can't be recorded"));
        }
        let mut new = NewOperation::task(
            project,
            "Executing command",
            "instances",
            with_project(format!("/1.0/instances/{name}"), project),
        );
        new.metadata = json_map(
            json!({"command": post.command, "environment": post.environment, "interactive": post.interactive}),
        );
        check_ids(&view, &post)?;
        let command = Command {
            env: environment(&view, &post),
            instance: name.to_owned(),
            post,
        };
        let about = events::context([("command", json!(command.post.command))]);
        self.tell_of_instance(project, name, "instance-exec", about);
        if !command.post.wait_for_websocket {
            let core = Arc::clone(self);
            return self
                .operations
                .begin(new, move |op| async move {
                    run_recorded(&core, &view, &keeper, &command, &op).await
                })
                .await;
        }
        let names: &[&str] = if command.post.interactive {
            &["0", "control"]
        } else {
            &["0", "1", "2", "control"]
        };
        let sockets = Arc::new(Sockets::new(names));
        new.class = operation::WEBSOCKET;
        new.metadata.insert("fds".to_owned(), Value::Object(sockets.fds()));
        let ends = Arc::clone(&sockets);
        let work = move |op: Arc<Operation>| async move {
            if command.post.interactive {
                run_terminal(&keeper, &command, &op, &ends).await
            } else {
                run_pipes(&keeper, &command, &op, &ends).await
            }
        };
        self.operations.begin_with_sockets(new, sockets, work).await
    }

    /// Awaits the end of a command that an earlier daemon started.
    pub(crate) fn resume_exec(self: &Arc<Self>, operation: &Arc<Operation>, keeper: Keeper) {
        let id = operation.id().to_owned();
        self.operations.resume(operation, move |op| async move {
            match keeper.exec_result(&id).await {
                Some(status) => finish(&keeper, &op, status).await,
                None => Err(Error::Unavailable(
                    "the container ended before the command did".to_owned(),
                )),
            }
        });
    }
}

fn json_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The command's environment: the instance's, then what a login would have, then what the caller says.
fn environment(view: &View, post: &InstanceExecPost) -> Vec<(String, String)> {
    let mut env: BTreeMap<String, String> = BTreeMap::from([
        (
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        // As PID 1 has it: programs ask it whether they are in a container.
        ("container".to_owned(), "lxc".to_owned()),
    ]);
    if post.user == 0 {
        env.insert("HOME".to_owned(), "/root".to_owned());
        env.insert("USER".to_owned(), "root".to_owned());
    }
    for (key, value) in &view.config {
        if let Some(name) = key.strip_prefix("environment.") {
            env.insert(name.to_owned(), value.clone());
        }
    }
    env.extend(post.environment.clone());
    env.into_iter().collect()
}

/// Refuses ids that the instance has not.
fn check_ids(view: &View, post: &InstanceExecPost) -> Result<()> {
    if settings::is_true(&view.config, "security.privileged") {
        return Ok(());
    }
    match [("User", post.user), ("Group", post.group)]
        .into_iter()
        .find(|(_, id)| *id >= idrange::RANGE)
    {
        Some((what, id)) => Err(Error::invalid(format!(
            "{what} {id} can't be had in instance {:?}: its ids are 0 to {}",
            view.record.name,
            idrange::RANGE - 1
        ))),
        None => Ok(()),
    }
}

/// What is to be run.
struct Command {
    /// The instance's name.
    instance: String,
    post: InstanceExecPost,
    env: Vec<(String, String)>,
}

impl Command {
    fn spec(&self, id: &str) -> ExecSpec {
        ExecSpec {
            id: id.to_owned(),
            command: self.post.command.clone(),
            env: self.env.clone(),
            cwd: Some(self.post.cwd.clone()).filter(|cwd| !cwd.is_empty()),
            uid: self.post.user,
            gid: self.post.group,
            groups: Vec::new(),
        }
    }

    /// A program that is not there is the command's failure and not the operation's, as in a shell.
    fn not_started(&self, op: &Operation, error: &hutch_container::Error) -> Result<()> {
        let instance = &self.instance;
        let Some(fault) = error.fault() else {
            return Err(Error::invalid(format!(
                "Command can't be run in instance {instance:?}: {error}"
            )));
        };
        match fault.kind {
            FaultKind::NotFound | FaultKind::NotExecutable if fault.step == "entering" => Err(Error::invalid(format!(
                "The working directory {:?} can't be entered in instance {instance:?}: {}",
                self.post.cwd, fault.cause
            ))),
            FaultKind::NotFound => {
                op.set_metadata("return", json!(NOT_FOUND));
                Err(Error::invalid("Command not found"))
            }
            FaultKind::NotExecutable => {
                op.set_metadata("return", json!(NOT_EXECUTABLE));
                Err(Error::invalid("Command not executable"))
            }
            // It ended or was frozen meanwhile.
            FaultKind::State => Err(Error::invalid(format!("Instance {instance:?}: {}", fault.cause))),
            _ => Err(Error::invalid(format!(
                "Command can't be run in instance {instance:?}: {fault}"
            ))),
        }
    }
}

/// Waits for the clients, as long as there is something for them to connect to.
async fn connected(keeper: &Keeper, op: &Operation, sockets: &Sockets, names: &[&str]) -> Result<()> {
    tokio::select! {
        () = sockets.all_waiting(names) => Ok(()),
        () = op.cancelled() => Err(Error::Cancelled),
        _ = keeper.ended() => Err(Error::invalid("Instance is not running")),
        () = tokio::time::sleep(CONNECT) => Err(Error::Timeout(format!(
            "Nobody connected to the command's websockets within {} seconds",
            CONNECT.as_secs()
        ))),
    }
}

async fn run_pipes(keeper: &Keeper, command: &Command, op: &Arc<Operation>, sockets: &Arc<Sockets>) -> Result<()> {
    connected(keeper, op, sockets, &["0", "1", "2"]).await?;
    let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
    let over = watch::Sender::new(false);
    let stdio = ExecStdio::Pipes { stdin, stdout, stderr };
    let started = keeper.exec(command.spec(op.id()), stdio).await;
    // The clients get their ends in any case: of a command that could not be run, the end of its output.
    sockets.give("0", Socket::Input(to_stdin));
    sockets.give("1", Socket::Output(from_stdout, over.subscribe()));
    sockets.give("2", Socket::Output(from_stderr, over.subscribe()));
    attend(keeper, command, started, op, sockets, over, None).await
}

async fn run_terminal(keeper: &Keeper, command: &Command, op: &Arc<Operation>, sockets: &Arc<Sockets>) -> Result<()> {
    connected(keeper, op, sockets, &["0"]).await?;
    let side = |pixels: i32, default: u16| u16::try_from(pixels).ok().filter(|side| *side > 0).unwrap_or(default);
    let stdio = ExecStdio::Pty {
        cols: side(command.post.width, 80),
        rows: side(command.post.height, 25),
    };
    let mut started = keeper.exec(command.spec(op.id()), stdio).await;
    let over = watch::Sender::new(false);
    let mut terminal = None;
    if let Ok(exec) = &mut started
        && let Some(pty) = exec.take_pty()
    {
        let copy = pty
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::io("copying the descriptor of a terminal"))?;
        terminal = Some(copy);
        sockets.give("0", Socket::Terminal(pty, over.subscribe()));
    }
    attend(keeper, command, started, op, sockets, over, terminal).await
}

/// Follows a command to its end.
async fn attend(
    keeper: &Keeper,
    command: &Command,
    started: std::result::Result<Exec, hutch_container::Error>,
    op: &Arc<Operation>,
    sockets: &Arc<Sockets>,
    over: watch::Sender<bool>,
    terminal: Option<OwnedFd>,
) -> Result<()> {
    let exec = match started {
        Ok(exec) => exec,
        Err(error) => {
            over.send_replace(true);
            return command.not_started(op, &error);
        }
    };
    let (commands, inbox) = mpsc::channel(16);
    let control = tokio::spawn(hand_over_control(Arc::clone(sockets), commands, over.subscribe()));
    let steering = tokio::spawn(steer(keeper.clone(), exec.id().to_owned(), inbox, terminal));
    let status = tokio::select! {
        status = exec.wait() => status,
        () = op.cancelled() => {
            if let Err(error) = exec.signal(libc_sigkill()).await {
                tracing::debug!(%error, "the cancelled command had ended");
            }
            exec.wait().await
        }
    };
    over.send_replace(true);
    control.abort();
    steering.abort();
    match status {
        Some(status) => finish(keeper, op, status).await,
        None => Err(Error::Unavailable(
            "the container's keeper was lost while the command ran".to_owned(),
        )),
    }
}

fn libc_sigkill() -> i32 {
    nix::sys::signal::Signal::SIGKILL as i32
}

async fn finish(keeper: &Keeper, op: &Operation, status: ExitStatus) -> Result<()> {
    op.set_metadata("return", json!(status.shell_code()));
    if let Err(error) = keeper.forget_exec(op.id()).await {
        tracing::debug!(%error, "the keeper had forgotten the command");
    }
    Ok(())
}

/// The control websocket may be connected at any time, or never.
async fn hand_over_control(sockets: Arc<Sockets>, commands: mpsc::Sender<ExecControl>, over: watch::Receiver<bool>) {
    sockets.waiting("control").await;
    sockets.give("control", Socket::Control(commands, over));
}

/// Carries out what comes over the control websocket.
async fn steer(keeper: Keeper, id: String, mut commands: mpsc::Receiver<ExecControl>, terminal: Option<OwnedFd>) {
    while let Some(command) = commands.recv().await {
        match command.command.as_str() {
            "window-resize" => {
                let side = |key: &str| command.args.get(key).and_then(|text| text.parse::<u16>().ok());
                if let (Some(terminal), Some(cols), Some(rows)) = (&terminal, side("width"), side("height")) {
                    let size = Winsize {
                        ws_row: rows,
                        ws_col: cols,
                        ws_xpixel: 0,
                        ws_ypixel: 0,
                    };
                    if let Err(error) = rustix::termios::tcsetwinsize(terminal, size) {
                        tracing::debug!(%error, "the terminal is gone");
                    }
                }
            }
            "signal" => {
                if let Err(error) = keeper.signal_exec(&id, command.signal).await {
                    tracing::debug!(%error, "the command is gone");
                }
            }
            other => tracing::debug!(command = other, "an unknown control command was left out"),
        }
    }
    // The client of a terminal has gone. The keeper holds the terminal open, too, so that nothing hangs up by itself.
    if terminal.is_some()
        && let Err(error) = keeper.signal_exec(&id, nix::sys::signal::Signal::SIGHUP as i32).await
    {
        tracing::debug!(%error, "the command is gone");
    }
}

/// A command without websockets.
async fn run_recorded(
    core: &Arc<Core>,
    view: &View,
    keeper: &Keeper,
    command: &Command,
    op: &Arc<Operation>,
) -> Result<()> {
    let record = &view.record;
    let (stdout, stderr) = if command.post.record_output {
        let (out, err) = (
            core.exec_log(record, op.id(), "stdout")?,
            core.exec_log(record, op.id(), "stderr")?,
        );
        let base = format!("/1.0/instances/{}/logs/exec-output", record.name);
        let output =
            json!({"1": format!("{base}/exec_{}.stdout", op.id()), "2": format!("{base}/exec_{}.stderr", op.id())});
        op.set_metadata("output", output);
        (out, err)
    } else {
        (null()?, null()?)
    };
    let stdio = ExecStdio::Pipes {
        stdin: null()?,
        stdout,
        stderr,
    };
    let exec = match keeper.exec(command.spec(op.id()), stdio).await {
        Ok(exec) => exec,
        Err(error) => return command.not_started(op, &error),
    };
    match exec.wait().await {
        Some(status) => finish(keeper, op, status).await,
        None => Err(Error::Unavailable(
            "the container's keeper was lost while the command ran".to_owned(),
        )),
    }
}

fn null() -> Result<OwnedFd> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(Error::io("opening /dev/null"))?;
    Ok(file.into())
}

/// The reading and the writing end of a pipe.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| Error::io("making a pipe")(error.into()))
}
