//! Images in a whole core with drivers of the test's own.
//!
//! The program is its own helper: images are unpacked by another process of it, and so `main` is ours and not the usual one.

mod common;

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use common::{Bench, Place, SERVER, by_alias, elsewhere, finished, metadata, split, tar, unified};
use hutch_api::image::{
    ImageAlias, ImageAliasesEntry, ImageAliasesEntryPost, ImagePatch, ImagesPost, ImagesPostSource,
};
use hutch_api::instance::InstanceSource;
use hutch_core::Error;
use hutch_core::images::{ImageUpload, SourceQuery};
use sha2::{Digest, Sha256};

fn an_uploaded_image_is_used_exported_and_deleted() {
    let place = Place::new();
    let archive = unified(b"one");
    let fingerprint = hex::encode(Sha256::digest(&archive));
    place.life(|bench| an_uploaded_image_is_used(bench, archive));
    place.life(|bench| async move {
        assert_eq!(bench.volumes(), std::slice::from_ref(&fingerprint));
        bench.launch("later", by_alias("test/1")).await.unwrap();
        assert_eq!(bench.world.fills.load(Ordering::SeqCst), 1);
        finished(&bench.core.image_delete("default", &fingerprint).await.unwrap())
            .await
            .unwrap();
        assert!(matches!(
            bench.core.image("default", &fingerprint),
            Err(Error::Missing { .. })
        ));
        assert!(matches!(
            bench.core.alias("default", "test/1"),
            Err(Error::Missing { .. })
        ));
        assert!(bench.files().is_empty() && bench.volumes().is_empty());
        assert!(bench.core.instance("default", "c3").is_ok());
    });
}

async fn a_source_says_what_it_has_and_nothing_of_it_is_here(bench: Bench) {
    for name in ["debian/12", "debian/13", "other"] {
        let mut served = bench.world.served.lock().unwrap();
        served.insert(name.to_owned(), split(name.as_bytes()));
    }
    let core = &bench.core;
    let query = SourceQuery {
        server: SERVER.to_owned(),
        ..SourceQuery::default()
    };
    let sources = core.image_sources();
    assert_eq!((sources[0].name.as_str(), sources[0].builds), ("catalogue", true));
    let listed = core
        .image_source_list("default", "catalogue", "debian", &query)
        .await
        .unwrap();
    let names: Vec<&str> = listed.iter().map(|image| image.aliases[0].name.as_str()).collect();
    assert_eq!(names, ["debian/12", "debian/13"]);
    assert_eq!(listed[0].architecture, std::env::consts::ARCH);
    assert!(listed[0].size > 0 && listed[0].created_at.is_never());
    let found = core
        .image_source_image("default", "catalogue", "debian/12", &query)
        .await
        .unwrap();
    assert_eq!(found, listed[0]);
    let built = core
        .image_source_image("default", "catalogue", "build:x", &query)
        .await
        .unwrap();
    assert_eq!((built.fingerprint.as_str(), built.size), ("", -1));

    let refused = async |project: &str, source: &str, name: &str, query: &SourceQuery| {
        let error = core.image_source_image(project, source, name, query).await.unwrap_err();
        (error.status(), error.report())
    };
    assert_eq!(refused("default", "catalogue", "none", &query).await.0, 404);
    assert_eq!(refused("default", "catalogue", "", &query).await.0, 400);
    assert_eq!(refused("default", "catalogue", &"x".repeat(1025), &query).await.0, 400);
    assert_eq!(refused("nowhere", "catalogue", "other", &query).await.0, 404);
    let longest = SourceQuery {
        server: "x".repeat(2049),
        ..query.clone()
    };
    assert_eq!(refused("default", "catalogue", "other", &longest).await.0, 400);
    *bench.world.down.lock().unwrap() = true;
    let (status, report) = refused("default", "catalogue", "other", &query).await;
    assert!(
        status == 503 && report.contains("no route to host"),
        "{status} {report}"
    );

    assert!(bench.files().is_empty() && bench.volumes().is_empty());
    assert!(core.image_list(None).unwrap().is_empty());
    assert_eq!(bench.world.downloads.load(Ordering::SeqCst), 0);
}

