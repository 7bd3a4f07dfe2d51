//! What every answer is wrapped in.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::StatusCode;

/// An answer as a client reads it. `type` is `sync`, `async` or `error`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Envelope<T = Value> {
    /// `sync`: the answer is complete. `async`: it is an operation to wait for. `error`: see [`Envelope::error`].
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of [`Envelope::status_code`].
    pub status: String,
    /// 200 for an answer, 100 for an operation, 0 for an error.
    pub status_code: StatusCode,
    /// The operation's path, of an asynchronous answer.
    pub operation: String,
    /// The HTTP status of an error.
    pub error_code: u16,
    /// What went wrong.
    pub error: String,
    /// The answer itself.
    pub metadata: Option<T>,
}

impl<T> Envelope<T> {
    /// A complete answer.
    pub fn sync(metadata: T) -> Self {
        Self {
            kind: "sync".into(),
            status: StatusCode::SUCCESS.to_string(),
            status_code: StatusCode::SUCCESS,
            operation: String::new(),
            error_code: 0,
            error: String::new(),
            metadata: Some(metadata),
        }
    }

    /// A complete answer without content: what creating something synchronously gives.
    pub fn created() -> Self {
        Self {
            metadata: None,
            ..Self::without("sync", StatusCode::SUCCESS)
        }
    }

    /// An operation at `path`, which has begun.
    pub fn operation(path: String, metadata: T) -> Self {
        Self {
            operation: path,
            metadata: Some(metadata),
            ..Self::without("async", StatusCode::CREATED)
        }
    }

    /// A failure with its HTTP status.
    pub fn failed(code: u16, error: String) -> Self {
        Self {
            kind: "error".into(),
            status: String::new(),
            status_code: StatusCode(0),
            operation: String::new(),
            error_code: code,
            error,
            metadata: None,
        }
    }

    fn without(kind: &str, code: StatusCode) -> Self {
        Self {
            kind: kind.into(),
            status: code.to_string(),
            status_code: code,
            operation: String::new(),
            error_code: 0,
            error: String::new(),
            metadata: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_as_recorded() {
        assert_eq!(
            serde_json::to_string(&Envelope::sync(["/1.0/projects/default"])).unwrap(),
            r#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":["/1.0/projects/default"]}"#
        );
        assert_eq!(
            serde_json::to_string(&Envelope::<()>::created()).unwrap(),
            r#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":null}"#
        );
        assert_eq!(
            serde_json::to_string(&Envelope::<()>::failed(400, "no".into())).unwrap(),
            r#"{"type":"error","status":"","status_code":0,"operation":"","error_code":400,"error":"no","metadata":null}"#
        );
    }
}
