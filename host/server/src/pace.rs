//! How long a client may leave an answer unread. Answers that are JSON hold memory that others wait for (see
//! [`crate::budget`]), so they are given up when nothing of them is taken for a while. Content that somebody may be paging
//! through is not.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long an answer may stand still.
const STALLED: Duration = Duration::from_secs(30);

/// What a connection's answers and its stream have in common: how many answers are in a hurry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace(Arc<AtomicUsize>);

impl Pace {
    /// A body that is in a hurry until it has been taken.
    pub(crate) fn hurry(&self, body: Body) -> Body {
        self.0.fetch_add(1, Ordering::Relaxed);
        Body::new(Hurried {
            body,
            pace: self.clone(),
        })
    }

    fn in_a_hurry(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

struct Hurried {
    body: Body,
    pace: Pace,
}

impl Drop for Hurried {
    fn drop(&mut self) {
        self.pace.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HttpBody for Hurried {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose writes fail when an answer in a hurry stands still.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    pace: Pace,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, pace: Pace) -> Self {
        Self {
            stream,
            pace,
            limit: STALLED,
            waiting: None,
        }
    }

    /// The result of a write, or the end of patience.
    fn watched<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() || !self.pace.in_a_hurry() {
            self.waiting = None;
            return result;
        }
        let limit = self.limit;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        waiting
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(result, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;

    async fn stalled_write(pace: Pace) -> Option<io::ErrorKind> {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut ours = Paced {
            limit: Duration::from_millis(50),
            ..Paced::new(ours, pace)
        };
        let block = vec![0; 16 << 20];
        let written = tokio::time::timeout(Duration::from_millis(500), ours.write_all(&block)).await;
        written.ok().map(|result| result.unwrap_err().kind())
    }

    #[tokio::test]
    async fn only_answers_in_a_hurry_are_given_up() {
        let pace = Pace::default();
        let body = pace.hurry(Body::from("x"));
        assert_eq!(stalled_write(pace.clone()).await, Some(io::ErrorKind::TimedOut));
        drop(body);
        assert_eq!(stalled_write(pace).await, None);
    }
}
