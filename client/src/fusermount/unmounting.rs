//! `-u`, and the end of what was mounted with `auto_unmount`.

use std::path::Path;

use mountwarden_protocol::MountId;
use mountwarden_protocol::escape::SafePath;

use crate::{Client, Error, ErrorKind, Unmount, seen};

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

/// Ends a FUSE file system of the caller's; for root, whatever is there, as with the real
/// program. What the grant says is the helper's to look at.
pub(super) fn unmount(place: &Path, lazy: bool) -> Result<(), Failed> {
    let uid = nix::unistd::getuid();
    if uid.is_root() {
        return Ok(end(place, None, lazy)?);
    }
    let failed = |error| Failed {
        message: format!("failed to access mountpoint {}: {error}", SafePath(place)),
        is_answer: false,
    };
    let seen = seen::at(place).map_err(failed)?;
    let own = seen.filter(|seen| seen.line.user == Some(uid.as_raw()));
    let own = own.ok_or_else(|| Failed {
        message: format!(
            "no FUSE file system of yours is mounted at {}",
            SafePath(place)
        ),
        is_answer: true,
    })?;
    let (id, line) = (own.id().map_err(failed)?, own.line.clone());
    // It would be busy.
    drop(own);
    let id = line.id_at_helper(id, &mut Client::connect()?)?;
    Ok(end(place, Some(id), lazy)?)
}

/// Ends the mount at a place, or only that one. Where the helper cannot reach the directory above
/// it, its root is passed, which itself keeps the mount in use, so that it can only be ended
/// lazily.
pub(super) fn end(place: &Path, id: Option<MountId>, lazy: bool) -> Result<(), Error> {
    let unmount = Unmount::new(place)?;
    let unmount = match id {
        Some(id) => unmount.id(id),
        None => unmount,
    };
    let (lazily, by_path) = (unmount.clone().lazy(), unmount);
    let by_path = if lazy { lazily.clone() } else { by_path };
    let mut client = Client::connect()?;
    match client.unmount(by_path) {
        Err(error) if error.kind() == ErrorKind::Unreachable => match seen::at(place) {
            Ok(Some(seen)) => client.unmount_passing(lazily, &seen.root),
            _ => Err(error),
        },
        other => other,
    }
    .map(drop)
}
