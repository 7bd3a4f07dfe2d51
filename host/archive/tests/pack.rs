//! Archives that are written here can be read here, and by the programs that people have. Needs root.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use common::{METADATA, Tar, inspect, unpack, unpacker};
use hutch_archive::{Content, Error, ImageMetadata, Placed, PlacedKind, Refusal, write_metadata};

fn file(path: &str, mode: u32, data: &[u8]) -> Placed {
    Placed {
        path: path.to_owned(),
        kind: PlacedKind::File {
            mode,
            data: data.to_vec(),
        },
    }
}

fn link(path: &str, target: &str) -> Placed {
    Placed {
        path: path.to_owned(),
        kind: PlacedKind::Symlink {
            target: target.as_bytes().to_vec(),
        },
    }
}

fn repack(archive: &File, placed: &[Placed]) -> Result<File, Error> {
    let out = tempfile::tempfile().unwrap();
    unpacker().repack(archive, placed, &out, &mut |_| ControlFlow::Continue(()))?;
    Ok(out)
}

#[test]
fn metadata_of_a_split_image() {
    let metadata = ImageMetadata::parse(METADATA).unwrap();
    let templates = BTreeMap::from([("hostname.tpl".to_owned(), "{{ name }}\n".to_owned())]);
    let out = tempfile::tempfile().unwrap();
    write_metadata(&metadata, &templates, &out).unwrap();
    let found = inspect(&out, Content::Metadata).unwrap();
    assert_eq!(found.metadata, Some(metadata));
    assert_eq!(found.templates, templates);
}

