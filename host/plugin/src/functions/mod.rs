//! The functions of `wit/host`: each becomes a request to the broker, and its answer goes back to the guest.

mod machine;
mod trees;
mod zones;

use hutch_broker::{Request, Response};
use hutch_driver::{DriverError, TreePath};

use crate::bindings::host::{config, kv, log, metric, progress, types};
use crate::state::CallState;

/// What a host function answers: a fault of the host's that ends the call, or the function's own result.
type Answer<T> = wasmtime::Result<Result<T, types::Error>>;

/// A call can't go on, because a host function has no other way to say that it failed, or failed as it may not.
#[derive(Debug, thiserror::Error)]
#[error("a function of the host failed")]
pub(crate) struct HostFault(#[source] pub(crate) DriverError);

fn misshapen(function: &str, shape: &str) -> wasmtime::Error {
    let message = format!("the broker did not answer {function} with {shape}");
    wasmtime::Error::new(HostFault(DriverError::new("internal", message)))
}

impl CallState {
    async fn ask(&mut self, request: Request) -> Result<Response, DriverError> {
        self.desk.ask(request).await
    }

    async fn unit(&mut self, request: Request) -> Answer<()> {
        self.shaped(request, |response| matches!(response, Response::Unit).then_some(()))
            .await
    }

    async fn strings(&mut self, request: Request) -> Answer<Vec<String>> {
        self.shaped(request, |response| match response {
            Response::Strings(strings) => Some(strings),
            _ => None,
        })
        .await
    }

    async fn bytes(&mut self, request: Request) -> Answer<Option<Vec<u8>>> {
        self.shaped(request, |response| match response {
            Response::Bytes(bytes) => Some(bytes),
            _ => None,
        })
        .await
    }

    /// Asks, and takes the answer apart with `take`, which knows one shape.
    async fn shaped<T>(&mut self, request: Request, take: impl FnOnce(Response) -> Option<T>) -> Answer<T> {
        let (function, shape) = (request.function(), request.response_shape());
        match self.ask(request).await {
            Ok(response) => match take(response) {
                Some(value) => Ok(Ok(value)),
                None => Err(misshapen(function, shape)),
            },
            Err(error) => Ok(Err(to_guest(error))),
        }
    }
}

fn to_guest(error: DriverError) -> types::Error {
    types::Error {
        code: error.code,
        message: error.message,
        retryable: error.retryable,
        details: error.details,
    }
}

fn tree(at: types::TreePath) -> TreePath {
    TreePath {
        root: at.root,
        path: at.path,
    }
}

impl types::Host for CallState {}
impl crate::bindings::storage::types::Host for CallState {}
impl crate::bindings::network::types::Host for CallState {}
impl crate::bindings::zone::types::Host for CallState {}
impl crate::bindings::image::types::Host for CallState {}

impl log::Host for CallState {
    async fn write(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        use hutch_broker::LogLevel;
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        // A line that can't be kept is no reason for a guest to fail.
        let _ = self.ask(Request::Log { level, message, fields }).await;
        Ok(())
    }
}

impl metric::Host for CallState {
    async fn count(&mut self, name: String, delta: u64) -> wasmtime::Result<()> {
        let _ = self.ask(Request::MetricCount { name, delta }).await;
        Ok(())
    }

    async fn gauge(&mut self, name: String, value: i64) -> wasmtime::Result<()> {
        let _ = self.ask(Request::MetricGauge { name, value }).await;
        Ok(())
    }
}

impl config::Host for CallState {
    async fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        match self.ask(Request::ConfigGet { key }).await {
            Ok(Response::Text(value)) => Ok(value),
            Ok(_) => Err(misshapen("config.get", "Text")),
            // A setting that can't be read must not look like one that is not there.
            Err(error) => Err(wasmtime::Error::new(HostFault(error))),
        }
    }
}

impl kv::Host for CallState {
    async fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
        self.bytes(Request::KvGet { key }).await
    }

    async fn set(&mut self, key: String, value: Vec<u8>) -> Answer<()> {
        self.unit(Request::KvSet { key, value }).await
    }

    async fn compare_and_set(&mut self, key: String, expected: Option<Vec<u8>>, value: Vec<u8>) -> Answer<bool> {
        self.shaped(
            Request::KvCompareAndSet { key, expected, value },
            |response| match response {
                Response::Bool(done) => Some(done),
                _ => None,
            },
        )
        .await
    }

    async fn delete(&mut self, key: String) -> Answer<()> {
        self.unit(Request::KvDelete { key }).await
    }

    async fn keys(&mut self, prefix: String, after: Option<String>, limit: u32) -> Answer<Vec<String>> {
        self.strings(Request::KvKeys { prefix, after, limit }).await
    }
}

impl progress::Host for CallState {
    async fn report(&mut self, stage: String, done: u64, total: Option<u64>) -> wasmtime::Result<()> {
        let _ = self.ask(Request::ProgressReport { stage, done, total }).await;
        Ok(())
    }

    async fn cancelled(&mut self) -> wasmtime::Result<bool> {
        match self.ask(Request::Cancelled).await {
            Ok(Response::Bool(cancelled)) => Ok(cancelled),
            // Who can't be told whether to stop should.
            _ => Ok(true),
        }
    }
}
