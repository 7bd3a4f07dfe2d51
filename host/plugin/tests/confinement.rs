//! What the compiling child may do: little.

mod common;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn compiler() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_compile-plugin"))
}

fn spawn(size: usize) -> Child {
    let mut command = Command::new(compiler());
    command
        .arg(size.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("the compiler starts")
}

fn compile(wasm: &[u8]) -> std::process::Output {
    let mut child = spawn(wasm.len());
    // It may end before it has read everything.
    let _ = child.stdin.take().expect("piped").write_all(wasm);
    child.wait_with_output().expect("it ends")
}

#[test]
fn it_gives_up_privileges_before_it_reads() {
    let mut child = spawn(1 << 20);
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let read = |file: &str| std::fs::read_to_string(proc.join(file)).expect("it lives");
    let deadline = Instant::now() + Duration::from_secs(20);
    // Parent-death signals and limits come first and the reading last; nothing tells of its beginning but the system call.
    while !read("status").contains("NoNewPrivs:\t1") || !read("wchan").contains("pipe") {
        assert!(Instant::now() < deadline, "{}", read("status"));
        std::thread::yield_now();
    }
    let limits = read("limits");
    let line = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).expect(name);
        line[name.len()..]
            .split_whitespace()
            .next()
            .expect("a limit")
            .to_owned()
    };
    assert_eq!(line("Max cpu time"), "120");
    assert_eq!(line("Max address space"), ((1_u64 << 30) + (300 << 20)).to_string());
    assert_eq!(line("Max file size"), (512_u64 << 20).to_string());
    assert_eq!(line("Max core file size"), "0");
    if is_root() {
        let status = read("status");
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
        assert!(status.contains("Gid:\t65534\t65534\t65534\t65534"), "{status}");
        let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).expect("a namespace");
        assert_ne!(network(&child.id().to_string()), network("self"));
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    }
    drop(child.stdin.take());
    assert!(!child.wait().expect("it ends").success(), "nothing is no component");
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .expect("proc")
        .contains("Uid:\t0\t")
}

#[test]
fn it_compiles_components_and_complains_of_the_rest() {
    let wasm = std::fs::read(common::guest()).expect("built");
    let output = compile(&wasm);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.starts_with(b"\x7fELF"));
    for bad in [&b"hello"[..], &wasm[..wasm.len() - 1000], b"\0asm\x01\0\0\0"] {
        let output = compile(bad);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    let output = Command::new(compiler()).arg("99999999999").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "more than a plugin may have");
}
