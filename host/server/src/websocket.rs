//! Taking over connections: websockets (RFC 6455) and raw streams.

use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::reply::{Failure, Result};

/// A websocket.
pub(crate) type WebSocket = WebSocketStream<TokioIo<Upgraded>>;

/// Bytes of the longest message that a client may send; those of standard input are 128 KiB at most.
const MESSAGE: usize = 4 << 20;
/// How long a client may take to read what it is sent before it is given up.
pub(crate) const STALLED: Duration = Duration::from_secs(30);
/// How long a client may take to answer the end of a websocket.
const GOODBYE: Duration = Duration::from_secs(2);

/// A request to become a websocket.
pub(crate) struct Handshake {
    upgrade: OnUpgrade,
    accept: String,
}

/// A request to become a raw stream.
pub(crate) struct Takeover {
    upgrade: OnUpgrade,
    protocol: HeaderValue,
}

impl<S: Send + Sync> FromRequestParts<S> for Handshake {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        if parts.method != Method::GET || !asks_for(&parts.headers, "websocket") {
            return Err(Failure::bad(
                "this path is for websockets: Upgrade: websocket is missing",
            ));
        }
        if parts
            .headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_none_or(|version| version != "13")
        {
            return Err(Failure::new(
                StatusCode::UPGRADE_REQUIRED,
                "only version 13 of websockets is spoken",
            ));
        }
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
        let key = key.ok_or_else(|| Failure::bad("Sec-WebSocket-Key is missing"))?;
        let accept = derive_accept_key(key.as_bytes());
        Ok(Self {
            upgrade: upgrade(parts)?,
            accept,
        })
    }
}

impl Handshake {
    /// The answer that makes the connection a websocket, which `then` has from then on.
    pub(crate) fn answer<F>(self, then: impl FnOnce(WebSocket) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { upgrade, accept } = self;
        tokio::spawn(async move {
            match upgrade.await {
                Ok(stream) => {
                    let config = WebSocketConfig::default()
                        .max_message_size(Some(MESSAGE))
                        .max_frame_size(Some(MESSAGE))
                        .read_buffer_size(16 << 10)
                        .write_buffer_size(0);
                    let socket =
                        WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, Some(config)).await;
                    then(socket).await;
                }
                Err(error) => tracing::debug!(%error, "a client left before its websocket was there"),
            }
        });
        let mut response = switching("websocket");
        if let Ok(accept) = HeaderValue::try_from(accept) {
            response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}

impl Takeover {
    /// Whether the request asks for `protocol`, and how it then goes on.
    pub(crate) fn request(parts: &mut Parts, protocol: &'static str) -> Result<Self> {
        if !asks_for(&parts.headers, protocol) {
            return Err(Failure::bad(format!(
                "Missing or invalid upgrade header: Upgrade: {protocol} is expected"
            )));
        }
        Ok(Self {
            upgrade: upgrade(parts)?,
            protocol: HeaderValue::from_static(protocol),
        })
    }

    /// The answer that ends HTTP on the connection, which `then` has from then on.
    pub(crate) fn answer<F>(self, then: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { upgrade, protocol } = self;
        tokio::spawn(async move {
            match upgrade.await {
                Ok(stream) => then(TokioIo::new(stream)).await,
                Err(error) => tracing::debug!(%error, "a client left before its stream was there"),
            }
        });
        let mut response = switching("");
        response.headers_mut().insert(header::UPGRADE, protocol);
        response
    }
}

fn upgrade(parts: &mut Parts) -> Result<OnUpgrade> {
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    upgrade.ok_or_else(|| Failure::bad("this connection can't be taken over: HTTP/1.1 is needed"))
}

/// Whether `Connection: Upgrade` and `Upgrade: protocol` are there (RFC 9110, section 7.8).
fn asks_for(headers: &HeaderMap, protocol: &str) -> bool {
    let names = |header: HeaderName, word: &str| {
        let values = headers
            .get_all(header)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    names(header::CONNECTION, "upgrade") && names(header::UPGRADE, protocol)
}

fn switching(protocol: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response
        .headers_mut()
        .insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// Sends a message; a client that doesn't read it in time counts as gone.
pub(crate) async fn send<S>(sink: &mut S, message: Message) -> Result<(), Error>
where
    S: futures_util::Sink<Message, Error = Error> + Unpin,
{
    match tokio::time::timeout(STALLED, sink.send(message)).await {
        Ok(result) => result,
        Err(_) => Err(Error::ConnectionClosed),
    }
}

/// Says goodbye and waits for the client to do the same, so that the connection isn't torn from its hands (RFC 6455, section
/// 7.1.1). A client that is gone already, or doesn't answer, is no matter.
pub(crate) async fn close(
    mut sink: SplitSink<WebSocket, Message>,
    mut stream: SplitStream<WebSocket>,
    code: CloseCode,
    reason: &'static str,
) {
    let goodbye = CloseFrame {
        code,
        reason: reason.into(),
    };
    if let Err(error) = send(&mut sink, Message::Close(Some(goodbye))).await {
        // Also when the client was first: its goodbye is then answered by what follows.
        tracing::trace!(%error, "a websocket was closed by its client");
    }
    let answered = async { while let Some(Ok(_)) = stream.next().await {} };
    if tokio::time::timeout(GOODBYE, answered).await.is_err() {
        tracing::trace!("a websocket's client did not answer the goodbye");
    }
}
