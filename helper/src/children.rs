//! What gate and warden share: how a child ends, how that is heard, and what is
//! said to who is refused.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};

use mountwarden_protocol::{Role, frame};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::MsgFlags;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde::Serialize;

use crate::audit;
use crate::sys::{process, socket};

/// A child's exit status when it ended for a reason that it has logged.
const FAILED: i32 = 1;

/// The signals that the helper hears through a descriptor.
pub(crate) fn heard() -> SigSet {
    [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ]
    .into_iter()
    .collect()
}

/// A descriptor that tells of those signals.
pub(crate) fn listen() -> Result<SignalFd, Errno> {
    SignalFd::with_flags(&heard(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Reads every signal that came; true when one of them asks for an end.
pub(crate) fn drain(signals: &SignalFd) -> Result<bool, Errno> {
    let mut stop = false;
    while let Some(signal) = signals.read_signal()? {
        let child = libc::SIGCHLD;
        stop |= i32::try_from(signal.ssi_signo) != Ok(child);
    }
    Ok(stop)
}

/// The next child that ended, if one did.
pub(crate) fn next_ended() -> Result<Option<WaitStatus>, Errno> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => Ok(None),
        other => other.map(Some),
    }
}

/// How a child ended, in words, and where more is to be learnt.
pub(crate) fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(pid, 0) => format!("it left with status 0 (pid {pid})"),
        WaitStatus::Exited(pid, code) => {
            format!("it left with status {code}; its own line in the log says why (pid {pid})")
        }
        WaitStatus::Signaled(pid, signal, _) => {
            let why = match signal {
                Signal::SIGALRM => "; a request took longer than `request_timeout`",
                Signal::SIGABRT => {
                    "; it aborted after a panic, or for want of memory: its own line in the log \
                     says which"
                }
                // `SECCOMP_RET_KILL_PROCESS` tells the number to nobody else (`seccomp(2)`).
                Signal::SIGSYS => {
                    "; it made a system call that its filter forbids: the kernel's log, audit type \
                     1326, names the call"
                }
                _ => "",
            };
            format!("it was killed by {signal}{why} (pid {pid})")
        }
        _ => "it changed its state".to_owned(),
    }
}

/// Ends a child with the result of its work, which it logs when it failed.
pub(crate) fn finish<E: Display>(role: Role, result: Result<(), E>) -> ! {
    match result {
        Ok(()) => process::exit(0),
        Err(error) => {
            // Where the log cannot be written, the exit status still tells.
            let _ = audit::log(role, &error.to_string());
            process::exit(FAILED)
        }
    }
}

/// Begins a role: names the process for `ps` (`PR_SET_NAME` in `prctl(2)`), and lets a
/// panic end it with a line that names the role, and SIGABRT. The standard report would
/// open files for a backtrace, which the filters do not allow.
pub(crate) fn begin(role: Role, name: &CStr) {
    // A name that could not be set changes nothing that anyone relies on.
    let _ = nix::sys::prctl::set_name(name);
    std::panic::set_hook(Box::new(move |panic| {
        let _ = audit::log(role, &panic.to_string());
        std::process::abort();
    }));
}

/// Writes a last message and waits for nothing: one that does not listen must
/// hold up neither gate nor warden.
pub(crate) fn tell<T: Serialize>(to: &OwnedFd, message: &T) {
    if let Ok(bytes) = frame::encode(message) {
        let _ = socket::send(to.as_fd(), &bytes, &[], MsgFlags::MSG_DONTWAIT);
    }
}

pub(crate) fn too_many_of_user(limit: u32) -> String {
    format!(
        "you have {limit} connections, which is the most that `connections_per_user` allows: close \
         one"
    )
}

pub(crate) fn too_fast(limit: u32) -> String {
    format!(
        "more of your requests wait than the helper's `requests_per_second` ({limit}) lets through in \
         time: make fewer at once"
    )
}

pub(crate) fn too_many(limit: u32) -> String {
    format!("all {limit} connections that the helper's `connections` allows are in use: try later")
}
