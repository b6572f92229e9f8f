//! `mount fuse`: the command becomes the program that serves what it has mounted.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use mountwarden_protocol::{Mounted, Operation, Unmount as UnmountRequest, Unmounted};

use super::args::Served;
use super::opened::Opened;
use crate::{Builder, Client, Error, Unmount};

/// What stands for the number of the connection.
const PLACE: &[u8] = b"{fd}";

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
        let arguments = self.arguments.iter().map(|word| filled(word, &number));
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

/// The word with the number in each place for it.
fn filled(word: &OsStr, number: &str) -> OsString {
    let mut filled = Vec::new();
    let mut rest = word.as_bytes();
    while let Some(at) = rest.windows(PLACE.len()).position(|part| part == PLACE) {
        let (before, from) = rest.split_at(at);
        filled.extend_from_slice(before);
        filled.extend_from_slice(number.as_bytes());
        rest = from.get(PLACE.len()..).unwrap_or_default();
    }
    filled.extend_from_slice(rest);
    OsString::from_vec(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_stands_in_each_place_for_it() {
        for (word, is) in [
            ("/dev/fd/{fd}", "/dev/fd/7"),
            ("{fd}{fd}", "77"),
            ("-o{fd}x", "-o7x"),
            ("{f}", "{f}"),
            ("", ""),
        ] {
            assert_eq!(filled(OsStr::new(word), "7"), is);
        }
    }
}
