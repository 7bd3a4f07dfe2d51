//! Plugins as an operator sees them: ours are there, and a broken one stops nothing.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options};
use hutch_tests::stock::Stock;
use serde_json::{Value, json};

#[test]
fn our_plugins_are_listed_with_what_they_provide() -> Result<()> {
    let daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let plugins = daemon.client().get("/1.0/plugins?recursion=1")?;
    let text = plugins.to_string();
    for name in ["dir", "overlay", "bridge", "simplestreams", "debian"] {
        ensure!(text.contains(&format!("\"{name}\"")), "nothing provides {name}: {text}");
    }
    let table = Stock::hutch(&daemon)?.run(&["plugin", "list"])?;
    ensure!(table.contains("overlay"), "{table}");
    Ok(())
}

/// Code that a daemon of this build has compiled for itself: nothing that may come from outside.
fn compiled() -> Result<Vec<u8>> {
    let daemon = Daemon::start()?;
    let cache = daemon.state_dir().join("cache/plugins");
    let code = std::fs::read_dir(&cache)?.next().context("nothing was compiled")??;
    Ok(std::fs::read(code.path())?)
}

#[test]
fn files_that_are_no_plugins_are_shown_and_stop_nothing() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let programs = hutch_tests::programs::Programs::from_environment()?;
    let ours: Vec<_> = std::fs::read_dir(&programs.plugins)?.collect::<Result<_, _>>()?;
    let mut configuration = String::new();
    for entry in &ours {
        configuration.push_str(&format!("[[plugin]]\npath = {:?}\n\n", entry.path()));
    }
    let cut = {
        let first = ours.first().context("no plugins")?;
        let content = std::fs::read(first.path())?;
        content[..content.len() / 3].to_vec()
    };
    // The empty core module: magic and version 1.
    let module = b"\0asm\x01\0\0\0".to_vec();
    for (name, content) in [
        ("text", b"no plugin".to_vec()),
        ("cut", cut),
        ("module", module),
        ("empty", Vec::new()),
        ("compiled", compiled()?),
    ] {
        let path = scratch.path().join(format!("{name}.wasm"));
        std::fs::write(&path, content)?;
        configuration.push_str(&format!("[[plugin]]\npath = {path:?}\n\n"));
    }
    configuration.push_str(&format!(
        "[[plugin]]\npath = {:?}\n",
        scratch.path().join("absent.wasm")
    ));
    let daemon = Daemon::with(Options {
        configuration: Some(configuration),
        ..Options::default()
    })?;
    daemon.instance("c1", &json!({}))?;
    let plugins = daemon.client().get("/1.0/plugins?recursion=1")?;
    let broken = plugins
        .as_array()
        .context("plugins that are no list")?
        .iter()
        .filter(|plugin| plugin["reason"].as_str().is_some_and(|reason| !reason.is_empty()))
        .count();
    ensure!(broken == 6, "{broken} of 6 are shown with a reason: {plugins}");
    Ok(())
}

#[test]
fn a_driver_that_nothing_provides_is_named() -> Result<()> {
    let daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let mut client = daemon.client();
    for (path, body) in [
        (
            "/1.0/storage-pools",
            json!({ "name": "p", "driver": "imaginary", "config": {} }),
        ),
        (
            "/1.0/networks",
            json!({ "name": "net0", "type": "imaginary", "config": {} }),
        ),
    ] {
        let (status, message) = client.refused("POST", path, &body)?;
        ensure!(
            matches!(status, 400 | 404) && message.contains("imaginary"),
            "{path}: {status} {message}"
        );
    }
    let source = json!({ "type": "image", "mode": "pull", "protocol": "imaginary", "server": "", "alias": "x" });
    let (_, message) = client.refused("POST", "/1.0/images", &json!({ "source": source }))?;
    ensure!(message.contains("imaginary"), "{message}");
    Ok(())
}

#[test]
fn a_pool_whose_plugin_is_gone_is_shown_unavailable() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.stop()?;
    daemon.configure("plugin = []\n")?;
    daemon.launch(&[])?;
    ensure!(daemon.status("c1")? == "Running", "a container needs no plugin to run");
    ensure!(daemon.shell("c1", "echo alive")? == "alive");
    let pool = daemon.client().get("/1.0/storage-pools/testpool")?;
    ensure!(pool["status"] != "Created", "{pool}");
    let (_, message) = daemon
        .client()
        .refused("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
    ensure!(message.contains("overlay"), "{message}");
    daemon.stop()?;
    daemon.configure("")?;
    daemon.launch(&[])?;
    // The next change waits until the pool is there again.
    daemon
        .client()
        .run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))
        .map(drop)
}

