//! Connecting the terminal, or the standard streams, with what runs in an instance.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use hutch_api::instance::ExecControl;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::client::WebSocket;
use crate::client::websocket::{Frame, Receiver, Sender};
use crate::error::{Error, Result};
use crate::terminal::{self, Output};

/// Signals that are passed on to the process instead of ending this one. Window changes are passed on in their own way.
const FORWARDED: [libc_signal::Number; 6] = [
    libc_signal::HANGUP,
    libc_signal::INTERRUPT,
    libc_signal::QUIT,
    libc_signal::USER_1,
    libc_signal::USER_2,
    libc_signal::TERMINATE,
];

/// The numbers of signals on Linux (signal(7)), which are what the API carries.
mod libc_signal {
    pub(super) type Number = i32;
    pub(super) const HANGUP: Number = 1;
    pub(super) const INTERRUPT: Number = 2;
    pub(super) const QUIT: Number = 3;
    pub(super) const USER_1: Number = 10;
    pub(super) const USER_2: Number = 12;
    pub(super) const TERMINATE: Number = 15;
}

/// Sends window sizes and signals until it is dropped.
pub(crate) struct Control(tokio::task::JoinHandle<()>);

impl Drop for Control {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|source| Error::io("cannot handle signals", source))
}

impl Control {
    /// Takes the signals over. Window sizes are sent if there is a terminal on the other side.
    pub(crate) fn start(mut control: Sender, windows: bool, signals: bool) -> Result<Self> {
        let (queue, mut queued) = mpsc::channel::<ExecControl>(16);
        if windows {
            let mut changed = listen(SignalKind::window_change())?;
            let queue = queue.clone();
            tokio::spawn(async move {
                while changed.recv().await.is_some() {
                    if let Some((columns, rows)) = terminal::size() {
                        let args = BTreeMap::from([
                            ("width".to_owned(), columns.to_string()),
                            ("height".to_owned(), rows.to_string()),
                        ]);
                        let resize = ExecControl {
                            command: "window-resize".into(),
                            args,
                            signal: 0,
                        };
                        if queue.send(resize).await.is_err() {
                            break;
                        }
                    }
                }
            });
        }
        for number in FORWARDED.into_iter().filter(|_| signals) {
            let mut caught = listen(SignalKind::from_raw(number))?;
            let queue = queue.clone();
            tokio::spawn(async move {
                while caught.recv().await.is_some() {
                    let forward = ExecControl {
                        command: "signal".into(),
                        signal: number,
                        ..ExecControl::default()
                    };
                    if queue.send(forward).await.is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self(tokio::spawn(async move {
            while let Some(message) = queued.recv().await {
                let Ok(text) = serde_json::to_string(&message) else {
                    continue;
                };
                if control.text(text).await.is_err() {
                    break;
                }
            }
        })))
    }
}

/// Sends standard input, and says when it ends.
pub(crate) async fn send_stdin(mut to: Sender) -> Result<()> {
    let mut input = terminal::read_stdin();
    while let Some(bytes) = input.recv().await {
        to.data(bytes).await?;
    }
    to.end().await?;
    // Closing here would close the receiving half of a terminal as well.
    std::future::pending().await
}

/// Writes what comes in until the other side ends it, or nobody reads it here any more.
pub(crate) async fn receive<W>(from: &mut Receiver, output: &mut Output<W>) -> Result<()>
where
    W: io::Write + std::os::fd::AsFd + Send + 'static,
{
    let mut wanted = true;
    while wanted && let Some(frame) = from.next().await? {
        wanted = match frame {
            Frame::Data(bytes) => output.write(bytes).await,
            Frame::Text(text) if text.is_empty() => false,
            Frame::Text(text) => output.write(Bytes::from(text)).await,
        };
    }
    output.finish().await
}

/// Writes one of a process's streams. The websocket is closed at its end, which tells a process that goes on writing without a
/// reader here, as a pipe would.
pub(crate) async fn receive_stream<W>(socket: WebSocket, output: &mut Output<W>) -> Result<()>
where
    W: io::Write + std::os::fd::AsFd + Send + 'static,
{
    let (mut to, mut from) = socket.split();
    let received = receive(&mut from, output).await;
    // The daemon may have closed it, or be gone; what the process did is asked for on another connection.
    let _ = to.close().await;
    received
}
