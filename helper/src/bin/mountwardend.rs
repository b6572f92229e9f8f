//! The helper's program.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    mountwarden_helper::run(std::env::args_os())
}
