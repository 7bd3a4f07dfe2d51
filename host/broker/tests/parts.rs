//! Files that are written piece by piece, and the content of zones.

mod common;

use std::sync::Arc;

use common::{at, everything, host, isolated};
use hutch_broker::{Grants, Request, Response};
use hutch_driver::Call;
use hutch_driver::zone::{Content, Position, RecordSet};

fn part(path: &str, offset: u64, data: &[u8]) -> Request {
    Request::FsWritePart {
        at: at(path),
        offset,
        data: data.to_vec(),
        mode: 0o640,
    }
}

fn replace(source: &str, to: &str) -> Request {
    Request::FsReplaceFile {
        source: at(source),
        to: at(to),
    }
}

#[test]
fn a_large_file_comes_in_pieces_and_takes_its_place_whole() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let pool = dir.join("pool");
        std::fs::create_dir(&pool).unwrap();
        let cx = host.with_root(&pool);
        std::fs::write(pool.join("zone"), "old").unwrap();
        host.call(&cx, part("new", 0, b"one ")).await.unwrap();
        // A piece that is repeated, after one that was longer, too.
        for _ in 0..2 {
            host.call(&cx, part("new", 4, b"and three")).await.unwrap();
            host.call(&cx, part("new", 4, b"two")).await.unwrap();
        }
        assert_eq!(std::fs::read(pool.join("zone")).unwrap(), b"old");
        // Repeated after success, too.
        for _ in 0..2 {
            host.call(&cx, replace("new", "zone")).await.unwrap();
            assert_eq!(std::fs::read(pool.join("zone")).unwrap(), b"one two");
        }
        assert!(!pool.join("new").exists());
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(pool.join("zone")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        for (request, code) in [
            (part("zone", 100, b"x"), "invalid"),
            (part("missing", 1, b"x"), "not-found"),
            (part("zone", 0, &vec![0; (1 << 20) + 1]), "limit"),
            (part("zone", 1 << 40, b"x"), "limit"),
            (part("no/where", 0, b"x"), "not-found"),
            (part("../out", 0, b"x"), "invalid"),
            (replace("missing", "nowhere"), "not-found"),
            (replace("../zone", "zone"), "invalid"),
        ] {
            let error = host.call(&cx, request.clone()).await.unwrap_err();
            assert_eq!(error.code, code, "{request:?}: {error}");
        }
    });
}

#[test]
fn nothing_is_written_through_links() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let (pool, outside) = (dir.join("pool"), dir.join("outside"));
        std::fs::create_dir(&pool).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let cx = host.with_root(&pool);
        let secret = outside.join("secret");
        std::fs::write(&secret, "kept").unwrap();
        std::os::unix::fs::symlink(&secret, pool.join("link")).unwrap();
        std::os::unix::fs::symlink(&outside, pool.join("folder")).unwrap();
        std::fs::write(pool.join("one"), "1").unwrap();
        std::fs::hard_link(pool.join("one"), pool.join("two")).unwrap();
        for request in [
            part("link", 0, b"x"),
            part("folder/secret", 0, b"x"),
            part("one", 0, b"x"),
            replace("link", "new"),
            replace("folder/secret", "new"),
            replace("one", "folder/secret"),
        ] {
            assert!(host.call(&cx, request.clone()).await.is_err(), "{request:?}");
        }
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "kept");
        // The link itself is what is replaced, not what it points at.
        std::fs::remove_file(pool.join("two")).unwrap();
        host.call(&cx, replace("one", "link")).await.unwrap();
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "kept");
        assert_eq!(std::fs::read_to_string(pool.join("link")).unwrap(), "1");
    });
}

#[test]
fn a_call_reads_the_content_of_its_own_zone_alone() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let set = |name: &str| RecordSet {
            name: name.into(),
            kind: "A".into(),
            ttl: 300,
            values: vec!["192.0.2.1".into()],
        };
        let mut call = Call::new("default", "example.org");
        let none = host.context(Grants::as_requested(everything()), call.clone());
        let page = |version, after: Option<&str>| Request::RecordsPage {
            version,
            after: after.map(|name| Position {
                name: name.into(),
                kind: "A".into(),
            }),
            limit: 1,
        };
        let changes = Request::RecordsChanges { since: 3 };
        for request in [Request::RecordsVersion, page(3, None), changes.clone()] {
            assert_eq!(host.call(&none, request).await.unwrap_err().code, "not-found");
        }
        let first = Content::new("example.org", 2, vec![set("a")]).unwrap();
        let content = first.next(3, vec![set("b"), set("a")]).unwrap().unwrap();
        call.records = Some(Arc::new(content));
        let cx = host.context(Grants::as_requested(everything()), call);
        assert_eq!(
            host.call(&cx, Request::RecordsVersion).await.unwrap(),
            Response::Version(3)
        );
        let sets = |sets: Vec<RecordSet>| Response::RecordSets(sets);
        assert_eq!(host.call(&cx, page(3, None)).await.unwrap(), sets(vec![set("a")]));
        assert_eq!(host.call(&cx, page(3, Some("a"))).await.unwrap(), sets(vec![set("b")]));
        assert_eq!(host.call(&cx, page(3, Some("b"))).await.unwrap(), sets(Vec::new()));
        assert_eq!(
            host.call(&cx, changes).await.unwrap(),
            Response::Changes(Some(Vec::new()))
        );
        let gone = host.call(&cx, page(2, None)).await.unwrap_err();
        assert!(gone.is("not-found") && gone.retryable);
    });
}