#[test]
fn files_are_placed_in_an_archive() {
    let archive = Tar::new()
        .dir("etc")
        .file("etc/hostname", b"old\n")
        .file("etc/kept", &[1; 100_000])
        .hardlink("etc/second", "etc/kept")
        .symlink("lib", "usr/lib")
        .done();
    let placed = [
        file("etc/hostname", 0o600, b"new\n"),
        file("etc/systemd/network/80.network", 0o644, &[b'#'; 60_000]),
        link("etc/mtab", "../proc/self/mounts"),
    ];
    let out = repack(&archive, &placed).unwrap();
    let target = tempfile::tempdir().unwrap();
    unpack(&out, Content::Rootfs, target.path()).unwrap();
    let at = |name: &str| target.path().join(name);
    assert_eq!(std::fs::read_to_string(at("etc/hostname")).unwrap(), "new\n");
    assert_eq!(at("etc/hostname").metadata().unwrap().mode() & 0o7777, 0o600);
    assert_eq!(at("etc/systemd").metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(at("etc/kept").metadata().unwrap().nlink(), 2);
    assert_eq!(
        std::fs::read_link(at("etc/mtab")).unwrap().to_str(),
        Some("../proc/self/mounts")
    );

    for (name, reason) in [
        ("../x", Refusal::Upwards),
        ("/etc/x", Refusal::Absolute),
        ("lib/x", Refusal::BehindSymlink),
        ("etc", Refusal::ReplacesDirectory),
    ] {
        match repack(&archive, &[file(name, 0o644, b"")]) {
            Err(Error::Refused { reason: found, .. }) => assert_eq!(found, reason, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// GNU tar understands what is written here, holes, long names and attributes included.
#[test]
fn other_programs_read_it() {
    let work = tempfile::tempdir().unwrap();
    let made = work.path().join("made");
    let script = "mkdir -p $1/$(printf 'd%.0s/' $(seq 60)) && cd $1 && truncate -s 3M s && printf x >> s && printf y > $(printf 'n%.0s' $(seq 220)) \
        && touch -d 1965-01-02T03:04:05.5 s && chown 3000000:4000000 s && python3 -c 'import os;os.setxattr(\"s\",\"user.a\",b\"b\")'";
    let sh = |script: &str, args: &[&std::path::Path]| {
        let status = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(args)
            .status()
            .unwrap();
        assert!(status.success(), "{script}");
    };
    sh(script, &[&made]);
    let (input, output, target) = (
        work.path().join("in.tar"),
        work.path().join("out.tar.zst"),
        work.path().join("target"),
    );
    sh("tar --xattrs --format=posix -S -C $1 -cf $2 .", &[&made, &input]);
    std::fs::copy(&input, &output).unwrap();
    let out = File::create(&output).unwrap();
    unpacker()
        .repack(&File::open(&input).unwrap(), &[], &out, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    sh(
        "mkdir $2 && zstd -q -t $1 && tar --xattrs --numeric-owner -C $2 -xf $1",
        &[&output, &target],
    );
    sh(
        "cd $1 && find . -printf '%p %y %m %U %G %T@ %l\\n' | sort > $3 && cd $2 && find . -printf '%p %y %m %U %G %T@ %l\\n' | sort | diff - $3",
        &[&made, &target, &work.path().join("list")],
    );
    sh(
        "diff -r $1 $2 && [ \"$(getfattr -d $2/s 2>/dev/null || echo user.a)\" ]",
        &[&made, &target],
    );
}

/// What an overlay shows: files of a lower layer, without what an upper one has deleted.
#[test]
fn a_tree_becomes_a_unified_image() {
    let work = tempfile::tempdir().unwrap();
    let script = "cd $1 && mkdir -p up,per/etc lower/etc/gone lower/old && printf new > up,per/etc/x && printf old > lower/etc/x \
        && printf kept > lower/kept && ln lower/kept lower/twin && touch lower/etc/gone/a lower/old/a && mknod up,per/etc/gone c 0 0 \
        && mkdir up,per/old && touch up,per/old/b && setfattr -n user.overlay.opaque -v y up,per/old \
        && mknod lower/null c 1 3 && chown 5:6 lower/kept && chmod 4711 lower/kept && chmod 000 up,per/etc/x";
    let status = Command::new("sh")
        .args(["-c", script, "sh", work.path().to_str().unwrap()])
        .status()
        .unwrap();
    assert!(status.success(), "the package attr is needed");
    let metadata = ImageMetadata {
        templates: BTreeMap::new(),
        ..ImageMetadata::parse(METADATA).unwrap()
    };
    let layers = [work.path().join("up,per"), work.path().join("lower")];
    let out = tempfile::tempfile().unwrap();
    let go_on = &mut |_| ControlFlow::Continue(());
    let report = unpacker()
        .pack(&layers, &metadata, &BTreeMap::new(), &out, go_on)
        .unwrap();
    assert_eq!(report.devices_skipped, 1);
    let target = tempfile::tempdir().unwrap();
    assert_eq!(
        inspect(&out, Content::Unified).unwrap().metadata,
        Some(metadata.clone())
    );
    unpack(&out, Content::Unified, target.path()).unwrap();
    let at = |name: &str| target.path().join(name);
    assert_eq!(std::fs::read_to_string(at("etc/x")).unwrap(), "new");
    assert!(!at("etc/gone").exists() && !at("old/a").exists() && at("old/b").exists() && !at("null").exists());
    let kept = at("kept").metadata().unwrap();
    assert_eq!(
        (kept.uid(), kept.gid(), kept.mode() & 0o7777, kept.nlink()),
        (5, 6, 0o4711, 2)
    );
    // One directory alone, and the layers are as they were.
    let out = tempfile::tempfile().unwrap();
    unpacker()
        .pack(&layers[1..], &metadata, &BTreeMap::new(), &out, go_on)
        .unwrap();
    let target = tempfile::tempdir().unwrap();
    unpack(&out, Content::Unified, target.path()).unwrap();
    assert_eq!(std::fs::read_to_string(target.path().join("etc/x")).unwrap(), "old");
    let gone = unpacker().pack(&[work.path().join("missing")], &metadata, &BTreeMap::new(), &out, go_on);
    assert!(matches!(gone, Err(Error::Jail { .. })), "{gone:?}");
}

/// Layers are named by drivers and lie among what containers have made: a link there leads nowhere.
#[test]
fn a_layer_behind_a_link_is_refused() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().canonicalize().unwrap().join(name);
    for dir in ["pool/upper", "pool/lower", "secret/tree"] {
        std::fs::create_dir_all(at(dir)).unwrap();
    }
    std::fs::write(at("secret/tree/key"), "secret").unwrap();
    std::os::unix::fs::symlink(at("secret"), at("pool/link")).unwrap();
    let metadata = ImageMetadata {
        templates: BTreeMap::new(),
        ..ImageMetadata::parse(METADATA).unwrap()
    };
    let linked = at("pool/link/tree");
    for layers in [
        vec![linked.clone()],
        vec![at("pool/link")],
        vec![linked.clone(), at("pool/lower")],
        vec![at("pool/upper"), linked],
    ] {
        let out = tempfile::tempfile().unwrap();
        let go_on = &mut |_| ControlFlow::Continue(());
        let refused = unpacker().pack(&layers, &metadata, &BTreeMap::new(), &out, go_on);
        assert!(matches!(refused, Err(Error::Jail { .. })), "{layers:?}: {refused:?}");
        assert_eq!(out.metadata().unwrap().len(), 0, "{layers:?}");
    }
}
