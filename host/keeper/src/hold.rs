//! The keeper's loop.

use std::os::fd::OwnedFd;

use hutch_container::protocol::{Answer, Request};
use hutch_container::{ContainerSpec, Fault, FaultKind};
use serde::de::DeserializeOwned;

use crate::cgroup;
use crate::clients::{Asker, Clients, Heard};
use crate::container::{Container, Outcome};
use crate::fault::{At, Result};
use crate::reactor::{Reactor, Ready, Source};
use crate::service::Service;

/// Reads a specification.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|error| Fault::new(FaultKind::Invalid, "reading", "the specification", error.to_string()))
}

/// Holds a container until it is released; returns the exit code.
pub(crate) fn container(text: &[u8], socket: OwnedFd) -> i32 {
    let Ok((reactor, mut clients)) = prepare(socket) else {
        return 1;
    };
    let made = cgroup::leave_service().and_then(|()| Container::make(parse::<ContainerSpec>(text)?, &reactor));
    let mut container = match made {
        Ok(container) => container,
        Err(fault) => return refuse(&reactor, &mut clients, &fault),
    };
    // Its arguments are all that `ps` would show of it otherwise.
    name_process(container.id());
    let mut ready: Vec<Ready> = Vec::new();
    loop {
        if reactor.wait(&mut ready).is_err() {
            return 1;
        }
        for event in ready.drain(..) {
            if container_event(&reactor, &mut clients, &mut container, event) {
                clients.finish();
                return 0;
            }
        }
    }
}

/// Deals with one event; `true` when it was the last.
fn container_event(reactor: &Reactor, clients: &mut Clients, container: &mut Container, event: Ready) -> bool {
    let Ready { source, place, flags } = event;
    match source {
        Source::Listener => clients.accept(reactor),
        Source::Client => match clients.ready(reactor, place, flags) {
            Heard::Request(asker, request, fds) => match container.request(reactor, asker, request, fds) {
                Outcome::Now(result) => clients.answer(reactor, asker, result),
                Outcome::Later => {}
                Outcome::Last => {
                    clients.answer(reactor, asker, Ok((Answer::Nothing, Vec::new())));
                    return true;
                }
            },
            Heard::Gone(client) => container.client_gone(reactor, client),
            Heard::Nothing => {}
        },
        Source::Boot => container.boot_ready(reactor, clients),
        Source::Preparer => container.preparer_ready(reactor),
        Source::Init => container.init_ready(reactor, clients),
        Source::Cgroup => container.cgroup_ready(reactor, clients),
        Source::Console => container.console().terminal_ready(reactor, flags),
        Source::ConsoleStream => container.console().stream_ready(reactor, place),
        Source::Guest => container.guest_ready(reactor, clients, place),
        Source::GuestProcess => container.execs().guest_ended(reactor, clients, place),
        Source::ExecReport => container.execs().report_ready(reactor, clients, place),
        Source::ExecProcess => container.execs().process_ready(reactor, clients, place),
        Source::ExecTerminal => container.execs().terminal_ready(reactor, place),
        Source::Timer => container.execs().timer_ready(reactor),
        Source::Mounts => container.mounts_ready(reactor, clients),
        Source::Mounter => container.mounter_ended(reactor, place),
        Source::Listening => container.call_ready(reactor, place, flags),
        Source::Helper => container.intercepts().helper_ended(reactor, place),
        Source::HelperTimer => container.helpers_late(),
        Source::Service => {}
    }
    false
}

/// Holds a service, in a cgroup of this name, until it is stopped; returns the exit code.
pub(crate) fn service(text: &[u8], cgroup_name: &str, socket: OwnedFd) -> i32 {
    let Ok((reactor, mut clients)) = prepare(socket) else {
        return 1;
    };
    let made = cgroup::leave_service().and_then(|()| Service::make(parse(text)?, cgroup_name, &reactor));
    let mut service = match made {
        Ok(service) => service,
        Err(fault) => return refuse(&reactor, &mut clients, &fault),
    };
    name_process(service.id());
    let mut ready: Vec<Ready> = Vec::new();
    loop {
        if reactor.wait(&mut ready).is_err() {
            return 1;
        }
        for event in ready.drain(..) {
            if service.event(&reactor, &mut clients, event) {
                clients.finish();
                return 0;
            }
        }
    }
}

fn prepare(socket: OwnedFd) -> Result<(Reactor, Clients)> {
    let reactor = Reactor::new().at("making", "an epoll")?;
    let clients = Clients::new(&reactor, socket)?;
    Ok((reactor, clients))
}

/// Tells the daemon that started this keeper why it can't be, in answer to its introduction, and returns the exit code. A daemon
/// that has gone meanwhile ends it as well.
fn refuse(reactor: &Reactor, clients: &mut Clients, fault: &Fault) -> i32 {
    let mut ready = Vec::new();
    loop {
        if reactor.wait(&mut ready).is_err() {
            return 1;
        }
        for Ready { source, place, flags } in ready.drain(..) {
            match source {
                Source::Listener => clients.accept(reactor),
                _ => match clients.ready(reactor, place, flags) {
                    Heard::Request(asker @ Asker { .. }, Request::Hello { .. }, _) => {
                        clients.answer(reactor, asker, Err(fault.clone()));
                        clients.finish();
                        return 1;
                    }
                    Heard::Request(..) | Heard::Nothing => {}
                    Heard::Gone(_) => return 1,
                },
            }
        }
    }
}

/// The name in `/proc/PID/comm`, of which the kernel keeps 15 bytes.
fn name_process(id: &str) {
    if let Ok(name) = std::ffi::CString::new(format!("hutch:{id}")) {
        // Nothing but what an operator sees depends on it.
        let _ = rustix::thread::set_name(&name);
    }
}
