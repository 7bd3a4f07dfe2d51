//! The driver against a host in memory.

use std::collections::{BTreeMap, BTreeSet};

use hutch_sdk::storage::{
    Clone as Copies, CopySource, Pool, PoolRef, Quota, Replica, Snapshot, Volume, VolumeRef, VolumeState,
};
use hutch_sdk::testing::{FakeHost, Node, Tree, for_every_crash};
use hutch_sdk::{MountPlan, Result, TreePath};

use crate::Overlay;
use crate::record::MAX_LAYERS;

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

fn c(name: &str) -> VolumeRef {
    volume("container", name)
}

fn state(kind: &str, name: &str, snapshots: &[&str]) -> VolumeState {
    VolumeState {
        kind: kind.into(),
        name: name.into(),
        snapshots: snapshots.iter().map(|&s| s.to_owned()).collect(),
    }
}

/// A host with a pool that holds the image `i1` (with the files `a` and `b`) and the container `c1` made from it.
fn host() -> FakeHost {
    let host = FakeHost::new(&["pool"]);
    <Overlay as Pool>::create(&host, &pool()).unwrap();
    let image = volume("image", "i1");
    let place = <Overlay as Volume>::begin_fill(&host, &pool(), &image, false).unwrap();
    for file in ["a", "b"] {
        host.state().tree.put_text("pool", &place.join(file).path, "image");
    }
    <Overlay as Volume>::end_fill(&host, &pool(), &image, false).unwrap();
    Overlay::create_from_image(&host, &pool(), &image, &c("c1"), false).unwrap();
    host
}

fn plan(host: &FakeHost, volume: &VolumeRef) -> MountPlan {
    <Overlay as Volume>::mount(host, &pool(), volume).unwrap()
}

/// What a mounted plan shows: names and contents of its files.
fn shown(host: &FakeHost, plan: &MountPlan) -> BTreeMap<String, String> {
    let tree: Tree = host.state().tree.clone();
    let layers: Vec<TreePath> = plan.upper.iter().chain(&plan.layers).cloned().collect();
    let mut files = BTreeMap::new();
    for layer in layers.iter().rev() {
        assert!(tree.get(layer).is_some(), "{} is gone", layer.path);
        for (path, node) in tree.below(layer) {
            match node {
                Node::File(_, data) => files.insert(path, String::from_utf8(data).unwrap()),
                Node::Whiteout => files.remove(&path),
                Node::Directory(_) => None,
            };
        }
    }
    files
}

fn files(host: &FakeHost, volume: &VolumeRef) -> BTreeMap<String, String> {
    let copy = host.snapshot();
    shown(&copy, &plan(&copy, volume))
}

fn of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Writes as an instance does that has the volume mounted.
fn write(host: &FakeHost, volume: &VolumeRef, file: &str, text: Option<&str>) {
    let plan = plan(host, volume);
    let at = plan.upper.as_ref().unwrap_or(&plan.layers[0]).join(file);
    let node = text.map_or(Node::Whiteout, |text| Node::File(0o644, text.into()));
    host.state().tree.put(&at, node);
}

fn snap(host: &FakeHost, volume: &VolumeRef, name: &str, live: bool) {
    <Overlay as Snapshot>::create(host, &pool(), volume, name, live).unwrap();
}

fn copy(
    host: &FakeHost,
    source: &VolumeRef,
    snapshot: Option<&str>,
    target: &VolumeRef,
    live: bool,
    plain: bool,
) -> Result<()> {
    <Overlay as Copies>::copy(
        host,
        &pool(),
        CopySource {
            volume: source,
            snapshot,
            live,
        },
        target,
        plain,
    )
}

fn delete(host: &FakeHost, volume: &VolumeRef) {
    <Overlay as Volume>::delete(host, &pool(), volume).unwrap();
}

fn layers(host: &FakeHost) -> BTreeSet<String> {
    let below = host.state().tree.below(&TreePath::root("pool").join("layers"));
    below
        .into_keys()
        .filter(|path| !path.is_empty() && !path.contains('/'))
        .collect()
}

fn copies(host: &FakeHost) -> usize {
    host.calls().iter().filter(|call| call.starts_with("fs.copy")).count()
}

