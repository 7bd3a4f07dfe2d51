//! Trees: escapes, fidelity, full disks, leftovers. Needs root.

mod common;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use common::{Host, at, everything, host, isolated};
use hutch_broker::{CallContext, FixedPath, FsPermission, Grants, Permissions, Request, Response};
use hutch_driver::{Call, TreePath};

/// Runs a program that has to succeed.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn code(host: &Host, cx: &CallContext, request: Request) -> String {
    host.call(cx, request)
        .await
        .map_or_else(|e| e.code, |response| format!("{response:?}"))
}

async fn entries(host: &Host, cx: &CallContext, path: &str) -> Vec<String> {
    match host
        .call(
            cx,
            Request::FsListDir {
                at: at(path),
                after: None,
                limit: 100,
            },
        )
        .await
        .unwrap()
    {
        Response::DirEntries(entries) => entries.into_iter().map(|e| format!("{}:{}", e.name, e.kind)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_leads_out_of_a_root() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let pool = dir.join("pool");
        std::fs::create_dir_all(pool.join("real")).unwrap();
        std::fs::write(dir.join("secret"), "secret").unwrap();
        symlink("..", pool.join("up")).unwrap();
        symlink("/etc", pool.join("etc")).unwrap();
        symlink("real", pool.join("inside")).unwrap();
        symlink(dir.join("secret"), pool.join("link")).unwrap();
        let cx = host.with_root(&pool);
        for path in [
            "../secret",
            "/etc/passwd",
            "up/secret",
            "etc/passwd",
            "link",
            "real/../../secret",
            "inside/x",
            ".",
        ] {
            let read = host.call(&cx, Request::FsReadFile { at: at(path) }).await;
            assert!(matches!(&read, Err(e) if e.code == "invalid"), "{path}: {read:?}");
            if path != "link" {
                let written = host
                    .call(
                        &cx,
                        Request::FsWriteFile {
                            at: at(path),
                            data: vec![1],
                            mode: 0o600,
                        },
                    )
                    .await;
                assert!(matches!(&written, Err(e) if e.code == "invalid"), "{path}: {written:?}");
                let made = host
                    .call(
                        &cx,
                        Request::FsMakeDir {
                            at: at(&format!("{path}/new")),
                            mode: 0o700,
                        },
                    )
                    .await;
                assert!(made.is_err(), "{path}: {made:?}");
            }
        }
        for request in [
            Request::FsDiscard { at: at("up/secret") },
            Request::FsRename {
                source: at("real"),
                to: at("up/real"),
            },
            Request::FsCopyTree {
                source: at("etc"),
                to: at("up/x"),
            },
            Request::FsCopyTree {
                source: at("etc/apt"),
                to: at("apt"),
            },
            Request::FsListDir {
                at: at("etc"),
                after: None,
                limit: 10,
            },
            Request::FsUsage { at: at("../x") },
        ] {
            let result = host.call(&cx, request.clone()).await;
            assert!(result.is_err(), "{request:?}: {result:?}");
        }
        // A link itself is something in the tree: it is seen, copied as what it is, replaced and removed.
        assert!(
            code(&host, &cx, Request::FsStat { at: at("link") })
                .await
                .contains("symlink")
        );
        host.call(
            &cx,
            Request::FsCopyTree {
                source: at("link"),
                to: at("copy"),
            },
        )
        .await
        .unwrap();
        assert_eq!(std::fs::read_link(pool.join("copy")).unwrap(), dir.join("secret"));
        host.call(
            &cx,
            Request::FsWriteFile {
                at: at("link"),
                data: b"new".to_vec(),
                mode: 0o600,
            },
        )
        .await
        .unwrap();
        host.call(&cx, Request::FsDiscard { at: at("copy") }).await.unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("secret")).unwrap(), "secret");
        assert!(!dir.join("real").exists() && !pool.join("copy").is_symlink());
        // The host's own names are not there for drivers.
        host.call(
            &cx,
            Request::FsMakeDir {
                at: at("tree/deep"),
                mode: 0o755,
            },
        )
        .await
        .unwrap();
        std::fs::write(pool.join("tree/deep/file"), "x").unwrap();
        host.call(&cx, Request::FsDiscard { at: at("tree") }).await.unwrap();
        assert!(!entries(&host, &cx, "").await.iter().any(|name| name.contains(".hutch")));
        assert_eq!(
            code(&host, &cx, Request::FsStat { at: at(".hutch-trash") }).await,
            "invalid"
        );
    });
}

