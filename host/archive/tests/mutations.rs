//! Archives with a few bytes changed: whatever comes of it, it is an answer and not a crash. The bytes come from a generator
//! with a fixed seed, or from `HUTCH_SEED`; `HUTCH_ROUNDS` asks for more than the usual number. Needs root.

mod common;

use std::path::Path;
use std::process::Command;

use common::{METADATA, Tar, file, inspect};
use hutch_archive::{Content, Error};

/// The generator "xorshift64" (Marsaglia, Xorshift RNGs, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().map_or(usual, |v| {
        v.parse().unwrap_or_else(|_| panic!("{variable} is no number"))
    })
}

fn mutate(name: &str, bytes: &[u8], content: Content) {
    let seed = number("HUTCH_SEED", 0x5eed);
    let mut random = Random(seed);

    for round in 0..number("HUTCH_ROUNDS", 150) {
        let mut changed = bytes.to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(changed.len());
            changed[at] = [0, 0xff, 0x80, 1, u8::try_from(random.below(256)).unwrap()][random.below(5)];
        }
        match inspect(&file(&changed), content) {
            Err(e @ Error::Process(_)) => panic!("{name}: seed {seed}, round {round}: {e}"),
            Err(e) => assert!(e.is_archive_fault(), "{name}: seed {seed}, round {round}: {e}"),
            Ok(_) => {}
        }
    }
}

#[test]
fn tar() {
    let archive = Tar::new()
        .file("metadata.yaml", METADATA)
        .file("templates/hostname.tpl", b"{{ container.name }}\n")
        .dir("rootfs")
        .file("rootfs/a", &[1; 700])
        .symlink("rootfs/b", "a")
        .hardlink("rootfs/c", "rootfs/a")
        .bytes();
    mutate("tar", &archive, Content::Unified);
}

fn squashfs(at: &Path, extra: &[&str]) -> Vec<u8> {
    let tree = at.join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    for i in 0..20 {
        std::fs::write(tree.join("a").join(format!("file-{i}")), vec![b'x'; i * 1000]).unwrap();
    }
    std::os::unix::fs::symlink("../a", tree.join("a/b/link")).unwrap();
    let program = tree.join("a/file-3");
    rustix::fs::setxattr(&program, "user.note", b"text", rustix::fs::XattrFlags::empty()).unwrap();
    let image = at.join("image");
    let status = Command::new("mksquashfs")
        .arg(&tree)
        .arg(&image)
        .args(["-quiet", "-no-progress"])
        .args(extra)
        .status();
    assert!(status.expect("mksquashfs (package squashfs-tools) is needed").success());
    std::fs::read(image).unwrap()
}

#[test]
fn squashfs_plain() {
    let work = tempfile::tempdir().unwrap();
    // Not compressed, so that the changes reach the structures.
    let image = squashfs(work.path(), &["-noI", "-noD", "-noF", "-noX", "-b", "4096"]);
    mutate("squashfs", &image, Content::Rootfs);
}

#[test]
fn squashfs_compressed() {
    let work = tempfile::tempdir().unwrap();
    let image = squashfs(work.path(), &["-comp", "zstd"]);
    mutate("squashfs", &image, Content::Rootfs);
}
