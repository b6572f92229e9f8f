//! The kernel that writes down: the calls of the helper's `sys::mount` that make a file
//! system, in its names.

use std::cell::RefCell;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::pinned::Pinned;

/// What it was asked, and how it answers.
#[derive(Default)]
struct Kernel {
    calls: Vec<String>,
    faults: Vec<(usize, Errno)>,
    shown: (u32, u32),
    /// Each descriptor that it gave out is one end of a pipe; this is the other, which
    /// tells when the first is closed, whatever has its number by then.
    given: Vec<(RawFd, OwnedFd)>,
}

thread_local! {
    static KERNEL: RefCell<Kernel> = RefCell::default();
}

/// Begins anew. The call at each of these places fails; what is mounted is on the
/// device `shown`.
pub fn begin(faults: &[(usize, Errno)], shown: (u32, u32)) {
    KERNEL.set(Kernel {
        faults: faults.to_vec(),
        shown,
        ..Kernel::default()
    });
}

/// What it has been asked, a line a call. A descriptor has the number of the call that
/// made it.
#[must_use]
pub fn calls() -> Vec<String> {
    KERNEL.with_borrow(|kernel| kernel.calls.clone())
}

/// How many descriptors that it gave out are open.
#[must_use]
pub fn open() -> usize {
    KERNEL.with_borrow(|kernel| {
        let is_open = |end: &OwnedFd| {
            let mut polled = [PollFd::new(end.as_fd(), PollFlags::empty())];
            poll(&mut polled, PollTimeout::ZERO) == Ok(0)
        };
        kernel.given.iter().filter(|(_, end)| is_open(end)).count()
    })
}

fn call(text: String) -> Result<(), Errno> {
    KERNEL.with_borrow_mut(|kernel| {
        let place = kernel.calls.len();
        kernel.calls.push(text);
        let fault = kernel.faults.iter().find(|(at, _)| *at == place);
        fault.map_or(Ok(()), |(_, errno)| Err(*errno))
    })
}

/// A call that gives a descriptor.
pub(crate) fn make(text: String) -> Result<OwnedFd, Errno> {
    call(text)?;
    let (end, given) = nix::unistd::pipe()?;
    KERNEL.with_borrow_mut(|kernel| kernel.given.push((given.as_raw_fd(), end)));
    Ok(given)
}

/// Which of those that were given out it is; the last of a number is the one in use.
fn name(file: BorrowedFd<'_>) -> String {
    KERNEL.with_borrow(|kernel| {
        let place = kernel
            .given
            .iter()
            .rposition(|(number, _)| *number == file.as_raw_fd());
        place.map_or("a stranger".to_owned(), |place| place.to_string())
    })
}

fn text(bytes: &CStr) -> String {
    bytes.to_bytes().escape_ascii().to_string()
}

pub(crate) fn open_filesystem(name: Pinned) -> Result<OwnedFd, Errno> {
    make(format!("fsopen {}", text(name.text())))
}

pub(crate) fn set_option(context: BorrowedFd<'_>, key: Pinned, value: &CStr) -> Result<(), Errno> {
    let (key, value) = (text(key.text()), text(value));
    call(format!("{} string {key} = {value}", name(context)))
}

pub(crate) fn set_pinned(context: BorrowedFd<'_>, key: Pinned, value: Pinned) -> Result<(), Errno> {
    set_option(context, key, value.text())
}

pub(crate) fn set_flag(context: BorrowedFd<'_>, key: Pinned) -> Result<(), Errno> {
    call(format!("{} flag {}", name(context), text(key.text())))
}

pub(crate) fn create_filesystem(context: BorrowedFd<'_>) -> Result<(), Errno> {
    call(format!("{} create", name(context)))
}

pub(crate) fn create_new_filesystem(context: BorrowedFd<'_>) -> Result<(), Errno> {
    call(format!("{} create new", name(context)))
}

pub(crate) fn mount_filesystem(context: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd, Errno> {
    make(format!("{} fsmount {attributes:#x}", name(context)))
}

/// A talkative kernel: it repeats all that it was asked.
pub(crate) fn complaints(_: BorrowedFd<'_>) -> Vec<Vec<u8>> {
    let said = |call: String| format!("e {call}\n").into_bytes();
    calls().into_iter().map(said).collect()
}

/// As the helper's, as far as it is read here.
#[derive(Clone, Copy)]
pub(crate) struct FileStatus {
    pub(crate) device: (u32, u32),
    pub(crate) mount: u64,
}

/// As the helper's.
pub(crate) struct MountStatus {
    pub(crate) id: u64,
    pub(crate) short_id: u64,
    pub(crate) attributes: u64,
    pub(crate) propagation: u64,
    pub(crate) filesystem: Vec<u8>,
    pub(crate) root: Vec<u8>,
    pub(crate) point: Vec<u8>,
    pub(crate) device: (u32, u32),
}

/// As the helper's.
#[derive(PartialEq)]
pub(crate) enum Ids {
    Unique,
    Short,
}

pub(crate) const LSMT_ROOT: u64 = u64::MAX;

#[expect(clippy::unnecessary_wraps, reason = "the helper's can fail")]
pub(crate) fn hidden_status(_: BorrowedFd<'_>) -> Result<FileStatus, Errno> {
    let device = KERNEL.with_borrow(|kernel| kernel.shown);
    Ok(FileStatus { device, mount: 1 })
}

pub(crate) fn status(file: BorrowedFd<'_>, _: Ids) -> Result<FileStatus, Errno> {
    hidden_status(file)
}

pub(crate) fn status_of_name(_: &[u8], _: Ids) -> Result<FileStatus, Errno> {
    Err(Errno::ENOSYS)
}

pub(crate) fn hidden_status_of_name(_: &[u8]) -> Result<FileStatus, Errno> {
    Err(Errno::ENOSYS)
}

pub(crate) fn status_of_mount(_: u64) -> Result<MountStatus, Errno> {
    Err(Errno::ENOSYS)
}

pub(crate) fn list(_: u64, _: u64, _: &mut [u64]) -> Result<usize, Errno> {
    Err(Errno::ENOSYS)
}
