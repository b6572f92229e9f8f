//! `auto_unmount`: this process stays, and ends the mount when the program that served it is
//! gone.
//!
//! No lease does this, because a lease also ends with the helper, and with this process: each
//! would take a file system away from a program that serves it. Here the worst is a dead mount
//! that stays.

use std::fs::File;
use std::io;
use std::path::Path;

use mountwarden_protocol::MountId;
use mountwarden_protocol::escape::SafePath;
use nix::sys::signal::SigSet;
use rustix::io::Errno;

use super::{Channel, unmounting};
use crate::{Client, inherited, seen};

/// A mount, by its two ids, which differ in another mount namespace than the helper's.
pub(super) struct Mounted {
    /// What this process sees.
    pub(super) own: MountId,
    /// What the helper knows it by.
    pub(super) at_helper: MountId,
}

impl Mounted {
    /// The mount at a place.
    ///
    /// # Errors
    /// Where there is none, or the helper does not answer.
    pub(super) fn at(place: &Path) -> Result<Self, String> {
        let shown = SafePath(place);
        let failed = |error| format!("failed to access mountpoint {shown}: {error}");
        let seen = seen::at(place).map_err(failed)?;
        let seen = seen.ok_or_else(|| format!("{shown} is not the root of a mount"))?;
        let own = seen.id().map_err(failed)?;
        let at_helper =
            Client::connect().and_then(|mut client| seen.line.id_at_helper(own, &mut client));
        let at_helper = at_helper.map_err(|error| error.to_string())?;
        Ok(Self { own, at_helper })
    }
}

/// Waits for the end of the socket, then ends the mount if it is still there and dead.
///
/// # Errors
/// Where this process cannot be detached from its caller. Nobody hears of what fails later.
pub(super) fn wait(channel: &Channel, place: &Path, mounted: &Mounted) -> Result<(), String> {
    detach(channel).map_err(|error| format!("cannot wait in the background: {error}"))?;
    channel.wait_for_end();
    if is_dead(place, mounted.own) {
        unmounting::end(place, Some(mounted.at_helper), true).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Lets go of all that is the caller's but the socket: its session, its directory, its files,
/// of which the connection must not be kept open, and its signals.
fn detach(channel: &Channel) -> io::Result<()> {
    nix::unistd::setsid().or_else(|errno| match errno {
        // It leads a process group, as when a shell has started it.
        nix::errno::Errno::EPERM => Ok(nix::unistd::getpid()),
        other => Err(other),
    })?;
    std::env::set_current_dir("/")?;
    SigSet::all().thread_block()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    drop(null);
    inherited::close_all_but(Some(channel.number()))
}

/// Whether that mount is there and its server is not.
fn is_dead(place: &Path, id: MountId) -> bool {
    // As it has died; while it was dying; before it had ever served.
    let dead = [Errno::NOTCONN, Errno::CONNABORTED, Errno::CONNREFUSED];
    let found = seen::at(place).ok().flatten();
    found.is_some_and(|seen| seen.id().is_ok_and(|found| found == id))
        && File::open(place).is_err_and(|error| {
            Errno::from_io_error(&error).is_some_and(|errno| dead.contains(&errno))
        })
}
