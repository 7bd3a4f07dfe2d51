//! The clients that people have, as black boxes: the same work through each of them.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::stock::Stock;

/// What differs between the command lines for the same work.
struct Dialect {
    /// The verbs before the name of an instance and of a snapshot.
    snapshot: &'static [&'static str],
    restore: &'static [&'static str],
    /// What deletes snapshot `s1` of `c1`.
    delete_snapshot: &'static [&'static str],
}

const INCUS: Dialect = Dialect {
    snapshot: &["snapshot", "create"],
    restore: &["snapshot", "restore"],
    delete_snapshot: &["snapshot", "delete", "c1", "s1"],
};

const LXC: Dialect = Dialect {
    snapshot: &["snapshot"],
    restore: &["restore"],
    delete_snapshot: &["delete", "c1/s1"],
};

#[test]
fn hutch_does_the_daily_work() -> Result<()> {
    let daemon = Daemon::start()?;
    daily_work(&daemon, &Stock::hutch(&daemon)?, &INCUS)
}

#[test]
fn incus_does_the_daily_work() -> Result<()> {
    let daemon = Daemon::start()?;
    Stock::incus(&daemon).map_or(Ok(()), |client| daily_work(&daemon, &client, &INCUS))
}

#[test]
fn lxc_does_the_daily_work() -> Result<()> {
    let daemon = Daemon::start()?;
    Stock::lxc(&daemon).map_or(Ok(()), |client| daily_work(&daemon, &client, &LXC))
}

/// The ten things that people do, and what they look at.
fn daily_work(daemon: &Daemon, client: &Stock, dialect: &Dialect) -> Result<()> {
    let network = daemon.network();
    client.run(&["launch", "busybox", "c1"])?;
    let listed = client.run(&["list", "--format", "csv", "-c", "ns"])?;
    ensure!(listed.trim().eq_ignore_ascii_case("c1,running"), "{listed}");
    ensure!(client.run(&["exec", "c1", "--", "hostname"])?.trim() == "c1");
    ensure!(client.fails(&["exec", "c1", "--", "sh", "-c", "exit 7"])?.0 == 7);
    ensure!(client.feed(&["exec", "c1", "-T", "--", "cat"], b"through\n")? == "through\n");
    files(daemon, client)?;
    client.run(&[dialect.snapshot, &["c1", "s1"]].concat())?;
    client.run(&["exec", "c1", "--", "rm", "/root/file"])?;
    client.run(&["stop", "c1", "--force"])?;
    client.run(&[dialect.restore, &["c1", "s1"]].concat())?;
    client.run(&["start", "c1"])?;
    ensure!(client.run(&["exec", "c1", "--", "cat", "/root/file"])? == "pushed");
    let info = client.run(&["info", "c1"])?;
    ensure!(info.contains("s1") && info.to_lowercase().contains("running"), "{info}");
    client.run(dialect.delete_snapshot)?;
    client.run(&["config", "set", "c1", "limits.memory", "200MiB"])?;
    ensure!(client.run(&["config", "get", "c1", "limits.memory"])?.trim() == "200MiB");
    client.run(&[
        "network",
        "create",
        "extra0",
        "ipv4.address=10.216.0.1/24",
        "ipv6.address=none",
    ])?;
    client.run(&["config", "device", "add", "c1", "eth1", "nic", "network=extra0"])?;
    ensure!(
        client
            .run(&["exec", "c1", "--", "ls", "/sys/class/net"])?
            .contains("eth1"),
        "the device did not come"
    );
    client.run(&["config", "device", "remove", "c1", "eth1"])?;
    ensure!(
        !client
            .run(&["exec", "c1", "--", "ls", "/sys/class/net"])?
            .contains("eth1"),
        "the device did not go"
    );
    client.run(&["pause", "c1"])?;
    ensure!(
        client
            .run(&["list", "--format", "csv", "-c", "s"])?
            .trim()
            .eq_ignore_ascii_case("frozen")
    );
    client.run(&["start", "c1"])?;
    client.run(&["restart", "c1", "--force"])?;
    client.run(&["copy", "c1", "c2"])?;
    client.run(&["rename", "c2", "c3"])?;
    client.run(&["delete", "c3"])?;
    let (status, message) = client.fails(&["delete", "c1"])?;
    ensure!(
        status == 1 && message.starts_with("Error:") && message.contains("running"),
        "{status} {message}"
    );
    client.run(&["delete", "c1", "--force"])?;
    let (_, message) = client.fails(&["start", "c1"])?;
    // Ansible's connection looks for these words.
    ensure!(
        message.contains("Instance not found") || message.contains("not found"),
        "{message}"
    );
    objects(client, &network)
}

