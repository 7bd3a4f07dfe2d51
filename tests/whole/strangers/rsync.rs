//! `examples/storage-rsync`: pools whose volumes have their home behind an rsync daemon.

use super::{build, conforms};
use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, POOL as POOL_HERE, creation};
use hutch_tests::faulty::has_status;
use hutch_tests::sandbox::Sandbox;
use hutch_tests::stock::Stock;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PORT: u16 = 8730;
/// Where a [`Narrow`] way to it begins.
const NARROW_PORT: u16 = 8731;
const POOL: &str = "/1.0/storage-pools/away";

fn plugin() -> Result<PathBuf> {
    let file = "target/wasm32-wasip2/debug/storage_rsync.wasm";
    build("storage-rsync", &["cargo", "build", "--locked"], file)
}

/// The other machine: an rsync daemon in the sandbox's network, with a directory beside the daemon's.
pub(crate) struct Remote {
    daemon: Option<Child>,
    place: PathBuf,
}

impl Remote {
    fn start(sandbox: &Sandbox) -> Result<Self> {
        let place = sandbox.path().join("remote");
        std::fs::create_dir(&place)?;
        let mut remote = Self { daemon: None, place };
        remote.back(sandbox)?;
        Ok(remote)
    }

    /// It answers, from now on.
    fn back(&mut self, sandbox: &Sandbox) -> Result<()> {
        let configuration = self.place.with_extension("conf");
        let (path, pid) = (self.place.display(), self.place.with_extension("pid"));
        // The file of one that was killed is not in the way of the next.
        std::fs::remove_file(&pid).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        std::fs::write(
            &configuration,
            format!(
                "address = 127.0.0.1\nport = {PORT}\nsocket options = TCP_NODELAY\npid file = {}\n[pools]\npath = {path}\nread only = no\nuid = root\ngid = root\n",
                pid.display()
            ),
        )?;
        let mut command = sandbox.command(Path::new("rsync"));
        command
            .args(["--daemon", "--no-detach"])
            .arg(format!("--config={}", configuration.display()))
            .stdin(Stdio::null())
            // The processes that serve connections are in its group.
            .process_group(0);
        self.daemon = Some(command.spawn().context("can't run rsync")?);
        let begun = Instant::now();
        let asks = || {
            let mut ask = sandbox.command(Path::new("rsync"));
            ask.arg(format!("rsync://127.0.0.1:{PORT}/")).output()
        };
        while !asks()?.status.success() {
            ensure!(
                begun.elapsed() < Duration::from_secs(20),
                "the rsync daemon does not answer"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// It is gone, in the middle of whatever it did.
    fn cut(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("it is away already")?;
        let group = Pid::from_child(&daemon);
        kill_process_group(group, Signal::KILL)?;
        daemon.wait()?;
        Ok(())
    }

    /// The directories of the volumes, each with the numbers of its trees.
    fn volumes(&self) -> Result<Vec<(PathBuf, Vec<u32>)>> {
        let mut volumes = Vec::new();
        for volume in std::fs::read_dir(self.place.join("away/volumes"))? {
            let volume = volume?.path();
            let mut trees = Vec::new();
            for entry in std::fs::read_dir(&volume)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                trees.extend(name.strip_prefix("tree-").and_then(|number| number.parse::<u32>().ok()));
            }
            trees.sort_unstable();
            volumes.push((volume, trees));
        }
        Ok(volumes)
    }

    /// The one volume that is there.
    fn volume(&self) -> Result<(PathBuf, Vec<u32>)> {
        let mut volumes = self.volumes()?;
        ensure!(volumes.len() == 1, "there are {volumes:?}");
        volumes.pop().context("there is none")
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // One that was cut has nothing to end.
        let _ = self.cut();
    }
}

/// A way to the other machine over which only so much gets; what is beyond that waits.
struct Narrow {
    /// How many more bytes get there.
    left: Arc<AtomicU64>,
}

impl Narrow {
    fn start(sandbox: &Sandbox) -> Result<Self> {
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let narrow = Arc::clone(&left);
        std::thread::scope(|scope| {
            let listening = scope.spawn(move || {
                sandbox.enter_network()?;
                let listener = TcpListener::bind(("127.0.0.1", NARROW_PORT))?;
                // Threads begin in the network of who begins them. This one ends with the process of the test.
                std::thread::spawn(move || {
                    for asking in listener.incoming().flatten() {
                        // Where nothing answers, who asks sees the connection closed.
                        if let Ok(remote) = TcpStream::connect(("127.0.0.1", PORT)) {
                            lead(asking, remote, &narrow);
                        }
                    }
                });
                Ok::<_, anyhow::Error>(())
            });
            listening
                .join()
                .map_err(|_| anyhow::anyhow!("the way there has no beginning"))?
        })?;
        Ok(Self { left })
    }

    /// Lets this much through, of all connections together.
    fn lets(&self, bytes: u64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// Nothing more gets through.
    fn is_closed(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }
}

/// Passes a connection on until one side ends it.
fn lead(asking: TcpStream, remote: TcpStream, left: &Arc<AtomicU64>) {
    let (Ok(from), Ok(to)) = (remote.try_clone(), asking.try_clone()) else {
        return;
    };
    std::thread::spawn(move || pass(from, to, &AtomicU64::new(u64::MAX)));
    let left = Arc::clone(left);
    std::thread::spawn(move || pass(asking, remote, &left));
}

fn pass(mut from: TcpStream, mut to: TcpStream, left: &AtomicU64) {
    let mut buffer = [0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut taken = 0;
        let _ = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            taken = left.min(read as u64);
            Some(if left == u64::MAX { left } else { left - taken })
        });
        if to.write_all(&buffer[..usize::try_from(taken).unwrap_or(read)]).is_err() {
            break;
        }
        if taken < read as u64 {
            // The rest is held back until the other direction ends, which ends both.
            return;
        }
    }
    // One that is closed already is what is wanted.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A daemon with the plugin installed, and a pool on the other machine.
pub(crate) fn start() -> Result<(Daemon, Remote, Stock)> {
    let (daemon, remote, hutch) = prepare()?;
    make_pool(&hutch, PORT)?;
    Ok((daemon, remote, hutch))
}

fn prepare() -> Result<(Daemon, Remote, Stock)> {
    let plugin = plugin()?;
    let daemon = Daemon::start()?;
    let remote = Remote::start(daemon.sandbox())?;
    let hutch = Stock::hutch(&daemon)?;
    hutch.run(&["plugin", "install", &plugin.to_string_lossy(), "--yes"])?;
    Ok((daemon, remote, hutch))
}

fn make_pool(hutch: &Stock, port: u16) -> Result<()> {
    let address = format!("rsync.remote=rsync://127.0.0.1:{port}/pools");
    hutch.run(&["storage", "create", "away", "rsync", &address])?;
    Ok(())
}

pub(crate) fn on_pool(name: &str, start: bool) -> serde_json::Value {
    let root = json!({ "type": "disk", "path": "/", "pool": "away" });
    creation(name, &json!({ "devices": { "root": root } }), start)
}

fn made_of(name: &str, image: &str) -> serde_json::Value {
    let mut body = creation(name, &json!({}), true);
    body["source"]["alias"] = json!(image);
    body
}

/// The trees of a container that are on this machine.
fn here(daemon: &Daemon, name: &str) -> Result<Vec<String>> {
    let home = daemon
        .state_dir()
        .join("storage-pools/away/volumes/container")
        .join(name);
    let mut trees = Vec::new();
    for entry in std::fs::read_dir(&home).with_context(|| format!("can't list {}", home.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        trees.extend(name.starts_with("tree-").then_some(name));
    }
    Ok(trees)
}

/// Waits until something is so: who stops a container does not wait for its way home.
fn eventually(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < Duration::from_secs(120), "not yet: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until nothing of a container is on this machine.
pub(crate) fn goes_home(daemon: &Daemon, name: &str) -> Result<()> {
    eventually("a volume is at home alone", || Ok(here(daemon, name)?.is_empty()))
}

#[test]
fn the_driver_conforms_against_a_real_rsync_daemon() -> Result<()> {
    conforms("storage-rsync", &plugin()?, &[], 130)
}

#[test]
fn a_container_lives_with_its_root_on_another_machine() -> Result<()> {
    let (mut daemon, remote, hutch) = start()?;
    let mut client = daemon.client();
    client.run("POST", "/1.0/instances", &on_pool("c1", true))?;
    daemon.shell("c1", "echo one > /kept")?;
    client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
    daemon.shell("c1", "echo two > /kept; chmod 600 /etc/passwd")?;
    daemon.change("c1", "stop", true)?;

    // At home, and not here any more; what did not change is there once.
    goes_home(&daemon, "c1")?;
    let (home, trees) = remote.volume()?;
    ensure!(trees.len() == 2, "{trees:?}");
    let file = |tree: u32, path: &str| home.join(format!("tree-{tree}")).join(path);
    ensure!(std::fs::read_to_string(file(trees[0], "kept"))? == "one\n");
    ensure!(std::fs::read_to_string(file(trees[1], "kept"))? == "two\n");
    let inode = |tree: u32, path: &str| std::fs::metadata(file(tree, path)).map(|found| (found.ino(), found.mode()));
    ensure!(inode(trees[0], "bin/busybox")? == inode(trees[1], "bin/busybox")?);
    ensure!(
        inode(trees[0], "etc/passwd")?.1 & 0o777 == 0o644,
        "a snapshot follows its volume"
    );

    daemon.stop()?;
    daemon.launch(&[])?;
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "cat /kept; stat -c %a /etc/passwd")? == "two\n600");
    daemon.change("c1", "stop", true)?;
    hutch.run(&["snapshot", "restore", "c1", "s1"])?;
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "cat /kept; stat -c %a /etc/passwd")? == "one\n644");

