//! What the policy of the target grants, as its text has it.

use mountwarden_protocol::{
    AbsPath, FilesystemOptions, FuseSource, ImageType, Kind, MountOptions, Secrets, UpperLayer,
};

use super::Asked;

/// Whether it is granted beneath the target that was asked for.
pub(super) fn granted(asked: &Asked) -> bool {
    if !asked.strict {
        return by_open(&asked.kind);
    }
    let lifts = MountOptions::SUID | MountOptions::DEV;
    !asked.options.intersects(lifts) && by_strict(&asked.kind)
}

fn by_strict(kind: &Kind) -> bool {
    match kind {
        Kind::Tmpfs { size, inodes, .. } => {
            size.is_none_or(|size| size.get() <= 1 << 30)
                && inodes.is_none_or(|inodes| inodes.get() <= 4096)
        }
        Kind::Block {
            device,
            filesystem,
            options,
        } => {
            is_device(device)
                && ["ext4", "xfs"].contains(&filesystem.as_str())
                && only(options, |option| {
                    option == "noatime" || option == "commit=5" || option.starts_with("data=")
                })
        }
        Kind::Fuse {
            subtype,
            source,
            allow_other,
            ..
        } => {
            let subtype = subtype.as_str();
            let is_source = match source {
                FuseSource::Subtype => true,
                FuseSource::Named(name) => is_one_more(name.as_str(), "host:"),
                FuseSource::Device { .. } => false,
            };
            (subtype == "sshfs" || subtype.starts_with("vol-")) && !allow_other && is_source
        }
        Kind::Overlay { lower, upper } => {
            lower.iter().all(|layer| is_within(layer, "/srv/layers"))
                && upper.as_ref().is_none_or(|UpperLayer { upper, work }| {
                    is_within(upper, "/srv/upper") && is_within(work, "/srv/upper")
                })
        }
        Kind::Image { file, .. } => is_within(file, "/srv/images"),
        Kind::Network {
            source,
            filesystem,
            options,
            secrets,
        } => {
            is_one_more(source.as_str(), "files:/srv/vm-")
                && ["nfs4", "cifs"].contains(&filesystem.as_str())
                && only(options, |option| {
                    ["addr=192.0.2.7", "soft"].contains(&option) || option.starts_with("username=")
                })
                && all_keys(secrets, &["password", "pass2"])
        }
        Kind::Bind { .. } => false,
    }
}

fn by_open(kind: &Kind) -> bool {
    match kind {
        Kind::Tmpfs { .. } => true,
        Kind::Block {
            device,
            filesystem,
            options,
        } => {
            is_device(device)
                && filesystem.as_str() == "ext4"
                && only(options, |option| option.starts_with("data="))
        }
        Kind::Fuse { source, .. } => match source {
            FuseSource::Subtype => true,
            FuseSource::Named(name) => is_one_more(name.as_str(), ""),
            FuseSource::Device { device, .. } => is_device(device),
        },
        Kind::Overlay { lower, upper } => {
            lower.iter().all(|layer| is_within(layer, "/srv/layers"))
                && upper.is_none()
                && lower.count() <= 2
        }
        Kind::Image { file, filesystem } => {
            is_within(file, "/srv/images") && *filesystem == ImageType::Squashfs
        }
        Kind::Network {
            source,
            filesystem,
            options,
            secrets,
        } => {
            source.as_str() == "tag"
                && filesystem.as_str() == "9p"
                && only(options, |option| option == "trans=virtio")
                && all_keys(secrets, &[])
        }
        Kind::Bind { .. } => false,
    }
}

fn is_within(path: &AbsPath, root: &str) -> bool {
    let path = path.to_string();
    path == root || path.starts_with(&format!("{root}/"))
}

/// As `/dev/vg0/*`: the device itself, and nothing beneath.
fn is_device(path: &AbsPath) -> bool {
    is_one_more(&path.to_string(), "/dev/vg0/")
}

/// As a pattern that ends in `*`.
fn is_one_more(text: &str, start: &str) -> bool {
    let rest = text.strip_prefix(start);
    rest.is_some_and(|rest| !rest.contains('/'))
}

fn only(options: &FilesystemOptions, wanted: fn(&str) -> bool) -> bool {
    options.iter().all(|option| wanted(&option.to_string()))
}

fn all_keys(secrets: &Secrets, granted: &[&str]) -> bool {
    secrets.keys().all(|key| granted.contains(&key.as_str()))
}
