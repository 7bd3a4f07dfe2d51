//! Containers with busybox: all that needs no distribution.

mod common;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use common::sftp::Sftp;
use common::{Lab, program, run, run_spec, timeout};
use hutch_container::{
    AdoptOutcome, ContainerState, CpuQuota, DeviceControl, DeviceRule, ExecStdio, ExitKind, ExitStatus, FaultKind,
    KeeperEvent, Limits, Mount, RootFs, Runtime,
};

const OK: ExitStatus = ExitStatus::Code(0);

/// Reads from a console or terminal until the text has come.
async fn read_until(fd: &OwnedFd, text: &str) -> String {
    let mut file = std::fs::File::from(fd.try_clone().unwrap());
    let text = text.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let (mut seen, mut buffer) = (String::new(), [0; 1024]);
        while !seen.contains(&text) {
            match file.read(&mut buffer) {
                Ok(length) if length > 0 => seen.push_str(&String::from_utf8_lossy(&buffer[..length])),
                end => panic!("{end:?} after {seen:?}"),
            }
        }
        seen
    });
    timeout(reading).await.unwrap()
}

#[tokio::test]
async fn boots_executes_and_is_killed_without_a_trace() {
    let lab = Lab::new();
    let spec = lab.busybox("boot");
    let keeper = lab.runtime.create(&spec, None).await.unwrap();
    let mut events = keeper.events();
    assert_eq!(keeper.state(), ContainerState::Created);
    keeper.start().await.unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(
        keeper.state(),
        ContainerState::Running {
            reboots: 0,
            frozen: false,
            ..
        }
    ));
    assert!(matches!(events.recv().await.unwrap(), KeeperEvent::Started { .. }));
    assert!(matches!(
        lab.runtime.create(&spec, None).await,
        Err(hutch_container::Error::Exists { .. })
    ));

    let script = "hostname; id -u; cat /proc/1/comm; cat /proc/self/cgroup | tail -1; readlink /proc/1/root; ls /";
    let (status, text) = run(&keeper, &["sh", "-c", script]).await;
    assert_eq!(
        (status, text.as_str()),
        (
            OK,
            "boot\n0\ninit\n0::/.hutch\n/\nbin\ndev\netc\nproc\nroot\nrun\nsbin\nsys\ntmp\n"
        )
    );
    // Each boot has an id of its own.
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(run(&keeper, &["cat", "/proc/sys/kernel/random/boot_id"]).await.1, host);

    keeper.kill().await.unwrap();
    assert!(matches!(keeper.state(), ContainerState::Ended(exit) if exit.kind == ExitKind::Killed));
    keeper.kill().await.unwrap();
    keeper.release().await.unwrap();
    keeper.gone().await;
    for hierarchy in hutch_sys::cgroup::Hierarchies::find().roots() {
        assert!(
            !hierarchy.join("hutch").join(&spec.cgroup).exists(),
            "{}",
            hierarchy.display()
        );
    }
    // All that stays is where the directory is, by which a copy of it is known for one.
    let left: Vec<_> = std::fs::read_dir(lab.dir.path().join("run"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["place"]);
    assert!(lab.runtime.adopt().await.unwrap().found.is_empty());
}

