//! Plugins on their way from an author to an operator: signed, pushed to a registry, and installed from there.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options};
use hutch_tests::programs::Programs;
use hutch_tests::registry::{self, ADDRESS, Registry, USER};
use hutch_tests::stock::Stock;
use hutch_tests::variant::Variant;
use hutch_tests::web::{Page, Web};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::process::Command;

fn bare() -> Result<Daemon> {
    Daemon::with(Options {
        bare: true,
        ..Options::default()
    })
}

/// An author's `hutch plugin …`, beside the daemon's network.
fn author(daemon: &Daemon, arguments: &[&str]) -> Result<Command> {
    let mut command = daemon.sandbox().command(&Programs::from_environment()?.cli);
    let home = daemon.sandbox().path();
    command
        .arg("plugin")
        .args(arguments)
        .current_dir(home)
        .env("HOME", home);
    for variable in [
        "DOCKER_CONFIG",
        "REGISTRY_AUTH_FILE",
        "XDG_RUNTIME_DIR",
        "SOURCE_DATE_EPOCH",
    ] {
        command.env_remove(variable);
    }
    Ok(command)
}

fn does(daemon: &Daemon, arguments: &[&str]) -> Result<String> {
    let output = author(daemon, arguments)?.output()?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    ensure!(output.status.success(), "hutch plugin {arguments:?}: {out}{err}");
    Ok(out)
}

