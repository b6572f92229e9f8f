//! File systems that are made by a context (`fsopen(2)`): every value set by a call of
//! its own, nothing joined, nothing guessed.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fmt::Display;
use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mountwarden_policy::{LoopDevices, PermittedFuse, PermittedKind, PermittedOverlay};
use mountwarden_protocol::escape::Safe;
use mountwarden_protocol::{
    AbsPath, ErrorCode, ErrorReply, FilesystemName, FilesystemOption, FilesystemOptions,
    FuseSource, ImageType, MountAttributes,
};
use nix::errno::Errno;
use nix::sys::statfs::fstatfs;
use nix::sys::statvfs::FsFlags;

use super::device::Device;
use super::location::Location;
use crate::failure;
use crate::locker::Locking;
use crate::sys::mount;
use crate::sys::pinned::{self, Pinned, Slot};
use crate::table::{self, Table};

/// A detached tmpfs.
pub(super) fn tmpfs(kind: &PermittedKind, attributes: MountAttributes) -> Result<OwnedFd, Errno> {
    let PermittedKind::Tmpfs {
        size,
        inodes,
        mode,
        uid,
        gid,
    } = kind
    else {
        return Err(Errno::EINVAL);
    };
    let context = mount::open_filesystem(pinned::TMPFS)?;
    mount::set_pinned(context.as_fd(), pinned::SOURCE, pinned::MOUNTWARDEN)?;
    let values = [
        size.get().to_string(),
        inodes.get().to_string(),
        format!("{:o}", mode.bits()),
        uid.to_string(),
        gid.to_string(),
    ];
    for (key, value) in pinned::TMPFS_KEYS.into_iter().zip(values) {
        set(context.as_fd(), key, &value)?;
    }
    mount::create_filesystem(context.as_fd())?;
    mount::mount_filesystem(context.as_fd(), table::kernel_bits(attributes))
}

/// A detached mount of the file system on a device.
///
/// The kernel takes the device by a path, and gets one that leads to the descriptor
/// that was checked and nowhere else. Afterwards it says which device it took, for the
/// types that tell: btrfs has devices of its own making, with the major number 0.
pub(super) fn block(
    table: &Table,
    device: &Device,
    path: &AbsPath,
    filesystem: &FilesystemName,
    options: &FilesystemOptions,
    attributes: MountAttributes,
) -> Result<OwnedFd, ErrorReply> {
    let failed = |errno| failure::kernel("cannot mount the device", path, errno);
    let name = pinned::name(filesystem.as_str()).ok_or_else(|| failed(Errno::ENOKEY))?;
    let context = mount::open_filesystem(name).map_err(|errno| match errno {
        Errno::ENODEV => unknown(path, filesystem).at(path),
        other => failed(other),
    })?;
    let made = mount::set_pinned(context.as_fd(), pinned::SOURCE, pinned::DEVICE)
        .and_then(|()| configure(context.as_fd(), options.iter(), attributes))
        .and_then(|()| mount::mount_filesystem(context.as_fd(), table::kernel_bits(attributes)))
        .map_err(|errno| not_made(context.as_fd(), path, filesystem, errno))?;
    is_of(table, &made, device.number, path)?;
    Ok(made)
}

/// Fails where a file system is of another device than it should be, if its type tells.
fn is_of(
    table: &Table,
    made: &OwnedFd,
    device: (u32, u32),
    path: &AbsPath,
) -> Result<(), ErrorReply> {
    let number = table
        .status(made.as_fd())
        .map_err(|errno| failure::kernel("cannot examine the mount of", path, errno))?
        .device;
    if number.0 == 0 || number == device {
        return Ok(());
    }
    Err(another(path))
}

