//! Plugins that are installed, granted, upgraded and removed while the daemon runs.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options, creation, tail};
use hutch_tests::faulty::has_status;
use hutch_tests::sample::{all, sample};
use hutch_tests::stock::Stock;
use hutch_tests::variant::Variant;
use hutch_tests::web::{Page, Web};
use serde_json::{Value, json};

const POOL: &str = "/1.0/storage-pools/own";

/// Makes a pool of the driver `name`, and an instance `c1` on it.
pub(crate) fn use_driver(daemon: &Daemon, name: &str) -> Result<()> {
    let mut client = daemon.client();
    let pool = json!({ "name": "own", "driver": name, "config": {} });
    client.sync("POST", "/1.0/storage-pools", &pool)?;
    let root = json!({ "type": "disk", "path": "/", "pool": "own" });
    let more = json!({ "devices": { "root": root } });
    client
        .run("POST", "/1.0/instances", &creation("c1", &more, true))
        .map(drop)
}

fn stored(daemon: &Daemon) -> Result<usize> {
    Ok(std::fs::read_dir(daemon.state_dir().join("plugins/sha256"))?.count())
}

/// Waits until a file that nobody needs is gone, which is done beside the answer of the first request.
fn settles(daemon: &Daemon, wanted: usize) -> Result<()> {
    let begun = std::time::Instant::now();
    while stored(daemon)? != wanted {
        ensure!(
            begun.elapsed().as_secs() < 20,
            "{} files are stored, and {wanted} are needed",
            stored(daemon)?
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn an_installed_plugin_lasts_until_it_is_removed() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let before = stored(&daemon)?;
    let variant = Variant::storage("plain", "1.0.0");
    let file = variant.write(daemon.sandbox().path())?;
    let file = file.to_string_lossy();
    let hutch = Stock::hutch(&daemon)?;

    // Nobody is there to answer.
    let (_, refusal) = hutch.fails(&["plugin", "install", &file])?;
    for part in ["fs.roots", "directories of its own pools", "--yes"] {
        ensure!(refusal.contains(part), "{part:?} is not in: {refusal}");
    }
    ensure!(!hutch.run(&["plugin", "list"])?.contains("plain"));
    let (_, refusal) = hutch.fails(&["plugin", "install", &file, "--grant", "link"])?;
    ensure!(refusal.contains("there are fs.roots"), "{refusal}");
    let (_, refusal) = hutch.fails(&["plugin", "install", &file, "--yes", "--digest", "sha256:00"])?;
    ensure!(refusal.contains("its digest is sha256:"), "{refusal}");

    hutch.run(&["plugin", "install", &file, "--yes"])?;
    let table = hutch.run(&["plugin", "list", "--format", "csv"])?;
    let line = table
        .lines()
        .find(|line| line.contains("plain"))
        .context("not listed")?;
    ensure!(
        line.contains("1.0.0") && line.contains("dev") && line.contains("ENABLED"),
        "{line}"
    );
    // Again, which changes nothing.
    hutch.run(&["plugin", "install", &file, "--yes"])?;

    use_driver(&daemon, "plain")?;
    daemon.stop()?;
    daemon.launch(&[])?;
    has_status(&mut daemon.client(), POOL, "Created")?;
    ensure!(daemon.shell("c1", "echo alive")? == "alive");

    let (_, refusal) = hutch.fails(&["plugin", "remove", "plain", "--yes"])?;
    ensure!(refusal.contains(POOL), "{refusal}");
    hutch.run(&["delete", "--force", "c1"])?;
    daemon.client().sync("DELETE", POOL, &Value::Null)?;
    settles(&daemon, before + 1)?;
    hutch.run(&["plugin", "remove", "plain", "--yes"])?;
    ensure!(!hutch.run(&["plugin", "list"])?.contains("plain"));
    settles(&daemon, before)?;
    daemon.stop()?;
    daemon.launch(&[])?;
    ensure!(!hutch.run(&["plugin", "list"])?.contains("plain"));
    let (_, message) = daemon.client().refused(
        "POST",
        "/1.0/storage-pools",
        &json!({ "name": "own", "driver": "plain", "config": {} }),
    )?;
    ensure!(message.contains("plain"), "{message}");
    Ok(())
}

#[test]
fn what_is_revoked_is_refused_from_the_next_call_on() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let file = Variant::storage("plain", "1.0.0").write(daemon.sandbox().path())?;
    let hutch = Stock::hutch(&daemon)?;
    hutch.run(&["plugin", "install", &file.to_string_lossy(), "--yes"])?;
    use_driver(&daemon, "plain")?;
    let snapshot = |daemon: &Daemon, name: &str| {
        let mut client = daemon.client();
        client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": name }))
    };
    hutch.run(&["plugin", "revoke", "plain", "fs.roots"])?;
    let refusal = format!("{:#}", snapshot(&daemon, "s1").err().context("it went through")?);
    ensure!(
        refusal.contains("not granted") && refusal.contains("hutch plugin grant org.example.storage.plain 'fs.roots'"),
        "{refusal}"
    );
    // The decision lasts.
    daemon.stop()?;
    daemon.launch(&[])?;
    let why = has_status(&mut daemon.client(), POOL, "Unavailable")?;
    ensure!(why.contains("not granted"), "{why}");
    ensure!(
        daemon.shell("c1", "echo alive")? == "alive",
        "a container needs no driver to run"
    );
    hutch.run(&["plugin", "grant", "plain", "fs.roots"])?;
    has_status(&mut daemon.client(), POOL, "Created")?;
    snapshot(&daemon, "s1")?;
    let (_, refusal) = hutch.fails(&["plugin", "grant", "plain", "link"])?;
    ensure!(refusal.contains("there are fs.roots"), "{refusal}");
    Ok(())
}

#[test]
fn a_disabled_plugin_is_out_of_service_until_it_is_enabled() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let hutch = Stock::hutch(&daemon)?;
    daemon.instance("c1", &json!({}))?;
    hutch.run(&["plugin", "disable", "overlay"])?;
    let pool = "/1.0/storage-pools/testpool";
    for again in [false, true] {
        if again {
            daemon.stop()?;
            daemon.launch(&[])?;
        }
        let why = has_status(&mut daemon.client(), pool, "Unavailable")?;
        ensure!(why.contains("hutch plugin enable"), "{why}");
        let (_, message) = daemon
            .client()
            .refused("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
        ensure!(message.contains("disabled"), "{message}");
    }
    let (_, refusal) = hutch.fails(&["plugin", "remove", "overlay", "--yes"])?;
    ensure!(refusal.contains("can't be removed"), "{refusal}");
    hutch.run(&["plugin", "enable", "overlay"])?;
    has_status(&mut daemon.client(), pool, "Created")?;
    let snapshot = json!({ "name": "s1" });
    daemon
        .client()
        .run("POST", "/1.0/instances/c1/snapshots", &snapshot)
        .map(drop)
}

#[test]
fn what_the_configuration_lists_is_changed_there() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let file = Variant::storage("plain", "1.0.0").write(scratch.path())?;
    let daemon = Daemon::with(Options {
        bare: true,
        configuration: Some(format!("[[plugin]]\npath = {file:?}\n")),
        ..Options::default()
    })?;
    let hutch = Stock::hutch(&daemon)?;
    let table = hutch.run(&["plugin", "list", "--format", "csv"])?;
    ensure!(table.contains("configured"), "{table}");
    let file = file.to_string_lossy();
    for arguments in [
        vec!["plugin", "grant", "plain", "fs"],
        vec!["plugin", "revoke", "plain", "all"],
        vec!["plugin", "disable", "plain"],
        vec!["plugin", "remove", "plain", "--yes"],
        vec!["plugin", "rollback", "plain"],
        vec!["plugin", "upgrade", "plain", &file, "--yes"],
    ] {
        let (_, refusal) = hutch.fails(&arguments)?;
        ensure!(
            refusal.contains("listed in the daemon's configuration"),
            "{arguments:?}: {refusal}"
        );
    }
    Ok(())
}