fn refused(daemon: &Daemon, arguments: &[&str]) -> Result<String> {
    let output = author(daemon, arguments)?.output()?;
    ensure!(!output.status.success(), "hutch plugin {arguments:?} went through");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Makes a variant of a plugin, and answers with its file.
fn made(daemon: &Daemon, variant: &Variant) -> Result<String> {
    Ok(variant.write(daemon.sandbox().path())?.display().to_string())
}

/// What a plugin's listing says.
fn shown(daemon: &Daemon) -> Result<Value> {
    daemon.client().get("/1.0/plugins/org.example.storage.plain")
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[test]
fn a_plugin_goes_through_a_registry_with_its_signature() -> Result<()> {
    let daemon = bare()?;
    let _registry = Registry::start(daemon.sandbox(), false)?;
    let hutch = Stock::hutch(&daemon)?;
    let file = made(&daemon, &Variant::storage("plain", "1.0.0"))?;
    let place = format!("oci://{ADDRESS}/drivers/plain:1.0.0");

    let made_keys = does(&daemon, &["key", "new", "example", "--no-password"])?;
    ensure!(
        made_keys.contains("hutch plugin trust add NAME example.pub"),
        "{made_keys}"
    );
    let refusal = refused(&daemon, &["push", &file, &place])?;
    ensure!(refusal.contains("`hutch plugin sign` makes it"), "{refusal}");
    does(&daemon, &["sign", &file, "--key", "example.key"])?;
    let pushed = does(&daemon, &["push", &file, &place])?;
    let pinned = pushed.split_whitespace().last().context("nothing was said")?.to_owned();
    ensure!(pinned.starts_with(&format!("{place}@sha256:")), "{pushed}");
    ensure!(
        does(&daemon, &["push", &file, &place])? == pushed,
        "the same file is something else"
    );

    lies_as_artifacts_do(&daemon, &pinned, &std::fs::read(&file)?)?;

    // An operator who does not know the publisher, and then does.
    let (_, refusal) = hutch.fails(&["plugin", "install", &place, "--yes"])?;
    ensure!(refusal.contains("not trusted"), "{refusal}");
    let public = daemon.sandbox().path().join("example.pub").display().to_string();
    hutch.run(&["plugin", "trust", "add", "example", &public])?;
    for (address, why) in [
        (format!("oci://{ADDRESS}/drivers/plain:2.0.0"), "the registry has no"),
        (format!("oci://{ADDRESS}/drivers/none:1.0.0"), "the registry has no"),
        (
            format!("oci://{ADDRESS}/drivers/plain"),
            "neither which tag nor which digest",
        ),
        ("oci://127.0.0.1:1/drivers/plain:1".to_owned(), "can't fetch"),
    ] {
        let (_, refusal) = hutch.fails(&["plugin", "install", &address, "--yes"])?;
        ensure!(refusal.contains(why), "{address}: {refusal}");
    }
    let other = sha256(b"");
    let (_, refusal) = hutch.fails(&["plugin", "install", &place, "--yes", "--digest", &other])?;
    ensure!(refusal.contains("its file has the digest sha256:"), "{refusal}");
    hutch.run(&["plugin", "install", &place, "--yes"])?;
    let plugin = shown(&daemon)?;
    ensure!(
        plugin["source"] == pinned,
        "{}: not pinned to {pinned}",
        plugin["source"]
    );
    ensure!(hutch.run(&["plugin", "list"])?.contains("signed by example"));
    ensure!(hutch.run(&["plugin", "info", "plain"])?.contains(&pinned));

    // Another version under the same tag, which the pinned address does not follow.
    let new = made(&daemon, &Variant::storage("plain", "1.1.0"))?;
    does(&daemon, &["sign", &new, "--key", "example.key"])?;
    does(&daemon, &["push", &new, &place])?;
    hutch.run(&["plugin", "upgrade", "plain", &place])?;
    let plugin = shown(&daemon)?;
    ensure!(plugin["version"] == "1.1.0" && plugin["source"] != pinned, "{plugin:#}");
    hutch.run(&["plugin", "remove", "plain", "--yes"])?;
    hutch.run(&["plugin", "install", &pinned, "--yes"])?;
    let plugin = shown(&daemon)?;
    ensure!(plugin["version"] == "1.0.0" && plugin["source"] == pinned, "{plugin:#}");
    let left = std::fs::read_dir(daemon.state_dir().join("plugins/incoming"))?.count();
    ensure!(left == 0, "{left} fetches are left");
    Ok(())
}

/// Whether the registry has it as the CNCF's artifacts are.
fn lies_as_artifacts_do(daemon: &Daemon, pinned: &str, file: &[u8]) -> Result<()> {
    let digest = pinned.rsplit_once('@').context("no digest")?.1;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let (head, body) = registry::get(daemon.sandbox(), &format!("/v2/drivers/plain/manifests/{digest}"), kind)?;
    ensure!(head.contains(kind) && sha256(&body) == digest, "{head}");
    let manifest: Value = serde_json::from_slice(&body)?;
    ensure!(
        manifest["config"]["mediaType"] == "application/vnd.wasm.config.v0+json",
        "{manifest:#}"
    );
    let layer = &manifest["layers"][0];
    ensure!(
        manifest["layers"].as_array().is_some_and(|layers| layers.len() == 1),
        "{manifest:#}"
    );
    ensure!(
        layer["mediaType"] == "application/wasm" && layer["digest"] == sha256(file).as_str(),
        "{manifest:#}"
    );
    let signature = std::fs::read_to_string(daemon.sandbox().path().join("plain-1.0.0.wasm.minisig"))?;
    ensure!(
        manifest["annotations"]["org.hutch.plugin.signature"] == signature.as_str(),
        "{manifest:#}"
    );
    let config = manifest["config"]["digest"].as_str().unwrap_or_default();
    let (_, body) = registry::get(daemon.sandbox(), &format!("/v2/drivers/plain/blobs/{config}"), "*/*")?;
    let config: Value = serde_json::from_slice(&body)?;
    ensure!(
        config["architecture"] == "wasm" && config["os"] == "wasip2",
        "{config:#}"
    );
    ensure!(config["layerDigests"] == json!([sha256(file)]), "{config:#}");
    let exports = config["component"]["exports"].to_string();
    ensure!(exports.contains("hutch:storage/volume@"), "{config:#}");
    Ok(())
}

#[test]
fn what_we_sign_minisign_believes() -> Result<()> {
    let daemon = bare()?;
    let place = daemon.sandbox().path();
    std::fs::write(place.join("password"), "correct horse\n")?;
    std::fs::write(place.join("wrong"), "wrong horse\n")?;
    let file = made(&daemon, &Variant::storage("plain", "1.0.0"))?;
    does(&daemon, &["key", "new", "k", "--password-file", "password"])?;
    let refusal = refused(&daemon, &["key", "new", "k", "--no-password"])?;
    ensure!(refusal.contains("is there already"), "{refusal}");
    let refusal = refused(&daemon, &["sign", &file, "--key", "k.key"])?;
    ensure!(refusal.contains("--password-file"), "{refusal}");
    let refusal = refused(&daemon, &["sign", &file, "--key", "k.key", "--password-file", "wrong"])?;
    ensure!(refusal.contains("Wrong password"), "{refusal}");
    let refusal = refused(
        &daemon,
        &["sign", "k.pub", "--key", "k.key", "--password-file", "password"],
    )?;
    ensure!(refusal.contains("is not a plugin"), "{refusal}");
    ensure!(!place.join("plain-1.0.0.wasm.minisig").exists());
    does(
        &daemon,
        &["sign", &file, "--key", "k.key", "--password-file", "password"],
    )?;
    let verified = Command::new("minisign")
        .args(["-V", "-p", "k.pub", "-m", &file])
        .current_dir(place)
        .output()?;
    ensure!(
        verified.status.success(),
        "minisign does not believe it: {}",
        String::from_utf8_lossy(&verified.stderr)
    );
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    ensure!(said.contains("org.example.storage.plain 1.0.0 sha256:"), "{said}");

    // Built again since it was signed.
    let _registry = Registry::start(daemon.sandbox(), false)?;
    let built = Variant::storage("plain", "1.0.0").asking("fs = { roots = true }\nlink = true");
    made(&daemon, &built)?;
    let address = format!("oci://{ADDRESS}/plain:1");
    let refusal = refused(&daemon, &["push", &file, &address])?;
    ensure!(refusal.contains("sign this one again"), "{refusal}");
    does(&daemon, &["push", &file, &address, "--unsigned"])?;
    let hutch = Stock::hutch(&daemon)?;
    let (_, refusal) = hutch.fails(&["plugin", "install", &address, "--yes"])?;
    ensure!(refusal.contains("--allow-unsigned"), "{refusal}");
    hutch.run(&["plugin", "install", &address, "--yes", "--allow-unsigned"])?;
    ensure!(hutch.run(&["plugin", "list"])?.contains("unsigned"));
    Ok(())
}

#[test]
fn a_closed_registry_lets_in_who_has_the_password() -> Result<()> {
    let daemon = bare()?;
    let _registry = Registry::start(daemon.sandbox(), true)?;
    let (name, password) = USER;
    std::fs::write(daemon.sandbox().path().join("password"), password)?;
    std::fs::write(daemon.sandbox().path().join("wrong"), "x")?;
    let file = made(&daemon, &Variant::storage("plain", "1.0.0"))?;
    let address = format!("oci://{ADDRESS}/plain:1");
    let push = ["push", &file, &address, "--unsigned"];
    refused(&daemon, &push)?;
    let with = |file: &'static str| [&push[..], &["--username", name, "--password-file", file]].concat();
    refused(&daemon, &with("wrong"))?;
    does(&daemon, &with("password"))?;
    // As `docker login` leaves it.
    let folder = daemon.sandbox().path().join(".docker");
    std::fs::create_dir(&folder)?;
    let logged_in = json!({ "auths": { ADDRESS: { "username": name, "password": password } } });
    std::fs::write(folder.join("config.json"), logged_in.to_string())?;
    does(&daemon, &push)?;
    let hutch = Stock::hutch(&daemon)?;
    let (_, refusal) = hutch.fails(&["plugin", "install", &address, "--yes", "--allow-unsigned"])?;
    ensure!(refusal.contains("wants to know who asks"), "{refusal}");
    Ok(())
}

/// A manifest of a plugin's as it should be, to be spoilt.
fn manifest(file: &[u8]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.wasm.config.v0+json", "digest": sha256(b"{}"), "size": 2 },
        "layers": [{ "mediaType": "application/wasm", "digest": sha256(file), "size": file.len() }],
    })
}

