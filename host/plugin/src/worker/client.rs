//! The daemon's end of the conversation with a worker. Nothing that comes here is believed: each message belongs to a call that
//! the daemon made and that has not ended, or the worker is killed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hutch_broker::Request;
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{MutexGuard, Notify, mpsc};

use super::Workers;
use super::frame::{Frames, frame};
use super::process::{self, Process};
use super::protocol::{FromWorker, Hello, MAX_FROM_WORKER, MAX_TO_WORKER, Outcome, Sender, ToWorker, VERSION, is_told};
use super::supervisor::StartError;
use super::walls::{Landlock, Walls};
use crate::counters::Used;
use crate::desk::{Desk, HostDesk};
use crate::harm::Lost;
use crate::sync::Mutex;

/// How long a worker may take to be ready, on a machine that does much else at the time or is emulated.
const START: Duration = Duration::from_secs(60);
/// How long it may take to give up a call that nobody waits for.
const GIVING_UP: Duration = Duration::from_secs(1);
/// Messages of one call that wait for it.
const EVENTS: usize = 64;
/// Bytes that may wait to be taken by a worker before the next long message waits for its turn: a worker that has much to do takes
/// them one after the other.
const MUCH_WAITING: usize = 1 << 20;
/// Bytes that wait to be taken by a worker that is up to something: more than one long message, and all short ones that nobody waits
/// with.
const MAX_WAITING: usize = 2 * MAX_TO_WORKER;

/// A running worker. It is killed when this is dropped.
pub(super) struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    plugin: String,
    process: Process,
    socket: UnixStream,
    /// What waits to be taken by the worker.
    waiting: Mutex<BytesMut>,
    /// Whose turn it is to add to it.
    turn: tokio::sync::Mutex<()>,
    /// Tells whose turn it is that it was taken, or never will be.
    taken: Notify,
    /// Wakes the task that reads and writes.
    wake: Notify,
    calls: Mutex<Calls>,
    next: AtomicU64,
    /// Whether its end was counted against the plugin.
    blamed: AtomicBool,
    /// Whether it is not needed any more, so that its end is nothing to tell of.
    let_go: AtomicBool,
}

/// The calls that have not ended.
#[derive(Default)]
struct Calls {
    /// Why there are no more.
    over: Option<Arc<str>>,
    /// Where their messages go; nowhere for those that nobody waits for any more.
    table: HashMap<u64, Option<mpsc::Sender<Event>>>,
}

/// A message of one call.
enum Event {
    Ask { ask: u64, request: Request },
    Tell(Request),
    Done(Outcome, Used),
}

impl Client {
    /// Starts a worker for `plugin` and waits until it is ready.
    pub(super) async fn start(
        plugin: &str,
        workers: &Workers,
        code: File,
        memory: u64,
        hello: &Hello,
    ) -> Result<Self, StartError> {
        let began = std::time::Instant::now();
        let (process, socket) = process::start(workers, code, memory)
            .await
            .map_err(StartError::Process)?;
        let socket = socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(socket));
        let client = Self {
            shared: Arc::new(Shared {
                plugin: plugin.to_owned(),
                process,
                socket: socket.map_err(StartError::Process)?,
                waiting: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
                taken: Notify::new(),
                wake: Notify::new(),
                calls: Mutex::default(),
                next: AtomicU64::new(1),
                blamed: AtomicBool::new(false),
                let_go: AtomicBool::new(false),
            }),
        };
        let shared = &client.shared;
        let mut frames = Frames::new(Sender::Worker, MAX_FROM_WORKER);
        let greeted = tokio::time::timeout(START, shared.greet(hello, &mut frames)).await;
        let walls = greeted.map_err(|_| StartError::Lost(format!("was not ready within {} s", START.as_secs())))??;
        warn_of_missing(walls);
        let (pid, ms) = (shared.process.pid, began.elapsed().as_millis());
        tracing::debug!(plugin, pid, ms, ?walls, "the plugin's process is ready");
        tokio::spawn(Arc::clone(shared).converse(frames));
        Ok(client)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.shared.process.pid
    }

    /// Whether it can't be called any more.
    pub(super) fn is_over(&self) -> bool {
        self.shared.calls.lock().over.is_some()
    }

    /// Calls a function. What its guest asks is asked at `desk`. If the returned future is dropped, the call is given up.
    pub(super) async fn call(&self, function: &str, params: Vec<u8>, desk: &HostDesk) -> Result<(Outcome, Used), Lost> {
        let shared = &self.shared;
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let message = ToWorker::Call {
            id,
            function: function.to_owned(),
            params,
        };
        let bytes = frame(&message, MAX_TO_WORKER).map_err(|error| Lost {
            reason: format!("its parameters can't be sent: {error}"),
            blame: false,
        })?;
        drop(message);
        let (sender, mut events) = mpsc::channel(EVENTS);
        let turn = shared.turn().await;
        // Not before the turn: of a call that is given up while it waits the worker knows nothing.
        let over = {
            let mut calls = shared.calls.lock();
            if calls.over.is_none() {
                calls.table.insert(id, Some(sender));
            }
            calls.over.is_some()
        };
        if over {
            return Err(shared.lost());
        }
        let _given_up = GiveUp { shared, id };
        shared.send_frame(&bytes);
        drop((turn, bytes));
        loop {
            match events.recv().await {
                Some(Event::Done(outcome, used)) => return Ok((outcome, used)),
                Some(Event::Tell(request)) => tell(desk, request).await,
                Some(Event::Ask { ask, request }) => shared.ask(id, ask, request, desk, &mut events).await?,
                None => return Err(shared.lost()),
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.let_go.store(true, Ordering::Relaxed);
        self.shared.process.kill();
    }
}

/// What a guest tells may fail, as it may where it runs in the daemon.
async fn tell(desk: &HostDesk, request: Request) {
    let _ = desk.ask(request).await;
}

/// A kernel without Landlock has one wall less, which an operator should know, once.
fn warn_of_missing(walls: Walls) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if walls.landlock == Landlock::Absent && !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!("the kernel has no Landlock: processes of plugins are confined by everything else");
    }
}

