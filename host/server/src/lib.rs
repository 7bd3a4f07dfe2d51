//! HTTP, websockets and events: the REST API on a unix socket.
//!
//! Routes only translate: they read a request, call the core and put what it says into the envelope. What a connection may
//! cost is bounded here (`budget`, `changes`, `connection`, `pace`), and nothing is decided here but that.
//!
//! *Architecture invariant: every request carries an identity* (the peer's credentials, taken when it connects) *and is
//! authorised at one place* (`hutch_core::auth`), before any handler sees it.

mod budget;
mod changes;
mod connection;
mod leftover;
mod listener;
mod pace;
mod pump;
mod reply;
mod request;
mod routes;
mod websocket;

use std::sync::Arc;

use hutch_core::Core;
use tokio::sync::watch;

pub use listener::{GROUP, ListenError, Listener};

use budget::Budget;
use changes::Changes;

/// What every handler has.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) core: Arc<Core>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) changes: Arc<Changes>,
    stop: watch::Receiver<bool>,
}

impl App {
    /// Returns once the server is to stop.
    pub(crate) async fn stopped(&self) {
        connection::stopped(&mut self.stop.clone()).await;
    }
}

/// Serves the API on `listener` until `stop` becomes true (or its sender is gone), lets running requests and changes end, and
/// removes the socket.
pub async fn serve(core: Arc<Core>, listener: Listener, stop: watch::Receiver<bool>) {
    let changes = Arc::new(Changes::new());
    let app = App {
        core,
        budget: Arc::new(Budget::new()),
        changes: Arc::clone(&changes),
        stop: stop.clone(),
    };
    connection::serve(listener, routes::router(app), stop).await;
    changes.settled().await;
}