fn files(daemon: &Daemon, client: &Stock) -> Result<()> {
    let scratch = daemon.sandbox().path().join("scratch");
    std::fs::create_dir(&scratch)?;
    let (source, target) = (scratch.join("source"), scratch.join("target"));
    std::fs::write(&source, "pushed")?;
    let (source, target) = (
        source.to_string_lossy().into_owned(),
        target.to_string_lossy().into_owned(),
    );
    client.run(&["file", "push", &source, "c1/root/file"])?;
    client.run(&["file", "pull", "c1/root/file", &target])?;
    ensure!(std::fs::read_to_string(&target)? == "pushed");
    let tree = scratch.join("tree");
    std::fs::create_dir_all(tree.join("inner"))?;
    std::fs::write(tree.join("inner/leaf"), "leaf")?;
    client.run(&["file", "push", "--recursive", &tree.to_string_lossy(), "c1/root"])?;
    ensure!(client.run(&["exec", "c1", "--", "cat", "/root/tree/inner/leaf"])? == "leaf");
    let back = scratch.join("back");
    std::fs::create_dir(&back)?;
    client.run(&["file", "pull", "--recursive", "c1/root/tree", &back.to_string_lossy()])?;
    ensure!(std::fs::read_to_string(back.join("tree/inner/leaf"))? == "leaf");
    client.run(&["file", "delete", "c1/root/tree/inner/leaf"])?;
    std::fs::remove_dir_all(&scratch).context("can't remove the scratch directory")
}

/// Networks, pools, profiles and images.
fn objects(client: &Stock, network: &str) -> Result<()> {
    client.run(&["network", "set", "extra0", "ipv4.nat", "true"])?;
    ensure!(client.run(&["network", "show", "extra0"])?.contains("10.216.0.1/24"));
    ensure!(client.run(&["network", "info", "extra0"])?.contains("10.216.0.1"));
    client.run(&["network", "list-leases", network])?;
    client.run(&["network", "delete", "extra0"])?;
    client.run(&["profile", "create", "small"])?;
    client.run(&["profile", "set", "small", "limits.processes", "100"])?;
    ensure!(client.run(&["profile", "show", "small"])?.contains("limits.processes"));
    client.run(&["profile", "delete", "small"])?;
    client.run(&["storage", "create", "extra", "dir"])?;
    ensure!(client.run(&["storage", "show", "extra"])?.contains("driver: dir"));
    client.run(&["storage", "info", "extra"])?;
    client.run(&["storage", "delete", "extra"])?;
    ensure!(client.run(&["image", "list", "--format", "csv"])?.contains("busybox"));
    client.run(&["image", "alias", "create", "other", fingerprint(client)?.as_str()])?;
    client.run(&["image", "alias", "delete", "other"])?;
    client.run(&["operation", "list"])?;
    client.run(&["info"]).map(drop)
}

fn fingerprint(client: &Stock) -> Result<String> {
    let listed = client.run(&["image", "list", "--format", "json"])?;
    let images: serde_json::Value = serde_json::from_str(&listed)?;
    Ok(images[0]["fingerprint"]
        .as_str()
        .context("an image without fingerprint")?
        .to_owned())
}

#[test]
fn pylxd_does_the_daily_work() -> Result<()> {
    let daemon = Daemon::start()?;
    let Some(python) = Stock::pylxd(&daemon) else {
        return Ok(());
    };
    python.run(&["-c", PYTHON]).map(drop)
}

/// The daily work through pylxd's objects.
const PYTHON: &str = r#"
import pylxd
client = pylxd.Client()
config = {"name": "c1", "source": {"type": "image", "alias": "busybox"}}
instance = client.instances.create(config, wait=True)
instance.start(wait=True)
assert client.instances.get("c1").status == "Running", instance.status
result = instance.execute(["sh", "-c", "echo out; echo err >&2; exit 3"])
assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n"), result
instance.files.put("/root/file", b"pushed", mode=0o600, uid=5, gid=6)
assert instance.files.get("/root/file") == b"pushed"
assert instance.execute(["stat", "-c", "%u %g %a", "/root/file"]).stdout == "5 6 600\n"
instance.snapshots.create("s1", wait=True)
assert [s.name for s in instance.snapshots.all()] == ["s1"]
instance.config["limits.memory"] = "200MiB"
instance.save(wait=True)
assert client.instances.get("c1").config["limits.memory"] == "200MiB"
state = instance.state()
assert state.status == "Running" and state.pid > 0 and "eth0" in state.network, state.network
instance.freeze(wait=True)
instance.unfreeze(wait=True)
instance.stop(force=True, wait=True)
instance.snapshots.get("s1").delete(wait=True)
instance.rename("c2", wait=True)
client.instances.get("c2").delete(wait=True)
assert not client.instances.exists("c2")
assert "testpool" in [p.name for p in client.storage_pools.all()]
assert client.profiles.get("default").devices["root"]["pool"] == "testpool"
assert any(n.managed for n in client.networks.all())
assert client.images.get_by_alias("busybox").architecture
try:
    client.instances.get("none")
    raise AssertionError("an instance that is not there")
except pylxd.exceptions.NotFound:
    pass
"#;