/// A detached mount of the file system in a regular file, by a loop device where the kernel
/// does not read it from the file itself and one may be taken.
pub(super) fn image(
    table: &Table,
    image: &Location,
    filesystem: ImageType,
    device: Option<(LoopDevices, &Locking)>,
    attributes: MountAttributes,
) -> Result<OwnedFd, ErrorReply> {
    let path = &image.path;
    let context = image_context(path, filesystem)?;
    let from_file = from_image(context.as_fd(), pinned::DEVICE, attributes);
    let made = match (from_file, device) {
        (Err(Errno::ENOTBLK), None) => return Err(needs_device(path, filesystem)),
        (Err(Errno::ENOTBLK), Some((devices, locking))) => {
            image.check_shareable()?;
            // The context keeps its number until the device has arrived in its own.
            let device = locking.show(image.as_fd(), devices);
            let device = device.map_err(|errno| no_device(path, devices, errno))?;
            drop(context);
            return from_loop_device(table, device, path, filesystem, attributes);
        }
        (other, _) => other,
    };
    made.and_then(|()| mount::mount_filesystem(context.as_fd(), table::kernel_bits(attributes)))
        .map_err(|errno| not_made(context.as_fd(), path, filesystem, errno))
}

/// The device is closed when the file system has it, so that the mount arrives in its own
/// slot and ends the device with it.
fn from_loop_device(
    table: &Table,
    device: OwnedFd,
    path: &AbsPath,
    filesystem: ImageType,
    attributes: MountAttributes,
) -> Result<OwnedFd, ErrorReply> {
    let device = Device::of_image(table, device, path)?;
    let number = device.number;
    let context = image_context(path, filesystem)?;
    let made = from_image(context.as_fd(), Slot::link_path(), attributes)
        .and_then(|()| {
            drop(device);
            mount::mount_filesystem(context.as_fd(), table::kernel_bits(attributes))
        })
        .map_err(|errno| not_made(context.as_fd(), path, filesystem, errno))?;
    is_of(table, &made, number, path)?;
    Ok(made)
}

fn image_context(path: &AbsPath, filesystem: ImageType) -> Result<OwnedFd, ErrorReply> {
    let name = match filesystem {
        ImageType::Erofs => pinned::EROFS,
        ImageType::Squashfs => pinned::SQUASHFS,
    };
    mount::open_filesystem(name).map_err(|errno| match errno {
        Errno::ENODEV => unknown(path, filesystem).at(path),
        other => failure::kernel("cannot mount the image", path, other),
    })
}

fn from_image(
    context: BorrowedFd<'_>,
    source: Pinned,
    attributes: MountAttributes,
) -> Result<(), Errno> {
    mount::set_pinned(context, pinned::SOURCE, source)?;
    configure(context, iter::empty(), attributes)
}

fn needs_device(path: &AbsPath, filesystem: ImageType) -> ErrorReply {
    let message = format!(
        "cannot mount {path} as {filesystem}: this kernel reads it from a block device alone; give \
         the grant `loop_devices`; erofs can do without on Linux 6.12 with \
         CONFIG_EROFS_FS_BACKED_BY_FILE, from a file that lies on a disk"
    );
    ErrorReply::new(ErrorCode::Unsupported, message)
        .at(path)
        .errno(failure::number(Errno::ENOTBLK))
}

fn no_device(path: &AbsPath, devices: LoopDevices, errno: Errno) -> ErrorReply {
    let (code, advice) = match errno {
        Errno::EBUSY => (
            ErrorCode::LimitReached,
            "all that can be opened are in use: unmount an image, or give the grant more",
        ),
        Errno::EACCES | Errno::EPERM | Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => (
            ErrorCode::Unsupported,
            "the helper's user must be able to read them: see \"Loop devices\" in operating.md",
        ),
        _ => (ErrorCode::Failed, "none can show the file"),
    };
    let mut numbers = devices.numbers();
    let first = numbers.next().unwrap_or_default();
    let last = numbers.last().unwrap_or(first);
    let message = format!(
        "cannot mount {path} by one of the loop devices {first} to {last}, which the grant names: {}; \
         {advice}",
        errno.desc()
    );
    ErrorReply::new(code, message)
        .at(path)
        .errno(failure::number(errno))
}

/// Sets what the policy lets a request set, and makes the file system.
fn configure<'o>(
    context: BorrowedFd<'_>,
    options: impl Iterator<Item = &'o FilesystemOption>,
    attributes: MountAttributes,
) -> Result<(), Errno> {
    if attributes.contains(MountAttributes::READ_ONLY) {
        mount::set_flag(context, pinned::READ_ONLY)?;
    }
    for option in options {
        let key = pinned::name(option.key.as_str()).ok_or(Errno::ENOKEY)?;
        match &option.value {
            Some(value) => set(context, key, value.as_str())?,
            None => mount::set_flag(context, key)?,
        }
    }
    mount::create_filesystem(context)
}

