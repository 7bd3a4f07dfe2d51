//! The daemon killed while a root is on its way to where its driver keeps it. There is no entry of the journal for that: every start of
//! the daemon makes up for it.

use anyhow::{Context, Result, ensure};
use hutch_tests::daemon::tail;

use crate::strangers::rsync::{goes_home, on_pool, start};

#[test]
fn a_root_that_was_being_let_go_is_let_go_by_the_next_start() -> Result<()> {
    let (mut daemon, _remote, hutch) = start()?;
    daemon.client().run("POST", "/1.0/instances", &on_pool("c1", true))?;
    daemon.shell("c1", "echo first > /kept; sync")?;
    for step in ["begin", "released"] {
        let point = format!("root-release:{step}");
        // While it runs: the start lets go what does not.
        daemon.stop()?;
        daemon.launch(&[("HUTCH_STOP_AT", &point)])?;
        // The daemon may die before its answer is read.
        let _ = daemon.change("c1", "stop", true);
        ensure!(daemon.wait_for_fault()?, "the daemon did not come to {point}");
        daemon.launch(&[])?;
        goes_home(&daemon, "c1").with_context(|| format!("killed at {point}: {}", tail(&daemon.log())))?;
        ensure!(daemon.status("c1")? == "Stopped", "{point}");
        daemon.change("c1", "start", false)?;
        ensure!(
            daemon.shell("c1", "cat /kept; echo again > /other; sync")? == "first",
            "{point}"
        );
    }
    hutch.run(&["delete", "--force", "c1"])?;
    Ok(())
}
