//! Commands in containers, through websockets (RFC 6455) as the stock clients run them.

use crate::rest::Client;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::thread;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

/// A websocket over the daemon's unix socket.
pub type Socket = WebSocket<UnixStream>;

/// What a command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status, as a shell tells it: 128 and the signal's number when a signal ended it.
    pub status: i64,
    /// What it wrote to standard output; on a terminal, to both.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text without the white space around it.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// A command that was begun, with its websockets connected.
#[derive(Debug)]
pub struct Running {
    /// The operation.
    pub operation: Value,
    /// Standard input, output and error; on a terminal the one stream for all.
    pub streams: Vec<Socket>,
    /// Takes signals and window sizes.
    pub control: Socket,
}

/// Begins a command with its standard streams as websockets, as `incus exec -T` does.
///
/// # Errors
/// When the daemon refuses it or a websocket.
pub fn begin(client: &mut Client, instance: &str, command: &[&str], interactive: bool) -> Result<Running> {
    let body = json!({
        "command": command,
        "wait-for-websocket": true,
        "interactive": interactive,
        "environment": { "TERM": "xterm" },
        "width": 80,
        "height": 24,
    });
    let operation = client.begin("POST", &format!("/1.0/instances/{instance}/exec"), &body)?;
    let names: &[&str] = if interactive { &["0"] } else { &["0", "1", "2"] };
    // The control first: the command begins when it has its streams, and may be over before another could be connected.
    let control = attach(client, &operation, "control")?;
    let streams = names
        .iter()
        .map(|name| attach(client, &operation, name))
        .collect::<Result<_>>()?;
    Ok(Running {
        operation,
        streams,
        control,
    })
}

/// Connects one of an operation's websockets.
///
/// # Errors
/// When the operation has no such one or the daemon refuses it.
pub fn attach(client: &Client, operation: &Value, name: &str) -> Result<Socket> {
    let id = operation["id"].as_str().context("an operation without id")?;
    let secret = operation["metadata"]["fds"][name]
        .as_str()
        .with_context(|| format!("operation {id} has no websocket {name}"))?;
    let address = format!("ws://unix/1.0/operations/{id}/websocket?secret={secret}");
    let (socket, _) = tungstenite::client(address, client.connect()?)
        .with_context(|| format!("operation {id} refuses websocket {name}"))?;
    Ok(socket)
}

/// Runs a command with `input` on its standard input, and waits for its end.
///
/// # Errors
/// When it can't be begun; a command that ends with another status than 0 is no error.
pub fn run(client: &mut Client, instance: &str, command: &[&str], input: &[u8]) -> Result<Output> {
    let Running {
        operation,
        mut streams,
        control,
    } = begin(client, instance, command, false)?;
    let (Some(stderr), Some(stdout), Some(mut stdin)) = (streams.pop(), streams.pop(), streams.pop()) else {
        anyhow::bail!("a command without its three streams");
    };
    let stderr = thread::spawn(move || drain(stderr));
    // A command that answers while it reads must be read from while it is written to.
    let input = input.to_vec();
    let writer = thread::spawn(move || feed(&mut stdin, input));
    let stdout = drain(stdout)?;
    let stderr = stderr
        .join()
        .map_err(|_| anyhow::anyhow!("the reader of standard error panicked"))??;
    writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writer of standard input panicked"))??;
    let ended = client.wait(&operation)?;
    drop(control);
    let status = ended["metadata"]["return"]
        .as_i64()
        .context("a command without exit status")?;
    Ok(Output { status, stdout, stderr })
}

/// Sends all of a command's standard input, and that it ends there: an empty text message. A command that ended before is no error.
fn feed(stdin: &mut Socket, input: Vec<u8>) -> Result<()> {
    let messages = [Message::binary(input), Message::text("")];
    for message in messages
        .into_iter()
        .filter(|message| !message.is_empty() || message.is_text())
    {
        match stdin.send(message) {
            Err(error) if is_end(&error) => return Ok(()),
            sent => sent.context("standard input")?,
        }
    }
    Ok(())
}

/// Reads a websocket to its end: a close, an empty text message, or the end of the connection.
///
/// # Errors
/// When it breaks in another way.
pub fn drain(mut socket: Socket) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Binary(part)) => content.extend_from_slice(&part),
            Ok(Message::Text(part)) if part.is_empty() => return Ok(content),
            Ok(Message::Text(part)) => content.extend_from_slice(part.as_bytes()),
            Ok(Message::Close(_)) => {
                // The answer to a close is sent by flushing; a daemon that is gone already needs none.
                let _ = socket.flush();
                return Ok(content);
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_end(&error) => return Ok(content),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_end(error: &tungstenite::Error) -> bool {
    use tungstenite::Error;
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => true,
        Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}
