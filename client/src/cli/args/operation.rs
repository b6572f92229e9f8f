//! The operation that the words describe.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mountwarden_protocol::{
    Detach as DetachRequest, Mount, MountAttributes, MountOptions, Operation, Passed,
    Unmount as UnmountRequest,
};

use super::{
    Attached, Change, Gains, Imaged, Kind, Layered, Losses, Networked, Served, Usual, advise,
    trimmed,
};
use crate::{
    Bind, Block, Detach, Error, Fuse, Image, Move, Network, Overlay, Remount, Tmpfs, Unmount,
};

impl Change {
    /// Where this command itself attaches what it gets, if it does.
    pub(in crate::cli) fn place(&self) -> PathBuf {
        match self {
            Self::Attach(attached) => attached.target.clone(),
            Self::Mount { .. }
            | Self::Unmount { .. }
            | Self::Remount { .. }
            | Self::Move { .. } => PathBuf::new(),
        }
    }

    /// The user namespace that is to be opened and passed, if one is.
    pub(in crate::cli) fn idmap(&self) -> Option<PathBuf> {
        match self {
            Self::Attach(Attached { mapped, .. })
            | Self::Mount {
                kind: Kind::Bind { mapped, .. },
            } => mapped.idmap.clone(),
            Self::Mount { .. }
            | Self::Unmount { .. }
            | Self::Remount { .. }
            | Self::Move { .. } => None,
        }
    }

    /// The operation that the words describe.
    pub(in crate::cli) fn into_operation(self) -> Result<Operation, Error> {
        Ok(match self {
            Self::Mount { kind } => kind.into_operation()?,
            Self::Unmount {
                target,
                lazy,
                id,
                pass,
            } => {
                let unmount = Unmount::new(trimmed(&target)).map_err(advise)?;
                let unmount = when(lazy, unmount, Unmount::lazy);
                Operation::Unmount(UnmountRequest {
                    passed: pass,
                    ..given(id, unmount, Unmount::id).into()
                })
            }
            Self::Remount {
                target,
                gains,
                losses,
                shown,
                filesystem,
                id,
            } => {
                let remount = Remount::new(trimmed(&target)).map_err(advise)?;
                let remount = given(id, remount.set(gains.attributes()), Remount::id);
                let losses = losses.attributes();
                match (shown.source, shown.device) {
                    (Some(source), _) => remount
                        .lift_from_bind(losses, trimmed(&source))
                        .map_err(advise)?,
                    (None, Some(device)) => {
                        let name = filesystem.unwrap_or_default();
                        remount
                            .lift_from_block(losses, trimmed(&device), &name)
                            .map_err(advise)?
                    }
                    (None, None) => when(shown.tmpfs, remount, |remount| {
                        remount.lift_from_tmpfs(losses)
                    }),
                }
                .into()
            }
            Self::Move { from, to, id } => {
                let moved = Move::new(trimmed(&from), trimmed(&to)).map_err(advise)?;
                given(id, moved, Move::id).into()
            }
            Self::Attach(attached) => Operation::Detach(DetachRequest {
                idmap: attached.mapped.idmap.is_some(),
                ..attached.detach()?.into()
            }),
        })
    }
}

impl Attached {
    /// What is to be handed over.
    fn detach(&self) -> Result<Detach, Error> {
        let detach = Detach::new(trimmed(&self.source)).map_err(advise)?;
        let detach = when(self.read_only, detach, Detach::read_only);
        let detach = when(self.recursive, detach, Detach::recursive);
        let detach = when(self.noexec, detach, Detach::no_exec);
        let detach = when(self.with.suid, detach, Detach::suid);
        Ok(when(self.with.dev, detach, Detach::dev))
    }
}

impl Kind {
    fn into_operation(self) -> Result<Operation, Error> {
        Ok(match self {
            Self::Bind {
                source,
                target,
                read_only,
                recursive,
                slave,
                shared,
                pass_source,
                mapped,
                usual,
            } => {
                let bind = Bind::new(trimmed(&source), trimmed(&target)).map_err(advise)?;
                let bind = when(read_only, bind, Bind::read_only);
                let bind = when(recursive, bind, Bind::recursive);
                let bind = when(slave, bind, Bind::slave);
                let bind = when(shared, bind, Bind::shared);
                let mut mount = usual.on(bind);
                mount.passed.set(Passed::SOURCE, pass_source);
                mount.passed.set(Passed::ID_MAP, mapped.idmap.is_some());
                Operation::Mount(mount)
            }
            Self::Tmpfs {
                target,
                size,
                inodes,
                mode,
                shared,
                usual,
            } => {
                let tmpfs = Tmpfs::new(trimmed(&target)).map_err(advise)?;
                let tmpfs = given(size, tmpfs, Tmpfs::size);
                let tmpfs = given(inodes, tmpfs, Tmpfs::inodes);
                let tmpfs = given(mode, tmpfs, Tmpfs::mode);
                let tmpfs = when(shared, tmpfs, Tmpfs::shared);
                Operation::Mount(usual.on(tmpfs))
            }
            Self::Block {
                device,
                target,
                filesystem,
                own,
                read_only,
                shared,
                usual,
            } => {
                let (device, target) = (trimmed(&device), trimmed(&target));
                let mut block = Block::new(device, &filesystem, target).map_err(advise)?;
                for option in &own {
                    let (key, value) = key_and_value(option);
                    block = block.option(key, value)?;
                }
                let block = when(read_only, block, Block::read_only);
                let block = when(shared, block, Block::shared);
                Operation::Mount(usual.on(block))
            }
            Self::Fuse(served) => served.operation()?,
            Self::Overlay(layered) => layered.into_operation()?,
            Self::Image(imaged) => imaged.operation()?,
            Self::Network(networked) => Operation::Mount(networked.usual.on(networked.network()?)),
        })
    }
}

