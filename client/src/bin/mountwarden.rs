//! The `mountwarden` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    mountwarden_client::cli::main()
}
