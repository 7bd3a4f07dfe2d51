//! Files that an image has made from templates.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::{Daemon, creation};
use hutch_tests::image::Tarball;
use hutch_tests::stock::Stock;
use serde_json::{Value, json};

/// As the builders of distributions write them: distrobuilder's, and Ubuntu's for cloud-init.
const TEMPLATES: [(&str, &str); 5] = [
    ("hostname.tpl", "{{ container.name }}\n"),
    (
        "hosts.tpl",
        "127.0.0.1\tlocalhost\n127.0.1.1\t{{ instance.name }}\n{% for key, value in properties %}# {{ key }}={{ value }}\n{% endfor %}",
    ),
    (
        "cloud-init-meta.tpl",
        "#cloud-config\ninstance-id: {{ container.name }}\n{{ config_get(\"user.meta-data\", \"\") }}\n",
    ),
    (
        "cloud-init-user.tpl",
        "{% if config_get(\"user.user-data\", \"\") == \"\" %}{{ properties.default }}{% else %}{{ config_get(\"user.user-data\", \"\") }}{% endif %}\n",
    ),
    (
        "starts.tpl",
        "{{ trigger }} {{ path }} {{ config_get(\"user.colour\", \"none\") }}\n",
    ),
];

const METADATA: &str = "creation_date: 1700000000
templates:
  /etc/hostname: {when: [create, copy, rename], template: hostname.tpl, create_only: false, properties: {}}
  /etc/hosts: {when: [create, copy], template: hosts.tpl, properties: {origin: image}}
  /var/lib/cloud/seed/nocloud-net/meta-data: {when: [create, copy], template: cloud-init-meta.tpl}
  /var/lib/cloud/seed/nocloud-net/user-data:
    {when: [create, copy], template: cloud-init-user.tpl, properties: {default: \"#cloud-config\"}}
  /etc/motd: {when: [create], create_only: true, template: hostname.tpl}
  /etc/starts: {when: [start], template: starts.tpl}
";

/// A busybox image with these templates, `metadata.yaml` but for the architecture, and more in its root.
fn image(
    daemon: &Daemon,
    name: &str,
    metadata: &str,
    templates: &[(&str, &str)],
    more: impl FnOnce(&mut Tarball) -> Result<()>,
) -> Result<String> {
    let mut tarball = Tarball::create(&daemon.sandbox().path().join(format!("{name}.tar.gz")))?;
    let metadata = format!("architecture: {}\n{metadata}", std::env::consts::ARCH);
    tarball.file("metadata.yaml", 0o644, metadata.as_bytes())?;
    tarball.directory("templates", 0o755)?;
    for (file, text) in templates {
        tarball.file(&format!("templates/{file}"), 0o644, text.as_bytes())?;
    }
    tarball.busybox_root()?;
    more(&mut tarball)?;
    daemon.client().import_image(&tarball.finish()?, Some(name))
}

fn from_image(name: &str, alias: &str, config: &Value) -> Value {
    let mut body = creation(name, &json!({ "config": config }), true);
    body["source"] = json!({ "type": "image", "alias": alias });
    body
}

#[test]
fn templates_are_applied_when_they_say() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let fingerprint = image(&daemon, "templated", METADATA, &TEMPLATES, |tarball| {
        tarball.file(
            "rootfs/etc/hostname",
            0o640,
            b"a name that is longer than the one to come\n",
        )?;
        tarball.file("rootfs/etc/motd", 0o644, b"the image's own\n")
    })?;
    client.run(
        "POST",
        "/1.0/instances",
        &from_image("c1", "templated", &json!({ "user.meta-data": "colour: blue" })),
    )?;
    // What was there keeps its mode; what was not is root's and everybody may read it. None of it is anybody else's on the host.
    let shown = daemon.shell(
        "c1",
        "cat /etc/hostname /etc/hosts; stat -c '%u %g %a' /etc/hostname /etc/hosts",
    )?;
    ensure!(
        shown == "c1\n127.0.0.1\tlocalhost\n127.0.1.1\tc1\n# origin=image\n0 0 640\n0 0 644",
        "{shown}"
    );
    let seed = daemon.shell(
        "c1",
        "cd /var/lib/cloud/seed/nocloud-net; cat meta-data user-data; stat -c '%u %a' .",
    )?;
    ensure!(
        seed == "#cloud-config\ninstance-id: c1\ncolour: blue\n#cloud-config\n0 755",
        "{seed}"
    );
    ensure!(daemon.shell("c1", "cat /etc/motd /etc/starts")? == "the image's own\nstart /etc/starts none");

    // From here on only what is for every start, whatever becomes of the image.
    client.run("DELETE", &format!("/1.0/images/{fingerprint}"), &Value::Null)?;
    daemon.shell("c1", "echo mine > /etc/hostname; echo mine > /etc/starts")?;
    client.sync(
        "PATCH",
        "/1.0/instances/c1",
        &json!({ "config": { "user.colour": "red" } }),
    )?;
    daemon.change("c1", "restart", true)?;
    ensure!(daemon.shell("c1", "cat /etc/hostname /etc/starts")? == "mine\nstart /etc/starts red");

    daemon.change("c1", "stop", true)?;
    client.run("POST", "/1.0/instances/c1", &json!({ "name": "renamed" }))?;
    let copy = json!({ "name": "copied", "source": { "type": "copy", "source": "renamed" } });
    client.run("POST", "/1.0/instances", &copy)?;
    for name in ["renamed", "copied"] {
        daemon.change(name, "start", false)?;
        ensure!(daemon.shell(name, "cat /etc/hostname")? == name);
    }
    ensure!(
        daemon.shell("renamed", "grep -c c1 /etc/hosts")? == "1",
        "hosts is not for a rename"
    );
    ensure!(daemon.shell("copied", "grep -c copied /etc/hosts")? == "1");
    let shown = client.get("/1.0/instances/copied")?;
    ensure!(shown["config"]["volatile.apply_template"].is_null(), "{shown}");
    Ok(())
}

#[test]
fn an_instances_metadata_and_templates_are_changed() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    let more = "creation_date: 1700000000
properties: {os: Test, release: '1'}
templates: {/etc/greeting: {when: [start], template: greeting.tpl}}
";
    image(
        &daemon,
        "described",
        more,
        &[("greeting.tpl", "hello {{ instance.name }}")],
        |_| Ok(()),
    )?;
    client.run("POST", "/1.0/instances", &from_image("c1", "described", &json!({})))?;
    let metadata = "/1.0/instances/c1/metadata";
    let shown = client.get(metadata)?;
    ensure!(
        shown["properties"] == json!({ "os": "Test", "release": "1" })
            && shown["templates"]["/etc/greeting"]["template"] == "greeting.tpl",
        "{shown}"
    );
    let templates = "/1.0/instances/c1/metadata/templates";
    ensure!(client.get(templates)? == json!(["greeting.tpl"]));

    // Another text, a second template, and where it goes: the next start has them.
    let template = |name: &str| format!("{templates}?path={name}");
    for (name, text) in [
        ("greeting.tpl", "hi {{ instance.name }}"),
        ("other.tpl", "{{ properties.colour }}"),
    ] {
        let answer = client.send("POST", &template(name), &[], text.as_bytes())?;
        ensure!(answer.status == 200, "{}", answer.error());
        ensure!(client.send("GET", &template(name), &[], b"")?.body == text.as_bytes());
    }
    let other = json!({ "when": ["start"], "template": "other.tpl", "properties": { "colour": "blue" } });
    client.sync(
        "PATCH",
        metadata,
        &json!({ "properties": { "os": "Other" }, "templates": { "/etc/other": other } }),
    )?;
    let shown = client.get(metadata)?;
    ensure!(
        shown["properties"] == json!({ "os": "Other", "release": "1" }),
        "{shown}"
    );
    daemon.change("c1", "restart", true)?;
    ensure!(daemon.shell("c1", "cat /etc/greeting; echo; cat /etc/other")? == "hi c1\nblue");

    // What no image may say is refused, and a change of what has changed meanwhile.
    let mut wrong = shown.clone();
    wrong["templates"] = json!({ "/etc/../x": { "template": "other.tpl" } });
    for (body, expected) in [(&wrong, "absolute path"), (&json!({}), "architecture")] {
        let (status, message) = client.refused("PUT", metadata, body)?;
        ensure!(status == 400 && message.contains(expected), "{status} {message}");
    }
    let stale = client.send("PUT", metadata, &[("If-Match", "0123")], shown.to_string().as_bytes())?;
    ensure!(stale.status == 412, "{}", stale.error());
    for (name, text, status) in [("../x", &b"x"[..], 400), ("x", b"\xff", 400), ("", b"x", 400)] {
        let answer = client.send("POST", &template(name), &[], text)?;
        ensure!(
            answer.status == status,
            "{name:?}: {} {}",
            answer.status,
            answer.error()
        );
    }

    // One that is gone and still named is told by the start, and not written as nothing.
    client.sync("DELETE", &template("other.tpl"), &Value::Null)?;
    ensure!(client.refused("GET", &template("other.tpl"), &Value::Null)?.0 == 404);
    ensure!(client.refused("DELETE", &template("other.tpl"), &Value::Null)?.0 == 404);
    daemon.change("c1", "stop", true)?;
    let start = json!({ "action": "start", "timeout": 30 });
    let (_, message) = client.refused("PUT", "/1.0/instances/c1/state", &start)?;
    ensure!(
        message.contains("/etc/other") && message.contains("\"other.tpl\""),
        "{message}"
    );
    let mut without = client.get(metadata)?;
    without["templates"] = json!({});
    client.sync("PUT", metadata, &without)?;
    daemon.change("c1", "start", false)?;

    // An image that is made of it says what it says.
    daemon.change("c1", "stop", true)?;
    let publish = json!({ "source": { "type": "instance", "name": "c1" }, "aliases": [{ "name": "published" }] });
    client.run("POST", "/1.0/images", &publish)?;
    let target = client.get("/1.0/images/aliases/published")?["target"].take();
    let image = client.get(&format!("/1.0/images/{}", target.as_str().unwrap_or_default()))?;
    ensure!(image["properties"]["os"] == "Other", "{image}");

    if let Some(incus) = Stock::incus(&daemon) {
        incus.feed(&["config", "template", "create", "c1", "third.tpl"], b"third")?;
        ensure!(incus.run(&["config", "template", "show", "c1", "third.tpl"])? == "third");
        ensure!(
            incus
                .run(&["config", "template", "list", "c1", "--format=csv"])?
                .contains("third.tpl")
        );
        incus.run(&["config", "template", "delete", "c1", "third.tpl"])?;
        let yaml = incus.run(&["config", "metadata", "show", "c1"])?;
        incus.feed(
            &["config", "metadata", "edit", "c1"],
            yaml.replace("os: Other", "os: Edited").as_bytes(),
        )?;
        ensure!(client.get(metadata)?["properties"]["os"] == "Edited");
    }
    Ok(())
}

