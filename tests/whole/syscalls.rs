//! System calls that are carried out for an instance, and lists of those that are refused.

use anyhow::{Result, ensure};
use hutch_tests::daemon::{Daemon, creation};
use serde_json::{Value, json};

/// How a shell ends and what it says, whatever that is.
fn attempt(daemon: &Daemon, instance: &str, script: &str) -> Result<String> {
    daemon.shell(instance, &format!("{{ {script}; }} 2>&1; echo \"status $?\""))
}

#[test]
fn calls_are_carried_out_for_an_instance_that_asks_for_it() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let mut client = daemon.client();
    let offered = client.get("/1.0")?;
    for extension in ["container_syscall_filtering", "container_syscall_intercept"] {
        let extensions = offered["api_extensions"].as_array();
        ensure!(
            extensions.is_some_and(|list| list.iter().any(|one| one == extension)),
            "{extension}"
        );
    }
    ensure!(offered["environment"]["kernel_features"]["seccomp_listener"] == "true");

    daemon.instance("c1", &json!({ "config": { "limits.memory": "128MiB" } }))?;
    let refused = attempt(&daemon, "c1", "mknod /root/null c 1 3")?;
    ensure!(
        refused.contains("not permitted") && refused.contains("status 1"),
        "{refused}"
    );

    // Kept, and without effect until the next start.
    let keys = json!({ "config": {
        "security.syscalls.intercept.mknod": "true",
        "security.syscalls.intercept.sysinfo": "true",
    }});
    client.sync("PATCH", "/1.0/instances/c1", &keys)?;
    ensure!(attempt(&daemon, "c1", "mknod /root/null c 1 3")?.contains("not permitted"));
    daemon.change("c1", "restart", true)?;
    let works = "mknod -m 644 /root/null c 1 3 && echo gone > /root/null && test -c /root/null && stat -c '%t:%T %a' /root/null";
    ensure!(attempt(&daemon, "c1", works)? == "1:3 644\nstatus 0");
    for forbidden in ["/root/sda b 8 0", "/root/mem c 1 1", "/root/kmsg c 1 11"] {
        let said = attempt(&daemon, "c1", &format!("mknod {forbidden}"))?;
        ensure!(said.contains("not permitted"), "{forbidden}: {said}");
    }
    let free = daemon.shell("c1", "free")?;
    // What follows the total is worked out with the cache of the whole machine, and may touch it.
    let total = |free: &str| {
        free.lines()
            .find_map(|line| Some(line.strip_prefix("Mem:")?.trim_start().to_owned()))
    };
    ensure!(total(&free).is_some_and(|total| total.starts_with("131072")), "{free}");

    // The keeper answers, and not the daemon, whichever comes after it.
    daemon.crash_and_restart()?;
    ensure!(attempt(&daemon, "c1", "mknod /root/zero c 1 5 && head -c 2 /root/zero | wc -c")? == "2\nstatus 0");
    // A limit that changes is told at once.
    let limit = json!({ "config": { "limits.memory": "256MiB" } });
    daemon.client().sync("PATCH", "/1.0/instances/c1", &limit)?;
    let free = daemon.shell("c1", "free")?;
    ensure!(total(&free).is_some_and(|total| total.starts_with("262144")), "{free}");

    // A node is gone with its mount: what stays is its place.
    daemon.change("c1", "restart", true)?;
    ensure!(
        attempt(
            &daemon,
            "c1",
            "test -f /root/null && rm /root/null && mknod /root/null c 1 3 && echo > /root/null"
        )? == "status 0"
    );
    Ok(())
}

