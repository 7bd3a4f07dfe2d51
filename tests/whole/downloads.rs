//! Images from servers that break off, lie about checksums or send nonsense: nothing wrong is ever taken for an image, and
//! nothing is left of it.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options, creation};
use hutch_tests::leftovers::Leftovers;
use hutch_tests::web::{Asked, Page, Web};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The path of the image on the server.
const FILE: &str = "/images/busy.tar.gz";

/// An image server's catalogue with one image of one file, of this checksum and size.
fn catalogue(sha256: &str, size: usize) -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let item = json!({ "ftype": "incus_combined.tar.gz", "path": &FILE[1..], "sha256": sha256, "size": size });
    let product = json!({
        "aliases": "busy", "arch": arch, "os": "Busy", "release": "box", "release_title": "box", "variant": "default",
        "versions": { "20260101_00:00": { "items": { "incus_combined.tar.gz": item } } },
    });
    let key = format!("busy:box:{arch}:default");
    json!({ "format": "products:1.0", "datatype": "image-downloads", "content_id": "images", "products": { key: product } })
        .to_string()
}

/// Serves a catalogue that promises `sha256` and `size`, and `file` as the answer to who asks for the image.
fn serve(
    daemon: &Daemon,
    sha256: &str,
    size: usize,
    file: impl Fn(&Asked) -> Page + Send + Sync + 'static,
) -> Result<Web> {
    let catalogue = catalogue(sha256, size);
    let index = json!({ "format": "index:1.0", "index": { "images": {
        "datatype": "image-downloads", "path": "streams/v1/images.json", "format": "products:1.0", "products": ["busy"],
    } } })
    .to_string();
    Web::serve(daemon.sandbox(), move |asked| match asked.path.as_str() {
        "/streams/v1/index.json" => whole(index.clone().into_bytes()),
        "/streams/v1/images.json" => whole(catalogue.clone().into_bytes()),
        FILE => file(asked),
        _ => Page {
            missing: true,
            ..Page::default()
        },
    })
}

fn whole(body: Vec<u8>) -> Page {
    Page {
        body,
        ranges: true,
        ..Page::default()
    }
}

fn pull(web: &Web) -> Value {
    json!({ "source": {
        "type": "image", "mode": "pull", "protocol": "simplestreams", "server": web.address, "alias": "busy",
    } })
}