/// A detached mount of a FUSE file system, which nothing answers for yet.
pub(super) fn fuse(
    fuse: &PermittedFuse,
    device: Option<&Device>,
    root_mode: u32,
    target: &AbsPath,
    attributes: MountAttributes,
) -> Result<OwnedFd, ErrorReply> {
    let failed = |errno| failure::kernel("cannot make the FUSE file system for", target, errno);
    let name = device.map_or(pinned::FUSE, |_| pinned::FUSEBLK);
    let context = mount::open_filesystem(name).map_err(failed)?;
    let made = connect(context.as_fd(), fuse, root_mode, attributes)
        .and_then(|()| mount::mount_filesystem(context.as_fd(), table::kernel_bits(attributes)))
        .map_err(|errno| match &fuse.source {
            FuseSource::Device { device, .. } => not_served(context.as_fd(), device, errno),
            FuseSource::Subtype | FuseSource::Named(_) => {
                let error = failed(errno);
                let message = format!("{}{}", error.message, said(context.as_fd()));
                ErrorReply { message, ..error }
            }
        })?;
    if let (Some(device), FuseSource::Device { device: path, .. }) = (device, &fuse.source) {
        // It hides all else of its files, but never its device.
        let number = mount::hidden_status(made.as_fd()).map_err(failed)?.device;
        if number != device.number {
            return Err(another(path));
        }
    }
    Ok(made)
}

/// Who serves it and what its root is come from the kernel, never from the client.
fn connect(
    context: BorrowedFd<'_>,
    fuse: &PermittedFuse,
    root_mode: u32,
    attributes: MountAttributes,
) -> Result<(), Errno> {
    match &fuse.source {
        FuseSource::Subtype => served(context, fuse.subtype.as_str())?,
        FuseSource::Named(name) => served(context, name.as_str())?,
        FuseSource::Device { block_size, .. } => {
            mount::set_pinned(context, pinned::FUSE_FD, Slot::Connection.link())?;
            mount::set_pinned(context, pinned::SOURCE, pinned::DEVICE)?;
            if attributes.contains(MountAttributes::READ_ONLY) {
                mount::set_flag(context, pinned::READ_ONLY)?;
            }
            if let Some(size) = block_size {
                set(context, pinned::BLOCK_SIZE, &size.bytes().to_string())?;
            }
        }
    }
    let values = [
        Some(fuse.subtype.to_string()),
        Some(format!("{:o}", root_mode & libc::S_IFMT)),
        Some(fuse.uid.to_string()),
        Some(fuse.gid.to_string()),
        fuse.max_read.map(|bytes| bytes.to_string()),
    ];
    for (key, value) in pinned::FUSE_KEYS.into_iter().zip(values) {
        if let Some(value) = value {
            set(context, key, &value)?;
        }
    }
    let flags = [fuse.allow_other, fuse.default_permissions];
    for (key, wanted) in pinned::FUSE_FLAGS.into_iter().zip(flags) {
        if wanted {
            mount::set_flag(context, key)?;
        }
    }
    // With a connection, or a device, that has a file system already, the kernel would show
    // that one again, with the options that it was made with. Of a device it may be
    // anybody's.
    match (mount::create_new_filesystem(context), &fuse.source) {
        (Err(Errno::EOPNOTSUPP), FuseSource::Subtype | FuseSource::Named(_)) => {
            mount::create_filesystem(context)
        }
        (other, _) => other,
    }
}

fn served(context: BorrowedFd<'_>, source: &str) -> Result<(), Errno> {
    mount::set_pinned(context, pinned::FUSE_FD, Slot::Source.link())?;
    set(context, pinned::SOURCE, source)
}

