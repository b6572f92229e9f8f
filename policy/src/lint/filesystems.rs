//! Unwise grants of devices, of FUSE, of overlays and of network file systems.

use mountwarden_protocol::ImageType;

use crate::grant::{ANY_VALUE, Grant, ImageTerms, NetworkTerms, Terms};
use crate::loop_devices::LoopDevices;
use crate::pattern;

/// Names that the kernel gives to devices in the order in which it finds them: another
/// disk has the name after the next start.
const IN_ORDER: [&str; 6] = [
    "/dev/sda",
    "/dev/vda",
    "/dev/nvme0n1",
    "/dev/mmcblk0",
    "/dev/dm-0",
    "/dev/loop0",
];

pub(super) fn warnings(terms: &Terms) -> Vec<String> {
    let mut messages = Vec::new();
    let of_block = terms.block.iter().flat_map(|block| &block.devices);
    let of_fuse = terms.fuse.iter().flat_map(|fuse| &fuse.devices);
    for device in of_block.chain(of_fuse) {
        let text = device.to_string();
        if text.contains('*') && IN_ORDER.iter().any(|name| pattern::matches(&text, name)) {
            messages.push(format!(
                "the device pattern {text} stands for whole disks, the system's own among them; \
                 name the devices of this grant"
            ));
        } else if is_in_order(&text) {
            messages.push(format!(
                "the device {text} has its name by the order in which the kernel finds devices, \
                 and may be another after the next start; name it as in /dev/disk/by-id or \
                 /dev/mapper"
            ));
        }
    }
    if terms
        .fuse
        .as_ref()
        .is_some_and(|fuse| fuse.allow_other && !fuse.default_permissions)
    {
        messages.push(
            "allow_other without default_permissions lets a peer's program decide what other \
             users may do on its file system, and see what they do there"
                .to_owned(),
        );
    }
    if terms
        .fuse
        .as_ref()
        .is_some_and(|fuse| fuse.allow_other && !fuse.devices.is_empty())
    {
        messages.push(
            "device and allow_other in [grant.fuse] let a peer's program hold up the processes of \
             other users, in waits that not even SIGKILL ends; grant them apart"
                .to_owned(),
        );
    }
    if terms.overlay.as_ref().is_some_and(|o| !o.uppers.is_empty()) {
        messages.push(
            "upper grants nothing yet: no kernel that is known gives an upper layer to a helper \
             that holds CAP_SYS_ADMIN alone"
                .to_owned(),
        );
    }
    messages.extend(terms.network.iter().flat_map(network));
    messages.extend(terms.image.as_ref().and_then(image));
    messages
}

fn image(image: &ImageTerms) -> Option<String> {
    let wanted = image.filesystems.contains(&ImageType::Squashfs) && image.loop_devices.is_none();
    wanted.then(|| {
        "squashfs grants nothing: no kernel that is known reads it from a file; give the grant \
         loop_devices"
            .to_owned()
    })
}

/// Whoever may mount a device sees what others have in it.
pub(super) fn devices_of_images(terms: &Terms, grants: &[Grant]) -> Vec<String> {
    let devices = |grant: &Grant| grant.terms.image.as_ref()?.loop_devices;
    let shown = |pattern: &str| {
        grants.iter().find(|grant| {
            let mut names = devices(grant).into_iter().flat_map(LoopDevices::names);
            names.any(|name| pattern::matches(pattern, &format!("/dev/{name}")))
        })
    };
    let patterns = terms.block.iter().flat_map(|block| &block.devices);
    let found = patterns.filter_map(|pattern| Some((pattern, shown(&pattern.to_string())?)));
    found
        .map(|(pattern, other)| {
            format!(
                "the device pattern {pattern} stands for loop devices of the grant '{}', whose \
                 images could be mounted by it",
                other.name
            )
        })
        .collect()
}

/// Options that name the server, whatever the source says (`nfs(5)`, `mount.cifs(8)`).
const SERVER_KEYS: [&str; 5] = ["addr", "ip", "mountaddr", "mounthost", "mon_addr"];

/// Options that say who owns the files, or who asks for them.
const OWNER_KEYS: [&str; 5] = ["uid", "gid", "cruid", "dfltuid", "dfltgid"];

fn network(network: &NetworkTerms) -> Vec<String> {
    let mut messages = Vec::new();
    for option in &network.types.options {
        let any = option
            .value
            .as_ref()
            .is_some_and(|value| value.as_str() == ANY_VALUE);
        let key = option.key.as_str();
        if any && SERVER_KEYS.contains(&key) {
            messages.push(format!(
                "the option {option} lets a peer choose the server, whatever its source says; give \
                 the address"
            ));
        }
        if any && OWNER_KEYS.contains(&key) {
            messages.push(format!(
                "the option {option} lets a peer say who owns the files; give the number"
            ));
        }
    }
    if network
        .sources
        .iter()
        .any(|source| source == "*" || source.starts_with("*:"))
    {
        messages.push(
            "the source pattern stands for every server there is, and the kernel will parse what \
             they answer; name the servers of this grant"
                .to_owned(),
        );
    }
    messages
}

fn is_in_order(text: &str) -> bool {
    IN_ORDER.iter().any(|name| {
        let series = name.trim_end_matches("0n1").trim_end_matches(['a', '0']);
        text.starts_with(series)
    })
}
