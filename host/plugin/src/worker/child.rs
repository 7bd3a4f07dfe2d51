//! The worker's own side: it puts up its walls, brings the plugin's code into memory, and then calls its functions as it is told.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hutch_broker::{LogLevel, LogSink, Request, Response};
use hutch_driver::DriverError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use wasmtime::component::{ComponentNamedList, ComponentType, Lift, Lower};

use super::filter;
use super::frame::{FrameError, Frames, frame};
use super::protocol::{
    Failed, FromWorker, Hello, MAX_FROM_WORKER, MAX_TO_WORKER, Outcome, Sender, ToWorker, VERSION, decode, encode,
    is_told,
};
use super::walls::{self, Walls};
use crate::code::Code;
use crate::counters::Used;
use crate::desk::{Answered, Desk};
use crate::engine::Runtime;
use crate::export::{Export, ExportError, Exports, Visitor};
use crate::harm::{Fault, cut};
use crate::log::MAX_CALL_LINES;
use crate::mapped;
use crate::sync::Mutex;

/// The worker's whole program: the daemon's `main` calls it when its first argument is [`super::WORKER_SUBCOMMAND`], before it
/// starts a thread or opens a file. `args` are the arguments that follow.
///
/// Its standard input is its socket, its standard output a file that it reads its code from. It puts up its walls before it reads a
/// byte of either.
pub fn worker_main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let mut args = args.into_iter();
    let (id, memory) = (args.next(), args.next());
    let numbers = id
        .and_then(|id| id.parse().ok())
        .zip(memory.and_then(|m| m.parse().ok()));
    let Some((id, memory)) = numbers else {
        return complain("expected a user id and an amount of memory");
    };
    // A task that panics would leave its call without an answer.
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(io::stderr(), "{panic}");
        std::process::abort();
    }));
    // What the daemon was itself started with is none of a worker's business.
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    if let Err(error) = hutch_sys::process::close_others(&[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]) {
        return complain(&format!("can't close what else is open: {error}"));
    }
    let walls = walls::enter(id, memory);
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
    let (Ok(socket), Ok(code)) = (own(stdin.as_fd()), own(stdout.as_fd())) else {
        return complain("expected a socket and a file");
    };
    match live(socket, code.into(), walls) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.to_string()),
    }
}

fn complain(message: &str) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr().lock(), "{message}");
    ExitCode::FAILURE
}

fn live(socket: OwnedFd, code: File, walls: Result<Walls, walls::WallError>) -> io::Result<()> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(async {
        let line = Arc::new(Line {
            socket: UnixStream::from_std(socket)?,
            asked: Mutex::default(),
            next: AtomicU64::new(0),
        });
        let mut frames = Frames::new(Sender::Daemon, MAX_TO_WORKER);
        let Some(ToWorker::Hello(hello)) = line.next(&mut frames).await? else {
            return Err(io::Error::other("expected to be greeted first"));
        };
        let ready = match walls {
            Ok(walls) => prepare(&hello, code).map(|plugin| (plugin, walls)),
            Err(error) => Err(Failed::Walls(error.to_string())),
        };
        // The last wall: from here on nothing is opened, started or made executable.
        let ready = ready.and_then(|ready| match filter::install() {
            Ok(()) => Ok(ready),
            Err(error) => Err(Failed::Walls(format!("the filter of system calls: {error}"))),
        });
        match ready {
            Ok((plugin, walls)) => {
                line.send(&FromWorker::Ready {
                    version: VERSION,
                    walls,
                })?;
                serve(&line, &mut frames, &Arc::new(plugin)).await
            }
            Err(failed) => line.send(&FromWorker::Failed(failed)),
        }
    })
}

/// The plugin, in this process's memory.
struct Worker {
    runtime: Runtime,
    code: Code,
    functions: HashMap<&'static str, Box<dyn Function>>,
    cpu_time: Duration,
    memory: usize,
}

