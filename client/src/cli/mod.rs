//! The `mountwarden` command, for a `main` of three lines and for programs that
//! are several commands in one.

mod args;
mod batch;
mod exit;
mod hold;
mod json;
mod opened;
mod output;
mod serve;
mod status;
mod style;
mod text;
mod volume;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mountwarden_protocol::{
    Detached, Explanation, MountInfo, Mounted, Operation, Status, Unmounted,
};

use crate::{Applied, Batch, Client, Error, Health, Probe};
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
            if let Command::Volume(command) = &arguments.command
                && let Some(exit) = command.run_hidden()
            {
                return exit;
            }
            let json = arguments.json;
            perform(arguments).unwrap_or_else(|error| output::error(&error, json))
        }
        Err(error) => output::usage(&error, args::ask_for_json(&words)),
    };
    exit.into()
}

/// What a command found out or did.
enum Answer {
    Mounted(Mounted),
    Unmounted(Unmounted),
    Remounted(MountInfo),
    Moved(MountInfo),
    List(Vec<MountInfo>),
    Explained {
        operation: Operation,
        explanation: Explanation,
    },
    Status(Box<Status>),
    Volume(volume::Report),
    Probed(Probe),
    Attached {
        detached: Detached,
        place: PathBuf,
    },
    Applied(Vec<Applied>),
    ExplainedAll(Vec<(Operation, Explanation)>),
}

/// How long a file system has to answer.
const PROBE: Duration = Duration::from_secs(5);

impl Answer {
    fn exit(&self) -> Exit {
        match self {
            Self::Explained {
                explanation: Explanation::Denied(_),
                ..
            } => Exit::Denied,
            Self::ExplainedAll(all) => {
                let denied = |(_, said): &(_, _)| matches!(said, Explanation::Denied(_));
                if all.iter().any(denied) {
                    Exit::Denied
                } else {
                    Exit::Done
                }
            }
            Self::Probed(probe) => match probe.health {
                Health::Alive => Exit::Done,
                Health::Absent => Exit::NotThere,
                Health::Stale { .. } | Health::Hung { .. } => Exit::Dead,
                Health::Private => Exit::Unknown,
            },
            Self::Volume(report) => report.exit(),
            _ => Exit::Done,
        }
    }
}

fn perform(arguments: Arguments) -> Result<Exit, Error> {
    let mut builder = Client::builder();
    if let Some(timeout) = arguments.timeout {
        builder = builder.timeout(timeout);
    }
    if let Some(socket) = &arguments.socket {
        builder = builder.socket(socket);
    }
    let answer = match arguments.command {
        Command::Change(Change::Mount {
            kind: Kind::Fuse(served),
        }) => {
            let serving = Serving::mount(served, builder)?;
            output::answer(&Answer::Mounted(serving.mounted.clone()), arguments.json);
            return Err(serving.become_program());
        }
        Command::Change(change) => {
            let (place, idmap) = (change.place(), change.idmap());
            let operation = change.into_operation()?;
            let opened = Opened::of(&operation, idmap.as_deref())?;
            match operation {
                Operation::Mount(mount) if mount.lease => {
                    let held = hold::Held::mount(builder, mount, opened.passing())?;
                    return held.until_interrupted(arguments.json);
                }
                Operation::Mount(mount) => {
                    let made = builder.connect()?.mount_passing(mount, opened.passing())?;
                    Answer::Mounted(made)
                }
                Operation::Unmount(unmount) => {
                    Answer::Unmounted(opened.unmount(&mut builder.connect()?, unmount)?)
                }
                Operation::Remount(remount) => {
                    Answer::Remounted(builder.connect()?.remount(remount)?)
                }
                Operation::Move(moved) => Answer::Moved(builder.connect()?.move_mount(moved)?),
                Operation::Detach(detach) => {
                    let mount = opened.detach(&mut builder.connect()?, detach)?;
                    let detached = mount.detached.clone();
                    mount.attach(&place)?;
                    Answer::Attached { detached, place }
                }
            }
        }
        Command::Explain { operation } => {
            let operation = operation.into_operation()?;
            Answer::Explained {
                explanation: builder.connect()?.explain(operation.clone())?,
                operation,
            }
        }
        Command::Apply { file, explain } => {
            let batch = batch::read(&file)?;
            if explain {
                Answer::ExplainedAll(explain_all(&mut builder.connect()?, &batch)?)
            } else if batch.mounts().iter().any(|mount| mount.lease) {
                let held = hold::Held::apply(builder, batch)?;
                return held.until_interrupted(arguments.json);
            } else {
                Answer::Applied(builder.connect()?.apply(batch)?)
            }
        }
        Command::Volume(command) => {
            let (socket, timeout) = (arguments.socket.as_deref(), arguments.timeout);
            Answer::Volume(volume::perform(&command, socket, timeout)?)
        }
        Command::List => Answer::List(builder.connect()?.list()?),
        Command::Probe { target } => {
            let within = arguments.timeout.unwrap_or(PROBE);
            let probed = builder.probe(args::trimmed(&target), within);
            Answer::Probed(probed.map_err(args::advise)?)
        }
        Command::Status => Answer::Status(Box::new(builder.connect()?.status()?)),
    };
    Ok(output::answer(&answer, arguments.json))
}

fn explain_all(client: &mut Client, batch: &Batch) -> Result<Vec<(Operation, Explanation)>, Error> {
    let mounts = batch.mounts().iter().cloned().map(Operation::Mount);
    mounts
        .map(|operation| Ok((operation.clone(), client.explain(operation)?)))
        .collect()
}
