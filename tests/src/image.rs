//! Images to launch: a busybox one made here, and ways to spoil it.

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// A tarball being written. Entries are root's and of a fixed time, so that the same content gives the same fingerprint.
pub struct Tarball {
    builder: Builder<GzEncoder<File>>,
    path: PathBuf,
}

impl Tarball {
    /// Begins a tarball compressed with gzip.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("can't create {}", path.display()))?;
        Ok(Self {
            builder: Builder::new(GzEncoder::new(file, Compression::fast())),
            path: path.to_path_buf(),
        })
    }

    /// Adds an entry with any header at all, also a forbidden one: the name is written as it is.
    ///
    /// # Errors
    /// When it can't be written, or the name is too long for a header.
    pub fn raw(&mut self, name: &str, kind: EntryType, mode: u32, link: &str, content: &[u8]) -> Result<()> {
        let mut header = Header::new_ustar();
        let fields = header.as_old_mut();
        ensure!(
            name.len() <= fields.name.len() && link.len() <= fields.linkname.len(),
            "{name}: too long"
        );
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            // The null device: 1, 3 (the kernel's admin-guide/devices.txt).
            header.set_device_major(1)?;
            header.set_device_minor(3)?;
        }
        header.set_cksum();
        self.builder
            .append(&header, content)
            .with_context(|| format!("can't add {name}"))
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn directory(&mut self, name: &str, mode: u32) -> Result<()> {
        self.raw(name, EntryType::Directory, mode, "", b"")
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.raw(name, EntryType::Regular, mode, "", content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        self.raw(name, EntryType::Symlink, 0o777, target, b"")
    }

    /// Adds the metadata that every image has.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn metadata(&mut self, description: &str) -> Result<()> {
        let architecture = std::env::consts::ARCH;
        let text = format!(
            "architecture: {architecture}\ncreation_date: 1700000000\nproperties:\n  description: {description}\n  os: busybox\n  \
             release: test\n  architecture: {architecture}\n"
        );
        self.file("metadata.yaml", 0o644, text.as_bytes())
    }

    /// Adds a root file system in which busybox is every program and init, and asks for an address by DHCP on `eth0`.
    ///
    /// # Errors
    /// When this machine has no static busybox, or it can't be written.
    pub fn busybox_root(&mut self) -> Result<()> {
        for (name, mode) in [
            ("rootfs", 0o755),
            ("rootfs/bin", 0o755),
            ("rootfs/sbin", 0o755),
            ("rootfs/usr", 0o755),
            ("rootfs/usr/bin", 0o755),
            ("rootfs/usr/sbin", 0o755),
            ("rootfs/etc", 0o755),
            ("rootfs/dev", 0o755),
            ("rootfs/proc", 0o555),
            ("rootfs/sys", 0o555),
            ("rootfs/run", 0o755),
            ("rootfs/tmp", 0o1777),
            ("rootfs/var", 0o755),
            ("rootfs/root", 0o700),
            ("rootfs/mnt", 0o755),
        ] {
            self.directory(name, mode)?;
        }
        let program = std::fs::read("/bin/busybox").context("the package busybox-static is missing")?;
        self.file("rootfs/bin/busybox", 0o755, &program)?;
        let listing = crate::sandbox::must("/bin/busybox", &["--list-full"])?;
        for applet in listing.lines().filter(|applet| *applet != "bin/busybox") {
            self.symlink(&format!("rootfs/{applet}"), "/bin/busybox")?;
        }
        self.file(
            "rootfs/etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        )?;
        self.file("rootfs/etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
        self.file("rootfs/etc/inittab", 0o644, INITTAB)?;
        self.file("rootfs/etc/dhcp", 0o755, DHCP_SCRIPT)?;
        Ok(())
    }

    /// Writes the end and returns the file's path.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(self) -> Result<PathBuf> {
        self.builder.into_inner()?.finish()?;
        Ok(self.path)
    }
}

/// busybox's init: see `init` in busybox(1).
const INITTAB: &[u8] = b"::sysinit:/sbin/ip link set lo up\n\
::respawn:/sbin/udhcpc -f -S -t 5 -T 1 -A 5 -i eth0 -s /etc/dhcp\n\
::shutdown:/bin/true\n";

/// What udhcpc runs with what it was told.
const DHCP_SCRIPT: &[u8] = b"#!/bin/sh\ncase \"$1\" in\ndeconfig) ip addr flush dev \"$interface\"; ip link set \"$interface\" up ;;\n\
bound|renew) ip addr replace \"$ip/$mask\" dev \"$interface\"; [ -z \"$router\" ] || ip route replace default via \"${router%% *}\"\n\
: > /etc/resolv.conf; for server in $dns; do echo \"nameserver $server\" >> /etc/resolv.conf; done ;;\nesac\n";

/// Writes the busybox image into a directory and returns its path.
///
/// # Errors
/// When it can't be written.
pub fn busybox(directory: &Path) -> Result<PathBuf> {
    let mut tarball = Tarball::create(&directory.join("busybox.tar.gz"))?;
    tarball.metadata("busybox for tests")?;
    tarball.busybox_root()?;
    tarball.finish()
}