#[test]
fn an_opaque_directory_is_marked_on_a_plain_tree() -> Result<()> {
    let daemon = Daemon::start()?;
    let config = json!({ "config": { "security.nesting": "true", "security.syscalls.intercept.setxattr": "true" } });
    daemon.instance("c1", &config)?;
    // The image has no program that sets attributes, but the machine has: perl, with its libraries.
    daemon.shell("c1", "mkdir -p /root/d /lib /lib64")?;
    let devices = json!({ "devices": { "host": {
        "type": "disk", "source": "/usr", "path": "/host", "readonly": "true", "recursive": "true",
    }}});
    daemon.client().sync("PATCH", "/1.0/instances/c1", &devices)?;
    let setxattr = |path: &str, name: &str| {
        let libraries = "/host/lib/x86_64-linux-gnu:/host/lib/aarch64-linux-gnu";
        let loader = "$(ls /host/lib/*-linux-gnu/ld-linux*.so.? | head -1)";
        let number = if cfg!(target_arch = "x86_64") { 188 } else { 5 };
        let call = format!(
            "my ($p, $n, $v) = (\"{path}\", \"{name}\", \"y\"); exit(syscall({number}, $p, $n, $v, 1, 0) == 0 ? 0 : 0 + $!)"
        );
        attempt(
            &daemon,
            "c1",
            &format!("LC_ALL=C {loader} --library-path {libraries} /host/bin/perl -e '{call}'"),
        )
    };
    let marked = setxattr("/root/d", "trusted.overlay.opaque")?;
    ensure!(marked == "status 0", "{marked}");
    // EPERM.
    ensure!(setxattr("/root/d", "trusted.overlay.origins")? == "status 1");
    ensure!(setxattr("/root/d", "trusted.opaque")? == "status 1");
    ensure!(setxattr("/host/bin", "trusted.overlay.opaque")? != "status 0");
    Ok(())
}

#[test]
fn calls_are_refused_by_name() -> Result<()> {
    let daemon = Daemon::start()?;
    let mut client = daemon.client();
    for (key, value, reason) in [
        (
            "security.syscalls.deny",
            "keyctl errno 38\nmknodd",
            "line 2: there is no system call \\\"mknodd\\\"",
        ),
        ("security.syscalls.allow", "read\nrights", "there is no system call"),
        (
            "security.syscalls.intercept.mknod",
            "perhaps",
            "it must be true or false",
        ),
        (
            "security.syscalls.intercept.mount",
            "true",
            "can't be used: no instance here has a block device",
        ),
        ("security.syscalls.intercept.bpf", "true", "can't be used"),
        (
            "security.syscalls.intercept.openat",
            "true",
            "Unknown configuration key",
        ),
    ] {
        let body = creation("c1", &json!({ "config": { key: value } }), false);
        let (status, message) = client.refused("POST", "/1.0/instances", &body)?;
        let reason = reason.replace("\\\"", "\"");
        ensure!(
            status == 400 && message.contains(&reason) && message.contains(key),
            "{status} {message}"
        );
        let (status, _) = client.refused("PATCH", "/1.0/profiles/default", &json!({ "config": { key: value } }))?;
        ensure!(status == 400, "{key} of a profile");
    }
    let both = json!({ "config": { "security.syscalls.allow": "read", "security.syscalls.deny": "write" } });
    let (status, message) = client.refused("POST", "/1.0/instances", &creation("c1", &both, false))?;
    ensure!(
        status == 400 && message.contains("can't be used together"),
        "{status} {message}"
    );

    let config = json!({ "config": { "security.syscalls.deny": "mkdir errno 28\nsymlink kill\n# chmod\n" } });
    daemon.instance("c1", &config)?;
    let said = attempt(&daemon, "c1", "mkdir /root/x")?;
    ensure!(said.contains("No space left on device"), "{said}");
    // Ended by SIGSYS, which is 31.
    ensure!(attempt(&daemon, "c1", "ln -s a /root/b")?.contains("status 159"));
    ensure!(attempt(&daemon, "c1", "touch /root/c; chmod 600 /root/c")? == "status 0");
    // The former names of the same keys.
    let former = json!({ "config": { "security.syscalls.deny": "", "security.syscalls.blacklist": "mkdir errno 30" } });
    client.sync("PATCH", "/1.0/instances/c1", &former)?;
    daemon.change("c1", "restart", true)?;
    ensure!(attempt(&daemon, "c1", "mkdir /root/x")?.contains("Read-only"));
    ensure!(client.get("/1.0/instances/c1")?["config"]["security.syscalls.deny"] == Value::Null);
    Ok(())
}
