//! File systems on devices and in files, those that a program of the caller serves, and
//! overlays.

use std::os::fd::OwnedFd;
use std::path::Path;

use mountwarden_protocol::{
    AbsPath, BlockSize, FilesystemName, FilesystemOption, FilesystemOptions, FuseSource,
    FuseSubtype, ImageType, InvalidFilesystem, Kind, Layers, Mount, MountOptions, Mounted,
    OptionKey, OptionValue, Propagation, UpperLayer,
};

use crate::Error;
use crate::operation::{Common, checked, common_options};

/// A file system on a block device.
///
/// Unless more is asked for: writable, `nosuid` and `nodev`, and with the options that
/// its type has by itself.
///
/// ```
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// use mountwarden_client::{Block, ErrorKind};
///
/// let data = Block::new("/dev/vg0/data", "ext4", "/run/vms/7/data")?
///     .option("commit", Some("30"))?
///     .option("discard", None)?;
///
/// let error = Block::new("/dev/vg0/data", "auto", "/run/vms/7/data").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidRequest);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::mount is given it"]
pub struct Block {
    device: AbsPath,
    filesystem: FilesystemName,
    own: FilesystemOptions,
    common: Common,
}

impl Block {
    /// The file system of that type, as `/proc/filesystems` has it, on `device` at
    /// `target`, an existing directory. The device may be a symbolic link to one.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for
    /// [`Bind::new`](crate::Bind::new), and for what is no type of file system: it is
    /// never guessed.
    pub fn new(
        device: impl AsRef<Path>,
        filesystem: &str,
        target: impl AsRef<Path>,
    ) -> Result<Self, Error> {
        Ok(Self {
            device: checked("device", device.as_ref())?,
            filesystem: read("type", filesystem)?,
            own: FilesystemOptions::default(),
            common: Common::at(target.as_ref())?,
        })
    }

    /// Nothing can be written through the mount, and the file system does not write to
    /// its device (`ro`).
    pub fn read_only(mut self) -> Self {
        self.common.options.insert(MountOptions::READ_ONLY);
        self
    }

    /// One option of the file system itself. Denied unless the grant allows it.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for what is no key or no
    /// value of an option, such as several in one text, for a key that was given
    /// before, and for more options than [`FilesystemOptions::MAX`].
    pub fn option(mut self, key: &str, value: Option<&str>) -> Result<Self, Error> {
        self.own = with(self.own, key, value)?;
        Ok(self)
    }

    common_options!();
}

/// A file system that a program of the caller serves, on the connection that
/// [`Client::mount_fuse`](crate::Client::mount_fuse) gives it.
///
/// Unless more is asked for: only the calling user can use it, it checks permissions
/// itself, and it is `nosuid` and `nodev`.
///
/// ```
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// let fuse = mountwarden_client::Fuse::new("sshfs", "/run/vms/7/remote")?
///     .source("build@example.org:/srv")?
///     .allow_other();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::mount_fuse is given it"]
pub struct Fuse {
    subtype: FuseSubtype,
    source: FuseSource,
    allow_other: bool,
    default_permissions: bool,
    max_read: Option<u32>,
    common: Common,
}