fn started() -> Result<(Daemon, Arc<Vec<u8>>, String)> {
    let daemon = Daemon::start()?;
    // Another one than the one that is imported already.
    let mut tarball = hutch_tests::image::Tarball::create(&daemon.sandbox().path().join("other.tar.gz"))?;
    tarball.metadata("from a server")?;
    tarball.busybox_root()?;
    let content = std::fs::read(tarball.finish()?)?;
    let sha256 = hex::encode(Sha256::digest(&content));
    Ok((daemon, Arc::new(content), sha256))
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_stopped() -> Result<()> {
    let (daemon, content, sha256) = started()?;
    let (served, count) = (Arc::clone(&content), AtomicUsize::new(0));
    let web = serve(&daemon, &sha256, content.len(), move |_| Page {
        cut: (count.fetch_add(1, Ordering::SeqCst) < 2).then_some(served.len() / 3),
        ..whole(served.to_vec())
    })?;
    let ended = daemon.client().run("POST", "/1.0/images", &pull(&web))?;
    ensure!(ended["metadata"]["fingerprint"] == sha256.as_str(), "{ended}");
    let asked: Vec<_> = web.asked().into_iter().filter(|asked| asked.path == FILE).collect();
    let third = content.len() / 3;
    ensure!(
        asked.iter().map(|asked| asked.from).collect::<Vec<_>>() == [None, Some(third), Some(2 * third)],
        "{asked:?}"
    );
    let mut body = creation("c1", &json!({}), true);
    body["source"] = json!({ "type": "image", "fingerprint": sha256 });
    daemon.client().run("POST", "/1.0/instances", &body)?;
    ensure!(daemon.shell("c1", "echo fine")? == "fine");
    Ok(())
}

#[test]
fn a_server_that_sends_no_parts_is_asked_for_the_whole() -> Result<()> {
    let (daemon, content, sha256) = started()?;
    let (served, count) = (Arc::clone(&content), AtomicUsize::new(0));
    let web = serve(&daemon, &sha256, content.len(), move |_| Page {
        cut: (count.fetch_add(1, Ordering::SeqCst) < 1).then_some(served.len() / 2),
        ranges: false,
        ..whole(served.to_vec())
    })?;
    let ended = daemon.client().run("POST", "/1.0/images", &pull(&web))?;
    ensure!(ended["metadata"]["fingerprint"] == sha256.as_str(), "{ended}");
    Ok(())
}

#[test]
fn what_is_not_what_was_promised_is_no_image() -> Result<()> {
    let (daemon, content, sha256) = started()?;
    let mut client = daemon.client();
    let before = Leftovers::settled(&daemon)?;
    let mut other = content.to_vec();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    let size = content.len();
    let longer = [content.to_vec(), vec![0; 512]].concat();
    let gone = Page {
        missing: true,
        ..Page::default()
    };
    for (name, page, cause) in [
        ("another content", whole(other), "checksum"),
        ("more than promised", whole(longer), "bytes"),
        ("gone", gone, "404"),
    ] {
        let web = serve(&daemon, &sha256, size, move |_| page.clone())?;
        let (_, message) = client.refused("POST", "/1.0/images", &pull(&web)).context(name)?;
        ensure!(message.contains(cause), "{name}: {message}");
        let images = client.get("/1.0/images")?;
        ensure!(
            images.as_array().is_some_and(|images| images.len() == 1),
            "{name}: {images}"
        );
        before.compare_with_now(&daemon).context(name)?;
    }
    // An upload that says what it should be.
    let headers = [
        ("Content-Type", "application/octet-stream"),
        ("X-LXD-fingerprint", &"0".repeat(64)),
    ];
    let answer = client.send("POST", "/1.0/images", &headers, &content)?;
    let message = if answer.status >= 400 {
        answer.error()
    } else {
        let operation = answer.json()?["metadata"].take();
        let ended = client.end_of(&operation)?;
        ensure!(ended["status_code"] == 400, "{ended}");
        ended["err"].as_str().unwrap_or_default().to_owned()
    };
    ensure!(message.to_lowercase().contains("fingerprint"), "{message}");
    before.compare_with_now(&daemon)
}

#[test]
fn a_transfer_that_never_ends_fails_and_can_go_on_later() -> Result<()> {
    let (daemon, content, sha256) = started()?;
    let mut client = daemon.client();
    let served = Arc::clone(&content);
    let short = serve(&daemon, &sha256, content.len(), move |_| Page {
        cut: Some(100),
        ranges: false,
        ..whole(served.to_vec())
    })?;
    let (_, message) = client.refused("POST", "/1.0/images", &pull(&short))?;
    ensure!(
        message.contains("busy.tar.gz") && message.contains("end of file"),
        "{message}"
    );
    ensure!(
        client
            .get("/1.0/images")?
            .as_array()
            .is_some_and(|images| images.len() == 1)
    );
    let web = serve(&daemon, &sha256, content.len(), move |_| whole(content.to_vec()))?;
    client.run("POST", "/1.0/images", &pull(&web))?;
    let downloads = daemon.state_dir().join("images/staging/downloads");
    let left: Vec<_> = std::fs::read_dir(downloads)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn catalogues_that_are_nonsense_are_refused() -> Result<()> {
    let daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let mut client = daemon.client();
    let before = Leftovers::settled(&daemon)?;
    let deep = format!("{}1{}", "[".repeat(200_000), "]".repeat(200_000));
    let index = |path: &str| {
        json!({ "format": "index:1.0", "index": { "images": {
            "datatype": "image-downloads", "path": path, "format": "products:1.0",
        } } })
        .to_string()
    };
    let cases: [(&str, Vec<u8>); 10] = [
        ("nothing", Vec::new()),
        ("HTML", b"<html>".to_vec()),
        ("a list", b"[]".to_vec()),
        ("no UTF-8", vec![0xff; 64]),
        ("depth", deep.into_bytes()),
        ("another format", br#"{"format":"index:9.0","index":{}}"#.to_vec()),
        ("a path above", index("../../../etc/passwd").into_bytes()),
        ("another server", index("http://127.0.0.2/x").into_bytes()),
        ("a file", index("file:///etc/passwd").into_bytes()),
        ("64 MiB", vec![b' '; 64 << 20]),
    ];
    for (name, body) in cases {
        let web = Web::serve(daemon.sandbox(), move |_| whole(body.clone()))?;
        let (_, message) = client.refused("POST", "/1.0/images", &pull(&web)).context(name)?;
        ensure!(message.contains("org.hutch.image.simplestreams"), "{name}: {message}");
        ensure!(!message.contains("crashed"), "{name}: {message}");
    }
    ensure!(client.get("/1.0/images")? == json!([]));
    before.compare_with_now(&daemon)
}

/// The host's network reaches more than an image server, or a plugin, may have it reach.
#[test]
fn a_server_does_not_send_the_host_to_another_one() -> Result<()> {
    let (daemon, content, sha256) = started()?;
    let mut client = daemon.client();
    let before = Leftovers::settled(&daemon)?;
    let served = Arc::clone(&content);
    let private = Web::serve(daemon.sandbox(), move |_| whole(served.to_vec()))?;
    let address = format!("{}/metadata", private.address);
    let web = serve(&daemon, &sha256, content.len(), move |_| Page {
        moved: Some(address.clone()),
        ..Page::default()
    })?;
    let (_, message) = client.refused("POST", "/1.0/images", &pull(&web))?;
    let named = message.contains(&format!("redirects to {}", private.address)) && message.contains("permission");
    ensure!(named, "{message}");
    ensure!(private.asked().is_empty(), "{:?}", private.asked());
    before.compare_with_now(&daemon)
}