impl Shared {
    /// Introduces the daemon and waits until the worker is ready.
    async fn greet(&self, hello: &Hello, frames: &mut Frames) -> Result<Walls, StartError> {
        let lost = |error: io::Error| StartError::Lost(format!("can't be spoken to: {error}"));
        let hello = ToWorker::Hello(Hello {
            family: hello.family.clone(),
            abilities: hello.abilities.clone(),
            ..*hello
        });
        self.send(&hello);
        loop {
            match frames.next() {
                Ok(Some(FromWorker::Ready {
                    version: VERSION,
                    walls,
                })) => return Ok(walls),
                Ok(Some(FromWorker::Failed(failed))) => return Err(failed.into()),
                Ok(Some(_)) => return Err(StartError::Lost("did not begin by saying that it is ready".to_owned())),
                Ok(None) => {}
                Err(error) => return Err(StartError::Lost(format!("sent {error}"))),
            }
            self.socket.readable().await.map_err(lost)?;
            match self.socket.try_read_buf(frames.space()) {
                Ok(0) => return Err(StartError::Lost(self.process.ended().await.to_string())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(StartError::Lost(self.process.ended().await.to_string()));
                }
                Err(error) => return Err(lost(error)),
            }
        }
    }

    /// Reads and writes until the worker has ended or has to be ended, and tells all calls why.
    async fn converse(self: Arc<Self>, mut frames: Frames) {
        let wrong = self.exchange(&mut frames).await;
        // Of a worker that broke the rules nothing more is read.
        self.process.kill();
        let ended = self.process.ended().await;
        let reason = match wrong {
            Some(wrong) => format!("its process was killed: {wrong}"),
            None => format!("its process {ended}"),
        };
        let pid = self.process.pid;
        if !self.let_go.load(Ordering::Relaxed) {
            tracing::warn!(plugin = self.plugin, pid, "{reason}");
        }
        self.end(reason.into());
    }

    /// No call goes on, and none begins.
    fn end(&self, reason: Arc<str>) {
        let mut calls = self.calls.lock();
        calls.over.get_or_insert(reason);
        // Who waits for messages sees the end of them.
        calls.table.clear();
        drop(calls);
        self.taken.notify_waiters();
    }

