//! Changes that go on without their client. A connection that ends takes the handler of its request with it, wherever that
//! waits, and a change must not end between two of its steps; so each runs in a task of its own, and the connection waits for
//! that.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::reply::Failure;

/// Changes that go on at one time. One more waits with its connection, and ends with it.
const CHANGES: usize = 8192;
/// How long the end of the server waits for changes once nobody is connected any more. What takes longer is interrupted as by
/// a crash, which the next start of the daemon knows to deal with.
const GRACE: Duration = Duration::from_secs(10);

/// The changes that go on.
pub(crate) struct Changes {
    tasks: TaskTracker,
    room: Arc<Semaphore>,
}

impl Changes {
    pub(crate) fn new() -> Self {
        Self {
            tasks: TaskTracker::new(),
            room: Arc::new(Semaphore::new(CHANGES)),
        }
    }

    /// Does `change`, which goes on to its end even if the caller does not wait for it.
    pub(crate) async fn run<F>(&self, change: F) -> Response
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else {
            // The semaphore is never closed.
            return Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping").into_response();
        };
        let task = self.tasks.spawn(async move {
            let response = change.await;
            drop(permit);
            response
        });
        match task.await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(%error, "a change ended by a fault of the daemon's own");
                Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the daemon's own fault: see its log").into_response()
            }
        }
    }

    /// Waits for the changes that go on, within bounds. No new ones may be begun.
    pub(crate) async fn settled(&self) {
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                changes = self.tasks.len(),
                "changes that did not end in time are interrupted; the next start finishes them or takes them back"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_change_goes_on_when_nobody_waits_for_it() {
        let changes = Changes::new();
        let (go, wait) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let change = async move {
            wait.await.unwrap();
            done.send(()).unwrap();
            StatusCode::OK.into_response()
        };
        {
            let mut request = Box::pin(changes.run(change));
            assert!(futures_util::poll!(&mut request).is_pending());
        }
        go.send(()).unwrap();
        ended.await.unwrap();
        changes.settled().await;
        assert_eq!(changes.room.available_permits(), CHANGES);
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let answer = Changes::new().run(async { panic!("deliberately") }).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
