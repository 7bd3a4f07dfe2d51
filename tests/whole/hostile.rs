//! Image archives made to do harm: each is refused with a reason, and nothing of it is left.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, creation};
use hutch_tests::image::Tarball;
use hutch_tests::leftovers::Leftovers;
use hutch_tests::rest::Client;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tar::EntryType;

/// Imports an archive and creates an instance from it; one of both must be refused. Returns the reason.
fn refused(client: &mut Client, file: &Path) -> Result<String> {
    let content = std::fs::read(file)?;
    let answer = client.send(
        "POST",
        "/1.0/images",
        &[("Content-Type", "application/octet-stream")],
        &content,
    )?;
    if answer.status >= 400 {
        ensure!(answer.status < 500, "{}: {}", answer.status, answer.error());
        return Ok(answer.error());
    }
    let operation = answer.json()?["metadata"].take();
    let ended = client.end_of(&operation)?;
    if ended["status_code"] != 200 {
        return Ok(ended["err"].as_str().unwrap_or_default().to_owned());
    }
    let fingerprint = ended["metadata"]["fingerprint"].as_str().unwrap_or_default().to_owned();
    let mut body = creation("victim", &json!({}), false);
    body["source"] = json!({ "type": "image", "fingerprint": fingerprint });
    let (_, message) = client.refused("POST", "/1.0/instances", &body)?;
    client.run("DELETE", &format!("/1.0/images/{fingerprint}"), &Value::Null)?;
    Ok(message)
}

/// A name and what it adds to an image.
type Trick = (&'static str, fn(&mut Tarball, &Path) -> Result<()>);

const TRICKS: &[Trick] = &[
    ("an entry above the root", |tarball, _| {
        tarball.file("rootfs/../../escape", 0o644, b"out")
    }),
    ("an absolute entry", |tarball, outside| {
        tarball.file(&format!("{}/escape", outside.display()), 0o644, b"out")
    }),
    ("an entry through an absolute link", |tarball, outside| {
        tarball.symlink("rootfs/out", &outside.to_string_lossy())?;
        tarball.file("rootfs/out/escape", 0o644, b"out")
    }),
    ("an entry through a relative link", |tarball, _| {
        tarball.symlink("rootfs/out", "../../../../../../../var/tmp")?;
        tarball.file("rootfs/out/escape", 0o644, b"out")
    }),
    ("a hard link to a file of the host", |tarball, _| {
        tarball.raw("rootfs/shadow", EntryType::Link, 0o644, "/etc/shadow", b"")
    }),
    ("a hard link above the root", |tarball, _| {
        tarball.raw(
            "rootfs/shadow",
            EntryType::Link,
            0o644,
            "rootfs/../../../../../../etc/shadow",
            b"",
        )
    }),
    ("a device node", |tarball, _| {
        tarball.raw("rootfs/root/disk", EntryType::Block, 0o666, "", b"")
    }),
];

#[test]
fn archives_that_reach_out_are_refused() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let outside = daemon.sandbox().path().join("outside");
    std::fs::create_dir(&outside)?;
    let before = Leftovers::settled(&daemon)?;
    for (name, trick) in TRICKS {
        let mut tarball = Tarball::create(&daemon.sandbox().path().join("trick.tar.gz"))?;
        tarball.metadata("a trick")?;
        tarball.busybox_root()?;
        trick(&mut tarball, &outside)?;
        let message = refused(&mut client, &tarball.finish()?)?;
        ensure!(!message.is_empty(), "{name} is refused without a reason");
        ensure!(std::fs::read_dir(&outside)?.next().is_none(), "{name} wrote outside");
        ensure!(!Path::new("/var/tmp/escape").exists(), "{name} wrote outside");
        before.compare_with_now(&daemon)?;
    }
    Ok(())
}

#[test]
fn broken_archives_are_refused() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let before = Leftovers::settled(&daemon)?;
    let whole = std::fs::read(hutch_tests::image::busybox(daemon.sandbox().path())?)?;
    let place = daemon.sandbox().path().join("broken");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let cases: [(&str, Vec<u8>); 6] = [
        ("nothing", Vec::new()),
        ("text", b"this is no archive".to_vec()),
        ("cut off", whole[..whole.len() / 2].to_vec()),
        ("one bit wrong", flipped),
        ("zeros", vec![0; 100_000]),
        ("a compressed nothing", vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0, 1, 0, 0]),
    ];
    for (name, content) in cases {
        std::fs::write(&place, content)?;
        let message = refused(&mut client, &place)?;
        ensure!(!message.is_empty(), "{name} is refused without a reason");
        before.compare_with_now(&daemon)?;
    }
    Ok(())
}

