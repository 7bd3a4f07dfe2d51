//! The mounts that keep what containers put into pools from meaning anything on the host.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, creation};
use hutch_tests::sandbox::must;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const POOLS: &str = "/1.0/storage-pools";

/// A user who is nobody.
const STRANGER: &str = "65534";

/// Where something is mounted, as often as it is there.
fn mounted_at(place: &Path) -> Result<usize> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(places.filter(|found| Path::new(found) == place).count())
}

/// The file of this name in a tree.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => find(&path, name),
            _ => (entry.file_name() == name).then_some(path),
        }
    })
}

/// As whom a program runs that a stranger executes who has got into its directory, past those above it that are closed to him.
fn effective_user(program: &Path) -> Result<String> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "--"]);
    let name = program.file_name().context("a program without a name")?;
    command.arg(Path::new(".").join(name)).arg("-u");
    command.current_dir(program.parent().context("a program without a directory")?);
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Puts a set-user-id program and a device into a container.
fn fill(daemon: &Daemon) -> Result<()> {
    let program = std::fs::read("/usr/bin/id")?;
    let path = "/1.0/instances/c1/files?path=/srv/known-id";
    daemon.shell("c1", "mkdir -p /srv && chmod 755 /srv")?;
    daemon.client().send("POST", path, &[], &program)?;
    daemon.shell(
        "c1",
        "chown 0:0 /srv/known-id && chmod 4755 /srv/known-id && mknod /srv/known-null c 1 3",
    )?;
    // Inside both are what they seem.
    daemon.shell("c1", "cat /srv/known-null").map(drop)
}

#[test]
fn set_user_id_programs_and_devices_of_a_pool_mean_nothing_outside() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let disks = daemon.sandbox().path().join("disks");
    std::fs::create_dir(&disks)?;
    for driver in ["dir", "overlay"] {
        let (name, root) = (format!("closed-{driver}"), disks.join(driver));
        std::fs::create_dir(&root)?;
        let mut client = daemon.client();
        let config = json!({ "source": root });
        client.sync(
            "POST",
            POOLS,
            &json!({ "name": name, "driver": driver, "config": config }),
        )?;
        ensure!(mounted_at(&root)? == 1);
        let more = json!({
            "devices": { "root": { "type": "disk", "path": "/", "pool": name } },
            // Only the host's root makes devices.
            "config": { "security.privileged": "true" },
        });
        client.run("POST", "/1.0/instances", &creation("c1", &more, true))?;
        fill(&daemon)?;
        let (program, device) = (find(&root, "known-id"), find(&root, "known-null"));
        let (program, device) = (program.context("the program")?, device.context("the device")?);
        let closed = |when: &str| {
            let user = effective_user(&program)?;
            ensure!(user == STRANGER, "{driver}, {when}: the program ran as user {user}");
            let refused = std::fs::File::open(&device)
                .err()
                .and_then(|error| error.raw_os_error());
            ensure!(
                refused == Some(13),
                "{driver}, {when}: the device can be opened: {refused:?}"
            );
            ensure!(mounted_at(&root)? == 1, "{driver}, {when}");
            Ok(())
        };
        closed("while it runs")?;
        daemon.kill()?;
        closed("while the daemon is dead")?;
        daemon.launch(&[])?;
        // What is asked of the pool waits until it is there again.
        daemon.client().get(&format!("{POOLS}/{name}/resources"))?;
        closed("after the daemon was killed")?;
        daemon.stop()?;
        closed("while it runs without the daemon")?;
        daemon.launch(&[])?;
        daemon.change("c1", "stop", true)?;
        closed("while it is stopped")?;
        daemon.stop()?;
        ensure!(mounted_at(&root)? == 0, "{driver}: it is mounted though nobody uses it");
        // This is what the mount is for, and shows that the test would see it.
        ensure!(effective_user(&program)? == "0");
        daemon.launch(&[])?;
        let mut client = daemon.client();
        client.run("DELETE", "/1.0/instances/c1", &Value::Null)?;
        client.sync("DELETE", &format!("{POOLS}/{name}"), &Value::Null)?;
        ensure!(
            mounted_at(&root)? == 0,
            "{driver}: it is mounted though the pool is gone"
        );
        std::fs::remove_dir_all(&root)?;
    }
    Ok(())
}

#[test]
fn a_disk_that_its_operator_has_closed_stays_as_it_is_mounted() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let disk = daemon.sandbox().path().join("disk");
    std::fs::create_dir(&disk)?;
    let place = disk.to_string_lossy().into_owned();
    must(
        "mount",
        &["-t", "tmpfs", "-o", "nosuid,nodev,mode=0711", "tmpfs", &place],
    )?;
    let mut client = daemon.client();
    let config = json!({ "source": disk });
    client.sync(
        "POST",
        POOLS,
        &json!({ "name": "p", "driver": "dir", "config": config }),
    )?;
    ensure!(mounted_at(&disk)? == 1, "it was closed already");
    daemon.stop()?;
    daemon.launch(&[])?;
    ensure!(mounted_at(&disk)? == 1, "the disk was unmounted at the daemon's end");
    daemon.client().sync("DELETE", &format!("{POOLS}/p"), &Value::Null)?;
    ensure!(mounted_at(&disk)? == 1, "the disk was unmounted with the pool");
    must("umount", &[&place]).map(drop)
}
