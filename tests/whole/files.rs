//! Files in instances, by the REST headers of both families of clients.

use anyhow::{Result, ensure};
use hutch_tests::daemon::Daemon;
use hutch_tests::rest::Answer;
use serde_json::json;

fn path(file: &str) -> String {
    format!("/1.0/instances/c1/files?path={file}")
}

#[test]
fn a_file_keeps_its_content_owner_and_mode() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let mut client = daemon.client();
    for family in ["X-LXD", "X-Incus"] {
        let (uid, gid, mode, kind) = (
            format!("{family}-uid"),
            format!("{family}-gid"),
            format!("{family}-mode"),
            format!("{family}-type"),
        );
        let headers: &[(&str, &str)] = &[(&uid, "1000"), (&gid, "1001"), (&mode, "0640"), (&kind, "file")];
        let content: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
        let pushed = client.send("POST", &path("/root/file"), headers, &content)?;
        ensure!(pushed.status == 200, "{}", pushed.error());
        ensure!(daemon.shell("c1", "stat -c '%u %g %a %s' /root/file")? == "1000 1001 640 200000");
        let pulled = client.send("GET", &path("/root/file"), &[], b"")?;
        ensure!(pulled.body == content, "{} bytes came back", pulled.body.len());
        let header = |name: &str| {
            pulled
                .header(&format!("{}-{name}", family.to_lowercase()))
                .map(str::to_owned)
        };
        ensure!(
            header("uid").as_deref() == Some("1000") && header("type").as_deref() == Some("file"),
            "{:?}",
            pulled.headers
        );
        ensure!(
            header("mode").is_some_and(|mode| mode.trim_start_matches('0') == "640"),
            "{:?}",
            pulled.headers
        );
    }
    Ok(())
}

#[test]
fn directories_links_and_appending() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let mut client = daemon.client();
    let ok = |answer: Answer| -> Result<Answer> {
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.error());
        Ok(answer)
    };
    ok(client.send(
        "POST",
        &path("/root/dir"),
        &[("X-LXD-type", "directory"), ("X-LXD-mode", "0750")],
        b"",
    )?)?;
    ok(client.send("POST", &path("/root/dir/file"), &[("X-LXD-type", "file")], b"one ")?)?;
    let append = &[("X-LXD-type", "file"), ("X-LXD-write", "append")];
    ok(client.send("POST", &path("/root/dir/file"), append, b"two")?)?;
    ok(client.send("POST", &path("/root/link"), &[("X-LXD-type", "symlink")], b"dir/file")?)?;
    ensure!(daemon.shell("c1", "cat /root/link; stat -c %a /root/dir")? == "one two750");
    let listing = ok(client.send("GET", &path("/root/dir"), &[], b"")?)?;
    ensure!(
        listing.header("x-lxd-type") == Some("directory"),
        "{:?}",
        listing.headers
    );
    ensure!(listing.json()?["metadata"] == json!(["file"]), "{}", listing.json()?);
    ok(client.send("DELETE", &path("/root/dir/file"), &[], b"")?)?;
    let gone = client.send("GET", &path("/root/dir/file"), &[], b"")?;
    ensure!(gone.status == 404, "{}: {}", gone.status, gone.error());
    Ok(())
}

/// As tools do that copy trees: each file over a connection of its own, several at a time.
#[test]
fn several_clients_work_in_a_stopped_instance_at_once() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.change("c1", "stop", true)?;
    let content: Vec<u8> = (0..3_000_000_u32).map(|index| (index % 241) as u8).collect();
    std::thread::scope(|scope| -> Result<()> {
        let each = |number: u32| {
            let (daemon, content) = (&daemon, &content);
            scope.spawn(move || -> Result<()> {
                let file = path(&format!("/root/file{number}"));
                let pushed = daemon.client().send("POST", &file, &[], content)?;
                ensure!(pushed.status == 200, "{file}: {}", pushed.error());
                let pulled = daemon.client().send("GET", &file, &[], b"")?;
                ensure!(pulled.body == *content, "{file}: {} bytes came back", pulled.body.len());
                Ok(())
            })
        };
        let all: Vec<_> = (0..8).map(each).collect();
        for one in all {
            one.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })?;
    // What works on its files does not keep it from starting.
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "cat /root/file[0-7] | wc -c")?.trim() == "24000000");
    Ok(())
}

#[test]
fn what_fails_names_the_file() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.shell("c1", "mkdir -p /root/full/inside && echo x > /root/plain")?;
    let mut client = daemon.client();
    for (method, file, status, expected) in [
        ("GET", "/root/nowhere", 404, "\"/root/nowhere\": File not found"),
        ("DELETE", "/root/full", 400, "removing /root/full in instance c1: "),
        (
            "POST",
            "/root/plain/below",
            404,
            "\"/root/plain/below\": File not found",
        ),
        ("POST", "/proc/version", 403, "/proc/version"),
    ] {
        let answer = client.send(method, &path(file), &[("X-Incus-type", "file")], b"x")?;
        let error = answer.error();
        ensure!(
            answer.status == status && error.contains(expected),
            "{method} {file}: {} {error}",
            answer.status
        );
        ensure!(error.matches(file).count() == 1, "it is said twice: {error}");
    }
    Ok(())
}

#[test]
fn a_stopped_instance_has_files_too() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    daemon.change("c1", "stop", true)?;
    let mut client = daemon.client();
    let headers = &[
        ("X-LXD-type", "file"),
        ("X-LXD-uid", "5"),
        ("X-LXD-gid", "6"),
        ("X-LXD-mode", "0600"),
    ];
    let pushed = client.send("POST", &path("/root/offline"), headers, b"written while stopped")?;
    ensure!(pushed.status == 200, "{}", pushed.error());
    daemon.change("c1", "start", false)?;
    ensure!(daemon.shell("c1", "stat -c '%u %g' /root/offline; cat /root/offline")? == "5 6\nwritten while stopped");
    Ok(())
}

#[test]
fn no_path_leads_out_of_the_instance() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.instance("c1", &json!({}))?;
    let secret = daemon.sandbox().path().join("secret");
    std::fs::write(&secret, "of the host")?;
    let secret = secret.to_string_lossy().into_owned();
    daemon.shell(
        "c1",
        &format!("ln -s /proc/1/root{secret} /root/a; ln -s ../../../../../..{secret} /root/b"),
    )?;
    let mut client = daemon.client();
    let tries = [
        secret.clone(),
        format!("/../../../../../..{secret}"),
        "/root/a".to_owned(),
        "/root/b".to_owned(),
        "/root/../../..".to_owned() + &secret,
    ];
    for file in tries {
        for running in [true, false] {
            if !running {
                daemon.change("c1", "stop", true)?;
            }
            let answer = client.send("GET", &path(&file), &[], b"")?;
            let content = String::from_utf8_lossy(&answer.body).into_owned();
            ensure!(!content.contains("of the host"), "{file} leads out");
            if !running {
                daemon.change("c1", "start", false)?;
            }
        }
    }
    Ok(())
}
