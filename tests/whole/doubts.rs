//! Upgrades that may not be what the operator means: another's, older ones, ones whose publisher is no longer believed. And what
//! decisions about a plugin outlast.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options};
use hutch_tests::stock::Stock;
use hutch_tests::variant::Variant;
use serde_json::{Value, json};

const PLAIN: &str = "/1.0/plugins/org.example.storage.plain";
const DIR: &str = "/1.0/plugins/org.hutch.storage.dir";

/// A daemon, its client, and publishers whose keys it trusts.
struct Scene {
    daemon: Daemon,
    hutch: Stock,
}

impl Scene {
    fn with(publishers: &[&str]) -> Result<Self> {
        let daemon = Daemon::with(Options {
            bare: true,
            ..Options::default()
        })?;
        let hutch = Stock::hutch(&daemon)?;
        let scene = Self { daemon, hutch };
        for name in publishers {
            scene
                .hutch
                .run(&["plugin", "key", "new", &scene.at(name), "--no-password"])?;
            scene
                .hutch
                .run(&["plugin", "trust", "add", name, &scene.at(&format!("{name}.pub"))])?;
        }
        Ok(scene)
    }

    fn at(&self, name: &str) -> String {
        self.daemon.sandbox().path().join(name).display().to_string()
    }

    /// A file of the plugin, signed by one of the publishers or by nobody.
    fn made(&self, variant: &Variant, publisher: Option<&str>) -> Result<String> {
        let file = variant.write(self.daemon.sandbox().path())?.display().to_string();
        if let Some(publisher) = publisher {
            let key = self.at(&format!("{publisher}.key"));
            self.hutch.run(&["plugin", "sign", &file, "--key", &key])?;
        }
        Ok(file)
    }

    fn upgrade(&self, file: &str, more: &[&str]) -> Result<String> {
        self.hutch
            .run(&[&["plugin", "upgrade", "plain", file][..], more].concat())
    }

    /// The version in use, and the one that is held.
    fn versions(&self) -> Result<(String, Value)> {
        let plugin = self.daemon.client().get(PLAIN)?;
        let version = plugin["version"].as_str().context("no version")?.to_owned();
        Ok((version, plugin["held"]["version"].clone()))
    }

    fn are(&self, version: &str, held: &Value) -> Result<()> {
        let found = self.versions()?;
        ensure!(
            found == (version.to_owned(), held.clone()),
            "{found:?}, and not {version}, {held}"
        );
        Ok(())
    }
}

#[test]
fn an_upgrade_by_another_waits_for_the_operator() -> Result<()> {
    let mut scene = Scene::with(&["first", "second"])?;
    let old = scene.made(&Variant::storage("plain", "1.0.0"), Some("first"))?;
    scene.hutch.run(&["plugin", "install", &old, "--yes"])?;
    let new = scene.made(&Variant::storage("plain", "1.1.0"), Some("second"))?;
    let told = scene.upgrade(&new, &["--yes"])?;
    for part in [
        "not in use",
        "is signed by second, and the version in use is signed by first",
        "grant org.example.storage.plain none",
    ] {
        ensure!(told.contains(part), "{part:?} is not in: {told}");
    }
    scene.are("1.0.0", &json!("1.1.0"))?;
    ensure!(scene.hutch.run(&["plugin", "list"])?.contains("1.1.0 waits for you"));
    // It waits through a start of the daemon, and to grant something else is no answer.
    scene.daemon.stop()?;
    scene.daemon.launch(&[])?;
    let doubt = scene.daemon.client().get(PLAIN)?["held"]["doubts"][0].clone();
    ensure!(doubt["kind"] == "publisher", "{doubt}");
    let told = scene.hutch.run(&["plugin", "grant", "plain", "fs.roots"])?;
    ensure!(told.contains("is signed by second"), "{told}");
    scene.are("1.0.0", &json!("1.1.0"))?;
    scene.hutch.run(&["plugin", "grant", "plain", "none"])?;
    scene.are("1.1.0", &Value::Null)?;
    ensure!(scene.hutch.run(&["plugin", "list"])?.contains("signed by second"));

    // Nobody's, until that is said.
    let dev = scene.made(&Variant::storage("plain", "1.2.0"), None)?;
    let told = scene.upgrade(&dev, &[])?;
    ensure!(
        told.contains("is signed by nobody, and the version in use is signed by second"),
        "{told}"
    );
    scene.are("1.1.0", &json!("1.2.0"))?;
    scene.upgrade(&dev, &["--allow-publisher"])?;
    scene.are("1.2.0", &Value::Null)
}

