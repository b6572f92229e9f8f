//! Descriptors, dumps and resource limits.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{ConfineError, in_force, step};
use crate::sys::process;

/// The limits that are the same in every role, and what they limit. There is more
/// heap than any role ever needs; a leak or a bomb ends that role alone.
pub(super) const FIXED: [(Resource, &str, u64); 3] = [
    (Resource::RLIMIT_CORE, "core dump", 0),
    (Resource::RLIMIT_MEMLOCK, "locked memory", 0),
    (Resource::RLIMIT_DATA, "heap", 64 * 1024 * 1024),
];

/// Closes every descriptor above the standard ones that is not in `keep`.
pub(super) fn close_all_but(keep: &[RawFd]) -> Result<(), ConfineError> {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|&fd| fd > 2).collect();
    keep.sort_unstable();
    let mut first: RawFd = 3;
    for fd in keep {
        if fd > first {
            step(
                "close descriptors",
                process::close_range(first, fd.saturating_sub(1)),
            )?;
        }
        first = fd.saturating_add(1);
    }
    step("close descriptors", process::close_range(first, RawFd::MAX))
}

/// Forbids core dumps, and with them `ptrace` and `/proc/PID/mem` by another
/// process of the same user (`PR_SET_DUMPABLE` in `prctl(2)`).
pub(super) fn no_dumps() -> Result<(), ConfineError> {
    step("forbid dumps", prctl::set_dumpable(false))?;
    in_force(
        "no dumps",
        !step("read whether dumps are allowed", prctl::get_dumpable())?,
    )
}

/// Lowers the limits, soft and hard, so that they cannot be raised again.
pub(super) fn lower(max_descriptors: u64) -> Result<(), ConfineError> {
    let descriptors = (Resource::RLIMIT_NOFILE, "descriptors", max_descriptors);
    for (resource, _, limit) in FIXED.into_iter().chain([descriptors]) {
        step(
            "lower a resource limit",
            setrlimit(resource, limit, limit).map_err(too_low),
        )?;
        let now = step("read a resource limit", getrlimit(resource))?;
        in_force("a resource limit", now == (limit, limit))?;
    }
    Ok(())
}

/// `setrlimit` gives EPERM where the limit would have to be raised.
fn too_low(errno: Errno) -> Errno {
    if errno == Errno::EPERM {
        Errno::EMFILE
    } else {
        errno
    }
}
