//! What the command opens as its caller, to pass it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

use mountwarden_protocol::{AbsPath, Operation, Passed};
use nix::fcntl::OFlag;

use crate::{Error, Passing};

/// The locations of an operation that are passed.
pub(super) struct Opened {
    target: Option<File>,
    source: Option<File>,
}

impl Opened {
    pub(super) fn of(operation: &Operation) -> Result<Self, Error> {
        // Neither a FIFO nor a terminal in the place of a directory.
        let reading = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let (passed, flags) = match operation {
            Operation::Mount(mount) => (mount.passed, reading),
            // The root of a mount may be dead, and is only named.
            Operation::Unmount(unmount) if unmount.passed => (Passed::TARGET, OFlag::O_PATH),
            Operation::Unmount(_) => (Passed::empty(), reading),
        };
        let open = |location: Passed, path: Option<&AbsPath>| {
            path.filter(|_| passed.contains(location))
                .map(|path| open(path, flags))
                .transpose()
        };
        Ok(Self {
            target: open(Passed::TARGET, Some(operation.target()))?,
            source: open(Passed::SOURCE, operation.source())?,
        })
    }

    pub(super) fn target(&self) -> Option<&File> {
        self.target.as_ref()
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

fn open(path: &AbsPath, flags: OFlag) -> Result<File, Error> {
    File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(|error| Error::cannot_open(path.as_path(), error))
}
