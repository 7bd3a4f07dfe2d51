//! File trees as the cases write and compare them.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// What is at one place of a tree: everything about it that a volume has to keep.
pub type Tree = BTreeMap<String, String>;

/// Writes a small tree below `at` whose files say `mark`: with a directory of another mode and owner, a symbolic link, a hard
/// link, an executable and an extended attribute.
///
/// # Errors
/// What the system says.
pub fn write(at: &Path, mark: &str) -> io::Result<()> {
    let etc = at.join("etc");
    std::fs::create_dir_all(etc.join("deep/er"))?;
    std::fs::write(etc.join("mark"), mark)?;
    std::fs::write(etc.join("deep/er/file"), format!("{mark}\n").repeat(1000))?;
    std::fs::set_permissions(etc.join("deep"), Permissions::from_mode(0o750))?;
    std::os::unix::fs::chown(etc.join("deep/er/file"), Some(1000), Some(1001))?;
    for (link, target) in [("link", "mark"), ("dangling", "/nowhere")] {
        replace(&etc.join(link), |place| std::os::unix::fs::symlink(target, place))?;
    }
    replace(&etc.join("hard"), |place| std::fs::hard_link(etc.join("mark"), place))?;
    std::fs::write(at.join("run"), "#!/bin/true\n")?;
    std::fs::set_permissions(at.join("run"), Permissions::from_mode(0o4755))?;
    let flags = rustix::fs::XattrFlags::empty();
    match rustix::fs::setxattr(at.join("etc"), c"user.mark", mark.as_bytes(), flags) {
        // A file system without them keeps none.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn replace(place: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    match std::fs::remove_file(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make(place)
}

/// Reads a tree: its root under the name `.`, everything below it by its path.
///
/// # Errors
/// What the system says.
pub fn read(at: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    read_into(at, ".", &mut tree)?;
    Ok(tree)
}

fn read_into(at: &Path, name: &str, tree: &mut Tree) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(at)?;
    let kind = meta.file_type();
    let (mode, uid, gid, links) = (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.nlink());
    let what = if kind.is_dir() {
        format!("directory {mode:o} {uid}:{gid} {}", attribute(at))
    } else if kind.is_symlink() {
        format!("symlink {}", std::fs::read_link(at)?.display())
    } else if kind.is_file() {
        let content = std::fs::read(at)?;
        format!(
            "file {mode:o} {uid}:{gid} x{links} {}",
            String::from_utf8_lossy(&content)
        )
    } else {
        format!("other {mode:o}")
    };
    tree.insert(name.to_owned(), what);
    if kind.is_dir() {
        for entry in std::fs::read_dir(at)? {
            let entry = entry?;
            read_into(
                &entry.path(),
                &format!("{name}/{}", entry.file_name().to_string_lossy()),
                tree,
            )?;
        }
    }
    Ok(())
}

fn attribute(at: &Path) -> String {
    let mut value = [0_u8; 256];
    match rustix::fs::getxattr(at, c"user.mark", value.as_mut_slice()) {
        Ok(length) => String::from_utf8_lossy(value.get(..length).unwrap_or_default()).into_owned(),
        Err(_) => String::new(),
    }
}

/// How two trees differ, in a line; empty where they don't.
pub fn difference(wanted: &Tree, found: &Tree) -> String {
    let short = |text: Option<&String>| match text {
        None => "nothing".to_owned(),
        Some(text) => text.chars().take(60).collect(),
    };
    let names: std::collections::BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
    let differing = names.into_iter().filter(|name| wanted.get(*name) != found.get(*name));
    let lines: Vec<_> = differing
        .map(|name| {
            format!(
                "{name} is {:?} and not {:?}",
                short(found.get(name)),
                short(wanted.get(name))
            )
        })
        .collect();
    match lines.as_slice() {
        [first, rest @ ..] if rest.len() > 2 => format!("{first}; and {} places more", rest.len()),
        lines => lines.join("; "),
    }
}

/// The names of everything below `at`, without what the host keeps there itself.
///
/// # Errors
/// What the system says.
pub fn names(at: &Path) -> io::Result<Vec<String>> {
    let mut tree = Tree::new();
    for entry in std::fs::read_dir(at)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // The host's trash and mark, and what mkfs leaves.
        if !name.starts_with(".hutch-") && name != "lost+found" {
            read_into(&entry.path(), &name, &mut tree)?;
        }
    }
    Ok(tree.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_told_from_what_was_changed() {
        let place = std::env::temp_dir().join(format!("hutch-conformance-tree-{}", std::process::id()));
        std::fs::create_dir_all(&place).expect("a directory");
        write(&place, "one").expect("written");
        let first = read(&place).expect("read");
        write(&place, "one").expect("again");
        assert_eq!(difference(&first, &read(&place).expect("read")), "");
        std::fs::set_permissions(place.join("etc/deep"), Permissions::from_mode(0o700)).expect("changed");
        let changed = difference(&first, &read(&place).expect("read"));
        assert!(changed.starts_with("./etc/deep is \"directory 700"), "{changed}");
        std::fs::remove_dir_all(&place).expect("removed");
    }
}