#[test]
fn an_older_version_waits_for_the_operator() -> Result<()> {
    let scene = Scene::with(&["first"])?;
    let new = scene.made(&Variant::storage("plain", "1.10.0"), Some("first"))?;
    let old = scene.made(&Variant::storage("plain", "1.9.0"), Some("first"))?;
    scene.hutch.run(&["plugin", "install", &new, "--yes"])?;
    let told = scene.upgrade(&old, &["--yes", "--allow-publisher"])?;
    ensure!(told.contains("is older than 1.10.0, which is in use"), "{told}");
    scene.are("1.10.0", &json!("1.9.0"))?;
    scene.upgrade(&old, &["--allow-downgrade"])?;
    scene.are("1.9.0", &Value::Null)?;
    // What began to wait as a newer version is an older one by now, and says so.
    let middle = scene.made(
        &Variant::storage("plain", "1.9.5").asking("fs = { roots = true }\nlink = true"),
        Some("first"),
    )?;
    let told = scene.upgrade(&middle, &[])?;
    ensure!(!told.contains("is older"), "{told}");
    scene.hutch.run(&["plugin", "rollback", "plain"])?;
    scene.are("1.10.0", &json!("1.9.5"))?;
    let doubts = scene.daemon.client().get(PLAIN)?["held"]["doubts"].clone();
    ensure!(doubts[0]["kind"] == "downgrade", "{doubts}");
    for what in ["all", "link"] {
        let told = scene.hutch.run(&["plugin", "grant", "plain", what])?;
        ensure!(told.contains("is older than 1.10.0, which is in use"), "{what}: {told}");
        scene.are("1.10.0", &json!("1.9.5"))?;
    }
    scene.hutch.run(&["plugin", "rollback", "plain"])?;
    scene.are("1.9.0", &json!("1.9.5"))?;
    scene.hutch.run(&["plugin", "rollback", "plain"])?;
    // Who was told agrees.
    scene.hutch.run(&["plugin", "grant", "plain", "all"])?;
    scene.are("1.9.5", &Value::Null)?;
    // To go back by name needs no more words.
    scene.hutch.run(&["plugin", "rollback", "plain"])?;
    scene.are("1.10.0", &Value::Null)?;
    // What was agreed to when it came is agreed to when the rest is.
    scene.hutch.run(&["plugin", "revoke", "plain", "link"])?;
    let asking = "fs = { roots = true }\nlink = true\nfilter = true";
    let older = scene.made(&Variant::storage("plain", "1.9.6").asking(asking), Some("first"))?;
    let told = scene.upgrade(&older, &["--allow-downgrade"])?;
    ensure!(!told.contains("is older") && told.contains("filter"), "{told}");
    scene.hutch.run(&["plugin", "grant", "plain", "link", "filter"])?;
    scene.are("1.9.6", &Value::Null)
}

