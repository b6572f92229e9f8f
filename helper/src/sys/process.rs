//! Processes: fork, limits of time, and what a process can ask about itself.

use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid};

use super::result;

/// Which side of a fork this is.
pub(crate) enum Forked {
    Child,
    Parent(Pid),
}

/// Forks. Every role has one thread, so the child may use all of the library.
pub(crate) fn fork() -> Result<Forked, Errno> {
    // SAFETY: after a fork only async-signal-safe functions may run when the
    // process had several threads; the helper never starts one.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Forked::Child),
        ForkResult::Parent { child } => Ok(Forked::Parent(child)),
    }
}

/// Ends the process at once, without the destructors of a parent's state that
/// a forked child carries.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions; nothing of this process runs after it.
    unsafe { libc::_exit(status) }
}

/// Whether the kernel started this program with more rights than its caller
/// has: set-user-ID, set-group-ID or file capabilities (`AT_SECURE` in
/// `getauxval(3)`).
pub(crate) fn started_with_raised_rights() -> bool {
    // SAFETY: `getauxval` reads a table that the kernel filled before `main`.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Closes every descriptor from `first` to `last`, both included
/// (`close_range(2)`).
pub(crate) fn close_range(first: RawFd, last: RawFd) -> Result<(), Errno> {
    // SAFETY: the callers are the first steps of a role, which own no descriptor
    // outside the ones they keep, so that no `OwnedFd` loses its descriptor.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            libc::c_long::from(first),
            libc::c_long::from(last),
            libc::c_long::from(0),
        )
    };
    result(returned).map(drop)
}

/// Sends this process SIGALRM after `time`, which ends it; zero takes that back
/// (`setitimer(2)`). The kernel treats a fatal signal like SIGKILL, so that
/// it also ends a wait for a FUSE server that does not answer.
pub(crate) fn deadline(time: Duration) -> Result<(), Errno> {
    let timer = libc::itimerval {
        it_interval: libc::timeval {
            tv_sec: 0,
            tv_usec: 0,
        },
        it_value: libc::timeval {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_usec: libc::suseconds_t::from(time.subsec_micros()),
        },
    };
    // SAFETY: the kernel reads one `itimerval`, which lives through the call,
    // and writes nothing where the old value would go.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_setitimer,
            libc::ITIMER_REAL,
            &raw const timer,
            ptr::null_mut::<()>(),
        )
    };
    result(returned).map(drop)
}

/// Gives the signals that the helper relies on their default effect, whatever
/// the program that started it had set: an ignored SIGALRM would let a request
/// run for ever (`signal(7)`: an ignored signal stays ignored over `execve`). std's
/// handler of faults makes calls that no filter allows, and would make SIGSYS of them.
pub(crate) fn default_signals() -> Result<(), Errno> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [
        Signal::SIGALRM,
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGSEGV,
        Signal::SIGBUS,
    ] {
        // SAFETY: the default action runs no code of this process.
        unsafe { sigaction(signal, &default) }?;
    }
    Ok(())
}

/// Makes the heap grow by `brk` alone, so that no filter has to allow `mmap`
/// (`M_MMAP_MAX` in `mallopt(3)`), and never shrink by itself (`M_TRIM_THRESHOLD`): it
/// would do so after one request and grow again for the next.
pub(crate) fn heap_without_mmap() -> Result<(), Errno> {
    let settings = [
        (libc::M_MMAP_MAX, 0),
        (libc::M_TRIM_THRESHOLD, libc::c_int::MAX),
    ];
    for (setting, value) in settings {
        // SAFETY: changes a setting of the allocator; there is one thread.
        if unsafe { libc::mallopt(setting, value) } != 1 {
            return Err(Errno::ENOSYS);
        }
    }
    Ok(())
}

/// Gives back what the heap has free at its end (`malloc_trim(3)`): each child would have it, too.
pub(crate) fn trim_heap() {
    // SAFETY: it frees nothing that is in use; there is one thread.
    unsafe { libc::malloc_trim(0) };
}

/// The Landlock ABI of this kernel (`LANDLOCK_CREATE_RULESET_VERSION` in
/// `landlock_create_ruleset(2)`).
pub(crate) fn landlock_abi() -> Result<i32, Errno> {
    let (size, version): (usize, libc::c_ulong) = (0, 1);
    // SAFETY: with this flag the kernel reads no ruleset.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<()>(),
            size,
            version,
        )
    };
    i32::try_from(result(returned)?).map_err(|_| Errno::EOVERFLOW)
}

/// The mode of seccomp that this process is under: 2 for a filter
/// (`PR_GET_SECCOMP` in `prctl(2)`).
pub(crate) fn seccomp_mode() -> Result<i32, Errno> {
    prctl(libc::PR_GET_SECCOMP, 0)
}

/// Sets the secure bits (`PR_SET_SECUREBITS` in `prctl(2)`).
pub(crate) fn set_securebits(bits: u32) -> Result<(), Errno> {
    prctl(libc::PR_SET_SECUREBITS, libc::c_ulong::from(bits)).map(drop)
}

/// The secure bits (`PR_GET_SECUREBITS` in `prctl(2)`).
pub(crate) fn securebits() -> Result<u32, Errno> {
    prctl(libc::PR_GET_SECUREBITS, 0).map(i32::unsigned_abs)
}

fn prctl(operation: libc::c_int, argument: libc::c_ulong) -> Result<i32, Errno> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the operations used here take one number and no pointer.
    let returned = unsafe { libc::prctl(operation, argument, zero, zero, zero) };
    Errno::result(returned)
}

/// `count` zeroed numbers in memory that this process shares with the children
/// that it forks after this call. They last as long as the processes.
pub(crate) fn shared_words(count: usize) -> Result<&'static [AtomicU64], Errno> {
    let bytes = count
        .checked_mul(size_of::<AtomicU64>())
        .ok_or(Errno::ENOMEM)?;
    // SAFETY: a new anonymous mapping touches no memory that exists.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the mapping has room for `count` words, is aligned to a page, is
    // zeroed, which is a valid `AtomicU64`, is never unmapped, and is only ever
    // reached through atomics, in every process that shares it.
    Ok(unsafe { std::slice::from_raw_parts(address.cast::<AtomicU64>(), count) })
}
