//! Websockets of the API.

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{ApiPath, refusal};
use crate::error::{Error, Result};

/// An open websocket.
pub(crate) struct WebSocket(WebSocketStream<UnixStream>);

/// The half that sends.
pub(crate) struct Sender(SplitSink<WebSocketStream<UnixStream>, Message>);

/// The half that receives.
pub(crate) struct Receiver(SplitStream<WebSocketStream<UnixStream>>);

/// What came in.
pub(crate) enum Frame {
    /// Bytes of a stream.
    Data(Bytes),
    /// A text, such as an event. Empty at the end of an exec's stream, while the socket stays open.
    Text(String),
}

impl WebSocket {
    /// Upgrades a fresh connection.
    pub(super) async fn open(stream: UnixStream, path: &ApiPath) -> Result<Self> {
        let request = format!("ws://hutch{path}").into_client_request()?;
        // Frames of an exec's output are as large as the daemon likes; the defaults bound them at 16 MiB.
        let config = WebSocketConfig::default().write_buffer_size(0);
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                Err(refusal(response.status().as_u16(), body))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Both halves.
    pub(crate) fn split(self) -> (Sender, Receiver) {
        let (sender, receiver) = self.0.split();
        (Sender(sender), Receiver(receiver))
    }

    /// Only the half that sends. What comes in has no meaning, but is read, so that the daemon's pings are answered.
    pub(crate) fn sender(self) -> Sender {
        let (sender, mut receiver) = self.split();
        tokio::spawn(async move { while let Ok(Some(_)) = receiver.next().await {} });
        sender
    }

    /// Only what comes in.
    pub(crate) fn receiver(self) -> (Receiver, Sender) {
        let (sender, receiver) = self.split();
        (receiver, sender)
    }
}

impl Sender {
    /// Sends bytes of a stream.
    pub(crate) async fn data(&mut self, bytes: Bytes) -> Result<()> {
        Ok(self.0.send(Message::Binary(bytes)).await?)
    }

    /// Sends a text.
    pub(crate) async fn text(&mut self, text: String) -> Result<()> {
        Ok(self.0.send(Message::Text(text.into())).await?)
    }

    /// Says that nothing more comes, and leaves the socket open.
    pub(crate) async fn end(&mut self) -> Result<()> {
        self.text(String::new()).await
    }

    /// Closes the socket in order.
    pub(crate) async fn close(&mut self) -> Result<()> {
        match self.0.close().await {
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Receiver {
    /// The next thing that came in; nothing once the daemon has closed.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            return Ok(match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => Some(Frame::Data(bytes)),
                Some(Ok(Message::Text(text))) => Some(Frame::Text(text.to_string())),
                Some(Ok(Message::Close(_))) | None => None,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                // The daemon's side may end without the closing handshake: that is its end all the same.
                Some(Err(
                    tungstenite::Error::ConnectionClosed
                    | tungstenite::Error::AlreadyClosed
                    | tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake),
                )) => None,
                Some(Err(error)) => return Err(Error::from(error)),
            });
        }
    }
}
