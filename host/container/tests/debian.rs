//! Containers with an unmodified Debian: systemd as PID 1.

mod common;

use std::os::fd::AsFd;

use common::sftp::Sftp;
use common::{Lab, program, run, run_spec, timeout};
use hutch_container::{ContainerState, ExitKind, ExitStatus, KeeperEvent, RootFs};
use hutch_sys::mount::{Flags, clone_tree, set_attributes};

/// Waits until the manager's bus is there and says what it makes of its boot.
const RUNNING: &str =
    "until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done; systemctl is-system-running --wait";

async fn reaches_running(keeper: &hutch_container::Keeper) {
    let (status, text) = run(keeper, &["sh", "-c", RUNNING]).await;
    if (status, text.trim()) != (ExitStatus::Code(0), "running") {
        let (_, failed) = run(keeper, &["systemctl", "--no-pager", "status", "--failed"]).await;
        let console = keeper.console_log().await.unwrap();
        panic!("{text}{failed}{}", String::from_utf8_lossy(&console));
    }
}

#[tokio::test]
async fn systemd_reaches_running_reboots_and_halts() {
    let lab = Lab::new();
    let spec = lab.debian("systemd");
    let keeper = lab.start(&spec).await;
    reaches_running(&keeper).await;
    let mut events = keeper.events();
    let first = run(&keeper, &["cat", "/proc/sys/kernel/random/boot_id"]).await.1;
    // It asks its manager and returns; the container goes down with the program's own session still there.
    run(&keeper, &["systemd-run", "--no-block", "systemctl", "reboot"]).await;
    loop {
        if let KeeperEvent::Rebooted { .. } = timeout(events.recv()).await.unwrap() {
            break;
        }
    }
    reaches_running(&keeper).await;
    assert_ne!(run(&keeper, &["cat", "/proc/sys/kernel/random/boot_id"]).await.1, first);
    assert_eq!(
        run(&keeper, &["journalctl", "--no-pager", "-q", "-p", "crit"]).await.1,
        ""
    );
    keeper.shutdown().await.unwrap();
    let ended = timeout(keeper.ended()).await;
    assert!(
        matches!(ended, ContainerState::Ended(exit) if exit.kind == ExitKind::Halted),
        "{ended:?}"
    );
    keeper.release().await.unwrap();
}

#[tokio::test]
async fn systemd_reaches_running_privileged_and_with_nesting() {
    let lab = Lab::new();
    for (idmap, nesting) in [(None, false), (Some(lab.idmap()), true)] {
        let mut spec = lab.debian("kinds");
        spec.idmap = idmap;
        spec.nesting = nesting;
        let keeper = lab.start(&spec).await;
        reaches_running(&keeper).await;
        lab.stop(&keeper).await;
    }
}

#[tokio::test]
async fn set_user_id_programs_work_though_the_pool_forbids_them() {
    let lab = Lab::new();
    let mut spec = lab.debian("suid");
    // A pool that is mounted nosuid and nodev.
    let pool = lab.dir.path().join("pool");
    std::fs::create_dir(&pool).unwrap();
    let mount = clone_tree(lab.dir.path(), false).unwrap();
    set_attributes(
        mount.as_fd(),
        false,
        Flags::NO_SUID.and(Flags::NO_DEVICES),
        Flags::none(),
        None,
    )
    .unwrap();
    let empty = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&mount, "", rustix::fs::CWD, pool.as_path(), empty).unwrap();
    let RootFs::Overlay { upper, work, .. } = &mut spec.root else {
        unreachable!()
    };
    for dir in [upper, work] {
        *dir = pool.join(dir.strip_prefix(lab.dir.path()).unwrap());
    }
    let keeper = lab.start(&spec).await;
    run(
        &keeper,
        &[
            "sh",
            "-c",
            "cp /usr/bin/id /usr/bin/suid-id && chmod 4755 /usr/bin/suid-id",
        ],
    )
    .await;
    let mut who = program("who", &["suid-id"]);
    (who.uid, who.gid) = (1000, 1000);
    let (_, text) = run_spec(&keeper, who).await;
    lab.stop(&keeper).await;
    rustix::mount::unmount(&pool, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(text.contains("uid=1000") && text.contains("euid=0(root)"), "{text}");
}

/// Copies a program from the host into a container.
async fn copy_in(keeper: &hutch_container::Keeper, from: &std::path::Path, to: &str) {
    let stream = keeper.sftp().await.unwrap();
    let (data, to) = (std::fs::read(from).unwrap(), to.to_owned());
    tokio::task::spawn_blocking(move || Sftp::new(stream).put(&to, &data, 0o755))
        .await
        .unwrap();
}

/// Containers inside a container, made by a keeper that runs there, on a file system of the container's own.
#[tokio::test]
async fn a_keeper_works_inside_a_container_with_nesting() {
    let lab = Lab::new();
    let mut spec = lab.debian("outer");
    spec.nesting = true;
    // Ids enough for maps inside.
    let mut idmap = lab.idmap();
    lab.idmap();
    for ranges in [&mut idmap.uids, &mut idmap.gids] {
        ranges[0].count = 2 * 65_536;
    }
    spec.idmap = Some(idmap);
    let keeper = lab.start(&spec).await;
    reaches_running(&keeper).await;
    let pool = "mount -t tmpfs tmpfs /mnt && mkdir -p /mnt/root/bin /mnt/root/proc /mnt/root/sys /mnt/root/dev";
    assert_eq!(run(&keeper, &["sh", "-c", pool]).await.0, ExitStatus::Code(0));
    let measure = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .join("../examples/measure");
    copy_in(&keeper, &common::keeper_binary(), "/mnt/hutch-keeper").await;
    copy_in(&keeper, &measure, "/mnt/measure").await;
    copy_in(&keeper, std::path::Path::new("/bin/busybox"), "/mnt/root/bin/busybox").await;
    let script = "cd /mnt/root/bin && ln -s busybox true && ln -s busybox sleep && TMPDIR=/mnt /mnt/measure /mnt/hutch-keeper /mnt/root 1 65536";
    let (status, text) = run(&keeper, &["sh", "-c", script]).await;
    assert_eq!(status, ExitStatus::Code(0), "{text}");
    assert!(text.contains("exec"), "{text}");
    lab.stop(&keeper).await;
}
