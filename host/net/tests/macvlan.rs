//! Interfaces of the kind macvlan for real: needs root. The test works in network namespaces of its own.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;

use hutch_net::{Error, Handle, Interface, MacAddress, Macvlan, MacvlanMode, NetnsProbe};

/// This thread, which ends with its test, leaves its namespace for a new one.
fn leave_netns() {
    #[allow(
        deprecated,
        reason = "the safe form; the newer one is unsafe because of flags that are not used here"
    )]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("root is needed");
}

/// A namespace, held open.
fn other_netns() -> File {
    let thread = std::thread::spawn(|| {
        leave_netns();
        File::open("/proc/thread-self/ns/net").expect("the namespace's file")
    });
    thread.join().expect("a namespace")
}

/// Runs `ip` with what `arguments` say, in the namespace that `netns` refers to.
fn ip_in(netns: &File, arguments: &str) {
    let inside = netns.try_clone().expect("another descriptor");
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let thread = std::thread::spawn(move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(inside.as_fd(), kind).expect("the namespace");
        Command::new("ip").args(arguments).status().expect("ip")
    });
    assert!(thread.join().expect("a thread").success());
}

fn mac(text: &str) -> MacAddress {
    text.parse().expect("a hardware address")
}

/// The interface of this name in a namespace.
fn inside(netns: &File, name: &str) -> Option<Interface> {
    let mut probe = NetnsProbe::open(netns.as_fd()).expect("a probe");
    let list = probe.interfaces().expect("interfaces");
    list.into_iter().find(|interface| interface.name == name)
}

/// A handle in a new namespace with two bridges to lie on.
fn machine() -> Handle {
    leave_netns();
    let handle = Handle::open().expect("a handle");
    for parent in ["up0", "up1"] {
        handle.ensure_bridge(parent, None, Some(1400)).expect("a parent");
    }
    handle
}

fn in_a_thread(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(test).join().expect("the test in its namespace");
}

#[test]
fn it_is_put_into_its_namespace_and_asked_for_again_changes_what_differs() {
    in_a_thread(|| {
        let handle = machine();
        let netns = other_netns();
        let wanted = Macvlan {
            parent: "up0",
            netns: netns.as_fd(),
            guest_name: "eth0",
            hwaddr: mac("00:16:3e:00:00:03"),
            mode: MacvlanMode::Bridge,
            mtu: None,
        };
        handle.ensure_macvlan(&wanted).unwrap();
        let made = inside(&netns, "eth0").expect("it is there");
        assert_eq!(
            (made.kind.as_str(), made.hwaddr.as_str(), made.up, made.mtu),
            ("macvlan", "00:16:3e:00:00:03", false, 1400)
        );
        assert_eq!(made.link, Some(handle.get("up0").unwrap().unwrap().index));
        assert!(made.link_elsewhere && made.macvlan_mode == Some(4), "{made:?}");

        handle.ensure_macvlan(&wanted).unwrap();
        assert_eq!(inside(&netns, "eth0").unwrap().index, made.index);
        let private = Macvlan {
            mode: MacvlanMode::Private,
            mtu: Some(1300),
            ..wanted
        };
        handle.ensure_macvlan(&private).unwrap();
        let changed = inside(&netns, "eth0").unwrap();
        assert_eq!(
            (changed.index, changed.macvlan_mode, changed.mtu),
            (made.index, Some(1), 1300)
        );
        // On another parent it is another one.
        let moved = Macvlan {
            parent: "up1",
            ..wanted
        };
        handle.ensure_macvlan(&moved).unwrap();
        let there = inside(&netns, "eth0").unwrap();
        assert_eq!(there.link, Some(handle.get("up1").unwrap().unwrap().index));
    });
}