/// Why the kernel keeps no device for a program.
fn not_served(context: BorrowedFd<'_>, path: &AbsPath, errno: Errno) -> ErrorReply {
    let (code, advice) = match errno {
        Errno::EOPNOTSUPP => (
            ErrorCode::Unsupported,
            "; before Linux 6.6 the kernel could show what another program serves from it",
        ),
        Errno::EINVAL => (
            ErrorCode::Failed,
            "; the device's own blocks may be larger than the block size: ask for theirs",
        ),
        _ => return not_made(context, path, "fuseblk", errno),
    };
    let message = format!("cannot mount {path} as fuseblk: {}{advice}", errno.desc());
    ErrorReply::new(code, message)
        .at(path)
        .errno(failure::number(errno))
}

fn another(path: &AbsPath) -> ErrorReply {
    let message = format!("the kernel mounted another device than {path}; it was let go again");
    ErrorReply::new(ErrorCode::Changed, message).at(path)
}

/// A detached overlay of directories that were checked, in the order of their slots.
///
/// The kernel holds a layer once it was named. All but the first are closed then, so that
/// the mount arrives in its own slot.
pub(super) fn overlay(
    overlay: &PermittedOverlay,
    layers: &mut Vec<Location>,
    target: &AbsPath,
    attributes: MountAttributes,
) -> Result<OwnedFd, ErrorReply> {
    let context = mount::open_filesystem(pinned::OVERLAY).map_err(|errno| match errno {
        Errno::ENODEV => unknown(target, "overlay").at(target),
        other => failure::kernel("cannot make the overlay for", target, other),
    })?;
    stack(context.as_fd(), overlay)
        .and_then(|()| {
            layers.truncate(1);
            mount::mount_filesystem(context.as_fd(), table::kernel_bits(attributes))
        })
        .and_then(|made| as_writable(made, overlay, attributes))
        .map_err(|errno| not_stacked(context.as_fd(), overlay, target, errno))
}

/// Each layer is a value of its own, which no byte of its name can split, and a path that
/// leads to its descriptor and nowhere else.
fn stack(context: BorrowedFd<'_>, overlay: &PermittedOverlay) -> Result<(), Errno> {
    mount::set_pinned(context, pinned::SOURCE, pinned::MOUNTWARDEN)?;
    for (key, value) in pinned::OVERLAY_LIMITS {
        mount::set_pinned(context, key, value)?;
    }
    let upper = overlay.upper.iter();
    let keys = upper
        .flat_map(|_| [pinned::UPPER_DIR, pinned::WORK_DIR])
        .chain(iter::repeat_n(pinned::LOWER_DIR, overlay.lower.count()));
    for (key, slot) in keys.zip(Slot::layers()) {
        mount::set_pinned(context, key, slot.path)?;
    }
    mount::create_filesystem(context)
}

/// Where the kernel may not write to the work directory, it leaves it at a file system that
/// is only read.
fn as_writable(
    made: OwnedFd,
    overlay: &PermittedOverlay,
    attributes: MountAttributes,
) -> Result<OwnedFd, Errno> {
    let is_to_be = overlay.upper.is_some() && !attributes.contains(MountAttributes::READ_ONLY);
    if is_to_be && fstatfs(&made)?.flags().contains(FsFlags::ST_RDONLY) {
        return Err(Errno::EROFS);
    }
    Ok(made)
}

/// Why the kernel did not make an overlay, with what it says itself.
fn not_stacked(
    context: BorrowedFd<'_>,
    overlay: &PermittedOverlay,
    target: &AbsPath,
    errno: Errno,
) -> ErrorReply {
    let (code, advice) = match errno {
        Errno::EACCES | Errno::EROFS if overlay.upper.is_some() => (
            ErrorCode::Unsupported,
            "; the kernel works in a directory without permissions beneath the work directory, \
             which takes more than CAP_SYS_ADMIN: ask without an upper layer",
        ),
        Errno::EINVAL if overlay.upper.is_none() && overlay.lower.count() == 1 => (
            ErrorCode::InvalidRequest,
            "; without an upper layer it takes two lower ones: bind a single directory",
        ),
        Errno::EINVAL => (
            ErrorCode::Unsupported,
            "; a kernel before Linux 6.7 takes no layers one by one, and none takes layers of \
             every type or depth, or one beneath which something locked is mounted",
        ),
        Errno::ELOOP => (ErrorCode::InvalidRequest, "; one layer lies in another"),
        other => return failure::kernel("cannot make the overlay for", target, other),
    };
    let message = format!(
        "cannot make the overlay for {target}: {}{advice}{}",
        errno.desc(),
        said(context)
    );
    ErrorReply::new(code, message)
        .at(target)
        .errno(failure::number(errno))
}

