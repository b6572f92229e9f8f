//! The locker: does what a mounter cannot, most of which takes a process in another user
//! namespace. It locks the flags of mounts that are handed over, finds out what a namespace
//! maps, and has a loop device show an image.
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
//!
//! What a user namespace maps is told only in it, or by a process that is in it. So a child
//! enters the one that came with a request ([`maps`]).
//!
//! A loop device has to be opened by a name, which no mounter does to anything ([`loops`]).
#![forbid(unsafe_code)]

mod asking;
mod child;
mod loops;
mod maps;
mod room;

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use mountwarden_policy::Kinds;
use mountwarden_protocol::{Role, RoleReport, frame};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use thiserror::Error;

pub(crate) use self::asking::Locking;
use self::maps::Question;
pub(crate) use self::maps::{Refused, Unfit};
use crate::confine::{self, ConfineError, Confined, Domain, Filter, Identity, Plan};
use crate::files::FileError;
use crate::sys::process::{self, Forked};
use crate::sys::socket;
use crate::{audit, children, order};

/// The descriptor numbers of the locker, which its filter names. What a request brings
/// arrives at the next ones, because the kernel gives out the lowest free number.
pub(crate) mod layout {
    use std::os::fd::RawFd;

    /// Where mounters ask.
    pub(crate) const REQUESTS: RawFd = 3;
    /// The user namespace of the copies; where nobody is granted any, the helper's own.
    pub(crate) const NAMESPACE: RawFd = 4;
    /// The user namespace of the helper.
    pub(crate) const OWN: RawFd = 5;
    /// The `/proc` of the machine.
    pub(crate) const PROC: RawFd = 6;
    /// The `/dev` of the machine; where nobody is granted loop devices, its `/proc`.
    pub(crate) const DEVICES: RawFd = 7;
    /// The mount, the user namespace or the image that came.
    pub(crate) const BROUGHT: RawFd = 8;
    /// Where to send the copy of the mount, what the namespace maps, or the device.
    pub(crate) const ANSWER: RawFd = 9;
    /// The copy; the parent of a user namespace; a map that is read; a loop device.
    pub(crate) const NEXT: RawFd = 10;
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
    #[error("cannot read /proc/sys/fs/suid_dumpable: {0}")]
    Dumpable(#[from] FileError),
    /// A process that enters a namespace whose owner it is not becomes what this says
    /// (`prctl(2)`, `PR_SET_DUMPABLE`).
    #[error(
        "/proc/sys/fs/suid_dumpable is 1, with which the owner of a user namespace could trace the \
         process that finds out what it maps: set it to 0, or take `idmap` out of the policy"
    )]
    Traceable,
    #[error("cannot set up the place where mounts are locked: {step}: {errno}")]
    Room { step: &'static str, errno: Errno },
    /// The first root of a machine, in its initramfs, cannot be left (`pivot_root(2)`).
    #[error(
        "cannot leave the old root, as the place where mounts are locked needs: {0}; a machine that \
         still runs from its initramfs has to switch to another root (switch_root(8)) before the \
         helper starts, or take `detached` and `idmap` out of the policy"
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

/// A request: a number that the answer repeats, the attributes that must be locked, the
/// peer's user or the devices that may be taken, and what is asked for.
const REQUEST: usize = 24;

/// An answer: the number, and 0 beside the mount or before the maps, or why there are none:
/// an errno, or an [`Unfit`].
const ANSWER: usize = 16;

/// To lock the flags of a mount.
const LOCK: u64 = 0;

/// To say what a user namespace maps.
const MAPS: u64 = 1;

/// To have a loop device show an image.
const LOOP: u64 = 2;

fn message<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.map(u64::to_le_bytes).concat()
}

fn words<const N: usize>(message: &[u8]) -> [u64; N] {
    let (words, _) = message.as_chunks();
    let mut words = words.iter().copied();
    [(); N].map(|()| u64::from_le_bytes(words.next().unwrap_or_default()))
}

