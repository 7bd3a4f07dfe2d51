//! The conformance suite against drivers that break one promise each: the case that says so finds it, and in the honest one there is nothing
//! to be found. What the suite would not find, no author would.

use crate::conformance::{count, report};
use anyhow::{Context, Result, ensure};
use hutch_tests::programs::Programs;
use std::path::PathBuf;

/// The fault, and the case that finds it.
const MUTANTS: [(&str, &str); 24] = [
    ("accepts-any-key", "storage.pool.validate.unknown-key"),
    ("open-makes", "storage.pool.open.missing"),
    ("fuller-than-full", "storage.pool.space.possible"),
    ("pool-delete-leaves", "storage.pool.delete.idempotent"),
    ("reconcile-keeps-all", "storage.pool.reconcile.tells"),
    ("reconcile-tells-anothers", "storage.pool.reconcile.keeps"),
    ("reconcile-drops-snapshots", "storage.pool.reconcile.keeps"),
    ("reconcile-leaves-making", "storage.volume.create.taken-back"),
    ("delete-once", "storage.volume.delete.idempotent"),
    ("create-in-place", "storage.volume.create-from-image.killed"),
    ("create-replaces", "storage.volume.create.other-origin"),
    ("shares-image", "storage.volume.create-from-image.independent"),
    ("swallows-errors", "storage.volume.create-from-image.host-error"),
    ("hides-refusals", "storage.volume.delete.denied"),
    ("fill-keeps", "storage.volume.fill.again"),
    ("fill-is-there", "storage.volume.fill.unfinished"),
    ("rename-loses-snapshots", "storage.volume.rename.idempotent"),
    ("rename-replaces", "storage.volume.rename.taken"),
    ("mount-moves", "storage.volume.mount.repeated"),
    ("believes-names", "storage.volume.names.hostile"),
    ("snapshot-leaks", "storage.snapshot.create.no-leak"),
    ("snapshot-follows", "storage.snapshot.create.point-in-time"),
    ("restore-discards-first", "storage.snapshot.restore.host-error"),
    ("quota-ignored", "storage.quota.set.enforced"),
];

fn plugin() -> Result<PathBuf> {
    let guests = Programs::from_environment()?.guests;
    Ok(guests
        .context("HUTCH_GUESTS is not set")?
        .join("hutch_mutant_guest.wasm"))
}

#[test]
fn an_honest_driver_is_found_at_no_fault() -> Result<()> {
    let report = report(&plugin()?, &[])?;
    let (passed, failed) = (count(&report, "passed"), count(&report, "failed"));
    ensure!(failed.is_empty(), "{failed:#?}");
    ensure!(passed.len() > 90, "only {} cases were shown", passed.len());
    // So that a case which is skipped here is none that finds anything.
    for (fault, case) in MUTANTS {
        let skipped = count(&report, "skipped")
            .iter()
            .any(|line| line.contains(&format!("{case:?}")));
        ensure!(!skipped || fault == "quota-ignored", "{case} was skipped");
    }
    Ok(())
}

#[test]
fn each_broken_promise_is_found_by_the_case_that_says_so() -> Result<()> {
    for (fault, case) in MUTANTS {
        let option = format!("fault={fault}");
        let more = ["--filesystem", "tmpfs", "--option", &option, "--filter", case];
        let report = report(&plugin()?, &more)?;
        let found = count(&report, "failed")
            .iter()
            .any(|line| line.starts_with(&format!("{case:?}:")));
        ensure!(found, "{fault} was not found by {case}: {report:#}");
    }
    Ok(())
}