/// A change, its arguments, and the points between its steps.
const CHANGES: &[(&str, &[&str], &[&str])] = &[
    (
        "plugin-install",
        &["plugin", "install", "FILE", "--yes"],
        &["stored", "compiled", "begin", "written", "registered", "switched"],
    ),
    (
        "plugin-upgrade",
        &["plugin", "upgrade", "plain", "NEW", "--yes"],
        &["begin", "written", "registered", "switched"],
    ),
    (
        "plugin-hold",
        &["plugin", "upgrade", "plain", "OLDER", "--yes"],
        &["begin", "written", "registered", "switched"],
    ),
    (
        "plugin-grant-only",
        &["plugin", "grant", "plain", "none", "--only"],
        &["begin", "written", "registered", "switched"],
    ),
    (
        "plugin-rollback",
        &["plugin", "rollback", "plain"],
        &["begin", "written", "registered", "switched"],
    ),
    (
        "plugin-revoke",
        &["plugin", "revoke", "plain", "all"],
        &["begin", "written", "registered", "switched"],
    ),
    (
        "plugin-grant",
        &["plugin", "grant", "plain", "all"],
        &["begin", "written", "registered", "switched"],
    ),
    (
        "plugin-disable",
        &["plugin", "disable", "plain"],
        &["begin", "written", "registered", "switched"],
    ),
    (
        "plugin-enable",
        &["plugin", "enable", "plain"],
        &["begin", "written", "registered", "switched"],
    ),
    (
        "plugin-remove",
        &["plugin", "remove", "plain", "--yes"],
        &["written", "registered", "switched"],
    ),
];

