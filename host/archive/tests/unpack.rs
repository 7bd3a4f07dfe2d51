//! What an archive holds arrives whole: owners, modes, times, links, holes, extended attributes. Needs root.

mod common;

use std::fs::{File, Metadata};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use common::{METADATA, Tar, directory, file, inspect, unpack, unpacker};
use hutch_archive::{Content, Error};

fn stat(path: &Path) -> Metadata {
    path.symlink_metadata()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program)
        .args(args)
        .status()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(status.success(), "{program} {args:?}");
}

/// A tree with everything that an image may have, made with the programs of the machine.
fn sample(at: &Path) {
    let script = r#"
        set -e
        cd "$1"
        mkdir -p etc usr/bin empty tmp "deep/$(printf 'd%.0s/' $(seq 40))"
        echo hello > etc/hostname
        head -c 3000000 /dev/urandom > usr/bin/program
        chmod 4755 usr/bin/program
        ln usr/bin/program usr/bin/same
        ln -s ../../etc/hostname usr/bin/link
        ln -s /etc/shadow absolute
        truncate -s 5M sparse
        printf middle | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none
        chmod 1777 tmp
        chmod 0 etc/hostname
        mkfifo pipe
        : > "$(printf 'n%.0s' $(seq 200))"
        printf 'gr\303\274\303\237e' > "$(printf 'gr\303\274\303\237e')"
        setfattr -n user.note -v text etc/hostname 2>/dev/null || python3 -c 'import os;os.setxattr("etc/hostname","user.note",b"text")'
        python3 -c 'import os,struct;os.setxattr("usr/bin/program","security.capability",struct.pack("<IIIII",0x02000001,1<<13,0,0,0))'
        chown 1000:2000 etc/hostname
        chown -h 1000:3000000000 absolute
        touch -h -d '2001-02-03 04:05:06.789' etc/hostname absolute empty
    "#;
    run("sh", &["-c", script, "sh", at.to_str().unwrap()]);
}

