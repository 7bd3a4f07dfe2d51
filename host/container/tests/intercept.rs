//! Calls that the keeper answers for a container, and lists of calls that are refused or allowed.
//!
//! What makes such calls in the ways that shells can't is the program `intercepted-calls`, which is put into the container.

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Lab, run, timeout};
use hutch_container::{
    ContainerSpec, ContainerState, ExecStdio, ExitStatus, Intercept, Keeper, Limits, Mount, RootFs, SyscallRule,
    SyscallVerdict,
};

const OK: ExitStatus = ExitStatus::Code(0);

/// A busybox of which these calls are intercepted, with the program that makes them and the machine's libraries for it.
fn lab_with(intercept: Intercept) -> (Lab, ContainerSpec, PathBuf) {
    let lab = Lab::new();
    let mut spec = lab.busybox("calls");
    let RootFs::Bind { path: root } = &spec.root else {
        panic!("busybox is on a plain tree")
    };
    let root = root.clone();
    std::fs::copy(env!("CARGO_BIN_EXE_intercepted-calls"), root.join("bin/calls")).unwrap();
    for name in ["lib", "lib64"] {
        symlink(format!("host/{name}"), root.join(name)).unwrap();
    }
    spec.mounts = vec![Mount {
        source: "/usr".into(),
        target: "/host".into(),
        readonly: true,
        recursive: true,
        shift: false,
        required: true,
    }];
    spec.seccomp.intercept = intercept;
    (lab, spec, root)
}

const MKNOD: Intercept = Intercept {
    mknod: true,
    setxattr: false,
    sysinfo: false,
};

const ALL: Intercept = Intercept {
    mknod: true,
    setxattr: true,
    sysinfo: true,
};

/// Has the program do this in the container.
async fn call(keeper: &Keeper, what: &str) -> (ExitStatus, String) {
    run(keeper, &["/bin/calls", what]).await
}

async fn shell(keeper: &Keeper, script: &str) -> String {
    let (status, text) = run(keeper, &["sh", "-c", script]).await;
    assert_eq!(status, OK, "{script}: {text}");
    text.trim().to_owned()
}