impl Fuse {
    /// A file system that the mount table calls `fuse.` and `subtype`, at `target`: an
    /// existing directory, or a regular file for a program that serves one.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for
    /// [`Bind::new`](crate::Bind::new), and for what is no subtype.
    pub fn new(subtype: &str, target: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self {
            subtype: read("subtype", subtype)?,
            source: FuseSource::Subtype,
            allow_other: false,
            default_permissions: false,
            max_read: None,
            common: Common::at(target.as_ref())?,
        })
    }

    /// What the mount table shows as its source; the subtype if not given, and not for what
    /// is on a device.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for what the mount table
    /// cannot show.
    pub fn source(mut self, source: &str) -> Result<Self, Error> {
        self.source = FuseSource::Named(read("source", source)?);
        Ok(self)
    }

    /// The file system is on a block device, which may be a symbolic link to one (`fuseblk`).
    /// Nobody else mounts the device or takes it for himself as long as it is mounted, and an
    /// unmount returns when the program has let go of it. The program opens the device by
    /// itself. Denied unless the grant has it.
    ///
    /// `block_size` is 512 bytes if not given.
    ///
    /// ```
    /// # fn main() -> Result<(), mountwarden_client::Error> {
    /// use mountwarden_client::{ErrorKind, Fuse};
    ///
    /// let stick = Fuse::new("ntfs-3g", "/run/vms/7/stick")?;
    /// let error = stick.clone().device("/dev/vg0/stick", Some(4000)).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    /// let stick = stick.device("/dev/vg0/stick", Some(4096))?.read_only();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for
    /// [`Bind::new`](crate::Bind::new), and for what is no [`BlockSize`].
    pub fn device(
        mut self,
        device: impl AsRef<Path>,
        block_size: Option<u32>,
    ) -> Result<Self, Error> {
        let block_size = block_size.map(BlockSize::try_from).transpose();
        self.source = FuseSource::Device {
            device: checked("device", device.as_ref())?,
            block_size: block_size.map_err(|error| Error::invalid_value("block size", error))?,
        };
        Ok(self)
    }

    /// Other users may use it too (`allow_other`). Denied unless the grant allows it.
    pub fn allow_other(mut self) -> Self {
        self.allow_other = true;
        self
    }

    /// The kernel checks permissions, by the owners and modes that the program tells
    /// (`default_permissions`).
    pub fn default_permissions(mut self) -> Self {
        self.default_permissions = true;
        self
    }

    /// The most bytes that one read asks the program for.
    pub fn max_read(mut self, bytes: u32) -> Self {
        self.max_read = Some(bytes);
        self
    }

    /// Nothing can be written through the mount, and the kernel opens a device only to
    /// read (`ro`).
    pub fn read_only(mut self) -> Self {
        self.common.options.insert(MountOptions::READ_ONLY);
        self
    }

    common_options!();
}

/// Directories that are seen as one.
///
/// Unless an upper layer is asked for, it is read-only; it is `nosuid` and `nodev`, and has
/// every attribute of the mounts that its layers lie on.
///
/// The kernel reads the layers with the rights of the helper's user: what that user may not
/// read, nobody reads through the overlay, whoever owns it.
///
/// ```
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// use mountwarden_client::{ErrorKind, Overlay};
///
/// // The first layer hides what the second has under the same name.
/// let root = Overlay::new(["/srv/layers/app", "/srv/layers/base"], "/run/vms/7/root")?;
///
/// let none: [&str; 0] = [];
/// let error = Overlay::new(none, "/run/vms/7/root").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidRequest);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::mount is given it"]
pub struct Overlay {
    lower: Layers,
    upper: Option<UpperLayer>,
    common: Common,
}

impl Overlay {
    /// The directories `lower`, the topmost first, at `target`, an existing directory.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for
    /// [`Bind::new`](crate::Bind::new), and for no layer or more than [`Layers::MAX`].
    pub fn new<P: AsRef<Path>>(
        lower: impl IntoIterator<Item = P>,
        target: impl AsRef<Path>,
    ) -> Result<Self, Error> {
        let lower: Vec<AbsPath> = lower
            .into_iter()
            .map(|layer| checked("layer", layer.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            lower: lower
                .try_into()
                .map_err(|error: InvalidFilesystem| Error::invalid_value("layers", error))?,
            upper: None,
            common: Common::at(target.as_ref())?,
        })
    }

