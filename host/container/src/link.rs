//! A connection to a keeper, the task that receives on it, and what the keeper has told.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use tokio::sync::{broadcast, watch};

use crate::Error;
use crate::connection::{Connection, Received};
use crate::protocol::{Answer, Hello, PROTOCOL_VERSION, Reply, Request};
use crate::runtime::Record;
use crate::services::ServiceState;
use crate::state::{ContainerState, ExecInfo, ExitStatus, KeeperEvent};

/// What a keeper has told, kept up to date by the task that receives.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) container: ContainerState,
    pub(crate) execs: Vec<ExecInfo>,
    pub(crate) service: Option<ServiceState>,
    pub(crate) gone: bool,
}

/// A connection to a keeper and the task that receives on it, which ends, and closes the connection, with the last handle.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    receiver: tokio::task::AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

impl std::ops::Deref for Link {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// What handles and receiver share.
#[derive(Debug)]
pub(crate) struct Shared {
    id: String,
    pub(crate) pid: u32,
    process: OwnedFd,
    pub(crate) connection: Arc<Connection>,
    pub(crate) told: watch::Sender<Told>,
    pub(crate) events: broadcast::Sender<KeeperEvent>,
    pub(crate) released: OnceLock<()>,
    record: Record,
}

/// Events that a slow subscriber may fall behind before it loses the oldest. [`crate::Keeper::state`] is never behind. Every
/// container has a queue, whose room is taken from the start; these are the few moments of a life.
const EVENT_QUEUE: usize = 16;

impl Link {
    /// Introduces itself on a connected socket and begins to receive.
    pub(crate) async fn open(id: &str, socket: OwnedFd, record: Record) -> Result<(Arc<Self>, Vec<OwnedFd>), Error> {
        let connection =
            Connection::new(id.to_owned(), socket).map_err(|e| Error::io("watching the socket of", id, e))?;
        let protocol = |what: &str| Error::Protocol {
            id: id.to_owned(),
            what: what.to_owned(),
        };
        let hello = introduce(&connection).await?;
        let (
            Answer::Hello(Hello {
                id: theirs,
                pid,
                container,
                execs,
                service,
                ..
            }),
            mut fds,
        ) = hello
        else {
            return Err(protocol("something else than an introduction"));
        };
        if theirs != id || fds.is_empty() {
            return Err(protocol("with another's name or without its descriptors"));
        }
        let process = fds.remove(0);
        let container = container.unwrap_or(ContainerState::Created);
        let shared = Arc::new(Shared {
            id: theirs,
            pid,
            process,
            connection,
            told: watch::Sender::new(Told {
                container,
                execs,
                service,
                gone: false,
            }),
            events: broadcast::Sender::new(EVENT_QUEUE),
            released: OnceLock::new(),
            record,
        });
        let receiver = tokio::spawn(receive(Arc::clone(&shared))).abort_handle();
        Ok((Arc::new(Self { shared, receiver }), fds))
    }
}

/// Says hello and waits for the answer, before there is a task that receives.
async fn introduce(connection: &Connection) -> Result<(Answer, Vec<OwnedFd>), Error> {
    let call = connection.call(
        Request::Hello {
            version: PROTOCOL_VERSION,
        },
        &[],
    );
    tokio::pin!(call);
    loop {
        tokio::select! {
            biased;
            done = &mut call => return done,
            received = connection.receive() => match received? {
                None => return Err(connection.lost()),
                Some(Received { reply: Reply::Done { id, answer }, fds }) => connection.settle(id, Ok((answer, fds))),
                Some(Received { reply: Reply::Failed { id, fault }, .. }) => connection.settle(id, Err(fault)),
                // What happened before the introduction is part of it.
                Some(Received { reply: Reply::Event(_) | Reply::Service(_), .. }) => {}
            },
        }
    }
}

impl Shared {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) async fn call(&self, request: Request) -> Result<(), Error> {
        self.connection.call(request, &[]).await.map(drop)
    }

    pub(crate) async fn call_for_fd(&self, request: Request) -> Result<OwnedFd, Error> {
        let (_, mut fds) = self.connection.call(request, &[]).await?;
        fds.pop().ok_or_else(|| Error::Protocol {
            id: self.id.clone(),
            what: "without a descriptor".to_owned(),
        })
    }

    pub(crate) fn service_state(&self) -> Result<ServiceState, Error> {
        let told = self.told.borrow();
        told.service
            .clone()
            .filter(|_| !told.gone)
            .ok_or_else(|| self.connection.lost())
    }

    /// Waits until the keeper's process has ended.
    pub(crate) async fn gone(&self) {
        let mut told = self.told.subscribe();
        // An error means that the sender is gone, which it is not while `self` is borrowed.
        drop(told.wait_for(|told| told.gone).await);
    }

    /// Removes the socket and the specification of a keeper that has ended as it should.
    pub(crate) fn remove_record(&self) -> Result<(), Error> {
        self.record.remove()
    }

    fn take(&self, event: KeeperEvent) {
        self.told.send_modify(|told| match &event {
            KeeperEvent::Started { pid } => {
                told.container = ContainerState::Running {
                    pid: *pid,
                    reboots: 0,
                    frozen: false,
                };
            }
            KeeperEvent::Rebooted { pid: new } => {
                if let ContainerState::Running { pid, reboots, .. } = &mut told.container {
                    (*pid, *reboots) = (*new, *reboots + 1);
                }
            }
            KeeperEvent::Exited(exit) => told.container = ContainerState::Ended(*exit),
            KeeperEvent::ExecExited { id, status } => {
                if let Some(exec) = told.execs.iter_mut().find(|exec| exec.id == *id) {
                    exec.status = Some(*status);
                }
            }
            KeeperEvent::KeeperLost => told.container = ContainerState::Lost,
        });
        // Ends of programs, of which there may be hundreds a second, must not push the few others out; who waits for one looks
        // at what was told.
        if !matches!(event, KeeperEvent::ExecExited { .. }) {
            // Nobody listening is no error.
            drop(self.events.send(event));
        }
    }
}

/// Receives until the connection ends, then until the process has.
async fn receive(link: Arc<Shared>) {
    loop {
        match link.connection.receive().await {
            Ok(Some(Received { reply, fds })) => match reply {
                Reply::Done { id, answer } => link.connection.settle(id, Ok((answer, fds))),
                Reply::Failed { id, fault } => link.connection.settle(id, Err(fault)),
                Reply::Event(event) => link.take(event),
                Reply::Service(state) => link.told.send_modify(|told| told.service = Some(state)),
            },
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(container = link.id, %error, "connection to the keeper given up");
                break;
            }
        }
    }
    link.connection.end();
    if let Err(error) = crate::runtime::ended(link.process.as_fd()).await {
        tracing::warn!(container = link.id, %error, "waiting for the keeper to end");
    }
    let ended = matches!(link.told.borrow().container, ContainerState::Ended(_)) || link.released.get().is_some();
    if !ended && link.service_state().is_err() {
        link.take(KeeperEvent::KeeperLost);
    }
    link.told.send_modify(|told| told.gone = true);
}

/// Waits for a program's end; `None` when there is no such program, or the keeper is gone.
pub(crate) async fn wait_exec(mut told: watch::Receiver<Told>, id: &str) -> Option<ExitStatus> {
    let entry = |told: &Told| told.execs.iter().find(|exec| exec.id == id).map(|exec| exec.status);
    // Over when it has a status, when it is unknown, or when the keeper is gone.
    let over = |told: &Told| told.gone || entry(told).is_none_or(|status| status.is_some());
    let told = told.wait_for(over).await.ok()?;
    entry(&told).flatten()
}
