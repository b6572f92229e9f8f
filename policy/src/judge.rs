//! The decision.

use mountwarden_protocol::{
    AbsPath, Kind, Mount, MountAttributes, MountOptions, Operation, TmpfsInodes, TmpfsMode,
    TmpfsSize, Unmount,
};

use crate::denial::{Check, Denial, Obstacle};
use crate::grant::{BindTerms, FuseTerms, Grant, TmpfsTerms};
use crate::pattern;
use crate::protected::Protected;
use crate::{MountPermit, Peer, Permit, PermittedFuse, PermittedKind, UnmountPermit, Verdict};

pub(crate) fn judge<'p>(
    grants: &'p [Grant],
    protected: &Protected,
    peer: &Peer,
    operation: &Operation,
) -> Verdict<'p> {
    let own: Vec<&Grant> = grants
        .iter()
        .filter(|grant| grant.terms.subjects.cover(peer))
        .collect();
    if own.is_empty() {
        return Verdict::Denied(Denial::no_grant(peer, operation));
    }
    if let Some(place) = protected.hit_by(operation.target()) {
        return Verdict::Denied(Denial::protected(operation, place));
    }
    let mut nearest: Option<Obstacle<'_>> = None;
    for grant in &own {
        match consider(grant, peer, operation) {
            Ok(permit) => return Verdict::Allowed(permit),
            Err(check) if nearest.is_none_or(|other| check > other.check) => {
                nearest = Some(Obstacle { grant, check });
            }
            Err(_) => {}
        }
    }
    Verdict::Denied(Denial::not_granted(nearest, &own, peer, operation))
}

/// What one grant says: the permit, or the first check that fails.
fn consider<'p>(grant: &'p Grant, peer: &Peer, operation: &Operation) -> Result<Permit<'p>, Check> {
    let target = operation.target();
    let roots = grant.terms.target_roots(peer.uid);
    if !roots.iter().any(|root| target.is_beneath(root)) {
        return Err(Check::Target);
    }
    match operation {
        Operation::Mount(mount) => consider_mount(grant, peer, mount).map(Permit::Mount),
        Operation::Unmount(Unmount { target, lazy, id }) => Ok(Permit::Unmount(UnmountPermit {
            grant: &grant.name,
            target: target.clone(),
            lazy: *lazy,
            id: *id,
        })),
    }
}

fn consider_mount<'p>(
    grant: &'p Grant,
    peer: &Peer,
    mount: &Mount,
) -> Result<MountPermit<'p>, Check> {
    let mut attributes = grant.terms.force | restrictions(mount.options);
    if is_read_only(grant, &mount.kind) {
        attributes |= MountAttributes::READ_ONLY;
    }
    let kind = permitted(grant, peer, mount)?;
    Ok(MountPermit {
        grant: &grant.name,
        target: mount.target.clone(),
        kind,
        attributes,
        shared_target: grant.terms.shared_target,
    })
}

/// Whether the grant has only read-only mounts of this kind.
fn is_read_only(grant: &Grant, kind: &Kind) -> bool {
    let terms = &grant.terms;
    match kind {
        Kind::Bind { .. } => terms.bind.as_ref().is_some_and(|bind| bind.read_only),
        Kind::Block { .. } => terms.block.as_ref().is_some_and(|block| block.read_only),
        Kind::Fuse { .. } => terms.fuse.as_ref().is_some_and(|fuse| fuse.read_only),
        Kind::Tmpfs { .. } => false,
    }
}

