//! Archives that mean harm: each is refused with the reason, both when it is looked at and when it is unpacked, and nothing
//! is written outside the directory. Needs root, because the process that unpacks makes namespaces.

mod common;

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use common::{METADATA, Tar, file, inspect, unpack, with_limits};
use hutch_archive::{Content, Error, Limits, Refusal};
use tar::EntryType;

/// Refused by both, for the same reason.
fn refused(archive: &File, content: Content) -> Refusal {
    let outer = tempfile::tempdir().unwrap();
    let target = outer.path().join("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(outer.path().join("witness"), "untouched").unwrap();
    let looked = inspect(archive, content).unwrap_err();
    let unpacked = unpack(archive, content, &target).unwrap_err();
    assert_eq!(looked, unpacked);
    assert!(looked.is_archive_fault());
    assert_eq!(
        std::fs::read_to_string(outer.path().join("witness")).unwrap(),
        "untouched"
    );
    assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 2);
    match unpacked {
        Error::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_that_lead_out() {
    let of = |name: &str| refused(&Tar::new().file(name, b"x").done(), Content::Rootfs);
    assert_eq!(of("../witness"), Refusal::Upwards);
    assert_eq!(of("a/../../witness"), Refusal::Upwards);
    assert_eq!(of("/tmp/witness"), Refusal::Absolute);
}

#[test]
fn links_that_lead_out() {
    let through = Tar::new().symlink("up", "..").file("up/witness", b"x").done();
    assert_eq!(refused(&through, Content::Rootfs), Refusal::BehindSymlink);
    let absolute = Tar::new().symlink("etc", "/etc").file("etc/cron.d/evil", b"x").done();
    assert_eq!(refused(&absolute, Content::Rootfs), Refusal::BehindSymlink);
    let chained = Tar::new().dir("a").symlink("a/b", "../..").dir("a/b/c").done();
    assert_eq!(refused(&chained, Content::Rootfs), Refusal::BehindSymlink);
    let unified = Tar::new()
        .file("metadata.yaml", METADATA)
        .symlink("rootfs", "/")
        .file("rootfs/witness", b"x")
        .done();
    assert_eq!(refused(&unified, Content::Unified), Refusal::NotAPath);
    let hard = Tar::new().hardlink("passwd", "../../../etc/passwd").done();
    assert_eq!(refused(&hard, Content::Rootfs), Refusal::Upwards);
    let behind = Tar::new()
        .symlink("etc", "/etc")
        .hardlink("passwd", "etc/passwd")
        .done();
    assert!(matches!(refused(&behind, Content::Rootfs), Refusal::LinkTarget(_)));
}

#[test]
fn a_link_to_a_file_that_is_then_written_through() {
    let archive = Tar::new().symlink("x", "../witness").file("x", b"changed").done();
    let outer = tempfile::tempdir().unwrap();
    let target = outer.path().join("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(outer.path().join("witness"), "untouched").unwrap();
    unpack(&archive, Content::Rootfs, &target).unwrap();
    assert_eq!(
        std::fs::read_to_string(outer.path().join("witness")).unwrap(),
        "untouched"
    );
    assert!(target.join("x").symlink_metadata().unwrap().is_file());
}

#[test]
fn devices() {
    let device = |name: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(EntryType::Block);
        header.set_device_major(8).unwrap();
        header.set_device_minor(0).unwrap();
        header.set_mode(0o666);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, &b""[..]).unwrap();
        file(&builder.into_inner().unwrap())
    };
    assert_eq!(refused(&device("home/sda"), Content::Rootfs), Refusal::Device);
    let target = tempfile::tempdir().unwrap();
    let full = Tar::new().dir("dev").bytes();
    // Without the end of the first archive the second goes on.
    let second = std::io::Read::bytes(device("dev/sda"))
        .collect::<Result<Vec<u8>, _>>()
        .unwrap();
    let report = unpack(&file(&[&full[..512], &second].concat()), Content::Rootfs, target.path()).unwrap();
    assert_eq!(report.devices_skipped, 1);
    assert_eq!(std::fs::read_dir(target.path().join("dev")).unwrap().count(), 0);
}

#[test]
fn trees_that_contradict_themselves() {
    let under_file = Tar::new().file("a", b"").file("a/b", b"").done();
    assert_eq!(refused(&under_file, Content::Rootfs), Refusal::ParentNotDirectory);
    let over_directory = Tar::new().dir("a").file("a", b"").done();
    assert_eq!(refused(&over_directory, Content::Rootfs), Refusal::ReplacesDirectory);
    let root = Tar::new().symlink("./", "/").done();
    assert_eq!(refused(&root, Content::Rootfs), Refusal::ReplacesDirectory);
    let lost = Tar::new().hardlink("b", "a").done();
    assert_eq!(refused(&lost, Content::Rootfs), Refusal::LinkTarget("a".into()));
    let to_directory = Tar::new().dir("a").hardlink("b", "a").done();
    assert_eq!(refused(&to_directory, Content::Rootfs), Refusal::LinkTarget("a".into()));
}

#[test]
fn metadata_that_is_a_link() {
    let archive = Tar::new()
        .symlink("metadata.yaml", "/etc/shadow")
        .file("rootfs/x", b"")
        .done();
    match inspect(&archive, Content::Unified) {
        Err(Error::Refused {
            reason: Refusal::NotAFile,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

fn compressed(data: impl std::io::Read) -> File {
    file(&zstd::encode_all(data, 3).unwrap())
}

#[test]
fn bombs() {
    let small = Limits {
        ratio_free_bytes: 1 << 20,
        ..Limits::default()
    };
    let bomb = compressed(&Tar::new().file("zeros", &vec![0; 64 << 20]).bytes()[..]);
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    let target = tempfile::tempdir().unwrap();
    let fd = common::directory(target.path());
    let limit_of = |result: Result<_, Error>| match result {
        Err(Error::Limit { unit, .. }) => unit,
        Err(other) => panic!("{other:?}"),
        Ok(()) => panic!("not refused"),
    };
    let unit = limit_of(
        with_limits(small.clone())
            .unpack(&bomb, Content::Rootfs, &fd, false, go_on)
            .map(drop),
    );
    assert_eq!(unit, "bytes for every byte of the archive");
    let written: u64 = std::fs::metadata(target.path().join("zeros")).map_or(0, |m| m.blocks() * 512);
    assert!(written < 4 << 20, "{written} bytes were written before it was stopped");
    assert_eq!(
        limit_of(with_limits(small).inspect(&bomb, Content::Rootfs, go_on).map(drop)),
        unit
    );

    let mut many = Tar::new();
    for i in 0..200 {
        many = many.file(&format!("f{i}"), b"");
    }
    let few = Limits {
        entries: 100,
        ..Limits::default()
    };
    let result = with_limits(few)
        .unpack(&many.done(), Content::Rootfs, &fd, false, go_on)
        .map(drop);
    assert_eq!(limit_of(result), "entries");

    let large = Tar::new()
        .file("metadata.yaml", &vec![b'#'; 2 << 20])
        .file("rootfs/x", b"")
        .done();
    assert_eq!(
        limit_of(inspect(&large, Content::Unified).map(drop)),
        "bytes of metadata.yaml"
    );
}

/// Endless data behind the end of an archive, in a stream of a few bytes.
#[test]
fn what_follows_the_end_is_bounded() {
    let archive = [Tar::new().file("x", b"y").bytes(), vec![0; 64 << 20]].concat();
    let target = tempfile::tempdir().unwrap();
    let result = unpack(&compressed(&archive[..]), Content::Rootfs, target.path());
    assert!(matches!(result, Err(Error::Corrupt(_))), "{result:?}");
}

#[test]
fn truncated_and_wrong_files() {
    let whole = Tar::new().file("a", &[1; 5000]).bytes();
    let target = tempfile::tempdir().unwrap();
    for cut in [100, 600, 3000, 5632] {
        let result = unpack(&file(&whole[..cut]), Content::Rootfs, target.path());
        assert_eq!(
            result,
            Err(if cut < 512 { Error::Format } else { Error::Truncated }),
            "cut at {cut}"
        );
    }
    let packed = zstd::encode_all(&whole[..], 3).unwrap();
    let result = unpack(&file(&packed[..packed.len() - 5]), Content::Rootfs, target.path());
    assert_eq!(result, Err(Error::Truncated));
    let no_tar = zstd::encode_all(&[7; 4096][..], 3).unwrap();
    assert!(matches!(
        unpack(&file(&no_tar), Content::Rootfs, target.path()),
        Err(Error::Corrupt(_))
    ));
    assert_eq!(unpack(&file(b""), Content::Rootfs, target.path()), Err(Error::Format));
    assert_eq!(
        unpack(&file(b"<html>404</html>"), Content::Rootfs, target.path()),
        Err(Error::Format)
    );
}

#[test]
fn images_that_lack_something() {
    let only_root = Tar::new().file("rootfs/x", b"").done();
    assert_eq!(
        inspect(&only_root, Content::Unified),
        Err(Error::Missing("metadata.yaml".into()))
    );
    let only_metadata = Tar::new()
        .file("metadata.yaml", b"architecture: x86_64\ncreation_date: 1\n")
        .done();
    assert_eq!(
        inspect(&only_metadata, Content::Unified),
        Err(Error::Missing("rootfs".into()))
    );
    let no_template = Tar::new().file("metadata.yaml", METADATA).done();
    assert_eq!(
        inspect(&no_template, Content::Metadata),
        Err(Error::Missing("template \"hostname.tpl\"".into()))
    );
}
