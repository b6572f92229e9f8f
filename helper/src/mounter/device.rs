//! A block device that a policy grants by its path.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mountwarden_protocol::{AbsPath, ErrorCode, ErrorReply};
use nix::errno::Errno;

use super::location::{in_slot, refuse};
use crate::failure;
use crate::sys::mount::{self, FileStatus};
use crate::sys::pinned::Slot;
use crate::table::Table;

/// The major number of loop devices (`Documentation/admin-guide/devices.txt`).
const LOOP_MAJOR: u32 = 7;

/// A descriptor of the device that the path in a request names, at this moment.
pub(super) struct Device {
    /// Open for as long as the kernel is to find it by its number.
    _file: OwnedFd,
    /// Major and minor number.
    pub(super) number: (u32, u32),
}

impl Device {
    /// Checks that `file`, which another process opened, is the block device at `path`.
    /// Many paths of devices are symbolic links; `link` is what stands at the path itself.
    ///
    /// Neither was opened for more than to name it: a device node needs no permission
    /// but the policy's. No path is followed here. The link's own path is the kernel's,
    /// so that no directory in it is a link, and what it holds leads from there.
    pub(super) fn check(
        table: &Table,
        own: BorrowedFd<'_>,
        file: OwnedFd,
        link: OwnedFd,
        path: &AbsPath,
    ) -> Result<Self, ErrorReply> {
        let failed = |errno| failure::kernel("cannot examine the device", path, errno);
        let file = in_slot(file, Slot::Source).map_err(failed)?;
        let link = in_slot(link, Slot::Link).map_err(failed)?;
        let status = Self::examined(table, &file, path)?;
        if status.mode & libc::S_IFMT != libc::S_IFBLK {
            return Err(refuse(ErrorCode::WrongType, path, "is not a block device"));
        }
        let of_link = Self::examined(table, &link, path)?;
        if mount::path_of_slot(own, Slot::Link).map_err(failed)? != path.as_bytes() {
            let why = "was renamed or replaced while the request ran";
            return Err(refuse(ErrorCode::Changed, path, why));
        }
        if of_link.mode & libc::S_IFMT == libc::S_IFLNK {
            let leads = mount::content_of_link(link.as_fd()).map_err(failed)?;
            let actual = mount::path_of_slot(own, Slot::Source).map_err(failed)?;
            if resolved(path, &leads) != Some(actual) {
                let why = "is a link that does not lead straight to the device";
                return Err(refuse(ErrorCode::Changed, path, why));
            }
        } else if !of_link.is_same_file(&status) {
            let why = "was replaced while the request ran";
            return Err(refuse(ErrorCode::Changed, path, why));
        }
        Ok(Self {
            _file: file,
            number: status.is_device,
        })
    }

    /// A loop device that shows the image at `path`. It came from another process of the
    /// helper, not from a session, and nobody can name another as long as it is open.
    pub(super) fn of_image(
        table: &Table,
        file: OwnedFd,
        path: &AbsPath,
    ) -> Result<Self, ErrorReply> {
        let failed = |errno| failure::kernel("cannot examine the loop device of", path, errno);
        let file = in_slot(file, Slot::Link).map_err(failed)?;
        let status = table.status(file.as_fd()).map_err(failed)?;
        if status.mode & libc::S_IFMT != libc::S_IFBLK || status.is_device.0 != LOOP_MAJOR {
            return Err(failed(Errno::EPROTO));
        }
        Ok(Self {
            _file: file,
            number: status.is_device,
        })
    }

    /// What the kernel says of a file that is in this mount namespace and has a name.
    fn examined(table: &Table, file: &OwnedFd, path: &AbsPath) -> Result<FileStatus, ErrorReply> {
        let failed = |errno| failure::kernel("cannot examine the device", path, errno);
        let status = table.status(file.as_fd()).map_err(failed)?;
        table.status_of_mount(status.mount).map_err(|errno| {
            if errno == Errno::ENOENT {
                let why = "lies on a mount that is not in the helper's mount namespace";
                return refuse(ErrorCode::Changed, path, why);
            }
            failed(errno)
        })?;
        if status.links == 0 {
            return Err(refuse(
                ErrorCode::Changed,
                path,
                "was removed while the request ran",
            ));
        }
        Ok(status)
    }
}

/// Where a link at `path` leads that holds `leads`, as far as no component on the way is
/// a link itself; if one is, the kernel's path of what was opened is another.
fn resolved(path: &AbsPath, leads: &[u8]) -> Option<Vec<u8>> {
    let (directory, _) = path.split()?;
    let mut components: Vec<&[u8]> = if leads.starts_with(b"/") {
        vec![]
    } else {
        directory.as_bytes().split(|&byte| byte == b'/').collect()
    };
    components.extend(leads.split(|&byte| byte == b'/'));
    let mut way: Vec<&[u8]> = vec![];
    for component in components {
        match component {
            b"" | b"." => {}
            b".." => {
                way.pop()?;
            }
            name => way.push(name),
        }
    }
    let mut text = vec![];
    for component in way {
        text.push(b'/');
        text.extend_from_slice(component);
    }
    Some(text)
}

/// Major and minor number of `/dev/fuse` (`Documentation/admin-guide/devices.txt`).
const FUSE: (u32, u32) = (10, 229);

/// Checks that a descriptor is a connection that a FUSE file system can be made with.
/// Its number says so, wherever its node lies; the kernel refuses one in use.
pub(super) fn connection(
    table: &Table,
    file: OwnedFd,
    slot: Slot,
    target: &AbsPath,
) -> Result<OwnedFd, ErrorReply> {
    let failed = |errno| failure::kernel("cannot examine the FUSE connection for", target, errno);
    let file = in_slot(file, slot).map_err(failed)?;
    let status = table.status(file.as_fd()).map_err(failed)?;
    if status.mode & libc::S_IFMT != libc::S_IFCHR || status.is_device != FUSE {
        let why = "cannot be served: what came is not a FUSE connection";
        return Err(refuse(ErrorCode::WrongType, target, why));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use mountwarden_protocol::AbsPath;

    use super::resolved;

    #[test]
    fn a_link_is_followed_by_its_text() {
        for (path, leads, to) in [
            ("/dev/vg0/data", "../dm-3", Some("/dev/dm-3")),
            ("/dev/disk/by-id/a", "../../sda1", Some("/dev/sda1")),
            ("/dev/a", "b", Some("/dev/b")),
            ("/dev/a", "./b//c", Some("/dev/b/c")),
            ("/dev/a", "/x/./y", Some("/x/y")),
            ("/dev/a", "../..", None),
            ("/dev/a", "", Some("/dev")),
        ] {
            let path = AbsPath::new(path).expect("a path");
            let to = to.map(|to| to.as_bytes().to_vec());
            assert_eq!(resolved(&path, leads.as_bytes()), to, "{path} {leads}");
        }
    }
}