    // A copy of the snapshot, while the container runs.
    hutch.run(&["copy", "c1/s1", "c2"])?;
    daemon.change("c2", "start", false)?;
    ensure!(daemon.shell("c2", "cat /kept")? == "one");
    for name in ["c1", "c2"] {
        hutch.run(&["delete", "--force", name])?;
    }
    ensure!(remote.volumes()?.is_empty(), "{:?}", remote.volumes()?);
    hutch.run(&["storage", "delete", "away"])?;
    ensure!(!remote.place.join("away").exists());
    Ok(())
}

#[test]
fn a_machine_that_goes_away_takes_nothing_along() -> Result<()> {
    let (mut daemon, mut remote, hutch) = start()?;
    let mut client = daemon.client();
    client.run("POST", "/1.0/instances", &on_pool("c1", true))?;
    daemon.shell("c1", "echo one > /kept")?;
    client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
    remote.cut()?;

    // The container runs on; what needs the other machine says why it can't be done, and the pool shows it.
    ensure!(daemon.shell("c1", "echo two > /kept && cat /kept")? == "two");
    let (_, refusal) = hutch.fails(&["snapshot", "create", "c1", "s2"])?;
    ensure!(refusal.contains("can't reach rsync://127.0.0.1"), "{refusal}");
    has_status(&mut client, POOL, "Unavailable")?;
    let pool = hutch.run(&["storage", "show", "away"])?;
    ensure!(pool.contains("can't reach rsync://127.0.0.1"), "{pool}");
    daemon.change("c1", "stop", true)?;
    let (_, refusal) = hutch.fails(&["start", "c1"])?;
    ensure!(refusal.contains("storage pool away is unavailable"), "{refusal}");

    // It comes back, and so does the pool, by being used. What no record names yet stays: it may be something that is being made.
    let making = daemon.state_dir().join("storage-pools/away/making/container/new");
    std::fs::create_dir_all(&making)?;
    remote.back(daemon.sandbox())?;
    hutch.run(&["start", "c1"])?;
    has_status(&mut client, POOL, "Created")?;
    ensure!(making.exists(), "a pool that came back was cleaned up");
    ensure!(daemon.shell("c1", "cat /kept")? == "two");

    // A daemon that starts without it leaves the container alone.
    remote.cut()?;
    daemon.stop()?;
    daemon.launch(&[])?;
    has_status(&mut daemon.client(), POOL, "Unavailable")?;
    ensure!(daemon.shell("c1", "cat /kept")? == "two");
    remote.back(daemon.sandbox())?;
    hutch.run(&["snapshot", "create", "c1", "s2"])?;
    ensure!(!making.exists(), "a daemon that starts cleans up");
    daemon.change("c1", "stop", true)?;
    hutch.run(&["snapshot", "restore", "c1", "s1"])?;
    hutch.run(&["start", "c1"])?;
    ensure!(daemon.shell("c1", "cat /kept")? == "one");
    hutch.run(&["delete", "--force", "c1"])?;
    ensure!(remote.volumes()?.is_empty());
    Ok(())
}