#[test]
fn an_unknown_plugin_is_not_found() -> Result<()> {
    let daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let answer = daemon
        .client()
        .request("GET", "/1.0/plugins/no.such.plugin", &Value::Null)?;
    ensure!(answer.status == 404, "{}", answer.status);
    Ok(())
}

/// A component with nothing but a manifest: a header (WebAssembly component model, binary format) and a custom section.
fn component(manifest: &[u8]) -> Vec<u8> {
    let leb = |mut number: usize| {
        let mut bytes = Vec::new();
        loop {
            let low = u8::try_from(number & 0x7f).unwrap_or_default();
            number >>= 7;
            if number == 0 {
                bytes.push(low);
                return bytes;
            }
            bytes.push(low | 0x80);
        }
    };
    let name = b"hutch:manifest";
    let content = [leb(name.len()), name.to_vec(), manifest.to_vec()].concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), vec![0], leb(content.len()), content].concat()
}

#[test]
fn manifests_that_are_wrong_are_shown_with_the_reason() -> Result<()> {
    let good = "manifest = 1\nid = \"org.example.storage.x\"\nversion = \"1.0.0\"\nlicense = \"MIT\"\n\
                world = \"hutch:storage@0.1.0\"\n[provides]\nstorage = [\"x\"]\n";
    let with = |line: &str| format!("{line}\n{good}").into_bytes();
    let cases: [(&str, Vec<u8>, &str); 12] = [
        ("empty", Vec::new(), "format"),
        ("binary", vec![0xff; 100], "UTF-8"),
        ("syntax", b"manifest = ".to_vec(), "can't be read"),
        (
            "newer",
            good.replace("manifest = 1", "manifest = 2").into_bytes(),
            "format 2",
        ),
        ("unknown", with("surprise = true"), "can't be read"),
        ("large", with(&format!("# {}", "x".repeat(70_000))), "bytes"),
        (
            "id",
            good.replace("org.example.storage.x", "../../x").into_bytes(),
            "id",
        ),
        (
            "world",
            good.replace("hutch:storage@0.1.0", "hutch:storage@9.0.0").into_bytes(),
            "world",
        ),
        ("names", good.replace("[\"x\"]", "[\"../x\"]").into_bytes(), "provides"),
        ("nothing", good.replace("[\"x\"]", "[]").into_bytes(), "provides"),
        (
            "limits",
            format!("{good}[limits]\nmemory = \"64TiB\"\n").into_bytes(),
            "memory",
        ),
        ("no code", good.as_bytes().to_vec(), "export"),
    ];
    let scratch = tempfile::tempdir()?;
    let mut configuration = String::new();
    for (name, manifest, _) in &cases {
        let path = scratch.path().join(format!("{name}.wasm"));
        std::fs::write(&path, component(manifest))?;
        configuration.push_str(&format!("[[plugin]]\npath = {path:?}\n\n"));
    }
    for entry in std::fs::read_dir(hutch_tests::programs::Programs::from_environment()?.plugins)? {
        configuration.push_str(&format!("[[plugin]]\npath = {:?}\n\n", entry?.path()));
    }
    let mut daemon = Daemon::with(Options {
        configuration: Some(configuration),
        ..Options::default()
    })?;
    daemon.instance("c1", &json!({}))?;
    let plugins = daemon.client().get("/1.0/plugins?recursion=1")?;
    let plugins = plugins.as_array().context("plugins that are no list")?;
    for ((name, _, cause), plugin) in cases.iter().zip(plugins.iter().rev().take(cases.len()).rev()) {
        let reason = plugin["reason"].as_str().unwrap_or_default();
        ensure!(
            plugin["state"] == "failed" && reason.contains(cause) && reason.contains(&format!("{name}.wasm")),
            "{name}: {plugin}"
        );
    }
    // A configuration that is wrong itself is told, and the daemon does not start.
    daemon.stop()?;
    for (text, cause) in [
        ("[[plugin]]\npath = 5\n", "path"),
        ("[[plugin]]\npaht = \"/x\"\n", "paht"),
        ("plugin = \n", "plugin"),
        (
            "[[plugin]]\npath = \"/x\"\ngrants = { everything = true }\n",
            "everything",
        ),
    ] {
        daemon.configure(text)?;
        let error = daemon.launch(&[]).err().context("it started")?;
        ensure!(format!("{error:#}").contains(cause), "{text}: {error:#}");
    }
    daemon.configure("")?;
    daemon.launch(&[])?;
    ensure!(daemon.shell("c1", "echo fine")? == "fine");
    Ok(())
}