/// `time` is the directive of find(1) for the time of a file: squashfs keeps whole seconds.
fn assert_same(made: &Path, unpacked: &Path, time: &str) {
    let listing = |root: &Path| {
        let format = format!("%P|%y|%m|%U|%G|%s|{time}|%l|%n\\n");
        let script = format!("cd \"$1\" && find . -printf '{format}' | grep -v '^|d' | sort");
        let output = Command::new("sh")
            .args(["-c", &script, "sh", root.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(output.status.success());
        // The size of a directory is the file system's affair.
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| {
                let mut fields: Vec<&str> = line.split('|').collect();
                if fields[1] == "d" {
                    fields[5] = "";
                    fields[8] = "";
                }
                fields.join("|")
            })
            .collect::<Vec<_>>()
    };
    let (a, b) = (listing(made), listing(unpacked));
    assert!(a.len() > 40);
    assert_eq!(a, b);
    run(
        "diff",
        &[
            "-r",
            "--no-dereference",
            "-x",
            "pipe",
            made.to_str().unwrap(),
            unpacked.to_str().unwrap(),
        ],
    );
    assert!(stat(&unpacked.join("pipe")).file_type().is_fifo());
    assert_eq!(
        stat(&unpacked.join("usr/bin/program")).ino(),
        stat(&unpacked.join("usr/bin/same")).ino()
    );
    assert!(
        stat(&unpacked.join("sparse")).blocks() * 512 < 3 << 20,
        "the holes are filled"
    );
    for (name, attribute) in [
        ("etc/hostname", "user.note"),
        ("usr/bin/program", "security.capability"),
    ] {
        let of = |root: &Path| {
            let mut value = vec![0; 64];
            let n = rustix::fs::getxattr(root.join(name), attribute, &mut value).unwrap();
            value.truncate(n);
            value
        };
        assert_eq!(of(made), of(unpacked), "{attribute}");
    }
}

#[test]
fn everything_arrives_from_every_kind_of_tar() {
    let work = tempfile::tempdir().unwrap();
    let made = work.path().join("made");
    std::fs::create_dir(&made).unwrap();
    sample(&made);
    let flags: [(&str, &[&str]); 5] = [
        ("gz", &["-z", "--format=posix", "-S", "--sparse-version=1.0"]),
        ("xz", &["-J", "--format=posix", "-S", "--sparse-version=0.1"]),
        ("zst", &["--zstd", "--format=posix", "-S", "--sparse-version=0.0"]),
        ("bz2", &["-j", "--format=posix", "-S"]),
        ("tar", &["--format=posix", "-S"]),
    ];
    for (name, extra) in flags {
        let archive = work.path().join(name);
        let target = work.path().join(format!("{name}.d"));
        std::fs::create_dir(&target).unwrap();
        let fixed = [
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "-C",
            made.to_str().unwrap(),
        ];
        let file = ["-cf", archive.to_str().unwrap(), "."];
        run("tar", &[&fixed[..], extra, &file].concat());
        let report = unpack(&File::open(&archive).unwrap(), Content::Rootfs, &target).unwrap();
        assert!(report.bytes >= 3_000_000 && report.bytes < 4_000_000, "{report:?}");
        assert_same(&made, &target, "%T@");
        assert_eq!(
            inspect(&File::open(&archive).unwrap(), Content::Rootfs).unwrap().report,
            report
        );
    }
}

#[test]
fn everything_arrives_from_squashfs() {
    let work = tempfile::tempdir().unwrap();
    let made = work.path().join("made");
    std::fs::create_dir(&made).unwrap();
    sample(&made);
    // More names than one directory header can have.
    for i in 0..600 {
        std::fs::write(made.join("empty").join(format!("file-{i}")), i.to_string()).unwrap();
    }
    let flags: [(&str, &[&str]); 5] = [
        ("gzip", &["-comp", "gzip"]),
        ("xz", &["-comp", "xz", "-b", "1M"]),
        ("zstd", &["-comp", "zstd", "-b", "4096"]),
        ("plain", &["-noI", "-noD", "-noF", "-noX"]),
        ("no-fragments", &["-comp", "zstd", "-no-fragments"]),
    ];
    for (name, extra) in flags {
        let archive = work.path().join(name);
        let target = work.path().join(format!("{name}.d"));
        std::fs::create_dir(&target).unwrap();
        let fixed = [
            made.to_str().unwrap(),
            archive.to_str().unwrap(),
            "-quiet",
            "-no-progress",
        ];
        run("mksquashfs", &[&fixed[..], extra].concat());
        let report = unpack(&File::open(&archive).unwrap(), Content::Rootfs, &target).unwrap();
        assert_same(&made, &target, "%TY%Tm%Td%TH%TM");
        assert_eq!(
            inspect(&File::open(&archive).unwrap(), Content::Rootfs).unwrap().report,
            report
        );
        let bytes = std::fs::read(&archive).unwrap();
        for cut in [50, 96, bytes.len() / 2, bytes.len() - 4096] {
            let result = inspect(&file(&bytes[..cut]), Content::Rootfs);
            assert_eq!(result, Err(Error::Truncated), "{name} cut at {cut}");
        }
    }
}

#[test]
fn the_old_format_of_gnu() {
    let work = tempfile::tempdir().unwrap();
    let made = work.path().join("made");
    std::fs::create_dir(&made).unwrap();
    run(
        "sh",
        &[
            "-c",
            "cd \"$1\"; for i in 1 2 3 4 5 6 7 8 9; do printf x | dd of=s bs=1 seek=${i}00000 conv=notrunc status=none; done; truncate -s 2M s",
            "sh",
            made.to_str().unwrap(),
        ],
    );
    let archive = work.path().join("a.tar");
    run(
        "tar",
        &[
            "-S",
            "--format=gnu",
            "-cf",
            archive.to_str().unwrap(),
            "-C",
            made.to_str().unwrap(),
            ".",
        ],
    );
    let target = work.path().join("target");
    std::fs::create_dir(&target).unwrap();
    unpack(&File::open(&archive).unwrap(), Content::Rootfs, &target).unwrap();
    assert!(std::fs::read(target.join("s")).unwrap() == std::fs::read(made.join("s")).unwrap());
}

#[test]
fn a_unified_image() {
    let archive = Tar::new()
        .file("metadata.yaml", METADATA)
        .dir("templates")
        .file("templates/hostname.tpl", b"{{ container.name }}\n")
        .dir("rootfs")
        .file("rootfs/etc/hostname", b"image\n")
        .hardlink("rootfs/etc/same", "rootfs/etc/hostname")
        .done();
    let found = inspect(&archive, Content::Unified).unwrap();
    let metadata = found.metadata.unwrap();
    assert_eq!(metadata.architecture, "x86_64");
    assert_eq!(metadata.properties["os"], "Test");
    assert_eq!(found.templates["hostname.tpl"], "{{ container.name }}\n");
    let target = tempfile::tempdir().unwrap();
    let report = unpack(&archive, Content::Unified, target.path()).unwrap();
    assert_eq!((report.entries, report.bytes), (6, 6));
    let names: Vec<_> = std::fs::read_dir(target.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["etc"]);
    assert_eq!(
        std::fs::read_to_string(target.path().join("etc/same")).unwrap(),
        "image\n"
    );
    assert_eq!(stat(target.path()).mode() & 0o7777, 0o755);
}

#[test]
fn a_full_file_system_is_told_apart() {
    let work = tempfile::tempdir().unwrap();
    let target = work.path().to_str().unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "none", target]);
    let archive = Tar::new().file("a", &vec![1; 4 << 20]).done();
    let result = unpack(&archive, Content::Rootfs, work.path());
    run("umount", &[target]);
    match result {
        Err(e @ Error::NoSpace { .. }) => assert!(!e.is_archive_fault() && e.to_string().contains("\"a\"")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_can_be_cancelled() {
    let archive = Tar::new().file("a", &vec![1; 64 << 20]).done();
    let target = tempfile::tempdir().unwrap();
    let mut calls = 0;
    let result = unpacker().unpack(&archive, Content::Rootfs, &directory(target.path()), false, &mut |_| {
        calls += 1;
        ControlFlow::Break(())
    });
    assert_eq!((result, calls), (Err(Error::Cancelled), 1));
}

#[test]
fn progress_is_reported() {
    let archive = Tar::new().file("a", &vec![1; 64 << 20]).done();
    let target = tempfile::tempdir().unwrap();
    let mut last = 0;
    unpacker()
        .unpack(&archive, Content::Rootfs, &directory(target.path()), true, &mut |p| {
            assert!(p.unpacked > last && p.read >= p.unpacked);
            last = p.unpacked;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(last > 60 << 20);
}

#[test]
fn a_program_that_is_not_one_is_an_error() {
    let archive = file(b"");
    for program in ["/bin/true", "/nonexistent"] {
        let unpacker = hutch_archive::Unpacker::with_program(program.into(), hutch_archive::Limits::default());
        let result = unpacker.inspect(&archive, Content::Rootfs, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(result, Err(Error::Process(_))), "{result:?}");
    }
}