/// Brings the code into memory.
fn prepare(hello: &Hello, code: File) -> Result<Worker, Failed> {
    if hello.version != VERSION {
        let message = format!("the daemon speaks version {}, the worker {VERSION}", hello.version);
        return Err(Failed::Machine(message));
    }
    // None of these depends on what is in the component: they take address space, a thread, memory.
    let machine = |error: wasmtime::Error| Failed::Machine(format!("{error:#}"));
    let runtime = Runtime::new(hello.concurrency).map_err(machine)?;
    let component = mapped::read(runtime.engine(), &code);
    let component = component.map_err(|error| Failed::Code(crate::load::with_causes(&error)))?;
    // Now and not at the first call: it takes system calls that are not allowed then.
    component.initialize_copy_on_write_image().map_err(machine)?;
    let linker = crate::load::linker(runtime.engine()).map_err(machine)?;
    let exports = Exports::of(&hello.family, &hello.abilities);
    let code = Code::new(&linker, &component, &exports).map_err(Failed::Plugin)?;
    let mut functions = Functions::default();
    exports
        .visit(&mut functions)
        .map_err(|error| Failed::Plugin(error.to_string()))?;
    Ok(Worker {
        runtime,
        code,
        functions: functions.0,
        cpu_time: hello.cpu_time,
        memory: usize::try_from(hello.memory).unwrap_or(usize::MAX),
    })
}

/// Does what the daemon says until it says no more.
async fn serve(line: &Arc<Line>, frames: &mut Frames, worker: &Arc<Worker>) -> io::Result<()> {
    let mut calls: HashMap<u64, AbortHandle> = HashMap::new();
    while let Some(message) = line.next(frames).await? {
        match message {
            ToWorker::Call { id, function, params } => {
                calls.retain(|_, call| !call.is_finished());
                let (line, worker) = (Arc::clone(line), Arc::clone(worker));
                let call = tokio::spawn(async move { call(&line, &worker, id, &function, params).await });
                calls.insert(id, call.abort_handle());
            }
            ToWorker::Answer { call, ask, result } => {
                if let Some(asked) = line.asked.lock().remove(&(call, ask)) {
                    // A guest that was cancelled meanwhile does not wait for it.
                    drop(asked.send(result));
                }
            }
            ToWorker::Cancel { call } => {
                if let Some(running) = calls.remove(&call).filter(|running| !running.is_finished()) {
                    // This is its thread, so it does not run now, and will not again.
                    running.abort();
                    line.asked.lock().retain(|(asking, _), _| *asking != call);
                    line.done(call, Outcome::Cancelled, Used::default())?;
                }
            }
            ToWorker::Hello(_) => return Err(io::Error::other("greeted twice")),
        }
    }
    Ok(())
}

async fn call(line: &Arc<Line>, worker: &Worker, id: u64, function: &str, params: Vec<u8>) {
    let counter = Arc::new(Counter {
        line: Arc::clone(line),
        call: id,
        lines: AtomicU32::new(0),
    });
    let (outcome, used) = match worker.functions.get(function) {
        Some(function) => function.call(worker, params, counter).await,
        None => {
            let fault = Fault::Unreadable("there is no such function".to_owned());
            (Outcome::Fault(fault), Used::default())
        }
    };
    if line.done(id, outcome, used).is_err() {
        // The daemon is gone.
        std::process::exit(0);
    }
}

/// What the broker said.
type Answer = Result<Response, DriverError>;

/// The worker's end of the socket.
struct Line {
    socket: UnixStream,
    /// Who waits for which answer, by the call and the number of the question.
    asked: Mutex<HashMap<(u64, u64), oneshot::Sender<Answer>>>,
    next: AtomicU64,
}

