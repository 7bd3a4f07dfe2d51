//! A helper program for real: a DHCP and DNS server that gives up root, with a state directory in a place that is closed to
//! it. Needs root, dnsmasq and the keeper (`HUTCH_KEEPER`, or built into `target/`).

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use common::{Host, everything, host, isolated, keeper};
use hutch_broker::{CallContext, Grants, Permissions, Request, Response, ServiceStatus};
use hutch_driver::Call;
use tokio::net::UdpSocket;

fn context(host: &Host) -> CallContext {
    let permissions = Permissions {
        service: ["dnsmasq", "false"].map(str::to_owned).into(),
        ..everything()
    };
    let mut call = Call::new("default", "br0");
    call.links = vec!["br0".into()];
    host.context(Grants::as_requested(permissions), call)
}

fn ensure(args: &[&str]) -> Request {
    let common = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=nobody",
        "--pid-file=",
        "--bind-dynamic",
        "--interface=br0",
        "--interface=lo",
        "--log-facility=-",
        "--dhcp-range=10.66.0.10,10.66.0.20,1h",
        "--dhcp-leasefile={dir}/leases",
        "--dhcp-hostsdir={dir}/hosts",
        "--hostsdir={dir}/names",
    ];
    let args = common.iter().chain(args).map(|&a| a.to_owned()).collect();
    Request::ServiceEnsure {
        name: "dhcp".into(),
        program: "dnsmasq".into(),
        args,
        user: None,
    }
}

#[test]
fn what_a_killed_daemon_left_of_a_service_is_removed_at_the_start() {
    isolated(|dir| async move {
        let service = dir.join("state/services/br0-dhcp-0123456789abcdef");
        std::fs::create_dir_all(service.join(".hutch-trash")).unwrap();
        std::fs::write(service.join(".hutch-trash/half-a-file"), "x").unwrap();
        std::fs::write(service.join("leases"), "y").unwrap();
        std::fs::write(dir.join("state/services/br0-dhcp-0123456789abcdef.log"), "z").unwrap();
        let host = host(&dir).await;
        // Returns when all earlier removals are done.
        host.broker.release_root(&dir.join("elsewhere")).await.unwrap();
        assert_eq!(std::fs::read_dir(service.join(".hutch-trash")).unwrap().count(), 0);
        assert!(service.join("leases").exists());
    });
}

async fn status(host: &Host, cx: &CallContext) -> ServiceStatus {
    match host
        .call(cx, Request::ServiceStatus { name: "dhcp".into() })
        .await
        .unwrap()
    {
        Response::ServiceStatus(Some(status)) => status,
        other => panic!("{other:?}"),
    }
}

/// The logs of all services.
fn said(dir: &Path) -> String {
    let files = std::fs::read_dir(dir.join("state/services"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

/// Asks the server for the address of `name` (RFC 1035, 4.1) until it knows it.
async fn resolve(state: &Path, name: &str) -> [u8; 4] {
    let socket = UdpSocket::bind("10.66.0.1:0").await.unwrap();
    let mut query = vec![
        0x12,
        0x34,
        1,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        u8::try_from(name.len()).unwrap(),
    ];
    query.extend_from_slice(name.as_bytes());
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let mut answer = [0; 512];
    for _ in 0..100 {
        let _ = socket.send_to(&query, "10.66.0.1:53").await;
        match tokio::time::timeout(Duration::from_millis(100), socket.recv(&mut answer)).await {
            // Without an error, with one answer: its last four bytes are the address.
            Ok(Ok(length)) if answer[3] & 0xf == 0 && answer[7] == 1 => {
                return answer[length - 4..length].try_into().unwrap();
            }
            Ok(Ok(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            _ => {}
        }
    }
    panic!("{name} is not known to the server, which says: {}", said(state));
}

#[test]
fn a_server_that_gives_up_root_reads_its_directory_and_outlives_the_daemon() {
    assert!(keeper().exists(), "{} is not built", keeper().display());
    isolated(|dir| async move {
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        let host = host(&dir).await;
        let cx = context(&host);
        // What the machine sends to itself goes over the loopback interface, which is down in a new namespace.
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status()
            .unwrap();
        assert!(up.success());
        host.call(
            &cx,
            Request::LinkEnsureBridge {
                name: "br0".into(),
                hwaddr: None,
                mtu: None,
            },
        )
        .await
        .unwrap();
        host.call(
            &cx,
            Request::LinkSetAddresses {
                name: "br0".into(),
                addresses: vec!["10.66.0.1/24".into()],
            },
        )
        .await
        .unwrap();
        host.call(
            &cx,
            Request::LinkSetUp {
                name: "br0".into(),
                up: true,
            },
        )
        .await
        .unwrap();
        let file = |path: &str, data: &str| Request::ServiceWriteFile {
            name: "dhcp".into(),
            path: path.into(),
            data: data.into(),
        };
        host.call(&cx, file("hosts/c0", "00:16:3e:00:00:01,10.66.0.11,c0\n"))
            .await
            .unwrap();
        host.call(&cx, file("names/a", "10.66.0.31 early\n")).await.unwrap();
        host.call(&cx, ensure(&[])).await.unwrap();
        let first = status(&host, &cx).await;
        assert!(
            first.running && first.restarts == 0 && first.last_exit.is_none(),
            "{first:?}"
        );
        assert_eq!(resolve(&dir, "early").await, [10, 66, 0, 31]);
        // A file that is written later is read by the program as nobody, without a restart.
        host.call(&cx, file("names/b", "10.66.0.32 late\n")).await.unwrap();
        assert_eq!(resolve(&dir, "late").await, [10, 66, 0, 32]);
        let owner = std::fs::read_to_string(format!("/proc/{}/status", first.pid.unwrap())).unwrap();
        assert!(!owner.contains("Uid:\t0\t"), "{owner}");
        host.call(&cx, ensure(&[])).await.unwrap();
        assert_eq!(status(&host, &cx).await.pid, first.pid);
        drop(host);

        let host = common::host(&dir).await;
        assert_eq!(status(&host, &cx).await.pid, first.pid);
        host.call(
            &cx,
            Request::ServiceSignal {
                name: "dhcp".into(),
                signal: "hup".into(),
            },
        )
        .await
        .unwrap();
        // Other arguments are another program.
        host.call(&cx, ensure(&["--domain=example"])).await.unwrap();
        assert_ne!(status(&host, &cx).await.pid, first.pid);
        assert_eq!(resolve(&dir, "late").await, [10, 66, 0, 32]);
        let Response::Bytes(leases) = host
            .call(
                &cx,
                Request::ServiceReadFile {
                    name: "dhcp".into(),
                    path: "leases".into(),
                },
            )
            .await
            .unwrap()
        else {
            panic!()
        };
        assert!(leases.is_some());
        let pid = status(&host, &cx).await.pid.unwrap();
        host.call(&cx, Request::ServiceRemove { name: "dhcp".into() })
            .await
            .unwrap();
        assert!(!Path::new(&format!("/proc/{pid}/root/proc")).exists());
        assert_eq!(
            host.call(&cx, Request::ServiceStatus { name: "dhcp".into() })
                .await
                .unwrap(),
            Response::ServiceStatus(None)
        );
        assert_eq!(std::fs::read_dir(dir.join("state/services")).unwrap().count(), 0);
    });
}