#[test]
fn files_and_directories_behave_as_described() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let pool = dir.join("pool");
        std::fs::create_dir(&pool).unwrap();
        let cx = host.with_root(&pool);
        let mode = |path: &str| pool.join(path).metadata().unwrap().permissions().mode() & 0o7777;

        host.call(
            &cx,
            Request::FsMakeDir {
                at: at("a/b/c"),
                mode: 0o1777,
            },
        )
        .await
        .unwrap();
        host.call(
            &cx,
            Request::FsMakeDir {
                at: at("a/b/c"),
                mode: 0o700,
            },
        )
        .await
        .unwrap();
        assert_eq!((mode("a"), mode("a/b"), mode("a/b/c")), (0o700, 0o700, 0o1777));

        assert_eq!(
            code(&host, &cx, Request::FsReadFile { at: at("a/none") }).await,
            "Bytes(None)"
        );
        assert_eq!(
            code(&host, &cx, Request::FsStat { at: at("x/y/z") }).await,
            "FileInfo(None)"
        );
        assert_eq!(
            code(
                &host,
                &cx,
                Request::FsWriteFile {
                    at: at("none/f"),
                    data: vec![],
                    mode: 0o644
                }
            )
            .await,
            "not-found"
        );
        host.call(
            &cx,
            Request::FsWriteFile {
                at: at("a/f"),
                data: b"one".to_vec(),
                mode: 0o666,
            },
        )
        .await
        .unwrap();
        host.call(
            &cx,
            Request::FsWriteFile {
                at: at("a/f"),
                data: b"two".to_vec(),
                mode: 0o640,
            },
        )
        .await
        .unwrap();
        assert_eq!(
            host.call(&cx, Request::FsReadFile { at: at("a/f") }).await.unwrap(),
            Response::Bytes(Some(b"two".to_vec()))
        );
        assert_eq!(mode("a/f"), 0o640);
        assert_eq!(
            code(
                &host,
                &cx,
                Request::FsWriteFile {
                    at: at("a/f"),
                    data: vec![0; (1 << 20) + 1],
                    mode: 0o640
                }
            )
            .await,
            "limit"
        );
        std::fs::write(pool.join("big"), vec![0; (1 << 20) + 1]).unwrap();
        assert_eq!(code(&host, &cx, Request::FsReadFile { at: at("big") }).await, "limit");
        run("mkfifo", &[pool.join("fifo").to_str().unwrap()]);
        assert_eq!(
            code(&host, &cx, Request::FsReadFile { at: at("fifo") }).await,
            "invalid"
        );

        // A rename repeats, and does not replace.
        let rename = |from: &str, to: &str| Request::FsRename {
            source: at(from),
            to: at(to),
        };
        host.call(&cx, rename("a/b", "moved")).await.unwrap();
        host.call(&cx, rename("a/b", "moved")).await.unwrap();
        assert_eq!(code(&host, &cx, rename("a", "moved")).await, "already-exists");
        assert_eq!(code(&host, &cx, rename("gone", "nowhere")).await, "not-found");
        let elsewhere = Request::FsRename {
            source: at("a"),
            to: TreePath {
                root: "other".into(),
                path: "a".into(),
            },
        };
        assert_eq!(code(&host, &cx, elsewhere).await, "invalid");

        // Pages of a listing.
        for index in 0..25 {
            std::fs::write(pool.join(format!("moved/{index:02}")), "").unwrap();
        }
        let page = |after: Option<&str>| Request::FsListDir {
            at: at("moved"),
            after: after.map(str::to_owned),
            limit: 10,
        };
        let Response::DirEntries(first) = host.call(&cx, page(None)).await.unwrap() else {
            panic!()
        };
        let Response::DirEntries(third) = host.call(&cx, page(Some("19"))).await.unwrap() else {
            panic!()
        };
        assert_eq!((first.len(), first[9].name.as_str()), (10, "09"));
        assert_eq!(
            third
                .iter()
                .map(|e| format!("{}{}", e.name, e.kind))
                .collect::<Vec<_>>()
                .join(" "),
            "20file 21file 22file 23file 24file cdirectory"
        );
    });
}

