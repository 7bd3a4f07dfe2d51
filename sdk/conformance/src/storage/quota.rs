//! `hutch:storage/quota`: what the action leaves out.

use std::path::Path;

use hutch_driver::storage::VolumeRef;
use rustix::io::Errno;

use super::action::quotas;
use super::room::{Pool, c, system};
use crate::Stand;
use crate::case::{Case, Outcome, Stop, cases, ensure, fail, refused, skip};

pub(super) fn cases() -> Vec<Case> {
    cases! {
        "storage.quota.set.enforced": "a limited volume can't grow beyond its limit" => enforced;
        "storage.quota.set.lifted": "a limit that is lifted holds no longer" => lifted;
        "storage.quota.set.restored": "a limit holds after a snapshot was restored" => restored;
        "storage.quota.set.missing": "a volume that is not there can't be limited" => missing;
        "storage.quota.set.unsupported": "where there are no limits, a limit is refused as unsupported, and lifting one succeeds" => unsupported;
    }
}

const LIMIT: u64 = 4 << 20;

/// A limited container, where the file system has limits.
async fn limited(stand: &Stand) -> Outcome<(Pool, VolumeRef)> {
    let pool = Pool::made(stand).await?;
    if !quotas(&pool).await? {
        return skip("the file system of this run has no project quotas in force: use --filesystem ext4 or xfs");
    }
    let one = pool.add_container("c1", "one").await?;
    pool.set_quota(&one, Some(LIMIT)).await?;
    Ok((pool, one))
}

/// Writes twice the limit into the volume, and says whether there was room.
async fn fits(pool: &Pool, volume: &VolumeRef) -> Outcome<bool> {
    let write = |at: &Path| {
        let file = at.join("big");
        let data = vec![b'x'; usize::try_from(2 * LIMIT).unwrap_or(usize::MAX)];
        let written = std::fs::write(&file, data).and_then(|()| std::fs::File::open(&file)?.sync_all());
        let removed = std::fs::remove_file(&file);
        let full = [Errno::DQUOT, Errno::NOSPC].map(|errno| errno.raw_os_error());
        match written {
            Ok(()) => removed.map(|()| true).map_err(|error| system("remove a file", &error)),
            Err(error) if error.raw_os_error().is_some_and(|code| full.contains(&code)) => Ok(false),
            Err(error) => Err(system("write to the volume", &error)),
        }
    };
    pool.with(volume, write).await
}

async fn enforced(stand: &Stand) -> Outcome {
    let (pool, one) = limited(stand).await?;
    ensure(!fits(&pool, &one).await?, || {
        format!("a volume limited to {LIMIT} bytes took {} more", 2 * LIMIT)
    })
}

async fn lifted(stand: &Stand) -> Outcome {
    let (pool, one) = limited(stand).await?;
    pool.set_quota(&one, None).await?;
    ensure(fits(&pool, &one).await?, || "the limit still holds".to_owned())
}

async fn restored(stand: &Stand) -> Outcome {
    if !stand.can("snapshot") {
        return skip("the driver exports no snapshot");
    }
    let (pool, one) = limited(stand).await?;
    pool.snapshot(&one, "s1", false).await?;
    pool.snapshot_restore(&one, "s1").await?;
    ensure(!fits(&pool, &one).await?, || {
        "the limit is gone after a restore".to_owned()
    })
}

async fn missing(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    let answer = pool.set_quota(&c("nobody"), Some(LIMIT)).await;
    refused(answer, &["not-found"], "limiting what is not there")
}

async fn unsupported(stand: &Stand) -> Outcome {
    let pool = Pool::made(stand).await?;
    if quotas(&pool).await? {
        return skip("the file system of this run has limits");
    }
    let one = pool.add_container("c1", "one").await?;
    pool.set_quota(&one, None).await?;
    match pool.set_quota(&one, Some(LIMIT)).await {
        Ok(()) => fail("the limit was accepted this time"),
        Err(refused) if refused.error.is("unsupported") => Ok(()),
        Err(refused) => Err(Stop::from(refused)),
    }
}
