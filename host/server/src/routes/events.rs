//! Events: a websocket that tells what happens.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use futures_util::StreamExt;
use hutch_api::event;
use hutch_core::EventMessage;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, interval_at};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message, Utf8Bytes};

use crate::App;
use crate::reply::{Failure, Result};
use crate::request::Params;
use crate::websocket::{Handshake, WebSocket, close, send};

/// How often a listener is pinged; clients give a silent connection up after 30 seconds.
const PING: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Router<App> {
    Router::new().route("/1.0/events", get(listen))
}

/// What a listener wants to hear of.
struct Wanted {
    kinds: Vec<&'static str>,
    /// Nothing for all projects.
    project: Option<String>,
}

impl Wanted {
    fn new(params: &Params) -> Result<Self> {
        const KINDS: [&str; 3] = [event::LOGGING, event::OPERATION, event::LIFECYCLE];
        let kinds = match params.get("type") {
            None => KINDS.to_vec(),
            Some(list) => list
                .split(',')
                .map(|name| {
                    let known = KINDS.into_iter().find(|kind| *kind == name.trim());
                    known.ok_or_else(|| Failure::bad(format!("{name:?} isn't a supported event type")))
                })
                .collect::<Result<_>>()?,
        };
        Ok(Self {
            kinds,
            project: params.projects().map(str::to_owned),
        })
    }

    fn includes(&self, event: &EventMessage) -> bool {
        let here = |project: &String| event.project.is_empty() || event.project == *project;
        self.kinds.contains(&event.kind) && self.project.as_ref().is_none_or(here)
    }
}

async fn listen(State(app): State<App>, params: Params, handshake: Handshake) -> Result {
    let wanted = Wanted::new(&params)?;
    // From here on nothing is missed: clients begin what they wait for as soon as they have the answer.
    let events = app.core.subscribe();
    Ok(handshake.answer(move |socket| tell(socket, events, wanted, app)))
}

async fn tell(
    socket: WebSocket,
    mut events: tokio::sync::broadcast::Receiver<std::sync::Arc<EventMessage>>,
    wanted: Wanted,
    app: App,
) {
    let (mut sink, mut stream) = socket.split();
    let mut ping = interval_at(Instant::now() + PING, PING);
    loop {
        let message = tokio::select! {
            event = events.recv() => match event {
                Ok(event) if wanted.includes(&event) => match Utf8Bytes::try_from(event.json.clone()) {
                    Ok(text) => Message::Text(text),
                    Err(_) => continue,
                },
                Ok(_) => continue,
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "a listener to events is too slow and is cut off");
                    close(sink, stream, CloseCode::Again, "events were lost, because they were not read in time").await;
                    return;
                }
                Err(RecvError::Closed) => break,
            },
            () = app.stopped() => break,
            _ = ping.tick() => Message::Ping(Bytes::new()),
            message = stream.next() => match message {
                // Nothing that a listener sends has a meaning, but for its going away.
                Some(Ok(message)) if !message.is_close() => continue,
                _ => {
                    close(sink, stream, CloseCode::Normal, "").await;
                    return;
                }
            },
        };
        if send(&mut sink, message).await.is_err() {
            return;
        }
    }
    close(sink, stream, CloseCode::Away, "the server goes down").await;
}