#[test]
fn powers_are_those_requested_and_granted() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        std::fs::create_dir(dir.join("fixed")).unwrap();
        std::fs::write(dir.join("fixed/f"), "x").unwrap();
        let fixed = |writable: bool, roots: bool| Permissions {
            fs: FsPermission {
                roots,
                paths: vec![FixedPath {
                    id: "fixed".into(),
                    path: dir.join("fixed"),
                    writable,
                }],
            },
            ..Permissions::default()
        };
        let mut call = Call::new("default", "object");
        call.roots.push(hutch_driver::Root {
            id: "pool".into(),
            path: dir.clone(),
            writable: true,
        });
        let read = |root: &str| Request::FsReadFile {
            at: TreePath {
                root: root.into(),
                path: "f".into(),
            },
        };
        let write = |root: &str| Request::FsWriteFile {
            at: TreePath {
                root: root.into(),
                path: "g".into(),
            },
            data: vec![],
            mode: 0o600,
        };
        let with =
            |requested: Permissions, granted: Permissions| host.context(Grants::new(requested, granted), call.clone());

        let none = with(Permissions::default(), everything());
        let error = host.call(&none, read("pool")).await.unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.plugin.as_str(), error.version.as_str()),
            ("not-requested", "org.example.test", "1.2.3")
        );
        assert_eq!(code(&host, &none, read("fixed")).await, "not-requested");
        let held = with(everything(), Permissions::default());
        let error = host.call(&held, read("pool")).await.unwrap_err();
        assert!(
            error.code == "not-granted" && error.message.contains("hutch plugin grant org.example.test 'fs.roots'"),
            "{error}"
        );
        // Every other function asks, too.
        for request in [
            Request::LinkSubnetsInUse,
            Request::FilterDeleteTable {
                name: "t".into(),
                family: "inet".into(),
            },
            Request::ServiceStatus { name: "s".into() },
            Request::ServiceEnsure {
                name: "s".into(),
                program: "true".into(),
                args: vec![],
                user: None,
            },
            Request::CommandRun {
                program: "true".into(),
                args: vec![],
                env: vec![],
                trees: vec![],
            },
            Request::HttpGet {
                url: "http://127.0.0.1:1/".into(),
                headers: vec![],
                limit: None,
            },
            Request::WatchChanged { topic: "leases".into() },
            Request::SystemArchitecture,
            Request::SystemPackageSources,
            Request::RecordsVersion,
            Request::RecordsChanges { since: 0 },
        ] {
            assert_eq!(
                code(&host, &none, request.clone()).await,
                "not-requested",
                "{request:?}"
            );
            let wanted = Permissions {
                service: vec!["true".into()],
                command: vec![hutch_broker::CommandPermission {
                    program: "true".into(),
                    args: vec!["**".into()],
                    deny: vec![],
                    env: vec![],
                    timeout: None,
                }],
                http: vec!["http://127.0.0.1:1".into()],
                ..everything()
            };
            let held = with(wanted, Permissions::default());
            assert_eq!(code(&host, &held, request.clone()).await, "not-granted", "{request:?}");
        }

        let readable = with(fixed(true, false), fixed(false, false));
        assert_eq!(
            host.call(&readable, read("fixed")).await.unwrap(),
            Response::Bytes(Some(b"x".to_vec()))
        );
        assert_eq!(code(&host, &readable, write("fixed")).await, "not-granted");
        assert_eq!(code(&host, &readable, read("pool")).await, "not-requested");
        assert_eq!(code(&host, &readable, read("unknown")).await, "not-found");
        assert_eq!(
            code(&host, &with(fixed(true, false), everything()), read("fixed")).await,
            "not-granted"
        );
        let writable = with(fixed(true, false), fixed(true, false));
        host.call(&writable, write("fixed")).await.unwrap();
        let mut gone = call.clone();
        gone.roots[0].path = dir.join("not-mounted");
        assert_eq!(
            code(
                &host,
                &host.context(Grants::as_requested(everything()), gone),
                read("pool")
            )
            .await,
            "unavailable"
        );
    });
}

