//! Links and packet filters for a plugin. Needs root.

mod common;

use std::sync::Arc;

use common::{Host, everything, host, isolated};
use hutch_broker::{CallContext, Grants, Request, Response};
use hutch_driver::{Call, NetnsHandle};

fn context(host: &Host) -> CallContext {
    let mut call = Call::new("default", "br0");
    call.links = ["br0", "veth1"].map(str::to_owned).into();
    #[allow(
        deprecated,
        reason = "the safe form: the flags that its successor is unsafe for are not used here"
    )]
    let netns = std::thread::spawn(|| {
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap()
    });
    call.netns.push(NetnsHandle {
        id: "guest".into(),
        fd: Arc::new(netns.join().unwrap().into()),
    });
    host.context(Grants::as_requested(everything()), call)
}

fn run(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

fn options(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[test]
fn a_network_is_made_with_interfaces_of_its_own_only() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let cx = context(&host);
        let bridge = Request::LinkEnsureBridge {
            name: "br0".into(),
            hwaddr: Some("00:16:3e:11:22:33".into()),
            mtu: Some(1450),
        };
        host.call(&cx, bridge.clone()).await.unwrap();
        host.call(&cx, bridge).await.unwrap();
        let addresses = Request::LinkSetAddresses {
            name: "br0".into(),
            addresses: vec!["10.77.0.1/24".into(), "fd77::1/64".into()],
        };
        host.call(&cx, addresses).await.unwrap();
        host.call(
            &cx,
            Request::LinkSetUp {
                name: "br0".into(),
                up: true,
            },
        )
        .await
        .unwrap();
        let set = options(&[
            ("ipv4.forwarding", "true"),
            ("ipv6.accept-dad", "0"),
            ("ipv6.autoconf", "false"),
        ]);
        host.call(
            &cx,
            Request::LinkSetOptions {
                name: "br0".into(),
                options: set,
            },
        )
        .await
        .unwrap();
        let veth = |hwaddr: &str, netns: &str, options| Request::LinkEnsureVeth {
            name: "veth1".into(),
            bridge: Some("br0".into()),
            netns: netns.into(),
            guest_name: "eth0".into(),
            hwaddr: hwaddr.into(),
            mtu: None,
            options,
        };
        let set = options(&[("ipv6.disable", "true"), ("bridge.isolated", "true")]);
        host.call(&cx, veth("00:16:3e:11:22:34", "guest", set)).await.unwrap();
        let Response::LinkInfo(Some(info)) = host.call(&cx, Request::LinkGet { name: "veth1".into() }).await.unwrap()
        else {
            panic!()
        };
        assert_eq!(
            (info.kind.as_str(), info.master.as_deref(), info.up, info.mtu),
            ("veth", Some("br0"), true, 1450)
        );
        let Response::LinkInfo(Some(info)) = host.call(&cx, Request::LinkGet { name: "br0".into() }).await.unwrap()
        else {
            panic!()
        };
        assert_eq!(info.hwaddr, "00:16:3e:11:22:33");
        assert!(
            info.addresses.contains(&"10.77.0.1/24".to_owned()) && info.addresses.contains(&"fd77::1/64".to_owned()),
            "{info:?}"
        );
        assert!(run("bridge", &["-d", "link", "show", "dev", "veth1"]).contains("isolated on"));
        let Response::Strings(subnets) = host.call(&cx, Request::LinkSubnetsInUse).await.unwrap() else {
            panic!()
        };
        assert!(subnets.contains(&"10.77.0.0/24".to_owned()), "{subnets:?}");

        // What is not the object's, and what can't be.
        for (request, code) in [
            (Request::LinkDelete { name: "lo".into() }, "not-granted"),
            (
                Request::LinkSetUp {
                    name: "eth0".into(),
                    up: false,
                },
                "not-granted",
            ),
            (Request::LinkGet { name: "br1".into() }, "not-granted"),
            (veth("00:16:3e:11:22:34", "host", Vec::new()), "not-found"),
            (veth("ff:ff:ff:ff:ff:ff", "guest", Vec::new()), "invalid"),
            (
                Request::LinkSetAddresses {
                    name: "br0".into(),
                    addresses: vec!["10.0.0.1".into()],
                },
                "invalid",
            ),
            (
                Request::LinkSetOptions {
                    name: "br0".into(),
                    options: options(&[("rp_filter", "1")]),
                },
                "invalid",
            ),
            (
                Request::LinkEnsureBridge {
                    name: "veth1".into(),
                    hwaddr: None,
                    mtu: None,
                },
                "already-exists",
            ),
            (
                Request::LinkEnsureBridge {
                    name: "br0".into(),
                    hwaddr: None,
                    mtu: Some(1),
                },
                "invalid",
            ),
        ] {
            let error = host.call(&cx, request.clone()).await.unwrap_err();
            assert_eq!(error.code, code, "{request:?}: {error}");
        }
        host.call(&cx, Request::LinkDelete { name: "veth1".into() })
            .await
            .unwrap();
        host.call(&cx, Request::LinkDelete { name: "veth1".into() })
            .await
            .unwrap();
        assert_eq!(
            host.call(&cx, Request::LinkGet { name: "veth1".into() }).await.unwrap(),
            Response::LinkInfo(None)
        );
    });
}

