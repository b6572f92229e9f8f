//! The `mountwarden-fusermount3` command.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    mountwarden_client::fusermount::main()
}