#[test]
fn what_a_stopped_container_is_used_for_leaves_nothing_here() -> Result<()> {
    let (daemon, remote, hutch) = start()?;
    let mut client = daemon.client();
    let disk = daemon.sandbox().path().join("disk");
    std::fs::create_dir(&disk)?;
    client.run("POST", "/1.0/instances", &on_pool("c1", true))?;
    daemon.shell("c1", "echo one > /kept")?;
    daemon.change("c1", "stop", true)?;
    goes_home(&daemon, "c1")?;

    let source = json!({ "source": { "type": "instance", "name": "c1" }, "aliases": [{ "name": "mine" }] });
    client.run("POST", "/1.0/images", &source)?;
    goes_home(&daemon, "c1")?;

    let read = client.send("GET", "/1.0/instances/c1/files?path=/kept", &[], b"")?;
    ensure!(read.status == 200 && read.body == b"one\n", "{}", read.status);
    goes_home(&daemon, "c1")?;

    hutch.run(&["copy", "c1", "c2", "--storage", POOL_HERE])?;
    goes_home(&daemon, "c1")?;

    let source = format!("source={}", disk.display());
    hutch.run(&["config", "device", "add", "c1", "gone", "disk", &source, "path=/mnt"])?;
    std::fs::remove_dir(&disk)?;
    let (_, refusal) = hutch.fails(&["start", "c1"])?;
    ensure!(refusal.contains("disk"), "{refusal}");
    goes_home(&daemon, "c1")?;

    // What was made of it is whole.
    ensure!(remote.volumes()?.len() == 1, "{:?}", remote.volumes()?);
    client.run("POST", "/1.0/instances", &made_of("c3", "mine"))?;
    for name in ["c2", "c3"] {
        if daemon.status(name)? != "Running" {
            daemon.change(name, "start", false)?;
        }
        ensure!(daemon.shell(name, "cat /kept")? == "one", "{name}");
        hutch.run(&["delete", "--force", name])?;
    }
    hutch.run(&["config", "device", "remove", "c1", "gone"])?;
    hutch.run(&["start", "c1"])?;
    ensure!(daemon.shell("c1", "cat /kept")? == "one");
    hutch.run(&["delete", "--force", "c1"])?;
    ensure!(remote.volumes()?.is_empty());
    Ok(())
}