#[tokio::test]
async fn safe_devices_are_made_and_others_are_not() {
    let (lab, spec, root) = lab_with(MKNOD);
    let keeper = lab.start(&spec).await;
    // On the volume, on a file system of the container's, and where there is no volume.
    for dir in ["/root", "/tmp/a", "/run/b"] {
        shell(
            &keeper,
            &format!("mkdir -p {dir} && mount -t tmpfs none /run 2>/dev/null; mkdir -p {dir}"),
        )
        .await;
        let script = format!(
            "cd {dir} && mknod -m 640 null c 1 3 && mknod ./zero c 1 5 && echo gone > null && head -c 3 zero | wc -c && \
             test -c null && stat -c '%t:%T %a %u %g' null && chown 7:8 null && chmod 600 null && stat -c '%a %u %g' null"
        );
        assert_eq!(shell(&keeper, &script).await, "3\n1:3 640 0 0\n600 7 8", "{dir}");
    }
    // The umask and the user of whoever makes it.
    let text = shell(
        &keeper,
        "cd /tmp; umask 027; mknod full c 1 7; stat -c %a full; echo x 2>&1 > full; echo $?",
    )
    .await;
    assert_eq!(text, "640\nsh: write error: No space left on device\n1");
    for (arguments, error) in [
        ("/tmp/sda b 8 0", "Operation not permitted"),
        ("/tmp/mem c 1 1", "Operation not permitted"),
        ("/tmp/console c 5 1", "Operation not permitted"),
        ("/tmp/full c 1 7", "File exists"),
        ("/nowhere/null c 1 3", "No such file"),
        ("/proc/self/null c 1 3", ""),
        ("/host/null c 1 3", ""),
    ] {
        let (status, text) = run(&keeper, &["sh", "-c", &format!("mknod {arguments} 2>&1")]).await;
        assert!(status != OK && text.contains(error), "{arguments}: {status:?} {text}");
        let path = arguments.split(' ').next().unwrap();
        assert!(
            path == "/tmp/full" || run(&keeper, &["test", "-e", path]).await.0 != OK,
            "{path} was left"
        );
    }
    // Pipes, files and whiteouts are the kernel's.
    shell(
        &keeper,
        "cd /tmp; mknod pipe p; test -p pipe; mknod white c 0 0; test \"$(stat -c %t:%T white)\" = 0:0",
    )
    .await;
    // A user who may not.
    let mut user = common::program("user", &["sh", "-c", "mknod /tmp/mine c 1 3"]);
    (user.uid, user.gid) = (1000, 1000);
    assert_ne!(common::run_spec(&keeper, user).await.0, OK);
    assert!(run(&keeper, &["test", "-e", "/tmp/mine"]).await.0 != OK);

    // On the host there is nothing but files.
    let node = std::fs::symlink_metadata(root.join("root/null")).unwrap();
    assert!(node.is_file() && node.len() == 0);
    assert_eq!((node.uid(), node.mode() & 0o777), (0, 0o640));
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn a_changed_root_and_a_namespace_of_its_own_are_where_the_node_appears() {
    let (lab, spec, _) = lab_with(MKNOD);
    let keeper = lab.start(&spec).await;
    let script = "mkdir -p /tmp/in/bin /tmp/in/dev && cp /bin/busybox /tmp/in/bin/ && ln -s /dev /tmp/in/link && \
                  chroot /tmp/in /bin/busybox mknod /link/null c 1 3 && test -c /tmp/in/dev/null && \
                  chroot /tmp/in /bin/busybox sh -c 'echo > /dev/null' && test ! -e /link";
    shell(&keeper, script).await;
    let script = "unshare -m sh -c 'mkdir /tmp/x && cd /tmp/x && mknod null c 1 3 && echo > null && test -c null' && \
                  test -f /tmp/x/null";
    shell(&keeper, script).await;
    // In another user namespace capabilities are those over that namespace.
    let (status, _) = run(
        &keeper,
        &["unshare", "-U", "-r", "-m", "mknod", "/tmp/x/other", "c", "1", "3"],
    )
    .await;
    assert_ne!(status, OK);
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn programs_of_a_container_that_has_rebooted_are_answered() {
    let (lab, spec, _) = lab_with(ALL);
    let keeper = lab.start(&spec).await;
    shell(&keeper, "mknod /tmp/a c 1 3").await;
    let mut events = keeper.events();
    // busybox takes SIGINT as Ctrl-Alt-Del and has no action for it here: its own reboot then. It may end before its caller is told.
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let (stdin, stdout, stderr) = (null(), null(), null());
    let stdio = ExecStdio::Pipes { stdin, stdout, stderr };
    drop(keeper.exec(common::program("reboot", &["reboot"]), stdio).await);
    while !matches!(
        timeout(events.recv()).await.unwrap(),
        hutch_container::KeeperEvent::Rebooted { .. }
    ) {}
    shell(
        &keeper,
        "test ! -c /tmp/a; rm /tmp/a; mknod /tmp/a c 1 3; echo > /tmp/a",
    )
    .await;
    assert!(matches!(keeper.state(), ContainerState::Running { reboots: 1, .. }));
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn an_opaque_directory_is_marked_and_nothing_else() {
    let (lab, spec, root) = lab_with(Intercept {
        setxattr: true,
        ..Intercept::default()
    });
    let keeper = lab.start(&spec).await;
    shell(
        &keeper,
        "mkdir -p /tmp/d /tmp/e /tmp/f; ln -s d /tmp/link; touch /tmp/file",
    )
    .await;
    let (status, text) = call(&keeper, "attributes").await;
    assert_eq!(status, OK, "{text}");
    let attribute = |path: &str, name: &str| {
        let mut value = [0; 8];
        rustix::fs::lgetxattr(root.join(path), name, &mut value).map(|length| value[..length].to_vec())
    };
    for path in ["tmp/d", "tmp/e", "tmp/f"] {
        assert_eq!(attribute(path, "trusted.overlay.opaque"), Ok(b"y".to_vec()), "{path}");
    }
    assert!(attribute("tmp/file", "trusted.overlay.opaque").is_err());
    assert!(attribute("tmp/d", "trusted.overlay.redirect").is_err());
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn sysinfo_tells_what_the_container_has() {
    let (lab, mut spec, _) = lab_with(Intercept {
        sysinfo: true,
        ..Intercept::default()
    });
    spec.limits.memory = Some(64 << 20);
    let keeper = lab.start(&spec).await;
    // The total, in KiB. busybox takes what is cached from /proc/meminfo, so that the columns after it are no figures of the container's.
    shell(&keeper, "free | grep -q '^Mem: *65536'").await;
    keeper
        .set_limits(&Limits {
            memory: Some(96 << 20),
            ..Limits::default()
        })
        .await
        .unwrap();
    shell(&keeper, "free | grep -q '^Mem: *98304'").await;
    let (status, text) = call(&keeper, "sysinfo").await;
    assert_eq!(status, OK, "{text}");
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn nothing_is_intercepted_unasked_or_in_a_privileged_container() {
    let (lab, mut spec, _) = lab_with(Intercept::default());
    let keeper = lab.start(&spec).await;
    assert_ne!(run(&keeper, &["mknod", "/tmp/null", "c", "1", "3"]).await.0, OK);
    lab.stop(&keeper).await;
    (spec.id, spec.cgroup) = (lab.id("privileged"), lab.id("privileged"));
    (spec.idmap, spec.seccomp.intercept) = (None, ALL);
    let keeper = lab.start(&spec).await;
    shell(
        &keeper,
        "mknod /tmp/null c 1 3; echo > /tmp/null; grep -q ' /tmp/null ' /proc/mounts && exit 1; exit 0",
    )
    .await;
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn a_caller_that_changes_what_it_has_given_gains_nothing() {
    let (lab, spec, root) = lab_with(ALL);
    let keeper = lab.start(&spec).await;
    shell(&keeper, "mkdir -p /tmp/a /tmp/d; ln -s / /tmp/out").await;
    let (status, text) = call(&keeper, "hostile").await;
    assert_eq!(status, OK, "{text}");
    assert!(text.contains("made"), "{text}");
    // No node but safe ones, and those as mounts: on the volume there are files.
    let nodes = "find /tmp /bin /root /etc \\( -type c -o -type b \\) -exec stat -c '%t:%T' {} + | sort -u";
    let found = shell(&keeper, nodes).await;
    assert!(found.lines().all(|node| node == "1:3"), "{found}");
    let mut places = vec![root.clone()];
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(place).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            assert!(
                kind.is_dir() || kind.is_file() || kind.is_symlink(),
                "{}",
                entry.path().display()
            );
            if kind.is_dir() {
                places.push(entry.path());
            }
        }
    }
    let mut names = [0; 256];
    let length = rustix::fs::listxattr(root.join("tmp/d"), &mut names).unwrap();
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    assert!(!names.contains("trusted.overlay.elsewh"), "{names}");
    // Of the machine's own mounts, whose root is the fourth word (proc_pid_mountinfo(5)), none is a node.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        mounts.lines().all(|mount| mount.split(' ').nth(3) != Some("/node")),
        "{mounts}"
    );
    lab.stop(&keeper).await;
}

#[tokio::test]
async fn a_path_that_never_answers_holds_up_its_callers_alone() {
    let (lab, spec, _) = lab_with(ALL);
    let keeper = lab.start(&spec).await;
    let stuck = common::program("stuck", &["/bin/calls", "stuck"]);
    let (read, write) = std::io::pipe().unwrap();
    let stdio = ExecStdio::Pipes {
        stdin: std::fs::File::open("/dev/null").unwrap().into(),
        stdout: write.try_clone().unwrap().into(),
        stderr: write.into(),
    };
    let exec = keeper.exec(stuck, stdio).await.unwrap();
    let said = tokio::task::spawn_blocking(move || {
        use std::io::BufRead;
        let mut lines = std::io::BufReader::new(read).lines();
        lines.any(|line| line.is_ok_and(|line| line.contains("all callers wait")))
    });
    assert!(timeout(said).await.unwrap());
    // The keeper does all else; a call that needs it waits until a place is free.
    let begun = Instant::now();
    assert_eq!(shell(&keeper, "echo here").await, "here");
    keeper.freeze().await.unwrap();
    keeper.thaw().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    shell(&keeper, "mknod /tmp/null c 1 3 && echo > /tmp/null").await;
    assert!(
        begun.elapsed() > Duration::from_secs(3),
        "places were free: {:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    lab.stop(&keeper).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(exec);
}

#[tokio::test]
async fn calls_are_refused_and_allowed_by_name() {
    let (lab, mut spec, _) = lab_with(Intercept::default());
    let rule = |call: &str, verdict| SyscallRule {
        call: call.to_owned(),
        verdict,
    };
    spec.seccomp.rules = vec![
        rule("mkdir", SyscallVerdict::Errno(28)),
        rule("symlink", SyscallVerdict::Errno(0)),
        rule("unlink", SyscallVerdict::Kill),
        rule("open_by_handle_at", SyscallVerdict::Allow),
    ];
    let keeper = lab.start(&spec).await;
    assert!(run(&keeper, &["mkdir", "/tmp/x"]).await.1.contains("No space left"));
    shell(
        &keeper,
        "ln -s a /tmp/link; test ! -e /tmp/link; test ! -L /tmp/link; touch /tmp/y",
    )
    .await;
    assert_eq!(
        run(&keeper, &["rm", "/tmp/y"]).await.0,
        ExitStatus::Signal(libc::SIGSYS)
    );
    lab.stop(&keeper).await;

    // Only what a shell needs: what the list lacks ends whoever does it, and files are served all the same.
    let strace = "access arch_prctl chdir clone close dup2 execve exit_group fcntl fork fstat futex getcwd getdents64 geteuid getpid \
                  getppid getrandom gettid getuid getgid getegid ioctl lseek mprotect newfstatat open openat pause poll prctl prlimit64 read \
                  readlink readlinkat reboot rseq rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait \
                  sendto connect socket set_robust_list set_tid_address setpgid setsid signalfd4 stat sysinfo tkill uname vfork vhangup wait4 \
                  waitid write clock_nanosleep nanosleep clone3 kill sync umask statx";
    spec.seccomp.rules.clear();
    spec.seccomp.allow = Some(strace.split_whitespace().map(str::to_owned).collect());
    (spec.id, spec.cgroup) = (lab.id("allow"), lab.id("allow"));
    let keeper = lab.start(&spec).await;
    assert_eq!(shell(&keeper, "echo $((1 + 1))").await, "2");
    let (status, _) = run(&keeper, &["mkdir", "/tmp/x"]).await;
    assert_eq!(status, ExitStatus::Signal(libc::SIGSYS));
    let stream = keeper.sftp().await.unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut sftp = common::sftp::Sftp::new(stream);
        sftp.put("/tmp/file", b"text", 0o600);
        sftp.get("/tmp/file")
    });
    assert_eq!(timeout(read).await.unwrap(), Ok(b"text".to_vec()));
    lab.stop(&keeper).await;
}