/// What of a tree a copy has to keep, by path.
fn describe(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let listed = Command::new("find")
        .args([top.to_str().unwrap(), "-printf", "%P\\0"])
        .output()
        .unwrap()
        .stdout;
    let mut links: BTreeMap<u64, String> = BTreeMap::new();
    let mut names: Vec<&[u8]> = listed.strip_suffix(b"\0").unwrap().split(|&b| b == 0).collect();
    names.sort_unstable();
    for name in names {
        let (full, path) = (
            top.join(std::ffi::OsStr::from_bytes(name)),
            String::from_utf8_lossy(name).into_owned(),
        );
        let meta = full.symlink_metadata().unwrap();
        let xattrs = Command::new("getfattr")
            .args(["-h", "-d", "-m", "-", "--absolute-names"])
            .arg(&full)
            .output()
            .unwrap();
        let xattrs = String::from_utf8_lossy(&xattrs.stdout).into_owned();
        let xattrs: Vec<&str> = xattrs
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .collect();
        let content = if meta.is_file() {
            std::fs::read(&full).unwrap()
        } else {
            Vec::new()
        };
        let target = std::fs::read_link(&full).unwrap_or_default();
        let kind = meta.file_type();
        let first = if meta.nlink() > 1 && !meta.is_dir() {
            links.entry(meta.ino()).or_insert_with(|| path.clone()).clone()
        } else {
            String::new()
        };
        let text = format!(
            "{:?} {:o} {}:{} rdev {} mtime {}.{} size {} same as {first:?} -> {target:?} {xattrs:?} {:?} char {} fifo {} socket {}",
            kind,
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev(),
            meta.mtime(),
            meta.mtime_nsec(),
            if meta.is_dir() { 0 } else { meta.size() },
            content.len().checked_sub(1).map(|last| content[last]),
            kind.is_char_device(),
            kind.is_fifo(),
            kind.is_socket(),
        );
        found.insert(path, text);
    }
    found
}

/// Something of everything that a root file system can hold.
fn make_odd_tree(top: &Path) {
    let script = r#"
        set -e
        mkdir -p "$1/dir/sub" "$1/locked"; cd "$1"
        printf hello > file; chown 1000:1001 file; chmod 4755 file; touch -d '2001-02-03 04:05:06.789' file
        printf x > shared; ln shared dir/link-to-shared; ln shared dir/sub/another
        setfattr -n user.colour -v blue file; setfattr -n trusted.deep -v secret dir; setfattr -n user.overlay.opaque -v y dir/sub
        printf tool > tool; chmod 755 tool; setcap cap_net_raw+ep tool
        ln -s ../nowhere dangling; chown -h 12:34 dangling; touch -h -d '2002-03-04' dangling; setfattr -h -n trusted.on-link -v z dangling
        mknod null c 1 3; chmod 666 null; mknod whiteout c 0 0; mknod disk b 7 99; mkfifo -m 622 fifo
        python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind("socket")'
        truncate -s 100M sparse; printf middle | dd of=sparse bs=1 seek=50000000 conv=notrunc status=none
        : > empty; setfacl -m u:1234:rw empty 2>&- && setfacl -d -m g:99:r dir
        printf data > "$(printf 'od\377d name\n')"
        chmod 0 locked; chown 5:6 locked; touch -d '1999-01-01' dir/sub dir locked .
    "#;
    run("sh", &["-c", script, "sh", top.to_str().unwrap()]);
}

