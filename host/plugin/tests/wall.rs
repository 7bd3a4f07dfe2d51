//! The second wall, tried from both sides: a process that does from inside a worker what an escaped guest would, and a
//! worker that lies to the daemon.
//!
//! A program without the usual harness, because it is also the worker that misbehaves, and that must have one thread.

#![allow(unsafe_code, reason = "what is tried is raw system calls, which must be refused")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use common::{Bench, call, start};
use hutch_broker::{LogLevel, Request, Response};
use hutch_driver::{DriverError, Drivers, Options};
use serde::Serialize;

const ID: u32 = 0xa000_ffff;
const MEMORY: u64 = 64 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["call", name] => try_call(name),
        ["look-around"] => look_around(),
        ["hostile", way, ..] => hostile(way),
        _ => {
            system_calls_end_the_process();
            the_other_walls_hold_without_the_filter();
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            for (way, expected) in WAYS {
                runtime.block_on(a_hostile_worker_is_killed(way, expected));
            }
            runtime.block_on(grants_are_checked_in_the_daemon());
            runtime.block_on(what_a_worker_says_is_bounded());
            runtime.block_on(a_slow_worker_gets_its_answers());
            println!("the wall holds");
            ExitCode::SUCCESS
        }
    }
}

/// System calls that would be a way out, or a beginning of one. The arguments are such that most succeed for root.
const CALLS: &[(&str, libc::c_long, [libc::c_long; 4])] = &[
    ("open", libc::SYS_openat, [-100, 0, 0, 0]),
    ("open a handle", libc::SYS_open_by_handle_at, [0, 0, 0, 0]),
    ("make a file in memory", libc::SYS_memfd_create, [0, 0, 0, 0]),
    ("take a descriptor from the socket", libc::SYS_recvmsg, [0, 0, 0, 0]),
    ("pass a descriptor", libc::SYS_sendmsg, [0, 0, 0, 0]),
    ("connect", libc::SYS_connect, [0, 0, 0, 0]),
    ("make a process", libc::SYS_clone, [17, 0, 0, 0]),
    ("make a process another way", libc::SYS_clone3, [0, 0, 0, 0]),
    ("execute", libc::SYS_execve, [0, 0, 0, 0]),
    ("execute a descriptor", libc::SYS_execveat, [1, 0, 0, 0]),
    ("trace", libc::SYS_ptrace, [16, 1, 0, 0]),
    ("read another's memory", libc::SYS_process_vm_readv, [1, 0, 0, 0]),
    ("signal", libc::SYS_kill, [-1, 0, 0, 0]),
    ("open a process", libc::SYS_pidfd_open, [1, 0, 0, 0]),
    ("take another's descriptor", libc::SYS_pidfd_getfd, [0, 0, 0, 0]),
    ("outlive the daemon", libc::SYS_prctl, [1, 0, 0, 0]),
    ("become root", libc::SYS_setuid, [0, 0, 0, 0]),
    ("take capabilities", libc::SYS_capset, [0, 0, 0, 0]),
    ("make namespaces", libc::SYS_unshare, [0x1000_0000, 0, 0, 0]),
    ("enter namespaces", libc::SYS_setns, [0, 0, 0, 0]),
    ("mount", libc::SYS_mount, [0, 0, 0, 0]),
    ("change the root", libc::SYS_chroot, [0, 0, 0, 0]),
    ("load a program into the kernel", libc::SYS_bpf, [0, 0, 0, 0]),
    (
        "have system calls made by a ring",
        libc::SYS_io_uring_setup,
        [1, 0, 0, 0],
    ),
    ("handle page faults", libc::SYS_userfaultfd, [0, 0, 0, 0]),
    ("measure others", libc::SYS_perf_event_open, [0, 0, 0, 0]),
    ("keys", libc::SYS_keyctl, [0, 0, 0, 0]),
    ("control a device", libc::SYS_ioctl, [0, 0, 0, 0]),
    ("another personality", libc::SYS_personality, [0x0040_0000, 0, 0, 0]),
    ("raise a limit", libc::SYS_prlimit64, [0, 0, 0, 0]),
];