async fn an_uploaded_image_is_used(bench: Bench, archive: Vec<u8>) {
    let image = bench.import(&archive, None, "test/1").await.unwrap();
    assert_eq!(image.fingerprint, hex::encode(Sha256::digest(&archive)));
    assert_eq!(image.architecture, std::env::consts::ARCH);
    assert_eq!(
        (
            image.properties["description"].as_str(),
            image.properties["added"].as_str()
        ),
        ("unified", "yes")
    );
    assert_eq!(
        (image.aliases[0].name.as_str(), image.size, image.public),
        ("test/1", i64::try_from(archive.len()).unwrap(), true)
    );
    assert_eq!(
        bench.files(),
        [image.fingerprint.clone(), format!("{}.templates", image.fingerprint)]
    );
    let templates = bench.core.image_templates(&image.fingerprint).unwrap();
    assert_eq!(templates.texts["h.tpl"], "{{ name }}");

    let again = bench.import(&archive, None, "other").await.unwrap_err();
    assert!(again.contains("already exists"), "{again}");
    let taken = bench.import(&unified(b"two"), None, "test/1").await.unwrap_err();
    assert!(taken.contains("test/1"), "{taken}");
    assert_eq!(bench.files().len(), 2);

    // Many at once unpack it once.
    let launches = (0..8).map(|i| {
        let name = format!("c{i}");
        let bench = &bench;
        async move { bench.launch(&name, by_alias("test/1")).await.unwrap() }
    });
    futures_util::future::join_all(launches).await;
    assert_eq!(bench.world.fills.load(Ordering::SeqCst), 1);
    assert_eq!(bench.volumes(), std::slice::from_ref(&image.fingerprint));
    let marker = bench.dir.join("storage-pools/default/container/c3/marker");
    assert_eq!(std::fs::read(marker).unwrap(), b"one");
    let config = &bench.core.instance("default", "c3").unwrap().value.config;
    assert_eq!(config["volatile.base_image"], image.fingerprint);
    assert_eq!(config["image.description"], "unified");

    let export = bench.core.image_export("default", &image.fingerprint[..10]).unwrap();
    assert_eq!((export.files.len(), export.files[0].size), (1, archive.len() as u64));
    assert_eq!(export.files[0].filename, format!("{}.tar", image.fingerprint));
}

async fn a_split_image_has_two_files(bench: Bench) {
    let (meta, rootfs) = split(b"split");
    let image = bench.import(&meta, Some(&rootfs), "split").await.unwrap();
    assert_eq!(
        image.fingerprint,
        hex::encode(Sha256::digest([meta.clone(), rootfs.clone()].concat()))
    );
    let export = bench.core.image_export("default", &image.fingerprint).unwrap();
    let parts: Vec<(&str, u64)> = export.files.iter().map(|file| (file.part, file.size)).collect();
    assert_eq!(
        parts,
        [("metadata", meta.len() as u64), ("rootfs", rootfs.len() as u64)]
    );
    bench.launch("c1", by_alias("split")).await.unwrap();
    assert_eq!(
        std::fs::read(bench.dir.join("storage-pools/default/container/c1/marker")).unwrap(),
        b"split"
    );
}

