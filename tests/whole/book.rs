//! The book's first driver, command by command as its reader types them.

use anyhow::{Context, Result, ensure};
use hutch_tests::programs::Programs;
use hutch_tests::sandbox::Sandbox;
use std::path::Path;

/// The commands of a page: its blocks of shell, in their order.
fn commands(page: &str) -> String {
    let mut script = String::new();
    let mut inside = false;
    for line in page.lines() {
        match (line, inside) {
            ("```sh", _) => inside = true,
            ("```", true) => inside = false,
            (line, true) => match line.strip_prefix("! ") {
                // A shell that ends at the first failure does not mind that one is missing.
                Some(fails) => script.push_str(&format!("if {fails}; then exit 9; fi\n")),
                None => script.push_str(&format!("{line}\n")),
            },
            _ => {}
        }
    }
    script
}

/// The programs as they are installed: in one directory.
fn installed(programs: &Programs, at: &Path) -> Result<()> {
    std::fs::create_dir(at)?;
    for (program, name) in [
        (&programs.daemon, "hutchd"),
        (&programs.cli, "hutch"),
        (&programs.workbench, "hutch-plugin-dev"),
        (&programs.keeper, "hutch-keeper"),
    ] {
        std::fs::copy(program, at.join(name)).with_context(|| format!("can't copy {}", program.display()))?;
    }
    // The tests are run by root, who needs no other program to become it.
    let sudo = at.join("sudo");
    std::fs::write(&sudo, "#!/bin/sh\nexec \"$@\"\n")?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(sudo, mode).context("can't make a program of it")
}

#[test]
fn the_first_driver_of_the_book_ends_in_a_container() -> Result<()> {
    let programs = Programs::from_environment()?;
    let sandbox = Sandbox::isolated()?;
    let bin = sandbox.path().join("bin");
    installed(&programs, &bin)?;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/book/first-driver.md");
    let page = std::fs::read_to_string(&page).with_context(|| format!("can't read {}", page.display()))?;
    let script = commands(&page);
    ensure!(script.contains("hutch launch"), "the page has no container: {script}");
    let path = std::env::var("PATH").unwrap_or_default();
    // cargo reaches the registry where it can't take everything from its cache; the daemon is alone.
    let output = sandbox
        .command(Path::new("bash"))
        .args(["-euxo", "pipefail", "-c", &script])
        .current_dir(sandbox.path())
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("CARGO_NET_OFFLINE", "true")
        // The tests' own are for the workspace.
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .output()
        .context("can't run bash")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<_> = said.lines().rev().take(40).collect();
    let tail: Vec<_> = tail.into_iter().rev().collect();
    let shown = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{}:\n{}\n{}",
        output.status,
        shown,
        tail.join("\n")
    );
    ensure!(
        shown.contains("container/c1/tree-1/etc/it-is-mine"),
        "the file is where the driver puts it: {shown}"
    );
    Ok(())
}
