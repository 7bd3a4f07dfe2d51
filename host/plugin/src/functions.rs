//! The functions of `wit/host`: each becomes a request to the broker, and its answer goes back to the guest.

use std::sync::Arc;

use hutch_broker::{Request, Response};
use hutch_driver::{DriverError, TreePath};

use crate::bindings::host::{
    command, config, filter, fs, http, kv, link, log, metric, progress, service, system, types, watch,
};
use crate::lingering::Uninterruptible;
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
    /// Asks the broker, and waits no longer than the call has time.
    async fn ask(&mut self, request: Request) -> Result<Response, DriverError> {
        let function = request.function();
        // What only reaches over a network or waits for a program is given up by dropping it; what works on the machine's
        // own objects must come to its end.
        let interruptible = matches!(request.interface(), "http" | "command");
        let cx = Arc::clone(&self.cx);
        let broker = Arc::clone(&self.broker);
        let work = Box::pin(async move { broker.call(&cx, request).await });
        let answer = if interruptible {
            tokio::time::timeout_at(self.deadline, work).await
        } else {
            let lingering = Arc::clone(&self.lingering);
            let work = Uninterruptible::new(work, lingering, Arc::clone(&self.target), function);
            tokio::time::timeout_at(self.deadline, work).await
        };
        let answer = answer.unwrap_or_else(|_| {
            self.cx.call.cancel.cancel();
            Err(DriverError {
                retryable: true,
                ..DriverError::new("timeout", format!("{function} did not end within the time of the call"))
            })
        });
        if let Err(error) = &answer
            && (error.is("not-requested") || error.is("not-granted"))
        {
            self.denials += 1;
        }
        answer
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

impl fs::Host for CallState {
    async fn stat(&mut self, at: types::TreePath) -> Answer<Option<fs::FileInfo>> {
        self.shaped(Request::FsStat { at: tree(at) }, |response| match response {
            Response::FileInfo(info) => Some(info.map(|info| fs::FileInfo {
                kind: info.kind,
                size: info.size,
                mode: info.mode,
                modified: info.modified,
            })),
            _ => None,
        })
        .await
    }

    async fn make_dir(&mut self, at: types::TreePath, mode: u32) -> Answer<()> {
        self.unit(Request::FsMakeDir { at: tree(at), mode }).await
    }

    async fn list_dir(&mut self, at: types::TreePath, after: Option<String>, limit: u32) -> Answer<Vec<fs::DirEntry>> {
        self.shaped(
            Request::FsListDir {
                at: tree(at),
                after,
                limit,
            },
            |response| match response {
                Response::DirEntries(entries) => Some(
                    entries
                        .into_iter()
                        .map(|e| fs::DirEntry {
                            name: e.name,
                            kind: e.kind,
                        })
                        .collect(),
                ),
                _ => None,
            },
        )
        .await
    }

    async fn read_file(&mut self, at: types::TreePath) -> Answer<Option<Vec<u8>>> {
        self.bytes(Request::FsReadFile { at: tree(at) }).await
    }

    async fn write_file(&mut self, at: types::TreePath, data: Vec<u8>, mode: u32) -> Answer<()> {
        self.unit(Request::FsWriteFile {
            at: tree(at),
            data,
            mode,
        })
        .await
    }

    async fn rename(&mut self, source: types::TreePath, to: types::TreePath) -> Answer<()> {
        self.unit(Request::FsRename {
            source: tree(source),
            to: tree(to),
        })
        .await
    }

    async fn discard(&mut self, at: types::TreePath) -> Answer<()> {
        self.unit(Request::FsDiscard { at: tree(at) }).await
    }

    async fn copy_tree(&mut self, source: types::TreePath, to: types::TreePath) -> Answer<()> {
        self.unit(Request::FsCopyTree {
            source: tree(source),
            to: tree(to),
        })
        .await
    }

    async fn copy_merged(&mut self, layers: Vec<types::TreePath>, to: types::TreePath) -> Answer<()> {
        self.unit(Request::FsCopyMerged {
            layers: layers.into_iter().map(tree).collect(),
            to: tree(to),
        })
        .await
    }

    async fn features(&mut self, root: String) -> Answer<Vec<String>> {
        self.strings(Request::FsFeatures { root }).await
    }

    async fn space(&mut self, root: String) -> Answer<fs::SpaceInfo> {
        self.shaped(Request::FsSpace { root }, |response| match response {
            Response::Space(space) => Some(fs::SpaceInfo {
                total_bytes: space.total_bytes,
                used_bytes: space.used_bytes,
                total_inodes: space.total_inodes,
                used_inodes: space.used_inodes,
            }),
            _ => None,
        })
        .await
    }

    async fn usage(&mut self, at: types::TreePath) -> Answer<Option<u64>> {
        self.shaped(Request::FsUsage { at: tree(at) }, |response| match response {
            Response::Size(size) => Some(size),
            _ => None,
        })
        .await
    }

    async fn set_quota(&mut self, at: types::TreePath, bytes: Option<u64>) -> Answer<()> {
        self.unit(Request::FsSetQuota { at: tree(at), bytes }).await
    }
}

impl link::Host for CallState {
    async fn ensure_bridge(&mut self, name: String, hwaddr: Option<String>, mtu: Option<u32>) -> Answer<()> {
        self.unit(Request::LinkEnsureBridge { name, hwaddr, mtu }).await
    }

    async fn ensure_veth(
        &mut self,
        name: String,
        bridge: Option<String>,
        netns: String,
        guest_name: String,
        hwaddr: String,
        mtu: Option<u32>,
        options: types::Options,
    ) -> Answer<()> {
        self.unit(Request::LinkEnsureVeth {
            name,
            bridge,
            netns,
            guest_name,
            hwaddr,
            mtu,
            options,
        })
        .await
    }

    async fn delete(&mut self, name: String) -> Answer<()> {
        self.unit(Request::LinkDelete { name }).await
    }

    async fn get(&mut self, name: String) -> Answer<Option<link::LinkInfo>> {
        self.shaped(Request::LinkGet { name }, |response| match response {
            Response::LinkInfo(info) => Some(info.map(|info| link::LinkInfo {
                name: info.name,
                kind: info.kind,
                hwaddr: info.hwaddr,
                mtu: info.mtu,
                up: info.up,
                master: info.master,
                addresses: info.addresses,
            })),
            _ => None,
        })
        .await
    }

    async fn set_addresses(&mut self, name: String, addresses: Vec<String>) -> Answer<()> {
        self.unit(Request::LinkSetAddresses { name, addresses }).await
    }

    async fn set_up(&mut self, name: String, up: bool) -> Answer<()> {
        self.unit(Request::LinkSetUp { name, up }).await
    }

    async fn set_options(&mut self, name: String, options: types::Options) -> Answer<()> {
        self.unit(Request::LinkSetOptions { name, options }).await
    }

    async fn subnets_in_use(&mut self) -> Answer<Vec<String>> {
        self.strings(Request::LinkSubnetsInUse).await
    }
}

impl filter::Host for CallState {
    async fn replace_table(&mut self, name: String, family: String, ruleset: String) -> Answer<()> {
        self.unit(Request::FilterReplaceTable { name, family, ruleset }).await
    }

    async fn change_elements(
        &mut self,
        name: String,
        family: String,
        set: String,
        add: Vec<String>,
        remove: Vec<String>,
    ) -> Answer<()> {
        self.unit(Request::FilterChangeElements {
            name,
            family,
            set,
            add,
            remove,
        })
        .await
    }

    async fn delete_table(&mut self, name: String, family: String) -> Answer<()> {
        self.unit(Request::FilterDeleteTable { name, family }).await
    }
}

impl service::Host for CallState {
    async fn ensure(&mut self, name: String, program: String, args: Vec<String>, user: Option<String>) -> Answer<()> {
        self.unit(Request::ServiceEnsure {
            name,
            program,
            args,
            user,
        })
        .await
    }

    async fn remove(&mut self, name: String) -> Answer<()> {
        self.unit(Request::ServiceRemove { name }).await
    }

    async fn status(&mut self, name: String) -> Answer<Option<service::ServiceStatus>> {
        self.shaped(Request::ServiceStatus { name }, |response| match response {
            Response::ServiceStatus(status) => Some(status.map(|status| service::ServiceStatus {
                running: status.running,
                pid: status.pid,
                restarts: status.restarts,
                last_exit: status.last_exit,
            })),
            _ => None,
        })
        .await
    }

    async fn signal(&mut self, name: String, signal: String) -> Answer<()> {
        self.unit(Request::ServiceSignal { name, signal }).await
    }

    async fn write_file(&mut self, name: String, path: String, data: Vec<u8>) -> Answer<()> {
        self.unit(Request::ServiceWriteFile { name, path, data }).await
    }

    async fn read_file(&mut self, name: String, path: String) -> Answer<Option<Vec<u8>>> {
        self.bytes(Request::ServiceReadFile { name, path }).await
    }

    async fn remove_file(&mut self, name: String, path: String) -> Answer<()> {
        self.unit(Request::ServiceRemoveFile { name, path }).await
    }

    async fn list_files(&mut self, name: String, path: String) -> Answer<Vec<String>> {
        self.strings(Request::ServiceListFiles { name, path }).await
    }
}

impl command::Host for CallState {
    async fn run(
        &mut self,
        program: String,
        args: Vec<String>,
        env: Vec<(String, String)>,
        trees: Vec<types::TreePath>,
    ) -> Answer<command::Output> {
        let trees = trees.into_iter().map(tree).collect();
        self.shaped(
            Request::CommandRun {
                program,
                args,
                env,
                trees,
            },
            |response| match response {
                Response::CommandOutput(output) => Some(command::Output {
                    status: output.status,
                    stdout: output.stdout,
                    stderr: output.stderr,
                }),
                _ => None,
            },
        )
        .await
    }
}

impl http::Host for CallState {
    async fn get(&mut self, url: String, headers: Vec<(String, String)>, limit: Option<u64>) -> Answer<http::Response> {
        self.shaped(Request::HttpGet { url, headers, limit }, |response| match response {
            Response::HttpResponse(response) => Some(http::Response {
                status: response.status,
                headers: response.headers,
                body: response.body,
            }),
            _ => None,
        })
        .await
    }
}

impl watch::Host for CallState {
    async fn changed(&mut self, topic: String) -> Answer<()> {
        self.unit(Request::WatchChanged { topic }).await
    }

    async fn service_file(&mut self, service: String, path: String, topic: String) -> Answer<()> {
        self.unit(Request::WatchServiceFile { service, path, topic }).await
    }
}

impl system::Host for CallState {
    async fn architecture(&mut self) -> wasmtime::Result<String> {
        match self.ask(Request::SystemArchitecture).await {
            Ok(Response::Text(Some(architecture))) => Ok(architecture),
            Ok(_) => Err(misshapen("system.architecture", "Text")),
            Err(error) => Err(wasmtime::Error::new(HostFault(error))),
        }
    }

    async fn package_sources(&mut self) -> Answer<Vec<String>> {
        self.strings(Request::SystemPackageSources).await
    }
}
