//! A mount, and its connection sent to who will serve it.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use mountwarden_protocol::escape::{Safe, SafePath};
use mountwarden_protocol::{DenyReason, Explanation, MountId, MountOptions, Operation};
use rustix::fs::OFlags;

use super::{Channel, Name, Options, place, unmounting};
use crate::{Client, Error, ErrorKind, FuseMount, Passing};

/// Mounts and sends the connection; gives the mount's id.
///
/// # Errors
/// Why there is no mount, which is ended again where the connection cannot be sent.
pub(super) fn mount(
    name: &Name,
    mut options: Options,
    place: &Path,
    channel: &Channel,
) -> Result<MountId, String> {
    let target = open(place)?;
    let made = ask(name, &mut options, place, &target).map_err(|error| error.to_string())?;
    // Who has it open keeps what it lies on in use.
    drop(target);
    let id = made.mounted.mount.id;
    let served = is_seen(place, id).and_then(|()| {
        let sent = channel.send(&made.connection);
        sent.map_err(|error| format!("sending file descriptor: {error}"))
    });
    match served.map_err(|why| (why, unmounting::end(place, Some(id), true))) {
        Ok(()) => Ok(id),
        Err((why, Ok(()))) => Err(why),
        Err((why, Err(left))) => Err(format!("{why}; the mount is still there: {left}")),
    }
}

/// A path leads elsewhere in another mount namespace than the helper's, such as a container's.
fn is_seen(place: &Path, id: MountId) -> Result<(), String> {
    let why = match place::mounted(place) {
        Ok(found) if found == id => return Ok(()),
        Ok(_) => format!("mountpoint {} shows another mount", SafePath(place)),
        Err(why) => why,
    };
    Err(format!(
        "{why}: the helper has mounted in its own mount namespace, which this may not be"
    ))
}

/// Opens the mount point as its user.
fn open(place: &Path) -> Result<File, String> {
    let shown = SafePath(place);
    let failed = |error| format!("failed to access mountpoint {shown}: {error}");
    let status = fs::symlink_metadata(place).map_err(failed)?;
    if !status.is_dir() && !status.is_file() {
        return Err(format!(
            "mountpoint {shown} is not a directory or a regular file"
        ));
    }
    // Something else may stand there by now.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(place)
        .map_err(failed)
}

/// Asks for what the grant takes of it. `suid` and `dev` are left out with a word where it does
/// not take them, as the real program does for everybody but root. The target goes by its path
/// where it takes no descriptor.
fn ask(
    name: &Name,
    options: &mut Options,
    place: &Path,
    target: &File,
) -> Result<FuseMount, Error> {
    let caller = name_of_caller();
    let mut client = Client::connect()?;
    let mut not_passed = None;
    loop {
        let fuse = options.request(place, caller.as_deref())?;
        let passing = match not_passed {
            None => Passing::new().target(target),
            Some(_) => Passing::new(),
        };
        let asked = Operation::Mount(passing.describe(fuse.clone())?);
        if let Explanation::Denied(denial) = client.explain(asked)? {
            let not_safe = match denial.reason {
                Some(DenyReason::SuidNotGranted) => Some(("suid", MountOptions::SUID)),
                Some(DenyReason::DevNotGranted) => Some(("dev", MountOptions::DEV)),
                _ => None,
            };
            if let Some((option, flag)) = not_safe.filter(|(_, flag)| options.flags.contains(*flag))
            {
                options.flags.remove(flag);
                let why = Error::from(denial);
                name.say(&format!("unsafe option {option} ignored: {why}"));
                continue;
            }
            if denial.reason == Some(DenyReason::PassedNotGranted) && not_passed.is_none() {
                not_passed = Some(denial);
                continue;
            }
            // Asked for all the same, so that it is written down.
        }
        return match (client.mount_fuse_passing(fuse, passing), not_passed) {
            (Err(error), Some(denial)) if error.kind() == ErrorKind::Unreachable => {
                Err(error.advise(&Safe(&denial.message).to_string()))
            }
            (made, _) => made,
        };
    }
}

/// What the program that calls was started as.
fn name_of_caller() -> Option<String> {
    let parent = std::os::unix::process::parent_id();
    let words = fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    let word = words.split(|&byte| byte == 0).next()?;
    let name = word.rsplit(|&byte| byte == b'/').next()?;
    String::from_utf8(name.to_vec()).ok()
}