fn key_and_value(option: &str) -> (&str, Option<&str>) {
    match option.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (option, None),
    }
}

/// A secret has at most as many bytes as the value of an option, and its line end.
const LONGEST_LINE: u64 = 257;

fn first_line(file: &str) -> Result<String, Error> {
    let mut text = String::new();
    File::open(file)
        .and_then(|file| file.take(LONGEST_LINE).read_to_string(&mut text))
        .map_err(|error| Error::unreadable(Path::new(file), &error))?;
    text.truncate(text.find('\n').unwrap_or(text.len()));
    Ok(text)
}

impl Usual {
    /// The mount with what was said of it.
    fn on(&self, mount: impl Into<Mount>) -> Mount {
        let mut mount = mount.into();
        mount.passed.set(Passed::TARGET, self.pass_target);
        mount.lease = self.lease;
        for (asked, option) in [
            (self.noexec, MountOptions::NO_EXEC),
            (self.nosymfollow, MountOptions::NO_SYMFOLLOW),
            (self.with.suid, MountOptions::SUID),
            (self.with.dev, MountOptions::DEV),
        ] {
            mount.options.set(option, asked);
        }
        mount
    }
}

impl Served {
    /// The file system that the words describe.
    pub(in crate::cli) fn fuse(&self) -> Result<Fuse, Error> {
        let fuse = Fuse::new(&self.subtype, trimmed(&self.target)).map_err(advise)?;
        let fuse = match (&self.device, &self.source) {
            (Some(device), _) => fuse
                .device(trimmed(device), self.block_size)
                .map_err(advise)?,
            (None, Some(source)) => fuse.source(source)?,
            (None, None) => fuse,
        };
        let fuse = when(self.allow_other, fuse, Fuse::allow_other);
        let fuse = when(self.default_permissions, fuse, Fuse::default_permissions);
        let fuse = given(self.max_read, fuse, Fuse::max_read);
        let fuse = when(self.read_only, fuse, Fuse::read_only);
        let fuse = when(self.shared, fuse, Fuse::shared);
        let fuse = when(self.usual.lease, fuse, Fuse::leased);
        let fuse = when(self.usual.noexec, fuse, Fuse::no_exec);
        let fuse = when(self.usual.nosymfollow, fuse, Fuse::no_symfollow);
        let fuse = when(self.usual.with.suid, fuse, Fuse::suid);
        Ok(when(self.usual.with.dev, fuse, Fuse::dev))
    }

    /// The same with what is to be opened and passed for it.
    pub(in crate::cli) fn operation(&self) -> Result<Operation, Error> {
        Ok(Operation::Mount(self.usual.on(self.fuse()?)))
    }
}

impl Imaged {
    fn operation(&self) -> Result<Operation, Error> {
        let (file, target) = (trimmed(&self.file), trimmed(&self.target));
        let image = Image::new(file, &self.filesystem, target).map_err(advise)?;
        let image = when(self.shared, image, Image::shared);
        Ok(Operation::Mount(self.usual.on(image)))
    }
}

impl Layered {
    fn into_operation(self) -> Result<Operation, Error> {
        let lower = self.lower.iter().map(|layer| trimmed(layer));
        let overlay = Overlay::new(lower, trimmed(&self.target)).map_err(advise)?;
        let overlay = match (self.upper, self.work) {
            (Some(upper), Some(work)) => overlay
                .upper(trimmed(&upper), trimmed(&work))
                .map_err(advise)?,
            _ => overlay,
        };
        let overlay = when(self.read_only, overlay, Overlay::read_only);
        let overlay = when(self.shared, overlay, Overlay::shared);
        Ok(Operation::Mount(self.usual.on(overlay)))
    }
}

impl Networked {
    /// The file system that the words describe.
    fn network(&self) -> Result<Network, Error> {
        let target = trimmed(&self.target);
        let mut network = Network::new(&self.source, &self.filesystem, target).map_err(advise)?;
        for option in &self.own {
            let (key, value) = key_and_value(option);
            network = network.option(key, value)?;
        }
        for secret in &self.secrets {
            let (key, file) = key_and_value(secret);
            network = network.secret(key, &first_line(file.unwrap_or_default())?)?;
        }
        let network = when(self.read_only, network, Network::read_only);
        Ok(when(self.shared, network, Network::shared))
    }
}

impl Gains {
    fn attributes(&self) -> MountAttributes {
        attributes([
            (self.read_only, MountAttributes::READ_ONLY),
            (self.noexec, MountAttributes::NO_EXEC),
            (self.nosymfollow, MountAttributes::NO_SYMFOLLOW),
            (self.nosuid, MountAttributes::NO_SUID),
            (self.nodev, MountAttributes::NO_DEV),
        ])
    }
}

impl Losses {
    fn attributes(&self) -> MountAttributes {
        attributes([
            (self.read_write, MountAttributes::READ_ONLY),
            (self.exec, MountAttributes::NO_EXEC),
            (self.symfollow, MountAttributes::NO_SYMFOLLOW),
            (self.suid, MountAttributes::NO_SUID),
            (self.dev, MountAttributes::NO_DEV),
        ])
    }
}

fn attributes(asked: [(bool, MountAttributes); 5]) -> MountAttributes {
    asked
        .into_iter()
        .filter_map(|(asked, attribute)| asked.then_some(attribute))
        .collect()
}

fn when<T>(asked: bool, builder: T, option: impl FnOnce(T) -> T) -> T {
    if asked { option(builder) } else { builder }
}

fn given<T, V>(value: Option<V>, builder: T, option: impl FnOnce(T, V) -> T) -> T {
    match value {
        Some(value) => option(builder, value),
        None => builder,
    }
}