#[test]
fn what_waits_is_not_taken_in_once_its_key_is_revoked() -> Result<()> {
    let scene = Scene::with(&["first", "second"])?;
    let old = scene.made(&Variant::storage("plain", "1.0.0"), Some("first"))?;
    scene.hutch.run(&["plugin", "install", &old, "--yes"])?;
    let new = scene.made(&Variant::storage("plain", "1.1.0"), Some("second"))?;
    scene.upgrade(&new, &[])?;
    scene.hutch.run(&["plugin", "trust", "remove", "second"])?;
    for answer in ["all", "none"] {
        let (_, refusal) = scene.hutch.fails(&["plugin", "grant", "plain", answer])?;
        ensure!(refusal.contains("which was revoked"), "{refusal}");
    }
    scene.are("1.0.0", &json!("1.1.0"))?;
    // The same between the two steps of an upgrade: examined, then decided about.
    let newest = scene.made(&Variant::storage("plain", "1.2.0"), Some("first"))?;
    let web = std::fs::read(&newest)?;
    let signature = std::fs::read(format!("{newest}.minisig"))?;
    let served = hutch_tests::web::Web::serve(scene.daemon.sandbox(), move |asked| hutch_tests::web::Page {
        body: match asked.path.ends_with(".minisig") {
            true => signature.clone(),
            false => web.clone(),
        },
        ..hutch_tests::web::Page::default()
    })?;
    let mut client = scene.daemon.client();
    let upgrade = format!("{PLAIN}/upgrade");
    let source = json!({ "kind": "url", "url": format!("{}/new.wasm", served.address) });
    let operation = client.run("POST", &upgrade, &json!({ "source": source, "examine": true }))?;
    let digest = operation["metadata"]["plugin"]["digest"].clone();
    ensure!(digest.is_string(), "{operation:#}");
    scene.hutch.run(&["plugin", "trust", "remove", "first"])?;
    let stored = json!({ "source": { "kind": "stored", "digest": digest } });
    let refusal = format!(
        "{:#}",
        client.run("POST", &upgrade, &stored).err().context("it went through")?
    );
    ensure!(refusal.contains("which was revoked"), "{refusal}");
    scene.are("1.0.0", &json!("1.1.0"))
}

#[test]
fn all_of_a_held_version_is_what_is_new() -> Result<()> {
    let scene = Scene::with(&[])?;
    let old = scene.made(
        &Variant::storage("plain", "1.0.0").asking("fs = { roots = true }\nlink = true"),
        None,
    )?;
    let new = "fs = { roots = true }\nlink = true\nfilter = true";
    let new = scene.made(&Variant::storage("plain", "1.1.0").asking(new), None)?;
    let may = || -> Result<Value> { Ok(scene.daemon.client().get(PLAIN)?["permissions"]["granted"].clone()) };
    for how in ["grant", "upgrade"] {
        scene.hutch.run(&["plugin", "install", &old, "--yes"])?;
        scene.hutch.run(&["plugin", "revoke", "plain", "link"])?;
        match how {
            "grant" => {
                let told = scene.upgrade(&new, &[])?;
                ensure!(told.contains("filter") && !told.contains("link "), "{told}");
                scene.hutch.run(&["plugin", "grant", "plain", "all"])?;
            }
            _ => drop(scene.upgrade(&new, &["--yes"])?),
        }
        scene.are("1.1.0", &Value::Null)?;
        let granted = may()?;
        ensure!(granted["filter"] == true && granted["link"] != true, "{how}: {granted}");
        scene.hutch.run(&["plugin", "remove", "plain", "--yes"])?;
    }
    Ok(())
}

