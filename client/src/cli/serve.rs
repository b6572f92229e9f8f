//! `mount fuse`: the command becomes the program that serves what it has mounted.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use mountwarden_protocol::{Mounted, Operation, Unmount as UnmountRequest, Unmounted};

use super::args::Served;
use super::opened::Opened;
use crate::words::filled;
use crate::{Builder, Client, Error, Unmount};

/// What stands for the number of the connection.
const PLACE: &str = "{fd}";

/// A file system that is mounted and not served yet.
pub(super) struct Serving {
    pub(super) mounted: Mounted,
    /// Whether its target was opened here and passed.
    passed: bool,
    client: Client,
    connection: OwnedFd,
    program: OsString,
    arguments: Vec<OsString>,
}

impl Serving {
    /// Mounts it.
    pub(super) fn mount(served: Served, client: Builder) -> Result<Self, Error> {
        let (fuse, operation) = (served.fuse()?, served.operation()?);
        let mut words = served.program.into_iter();
        let Some(program) = words.next() else {
            return Err(Error::no_program());
        };
        let opened = Opened::of(&operation, None)?;
        let mut client = client.connect()?;
        let made = client.mount_fuse_passing(fuse, opened.passing())?;
        Ok(Self {
            mounted: made.mounted,
            passed: opened.target().is_some(),
            client,
            connection: made.connection,
            program,
            arguments: words.collect(),
        })
    }

    /// Becomes the program. Comes back only when that failed, after the mount was ended
    /// again, which nobody would serve.
    pub(super) fn become_program(mut self) -> Error {
        let number = self.connection.as_raw_fd().to_string();
        let values = [(PLACE, OsStr::new(&number))];
        let arguments = self.arguments.iter().map(|word| filled(word, &values));
        let started = match rustix::io::fcntl_setfd(&self.connection, rustix::io::FdFlags::empty())
        {
            Ok(()) => Command::new(&self.program).args(arguments).exec(),
            Err(error) => error.into(),
        };
        let failed = Error::not_started(&self.program, started);
        match self.unmount() {
            Ok(_) => failed,
            Err(left) => failed.and_left(&left),
        }
    }

    fn unmount(&mut self) -> Result<Unmounted, Error> {
        let unmount = UnmountRequest {
            passed: self.passed,
            ..Unmount::from(&self.mounted).lazy().into()
        };
        let opened = Opened::of(&Operation::Unmount(unmount.clone()), None)?;
        opened.unmount(&mut self.client, unmount)
    }
}