/// How many of the points are tried in an ordinary run.
const SAMPLE: usize = 8;

#[test]
fn killed_between_the_steps_of_a_change_it_is_the_old_or_the_new() -> Result<()> {
    let mut daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let old = Variant::storage("plain", "1.0.0").write(daemon.sandbox().path())?;
    let new = Variant::storage("plain", "1.1.0").write(daemon.sandbox().path())?;
    let older = Variant::storage("plain", "0.9.0").write(daemon.sandbox().path())?;
    let hutch = Stock::hutch(&daemon)?;
    let none = stored(&daemon)?;
    let points: Vec<_> = CHANGES
        .iter()
        .flat_map(|(change, arguments, steps)| steps.iter().map(move |step| (*change, *arguments, *step)))
        .collect();
    for (change, arguments, step) in sample("points of plugin changes", &points, SAMPLE) {
        let point = format!("{change}:{step}");
        println!("killed at {point}");
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| match *argument {
                "FILE" => old.display().to_string(),
                "NEW" => new.display().to_string(),
                "OLDER" => older.display().to_string(),
                other => other.to_owned(),
            })
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if change != "plugin-install" {
            hutch.run(&["plugin", "install", &old.to_string_lossy(), "--yes"])?;
        }
        match change {
            "plugin-rollback" => drop(hutch.run(&["plugin", "upgrade", "plain", &new.to_string_lossy()])?),
            "plugin-grant" => drop(hutch.run(&["plugin", "revoke", "plain", "all"])?),
            "plugin-enable" => drop(hutch.run(&["plugin", "disable", "plain"])?),
            _ => {}
        }
        let before = seen(&daemon)?;
        daemon.stop()?;
        daemon.launch(&[("HUTCH_STOP_AT", &point)])?;
        // The answer does not come, or comes before the daemon dies.
        let _ = hutch.command(&arguments).output()?;
        ensure!(
            daemon.wait_for_fault()?,
            "the daemon did not come to {point}: {}",
            tail(&daemon.log())
        );
        daemon.launch(&[])?;
        let found = seen(&daemon)?;
        let done = matches!(step, "registered" | "switched");
        ensure!(done || found == before, "{point}: {before} became {found}");
        ensure!(!done || found != before, "{point}: {before} is as it was");
        // What was begun can be done, and everything can be taken away again.
        if !done {
            hutch.run(&arguments)?;
        }
        if change != "plugin-remove" {
            hutch.run(&["plugin", "remove", "plain", "--yes"])?;
        }
        settles(&daemon, none)?;
    }
    Ok(())
}

/// What an operator sees of the plugin.
fn seen(daemon: &Daemon) -> Result<String> {
    let plugins = daemon.client().get("/1.0/plugins?recursion=1")?;
    let plugins = plugins.as_array().context("no list")?;
    let plain = plugins
        .iter()
        .find(|plugin| plugin["id"] == "org.example.storage.plain");
    Ok(plain.map_or_else(
        || "absent".to_owned(),
        |plugin| {
            let state = plugin["state"]
                .as_str()
                .unwrap_or_default()
                .replace("loading", "enabled");
            let previous = &plugin["previous"]["version"];
            let granted = &plugin["permissions"]["granted"]["fs"]["roots"];
            let held = &plugin["held"]["version"];
            format!(
                "{} {state}, before it {previous}, held {held}, may {granted}",
                plugin["version"]
            )
        },
    ))
}

