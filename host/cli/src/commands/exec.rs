//! `exec` and `shell`.

use std::collections::BTreeMap;
use std::io;

use clap::{Args, ValueEnum};
use hutch_api::instance::InstanceExecPost;
use hyper::Method;
use serde_json::Value;

use crate::attach::{self, Control};
use crate::client::{Answer, ApiPath, Client, Operation, WebSocket, outcome};
use crate::context::Context;
use crate::error::{Error, Result, report};
use crate::keyvalue;
use crate::terminal::{self, Output, RawMode};

/// The exit status when the daemon does not tell one.
const NO_STATUS: i32 = 1;

/// Whether the command gets a terminal; by itself if standard input and output are terminals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    #[default]
    Auto,
    Interactive,
    NonInteractive,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The instance
    #[arg(value_name = "[REMOTE:]INSTANCE")]
    instance: String,
    #[command(flatten)]
    options: ExecOptions,
    /// The command and its arguments, after -- if they begin with a dash
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Default, Args)]
pub(crate) struct ExecOptions {
    /// Set a variable (several times)
    #[arg(long = "env", value_name = "KEY=VALUE")]
    environment: Vec<String>,
    /// Run as this user, by number
    #[arg(long, default_value_t = 0, value_name = "UID", hide_default_value = true)]
    user: u32,
    /// Run in this group, by number
    #[arg(long, default_value_t = 0, value_name = "GID", hide_default_value = true)]
    group: u32,
    /// Run in this directory instead of the user's home
    #[arg(long, default_value = "", value_name = "DIR", hide_default_value = true)]
    cwd: String,
    /// Whether the command gets a terminal; auto if standard input and output are terminals
    #[arg(long, value_enum, default_value = "auto", hide_default_value = true)]
    mode: Mode,
    /// Give the command a terminal
    #[arg(short = 't', long, conflicts_with = "force_noninteractive")]
    force_interactive: bool,
    /// Give the command no terminal
    #[arg(short = 'T', long)]
    force_noninteractive: bool,
    /// Give the command no input
    #[arg(short = 'n', long)]
    disable_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// The instance
    #[arg(value_name = "[REMOTE:]INSTANCE")]
    instance: String,
    #[command(flatten)]
    options: ExecOptions,
}

/// Runs a command and returns its exit status.
pub(crate) async fn exec(ctx: &Context, args: ExecArgs) -> Result<i32> {
    run(ctx, &args.instance, &args.options, args.command).await
}

/// Runs a login shell: the user's where `su` knows it.
pub(crate) async fn shell(ctx: &Context, args: ShellArgs) -> Result<i32> {
    run(ctx, &args.instance, &args.options, vec!["su".into(), "-l".into()]).await
}

async fn run(ctx: &Context, instance: &str, options: &ExecOptions, command: Vec<String>) -> Result<i32> {
    let target = ctx.named(instance)?;
    let interactive = options.wants_terminal();
    let post = options.request(command, interactive)?;
    let path = ApiPath::new(["instances", &target.name, "exec"]);
    let answer = target
        .client
        .send(Method::POST, path, &post, None)
        .await
        .map_err(|error| error.about(&target.name))?;
    let Answer::Operation(operation) = answer else {
        return Err(Error::usage(
            "the daemon ran the command without letting anybody attach to it",
        ));
    };
    let fds: BTreeMap<String, String> =
        serde_json::from_value(operation.initial["metadata"]["fds"].clone()).unwrap_or_default();
    let session = Session {
        client: &target.client,
        operation: &operation,
        fds,
        no_stdin: options.disable_stdin,
    };
    let attached = if interactive {
        session.interactive().await
    } else {
        session.streams().await
    };
    attached.map_err(|error| operation.lost(error))?;
    let ended = operation.ended(&target.client).await?;
    let status = exit_status(&ended["metadata"]);
    match (outcome(ended), status) {
        (Ok(_), status) => Ok(status.unwrap_or(NO_STATUS)),
        // A command that can't be run has a status as in a shell: 126 or 127.
        (Err(error), Some(status)) if status != 0 => {
            eprintln!("Error: {}", report(&error.about(&target.name)));
            Ok(status)
        }
        (Err(error), _) => Err(error.about(&target.name)),
    }
}

fn exit_status(metadata: &Value) -> Option<i32> {
    metadata["return"]
        .as_i64()
        .and_then(|status| i32::try_from(status).ok())
}

