//! The compiling child as a program of its own, for tests, whose executables are not the daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    hutch_plugin::compile_child_main(std::env::args().skip(1))
}
