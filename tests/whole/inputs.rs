//! What clients send that is wrong: names that are paths, wherever there is a name; bodies of wrong types, too large or never
//! coming; and disks that are full.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, Options, creation};
use hutch_tests::leftovers::Leftovers;
use hutch_tests::rest::{Client, read_answer};
use serde_json::{Value, json};
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Names that lead somewhere, or mean something to a shell, a terminal or a file system.
const NAMES: &[&str] = &[
    "",
    ".",
    "..",
    "../x",
    "../../../../etc/passwd",
    "/etc/passwd",
    "a/../b",
    "a\u{0}b",
    "a\nb",
    "\u{1b}[31m",
    "\u{202e}gpj",
];

/// Sends a request that must be refused as the caller's fault, with a message that says something.
fn is_refused(client: &mut Client, method: &str, path: &str, body: &Value) -> Result<()> {
    let (status, message) = client
        .refused(method, path, body)
        .with_context(|| format!("{method} {path} {body}"))?;
    ensure!(
        (400..500).contains(&status) && message.len() > 3,
        "{method} {path} {body}: {status} {message:?}"
    );
    ensure!(
        !message.contains('\u{1b}') && !message.contains('\0'),
        "{method} {path}: the message has control characters: {message:?}"
    );
    Ok(())
}

#[test]
fn names_that_are_paths_are_refused_wherever_there_is_a_name() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    client.run("POST", "/1.0/instances", &creation("c1", &json!({}), false))?;
    client.run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
    client.sync(
        "POST",
        "/1.0/profiles",
        &json!({ "name": "p1", "config": {}, "devices": {} }),
    )?;
    let quiet = json!({ "ipv4.address": "none", "ipv6.address": "none" });
    client.sync(
        "POST",
        "/1.0/networks",
        &json!({ "name": "net1", "type": "bridge", "config": quiet }),
    )?;
    let fingerprint = client.get("/1.0/images?recursion=1")?[0]["fingerprint"].clone();
    let before = Leftovers::settled(&daemon)?;
    for name in NAMES {
        let alias = json!({ "name": name, "target": fingerprint });
        let nic = json!({ "type": "nic", "network": daemon.network(), "name": name });
        let disk = json!({ "type": "disk", "source": "/etc", "path": "/mnt", "pool": name });
        let copy = json!({ "name": name, "source": { "type": "copy", "source": "c1" } });
        let of_pool = json!({ "root": { "type": "disk", "path": "/", "pool": name } });
        let mut cases = vec![
            ("POST", "/1.0/projects", json!({ "name": name, "config": {} })),
            ("POST", "/1.0/images/aliases", alias),
            (
                "POST",
                "/1.0/networks",
                json!({ "name": name, "type": "bridge", "config": quiet }),
            ),
            (
                "POST",
                "/1.0/storage-pools",
                json!({ "name": name, "driver": "dir", "config": {} }),
            ),
            (
                "POST",
                "/1.0/profiles",
                json!({ "name": name, "config": {}, "devices": {} }),
            ),
            ("POST", "/1.0/profiles/p1", json!({ "name": name })),
            ("POST", "/1.0/networks/net1", json!({ "name": name })),
            ("POST", "/1.0/instances/c1", json!({ "name": name })),
            ("POST", "/1.0/instances/c1/snapshots/s1", json!({ "name": name })),
            ("PATCH", "/1.0/instances/c1", json!({ "config": { *name: "x" } })),
            (
                "PATCH",
                "/1.0/instances/c1",
                json!({ "devices": { *name: { "type": "none" } } }),
            ),
            ("PATCH", "/1.0/instances/c1", json!({ "devices": { "d1": disk } })),
            ("PATCH", "/1.0/profiles/p1", json!({ "config": { *name: "x" } })),
            ("PATCH", "/1.0/networks/net1", json!({ "config": { *name: "x" } })),
            ("PATCH", "/1.0", json!({ "config": { *name: "x" } })),
        ];
        // Where there is no name, the daemon chooses one.
        if !name.is_empty() {
            cases.extend([
                ("POST", "/1.0/instances", copy),
                (
                    "POST",
                    "/1.0/instances",
                    creation("c2", &json!({ "profiles": [name] }), false),
                ),
                (
                    "POST",
                    "/1.0/instances",
                    creation("c2", &json!({ "devices": of_pool }), false),
                ),
                ("POST", "/1.0/instances/c1/snapshots", json!({ "name": name })),
                ("PATCH", "/1.0/instances/c1", json!({ "devices": { "eth1": nic } })),
            ]);
        }
        for (method, path, body) in cases {
            is_refused(&mut client, method, path, &body)?;
        }
    }
    before.compare_with_now(&daemon)
}