impl ExecOptions {
    fn wants_terminal(&self) -> bool {
        match (self.mode, self.force_interactive, self.force_noninteractive) {
            (_, true, _) | (Mode::Interactive, _, false) => true,
            (_, _, true) | (Mode::NonInteractive, ..) => false,
            (Mode::Auto, ..) => !self.disable_stdin && terminal::stdin_is_terminal() && terminal::stdout_is_terminal(),
        }
    }

    fn request(&self, command: Vec<String>, interactive: bool) -> Result<InstanceExecPost> {
        let mut environment = BTreeMap::new();
        if let Ok(term) = std::env::var("TERM") {
            environment.insert("TERM".to_owned(), term);
        }
        environment.extend(keyvalue::pairs(&self.environment)?);
        let (columns, rows) = terminal::size().filter(|_| interactive).unwrap_or_default();
        Ok(InstanceExecPost {
            command,
            wait_for_websocket: true,
            interactive,
            environment,
            width: columns.into(),
            height: rows.into(),
            record_output: false,
            user: self.user,
            group: self.group,
            cwd: self.cwd.clone(),
        })
    }
}

/// A command that has been started and waits for its websockets.
struct Session<'a> {
    client: &'a Client,
    operation: &'a Operation,
    fds: BTreeMap<String, String>,
    no_stdin: bool,
}

impl Session<'_> {
    async fn socket(&self, name: &str) -> Result<WebSocket> {
        let secret = self
            .fds
            .get(name)
            .ok_or_else(|| Error::usage(format!("the daemon offers no websocket {name:?} for the command")))?;
        self.client.websocket(self.operation.websocket(secret)).await
    }

    /// One websocket for the terminal, and one for its size and signals.
    async fn interactive(&self) -> Result<()> {
        let (data, control) = tokio::try_join!(self.socket("0"), self.socket("control"))?;
        let (to, mut from) = data.split();
        let _raw = RawMode::enter()?;
        let _control = Control::start(control.sender(), true, true)?;
        let mut output = Output::new(io::stdout());
        let input = async {
            if self.no_stdin {
                std::future::pending().await
            } else {
                attach::send_stdin(to).await
            }
        };
        until_output_ends(attach::receive(&mut from, &mut output), input).await
    }

    /// One websocket for each stream, and one for signals.
    async fn streams(&self) -> Result<()> {
        let (input, output, errors, control) = tokio::try_join!(
            self.socket("0"),
            self.socket("1"),
            self.socket("2"),
            self.socket("control")
        )?;
        let mut to = input.sender();
        let _control = Control::start(control.sender(), false, true)?;
        let (mut stdout, mut stderr) = (Output::new(io::stdout()), Output::new(io::stderr()));
        let input = async {
            if self.no_stdin {
                to.end().await?;
                std::future::pending().await
            } else {
                attach::send_stdin(to).await
            }
        };
        let output = async {
            tokio::try_join!(
                attach::receive_stream(output, &mut stdout),
                attach::receive_stream(errors, &mut stderr)
            )
            .map(|_| ())
        };
        until_output_ends(output, input).await
    }
}

/// Pumps both ways. The output's end is the end; what the process did not read of its input does not matter, nor does it that
/// sending it failed.
async fn until_output_ends(
    output: impl Future<Output = Result<()>>,
    input: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (mut output, mut input) = (std::pin::pin!(output), std::pin::pin!(input));
    tokio::select! {
        result = &mut output => result,
        _ = &mut input => output.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_mode_decide_on_the_terminal() {
        let options = |mode, t, no_t| ExecOptions {
            mode,
            force_interactive: t,
            force_noninteractive: no_t,
            ..ExecOptions::default()
        };
        assert!(options(Mode::Auto, true, false).wants_terminal());
        assert!(options(Mode::Interactive, false, false).wants_terminal());
        assert!(!options(Mode::Interactive, false, true).wants_terminal());
        assert!(!options(Mode::NonInteractive, false, false).wants_terminal());
    }

    #[test]
    fn variables_override_those_that_are_passed_on() {
        let options = ExecOptions {
            environment: vec!["TERM=dumb".into(), "A=b=c".into()],
            ..ExecOptions::default()
        };
        let post = options.request(vec!["x".into()], false).unwrap();
        assert_eq!(post.environment["TERM"], "dumb");
        assert_eq!(post.environment["A"], "b=c");
        assert_eq!((post.width, post.height), (0, 0));
    }

    #[test]
    fn the_exit_status_is_in_the_operation() {
        assert_eq!(exit_status(&serde_json::json!({"return": 137})), Some(137));
        assert_eq!(exit_status(&Value::Null), None);
    }
}
