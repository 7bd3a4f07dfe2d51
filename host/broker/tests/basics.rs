//! The key-value store, settings, logs, progress. Needs root for its namespaces.

mod common;

use std::sync::{Arc, Mutex};

use common::{host, isolated};
use hutch_broker::{Broker as _, Grants, LogLevel, Request, Response};
use hutch_driver::{Call, Progress};

fn key(key: &str) -> String {
    key.to_owned()
}

#[test]
fn a_store_is_bounded_private_and_lasts() {
    isolated(|dir| async move {
        let host = common::host(&dir).await;
        // No permission is needed.
        let mut cx = host.context(Grants::default(), Call::new("default", "o"));
        let set = |k: &str, v: &[u8]| Request::KvSet {
            key: key(k),
            value: v.to_vec(),
        };
        let get = |k: &str| Request::KvGet { key: key(k) };
        let cas = |k: &str, expected: Option<&[u8]>, v: &[u8]| Request::KvCompareAndSet {
            key: key(k),
            expected: expected.map(<[u8]>::to_vec),
            value: v.to_vec(),
        };
        host.call(&cx, set("a/1", b"one")).await.unwrap();
        host.call(&cx, set("a/2", b"two")).await.unwrap();
        host.call(&cx, set("b", b"")).await.unwrap();
        assert_eq!(
            host.call(&cx, get("a/1")).await.unwrap(),
            Response::Bytes(Some(b"one".to_vec()))
        );
        assert_eq!(
            host.call(&cx, get("b")).await.unwrap(),
            Response::Bytes(Some(Vec::new()))
        );
        assert_eq!(host.call(&cx, get("none")).await.unwrap(), Response::Bytes(None));
        let keys = |prefix: &str, after: Option<&str>, limit| Request::KvKeys {
            prefix: prefix.into(),
            after: after.map(key),
            limit,
        };
        assert_eq!(
            host.call(&cx, keys("a/", None, 10)).await.unwrap(),
            Response::Strings(vec![key("a/1"), key("a/2")])
        );
        assert_eq!(
            host.call(&cx, keys("", Some("a/1"), 1)).await.unwrap(),
            Response::Strings(vec![key("a/2")])
        );
        assert_eq!(
            host.call(&cx, keys("%", None, 10)).await.unwrap(),
            Response::Strings(vec![])
        );
        assert_eq!(
            host.call(&cx, cas("a/1", Some(b"other"), b"x")).await.unwrap(),
            Response::Bool(false)
        );
        assert_eq!(
            host.call(&cx, cas("a/1", Some(b"one"), b"x")).await.unwrap(),
            Response::Bool(true)
        );
        assert_eq!(
            host.call(&cx, cas("new", None, b"x")).await.unwrap(),
            Response::Bool(true)
        );
        assert_eq!(
            host.call(&cx, cas("new", None, b"y")).await.unwrap(),
            Response::Bool(false)
        );
        host.call(&cx, Request::KvDelete { key: key("new") }).await.unwrap();
        host.call(&cx, Request::KvDelete { key: key("new") }).await.unwrap();

        // Another plugin sees nothing of it.
        let mut other = cx.clone();
        Arc::make_mut(&mut other.subject).plugin = "org.example.other".into();
        assert_eq!(
            host.call(&other, keys("", None, 10)).await.unwrap(),
            Response::Strings(vec![])
        );

        Arc::make_mut(&mut cx.subject).limits.kv_bytes = 1000;
        host.call(&cx, set("c", &[0; 500])).await.unwrap();
        let error = host.call(&cx, set("d", &[0; 500])).await.unwrap_err();
        assert_eq!(error.code, "limit");
        host.call(&cx, set("c", &[1; 510])).await.unwrap();
        host.call(&cx, Request::KvDelete { key: key("c") }).await.unwrap();
        host.call(&cx, set("d", &[0; 500])).await.unwrap();
        assert_eq!(host.call(&cx, set("", b"x")).await.unwrap_err().code, "invalid");
        assert_eq!(host.call(&cx, set("a\0b", b"x")).await.unwrap_err().code, "invalid");
        assert_eq!(
            host.call(&cx, set(&"k".repeat(513), b"x")).await.unwrap_err().code,
            "invalid"
        );
        drop(host);

        let host = common::host(&dir).await;
        assert_eq!(
            host.call(&cx, get("a/1")).await.unwrap(),
            Response::Bytes(Some(b"x".to_vec()))
        );
        assert_ne!(host.broker.kept_bytes("org.example.test"), 0, "known from the file");
        host.broker.forget("org.example.test").await.unwrap();
        assert_eq!(host.broker.kept_bytes("org.example.test"), 0);
        assert_eq!(host.call(&cx, get("a/1")).await.unwrap(), Response::Bytes(None));
        drop(host);

        let db = rusqlite::Connection::open(dir.join("state/plugins/kv.db")).unwrap();
        db.pragma_update(None, "user_version", 99).unwrap();
        drop(db);
        let runtime = hutch_container::Runtime::new("/bin/true", dir.join("run")).unwrap();
        let (events, _) = tokio::sync::broadcast::channel(1);
        let refused = hutch_broker::HostBroker::new(hutch_broker::HostBrokerConfig {
            state_dir: dir.join("state"),
            runtime,
            events,
        })
        .await;
        assert!(refused.is_err_and(|e| e.code == "unavailable" && e.message.contains("newer version")));
    });
}