#[test]
fn a_copy_is_as_its_source() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let pool = dir.join("pool");
        make_odd_tree(&pool.join("source"));
        let cx = host.with_root(&pool);
        host.call(
            &cx,
            Request::FsCopyTree {
                source: at("source"),
                to: at("copy"),
            },
        )
        .await
        .unwrap();
        let (source, copy) = (describe(&pool.join("source")), describe(&pool.join("copy")));
        assert!(source.len() >= 18, "{source:#?}");
        for (path, text) in &source {
            assert_eq!(copy.get(path), Some(text), "{path}");
        }
        assert_eq!(source.len(), copy.len());
        let blocks = |name: &str| pool.join(name).join("sparse").metadata().unwrap().blocks();
        assert!(
            blocks("copy") <= blocks("source") + 64,
            "holes: {} {}",
            blocks("copy"),
            blocks("source")
        );
        assert_eq!(
            code(
                &host,
                &cx,
                Request::FsCopyTree {
                    source: at("source"),
                    to: at("copy")
                }
            )
            .await,
            "already-exists"
        );
        assert_eq!(
            code(
                &host,
                &cx,
                Request::FsCopyTree {
                    source: at("source"),
                    to: at("source/in")
                }
            )
            .await,
            "invalid"
        );
        assert_eq!(
            code(
                &host,
                &cx,
                Request::FsCopyTree {
                    source: at("none"),
                    to: at("x")
                }
            )
            .await,
            "not-found"
        );
        // One file.
        host.call(
            &cx,
            Request::FsCopyTree {
                source: at("source/tool"),
                to: at("tool"),
            },
        )
        .await
        .unwrap();
        assert_eq!(
            run("getcap", &[pool.join("tool").to_str().unwrap()])
                .trim()
                .split(' ')
                .next_back(),
            Some("cap_net_raw=ep")
        );
        cx.call.cancel.cancel();
        assert_eq!(
            code(
                &host,
                &cx,
                Request::FsCopyTree {
                    source: at("source"),
                    to: at("late")
                }
            )
            .await,
            "cancelled"
        );
        assert!(!pool.join("late").exists());
        assert_eq!(std::fs::read_dir(pool.join(".hutch-trash")).unwrap().count(), 0);
    });
}

/// Whether the kernel can keep quotas of ext4: otherwise the test says that it can't be run here (the lab's kernel can).
fn kernel_has_quota() -> bool {
    let config = Command::new("zcat")
        .arg("/proc/config.gz")
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    !config.contains("# CONFIG_QFMT_V2 is not set")
}

/// `tmpfs`, or an image of `kind` mounted from a loop device.
fn mount(kind: &str, dir: &Path, mib: u64, mkfs: &[&str], options: &str) {
    let place = dir.join("pool");
    std::fs::create_dir(&place).unwrap();
    if kind == "tmpfs" {
        run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mib}m"),
                "tmpfs",
                place.to_str().unwrap(),
            ],
        );
        return;
    }
    let image = dir.join("image");
    std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
    let mut args = mkfs.to_vec();
    args.push(image.to_str().unwrap());
    run(&format!("mkfs.{kind}"), &args);
    run(
        "mount",
        &[
            "-o",
            &format!("loop,{options}"),
            image.to_str().unwrap(),
            place.to_str().unwrap(),
        ],
    );
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        mount("tmpfs", &dir, 4, &[], "");
        let pool = dir.join("pool");
        std::fs::create_dir(pool.join("source")).unwrap();
        for index in 0..12 {
            std::fs::write(pool.join(format!("source/{index}")), vec![7; 256 << 10]).unwrap();
        }
        let cx = host.with_root(&pool);
        let used = |response: Response| match response {
            Response::Space(space) => (space.total_bytes, space.used_bytes),
            other => panic!("{other:?}"),
        };
        let before = used(host.call(&cx, Request::FsSpace { root: "pool".into() }).await.unwrap());
        assert_eq!(before.0, 4 << 20);
        let error = host
            .call(
                &cx,
                Request::FsCopyTree {
                    source: at("source"),
                    to: at("copy"),
                },
            )
            .await
            .unwrap_err();
        assert_eq!(error.code, "no-space");
        assert!(error.message.contains("no space left on device"), "{error}");
        let after = used(host.call(&cx, Request::FsSpace { root: "pool".into() }).await.unwrap());
        assert_eq!(before.1, after.1);
        assert!(!pool.join("copy").exists());
        std::fs::write(pool.join("fill"), vec![1; 900 << 10]).unwrap();
        assert_eq!(
            code(
                &host,
                &cx,
                Request::FsWriteFile {
                    at: at("f"),
                    data: vec![0; 512 << 10],
                    mode: 0o644
                }
            )
            .await,
            "no-space"
        );
        assert!(!pool.join("f").exists());
    });
}