/// Runs Debian's minisign without a password.
fn minisign(arguments: &[&str]) -> Result<()> {
    let output = std::process::Command::new("minisign").args(arguments).output();
    let output = output.context("minisign is missing: `cargo xtask setup --tests` installs it")?;
    ensure!(
        output.status.success(),
        "minisign {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn signatures_of_minisign_say_who_answers_for_a_plugin() -> Result<()> {
    let daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let place = daemon.sandbox().path().to_owned();
    let at = |name: &str| place.join(name).display().to_string();
    let (public, secret) = (at("key.pub"), at("key.sec"));
    minisign(&["-G", "-W", "-p", &public, "-s", &secret])?;
    let file = Variant::storage("plain", "1.0.0").write(&place)?.display().to_string();
    minisign(&["-S", "-s", &secret, "-m", &file])?;
    let hutch = Stock::hutch(&daemon)?;
    let install = ["plugin", "install", &file, "--yes"];
    let id = std::fs::read_to_string(&public)?
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().next_back().map(str::to_owned))
        .context("a key without an id")?;

    let (_, refusal) = hutch.fails(&install)?;
    ensure!(refusal.contains(&id) && refusal.contains("not trusted"), "{refusal}");
    let (_, refusal) = hutch.fails(&["plugin", "trust", "add", "example", "RWnonsense"])?;
    ensure!(
        refusal.contains("no public key") || refusal.contains("not a public key"),
        "{refusal}"
    );
    hutch.run(&["plugin", "trust", "add", "example", &public])?;
    ensure!(hutch.run(&["plugin", "trust", "list"])?.contains(&id));
    // The signature of another file.
    let other = Variant::storage("plain", "1.1.0").write(&place)?.display().to_string();
    let (signature, other_signature) = (format!("{file}.minisig"), format!("{other}.minisig"));
    std::fs::copy(&signature, &other_signature)?;
    let (_, refusal) = hutch.fails(&["plugin", "install", &other, "--yes", "--allow-unsigned"])?;
    ensure!(
        refusal.contains("is of another file") && refusal.contains(&id),
        "{refusal}"
    );
    hutch.run(&install)?;
    ensure!(hutch.run(&["plugin", "list"])?.contains("signed by example"));
    // The old way of signing, too.
    minisign(&["-S", "-l", "-s", &secret, "-m", &other])?;
    hutch.run(&["plugin", "upgrade", "plain", &other])?;
    ensure!(hutch.run(&["plugin", "list"])?.contains("signed by example"));
    hutch.run(&["plugin", "remove", "plain", "--yes"])?;
    hutch.run(&["plugin", "trust", "remove", &id])?;
    ensure!(hutch.run(&["plugin", "trust", "list"])?.contains("REVOKED"));
    let (_, refusal) = hutch.fails(&install)?;
    ensure!(refusal.contains("which was revoked"), "{refusal}");
    Ok(())
}

