//! Accepting connections and speaking HTTP/1.1 on them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hutch_core::auth::Caller;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::listener::Listener;
use crate::pace::{Pace, Paced};

/// Connections that are served at one time; more wait in the kernel's queue.
const CONNECTIONS: usize = 8192;
/// Bytes of a connection's buffer, and so of the longest head of a request.
const BUFFER: usize = 64 << 10;
/// How long a request's head may take, and a connection may be idle.
const HEAD: Duration = Duration::from_secs(120);
/// How long after the start or a connection's end memory is given back: once for all that end meanwhile.
const TIDY: Duration = Duration::from_secs(5);
/// How long requests may go on once the server is to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Accepts connections until `stop` is true, then lets running requests end. The socket is removed when this returns.
pub(crate) async fn serve(listener: Listener, router: Router, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS.min(descriptors() / 2)));
    let tasks = TaskTracker::new();
    let ended = Arc::new(Notify::new());
    let tidying = tokio::spawn(tidy(Arc::clone(&ended)));
    loop {
        let permit = tokio::select! {
            // The semaphore is never closed.
            permit = Arc::clone(&room).acquire_owned() => match permit {
                Ok(permit) => permit,
                Err(_) => break,
            },
            () = stopped(&mut stop) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.inner.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, stop, ended) = (router.clone(), stop.clone(), Arc::clone(&ended));
                tasks.spawn(async move {
                    connection(stream, router, stop).await;
                    drop(permit);
                    ended.notify_one();
                });
            }
            Err(error) => {
                tracing::error!(%error, "a connection could not be accepted");
                // Descriptors have run out: one has to be given back before the next try can succeed.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    tidying.abort();
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!(
            connections = tasks.len(),
            "requests that did not end in time are cut off"
        );
    }
}

/// Gives memory back once the start, or connections that have ended, are over: heaps that thousands of requests at once have left
/// would stay with the process otherwise, and so would the code of what is done once a day. What is done next is mapped again from
/// the page cache within a fraction of a millisecond.
async fn tidy(ended: Arc<Notify>) {
    loop {
        tokio::time::sleep(TIDY).await;
        let given = tokio::task::spawn_blocking(|| {
            hutch_sys::memory::trim_heaps();
            hutch_sys::memory::forget_code();
        });
        // An error means that the runtime ends, and this task with it.
        drop(given.await);
        ended.notified().await;
    }
}

/// Returns once the server is to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without a sender nobody could say so any more.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// How many descriptors the process may have.
fn descriptors() -> usize {
    match nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => usize::try_from(soft).unwrap_or(usize::MAX),
        // Only a bad argument can fail (getrlimit(2)); POSIX promises this many.
        Err(_) => 1024,
    }
}

/// Serves one connection to its end.
async fn connection(stream: UnixStream, router: Router, mut stop: watch::Receiver<bool>) {
    let caller = match stream.peer_cred() {
        Ok(peer) => Caller {
            uid: peer.uid(),
            gid: peer.gid(),
            pid: peer.pid().unwrap_or(0),
        },
        Err(error) => {
            tracing::error!(%error, "a connection without credentials is refused");
            return;
        }
    };
    let router = TowerToHyperService::new(router);
    let pace = Pace::default();
    let stream = Paced::new(stream, pace.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(pace.clone());
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER);
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // A client that goes away in the middle is no fault of ours.
        tracing::debug!(%error, "a connection ended early");
    }
}
