//! Copies that the host makes itself between the roots of two pools. Needs root.

mod common;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::{host, isolated};
use hutch_driver::{Call, MountPlan, Progress, Root, TreePath};

#[derive(Default)]
struct Heard(Mutex<Vec<(String, u64)>>);

impl Progress for Heard {
    fn report(&self, stage: &str, done: u64, _total: Option<u64>) {
        self.0.lock().unwrap().push((stage.to_owned(), done));
    }
}

fn at(root: &str, path: &str) -> TreePath {
    TreePath {
        root: root.to_owned(),
        path: path.to_owned(),
    }
}

fn call(dir: &Path) -> (Call, Arc<Heard>) {
    let root = |id: &str, writable| Root {
        id: id.to_owned(),
        path: dir.join(id),
        writable,
    };
    let mut call = Call::new("default", "pool");
    call.roots = vec![root("from", false), root("to", true)];
    let heard = Arc::<Heard>::default();
    call.progress = Arc::clone(&heard) as Arc<dyn Progress>;
    (call, heard)
}

fn bind(path: &str) -> MountPlan {
    MountPlan {
        kind: "bind".to_owned(),
        layers: vec![at("from", path)],
        upper: None,
        work: None,
        options: Default::default(),
    }
}

fn overlay(upper: &str, layers: &[&str]) -> MountPlan {
    MountPlan {
        kind: "overlay".to_owned(),
        layers: layers.iter().map(|layer| at("from", layer)).collect(),
        upper: Some(at("from", upper)),
        work: Some(at("from", "work")),
        options: Default::default(),
    }
}

fn prepare(dir: &Path) {
    let script = r#"
        set -e; mkdir -p "$1/from/low/dir" "$1/from/up" "$1/from/work" "$1/to/one" "$1/to/two" "$1/to/full"; cd "$1/from"
        echo low > low/file; echo low > low/deleted; ln low/file low/dir/twin; chown 7:8 low/dir; chmod 2711 low/dir
        mknod up/deleted c 0 0; echo up > up/new; head -c 40000000 /dev/zero > low/big; echo there > "$1/to/full/file"
    "#;
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(dir).status().unwrap();
    assert!(status.success());
}

#[test]
fn what_a_plan_shows_replaces_an_empty_directory() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        prepare(&dir);
        let (call, heard) = call(&dir);
        let copy = async |plan: &MountPlan, to: &str| host.broker.copy_between(&call, plan, &at("to", to)).await;
        copy(&bind("low"), "one").await.unwrap();
        let to = dir.join("to");
        let (dir_of_copy, twin) = (
            to.join("one/dir").metadata().unwrap(),
            to.join("one/dir/twin").metadata().unwrap(),
        );
        assert_eq!(
            (dir_of_copy.uid(), dir_of_copy.gid(), dir_of_copy.mode() & 0o7777),
            (7, 8, 0o2711)
        );
        assert_eq!(
            (twin.nlink(), twin.ino()),
            (2, to.join("one/file").metadata().unwrap().ino())
        );
        let told = heard.0.lock().unwrap().clone();
        assert!(
            matches!(told.as_slice(), [(stage, mib), ..] if stage == "MiB copied" && *mib >= 16),
            "{told:?}"
        );
        copy(&overlay("up", &["low"]), "two").await.unwrap();
        let names = |path: &str| {
            let mut names: Vec<_> = std::fs::read_dir(to.join(path))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names("two"), ["big", "dir", "file", "new"]);
        assert_eq!(copy(&bind("low"), "full").await.unwrap_err().code, "already-exists");
        assert_eq!(names("full"), ["file"], "what was there was touched");
        for plan in [bind("gone"), bind("../to"), overlay("up", &["gone"])] {
            let error = copy(&plan, "one").await.unwrap_err();
            assert!(["not-found", "invalid"].contains(&error.code.as_str()), "{error}");
        }
        let mut nonsense = bind("low");
        nonsense.kind = "zip".to_owned();
        assert_eq!(copy(&nonsense, "one").await.unwrap_err().code, "invalid");
    });
}

#[test]
fn a_cancelled_copy_leaves_nothing() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        prepare(&dir);
        let (call, _) = call(&dir);
        call.cancel.cancel();
        let error = host
            .broker
            .copy_between(&call, &bind("low"), &at("to", "one"))
            .await
            .unwrap_err();
        assert_eq!(error.code, "cancelled");
        assert_eq!(std::fs::read_dir(dir.join("to/one")).unwrap().count(), 0);
    });
}
