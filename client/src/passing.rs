//! What is passed as open descriptors.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use mountwarden_protocol::{AbsPath, Kind, Mount, Passed};

use crate::Error;

/// Descriptors that go to the helper beside the paths of a request, for directories
/// that the helper's own user cannot reach. The grant must take them.
///
/// A directory or regular file is opened for reading alone. The kernel's path of the
/// descriptor takes the place of the one that the request was made with.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::fs::File;
/// use mountwarden_client::{Bind, Client, Passing};
///
/// let target = File::open("/home/ann/shared")?;
/// let bind = Bind::new("/srv/shared", "/home/ann/shared")?;
/// Client::connect()?.mount_passing(bind, Passing::new().target(&target))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "it does nothing until Client::mount_passing is given it"]
pub struct Passing<'fd> {
    target: Option<BorrowedFd<'fd>>,
    source: Option<BorrowedFd<'fd>>,
    idmap: Option<BorrowedFd<'fd>>,
}

impl<'fd> Passing<'fd> {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The directory or file to mount at.
    pub fn target(mut self, file: &'fd impl AsFd) -> Self {
        self.target = Some(file.as_fd());
        self
    }

    /// The directory or file to bind.
    pub fn source(mut self, file: &'fd impl AsFd) -> Self {
        self.source = Some(file.as_fd());
        self
    }

    /// The user namespace whose maps say whom the files belong to that the mount shows:
    /// what belongs to an id inside belongs to the one outside that it stands for
    /// (`user_namespaces(7)`). Only for a [`Bind`](crate::Bind).
    ///
    /// This process's user made the namespace, and both its maps are written. What they may
    /// map, the grant says. A second request is no
    /// [`AlreadyMounted`](crate::Outcome::AlreadyMounted): the kernel does not tell what a
    /// mount maps.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::fs::File;
    /// use mountwarden_client::{Bind, Client, Passing};
    ///
    /// let container = File::open("/proc/4711/ns/user")?;
    /// let bind = Bind::new("/srv/images", "/run/vms/7/images")?;
    /// Client::connect()?.mount_passing(bind, Passing::new().idmap(&container))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn idmap(mut self, namespace: &'fd impl AsFd) -> Self {
        self.idmap = Some(namespace.as_fd());
        self
    }

    /// The mount as it is asked for with these descriptors; what
    /// [`Client::explain`](crate::Client::explain) takes, too.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for a descriptor that has
    /// no path, such as a socket's.
    pub fn describe(self, mount: impl Into<Mount>) -> Result<Mount, Error> {
        let mut mount = mount.into();
        mount.passed = Passed::empty();
        if let Some(target) = self.target {
            mount.target = path_of("target", target)?;
            mount.passed |= Passed::TARGET;
        }
        if let Some(file) = self.source {
            if let Kind::Bind { source, .. } = &mut mount.kind {
                *source = path_of("source", file)?;
            }
            mount.passed |= Passed::SOURCE;
        }
        mount.passed.set(Passed::ID_MAP, self.idmap.is_some());
        Ok(mount)
    }

    /// In the order of the wire.
    pub(crate) fn descriptors(self) -> Vec<BorrowedFd<'fd>> {
        let Self {
            target,
            source,
            idmap,
        } = self;
        target.into_iter().chain(source).chain(idmap).collect()
    }
}

/// The kernel's path of a descriptor (`proc_pid_fd(5)`).
pub(crate) fn path_of(what: &str, file: BorrowedFd<'_>) -> Result<AbsPath, Error> {
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let path = fs::read_link(&link).map_err(|error| Error::cannot_open(&link, "pass it", error))?;
    AbsPath::new(&path).map_err(|error| Error::invalid_path(what, &path, error))
}