impl Locker {
    /// Forks the locker and waits until it is confined.
    pub(crate) fn start(
        filter: &Filter,
        identity: Identity,
        kinds: Kinds,
    ) -> Result<Self, LockerError> {
        let kind = SockType::SeqPacket;
        let flags = SockFlag::SOCK_CLOEXEC;
        let (requests, channel) = socketpair(AddressFamily::Unix, kind, None, flags)?;
        let parent = getpid();
        let pid = match process::fork()? {
            Forked::Child => {
                drop(channel);
                children::begin(Role::Locker, c"mw-locker");
                let served = run(&requests, filter, identity, kinds, parent);
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
    kinds: Kinds,
    parent: Pid,
) -> Result<(), LockerError> {
    // Confinement closes these, wherever the kernel put them.
    let own = ManuallyDrop::new(room::own_user_namespace()?);
    let namespace = kinds.detached.then(room::user_namespace).transpose()?;
    let namespace = ManuallyDrop::new(namespace);
    let proc = ManuallyDrop::new(room::proc()?);
    let devices = kinds.loop_devices.then(room::devices).transpose()?;
    let devices = ManuallyDrop::new(devices);
    if kinds.idmap {
        maps::check_traceable()?;
    }
    room::enter()?;
    let copies = namespace.as_ref().map_or(own.as_fd(), AsFd::as_fd);
    let nodes = devices.as_ref().map_or(proc.as_fd(), AsFd::as_fd);
    let files = [requests.as_fd(), copies, own.as_fd(), proc.as_fd(), nodes];
    let numbers = [
        layout::REQUESTS,
        layout::NAMESPACE,
        layout::OWN,
        layout::PROC,
        layout::DEVICES,
    ];
    let [requests, namespace, own, proc, devices] = socket::place(files, numbers)?;
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
    // How many children nobody waits for.
    let mut at_work = 0;
    loop {
        while at_work > 0 && !comes_within(&requests, order::IN_FLIGHT)? {
            reap(&mut at_work, Some(WaitPidFlag::WNOHANG))?;
        }
        let mut buffer = [0; REQUEST];
        let request = match socket::receive(requests.as_fd(), &mut buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if request.length == 0 && is_closed(&requests)? {
            return Ok(());
        }
        let brought = <[OwnedFd; 2]>::try_from(request.descriptors);
        match (brought, words(&buffer)) {
            (Ok([mount, answer]), [number, attributes, LOCK]) if kinds.detached => {
                let asked = (number, attributes);
                serve(&namespace, &mount, &answer, asked, &mut at_work)?;
            }
            (Ok([namespace, answer]), [number, owner, MAPS]) if kinds.idmap => {
                let question = Question {
                    own: &own,
                    proc: &proc,
                    namespace: &namespace,
                    answer: &answer,
                    number,
                    owner,
                };
                let find_out = || maps::find_out(&question);
                beside(&answer, number, &mut at_work, find_out)?;
            }
            (Ok([image, answer]), [number, of, LOOP]) if kinds.loop_devices => {
                let show = || loops::show(&devices, &image, of, &answer, number);
                beside(&answer, number, &mut at_work, show)?;
            }
            // Who asked cannot be told.
            _ => audit::log(
                Role::Locker,
                "a request came without its two descriptors, or for nothing that is granted, and \
                 was dropped",
            )?,
        }
    }
}

/// Whether there is something to receive within a time.
fn comes_within(requests: &OwnedFd, time: Duration) -> Result<bool, Errno> {
    let mut polled = [PollFd::new(requests.as_fd(), PollFlags::POLLIN)];
    let events = ppoll(&mut polled, Some(TimeSpec::from_duration(time)), None)?;
    Ok(events > 0)
}

/// Lets a child go that has ended, of those that nobody waits for.
fn reap(at_work: &mut usize, how: Option<WaitPidFlag>) -> Result<(), Errno> {
    if waitpid(None, how)? != WaitStatus::StillAlive {
        *at_work = at_work.saturating_sub(1);
    }
    Ok(())
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
    (number, attributes): (u64, u64),
    at_work: &mut usize,
) -> Result<(), Errno> {
    let failed = match process::fork() {
        Ok(Forked::Child) => {
            let locked = child::lock(namespace, mount, answer, number, attributes);
            process::exit(locked.map_or_else(crate::failure::number, |()| 0))
        }
        Ok(Forked::Parent(pid)) => match end_of(pid, at_work)? {
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

/// How many are at work at once; the next then waits for one of them.
const MOST: usize = 64;

/// Has a child do what may take long, and answers for it where it fails.
fn beside(
    answer: &OwnedFd,
    number: u64,
    at_work: &mut usize,
    work: impl FnOnce() -> Result<(), Refused>,
) -> Result<(), Errno> {
    if *at_work >= MOST {
        reap(at_work, None)?;
    }
    let refuse = |why: Refused| {
        let refused = message([number, why.number().unsigned_abs().into()]);
        // Who asked may have ended.
        let _ = socket::send(answer.as_fd(), &refused, &[], MsgFlags::MSG_DONTWAIT);
    };
    match process::fork() {
        Ok(Forked::Child) => {
            work().unwrap_or_else(refuse);
            process::exit(0)
        }
        Ok(Forked::Parent(_)) => *at_work = at_work.saturating_add(1),
        Err(errno) => refuse(errno.into()),
    }
    Ok(())
}

/// Sends a descriptor. A process in a user namespace of its own is bound by how many of its
/// user are on their way, which others soon take (`unix(7)`); its deadline bounds the wait.
fn hand_over(answer: &OwnedFd, file: &OwnedFd, number: u64) -> Result<(), Errno> {
    let bytes = message([number, 0]);
    let file = [file.as_fd()];
    loop {
        match socket::send(answer.as_fd(), &bytes, &file, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::ETOOMANYREFS) => order::rest(order::IN_FLIGHT)?,
            other => return other.map(drop),
        }
    }
}

/// Waits for that child. Others that have ended are no longer `at_work`.
fn end_of(child: Pid, at_work: &mut usize) -> Result<WaitStatus, Errno> {
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(child) => return Ok(status),
            Ok(_) => *at_work = at_work.saturating_sub(1),
            Err(Errno::EINTR) => {}
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
