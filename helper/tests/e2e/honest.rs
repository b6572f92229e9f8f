//! Orders as a session sends them that is nobody else's, and what comes of them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mountwarden_client::protocol::{Operation, Reply};
use mountwarden_client::{Bind, Mounted, Tmpfs, Unmount, Unmounted};

use crate::hostile::HostileSession;

pub(crate) fn directory(path: impl AsRef<Path>) -> OwnedFd {
    File::open(path).unwrap().into()
}

pub(crate) fn mounted(reply: Reply) -> Mounted {
    match reply {
        Reply::Mounted(mounted) => mounted,
        other => panic!("not mounted: {other:?}"),
    }
}

pub(crate) fn unmounted(reply: Reply) -> Unmounted {
    match reply {
        Reply::Unmounted(unmounted) => unmounted,
        other => panic!("not unmounted: {other:?}"),
    }
}

pub(crate) fn borrowed(files: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    files.iter().map(AsFd::as_fd).collect()
}

/// An order and the paths that its descriptors must have.
pub(crate) struct Honest {
    pub(crate) operation: Operation,
    pub(crate) paths: Vec<PathBuf>,
}

impl Honest {
    pub(crate) fn bind(source: &Path, target: &Path) -> Self {
        let operation = Bind::new(source, target).unwrap().into();
        let directory = target.parent().unwrap();
        Self {
            operation,
            paths: [directory, target, source].map(Path::to_owned).into(),
        }
    }

    pub(crate) fn tmpfs(target: &Path) -> Self {
        let operation = Tmpfs::new(target).unwrap().into();
        let directory = target.parent().unwrap();
        Self {
            operation,
            paths: [directory, target].map(Path::to_owned).into(),
        }
    }

    pub(crate) fn unmount(target: &Path, change: impl FnOnce(Unmount) -> Unmount) -> Self {
        Self {
            operation: change(Unmount::new(target).unwrap()).into(),
            paths: vec![target.parent().unwrap().to_owned()],
        }
    }

    pub(crate) fn files(&self) -> Vec<OwnedFd> {
        self.paths.iter().map(directory).collect()
    }

    pub(crate) fn perform(&self, hostile: &HostileSession) -> Reply {
        let files = self.files();
        hostile.channel.perform(&self.operation, &borrowed(&files))
    }
}