#[test]
fn what_is_discarded_goes_whatever_it_is() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let pool = dir.join("pool");
        make_odd_tree(&pool.join("odd"));
        run("chattr", &["+i", pool.join("odd/dir/sub/another").to_str().unwrap()]);
        run("chattr", &["+a", pool.join("odd/dir").to_str().unwrap()]);
        // An immutable directory of everything: nothing in it is opened, which for a fifo or a device would do something.
        std::fs::create_dir(pool.join("above")).unwrap();
        make_odd_tree(&pool.join("above/kept"));
        run("chattr", &["+i", pool.join("above/kept").to_str().unwrap()]);
        // Deeper than any path can name and than descriptors or a stack would last.
        let deep = r#"import os, sys
os.chdir(sys.argv[1]); os.mkdir("deep"); os.chdir("deep")
for i in range(3000):
    os.mkdir("d" * 50); os.chdir("d" * 50)
open("bottom", "w")"#;
        run("python3", &["-c", deep, pool.to_str().unwrap()]);
        std::fs::create_dir(dir.join("disk")).unwrap();
        std::fs::write(dir.join("disk/precious"), "x").unwrap();
        std::fs::create_dir_all(pool.join("holder/mounted")).unwrap();
        run(
            "mount",
            &[
                "--bind",
                dir.join("disk").to_str().unwrap(),
                pool.join("holder/mounted").to_str().unwrap(),
            ],
        );

        let cx = host.with_root(&pool);
        assert_eq!(
            code(
                &host,
                &cx,
                Request::FsCopyTree {
                    source: at("deep"),
                    to: at("copy")
                }
            )
            .await,
            "limit"
        );
        // What is itself immutable can be renamed, and is so afterwards, and taken away.
        std::fs::create_dir_all(pool.join("fixed/inside")).unwrap();
        std::fs::write(pool.join("fixed-file"), "x").unwrap();
        for (path, flag) in [("fixed", "+a"), ("fixed-file", "+i")] {
            run("chattr", &[flag, pool.join(path).to_str().unwrap()]);
        }
        let moved = Request::FsRename {
            source: at("fixed"),
            to: at("fixed-moved"),
        };
        host.call(&cx, moved).await.unwrap();
        assert!(
            std::fs::remove_dir(pool.join("fixed-moved/inside")).is_err(),
            "the renaming took the flag away for good"
        );
        for path in [
            "odd",
            "deep",
            "holder",
            "above",
            "fixed-moved",
            "fixed-file",
            "never-there",
            "no/such/directory",
        ] {
            host.call(&cx, Request::FsDiscard { at: at(path) }).await.unwrap();
            assert!(!pool.join(path).exists());
        }
        // A disk that somebody mounted in there is not emptied, and what holds it is reported as left.
        assert!(host.broker.release_root(&pool).await.is_err());
        assert!(dir.join("disk/precious").exists());
        let trash: Vec<_> = std::fs::read_dir(pool.join(".hutch-trash"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(trash.len(), 1, "{trash:?}");
        run("umount", &[trash[0].join("mounted").to_str().unwrap()]);
        host.broker.release_root(&pool).await.unwrap();
        assert_eq!(std::fs::read_dir(&pool).unwrap().count(), 0);
        host.broker.release_root(&dir.join("nothing-here")).await.unwrap();
    });
}

#[test]
fn what_a_killed_daemon_left_is_removed() {
    isolated(|dir| async move {
        let pool = dir.join("pool");
        std::fs::create_dir_all(pool.join(".hutch-trash/half-a-copy/usr/bin")).unwrap();
        std::fs::write(pool.join(".hutch-trash/temporary"), "x").unwrap();
        std::fs::create_dir_all(pool.join("volume")).unwrap();
        let host = host(&dir).await;
        let cx = host.with_root(&pool);
        assert_eq!(entries(&host, &cx, "").await, ["volume:directory"]);
        host.broker.release_root(&dir.join("elsewhere")).await.unwrap();
        assert_eq!(std::fs::read_dir(pool.join(".hutch-trash")).unwrap().count(), 0);
        assert!(pool.join("volume").exists());
    });
}

