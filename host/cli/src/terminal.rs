//! The terminal: raw mode, its size, and standard streams that must not block the rest.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::thread::JoinHandle;

use bytes::Bytes;
use rustix::termios::{OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// How much of standard input is read at once.
const CHUNK: usize = 32 * 1024;

/// How many chunks wait for the other side, in either direction.
const DEPTH: usize = 8;

/// Whether somebody types.
pub(crate) fn stdin_is_terminal() -> bool {
    isatty(io::stdin())
}

/// Whether somebody reads.
pub(crate) fn stdout_is_terminal() -> bool {
    isatty(io::stdout())
}

/// Columns and rows of the terminal, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    tcgetwinsize(io::stdout())
        .ok()
        .map(|Winsize { ws_col, ws_row, .. }| (ws_col, ws_row))
}

/// The terminal in raw mode: keys come as they are typed, signals' keys included. It is as before once this is dropped.
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// Changes the terminal of standard input, if it is one.
    pub(crate) fn enter() -> Result<Option<Self>> {
        if !stdin_is_terminal() {
            return Ok(None);
        }
        let failed = |error: rustix::io::Errno| Error::io("cannot change the terminal's mode", error.into());
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // There is no terminal left to complain to when this fails.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Reads standard input in a thread of its own, because a file, a pipe and a terminal shared with the shell can't all be
/// waited for otherwise. The channel ends with the input; an error ends it, too, since nothing can be done for the reader.
pub(crate) fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(DEPTH);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
    receiver
}

/// Writes one of the standard streams in a thread of its own, which starts with the first bytes: a reader that is slow
/// holds up neither the other stream nor signals.
pub(crate) struct Output<W> {
    stream: Option<W>,
    thread: Option<(mpsc::Sender<Bytes>, JoinHandle<io::Result<()>>)>,
}

impl<W: Write + AsFd + Send + 'static> Output<W> {
    /// An output to `stream`.
    pub(crate) fn new(stream: W) -> Self {
        Self {
            stream: Some(stream),
            thread: None,
        }
    }

    /// Writes bytes, or waits until there is room for them. False once the reader has gone away.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> bool {
        if let Some(mut stream) = self.stream.take() {
            let (sender, mut receiver) = mpsc::channel::<Bytes>(DEPTH);
            let thread = std::thread::spawn(move || {
                while let Some(bytes) = receiver.blocking_recv() {
                    stream.write_all(&bytes)?;
                    stream.flush()?;
                }
                Ok(())
            });
            self.thread = Some((sender, thread));
        }
        match &self.thread {
            Some((sender, _)) => sender.send(bytes).await.is_ok(),
            None => false,
        }
    }

    /// Waits until everything is written. A reader that has gone away is no failure.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        let Some((sender, thread)) = self.thread.take() else {
            return Ok(());
        };
        drop(sender);
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::io("cannot write the output", error))
            }
            _ => Ok(()),
        }
    }
}
