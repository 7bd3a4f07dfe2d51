//! What reaches the machine beside its trees: interfaces, packet filters, programs, servers, events, facts.

use hutch_broker::{Request, Response};

use super::{Answer, HostFault, misshapen, tree};
use crate::bindings::host::{command, filter, http, link, service, system, types, watch};
use crate::state::CallState;

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

    async fn ensure_macvlan(
        &mut self,
        parent: String,
        netns: String,
        guest_name: String,
        hwaddr: String,
        mode: String,
        mtu: Option<u32>,
    ) -> Answer<()> {
        self.unit(Request::LinkEnsureMacvlan {
            parent,
            netns,
            guest_name,
            hwaddr,
            mode,
            mtu,
        })
        .await
    }

    async fn delete_macvlan(&mut self, netns: String, guest_name: String, hwaddr: String) -> Answer<()> {
        self.unit(Request::LinkDeleteMacvlan {
            netns,
            guest_name,
            hwaddr,
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

    async fn limit_sent(&mut self, name: String, bits_per_second: Option<u64>) -> Answer<()> {
        self.unit(Request::LinkLimitSent { name, bits_per_second }).await
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