#[test]
fn what_is_said_of_the_same_file_is_done_or_refused() -> Result<()> {
    let scene = Scene::with(&["first"])?;
    let variant = Variant::storage("plain", "1.0.0").asking("fs = { roots = true }\nlink = true");
    let file = scene.made(&variant, None)?;
    scene.hutch.run(&["plugin", "install", &file, "--grant", "fs.roots"])?;
    scene.hutch.run(&["plugin", "install", &file, "--grant", "fs.roots"])?;
    let (_, refusal) = scene.hutch.fails(&["plugin", "install", &file, "--yes"])?;
    ensure!(refusal.contains("with other grants or settings"), "{refusal}");
    let granted = || -> Result<Value> { Ok(scene.daemon.client().get(PLAIN)?["permissions"]["granted"].clone()) };
    ensure!(granted()?["link"] != true);
    scene.upgrade(&file, &["--grant", "link"])?;
    ensure!(granted()?["link"] == true, "{}", granted()?);
    ensure!(scene.daemon.client().get(PLAIN)?["previous"].is_null());
    // Its publisher's signature, which came later; and it is not lost when the file comes without.
    let signature = format!("{file}.minisig");
    scene
        .hutch
        .run(&["plugin", "sign", &file, "--key", &scene.at("first.key")])?;
    scene.upgrade(&file, &[])?;
    ensure!(scene.hutch.run(&["plugin", "list"])?.contains("signed by first"));
    std::fs::remove_file(signature)?;
    scene.upgrade(&file, &[])?;
    ensure!(scene.hutch.run(&["plugin", "list"])?.contains("signed by first"));
    // Another one by them, which is of the same file, is kept, too; one by somebody else is agreed to first.
    let kept = || -> Result<Vec<u8>> {
        let kept = scene.at("kept");
        scene.hutch.run(&["plugin", "save", "plain", "-o", &kept])?;
        Ok(std::fs::read(kept)?)
    };
    let before = kept()?;
    let sign = |key: &str| scene.hutch.run(&["plugin", "sign", &file, "--key", &scene.at(key)]);
    scene.hutch.run(&["plugin", "trust", "remove", "first"])?;
    scene
        .hutch
        .run(&["plugin", "key", "new", &scene.at("new"), "--no-password"])?;
    scene
        .hutch
        .run(&["plugin", "trust", "add", "first", &scene.at("new.pub")])?;
    sign("new.key")?;
    scene.hutch.run(&["plugin", "install", &file, "--yes"])?;
    ensure!(kept()? != before, "the signature by the new key is not there");
    scene
        .hutch
        .run(&["plugin", "key", "new", &scene.at("other"), "--no-password"])?;
    scene
        .hutch
        .run(&["plugin", "trust", "add", "other", &scene.at("other.pub")])?;
    std::fs::remove_file(format!("{file}.minisig"))?;
    sign("other.key")?;
    let (_, refusal) = scene.hutch.fails(&["plugin", "install", &file, "--yes"])?;
    ensure!(refusal.contains("is signed by other"), "{refusal}");
    let told = scene.upgrade(&file, &[])?;
    ensure!(
        told.contains("is signed by other, and the version in use is signed by first"),
        "{told}"
    );
    scene.upgrade(&file, &["--allow-publisher"])?;
    ensure!(scene.hutch.run(&["plugin", "list"])?.contains("signed by other"));
    // To name nothing is no way to say none.
    for action in ["grant", "revoke"] {
        let nothing = json!({ "action": action, "permissions": [] });
        let (status, message) = scene
            .daemon
            .client()
            .refused("PUT", &format!("{PLAIN}/grants"), &nothing)?;
        ensure!(
            status == 400 && message.contains("no permission was named"),
            "{action}: {status} {message}"
        );
    }
    Ok(())
}

#[test]
fn what_was_decided_about_ours_outlasts_an_upgrade_of_it() -> Result<()> {
    let mut scene = Scene::with(&[])?;
    let ours = |version: &str| Variant {
        id: "org.hutch.storage.dir".to_owned(),
        ..Variant::storage("dir", version).asking("fs = { roots = true }\nlink = true")
    };
    let file = scene.made(&ours("9.0.0"), None)?;
    let before = scene.daemon.client().get(DIR)?;
    scene.hutch.run(&["plugin", "revoke", "dir", "fs.roots"])?;
    scene.hutch.run(&["plugin", "disable", "dir"])?;
    scene
        .hutch
        .run(&["plugin", "upgrade", "dir", &file, "--yes", "--allow-publisher"])?;
    let upgraded = scene.daemon.client().get(DIR)?;
    ensure!(
        upgraded["version"] == "9.0.0" && upgraded["permissions"]["granted"]["link"] == true,
        "{upgraded:#}"
    );
    scene.hutch.run(&["plugin", "remove", "dir", "--yes"])?;
    for again in [false, true] {
        if again {
            scene.daemon.stop()?;
            scene.daemon.launch(&[])?;
        }
        let now = scene.daemon.client().get(DIR)?;
        ensure!(
            now["digest"] == before["digest"] && now["origin"] == "bundled",
            "{now:#}"
        );
        ensure!(
            now["state"] == "disabled",
            "what was taken out of service is back: {now:#}"
        );
        ensure!(
            now["permissions"]["granted"]["fs"]["roots"] != true,
            "what was revoked is back: {now:#}"
        );
        ensure!(
            now["permissions"]["granted"]["link"] != true,
            "what only the upgrade asked for is left: {now:#}"
        );
    }
    // With all of it given back, nothing is left to be remembered.
    scene.hutch.run(&["plugin", "enable", "dir"])?;
    scene.hutch.run(&["plugin", "grant", "dir", "all"])?;
    let now = scene.daemon.client().get(DIR)?;
    ensure!(
        now["permissions"]["granted"] == before["permissions"]["granted"],
        "{now:#}"
    );
    Ok(())
}
