//! The descriptor numbers of a session.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

/// The client's socket.
pub(crate) const CLIENT: RawFd = 3;
/// The order channel.
pub(crate) const ORDER: RawFd = 4;
/// The first number that the filter lets a session close. Those below are where it
/// sends to: they name the same sockets for as long as it lives.
pub(crate) const FIRST_FREE: RawFd = 5;
/// More than a session ever has open: the above, the locations of a request, and what
/// comes with a frame.
pub(crate) const MAX_DESCRIPTORS: u64 = 40;
