//! What a user namespace maps, and whose it is.
//!
//! A map can be written once (`user_namespaces(7)`), the owner and the parent of a namespace
//! never change, and the mounter uses the descriptor that it asked about. So what is found
//! out here stays true.
//!
//! Two processes do it. The first asks the kernel about the descriptor, from the helper's own
//! user namespace. The second enters the other and reads its maps there, which the kernel
//! writes relative to the parent. From then on the owner of that namespace may send it signals,
//! also one that stops it: so the first waits for it, only for so long, and nobody for the
//! first.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::MsgFlags;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, read};

use super::{ANSWER, LockerError, WORK, at, layout, message};
use crate::sys::mount::{self, Ids};
use crate::sys::pinned::{GID_MAP, Pinned, UID_MAP};
use crate::sys::process::{self, Forked};
use crate::sys::{namespace, socket};
use crate::{failure, files, order};

/// Why a descriptor is no user namespace by which mounts of the peer can be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    NoNamespace,
    OtherKind,
    Own,
    NotOwned,
    Nested,
    Unmapped,
    TooLong,
}

/// Their numbers, above every errno and below what an exit status can be.
const UNFIT: [(u8, Unfit); 7] = [
    (200, Unfit::NoNamespace),
    (201, Unfit::OtherKind),
    (202, Unfit::Own),
    (203, Unfit::NotOwned),
    (204, Unfit::Nested),
    (205, Unfit::Unmapped),
    (206, Unfit::TooLong),
];

/// Why the locker has not done what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Unfit(Unfit),
    Kernel(Errno),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

impl From<Unfit> for Refused {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

impl Refused {
    /// As an exit status or an answer has it.
    pub(super) fn number(self) -> i32 {
        let unfit = UNFIT.into_iter().find(|(_, why)| self == Self::Unfit(*why));
        match (self, unfit) {
            (Self::Kernel(errno), _) => failure::number(errno),
            (Self::Unfit(_), found) => found.map_or(libc::EPROTO, |(number, _)| number.into()),
        }
    }

    pub(super) fn of(number: u64) -> Self {
        let unfit = UNFIT.into_iter().find(|(of, _)| u64::from(*of) == number);
        match (unfit, i32::try_from(number)) {
            (Some((_, unfit)), _) => Self::Unfit(unfit),
            (None, Ok(errno)) => Self::Kernel(Errno::from_raw(errno)),
            (None, Err(_)) => Self::Kernel(Errno::EPROTO),
        }
    }
}

/// The most bytes of one map: 31 ranges.
const MAP: usize = 1024;

/// What an answer holds with maps: that of users, zeros, that of groups, zeros.
pub(super) const ANSWER_WITH_MAPS: usize = ANSWER + 2 * MAP;

/// How often the first process looks whether the second has ended, and how long it rests
/// between: two seconds or more.
const LOOKS: usize = 200;
const LOOK: Duration = Duration::from_millis(10);

/// What a mounter asks.
pub(super) struct Question<'a> {
    /// The helper's user namespace.
    pub(super) own: &'a OwnedFd,
    pub(super) proc: &'a OwnedFd,
    pub(super) namespace: &'a OwnedFd,
    /// Where to answer, with which number.
    pub(super) answer: &'a OwnedFd,
    pub(super) number: u64,
    /// Who must have made the namespace.
    pub(super) owner: u64,
}

/// Fails where a process that enters a namespace could be traced by that one's owner: it has
/// become what this says then (`PR_SET_DUMPABLE` in `prctl(2)`).
pub(super) fn check_traceable() -> Result<(), LockerError> {
    let dumpable = files::read_proc(Path::new("/proc/sys/fs/suid_dumpable"))?;
    if dumpable.trim() == "1" {
        Err(LockerError::Traceable)
    } else {
        Ok(())
    }
}

/// Finds out and answers.
pub(super) fn find_out(question: &Question<'_>) -> Result<(), Refused> {
    let (own, asked) = (question.own.as_fd(), question.namespace.as_fd());
    at(question.namespace, layout::BROUGHT)?;
    at(question.answer, layout::ANSWER)?;
    process::deadline(WORK)?;
    // The server of another file system could answer what it likes.
    if fstatfs(asked)?.filesystem_type() != NSFS_MAGIC {
        return Err(Unfit::NoNamespace.into());
    }
    if namespace::kind(asked)? != libc::CLONE_NEWUSER {
        return Err(Unfit::OtherKind.into());
    }
    if is_same(asked, own)? {
        return Err(Unfit::Own.into());
    }
    if u64::from(namespace::owner(asked)?) != question.owner {
        return Err(Unfit::NotOwned.into());
    }
    let parent = match namespace::parent(asked) {
        Err(Errno::EPERM) => return Err(Unfit::Nested.into()),
        other => other?,
    };
    at(&parent, layout::NEXT)?;
    if !is_same(parent.as_fd(), own)? {
        return Err(Unfit::Nested.into());
    }
    drop(parent);
    match process::fork()? {
        Forked::Child => {
            let told = tell(question);
            process::exit(told.map_or_else(Refused::number, |()| 0))
        }
        Forked::Parent(pid) => match end_of(pid)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, number) => Err(Refused::of(number.unsigned_abs().into())),
            _ => Err(Errno::EINTR.into()),
        },
    }
}

fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool, Errno> {
    let of = |file| mount::status(file, Ids::Short).map(|status| (status.device, status.inode));
    Ok(of(one)? == of(other)?)
}

/// Waits for a process that its owner may have stopped, and then ends it.
fn end_of(child: Pid) -> Result<WaitStatus, Errno> {
    // If this process ended first, nobody would end the other.
    process::deadline(Duration::ZERO)?;
    for _ in 0..LOOKS {
        match waitpid(None, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::StillAlive => order::rest(LOOK)?,
            status => return Ok(status),
        }
    }
    kill(child, Signal::SIGKILL)?;
    waitpid(None, None)
}

/// Enters the namespace, and tells the mounter what it maps.
fn tell(question: &Question<'_>) -> Result<(), Refused> {
    setns(question.namespace, CloneFlags::CLONE_NEWUSER)?;
    // On the stack: there is no call for more heap.
    let mut answer = [0; ANSWER_WITH_MAPS];
    let (head, maps) = answer.split_at_mut(ANSWER);
    head.copy_from_slice(&message([question.number, 0]));
    let (uids, gids) = maps.split_at_mut(MAP);
    read_map(question.proc, UID_MAP, uids)?;
    read_map(question.proc, GID_MAP, gids)?;
    let to = question.answer.as_fd();
    socket::send(to, &answer, &[], MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}

/// Reads a map whole, which is final when it is not empty.
fn read_map(proc: &OwnedFd, name: Pinned, room: &mut [u8]) -> Result<(), Refused> {
    let map = namespace::open_map(proc.as_fd(), name)?;
    at(&map, layout::NEXT)?;
    match read(&map, room)? {
        0 => Err(Unfit::Unmapped.into()),
        length if length == room.len() => Err(Unfit::TooLong.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::{Refused, UNFIT};

    #[test]
    fn a_number_says_why() {
        let unfit = UNFIT.map(|(_, why)| Refused::Unfit(why));
        let kernel = [Errno::EPERM, Errno::EHWPOISON].map(Refused::Kernel);
        for why in unfit.into_iter().chain(kernel) {
            let number = why.number();
            assert!((1..=255).contains(&number), "{number}");
            assert_eq!(Refused::of(number.unsigned_abs().into()), why);
        }
        assert_eq!(Refused::of(u64::MAX), Refused::Kernel(Errno::EPROTO));
    }
}
