//! What can be asked for, built so that nonsense cannot be said.

use std::path::Path;

use mountwarden_protocol::{
    AbsPath, FilesystemOptions, Kind, Lift, Mount, MountAttributes, MountId, MountInfo,
    MountOptions, Mounted, Operation, Passed, Propagation, Remount as RemountRequest, TmpfsInodes,
    TmpfsMode, TmpfsSize, Unmount as UnmountRequest,
};

use crate::filesystem::read;
use crate::{Block, Error, Fuse, Image, Network, Overlay};

/// Flags that every mount takes.
macro_rules! common_flags {
    ($($options:ident).+) => {
        /// No program may be executed from the mount (`noexec`).
        pub fn no_exec(mut self) -> Self {
            self.$($options).+.insert(MountOptions::NO_EXEC);
            self
        }

        /// Symbolic links on the mount are not followed (`nosymfollow`).
        pub fn no_symfollow(mut self) -> Self {
            self.$($options).+.insert(MountOptions::NO_SYMFOLLOW);
            self
        }

        /// Set-user-id bits on the mount are honoured. Denied unless the grant
        /// says otherwise.
        pub fn suid(mut self) -> Self {
            self.$($options).+.insert(MountOptions::SUID);
            self
        }

        /// Device nodes on the mount are honoured. Denied unless the grant says
        /// otherwise.
        pub fn dev(mut self) -> Self {
            self.$($options).+.insert(MountOptions::DEV);
            self
        }
    };
}

/// Options that every kind of mount takes.
macro_rules! common_options {
    () => {
        crate::operation::common_flags!(common.options);

        /// The mount ends with the client that makes it: see
        /// [Leases](crate::Client#leases).
        pub fn leased(mut self) -> Self {
            self.common.lease = true;
            self
        }

        /// What is mounted on the mount appears on its source too, in every mount
        /// namespace that shares it, and the other way round. Without it the mount
        /// is private. Denied unless the grant allows it.
        pub fn shared(mut self) -> Self {
            self.common.propagation = Propagation::Shared;
            self
        }
    };
}

pub(crate) use {common_flags, common_options};

/// What every kind of mount has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Common {
    target: AbsPath,
    pub(crate) options: MountOptions,
    pub(crate) propagation: Propagation,
    pub(crate) lease: bool,
}

impl Common {
    /// At `target`, with nothing that must be asked for.
    pub(crate) fn at(target: &Path) -> Result<Self, Error> {
        Ok(Self {
            target: checked("target", target)?,
            options: MountOptions::empty(),
            propagation: Propagation::Private,
            lease: false,
        })
    }

    pub(crate) fn mount(self, kind: Kind) -> Mount {
        Mount {
            kind,
            target: self.target,
            options: self.options,
            propagation: self.propagation,
            passed: Passed::empty(),
            lease: self.lease,
        }
    }
}

/// A directory or a regular file that is to be seen at a second place.
///
/// Unless more is asked for: writable, without the mounts beneath the source,
/// `nosuid` and `nodev`.
///
/// ```
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// use mountwarden_client::{Bind, ErrorKind};
///
/// let bind = Bind::new("/srv/images", "/run/vms/7/images")?.read_only().no_exec();
///
/// let error = Bind::new("/srv/../etc", "/run/vms/7/etc").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidRequest);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::mount is given it"]
pub struct Bind {
    source: AbsPath,
    recursive: bool,
    common: Common,
}

impl Bind {
    /// `source` seen at `target`, which exists and is of the same type.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for a path that is
    /// relative, holds `.`, `..` or an empty component, ends in a slash, or is
    /// too long. No path is touched.
    pub fn new(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self {
            source: checked("source", source.as_ref())?,
            recursive: false,
            common: Common::at(target.as_ref())?,
        })
    }

    /// Nothing can be written through the mount (`ro`).
    pub fn read_only(mut self) -> Self {
        self.common.options.insert(MountOptions::READ_ONLY);
        self
    }

    /// With the mounts beneath the source. Denied unless the grant allows it.
    pub fn recursive(mut self) -> Self {
        self.recursive = true;
        self
    }

    /// What is mounted on the source appears on the mount, and nothing the other way.
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the source lies on a
    /// private mount, denied unless the grant allows it.
    pub fn slave(mut self) -> Self {
        self.common.propagation = Propagation::Slave;
        self
    }

    common_options!();
}