#[tokio::test]
async fn programs_get_what_is_asked_for_and_no_more() {
    let lab = Lab::new();
    let keeper = lab.start(&lab.busybox("exec")).await;
    let mut spec = program("user", &["sh", "-c", "id -u; id -g; id -G; pwd; env | sort; exit 3"]);
    (spec.uid, spec.gid, spec.groups, spec.cwd) = (1000, 1001, vec![7], Some("/tmp".to_owned()));
    spec.env = vec![("PATH".into(), "/bin".into()), ("A".into(), "b c".into())];
    let (status, text) = run_spec(&keeper, spec).await;
    assert_eq!(status, ExitStatus::Code(3));
    assert!(text.starts_with("1000\n1001\n1001 7\n/tmp\nA=b c\n"), "{text}");
    assert!(!text.contains("HOME"), "{text}");

    // Descriptors of the host's do not come along, and a signal's end is told as one.
    let (_, text) = run(&keeper, &["sh", "-c", "ls /proc/self/fd"]).await;
    assert_eq!(text, "0\n1\n2\n3\n", "ls itself has the fourth");
    let (status, _) = run(&keeper, &["sh", "-c", "kill -9 $$"]).await;
    assert_eq!((status, status.shell_code()), (ExitStatus::Signal(9), 137));

    for (command, cwd, kind) in [
        (&["nothing"][..], None, FaultKind::NotFound),
        (&["/bin/nothing"], None, FaultKind::NotFound),
        (&["/etc/passwd"], None, FaultKind::NotExecutable),
        (&["true"], Some("/nowhere"), FaultKind::NotFound),
    ] {
        let mut spec = program("wrong", command);
        spec.cwd = cwd.map(str::to_owned);
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let stdio = ExecStdio::Pipes {
            stdin: null(),
            stdout: null(),
            stderr: null(),
        };
        let error = keeper.exec(spec, stdio).await.unwrap_err();
        assert_eq!(
            error.fault().map(|fault| fault.kind),
            Some(kind),
            "{command:?}: {error}"
        );
    }
    assert!(keeper.list_execs().is_empty());
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    let lab = Lab::new();
    let keeper = lab.start(&lab.busybox("pty")).await;
    let spec = program(
        "pty",
        &[
            "sh",
            "-c",
            "stty size; tty; read line; echo got $line; ps -o tty,comm | grep sh",
        ],
    );
    let mut exec = keeper.exec(spec, ExecStdio::Pty { cols: 132, rows: 43 }).await.unwrap();
    let master = exec.take_pty().unwrap();
    let text = read_until(&master, "/dev/pts/").await;
    assert!(text.starts_with("43 132\r\n"), "{text}");
    std::fs::File::from(master.try_clone().unwrap())
        .write_all(b"hello\n")
        .unwrap();
    read_until(&master, "got hello").await;
    assert_eq!(timeout(exec.wait()).await, Some(OK));
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn many_programs_at_once_and_signals() {
    let lab = Lab::new();
    let keeper = lab.start(&lab.busybox("many")).await;
    let mut running = Vec::new();
    for number in 0..40 {
        let keeper = keeper.clone();
        let status = format!("exit {number}");
        running.push(tokio::spawn(
            async move { run(&keeper, &["sh", "-c", &status]).await.0 },
        ));
    }
    for (number, task) in (0..).zip(running) {
        assert_eq!(task.await.unwrap(), ExitStatus::Code(number));
    }
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let stdio = ExecStdio::Pipes {
        stdin: null(),
        stdout: null(),
        stderr: null(),
    };
    let exec = keeper.exec(program("sleep", &["sleep", "1000"]), stdio).await.unwrap();
    assert_eq!(keeper.list_execs().len(), 1);
    exec.signal(15).await.unwrap();
    assert_eq!(timeout(exec.wait()).await, Some(ExitStatus::Signal(15)));
    assert_eq!(keeper.exec_result("sleep").await, Some(ExitStatus::Signal(15)));
    assert_eq!(
        exec.signal(15).await.unwrap_err().fault().unwrap().kind,
        FaultKind::NotFound
    );
    keeper.forget_exec("sleep").await.unwrap();
    assert_eq!(keeper.exec_result("sleep").await, None);
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn the_console_is_logged_and_shared() {
    let lab = Lab::new();
    let mut spec = lab.busybox("console");
    let RootFs::Bind { path } = &spec.root else {
        unreachable!()
    };
    std::fs::write(
        path.join("etc/inittab"),
        "::sysinit:/bin/echo booted\nconsole::respawn:/bin/sh\n",
    )
    .unwrap();
    spec.console.log_bytes = 4096;
    let keeper = lab.start(&spec).await;
    let (one, two) = (keeper.console().await.unwrap(), keeper.console().await.unwrap());
    keeper.console_resize(100, 30).await.unwrap();
    std::fs::File::from(one.try_clone().unwrap())
        .write_all(b"echo a$((1+1))b; stty size\n")
        .unwrap();
    for stream in [&one, &two] {
        read_until(stream, "30 100").await;
    }
    drop(two);
    let log = String::from_utf8(keeper.console_log().await.unwrap()).unwrap();
    assert!(log.contains("booted") && log.contains("a2b"), "{log}");
    std::fs::File::from(one.try_clone().unwrap())
        .write_all(b"i=0; while [ $i -lt 600 ]; do echo line $i; i=$((i+1)); done\n")
        .unwrap();
    read_until(&one, "line 599").await;
    let log = String::from_utf8(keeper.console_log().await.unwrap()).unwrap();
    assert!(
        log.len() == 4096 && log.contains("line 599") && !log.contains("booted"),
        "{}",
        log.len()
    );
    keeper.clear_console_log().await.unwrap();
    assert_eq!(keeper.console_log().await.unwrap(), b"");
    lab.stop(&keeper).await;
}

#[test]
fn reboots_and_programs_go_on_without_a_daemon() {
    let lab = Lab::new();
    let daemon = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let first = daemon();
    let spec = lab.busybox("reboot");
    let marker = |name: &str| {
        let RootFs::Bind { path } = &spec.root else {
            unreachable!()
        };
        path.join("tmp").join(name)
    };
    let netns = first.block_on(async {
        let keeper = lab.start(&spec).await;
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let stdio = ExecStdio::Pipes {
            stdin: null(),
            stdout: null(),
            stderr: null(),
        };
        // On a terminal that nobody reads later, with more output than it holds.
        let noisy = program(
            "noisy",
            &[
                "sh",
                "-c",
                "until [ -e /tmp/go ]; do sleep 0.02; done; seq 1 20000; touch /tmp/done; exit 5",
            ],
        );
        keeper.exec(noisy, ExecStdio::Pty { cols: 80, rows: 24 }).await.unwrap();
        keeper
            .exec(program("short", &["sh", "-c", "exit 6"]), stdio)
            .await
            .unwrap();
        rustix::fs::fstat(keeper.netns()).unwrap().st_ino
    });
    first.shutdown_background();
    std::fs::write(marker("go"), "").unwrap();
    while !marker("done").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let second = daemon();
    second.block_on(async {
        let keeper = adopt(&lab.runtime, &spec.id).await;
        assert_eq!(timeout(keeper.exec_result("noisy")).await, Some(ExitStatus::Code(5)));
        assert_eq!(timeout(keeper.exec_result("short")).await, Some(ExitStatus::Code(6)));
        assert_eq!(keeper.list_execs().len(), 2);
        // Begun now, acts when this daemon is gone as well.
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let stdio = ExecStdio::Pipes {
            stdin: null(),
            stdout: null(),
            stderr: null(),
        };
        let later = "until [ -e /tmp/reboot ]; do sleep 0.02; done; rm /tmp/reboot; echo was here > /tmp/kept; reboot";
        keeper
            .exec(program("later", &["sh", "-c", later]), stdio)
            .await
            .unwrap();
        // Held still by a daemon that dies, it goes on.
        keeper.hold().await.unwrap();
        assert!(matches!(keeper.state(), ContainerState::Running { frozen: true, .. }));
    });
    second.shutdown_background();
    std::fs::write(marker("reboot"), "").unwrap();
    while marker("reboot").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    daemon().block_on(async {
        let keeper = timeout(async {
            loop {
                let keeper = adopt(&lab.runtime, &spec.id).await;
                if matches!(keeper.state(), ContainerState::Running { reboots: 1, .. }) {
                    return keeper;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        assert_eq!(rustix::fs::fstat(keeper.netns()).unwrap().st_ino, netns);
        assert_eq!(
            run(
                &keeper,
                &["sh", "-c", "cat /tmp/kept; cut -d' ' -f5 /proc/net/fib_trie | wc -l"]
            )
            .await
            .1
            .lines()
            .next(),
            Some("was here")
        );
        let log = String::from_utf8(keeper.console_log().await.unwrap()).unwrap();
        assert_eq!(log.matches("booted").count(), 2, "{log}");
        lab.stop(&keeper).await;
    });
}

async fn adopt(runtime: &Runtime, id: &str) -> hutch_container::Keeper {
    let mut found = runtime.adopt().await.unwrap().found;
    assert_eq!(found.len(), 1);
    match found.remove(0) {
        (found, AdoptOutcome::Adopted(keeper)) if found == id => keeper,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn reboots_twice_and_powers_off() {
    let lab = Lab::new();
    let spec = lab.busybox("cycle");
    let keeper = lab.start(&spec).await;
    let mut events = keeper.events();
    for reboots in 1..=2 {
        keeper.reboot().await.unwrap();
        // busybox takes SIGINT as Ctrl-Alt-Del and has no action for it here: its own reboot then.
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let stdio = ExecStdio::Pipes {
            stdin: null(),
            stdout: null(),
            stderr: null(),
        };
        drop(
            keeper
                .exec(program(&format!("reboot{reboots}"), &["reboot"]), stdio)
                .await,
        );
        loop {
            if let KeeperEvent::Rebooted { pid } = timeout(events.recv()).await.unwrap() {
                assert_eq!(
                    keeper.state(),
                    ContainerState::Running {
                        pid,
                        reboots,
                        frozen: false
                    }
                );
                break;
            }
        }
        assert_eq!(run(&keeper, &["true"]).await.0, OK);
    }
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let stdio = ExecStdio::Pipes {
        stdin: null(),
        stdout: null(),
        stderr: null(),
    };
    keeper.exec(program("off", &["poweroff"]), stdio).await.unwrap();
    let ended = timeout(keeper.ended()).await;
    assert!(
        matches!(ended, ContainerState::Ended(exit) if exit.kind == ExitKind::Halted),
        "{ended:?}"
    );
    keeper.release().await.unwrap();
}

#[tokio::test]
async fn limits_hold_and_change_while_it_runs() {
    let lab = Lab::new();
    let mut spec = lab.busybox("limits");
    spec.limits = Limits {
        memory: Some(64 << 20),
        processes: Some(50),
        ..Limits::default()
    };
    let keeper = lab.start(&spec).await;
    let stats = keeper.stats();
    assert_eq!(stats.memory_limit, Some(64 << 20));
    // Programs inside look for their limit there, where it is one of this hierarchy.
    let inside = "cat /sys/fs/cgroup/memory.max 2>/dev/null || echo 67108864";
    assert_eq!(run(&keeper, &["sh", "-c", inside]).await.1, "67108864\n");
    assert!(
        stats.processes.is_some_and(|count| (1..10).contains(&count)),
        "{stats:?}"
    );
    assert!(
        stats.memory.is_some_and(|bytes| bytes > 0) && stats.cpu_ns.is_some(),
        "{stats:?}"
    );

    // dd asks for one buffer of 40 MiB and touches it.
    let dd = &["sh", "-c", "dd if=/dev/zero of=/dev/null bs=40M count=1 2>/dev/null"];
    assert_eq!(run(&keeper, dd).await.0, OK);
    keeper
        .set_limits(&Limits {
            memory: Some(20 << 20),
            ..Limits::default()
        })
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    assert_ne!(run(&keeper, dd).await.0, OK);
    assert_eq!(keeper.stats().memory_limit, Some(20 << 20));

    let forks = "i=0; while [ $i -lt 30 ]; do sleep 5 & i=$((i+1)); done; echo all; kill $(jobs -p); wait";
    assert!(run(&keeper, &["sh", "-c", forks]).await.1.contains("all"));
    keeper
        .set_limits(&Limits {
            processes: Some(20),
            ..Limits::default()
        })
        .await
        .unwrap();
    assert!(!run(&keeper, &["sh", "-c", forks]).await.1.contains("all"));

    keeper.set_limits(&Limits::default()).await.unwrap();
    assert_eq!(keeper.stats().memory_limit, None);
    let quota = Some(CpuQuota {
        quota_us: 10_000,
        period_us: 100_000,
    });
    keeper
        .set_limits(&Limits {
            cpu_quota: quota,
            cpu_set: Some("0".parse().unwrap()),
            ..Limits::default()
        })
        .await
        .unwrap();
    assert_eq!(
        run(&keeper, &["sh", "-c", "grep Cpus_allowed_list /proc/self/status"])
            .await
            .1,
        "Cpus_allowed_list:\t0\n"
    );
    let before = keeper.stats().cpu_ns.unwrap();
    run(&keeper, &["timeout", "1", "sh", "-c", "while :; do :; done"]).await;
    let used = (keeper.stats().cpu_ns.unwrap() - before) / 1_000_000;
    assert!((50..300).contains(&used), "{used} ms of a second at a tenth");
    let error = keeper
        .set_limits(&Limits {
            cpu_set: Some("4000".parse().unwrap()),
            ..Limits::default()
        })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn frozen_means_nothing_runs() {
    let lab = Lab::new();
    let spec = lab.busybox("freeze");
    let keeper = lab.start(&spec).await;
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let stdio = ExecStdio::Pipes {
        stdin: null(),
        stdout: null(),
        stderr: null(),
    };
    keeper
        .exec(
            program(
                "count",
                &["sh", "-c", "while :; do echo >> /tmp/count; sleep 0.01; done"],
            ),
            stdio,
        )
        .await
        .unwrap();
    let RootFs::Bind { path } = &spec.root else {
        unreachable!()
    };
    let count = || std::fs::read(path.join("tmp/count")).unwrap_or_default().len();
    timeout(async {
        while count() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    keeper.freeze().await.unwrap();
    assert!(matches!(keeper.state(), ContainerState::Running { frozen: true, .. }));
    let frozen = count();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(count(), frozen);
    let stdio = ExecStdio::Pipes {
        stdin: null(),
        stdout: null(),
        stderr: null(),
    };
    let error = keeper.exec(program("x", &["true"]), stdio).await.unwrap_err();
    assert_eq!(error.fault().unwrap().kind, FaultKind::State, "{error}");

    // Its files are served all the same, by a server that has the container's limits and end.
    let stream = timeout(keeper.sftp()).await.unwrap();
    let (mut sftp, cgroups) = tokio::task::spawn_blocking(move || {
        let mut sftp = Sftp::new(stream);
        assert_eq!(sftp.get("/tmp/count").unwrap().len(), frozen);
        sftp.put("/tmp/put", b"while frozen", 0o600);
        let cgroups = sftp.get("/proc/self/cgroup").unwrap();
        (sftp, String::from_utf8(cgroups).unwrap())
    })
    .await
    .unwrap();
    assert_eq!(count(), frozen);
    keeper.thaw().await.unwrap();
    let programs = run(&keeper, &["cat", "/proc/self/cgroup", "/tmp/put"]).await.1;
    assert_eq!(programs, cgroups.replace("0::/../files", "0::/.hutch") + "while frozen");
    timeout(async {
        while count() <= frozen {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    keeper.freeze().await.unwrap();
    // Held, it is as it was before, but that its files are not served.
    keeper.hold().await.unwrap();
    let mut putting = tokio::task::spawn_blocking(move || {
        sftp.put("/tmp/held", b"", 0o600);
        sftp
    });
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut putting).await;
    assert!(
        early.is_err() && !path.join("tmp/held").exists(),
        "a file server went on"
    );
    keeper.freeze().await.unwrap();
    let mut sftp = timeout(putting).await.unwrap();
    assert!(path.join("tmp/held").exists());
    assert!(matches!(keeper.state(), ContainerState::Running { frozen: true, .. }));
    lab.stop(&keeper).await;
    let ended = tokio::task::spawn_blocking(move || sftp.is_over());
    assert!(timeout(ended).await.unwrap(), "a file server outlived its container");
}

#[tokio::test]
async fn programs_start_though_the_container_removed_their_cgroup() {
    let lab = Lab::new();
    let spec = lab.busybox("removed");
    let keeper = lab.start(&spec).await;
    let RootFs::Bind { path: root } = &spec.root else {
        unreachable!()
    };
    let remove = "echo $$ > /sys/fs/cgroup/cgroup.procs; touch /tmp/out; \
                  until rmdir /sys/fs/cgroup/.hutch; do sleep 0.01; done; touch /tmp/removed; sleep 60";
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let stdio = ExecStdio::Pipes {
        stdin: null(),
        stdout: null(),
        stderr: null(),
    };
    keeper
        .exec(program("remove", &["sh", "-c", remove]), stdio)
        .await
        .unwrap();
    timeout(async {
        while !root.join("tmp/removed").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(
        run(&keeper, &["cat", "/proc/self/cgroup"]).await.1.lines().last(),
        Some("0::/.hutch")
    );
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn files_of_running_and_stopped_containers() {
    let lab = Lab::new();
    let spec = lab.busybox("files");
    let RootFs::Bind { path: root } = &spec.root else {
        unreachable!()
    };
    std::os::unix::fs::symlink("/etc", root.join("tmp/link")).unwrap();
    let keeper = lab.start(&spec).await;
    let stream = keeper.sftp().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let mut sftp = Sftp::new(stream);
        sftp.put("/tmp/link/new", b"from outside", 0o751);
        assert_eq!(sftp.get("/proc/self/comm").unwrap(), b"hutch-sftp\n");
        assert_eq!(sftp.get("/no/such").unwrap_err(), 2);
    })
    .await
    .unwrap();
    assert_eq!(run(&keeper, &["stat", "-c", "%u %a", "/etc/new"]).await.1, "0 751\n");
    let metadata = root.join("etc/new").metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o751));
    lab.stop(&keeper).await;

    let files = lab.runtime.files(&spec).await.unwrap_or_else(|error| panic!("{error}"));
    let (first, second) = (
        files.stream().await.unwrap().unwrap(),
        files.stream().await.unwrap().unwrap(),
    );
    tokio::task::spawn_blocking(move || {
        let (mut first, mut second) = (Sftp::new(first), Sftp::new(second));
        assert_eq!(first.get("/etc/new").unwrap(), b"from outside");
        second.put("/root/stopped", b"x", 0o600);
        drop(second);
        assert_eq!(first.get("/root/stopped").unwrap(), b"x");
        // Links lead nowhere but inside.
        assert_eq!(first.get("/../../../work").unwrap_err(), 2);
    })
    .await
    .unwrap();
    // Nobody reads or writes any more: they close by themselves.
    timeout(files.closed()).await.unwrap();
    assert!(files.has_closed() && files.stream().await.unwrap().is_none());
    assert_eq!(root.join("root/stopped").metadata().unwrap().uid(), 0);

    let files = lab.runtime.files(&spec).await.unwrap_or_else(|error| panic!("{error}"));
    let stream = files.stream().await.unwrap().unwrap();
    timeout(files.close()).await.unwrap();
    let mut end = [0];
    assert_eq!(rustix::io::read(&stream, &mut end), Ok(0), "it serves on");

    let mut broken = spec.clone();
    broken.root = RootFs::Bind {
        path: "/no/such/root".into(),
    };
    let error = lab.runtime.files(&broken).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/root"), "{error}");
}

#[tokio::test]
async fn an_overlay_keeps_its_layers_and_its_deletions() {
    let lab = Lab::new();
    let mut spec = lab.busybox("overlay");
    let RootFs::Bind { path: lower } = spec.root.clone() else {
        unreachable!()
    };
    let top = lab.dir.path().join("top");
    std::fs::create_dir_all(top.join("etc")).unwrap();
    std::fs::write(top.join("etc/upper-layer"), "top").unwrap();
    let (upper, work) = (lab.dir.path().join("own/upper"), lab.dir.path().join("own/work"));
    std::fs::create_dir_all(&upper).unwrap();
    std::fs::create_dir_all(&work).unwrap();
    spec.root = RootFs::Overlay {
        layers: vec![top, lower.clone()],
        upper: upper.clone(),
        work,
    };
    let keeper = lab.start(&spec).await;
    let script = "cat /etc/upper-layer && rm /etc/passwd && echo new > /etc/new && rm -r /tmp && mkdir /tmp && reboot";
    let mut events = keeper.events();
    run(&keeper, &["sh", "-c", script]).await;
    while !matches!(timeout(events.recv()).await.unwrap(), KeeperEvent::Rebooted { .. }) {}
    assert_eq!(
        run(&keeper, &["sh", "-c", "cat /etc/new; ls /etc/passwd 2>&1; ls /tmp"])
            .await
            .1,
        "new\nls: /etc/passwd: No such file or directory\n"
    );
    lab.stop(&keeper).await;
    assert!(lower.join("etc/passwd").exists());
    assert_eq!(upper.join("etc/new").metadata().unwrap().uid(), 0);
    // The next run, in another user namespace, and a privileged one see the same.
    for idmap in [Some(lab.idmap()), None] {
        spec.idmap = idmap;
        let keeper = lab.start(&spec).await;
        let (status, text) = run(
            &keeper,
            &[
                "sh",
                "-c",
                "cat /etc/new; test ! -e /etc/passwd && touch /etc/more && stat -c %u /etc/more; rm /etc/more",
            ],
        )
        .await;
        assert_eq!((status, text.as_str()), (OK, "new\n0\n"));
        lab.stop(&keeper).await;
    }
}

#[tokio::test]
async fn directories_and_files_of_the_host() {
    let lab = Lab::new();
    let mut spec = lab.busybox("mounts");
    let (shared, plain) = (lab.dir.path().join("shared"), lab.dir.path().join("plain"));
    for dir in [&shared, &plain] {
        std::fs::create_dir(dir).unwrap();
        std::fs::write(dir.join("file"), "host's").unwrap();
    }
    let mount = |source: &std::path::Path, target: &str| Mount {
        source: source.to_owned(),
        target: target.into(),
        readonly: false,
        recursive: true,
        shift: true,
        required: true,
    };
    spec.mounts = vec![
        mount(&shared, "/srv/a/b"),
        Mount {
            readonly: true,
            ..mount(&shared, "srv/ro")
        },
        Mount {
            shift: false,
            ..mount(&plain, "/mnt")
        },
        mount(&plain.join("file"), "/etc/one-file"),
        Mount {
            required: false,
            ..mount("/no/such".as_ref(), "/opt/x")
        },
    ];
    let keeper = lab.start(&spec).await;
    let script = "echo in > /srv/a/b/new; stat -c %u /srv/a/b/file /mnt/file; cat /etc/one-file; echo; touch /srv/ro/x 2>&1; touch /mnt/x 2>&1";
    let (_, text) = run(&keeper, &["sh", "-c", script]).await;
    assert_eq!(
        text,
        "0\n65534\nhost's\ntouch: /srv/ro/x: Read-only file system\ntouch: /mnt/x: Permission denied\n"
    );
    assert_eq!(shared.join("new").metadata().unwrap().uid(), 0);
    lab.stop(&keeper).await;

    spec.mounts = vec![mount("/no/such".as_ref(), "/opt/x")];
    let keeper = lab.runtime.create(&spec, None).await.unwrap();
    let error = keeper.start().await.unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
    keeper.release().await.unwrap();
}

#[tokio::test]
async fn mounts_come_and_go_while_it_runs() {
    let lab = Lab::new();
    let spec = lab.busybox("hotplug");
    let RootFs::Bind { path: root } = &spec.root else {
        unreachable!()
    };
    // A link of the container's leads nowhere but inside.
    std::os::unix::fs::symlink("/tmp", root.join("escape")).unwrap();
    let mount = |name: &str, target: &str| {
        let source = lab.dir.path().join(name);
        std::fs::create_dir_all(&source).unwrap();
        std::fs::write(source.join("file"), name).unwrap();
        Mount {
            source,
            target: target.into(),
            readonly: false,
            recursive: false,
            shift: true,
            required: true,
        }
    };
    let keeper = lab.start(&spec).await;
    let (outer, inner) = (mount("outer", "/srv/new"), mount("inner", "srv/new/below"));
    let readonly = Mount {
        readonly: true,
        ..mount("readonly", "/escape/hutch-within")
    };
    let shown = async || {
        let script = "cd /; for d in srv/new srv/new/below escape/hutch-within; do cat $d/file 2>/dev/null || echo -n none; echo -n ' '; done";
        run(&keeper, &["sh", "-c", script]).await.1
    };
    // The order is that of the list, whatever is there already; in a frozen one as well.
    keeper.freeze().await.unwrap();
    keeper.set_mounts(std::slice::from_ref(&inner)).await.unwrap();
    let all = [outer.clone(), inner.clone(), readonly.clone()];
    keeper.set_mounts(&all).await.unwrap_or_else(|error| panic!("{error}"));
    keeper.thaw().await.unwrap();
    assert_eq!(shown().await, "outer inner readonly ");
    assert!(!std::path::Path::new("/tmp/hutch-within").exists());
    let script = "echo x > /srv/new/mine && stat -c %u /srv/new/mine; (echo x > /escape/hutch-within/mine) 2>/dev/null || echo refused";
    assert_eq!(run(&keeper, &["sh", "-c", script]).await.1, "0\nrefused\n");
    assert_eq!(outer.source.join("mine").metadata().unwrap().uid(), 0);

    // All or nothing.
    let missing = Mount {
        source: lab.dir.path().join("missing"),
        ..inner.clone()
    };
    let error = keeper.set_mounts(&[readonly.clone(), missing]).await.unwrap_err();
    assert!(error.to_string().contains("/missing: no such file"), "{error}");
    let onto_file = Mount {
        target: "/srv/new/file/below".into(),
        ..inner.clone()
    };
    let error = keeper.set_mounts(&[outer.clone(), onto_file]).await.unwrap_err();
    assert!(error.to_string().contains("/srv/new/file/below"), "{error}");
    assert_eq!(shown().await, "outer inner readonly ");

    // They are there after a reboot, and one that the container has unmounted itself can be taken away.
    let mut events = keeper.events();
    run(&keeper, &["sh", "-c", "kill -TERM 1"]).await;
    timeout(async { while !matches!(events.recv().await.unwrap(), KeeperEvent::Rebooted { .. }) {} }).await;
    assert_eq!(shown().await, "outer inner readonly ");
    assert_eq!(run(&keeper, &["umount", "/escape/hutch-within"]).await.0, OK);
    keeper.set_mounts(std::slice::from_ref(&outer)).await.unwrap();
    assert_eq!(shown().await, "outer none none ");
    keeper.set_mounts(&[]).await.unwrap();
    assert_eq!(shown().await, "none none none ");
    assert_eq!(std::fs::read(outer.source.join("file")).unwrap(), b"outer");
    lab.stop(&keeper).await;
    let error = keeper.set_mounts(&[outer]).await.unwrap_err();
    assert!(matches!(error, hutch_container::Error::Lost { .. }) || error.fault().unwrap().kind == FaultKind::State);
}

#[tokio::test]
async fn a_failed_start_names_what_failed_and_leaves_nothing() {
    let lab = Lab::new();
    let mut spec = lab.busybox("broken");
    spec.init = vec!["/sbin/missing".to_owned()];
    let keeper = lab.runtime.create(&spec, None).await.unwrap();
    let error = keeper.start().await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("executing /sbin/missing: no such file or directory"),
        "{error}"
    );
    keeper.release().await.unwrap();
    keeper.gone().await;
    assert!(
        !hutch_sys::cgroup::Hierarchies::find()
            .unified()
            .unwrap()
            .join("hutch")
            .join(&spec.cgroup)
            .exists()
    );

    // A keeper that never gets a start is released as well, and one that can't be made says so.
    let keeper = lab.runtime.create(&spec, None).await.unwrap();
    keeper.release().await.unwrap();
    keeper.gone().await;
    spec.limits.cpu_set = Some("4000".parse().unwrap());
    let error = lab.runtime.create(&spec, None).await.unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    assert!(
        !hutch_sys::cgroup::Hierarchies::find()
            .unified()
            .unwrap()
            .join("hutch")
            .join(&spec.cgroup)
            .exists()
    );
}

#[tokio::test]
async fn a_lost_keeper_takes_its_container_along() {
    let lab = Lab::new();
    let spec = lab.busybox("lost");
    let keeper = lab.start(&spec).await;
    let init = keeper.init_pid().unwrap();
    run(&keeper, &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & true"]).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(keeper.keeper_pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(timeout(keeper.ended()).await, ContainerState::Lost);
    assert!(matches!(keeper.sftp().await, Err(hutch_container::Error::Lost { .. })));
    lab.runtime.clean_lost(&spec.id).await.unwrap();
    timeout(async {
        // Out of its cgroup, it may have to finish dying, and is not this process's to reap.
        let alive = || std::fs::read_to_string(format!("/proc/{init}/status")).is_ok_and(|s| !s.contains("State:\tZ"));
        while alive() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(lab.runtime.adopt().await.unwrap().found.is_empty());
    // The name is free again.
    let keeper = lab.start(&spec).await;
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn an_unprivileged_container_can_do_nothing_to_the_host() {
    let lab = Lab::new();
    let spec = lab.busybox("jail");
    let keeper = lab.start(&spec).await;
    let base = spec.idmap.as_ref().unwrap().uids[0].outside;
    let status = std::fs::read_to_string(format!("/proc/{}/status", keeper.init_pid().unwrap())).unwrap();
    assert!(status.contains(&format!("Uid:\t{base}\t{base}")), "{status}");
    for (script, expected) in [
        ("mknod /tmp/disk b 8 0 2>&1", "Operation not permitted"),
        ("mknod /tmp/kmsg c 1 11 2>&1", "Operation not permitted"),
        ("echo 1 > /proc/sys/kernel/panic", "Read-only file system"),
        ("echo x > /sys/kernel/uevent_seqnum", "Read-only file system"),
        ("date -s 2000-01-01 2>&1", "not permitted"),
        ("cat /proc/timer_list | wc -c", "0\n"),
        ("mount -t ext4 /dev/null /tmp 2>&1", "mount"),
        ("swapon /etc/passwd 2>&1", "not permitted"),
        ("grep CapBnd /proc/self/status | tail -c 17 | head -c 9", "000001f"),
        (
            "grep -c . /sys/fs/cgroup/cgroup.controllers; echo 1 > /sys/fs/cgroup/cgroup.freeze",
            "Permission denied",
        ),
        (
            "mkdir /sys/fs/cgroup/own && echo $$ > /sys/fs/cgroup/own/cgroup.procs && cat /proc/self/cgroup | tail -1",
            "0::/own",
        ),
    ] {
        let (_, text) = run(&keeper, &["sh", "-c", script]).await;
        assert!(text.contains(expected), "{script}: {text}");
    }
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn a_privileged_container_is_still_kept_from_devices() {
    let lab = Lab::new();
    let mut spec = lab.busybox("privileged");
    spec.idmap = None;
    let keeper = lab.start(&spec).await;
    let script = "mknod /tmp/disk b 254 0 && head -c1 /tmp/disk 2>&1; mknod /tmp/zero c 1 5; head -c 1 /tmp/zero | wc -c; stat -c %t:%T /dev/null; cat /proc/self/uid_map";
    let (_, text) = run(&keeper, &["sh", "-c", script]).await;
    assert!(
        text.starts_with("head: /tmp/disk: Operation not permitted\n1\n1:3\n"),
        "{text}"
    );
    assert!(text.contains("4294967295"), "{text}");
    for (script, expected) in [
        ("echo b > /proc/sysrq-trigger; cat /proc/sysrq-trigger", ""),
        ("echo 1 > /proc/sys/kernel/panic", "Read-only"),
        ("swapoff -a 2>&1; swapon /etc/passwd 2>&1", "not permitted"),
        ("date -s 2000-01-01 2>&1", "not permitted"),
    ] {
        let (_, text) = run(&keeper, &["sh", "-c", script]).await;
        assert!(text.contains(expected), "{script}: {text}");
    }
    lab.stop(&keeper).await;
}

/// On a pool as the daemon mounts it: nosuid and nodev.
#[tokio::test]
async fn set_user_id_programs_work_inside_though_the_pool_forbids_them() {
    let lab = Lab::new();
    let pool = lab.dir.path().canonicalize().unwrap();
    hutch_sys::cover::cover(&pool).unwrap();
    for (privileged, overlay) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut spec = lab.busybox("suid");
        let RootFs::Bind { path } = &spec.root else {
            unreachable!()
        };
        // No password is asked for, so that what decides is whether the program is root's.
        std::fs::write(
            path.join("etc/passwd"),
            "root::0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
        )
        .unwrap();
        if overlay {
            let [upper, work] = ["upper", "work"].map(|name| path.with_extension(name));
            std::fs::create_dir(&upper).unwrap();
            std::fs::create_dir(&work).unwrap();
            spec.root = RootFs::Overlay {
                layers: vec![path.clone()],
                upper,
                work,
            };
        }
        if privileged {
            spec.idmap = None;
        }
        let keeper = lab.start(&spec).await;
        assert_eq!(run(&keeper, &["chmod", "4755", "/bin/busybox"]).await.0, OK);
        let mut become_root = program("suid", &["su", "-c", "id -u"]);
        (become_root.uid, become_root.gid) = (1000, 1000);
        let (status, text) = run_spec(&keeper, become_root).await;
        assert_eq!(
            (status, text.as_str()),
            (OK, "0\n"),
            "privileged {privileged}, overlay {overlay}"
        );
        lab.stop(&keeper).await;
    }
    hutch_sys::cover::uncover(&pool).unwrap();
}

/// Where the kernel takes no BPF program for it, which this one does: the legacy controller is used because it is told to be.
#[tokio::test]
async fn the_legacy_controller_keeps_from_devices_as_well() {
    let mut lab = Lab::new();
    let Some(root) = hutch_sys::cgroup::Hierarchies::find().legacy("devices") else {
        let refused = lab.runtime.clone().with_device_control(DeviceControl::Legacy);
        let error = refused
            .create(&lab.busybox("devices"), None)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("the cgroup controller devices: "), "{error}");
        return;
    };
    lab.runtime = lab.runtime.clone().with_device_control(DeviceControl::Legacy);
    for idmap in [None, Some(lab.idmap())] {
        let mut spec = lab.busybox("devices");
        let privileged = idmap.is_none();
        spec.idmap = idmap;
        spec.devices = vec![DeviceRule {
            write: false,
            ..DeviceRule::character(1, Some(11))
        }];
        let cgroup = root.join("hutch").join(&spec.cgroup);
        let keeper = lab.start(&spec).await;
        let list = std::fs::read_to_string(cgroup.join("devices.list")).unwrap();
        assert!(
            list.contains("c 1:3 rwm\n") && list.contains("c 1:11 rm\n") && !list.contains("a *:* rwm"),
            "{list}"
        );
        let script = "head -c 3 /dev/zero | wc -c; echo x > /dev/null && echo written; cat /dev/tty 2>&1";
        let (_, text) = run(&keeper, &["sh", "-c", script]).await;
        assert!(text.starts_with("3\nwritten\n"), "{text}");
        if privileged {
            let script = "mknod /tmp/disk b 254 0 && head -c1 /tmp/disk 2>&1; mknod /tmp/log c 1 11; true < /tmp/log && echo read; \
                true 2>&1 > /tmp/log";
            let (_, text) = run(&keeper, &["sh", "-c", script]).await;
            assert!(
                text.starts_with("head: /tmp/disk: Operation not permitted\nread\n"),
                "{text}"
            );
            assert!(
                text.contains("can't create /tmp/log: Operation not permitted"),
                "{text}"
            );
            // Its root sees the hierarchy from where its processes are, and can't give itself what those above don't have.
            let script = "mkdir /tmp/v1 && mount -t cgroup -o devices devices /tmp/v1 && echo 'b 254:0 rwm' > /tmp/v1/devices.allow; \
                head -c1 /tmp/disk 2>&1";
            let (_, text) = run(&keeper, &["sh", "-c", script]).await;
            assert!(text.contains("write error: Operation not permitted"), "{text}");
            assert!(text.ends_with("head: /tmp/disk: Operation not permitted\n"), "{text}");
        }
        lab.stop(&keeper).await;
        assert!(!cgroup.exists(), "{} is left over", cgroup.display());
    }
}

#[tokio::test]
async fn a_container_in_a_container_needs_nesting() {
    let lab = Lab::new();
    for nesting in [false, true] {
        let mut spec = lab.busybox("nest");
        spec.nesting = nesting;
        let keeper = lab.start(&spec).await;
        let inner = "unshare -U -r -m -p -n -i -u -f sh -c 'mount -t proc proc /proc && mount -t sysfs sysfs /sys && echo inner $$'";
        let (_, text) = run(&keeper, &["sh", "-c", inner]).await;
        assert_eq!(text.contains("inner 1"), nesting, "{text}");
        lab.stop(&keeper).await;
    }
}

#[tokio::test]
async fn settings_and_resource_limits_of_the_container() {
    let lab = Lab::new();
    let mut spec = lab.busybox("settings");
    spec.sysctls = vec![
        ("net.ipv4.ip_forward".into(), "1".into()),
        ("net/ipv4/ip_unprivileged_port_start".into(), "80".into()),
    ];
    spec.rlimits = vec![hutch_container::Rlimit {
        resource: "nofile".into(),
        soft: Some(2048),
        hard: Some(5000),
    }];
    let keeper = lab.start(&spec).await;
    let script =
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/ip_unprivileged_port_start; ulimit -n; ulimit -Hn; umask";
    assert_eq!(run(&keeper, &["sh", "-c", script]).await.1, "1\n80\n2048\n5000\n0022\n");
    lab.stop(&keeper).await;

    spec.sysctls = vec![("net.no.such".into(), "1".into())];
    let keeper = lab.runtime.create(&spec, None).await.unwrap();
    let error = keeper.start().await.unwrap_err();
    assert!(error.to_string().contains("/proc/sys/net/no/such"), "{error}");
    keeper.release().await.unwrap();
}

#[tokio::test]
async fn the_keepers_program_is_out_of_a_privileged_containers_reach() {
    let lab = Lab::new();
    let mut spec = lab.busybox("sealed");
    spec.idmap = None;
    let keeper = lab.start(&spec).await;
    let exe = std::fs::read_link(format!("/proc/{}/exe", keeper.keeper_pid())).unwrap();
    assert!(exe.to_string_lossy().starts_with("/memfd:"), "{}", exe.display());
    // A process of the keeper's that the container sees: its file server.
    let _stream = keeper.sftp().await.unwrap();
    let script =
        "pid=$(grep -l hutch-sftp /proc/[0-9]*/comm | head -1 | cut -d/ -f3); echo found $pid; echo x > /proc/$pid/exe";
    let (_, text) = run(&keeper, &["sh", "-c", script]).await;
    assert!(
        text.contains("found")
            && (text.contains("Text file busy") || text.contains("not permitted") || text.contains("denied")),
        "{text}"
    );
    lab.stop(&keeper).await;
}
