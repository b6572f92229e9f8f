//! The locker: locks the flags of mounts that are handed over.
//!
//! Whoever attaches a mount in a user namespace of their own may take its flags away.
//! Not so those of a mount that was copied into a mount namespace of another user
//! namespace: the kernel locks them, in every copy from then on (`mount_namespaces(7)`,
//! restrictions on mount namespaces). So a child of this process, for each mount, has it
//! copied so, clones the copy and sends that back.
//!
//! The mount namespace that it works in holds one file system with two names, made at
//! the start; and so does the user namespace of the copies, which is the same for all: a
//! mount that nobody attached keeps the one in which it was cloned.
#![forbid(unsafe_code)]

mod asking;
mod child;
mod room;

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use mountwarden_protocol::{Role, RoleReport, frame};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use thiserror::Error;

pub(crate) use self::asking::Locking;
use crate::confine::{self, ConfineError, Confined, Domain, Filter, Identity, Plan};
use crate::sys::process::{self, Forked};
use crate::sys::socket;
use crate::{audit, children};

/// The descriptor numbers of the locker, which its filter names. What a request brings
/// arrives at the next ones, because the kernel gives out the lowest free number.
pub(crate) mod layout {
    use std::os::fd::RawFd;

    /// Where mounters ask.
    pub(crate) const REQUESTS: RawFd = 3;
    /// The user namespace of the copies.
    pub(crate) const NAMESPACE: RawFd = 4;
    /// The mount that came.
    pub(crate) const MOUNT: RawFd = 5;
    /// Where to send its copy.
    pub(crate) const ANSWER: RawFd = 6;
    /// The copy.
    pub(crate) const COPY: RawFd = 7;
    /// More than a locker ever has open: the above, and what one message brings.
    pub(crate) const MAX_DESCRIPTORS: u64 = 16;
}

/// A locker that is confined and waits for mounts.
pub(crate) struct Locker {
    pub(crate) pid: Pid,
    pub(crate) report: RoleReport,
    /// The mounters' end of the channel.
    channel: OwnedFd,
}

/// Why there is no locker, or no longer.
#[derive(Debug, Error)]
pub(crate) enum LockerError {
    #[error(
        "cannot make a user namespace for detached mounts, which the policy grants: {0}; look at \
         /proc/sys/user/max_user_namespaces, or take `detached` out of the policy"
    )]
    Namespace(Errno),
    #[error("cannot set up the place where mounts are locked: {step}: {errno}")]
    Room { step: &'static str, errno: Errno },
    /// The first root of a machine, in its initramfs, cannot be left (`pivot_root(2)`).
    #[error(
        "cannot leave the old root, as the place where mounts are locked needs: {0}; a machine that \
         still runs from its initramfs has to switch to another root (switch_root(8)) before the \
         helper starts, or take `detached` out of the policy"
    )]
    Root(Errno),
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error("serving failed: {0}")]
    Kernel(#[from] Errno),
    #[error("the locker did not get ready; its own line in the log says why")]
    NotReady,
}

/// How long the locker may take to confine itself.
const START: Duration = Duration::from_secs(10);

/// How long the work on one mount may take. It waits for nobody.
const WORK: Duration = Duration::from_secs(5);

/// A request: a number that the answer repeats, and the attributes that must be locked.
/// An answer: the number, and 0 beside the mount, or an errno without one.
const MESSAGE: usize = 16;

fn message(words: [u64; 2]) -> Vec<u8> {
    words.map(u64::to_le_bytes).concat()
}

fn words(message: &[u8]) -> [u64; 2] {
    let (words, _) = message.as_chunks();
    [0, 1].map(|word: usize| u64::from_le_bytes(words.get(word).copied().unwrap_or_default()))
}