fn try_call(name: &str) -> ExitCode {
    hutch_plugin::confine_worker(ID, MEMORY, true).expect("confined");
    let result = match name {
        "executable memory" => executable_memory(),
        "memory made executable" => memory_made_executable(),
        "shared memory" => shared_memory(),
        // A guest's runtime may try this one, which is refused in words.
        "socket" => match TcpStream::connect("127.0.0.1:1") {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => return ExitCode::from(7),
            _ => 0,
        },
        _ => {
            let (_, number, [a, b, c, d]) = CALLS.iter().find(|(known, ..)| *known == name).expect("known");
            // SAFETY: no argument points to memory that the kernel could write to; the process ends here or right after.
            unsafe { libc::syscall(*number, *a, *b, *c, *d) }
        }
    };
    // It was made, whatever came of it.
    println!("{result}");
    ExitCode::SUCCESS
}

fn page(protection: i32) -> *mut libc::c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new, private, anonymous memory, which nothing points to.
    unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) }
}

fn executable_memory() -> i64 {
    i64::from(page(libc::PROT_READ | libc::PROT_EXEC) == libc::MAP_FAILED)
}

fn shared_memory() -> i64 {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: new, anonymous memory, which nothing points to.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    i64::from(page == libc::MAP_FAILED)
}

fn memory_made_executable() -> i64 {
    let page = page(libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: this page is nobody else's.
    let result = unsafe { libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC) };
    i64::from(result)
}

fn own(args: &[&str]) -> std::process::Output {
    let program = std::env::current_exe().expect("this program");
    Command::new(program).args(args).output().expect("it runs")
}

fn system_calls_end_the_process() {
    let names =
        CALLS
            .iter()
            .map(|(name, ..)| *name)
            .chain(["executable memory", "memory made executable", "shared memory"]);
    for name in names {
        let output = own(&["call", name]);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{name}: {output:?}");
    }
    assert_eq!(own(&["call", "socket"]).status.code(), Some(7));
    println!("{} system calls are refused", CALLS.len() + 4);
}

/// Without the filter of system calls, what the other walls hold back.
fn look_around() -> ExitCode {
    hutch_plugin::confine_worker(ID, MEMORY, false).expect("confined");
    let mut wrong = Vec::new();
    let mut held = |what: &str, result: std::io::Result<()>| {
        if result.is_ok() {
            wrong.push(what.to_owned());
        }
    };
    for path in [
        "/etc/passwd",
        "/proc/1/environ",
        "/proc/self/root/etc/passwd",
        "/dev/null",
        "../../../../etc/passwd",
    ] {
        held(path, std::fs::read(path).map(drop));
    }
    let entries = std::fs::read_dir("/").map_or(0, Iterator::count);
    held(
        "something in the root",
        if entries == 0 {
            Err(std::io::ErrorKind::NotFound.into())
        } else {
            Ok(())
        },
    );
    held("writing", std::fs::write("/file", b"x"));
    held("a directory", std::fs::create_dir("/directory"));
    held("a network", TcpStream::connect("127.0.0.1:22").map(drop));
    held("an address", std::net::TcpListener::bind("0.0.0.0:2222").map(drop));
    held(
        "a socket in the file system",
        std::os::unix::net::UnixStream::connect("/run/dbus/system_bus_socket").map(drop),
    );
    held("a program", Command::new("/bin/true").status().map(drop));
    let errno = |result: nix::Result<()>| result.map_err(std::io::Error::from);
    held("root's id", errno(nix::unistd::setuid(0.into())));
    held("root's group", errno(nix::unistd::setgid(0.into())));
    held("groups", errno(nix::unistd::setgroups(&[0.into()])));
    held(
        "the parent's end",
        errno(nix::sys::signal::kill(
            nix::unistd::getppid(),
            nix::sys::signal::Signal::SIGTERM,
        )),
    );
    held(
        "a mount",
        errno(nix::mount::mount(
            Some("none"),
            "/",
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )),
    );
    held(
        "a network namespace",
        errno(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)),
    );
    held("another's host name", errno(nix::unistd::sethostname("out")));
    held("more memory", {
        let mut much: Vec<u8> = Vec::new();
        much.try_reserve_exact(usize::try_from(MEMORY).expect("it fits") * 2)
            .map_err(std::io::Error::other)
    });
    println!("{wrong:?}");
    if wrong.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn the_other_walls_hold_without_the_filter() {
    let output = own(&["look-around"]);
    assert!(output.status.success(), "{output:?}");
    println!("the other walls hold without the filter");
}

