//! What happens, told to whoever listens.

use std::sync::Arc;

use bytes::Bytes;
use hutch_api::event::{self, Event, EventLifecycle, EventLifecycleRequestor};
use hutch_api::{Timestamp, operation::Operation};
use serde_json::{Map, Value};
use tokio::sync::broadcast;

use crate::auth;

/// How many events a listener may lag behind before it loses the oldest and is told so.
const BACKLOG: usize = 4096;

/// What an event says of its object beside the name.
pub(crate) fn context<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

/// An event, serialised once for all listeners.
#[derive(Debug)]
pub struct EventMessage {
    /// `operation`, `lifecycle` or `logging`.
    pub kind: &'static str,
    /// The project that it belongs to; empty for all.
    pub project: String,
    /// [`Event`] as JSON.
    pub json: Bytes,
}

/// Where events go through.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Arc<EventMessage>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(BACKLOG),
        }
    }
}

impl Events {
    /// From now on, every event.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<EventMessage>> {
        self.sender.subscribe()
    }

    /// Tells that an operation changed.
    pub fn operation(&self, project: &str, operation: &Operation) {
        self.send(event::OPERATION, project, || serde_json::to_value(operation));
    }

    /// Tells that `action` (`instance-started`) happened to the object at the path `source`, and on whose behalf
    /// ([`auth::current`]).
    pub fn lifecycle(&self, project: &str, action: &str, source: &str, context: Map<String, Value>) {
        self.send(event::LIFECYCLE, project, || {
            let path = source.split('?').next().unwrap_or_default();
            serde_json::to_value(EventLifecycle {
                action: action.to_owned(),
                source: source.to_owned(),
                context,
                requestor: auth::current().map(|caller| EventLifecycleRequestor {
                    username: caller.name(),
                    protocol: "unix".to_owned(),
                    address: "@".to_owned(),
                }),
                name: path.rsplit('/').next().unwrap_or_default().to_owned(),
                project: project.to_owned(),
            })
        });
    }

    /// A line of the daemon's log, for listeners of `logging`.
    pub fn logging(&self, json: &Value) {
        self.send(event::LOGGING, "", || Ok(json.clone()));
    }

    fn send(&self, kind: &'static str, project: &str, metadata: impl FnOnce() -> serde_json::Result<Value>) {
        // Without listeners nothing needs to be written out.
        if self.sender.receiver_count() == 0 {
            return;
        }
        let written = metadata().and_then(|metadata| {
            serde_json::to_vec(&Event {
                kind: kind.to_owned(),
                timestamp: Timestamp::now(),
                metadata,
                location: "none".to_owned(),
                project: project.to_owned(),
            })
        });
        match written {
            Ok(json) => {
                let message = EventMessage {
                    kind,
                    project: project.to_owned(),
                    json: Bytes::from(json),
                };
                // An error only means that the last listener has just gone.
                let _ = self.sender.send(Arc::new(message));
            }
            Err(error) => tracing::error!(%error, kind, "an event can't be written as JSON"),
        }
    }
}
