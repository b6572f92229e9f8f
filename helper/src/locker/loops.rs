//! Loop devices for images that the kernel does not read from a file.
//!
//! A device lets go of its image when nothing uses it any more, and a process holds it until
//! the file system does: so whoever dies in between, none is left behind.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};

use mountwarden_policy::LoopDevices;
use nix::errno::Errno;

use super::{Refused, WORK, at, hand_over, layout};
use crate::sys::{loop_device, pinned, process};

/// Has the first device that is free show an image, and sends that device.
///
/// The server of the image's own file system is asked about it, so that this can take long.
pub(super) fn show(
    devices: &OwnedFd,
    image: &OwnedFd,
    of: u64,
    answer: &OwnedFd,
    number: u64,
) -> Result<(), Refused> {
    at(image, layout::BROUGHT)?;
    at(answer, layout::ANSWER)?;
    process::deadline(WORK)?;
    let of = LoopDevices::from_bits(of).ok_or(Errno::EINVAL)?;
    let mut unusable = None;
    let mut in_use = false;
    for name in of.names() {
        // Of no grant.
        let name = pinned::name(&name).ok_or(Errno::EINVAL)?;
        let device = match loop_device::open(devices.as_fd(), name) {
            Err(errno) => {
                unusable = Some(errno);
                continue;
            }
            Ok(device) => device,
        };
        at(&device, layout::NEXT)?;
        match loop_device::configure(device.as_fd(), image.as_fd()) {
            Err(Errno::EBUSY) => in_use = true,
            other => {
                other?;
                return Ok(hand_over(answer, &device, number)?);
            }
        }
    }
    let why = unusable.filter(|_| !in_use);
    Err(why.unwrap_or(Errno::EBUSY).into())
}