async fn bad_uploads_leave_nothing(bench: Bench) {
    let evil = tar(&[("metadata.yaml", metadata("x").as_bytes()), ("rootfs/../../x", b"")]);
    let cut = unified(&[7; 5000]);
    let foreign = tar(&[
        ("metadata.yaml", b"architecture: pdp11\ncreation_date: 1\n"),
        ("rootfs/x", b""),
    ]);
    let cases: [(&[u8], &str); 5] = [
        (&evil, "leads upwards"),
        (&cut[..3000], "truncated"),
        (b"not an archive", "neither a tar"),
        (&foreign, "unknown architecture"),
        (&tar(&[("rootfs/x", b"")]), "no metadata.yaml"),
    ];
    for (archive, reason) in cases {
        let error = bench.import(archive, None, "bad").await.unwrap_err();
        assert!(error.contains(reason), "{error}");
        assert!(bench.files().is_empty());
    }
    assert!(bench.core.image_list(None).unwrap().is_empty() && bench.core.alias_list(None).unwrap().is_empty());
    let wrong = ImageUpload {
        metadata: bench.core.stage_upload().unwrap(),
        rootfs: None,
        filename: String::new(),
        public: false,
        properties: BTreeMap::new(),
        aliases: vec![ImageAlias {
            name: "../x".to_owned(),
            description: String::new(),
        }],
        fingerprint: None,
        profiles: Vec::new(),
    };
    assert!(matches!(
        bench.core.image_import("default", wrong).await,
        Err(Error::Invalid(_))
    ));
    let missing = bench.launch("c1", by_alias("nobody")).await.unwrap_err();
    assert!(missing.contains("not found"), "{missing}");
    assert!(bench.files().is_empty());
}

async fn images_of_a_source_are_fetched_once_and_kept(bench: Bench) {
    let (meta, rootfs) = split(b"served");
    bench
        .world
        .served
        .lock()
        .unwrap()
        .insert("one".to_owned(), (meta, rootfs));
    let launches = (0..4).map(|i| {
        let bench = &bench;
        async move { bench.launch(&format!("c{i}"), elsewhere("one")).await.unwrap() }
    });
    futures_util::future::join_all(launches).await;
    assert_eq!(bench.world.downloads.load(Ordering::SeqCst), 2);
    let images = bench.core.image_list(Some("default")).unwrap();
    assert_eq!(images.len(), 1);
    assert!(images[0].cached && images[0].update_source.as_ref().unwrap().alias == "one");

    // What is here serves when its source does not.
    *bench.world.down.lock().unwrap() = true;
    bench.launch("offline", elsewhere("one")).await.unwrap();
    let error = bench.launch("never", elsewhere("two")).await.unwrap_err();
    assert!(error.contains("no route to host"), "{error}");
    *bench.world.down.lock().unwrap() = false;

    let error = bench.launch("unknown", elsewhere("two")).await.unwrap_err();
    assert!(error.contains("no such image"), "{error}");
    let error = bench
        .launch(
            "protocol",
            InstanceSource {
                protocol: "gopher".to_owned(),
                ..elsewhere("one")
            },
        )
        .await
        .unwrap_err();
    assert!(error.contains("not in this test"), "{error}");

    // A driver can't send the host to other servers.
    bench
        .world
        .served
        .lock()
        .unwrap()
        .insert("elsewhere".to_owned(), split(b"x"));
    let error = bench.launch("ssrf", elsewhere("elsewhere")).await.unwrap_err();
    assert!(error.contains("not on the image's server"), "{error}");

    // Asked for by name, a cached image becomes a kept one.
    let source = ImagesPostSource {
        kind: "image".to_owned(),
        alias: "one".to_owned(),
        server: SERVER.to_owned(),
        protocol: "catalogue".to_owned(),
        ..ImagesPostSource::default()
    };
    let post = ImagesPost {
        source: Some(source),
        aliases: vec![ImageAlias {
            name: "mine".to_owned(),
            description: String::new(),
        }],
        ..ImagesPost::default()
    };
    finished(&bench.core.image_create("default", post).await.unwrap())
        .await
        .unwrap();
    let image = bench.core.image("default", &images[0].fingerprint).unwrap().value;
    assert!(!image.cached && image.aliases[0].name == "mine");

    // A newer one takes over the aliases.
    bench
        .world
        .served
        .lock()
        .unwrap()
        .insert("one".to_owned(), split(b"newer"));
    let keep = ImagePatch {
        auto_update: Some(true),
        ..ImagePatch::default()
    };
    bench
        .core
        .image_patch("default", &image.fingerprint, keep, None)
        .await
        .unwrap();
    bench.core.refresh_images().await;
    let target = bench.core.alias("default", "mine").unwrap().value.target;
    assert_ne!(target, image.fingerprint);
    assert!(bench.core.image("default", &image.fingerprint).is_err());
    assert_eq!(
        bench
            .files()
            .iter()
            .filter(|name| name.starts_with(&image.fingerprint))
            .count(),
        0
    );
}