    /// Reads and writes until nothing comes any more. Answers what the worker did wrong, where it did.
    async fn exchange(&self, frames: &mut Frames) -> Option<String> {
        loop {
            let interest = match self.waiting.lock().is_empty() {
                true => Interest::READABLE,
                false => Interest::READABLE | Interest::WRITABLE,
            };
            let ready = tokio::select! {
                ready = self.socket.ready(interest) => ready,
                () = self.wake.notified() => continue,
            };
            let Ok(ready) = ready else { return None };
            if ready.is_writable() && !self.flush() {
                return None;
            }
            if !ready.is_readable() {
                continue;
            }
            match self.socket.try_read_buf(frames.space()) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return None,
            }
            loop {
                match frames.next() {
                    Ok(Some(message)) => {
                        if let Err(wrong) = self.take(message).await {
                            return Some(wrong);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return Some(format!("it sent {error}")),
                }
            }
            if self.calls.lock().over.is_some() {
                return Some("it broke the protocol".to_owned());
            }
        }
    }

    /// Passes a message on to its call.
    async fn take(&self, message: FromWorker) -> Result<(), String> {
        let (call, event) = match message {
            FromWorker::Ask { call, ask, request } => (call, Event::Ask { ask, request }),
            FromWorker::Tell { call, request } if is_told(&request) => (call, Event::Tell(request)),
            FromWorker::Done { call, outcome, used } => (call, Event::Done(outcome, used)),
            FromWorker::Tell { request, .. } => {
                return Err(format!("it told {}, which is to be asked", request.function()));
            }
            FromWorker::Ready { .. } | FromWorker::Failed(_) => return Err("it was ready twice".to_owned()),
        };
        let receiver = {
            let mut calls = self.calls.lock();
            let found = match event {
                Event::Done(..) => calls.table.remove(&call),
                Event::Ask { .. } | Event::Tell(_) => calls.table.get(&call).cloned(),
            };
            found.ok_or_else(|| format!("it spoke of call {call}, which it does not have"))?
        };
        if let Some(receiver) = receiver {
            // Waits where a guest talks faster than it is listened to. Whoever went away meanwhile needs nothing.
            let _ = receiver.send(event).await;
        }
        Ok(())
    }

    /// Asks for the guest of `call`, and sends the answer. A guest that waits for an answer says nothing else but lines of its
    /// standard output.
    async fn ask(
        &self,
        call: u64,
        ask: u64,
        request: Request,
        desk: &HostDesk,
        events: &mut mpsc::Receiver<Event>,
    ) -> Result<(), Lost> {
        let mut answer = pin!(async {
            let result = desk.ask(request).await;
            (result, self.turn().await)
        });
        let (result, turn) = loop {
            tokio::select! {
                biased;
                answer = &mut answer => break answer,
                event = events.recv() => match event {
                    Some(Event::Tell(request)) => tell(desk, request).await,
                    Some(Event::Ask { .. } | Event::Done(..)) => {
                        self.fail("it went on with a call that waits for an answer");
                        return Err(self.lost());
                    }
                    None => return Err(self.lost()),
                },
            }
        };
        self.send(&ToWorker::Answer { call, ask, result });
        drop(turn);
        Ok(())
    }

    /// Waits until not much waits to be taken by the worker, or never will be. What is long is sent by whoever has the turn: a
    /// worker that is slow to take the answers of many calls is no bad one.
    async fn turn(&self) -> MutexGuard<'_, ()> {
        let turn = self.turn.lock().await;
        loop {
            let mut taken = pin!(self.taken.notified());
            // Before it is looked, so that nothing is missed in between.
            taken.as_mut().enable();
            if self.waiting.lock().len() < MUCH_WAITING || self.calls.lock().over.is_some() {
                return turn;
            }
            taken.await;
        }
    }

    /// Ends a worker that did something wrong.
    fn fail(&self, wrong: &str) {
        self.process.kill();
        self.end(format!("its process was killed: {wrong}").into());
        self.wake.notify_one();
    }

    /// What a call is told that can't go on.
    fn lost(&self) -> Lost {
        let over = self.calls.lock().over.clone();
        Lost {
            reason: over.map_or_else(|| "its process ended".to_owned(), |over| over.to_string()),
            blame: !self.blamed.swap(true, Ordering::Relaxed),
        }
    }

    /// Sends a message, at once where the worker takes it.
    fn send(&self, message: &ToWorker) {
        match frame(message, MAX_TO_WORKER) {
            Ok(bytes) => self.send_frame(&bytes),
            Err(error) => self.fail(&format!("it asked for what can't be sent: {error}")),
        }
    }

    /// The same for one that is put together already.
    fn send_frame(&self, bytes: &[u8]) {
        let mut waiting = self.waiting.lock();
        let mut rest = bytes;
        if waiting.is_empty() {
            // Not the runtime's: that asks whether there is room only after it was told of some. An error is found by who reads,
            // too.
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let written = rustix::net::send(&self.socket, rest, flags).unwrap_or(0);
            rest = rest.get(written..).unwrap_or_default();
        }
        if rest.is_empty() {
            return;
        }
        waiting.extend_from_slice(rest);
        let much = waiting.len() > MAX_WAITING;
        drop(waiting);
        if much {
            return self.fail("it does not take what it is sent");
        }
        self.wake.notify_one();
    }

    /// Writes what waits. False where the worker takes nothing any more.
    fn flush(&self) -> bool {
        let mut waiting = self.waiting.lock();
        while !waiting.is_empty() {
            match self.socket.try_write(&waiting) {
                Ok(written) => waiting.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        if waiting.is_empty() {
            *waiting = BytesMut::new();
        }
        let little = waiting.len() < MUCH_WAITING;
        drop(waiting);
        if little {
            self.taken.notify_waiters();
        }
        true
    }
}

/// Gives up a call that nobody waits for any more, unless it has ended.
struct GiveUp<'a> {
    shared: &'a Arc<Shared>,
    id: u64,
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        let (shared, id) = (self.shared, self.id);
        match shared.calls.lock().table.get_mut(&id) {
            Some(receiver) => *receiver = None,
            None => return,
        }
        shared.send(&ToWorker::Cancel { call: id });
        // Without a runtime the process is going down, and the worker with it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let shared = Arc::clone(shared);
        runtime.spawn(async move {
            tokio::time::sleep(GIVING_UP).await;
            let stuck = shared.calls.lock().table.contains_key(&id);
            if stuck {
                shared.fail("it did not give up a call");
            }
        });
    }
}
