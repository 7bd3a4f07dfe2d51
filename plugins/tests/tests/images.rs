//! The image sources: a tree made by `incus-simplestreams` (package incus-extra) and served on loopback, and a release
//! built for real.

use std::path::{Path, PathBuf};

use hutch_driver::image::ImageRequest;
use hutch_driver::{Drivers as _, Options, TreePath};
use hutch_plugin_tests::{Machine, Network, run, with_drivers};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const COMPILER: &str = env!("CARGO_BIN_EXE_compile-drivers");

fn request(server: &str, name: &str) -> ImageRequest {
    ImageRequest {
        server: server.into(),
        name: name.into(),
        architecture: std::env::consts::ARCH.into(),
        kind: "container".into(),
        options: Options::new(),
    }
}

/// A tree with one image, split in two files.
fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("root/etc")).unwrap();
    std::fs::write(tree.join("root/etc/name"), "busy").unwrap();
    let arch = std::env::consts::ARCH;
    let metadata = format!(
        "architecture: {arch}\ncreation_date: 1700000000\nproperties:\n  os: Busy\n  release: box\n  variant: default\n  architecture: {arch}\n  description: a test\n"
    );
    std::fs::write(tree.join("metadata.yaml"), metadata).unwrap();
    let script = "mksquashfs root rootfs.squashfs -quiet -noappend >/dev/null && tar cJf metadata.tar.xz metadata.yaml \
                  && incus-simplestreams add metadata.tar.xz rootfs.squashfs --alias busy";
    run("sh", &["-c", &format!("cd {} && {script}", tree.display())]);
    tree
}

/// Serves the files of a directory, one request a connection.
async fn serve(tree: PathBuf) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
            let (status, body) =
                std::fs::read(tree.join(path)).map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
            let reply = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(reply.as_bytes()).await;
            let _ = stream.write_all(&body).await;
        }
    });
    format!("http://{address}")
}

async fn resolves(machine: Machine) {
    let tree = tree(&machine.dir);
    let server = serve(tree.clone()).await;
    let driver = machine.host.image("simplestreams").unwrap();
    let mut call = machine.call(&server, "unused");
    call.origin = Some(server.clone());
    let image = driver.resolve(&call, &request(&server, "busy")).await.unwrap();
    let mut whole = Sha256::new();
    for file in &image.files {
        let path = file
            .url
            .strip_prefix(&format!("{server}/"))
            .expect("on the same server");
        let bytes = std::fs::read(tree.join(path)).unwrap();
        assert_eq!(file.size, Some(bytes.len() as u64));
        assert_eq!(hex::encode(Sha256::digest(&bytes)), file.sha256);
        whole.update(&bytes);
    }
    assert_eq!(hex::encode(whole.finalize()), image.fingerprint);
    assert_eq!(driver.list(&call, &request(&server, "")).await.unwrap().len(), 1);
    assert!(
        driver
            .resolve(&call, &request(&server, "lazy"))
            .await
            .unwrap_err()
            .is("not-found")
    );

    let other = serve(tree).await;
    let error = driver.resolve(&call, &request(&other, "busy")).await.unwrap_err();
    assert!(
        error.is("not-granted") || error.is("not-requested"),
        "only the server that was named: {error}"
    );
}

#[test]
fn a_tree_of_simplestreams_is_read_from_the_server_that_was_named() {
    with_drivers(&["hutch-plugin-image-simplestreams"], COMPILER, Network::Own, resolves);
}

async fn builds(machine: Machine) {
    let driver = machine.host.image("debian").unwrap();
    let call = machine.call("debian", "scratch");
    let wanted = request("", "bookworm");
    assert!(driver.resolve(&call, &wanted).await.unwrap().build_key.is_some());
    let scratch = TreePath {
        root: "scratch".into(),
        path: String::new(),
    };
    let built = driver.build(&call, &wanted, &scratch).await.unwrap();
    let archive = machine.dir.join("scratch").join(&built.rootfs.path);
    let names = run("tar", &["tf", archive.to_str().unwrap()]);
    assert!(
        names.lines().any(|name| name.ends_with("systemd/systemd-networkd")),
        "it has what asks for addresses"
    );
    assert!(
        built
            .files
            .iter()
            .any(|file| file.path == "etc/systemd/network/80-hutch.network")
    );
}

#[test]
fn a_release_is_built_with_the_machines_own_archive() {
    with_drivers(&["hutch-plugin-image-debian"], COMPILER, Network::Machine, builds);
}
