//! What the command opens as its caller, to pass it.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mountwarden_protocol::{AbsPath, Detach, Operation, Passed, Unmount, Unmounted};
use rustix::fs::OFlags;

use crate::{Client, DetachedMount, Error, Passing};

/// What is passed for an operation.
pub(super) struct Opened {
    target: Option<File>,
    source: Option<File>,
    namespace: Option<File>,
}

impl Opened {
    /// Opens its locations, and the user namespace at `idmap`.
    pub(super) fn of(operation: &Operation, idmap: Option<&Path>) -> Result<Self, Error> {
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
                .map(|path| open(path.as_path(), flags))
                .transpose()
        };
        Ok(Self {
            target: open(Passed::TARGET, operation.target())?,
            source: open(Passed::SOURCE, operation.source())?,
            namespace: idmap.map(|path| self::open(path, reading)).transpose()?,
        })
    }

    pub(super) fn target(&self) -> Option<&File> {
        self.target.as_ref()
    }

    /// Has a mount handed over, ID-mapped where there is a namespace.
    pub(super) fn detach(
        &self,
        client: &mut Client,
        detach: Detach,
    ) -> Result<DetachedMount, Error> {
        match &self.namespace {
            Some(namespace) => client.detach_mapped(detach, namespace),
            None => client.detach(detach),
        }
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
        if let Some(namespace) = &self.namespace {
            passing = passing.idmap(namespace);
        }
        passing
    }
}

fn open(path: &Path, flags: OFlags) -> Result<File, Error> {
    File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|error| Error::cannot_open(path, "pass it", error))
}