async fn images_are_built_once_with_what_is_placed_in_them(bench: Bench) {
    let source = || InstanceSource {
        server: String::new(),
        ..elsewhere("build:debian")
    };
    bench.launch("c1", source()).await.unwrap();
    bench.launch("c2", source()).await.unwrap();
    assert_eq!(bench.world.builds.load(Ordering::SeqCst), 1);
    let images = bench.core.image_list(None).unwrap();
    assert_eq!((images.len(), images[0].properties["release"].as_str()), (1, "one"));
    let volume = bench
        .dir
        .join("storage-pools/default/image")
        .join(&images[0].fingerprint);
    assert_eq!(std::fs::read(volume.join("marker")).unwrap(), b"placed");
    assert_eq!(volume.join("marker").metadata().unwrap().mode() & 0o7777, 0o640);
    assert_eq!(
        std::fs::read_link(volume.join("etc/link")).unwrap(),
        Path::new("hostname")
    );
    assert_eq!(std::fs::read(volume.join("etc/hostname")).unwrap(), b"built\n");
    // What is exported is the image with everything in it.
    let export = bench.core.image_export("default", &images[0].fingerprint).unwrap();
    let mut export = export.files.into_iter().map(|file| {
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut &file.file, &mut data).unwrap();
        data
    });
    let (meta, rootfs) = (export.next().unwrap(), export.next().unwrap());
    let delete = bench.core.image_delete("default", &images[0].fingerprint);
    finished(&delete.await.unwrap()).await.unwrap();
    let imported = bench.import(&meta, Some(&rootfs), "imported").await.unwrap();
    assert_eq!(imported.fingerprint, images[0].fingerprint);
    bench.launch("c3", by_alias("imported")).await.unwrap();
    let marker = bench.dir.join("storage-pools/default/container/c3/marker");
    assert_eq!(std::fs::read(marker).unwrap(), b"placed");
}

async fn an_instance_becomes_an_image(bench: Bench) {
    bench.import(&unified(b"published"), None, "base").await.unwrap();
    bench.launch("c1", by_alias("base")).await.unwrap();
    let root = bench.dir.join("storage-pools/default/container/c1");
    std::fs::write(root.join("own"), "made in the instance").unwrap();
    let publish = |kind: &str, name: &str| {
        let source = ImagesPostSource {
            kind: kind.to_owned(),
            name: name.to_owned(),
            ..ImagesPostSource::default()
        };
        let alias = ImageAlias {
            name: "mine".to_owned(),
            description: String::new(),
        };
        ImagesPost {
            source: Some(source),
            aliases: vec![alias],
            properties: BTreeMap::from([("by".to_owned(), "test".to_owned())]),
            ..ImagesPost::default()
        }
    };
    finished(
        &bench
            .core
            .image_create("default", publish("instance", "c1"))
            .await
            .unwrap(),
    )
    .await
    .unwrap();
    let target = bench.core.alias("default", "mine").unwrap().value.target;
    let image = bench.core.image("default", &target).unwrap().value;
    assert_eq!(
        (
            image.properties["by"].as_str(),
            image.properties["description"].as_str()
        ),
        ("test", "unified")
    );
    assert_eq!(
        bench.core.image_templates(&target).unwrap().texts["h.tpl"],
        "{{ name }}"
    );
    bench.launch("c2", by_alias("mine")).await.unwrap();
    let root = bench.dir.join("storage-pools/default/container/c2");
    assert_eq!(
        std::fs::read_to_string(root.join("own")).unwrap(),
        "made in the instance"
    );
    assert_eq!(std::fs::read_to_string(root.join("marker")).unwrap(), "published");
    for (kind, name) in [
        ("instance", "nobody"),
        ("snapshot", "c1/none"),
        ("snapshot", "c1"),
        ("instance", "c1/x"),
        ("url", "x"),
    ] {
        let post = ImagesPost {
            aliases: Vec::new(),
            ..publish(kind, name)
        };
        assert!(bench.core.image_create("default", post).await.is_err(), "{kind} {name}");
    }
}

