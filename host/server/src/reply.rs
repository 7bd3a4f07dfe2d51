//! Answers: the envelope, the headers around it, and errors.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hutch_api::envelope::Envelope;
use hutch_core::Operation;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::budget::{Budget, Busy};

/// Bytes of a listing that the connection takes at one time.
const PIECE: usize = 64 << 10;

/// What handlers return.
pub(crate) type Result<T = Response, E = Failure> = std::result::Result<T, E>;

/// A refusal or failure as the client sees it.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: hutch_core::error::harmless(message.into()),
        }
    }

    /// 400.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404 in the words of the API for a path that leads nowhere.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not found")
    }

    /// 500 for what the server itself could not do.
    pub(crate) fn internal(message: impl fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message.to_string())
    }
}

impl From<hutch_core::Error> for Failure {
    fn from(error: hutch_core::Error) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            status,
            message: error.report(),
        }
    }
}

impl From<Busy> for Failure {
    fn from(busy: Busy) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, busy.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), error = self.message, "a request failed");
        }
        json(self.status, &Envelope::<()>::failed(self.status.as_u16(), self.message))
    }
}

/// An answer with `value`.
pub(crate) fn sync<T: Serialize + ?Sized>(value: &T) -> Response {
    json(StatusCode::OK, &Envelope::sync(value))
}

/// An answer with `value` and its ETag.
pub(crate) fn tagged<T: Serialize + ?Sized>(value: &T, etag: &str) -> Response {
    let mut response = sync(value);
    if let Ok(value) = HeaderValue::try_from(format!("\"{etag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// The answer to a change that is done: an empty object.
pub(crate) fn done() -> Response {
    sync(&serde_json::Map::new())
}

/// The answer to something made at once: 201, and where it is.
pub(crate) fn created(location: &str) -> Response {
    let mut response = json(StatusCode::CREATED, &Envelope::<()>::created());
    locate(&mut response, location);
    response
}

/// The answer to something that takes time: 202, and the operation.
pub(crate) fn operation(operation: &Operation) -> Response {
    let path = operation.path();
    let mut response = json(
        StatusCode::ACCEPTED,
        &Envelope::operation(path.clone(), operation.render()),
    );
    locate(&mut response, &path);
    response
}

/// A listing, which counts until the client has read it.
pub(crate) async fn list<T: Serialize + ?Sized>(budget: &Budget, value: &T) -> Result {
    let body = encode(&Envelope::sync(value)).map_err(Failure::internal)?;
    let permit = budget.answer(body.len()).await?;
    let body = Counted {
        left: body,
        _permit: permit,
    };
    Ok(with_type(StatusCode::OK, Body::new(body)))
}

/// A long text of a type of its own, which counts until the client has read it.
pub(crate) async fn text(budget: &Budget, kind: &'static str, text: String) -> Result {
    let permit = budget.answer(text.len()).await?;
    let body = Counted {
        left: text.into(),
        _permit: permit,
    };
    let mut response = Response::new(Body::new(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

fn locate(response: &mut Response, location: &str) {
    if let Ok(value) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
}

fn json<T: Serialize>(status: StatusCode, envelope: &Envelope<T>) -> Response {
    match encode(envelope) {
        Ok(body) => with_type(status, Body::from(body)),
        // Only a map whose keys aren't texts or a failing Serialize can be at fault; there is none on the wire.
        Err(error) => {
            tracing::error!(%error, "an answer can't be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn encode<T: Serialize>(envelope: &Envelope<T>) -> serde_json::Result<Bytes> {
    let mut body = serde_json::to_vec(envelope)?;
    body.push(b'\n');
    Ok(body.into())
}

fn with_type(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body that holds its part of the budget until the connection has taken it, piece by piece.
struct Counted {
    left: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let length = self.left.len().min(PIECE);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(self.left.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
