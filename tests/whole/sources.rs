//! What image sources offer, listed by the daemon: a tree of simplestreams, images that are built, and a driver that lies.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options};
use hutch_tests::faulty::{self, IMAGES, is_blamed};
use hutch_tests::leftovers::Leftovers;
use hutch_tests::stock::Stock;
use hutch_tests::web::{Page, Web};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn bare() -> Result<Daemon> {
    Daemon::with(Options {
        bare: true,
        ..Options::default()
    })
}

/// A tree of simplestreams in `folder`, as `incus-simplestreams` makes it, with an image for this machine and one for another.
pub(crate) fn streams(folder: &Path) -> Result<()> {
    let here = std::env::consts::ARCH;
    let other = if here == "aarch64" { "x86_64" } else { "aarch64" };
    std::fs::create_dir_all(folder.join("root/etc"))?;
    for (arch, name) in [(here, "busy"), (other, "busy")] {
        std::fs::write(folder.join("root/etc/name"), format!("{name} {arch}"))?;
        let metadata = format!(
            "architecture: {arch}\ncreation_date: 1700000000\nproperties:\n  os: Busy\n  release: box\n  variant: default\n  \
             architecture: {arch}\n  description: a test\n"
        );
        std::fs::write(folder.join("metadata.yaml"), metadata)?;
        let script = format!(
            "mksquashfs root rootfs.squashfs -quiet -noappend >/dev/null && tar cJf metadata.tar.xz metadata.yaml \
             && incus-simplestreams add metadata.tar.xz rootfs.squashfs --alias {name}"
        );
        let made = Command::new("sh").args(["-c", &script]).current_dir(folder).status()?;
        ensure!(made.success(), "a tree of simplestreams can't be made: {made}");
    }
    Ok(())
}

/// Serves the files below `folder`.
fn serve(daemon: &Daemon, folder: &Path) -> Result<Web> {
    let folder = folder.to_owned();
    Web::serve(daemon.sandbox(), move |asked| {
        match std::fs::read(folder.join(asked.path.trim_start_matches('/'))) {
            Ok(body) => Page {
                body,
                ranges: true,
                ..Page::default()
            },
            Err(_) => Page {
                missing: true,
                ..Page::default()
            },
        }
    })
}

fn paths(web: &Web) -> Vec<String> {
    web.asked().into_iter().map(|asked| asked.path).collect()
}

#[test]
fn a_tree_of_simplestreams_is_listed() -> Result<()> {
    let daemon = bare()?;
    let tree = tempfile::tempdir()?;
    streams(tree.path())?;
    let web = serve(&daemon, tree.path())?;
    let hutch = Stock::hutch(&daemon)?;
    hutch.run(&["remote", "add", "busy", &web.address, "--protocol", "simplestreams"])?;

    let json: Value = serde_json::from_str(&hutch.run(&["image", "list", "busy:", "--format", "json"])?)?;
    let image = &json[0];
    ensure!(json.as_array().is_some_and(|all| all.len() == 1), "{json:#}");
    ensure!(
        image["architecture"] == std::env::consts::ARCH && image["type"] == "container",
        "{image:#}"
    );
    ensure!(image["size"].as_i64().is_some_and(|size| size > 4000), "{image:#}");
    ensure!(
        image["update_source"]["server"] == web.address.as_str()
            && image["update_source"]["protocol"] == "simplestreams",
        "{image:#}"
    );
    let fingerprint = image["fingerprint"].as_str().context("no fingerprint")?;
    ensure!(fingerprint.len() == 64, "{image:#}");
    let short = &fingerprint[..12];
    let table = hutch.run(&["image", "list", "busy:"])?;
    for title in [
        "ALIAS",
        "FINGERPRINT",
        "PUBLIC",
        "DESCRIPTION",
        "ARCHITECTURE",
        "TYPE",
        "SIZE",
        "UPLOAD DATE",
        "busy (1 more)",
        short,
        "CONTAINER",
    ] {
        ensure!(table.contains(title), "{title}: {table}");
    }
    let rows = |filters: &[&str]| -> Result<usize> {
        let arguments = [&["image", "list", "--format", "csv"], filters].concat();
        Ok(hutch.run(&arguments)?.lines().count())
    };
    let other = if std::env::consts::ARCH == "aarch64" {
        "amd64"
    } else {
        "arm64"
    };
    let (other, by_print) = (format!("architecture={other}"), format!("busy:{short}"));
    for (filters, count) in [
        (&["busy:bus"][..], 1),
        (&["busy:", "os=busy"], 1),
        (&["busy:", "os=Busy", "release=box"], 1),
        (&[&by_print], 1),
        (&["busy:none"], 0),
        (&["busy:", "release=other"], 0),
        (&["busy:", &other], 1),
        (&["busy:", "type=virtual-machine"], 0),
    ] {
        let found = rows(filters)?;
        ensure!(found == count, "{filters:?}: {found}");
    }
    let yaml = hutch.run(&["image", "list", "busy:", "--format", "yaml"])?;
    ensure!(yaml.contains(fingerprint), "{yaml}");
    for name in ["busy:busy", &by_print] {
        let info = hutch.run(&["image", "info", name])?;
        ensure!(info.contains(fingerprint) && info.contains(&web.address), "{info}");
    }
    ensure!(hutch.run(&["image", "get-property", "busy:busy", "os"])? == "Busy\n");
    let aliases = hutch.run(&["image", "alias", "list", "busy:bus", "--format", "csv"])?;
    ensure!(
        aliases
            .lines()
            .any(|line| line.starts_with(&format!("busy,{short},CONTAINER,"))),
        "{aliases}"
    );

    // Nothing was fetched but the lists, and nothing is here.
    ensure!(
        paths(&web).iter().all(|path| path.ends_with(".json")),
        "{:?}",
        paths(&web)
    );
    ensure!(daemon.client().get("/1.0/images")? == json!([]));
    ensure!(
        daemon
            .client()
            .get("/1.0/operations")?
            .as_object()
            .is_none_or(serde_json::Map::is_empty)
    );
    refusals(&daemon, &hutch)
}