fn aliases_and_properties_change() {
    let place = Place::new();
    let fingerprint = hex::encode(Sha256::digest(unified(b"x")));
    place.life(|bench| async move {
        let image = bench.import(&unified(b"x"), None, "a").await.unwrap();
        let entry = |name: &str, target: &str| ImageAliasesEntry {
            name: name.to_owned(),
            target: target.to_owned(),
            ..ImageAliasesEntry::default()
        };
        let core = &bench.core;
        core.alias_create("default", entry("b/c", &image.fingerprint))
            .await
            .unwrap();
        assert!(matches!(
            core.alias_create("default", entry("a", &image.fingerprint)).await,
            Err(Error::Conflict(_))
        ));
        assert!(matches!(
            core.alias_create("default", entry("z", "ffff")).await,
            Err(Error::Missing { .. })
        ));
        let name = ImageAliasesEntryPost { name: "d".to_owned() };
        core.alias_rename("default", "b/c", name).await.unwrap();
    });
    place.life(|bench| async move {
        let core = &bench.core;
        let names: Vec<String> = core
            .alias_list(None)
            .unwrap()
            .into_iter()
            .map(|alias| alias.name)
            .collect();
        assert_eq!(names, ["a", "d"]);
        core.alias_delete("default", "a").await.unwrap();
        let before = core.image("default", &fingerprint).unwrap();
        let patch = || ImagePatch {
            properties: Some(BTreeMap::from([("note".to_owned(), "new".to_owned())])),
            ..ImagePatch::default()
        };
        core.image_patch("default", &fingerprint, patch(), Some(&before.etag))
            .await
            .unwrap();
        let changed = core
            .image_patch("default", &fingerprint, patch(), Some(&before.etag))
            .await;
        assert!(matches!(changed, Err(Error::Changed { .. })));
    });
    place.life(|bench| async move {
        let image = bench.core.image_list(None).unwrap().remove(0);
        assert_eq!(image.properties["note"], "new");
        bench.launch("c1", by_alias("d")).await.unwrap();
        bench.core.expire_images().await;
        assert_eq!(
            bench.core.image_list(None).unwrap().len(),
            1,
            "an image that was uploaded does not expire"
        );
    });
}

fn main() -> ExitCode {
    if let Some(code) = hutch_archive::run_if_asked() {
        return code;
    }
    let one = |test: fn(Bench) -> Pin<Box<dyn Future<Output = ()>>>| Place::new().life(test);
    let tests: [(&str, &dyn Fn()); 8] = [
        (
            "an_uploaded_image_is_used_exported_and_deleted",
            &an_uploaded_image_is_used_exported_and_deleted,
        ),
        ("a_split_image_has_two_files", &|| {
            one(|b| Box::pin(a_split_image_has_two_files(b)));
        }),
        ("bad_uploads_leave_nothing", &|| {
            one(|b| Box::pin(bad_uploads_leave_nothing(b)));
        }),
        ("images_of_a_source", &|| {
            one(|b| Box::pin(images_of_a_source_are_fetched_once_and_kept(b)));
        }),
        ("images_are_built", &|| {
            one(|b| Box::pin(images_are_built_once_with_what_is_placed_in_them(b)));
        }),
        ("a_source_says_what_it_has", &|| {
            one(|b| Box::pin(a_source_says_what_it_has_and_nothing_of_it_is_here(b)));
        }),
        ("an_instance_becomes_an_image", &|| {
            one(|b| Box::pin(an_instance_becomes_an_image(b)));
        }),
        ("aliases_and_properties_change", &aliases_and_properties_change),
    ];
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(&filter)) {
        println!("test {name}");
        test();
    }
    ExitCode::SUCCESS
}