#[test]
fn an_instance_is_put_on_the_parent_that_its_network_names_and_on_no_other() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let mut cx = context(&host);
        for name in ["uplink", "other"] {
            run("ip", &["link", "add", name, "type", "bridge"]);
        }
        let macvlan = |parent: &str, netns: &str, mode: &str| Request::LinkEnsureMacvlan {
            parent: parent.into(),
            netns: netns.into(),
            guest_name: "eth0".into(),
            hwaddr: "00:16:3e:11:22:34".into(),
            mode: mode.into(),
            mtu: None,
        };
        let look = |name: &str| Request::LinkGet { name: name.into() };
        let gone = |netns: &str| Request::LinkDeleteMacvlan {
            netns: netns.into(),
            guest_name: "eth0".into(),
            hwaddr: "00:16:3e:11:22:34".into(),
        };
        let refused = |cx: &CallContext, request: Request| {
            let (host, cx) = (&host, cx.clone());
            async move { host.call(&cx, request).await.unwrap_err().code }
        };
        // Its own interfaces are no parents, and nobody's are without being named.
        for parent in ["uplink", "br0", "veth1", "lo", ""] {
            assert_eq!(
                refused(&cx, macvlan(parent, "guest", "bridge")).await,
                "not-granted",
                "{parent}"
            );
        }
        assert_eq!(refused(&cx, look("uplink")).await, "not-granted");
        cx.call.parents.push("uplink".into());
        host.call(&cx, macvlan("uplink", "guest", "bridge")).await.unwrap();
        host.call(&cx, macvlan("uplink", "guest", "private")).await.unwrap();
        let Response::LinkInfo(Some(info)) = host.call(&cx, look("uplink")).await.unwrap() else {
            panic!()
        };
        assert_eq!(info.kind, "bridge");
        let change = Request::LinkSetUp {
            name: "uplink".into(),
            up: true,
        };
        for (request, code) in [
            (macvlan("other", "guest", "bridge"), "not-granted"),
            (macvlan("uplink", "host", "bridge"), "not-found"),
            (macvlan("uplink", "guest", "source"), "invalid"),
            (look("other"), "not-granted"),
            (change, "not-granted"),
            (Request::LinkDelete { name: "uplink".into() }, "not-granted"),
            (gone("host"), "not-found"),
        ] {
            let error = host.call(&cx, request.clone()).await.unwrap_err();
            assert_eq!(error.code, code, "{request:?}: {error}");
        }
        host.call(&cx, gone("guest")).await.unwrap();
        host.call(&cx, gone("guest")).await.unwrap();
        // As a port of another bridge it has no room for others.
        run("ip", &["link", "add", "card", "type", "veth", "peer", "name", "wire"]);
        run("ip", &["link", "set", "card", "master", "other"]);
        cx.call.parents.push("card".into());
        assert_eq!(refused(&cx, macvlan("card", "guest", "bridge")).await, "in-use");
    });
}

#[test]
fn tables_are_the_owners() {
    isolated(|dir| async move {
        let host = host(&dir).await;
        let cx = context(&host);
        run("nft", &["add", "table", "inet", "firewall"]);
        let ruleset = r#"[{"chain": {"name": "out", "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept", "table": "firewall"}},
            {"rule": {"chain": "out", "table": "firewall", "expr": [{"masquerade": null}]}},
            {"set": {"name": "s", "type": "ipv4_addr"}}]"#;
        let replace = |ruleset: &str| Request::FilterReplaceTable {
            name: "nat".into(),
            family: "inet".into(),
            ruleset: ruleset.into(),
        };
        host.call(&cx, replace(ruleset)).await.unwrap();
        host.call(&cx, replace(ruleset)).await.unwrap();
        let prefix = format!(
            "hutch_{}",
            hutch_broker::state_id(&dir.join("state").canonicalize().unwrap())
        );
        let tables = run("nft", &["list", "tables"]);
        assert!(
            tables.contains(&format!("table inet {prefix}/network/default/br0/nat")),
            "{tables}"
        );
        assert!(!run("nft", &["list", "table", "inet", "firewall"]).contains("masquerade"));
        // Another object's table of the same name is another one.
        let mut other = cx.clone();
        other.call.object = "br1".into();
        host.call(
            &other,
            Request::FilterDeleteTable {
                name: "nat".into(),
                family: "inet".into(),
            },
        )
        .await
        .unwrap();
        assert!(run("nft", &["list", "tables"]).contains("br0/nat"));
        let change = |add: &str| Request::FilterChangeElements {
            name: "nat".into(),
            family: "inet".into(),
            set: "s".into(),
            add: vec![add.into()],
            remove: vec![],
        };
        host.call(&cx, change(r#""10.0.0.7""#)).await.unwrap();
        assert!(run("nft", &["list", "ruleset"]).contains("10.0.0.7"));
        for (request, code) in [
            (replace(r#"[{"flush": {"ruleset": null}}]"#), "invalid"),
            (replace("nonsense"), "invalid"),
            (replace(r#"[{"rule": {"chain": "missing", "expr": []}}]"#), "io"),
            (
                Request::FilterDeleteTable {
                    name: "../x".into(),
                    family: "inet".into(),
                },
                "invalid",
            ),
            (
                Request::FilterDeleteTable {
                    name: "x".into(),
                    family: "netdev".into(),
                },
                "invalid",
            ),
        ] {
            let error = host.call(&cx, request.clone()).await.unwrap_err();
            assert_eq!(error.code, code, "{request:?}: {error}");
        }
        assert!(run("nft", &["list", "ruleset"]).contains("10.0.0.7"));
        host.call(
            &cx,
            Request::FilterDeleteTable {
                name: "nat".into(),
                family: "inet".into(),
            },
        )
        .await
        .unwrap();
        assert_eq!(run("nft", &["list", "tables"]), "table inet firewall\n");
    });
}
