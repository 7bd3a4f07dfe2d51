//! Plugins that are carried in an archive to machines without a network, and those that a daemon's first set-up brings.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options};
use hutch_tests::faulty::has_status;
use hutch_tests::stock::Stock;
use hutch_tests::variant::Variant;
use serde_json::{Value, json};
use std::path::Path;

const PLAIN: &str = "/1.0/plugins/org.example.storage.plain";

fn bare() -> Result<(Daemon, Stock)> {
    let daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let hutch = Stock::hutch(&daemon)?;
    Ok((daemon, hutch))
}

/// A publisher's key in `place`, and a plugin that is signed with it.
fn signed(hutch: &Stock, place: &Path, variant: &Variant) -> Result<(String, String)> {
    let at = |name: &str| place.join(name).display().to_string();
    if !place.join("k.key").exists() {
        hutch.run(&["plugin", "key", "new", &at("k"), "--no-password"])?;
    }
    let file = variant.write(place)?.display().to_string();
    hutch.run(&["plugin", "sign", &file, "--key", &at("k.key")])?;
    Ok((file, at("k.pub")))
}

fn asking(version: &str) -> Variant {
    Variant::storage("plain", version).asking("fs = { roots = true }\nlink = true\nhttp = [\"https://*\"]")
}

#[test]
fn an_archive_brings_plugins_to_another_machine() -> Result<()> {
    let (here, hutch) = bare()?;
    let place = here.sandbox().path().to_owned();
    let at = |name: &str| place.join(name).display().to_string();
    let (file, public) = signed(&hutch, &place, &asking("1.0.0"))?;
    hutch.run(&["plugin", "trust", "add", "somebody", &public])?;
    let narrow = "http=https://example.org/";
    hutch.run(&["plugin", "install", &file, "--grant", "fs.roots", "--grant", narrow])?;
    let second = Variant::storage("other", "2.0.0").write(&place)?.display().to_string();
    hutch.run(&["plugin", "install", &second, "--yes"])?;
    let archive = at("plugins.hutch");
    let told = hutch.run(&["plugin", "save", "plain", "other", "-o", &archive])?;
    ensure!(
        told.contains("org.example.storage.plain 1.0.0, org.example.storage.other 2.0.0"),
        "{told}"
    );
    let (_, refusal) = hutch.fails(&["plugin", "save", "none", "-o", &archive])?;
    ensure!(refusal.contains("there is no plugin"), "{refusal}");
    let head = std::fs::read(&archive)?;
    ensure!(head.starts_with(b"hutch-plugins 1 "), "it does not say what it is");

    let (there, hutch) = bare()?;
    let load = |more: &[&'static str]| [&["plugin", "load", archive.as_str()][..], more].concat();
    let (_, refusal) = hutch.fails(&load(&["--yes"]))?;
    ensure!(refusal.contains("not trusted"), "{refusal}");
    hutch.run(&["plugin", "trust", "add", "whoever", &public])?;
    let (_, refusal) = hutch.fails(&load(&[]))?;
    for part in [
        "fs.roots",
        "what it was granted where it was saved",
        narrow,
        "--grants saved",
    ] {
        ensure!(refusal.contains(part), "{part:?} is not in: {refusal}");
    }
    ensure!(
        !hutch.run(&["plugin", "list"])?.contains("plain"),
        "it was taken in unasked"
    );
    // The second has no signature: the first is there then, and the second is not.
    let (_, refusal) = hutch.fails(&load(&["--yes"]))?;
    ensure!(refusal.contains("--allow-unsigned"), "{refusal}");
    let told = hutch.run(&load(&["--yes", "--allow-unsigned"]))?;
    ensure!(
        told.contains("org.example.storage.plain 1.0.0 is there already"),
        "{told}"
    );
    ensure!(
        told.contains("org.example.storage.other 2.0.0 is installed (unsigned)"),
        "{told}"
    );
    let plugin = there.client().get(PLAIN)?;
    ensure!(
        plugin["permissions"]["names"] == json!(["fs.roots", narrow]),
        "{plugin:#}"
    );
    ensure!(plugin["signature"]["publisher"] == "whoever", "{plugin:#}");
    ensure!(plugin["source"] == "plugins.hutch (plain-1.0.0.wasm)", "{plugin:#}");

    // An archive with a newer version of one of them is an upgrade.
    let hutch_here = Stock::hutch(&here)?;
    let (file, _) = signed(&hutch_here, &place, &asking("1.1.0"))?;
    hutch_here.run(&["plugin", "upgrade", "plain", &file])?;
    hutch_here.run(&["plugin", "save", "plain", "-o", &archive])?;
    let told = hutch.run(&load(&[]))?;
    ensure!(told.contains("org.example.storage.plain 1.1.0 is in use now"), "{told}");
    damaged(&there, &hutch, &archive)
}

/// Nothing is taken in from an archive that is damaged anywhere.
fn damaged(daemon: &Daemon, hutch: &Stock, archive: &str) -> Result<()> {
    hutch.run(&["plugin", "remove", "plain", "--yes"])?;
    let good = std::fs::read(archive)?;
    let last = good.len() - 1;
    let mut changed = good.clone();
    changed[last] ^= 1;
    let newer = [b"hutch-plugins 2 ", &good["hutch-plugins 1 ".len()..]].concat();
    for (bytes, why) in [
        (good[..last].to_vec(), "it is cut off"),
        ([&good[..], b"x"].concat(), "more in it than its index says"),
        (changed, "it has another digest"),
        (newer, "it has format 2"),
        (std::fs::read("/bin/true")?, "no archive that `hutch plugin save` made"),
    ] {
        let path = daemon.sandbox().path().join("damaged");
        std::fs::write(&path, bytes)?;
        let (_, refusal) = hutch.fails(&[
            "plugin",
            "load",
            &path.display().to_string(),
            "--yes",
            "--allow-unsigned",
        ])?;
        ensure!(refusal.contains(why), "{why}: {refusal}");
    }
    ensure!(!hutch.run(&["plugin", "list"])?.contains("plain"));
    Ok(())
}

/// What the daemon keeps about plugins.
fn registry(daemon: &Daemon) -> Result<String> {
    let kept = std::fs::read_to_string(daemon.state_dir().join("plugins/registry.json"))?;
    let trusted = std::fs::read_to_string(daemon.state_dir().join("plugins/trust.toml"))?;
    Ok(kept + &trusted)
}

#[test]
fn a_preseed_brings_plugins_and_brings_them_once() -> Result<()> {
    let (mut daemon, hutch) = bare()?;
    let place = daemon.sandbox().path().to_owned();
    let (file, public) = signed(&hutch, &place, &asking("1.0.0"))?;
    let key = std::fs::read_to_string(&public)?
        .lines()
        .nth(1)
        .context("no key")?
        .to_owned();
    let text = |grants: &str, more: &str| {
        format!(
            "plugin_keys:\n- name: somebody\n  key: {key}\nplugins:\n- source: {file}\n  grants: {grants}\n{more}\
             storage_pools:\n- name: own\n  driver: plain\n"
        )
    };
    let init = |text: &str| hutch.feed(&["admin", "init", "--preseed"], text.as_bytes());
    let refused = |text: &str| -> Result<String> { Ok(format!("{:#}", init(text).err().context("it went through")?)) };

    let refusal = refused(&text("[fs.roots]", "  digest: sha256:00\n"))?;
    ensure!(refusal.contains("its digest is"), "{refusal}");
    let refusal = refused(&text("[fs.roots]", "  grant: all\n"))?;
    ensure!(refusal.contains("grant"), "{refusal}");
    let refusal = refused(&text("[filter]", ""))?;
    ensure!(refusal.contains("there are fs.roots"), "{refusal}");
    let told = init(&text("[fs.roots, link]", ""))?;
    ensure!(told.contains("Installed org.example.storage.plain 1.0.0"), "{told}");
    has_status(&mut daemon.client(), "/1.0/storage-pools/own", "Created")?;
    let before = registry(&daemon)?;
    ensure!(
        init(&text("[fs.roots, link]", ""))?.is_empty(),
        "it did something again"
    );
    ensure!(registry(&daemon)? == before, "{before} became {}", registry(&daemon)?);

    // What is said otherwise becomes so, and nothing else.
    let off = text("[fs]", "  enabled: false\n");
    let refusal = refused(&off)?;
    ensure!(
        refusal.contains("it is disabled"),
        "a pool can't be looked after without its driver: {refusal}"
    );
    let off = off.split("storage_pools").next().context("no plugins")?;
    hutch.run(&["plugin", "enable", "plain"])?;
    hutch.run(&["plugin", "grant", "plain", "link"])?;
    let told = init(off)?;
    ensure!(told.contains("may fs.roots") && told.contains("is disabled"), "{told}");
    let plugin = daemon.client().get(PLAIN)?;
    ensure!(
        plugin["permissions"]["names"] == json!(["fs.roots"]) && plugin["state"] == "disabled",
        "{plugin:#}"
    );
    let before = registry(&daemon)?;
    ensure!(init(off)?.is_empty());
    ensure!(registry(&daemon)? == before);
    init(&text("[all]", ""))?;
    let all = daemon.client().get(PLAIN)?["permissions"]["names"].clone();
    ensure!(all == json!(["fs.roots", "link", "http=https://*"]), "{all}");

    // What is dumped is what there is.
    let dumped = hutch.run(&["admin", "init", "--dump"])?;
    ensure!(
        dumped.contains("somebody") && dumped.contains("plain-1.0.0.wasm"),
        "{dumped}"
    );
    let before = registry(&daemon)?;
    init(&dumped)?;
    ensure!(registry(&daemon)? == before, "{before} became {}", registry(&daemon)?);
    daemon.stop()?;
    daemon.launch(&[])?;
    has_status(&mut daemon.client(), "/1.0/storage-pools/own", "Created")?;

    // Another version, and one that is not to be taken unasked.
    let (file_new, _) = signed(&hutch, &place, &asking("1.1.0"))?;
    let newer = text("[all]", "").replace(&file, &file_new);
    ensure!(init(&newer)?.contains("Upgraded org.example.storage.plain to 1.1.0"));
    let refusal = refused(&text("[all]", ""))?;
    ensure!(
        refusal.contains("is older than 1.1.0") && refusal.contains("allow_downgrade"),
        "{refusal}"
    );
    let plugin = daemon.client().get(PLAIN)?;
    ensure!(plugin["version"] == "1.1.0" && plugin["held"].is_null(), "{plugin:#}");
    init(&text("[all]", "  allow_downgrade: true\n"))?;
    ensure!(daemon.client().get(PLAIN)?["version"] == "1.0.0");
    hutch.run(&["plugin", "trust", "remove", "somebody"])?;
    let refusal = refused(&text("[all]", "  allow_downgrade: true\n"))?;
    ensure!(refusal.contains("was revoked here"), "{refusal}");
    // However the key is written.
    let spaced = text("[all]", "  allow_downgrade: true\n").replace(&key, &format!("\" {key} \""));
    let refusal = refused(&spaced)?;
    ensure!(refusal.contains("was revoked here"), "{refusal}");
    daemon.client().sync("DELETE", "/1.0/storage-pools/own", &Value::Null)?;
    Ok(())
}