#[test]
fn a_container_lies_on_its_image_without_a_copy() {
    let host = host();
    assert_eq!(copies(&host), 0);
    write(&host, &c("c1"), "a", Some("mine"));
    write(&host, &c("c1"), "b", None);
    assert_eq!(files(&host, &c("c1")), of(&[("a", "mine")]));
    assert_eq!(
        files(&host, &volume("image", "i1")),
        of(&[("a", "image"), ("b", "image")])
    );
    let plan = plan(&host, &c("c1"));
    assert_eq!((plan.kind.as_str(), plan.layers.len()), ("overlay", 1));
}

#[test]
fn creating_a_container_takes_few_calls() {
    let host = host();
    host.clear_calls();
    Overlay::create_from_image(&host, &pool(), &volume("image", "i1"), &c("c2"), false).unwrap();
    assert_eq!(host.calls().len(), 7, "{:#?}", host.calls());
    host.clear_calls();
    delete(&host, &c("c2"));
    assert!(host.calls().len() <= 6, "{:#?}", host.calls());
}

#[test]
fn the_writable_layer_has_the_mode_of_the_image_root() {
    let host = host();
    let image = volume("image", "i2");
    let place = <Overlay as Volume>::begin_fill(&host, &pool(), &image, false).unwrap();
    host.state().tree.put(&place, Node::Directory(0o555));
    <Overlay as Volume>::end_fill(&host, &pool(), &image, false).unwrap();
    Overlay::create_from_image(&host, &pool(), &image, &c("c2"), false).unwrap();
    let upper = plan(&host, &c("c2")).upper.unwrap();
    assert_eq!(host.state().tree.get(&upper), Some(&Node::Directory(0o555)));
}

#[test]
fn snapshots_of_a_stopped_container_copy_nothing() {
    let host = host();
    write(&host, &c("c1"), "a", Some("first"));
    snap(&host, &c("c1"), "s0", false);
    write(&host, &c("c1"), "a", Some("second"));
    write(&host, &c("c1"), "b", None);
    snap(&host, &c("c1"), "s1", false);
    write(&host, &c("c1"), "c", Some("third"));
    assert_eq!(files(&host, &c("c1")), of(&[("a", "second"), ("c", "third")]));
    Overlay::restore(&host, &pool(), &c("c1"), "s0").unwrap();
    assert_eq!(files(&host, &c("c1")), of(&[("a", "first"), ("b", "image")]));
    Overlay::restore(&host, &pool(), &c("c1"), "s1").unwrap();
    assert_eq!(files(&host, &c("c1")), of(&[("a", "second")]));
    let mounted = <Overlay as Snapshot>::mount(&host, &pool(), &c("c1"), "s0").unwrap();
    assert_eq!(shown(&host, &mounted), of(&[("a", "first"), ("b", "image")]));
    assert!(mounted.upper.is_none());
    assert_eq!(copies(&host), 0);
}

#[test]
fn a_snapshot_of_an_unchanged_container_adds_no_layer() {
    let host = host();
    snap(&host, &c("c1"), "s0", false);
    let before = layers(&host);
    for n in 1..5 {
        snap(&host, &c("c1"), &format!("s{n}"), false);
        copy(&host, &c("c1"), None, &c(&format!("copy{n}")), false, false).unwrap();
    }
    assert_eq!(
        layers(&host).len(),
        before.len() + 4,
        "one writable layer for each copy"
    );
}

#[test]
fn a_live_snapshot_copies_the_writable_layer_alone() {
    let host = host();
    write(&host, &c("c1"), "a", None);
    let upper = plan(&host, &c("c1")).upper;
    snap(&host, &c("c1"), "s0", true);
    assert_eq!(plan(&host, &c("c1")).upper, upper, "the mounted layer stays");
    write(&host, &c("c1"), "b", Some("later"));
    Overlay::restore(&host, &pool(), &c("c1"), "s0").unwrap();
    assert_eq!(files(&host, &c("c1")), of(&[("b", "image")]));
    assert_eq!(copies(&host), 1);
}

