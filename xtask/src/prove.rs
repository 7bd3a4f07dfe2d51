//! `prove`: everything at full length, and the dated record of it in `docs/proof.md`.

use crate::{bench, lab, run, test};
use anyhow::{Context, Result};
use clap::Args;
use std::fmt::Write as _;
use std::time::Instant;
use time::OffsetDateTime;
use time::macros::format_description;

/// What `prove` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Do without the comparison where Incus is not installed
    #[arg(long)]
    pub(crate) without_peer: bool,
    /// Do without the lab, where QEMU or virtme-ng can't be installed
    #[arg(long)]
    pub(crate) without_lab: bool,
}

/// Runs all tests with every case, then the benchmarks, and records what came out, also when something failed.
///
/// # Errors
/// When a test fails, a figure can't be measured, or the record can't be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    // Before anything is written here.
    let source = Source::read()?;
    let tests = timed(|| {
        test::run(&test::Options {
            all: true,
            ..test::Options::default()
        })
    });
    let lab = (!options.without_lab).then(|| timed(|| lab::boot(&lab::Options::all_suites())));
    let bench = bench::Options {
        without_peer: options.without_peer,
        only: None,
        dry_run: false,
        count: 128,
    };
    let figures = timed(|| {
        let table = bench::measure(&bench)?;
        bench::write(&table)?;
        Ok(table)
    });
    let record = record(&source, &tests, lab.as_ref(), &figures)?;
    let file = run::top().join("docs/proof.md");
    std::fs::write(&file, record).with_context(|| format!("can't write {}", file.display()))?;
    println!("prove: written to {}", file.display());
    tests.0?;
    if let Some((lab, _)) = lab {
        lab?.1?;
    }
    figures.0?;
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> (Result<T>, u64) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed().as_secs())
}

/// What was proved.
struct Source {
    commit: String,
    /// Whether it is just that.
    clean: bool,
}

impl Source {
    fn read() -> Result<Self> {
        Ok(Self {
            commit: run::output(&mut run::program("git", ["rev-parse", "--short=12", "HEAD"]))?,
            clean: run::output(&mut run::program("git", ["status", "--porcelain"]))?.is_empty(),
        })
    }
}

/// What came of the lab's tests, with what its kernel calls itself, and how many seconds that took.
type Lab = (Result<(String, Result<()>)>, u64);

fn record(
    source: &Source,
    tests: &(Result<()>, u64),
    lab: Option<&Lab>,
    figures: &(Result<String>, u64),
) -> Result<String> {
    let date = OffsetDateTime::now_utc().format(format_description!("[year]-[month]-[day]"))?;
    let Source { commit, clean } = source;
    let kernel = run::output(&mut run::program("uname", ["-srm"]))?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = String::from("# Proof\n\nWritten by `cargo xtask prove`; do not edit.\n\n");
    writeln!(text, "- date: {date}")?;
    writeln!(
        text,
        "- commit: {commit}{}",
        if *clean {
            ""
        } else {
            ", with changes that were not committed"
        }
    )?;
    writeln!(text, "- machine: {kernel}, {processors} processors\n")?;
    writeln!(text, "## Tests, every case\n")?;
    match &tests.0 {
        Ok(()) => writeln!(text, "All passed, in {} s.\n", tests.1)?,
        Err(error) => writeln!(text, "**Failed** after {} s: {error:#}\n", tests.1)?,
    }
    writeln!(text, "## The lab: cgroup v2 only, emulated\n")?;
    match lab {
        None => writeln!(text, "**Not run**.\n")?,
        Some((Ok((kernel, Ok(()))), time)) => writeln!(text, "All passed, in {time} s, on {kernel}.\n")?,
        Some((Ok((kernel, Err(error))), time)) => {
            writeln!(text, "**Failed** after {time} s, on {kernel}: {error:#}\n")?;
        }
        Some((Err(error), _)) => writeln!(text, "**Not run**: {error:#}\n")?,
    }
    writeln!(text, "## Figures\n")?;
    match &figures.0 {
        Ok(table) => writeln!(text, "{}", table.trim_end())?,
        Err(error) => writeln!(text, "**Not measured**: {error:#}")?,
    }
    Ok(text)
}
