//! `-u`, and the end of what was mounted with `auto_unmount`.

use std::os::fd::OwnedFd;
use std::path::Path;

use mountwarden_protocol::MountId;
use mountwarden_protocol::escape::SafePath;

use super::seen;
use crate::{Client, Error, ErrorKind, Unmount};

/// Why nothing was unmounted.
pub(super) struct Failed {
    pub(super) message: String,
    /// Whether the place or the helper says so, which `-q` keeps silent about; what keeps one
    /// from asking is told even then.
    pub(super) is_answer: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            message: error.to_string(),
            is_answer: error.reply().is_some(),
        }
    }
}

/// Ends a FUSE file system of the caller's; root's caller may end any mount, as with the real
/// program. What the grant says is the helper's to look at.
pub(super) fn unmount(place: &Path, lazy: bool) -> Result<(), Failed> {
    let seen = seen::at(place).map_err(|message| Failed {
        message,
        is_answer: false,
    })?;
    let uid = nix::unistd::getuid();
    match seen {
        Some(seen) if uid.is_root() || seen.user == Some(uid.as_raw()) => {
            let id = seen.id;
            // It would be busy.
            drop(seen);
            Ok(end(place, id, lazy)?)
        }
        _ => Err(Failed {
            message: format!(
                "no FUSE file system of yours is mounted at {}",
                SafePath(place)
            ),
            is_answer: true,
        }),
    }
}

/// Ends that mount. Where the helper cannot reach the directory above it, its root is passed,
/// which itself keeps the mount in use, so that it can only be ended lazily.
pub(super) fn end(place: &Path, id: MountId, lazy: bool) -> Result<(), Error> {
    let mut client = Client::connect()?;
    let by_path = Unmount::new(place)?.id(id);
    let by_path = if lazy { by_path.lazy() } else { by_path };
    match client.unmount(by_path) {
        Err(error) if error.kind() == ErrorKind::Unreachable => match root_of(place, id) {
            Some(root) => client.unmount_passing(Unmount::new(place)?.id(id).lazy(), &root),
            None => Err(error),
        },
        other => other,
    }
    .map(drop)
}

fn root_of(place: &Path, id: MountId) -> Option<OwnedFd> {
    let seen = seen::at(place).ok().flatten()?;
    (seen.id == id).then_some(seen.root)
}
