//! Requests that are wrong, large or many.

use anyhow::{Result, ensure};
use hutch_tests::daemon::{Daemon, Options};
use hutch_tests::leftovers::Leftovers;
use hutch_tests::rest::{Answer, read_answer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn bare() -> Result<Daemon> {
    Daemon::with(Options {
        bare: true,
        ..Options::default()
    })
}

fn is_error(answer: &Answer, status: u16) -> Result<()> {
    let envelope = answer.json()?;
    ensure!(answer.status == status, "{}, not {status}: {envelope}", answer.status);
    ensure!(
        envelope["type"] == "error" && envelope["error_code"] == status,
        "{envelope}"
    );
    ensure!(
        envelope["error"].as_str().is_some_and(|text| !text.is_empty()),
        "{envelope}"
    );
    Ok(())
}

#[test]
fn bodies_that_are_not_what_they_should_be() -> Result<()> {
    let daemon = bare()?;
    let mut client = daemon.client();
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies: [&[u8]; 8] = [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b"\"text\"",
        b"{\"name\": 5}",
        b"\xff\xfe\x00",
        deep.as_bytes(),
    ];
    for path in [
        "/1.0/instances",
        "/1.0/networks",
        "/1.0/profiles",
        "/1.0/storage-pools",
        "/1.0/images/aliases",
    ] {
        for body in bodies {
            let answer = client.send("POST", path, &[("Content-Type", "application/json")], body)?;
            is_error(&answer, 400)?;
        }
    }
    client.get("/1.0").map(drop)
}

#[test]
fn paths_and_methods_that_are_not_there() -> Result<()> {
    let daemon = bare()?;
    let mut client = daemon.client();
    for path in [
        "/1.0/nothing",
        "/2.0",
        "/1.0/instances/none",
        "/1.0/operations/none",
        "/1.0/instances/none/state",
        "/x",
    ] {
        is_error(&client.request("GET", path, &Value::Null)?, 404)?;
    }
    let answer = client.request("DELETE", "/1.0", &Value::Null)?;
    ensure!(matches!(answer.status, 404 | 405 | 501), "{}", answer.status);
    ensure!(client.request("GET", "/", &Value::Null)?.json()?["metadata"] == json!(["/1.0"]));
    Ok(())
}

#[test]
fn names_that_are_paths_or_worse() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let before = Leftovers::settled(&daemon)?;
    let long = "a".repeat(5000);
    for name in [
        "../x",
        "a/b",
        ".",
        "..",
        "-rf",
        "a b",
        "a\u{0}b",
        "a\nb",
        "é",
        "c1;reboot",
        &long,
    ] {
        let body = json!({ "name": name, "source": { "type": "image", "alias": "busybox" } });
        let (status, message) = client.refused("POST", "/1.0/instances", &body)?;
        ensure!(status == 400, "instance {name:?}: {status} {message}");
        for (path, body) in [
            ("/1.0/profiles", json!({ "name": name, "config": {}, "devices": {} })),
            (
                "/1.0/storage-pools",
                json!({ "name": name, "driver": "dir", "config": {} }),
            ),
        ] {
            if name == "c1;reboot" || name == "é" || name == "a b" {
                // These are names that LXD takes for some objects; here it only matters that they do no harm.
                continue;
            }
            let (status, message) = client.refused("POST", path, &body)?;
            ensure!(status == 400, "{path} {name:?}: {status} {message}");
        }
    }
    for path in [
        "/1.0/instances/..%2f..%2fetc",
        "/1.0/instances/%2e%2e/state",
        "/1.0/instances/a%00b",
        "/1.0/networks/..%2fx",
    ] {
        let answer = client.request("GET", path, &Value::Null)?;
        ensure!((400..500).contains(&answer.status), "{path}: {}", answer.status);
    }
    before.compare_with_now(&daemon)
}

#[test]
fn what_is_no_http_is_dropped() -> Result<()> {
    let daemon = bare()?;
    for junk in [
        b"\x16\x03\x01\x02\x00".as_slice(),
        b"GET",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        &[0; 4096],
    ] {
        let mut stream = daemon.client().connect()?;
        // The daemon may close before all is sent.
        let _ = stream.write_all(junk);
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        ensure!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    let mut stream = daemon.client().connect()?;
    let mut head = b"GET /1.0 HTTP/1.1\r\nHost: x\r\n".to_vec();
    for number in 0..100_000 {
        head.extend_from_slice(format!("X-{number}: y\r\n").as_bytes());
    }
    let _ = stream.write_all(&head);
    daemon.client().get("/1.0").map(drop)
}

#[test]
fn a_body_without_end_is_cut_off() -> Result<()> {
    let daemon = bare()?;
    let mut stream = daemon.client().connect()?;
    stream.write_all(b"POST /1.0/profiles HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let mut sent = 0;
    while stream.write_all(&chunk).is_ok() {
        sent += 0x10000;
        ensure!(sent < 256 << 20, "256 MiB of JSON were taken");
    }
    let peak = kibibytes(&daemon, "VmHWM:")?;
    ensure!(peak < 512 * 1024, "the daemon took {peak} KiB");
    daemon.client().get("/1.0").map(drop)
}

/// A figure of the daemon's memory: proc_pid_status(5).
fn kibibytes(daemon: &Daemon, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()?))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default();
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}