/// An empty file system in memory, owned by the calling user.
///
/// Unless more is asked for: as large as the grant allows, open to its owner
/// only, `nosuid` and `nodev`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use mountwarden_client::{Tmpfs, TmpfsMode, TmpfsSize};
///
/// let scratch = Tmpfs::new("/run/vms/7/scratch")?
///     .size("64M".parse::<TmpfsSize>()?)
///     .mode(TmpfsMode::try_from(0o750)?)
///     .no_exec();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::mount is given it"]
pub struct Tmpfs {
    size: Option<TmpfsSize>,
    inodes: Option<TmpfsInodes>,
    mode: Option<TmpfsMode>,
    common: Common,
}

impl Tmpfs {
    /// A tmpfs at `target`, an existing directory.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for [`Bind::new`].
    pub fn new(target: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self {
            size: None,
            inodes: None,
            mode: None,
            common: Common::at(target.as_ref())?,
        })
    }

    /// The most it may hold, in bytes.
    pub fn size(mut self, size: TmpfsSize) -> Self {
        self.size = Some(size);
        self
    }

    /// The most files and directories it may hold.
    pub fn inodes(mut self, inodes: TmpfsInodes) -> Self {
        self.inodes = Some(inodes);
        self
    }

    /// The mode of its root directory; [`TmpfsMode::OWNER_ONLY`] if not given.
    pub fn mode(mut self, mode: TmpfsMode) -> Self {
        self.mode = Some(mode);
        self
    }

    common_options!();
}

/// A mount that is to end.
///
/// [`Client::unmount`](crate::Client::unmount) also takes what the helper
/// reported: `&Mounted` or `&MountInfo` stands for exactly that mount (path and
/// id), an [`AbsPath`] for whatever is topmost there.
///
/// ```
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// let unmount = mountwarden_client::Unmount::new("/run/vms/7/scratch")?.lazy();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::unmount is given it"]
pub struct Unmount {
    target: AbsPath,
    lazy: bool,
    id: Option<MountId>,
}

impl Unmount {
    /// The topmost mount at `target`.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for [`Bind::new`].
    pub fn new(target: impl AsRef<Path>) -> Result<Self, Error> {
        checked("target", target.as_ref()).map(Self::from)
    }

    /// Takes the mount out of the tree now and ends it when nothing uses it any
    /// more; without this, a mount in use is
    /// [`Busy`](crate::ErrorKind::Busy).
    pub fn lazy(mut self) -> Self {
        self.lazy = true;
        self
    }

    /// Only if the topmost mount has this id; otherwise
    /// [`IdMismatch`](crate::ErrorKind::IdMismatch).
    pub fn id(mut self, id: MountId) -> Self {
        self.id = Some(id);
        self
    }
}

/// Attributes to be changed of a mount that is there. Mounts beneath it stay as
/// they are.
///
/// Whoever may end a mount may restrict it, where the grant allows remounts.
/// To lift something, the request says what the mount is: the peer must be
/// allowed to make such a mount without it. What is set and lifted at once is set.
///
/// ```
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// use mountwarden_client::{MountAttributes, Remount};
///
/// let seal = Remount::new("/run/vms/7/images")?.read_only().no_exec();
/// let open = Remount::new("/run/vms/7/images")?
///     .lift_from_bind(MountAttributes::READ_ONLY, "/srv/images")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::remount is given it"]
pub struct Remount(RemountRequest);

