//! A pool of a case's own, and the driver's calls on it with their names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hutch_driver::storage::{PoolRef, StorageDriver, VolumeRef, VolumeState};
use hutch_driver::{Call, MountPlan, Options, Root};

use crate::case::{Answer, Outcome, Stop, ensure, fail, named};
use crate::tree::{self, Tree};
use crate::{Stand, plan};

/// The longest name of a volume: a project's and an instance's, which have at most 63 characters each, with `_` between.
pub(super) const LONGEST_VOLUME: usize = 127;
/// The longest name of a snapshot.
pub(super) const LONGEST_SNAPSHOT: usize = 63;
/// Names that no object has, since each would be another place than one of its own.
pub(super) const HOSTILE: [&str; 7] = ["", ".", "..", "a/b", "../a", "/a", "a\nb"];

/// A volume of files.
pub(super) fn volume(kind: &str, name: &str) -> VolumeRef {
    VolumeRef {
        kind: kind.to_owned(),
        name: name.to_owned(),
        content: "filesystem".to_owned(),
        config: Options::new(),
    }
}

/// A container's volume.
pub(super) fn c(name: &str) -> VolumeRef {
    volume("container", name)
}

/// An image's volume, by a number that becomes a fingerprint.
pub(super) fn image(number: usize) -> VolumeRef {
    volume("image", &format!("{number:064x}"))
}

