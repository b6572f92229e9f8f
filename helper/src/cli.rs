//! The command line of `mountwardend`.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use lexopt::Arg::{Long, Short, Value};
use lexopt::Parser;

use crate::launch::{self, Serve, StartError};
use crate::{check, confine};

const USAGE: &str = "\
mountwardend: mounts what a policy grants to unprivileged clients

Usage:
  mountwardend serve [--policy PATH] [--socket PATH] [--user NAME] [--userns]
  mountwardend check [--policy PATH] [--print]
  mountwardend confinement [--json]

Commands:
  serve        Serve until SIGTERM; mounts stay.
  check        Read the policy, report what is wrong or unwise, and exit.
  confinement  Print what confines each role: capability, Landlock, limits, and its
               system calls, each with its arguments and its reason.

Options:
  --policy PATH  The policy                   [/etc/mountwarden/policy.toml]
  --socket PATH  The socket, unless one is passed by systemd
                                              [/run/mountwarden/mountwarden.sock]
  --user NAME    The user to become, when started as root      [mountwarden]
  --print        Print the policy as it is in force, with every default
  --json         Print it for a program
  --userns       Serve in a user and mount namespace of one's own, without root
  --help, --version
";

enum Command {
    Serve(Serve),
    Check { policy: PathBuf, print: bool },
    Confinement { json: bool },
    Help,
    Version,
}

/// Runs `mountwardend` with its arguments, the program's name first.
///
/// Exit status: 0 for a clean end, 1 for a failure, 2 for wrong usage.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = match parse(Parser::from_iter(arguments.iter().cloned())) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("mountwardend: {error}; see mountwardend --help");
            return ExitCode::from(2);
        }
    };
    let result = match command {
        Command::Help => {
            print!("{USAGE}");
            Ok(())
        }
        Command::Version => {
            println!("mountwardend {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Confinement { json } => confinement(json),
        Command::Check { policy, print } => check::check(&policy, print),
        Command::Serve(options) => launch::serve(&options, &arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mountwardend: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the tables of this kernel.
fn confinement(json: bool) -> Result<(), StartError> {
    let source = launch::mount_table_source()?;
    if json {
        println!("{}", confine::json(source));
    } else {
        print!("{}", confine::text(source));
    }
    Ok(())
}

fn parse(mut parser: Parser) -> Result<Command, lexopt::Error> {
    let mut command = None;
    let (mut json, mut print) = (false, false);
    let mut options = Serve {
        policy: "/etc/mountwarden/policy.toml".into(),
        socket: "/run/mountwarden/mountwarden.sock".into(),
        user: "mountwarden".to_owned(),
        userns: false,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(Command::Help),
            Long("version") | Short('V') => return Ok(Command::Version),
            Value(name) if command.is_none() => command = Some(name),
            Long("policy")
                if command
                    .as_ref()
                    .is_some_and(|c| c == "serve" || c == "check") =>
            {
                options.policy = parser.value()?.into();
            }
            Long("socket") if is_serve(command.as_ref()) => {
                options.socket = parser.value()?.into();
            }
            Long("user") if is_serve(command.as_ref()) => {
                options.user = parser
                    .value()?
                    .into_string()
                    .map_err(lexopt::Error::NonUnicodeValue)?;
            }
            Long("print") if command.as_ref().is_some_and(|c| c == "check") => print = true,
            Long("json") if command.as_ref().is_some_and(|c| c == "confinement") => json = true,
            Long("userns") if is_serve(command.as_ref()) => options.userns = true,
            other => return Err(other.unexpected()),
        }
    }
    match command.as_ref().and_then(|name| name.to_str()) {
        Some("serve") => Ok(Command::Serve(options)),
        Some("check") => Ok(Command::Check {
            policy: options.policy,
            print,
        }),
        Some("confinement") => Ok(Command::Confinement { json }),
        Some(other) => Err(format!("there is no command {other:?}").into()),
        None => Err("a command is missing".into()),
    }
}

fn is_serve(command: Option<&OsString>) -> bool {
    command.is_some_and(|command| command == "serve")
}