/// The kind with every value decided, or the first check that fails.
fn permitted(grant: &Grant, peer: &Peer, mount: &Mount) -> Result<PermittedKind, Check> {
    match &mount.kind {
        Kind::Bind { source, recursive } => {
            let bind = grant.terms.bind.as_ref().ok_or(Check::Kind)?;
            check_bind(grant, bind, peer, source, *recursive)?;
            check_options(grant, mount.options)?;
            Ok(PermittedKind::Bind {
                source: source.clone(),
                recursive: *recursive,
            })
        }
        Kind::Tmpfs { size, inodes, mode } => {
            let tmpfs = grant.terms.tmpfs.ok_or(Check::Kind)?;
            check_options(grant, mount.options)?;
            let size = size.unwrap_or(tmpfs.max_size);
            let inodes = inodes.unwrap_or(tmpfs.max_inodes);
            check_tmpfs(tmpfs, size, inodes)?;
            Ok(PermittedKind::Tmpfs {
                size,
                inodes,
                mode: mode.unwrap_or(TmpfsMode::OWNER_ONLY),
                uid: peer.uid,
                gid: peer.gid,
            })
        }
        Kind::Block {
            device,
            filesystem,
            options,
        } => {
            let block = grant.terms.block.as_ref().ok_or(Check::Kind)?;
            let granted = grant.terms.devices(peer.uid);
            if !granted.iter().any(|pattern| is_device(pattern, device)) {
                return Err(Check::Device);
            }
            if !block.filesystems.contains(filesystem) {
                return Err(Check::Filesystem);
            }
            check_options(grant, mount.options)?;
            if block.refused(options.iter()).is_some() {
                return Err(Check::FilesystemOption);
            }
            Ok(PermittedKind::Block {
                device: device.clone(),
                filesystem: filesystem.clone(),
                options: options.clone(),
            })
        }
        Kind::Fuse { .. } => {
            let fuse = grant.terms.fuse.as_ref().ok_or(Check::Kind)?;
            check_options(grant, mount.options)?;
            permitted_fuse(fuse, peer, &mount.kind).map(PermittedKind::Fuse)
        }
    }
}

/// Whether a pattern describes the path of a device. Names that are not text are no
/// device's.
fn is_device(pattern: &AbsPath, device: &AbsPath) -> bool {
    let texts = (pattern.as_path().to_str(), device.as_path().to_str());
    matches!(texts, (Some(pattern), Some(device)) if pattern::matches(pattern, device))
}

fn permitted_fuse(terms: &FuseTerms, peer: &Peer, kind: &Kind) -> Result<PermittedFuse, Check> {
    let Kind::Fuse {
        subtype,
        source,
        allow_other,
        default_permissions,
        max_read,
    } = kind
    else {
        return Err(Check::Kind);
    };
    if !terms.has_subtype(subtype) {
        return Err(Check::Subtype);
    }
    if source
        .as_ref()
        .is_some_and(|source| !terms.has_source(source))
    {
        return Err(Check::SourceName);
    }
    if *allow_other && !terms.allow_other {
        return Err(Check::AllowOther);
    }
    Ok(PermittedFuse {
        subtype: subtype.clone(),
        source: source.clone(),
        allow_other: *allow_other,
        default_permissions: *default_permissions || terms.default_permissions,
        max_read: *max_read,
        uid: peer.uid,
        gid: peer.gid,
    })
}

fn check_bind(
    grant: &Grant,
    bind: &BindTerms,
    peer: &Peer,
    source: &AbsPath,
    recursive: bool,
) -> Result<(), Check> {
    let roots = grant.terms.source_roots(peer.uid);
    if !roots
        .iter()
        .any(|root| source == root || source.is_beneath(root))
    {
        return Err(Check::Source);
    }
    if recursive && !bind.recursive {
        return Err(Check::Recursive);
    }
    Ok(())
}

fn check_options(grant: &Grant, options: MountOptions) -> Result<(), Check> {
    let force = grant.terms.force;
    if options.contains(MountOptions::SUID) && force.contains(MountAttributes::NO_SUID) {
        return Err(Check::Suid);
    }
    if options.contains(MountOptions::DEV) && force.contains(MountAttributes::NO_DEV) {
        return Err(Check::Dev);
    }
    Ok(())
}

fn check_tmpfs(granted: TmpfsTerms, size: TmpfsSize, inodes: TmpfsInodes) -> Result<(), Check> {
    if size > granted.max_size {
        return Err(Check::Size);
    }
    if inodes > granted.max_inodes {
        return Err(Check::Inodes);
    }
    Ok(())
}

/// The attributes that the options ask for. What an option does not lift stays:
/// without `SUID` and `DEV`, a mount is `nosuid` and `nodev`.
fn restrictions(options: MountOptions) -> MountAttributes {
    [
        (
            options.contains(MountOptions::READ_ONLY),
            MountAttributes::READ_ONLY,
        ),
        (
            options.contains(MountOptions::NO_EXEC),
            MountAttributes::NO_EXEC,
        ),
        (
            options.contains(MountOptions::NO_SYMFOLLOW),
            MountAttributes::NO_SYMFOLLOW,
        ),
        (
            !options.contains(MountOptions::SUID),
            MountAttributes::NO_SUID,
        ),
        (
            !options.contains(MountOptions::DEV),
            MountAttributes::NO_DEV,
        ),
    ]
    .into_iter()
    .filter_map(|(wanted, attribute)| wanted.then_some(attribute))
    .collect()
}
