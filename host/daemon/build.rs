//! How the daemon is linked.

use std::process::Command;

/// The first version of the C library whose loader reads relative relocations packed (`DT_RELR`).
const PACKED: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The loader reads all relocations at each start. Packed, the daemon's are some 30 KiB instead of 1.4 MiB of its memory.
    let target = std::env::var("CARGO_CFG_TARGET_ENV").unwrap_or_default();
    if target == "gnu" && c_library().is_some_and(|version| version >= PACKED) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of the C library of the machine that builds, which is the oldest that what is built runs with.
fn c_library() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