#[test]
fn hostile_templates_do_no_harm() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    // Where a directory is inside as well, so that a template has something to be written to.
    let outside = tempfile::NamedTempFile::new_in("/tmp")?;
    std::fs::write(outside.path(), "the host's")?;
    let target = outside.path().to_string_lossy().into_owned();
    let metadata = "creation_date: 1700000000\ntemplates:\n  /etc/link: {when: [create], template: t.tpl}\n";
    image(&daemon, "links", metadata, &[("t.tpl", "harm")], |tarball| {
        tarball.symlink("rootfs/etc/link", &target)
    })?;
    client.run("POST", "/1.0/instances", &from_image("c1", "links", &json!({})))?;
    ensure!(
        std::fs::read_to_string(outside.path())? == "the host's",
        "a template was written outside"
    );
    ensure!(
        daemon.shell("c1", &format!("cat {target}"))? == "harm",
        "links are followed inside"
    );

    let metadata = "creation_date: 1700000000\ntemplates:\n  /etc/pipe: {when: [create], template: t.tpl}\n";
    let pipe = |tarball: &mut Tarball| tarball.raw("rootfs/etc/pipe", tar::EntryType::Fifo, 0o644, "", b"");
    image(&daemon, "pipe", metadata, &[("t.tpl", "x")], pipe)?;
    let huge = "{% set a = \"0123456789abcdef\" * 4096 %}{% set b = a * 4096 %}{% set c = b * 4096 %}{{ c }}";
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    for (alias, text, expected) in [
        ("pipe", "", "/etc/pipe (template t.tpl of image "),
        ("huge", huge, "rendering the templates of image "),
        ("endless", endless, "templates/t.tpl is invalid: line 1: "),
        (
            "unknown",
            "{{ one }}\n{{ two() }}",
            "templates/t.tpl is invalid: line 2: ",
        ),
        (
            "other-files",
            "{% include \"/etc/passwd\" %}",
            "templates/t.tpl is invalid: line 1: ",
        ),
    ] {
        if !text.is_empty() {
            image(&daemon, alias, metadata, &[("t.tpl", text)], |_| Ok(()))?;
        }
        let begun = std::time::Instant::now();
        let operation = client.begin("POST", "/1.0/instances", &from_image(alias, alias, &json!({})))?;
        let ended = client.end_of(&operation)?;
        let message = ended["err"].as_str().with_context(|| format!("{alias}: {ended}"))?;
        ensure!(message.contains(expected), "{alias}: {message}");
        ensure!(begun.elapsed().as_secs() < 30, "{alias} took {:?}", begun.elapsed());
        ensure!(daemon.status(alias)? == "Stopped", "{alias}");
    }
    Ok(())
}