/// What a hostile worker does, and what the caller is told.
const WAYS: &[(&str, &str)] = &[
    ("garbage", "can't be read"),
    ("a length of a gigabyte", "1073741824 bytes"),
    ("done with a foreign call", "which it does not have"),
    ("a foreign call asks", "which it does not have"),
    ("a call that has ended asks", "which it does not have"),
    ("done twice", "which it does not have"),
    ("two questions at once", "waits for an answer"),
    ("done while it waits", "waits for an answer"),
    ("tells what is to be asked", "which is to be asked"),
    ("ready twice", "ready twice"),
    ("ends", "ended with status 3"),
    ("half a message", "ended with status 4"),
    ("hoards memory", "killed by signal 9"),
];

/// A plugin host whose workers are this program.
fn hostile_host(way: &str) -> Bench {
    start(|options| {
        options.workers.program = std::env::current_exe().expect("this program");
        options.workers.args = vec!["hostile".to_owned(), way.to_owned()];
    })
}

async fn validate(bench: &Bench) -> Result<Options, DriverError> {
    bench
        .host
        .storage("faulty")?
        .validate(&call(), &common::configured(&Options::new()), None)
        .await
}

async fn a_hostile_worker_is_killed(way: &str, expected: &str) {
    let bench = hostile_host(way);
    let mut result = validate(&bench).await;
    if result.is_ok() {
        // Those that begin with an honest call.
        result = validate(&bench).await;
    }
    let error = result.expect_err(way);
    bench.broker.release.notify_waiters();
    assert_eq!(
        (error.code.as_str(), error.retryable),
        ("unavailable", true),
        "{way}: {error}"
    );
    assert!(
        error.plugin == "org.hutch.test.faulty" && error.message.contains(expected),
        "{way}: {error}"
    );
    let status = bench.host.plugin("org.hutch.test.faulty").expect("listed");
    let pid = status.process.expect("it had one");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(std::time::Instant::now() < deadline, "{way}: the process lives");
        tokio::task::yield_now().await;
    }
    println!("{way}: {}", error.message);
}

/// A worker can't get more for its plugin than the plugin may: the request is held against the grants where it is done.
async fn grants_are_checked_in_the_daemon() {
    let bench = hostile_host("asks for more");
    let error = validate(&bench).await.expect_err("it was refused");
    assert_eq!(error.code, "not-requested", "{error}");
    assert_eq!(
        bench
            .host
            .plugin("org.hutch.test.faulty")
            .expect("listed")
            .metrics
            .denied
            .get("link"),
        Some(&1)
    );
}

async fn what_a_worker_says_is_bounded() {
    let bench = hostile_host("lies");
    let error = validate(&bench).await.expect_err("it fails");
    assert_eq!(error.code, "internal", "a code that is none");
    assert!(
        error.message.len() < 4096 && !error.message.contains('\u{1b}'),
        "{}",
        error.message.len()
    );
    assert!(error.details.len() <= 16, "{}", error.details.len());
    let bench = hostile_host("floods");
    let started = std::time::Instant::now();
    let error = validate(&bench).await.expect_err("it never ends");
    assert_eq!(error.code, "timeout", "{error}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(error.log.len() <= 8, "{:?}", error.log);
}

/// More answers than may wait for a worker at a time are no reason to end it: each waits for its turn.
async fn a_slow_worker_gets_its_answers() {
    let bench = hostile_host("takes its time");
    bench.host.settled().await;
    let calls: Vec<_> = (0..SLOW)
        .map(|number| {
            let driver = bench.host.storage("faulty").expect("provided");
            tokio::spawn(async move {
                let call = hutch_driver::Call::new("default", &format!("pool{number}"));
                driver.validate(&call, &common::configured(&Options::new()), None).await
            })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic").expect("it is answered");
    }
    println!("{SLOW} answers of 39 MiB were taken");
}

/// Calls at once, as many as the guest's manifest allows.
const SLOW: usize = 4;

/// Numbers of the messages, as `protocol.rs` orders them.
const READY: u32 = 0;
const ASK: u32 = 2;
const TELL: u32 = 3;
const DONE: u32 = 4;
/// Numbers of outcomes: an answer, and a fault of which the first kind is an error of the host's.
const ANSWER: u32 = 0;
const FAULT: u32 = 1;

/// What it says that its guests used: processor time and memory.
const USED: (u64, u64) = (1, u64::MAX);

struct Liar(std::fs::File);

impl Liar {
    fn send(&mut self, message: &impl Serialize) {
        let body = postcard::to_allocvec(message).expect("it can be written");
        let length = u32::try_from(body.len()).expect("it fits").to_le_bytes();
        // The daemon may have hung up.
        let _ = self.0.write_all(&length).and_then(|()| self.0.write_all(&body));
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        if self.0.read_exact(&mut length).is_err() {
            std::process::exit(0);
        }
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut body).expect("a whole message");
        body
    }

    /// The next call's number.
    fn call(&mut self) -> u64 {
        let body = self.receive();
        let ((_, id), _): ((u32, u64), _) = postcard::take_from_bytes(&body).expect("a call");
        id
    }

    fn done(&mut self, call: u64) {
        let answer = postcard::to_allocvec(&Ok::<Vec<(String, String)>, ()>(Vec::new())).expect("it can be written");
        self.send(&(DONE, call, ANSWER, answer, USED));
    }

    fn stat(&mut self, call: u64, ask: u64) {
        let at = hutch_driver::TreePath {
            root: "pool".to_owned(),
            path: "x".to_owned(),
        };
        self.send(&(ASK, call, ask, Request::FsStat { at }));
    }
}

/// Fills memory and gives up the right to write to it, which takes it out of what the process's own limit counts.
fn hoard() {
    let length = 16 << 20;
    loop {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: new, private, anonymous memory, which nothing points to.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED, "the machine has no more");
        // SAFETY: this memory is nobody else's.
        let result = unsafe { libc::mprotect(memory, length, libc::PROT_READ) };
        assert_eq!(result, 0);
    }
}

