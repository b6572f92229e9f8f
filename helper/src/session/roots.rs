//! The granted roots, as descriptors for a Landlock domain.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use mountwarden_protocol::AbsPath;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// What a FUSE file system is served on; each time it is opened, another one.
pub(super) const FUSE_CONNECTION: &str = "/dev/fuse";

/// Which of the granted roots were there when the process was confined.
pub(crate) struct Roots {
    missing: Vec<AbsPath>,
}

impl Roots {
    /// Opens each root that exists and is reached without a symbolic link, and with
    /// `fuse` also [`FUSE_CONNECTION`].
    pub(crate) fn open(
        paths: impl IntoIterator<Item = AbsPath>,
        fuse: bool,
    ) -> (Self, Vec<OwnedFd>) {
        let mut missing = Vec::new();
        let mut opened = Vec::new();
        let fuse = fuse.then(|| AbsPath::new(FUSE_CONNECTION).ok()).flatten();
        for path in paths.into_iter().chain(fuse) {
            match Self::try_open(&path) {
                Ok(root) => opened.push(root),
                Err(_) => missing.push(path),
            }
        }
        (Self { missing }, opened)
    }

    /// Opens one root for a Landlock rule.
    pub(crate) fn try_open(path: &AbsPath) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(nix::fcntl::AT_FDCWD, path.as_path(), how)
    }

    /// The root that could not be opened and that `path` is, or lies beneath.
    pub(super) fn missing_above(&self, path: &AbsPath) -> Option<&AbsPath> {
        self.missing
            .iter()
            .find(|&root| path == root || path.is_beneath(root))
    }
}