#[test]
fn copies_share_layers_and_outlive_their_source() {
    let host = host();
    write(&host, &c("c1"), "a", Some("one"));
    snap(&host, &c("c1"), "s0", false);
    write(&host, &c("c1"), "a", Some("two"));
    copy(&host, &c("c1"), None, &c("c2"), false, false).unwrap();
    copy(&host, &c("c1"), Some("s0"), &c("c3"), false, false).unwrap();
    assert_eq!(copies(&host), 0);
    copy(&host, &c("c1"), None, &c("live"), true, false).unwrap();
    copy(&host, &c("c1"), None, &c("plain"), false, true).unwrap();
    copy(&host, &c("c1"), None, &volume("image", "published"), false, false).unwrap();
    delete(&host, &c("c1"));
    delete(&host, &volume("image", "i1"));
    assert_eq!(files(&host, &c("c2")), of(&[("a", "two"), ("b", "image")]));
    assert_eq!(files(&host, &c("c3")), of(&[("a", "one"), ("b", "image")]));
    assert_eq!(files(&host, &c("live")), of(&[("a", "two"), ("b", "image")]));
    assert_eq!(files(&host, &c("plain")), of(&[("a", "two"), ("b", "image")]));
    assert_eq!(plan(&host, &c("plain")).kind, "bind");
    copy(&host, &c("plain"), None, &c("again"), true, false).unwrap();
    assert_eq!(files(&host, &c("again")), of(&[("a", "two"), ("b", "image")]));
    Overlay::create_from_image(&host, &pool(), &volume("image", "published"), &c("c4"), false).unwrap();
    assert_eq!(files(&host, &c("c4")), of(&[("a", "two"), ("b", "image")]));
    for name in ["c2", "c3", "live", "plain", "again", "c4"] {
        delete(&host, &c(name));
    }
    delete(&host, &volume("image", "published"));
    assert_eq!(layers(&host), BTreeSet::new(), "the last user takes a layer with it");
}

#[test]
fn plain_volumes_are_trees_with_copies_for_snapshots() {
    let host = host();
    Overlay::create_from_image(&host, &pool(), &volume("image", "i1"), &c("nest"), true).unwrap();
    let data = volume("custom", "data");
    <Overlay as Volume>::create(&host, &pool(), &data).unwrap();
    for v in [&c("nest"), &data] {
        assert_eq!(plan(&host, v).kind, "bind");
        write(&host, v, "x", Some("1"));
        snap(&host, v, "s0", false);
        write(&host, v, "x", Some("2"));
        Overlay::restore(&host, &pool(), v, "s0").unwrap();
        assert_eq!(files(&host, v).get("x").map(String::as_str), Some("1"));
    }
    copy(&host, &c("nest"), Some("s0"), &c("layered"), false, false).unwrap();
    assert_eq!(plan(&host, &c("layered")).kind, "overlay");
    assert_eq!(files(&host, &c("layered")).get("x").map(String::as_str), Some("1"));
}

#[test]
fn deep_chains_are_merged() {
    let host = host();
    for n in 0..MAX_LAYERS + 5 {
        write(&host, &c("c1"), &format!("f{n}"), Some("x"));
        snap(&host, &c("c1"), "s", false);
        assert!(plan(&host, &c("c1")).layers.len() <= MAX_LAYERS);
        <Overlay as Snapshot>::delete(&host, &pool(), &c("c1"), "s").unwrap();
    }
    assert_eq!(copies(&host), 1);
    assert_eq!(files(&host, &c("c1")).len(), MAX_LAYERS + 7);
    let used = plan(&host, &c("c1")).layers.len() + 2;
    assert_eq!(layers(&host).len(), used, "what was merged is gone");
}

