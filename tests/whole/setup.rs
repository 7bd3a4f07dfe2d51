//! `hutch admin init` with somebody who answers: what it asks, what it takes for an answer, and what comes of it.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options};
use hutch_tests::faulty::has_status;
use hutch_tests::stock::Stock;
use hutch_tests::variant::Variant;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::Stdio;

/// A daemon without a pool, a network, or a default profile that has any.
fn empty() -> Result<(Daemon, Stock)> {
    let daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let mut client = daemon.client();
    let put = json!({ "config": {}, "description": "", "devices": {} });
    client.sync("PUT", "/1.0/profiles/default", &put)?;
    for path in ["/1.0/networks", "/1.0/storage-pools"] {
        let all = client.get(path)?;
        for object in all.as_array().context("no list")?.iter().filter_map(Value::as_str) {
            // The machine's own interfaces are among the networks, and are not to be deleted.
            if client.get(object)?["managed"] != json!(false) {
                client.sync("DELETE", object, &Value::Null)?;
            }
        }
    }
    let hutch = Stock::hutch(&daemon)?;
    Ok((daemon, hutch))
}

/// What came of a set-up with these answers: whether it went through, what it said, and what it asked and complained about.
fn answered(hutch: &Stock, answers: &[&str]) -> Result<(bool, String, String)> {
    let mut command = hutch.command(&["admin", "init"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("can't run hutch")?;
    let mut input = child.stdin.take().context("no standard input")?;
    for answer in answers {
        writeln!(input, "{answer}")?;
    }
    drop(input);
    let output = child.wait_with_output()?;
    Ok((
        output.status.success(),
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    ))
}

fn pools(daemon: &Daemon) -> Result<Value> {
    daemon.client().get("/1.0/storage-pools")
}

#[test]
fn a_set_up_can_begin_with_a_plugin() -> Result<()> {
    let (daemon, hutch) = empty()?;
    let place = daemon.sandbox().path().to_owned();
    let plugin = Variant::storage("shelf", "1.0.0").asking("fs = { roots = true }\nlink = true");
    let file = plugin.write(&place)?.display().to_string();
    // What it asks for, in the words of the other command that asks.
    let (_, refusal) = hutch.fails(&["plugin", "install", &file])?;
    let words: Vec<&str> = refusal
        .lines()
        .filter(|line| line.starts_with("  ") && !line.contains("hutch "))
        .collect();
    ensure!(words.len() == 2, "{refusal}");
    let (went, said, asked) = answered(
        &hutch,
        &[
            // The plugin.
            "/nowhere.wasm",
            &file,
            "perhaps",
            "no",
            &file,
            "yes",
            "",
            // The pool.
            "zfs",
            "",
            "?",
            "source",
            "none",
            // The network: a name that none can have, one that only the driver refuses.
            "a b",
            "lo",
            "10.219.0.1",
            "10.219.0.1/24",
            "none",
            "",
            // Asked again, once that has been refused.
            "own0",
            "10.219.0.1/24",
            "none",
            "",
        ],
    )?;
    ensure!(went, "{asked}");
    for part in words.iter().copied().chain([
        "cannot read /nowhere.wasm",
        "org.example.storage.shelf 1.0.0: ",
        "Signature: dev",
        "\"perhaps\" is neither yes nor no",
        "Nothing was installed.",
        "\"zfs\" is none of ",
        "[shelf]",
        "\"source\" is not of the form KEY=VALUE",
        "\"a b\" can't be a name",
        "\"10.219.0.1\" is no IPv4 address",
        "source, volume.size",
        "\"lo\" can't be a bridge's name",
    ]) {
        ensure!(asked.contains(part), "{part:?} is not in: {asked}");
    }
    for part in [
        "org.example.storage.shelf 1.0.0 is installed (dev)",
        "Created default (storage pools)",
        "Created own0 (networks)",
    ] {
        ensure!(said.contains(part), "{part:?} is not in: {said}");
    }
    let mut client = daemon.client();
    has_status(&mut client, "/1.0/storage-pools/default", "Created")?;
    ensure!(client.get("/1.0/storage-pools/default")?["driver"] == "shelf");
    let config = client.get("/1.0/networks/own0")?["config"].take();
    ensure!(
        config["ipv4.address"] == "10.219.0.1/24" && config["ipv6.address"] == "none",
        "{config}"
    );
    let devices = client.get("/1.0/profiles/default")?["devices"].take();
    ensure!(
        devices["root"]["pool"] == "default" && devices["eth0"]["network"] == "own0",
        "{devices}"
    );

    // All of it is in what another machine can be set up with.
    let dumped = hutch.run(&["admin", "init", "--dump"])?;
    for part in ["shelf-1.0.0.wasm", "sha256:", "fs.roots", "driver: shelf", "own0"] {
        ensure!(dumped.contains(part), "{part:?} is not in: {dumped}");
    }
    let (went, said, asked) = answered(&hutch, &[""])?;
    ensure!(went && said.contains("Nothing is missing"), "{said}{asked}");
    Ok(())
}

#[test]
fn defaults_are_enough_and_the_end_of_the_input_ends_it() -> Result<()> {
    let (daemon, hutch) = empty()?;
    for answers in [&[][..], &["none"], &["none", ""], &["none", "", "", "", ""]] {
        let (went, said, asked) = answered(&hutch, answers)?;
        ensure!(!went && said.is_empty(), "{answers:?}: {said}");
        ensure!(
            asked.ends_with(": \nError: there was no answer\n") && asked.matches("there was no answer").count() == 1,
            "{answers:?}: {asked:?}"
        );
        ensure!(pools(&daemon)? == json!([]), "something was made of {answers:?}");
    }
    let (went, said, asked) = answered(&hutch, &[""; 10])?;
    ensure!(
        went && said.contains("Created default") && said.contains("Created hutchbr0"),
        "{said}{asked}"
    );
    has_status(&mut daemon.client(), "/1.0/networks/hutchbr0", "Created")?;
    Ok(())
}

#[test]
fn a_plugin_that_comes_to_what_is_set_up_gets_a_pool_beside_it() -> Result<()> {
    let daemon = Daemon::start()?;
    let hutch = Stock::hutch(&daemon)?;
    let before = daemon.client().get("/1.0/profiles/default")?["devices"].take();
    let plugin = Variant::storage("shelf", "1.0.0").write(daemon.sandbox().path())?;
    let file = plugin.display().to_string();
    // The pool's name, its driver, no options, and the profile stays as it is.
    let (went, said, asked) = answered(&hutch, &[&file, "yes", "none", "testpool", "second", "", "", "no"])?;
    ensure!(went && said.contains("Created second (storage pools)"), "{said}{asked}");
    ensure!(asked.contains("called \"testpool\" already"), "{asked}");
    let pool = daemon.client().get("/1.0/storage-pools/second")?;
    ensure!(pool["driver"] == "shelf", "{pool}");
    ensure!(daemon.client().get("/1.0/profiles/default")?["devices"] == before);
    Ok(())
}
