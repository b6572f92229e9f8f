//! The mounter, as far as it makes file systems.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use mountwarden_policy::{MountPermit, PermittedKind, Policy};
use mountwarden_protocol::{ErrorReply, FuseSource};
use nix::errno::Errno;

use self::device::Device;
use self::location::Location;
use crate::locker::Locking;
use crate::sys::pinned;
use crate::table::Table;

#[path = "../../../helper/src/mounter/filesystem.rs"]
mod filesystem;

mod device {
    use std::os::fd::OwnedFd;

    use mountwarden_protocol::{AbsPath, ErrorReply};

    use crate::table::Table;

    /// One that was checked.
    pub(super) struct Device {
        pub(super) number: (u32, u32),
        pub(super) _file: Option<OwnedFd>,
    }

    impl Device {
        #[expect(clippy::unnecessary_wraps, reason = "the helper's can fail")]
        pub(super) fn of_image(_: &Table, file: OwnedFd, _: &AbsPath) -> Result<Self, ErrorReply> {
            Ok(Self {
                number: (7, 100),
                _file: Some(file),
            })
        }
    }
}

mod location {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use mountwarden_protocol::{AbsPath, ErrorReply};

    /// One that was checked.
    pub(super) struct Location {
        pub(super) path: AbsPath,
        pub(super) file: OwnedFd,
    }

    impl Location {
        #[expect(clippy::unnecessary_wraps, reason = "the helper's can fail")]
        pub(super) fn check_shareable(&self) -> Result<(), ErrorReply> {
            let _ = &self.path;
            Ok(())
        }
    }

    impl AsFd for Location {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.file.as_fd()
        }
    }
}

/// What is known of the descriptors that came with a request.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    /// The number of the device.
    pub device: (u32, u32),
    /// Type and permission bits of the target.
    pub target_mode: u32,
}

/// Makes what is permitted, as `build` in the helper's `mounter/mount.rs` has it made; `None`
/// for a bind. All calls in one process are for one policy: its names are pinned once.
pub fn make(
    policy: &Policy,
    permit: &MountPermit<'_>,
    given: Given,
) -> Option<Result<OwnedFd, ErrorReply>> {
    static PINNED: OnceLock<Result<(), Errno>> = OnceLock::new();
    let pin = || pinned::pin_names(policy.kernel_names().iter().map(|name| &**name));
    let failed = |errno| crate::failure::kernel("cannot make", &permit.target, errno);
    if let Err(errno) = PINNED.get_or_init(pin) {
        return Some(Err(failed(*errno)));
    }
    let (attributes, path) = (permit.attributes, &permit.target);
    let device = Device {
        number: given.device,
        _file: None,
    };
    let table = &Table::Calls;
    Some(match &permit.kind {
        PermittedKind::Bind { .. } => return None,
        PermittedKind::Tmpfs { .. } => filesystem::tmpfs(&permit.kind, attributes).map_err(failed),
        PermittedKind::Block {
            device: name,
            filesystem,
            options,
        } => filesystem::block(table, &device, name, filesystem, options, attributes),
        PermittedKind::Fuse(fuse) => {
            let device = matches!(fuse.source, FuseSource::Device { .. }).then_some(&device);
            filesystem::fuse(fuse, device, given.target_mode, path, attributes)
        }
        PermittedKind::Overlay(overlay) => {
            filesystem::overlay(overlay, &mut Vec::new(), path, attributes)
        }
        PermittedKind::Image {
            file,
            filesystem,
            loop_devices,
        } => {
            let image = match std::fs::File::open("/dev/null") {
                Ok(opened) => Location {
                    path: file.clone(),
                    file: opened.into(),
                },
                Err(_) => return Some(Err(failed(Errno::ENOENT))),
            };
            let devices = loop_devices.map(|devices| (devices, &Locking));
            filesystem::image(table, &image, *filesystem, devices, attributes)
        }
        PermittedKind::Network { .. } => filesystem::network(&permit.kind, path, attributes),
    })
}
