//! The mount table as `/proc/self/mountinfo` tells it (`proc_pid_mountinfo(5)`),
//! for kernels without `statmount(2)`.
//!
//! It is read a line at a time and never kept whole: any user with a grant can
//! make its lines long. While it is read from its start to its end, the kernel
//! shows each mount that stays there just once, whatever else comes and goes, and
//! writes each line in one go under the lock of the table (`m_start` in
//! `fs/namespace.c`, since Linux 5.8). So a line is as good an answer about one
//! mount as `statmount` gives. That takes a descriptor that nobody else reads from.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::uio::pread;

use crate::sys::mount::{LSMT_ROOT, MountStatus};
use crate::table;

/// A line with two paths of the greatest length, each byte escaped, is half of this.
const LONGEST_LINE: u64 = 64 * 1024;

/// Bytes of descriptions that a walk holds at a time.
const PAGE: usize = 4 * 1024 * 1024;

/// The options of a mount that are `MOUNT_ATTR_*`, of those that the helper knows.
const OPTIONS: [(&[u8], u64); 6] = [
    (b"ro", 0x1),
    (b"nosuid", 0x2),
    (b"nodev", 0x4),
    (b"noexec", 0x8),
    (b"nosymfollow", 0x20_0000),
    (b"idmapped", 0x10_0000),
];

/// Describes the mount of one line, without its newline; `None` for what the
/// kernel never writes. Both ids are the short ones.
#[must_use]
pub fn parse(line: &[u8]) -> Option<MountStatus> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = fields.next()?.split(|&byte| byte == b':');
    let mut device =
        device.map(|digits| number(digits).and_then(|number| u32::try_from(number).ok()));
    let device = (device.next()??, device.next()??);
    let root = unescape(fields.next()?)?;
    let point = unescape(fields.next()?)?;
    let mut attributes = 0;
    for option in fields.next()?.split(|&byte| byte == b',') {
        for (name, bit) in OPTIONS {
            if option == name {
                attributes |= bit;
            }
        }
    }
    let mut propagation = 0;
    loop {
        match fields.next()? {
            b"-" => break,
            b"unbindable" => propagation |= libc::MS_UNBINDABLE,
            field if field.starts_with(b"shared:") => propagation |= libc::MS_SHARED,
            field if field.starts_with(b"master:") => propagation |= libc::MS_SLAVE,
            _ => {}
        }
    }
    if propagation == 0 {
        propagation = libc::MS_PRIVATE;
    }
    // A subtype follows the type, as in `fuse.sshfs`; no type has a dot.
    let filesystem = fields.next()?.split(|&byte| byte == b'.').next()?;
    Some(MountStatus {
        id,
        parent,
        short_id: id,
        attributes,
        propagation,
        filesystem: unescape(filesystem)?,
        root,
        point,
        device,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

/// Reads the escapes of the kernel: a backslash and three octal digits stand for
/// one byte, every other byte for itself (`mangle_path` in `fs/seq_file.c`).
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let mut value = 0_u8;
        for _ in 0..3 {
            let digit = char::from(*rest.next()?).to_digit(8)?;
            value = value
                .checked_mul(8)?
                .checked_add(u8::try_from(digit).ok()?)?;
        }
        bytes.push(value);
    }
    Some(bytes)
}

/// An open `/proc/self/mountinfo`, which only its owner reads from.
pub struct Mountinfo(OwnedFd);

/// A line whose ids are known. The rest is read of few.
struct Line<'a> {
    id: u64,
    parent: u64,
    /// `None` where it is longer than any that a request could be about.
    text: Option<&'a [u8]>,
}

impl Mountinfo {
    /// Takes the descriptor.
    #[must_use]
    pub fn new(file: OwnedFd) -> Self {
        Self(file)
    }

    /// Describes a mount of the namespace by its short id; ENOENT for any other.
    ///
    /// # Errors
    /// As [`status_of_mount`](crate::sys::mount::status_of_mount).
    pub fn status_of_mount(&self, id: u64) -> Result<MountStatus, Errno> {
        let mut found = Err(Errno::ENOENT);
        self.lines(|line| {
            if line.id != id {
                return ControlFlow::Continue(());
            }
            found = line.text.and_then(parse).ok_or(Errno::EOVERFLOW);
            ControlFlow::Break(())
        })?;
        found
    }

