//! `console`.

use std::io;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http_body_util::BodyExt;
use hutch_api::instance::InstanceConsolePost;
use hyper::Method;

use crate::attach::{self, Control};
use crate::client::websocket::Sender;
use crate::client::{Answer, ApiPath, empty_body};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output;
use crate::terminal::{self, Output, RawMode};

/// Ctrl-a, which begins a command to the console itself.
const ESCAPE: u8 = 0x01;

/// Which console. The clients of other daemons have a second one, a virtual machine's screen; who asks for that is told what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    #[default]
    Console,
    #[value(hide = true)]
    Vga,
}

#[derive(Debug, Args)]
pub(crate) struct ConsoleArgs {
    /// The instance
    #[arg(value_name = "[REMOTE:]INSTANCE")]
    instance: String,
    /// Print what was on the console lately, instead of attaching to it
    #[arg(long)]
    show_log: bool,
    /// Which console; there is the text one
    #[arg(
        short = 't',
        long = "type",
        value_enum,
        default_value = "console",
        hide_default_value = true
    )]
    kind: Kind,
    /// Take the console from whoever has it
    #[arg(short, long)]
    force: bool,
}

/// Attaches to a console, or prints its log.
pub(crate) async fn console(ctx: &Context, args: ConsoleArgs) -> Result<()> {
    if args.kind == Kind::Vga {
        return Err(Error::usage(
            "containers have no screen to show: without --type vga this attaches to the text console",
        ));
    }
    if args.show_log {
        show_log(ctx, &args.instance).await
    } else {
        session(ctx, &args.instance, args.force).await
    }
}

/// Attaches to an instance's console.
pub(crate) async fn attach(ctx: &Context, instance: &str) -> Result<()> {
    session(ctx, instance, false).await
}

async fn show_log(ctx: &Context, instance: &str) -> Result<()> {
    let target = ctx.named(instance)?;
    let path = ApiPath::new(["instances", &target.name, "console"]);
    let response = target
        .client
        .raw(Method::GET, path, &[], empty_body())
        .await
        .map_err(|error| error.about(&target.name))?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            output::write_out(&bytes)?;
        }
    }
    Ok(())
}

async fn session(ctx: &Context, instance: &str, force: bool) -> Result<()> {
    let target = ctx.named(instance)?;
    let client = &target.client;
    let (columns, rows) = terminal::size().unwrap_or_default();
    let post = InstanceConsolePost {
        width: columns.into(),
        height: rows.into(),
        kind: "console".into(),
        force,
    };
    let path = ApiPath::new(["instances", &target.name, "console"]);
    let answer = client
        .send(Method::POST, path, &post, None)
        .await
        .map_err(|error| error.about(&target.name))?;
    let Answer::Operation(operation) = answer else {
        return Err(Error::usage("the daemon gave no console to attach to"));
    };
    let secret = |name: &str| {
        operation.initial["metadata"]["fds"][name]
            .as_str()
            .map(|secret| operation.websocket(secret))
            .ok_or_else(|| Error::usage(format!("the daemon offers no websocket {name:?} for the console")))
    };
    let (data, control) = (
        client.websocket(secret("0")?).await?,
        client.websocket(secret("control")?).await?,
    );
    let (to, mut from) = data.split();
    ctx.say("To detach from the console, press Ctrl-a and then q")?;
    let raw = RawMode::enter()?;
    let control = Control::start(control.sender(), true, false)?;
    let mut output = Output::new(io::stdout());
    let ended = tokio::select! {
        result = attach::receive(&mut from, &mut output) => result,
        result = type_into(to) => result,
    };
    drop((control, raw));
    output.finish().await?;
    ended?;
    Ok(())
}

/// Sends what is typed until the user detaches.
async fn type_into(mut to: Sender) -> Result<()> {
    let mut input = terminal::read_stdin();
    let mut escape = Escape::default();
    while let Some(bytes) = input.recv().await {
        let (bytes, detach) = escape.filter(&bytes);
        if !bytes.is_empty() {
            to.data(bytes).await?;
        }
        if detach {
            to.close().await?;
            return Ok(());
        }
    }
    // Input that is not typed ends by itself, and what it led to is still to be seen.
    std::future::pending().await
}

/// Finds Ctrl-a q in what is typed. Ctrl-a twice sends one; before anything else it is sent as it is.
#[derive(Debug, Default)]
struct Escape {
    pending: bool,
}

impl Escape {
    /// What to send of `typed`, and whether the user wants to leave after it.
    fn filter(&mut self, typed: &[u8]) -> (Bytes, bool) {
        let mut send = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            match (std::mem::take(&mut self.pending), byte) {
                (true, b'q') => return (send.into(), true),
                (true, ESCAPE) => send.push(ESCAPE),
                (true, byte) => send.extend([ESCAPE, byte]),
                (false, ESCAPE) => self.pending = true,
                (false, byte) => send.push(byte),
            }
        }
        (send.into(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_q_detaches_also_when_typed_slowly() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ls\r"), (Bytes::from_static(b"ls\r"), false));
        assert_eq!(escape.filter(b"\x01"), (Bytes::new(), false));
        assert_eq!(escape.filter(b"qx"), (Bytes::new(), true));
    }

    #[test]
    fn ctrl_a_can_be_sent() {
        let mut escape = Escape::default();
        assert_eq!(
            escape.filter(b"\x01\x01q\x01b"),
            (Bytes::from_static(b"\x01q\x01b"), false)
        );
    }
}
