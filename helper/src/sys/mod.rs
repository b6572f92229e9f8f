//! The system calls that no library offers in a safe form: the only unsafe
//! code of the project. Everything else forbids it.
//!
//! Nothing here decides anything. A function is one system call, with types
//! that make a wrong call hard to write.

pub(crate) mod loop_device;
pub(crate) mod mount;
pub(crate) mod namespace;
pub(crate) mod pinned;
pub(crate) mod proc;
pub(crate) mod process;
pub(crate) mod socket;

use nix::errno::Errno;

/// What a raw system call returned: a number, or `errno`.
fn result(returned: libc::c_long) -> Result<libc::c_long, Errno> {
    if returned == -1 {
        Err(Errno::last())
    } else {
        Ok(returned)
    }
}
