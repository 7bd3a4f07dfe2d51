//! Documents and downloads from a server on loopback. Needs root for its namespaces.

mod common;
#[path = "common/server.rs"]
mod server;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Host, everything, host, isolated};
use hutch_broker::download::{Asker, Downloaded};
use hutch_broker::{CallContext, DownloadRequest, Grants, HttpResponse, Permissions, Request, Response};
use hutch_driver::{Call, Cancel, DriverError, NoProgress, Progress};
use server::{Answer, serve};
use sha2::{Digest as _, Sha256};

fn context(host: &Host, http: &[&str], origin: Option<&str>) -> CallContext {
    let mut call = Call::new("default", "images");
    call.origin = origin.map(str::to_owned);
    let http = http.iter().map(|&p| p.to_owned()).collect();
    host.context(Grants::as_requested(Permissions { http, ..everything() }), call)
}

fn get(url: String) -> Request {
    Request::HttpGet {
        url,
        headers: vec![
            ("X-Test".into(), "yes".into()),
            ("Authorization".into(), "secret".into()),
        ],
        limit: None,
    }
}

async fn fetch(host: &Host, cx: &CallContext, request: Request) -> HttpResponse {
    match host.call(cx, request).await {
        Ok(Response::HttpResponse(response)) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn documents_come_from_granted_servers_only() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let other = serve(|_, _| Answer::new("200 OK", "", b"other")).await;
        let to_other = other.url("/x");
        let server = serve(move |path, _| match path {
            "/doc" => Answer::new("200 OK", "X-Name: value\r\n", b"body"),
            "/missing" => Answer::new("404 Not Found", "", b"none"),
            "/here" => Answer::new("302 Found", "Location: /doc\r\n", b""),
            "/away" => Answer::new("301 Moved", &format!("Location: {to_other}\r\n"), b""),
            "/file" => Answer::new("301 Moved", "Location: file:///etc/passwd\r\n", b""),
            "/loop" => Answer::new("302 Found", "Location: /loop\r\n", b""),
            "/large" => Answer::new("200 OK", "", &[b'x'; 5000]),
            "/endless" => Answer {
                bytes: [
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(),
                    vec![b'x'; 40 << 20],
                ]
                .concat(),
                hang: true,
            },
            "/silent" => Answer {
                bytes: Vec::new(),
                hang: true,
            },
            "/cut" => Answer::new("200 OK", "", &[b'x'; 100]).cut_body(50),
            _ => Answer {
                bytes: b"not http at all\r\n\r\n".to_vec(),
                hang: false,
            },
        })
        .await;
        let origin = server.url("/whatever");
        let cx = context(&host, &["origin"], Some(&origin));

        let response = fetch(&host, &cx, get(server.url("/doc"))).await;
        assert_eq!((response.status, response.body.as_slice()), (200, b"body".as_slice()));
        assert!(response.headers.contains(&("x-name".into(), "value".into())));
        assert!(server.seen()[0].contains("x-test: yes") && server.seen()[0].contains("authorization: secret"));
        assert_eq!(fetch(&host, &cx, get(server.url("/missing"))).await.status, 404);
        assert_eq!(fetch(&host, &cx, get(server.url("/here"))).await.body, b"body");

        let code = async |cx: &CallContext, request: Request| {
            host.call(cx, request)
                .await
                .map_or_else(|e| e.code, |r| format!("{r:?}"))
        };
        assert_eq!(code(&cx, get(server.url("/away"))).await, "not-requested");
        assert_eq!(code(&cx, get(other.url("/"))).await, "not-requested");
        assert!(other.seen().is_empty());
        assert_eq!(
            code(&context(&host, &["origin"], None), get(server.url("/doc"))).await,
            "not-requested"
        );
        for (path, expected) in [
            ("/file", "invalid"),
            ("/loop", "io"),
            ("/endless", "limit"),
            ("/cut", "io"),
            ("/nonsense", "io"),
        ] {
            assert_eq!(code(&cx, get(server.url(path))).await, expected, "{path}");
        }
        let limited = Request::HttpGet {
            url: server.url("/large"),
            headers: vec![],
            limit: Some(4999),
        };
        assert_eq!(code(&cx, limited).await, "limit");
        assert_eq!(code(&cx, get("ftp://127.0.0.1/".into())).await, "invalid");

        // A redirection to a granted server is followed, without what proves who asks.
        let both = context(&host, &["origin", &other.url("")], Some(&origin));
        assert_eq!(fetch(&host, &both, get(server.url("/away"))).await.body, b"other");
        assert!(other.seen()[0].contains("x-test") && !other.seen()[0].contains("secret"));

        // Nobody waits longer than they want to.
        let mut short = cx.clone();
        Arc::make_mut(&mut short.subject).limits.http_timeout = Duration::from_millis(200);
        assert_eq!(code(&short, get(server.url("/silent"))).await, "timeout");
        let cancel = cx.call.cancel.clone();
        let (ended, ()) = tokio::join!(code(&cx, get(server.url("/silent"))), async { cancel.cancel() });
        assert_eq!(ended, "cancelled");
        let closed = context(&host, &["http://127.0.0.1:1"], None);
        assert_eq!(code(&closed, get("http://127.0.0.1:1/".into())).await, "unavailable");
    });
}

