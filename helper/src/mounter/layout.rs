//! The descriptor numbers of a mounter, which its filter names.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

/// The order channel.
pub(crate) const ORDER: RawFd = 3;
/// This process's own `/proc/self/fd`.
pub(crate) const PROC: RawFd = 4;
/// The file whose record locks serialize work on one target.
pub(crate) const LOCK: RawFd = 5;
/// The mount table, where it is read from a file; above the slots, whose numbers
/// follow those above.
pub(crate) const TABLE: RawFd = 26;
/// The client's socket, where a reply may bring it a descriptor; nothing is read from
/// it.
pub(crate) const CLIENT: RawFd = 27;
/// The channel to the warden about leases.
pub(crate) const LEASES: RawFd = 28;
/// The channel to the locker.
pub(crate) const LOCKER: RawFd = 29;
/// Where the locker's answers come, and the end by which it sends them.
pub(crate) const ANSWERS: RawFd = 30;
/// See [`ANSWERS`].
pub(crate) const ANSWER: RawFd = 31;
/// More than a mounter ever has open: the above, the slots, and what one
/// message brings.
pub(crate) const MAX_DESCRIPTORS: u64 = 40;