/// A volume that belongs in a pool.
pub(super) fn state(volume: &VolumeRef, snapshots: &[&str]) -> VolumeState {
    VolumeState {
        kind: volume.kind.clone(),
        name: volume.name.clone(),
        snapshots: snapshots.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// See the module's documentation.
pub(super) struct Pool {
    pub(super) driver: Arc<dyn StorageDriver>,
    pub(super) call: Call,
    pub(super) pool: PoolRef,
    /// The pool's directory.
    pub(super) root: PathBuf,
    mountpoint: PathBuf,
}

fn show(volume: &VolumeRef) -> String {
    let short: String = volume.name.chars().take(20).collect();
    format!("{} {short}", volume.kind)
}

/// What the system said while a case worked on a volume's files.
pub(super) fn system(doing: &str, error: &dyn std::fmt::Display) -> Stop {
    Stop::Fail(format!("can't {doing}: {error}"))
}

impl Pool {
    /// An empty directory with a name of its own, in which no pool was made yet, and the configuration that the driver completed.
    pub(super) async fn fresh(stand: &Stand) -> Outcome<Self> {
        let mut pool = Self::directory(stand)?;
        pool.pool.config = pool.validate(&stand.options, None).await?;
        Ok(pool)
    }

    fn directory(stand: &Stand) -> Outcome<Self> {
        let driver = stand
            .drivers
            .storage(&stand.name)
            .map_err(|error| Stop::Fail(format!("the driver can't be called: {error}")))?;
        let name = format!("pool{}", stand.number());
        let root = stand.scratch.join(&name);
        std::fs::create_dir(&root).map_err(|error| system("make a directory", &error))?;
        let mut call = Call::new("default", &name);
        call.roots.push(Root {
            id: "pool".to_owned(),
            path: root.clone(),
            writable: true,
        });
        let pool = PoolRef {
            name: name.clone(),
            root: "pool".to_owned(),
            config: stand.options.clone(),
        };
        Ok(Self {
            driver,
            call,
            pool,
            root,
            mountpoint: stand.scratch.join(format!("{name}-mounted")),
        })
    }

    /// A pool.
    pub(super) async fn made(stand: &Stand) -> Outcome<Self> {
        let pool = Self::fresh(stand).await?;
        pool.create_pool().await?;
        Ok(pool)
    }

    pub(super) async fn validate(&self, config: &Options, current: Option<&Options>) -> Answer<Options> {
        let wanted = PoolRef {
            config: config.clone(),
            ..self.pool.clone()
        };
        let answer = self.driver.validate(&self.call, &wanted, current).await;
        named(answer, || format!("pool.validate({config:?})"))
    }
    pub(super) async fn create_pool(&self) -> Answer {
        named(self.driver.create_pool(&self.call, &self.pool).await, || {
            "pool.create".into()
        })
    }
    pub(super) async fn open_pool(&self) -> Answer {
        named(self.driver.open_pool(&self.call, &self.pool).await, || {
            "pool.open".into()
        })
    }
    pub(super) async fn delete_pool(&self) -> Answer {
        named(self.driver.delete_pool(&self.call, &self.pool).await, || {
            "pool.delete".into()
        })
    }
    pub(super) async fn reconcile(&self, valid: &[VolumeState]) -> Answer<Vec<String>> {
        named(self.driver.reconcile(&self.call, &self.pool, valid).await, || {
            "pool.reconcile".into()
        })
    }
    pub(super) async fn create(&self, v: &VolumeRef) -> Answer {
        named(self.driver.create(&self.call, &self.pool, v).await, || {
            format!("volume.create({})", show(v))
        })
    }
    /// The place to be filled.
    pub(super) async fn begin_fill(&self, v: &VolumeRef) -> Answer<hutch_driver::TreePath> {
        let answer = self.driver.begin_fill(&self.call, &self.pool, v, false).await;
        named(answer, || format!("volume.begin-fill({})", show(v)))
    }
    pub(super) async fn end_fill(&self, v: &VolumeRef) -> Answer {
        let answer = self.driver.end_fill(&self.call, &self.pool, v, false).await;
        named(answer, || format!("volume.end-fill({})", show(v)))
    }
    pub(super) async fn create_from_image(&self, image: &VolumeRef, v: &VolumeRef, plain: bool) -> Answer {
        let answer = self
            .driver
            .create_from_image(&self.call, &self.pool, image, v, plain)
            .await;
        named(answer, || {
            format!("volume.create-from-image({}, plain: {plain})", show(v))
        })
    }
    pub(super) async fn delete(&self, v: &VolumeRef) -> Answer {
        named(self.driver.delete(&self.call, &self.pool, v).await, || {
            format!("volume.delete({})", show(v))
        })
    }
    pub(super) async fn rename(&self, v: &VolumeRef, new_name: &str) -> Answer {
        let answer = self.driver.rename(&self.call, &self.pool, v, new_name).await;
        named(answer, || format!("volume.rename({}, {new_name:?})", show(v)))
    }
    pub(super) async fn mount(&self, v: &VolumeRef) -> Answer<MountPlan> {
        named(self.driver.mount(&self.call, &self.pool, v).await, || {
            format!("volume.mount({})", show(v))
        })
    }
    pub(super) async fn usage(&self, v: &VolumeRef) -> Answer<Option<u64>> {
        named(self.driver.usage(&self.call, &self.pool, v).await, || {
            format!("volume.usage({})", show(v))
        })
    }
    pub(super) async fn snapshot(&self, v: &VolumeRef, name: &str, live: bool) -> Answer {
        let answer = self.driver.snapshot_create(&self.call, &self.pool, v, name, live).await;
        named(answer, || {
            format!("snapshot.create({}, {name:?}, live: {live})", show(v))
        })
    }
    pub(super) async fn snapshot_delete(&self, v: &VolumeRef, name: &str) -> Answer {
        let answer = self.driver.snapshot_delete(&self.call, &self.pool, v, name).await;
        named(answer, || format!("snapshot.delete({}, {name:?})", show(v)))
    }
    pub(super) async fn snapshot_rename(&self, v: &VolumeRef, name: &str, new_name: &str) -> Answer {
        let answer = self
            .driver
            .snapshot_rename(&self.call, &self.pool, v, name, new_name)
            .await;
        named(answer, || {
            format!("snapshot.rename({}, {name:?}, {new_name:?})", show(v))
        })
    }
    pub(super) async fn snapshot_restore(&self, v: &VolumeRef, name: &str) -> Answer {
        let answer = self.driver.snapshot_restore(&self.call, &self.pool, v, name).await;
        named(answer, || format!("snapshot.restore({}, {name:?})", show(v)))
    }
    pub(super) async fn snapshot_mount(&self, v: &VolumeRef, name: &str) -> Answer<MountPlan> {
        let answer = self.driver.snapshot_mount(&self.call, &self.pool, v, name).await;
        named(answer, || format!("snapshot.mount({}, {name:?})", show(v)))
    }
    pub(super) async fn copy(&self, from: &VolumeRef, snapshot: Option<&str>, to: &VolumeRef, plain: bool) -> Answer {
        let answer = self
            .driver
            .copy(&self.call, &self.pool, from, snapshot, to, false, plain)
            .await;
        named(answer, || {
            format!("clone.copy({}, {snapshot:?}, {}, plain: {plain})", show(from), show(to))
        })
    }
    pub(super) async fn release(&self, v: &VolumeRef) -> Answer {
        named(self.driver.release(&self.call, &self.pool, v).await, || {
            format!("release.volume({})", show(v))
        })
    }
    pub(super) async fn set_quota(&self, v: &VolumeRef, bytes: Option<u64>) -> Answer {
        let answer = self.driver.set_quota(&self.call, &self.pool, v, bytes).await;
        named(answer, || format!("quota.set({}, {bytes:?})", show(v)))
    }

    /// Fills and publishes the image of this number, whose files say `mark`.
    pub(super) async fn add_image(&self, number: usize, mark: &str) -> Outcome<VolumeRef> {
        let image = image(number);
        self.fill(&image, mark).await?;
        self.end_fill(&image).await?;
        Ok(image)
    }

    /// Begins to fill a volume and writes what says `mark` into it.
    pub(super) async fn fill(&self, v: &VolumeRef, mark: &str) -> Outcome {
        let at = plan::place(&self.call, &self.begin_fill(v).await?)?;
        tree::write(&at, mark).map_err(|error| system("write where begin-fill says", &error))
    }

    /// Fills and publishes a container that is to be one tree, whose files say `mark`.
    pub(super) async fn add_plain(&self, name: &str, mark: &str) -> Outcome<VolumeRef> {
        let (v, plain) = (c(name), true);
        let begun = self.driver.begin_fill(&self.call, &self.pool, &v, plain).await;
        let at = named(begun, || format!("volume.begin-fill({}, plain: {plain})", show(&v)))?;
        let place = plan::place(&self.call, &at)?;
        tree::write(&place, mark).map_err(|error| system("write where begin-fill says", &error))?;
        let ended = self.driver.end_fill(&self.call, &self.pool, &v, plain).await;
        named(ended, || format!("volume.end-fill({}, plain: {plain})", show(&v)))?;
        Ok(v)
    }

    /// Makes a container from a new image, changes it, and answers with both: the files of the container say `mark`.
    pub(super) async fn add_container(&self, name: &str, mark: &str) -> Outcome<VolumeRef> {
        let image = image(0);
        if self.mount(&image).await.is_err() {
            self.add_image(0, "image").await?;
        }
        let volume = c(name);
        self.create_from_image(&image, &volume, false).await?;
        self.write(&volume, mark).await?;
        Ok(volume)
    }

    /// Shows `work` a volume's tree.
    pub(super) async fn with<T>(&self, v: &VolumeRef, work: impl FnOnce(&Path) -> Outcome<T>) -> Outcome<T> {
        let plan = self.mount(v).await?;
        plan::shown(&self.call, &plan, &self.mountpoint, work)
    }

    /// Writes what says `mark` into a volume.
    pub(super) async fn write(&self, v: &VolumeRef, mark: &str) -> Outcome {
        let write = |at: &Path| tree::write(at, mark).map_err(|error| system("write to the volume", &error));
        self.with(v, write).await
    }

    /// Everything in a volume.
    pub(super) async fn read(&self, v: &VolumeRef) -> Outcome<Tree> {
        self.with(v, |at| {
            tree::read(at).map_err(|error| system("read the volume", &error))
        })
        .await
    }

    /// Everything in a snapshot.
    pub(super) async fn read_snapshot(&self, v: &VolumeRef, name: &str) -> Outcome<Tree> {
        let plan = self.snapshot_mount(v, name).await?;
        plan::shown(&self.call, &plan, &self.mountpoint, |at| {
            tree::read(at).map_err(|error| system("read the snapshot", &error))
        })
    }

    /// Fails unless a volume holds just what it should.
    pub(super) async fn holds(&self, v: &VolumeRef, wanted: &Tree, when: &str) -> Outcome {
        same(wanted, &self.read(v).await?, &format!("the volume {} {when}", show(v)))
    }

    /// Fails unless the volume's files say `mark`.
    pub(super) async fn says(&self, v: &VolumeRef, mark: &str, when: &str) -> Outcome {
        says(&self.read(v).await?, mark, &format!("the volume {} {when}", show(v)))
    }

    /// Fails unless the snapshot's files say `mark`.
    pub(super) async fn snapshot_says(&self, v: &VolumeRef, name: &str, mark: &str, when: &str) -> Outcome {
        says(
            &self.read_snapshot(v, name).await?,
            mark,
            &format!("the snapshot {name:?} of {} {when}", show(v)),
        )
    }

    /// Fails unless there is no such volume.
    pub(super) async fn lacks(&self, v: &VolumeRef, when: &str) -> Outcome {
        absent(self.mount(v).await, &format!("the volume {} {when}", show(v)))
    }

    /// Fails unless there is no such snapshot.
    pub(super) async fn lacks_snapshot(&self, v: &VolumeRef, name: &str, when: &str) -> Outcome {
        let answer = self.snapshot_mount(v, name).await;
        absent(answer, &format!("the snapshot {name:?} of {} {when}", show(v)))
    }

    /// The names of all that lies in the pool's directory.
    pub(super) fn names(&self) -> Outcome<Vec<String>> {
        tree::names(&self.root).map_err(|error| system("look into the pool", &error))
    }
}

fn absent(answer: Answer<MountPlan>, what: &str) -> Outcome {
    match answer {
        Ok(_) => fail(format!("{what}: it is still there")),
        Err(refused) if refused.error.is("not-found") => Ok(()),
        Err(refused) => fail(format!("{what} must be not-found: {refused}")),
    }
}

fn same(wanted: &Tree, found: &Tree, what: &str) -> Outcome {
    let difference = tree::difference(wanted, found);
    ensure(difference.is_empty(), || {
        format!("{what} is not what it was: {difference}")
    })
}

/// Fails unless the file that bears the mark says `mark`, and the file with a thousand of them all do.
pub(super) fn says(tree: &Tree, mark: &str, what: &str) -> Outcome {
    let text = |name: &str| {
        tree.get(name)
            .and_then(|entry| entry.splitn(5, ' ').nth(4))
            .unwrap_or("nothing")
    };
    ensure(text("./etc/mark") == mark, || {
        format!("{what}: its file says {:?} and not {mark:?}", text("./etc/mark"))
    })?;
    let many = text("./etc/deep/er/file");
    ensure(
        many.lines().count() == 1000 && many.lines().all(|line| line == mark),
        || format!("{what}: a large file in it is not whole"),
    )
}
