//! Attempts on files. The test has planted a directory in the pool, as the root of a container that shares it could: `link` leads to a
//! directory outside, `link-to-file` to a file there, `fifo`, `device` and `large` are what their names say.

use hutch_sdk::Host;

use crate::{Attempt, at, escaped, idle, never, within};

pub(crate) fn attempt(host: &impl Host, name: &str) -> Attempt {
    let read = |path: &str| never(host.fs_read_file(&at(path)), "read a file");
    match name {
        "fs.parent" => read("../../state.db"),
        "fs.parent-within" => read("planted/../../../state.db"),
        "fs.parent-alone" => never(host.fs_list_dir(&at(".."), None, 10), "listed the directory above"),
        "fs.absolute" => read("/etc/shadow"),
        "fs.nul" => read("planted/large\0.txt"),
        "fs.long-path" => read(&"x/".repeat(4000)),
        "fs.link" => read("planted/link/secret"),
        "fs.link-last" => read("planted/link-to-file"),
        "fs.link-list" => never(
            host.fs_list_dir(&at("planted/link"), None, 10),
            "listed a directory outside",
        ),
        "fs.link-make" => never(
            host.fs_make_dir(&at("planted/link/made"), 0o755),
            "made a directory outside",
        ),
        "fs.link-write" => never(
            host.fs_write_file(&at("planted/link/secret"), b"x", 0o644),
            "wrote outside",
        ),
        "fs.link-replace" => idle(host.fs_write_file(&at("planted/link-to-file"), b"x", 0o644)),
        "fs.link-rename" => never(
            host.fs_rename(&at("planted/link/secret"), &at("taken")),
            "took a file from outside",
        ),
        "fs.link-discard-below" => never(host.fs_discard(&at("planted/link/secret")), "removed a file outside"),
        "fs.link-discard" => idle(host.fs_discard(&at("planted/link"))),
        "fs.link-copy" => {
            host.fs_copy_tree(&at("planted/link"), &at("copied"))?;
            match host.fs_stat(&at("copied"))? {
                Some(found) if found.kind == "symlink" => idle(host.fs_discard(&at("copied"))),
                found => escaped(format!(
                    "copied what the link leads to: {:?}",
                    found.map(|found| found.kind)
                )),
            }
        }
        "fs.fifo" => read("planted/fifo"),
        "fs.device" => read("planted/device"),
        "fs.large" => read("planted/large"),
        "fs.directory" => read("planted"),
        "fs.mark" => read(".hutch-pool"),
        "fs.mark-replace" => never(
            host.fs_write_file(&at(".hutch-pool"), b"x", 0o600),
            "replaced the host's mark",
        ),
        "fs.mark-rename" => never(
            host.fs_rename(&at("planted"), &at(".hutch-pool")),
            "renamed over the host's mark",
        ),
        "fs.trash" => never(
            host.fs_list_dir(&at(".hutch-trash"), None, 10),
            "listed the host's own directory",
        ),
        "fs.unknown-root" => never(
            host.fs_read_file(&within("etc", "shadow")),
            "used a root that it was not given",
        ),
        "fs.other-pool" => never(
            host.fs_list_dir(&within("testpool", ""), None, 10),
            "listed another pool",
        ),
        "fs.empty-root" => never(
            host.fs_list_dir(&within("", ""), None, 10),
            "used a root without a name",
        ),
        "fs.path-as-root" => never(host.fs_list_dir(&within("/", "etc"), None, 10), "used a path as a root"),
        "fs.rename-across" => never(
            host.fs_rename(&at("planted"), &within("testpool", "taken")),
            "moved into another pool",
        ),
        "fs.copy-across" => never(
            host.fs_copy_tree(&within("testpool", ""), &at("taken")),
            "copied another pool",
        ),
        "fs.copy-into-itself" => never(
            host.fs_copy_tree(&at("planted"), &at("planted/deeper")),
            "copied a tree into itself",
        ),
        "fs.no-layers" => never(host.fs_copy_merged(&[], &at("merged")), "merged nothing"),
        "fs.many-layers" => never(
            host.fs_copy_merged(&vec![at("planted"); 20_000], &at("merged")),
            "merged 20,000 layers",
        ),
        "fs.write-large" => never(
            host.fs_write_file(&at("large"), &vec![0; 20 << 20], 0o644),
            "wrote 20 MiB",
        ),
        "fs.mode" => never(
            host.fs_make_dir(&at("moded"), 0o1_000_755),
            "made something with bits of a file's type",
        ),
        "fs.discard-all" => never(host.fs_discard(&at("")), "discarded the pool's own directory"),
        // Roots come with each call: that of another call is worth nothing. This one is made while there is no pool yet.
        "early.replayed-root" => read("planted/large"),
        "early.replayed-write" => never(
            host.fs_write_file(&at("early"), b"x", 0o644),
            "wrote with a root of another call",
        ),
        _ => escaped(format!("there is no attempt {name:?}")),
    }
}
