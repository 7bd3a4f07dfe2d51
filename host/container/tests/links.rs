//! A root file system behind a symbolic link: what a driver names lies among what containers have made, and a link of theirs must
//! not lead a container out of its pool.

mod common;

use common::{Lab, run};
use hutch_container::{ContainerSpec, RootFs};

/// Why the container does not start, as the keeper tells it.
async fn refusal(lab: &Lab, spec: &ContainerSpec) -> String {
    let keeper = lab.runtime.create(spec, None).await.unwrap();
    let error = keeper.start().await.unwrap_err().to_string();
    keeper.release().await.unwrap();
    keeper.gone().await;
    error
}

#[tokio::test]
async fn no_link_leads_to_a_root() {
    let lab = Lab::new();
    let mut spec = lab.busybox("links");
    let RootFs::Bind { path: root } = spec.root.clone() else {
        unreachable!()
    };
    let pool = lab.dir.path().join("pool");
    for dir in [
        "pool/upper",
        "pool/work",
        "pool/lower",
        "elsewhere/upper",
        "elsewhere/work",
    ] {
        std::fs::create_dir_all(lab.dir.path().join(dir)).unwrap();
    }
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(lab.dir.path().join(to), pool.join(name)).unwrap();
    std::os::unix::fs::symlink(&root, pool.join("root")).unwrap();
    std::os::unix::fs::symlink(root.parent().unwrap(), pool.join("above")).unwrap();
    link("elsewhere", "own");
    let behind = pool.join("above").join(root.file_name().unwrap());
    let overlay = |layer: &std::path::Path, own: &str| RootFs::Overlay {
        layers: vec![layer.to_owned()],
        upper: pool.join(own).join("upper"),
        work: pool.join(own).join("work"),
    };
    for bad in [
        RootFs::Bind {
            path: pool.join("root"),
        },
        RootFs::Bind { path: behind.clone() },
        overlay(&behind, ""),
        overlay(&root, "own"),
    ] {
        spec.root = bad.clone();
        let told = refusal(&lab, &spec).await;
        assert!(told.contains("opening") && told.contains("pool"), "{bad:?}: {told}");
        let files = lab.runtime.files(&spec).await;
        assert!(files.is_err(), "the files behind {bad:?} could be reached");
    }
    spec.root = overlay(&root, "");
    let keeper = lab.start(&spec).await;
    assert_eq!(run(&keeper, &["echo", "up"]).await.1, "up\n");
    lab.stop(&keeper).await;
}
