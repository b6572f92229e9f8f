//! The mount at a place, as the caller sees it. Nothing is asked of its file system, which
//! may be dead or hung.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use mountwarden_protocol::MountId;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

const TABLE: &str = "/proc/self/mountinfo";

/// `STATX_MNT_ID_UNIQUE`, since Linux 6.8; before it, the kernel answers [`StatxFlags::MNT_ID`],
/// and so does the helper.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The topmost mount at a place.
pub(super) struct Seen {
    /// Its root, unopened. It keeps the mount in use.
    pub(super) root: OwnedFd,
    /// Whom a FUSE file system belongs to.
    pub(super) user: Option<u32>,
}

impl Seen {
    /// Its id, which the kernel tells nobody whom the file system keeps out.
    ///
    /// # Errors
    /// Where it does not.
    pub(super) fn id(&self) -> io::Result<MountId> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let status = rustix::fs::statx(&self.root, "", flags, StatxFlags::MNT_ID | UNIQUE)?;
        MountId::try_from(status.stx_mnt_id).map_err(|_| Errno::NOSYS.into())
    }
}

/// Looks at a place; `None` where it is not the root of a mount.
///
/// # Errors
/// Where that cannot be found out.
pub(super) fn at(place: &Path) -> io::Result<Option<Seen>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match rustix::fs::open(place, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        opened => opened?,
    };
    let (number, table) = (number_of(&root)?, fs::read(TABLE)?);
    let user = line_of(&table, &number, place).map(user_of);
    Ok(user.map(|user| Seen { root, user }))
}

/// The number that `mountinfo` has for the mount of a file (`proc_pid_fdinfo(5)`).
fn number_of(file: &OwnedFd) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(number.unwrap_or_default().trim().to_owned())
}

/// The line of a mount (`proc_pid_mountinfo(5)`), if that is at the place.
fn line_of<'t>(table: &'t [u8], number: &str, place: &Path) -> Option<&'t [u8]> {
    let place = escaped(place.as_os_str().as_bytes());
    table.split(|&byte| byte == b'\n').find(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        fields.next() == Some(number.as_bytes()) && fields.nth(3) == Some(&place)
    })
}

/// A path as the kernel writes it there.
fn escaped(path: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    for &byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => {
                written.extend_from_slice(format!("\\{byte:03o}").as_bytes());
            }
            other => written.push(other),
        }
    }
    written
}

/// The user of a FUSE file system.
fn user_of(line: &[u8]) -> Option<u32> {
    let text = String::from_utf8_lossy(line);
    let (_, about) = text.split_once(" - ")?;
    let mut fields = about.split(' ');
    let filesystem = fields.next()?.split('.').next()?;
    if !matches!(filesystem, "fuse" | "fuseblk") {
        return None;
    }
    let mut options = fields.nth(1)?.split(',');
    options
        .find_map(|option| option.strip_prefix("user_id="))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table() {
        let table = b"1 0 0:1 / / rw - ext4 /dev/a rw\n\
            7 1 0:2 / /m\\040x rw,nosuid shared:1 - fuse.s \\054user_id=9 rw,user_id=12,group_id=3\n\
            8 7 0:3 / /m\\040x rw - tmpfs user_id=12 rw,user_id=12\n\
            9 7 0:3 / /b rw - fuseblk /dev/b ro,user_id=0,group_id=0\n";
        let user = |number, place: &str| line_of(table, number, Path::new(place)).map(user_of);
        assert_eq!(user("7", "/m x"), Some(Some(12)));
        assert_eq!(user("8", "/m x"), Some(None));
        assert_eq!(user("9", "/b"), Some(Some(0)));
        assert_eq!(user("1", "/m x"), None);
        assert_eq!(user("", "/"), None);
        assert_eq!(escaped(b"a\\\n"), b"a\\134\\012");
    }
}
