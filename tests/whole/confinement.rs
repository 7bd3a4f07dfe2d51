//! What the kernel refuses containers beside their namespaces, and what is told of it. Where the kernel has no AppArmor, as in most
//! containers, this is about that being told; `cargo xtask lab --test` has a kernel with it.

use anyhow::{Result, ensure};
use hutch_tests::daemon::Daemon;
use serde_json::json;

/// What the daemon says of AppArmor: whether it is used, and the warnings.
fn told(daemon: &Daemon) -> Result<(bool, String)> {
    let mut client = daemon.client();
    let features = client.get("/1.0")?["environment"]["kernel_features"].take();
    let used = features["apparmor"].as_str().unwrap_or_default().to_owned();
    ensure!(["true", "false"].contains(&used.as_str()), "{features}");
    let warnings = client.get("/1.0/warnings?recursion=1")?.to_string();
    Ok((used == "true", warnings))
}

#[test]
fn containers_are_under_the_profile_that_is_told() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    let (used, warnings) = told(&daemon)?;
    // Where the kernel has it and it is not used, the operator is told why.
    ensure!(
        used || (enabled.trim() == "Y") == warnings.contains("the kernel has AppArmor, but"),
        "{warnings}"
    );
    daemon.instance("c1", &json!({}))?;
    daemon.instance(
        "c2",
        &json!({ "config": { "security.privileged": "true", "security.nesting": "true" } }),
    )?;
    for restarted in [false, true] {
        if restarted {
            daemon.crash_and_restart()?;
            ensure!(told(&daemon)? == (used, warnings.clone()));
        }
        for (name, profile) in [("c1", "hutch-unprivileged-"), ("c2", "hutch-privileged-nesting-")] {
            for process in ["1", "self"] {
                let script = format!("cat /proc/{process}/attr/current 2>/dev/null; true");
                let label = daemon.shell(name, &script)?;
                ensure!(label.starts_with(profile) == used, "{name}, process {process}: {label}");
            }
        }
    }
    Ok(())
}