#[test]
fn a_name_of_the_machine_s_own_is_free_in_an_instance() {
    in_a_thread(|| {
        let handle = machine();
        let netns = other_netns();
        handle.ensure_bridge("eth0", None, None).unwrap();
        let wanted = Macvlan {
            parent: "up0",
            netns: netns.as_fd(),
            guest_name: "eth0",
            hwaddr: mac("00:16:3e:00:00:03"),
            mode: MacvlanMode::Bridge,
            mtu: None,
        };
        handle.ensure_macvlan(&wanted).unwrap();
        assert!(inside(&netns, "eth0").is_some());
        // As one leaves it that is killed before it has given it its name.
        ip_in(&netns, "link set eth0 name mv00163e000003");
        handle.ensure_macvlan(&wanted).unwrap();
        let made = inside(&netns, "eth0").expect("it is there");
        assert_eq!(
            (made.kind.as_str(), made.hwaddr.as_str()),
            ("macvlan", "00:16:3e:00:00:03")
        );
        assert!(
            inside(&netns, "mv00163e000003").is_none(),
            "what was left is still there"
        );
        assert_eq!(handle.get("eth0").unwrap().unwrap().kind, "bridge");
        handle.delete_macvlan(netns.as_fd(), "eth0", wanted.hwaddr).unwrap();
        assert!(inside(&netns, "eth0").is_none());
        assert!(
            handle.get("eth0").unwrap().is_some(),
            "the machine's own interface went"
        );
    });
}

#[test]
fn what_is_not_ours_stays_and_what_is_goes_whatever_it_is_called() {
    in_a_thread(|| {
        let handle = machine();
        let netns = other_netns();
        let hwaddr = mac("00:16:3e:00:00:03");
        let wanted = Macvlan {
            parent: "up0",
            netns: netns.as_fd(),
            guest_name: "eth0",
            hwaddr,
            mode: MacvlanMode::Bridge,
            mtu: None,
        };
        let nowhere = Macvlan {
            parent: "up9",
            ..wanted
        };
        assert!(matches!(handle.ensure_macvlan(&nowhere), Err(Error::NotFound { .. })));
        let vast = Macvlan {
            mtu: Some(9000),
            ..wanted
        };
        assert!(matches!(handle.ensure_macvlan(&vast), Err(Error::Kernel { .. })));

        ip_in(&netns, "link add eth0 type bridge");
        assert!(matches!(handle.ensure_macvlan(&wanted), Err(Error::WrongKind { .. })));
        handle.delete_macvlan(netns.as_fd(), "eth0", hwaddr).unwrap();
        assert!(
            inside(&netns, "eth0").is_some(),
            "an interface of another kind was removed"
        );
        // The guest's own macvlan on the guest's own interface.
        ip_in(
            &netns,
            "link add eth1 link eth0 address 00:16:3e:00:00:03 type macvlan mode bridge",
        );
        handle.delete_macvlan(netns.as_fd(), "eth1", hwaddr).unwrap();
        assert!(inside(&netns, "eth1").is_some(), "the guest's own macvlan was removed");
        ip_in(&netns, "link delete eth0");
        assert!(inside(&netns, "eth1").is_none());

        handle.ensure_macvlan(&wanted).unwrap();
        let other = Macvlan {
            hwaddr: mac("00:16:3e:00:00:04"),
            ..wanted
        };
        assert!(matches!(handle.ensure_macvlan(&other), Err(Error::Taken { .. })));
        ip_in(&netns, "link set eth0 name mine");
        handle.delete_macvlan(netns.as_fd(), "eth0", hwaddr).unwrap();
        assert!(inside(&netns, "mine").is_none(), "one that was renamed stayed");
        handle.ensure_macvlan(&wanted).unwrap();
        ip_in(&netns, "link set eth0 address 02:00:00:00:00:01");
        handle.delete_macvlan(netns.as_fd(), "eth0", hwaddr).unwrap();
        assert!(inside(&netns, "eth0").is_none(), "one with another address stayed");
        handle.delete_macvlan(netns.as_fd(), "eth0", hwaddr).unwrap();
    });
}
