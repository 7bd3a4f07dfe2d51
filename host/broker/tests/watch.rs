//! Events from drivers, and the files of services. Needs root.

mod common;

use std::time::Duration;

use common::{Host, everything, host, isolated};
use hutch_broker::{CallContext, Grants, Permissions, Request, Response};
use hutch_driver::{Call, DriverEvent};

fn context(host: &Host, object: &str) -> CallContext {
    let permissions = Permissions {
        service: vec!["sleep".into()],
        ..everything()
    };
    host.context(Grants::as_requested(permissions), Call::new("default", object))
}

fn write(path: &str, data: &str) -> Request {
    Request::ServiceWriteFile {
        name: "dhcp".into(),
        path: path.into(),
        data: data.into(),
    }
}

async fn next(host: &mut Host) -> DriverEvent {
    tokio::time::timeout(Duration::from_secs(10), host.events.recv())
        .await
        .expect("an event")
        .unwrap()
}

#[test]
fn changes_of_a_services_file_become_events_also_for_the_next_daemon() {
    isolated(|dir| async move {
        let mut host = host(&dir).await;
        let cx = context(&host, "br0");
        let event = |topic: &str| DriverEvent {
            family: "network".into(),
            project: "default".into(),
            object: "br0".into(),
            topic: topic.into(),
        };
        host.call(&cx, Request::WatchChanged { topic: "state".into() })
            .await
            .unwrap();
        assert_eq!(next(&mut host).await, event("state"));
        assert_eq!(
            host.call(&cx, Request::WatchChanged { topic: "a b".into() })
                .await
                .unwrap_err()
                .code,
            "invalid"
        );

        let watch = Request::WatchServiceFile {
            service: "dhcp".into(),
            path: "leases".into(),
            topic: "leases".into(),
        };
        assert_eq!(host.call(&cx, watch.clone()).await.unwrap_err().code, "not-found");
        host.call(&cx, write("hosts/c1", "one")).await.unwrap();
        host.call(&cx, watch.clone()).await.unwrap();
        host.call(&cx, watch.clone()).await.unwrap();
        // Another file is nobody's business; the one that is watched is told of once, replaced or written in place.
        host.call(&cx, write("other", "x")).await.unwrap();
        host.call(&cx, write("leases", "1")).await.unwrap();
        assert_eq!(next(&mut host).await, event("leases"));
        let place = std::fs::read_dir(dir.join("state/services"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        for round in 0..5 {
            std::fs::write(place.join("leases"), round.to_string()).unwrap();
        }
        assert_eq!(next(&mut host).await, event("leases"));
        assert!(host.events.is_empty());
        drop(host);

        let mut host = common::host(&dir).await;
        std::fs::write(place.join("leases"), "while nobody knew").unwrap();
        assert_eq!(next(&mut host).await, event("leases"));
        let listed = std::fs::read_to_string(dir.join("state/watches.json")).unwrap();
        assert_eq!(listed.matches("leases\",\"family").count(), 1, "{listed}");
        host.call(&cx, Request::ServiceRemove { name: "dhcp".into() })
            .await
            .unwrap();
        host.call(&cx, Request::ServiceRemove { name: "dhcp".into() })
            .await
            .unwrap();
        assert!(
            !std::fs::read_to_string(dir.join("state/watches.json"))
                .unwrap()
                .contains("leases")
        );
        assert!(!place.exists());
        drop(host);
        // What a lost power supply left of the list does not stop the next daemon.
        std::fs::write(dir.join("state/watches.json"), "").unwrap();
        drop(common::host(&dir).await);
    });
}

#[test]
fn a_services_files_stay_in_its_directory() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let cx = context(&host, "br0");
        let read = |path: &str| Request::ServiceReadFile {
            name: "dhcp".into(),
            path: path.into(),
        };
        let list = |path: &str| Request::ServiceListFiles {
            name: "dhcp".into(),
            path: path.into(),
        };
        assert_eq!(host.call(&cx, read("x")).await.unwrap(), Response::Bytes(None));
        assert_eq!(host.call(&cx, list("")).await.unwrap(), Response::Strings(vec![]));
        assert_eq!(
            host.call(&cx, Request::ServiceStatus { name: "dhcp".into() })
                .await
                .unwrap(),
            Response::ServiceStatus(None)
        );
        host.call(&cx, write("hosts/sub/c1", "one")).await.unwrap();
        host.call(&cx, write("hosts/c2", "two")).await.unwrap();
        host.call(&cx, write("hosts/c2", "three")).await.unwrap();
        assert_eq!(
            host.call(&cx, read("hosts/c2")).await.unwrap(),
            Response::Bytes(Some(b"three".to_vec()))
        );
        assert_eq!(
            host.call(&cx, list("hosts")).await.unwrap(),
            Response::Strings(vec!["c2".into()])
        );
        for path in ["../x", "/etc/x", "hosts/../../x", ".hutch-trash/x", ""] {
            assert_eq!(
                host.call(&cx, write(path, "x")).await.unwrap_err().code,
                "invalid",
                "{path}"
            );
        }
        let place = std::fs::read_dir(dir.join("state/services"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        std::os::unix::fs::symlink("/etc", place.join("link")).unwrap();
        assert!(host.call(&cx, write("link/x", "x")).await.is_err());
        assert!(host.call(&cx, read("link/passwd")).await.is_err());
        // Readable by a program that gave up root.
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (
                mode(&place),
                mode(&place.join("hosts/sub")),
                mode(&place.join("hosts/c2"))
            ),
            (0o755, 0o755, 0o644)
        );
        // Another object's service of the same name is another one.
        assert_eq!(
            host.call(&context(&host, "br1"), read("hosts/c2")).await.unwrap(),
            Response::Bytes(None)
        );
        let remove = Request::ServiceRemoveFile {
            name: "dhcp".into(),
            path: "hosts/c2".into(),
        };
        host.call(&cx, remove.clone()).await.unwrap();
        host.call(&cx, remove).await.unwrap();
        for (program, code) in [("sh", "not-requested"), ("sleep; id", "not-requested")] {
            let ensure = Request::ServiceEnsure {
                name: "dhcp".into(),
                program: program.into(),
                args: vec![],
                user: None,
            };
            assert_eq!(host.call(&cx, ensure).await.unwrap_err().code, code);
        }
        let ensure = Request::ServiceEnsure {
            name: "dhcp".into(),
            program: "sleep".into(),
            args: vec![],
            user: Some("no-such-account".into()),
        };
        assert_eq!(host.call(&cx, ensure).await.unwrap_err().code, "unavailable");
        let signal = Request::ServiceSignal {
            name: "dhcp".into(),
            signal: "kill".into(),
        };
        assert_eq!(host.call(&cx, signal).await.unwrap_err().code, "invalid");
    });
}