async fn features(host: &Host, cx: &CallContext) -> Vec<String> {
    match host
        .call(cx, Request::FsFeatures { root: "pool".into() })
        .await
        .unwrap()
    {
        Response::Strings(list) => list,
        other => panic!("{other:?}"),
    }
}

#[test]
fn file_systems_tell_what_they_can_do() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        mount("tmpfs", &dir, 4, &[], "");
        let cx = host.with_root(&dir.join("pool"));
        assert_eq!(features(&host, &cx).await, ["overlay-upper"]);
        assert_eq!(
            code(
                &host,
                &cx,
                Request::FsSetQuota {
                    at: at(""),
                    bytes: Some(1)
                }
            )
            .await,
            "unsupported"
        );
        assert_eq!(code(&host, &cx, Request::FsUsage { at: at("") }).await, "Size(None)");
        let second = dir.join("second");
        std::fs::create_dir(&second).unwrap();
        mount("xfs", &second, 320, &["-q"], "noatime");
        let cx = host.with_root(&second.join("pool"));
        assert_eq!(features(&host, &cx).await, ["reflink", "overlay-upper"]);
        make_odd_tree(&second.join("pool/source"));
        std::fs::write(second.join("pool/source/large"), vec![3; 64 << 20]).unwrap();
        let free = || {
            run("sync", &["-f", second.join("pool").to_str().unwrap()]);
            rustix::fs::statvfs(second.join("pool"))
                .map(|s| i64::try_from(s.f_bavail * s.f_frsize).unwrap())
                .unwrap()
        };
        let before = free();
        for copy in ["one", "two", "three", "four"] {
            host.call(
                &cx,
                Request::FsCopyTree {
                    source: at("source"),
                    to: at(copy),
                },
            )
            .await
            .unwrap();
        }
        assert_eq!(
            describe(&second.join("pool/source")),
            describe(&second.join("pool/four"))
        );
        assert!(
            before - free() < 32 << 20,
            "extents are not shared: {} bytes",
            before - free()
        );
    });
}

#[test]
fn trees_are_limited_by_project_quota() {
    if !kernel_has_quota() {
        println!("not run: this kernel is without CONFIG_QFMT_V2");
        return;
    }
    isolated(|dir| async move {
        let host = host(&dir).await;
        mount(
            "ext4",
            &dir,
            64,
            &["-q", "-O", "quota,project", "-E", "quotatype=prjquota"],
            "prjquota",
        );
        let pool = dir.join("pool");
        let cx = host.with_root(&pool);
        assert!(features(&host, &cx).await.contains(&"project-quota".to_owned()));
        host.call(
            &cx,
            Request::FsMakeDir {
                at: at("v/rootfs/sub"),
                mode: 0o755,
            },
        )
        .await
        .unwrap();
        std::fs::write(pool.join("v/rootfs/sub/old"), vec![1; 1 << 20]).unwrap();
        run("mkfifo", &[pool.join("v/rootfs/fifo").to_str().unwrap()]);
        let set = |bytes: Option<u64>| Request::FsSetQuota {
            at: at("v/rootfs"),
            bytes,
        };
        let usage = Request::FsUsage { at: at("v/rootfs") };
        assert_eq!(code(&host, &cx, usage.clone()).await, "Size(None)");
        host.call(&cx, set(None)).await.unwrap();
        host.call(&cx, set(Some(4 << 20))).await.unwrap();
        let Response::Size(Some(used)) = host.call(&cx, usage.clone()).await.unwrap() else {
            panic!()
        };
        assert!((1 << 20..2 << 20).contains(&used), "{used}");
        // Root is over no quota, so somebody else tries.
        run(
            "chmod",
            &[
                "0755",
                pool.to_str().unwrap(),
                pool.join("v").to_str().unwrap(),
                pool.join("v/rootfs").to_str().unwrap(),
                dir.to_str().unwrap(),
            ],
        );
        run("chmod", &["0777", pool.join("v/rootfs/sub").to_str().unwrap()]);
        let dd = |mib: &str| {
            let place = format!("of={}", pool.join("v/rootfs/sub/new").display());
            Command::new("setpriv")
                .args([
                    "--reuid=4000",
                    "--clear-groups",
                    "dd",
                    "if=/dev/zero",
                    &place,
                    "bs=1M",
                    &format!("count={mib}"),
                ])
                .output()
                .unwrap()
        };
        let refused = dd("8");
        assert!(
            !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("quota"),
            "{refused:?}"
        );
        assert!(dd("1").status.success());
        assert_eq!(code(&host, &cx, set(Some(1 << 20))).await, "in-use");
        host.call(&cx, set(Some(16 << 20))).await.unwrap();
        assert!(dd("8").status.success());
        host.call(&cx, set(None)).await.unwrap();
        assert!(dd("20").status.success());
        // Notes can be written into a limited tree, and a copy of it is not limited with it.
        host.call(
            &cx,
            Request::FsWriteFile {
                at: at("v/rootfs/note"),
                data: b"x".to_vec(),
                mode: 0o600,
            },
        )
        .await
        .unwrap();
        host.call(
            &cx,
            Request::FsCopyTree {
                source: at("v/rootfs/sub"),
                to: at("copy"),
            },
        )
        .await
        .unwrap();
        assert_eq!(
            code(&host, &cx, Request::FsUsage { at: at("copy") }).await,
            "Size(None)"
        );
        host.call(&cx, Request::FsDiscard { at: at("v") }).await.unwrap();
    });
}

