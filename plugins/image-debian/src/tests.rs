//! The driver against a host in memory.

use hutch_sdk::TreePath;
use hutch_sdk::host::CommandOutput;
use hutch_sdk::image::{Build, ImageRequest, Source};
use hutch_sdk::testing::{FakeHost, Node};

use crate::Debian;

fn host() -> FakeHost {
    let host = FakeHost::new(&["scratch"]);
    host.state().package_sources = vec![
        "deb http://archive.test/debian bookworm main".into(),
        "deb http://security.test/debian-security bookworm-security main".into(),
    ];
    host.on_command(|host, command| {
        let archive = command.trees[0].join("rootfs.tar");
        host.state().tree.put(&archive, Node::File(0o644, b"tar".to_vec()));
        Ok(CommandOutput {
            status: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    });
    host
}

fn request(name: &str, options: &[(&str, &str)]) -> ImageRequest {
    ImageRequest {
        server: String::new(),
        name: name.into(),
        architecture: "x86_64".into(),
        kind: "container".into(),
        options: options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    }
}

fn scratch() -> TreePath {
    TreePath::root("scratch")
}

#[test]
fn a_release_resolves_to_a_key_that_changes_with_the_content() {
    let host = host();
    let key = |name: &str, options: &[(&str, &str)]| {
        Debian::resolve(&host, &request(name, options))
            .unwrap()
            .build_key
            .unwrap()
    };
    let plain = key("bookworm", &[]);
    assert_eq!(plain, key("debian/12", &[]));
    let others = [
        key("trixie", &[]),
        key("bookworm", &[("packages", "vim")]),
        key("bookworm", &[("variant", "standard")]),
        key("bookworm", &[("mirror", "http://other.test/debian")]),
    ];
    assert!(others.iter().all(|other| *other != plain));
    let image = Debian::resolve(&host, &request("bookworm", &[])).unwrap();
    assert_eq!(
        (image.fingerprint.as_str(), image.architecture.as_str()),
        ("", "x86_64")
    );
    assert!(image.aliases.contains(&"bookworm".to_owned()));
}

#[test]
fn what_can_not_be_built_says_why() {
    let host = host();
    for (request, code, part) in [
        (request("potato", &[]), "not-found", "bookworm"),
        (request("noble", &[]), "invalid", "mirror"),
        (
            request("bookworm", &[("customize-hook", "id")]),
            "invalid",
            "customize-hook",
        ),
        (
            ImageRequest {
                architecture: "aarch64".into(),
                ..request("bookworm", &[])
            },
            "unsupported",
            "aarch64",
        ),
        (
            ImageRequest {
                kind: "virtual-machine".into(),
                ..request("bookworm", &[])
            },
            "unsupported",
            "virtual-machine",
        ),
    ] {
        let error = Debian::resolve(&host, &request).unwrap_err();
        assert!(error.is(code) && error.message.contains(part), "{error:?}");
    }
}

#[test]
fn the_command_is_what_the_manifest_allows() {
    let host = host();
    host.state()
        .tree
        .put(&scratch().join("rootfs.tar"), Node::File(0o644, b"half".to_vec()));
    let built = Debian::build(&host, &request("bookworm", &[("packages", "vim")]), &scratch()).unwrap();
    assert_eq!(built.rootfs, scratch().join("rootfs.tar"));
    let command = host.commands().remove(0);
    let expected = [
        "--mode=root",
        "--format=tar",
        "--variant=minbase",
        "--architectures=amd64",
        &command.args[4],
        "--include=?exact-name(systemd-resolved)",
        "--",
        "bookworm",
        "{tree:0}/rootfs.tar",
        "deb http://archive.test/debian bookworm main",
        "deb http://archive.test/debian bookworm-updates main",
        "deb http://security.test/debian-security bookworm-security main",
    ];
    assert_eq!(command.args, expected);
    assert!(command.args[4].starts_with("--include=systemd-sysv,") && command.args[4].ends_with(",vim"));
    assert_eq!((command.env, command.trees), (Vec::new(), vec![scratch()]));
    let manifest = include_str!("../plugin.toml");
    for fixed in [0, 1, 5, 6, 8] {
        assert!(
            manifest.contains(&format!("{:?}", expected[fixed])),
            "{}",
            expected[fixed]
        );
    }
}

#[test]
fn placed_files_are_few_relative_and_small() {
    let files = Debian::build(&host(), &request("bookworm", &[]), &scratch())
        .unwrap()
        .files;
    assert!(files.len() <= 64);
    for file in &files {
        assert!(
            !file.path.starts_with('/') && !file.path.split('/').any(|c| c == ".."),
            "{}",
            file.path
        );
        assert!(file.data.len() <= 64 << 10 && (file.kind == "symlink") == (file.mode == 0));
    }
}

#[test]
fn a_failed_build_says_what_mmdebstrap_said() {
    let host = host();
    host.on_command(|_, _| {
        let stderr = b"I: running apt-get update\nE: The repository is not signed\n".to_vec();
        Ok(CommandOutput {
            status: 25,
            stdout: Vec::new(),
            stderr,
        })
    });
    let error = Debian::build(&host, &request("bookworm", &[]), &scratch()).unwrap_err();
    assert!(error.message.contains("not signed") && error.retryable, "{error}");
    host.on_command(|_, _| {
        Ok(CommandOutput {
            status: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    });
    assert!(
        Debian::build(&host, &request("bookworm", &[]), &scratch()).is_err_and(|e| e.message.contains("no archive"))
    );
}

#[test]
fn the_list_has_what_the_machine_can_build() {
    let names = |prefix: &str| -> Vec<String> {
        let images = Debian::list(&host(), &request(prefix, &[])).unwrap();
        images.into_iter().map(|image| image.aliases[0].clone()).collect()
    };
    assert_eq!(names("bookw"), ["bookworm"]);
    assert!(names("").contains(&"sid".to_owned()) && !names("").contains(&"noble".to_owned()));
}

#[test]
fn the_manifest_is_of_this_version() {
    let manifest = include_str!("../plugin.toml");
    assert!(manifest.contains(&format!("version = {:?}", env!("CARGO_PKG_VERSION"))));
}
