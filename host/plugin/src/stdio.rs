//! A guest's standard output and error: lines in the plugin's log. A panic's message comes this way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hutch_broker::{LogLevel, LogSink};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::sync::Mutex;

/// Bytes without an end of line that are held back.
const MAX_PENDING: usize = 4096;
/// Bytes taken at once.
const CHUNK: usize = 16 << 10;

/// One of the two streams.
#[derive(Clone)]
pub(crate) struct LogStream(Arc<Lines>);

struct Lines {
    log: Arc<dyn LogSink>,
    level: LogLevel,
    pending: Mutex<Vec<u8>>,
}

impl LogStream {
    pub(crate) fn new(log: Arc<dyn LogSink>, level: LogLevel) -> Self {
        Self(Arc::new(Lines {
            log,
            level,
            pending: Mutex::new(Vec::new()),
        }))
    }
}

impl Lines {
    fn take(&self, bytes: &[u8]) {
        let mut pending = self.pending.lock();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            pending.extend_from_slice(&piece[..piece.len().min(MAX_PENDING)]);
            if piece.ends_with(b"\n") || pending.len() >= MAX_PENDING {
                self.emit(&mut pending);
            }
        }
    }

    fn emit(&self, pending: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(pending);
        if !text.trim().is_empty() {
            self.log.write(self.level, &text, &[]);
        }
        pending.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let mut pending = std::mem::take(&mut *self.pending.lock());
        self.emit(&mut pending);
    }
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

impl AsyncWrite for LogStream {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