#[test]
fn no_answer_of_a_hostile_registry_is_believed() -> Result<()> {
    let daemon = bare()?;
    let file = Variant::storage("plain", "1.0.0").content()?;
    let other = Variant::storage("plain", "6.6.6").content()?;
    let whole = manifest(&file);
    let digest = sha256(whole.to_string().as_bytes());
    let spoilt = |path: &str, value: Value| {
        let mut manifest = whole.clone();
        if let Some(place) = manifest.pointer_mut(path) {
            *place = value;
        }
        manifest.to_string().into_bytes()
    };
    let manifests = [
        ("good", whole.to_string().into_bytes()),
        (
            "index",
            spoilt("/mediaType", json!("application/vnd.oci.image.index.v1+json")),
        ),
        (
            "image",
            spoilt("/config/mediaType", json!("application/vnd.oci.image.config.v1+json")),
        ),
        ("short", spoilt("/layers/0/size", json!(file.len() - 1))),
        ("long", spoilt("/layers/0/size", json!(file.len() + 1))),
        ("vast", spoilt("/layers/0/size", json!(1_u64 << 40))),
        ("swapped", spoilt("/layers/0/digest", json!(sha256(&other)))),
        ("away", spoilt("/layers/0/digest", json!(sha256(b"away")))),
        ("nothing", Vec::new()),
        ("giant", vec![b' '; 40 << 20]),
    ];
    let body = |body: Vec<u8>| Page {
        body,
        ..Page::default()
    };
    let web = Web::serve(daemon.sandbox(), move |asked| {
        let path = asked.path.strip_prefix("/v2/a/").unwrap_or_default();
        if let Some(blob) = path.strip_prefix("blobs/") {
            // Whatever is asked for, it is this; or it is somewhere else.
            return match blob == sha256(b"away") {
                true => Page {
                    moved: Some("http://169.254.169.254/latest".to_owned()),
                    ..Page::default()
                },
                false => body(file.clone()),
            };
        }
        let key = path.strip_prefix("manifests/").unwrap_or_default();
        let known = manifests.iter().find(|(name, _)| *name == key);
        match (key, known) {
            ("stated", _) => Page {
                headers: vec![format!("Docker-Content-Digest: {}", sha256(b"x"))],
                ..body(manifests[0].1.clone())
            },
            ("moved", _) => Page {
                moved: Some("http://169.254.169.254/latest".to_owned()),
                ..Page::default()
            },
            ("circle", _) => Page {
                moved: Some("/v2/a/manifests/circle".to_owned()),
                ..Page::default()
            },
            ("nowhere" | "beside", _) => Page {
                denied: true,
                headers: vec![format!(
                    "WWW-Authenticate: Bearer realm=\"http://{}/token\"",
                    if key == "beside" {
                        "127.0.0.1:1"
                    } else {
                        "169.254.169.254"
                    }
                )],
                ..Page::default()
            },
            (_, Some((_, manifest))) => body(manifest.clone()),
            // By digest: always the same.
            (key, None) if key.starts_with("sha256:") => body(manifests[0].1.clone()),
            _ => Page {
                missing: true,
                ..Page::default()
            },
        }
    })?;
    let host = web.address.strip_prefix("http://").context("no address")?;
    let hutch = Stock::hutch(&daemon)?;
    let install = |key: &str| {
        let address = format!("oci://{host}/a{key}");
        hutch.fails(&["plugin", "install", &address, "--yes", "--allow-unsigned"])
    };
    for (key, why) in [
        (":index", "not an image manifest"),
        (":image", "its config has the type"),
        (":short", "larger than the"),
        (":long", "should have"),
        (":vast", "at most"),
        (":swapped", "has the checksum"),
        (":away", "plugins come by https"),
        (":nothing", "can't be read"),
        (":giant", "larger than the"),
        (":stated", "the registry's manifest of"),
        (":moved", "plugins come by https"),
        (":circle", "redirects more than"),
        (":nowhere", "only the registry itself"),
        (":beside", "only the registry itself"),
        (":absent", "the registry has no"),
        (&format!("@{}", sha256(b"another")), "and not sha256:"),
    ] {
        let (_, refusal) = install(key)?;
        ensure!(refusal.contains(why), "{key}: {refusal}");
    }
    ensure!(!hutch.run(&["plugin", "list"])?.contains("plain"));
    let left = std::fs::read_dir(daemon.state_dir().join("plugins/incoming"))?.count();
    ensure!(left == 0, "{left} fetches are left");
    let (_, refusal) = hutch.fails(&["plugin", "install", "oci://example.org/a:1", "--yes"])?;
    ensure!(refusal.contains("can't fetch https://example.org"), "{refusal}");
    let address = format!("oci://{host}/a:other@{digest}");
    hutch.run(&["plugin", "install", &address, "--yes", "--allow-unsigned"])?;
    ensure!(shown(&daemon)?["source"] == address.as_str());
    Ok(())
}

