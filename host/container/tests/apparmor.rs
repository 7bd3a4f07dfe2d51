//! Profiles of AppArmor, on a kernel that has it and where `apparmor_parser` is: in the lab. Elsewhere it is told that there are none.

mod common;

use common::sftp::Sftp;
use common::{Lab, run};
use hutch_container::{AppArmorSupport, ContainerSpec, ExitStatus, Keeper};

/// Whether containers have profiles here; that they have none has to have its reason.
async fn without_profiles(lab: &Lab) -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    match lab.runtime.apparmor_support() {
        AppArmorSupport::Used => return false,
        AppArmorSupport::Missing => assert_ne!(enabled.trim(), "Y"),
        AppArmorSupport::Enclosing | AppArmorSupport::Unusable(_) => assert_eq!(enabled.trim(), "Y"),
    }
    let spec = lab.busybox("plain");
    let keeper = lab.start(&spec).await;
    let (_, label) = run(&keeper, &["sh", "-c", "cat /proc/1/attr/current 2>/dev/null"]).await;
    assert!(!label.starts_with("hutch-"), "{label}");
    lab.stop(&keeper).await;
    true
}

/// Every kind of container, with what its profile's name begins with.
fn kinds(lab: &Lab) -> [(ContainerSpec, &'static str); 4] {
    [
        (false, false, "hutch-unprivileged-"),
        (false, true, "hutch-unprivileged-nesting-"),
        (true, false, "hutch-privileged-"),
        (true, true, "hutch-privileged-nesting-"),
    ]
    .map(|(privileged, nesting, profile)| {
        let mut spec = lab.busybox("profile");
        if privileged {
            spec.idmap = None;
        }
        spec.nesting = nesting;
        (spec, profile)
    })
}

async fn file(stream: std::os::fd::OwnedFd, path: &'static str) -> String {
    let read = tokio::task::spawn_blocking(move || Sftp::new(stream).get(path)).await;
    String::from_utf8(read.unwrap().unwrap()).unwrap()
}

async fn shell(keeper: &Keeper, script: &str) -> String {
    run(keeper, &["sh", "-c", script]).await.1
}

#[tokio::test]
async fn everything_that_runs_inside_is_confined() {
    let lab = Lab::new();
    if without_profiles(&lab).await {
        return;
    }
    for (spec, profile) in kinds(&lab) {
        let keeper = lab.start(&spec).await;
        let confined = |label: &str| {
            let rest = label
                .trim_end_matches(['\n', '\0'])
                .strip_prefix(profile)
                .unwrap_or_else(|| panic!("{label}"));
            assert!(
                rest.len() == 8 + " (enforce)".len() && rest.ends_with(" (enforce)"),
                "{label}"
            );
        };
        confined(&shell(&keeper, "cat /proc/1/attr/current").await);
        confined(&shell(&keeper, "cat /proc/self/attr/current").await);
        // What it starts is what its root can make it: still confined.
        confined(
            &shell(
                &keeper,
                "echo unconfined > /proc/self/attr/current 2>/dev/null; cat /proc/self/attr/current",
            )
            .await,
        );
        confined(&file(keeper.sftp().await.unwrap(), "/proc/self/attr/current").await);
        lab.stop(&keeper).await;
    }
}

#[tokio::test]
async fn what_covers_the_machines_settings_is_not_all_that_keeps_a_privileged_root_from_them() {
    let lab = Lab::new();
    if without_profiles(&lab).await {
        return;
    }
    for (spec, profile) in kinds(&lab).into_iter().filter(|(spec, _)| spec.idmap.is_none()) {
        let nesting = spec.nesting;
        let keeper = lab.start(&spec).await;
        let refused = "Permission denied";
        for (script, expected) in [
            // The first fence is taken down; then some is its own, and the rest is not.
            (
                "mount -o remount,rw,bind /proc/sys && echo inside > /proc/sys/kernel/hostname && hostname",
                "inside\n",
            ),
            ("echo '|/bin/evil' > /proc/sys/kernel/core_pattern", refused),
            ("echo 1 > /proc/sys/vm/drop_caches", refused),
            (
                "mount -o remount,rw /sys && echo 1 > /sys/module/printk/parameters/time",
                refused,
            ),
            ("umount /proc/sysrq-trigger; echo b > /proc/sysrq-trigger", refused),
            ("mount -t debugfs none /tmp", refused),
            ("mount -t securityfs none /sys/kernel/security", refused),
            // What is nobody else's business.
            ("mount -t tmpfs none /tmp && echo mounted", "mounted\n"),
            ("echo 1 > /proc/sys/net/ipv4/ip_forward && echo written", "written\n"),
        ] {
            let text = shell(&keeper, &format!("{{ {script}; }} 2>&1")).await;
            assert!(text.contains(expected), "{profile}: {script}: {text}");
        }
        let text = shell(
            &keeper,
            "mkdir /tmp/p && mount -t proc none /tmp/p 2>&1 && echo mounted",
        )
        .await;
        assert_eq!(text.contains("mounted"), nesting, "{profile}: {text}");
        lab.stop(&keeper).await;
    }
}

#[tokio::test]
async fn profiles_that_were_removed_are_loaded_again() {
    let lab = Lab::new();
    if without_profiles(&lab).await {
        return;
    }
    let spec = lab.busybox("again");
    let keeper = lab.start(&spec).await;
    let label = shell(&keeper, "cat /proc/self/attr/current").await;
    lab.stop(&keeper).await;
    let profile = label.split(' ').next().unwrap();
    std::fs::write("/sys/kernel/security/apparmor/.remove", profile).unwrap();
    let keeper = lab.start(&spec).await;
    assert_eq!(shell(&keeper, "cat /proc/self/attr/current").await, label);
    assert_eq!(run(&keeper, &["true"]).await.0, ExitStatus::Code(0));
    lab.stop(&keeper).await;
}
