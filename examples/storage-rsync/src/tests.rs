//! The driver against a host in memory: `cargo unit`. What takes an rsync daemon, `hutch plugin test` tries.

use hutch_sdk::host::CommandOutput;
use hutch_sdk::storage::{Pool, PoolRef, Release, Snapshot, Volume, VolumeRef};
use hutch_sdk::testing::FakeHost;

use crate::Rsync;
use crate::remote::check;

fn pool() -> PoolRef {
    PoolRef {
        name: "p1".into(),
        root: "pool".into(),
        config: vec![("rsync.remote".into(), "rsync://nas/hutch/".into())],
    }
}

fn volume(kind: &str, name: &str) -> VolumeRef {
    VolumeRef {
        kind: kind.into(),
        name: name.into(),
        content: "filesystem".into(),
        config: Vec::new(),
    }
}

fn output(status: i32, stderr: &str) -> CommandOutput {
    CommandOutput {
        status,
        stdout: Vec::new(),
        stderr: stderr.into(),
    }
}

/// A host whose other machine takes everything and has nothing to give, with a pool that holds a container.
fn host() -> FakeHost {
    let host = FakeHost::new(&["pool"]);
    host.on_command(|_, command| {
        let brings = command.args.last().is_some_and(|last| last == "{tree:0}/");
        let gone = output(23, "rsync: [sender] link_stat failed: No such file or directory (2)");
        Ok(if brings { gone } else { output(0, "") })
    });
    <Rsync as Pool>::create(&host, &pool()).unwrap();
    let image = volume("image", "i1");
    Rsync::begin_fill(&host, &pool(), &image, false).unwrap();
    Rsync::end_fill(&host, &pool(), &image, false).unwrap();
    Rsync::create_from_image(&host, &pool(), &image, &volume("container", "c1"), false).unwrap();
    host
}

#[test]
fn an_address_is_that_of_a_module_and_nothing_else() {
    for good in ["rsync://nas/pools", "rsync://me@nas:8730/pools/a/b/", "rsync://[::1]/x"] {
        assert!(check(Some(good)).is_ok(), "{good}");
    }
    for bad in [
        "",
        "--rsh=sh",
        "nas:/srv",
        "/srv",
        "rsync://nas",
        "rsync://nas/",
        "rsync:///pools",
        "rsync://nas/pools/../x",
        "rsync://nas/a b",
        "rsync://nas/a*",
    ] {
        let refused = check(Some(bad)).unwrap_err();
        assert!(
            refused.is("invalid") && refused.message.contains("rsync.remote"),
            "{bad}: {refused}"
        );
    }
    assert!(check(None).is_err());
}

#[test]
fn a_machine_that_is_away_is_unavailable_and_the_call_can_be_repeated() {
    for status in [5, 10, 12, 30, 35] {
        let host = host();
        host.on_command(move |_, _| Ok(output(status, "\nrsync: [sender] it is away\nrsync error: some code\n")));
        let refused = <Rsync as Snapshot>::create(&host, &pool(), &volume("container", "c1"), "s1", false);
        let refused = refused.unwrap_err();
        assert!(refused.is("unavailable") && refused.retryable, "{refused:?}");
        assert_eq!(
            refused.message,
            "can't reach rsync://nas/hutch/p1: rsync: [sender] it is away"
        );
    }
}

#[test]
fn a_full_machine_is_told_from_one_that_is_away() {
    let host = host();
    host.on_command(|_, _| {
        Ok(output(
            11,
            "rsync: write failed on \"x\" (in m): No space left on device (28)",
        ))
    });
    let refused = <Rsync as Release>::volume(&host, &pool(), &volume("container", "c1")).unwrap_err();
    assert!(refused.is("no-space"), "{refused:?}");
}

#[test]
fn nothing_is_sent_twice_to_one_tree() {
    let host = host();
    let c1 = volume("container", "c1");
    host.on_command(|_, command| {
        let sends = command.args.iter().any(|arg| arg.starts_with("--link-dest"));
        Ok(if sends { output(12, "broken") } else { output(0, "") })
    });
    for _ in 0..2 {
        assert!(<Rsync as Release>::volume(&host, &pool(), &c1).is_err());
    }
    host.on_command(|_, _| Ok(output(0, "")));
    <Rsync as Release>::volume(&host, &pool(), &c1).unwrap();
    let commands = host.commands();
    let sent = commands.iter().filter(|command| command.args[0] == "-aHAX");
    let sent: Vec<_> = sent
        .map(|command| {
            let tree = command.args.last().unwrap().rsplit('/').nth(1).unwrap();
            (tree.to_owned(), command.args[4].clone())
        })
        .collect();
    // What the second attempt sent before it broke is linked with by the third.
    let expected = [("tree-1", 0), ("tree-2", 1), ("tree-3", 2)];
    assert_eq!(
        sent,
        expected.map(|(tree, link)| (tree.to_owned(), format!("--link-dest=../tree-{link}")))
    );
    assert!(<Rsync as Volume>::usage(&host, &pool(), &c1).unwrap().is_none());
}