impl Remount {
    /// The topmost mount at `target`.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for [`Bind::new`].
    pub fn new(target: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self(RemountRequest {
            target: checked("target", target.as_ref())?,
            set: MountAttributes::empty(),
            lift: None,
            id: None,
        }))
    }

    /// Nothing can be written through the mount any more (`ro`);
    /// [`Busy`](crate::ErrorKind::Busy) while a file of it is open for writing.
    pub fn read_only(self) -> Self {
        self.set(MountAttributes::READ_ONLY)
    }

    /// No program may be executed from the mount (`noexec`).
    pub fn no_exec(self) -> Self {
        self.set(MountAttributes::NO_EXEC)
    }

    /// Attributes that the mount gets.
    pub fn set(mut self, attributes: MountAttributes) -> Self {
        self.0.set |= attributes;
        self
    }

    /// Attributes that the mount loses, which must be a bind of `source`.
    /// [`Denied`](crate::ErrorKind::Denied) where the grant forces one of them.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for [`Bind::new`].
    pub fn lift_from_bind(
        self,
        attributes: MountAttributes,
        source: impl AsRef<Path>,
    ) -> Result<Self, Error> {
        let source = checked("source", source.as_ref())?;
        let recursive = false;
        Ok(self.lift(attributes, Kind::Bind { source, recursive }))
    }

    /// Attributes that the mount loses, which must be a tmpfs of the calling user.
    /// [`Denied`](crate::ErrorKind::Denied) where the grant forces one of them.
    pub fn lift_from_tmpfs(self, attributes: MountAttributes) -> Self {
        let (size, inodes, mode) = (None, None, None);
        self.lift(attributes, Kind::Tmpfs { size, inodes, mode })
    }

    /// Attributes that the mount loses, which must be the file system of that type on
    /// `device`. [`Denied`](crate::ErrorKind::Denied) where the grant forces one of them.
    /// A file system that was mounted to read alone goes on writing nothing.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for
    /// [`Block::new`](crate::Block::new).
    pub fn lift_from_block(
        self,
        attributes: MountAttributes,
        device: impl AsRef<Path>,
        filesystem: &str,
    ) -> Result<Self, Error> {
        let kind = Kind::Block {
            device: checked("device", device.as_ref())?,
            filesystem: read("type", filesystem)?,
            options: FilesystemOptions::default(),
        };
        Ok(self.lift(attributes, kind))
    }

    fn lift(mut self, attributes: MountAttributes, kind: Kind) -> Self {
        self.0.lift = Some(Lift { attributes, kind });
        self
    }

    /// Only if the topmost mount has this id; otherwise
    /// [`IdMismatch`](crate::ErrorKind::IdMismatch).
    pub fn id(mut self, id: MountId) -> Self {
        self.0.id = Some(id);
        self
    }
}

impl From<RemountRequest> for Remount {
    fn from(request: RemountRequest) -> Self {
        Self(request)
    }
}

impl From<AbsPath> for Unmount {
    fn from(target: AbsPath) -> Self {
        Self {
            target,
            lazy: false,
            id: None,
        }
    }
}

impl From<&AbsPath> for Unmount {
    fn from(target: &AbsPath) -> Self {
        target.clone().into()
    }
}

impl From<&MountInfo> for Unmount {
    fn from(mount: &MountInfo) -> Self {
        Self::from(&mount.target).id(mount.id)
    }
}

impl From<&Mounted> for Unmount {
    fn from(mounted: &Mounted) -> Self {
        Self::from(&mounted.mount)
    }
}

impl From<UnmountRequest> for Unmount {
    fn from(request: UnmountRequest) -> Self {
        Self {
            target: request.target,
            lazy: request.lazy,
            id: request.id,
        }
    }
}

macro_rules! operations {
    ($($kind:ty),*) => {
        $(impl From<$kind> for Operation {
            fn from(mount: $kind) -> Self {
                Self::Mount(mount.into())
            }
        })*
    };
}

operations!(Bind, Tmpfs, Block, Fuse, Image, Overlay, Network);

impl From<Bind> for Mount {
    fn from(bind: Bind) -> Self {
        bind.common.mount(Kind::Bind {
            source: bind.source,
            recursive: bind.recursive,
        })
    }
}

impl From<Tmpfs> for Mount {
    fn from(tmpfs: Tmpfs) -> Self {
        tmpfs.common.mount(Kind::Tmpfs {
            size: tmpfs.size,
            inodes: tmpfs.inodes,
            mode: tmpfs.mode,
        })
    }
}

impl From<Unmount> for UnmountRequest {
    fn from(unmount: Unmount) -> Self {
        Self {
            target: unmount.target,
            lazy: unmount.lazy,
            id: unmount.id,
            passed: false,
        }
    }
}

impl From<Unmount> for Operation {
    fn from(unmount: Unmount) -> Self {
        Self::Unmount(unmount.into())
    }
}

impl From<Remount> for RemountRequest {
    fn from(remount: Remount) -> Self {
        remount.0
    }
}

impl From<Remount> for Operation {
    fn from(remount: Remount) -> Self {
        Self::Remount(remount.into())
    }
}

pub(crate) fn checked(what: &str, path: &Path) -> Result<AbsPath, Error> {
    AbsPath::new(path).map_err(|error| Error::invalid_path(what, path, error))
}