#[test]
fn values_of_wrong_types_are_refused() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    client.run("POST", "/1.0/instances", &creation("c1", &json!({}), false))?;
    let before = Leftovers::settled(&daemon)?;
    for (method, path) in [
        ("PUT", "/1.0/instances/c1"),
        ("PATCH", "/1.0/instances/c1"),
        ("PUT", "/1.0/instances/c1/state"),
        ("POST", "/1.0/instances/c1/exec"),
        ("POST", "/1.0/instances/c1/snapshots"),
        ("PUT", "/1.0/profiles/default"),
        ("PUT", "/1.0/networks/testbr0"),
        ("PUT", "/1.0/storage-pools/testpool"),
        ("PUT", "/1.0"),
    ] {
        for body in [
            json!([]),
            json!(5),
            json!("text"),
            json!({ "config": 5, "action": 5, "command": 5, "name": 5, "source": 5 }),
            json!({ "config": { "a": {} }, "action": [], "command": {}, "name": {}, "source": [] }),
            json!({ "config": [1], "action": {}, "command": [[1]], "name": [], "source": "x" }),
        ] {
            let answer = client.request(method, path, &body)?;
            ensure!(
                answer.status == 400,
                "{method} {path} {body}: {} {}",
                answer.status,
                answer.error()
            );
            ensure!(!answer.error().is_empty(), "{method} {path} {body}");
        }
    }
    // A body has at most a mebibyte.
    let large = json!({ "description": "x".repeat(2 << 20), "config": {}, "devices": {} });
    let answer = client.request("PUT", "/1.0/profiles/default", &large)?;
    ensure!(matches!(answer.status, 400 | 413), "{}", answer.status);
    ensure!(
        answer.error().contains("MiB") || answer.error().contains("large"),
        "{}",
        answer.error()
    );
    for path in [
        "/1.0/instances?recursion=x",
        "/1.0/instances?recursion=-1",
        "/1.0/instances?filter=((((",
        "/1.0/instances?filter=name%20eq",
        &format!("/1.0/instances?filter={}", "not%20".repeat(5000)),
        "/1.0/operations/00000000-0000-0000-0000-000000000000/wait?timeout=x",
    ] {
        let answer = client.request("GET", path, &Value::Null)?;
        ensure!((400..500).contains(&answer.status), "{path}: {}", answer.status);
    }
    ensure!(client.get("/1.0/instances/c1")?["status"] == "Stopped");
    before.compare_with_now(&daemon)
}

