//! The process that reads image archives as a program of its own, as `hutchd` is one: for tests of what uses this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    hutch_archive::run_if_asked().unwrap_or_else(|| {
        eprintln!("hutch-unpack-image: started by other programs only");
        ExitCode::from(2)
    })
}
