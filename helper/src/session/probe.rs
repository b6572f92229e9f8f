//! Whether a mounted file system answers.
//!
//! Asking is what can hang, so it is the last thing that a session does if the answer does not
//! come: the timer ends it, and the gate tells the client.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use mountwarden_protocol::{AbsPath, ErrorReply, MountId, ProbeAnswer, Probed};
use nix::errno::Errno;

use super::locate;
use super::roots::Roots;
use crate::failure;
use crate::sys::mount;
use crate::table::{Source, Table};

/// Asks the file system that is mounted at `target`.
pub(super) fn probe(target: &AbsPath, roots: &Roots, source: Source) -> Result<Probed, ErrorReply> {
    let probed = |id, answer| Probed {
        target: target.clone(),
        id,
        answer,
    };
    let Some(root) = locate::mounted(target, roots)? else {
        return Ok(probed(None, ProbeAnswer::Absent));
    };
    let id = match source {
        Source::Calls => {
            let status = Table::Calls.status(root.as_fd());
            let status =
                status.map_err(|errno| failure::kernel("cannot examine", target, errno))?;
            MountId::try_from(status.mount).ok()
        }
        Source::Mountinfo => None,
    };
    Ok(probed(id, answer(mount::ask(root.as_fd()))))
}

/// Nothing counts as alive that did not answer. A FUSE server is not asked at all for a user
/// that the mount is not open to: the kernel refuses (`fuse(8)`), whether it lives or not.
fn answer(asked: Result<(), Errno>) -> ProbeAnswer {
    match asked {
        Ok(()) => ProbeAnswer::Alive,
        Err(Errno::EACCES | Errno::EPERM) => ProbeAnswer::Private,
        Err(errno) => ProbeAnswer::Stale {
            errno: failure::number(errno),
        },
    }
}

#[cfg(test)]
mod tests {
    use mountwarden_protocol::ProbeAnswer;
    use nix::errno::Errno;

    use super::answer;
    use crate::failure::number;

    #[test]
    fn only_an_answer_is_alive() {
        assert_eq!(answer(Ok(())), ProbeAnswer::Alive);
        for errno in [Errno::ENOTCONN, Errno::ESTALE, Errno::EIO, Errno::EHOSTDOWN] {
            let stale = ProbeAnswer::Stale {
                errno: number(errno),
            };
            assert_eq!(answer(Err(errno)), stale);
        }
        assert_eq!(answer(Err(Errno::EACCES)), ProbeAnswer::Private);
    }
}
