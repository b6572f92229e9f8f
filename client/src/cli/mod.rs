//! The `mountwarden` command, for a `main` of three lines and for programs that
//! are several commands in one.

mod args;
mod exit;
mod json;
mod opened;
mod output;
mod serve;
mod status;
mod style;
mod text;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use mountwarden_protocol::{Explanation, MountInfo, Mounted, Operation, Status, Unmounted};

use crate::{Client, Error};
use args::{Arguments, Change, Command, Kind};
use exit::Exit;
use opened::Opened;
use serve::Serving;

/// Runs the command with this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs the command with `arguments`, of which the first is the program's name.
#[doc(hidden)]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = arguments.into_iter().collect();
    let exit = match Arguments::try_parse_from(&words) {
        Ok(arguments) => {
            let json = arguments.json;
            match perform(arguments) {
                Ok(answer) => {
                    let exit = output::answer(&answer, json);
                    match answer {
                        Answer::Serving(serving) => output::error(&serving.become_program(), json),
                        _ => exit,
                    }
                }
                Err(error) => output::error(&error, json),
            }
        }
        Err(error) => output::usage(&error, args::ask_for_json(&words)),
    };
    exit.into()
}

/// What a command found out or did.
enum Answer {
    Mounted(Mounted),
    Serving(Box<Serving>),
    Unmounted(Unmounted),
    Remounted(MountInfo),
    List(Vec<MountInfo>),
    Explained {
        operation: Operation,
        explanation: Explanation,
    },
    Status(Box<Status>),
}

impl Answer {
    fn exit(&self) -> Exit {
        match self {
            Self::Explained {
                explanation: Explanation::Denied(_),
                ..
            } => Exit::Denied,
            _ => Exit::Done,
        }
    }
}

fn perform(arguments: Arguments) -> Result<Answer, Error> {
    let mut builder = Client::builder().timeout(arguments.timeout);
    if let Some(socket) = arguments.socket {
        builder = builder.socket(socket);
    }
    Ok(match arguments.command {
        Command::Change(Change::Mount {
            kind: Kind::Fuse(served),
        }) => Answer::Serving(Box::new(Serving::mount(served, builder)?)),
        Command::Change(change) => {
            let operation = change.into_operation()?;
            let opened = Opened::of(&operation)?;
            let mut client = builder.connect()?;
            match operation {
                Operation::Mount(mount) => {
                    Answer::Mounted(client.mount_passing(mount, opened.passing())?)
                }
                Operation::Unmount(unmount) => {
                    Answer::Unmounted(opened.unmount(&mut client, unmount)?)
                }
                Operation::Remount(remount) => Answer::Remounted(client.remount(remount)?),
            }
        }
        Command::Explain { operation } => {
            let operation = operation.into_operation()?;
            Answer::Explained {
                explanation: builder.connect()?.explain(operation.clone())?,
                operation,
            }
        }
        Command::List => Answer::List(builder.connect()?.list()?),
        Command::Status => Answer::Status(Box::new(builder.connect()?.status()?)),
    })
}
