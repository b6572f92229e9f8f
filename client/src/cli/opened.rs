//! What the command opens as its caller, to pass it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

use mountwarden_protocol::{AbsPath, Operation, Passed, Unmount, Unmounted};
use rustix::fs::OFlags;

use crate::{Client, Error, Passing};

/// The locations of an operation that are passed.
pub(super) struct Opened {
    target: Option<File>,
    source: Option<File>,
}

impl Opened {
    pub(super) fn of(operation: &Operation) -> Result<Self, Error> {
        // Neither a FIFO nor a terminal in the place of a directory.
        let reading = OFlags::NONBLOCK | OFlags::NOCTTY;
        let (passed, flags) = match operation {
            Operation::Mount(mount) => (mount.passed, reading),
            // The root of a mount may be dead, and is only named.
            Operation::Unmount(unmount) if unmount.passed => (Passed::TARGET, OFlags::PATH),
            Operation::Unmount(_)
            | Operation::Remount(_)
            | Operation::Detach(_)
            | Operation::Move(_) => (Passed::empty(), reading),
        };
        let open = |location: Passed, path: Option<&AbsPath>| {
            path.filter(|_| passed.contains(location))
                .map(|path| open(path, flags))
                .transpose()
        };
        Ok(Self {
            target: open(Passed::TARGET, operation.target())?,
            source: open(Passed::SOURCE, operation.source())?,
        })
    }

    pub(super) fn target(&self) -> Option<&File> {
        self.target.as_ref()
    }

    /// Ends the mount whose root this is, or the one at the target's path.
    pub(super) fn unmount(
        &self,
        client: &mut Client,
        unmount: Unmount,
    ) -> Result<Unmounted, Error> {
        match &self.target {
            Some(root) => client.unmount_passing(unmount, root),
            None => client.unmount(unmount),
        }
    }

    pub(super) fn passing(&self) -> Passing<'_> {
        let mut passing = Passing::new();
        if let Some(target) = &self.target {
            passing = passing.target(target);
        }
        if let Some(source) = &self.source {
            passing = passing.source(source);
        }
        passing
    }
}

fn open(path: &AbsPath, flags: OFlags) -> Result<File, Error> {
    File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| Error::cannot_open(path.as_path(), "pass it", error))
}
