//! The driver against a host in memory: `cargo unit`. What needs a real machine, `hutch plugin test` tries.

use hutch_sdk::TreePath;
use hutch_sdk::storage::{Pool, PoolRef, Snapshot, Volume, VolumeRef, VolumeState};
use hutch_sdk::testing::{FakeHost, Node, for_every_crash};

use crate::Driver;

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

/// A host with a pool that holds an image, and a container made from it.
fn host() -> FakeHost {
    let host = FakeHost::new(&["pool"]);
    <Driver as Pool>::create(&host, &pool()).unwrap();
    let image = volume("image", "i1");
    let place = Driver::begin_fill(&host, &pool(), &image, false).unwrap();
    host.state().tree.put_text("pool", &place.join("name").path, "first");
    Driver::end_fill(&host, &pool(), &image, false).unwrap();
    Driver::create_from_image(&host, &pool(), &image, &volume("container", "c1"), false).unwrap();
    host
}

/// Where the file `name` of the container is.
fn file(host: &FakeHost) -> TreePath {
    let plan = <Driver as Volume>::mount(host, &pool(), &volume("container", "c1")).unwrap();
    plan.layers[0].join("name")
}

fn text(host: &FakeHost) -> String {
    let at = file(host);
    match host.state().tree.get(&at) {
        Some(Node::File(_, data)) => String::from_utf8(data.clone()).unwrap(),
        other => panic!("{other:?} is not a file"),
    }
}

#[test]
fn a_restore_that_is_interrupted_anywhere_leaves_one_of_both_and_can_be_repeated() {
    let host = host();
    let c1 = volume("container", "c1");
    <Driver as Snapshot>::create(&host, &pool(), &c1, "s1", false).unwrap();
    let at = file(&host);
    host.state().tree.put_text("pool", &at.path, "second");
    let restore = |host: &FakeHost| Driver::restore(host, &pool(), &c1, "s1");
    for_every_crash(&host, restore, |host, crash| {
        assert!(["first", "second"].contains(&text(host).as_str()), "{crash:?}");
        restore(host).unwrap();
        assert_eq!(text(host), "first", "{crash:?}");
    });
}

#[test]
fn reconcile_removes_what_does_not_belong_and_nothing_else() {
    let host = host();
    let image = VolumeState {
        kind: "image".into(),
        name: "i1".into(),
        snapshots: Vec::new(),
    };
    let removed = Driver::reconcile(&host, &pool(), std::slice::from_ref(&image)).unwrap();
    assert_eq!(removed, ["volumes/container/c1"]);
    assert!(Driver::reconcile(&host, &pool(), &[image]).unwrap().is_empty());
}
