//! A storage driver with every permission that there is, which tries to reach what it was not given.
//!
//! The configuration of its pool names the attempt (`attempt = "fs.parent"`; the modules have them all), which is made when
//! somebody asks how full the pool is, or when the configuration is validated for those that begin with `early.`. An attempt ends in
//! the host's refusal, which the driver passes on with its code before the message, or in an error that begins with
//! `escaped:`. `docs/security.md` lists what each must end in, and the test of the whole reads it there.

use hutch_sdk::storage::{Pool, PoolRef, PoolSpace, Volume, VolumeRef, VolumeState};
use hutch_sdk::{Error, Host, MountPlan, Result, TreePath};

mod answers;
mod machine;
mod resources;
mod trees;

/// The driver.
#[derive(Debug)]
pub struct Malicious;

hutch_sdk::storage_plugin! { driver: Malicious, exports: [pool, volume] }

/// Keys and values.
type Pairs = Vec<(String, String)>;

/// What an attempt that was not refused came back with, in words: the proof of an escape, or that nothing came of it.
type Attempt = Result<Outcome>;

/// How an attempt ended that the host did not refuse.
enum Outcome {
    /// The host let it through. What it did.
    Escaped(String),
    /// The host let it through because nothing can come of it; whoever tests looks at what should be untouched.
    Harmless,
}

fn escaped(what: impl Into<String>) -> Attempt {
    Ok(Outcome::Escaped(what.into()))
}

/// A call that must not succeed.
fn never<T>(result: Result<T>, what: &str) -> Attempt {
    result?;
    escaped(what)
}

/// A call that may succeed, because nothing comes of it.
fn idle<T>(result: Result<T>) -> Attempt {
    result.map(|_| Outcome::Harmless)
}

/// A place in the pool, whatever it is.
fn at(path: &str) -> TreePath {
    within("pool", path)
}

fn within(root: &str, path: &str) -> TreePath {
    TreePath {
        root: root.to_owned(),
        path: path.to_owned(),
    }
}

/// Makes the attempt that the configuration names.
fn attempt(host: &impl Host, config: &[(String, String)], early: bool) -> Result<()> {
    let name = config
        .iter()
        .find(|(key, _)| key == "attempt")
        .map_or("", |(_, name)| name);
    if name.is_empty() || name.starts_with("early.") != early {
        return Ok(());
    }
    let family = name.split('.').next().unwrap_or_default();
    let outcome = match family {
        "fs" | "early" => trees::attempt(host, name),
        "command" | "link" | "filter" | "service" | "http" | "watch" | "kv" | "system" => machine::attempt(host, name),
        "resource" | "wasi" => resources::attempt(host, name),
        "answer" => return Err(answers::error(name)),
        _ => escaped(format!("there is no attempt {name:?}")),
    };
    match outcome {
        Ok(Outcome::Harmless) => Ok(()),
        Ok(Outcome::Escaped(what)) => Err(Error::new("internal", format!("escaped: {what}"))),
        Err(error) => Err(Error {
            message: format!("refused with {}: {}", error.code, error.message),
            ..error
        }),
    }
}

impl Pool for Malicious {
    fn validate(host: &impl Host, pool: &PoolRef, _: Option<&[(String, String)]>) -> Result<Pairs> {
        attempt(host, &pool.config, true)?;
        Ok(pool.config.clone())
    }

    fn create(host: &impl Host, _: &PoolRef) -> Result<()> {
        // What is thrown away goes through a directory of the host's, which is there from now on.
        host.fs_make_dir(&at("first/second"), 0o700)?;
        host.fs_discard(&at("first"))
    }

    fn open(_: &impl Host, _: &PoolRef) -> Result<()> {
        Ok(())
    }

    fn delete(host: &impl Host, _: &PoolRef) -> Result<()> {
        for entry in host.fs_list_dir(&at(""), None, 1000)? {
            host.fs_discard(&at(&entry.name))?;
        }
        Ok(())
    }

    fn space(host: &impl Host, pool: &PoolRef) -> Result<PoolSpace> {
        attempt(host, &pool.config, false)?;
        Ok(PoolSpace {
            total_bytes: 1,
            used_bytes: 0,
            total_inodes: 0,
            used_inodes: 0,
        })
    }

    fn reconcile(_: &impl Host, _: &PoolRef, _: &[VolumeState]) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

fn no_volumes<T>() -> Result<T> {
    Err(Error::new("unsupported", "this driver keeps no volumes"))
}

impl Volume for Malicious {
    fn create(_: &impl Host, _: &PoolRef, _: &VolumeRef) -> Result<()> {
        no_volumes()
    }

    fn begin_fill(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: bool) -> Result<TreePath> {
        no_volumes()
    }

    fn end_fill(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: bool) -> Result<()> {
        no_volumes()
    }

    fn create_from_image(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: &VolumeRef, _: bool) -> Result<()> {
        no_volumes()
    }

    fn delete(_: &impl Host, _: &PoolRef, _: &VolumeRef) -> Result<()> {
        no_volumes()
    }

    fn rename(_: &impl Host, _: &PoolRef, _: &VolumeRef, _: &str) -> Result<()> {
        no_volumes()
    }

    fn mount(_: &impl Host, _: &PoolRef, _: &VolumeRef) -> Result<MountPlan> {
        no_volumes()
    }

    fn usage(_: &impl Host, _: &PoolRef, _: &VolumeRef) -> Result<Option<u64>> {
        no_volumes()
    }
}
