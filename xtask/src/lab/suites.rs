//! The tests that run in the lab.

use super::guest::quoted;
use crate::artifacts::Artifacts;
use std::path::Path;

/// The suites of tests/whole that depend on what the kernel is like: its cgroups, namespaces, mounts, networks and
/// security modules.
const SUITES: [&str; 6] = [
    "confinement::",
    "exec::",
    "lifecycle::",
    "limits::",
    "network::",
    "snapshots::",
];

/// The command that runs tests in the machine. The programs are copied into its memory first: its root is another machine's directory,
/// from which each page of a program is a request of its own. `compiled` keeps compiled plugins from one run to the next,
/// because compiling them takes an emulated processor minutes.
pub(super) fn command(built: &Artifacts, tests: &Path, compiled: &Path, filters: &[String]) -> Vec<String> {
    let word = |path: &Path| quoted(&path.to_string_lossy());
    let filters: Vec<String> = match filters {
        [] => SUITES.map(quoted).to_vec(),
        given => given.iter().map(|filter| quoted(filter)).collect(),
    };
    let mut script = format!(
        "set -e\nmkdir /run/programs\ncp -r {} {} {} {} {} /run/programs\n",
        word(&built.daemon),
        word(&built.cli),
        word(&built.keeper),
        word(&built.plugins),
        word(tests),
    );
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let copied = |path: &Path| quoted(&format!("/run/programs/{}", name(path).unwrap_or_default()));
    for (variable, path) in [
        ("HUTCHD", &built.daemon),
        ("HUTCH", &built.cli),
        ("HUTCH_KEEPER", &built.keeper),
        ("HUTCH_PLUGINS", &built.plugins),
    ] {
        script.push_str(&format!("export {variable}={}\n", copied(path)));
    }
    if let Some(guests) = &built.guests {
        script.push_str(&format!("export HUTCH_GUESTS={}\n", word(guests)));
    }
    script.push_str(&format!("export HUTCH_TEST_COMPILED={}\n", word(compiled)));
    // What a test prints is shown as it comes, since they take long. One at a time: an emulated machine has but one processor's
    // worth of time, and the tests' own time limits are generous, not boundless.
    script.push_str(&format!(
        "exec {} --test-threads 1 --nocapture {}\n",
        copied(tests),
        filters.join(" ")
    ));
    vec!["sh".to_owned(), "-c".to_owned(), script]
}