#[test]
fn a_transfer_that_is_cut_in_the_middle_goes_on_later() -> Result<()> {
    const SIZE: u64 = 192 << 20;
    let (daemon, mut remote, hutch) = prepare()?;
    let narrow = Narrow::start(daemon.sandbox())?;
    make_pool(&hutch, NARROW_PORT)?;
    let mut client = daemon.client();
    client.run("POST", "/1.0/instances", &on_pool("c1", true))?;
    daemon.shell("c1", "echo small > /kept")?;
    daemon.shell(
        "c1",
        &format!("dd if=/dev/urandom of=/big bs=1M count={} 2>/dev/null", SIZE >> 20),
    )?;
    let sum = daemon.shell("c1", "sha256sum /big")?;

    // More than all else that is in there, and less than that file.
    narrow.lets(SIZE / 2);
    daemon.change("c1", "stop", true)?;
    // rsync writes to a hidden file until it is whole.
    let halfway = |remote: &Remote| -> Result<bool> {
        let (home, trees) = remote.volume()?;
        let tree = home.join(format!("tree-{}", trees.last().context("no tree")?));
        Ok(std::fs::read_dir(tree)?.flatten().any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with(".big.") && entry.metadata().is_ok_and(|found| found.len() > 0)
        }))
    };
    eventually("half of it is sent", || Ok(narrow.is_closed()))?;
    // What got through is written a moment later, and stays as it is.
    eventually("a part of the file is there", || Ok(halfway(&remote).unwrap_or(false)))?;
    remote.cut()?;
    narrow.lets(u64::MAX);
    eventually("the pool is shown as unavailable", || {
        Ok(client.get(POOL)?["status"] == "Unavailable")
    })?;
    ensure!(daemon.status("c1")? == "Stopped");
    ensure!(here(&daemon, "c1")?.len() == 1, "what is not at home is here");

    remote.back(daemon.sandbox())?;
    hutch.run(&["start", "c1"])?;
    ensure!(daemon.shell("c1", "sha256sum /big && cat /kept")? == format!("{sum}\nsmall"));
    daemon.change("c1", "stop", true)?;
    goes_home(&daemon, "c1")?;
    eventually("of the first attempt nothing is left", || {
        Ok(remote.volume()?.1.len() == 1)
    })?;
    let (home, trees) = remote.volume()?;
    let sent = std::fs::metadata(home.join(format!("tree-{}", trees[0])).join("big"))?;
    ensure!(sent.len() == SIZE && sent.nlink() == 1);
    Ok(())
}

#[test]
fn a_debian_lives_with_its_root_on_another_machine() -> Result<()> {
    let image = crate::debian::image()?;
    let (mut daemon, remote, hutch) = start()?;
    daemon.client().import_image(&image, Some("debian"))?;
    let mut body = on_pool("d1", true);
    body["source"]["alias"] = json!("debian");
    daemon.client().run("POST", "/1.0/instances", &body)?;
    crate::debian::is_running(&daemon, "d1")?;
    daemon.shell("d1", "echo one > /root/kept")?;
    daemon
        .client()
        .run("POST", "/1.0/instances/d1/snapshots", &json!({ "name": "s1" }))?;
    daemon.shell("d1", "echo two > /root/kept")?;
    daemon.change("d1", "stop", false)?;
    goes_home(&daemon, "d1")?;
    daemon.stop()?;
    daemon.launch(&[])?;
    hutch.run(&["snapshot", "restore", "d1", "s1"])?;
    hutch.run(&["start", "d1"])?;
    crate::debian::is_running(&daemon, "d1")?;
    ensure!(daemon.shell("d1", "cat /root/kept")? == "one");
    hutch.run(&["delete", "--force", "d1"])?;
    ensure!(remote.volumes()?.is_empty());
    Ok(())
}