#[test]
fn requests_that_never_end_hold_nobody_up() -> Result<()> {
    const STALLED: usize = 300;
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let head = "POST /1.0/profiles HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let body = format!("{head}Content-Length: 1000\r\n\r\n{{");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\n{{");
    let begun = Instant::now();
    let mut streams = Vec::new();
    for number in 0..STALLED {
        let mut stream = UnixStream::connect(daemon.socket())?;
        let part = [head, body.as_str(), chunked.as_str()][number % 3];
        stream.write_all(part.as_bytes())?;
        streams.push(stream);
    }
    // Others are served at once.
    for _ in 0..20 {
        let asked = Instant::now();
        daemon.client().get("/1.0/instances?recursion=2")?;
        ensure!(daemon.shell("c1", "echo fine")? == "fine");
        ensure!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
    // A byte now and then is no progress: a body has its time as a whole.
    let mut slow = streams.swap_remove(1);
    slow.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut answer = Vec::new();
    while begun.elapsed() < Duration::from_secs(60) {
        // The daemon may have closed already; that is what is waited for.
        let sent = slow.write_all(b" ");
        let mut some = [0; 1024];
        match slow.read(&mut some) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&some[..count]),
            Err(_) if sent.is_ok() => {}
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&answer);
    ensure!(text.starts_with("HTTP/1.1 408"), "{text:?}");
    ensure!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
    // The others that sent a head were told, too.
    for stream in streams.into_iter().skip(1).step_by(3).take(20) {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let answer = read_answer(&mut BufReader::new(stream), "POST")?;
        ensure!((400..500).contains(&answer.status), "{}", answer.status);
    }
    ensure!(daemon.client().get("/1.0/profiles")? == json!(["/1.0/profiles/default"]));
    Ok(())
}

#[test]
fn a_full_disk_leaves_nothing_half_made() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let small = daemon.sandbox().path().join("small");
    std::fs::create_dir(&small)?;
    let place = small.to_string_lossy().into_owned();
    hutch_tests::sandbox::must("mount", &["-t", "tmpfs", "-o", "size=32m,mode=0711", "tmpfs", &place])?;
    let pool = json!({ "name": "small", "driver": "dir", "config": { "source": small } });
    client.sync("POST", "/1.0/storage-pools", &pool)?;
    let root = json!({ "root": { "type": "disk", "path": "/", "pool": "small" } });
    client.run(
        "POST",
        "/1.0/instances",
        &creation("c1", &json!({ "devices": root }), true),
    )?;
    // From inside: the container is told, and goes on.
    let told = daemon.shell(
        "c1",
        "dd if=/dev/zero of=/big bs=1M count=20 2>&1 && dd if=/dev/zero of=/more bs=1M count=20 2>&1 || true",
    )?;
    ensure!(told.contains("No space left"), "{told}");
    daemon.shell("c1", "rm /more && sync")?;
    // There is no room for a copy of what is there now.
    let before = Leftovers::settled(&daemon)?;
    let used = used(&small)?;
    let (_, message) = client.refused("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))?;
    ensure!(message.contains("space"), "{message}");
    let copy = json!({ "name": "c2", "source": { "type": "copy", "source": "c1" }, "devices": root });
    let (_, message) = client.refused("POST", "/1.0/instances", &copy)?;
    ensure!(message.contains("space"), "{message}");
    ensure!(client.get("/1.0/instances/c1/snapshots")? == json!([]));
    ensure!(client.get("/1.0/instances")? == json!(["/1.0/instances/c1"]));
    before.compare_with_now(&daemon)?;
    let begun = Instant::now();
    while self::used(&small)? > used + (1 << 20) {
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "{} bytes are in use, before {used}",
            self::used(&small)?
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(daemon.shell("c1", "echo fine")? == "fine");
    daemon.shell("c1", "rm /big && sync")?;
    client
        .run("POST", "/1.0/instances/c1/snapshots", &json!({ "name": "s1" }))
        .map(drop)
}

/// Bytes in use on a file system.
fn used(path: &Path) -> Result<u64> {
    let text = hutch_tests::sandbox::must("stat", &["--file-system", "--format=%b %f %S", &path.to_string_lossy()])?;
    let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [blocks, free, size] = numbers.as_slice() else {
        anyhow::bail!("stat printed {text:?}");
    };
    Ok((blocks - free) * size)
}

#[test]
fn an_import_that_fills_the_disk_leaves_nothing() -> Result<()> {
    let daemon = Daemon::with(Options {
        bare: true,
        ..Options::default()
    })?;
    let mut client = daemon.client();
    let images = daemon.state_dir().join("images");
    let image = hutch_tests::image::busybox(daemon.sandbox().path())?;
    let place = images.to_string_lossy().into_owned();
    hutch_tests::sandbox::must("mount", &["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", &place])?;
    std::fs::create_dir_all(images.join("staging"))?;
    let content = std::fs::read(&image)?;
    let answer = client.send(
        "POST",
        "/1.0/images",
        &[("Content-Type", "application/octet-stream")],
        &content,
    )?;
    let message = if answer.status >= 400 {
        ensure!(answer.status == 507, "{}: {}", answer.status, answer.error());
        answer.error()
    } else {
        let operation = answer.json()?["metadata"].take();
        let ended = client.end_of(&operation)?;
        ensure!(ended["status_code"] == 400, "{ended}");
        ended["err"].as_str().unwrap_or_default().to_owned()
    };
    ensure!(message.to_lowercase().contains("space"), "{message}");
    let left: Vec<_> = std::fs::read_dir(images.join("staging"))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    ensure!(client.get("/1.0/images")? == json!([]));
    hutch_tests::sandbox::must("umount", &["-l", &place])?;
    client.import_image(&image, None).map(drop)
}