    /// What is written goes to the directory `upper`, for which the kernel needs `work`, a
    /// directory on the same file system. Denied unless the grant allows it, and then
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the kernel asks for more
    /// capabilities than the helper has, as all do that are known.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for
    /// [`Bind::new`](crate::Bind::new).
    pub fn upper(mut self, upper: impl AsRef<Path>, work: impl AsRef<Path>) -> Result<Self, Error> {
        self.upper = Some(UpperLayer {
            upper: checked("upper layer", upper.as_ref())?,
            work: checked("work directory", work.as_ref())?,
        });
        Ok(self)
    }

    /// Nothing can be written through the mount (`ro`), as without an upper layer.
    pub fn read_only(mut self) -> Self {
        self.common.options.insert(MountOptions::READ_ONLY);
        self
    }

    common_options!();
}

/// A file system in a regular file, which is only read.
///
/// Unless more is asked for, it is `nosuid` and `nodev`.
///
/// ```
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// use mountwarden_client::{ErrorKind, Image};
///
/// let base = Image::new("/srv/images/base.erofs", "erofs", "/run/vms/7/base")?.no_exec();
///
/// let error = Image::new("/srv/images/base.img", "ext4", "/run/vms/7/base").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidRequest);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::mount is given it"]
pub struct Image {
    file: AbsPath,
    filesystem: ImageType,
    common: Common,
}

impl Image {
    /// The file system of that type, `erofs` or `squashfs`, in `file` at `target`, an
    /// existing directory. [`Unsupported`](crate::ErrorKind::Unsupported) where the kernel
    /// reads such a file system from a block device alone, as every one does with squashfs.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for
    /// [`Bind::new`](crate::Bind::new), and for another type.
    pub fn new(
        file: impl AsRef<Path>,
        filesystem: &str,
        target: impl AsRef<Path>,
    ) -> Result<Self, Error> {
        Ok(Self {
            file: checked("image", file.as_ref())?,
            filesystem: read("type", filesystem)?,
            common: Common::at(target.as_ref())?,
        })
    }

    common_options!();
}

/// A FUSE file system that was mounted and waits for its program.
#[derive(Debug)]
#[non_exhaustive]
pub struct FuseMount {
    /// The mount.
    pub mounted: Mounted,
    /// The connection on which the kernel asks and the program answers (`fuse(4)`).
    /// When the last copy of it is closed, the file system is dead.
    pub connection: OwnedFd,
}

impl From<Block> for Mount {
    fn from(block: Block) -> Self {
        block.common.mount(Kind::Block {
            device: block.device,
            filesystem: block.filesystem,
            options: block.own,
        })
    }
}

impl From<Fuse> for Mount {
    fn from(fuse: Fuse) -> Self {
        fuse.common.mount(Kind::Fuse {
            subtype: fuse.subtype,
            source: fuse.source,
            allow_other: fuse.allow_other,
            default_permissions: fuse.default_permissions,
            max_read: fuse.max_read,
        })
    }
}

impl From<Image> for Mount {
    fn from(image: Image) -> Self {
        image.common.mount(Kind::Image {
            file: image.file,
            filesystem: image.filesystem,
        })
    }
}

impl From<Overlay> for Mount {
    fn from(overlay: Overlay) -> Self {
        overlay.common.mount(Kind::Overlay {
            lower: overlay.lower,
            upper: overlay.upper,
        })
    }
}

/// The options and one more.
pub(crate) fn with(
    options: FilesystemOptions,
    key: &str,
    value: Option<&str>,
) -> Result<FilesystemOptions, Error> {
    let key: OptionKey = read("option", key)?;
    let value: Option<OptionValue> = value
        .map(|value| read("value of an option", value))
        .transpose()?;
    let mut options: Vec<FilesystemOption> = options.into();
    options.push(FilesystemOption { key, value });
    options
        .try_into()
        .map_err(|error: InvalidFilesystem| Error::invalid_value("options", error))
}

pub(crate) fn read<T>(what: &str, text: &str) -> Result<T, Error>
where
    T: std::str::FromStr<Err = InvalidFilesystem>,
{
    text.parse()
        .map_err(|error| Error::invalid_value(what, error))
}