/// A detached mount of a network file system. It takes as long as its server does.
pub(super) fn network(
    kind: &PermittedKind,
    target: &AbsPath,
    attributes: MountAttributes,
) -> Result<OwnedFd, ErrorReply> {
    let failed = |errno| failure::kernel("cannot make the file system for", target, errno);
    let PermittedKind::Network {
        source,
        filesystem,
        options,
        secrets,
    } = kind
    else {
        return Err(failed(Errno::EINVAL));
    };
    let name = pinned::network_type(filesystem).ok_or_else(|| failed(Errno::ENOKEY))?;
    let context = mount::open_filesystem(name).map_err(|errno| match errno {
        Errno::ENODEV => unknown(source, filesystem).at(target),
        other => failed(other),
    })?;
    let options = options.iter().chain(secrets.iter());
    set(context.as_fd(), pinned::SOURCE, source.as_str())
        .and_then(|()| configure(context.as_fd(), options, attributes))
        .and_then(|()| mount::mount_filesystem(context.as_fd(), table::kernel_bits(attributes)))
        .map_err(|errno| {
            // The kernel may repeat an option that it refuses.
            let said = if secrets.keys().next().is_none() {
                said(context.as_fd())
            } else {
                String::new()
            };
            let message = format!(
                "cannot mount {source} as {filesystem}: {}{said}",
                errno.desc()
            );
            ErrorReply::new(ErrorCode::Failed, message)
                .at(target)
                .errno(failure::number(errno))
        })
}

fn set(context: BorrowedFd<'_>, key: Pinned, value: &str) -> Result<(), Errno> {
    let value = CString::new(value).map_err(|_| Errno::EINVAL)?;
    mount::set_option(context, key, &value)
}

fn unknown(source: impl Display, filesystem: impl Display) -> ErrorReply {
    let message = format!(
        "cannot mount {source} as {filesystem}: this kernel has no such file system; load its \
         module, which the helper cannot"
    );
    ErrorReply::new(ErrorCode::Unsupported, message)
}

/// Why the kernel did not make a file system from a device, with what it says itself.
fn not_made(
    context: BorrowedFd<'_>,
    path: &AbsPath,
    filesystem: impl Display,
    errno: Errno,
) -> ErrorReply {
    let (code, advice) = match errno {
        Errno::EBUSY => (
            ErrorCode::Busy,
            "; it is mounted elsewhere with other access, or a program holds it",
        ),
        Errno::ENXIO | Errno::ENOMEDIUM | Errno::ENOTBLK => {
            (ErrorCode::NotFound, "; there is no device behind its node")
        }
        Errno::EACCES | Errno::EROFS => (
            ErrorCode::Failed,
            "; the device may be read-only, for which a read-only mount can be asked, or its node \
             may lie on a mount with nodev",
        ),
        Errno::EPERM => (
            ErrorCode::Unsupported,
            "; a helper in a user namespace of its own mounts no device and no image",
        ),
        _ => (ErrorCode::Failed, ""),
    };
    let message = format!(
        "cannot mount {path} as {filesystem}: {}{advice}{}",
        errno.desc(),
        said(context)
    );
    ErrorReply::new(code, message)
        .at(path)
        .errno(failure::number(errno))
}

/// What the kernel says of a context that failed, in its own words.
fn said(context: BorrowedFd<'_>) -> String {
    let complaints = mount::complaints(context);
    let words: Vec<String> = complaints
        .iter()
        .map(|complaint| {
            let text = String::from_utf8_lossy(complaint);
            // A letter says how bad it is (`fsopen(2)`).
            let text = text.trim_end().split_once(' ').map_or("", |(_, text)| text);
            Safe(text).to_string()
        })
        .collect();
    if words.is_empty() {
        "; the kernel's log may say why".to_owned()
    } else {
        format!("; the kernel says: {}", words.join("; "))
    }
}
