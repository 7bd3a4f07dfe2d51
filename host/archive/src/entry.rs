//! One entry of an archive, whatever its format, with a name that has been checked.

use crate::error::{Error, Refusal, Result};

/// The longest path that the kernel takes in one call, without its final zero byte (PATH_MAX in limits.h).
const PATH_MAX: usize = 4095;
/// The longest name of a file (NAME_MAX in limits.h).
const NAME_MAX: usize = 255;

/// A path below the root of the tree: components separated by single slashes, none of them `.` or `..` or empty. The
/// empty path is the root itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Checks a name as it stands in an archive. `./a//b/` is `a/b`.
    pub(crate) fn parse(name: &[u8], depth: usize) -> Result<Self, Refusal> {
        if name.is_empty() || name.contains(&0) {
            return Err(Refusal::NotAPath);
        }
        if name[0] == b'/' {
            return Err(Refusal::Absolute);
        }
        let mut path = Vec::with_capacity(name.len());
        let mut components = 0;
        for component in name.split(|&b| b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(Refusal::Upwards),
                _ => {}
            }
            components += 1;
            if component.len() > NAME_MAX || components > depth {
                return Err(Refusal::TooLong);
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        if path.len() > PATH_MAX {
            return Err(Refusal::TooLong);
        }
        Ok(Self(path))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The parent's path and the last component. Both are empty for the root.
    pub(crate) fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[], &self.0),
        }
    }

    /// What is left of the path below `prefix`, one component; `None` when it lies elsewhere.
    pub(crate) fn below(&self, prefix: &[u8]) -> Option<Self> {
        let rest = self.0.strip_prefix(prefix)?;
        match rest {
            [] => Some(Self::default()),
            [b'/', tail @ ..] => Some(Self(tail.to_vec())),
            _ => None,
        }
    }

    /// This path below `prefix`, one component.
    pub(crate) fn under(&self, prefix: &[u8]) -> Self {
        if self.is_root() {
            Self(prefix.to_vec())
        } else {
            Self([prefix, b"/", &self.0].concat())
        }
    }

    /// This path with one more component, which a directory of the archive holds.
    pub(crate) fn join(&self, name: &[u8], depth: usize) -> Result<Self, Refusal> {
        if name.contains(&b'/') || matches!(name, b"." | b".." | b"") {
            return Err(if name == b".." {
                Refusal::Upwards
            } else {
                Refusal::NotAPath
            });
        }
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self::parse(&path, depth)
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// A regular file of this apparent size in bytes.
    File(u64),
    /// A symbolic link with its target, which is not interpreted.
    Symlink(Vec<u8>),
    /// Another name of the file at this path.
    Hardlink(EntryPath),
    Fifo,
    Socket,
    Device,
}

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// An extended attribute: name and value.
pub(crate) type Xattr = (Vec<u8>, Vec<u8>);

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: EntryPath,
    pub(crate) kind: Kind,
    /// Permissions with set-uid, set-gid and sticky bits: 0 to 07777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<Xattr>,
}

/// Takes the data of a file. What is not written is a hole.
pub(crate) trait DataSink {
    /// `data` stands at `offset`. Offsets only grow.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()>;
}

/// An archive that is read from beginning to end.
pub(crate) trait Source {
    /// The next entry. What was not read of the data of the one before is passed over.
    fn next_entry(&mut self) -> Result<Option<Entry>>;
    /// Gives the data of the entry just returned, a [`Kind::File`], to `sink`.
    fn read_data(&mut self, sink: &mut dyn DataSink) -> Result<()>;
}

/// Checks an id from an archive.
pub(crate) fn owner(id: u64, entry: &[u8]) -> Result<u32> {
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Error::refused(entry, Refusal::Owner)),
    }
}

/// Checks the size of an entry's extended attributes: at most 64 KiB a value and 255 bytes a name (xattr(7)), and 1 MiB
/// in all, which no file system exceeds.
pub(crate) fn check_xattrs(xattrs: &[Xattr], entry: &[u8]) -> Result<()> {
    let too_large = |(name, value): &Xattr| name.len() > 255 || value.len() > 64 << 10 || name.contains(&0);
    let total: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if total > 1 << 20 || xattrs.iter().any(too_large) {
        return Err(Error::refused(entry, Refusal::Xattrs));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(name: &str) -> Result<String, Refusal> {
        EntryPath::parse(name.as_bytes(), 8).map(|p| String::from_utf8(p.0).unwrap())
    }

    #[test]
    fn names_are_made_plain() {
        assert_eq!(parse("./a//b/./c/").unwrap(), "a/b/c");
        assert_eq!(parse("./").unwrap(), "");
        assert_eq!(parse("a..b/...").unwrap(), "a..b/...");
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        assert_eq!(parse("/etc/passwd"), Err(Refusal::Absolute));
        assert_eq!(parse("a/../../b"), Err(Refusal::Upwards));
        assert_eq!(parse(".."), Err(Refusal::Upwards));
        assert_eq!(parse(""), Err(Refusal::NotAPath));
        assert_eq!(parse("a\0b"), Err(Refusal::NotAPath));
        assert_eq!(parse(&"x".repeat(256)), Err(Refusal::TooLong));
        assert_eq!(parse(&"x/".repeat(9)), Err(Refusal::TooLong));
    }

    #[test]
    fn parts() {
        let path = EntryPath::parse(b"rootfs/etc/passwd", 8).unwrap();
        assert_eq!(path.split(), (&b"rootfs/etc"[..], &b"passwd"[..]));
        assert_eq!(path.below(b"rootfs").unwrap().as_bytes(), b"etc/passwd");
        assert_eq!(path.below(b"root"), None);
        assert!(
            EntryPath::parse(b"rootfs", 8)
                .unwrap()
                .below(b"rootfs")
                .unwrap()
                .is_root()
        );
        assert_eq!(path.join(b"..", 8), Err(Refusal::Upwards));
        assert_eq!(path.join(b"a/b", 8), Err(Refusal::NotAPath));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_stays_below(name in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), Just(b'a'), any::<u8>()], 0..64)) {
            if let Ok(path) = EntryPath::parse(&name, 32) {
                prop_assert!(!path.0.starts_with(b"/"));
                prop_assert!(path.is_root() || path.0.split(|&b| b == b'/').all(|c| !matches!(c, b"" | b"." | b"..")));
                prop_assert!(!path.0.contains(&0));
                if !path.is_root() {
                    prop_assert_eq!(EntryPath::parse(&path.0, 32), Ok(path));
                }
            }
        }
    }
}