#[test]
fn merged_layers_are_copied_as_an_overlay_shows_them() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let pool = dir.join("pool");
        let script = r#"
            set -e; mkdir -p "$1/low/dir" "$1/low/gone" "$1/mid/dir" "$1/up/dir" "$1/up/gone"; cd "$1"
            echo low > low/file; echo low > low/dir/a; echo low > low/gone/x; echo low > low/deleted; ln low/file low/twin
            echo mid > mid/dir/b; echo mid > mid/file2
            echo up > up/file; mknod up/deleted c 0 0; setfattr -n user.overlay.opaque -v y up/gone; echo up > up/gone/y
            chown 7:8 up/dir; chmod 2711 up/dir; setfattr -n user.keep -v yes up/file
        "#;
        run("sh", &["-c", script, "sh", pool.to_str().unwrap()]);
        let cx = host.with_root(&pool);
        let merge = |layers: &[&str], to: &str| Request::FsCopyMerged {
            layers: layers.iter().map(|l| at(l)).collect(),
            to: at(to),
        };
        host.call(&cx, merge(&["up", "mid", "low"], "all")).await.unwrap();
        let found = run("find", &[pool.join("all").to_str().unwrap(), "-printf", "%P %y %s\n"]);
        let mut found: Vec<&str> = found.lines().filter(|l| !l.contains(" d ")).collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                "dir/a f 4",
                "dir/b f 4",
                "file f 3",
                "file2 f 4",
                "gone/y f 3",
                "twin f 4"
            ]
        );
        let all = describe(&pool.join("all"));
        assert!(
            all["file"].contains("user.keep") && all["dir"].contains(" 42711 7:8 "),
            "{all:#?}"
        );
        assert!(!all.values().any(|text| text.contains("overlay")), "{all:#?}");
        // The marks of a single layer are not copied either.
        host.call(&cx, merge(&["up"], "one")).await.unwrap();
        assert!(!pool.join("one/deleted").exists());
        assert_eq!(code(&host, &cx, merge(&[], "none")).await, "invalid");
        assert_eq!(code(&host, &cx, merge(&["up", "nothing"], "none")).await, "not-found");
        assert_eq!(std::fs::read_dir(pool.join(".hutch-trash")).unwrap().count(), 0);
        // As many as an overlay takes.
        let many: Vec<String> = (0..499).map(|index| format!("layers/{index}")).collect();
        for layer in &many {
            std::fs::create_dir_all(pool.join(layer)).unwrap();
        }
        std::fs::write(pool.join("layers/498/f"), "x").unwrap();
        host.call(&cx, merge(&many.iter().map(String::as_str).collect::<Vec<_>>(), "deep"))
            .await
            .unwrap();
        assert!(pool.join("deep/f").exists());
    });
}
