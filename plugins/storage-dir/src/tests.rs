//! The driver against a host in memory.

use hutch_sdk::storage::{
    Clone as Copies, CopySource, Pool, PoolRef, Quota, Replica, Snapshot, Volume, VolumeRef, VolumeState,
};
use hutch_sdk::testing::{FakeHost, for_every_crash};
use hutch_sdk::{Error, Result, TreePath};

use crate::Dir;

fn pool() -> PoolRef {
    PoolRef {
        name: "p1".into(),
        root: "pool".into(),
        config: Vec::new(),
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

fn state(kind: &str, name: &str, snapshots: &[&str]) -> VolumeState {
    VolumeState {
        kind: kind.into(),
        name: name.into(),
        snapshots: snapshots.iter().map(|&s| s.to_owned()).collect(),
    }
}

/// A host with a pool that holds the image `i1` and the container `c1` made from it.
fn host() -> FakeHost {
    let host = FakeHost::new(&["pool"]);
    Dir::create_pool(&host).unwrap();
    let image = volume("image", "i1");
    let place = <Dir as Volume>::begin_fill(&host, &pool(), &image, false).unwrap();
    host.state()
        .tree
        .put_text("pool", &place.join("etc/hostname").path, "image");
    <Dir as Volume>::end_fill(&host, &pool(), &image, false).unwrap();
    Dir::create_from_image(&host, &pool(), &image, &volume("container", "c1"), false).unwrap();
    host
}

impl Dir {
    fn create_pool(host: &FakeHost) -> Result<()> {
        <Self as Pool>::create(host, &pool())
    }
}

fn text(host: &FakeHost, path: &str) -> Option<String> {
    match host.state().tree.get(&TreePath::root("pool").join(path)) {
        Some(hutch_sdk::testing::Node::File(_, data)) => Some(String::from_utf8(data.clone()).unwrap()),
        _ => None,
    }
}

fn write(host: &FakeHost, content: &str) {
    host.state()
        .tree
        .put_text("pool", "containers/c1/rootfs/etc/hostname", content);
}

fn content(host: &FakeHost, volume: &VolumeRef) -> Option<String> {
    let plan = <Dir as Volume>::mount(host, &pool(), volume).unwrap();
    text(host, &format!("{}/etc/hostname", plan.layers[0].path))
}

fn is(code: &str) -> impl Fn(&Error) -> bool {
    move |error| error.is(code)
}

#[test]
fn a_container_is_a_copy_of_its_image() {
    let host = host();
    let c1 = volume("container", "c1");
    assert_eq!(content(&host, &c1).as_deref(), Some("image"));
    write(&host, "changed");
    assert_eq!(content(&host, &volume("image", "i1")).as_deref(), Some("image"));
    assert_eq!(content(&host, &c1).as_deref(), Some("changed"));
}

#[test]
fn calls_repeated_succeed_and_different_ones_do_not() {
    let host = host();
    let (image, c1) = (volume("image", "i1"), volume("container", "c1"));
    write(&host, "changed");
    Dir::create_from_image(&host, &pool(), &image, &c1, false).unwrap();
    assert_eq!(
        content(&host, &c1).as_deref(),
        Some("changed"),
        "a repeated call changes nothing"
    );
    assert!(<Dir as Volume>::create(&host, &pool(), &c1).is_err_and(|e| e.is("already-exists")));
    assert!(<Dir as Volume>::begin_fill(&host, &pool(), &image, false).is_err_and(|e| e.is("already-exists")));
    <Dir as Volume>::end_fill(&host, &pool(), &image, false).unwrap();
    for _ in 0..2 {
        <Dir as Volume>::delete(&host, &pool(), &c1).unwrap();
    }
    assert!(<Dir as Volume>::mount(&host, &pool(), &c1).is_err_and(|e| e.is("not-found")));
}

#[test]
fn snapshots_follow_a_rename_and_restore() {
    let host = host();
    let (c1, c2) = (volume("container", "c1"), volume("container", "c2"));
    <Dir as Snapshot>::create(&host, &pool(), &c1, "s0", false).unwrap();
    write(&host, "later");
    for _ in 0..2 {
        <Dir as Volume>::rename(&host, &pool(), &c1, "c2").unwrap();
    }
    assert_eq!(content(&host, &c2).as_deref(), Some("later"));
    <Dir as Snapshot>::rename(&host, &pool(), &c2, "s0", "s1").unwrap();
    Dir::restore(&host, &pool(), &c2, "s1").unwrap();
    assert_eq!(content(&host, &c2).as_deref(), Some("image"));
    assert!(Dir::restore(&host, &pool(), &c2, "s0").is_err_and(|e| e.is("not-found")));
    <Dir as Copies>::copy(
        &host,
        &pool(),
        CopySource {
            volume: &c2,
            snapshot: Some("s1"),
            live: false,
        },
        &c1,
        false,
    )
    .unwrap();
    assert_eq!(content(&host, &c1).as_deref(), Some("image"));
    let paths = host.state().tree.paths("pool");
    assert!(
        !paths
            .iter()
            .any(|p| p.contains("rootfs.re") || p.starts_with("staging/containers/")),
        "{paths:?}"
    );
}

#[test]
fn names_kinds_and_contents_are_checked() {
    let host = host();
    let create = |v: &VolumeRef| <Dir as Volume>::create(&host, &pool(), v);
    for name in ["", "..", "a/b", "a\0b"] {
        assert!(
            create(&volume("container", name)).is_err_and(|e| e.is("invalid")),
            "{name:?}"
        );
    }
    assert!(create(&volume("bucket", "b")).is_err_and(|e| e.is("unsupported")));
    assert!(
        create(&VolumeRef {
            content: "block".into(),
            ..volume("custom", "b")
        })
        .is_err_and(|e| e.is("unsupported"))
    );
    assert!(
        <Dir as Snapshot>::create(&host, &pool(), &volume("container", "c1"), "../x", false)
            .is_err_and(|e| e.is("invalid"))
    );
}

#[test]
fn pools_of_others_and_of_later_versions_are_refused() {
    let host = FakeHost::new(&["pool"]);
    assert!(Dir::open(&host, &pool()).is_err_and(|e| e.is("not-found")));
    host.state().tree.put_text("pool", "precious", "data");
    assert!(Dir::create_pool(&host).is_err_and(|e| e.is("invalid") && e.message.contains("precious")));
    host.state()
        .tree
        .put_text("pool", "pool.json", r#"{"version":2,"driver":"dir","new":1}"#);
    assert!(Dir::open(&host, &pool()).is_err_and(|e| e.is("unsupported")));
    host.state()
        .tree
        .put_text("pool", "pool.json", r#"{"version":1,"driver":"other"}"#);
    assert!(Dir::open(&host, &pool()).is_err_and(|e| e.is("invalid")));
    host.state().tree.put_text("pool", "pool.json", r#"{"version":1,"dri"#);
    assert!(Dir::open(&host, &pool()).is_err_and(|e| e.is("io")));
}

#[test]
fn a_pool_goes_when_it_is_empty() {
    let host = host();
    assert!(<Dir as Pool>::delete(&host, &pool()).is_err_and(|e| e.is("in-use")));
    <Dir as Volume>::delete(&host, &pool(), &volume("container", "c1")).unwrap();
    <Dir as Volume>::delete(&host, &pool(), &volume("image", "i1")).unwrap();
    for _ in 0..2 {
        <Dir as Pool>::delete(&host, &pool()).unwrap();
    }
    assert_eq!(host.state().tree.paths("pool"), Vec::<String>::new());
}

#[test]
fn reconcile_keeps_what_is_valid_and_nothing_else() {
    let host = host();
    let c1 = volume("container", "c1");
    <Dir as Snapshot>::create(&host, &pool(), &c1, "s0", false).unwrap();
    <Dir as Snapshot>::create(&host, &pool(), &c1, "s1", false).unwrap();
    <Dir as Volume>::create(&host, &pool(), &volume("custom", "lost")).unwrap();
    <Dir as Volume>::begin_fill(&host, &pool(), &volume("image", "half"), false).unwrap();
    let valid = [state("container", "c1", &["s0"]), state("image", "i1", &[])];
    let removed = Dir::reconcile(&host, &pool(), &valid).unwrap();
    assert_eq!(removed.len(), 3, "{removed:?}");
    assert_eq!(content(&host, &c1).as_deref(), Some("image"));
    assert!(<Dir as Snapshot>::mount(&host, &pool(), &c1, "s0").is_ok());
    assert!(<Dir as Snapshot>::mount(&host, &pool(), &c1, "s1").is_err());
    assert_eq!(Dir::reconcile(&host, &pool(), &valid).unwrap(), Vec::<String>::new());
}

#[test]
fn limits_are_kept_over_a_restore() {
    let host = host();
    let c1 = volume("container", "c1");
    let place = ("pool".to_owned(), "containers/c1/rootfs".to_owned());
    Dir::set(&host, &pool(), &c1, Some(1 << 30)).unwrap();
    assert_eq!(host.state().quotas.remove(&place), Some(1 << 30));
    <Dir as Snapshot>::create(&host, &pool(), &c1, "s0", false).unwrap();
    Dir::restore(&host, &pool(), &c1, "s0").unwrap();
    assert_eq!(host.state().quotas.get(&place), Some(&(1 << 30)));
    Dir::set(&host, &pool(), &c1, None).unwrap();
    assert_eq!(host.state().quotas.get(&place), None);
    host.state().features.clear();
    Dir::set(&host, &pool(), &c1, None).unwrap();
    assert!(Dir::set(&host, &pool(), &c1, Some(1)).is_err_and(|e| is("unsupported")(&e)));
}

/// After a death at any call of `operation`, the same call succeeds, and so does forgetting it: nothing is left over.
fn survives(
    before: &FakeHost,
    operation: impl Fn(&FakeHost) -> Result<()>,
    valid: &[VolumeState],
    done: impl Fn(&FakeHost),
) {
    let calls = for_every_crash(before, &operation, |host, crash| {
        let again = host.snapshot();
        operation(&again).unwrap_or_else(|e| panic!("{crash:?}: {e}"));
        done(&again);
        // Given up instead: reconcile leaves what the core knows of, whole, and nothing else.
        Dir::reconcile(host, &pool(), valid).unwrap();
        assert_eq!(
            Dir::reconcile(host, &pool(), valid).unwrap(),
            Vec::<String>::new(),
            "{crash:?}"
        );
        for v in valid {
            let tree = content(host, &volume(&v.kind, &v.name));
            assert!(
                matches!(tree.as_deref(), Some("image" | "later")),
                "{crash:?}: {} {tree:?}",
                v.name
            );
        }
        let paths = host.state().tree.paths("pool");
        assert!(
            !paths
                .iter()
                .any(|p| p.contains("rootfs.re") || p.starts_with("staging/containers/")),
            "{crash:?} {paths:?}"
        );
    });
    assert!(calls > 1);
}

#[test]
fn every_operation_survives_a_death_at_every_call() {
    let host = host();
    let (image, c1, c2) = (
        volume("image", "i1"),
        volume("container", "c1"),
        volume("container", "c2"),
    );
    <Dir as Snapshot>::create(&host, &pool(), &c1, "s0", false).unwrap();
    write(&host, "later");
    let valid = [state("container", "c1", &["s0"]), state("image", "i1", &[])];
    survives(
        &host,
        |h| Dir::create_from_image(h, &pool(), &image, &c2, false),
        &valid,
        |h| {
            assert_eq!(content(h, &c2).as_deref(), Some("image"));
        },
    );
    let source = CopySource {
        volume: &c1,
        snapshot: None,
        live: true,
    };
    survives(
        &host,
        |h| <Dir as Copies>::copy(h, &pool(), source, &c2, true),
        &valid,
        |h| {
            assert_eq!(content(h, &c2).as_deref(), Some("later"));
        },
    );
    survives(
        &host,
        |h| <Dir as Snapshot>::create(h, &pool(), &c1, "s1", true),
        &valid,
        |h| {
            assert!(<Dir as Snapshot>::mount(h, &pool(), &c1, "s1").is_ok());
        },
    );
    survives(
        &host,
        |h| Dir::restore(h, &pool(), &c1, "s0"),
        &valid,
        |h| {
            assert_eq!(content(h, &c1).as_deref(), Some("image"));
        },
    );
    survives(
        &host,
        |h| <Dir as Volume>::delete(h, &pool(), &c1),
        &valid[1..],
        |h| {
            assert!(<Dir as Volume>::mount(h, &pool(), &c1).is_err());
        },
    );
}

#[test]
fn the_manifest_is_of_this_version() {
    let manifest = include_str!("../plugin.toml");
    assert!(manifest.contains(&format!("version = {:?}", env!("CARGO_PKG_VERSION"))));
}

fn replicate(host: &FakeHost, snapshot: Option<&str>, name: &str) -> Result<()> {
    let (c1, c2) = (volume("container", "c1"), volume("container", "c2"));
    let source = CopySource {
        volume: &c1,
        snapshot,
        live: false,
    };
    <Dir as Replica>::copy(host, &pool(), source, &c2, name)
}

fn fill_snapshot(host: &FakeHost, name: &str) -> Result<()> {
    let c2 = volume("container", "c2");
    let place = <Dir as Replica>::begin_fill(host, &pool(), &c2, name)?;
    let file = place.join("etc/hostname").path;
    host.state().tree.put_text("pool", &file, "later");
    <Dir as Replica>::end_fill(host, &pool(), &c2, name)
}

/// A host with `c1`, which says `later`, its snapshot `s0`, which says `image`, and a copy `c2` of the image.
fn host_with_copy() -> FakeHost {
    let host = host();
    let (c1, c2) = (volume("container", "c1"), volume("container", "c2"));
    <Dir as Snapshot>::create(&host, &pool(), &c1, "s0", false).unwrap();
    Dir::create_from_image(&host, &pool(), &volume("image", "i1"), &c2, false).unwrap();
    write(&host, "later");
    host
}

fn restored(host: &FakeHost, name: &str) -> Option<String> {
    let (copy, c2) = (host.snapshot(), volume("container", "c2"));
    Dir::restore(&copy, &pool(), &c2, name).unwrap();
    content(&copy, &c2)
}

#[test]
fn snapshots_come_from_elsewhere_and_become_their_volume() {
    let host = host_with_copy();
    let (c1, c2) = (volume("container", "c1"), volume("container", "c2"));
    for _ in 0..2 {
        replicate(&host, Some("s0"), "s0").unwrap();
        replicate(&host, None, "now").unwrap();
    }
    fill_snapshot(&host, "outside").unwrap();
    assert!(fill_snapshot(&host, "outside").is_err_and(|e| e.is("already-exists")));
    assert!(<Dir as Replica>::end_fill(&host, &pool(), &c2, "s9").is_err_and(|e| e.is("not-found")));
    <Dir as Volume>::delete(&host, &pool(), &c1).unwrap();
    assert_eq!(restored(&host, "s0").as_deref(), Some("image"));
    assert_eq!(restored(&host, "outside").as_deref(), Some("later"));
    Dir::set(&host, &pool(), &c2, Some(1 << 20)).unwrap();
    for _ in 0..2 {
        <Dir as Replica>::promote(&host, &pool(), &c2, "now").unwrap();
    }
    assert_eq!(content(&host, &c2).as_deref(), Some("later"));
    assert!(Dir::restore(&host, &pool(), &c2, "now").is_err_and(|e| e.is("not-found")));
}

#[test]
fn replicas_survive_a_death_at_every_call() {
    let host = host_with_copy();
    let valid = [
        state("container", "c1", &["s0"]),
        state("container", "c2", &[]),
        state("image", "i1", &[]),
    ];
    survives(
        &host,
        |h| replicate(h, None, "now"),
        &valid,
        |h| {
            assert_eq!(restored(h, "now").as_deref(), Some("later"));
        },
    );
    survives(
        &host,
        |h| match fill_snapshot(h, "now") {
            Err(error) if error.is("already-exists") => Ok(()),
            other => other,
        },
        &valid,
        |h| assert_eq!(restored(h, "now").as_deref(), Some("later")),
    );
    replicate(&host, None, "now").unwrap();
    // The daemon cleans up before it goes on, with the snapshot still among what is valid.
    let valid = [
        state("container", "c1", &["s0"]),
        state("container", "c2", &["now"]),
        state("image", "i1", &[]),
    ];
    let c2 = volume("container", "c2");
    for_every_crash(
        &host,
        |h| <Dir as Replica>::promote(h, &pool(), &c2, "now"),
        |h, crash| {
            Dir::reconcile(h, &pool(), &valid).unwrap();
            <Dir as Replica>::promote(h, &pool(), &c2, "now").unwrap();
            assert_eq!(content(h, &c2).as_deref(), Some("later"), "{crash:?}");
            let paths = h.state().tree.paths("pool");
            assert!(!paths.iter().any(|p| p.contains("rootfs.re")), "{crash:?} {paths:?}");
        },
    );
}
