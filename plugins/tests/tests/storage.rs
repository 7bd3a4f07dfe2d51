//! The overlay driver on a real file system, mounted by the kernel as the plan says.

use std::path::{Path, PathBuf};

use hutch_driver::storage::{PoolRef, StorageDriver, VolumeRef, VolumeState};
use hutch_driver::{Call, Drivers as _, MountPlan, Options, TreePath};
use hutch_plugin_tests::{Machine, Network, run, with_drivers};

const COMPILER: &str = env!("CARGO_BIN_EXE_compile-drivers");

struct Pool<'a> {
    driver: &'a dyn StorageDriver,
    call: Call,
    pool: PoolRef,
    root: PathBuf,
}

fn volume(kind: &str, name: &str) -> VolumeRef {
    VolumeRef {
        kind: kind.into(),
        name: name.into(),
        content: "filesystem".into(),
        config: Options::new(),
    }
}

fn c(name: &str) -> VolumeRef {
    volume("container", name)
}

impl Pool<'_> {
    fn path(&self, at: &TreePath) -> PathBuf {
        assert_eq!(at.root, "pool");
        self.root.join(&at.path)
    }

    /// Mounts a plan as a container's keeper does, but for the id-mapping, and unmounts it after `work`.
    fn mounted<T>(&self, plan: &MountPlan, work: impl FnOnce(&Path) -> T) -> T {
        let place = self.root.with_file_name("mounted");
        std::fs::create_dir_all(&place).unwrap();
        let target = place.to_str().unwrap();
        if plan.kind == "bind" {
            run(
                "mount",
                &["--bind", self.path(&plan.layers[0]).to_str().unwrap(), target],
            );
        } else {
            let layers: Vec<String> = plan
                .layers
                .iter()
                .map(|layer| self.path(layer).display().to_string())
                .collect();
            let mut options = format!("userxattr,lowerdir={}", layers.join(":"));
            if let (Some(upper), Some(work)) = (&plan.upper, &plan.work) {
                options.push_str(&format!(
                    ",upperdir={},workdir={}",
                    self.path(upper).display(),
                    self.path(work).display()
                ));
            }
            run("mount", &["-t", "overlay", "overlay", "-o", &options, target]);
        }
        let result = work(&place);
        run("umount", &[target]);
        result
    }

    async fn with<T>(&self, volume: &VolumeRef, work: impl FnOnce(&Path) -> T) -> T {
        let plan = self.driver.mount(&self.call, &self.pool, volume).await.unwrap();
        self.mounted(&plan, work)
    }

    /// The files of a volume with their contents.
    async fn files(&self, volume: &VolumeRef) -> String {
        self.with(volume, |at| {
            run(
                "sh",
                &[
                    "-c",
                    &format!("cd {} && find . -type f | sort | xargs -r grep -H ''", at.display()),
                ],
            )
        })
        .await
    }

    async fn copy(&self, source: &VolumeRef, snapshot: Option<&str>, target: &VolumeRef, live: bool, plain: bool) {
        self.driver
            .copy(&self.call, &self.pool, source, snapshot, target, live, plain)
            .await
            .unwrap();
    }

    async fn delete(&self, volume: &VolumeRef) {
        self.driver.delete(&self.call, &self.pool, volume).await.unwrap();
    }

    fn layers(&self) -> usize {
        std::fs::read_dir(self.root.join("layers")).unwrap().count()
    }
}