#[test]
fn metadata_that_is_wrong_or_too_much_is_refused() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let bomb = {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..9 {
            let inner = format!("*a{},", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{}]\n", inner.trim_end_matches(',')));
        }
        text
    };
    let deep = format!("properties: {}1{}\n", "[".repeat(20_000), "]".repeat(20_000));
    for (name, text) in [
        ("a bomb", bomb),
        ("depth", deep),
        ("no YAML", "{: [".to_owned()),
        ("a list", "- 1\n".to_owned()),
    ] {
        let mut tarball = Tarball::create(&daemon.sandbox().path().join("metadata.tar.gz"))?;
        tarball.file("metadata.yaml", 0o644, text.as_bytes())?;
        tarball.busybox_root()?;
        let message = refused(&mut client, &tarball.finish()?)?;
        ensure!(!message.is_empty(), "{name} is refused without a reason");
    }
    Ok(())
}

#[test]
fn a_bomb_fills_no_disk() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let before = Leftovers::settled(&daemon)?;
    let bomb = bomb(daemon.sandbox().path())?;
    let message = refused(&mut client, &bomb)?;
    ensure!(!message.is_empty());
    before.compare_with_now(&daemon)
}

/// A few hundred kilobytes that say they are 400 GB.
fn bomb(directory: &Path) -> Result<PathBuf> {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;
    let path = directory.join("bomb.tar.gz");
    let mut header = tar::Header::new_gnu();
    header.set_path("rootfs/zeros")?;
    header.set_size(400 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    let mut encoder = GzEncoder::new(std::fs::File::create(&path)?, Compression::best());
    let mut metadata = tar::Header::new_gnu();
    let text = format!("architecture: {}\ncreation_date: 1700000000\n", std::env::consts::ARCH);
    metadata.set_path("metadata.yaml")?;
    metadata.set_size(text.len() as u64);
    metadata.set_mode(0o644);
    metadata.set_cksum();
    encoder.write_all(metadata.as_bytes())?;
    encoder.write_all(text.as_bytes())?;
    encoder.write_all(&vec![0; 512 - text.len()])?;
    encoder.write_all(header.as_bytes())?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..512 {
        encoder.write_all(&zeros)?;
    }
    encoder.finish()?;
    Ok(path)
}

/// Runs a program in a directory.
fn run_in(directory: &Path, script: &str) -> Result<()> {
    let script = format!("cd '{}' && {script}", directory.display());
    hutch_tests::sandbox::must("sh", &["-ec", &script]).map(drop)
}

#[test]
fn archives_of_every_kind_are_held_to_the_same_bounds() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let place = daemon.sandbox().path().join("archives");
    std::fs::create_dir(&place)?;
    let before = Leftovers::settled(&daemon)?;
    let arch = std::env::consts::ARCH;
    let metadata = format!("architecture: {arch}\ncreation_date: 1700000000\n");
    std::fs::create_dir_all(place.join("tree/rootfs/dev"))?;
    std::fs::write(place.join("tree/metadata.yaml"), metadata)?;
    run_in(
        &place,
        "mknod tree/rootfs/disk b 8 0 && tar -C tree -cJf nodes.tar.xz . && tar -C tree -c . | zstd -q > nodes.tar.zst",
    )?;
    run_in(
        &place,
        "mksquashfs tree nodes.squashfs -quiet -noappend > /dev/null && rm tree/rootfs/disk",
    )?;
    // A few kilobytes that say they are 400 GB, and have 128 MiB of them.
    let mut header = tar::Header::new_gnu();
    header.set_path("rootfs/zeros")?;
    header.set_size(400 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    std::fs::write(place.join("header"), header.as_bytes())?;
    for (name, compress) in [("bomb.tar.zst", "zstd -q"), ("bomb.tar.xz", "xz -0")] {
        let whole = "tar -C tree -c metadata.yaml | head -c 1024; cat header; head -c 128M /dev/zero";
        run_in(&place, &format!("({whole}) | {compress} > {name}"))?;
    }
    run_in(
        &place,
        "mksquashfs tree good.squashfs -quiet -noappend > /dev/null && head -c 300 good.squashfs > cut.squashfs",
    )?;
    let mut flipped = std::fs::read(place.join("good.squashfs"))?;
    // The superblock's table addresses (squashfs 4.0, Documentation/filesystems/squashfs.rst) lead outside.
    flipped[32..96].fill(0xff);
    std::fs::write(place.join("flipped.squashfs"), flipped)?;
    for name in [
        "nodes.tar.xz",
        "nodes.tar.zst",
        "nodes.squashfs",
        "bomb.tar.zst",
        "bomb.tar.xz",
        "cut.squashfs",
        "flipped.squashfs",
    ] {
        let begun = Instant::now();
        let message = refused(&mut client, &place.join(name)).context(name)?;
        ensure!(!message.is_empty(), "{name}");
        ensure!(
            begun.elapsed() < Duration::from_secs(60),
            "{name}: {:?}",
            begun.elapsed()
        );
        before.compare_with_now(&daemon).context(name)?;
    }
    Ok(())
}
