//! What a copy costs the host, in a process of its own, because the process's memory is looked at. Needs root.

mod common;

use std::path::Path;
use std::process::Command;

use common::{at, host, isolated};
use hutch_broker::Request;

/// What a script prints that works on the directory `dir`.
fn python(script: &str, dir: &Path) -> String {
    let output = Command::new("python3").args(["-c", script]).arg(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Most memory that this process has had, in KiB (`VmHWM`, proc_pid_status(5)).
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What a container fills its tree with costs the host no memory, and comes out right.
#[test]
fn a_copy_of_many_links_and_directories_takes_little_memory() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let pool = dir.join("pool");
        std::fs::create_dir(&pool).unwrap();
        // Each file has two names; the way to them is nearly as long as a path can be.
        let fill = r#"import os, sys
os.chdir(sys.argv[1]); os.mkdir("source"); os.chdir("source")
for i in range(14):
    os.mkdir("d" * 250); os.chdir("d" * 250)
for i in range(8000):
    open(f"a{i}", "w").close(); os.link(f"a{i}", f"b{i}")
for i in range(1000):
    os.mkdir("x" * 240 + str(i)); open("x" * 240 + f"{i}/f", "w").close()
os.link("a0", "x" * 240 + "7/again")"#;
        python(fill, &pool);
        let cx = host.with_root(&pool);
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = peak_memory();
        let request = Request::FsCopyTree {
            source: at("source"),
            to: at("copy"),
        };
        host.call(&cx, request).await.unwrap();
        let grown = peak_memory() - before;
        assert!(grown < 16 << 10, "the copy took {grown} KiB");
        let count = r#"import collections, os, sys
os.chdir(sys.argv[1])
names, inodes = 0, collections.Counter()
def look(fd):
    global names
    for entry in os.scandir(fd):
        stat = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            below = os.open(entry.name, os.O_RDONLY, dir_fd=fd); look(below); os.close(below)
        else:
            names += 1; inodes[(stat.st_ino, stat.st_nlink)] += 1
look(os.open("copy", os.O_RDONLY))
wrong = [(k, n) for k, n in inodes.items() if k[1] != n]
print(names, len(inodes), len(wrong))"#;
        assert_eq!(python(count, &pool), "17001 9000 0");
        assert_eq!(std::fs::read_dir(pool.join(".hutch-trash")).unwrap().count(), 0);
    });
}
