//! The calls that a request comes to, from the documents of the policy and of the kernel.

use mountwarden_protocol::{
    FilesystemOption, FilesystemOptions, FuseSource, ImageType, Kind, MountOptions, Secrets,
};
use nix::errno::Errno;

use super::Asked;

/// What the kernel is to be asked.
pub(super) struct Expected<'a> {
    pub(super) calls: Vec<String>,
    pub(super) faults: &'a [(usize, Errno)],
}

impl Expected<'_> {
    fn call(&mut self, text: String) -> Result<(), Errno> {
        let place = self.calls.len();
        self.calls.push(text);
        let fault = self.faults.iter().find(|(at, _)| *at == place);
        fault.map_or(Ok(()), |(_, errno)| Err(*errno))
    }

    fn string(&mut self, key: &str, value: &str) -> Result<(), Errno> {
        let value = value.as_bytes().escape_ascii();
        self.call(format!("0 string {key} = {value}"))
    }

    /// The options in their order, each by itself.
    fn own(&mut self, options: &FilesystemOptions, secrets: &Secrets) -> Result<(), Errno> {
        for FilesystemOption { key, value } in options.iter().chain(secrets.iter()) {
            match value {
                Some(value) => self.string(key.as_str(), value.as_str())?,
                None => self.call(format!("0 flag {key}"))?,
            }
        }
        Ok(())
    }

    fn read_only(&mut self, asked: &Asked) -> Result<(), Errno> {
        if is_read_only(asked) {
            self.call("0 flag ro".to_owned())?;
        }
        Ok(())
    }

    fn made(&mut self, asked: &Asked) -> Result<(), Errno> {
        self.call("0 create".to_owned())?;
        self.mounted(asked)
    }

    fn mounted(&mut self, asked: &Asked) -> Result<(), Errno> {
        self.call(format!("0 fsmount {:#x}", attributes(asked)))
    }

    pub(super) fn mount(&mut self, asked: &Asked) -> Result<(), Errno> {
        match &asked.kind {
            Kind::Tmpfs { size, inodes, mode } => {
                let granted: u64 = if asked.strict {
                    1 << 30
                } else {
                    i64::MAX.unsigned_abs()
                };
                let files = if asked.strict { 4096 } else { granted };
                self.call("fsopen tmpfs".to_owned())?;
                self.string("source", "mountwarden")?;
                self.string("size", &size.map_or(granted, Into::into).to_string())?;
                self.string("nr_inodes", &inodes.map_or(files, Into::into).to_string())?;
                let mode = mode.map_or(0o700, Into::into);
                self.string("mode", &format!("{mode:o}"))?;
                self.string("uid", &asked.peer.uid.to_string())?;
                self.string("gid", &asked.peer.gid.to_string())?;
                self.made(asked)
            }
            Kind::Block {
                filesystem,
                options,
                ..
            } => {
                self.call(format!("fsopen {filesystem}"))?;
                self.string("source", "/proc/self/fd/8")?;
                self.read_only(asked)?;
                self.own(options, &Secrets::default())?;
                self.made(asked)?;
                // Another device, where the type tells one.
                if asked.shown == (8, 2) {
                    return Err(Errno::ESTALE);
                }
                Ok(())
            }
            Kind::Network {
                source,
                filesystem,
                options,
                secrets,
            } => {
                self.call(format!("fsopen {filesystem}"))?;
                self.string("source", source.as_str())?;
                self.read_only(asked)?;
                self.own(options, secrets)?;
                self.made(asked)
            }
            Kind::Overlay { lower, upper } => {
                self.call("fsopen overlay".to_owned())?;
                self.string("source", "mountwarden")?;
                self.string("redirect_dir", "nofollow")?;
                self.string("metacopy", "off")?;
                let mut keys = vec!["lowerdir+"; lower.count()];
                if upper.is_some() {
                    keys.splice(..0, ["upperdir", "workdir"]);
                }
                for (key, number) in keys.into_iter().zip(8..) {
                    self.string(key, &format!("/proc/self/fd/{number}"))?;
                }
                self.made(asked)
            }
            Kind::Image { filesystem, .. } => self.image(asked, *filesystem),
            Kind::Fuse { .. } => self.fuse(asked),
            Kind::Bind { .. } => Ok(()),
        }
    }

    /// From the file itself; from a loop device, where the kernel wants one and it is granted.
    fn image(&mut self, asked: &Asked, filesystem: ImageType) -> Result<(), Errno> {
        self.call(format!("fsopen {filesystem}"))?;
        let mut from_file = || {
            self.string("source", "/proc/self/fd/8")?;
            self.call("0 flag ro".to_owned())?;
            self.call("0 create".to_owned())
        };
        match from_file() {
            Err(Errno::ENOTBLK) if asked.strict => {}
            other => {
                other?;
                return self.mounted(asked);
            }
        }
        self.call("loop [100, 101, 102, 103]".to_owned())?;
        // The device is what was made second, and the context of it third.
        self.call(format!("fsopen {filesystem}"))?;
        self.call("2 string source = /proc/self/fd/9".to_owned())?;
        self.call("2 flag ro".to_owned())?;
        self.call("2 create".to_owned())?;
        self.call(format!("2 fsmount {:#x}", attributes(asked)))?;
        match asked.shown {
            (0, _) => Ok(()),
            _ => Err(Errno::ESTALE),
        }
    }

    fn fuse(&mut self, asked: &Asked) -> Result<(), Errno> {
        let Kind::Fuse {
            subtype,
            source,
            allow_other,
            default_permissions,
            max_read,
        } = &asked.kind
        else {
            return Ok(());
        };
        let on_device = matches!(source, FuseSource::Device { .. });
        let name = if on_device { "fuseblk" } else { "fuse" };
        self.call(format!("fsopen {name}"))?;
        match source {
            FuseSource::Subtype => {
                self.string("fd", "8")?;
                self.string("source", subtype.as_str())?;
            }
            FuseSource::Named(shown) => {
                self.string("fd", "8")?;
                self.string("source", shown.as_str())?;
            }
            FuseSource::Device { block_size, .. } => {
                self.string("fd", "10")?;
                self.string("source", "/proc/self/fd/8")?;
                self.read_only(asked)?;
                if let Some(size) = block_size {
                    self.string("blksize", &u32::from(*size).to_string())?;
                }
            }
        }
        self.string("subtype", subtype.as_str())?;
        let root = if asked.given.target_mode == 0o100_644 {
            "100000"
        } else {
            "40000"
        };
        self.string("rootmode", root)?;
        self.string("user_id", &asked.peer.uid.to_string())?;
        self.string("group_id", &asked.peer.gid.to_string())?;
        if let Some(bytes) = max_read {
            self.string("max_read", &bytes.to_string())?;
        }
        if *allow_other {
            self.call("0 flag allow_other".to_owned())?;
        }
        if *default_permissions || !asked.strict {
            self.call("0 flag default_permissions".to_owned())?;
        }
        match self.call("0 create new".to_owned()) {
            // An old kernel; of a device it could show another's.
            Err(Errno::EOPNOTSUPP) if !on_device => self.call("0 create".to_owned())?,
            other => other?,
        }
        self.mounted(asked)?;
        if on_device && asked.shown != asked.given.device {
            return Err(Errno::ESTALE);
        }
        Ok(())
    }
}

/// Whether it is asked for or forced.
fn is_read_only(asked: &Asked) -> bool {
    let forced = match &asked.kind {
        Kind::Image { .. } | Kind::Overlay { upper: None, .. } => true,
        Kind::Block { .. } | Kind::Fuse { .. } | Kind::Network { .. } => !asked.strict,
        _ => false,
    };
    forced || asked.options.contains(MountOptions::READ_ONLY)
}

/// The bits of `mount_setattr(2)`.
fn attributes(asked: &Asked) -> u64 {
    let has = |option| asked.options.contains(option);
    let mut bits = 0;
    for (is_set, bit) in [
        (is_read_only(asked), 1),
        (asked.strict || !has(MountOptions::SUID), 2),
        (asked.strict || !has(MountOptions::DEV), 4),
        (has(MountOptions::NO_EXEC), 8),
        (has(MountOptions::NO_SYMFOLLOW), 0x20_0000),
    ] {
        if is_set {
            bits |= bit;
        }
    }
    bits
}
