//! `examples/image-index`: images from an index of its own, in Python.

use super::{build, conforms};
use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, tail};
use hutch_tests::image::Tarball;
use hutch_tests::stock::Stock;
use hutch_tests::web::{Page, Web};
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

fn plugin() -> Result<PathBuf> {
    static BUILT: OnceLock<Mutex<Option<PathBuf>>> = OnceLock::new();
    let mut built = BUILT
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = &*built {
        return Ok(file.clone());
    }
    // It takes a while, and nothing of it is done again by itself.
    let file = build("image-index", &["python3", "build.py"], "image-index.wasm")?;
    *built = Some(file.clone());
    Ok(file)
}

#[test]
fn the_format_is_read_as_its_own_tests_say() -> Result<()> {
    build("image-index", &["python3", "-m", "unittest"], "test_index.py").map(drop)
}

#[test]
fn the_source_conforms() -> Result<()> {
    conforms("image-index", &plugin()?, &["--worker"], 13)
}

/// The index of a server that has one image of this size and checksum.
fn index(size: usize, sha256: &str) -> String {
    let arch = std::env::consts::ARCH;
    format!(
        "Index: 1\n\nName: busy\nAliases: smallest\nArchitecture: {arch}\nDescription: from an index\nCreated: 2026-11-01\n\
         File: images/busy.tar.gz {size} {sha256}\n"
    )
}

#[test]
fn a_container_comes_from_an_index() -> Result<()> {
    let plugin = plugin()?;
    let daemon = Daemon::start()?;
    // Another one than the one that is imported already.
    let mut tarball = Tarball::create(&daemon.sandbox().path().join("busy.tar.gz"))?;
    tarball.metadata("from an index")?;
    tarball.busybox_root()?;
    let content = std::fs::read(tarball.finish()?)?;
    let sha256 = hex::encode(Sha256::digest(&content));
    let served = Arc::new(Mutex::new(index(content.len(), &sha256)));
    let now = Arc::clone(&served);
    let web = Web::serve(daemon.sandbox(), move |asked| match asked.path.as_str() {
        "/INDEX" => Page {
            body: now.lock().unwrap_or_else(PoisonError::into_inner).clone().into_bytes(),
            ..Page::default()
        },
        "/images/busy.tar.gz" => Page {
            body: content.clone(),
            ranges: true,
            ..Page::default()
        },
        _ => Page {
            missing: true,
            ..Page::default()
        },
    })?;

    let hutch = Stock::hutch(&daemon)?;
    hutch.run(&["plugin", "install", &plugin.to_string_lossy(), "--yes"])?;
    hutch.run(&["remote", "add", "own", &web.address, "--protocol", "index"])?;
    let short = sha256.get(..12).context("a sum")?;
    let listed = hutch.run(&["image", "list", "own:small", "--format", "csv"])?;
    ensure!(
        listed.contains("busy (1 more)") && listed.contains(short) && listed.contains("from an index"),
        "{listed}"
    );
    ensure!(hutch.run(&["image", "info", "own:smallest"])?.contains(&sha256));
    hutch.run(&["launch", "own:smallest", "c1"])?;
    ensure!(daemon.shell("c1", "echo alive")? == "alive", "{}", tail(&daemon.log()));
    ensure!(
        hutch
            .run(&["image", "list", "--format", "csv"])?
            .contains(sha256.get(..12).context("a sum")?)
    );

    // Whoever writes an index may be anybody. Each is an error that says where, and the daemon and its other images are as before.
    for (hostile, told) in [
        (
            index(1, &sha256).replace("images/busy", "../../etc/passwd"),
            "line 8 has '../../etc/passwd.tar.gz'",
        ),
        (
            index(1, &sha256).replace("images/", "http://elsewhere/"),
            "line 8 has 'http://elsewhere/busy.tar.gz'",
        ),
        (index(1, "00"), "which can't be a SHA-256"),
        ("[".repeat(1 << 20), "line 1 has more than"),
        ("\u{1b}[2J: x\n".to_owned(), "line 1 does not begin an index"),
        (
            format!("Index: 1\n\n{}", "A: 1\n".repeat(1000)),
            "line 4 has 'A' for the second time",
        ),
        (
            format!("Index: 1\n{}", "# nothing\n".repeat(1 << 20)),
            "bytes that may be fetched",
        ),
    ] {
        *served.lock().unwrap_or_else(PoisonError::into_inner) = hostile;
        let (_, refusal) = hutch.fails(&["launch", "own:busy", "c2"])?;
        ensure!(refusal.contains(told), "{told}: {refusal}");
        ensure!(!refusal.contains('\u{1b}') && refusal.len() < 2000, "{refusal}");
        let (_, refusal) = hutch.fails(&["image", "list", "own:"])?;
        ensure!(
            refusal.contains(told) && refusal.contains("org.example"),
            "{told}: {refusal}"
        );
    }
    // What the index says of a file is held against the file.
    *served.lock().unwrap_or_else(PoisonError::into_inner) = index(17, &"0".repeat(64));
    hutch.fails(&["launch", "own:busy", "c2"])?;
    ensure!(hutch.run(&["list", "--format", "csv"])?.lines().count() == 1);
    Ok(())
}