impl Locker {
    /// Forks the locker and waits until it is confined.
    pub(crate) fn start(filter: &Filter, identity: Identity) -> Result<Self, LockerError> {
        let kind = SockType::SeqPacket;
        let flags = SockFlag::SOCK_CLOEXEC;
        let (requests, channel) = socketpair(AddressFamily::Unix, kind, None, flags)?;
        let parent = getpid();
        let pid = match process::fork()? {
            Forked::Child => {
                drop(channel);
                children::begin(Role::Locker, c"mw-locker");
                let served = run(&requests, filter, identity, parent);
                children::finish(Role::Locker, served)
            }
            Forked::Parent(pid) => pid,
        };
        drop(requests);
        let mut polled = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
        ppoll(&mut polled, Some(TimeSpec::from_duration(START)), None)?;
        let mut buffer = [0; 1024];
        let ready = socket::receive(channel.as_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT);
        let report = ready.ok().and_then(|ready| {
            let mut bytes = buffer.get(..ready.length)?;
            frame::decode(&frame::read(&mut bytes).ok()?).ok()
        });
        let report = report.ok_or(LockerError::NotReady)?;
        Ok(Self {
            pid,
            report,
            channel,
        })
    }
}

impl AsFd for Locker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Serves until nobody can ask any more.
fn run(
    requests: &OwnedFd,
    filter: &Filter,
    identity: Identity,
    parent: Pid,
) -> Result<(), LockerError> {
    // Confinement closes this one, wherever the kernel put it.
    let namespace = ManuallyDrop::new(room::user_namespace()?);
    room::enter()?;
    let numbers = [layout::REQUESTS, layout::NAMESPACE];
    let [requests, namespace] = socket::place([requests.as_fd(), namespace.as_fd()], numbers)?;
    let confined: Confined<confine::Locker> = confine::enforce(&Plan {
        descriptors: &numbers,
        max_descriptors: layout::MAX_DESCRIPTORS,
        identity,
        domain: Domain::Mounts,
        filter,
        dies_with: Some(parent),
    })?;
    let ready = frame::encode(confined.report()).map_err(|_| Errno::EMSGSIZE)?;
    socket::send(requests.as_fd(), &ready, &[], MsgFlags::MSG_DONTWAIT)?;
    loop {
        let mut buffer = [0; MESSAGE];
        let request = match socket::receive(requests.as_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if request.length == 0 && is_closed(&requests)? {
            return Ok(());
        }
        match <[OwnedFd; 2]>::try_from(request.descriptors) {
            Ok([mount, answer]) => {
                let [number, attributes] = words(&buffer);
                serve(&namespace, &mount, &answer, number, attributes)?;
            }
            // Who asked cannot be told.
            Err(_) => audit::log(
                Role::Locker,
                "a request came without its two descriptors and was dropped",
            )?,
        }
    }
}

/// Whether nobody has the other end any more. An empty message alone does not say so:
/// any mounter could have sent it.
fn is_closed(requests: &OwnedFd) -> Result<bool, Errno> {
    let mut polled = [PollFd::new(requests.as_fd(), PollFlags::empty())];
    ppoll(
        &mut polled,
        Some(TimeSpec::from_duration(Duration::ZERO)),
        None,
    )?;
    Ok(polled.iter().any(|fd| fd.any().unwrap_or(true)))
}

/// Has a child lock one mount, and says why where it did not.
fn serve(
    namespace: &OwnedFd,
    mount: &OwnedFd,
    answer: &OwnedFd,
    number: u64,
    attributes: u64,
) -> Result<(), Errno> {
    let failed = match process::fork() {
        Ok(Forked::Child) => {
            let locked = child::lock(namespace, mount, answer, number, attributes);
            process::exit(locked.map_or_else(crate::failure::number, |()| 0))
        }
        Ok(Forked::Parent(pid)) => match end_of(pid)? {
            WaitStatus::Exited(_, 0) => return Ok(()),
            WaitStatus::Exited(_, errno) => errno.unsigned_abs(),
            _ => crate::failure::number(Errno::EINTR).unsigned_abs(),
        },
        Err(errno) => crate::failure::number(errno).unsigned_abs(),
    };
    let answered = message([number, failed.into()]);
    // Who asked may have ended.
    let _ = socket::send(answer.as_fd(), &answered, &[], MsgFlags::MSG_DONTWAIT);
    Ok(())
}

fn end_of(child: Pid) -> Result<WaitStatus, Errno> {
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(child) => return Ok(status),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Fails where a descriptor is not at the number that the filter names.
fn at(file: &impl AsRawFd, number: RawFd) -> Result<(), Errno> {
    if file.as_raw_fd() == number {
        Ok(())
    } else {
        Err(Errno::EBADF)
    }
}