#[test]
fn ten_thousand_requests_at_once() -> Result<()> {
    const CONNECTIONS: usize = 500;
    const EACH: usize = 20;
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let before = kibibytes(&daemon, "RssAnon:")?;
    let (served, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let socket = daemon.socket();
    std::thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let (socket, served, refused) = (&socket, &served, &refused);
            scope.spawn(move || {
                let path = [
                    "/1.0",
                    "/1.0/instances?recursion=2",
                    "/1.0/networks?recursion=1",
                    "/1.0/instances/c1/state",
                ][number % 4];
                match many(socket, path, EACH) {
                    Ok((good, bad)) => {
                        served.fetch_add(good, Ordering::Relaxed);
                        refused.fetch_add(bad, Ordering::Relaxed);
                    }
                    // A connection that is not accepted is a clean refusal of all its requests.
                    Err(_) => {
                        refused.fetch_add(EACH, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let (served, refused) = (served.into_inner(), refused.into_inner());
    println!("{served} served, {refused} refused");
    ensure!(
        served + refused == CONNECTIONS * EACH && served > CONNECTIONS * EACH / 2,
        "{served} served, {refused} refused"
    );
    daemon.client().get("/1.0/instances/c1/state")?;
    ensure!(daemon.shell("c1", "echo fine")? == "fine");
    memory_comes_back(&daemon, before)
}

#[test]
fn memory_of_thousands_of_connections_is_given_back() -> Result<()> {
    const CONNECTIONS: u64 = 4000;
    // The daemon inherits the limit, and serves as many connections as half of it.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        hard >= 3 * CONNECTIONS,
        "at most {hard} descriptors: the test needs more"
    );
    setrlimit(Resource::RLIMIT_NOFILE, 3 * CONNECTIONS, hard)?;
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let before = kibibytes(&daemon, "RssAnon:")?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = daemon.client().connect()?;
        stream.write_all(b"GET /1.0/instances?recursion=2 HTTP/1.1\r\nHost: x\r\n\r\n")?;
        connections.push(BufReader::new(stream));
    }
    for connection in &mut connections {
        let answer = read_answer(connection, "GET")?;
        ensure!(answer.status == 200 || answer.status == 503, "{}", answer.status);
    }
    drop(connections);
    memory_comes_back(&daemon, before)
}

/// What many requests took is given back some seconds after them.
fn memory_comes_back(daemon: &Daemon, before: u64) -> Result<()> {
    let begun = Instant::now();
    loop {
        let now = kibibytes(daemon, "RssAnon:")?;
        if now < before + 16 * 1024 {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "the daemon keeps {now} KiB, and had {before} before"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sends requests one behind the other without waiting, and counts the answers that are a success and a clean refusal.
fn many(socket: &std::path::Path, path: &str, count: usize) -> Result<(usize, usize)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
            .repeat(count)
            .as_bytes(),
    )?;
    let mut reader = BufReader::new(stream);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..count {
        let answer = read_answer(&mut reader, "GET")?;
        if answer.status == 200 {
            good += 1;
        } else {
            ensure!(
                answer.status == 429 || answer.status == 503,
                "{}: {}",
                answer.status,
                answer.error()
            );
            bad += 1;
        }
    }
    Ok((good, bad))
}

#[test]
fn an_object_that_changed_meanwhile_is_not_overwritten() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let read = client.request("GET", "/1.0/profiles/default", &Value::Null)?;
    let etag = read.header("etag").map(str::to_owned).unwrap_or_default();
    ensure!(!etag.is_empty(), "a profile without ETag");
    client.sync("PATCH", "/1.0/profiles/default", &json!({ "description": "changed" }))?;
    let body = serde_json::to_vec(&json!({ "description": "mine", "config": {}, "devices": {} }))?;
    let answer = client.send("PUT", "/1.0/profiles/default", &[("If-Match", &etag)], &body)?;
    is_error(&answer, 412)?;
    ensure!(client.get("/1.0/profiles/default")?["description"] == "changed");
    Ok(())
}

#[test]
fn a_change_goes_on_when_its_client_hangs_up() -> Result<()> {
    let daemon = bare()?;
    let mut client = daemon.client();
    let before = Leftovers::settled(&daemon)?;
    for (i, patience) in [0, 2, 5, 10, 20, 40].into_iter().enumerate() {
        let network = json!({
            "name": format!("hangup{i}"),
            "config": { "ipv4.address": format!("10.219.{i}.1/24"), "ipv6.address": "none" },
        });
        let body = network.to_string();
        let mut connection = client.connect()?;
        write!(
            connection,
            "POST /1.0/networks HTTP/1.1\r\nHost: hutch\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        // Somewhere between the request's arrival and its answer.
        std::thread::sleep(std::time::Duration::from_millis(patience));
        drop(connection);
        // It was not read, or it is done as a whole: who asks once more waits for it, and finds the one or the other.
        let again = client.request("POST", "/1.0/networks", &network)?;
        let path = format!("/1.0/networks/hangup{i}");
        let found = client.get(&path)?;
        ensure!(
            matches!(again.status, 201 | 409) && found["managed"] == true && found["status"] == "Created",
            "after {patience} ms: {} {}, and there is {found}",
            again.status,
            again.error()
        );
        client.sync("DELETE", &path, &Value::Null)?;
    }
    before.compare_with_now(&daemon)
}
