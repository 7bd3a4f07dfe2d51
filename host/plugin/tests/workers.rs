//! Plugins in processes of their own: who they are, what happens when one ends in the middle of a call, and that nothing of them is left.

mod common;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use common::{Bench, call, fault, granted, start};
use hutch_driver::{DriverError, Drivers, Options};
use hutch_plugin::{PluginState, QuarantinePolicy};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const ID: &str = "org.hutch.test.faulty";

async fn validate(bench: &Bench, options: &Options) -> Result<Options, DriverError> {
    bench
        .host
        .storage("faulty")?
        .validate(&call(), &common::configured(options), None)
        .await
}

fn pid(bench: &Bench) -> u32 {
    let status = bench.host.plugin(ID).expect("listed");
    status.process.expect("it has a process of its own")
}

/// The worker's process, by a descriptor that stays its own.
fn process(bench: &Bench) -> OwnedFd {
    let pid = i32::try_from(pid(bench))
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process");
    pidfd_open(pid, PidfdFlags::empty()).expect("it lives")
}

/// Whether the process ends within some seconds.
fn ends(process: &OwnedFd) -> bool {
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)).expect("a process can be polled") == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_nobody_and_nowhere() {
    let bench = start(|_| {});
    validate(&bench, &Options::new()).await.expect("served");
    let proc = PathBuf::from(format!("/proc/{}", pid(&bench)));
    let status = std::fs::read_to_string(proc.join("status")).expect("it lives");
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(name), ["0000000000000000"], "{name}");
    }
    for (name, expected) in [
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
        ("Seccomp_filters:", "2"),
        ("Threads:", "2"),
    ] {
        assert_eq!(line(name), [expected], "{name}");
    }
    assert!(line("Groups:").is_empty(), "{status}");
    let ids = line("Uid:");
    assert!(ids.iter().all(|id| *id == ids[0]) && ids == line("Gid:"), "{status}");
    assert!(ids[0].parse::<u32>().is_ok_and(|id| id >= 0xa000_0000), "{status}");
    assert_eq!(
        line("NSpid:").last().map(String::as_str),
        Some("1"),
        "alone in its namespace of processes"
    );
    for namespace in ["mnt", "net", "ipc", "uts", "pid"] {
        let of = |process: PathBuf| std::fs::read_link(process.join("ns").join(namespace)).expect("a namespace");
        assert_ne!(of(proc.clone()), of("/proc/self".into()), "{namespace}");
    }
    let mounts = std::fs::read_to_string(proc.join("mounts")).expect("it lives");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert_eq!(std::fs::read_dir(proc.join("root")).expect("it has a root").count(), 0);
    let descriptors: Vec<_> = std::fs::read_dir(proc.join("fd"))
        .expect("it lives")
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    let known = |target: &str| {
        ["socket:", "pipe:", "anon_inode:", "/memfd:"]
            .iter()
            .any(|kind| target.starts_with(kind))
            || target.ends_with(".cwasm")
    };
    assert!(descriptors.iter().all(|target| known(target)), "{descriptors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_fails_its_calls_and_no_other() {
    let bench = start(|_| {});
    validate(&bench, &Options::new()).await.expect("served");
    let (killed, first) = (process(&bench), pid(&bench));
    let waiting = {
        let driver = bench.host.storage("faulty").expect("provided");
        tokio::spawn(async move {
            driver
                .validate(&call(), &common::configured(&fault("blocked")), None)
                .await
        })
    };
    while bench.broker.begun.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    pidfd_send_signal(&killed, Signal::KILL).expect("it lives");
    let error = waiting.await.expect("no panic").expect_err("its process is gone");
    assert_eq!(
        (error.code.as_str(), error.plugin.as_str()),
        ("unavailable", ID),
        "{error}"
    );
    assert!(
        error.retryable && error.message.contains("killed by signal 9"),
        "{error}"
    );
    // The function that the host was in the middle of goes on, and the object is not worked on until it has ended.
    let again = {
        let driver = bench.host.storage("faulty").expect("provided");
        tokio::spawn(async move {
            driver
                .validate(&call(), &common::configured(&Options::new()), None)
                .await
        })
    };
    bench.broker.release.notify_one();
    again.await.expect("no panic").expect("the next call is served");
    assert_eq!(bench.broker.ended.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_ne!(pid(&bench), first);
    assert_eq!(bench.host.plugin(ID).expect("listed").state, PluginState::Enabled);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_go_on_ending_are_quarantined() {
    let bench = start(|options| {
        options.quarantine = QuarantinePolicy {
            faults: 2,
            window: Duration::from_secs(600),
            ..QuarantinePolicy::default()
        };
    });
    bench.host.settled().await;
    for _ in 0..2 {
        validate(&bench, &Options::new()).await.expect("served");
        let process = process(&bench);
        let lines = || bench.host.logs(ID).map_or(0, |lines| lines.len());
        let before = lines();
        let hanging = {
            let driver = bench.host.storage("faulty").expect("provided");
            tokio::spawn(async move {
                driver
                    .validate(&call(), &common::configured(&fault("sleep")), None)
                    .await
            })
        };
        // The line that it logs first tells that it runs.
        while lines() == before {
            tokio::task::yield_now().await;
        }
        pidfd_send_signal(&process, Signal::KILL).expect("it lives");
        hanging.await.expect("no panic").expect_err("its process is gone");
    }
    let error = validate(&bench, &Options::new()).await.expect_err("quarantine");
    assert!(error.message.contains("quarantine (2 faults"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_out_of_service_has_no_process() {
    let bench = start(|options| {
        options.quarantine = QuarantinePolicy {
            faults: 1,
            ..QuarantinePolicy::default()
        };
    });
    validate(&bench, &Options::new()).await.expect("served");
    let running = process(&bench);
    let error = validate(&bench, &fault("trap")).await.expect_err("it traps");
    assert_eq!(error.code, "trap", "{error}");
    assert_eq!(bench.host.plugin(ID).expect("listed").state, PluginState::Quarantined);
    assert!(ends(&running), "it is left");
    bench.host.enable(ID).await.expect("lifted");
    validate(&bench, &Options::new()).await.expect("served by another");
    // That was no end of its own.
    assert_eq!(bench.host.plugin(ID).expect("listed").metrics.restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_machine_lacks_is_no_fault_of_the_plugin_s() {
    let scratch = common::fresh();
    let ids = scratch.path().join("ids");
    let bench = start(|options| {
        options.quarantine = QuarantinePolicy {
            faults: 3,
            ..QuarantinePolicy::default()
        };
        options.workers.ids.clone_from(&ids);
    });
    validate(&bench, &Options::new()).await.expect("served");
    let process = process(&bench);
    // No process can be started any more: there are no user ids.
    std::fs::remove_dir_all(&ids).expect("removed");
    std::fs::write(&ids, "").expect("written");
    pidfd_send_signal(&process, Signal::KILL).expect("it lives");
    assert!(ends(&process));
    for _ in 0..5 {
        let error = validate(&bench, &Options::new()).await.expect_err("no process");
        assert_eq!((error.code.as_str(), error.retryable), ("unavailable", true), "{error}");
        assert!(!error.answered, "the host's word in the driver's place");
    }
    let status = bench.host.plugin(ID).expect("listed");
    assert_eq!(status.state, PluginState::Enabled, "{}", status.reason);
    assert!(status.recent_faults <= 1, "{}", status.recent_faults);
    std::fs::remove_file(&ids).expect("removed");
    validate(&bench, &Options::new()).await.expect("served again");
    assert!(bench.host.plugin(ID).expect("listed").metrics.restarts >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_in_a_loop_is_stopped_in_time() {
    let bench = start(|_| {});
    validate(&bench, &Options::new()).await.expect("served");
    let first = pid(&bench);
    // How soon after its time is a matter of `cargo xtask bench`.
    for _ in 0..4 {
        let error = validate(&bench, &fault("loop")).await.expect_err("it spins");
        assert_eq!(error.code, "timeout", "{error}");
        assert!(error.message.contains("after running for 0.3 s"), "{error}");
    }
    assert_eq!(
        pid(&bench),
        first,
        "it is the guest that is stopped, and not its process"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_end_with_their_host() {
    let bench = start(|_| {});
    validate(&bench, &Options::new()).await.expect("served");
    let process = process(&bench);
    drop(bench);
    assert!(ends(&process), "it is left over");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_so_runs_in_the_daemon() {
    let bench = start(|options| {
        let mut config = granted();
        config.worker = Some(false);
        options.plugins = Some(vec![config]);
    });
    validate(&bench, &Options::new()).await.expect("served");
    assert_eq!(bench.host.plugin(ID).expect("listed").process, None);
    for (name, code) in [
        ("trap", "trap"),
        ("loop", "timeout"),
        ("memory", "limit"),
        ("exit", "trap"),
        ("not-requested", "not-requested"),
    ] {
        let error = validate(&bench, &fault(name)).await.expect_err(name);
        assert_eq!((error.code.as_str(), error.plugin.as_str()), (code, ID), "{error}");
        // As where it has a process of its own (faults.rs).
        assert!(
            error
                .to_string()
                .contains("its last log lines: asked to validate options=1"),
            "{error}"
        );
    }
}