#[test]
fn a_plugin_that_is_fetched_needs_a_signature_or_a_waiver() -> Result<()> {
    let daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let place = daemon.sandbox().path().to_owned();
    let at = |name: &str| place.join(name).display().to_string();
    let (public, secret) = (at("key.pub"), at("key.sec"));
    minisign(&["-G", "-W", "-p", &public, "-s", &secret])?;
    let file = Variant::storage("plain", "1.0.0").write(&place)?;
    minisign(&["-S", "-s", &secret, "-m", &file.to_string_lossy()])?;
    let content = std::fs::read(&file)?;
    let signature = std::fs::read(at("plain-1.0.0.wasm.minisig"))?;
    let web = Web::serve(daemon.sandbox(), move |asked| match asked.path.as_str() {
        "/plain.wasm" | "/signed.wasm" => Page {
            body: content.clone(),
            ..Page::default()
        },
        "/signed.wasm.minisig" => Page {
            body: signature.clone(),
            ..Page::default()
        },
        "/away.wasm" => Page {
            moved: Some("http://example.org/plain.wasm".to_owned()),
            ..Page::default()
        },
        "/endless.wasm" => Page {
            body: vec![0; 40 << 20],
            ..Page::default()
        },
        _ => Page {
            missing: true,
            ..Page::default()
        },
    })?;
    let hutch = Stock::hutch(&daemon)?;
    let url = |path: &str| format!("{}/{path}", web.address);
    for (url, why) in [
        (url("plain.wasm"), "--allow-unsigned"),
        (url("signed.wasm"), "not trusted"),
        (url("absent.wasm"), "is not there"),
        (url("away.wasm"), "plugins come by https"),
        (url("endless.wasm"), "larger than"),
        ("http://example.org/plain.wasm".to_owned(), "plugins come by https"),
    ] {
        let (_, refusal) = hutch.fails(&["plugin", "install", &url, "--yes"])?;
        ensure!(refusal.contains(why), "{url}: {refusal}");
    }
    let (_, refusal) = hutch.fails(&[
        "plugin",
        "install",
        &url("plain.wasm"),
        "--yes",
        "--digest",
        &"0".repeat(64),
    ])?;
    ensure!(refusal.contains("should have 0000"), "{refusal}");
    hutch.run(&["plugin", "install", &url("plain.wasm"), "--yes", "--allow-unsigned"])?;
    ensure!(hutch.run(&["plugin", "list"])?.contains("unsigned"));
    hutch.run(&["plugin", "remove", "plain", "--yes"])?;
    hutch.run(&["plugin", "trust", "add", "example", &public])?;
    hutch.run(&["plugin", "install", &url("signed.wasm"), "--yes"])?;
    ensure!(hutch.run(&["plugin", "list"])?.contains("signed by example"));
    let left = std::fs::read_dir(daemon.state_dir().join("plugins/incoming"))?.count();
    ensure!(left == 0, "{left} fetched files are left");
    Ok(())
}

/// How many operations have to go through while the plugin is exchanged under them: 10,000 are promised, and tried with `--all`.
fn operations() -> usize {
    if all() { 10_000 } else { 400 }
}

/// After how many rounds of four requests it is exchanged.
const ROUNDS: usize = 5;

#[test]
fn nothing_fails_while_the_driver_is_exchanged_again_and_again() -> Result<()> {
    let daemon = Daemon::start()?;
    let old = Variant::storage("plain", "1.0.0").write(daemon.sandbox().path())?;
    let new = Variant::storage("plain", "1.1.0").write(daemon.sandbox().path())?;
    let hutch = Stock::hutch(&daemon)?;
    hutch.run(&["plugin", "install", &old.to_string_lossy(), "--yes"])?;
    use_driver(&daemon, "plain")?;
    hutch.run(&["plugin", "upgrade", "plain", &new.to_string_lossy()])?;
    let (tell, told) = std::sync::mpsc::channel();
    let switches = std::thread::scope(|scope| -> Result<usize> {
        let work = |name: &'static str, tell: std::sync::mpsc::Sender<()>| {
            let daemon = &daemon;
            move || -> Result<()> {
                let mut client = daemon.client();
                // Two of four requests are operations, and two do this.
                for _ in 0..operations() / 4 {
                    client.get("/1.0/storage-pools/own/resources")?;
                    client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": name }))?;
                    client.get("/1.0/storage-pools/own/resources")?;
                    client.run("DELETE", &format!("/1.0/instances/c1/snapshots/{name}"), &Value::Null)?;
                    tell.send(())?;
                }
                Ok(())
            }
        };
        let workers = [scope.spawn(work("a", tell.clone())), scope.spawn(work("b", tell))];
        let switched = (|| -> Result<usize> {
            let (mut client, mut switches) = (daemon.client(), 0);
            // In the middle of what the other one does, whichever of both said that it is through.
            for _ in told.iter().step_by(ROUNDS) {
                client.sync("POST", "/1.0/plugins/org.example.storage.plain/rollback", &Value::Null)?;
                switches += 1;
            }
            Ok(switches)
        })();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        switched
    })?;
    println!("{} operations over {switches} switches", operations());
    ensure!(switches > 10, "{switches} switches are no test");
    ensure!(daemon.shell("c1", "echo alive")? == "alive");
    Ok(())
}