/// Fetches for a plugin that may fetch from the server that the file is on.
async fn download(
    request: &DownloadRequest,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Downloaded, DriverError> {
    download_for(&["origin"], Some(&request.url), request, progress, cancel).await
}

async fn download_for(
    http: &[&str],
    origin: Option<&str>,
    request: &DownloadRequest,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Downloaded, DriverError> {
    let http = http.iter().map(|&pattern| pattern.to_owned()).collect();
    let permissions = Permissions { http, ..everything() };
    let subject = common::subject(Grants::as_requested(permissions));
    let asker = Asker {
        subject: &subject,
        origin,
    };
    hutch_broker::download::download(request, asker, progress, cancel).await
}

#[test]
fn downloads_come_from_granted_servers_only() {
    isolated(|dir| async move {
        let bytes = Arc::new(content(1000));
        let served = Arc::clone(&bytes);
        let other = serve(move |_, _| Answer::new("200 OK", "", &served)).await;
        let (to_other, served) = (other.url("/file"), Arc::clone(&bytes));
        let server = serve(move |path, _| match path {
            "/file" => Answer::new("200 OK", "", &served),
            "/here" => Answer::new("302 Found", "Location: /file\r\n", b""),
            _ => Answer::new("302 Found", &format!("Location: {to_other}\r\n"), b""),
        })
        .await;
        let origin = server.url("/");
        let ask = async |http: &[&str], origin: Option<&str>, path: &str| {
            let request = wanted(server.url(path), &dir, &bytes);
            let done = download_for(http, origin, &request, &NoProgress, &Cancel::default()).await;
            done.map_or_else(|error| error.code, |_| "fetched".to_owned())
        };
        for (http, origin, path, expected) in [
            (&[][..], Some(origin.as_str()), "/file", "not-requested"),
            (&["origin"], None, "/file", "not-requested"),
            (&["origin"], Some("http://192.0.2.1/"), "/file", "not-requested"),
            (&["origin"], Some(&origin), "/away", "not-requested"),
        ] {
            assert_eq!(ask(http, origin, path).await, expected, "{http:?} {origin:?} {path}");
        }
        assert!(other.seen().is_empty(), "a server was asked that was not granted");
        assert_eq!(ask(&["origin"], Some(&origin), "/here").await, "fetched");
        assert_eq!(
            ask(&["origin", &other.url("")], Some(&origin), "/away").await,
            "fetched"
        );
        let subject = common::subject(Grants::new(
            Permissions {
                http: vec!["origin".to_owned()],
                ..everything()
            },
            everything(),
        ));
        let asker = Asker {
            subject: &subject,
            origin: Some(&origin),
        };
        let request = wanted(server.url("/file"), &dir, &bytes);
        let refused = hutch_broker::download::download(&request, asker, &NoProgress, &Cancel::default()).await;
        assert_eq!(refused.unwrap_err().code, "not-granted");
    });
}

#[derive(Default)]
struct Seen(Mutex<Vec<(u64, Option<u64>)>>);

impl Progress for Seen {
    fn report(&self, _stage: &str, done: u64, total: Option<u64>) {
        self.0.lock().unwrap().push((done, total));
    }
}

/// Bytes that do not repeat.
fn content(length: usize) -> Vec<u8> {
    (0..length.div_ceil(32))
        .flat_map(|index: usize| <[u8; 32]>::from(Sha256::digest(index.to_le_bytes())))
        .take(length)
        .collect()
}

fn sum(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn wanted(url: String, dir: &Path, bytes: &[u8]) -> DownloadRequest {
    DownloadRequest {
        url,
        dir: dir.into(),
        sha256: Some(sum(bytes)),
        size: Some(bytes.len() as u64),
        limit: 1 << 30,
        headers: Vec::new(),
    }
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Answers a request for the rest of `bytes`, cut to `keep` bytes of it.
fn rest(head: &str, bytes: &[u8], tag: &str, keep: usize) -> Answer {
    let start = head.lines().find_map(|line| {
        line.strip_prefix("range: bytes=")?
            .strip_suffix('-')?
            .parse::<usize>()
            .ok()
    });
    let same = head
        .lines()
        .find_map(|line| line.strip_prefix("if-range: "))
        .is_some_and(|t| t == tag);
    match start {
        Some(start) if same => {
            let headers = format!(
                "ETag: {tag}\r\nContent-Range: bytes {start}-{}/{}\r\n",
                bytes.len() - 1,
                bytes.len()
            );
            Answer::new("206 Partial Content", &headers, &bytes[start..]).cut_body(keep.min(bytes.len() - start))
        }
        _ => Answer::new("200 OK", &format!("ETag: {tag}\r\n"), bytes).cut_body(keep.min(bytes.len())),
    }
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    isolated(|dir| async move {
        let bytes = Arc::new(content(6 << 20));
        let served = Arc::clone(&bytes);
        let server = serve(move |_, head| rest(head, &served, "\"v1\"", 2_500_000)).await;
        let request = wanted(server.url("/image"), &dir, &bytes);
        let progress = Seen::default();
        let done = download(&request, &progress, &Cancel::default()).await.unwrap();
        assert_eq!((done.sha256.as_str(), done.size), (sum(&bytes).as_str(), 6 << 20));
        assert_eq!(std::fs::read(&done.path).unwrap(), *bytes);
        assert_eq!(files(&dir), [sum(&bytes)]);
        let seen = server.seen();
        assert_eq!(seen.len(), 3);
        assert!(
            seen[1].contains("range: bytes=2500000-") && seen[1].contains("if-range: \"v1\""),
            "{}",
            seen[1]
        );
        assert!(seen[2].contains("range: bytes=5000000-"));
        let reports = progress.0.lock().unwrap().clone();
        assert!(
            reports.is_sorted_by_key(|(done, _)| *done) && reports.last() == Some(&(6 << 20, Some(6 << 20))),
            "{reports:?}"
        );
    });
}

#[test]
fn a_later_daemon_goes_on_unless_the_file_changed() {
    isolated(|dir| async move {
        let (old, new) = (Arc::new(content(3 << 20)), Arc::new(content(2 << 20)));
        let round = Arc::new(AtomicUsize::new(0));
        let (a, b, r) = (Arc::clone(&old), Arc::clone(&new), Arc::clone(&round));
        let server = serve(move |_, head| match r.load(Ordering::SeqCst) {
            0 => Answer {
                hang: true,
                ..rest(head, &a, "\"v1\"", 2 << 20)
            },
            1 => rest(head, &a, "\"v1\"", usize::MAX),
            2 => Answer {
                hang: true,
                ..rest(head, &a, "\"v1\"", 1 << 20)
            },
            _ => rest(head, &b, "\"v2\"", usize::MAX),
        })
        .await;
        // Given up in the middle, which keeps what has come.
        let request = DownloadRequest {
            sha256: None,
            size: None,
            ..wanted(server.url("/image"), &dir, &old)
        };
        let cancel = Cancel::default();
        struct CancelAt(Cancel, u64);
        impl Progress for CancelAt {
            fn report(&self, _stage: &str, done: u64, _total: Option<u64>) {
                if done >= self.1 {
                    self.0.cancel();
                }
            }
        }
        let error = download(&request, &CancelAt(cancel.clone(), 1 << 20), &cancel)
            .await
            .unwrap_err();
        assert_eq!(error.code, "cancelled");
        assert_eq!(files(&dir).len(), 2);
        round.store(1, Ordering::SeqCst);
        let done = download(&request, &NoProgress, &Cancel::default()).await.unwrap();
        assert_eq!(done.sha256, sum(&old));
        assert!(server.seen().last().unwrap().contains("range: bytes="));

        round.store(2, Ordering::SeqCst);
        let cancel = Cancel::default();
        download(&request, &CancelAt(cancel.clone(), 1), &cancel)
            .await
            .unwrap_err();
        round.store(3, Ordering::SeqCst);
        let done = download(&request, &NoProgress, &Cancel::default()).await.unwrap();
        assert_eq!(done.sha256, sum(&new));
        assert!(server.seen().last().unwrap().contains("if-range: \"v1\""));
        assert_eq!(std::fs::read(&done.path).unwrap(), *new);
        // What nobody goes on with is removed after a while.
        std::fs::write(dir.join("x.part"), "x").unwrap();
        std::fs::write(dir.join("x.part.json"), "{").unwrap();
        hutch_broker::download::remove_parts(&dir, Duration::from_secs(3600))
            .await
            .unwrap();
        assert!(dir.join("x.part").exists());
        hutch_broker::download::remove_parts(&dir, Duration::ZERO)
            .await
            .unwrap();
        assert!(!dir.join("x.part").exists() && !dir.join("x.part.json").exists() && done.path.exists());
    });
}

#[test]
fn what_is_not_what_was_said_is_not_kept() {
    isolated(|dir| async move {
        let bytes = content(300_000);
        let served = bytes.clone();
        let flaky = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&flaky);
        let server = serve(move |path, head| match path {
            "/good" => rest(head, &served, "\"t\"", usize::MAX),
            "/short" => rest(head, &served[..200_000], "\"t\"", usize::MAX),
            "/long" => Answer {
                bytes: [
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(),
                    vec![0; 400_000],
                ]
                .concat(),
                hang: false,
            },
            "/other" => Answer::new("200 OK", "", &vec![0; 300_000]),
            "/busy" if counter.fetch_add(1, Ordering::SeqCst) == 0 => Answer::new("503 Service Unavailable", "", b""),
            "/busy" => rest(head, &served, "\"t\"", usize::MAX),
            "/moved" => Answer::new("302 Found", "Location: /good\r\n", b""),
            "/refused" => Answer::new("403 Forbidden", "", b""),
            "/broken" => rest(head, &served, "W/\"weak\"", 1000),
            _ => Answer::new("404 Not Found", "", b""),
        })
        .await;
        let try_one =
            async |path: &str| download(&wanted(server.url(path), &dir, &bytes), &NoProgress, &Cancel::default()).await;
        for (path, code) in [
            ("/short", "invalid"),
            ("/long", "invalid"),
            ("/other", "invalid"),
            ("/gone", "not-found"),
            ("/refused", "unavailable"),
        ] {
            let error = try_one(path).await.unwrap_err();
            assert_eq!(error.code, code, "{path}: {error}");
            assert_eq!(files(&dir), Vec::<String>::new(), "{path}");
        }
        let error = download(
            &DownloadRequest {
                size: None,
                limit: 1000,
                ..wanted(server.url("/good"), &dir, &bytes)
            },
            &NoProgress,
            &Cancel::default(),
        )
        .await
        .unwrap_err();
        assert!(error.code == "limit" && files(&dir).is_empty(), "{error}");
        let mut uneven = wanted(server.url("/good"), &dir, &bytes);
        uneven.sha256 = Some("XYZ/../x".into());
        assert_eq!(
            download(&uneven, &NoProgress, &Cancel::default())
                .await
                .unwrap_err()
                .code,
            "invalid"
        );
        assert_eq!(try_one("/moved").await.unwrap().size, 300_000);
        assert_eq!(try_one("/busy").await.unwrap().size, 300_000);
        // Without a strong tag it can't be gone on with: it is begun again, and given up after a while.
        let start = Instant::now();
        let error = try_one("/broken").await.unwrap_err();
        assert!(error.retryable && start.elapsed() < Duration::from_secs(20), "{error}");
        std::fs::remove_file(dir.join(sum(&bytes))).unwrap();

        // Two who want the same at once share nothing but the place.
        let (one, two) = tokio::join!(try_one("/good"), try_one("/good"));
        assert_eq!(one.unwrap(), two.unwrap());
        assert_eq!(std::fs::read(dir.join(sum(&bytes))).unwrap(), bytes);
    });
}

#[test]
fn a_full_disk_is_said() {
    isolated(|dir| async move {
        let place = dir.join("small");
        std::fs::create_dir(&place).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "none"])
            .arg(&place)
            .status()
            .unwrap();
        assert!(mounted.success());
        let bytes = content(4 << 20);
        let served = bytes.clone();
        let server = serve(move |_, head| rest(head, &served, "\"t\"", usize::MAX)).await;
        let error = download(
            &wanted(server.url("/"), &place, &bytes),
            &NoProgress,
            &Cancel::default(),
        )
        .await
        .unwrap_err();
        assert_eq!(error.code, "no-space");
        assert_eq!(files(&place), Vec::<String>::new());
    });
}
