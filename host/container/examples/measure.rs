//! Measures what a container costs: `cargo run --release -p hutch-container --example measure -- KEEPER ROOT [COUNT [ID]]`, as root, with
//! the keeper's program, the directory of a root file system that has `/bin/true` and `/bin/sleep`, and the first of the ids that it may use.
//! Prints milliseconds (median, worst) and the keeper's memory in KiB.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hutch_container::{ContainerSpec, ExecSpec, ExecStdio, IdMap, RootFs, Runtime};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: measure KEEPER ROOT [COUNT [ID]]";
    let keeper = PathBuf::from(arguments.next().ok_or(usage)?);
    let root = PathBuf::from(arguments.next().ok_or(usage)?);
    let count: u32 = arguments.next().unwrap_or_else(|| "20".to_owned()).parse()?;
    let ids: u32 = arguments.next().unwrap_or_else(|| "1700000000".to_owned()).parse()?;
    let dir = std::env::temp_dir().join(format!("hutch-measure-{}", std::process::id()));
    let runtime = Runtime::new(keeper, dir.join("run"))?;
    let (mut create, mut start, mut first, mut exec, mut kill, mut pss) = Default::default();
    for number in 0..count {
        let own = dir.join(number.to_string());
        let (upper, work) = (own.join("upper"), own.join("work"));
        std::fs::create_dir_all(&upper)?;
        std::fs::create_dir_all(&work)?;
        let idmap = IdMap::contiguous(ids + number * 65_536, 65_536);
        let overlay = RootFs::Overlay {
            layers: vec![root.clone()],
            upper,
            work,
        };
        let mut spec = ContainerSpec::new(format!("measure-{}-{number}", std::process::id()), Some(idmap), overlay);
        spec.init = vec!["/bin/sleep".to_owned(), "1000000".to_owned()];
        let container = timed(&mut create, runtime.create(&spec, None)).await?;
        timed(&mut start, container.start()).await?;
        memory(&mut pss, container.keeper_pid())?;
        timed(&mut first, run_true(&container, "first")).await?;
        for again in 0..20 {
            timed(&mut exec, run_true(&container, &format!("exec-{again}"))).await?;
        }
        timed(&mut kill, container.kill()).await?;
        container.release().await?;
    }
    std::fs::remove_dir_all(dir)?;
    for (name, list) in [
        ("create", create),
        ("start", start),
        ("first exec", first),
        ("exec", exec),
        ("kill", kill),
        ("keeper KiB", pss),
    ] {
        report(name, list);
    }
    Ok(())
}

async fn timed<T, E>(list: &mut Vec<f64>, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let begin = Instant::now();
    let done = work.await;
    list.push(Duration::as_secs_f64(&begin.elapsed()) * 1000.0);
    done
}

async fn run_true(container: &hutch_container::Keeper, id: &str) -> Result<(), Failure> {
    let spec = ExecSpec {
        id: id.to_owned(),
        command: vec!["/bin/true".to_owned()],
        env: Vec::new(),
        cwd: None,
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };
    let null = || std::fs::File::open("/dev/null").map(OwnedFd::from);
    let stdio = ExecStdio::Pipes {
        stdin: null()?,
        stdout: null()?,
        stderr: null()?,
    };
    let exec = container.exec(spec, stdio).await?;
    exec.wait().await.ok_or("the keeper is gone")?;
    Ok(container.forget_exec(id).await?)
}

/// The keeper's proportional share of memory (`Pss`, `proc_pid_smaps(5)`).
fn memory(list: &mut Vec<f64>, pid: u32) -> Result<(), Failure> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .ok_or("no Pss")?;
    list.push(line.trim().trim_end_matches(" kB").parse()?);
    Ok(())
}

fn report(name: &str, mut list: Vec<f64>) {
    list.sort_by(f64::total_cmp);
    if let (Some(median), Some(worst)) = (list.get(list.len() / 2), list.last()) {
        println!("{name:12} {median:9.2} {worst:9.2}");
    }
}