#[test]
fn a_version_that_asks_for_more_waits_for_a_grant() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let place = daemon.sandbox().path().to_owned();
    let old = Variant::storage("plain", "1.0.0").write(&place)?;
    let new = Variant::storage("plain", "2.0.0")
        .asking("fs = { roots = true }\nhttp = [\"https://example.org/\"]\nlink = true")
        .write(&place)?;
    let lost = Variant {
        id: "org.example.storage.plain".to_owned(),
        ..Variant::storage("another", "3.0.0")
    };
    let lost = lost.write(&place)?;
    let hutch = Stock::hutch(&daemon)?;
    hutch.run(&["plugin", "install", &old.to_string_lossy(), "--yes"])?;
    use_driver(&daemon, "plain")?;
    let told = hutch.run(&["plugin", "upgrade", "plain", &new.to_string_lossy()])?;
    for part in [
        "waits for you",
        "http=https://example.org/",
        "hutch plugin grant",
        "network interfaces",
    ] {
        ensure!(told.contains(part), "{part:?} is not in: {told}");
    }
    let version = |daemon: &Daemon| -> Result<String> {
        let plugin = daemon.client().get("/1.0/plugins/org.example.storage.plain")?;
        Ok(format!("{}, held {}", plugin["version"], plugin["held"]["version"]))
    };
    ensure!(version(&daemon)? == r#""1.0.0", held "2.0.0""#, "{}", version(&daemon)?);
    daemon.stop()?;
    daemon.launch(&[])?;
    let told = hutch.run(&["plugin", "grant", "plain", "http=https://example.org/"])?;
    ensure!(told.contains("link") && !told.contains("example.org"), "{told}");
    ensure!(version(&daemon)? == r#""1.0.0", held "2.0.0""#, "{}", version(&daemon)?);
    hutch.run(&["plugin", "grant", "plain", "link"])?;
    ensure!(version(&daemon)? == r#""2.0.0", held null"#, "{}", version(&daemon)?);
    has_status(&mut daemon.client(), POOL, "Created")?;

    let (_, refusal) = hutch.fails(&["plugin", "upgrade", "plain", &lost.to_string_lossy(), "--yes"])?;
    ensure!(
        refusal.contains("no longer provides plain, which is in use"),
        "{refusal}"
    );
    let (_, refusal) = hutch.fails(&["plugin", "upgrade", "dir", &new.to_string_lossy(), "--yes"])?;
    ensure!(
        refusal.contains("not another version of org.hutch.storage.dir"),
        "{refusal}"
    );
    hutch.run(&["plugin", "rollback", "plain"])?;
    ensure!(version(&daemon)? == r#""1.0.0", held null"#, "{}", version(&daemon)?);
    let snapshot = json!({ "name": "s1" });
    daemon
        .client()
        .run("POST", "/1.0/instances/c1/snapshots", &snapshot)
        .map(drop)
}

#[test]
fn a_version_that_can_do_less_is_refused_while_the_driver_is_used() -> Result<()> {
    let daemon = Daemon::start()?;
    let hutch = Stock::hutch(&daemon)?;
    let install = |arguments: &[&str], variant: &Variant| -> Result<String> {
        let file = variant.write(daemon.sandbox().path())?;
        let file = file.to_string_lossy();
        Ok([arguments, &[&file, "--yes"]].concat().join("\n"))
    };
    let run = |arguments: String| hutch.run(&arguments.lines().collect::<Vec<_>>());
    run(install(&["plugin", "install"], &Variant::storage("plain", "1.0.0"))?)?;
    let less = Variant::storage("plain", "2.0.0").lesser();
    let upgrade = install(&["plugin", "upgrade", "plain"], &less)?;
    use_driver(&daemon, "plain")?;
    let (_, refusal) = hutch.fails(&upgrade.lines().collect::<Vec<_>>())?;
    ensure!(
        refusal.contains("lacks the interface") && refusal.contains("clone"),
        "{refusal}"
    );
    let mut client = daemon.client();
    daemon.change("c1", "stop", true)?;
    client.run("DELETE", "/1.0/instances/c1", &Value::Null)?;
    client.sync("DELETE", POOL, &Value::Null)?;
    run(upgrade)?;
    let plugin = client.get("/1.0/plugins/org.example.storage.plain")?;
    ensure!(plugin["version"] == "2.0.0", "{plugin}");
    Ok(())
}