#[test]
fn writers_at_once_share_commits_and_one_wins() {
    isolated(|dir| async move {
        let host = Arc::new(host(&dir).await);
        let cx = host.context(Grants::default(), Call::new("default", "o"));
        let start = std::time::Instant::now();
        let tasks: Vec<_> = (0..400)
            .map(|index| {
                let (host, cx) = (Arc::clone(&host), cx.clone());
                tokio::spawn(async move {
                    let mine = index.to_string().into_bytes();
                    host.broker
                        .call(
                            &cx,
                            Request::KvSet {
                                key: format!("k{index:03}"),
                                value: mine.clone(),
                            },
                        )
                        .await
                        .unwrap();
                    host.broker
                        .call(
                            &cx,
                            Request::KvCompareAndSet {
                                key: key("winner"),
                                expected: None,
                                value: mine,
                            },
                        )
                        .await
                        .unwrap()
                })
            })
            .collect();
        let mut won = 0;
        for task in tasks {
            won += u32::from(task.await.unwrap() == Response::Bool(true));
        }
        println!("800 writes by 400 tasks: {:?}", start.elapsed());
        assert_eq!(won, 1);
        let Response::Strings(keys) = host
            .call(
                &cx,
                Request::KvKeys {
                    prefix: key("k"),
                    after: None,
                    limit: 1000,
                },
            )
            .await
            .unwrap()
        else {
            panic!()
        };
        assert_eq!(keys.len(), 400);
    });
}

#[derive(Default)]
struct Seen(Mutex<Vec<(String, u64, Option<u64>)>>);

impl Progress for Seen {
    fn report(&self, stage: &str, done: u64, total: Option<u64>) {
        self.0.lock().unwrap().push((stage.to_owned(), done, total));
    }
}

#[test]
fn logs_settings_progress_and_cancellation_pass_through() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let seen = Arc::new(Seen::default());
        let mut call = Call::new("default", "o");
        call.progress = seen.clone();
        let cx = host.context(Grants::default(), call);
        let line = "bad\nline\u{1b}[31m".to_owned();
        host.call(
            &cx,
            Request::Log {
                level: LogLevel::Warn,
                message: line,
                fields: vec![],
            },
        )
        .await
        .unwrap();
        assert_eq!(
            *host.lines.0.lock().unwrap(),
            [(LogLevel::Warn, "bad line [31m".to_owned())]
        );
        assert_eq!(
            host.call(&cx, Request::ConfigGet { key: key("key") }).await.unwrap(),
            Response::Text(Some(key("value")))
        );
        assert_eq!(
            host.call(&cx, Request::ConfigGet { key: key("none") }).await.unwrap(),
            Response::Text(None)
        );
        host.call(
            &cx,
            Request::ProgressReport {
                stage: key("bytes"),
                done: 5,
                total: Some(9),
            },
        )
        .await
        .unwrap();
        assert_eq!(*seen.0.lock().unwrap(), [(key("bytes"), 5, Some(9))]);
        assert_eq!(host.call(&cx, Request::Cancelled).await.unwrap(), Response::Bool(false));
        cx.call.cancel.cancel();
        assert_eq!(host.call(&cx, Request::Cancelled).await.unwrap(), Response::Bool(true));
        assert_eq!(
            host.call(
                &cx,
                Request::MetricCount {
                    name: key("Bad name"),
                    delta: 1
                }
            )
            .await
            .unwrap_err()
            .code,
            "invalid"
        );
        host.call(
            &cx,
            Request::MetricGauge {
                name: key("leases"),
                value: -1,
            },
        )
        .await
        .unwrap();
    });
}

#[test]
fn messages_survive_being_written_down() {
    let request = Request::FsCopyTree {
        source: common::at("a"),
        to: common::at("b"),
    };
    let text = serde_json::to_string(&request).unwrap();
    assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    let response = Response::Bytes(Some(vec![0, 255]));
    assert_eq!(
        serde_json::from_str::<Response>(&serde_json::to_string(&response).unwrap()).unwrap(),
        response
    );
    assert_eq!((request.interface(), request.function()), ("fs", "fs.copy-tree"));
}
