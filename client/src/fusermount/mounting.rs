//! A mount, and its connection sent to who will serve it.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use mountwarden_protocol::escape::{Safe, SafePath};
use mountwarden_protocol::{
    DenyReason, ErrorReply, Explanation, MountId, MountInfo, MountOptions, Operation,
};
use rustix::fs::OFlags;

use super::{Channel, Mounted, Name, Options, unmounting};
use crate::{Client, Error, ErrorKind, FuseMount, Passing, seen};

/// Mounts and sends the connection.
///
/// # Errors
/// Why there is no mount, which is ended again where the connection cannot be sent.
pub(super) fn mount(
    name: &Name,
    mut options: Options,
    place: &Path,
    channel: &Channel,
) -> Result<Mounted, String> {
    let target = open(place)?;
    let made = ask(name, &mut options, place, &target).map_err(|error| error.to_string())?;
    // Who has it open keeps what it lies on in use.
    drop(target);
    let at_helper = made.mounted.mount.id;
    let served = own_id(place, &made.mounted.mount).and_then(|own| {
        let sent = channel.send(&made.connection);
        sent.map_err(|error| format!("sending file descriptor: {error}"))?;
        Ok(Mounted { own, at_helper })
    });
    served.map_err(|why| match unmounting::end(place, Some(at_helper), true) {
        Ok(()) => why,
        Err(left) => format!("{why}; the mount is still there: {left}"),
    })
}

/// The id that the mount has here. A path may lead elsewhere in another mount namespace than the
/// helper's, such as a container's.
fn own_id(place: &Path, made: &MountInfo) -> Result<MountId, String> {
    let shown = SafePath(place);
    let failed = |error| format!("failed to access mountpoint {shown}: {error}");
    let seen = seen::at(place).map_err(failed)?;
    let seen = seen.filter(|seen| seen.line.is_of(made)).ok_or_else(|| {
        format!(
            "mountpoint {shown} does not show the mount that was made: the helper has mounted in \
             its own mount namespace, from which nothing has come to this one"
        )
    })?;
    seen.id().map_err(failed)
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

/// Why the target goes by its path, and not as a descriptor.
enum ByPath {
    NotGranted(ErrorReply),
    /// It was opened in another mount namespace than the helper's.
    Elsewhere(Error),
}

/// Asks for what the grant takes of it. `suid` and `dev` are left out with a word where it does
/// not take them, as the real program does for everybody but root. The target goes by its path
/// where the helper takes no descriptor of it.
fn ask(
    name: &Name,
    options: &mut Options,
    place: &Path,
    target: &File,
) -> Result<FuseMount, Error> {
    let caller = name_of_caller();
    let mut client = Client::connect()?;
    let mut by_path = None;
    loop {
        let fuse = options.request(place, caller.as_deref())?;
        let passing = match by_path {
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
            if denial.reason == Some(DenyReason::PassedNotGranted) && by_path.is_none() {
                by_path = Some(ByPath::NotGranted(denial));
                continue;
            }
            // Asked for all the same, so that it is written down.
        }
        let error = match client.mount_fuse_passing(fuse, passing) {
            Err(error) => error,
            made => return made,
        };
        match (by_path, error.kind()) {
            (None, ErrorKind::Changed) => by_path = Some(ByPath::Elsewhere(error)),
            (Some(ByPath::NotGranted(denial)), ErrorKind::Unreachable) => {
                return Err(error.advise(&Safe(&denial.message).to_string()));
            }
            (Some(ByPath::Elsewhere(first)), ErrorKind::Unreachable) => return Err(first),
            _ => return Err(error),
        }
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