/// A worker without walls that says what it should not.
fn hostile(way: &str) -> ExitCode {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("a socket");
    let mut liar = Liar(socket.into());
    liar.receive();
    let ready = (READY, 3_u32, true, 0_u32);
    liar.send(&ready);
    let call = liar.call();
    match way {
        "garbage" => liar.send(&(77_u32, "nonsense")),
        "a length of a gigabyte" => drop(liar.0.write_all(&(1_u32 << 30).to_le_bytes())),
        "done with a foreign call" => liar.done(call + 1000),
        "a foreign call asks" => liar.stat(call + 1000, 0),
        "a call that has ended asks" => {
            liar.done(call);
            liar.call();
            liar.stat(call, 0);
        }
        "done twice" => {
            liar.done(call);
            liar.call();
            liar.done(call);
        }
        "two questions at once" => {
            liar.stat(call, 0);
            liar.stat(call, 1);
        }
        "done while it waits" => {
            liar.stat(call, 0);
            liar.done(call);
        }
        "tells what is to be asked" => liar.send(&(TELL, call, Request::SystemArchitecture)),
        "ready twice" => liar.send(&ready),
        "takes its time" => {
            let mut calls = vec![call];
            while calls.len() < SLOW {
                calls.push(liar.call());
            }
            for call in &calls {
                let key = "large".to_owned();
                liar.send(&(ASK, call, 0_u64, Request::ConfigGet { key }));
            }
            // The daemon has all answers before any of them is taken.
            std::thread::sleep(Duration::from_millis(500));
            for _ in &calls {
                liar.receive();
            }
            for call in calls {
                liar.done(call);
            }
        }
        "hoards memory" => hoard(),
        "ends" => return ExitCode::from(3),
        "half a message" => {
            drop(liar.0.write_all(&[200, 0, 0, 0, 1, 2, 3]));
            return ExitCode::from(4);
        }
        "asks for more" => {
            liar.send(&(
                ASK,
                call,
                5_u64,
                Request::LinkSetUp {
                    name: "eth0".to_owned(),
                    up: false,
                },
            ));
            let body = liar.receive();
            let answer: (u32, u64, u64, Result<Response, DriverError>) =
                postcard::from_bytes(&body).expect("an answer");
            let error = answer.3.expect_err("it is not granted");
            liar.send(&(
                DONE,
                call,
                FAULT,
                0_u32,
                (error.code, error.message, false, error.details),
                USED,
            ));
        }
        "lies" => {
            let details = vec![("k".repeat(5000), "v".repeat(5000)); 100];
            liar.send(&(
                DONE,
                call,
                FAULT,
                0_u32,
                ("NOT a code", "\u{1b}[31m".repeat(100_000), true, details),
                USED,
            ));
        }
        "floods" => loop {
            let request = Request::Log {
                level: LogLevel::Info,
                message: "m".repeat(4096),
                fields: Vec::new(),
            };
            liar.send(&(TELL, call, request));
        },
        other => panic!("no way {other:?}"),
    }
    // Whatever comes of it, it does not go away by itself.
    loop {
        std::thread::park();
    }
}
