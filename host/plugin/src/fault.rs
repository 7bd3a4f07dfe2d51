//! Points between the steps of a change, at which a test ends the daemon as `kill -9` would.

use std::sync::OnceLock;

/// Names the point, as the core's journal does: `plugin-install:stored`.
const VARIABLE: &str = "HUTCH_STOP_AT";

/// The point `step` of `change`. It costs a comparison where no test asks for anything.
pub(crate) fn point(change: &str, step: &str) {
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var(VARIABLE).ok());
    if let Some(wanted) = wanted
        && wanted.strip_prefix(change).and_then(|rest| rest.strip_prefix(':')) == Some(step)
    {
        tracing::error!(%wanted, "ending the process as the test asked");
        // SIGKILL and not an exit: nothing may be flushed or cleaned up.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}