/// What can't be listed is said, with what to do.
fn refusals(daemon: &Daemon, hutch: &Stock) -> Result<()> {
    for (arguments, told) in [
        (&["image", "info", "busy:none"][..], "none"),
        (&["image", "info", "busy:"], "which image of busy?"),
        (&["image", "list", "busy:", "--all-projects"], "images of a daemon"),
        (&["image", "list", "busy:", "architecture=pdp11"], "pdp11"),
        (
            &["image", "list", "nowhere:"],
            "\"nowhere\" is neither a remote nor an image source",
        ),
        (&["--project", "none", "image", "list", "busy:"], "Project not found"),
    ] {
        let (_, refusal) = hutch.fails(arguments)?;
        ensure!(refusal.contains(told), "{arguments:?}: {refusal}");
    }
    let mut client = daemon.client();
    let server = "server=http%3A%2F%2F127.0.0.1%3A9";
    let path = format!("/1.0/image-sources/simplestreams/images?{server}");
    let (status, refusal) = client.refused("GET", &path, &Value::Null)?;
    ensure!(
        status == 503 && refusal.contains("org.hutch.image.simplestreams 0.1.0"),
        "{status} {refusal}"
    );
    for server in [
        "file%3A%2F%2F%2Fetc",
        "http%3A%2F%2F127.0.0.1%3A9%0A",
        "http%3A%2F%2F127.0.0.1%3A9%2Fa%20b",
        "http%3A%2F%2Fuser%3Aword%40127.0.0.1%2F",
        "",
        "x",
    ] {
        let listing = format!("/1.0/image-sources/simplestreams/images?server={server}");
        let (status, refusal) = client.refused("GET", &listing, &Value::Null)?;
        ensure!(status < 500, "{server}: {status} {refusal}");
    }
    Ok(())
}

#[test]
fn images_that_are_built_are_listed() -> Result<()> {
    let daemon = bare()?;
    let hutch = Stock::hutch(&daemon)?;
    let sources = daemon.client().get("/1.0/image-sources?recursion=1")?;
    let builds = |name: &str| -> Result<bool> {
        let all = sources.as_array().context("no list")?;
        let found = all
            .iter()
            .find(|source| source["name"] == name)
            .context("no such source")?;
        found["builds"].as_bool().context("no answer")
    };
    ensure!(builds("debian")? && !builds("simplestreams")?, "{sources}");
    let listed = hutch.run(&["image", "list", "debian:bookworm", "--format", "csv", "-c", "Lfpats"])?;
    ensure!(
        listed.contains("debian/12") && listed.contains(",,yes,") && listed.contains("CONTAINER"),
        "{listed}"
    );
    let info = hutch.run(&["image", "info", "debian:bookworm"])?;
    ensure!(
        info.contains("Fingerprint: unknown") && info.contains("Size: unknown"),
        "{info}"
    );
    let (_, refusal) = hutch.fails(&["image", "info", "debian:potato"])?;
    ensure!(
        refusal.contains("potato") && refusal.contains("org.hutch.image.debian"),
        "{refusal}"
    );
    Ok(())
}

