//! `volume`: mounts that a service keeps, from a file.

mod file;
mod launch;
mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

pub(super) use self::file::FORMAT;
pub(super) use self::report::Report;
use crate::volume::{Manager, UseName, Volume};
use crate::{Error, ErrorKind};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make sure that a volume is mounted and answers.
    Connect {
        #[command(flatten)]
        which: Which,

        #[command(flatten)]
        user: User,
    },

    /// Say how the mount of a volume fares.
    Validate {
        #[command(flatten)]
        which: Which,
    },

    /// End a use of a volume, and with the last one its mount.
    Disconnect {
        #[command(flatten)]
        which: Which,

        #[command(flatten)]
        user: User,
    },

    /// Say how each volume fares.
    List {
        #[command(flatten)]
        config: Config,
    },

    /// Start a volume's program.
    #[command(hide = true)]
    Launch {
        #[arg(long)]
        within_ms: u64,

        #[arg(long, requires = "scope", value_parser = manager)]
        manager: Option<Manager>,

        #[arg(long, requires = "manager")]
        scope: Option<String>,

        #[arg(last = true, required = true)]
        words: Vec<OsString>,
    },

    /// Ask a file system whether it answers; the exit status is the error number.
    #[command(hide = true)]
    Ask { target: PathBuf },
}

#[derive(Debug, Args)]
pub(super) struct Config {
    /// The file of volumes, in TOML; - for standard input.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    #[command(flatten)]
    config: Config,

    /// The volume's name.
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct User {
    /// Who uses it: a use has a name, and counts once.
    #[arg(long = "use", value_name = "WHO", default_value = "manual")]
    user: String,
}

fn manager(name: &str) -> Result<Manager, &'static str> {
    let mut managers = [Manager::System, Manager::User].into_iter();
    let named = managers.find(|manager| manager.name() == name);
    named.ok_or("it is system or user")
}

impl Command {
    /// Runs what is a process of its own, and no command for people.
    pub(super) fn run_hidden(&self) -> Option<ExitCode> {
        match self {
            Self::Launch {
                within_ms,
                manager,
                scope,
                words,
            } => {
                let scope = manager.zip(scope.as_deref());
                Some(launch::launch(
                    words,
                    scope,
                    Duration::from_millis(*within_ms),
                ))
            }
            Self::Ask { target } => Some(launch::ask(target)),
            _ => None,
        }
    }
}

/// Does what is asked.
pub(super) fn perform(
    command: &Command,
    socket: Option<&Path>,
    timeout: Option<Duration>,
) -> Result<Report, Error> {
    let read = |config: &Config| config.read(socket, timeout);
    match command {
        Command::Connect { which, user } => {
            let volume = which.find(read(&which.config)?)?;
            let connected = volume.connect(&UseName::new(&user.user)?)?;
            Ok(Report::connected(&volume, &connected))
        }
        Command::Validate { which } => {
            let volume = which.find(read(&which.config)?)?;
            Ok(Report::Found(report::Found::of(&volume)?))
        }
        Command::Disconnect { which, user } => {
            let volume = which.find(read(&which.config)?)?;
            let disconnected = volume.disconnect(&UseName::new(&user.user)?)?;
            Ok(Report::disconnected(&volume, &disconnected))
        }
        Command::List { config } => {
            let volumes = look_at_all(&read(config)?)?;
            Ok(Report::List { volumes })
        }
        Command::Launch { .. } | Command::Ask { .. } => {
            let what = "this is a process of its own";
            Err(Error::new(ErrorKind::Failed, what))
        }
    }
}

/// Looks at each by itself: one that hangs does not keep the others waiting.
fn look_at_all(volumes: &[Volume]) -> Result<Vec<report::Found>, Error> {
    std::thread::scope(|scope| {
        let look = |volume| scope.spawn(move || report::Found::of(volume));
        let looks: Vec<_> = volumes.iter().map(look).collect();
        let found = looks.into_iter().map(|look| {
            let panicked = |_| Err(Error::new(ErrorKind::Failed, "a look at a volume panicked"));
            look.join().unwrap_or_else(panicked)
        });
        found.collect()
    })
}

impl Which {
    fn find(&self, volumes: Vec<Volume>) -> Result<Volume, Error> {
        let found = volumes
            .into_iter()
            .find(|volume| volume.name() == self.name);
        found.ok_or_else(|| Error::no_volume(&self.config.config, &self.name))
    }
}

impl Config {
    fn read(&self, socket: Option<&Path>, timeout: Option<Duration>) -> Result<Vec<Volume>, Error> {
        let volumes = file::read(&self.config, timeout)?;
        let volumes = volumes.into_iter().map(|volume| {
            // The very program that runs, whatever lies at its path by now.
            let volume = volume.launcher("/proc/self/exe");
            match socket {
                Some(socket) => volume.socket(socket),
                None => volume,
            }
        });
        Ok(volumes.collect())
    }
}