#[test]
fn calls_repeated_succeed_and_different_ones_do_not() {
    let host = host();
    let image = volume("image", "i1");
    Overlay::create_from_image(&host, &pool(), &image, &c("c1"), false).unwrap();
    assert!(<Overlay as Volume>::create(&host, &pool(), &c("c1")).is_err_and(|e| e.is("already-exists")));
    assert!(<Overlay as Volume>::begin_fill(&host, &pool(), &image, false).is_err_and(|e| e.is("already-exists")));
    assert!(
        copy(&host, &image, None, &c("c1"), false, false).is_ok(),
        "the same content by another call"
    );
    assert!(copy(&host, &c("c1"), None, &image, false, false).is_err_and(|e| e.is("already-exists")));
    <Overlay as Volume>::end_fill(&host, &pool(), &image, false).unwrap();
    assert!(
        <Overlay as Volume>::end_fill(&host, &pool(), &volume("image", "i9"), false).is_err_and(|e| e.is("not-found"))
    );
    for _ in 0..2 {
        <Overlay as Volume>::rename(&host, &pool(), &c("c1"), "c2").unwrap();
    }
    assert!(<Overlay as Volume>::rename(&host, &pool(), &c("c7"), "c8").is_err_and(|e| e.is("not-found")));
    <Overlay as Volume>::create(&host, &pool(), &c("c1")).unwrap();
    assert!(<Overlay as Volume>::rename(&host, &pool(), &c("c1"), "c2").is_err_and(|e| e.is("already-exists")));
    for _ in 0..2 {
        delete(&host, &c("c2"));
    }
}

#[test]
fn filling_begun_twice_is_empty_again() {
    let host = host();
    let image = volume("image", "i2");
    let first = <Overlay as Volume>::begin_fill(&host, &pool(), &image, false).unwrap();
    host.state().tree.put_text("pool", &first.join("half").path, "x");
    let second = <Overlay as Volume>::begin_fill(&host, &pool(), &image, false).unwrap();
    assert!(host.state().tree.get(&first).is_none());
    host.state().tree.put_text("pool", &second.join("whole").path, "x");
    <Overlay as Volume>::end_fill(&host, &pool(), &image, false).unwrap();
    assert_eq!(files(&host, &image), of(&[("whole", "x")]));
    let third = <Overlay as Volume>::begin_fill(&host, &pool(), &volume("image", "i3"), false).unwrap();
    delete(&host, &volume("image", "i3"));
    assert!(
        host.state().tree.get(&third).is_none(),
        "deleting takes a half-filled volume back"
    );
}

#[test]
fn limits_follow_the_writable_layer() {
    let host = host();
    Overlay::set(&host, &pool(), &c("c1"), Some(7)).unwrap();
    let limit = |host: &FakeHost| {
        let upper = plan(host, &c("c1")).upper.unwrap();
        let home = upper.path.trim_end_matches("/fs").to_owned();
        host.state().quotas.get(&("pool".to_owned(), home)).copied()
    };
    assert_eq!(limit(&host), Some(7));
    snap(&host, &c("c1"), "s0", false);
    assert_eq!(limit(&host), Some(7));
    Overlay::restore(&host, &pool(), &c("c1"), "s0").unwrap();
    assert_eq!(limit(&host), Some(7));
    Overlay::set(&host, &pool(), &c("c1"), None).unwrap();
    assert_eq!(limit(&host), None);
    assert!(Overlay::set(&host, &pool(), &volume("image", "i1"), Some(1)).is_err_and(|e| e.is("unsupported")));
}