#[test]
fn a_source_that_lies_is_named_and_listed_nowhere() -> Result<()> {
    let daemon = Daemon::start()?;
    let web = Web::serve(daemon.sandbox(), |_| Page::default())?;
    let elsewhere = Web::serve(daemon.sandbox(), |_| Page::default())?;
    let hutch = Stock::hutch(&daemon)?;
    let file = faulty::images_file()?.display().to_string();
    hutch.run(&["plugin", "install", &file, "--yes"])?;
    let (pid, before) = (daemon.pid()?, Leftovers::settled(&daemon)?);
    let mut client = daemon.client();
    let server = web.address.replace(':', "%3A").replace('/', "%2F");
    let enable = |client: &mut hutch_tests::rest::Client| {
        let path = format!("/1.0/plugins/{IMAGES}/state");
        client.sync("PUT", &path, &json!({ "action": "enable" })).map(drop)
    };
    for (way, cause) in [
        ("answer-many", "60000 images"),
        ("answer-million", "at once"),
        ("answer-long", "description is too long"),
        ("answer-texts", "more than 16 MiB of text"),
        ("answer-alias", "the alias"),
        ("answer-fingerprint", "the fingerprint"),
        ("answer-kind", "an image of the kind"),
        ("answer-elsewhere", "http://169.254.169.254/latest"),
        ("answer-file", "file:///etc/shadow"),
        ("answer-build", "can't build"),
        ("fetch-elsewhere", "127.0.0.2"),
        ("trap", "crashed"),
        ("loop", "was stopped after running for"),
        ("memory", "needs more memory than the"),
        ("sleep", "did not end within"),
        ("exit", "ended the program"),
        ("not-utf8", "can't be read"),
        ("amplified", "at once"),
        ("own-error", "the thing is odd"),
    ] {
        let path = format!("/1.0/image-sources/faulty/images?server={server}&name={way}");
        let (_, message) = client.refused("GET", &path, &Value::Null).context(way)?;
        is_blamed(&message, IMAGES, "listing the images of", cause).context(way)?;
        ensure!(
            !message.contains('\u{1b}') && message.len() < 12 << 10,
            "{way}: {message:?}"
        );
        enable(&mut client)?;
    }
    // A list has the grants of a creation: the server that the request names, and none where it names none.
    ensure!(elsewhere.asked().is_empty() && web.asked().is_empty());
    let listing = format!("/1.0/image-sources/faulty/images?server={server}&name=fetch-server");
    ensure!(client.get(&listing)?[0]["aliases"][0]["name"] == "fetch-server");
    ensure!(web.asked().len() == 1);
    hutch.run(&["plugin", "revoke", IMAGES, "http"])?;
    let (status, message) = client.refused("GET", &listing, &Value::Null)?;
    ensure!(status == 403 && message.contains("permission"), "{status} {message}");
    hutch.run(&["plugin", "grant", IMAGES, "all"])?;

    // What it says is text for people, and does not steer their terminals.
    hutch.run(&["remote", "add", "lying", &web.address, "--protocol", "faulty"])?;
    for format in ["table", "compact", "csv", "json", "yaml"] {
        let listed = hutch.run(&["image", "list", "lying:", "--format", format])?;
        ensure!(
            listed.contains("red") && !listed.contains('\u{1b}'),
            "{format}: {listed:?}"
        );
    }
    let info = hutch.run(&["image", "info", "lying:answer-red"])?;
    ensure!(info.contains("red") && !info.contains('\u{1b}'), "{info:?}");

    // A long list that only its server is to blame for does not bring the plugin into quarantine.
    let many = format!("/1.0/image-sources/faulty/images?server={server}&name=answer-many");
    for _ in 0..6 {
        client.refused("GET", &many, &Value::Null)?;
    }
    client.get(&listing)?;
    ensure!(daemon.pid()? == pid, "the daemon is another one");
    before.compare_with_now(&daemon)
}

#[test]
fn a_source_that_does_not_answer_holds_up_nobody() -> Result<()> {
    let daemon = Daemon::start()?;
    let web = Web::serve(daemon.sandbox(), |_| Page::default())?;
    let hutch = Stock::hutch(&daemon)?;
    hutch.run(&[
        "plugin",
        "install",
        &faulty::images_file()?.display().to_string(),
        "--yes",
    ])?;
    let server = web.address.replace(':', "%3A").replace('/', "%2F");
    let asked = |name: &str| format!("/1.0/image-sources/faulty/images?server={server}&name={name}");
    std::thread::scope(|scope| -> Result<()> {
        let hanging: Vec<_> = (0..4)
            .map(|_| {
                let (mut client, path) = (daemon.client(), asked("sleep"));
                scope.spawn(move || client.refused("GET", &path, &Value::Null))
            })
            .collect();
        // A driver sleeps for 8 s, and is asked twice at a time.
        let mut client = daemon.client();
        let begun = Instant::now();
        while client.get(&format!("/1.0/plugins/{IMAGES}"))?["metrics"]["running"] != 2 {
            ensure!(begun.elapsed() < Duration::from_secs(5), "it is not asked twice");
            std::thread::yield_now();
        }
        client.get("/1.0/images?recursion=1")?;
        client.get("/1.0/image-sources/debian/images?name=bookworm")?;
        daemon.instance("c1", &json!({}))?;
        ensure!(daemon.shell("c1", "echo fine")? == "fine");
        // Neither the source's own creations: an image of another name is looked for.
        let source = json!({ "type": "image", "mode": "pull", "protocol": "faulty", "server": web.address, "alias": "own-error" });
        let (_, message) = client.refused("POST", "/1.0/images", &json!({ "source": source }))?;
        ensure!(message.contains("the thing is odd"), "{message}");
        // It can be taken out of service meanwhile.
        ensure!(hanging.iter().all(|thread| !thread.is_finished()), "it did not hang");
        hutch.run(&["plugin", "disable", IMAGES])?;
        for thread in hanging {
            let (_, message) = thread.join().map_err(|_| anyhow::anyhow!("a request panicked"))??;
            ensure!(message.contains(IMAGES), "{message}");
        }
        Ok(())
    })?;
    daemon.client().get("/1.0").map(drop)
}