#[test]
fn a_registry_that_wants_a_token_is_given_one() -> Result<()> {
    let daemon = bare()?;
    let file = Variant::storage("plain", "1.0.0").content()?;
    let manifest = manifest(&file).to_string().into_bytes();
    let web = Web::serve(daemon.sandbox(), move |asked| {
        let allowed = asked.authorization.as_deref() == Some("Bearer let-me-in");
        let body = match asked.path.as_str() {
            "/token?service=here&scope=repository%3Aa%3Apull" => br#"{"token":"let-me-in","expires_in":60}"#.to_vec(),
            _ if !allowed => {
                return Page {
                    denied: true,
                    headers: vec![
                        "WWW-Authenticate: Bearer realm=\"http://HOST/token\",service=\"here\""
                            .replace("HOST", asked.host.as_deref().unwrap_or_default()),
                    ],
                    ..Page::default()
                };
            }
            path if path.ends_with("/manifests/1") => manifest.clone(),
            _ => file.clone(),
        };
        Page {
            body,
            ..Page::default()
        }
    })?;
    let address = web.address.replace("http://", "oci://") + "/a:1";
    let hutch = Stock::hutch(&daemon)?;
    hutch.run(&["plugin", "install", &address, "--yes", "--allow-unsigned"])?;
    ensure!(shown(&daemon)?["version"] == "1.0.0");
    Ok(())
}