#[test]
fn unsuitable_pools_and_names_are_refused() {
    let host = FakeHost::new(&["pool"]);
    host.state().features = vec!["reflink".into()];
    assert!(<Overlay as Pool>::create(&host, &pool()).is_err_and(|e| e.is("unsupported")));
    host.state()
        .tree
        .put_text("pool", "pool.json", r#"{"version":9,"driver":"overlay"}"#);
    assert!(Overlay::open(&host, &pool()).is_err_and(|e| e.is("unsupported")));
    host.state()
        .tree
        .put_text("pool", "pool.json", r#"{"version":1,"driver":"dir"}"#);
    assert!(Overlay::open(&host, &pool()).is_err_and(|e| e.is("invalid")));
    let host = self::host();
    for name in ["", "..", "a/b", &"x".repeat(201)] {
        assert!(
            <Overlay as Volume>::create(&host, &pool(), &c(name)).is_err_and(|e| e.is("invalid")),
            "{name:?}"
        );
    }
    let block = VolumeRef {
        content: "block".into(),
        ..volume("custom", "b")
    };
    assert!(<Overlay as Volume>::create(&host, &pool(), &block).is_err_and(|e| e.is("unsupported")));
}

#[test]
fn a_damaged_record_stops_the_sweep() {
    let host = host();
    write(&host, &c("c1"), "a", Some("precious"));
    let before = layers(&host);
    host.state().tree.put_text("pool", "volumes/container/c1.json", "{}");
    let valid = [state("container", "c1", &[]), state("image", "i1", &[])];
    assert!(Overlay::reconcile(&host, &pool(), &valid).is_err_and(|e| e.is("io")));
    assert_eq!(layers(&host), before);
}

#[test]
fn lost_references_are_derived_again() {
    let host = host();
    let lost: Vec<String> = host
        .state()
        .tree
        .paths("pool")
        .into_iter()
        .filter(|path| path.contains("/refs/"))
        .collect();
    for path in lost {
        let home = TreePath::root("pool").join(path.rsplit_once("/refs").unwrap().0);
        hutch_sdk::Host::fs_discard(&host, &home.join("refs")).unwrap();
    }
    Overlay::reconcile(
        &host,
        &pool(),
        &[state("container", "c1", &[]), state("image", "i1", &[])],
    )
    .unwrap();
    delete(&host, &volume("image", "i1"));
    assert_eq!(files(&host, &c("c1")), of(&[("a", "image"), ("b", "image")]));
}

#[test]
fn a_layer_being_collected_is_not_taken_up() {
    let host = host();
    let image = plan(&host, &volume("image", "i1")).layers.remove(0);
    let home = image.path.trim_end_matches("/fs").to_owned();
    let dying = TreePath::root("pool").join(&home).join("dying");
    host.state().tree.put(&dying, Node::Directory(0o700));
    let before = host.state().tree.clone();
    let result = Overlay::create_from_image(&host, &pool(), &volume("image", "i1"), &c("c2"), false);
    assert!(result.is_err_and(|e| e.is("in-use") && e.retryable));
    assert!(host.state().tree == before, "nothing is left of the attempt");
}

/// After a death at any call of `operation`, the same call succeeds, and so does forgetting it: what the core knows of is
/// whole, and nothing else is there.
fn survives(
    before: &FakeHost,
    valid: &[VolumeState],
    operation: impl Fn(&FakeHost) -> Result<()>,
    done: impl Fn(&FakeHost),
) {
    let expected: Vec<_> = valid.iter().map(|v| files(before, &volume(&v.kind, &v.name))).collect();
    let calls = for_every_crash(before, &operation, |host, crash| {
        let again = host.snapshot();
        operation(&again).unwrap_or_else(|e| panic!("{crash:?}: {e}"));
        done(&again);
        for repaired in [host, &again] {
            let changed = Overlay::reconcile(repaired, &pool(), valid).unwrap();
            assert_eq!(
                Overlay::reconcile(repaired, &pool(), valid).unwrap(),
                Vec::<String>::new(),
                "{crash:?} {changed:?}"
            );
        }
        for (v, expected) in valid.iter().zip(&expected) {
            assert_eq!(
                &files(host, &volume(&v.kind, &v.name)),
                expected,
                "{crash:?}: {}",
                v.name
            );
            for s in &v.snapshots {
                let plan = <Overlay as Snapshot>::mount(host, &pool(), &volume(&v.kind, &v.name), s).unwrap();
                shown(host, &plan);
            }
        }
        for v in valid {
            delete(host, &volume(&v.kind, &v.name));
        }
        assert_eq!(layers(host), BTreeSet::new(), "{crash:?}");
    });
    assert!(calls > 1);
}

#[test]
fn every_operation_survives_a_death_at_every_call() {
    let host = host();
    let image = volume("image", "i1");
    snap(&host, &c("c1"), "s0", false);
    write(&host, &c("c1"), "a", Some("later"));
    let both = [state("container", "c1", &["s0"]), state("image", "i1", &[])];
    let later = of(&[("a", "later"), ("b", "image")]);
    survives(
        &host,
        &both,
        |h| Overlay::create_from_image(h, &pool(), &image, &c("c2"), false),
        |h| {
            assert_eq!(files(h, &c("c2")), of(&[("a", "image"), ("b", "image")]));
        },
    );
    for (live, plain) in [(false, false), (true, false), (false, true)] {
        survives(
            &host,
            &both,
            |h| copy(h, &c("c1"), None, &c("c2"), live, plain),
            |h| assert_eq!(files(h, &c("c2")), later),
        );
        survives(
            &host,
            &both,
            |h| <Overlay as Snapshot>::create(h, &pool(), &c("c1"), "s1", live),
            |h| {
                let plan = <Overlay as Snapshot>::mount(h, &pool(), &c("c1"), "s1").unwrap();
                assert_eq!(shown(h, &plan), later);
            },
        );
    }
    survives(
        &host,
        &both[1..],
        |h| <Overlay as Volume>::delete(h, &pool(), &c("c1")),
        |h| {
            assert!(<Overlay as Volume>::mount(h, &pool(), &c("c1")).is_err());
        },
    );
    let filled = |h: &FakeHost| {
        let place = <Overlay as Volume>::begin_fill(h, &pool(), &volume("image", "i2"), false)?;
        h.state().tree.put_text("pool", &place.join("f").path, "x");
        <Overlay as Volume>::end_fill(h, &pool(), &volume("image", "i2"), false)
    };
    let repeated = |h: &FakeHost| filled(h).or_else(|e| if e.is("already-exists") { Ok(()) } else { Err(e) });
    survives(&host, &both, repeated, |h| {
        assert_eq!(files(h, &volume("image", "i2")), of(&[("f", "x")]));
    });
}

#[test]
fn a_restore_is_done_or_not() {
    let host = host();
    snap(&host, &c("c1"), "s0", false);
    write(&host, &c("c1"), "a", Some("later"));
    let (old, new) = (files(&host, &c("c1")), of(&[("a", "image"), ("b", "image")]));
    for_every_crash(
        &host,
        |h| Overlay::restore(h, &pool(), &c("c1"), "s0"),
        |h, crash| {
            let now = files(h, &c("c1"));
            assert!(now == old || now == new, "{crash:?} {now:?}");
            Overlay::restore(h, &pool(), &c("c1"), "s0").unwrap();
            assert_eq!(files(h, &c("c1")), new);
        },
    );
}

/// A snapshot `name` of `volume` from another volume, or from a snapshot of that.
fn replicate(
    host: &FakeHost,
    source: &VolumeRef,
    snapshot: Option<&str>,
    volume: &VolumeRef,
    name: &str,
    live: bool,
) -> Result<()> {
    let source = CopySource {
        volume: source,
        snapshot,
        live,
    };
    <Overlay as Replica>::copy(host, &pool(), source, volume, name)
}

fn fill_snapshot(host: &FakeHost, volume: &VolumeRef, name: &str, text: &str) -> Result<()> {
    let place = <Overlay as Replica>::begin_fill(host, &pool(), volume, name)?;
    host.state().tree.put_text("pool", &place.join("a").path, text);
    <Overlay as Replica>::end_fill(host, &pool(), volume, name)
}

fn restored(host: &FakeHost, volume: &VolumeRef, name: &str) -> BTreeMap<String, String> {
    let copy = host.snapshot();
    Overlay::restore(&copy, &pool(), volume, name).unwrap();
    files(&copy, volume)
}

#[test]
fn copied_snapshots_stay_when_their_source_goes() {
    for plain in [false, true] {
        for live in [false, true] {
            let host = host();
            write(&host, &c("c1"), "a", Some("first"));
            snap(&host, &c("c1"), "s0", false);
            write(&host, &c("c1"), "a", None);
            copy(&host, &c("c1"), None, &c("c2"), live, plain).unwrap();
            for _ in 0..2 {
                replicate(&host, &c("c1"), Some("s0"), &c("c2"), "s0", false).unwrap();
                replicate(&host, &c("c1"), None, &c("c2"), "now", live).unwrap();
            }
            delete(&host, &c("c1"));
            delete(&host, &volume("image", "i1"));
            let (first, now) = (of(&[("a", "first"), ("b", "image")]), of(&[("b", "image")]));
            assert_eq!(files(&host, &c("c2")), now, "plain {plain} live {live}");
            assert_eq!(restored(&host, &c("c2"), "s0"), first, "plain {plain} live {live}");
            assert_eq!(restored(&host, &c("c2"), "now"), now, "plain {plain} live {live}");
            for _ in 0..2 {
                <Overlay as Replica>::promote(&host, &pool(), &c("c2"), "s0").unwrap();
            }
            assert_eq!(files(&host, &c("c2")), first, "plain {plain} live {live}");
            assert!(Overlay::restore(&host, &pool(), &c("c2"), "s0").is_err_and(|e| e.is("not-found")));
            delete(&host, &c("c2"));
            assert_eq!(layers(&host), BTreeSet::new(), "plain {plain} live {live}");
        }
    }
}

#[test]
fn a_snapshot_is_filled_from_outside() {
    let host = host();
    fill_snapshot(&host, &c("c1"), "s0", "outside").unwrap();
    <Overlay as Replica>::end_fill(&host, &pool(), &c("c1"), "s0").unwrap();
    assert!(fill_snapshot(&host, &c("c1"), "s0", "other").is_err_and(|e| e.is("already-exists")));
    assert!(<Overlay as Replica>::end_fill(&host, &pool(), &c("c1"), "s1").is_err_and(|e| e.is("not-found")));
    assert_eq!(restored(&host, &c("c1"), "s0"), of(&[("a", "outside")]));
    // One that is given up leaves nothing.
    <Overlay as Replica>::begin_fill(&host, &pool(), &c("c1"), "s1").unwrap();
    <Overlay as Snapshot>::delete(&host, &pool(), &c("c1"), "s1").unwrap();
    <Overlay as Replica>::begin_fill(&host, &pool(), &c("c1"), "s2").unwrap();
    delete(&host, &c("c1"));
    delete(&host, &volume("image", "i1"));
    assert_eq!(layers(&host), BTreeSet::new());
    let paths = host.state().tree.paths("pool");
    assert!(!paths.iter().any(|path| path.contains("snapshots")), "{paths:?}");
}

#[test]
fn replicas_survive_a_death_at_every_call() {
    let host = host();
    snap(&host, &c("c1"), "s0", false);
    write(&host, &c("c1"), "a", Some("later"));
    copy(&host, &c("c1"), None, &c("c2"), false, false).unwrap();
    let later = of(&[("a", "later"), ("b", "image")]);
    let valid = [
        state("container", "c1", &["s0"]),
        state("container", "c2", &[]),
        state("image", "i1", &[]),
    ];
    for live in [false, true] {
        survives(
            &host,
            &valid,
            |h| replicate(h, &c("c1"), None, &c("c2"), "now", live),
            |h| assert_eq!(restored(h, &c("c2"), "now"), later),
        );
    }
    survives(
        &host,
        &valid,
        |h| replicate(h, &c("c1"), Some("s0"), &c("c2"), "s0", false),
        |h| assert_eq!(restored(h, &c("c2"), "s0")["a"], "image"),
    );
    survives(
        &host,
        &valid,
        |h| match fill_snapshot(h, &c("c2"), "s0", "outside") {
            Err(error) if error.is("already-exists") => Ok(()),
            other => other,
        },
        |h| assert_eq!(restored(h, &c("c2"), "s0"), of(&[("a", "outside")])),
    );
    replicate(&host, &c("c1"), Some("s0"), &c("c2"), "new", false).unwrap();
    for_every_crash(
        &host,
        |h| <Overlay as Replica>::promote(h, &pool(), &c("c2"), "new"),
        |h, crash| {
            let now = files(h, &c("c2"));
            assert!(now == later || now["a"] == "image", "{crash:?} {now:?}");
            <Overlay as Replica>::promote(h, &pool(), &c("c2"), "new").unwrap();
            assert_eq!(files(h, &c("c2"))["a"], "image", "{crash:?}");
        },
    );
}

#[test]
fn the_manifest_is_of_this_version() {
    let manifest = include_str!("../plugin.toml");
    assert!(manifest.contains(&format!("version = {:?}", env!("CARGO_PKG_VERSION"))));
}