    /// Visits the mounts beneath the mount `parent` ([`LSMT_ROOT`] for all) whose
    /// ids come after `after`, in their order, until `visit` breaks off. What
    /// cannot be described is left out.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn walk(
        &self,
        parent: u64,
        mut after: u64,
        mut visit: impl FnMut(&MountStatus) -> ControlFlow<()>,
    ) -> Result<(), Errno> {
        let parents = match parent {
            LSMT_ROOT => None,
            _ => Some(self.parents()?),
        };
        let within = |id| {
            parents
                .as_ref()
                .is_none_or(|parents| lies_beneath(parents, id, parent))
        };
        loop {
            let (page, complete) = self.page(after, &within)?;
            for (&id, status) in &page {
                if visit(status).is_break() {
                    return Ok(());
                }
                after = id;
            }
            if complete {
                return Ok(());
            }
        }
    }

    /// The first mounts after `after`, as many as fit; and whether they are all.
    fn page(
        &self,
        after: u64,
        within: &impl Fn(u64) -> bool,
    ) -> Result<(BTreeMap<u64, MountStatus>, bool), Errno> {
        let mut page: BTreeMap<u64, MountStatus> = BTreeMap::new();
        let mut bytes: usize = 0;
        let mut end = u64::MAX;
        self.lines(|line| {
            if line.id <= after || line.id >= end || !within(line.id) {
                return ControlFlow::Continue(());
            }
            let Some(status) = line.text.and_then(parse) else {
                return ControlFlow::Continue(());
            };
            bytes = bytes.saturating_add(size(&status));
            page.insert(line.id, status);
            while bytes > PAGE
                && page.len() > 1
                && let Some((id, dropped)) = page.pop_last()
            {
                bytes = bytes.saturating_sub(size(&dropped));
                end = id;
            }
            ControlFlow::Continue(())
        })?;
        Ok((page, end == u64::MAX))
    }

    /// Which mount each is attached to.
    fn parents(&self) -> Result<BTreeMap<u64, u64>, Errno> {
        let mut parents = BTreeMap::new();
        self.lines(|line| {
            parents.insert(line.id, line.parent);
            ControlFlow::Continue(())
        })?;
        Ok(parents)
    }

    /// Reads the table from its start to its end, or until `visit` breaks off.
    fn lines(&self, mut visit: impl FnMut(Line<'_>) -> ControlFlow<()>) -> Result<(), Errno> {
        let mut reader = BufReader::new(FromStart {
            file: &self.0,
            offset: 0,
        });
        let mut text = Vec::new();
        loop {
            text.clear();
            let read = (&mut reader)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut text);
            if read.map_err(|error| number_of(&error))? == 0 {
                return Ok(());
            }
            table::walked();
            let whole = text.pop() == Some(b'\n');
            if !whole {
                reader
                    .skip_until(b'\n')
                    .map_err(|error| number_of(&error))?;
            }
            let mut fields = text.split(|&byte| byte == b' ').map(number);
            let (Some(Some(id)), Some(Some(parent))) = (fields.next(), fields.next()) else {
                return Err(Errno::EPROTO);
            };
            let text = whole.then_some(&text[..]);
            if visit(Line { id, parent, text }).is_break() {
                return Ok(());
            }
        }
    }
}

fn size(status: &MountStatus) -> usize {
    let paths = status.root.len().saturating_add(status.point.len());
    paths
        .saturating_add(status.filesystem.len())
        .saturating_add(size_of::<MountStatus>())
}

/// Whether a chain of parents leads from `id` to `ancestor`. A chain that was
/// read while mounts moved could be a ring; it has no more links than there are mounts.
fn lies_beneath(parents: &BTreeMap<u64, u64>, mut id: u64, ancestor: u64) -> bool {
    for _ in 0..parents.len() {
        match parents.get(&id) {
            Some(&parent) if parent == id => return false,
            Some(&parent) if parent == ancestor => return true,
            Some(&parent) => id = parent,
            None => return false,
        }
    }
    false
}

/// Reads with `pread`, so that no call leaves a position for the next one.
struct FromStart<'a> {
    file: &'a OwnedFd,
    offset: libc::off_t,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = pread(self.file, buffer, self.offset)?;
        self.offset = libc::off_t::try_from(count)
            .ok()
            .and_then(|count| self.offset.checked_add(count))
            .ok_or(Errno::EOVERFLOW)?;
        Ok(count)
    }
}

fn number_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