async fn life(machine: Machine) {
    let driver = machine.host.storage("overlay").unwrap();
    let call = machine.call("p1", "pool");
    let pool = PoolRef {
        name: "p1".into(),
        root: "pool".into(),
        config: Options::new(),
    };
    driver.create_pool(&call, &pool).await.unwrap();
    let pool = Pool {
        driver: driver.as_ref(),
        call,
        pool,
        root: machine.dir.join("pool"),
    };
    let (driver, call) = (pool.driver, &pool.call);

    let image = volume("image", "i1");
    let place = pool.path(&driver.begin_fill(call, &pool.pool, &image, false).await.unwrap());
    std::fs::create_dir(place.join("dir")).unwrap();
    for name in ["a", "dir/b", "dir/c"] {
        std::fs::write(place.join(name), "image\n").unwrap();
    }
    driver.end_fill(call, &pool.pool, &image, false).await.unwrap();
    driver
        .create_from_image(call, &pool.pool, &image, &c("c1"), false)
        .await
        .unwrap();
    let first = pool.files(&c("c1")).await;
    assert_eq!(first, "./a:image\n./dir/b:image\n./dir/c:image\n");

    // A file changed, one deleted, and a directory replaced: a whiteout and an opaque directory in the writable layer.
    pool.with(&c("c1"), |at| {
        std::fs::write(at.join("a"), "mine\n").unwrap();
        std::fs::remove_dir_all(at.join("dir")).unwrap();
        std::fs::create_dir(at.join("dir")).unwrap();
        std::fs::write(at.join("dir/d"), "mine\n").unwrap();
    })
    .await;
    let second = "./a:mine\n./dir/d:mine\n";
    assert_eq!(pool.files(&c("c1")).await, second);
    driver
        .snapshot_create(call, &pool.pool, &c("c1"), "stopped", false)
        .await
        .unwrap();
    assert_eq!(pool.files(&c("c1")).await, second);

    // Of a mounted one, the writable layer is copied, marks included.
    let plan = driver.mount(call, &pool.pool, &c("c1")).await.unwrap();
    std::fs::create_dir_all(machine.dir.join("mounted")).unwrap();
    let third = "./a:live\n";
    let change = |at: &Path| {
        std::fs::write(at.join("a"), "live\n").unwrap();
        std::fs::remove_dir_all(at.join("dir")).unwrap();
    };
    pool.mounted(&plan, |at| {
        change(at);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                driver
                    .snapshot_create(call, &pool.pool, &c("c1"), "live", true)
                    .await
                    .unwrap();
                pool.copy(&c("c1"), None, &c("livecopy"), true, false).await;
                pool.copy(&c("c1"), None, &c("liveplain"), true, true).await;
            });
        });
        std::fs::write(at.join("later"), "later\n").unwrap();
    });
    for name in ["livecopy", "liveplain"] {
        assert_eq!(pool.files(&c(name)).await, third, "{name}");
    }
    for (snapshot, expected) in [("stopped", second), ("live", third), ("stopped", second)] {
        driver
            .snapshot_restore(call, &pool.pool, &c("c1"), snapshot)
            .await
            .unwrap();
        assert_eq!(pool.files(&c("c1")).await, expected, "{snapshot}");
        let plan = driver
            .snapshot_mount(call, &pool.pool, &c("c1"), snapshot)
            .await
            .unwrap();
        let shown = pool.mounted(&plan, |at| std::fs::read_to_string(at.join("a")).unwrap());
        assert!(expected.contains(&shown), "{snapshot}");
    }
    pool.copy(&c("c1"), Some("live"), &c("c2"), false, false).await;
    pool.copy(&c("c1"), None, &c("plain"), false, true).await;
    assert_eq!(pool.files(&c("c2")).await, third);
    assert_eq!(pool.files(&c("plain")).await, second);

    let valid = |names: &[&str]| -> Vec<VolumeState> {
        names
            .iter()
            .map(|&name| VolumeState {
                kind: "container".into(),
                name: name.into(),
                snapshots: Vec::new(),
            })
            .collect()
    };
    let removed = driver
        .reconcile(call, &pool.pool, &valid(&["c2", "plain"]))
        .await
        .unwrap();
    assert!(
        removed.iter().any(|line| line.contains("c1")) && removed.iter().any(|line| line.contains("i1")),
        "{removed:?}"
    );
    assert_eq!(
        pool.files(&c("c2")).await,
        third,
        "layers outlive the volumes that they were made for"
    );
    pool.delete(&c("c2")).await;
    pool.delete(&c("plain")).await;
    assert_eq!(pool.layers(), 0);
    driver.delete_pool(call, &pool.pool).await.unwrap();
}

#[test]
fn overlay_volumes_live_and_die_on_a_real_file_system() {
    with_drivers(&["hutch-plugin-storage-overlay"], COMPILER, Network::Own, life);
}
