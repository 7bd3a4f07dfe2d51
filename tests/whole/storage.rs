//! Pools and what is in them.

use anyhow::{Result, ensure};
use hutch_tests::daemon::{Daemon, Options, creation};
use hutch_tests::leftovers::Leftovers;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[test]
fn a_pool_in_use_stays_and_an_unused_one_goes() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let before = Leftovers::settled(&daemon)?;
    client.sync(
        "POST",
        "/1.0/storage-pools",
        &json!({ "name": "second", "driver": "dir", "config": {} }),
    )?;
    let root = json!({ "root": { "type": "disk", "path": "/", "pool": "second" } });
    client.run(
        "POST",
        "/1.0/instances",
        &creation("c1", &json!({ "devices": root }), true),
    )?;
    ensure!(daemon.shell("c1", "echo here")? == "here");
    let pool = client.get("/1.0/storage-pools/second")?;
    ensure!(
        pool["driver"] == "dir" && pool["used_by"].to_string().contains("/1.0/instances/c1"),
        "{pool}"
    );
    let resources = client.get("/1.0/storage-pools/second/resources")?;
    ensure!(resources["space"]["total"].as_u64() > Some(0), "{resources}");
    let (status, message) = client.refused("DELETE", "/1.0/storage-pools/second", &Value::Null)?;
    ensure!(
        status == 400 && message.to_lowercase().contains("in use"),
        "{status} {message}"
    );
    daemon.change("c1", "stop", true)?;
    client.run("DELETE", "/1.0/instances/c1", &Value::Null)?;
    client.sync("DELETE", "/1.0/storage-pools/second", &Value::Null)?;
    before.compare_with_now(&daemon)
}

#[test]
fn a_directory_of_the_host_is_shared_with_shifted_owners() -> Result<()> {
    let daemon = Daemon::start()?;
    let shared = daemon.sandbox().path().join("shared");
    std::fs::create_dir(&shared)?;
    std::fs::write(shared.join("file"), "of the host")?;
    let disk = json!({ "type": "disk", "source": shared, "path": "/mnt/shared", "shift": "true" });
    let frozen =
        json!({ "type": "disk", "source": shared, "path": "/mnt/frozen", "readonly": "true", "shift": "true" });
    daemon.instance("c1", &json!({ "devices": { "shared": disk, "frozen": frozen } }))?;
    let seen = daemon.shell("c1", "cat /mnt/shared/file; stat -c %u /mnt/shared/file")?;
    ensure!(seen == "of the host0", "{seen}");
    daemon.shell("c1", "echo inside > /mnt/shared/new")?;
    let made = std::fs::metadata(shared.join("new"))?;
    ensure!(
        std::os::unix::fs::MetadataExt::uid(&made) == 0,
        "a file made inside is another user's outside"
    );
    ensure!(daemon.shell("c1", "touch /mnt/frozen/x 2>/dev/null || echo refused")? == "refused");
    Ok(())
}

#[test]
fn a_full_disk_fails_what_needs_it_and_nothing_else() -> Result<()> {
    let daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let small = daemon.sandbox().path().join("small");
    std::fs::create_dir(&small)?;
    hutch_tests::sandbox::must(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            "size=1m,mode=0711",
            "tmpfs",
            &small.to_string_lossy(),
        ],
    )?;
    let mut client = daemon.client();
    let image = hutch_tests::image::busybox(daemon.sandbox().path())?;
    client.import_image(&image, Some("busybox"))?;
    let config = json!({ "source": small });
    client.sync(
        "POST",
        "/1.0/storage-pools",
        &json!({ "name": "small", "driver": "dir", "config": config }),
    )?;
    let root = json!({ "root": { "type": "disk", "path": "/", "pool": "small" } });
    let used = entries(&small)?;
    let (_, message) = client.refused(
        "POST",
        "/1.0/instances",
        &creation("c1", &json!({ "devices": root }), false),
    )?;
    ensure!(message.contains("space"), "{message}");
    ensure!(
        client.get("/1.0/instances")? == json!([]),
        "a half-made instance is listed"
    );
    let left = entries(&small)?;
    ensure!(left == used, "left of a half-made instance: {left:?}, before: {used:?}");
    client.sync("DELETE", "/1.0/storage-pools/small", &Value::Null)?;
    Ok(())
}

/// The files and directories below a directory, without what is being made or discarded.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().contains("trash") || name == "staging" {
            continue;
        }
        found.push(entry.path());
        if entry.file_type()?.is_dir() {
            found.extend(entries(&entry.path())?);
        }
    }
    found.sort();
    Ok(found)
}
