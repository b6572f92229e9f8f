//! The mount at a place, as this process sees it. Nothing is asked of its file system, which
//! may be dead or hung.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use mountwarden_protocol::{DeviceNumber, MountId, MountInfo};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::{Client, Error};

const TABLE: &str = "/proc/self/mountinfo";

/// `STATX_MNT_ID_UNIQUE`, since Linux 6.8; before it, the kernel answers [`StatxFlags::MNT_ID`],
/// and so does the helper.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The topmost mount at a place.
pub(crate) struct Seen {
    /// Its root, unopened. It keeps the mount in use.
    pub(crate) root: OwnedFd,
    pub(crate) line: Line,
}

/// What the table of mounts says of one (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where it is attached.
    pub(crate) place: PathBuf,
    /// Which directory or file of the file system it shows.
    pub(crate) shows: PathBuf,
    /// The number of the file system.
    pub(crate) device: DeviceNumber,
    /// Such as `ext4` or `fuse.sshfs`.
    pub(crate) filesystem: OsString,
    pub(crate) source: OsString,
    /// Whom a FUSE file system belongs to.
    pub(crate) user: Option<u32>,
}

impl Seen {
    /// Its id, which the kernel tells nobody whom the file system keeps out.
    ///
    /// # Errors
    /// Where it does not.
    pub(crate) fn id(&self) -> io::Result<MountId> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let status = rustix::fs::statx(&self.root, "", flags, StatxFlags::MNT_ID | UNIQUE)?;
        MountId::try_from(status.stx_mnt_id).map_err(|_| Errno::NOSYS.into())
    }
}

impl Line {
    /// Whether it shows the same as a mount at the same place of the helper's mount namespace.
    pub(crate) fn is_of(&self, mount: &MountInfo) -> bool {
        self.place == mount.target.as_path()
            && self.shows == mount.root.as_path()
            && self.device == mount.device
    }

    /// The id that the helper knows the mount by. In another mount namespace, such as that of a
    /// service with `ProtectSystem=`, this process sees a copy that has spread to it, with an id
    /// of its own.
    ///
    /// # Errors
    /// Where the helper does not say.
    pub(crate) fn id_at_helper(&self, own: MountId, client: &mut Client) -> Result<MountId, Error> {
        // Most often it is the same, and that is one short page.
        if client.has_mount(own)? {
            return Ok(own);
        }
        let mounts = client.list()?;
        let last = mounts.iter().rfind(|mount| self.is_of(mount));
        Ok(last.map_or(own, |mount| mount.id))
    }
}

/// Looks at a place; `None` where it is not the root of a mount.
///
/// # Errors
/// Where that cannot be found out.
pub(crate) fn at(place: &Path) -> io::Result<Option<Seen>> {
    let seen = beneath(place)?;
    Ok(seen.filter(|seen| seen.line.place == place))
}

/// The mount that a file lies on; `None` where there is no file.
///
/// # Errors
/// Where that cannot be found out.
pub(crate) fn beneath(place: &Path) -> io::Result<Option<Seen>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match rustix::fs::open(place, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        opened => opened?,
    };
    let (number, table) = (number_of(&root)?, fs::read(TABLE)?);
    Ok(line_of(&table, &number).map(|line| Seen { root, line }))
}

/// The number that `mountinfo` has for the mount of a file (`proc_pid_fdinfo(5)`).
fn number_of(file: &OwnedFd) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(number.unwrap_or_default().trim().to_owned())
}

fn line_of(table: &[u8], number: &str) -> Option<Line> {
    let mut lines = table.split(|&byte| byte == b'\n');
    let line =
        lines.find(|line| line.split(|&byte| byte == b' ').next() == Some(number.as_bytes()));
    parse(line?)
}

fn parse(line: &[u8]) -> Option<Line> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (major, minor) = str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
    let device = DeviceNumber {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    };
    let (shows, place) = (unescaped(fields.next()?), unescaped(fields.next()?));
    let mut about = fields.skip_while(|field| *field != b"-").skip(1);
    let (filesystem, source) = (unescaped(about.next()?), unescaped(about.next()?));
    let user = user_of(&filesystem, about.next()?);
    Some(Line {
        place: place.into(),
        shows: shows.into(),
        device,
        filesystem,
        source,
        user,
    })
}

/// A field, in which the kernel writes some bytes as `\` and three octal digits.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| byte == b'\\');
        let code = code.and_then(|digits| str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(byte));
        rest = match code {
            Some(_) => after.get(3..).unwrap_or_default(),
            None => after,
        };
    }
    OsString::from_vec(bytes)
}

/// The user of a FUSE file system, of whose options it is one that no program can set.
fn user_of(filesystem: &OsStr, options: &[u8]) -> Option<u32> {
    let mut kind = filesystem.as_bytes().split(|&byte| byte == b'.');
    if !matches!(kind.next()?, b"fuse" | b"fuseblk") {
        return None;
    }
    let mut options = str::from_utf8(options).ok()?.split(',');
    options
        .find_map(|option| option.strip_prefix("user_id="))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"1 0 0:1 / / rw - ext4 /dev/a rw\n\
        7 1 0:2 /x /m\\040x rw,nosuid shared:1 - fuse.s \\054user_id=9 rw,user_id=12,group_id=3\n\
        8 7 0:3 / /m\\040x rw - tmpfs user_id=12 rw,user_id=12\n\
        9 7 0:3 / /b rw - fuseblk /dev/b ro,user_id=0,group_id=0\n\
        10 7 0:3 / /short\n";

    #[test]
    fn lines_of_the_table() {
        let line = line_of(TABLE, "7").unwrap();
        let expected = Line {
            place: "/m x".into(),
            shows: "/x".into(),
            device: DeviceNumber { major: 0, minor: 2 },
            filesystem: "fuse.s".into(),
            source: ",user_id=9".into(),
            user: Some(12),
        };
        assert_eq!(line, expected);
        let user = |number| line_of(TABLE, number).map(|line| line.user);
        assert_eq!(user("8"), Some(None));
        assert_eq!(user("9"), Some(Some(0)));
        assert_eq!(user("1"), Some(None));
        assert_eq!((user("10"), user("")), (None, None));
    }

    #[test]
    fn fields_as_the_kernel_writes_them() {
        for (written, field) in [
            ("/a\\134\\012b", "/a\\\nb"),
            ("a\\04", "a\\04"),
            ("\\999", "\\999"),
            ("", ""),
        ] {
            assert_eq!(unescaped(written.as_bytes()), field);
        }
    }
}