impl Line {
    /// The next message; `None` when the daemon has closed the socket.
    async fn next(&self, frames: &mut Frames) -> io::Result<Option<ToWorker>> {
        loop {
            if let Some(message) = frames.next().map_err(io::Error::other)? {
                return Ok(Some(message));
            }
            self.socket.readable().await?;
            match self.socket.try_read_buf(frames.space()) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a message. Waits for the daemon to take it, which it always does.
    fn send(&self, message: &FromWorker) -> io::Result<()> {
        self.write(&frame(message, MAX_FROM_WORKER).map_err(io::Error::other)?)
    }

    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        while !bytes.is_empty() {
            match rustix::io::write(&self.socket, bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => match poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn done(&self, call: u64, outcome: Outcome, used: Used) -> io::Result<()> {
        let done = |outcome| frame(&FromWorker::Done { call, outcome, used }, MAX_FROM_WORKER);
        let frame = match done(outcome) {
            Err(FrameError::TooLong { length, .. }) => {
                let what = format!("{length} bytes, where at most {MAX_FROM_WORKER} are allowed");
                done(Outcome::Fault(Fault::Unreadable(what)))
            }
            frame => frame,
        };
        self.write(&frame.map_err(io::Error::other)?)
    }
}

/// Where the guest of one call asks.
struct Counter {
    line: Arc<Line>,
    call: u64,
    /// Lines that were logged.
    lines: AtomicU32,
}

impl Counter {
    /// Whether there are more lines already than the daemon keeps of a call. A guest in a loop would fill the socket with them.
    fn is_said(&self) -> bool {
        self.lines.fetch_add(1, Ordering::Relaxed) > MAX_CALL_LINES
    }

    fn tell(&self, request: Request) -> Result<Response, DriverError> {
        let told = self.line.send(&FromWorker::Tell {
            call: self.call,
            request,
        });
        told.map(|()| Response::Unit).map_err(unsent)
    }

    async fn question(&self, request: Request) -> Result<Response, DriverError> {
        if matches!(request, Request::Log { .. }) && self.is_said() {
            return Ok(Response::Unit);
        }
        if is_told(&request) {
            return self.tell(request);
        }
        let ask = self.line.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.line.asked.lock().insert((self.call, ask), sender);
        let sent = self.line.send(&FromWorker::Ask {
            call: self.call,
            ask,
            request,
        });
        if let Err(error) = sent {
            self.line.asked.lock().remove(&(self.call, ask));
            return Err(unsent(error));
        }
        let answer = receiver.await;
        answer.unwrap_or_else(|_| Err(DriverError::new("cancelled", "the call was given up")))
    }
}

/// A request that does not fit into a message. (That the daemon is gone matters to nobody.)
fn unsent(error: io::Error) -> DriverError {
    DriverError::new("limit", format!("the request can't be made: {error}"))
}

impl Desk for Counter {
    fn ask(&self, request: Request) -> Answered<'_> {
        Box::pin(self.question(request))
    }
}

impl LogSink for Counter {
    fn write(&self, level: LogLevel, message: &str, fields: &[(String, String)]) {
        if self.is_said() {
            return;
        }
        // A line that can't be kept is no reason for a guest to fail.
        let _ = self.tell(Request::Log {
            level,
            message: message.to_owned(),
            fields: fields.to_vec(),
        });
    }
}

/// A function of the plugin, whatever its types are.
trait Function: Send + Sync {
    fn call<'a>(&'a self, worker: &'a Worker, params: Vec<u8>, counter: Arc<Counter>) -> Running<'a>;
}

type Running<'a> = Pin<Box<dyn Future<Output = (Outcome, Used)> + Send + 'a>>;

impl<P, T> Function for Export<P, T>
where
    P: ComponentNamedList + Lower + DeserializeOwned + Send + Sync + 'static,
    T: ComponentType + Lift + Serialize + Send + Sync + 'static,
{
    fn call<'a>(&'a self, worker: &'a Worker, params: Vec<u8>, counter: Arc<Counter>) -> Running<'a> {
        Box::pin(async move {
            let unreadable = |error: postcard::Error| Outcome::Fault(Fault::Unreadable(error.to_string()));
            let params: P = match decode(&params, Sender::Daemon) {
                Ok(params) => params,
                Err(error) => return (unreadable(error), Used::default()),
            };
            let (desk, log) = (Arc::clone(&counter) as Arc<dyn Desk>, counter as Arc<dyn LogSink>);
            let (answer, used) = worker
                .code
                .call(&worker.runtime, self, params, desk, log, worker.cpu_time, worker.memory)
                .await;
            let outcome = match answer {
                Ok(answer) => encode(&answer.map_err(cut)).map_or_else(unreadable, Outcome::Answer),
                Err(fault) => Outcome::Fault(fault),
            };
            (outcome, used)
        })
    }
}

/// All functions by their names.
#[derive(Default)]
struct Functions(HashMap<&'static str, Box<dyn Function>>);

impl Visitor for Functions {
    fn visit<P, T>(&mut self, export: &Export<P, T>) -> Result<(), ExportError>
    where
        P: ComponentNamedList + Lower + DeserializeOwned + Send + Sync + 'static,
        T: ComponentType + Lift + Serialize + Send + Sync + 'static,
    {
        self.0.insert(export.name, Box::new(export.copy()));
        Ok(())
    }
}
