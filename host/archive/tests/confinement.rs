//! What the process that unpacks can still do, seen from outside while it works. Needs root.

mod common;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;

use common::{directory, file, unpacker};
use hutch_archive::{Content, Error};

/// An archive that takes long enough to be watched: one file of 4 GiB, all of which is a hole of the archive.
fn long() -> File {
    let size = 4 << 30;
    let mut header = tar::Header::new_gnu();
    header.set_path("only").unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    let archive = file(header.as_bytes());
    archive.set_len(512 + size + 1024).unwrap();
    archive
}

/// Processes that this one has started.
fn children() -> Vec<PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    let pids = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    pids.map(|pid| PathBuf::from("/proc").join(pid)).collect()
}

fn field(status: &str, name: &str) -> String {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
        .to_owned()
}

/// CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID and CAP_SETFCAP (capability.h).
const TO_UNPACK: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 31;

#[test]
fn the_process_that_unpacks_has_little() {
    let archive = long();
    let target = tempfile::tempdir().unwrap();
    let mut seen = 0;
    let mut look = |_| {
        let [process] = &children()[..] else {
            panic!("one process is expected")
        };
        let status = std::fs::read_to_string(process.join("status")).unwrap();
        assert_eq!(field(&status, "Seccomp"), "2", "no filter of system calls");
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        for set in ["CapEff", "CapPrm"] {
            assert_eq!(
                u64::from_str_radix(&field(&status, set), 16).unwrap(),
                TO_UNPACK,
                "{set}"
            );
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&field(&status, set), 16).unwrap(), 0, "{set}");
        }
        for namespace in ["mnt", "net", "ipc", "uts"] {
            let of = |process: PathBuf| std::fs::read_link(process.join("ns").join(namespace)).unwrap();
            assert_ne!(of(process.clone()), of(PathBuf::from("/proc/self")), "{namespace}");
        }
        let names: Vec<_> = std::fs::read_dir(process.join("root"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["only"], "more than the target can be seen");
        let mounts = std::fs::read_to_string(process.join("mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(mounts.contains("nosuid,nodev,noexec"), "{mounts}");
        seen += 1;
        ControlFlow::Break(())
    };
    let result = unpacker().unpack(&archive, Content::Rootfs, &directory(target.path()), false, &mut look);
    assert_eq!((result, seen), (Err(Error::Cancelled), 1));

    let mut seen = 0;
    let mut look = |_| {
        let [process] = &children()[..] else {
            panic!("one process is expected")
        };
        let status = std::fs::read_to_string(process.join("status")).unwrap();
        assert_eq!(
            field(&status, "Uid").split_whitespace().collect::<Vec<_>>(),
            ["65534"; 4]
        );
        assert_eq!(u64::from_str_radix(&field(&status, "CapPrm"), 16).unwrap(), 0);
        assert_eq!(field(&status, "Seccomp"), "2");
        seen += 1;
        ControlFlow::Break(())
    };
    let result = unpacker().inspect(&archive, Content::Rootfs, &mut look);
    assert_eq!((result, seen), (Err(Error::Cancelled), 1));
    assert!(children().is_empty(), "a process is left");
}
