//! What is left of a request's body when it has been refused. A client that is still sending would find its connection broken
//! rather than read why, so what it sends is read and thrown away for a while (RFC 9112, section 9.6).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// How long a refused client may go on sending.
const TIME: Duration = Duration::from_secs(5);
/// Bytes that a refused client may go on sending.
const SIZE: usize = 64 << 20;

/// A body that can still be had when whoever read it has stopped.
#[derive(Clone)]
pub(crate) struct Leftover(Arc<Mutex<Body>>);

impl Leftover {
    /// The body to read, and what will be left of it.
    pub(crate) fn of(body: Body) -> (Body, Self) {
        let shared = Self(Arc::new(Mutex::new(body)));
        (Body::new(shared.clone()), shared)
    }

    /// Reads what is left, within bounds.
    pub(crate) async fn discard(self) {
        let reading = async {
            let mut size = 0;
            while let Some(Ok(frame)) = poll_fn(|context| self.body_frame(context)).await {
                size += frame.data_ref().map_or(0, Bytes::len);
                if size > SIZE {
                    break;
                }
            }
        };
        if tokio::time::timeout(TIME, reading).await.is_err() {
            tracing::debug!("a refused client went on sending for too long");
        }
    }

    fn body(&self) -> MutexGuard<'_, Body> {
        // A body that panicked is at its end, which polling it will tell.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn body_frame(&self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.body()).poll_frame(context)
    }
}

impl HttpBody for Leftover {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.body_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_nobody_reads_is_read_in_the_end() {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let body = Body::from_stream(stream::unfold(receiver, |mut r| async move {
            r.recv().await.map(|item| (item, r))
        }));
        let (mut body, left) = Leftover::of(body);
        let sending = tokio::spawn(async move {
            for _ in 0..100 {
                sender.send(Ok(Bytes::from_static(&[7; 1000]))).await.unwrap();
            }
        });
        assert!(body.frame().await.is_some());
        drop(body);
        left.discard().await;
        sending.await.unwrap();
    }
}
