//! The worker as a program of its own, for tests of the plugin host, whose executables are not the daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    hutch_plugin::worker_main(std::env::args().skip(1))
}
