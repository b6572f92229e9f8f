//! The decision.

use mountwarden_protocol::{
    AbsPath, Detach, FilesystemName, FuseSource, Kind, Layers, Lift, Mount, MountAttributes,
    MountOptions, Move, NetworkSource, Operation, Passed, Propagation, Remount, TmpfsInodes,
    TmpfsMode, TmpfsSize, Unmount, UpperLayer,
};

use crate::denial::{Asked, Check, Denial, Obstacle};
use crate::grant::{BindTerms, FuseTerms, Grant, NetworkTerms, TmpfsTerms, is_within};
use crate::pattern;
use crate::protected::Protected;
use crate::{
    DetachPermit, MountPermit, MovePermit, Peer, Permit, PermittedFuse, PermittedIdmap,
    PermittedKind, PermittedLift, PermittedOverlay, RemountPermit, UnmountPermit, Verdict,
};

pub(crate) fn judge<'p>(
    grants: &'p [Grant],
    protected: &Protected,
    peer: &Peer,
    operation: &Operation,
) -> Verdict<'p> {
    let asked = Asked::of(operation);
    let own = match operation.target() {
        Some(_) => own_at(grants, protected, peer, asked),
        None => own(grants, peer, asked),
    };
    let own = match own {
        Ok(own) => own,
        Err(denial) => return Verdict::Denied(denial),
    };
    if let Operation::Mount(mount) = operation
        && mount.propagation == Propagation::Shared
        && let Some(source) = operation.source()
        && let Some(place) = protected.hit_by(source)
    {
        return Verdict::Denied(Denial::shares_protected(source, place));
    }
    if let Operation::Move(asked) = operation
        && let Some(place) = protected.hit_by(&asked.from)
    {
        let from = Asked {
            verb: "moving",
            path: &asked.from,
        };
        return Verdict::Denied(Denial::protected(from, place));
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

/// Whether a peer may know how the file system at `target` fares: whoever may mount or
/// unmount there. Gives the name of the grant.
pub(crate) fn judge_probe<'p>(
    grants: &'p [Grant],
    protected: &Protected,
    peer: &Peer,
    target: &AbsPath,
) -> Result<&'p str, Denial> {
    let asked = Asked {
        verb: "probing",
        path: target,
    };
    let own = own_at(grants, protected, peer, asked)?;
    let covering = own.iter().find(|grant| covers(grant, peer, target));
    match covering {
        Some(grant) => Ok(&grant.name),
        None => Err(Denial::target_not_granted(&own, peer, asked)),
    }
}

/// The grants of a peer, which has some.
fn own<'p>(grants: &'p [Grant], peer: &Peer, asked: Asked<'_>) -> Result<Vec<&'p Grant>, Denial> {
    let own: Vec<&Grant> = grants
        .iter()
        .filter(|grant| grant.terms.subjects.cover(peer))
        .collect();
    if own.is_empty() {
        return Err(Denial::no_grant(peer, asked));
    }
    Ok(own)
}

/// The same, for a target that may be touched at all.
fn own_at<'p>(
    grants: &'p [Grant],
    protected: &Protected,
    peer: &Peer,
    asked: Asked<'_>,
) -> Result<Vec<&'p Grant>, Denial> {
    let own = own(grants, peer, asked)?;
    match protected.hit_by(asked.path) {
        Some(place) => Err(Denial::protected(asked, place)),
        None => Ok(own),
    }
}

/// Whether a target lies beneath a root of the grant.
fn covers(grant: &Grant, peer: &Peer, target: &AbsPath) -> bool {
    let roots = grant.terms.target_roots(peer.uid);
    roots.iter().any(|root| target.is_beneath(root))
}

/// What one grant says: the permit, or the first check that fails.
fn consider<'p>(grant: &'p Grant, peer: &Peer, operation: &Operation) -> Result<Permit<'p>, Check> {
    if operation
        .target()
        .is_some_and(|target| !covers(grant, peer, target))
    {
        return Err(Check::Target);
    }
    match operation {
        Operation::Mount(mount) => consider_mount(grant, peer, mount).map(Permit::Mount),
        Operation::Unmount(unmount) => consider_unmount(grant, unmount).map(Permit::Unmount),
        Operation::Remount(remount) => consider_remount(grant, peer, remount).map(Permit::Remount),
        Operation::Detach(detach) => consider_detach(grant, peer, detach).map(Permit::Detach),
        Operation::Move(asked) => consider_move(grant, peer, asked).map(Permit::Move),
    }
}

fn consider_mount<'p>(
    grant: &'p Grant,
    peer: &Peer,
    mount: &Mount,
) -> Result<MountPermit<'p>, Check> {
    check_kind(grant, peer, &mount.kind)?;
    check_options(grant, mount.options)?;
    let propagation = mount.propagation;
    if propagation != Propagation::Private && !grant.terms.propagation.contains(&propagation) {
        return Err(Check::Propagation);
    }
    let kind = permitted(grant, peer, &mount.kind)?;
    check_passed(grant, mount)?;
    Ok(MountPermit {
        grant: &grant.name,
        target: mount.target.clone(),
        kind,
        attributes: grant.terms.forced(&mount.kind) | restrictions(mount.options),
        shared_target: grant.terms.shared_target,
        propagation,
        passed: mount.passed,
        target_owner: grant.terms.target.own.then_some(peer.uid),
        lease: mount.lease,
        idmap: permitted_idmap(grant, peer, mount.passed.contains(Passed::ID_MAP))?,
    })
}

/// What is lifted, the peer could have left out when it made the mount; so a
/// remount gives nobody more than an unmount and a mount.
fn consider_remount<'p>(
    grant: &'p Grant,
    peer: &Peer,
    remount: &Remount,
) -> Result<RemountPermit<'p>, Check> {
    if !grant.terms.remount {
        return Err(Check::Remount);
    }
    let mut set = remount.set | grant.terms.force;
    let mut permitted_lift = None;
    if let Some(Lift { attributes, kind }) = &remount.lift {
        check_kind(grant, peer, kind)?;
        let forced = grant.terms.forced(kind);
        if attributes.intersects(forced) {
            return Err(Check::Forced);
        }
        set |= forced;
        permitted_lift = Some(PermittedLift {
            attributes: *attributes,
            kind: permitted(grant, peer, kind)?,
        });
    }
    Ok(RemountPermit {
        grant: &grant.name,
        target: remount.target.clone(),
        set,
        lift: permitted_lift,
        id: remount.id,
    })
}

/// It is attached nowhere here, so that the grant's target roots say nothing of it.
fn consider_detach<'p>(
    grant: &'p Grant,
    peer: &Peer,
    detach: &Detach,
) -> Result<DetachPermit<'p>, Check> {
    if !grant.terms.detached {
        return Err(Check::Detached);
    }
    let bind = grant.terms.bind.as_ref().ok_or(Check::Kind)?;
    let (source, recursive) = (detach.source.clone(), detach.recursive);
    check_bind(grant, bind, peer, &source, recursive)?;
    check_options(grant, detach.options)?;
    let kind = Kind::Bind { source, recursive };
    Ok(DetachPermit {
        grant: &grant.name,
        source: detach.source.clone(),
        recursive,
        owner: bind.source.own.then_some(peer.uid),
        attributes: grant.terms.forced(&kind) | restrictions(detach.options),
        idmap: permitted_idmap(grant, peer, detach.idmap)?,
    })
}

/// Nothing says who made the mount, or as what. So it must have what every mount of this grant
/// has, and both places must be this grant's.
fn consider_move<'p>(grant: &'p Grant, peer: &Peer, asked: &Move) -> Result<MovePermit<'p>, Check> {
    if !grant.terms.moves {
        return Err(Check::Move);
    }
    if !covers(grant, peer, &asked.from) {
        return Err(Check::MoveFrom);
    }
    let mut attributes = grant.terms.force;
    if grant.terms.read_only_kinds().all(|read_only| read_only) {
        attributes |= MountAttributes::READ_ONLY;
    }
    Ok(MovePermit {
        grant: &grant.name,
        from: asked.from.clone(),
        to: asked.to.clone(),
        id: asked.id,
        attributes,
        target_owner: grant.terms.target.own.then_some(peer.uid),
    })
}

/// Whether the kind, and its source, are granted at all.
fn check_kind(grant: &Grant, peer: &Peer, kind: &Kind) -> Result<(), Check> {
    match kind {
        Kind::Bind { source, recursive } => {
            let bind = grant.terms.bind.as_ref().ok_or(Check::Kind)?;
            check_bind(grant, bind, peer, source, *recursive)
        }
        Kind::Tmpfs { .. } => grant.terms.tmpfs.map(drop).ok_or(Check::Kind),
        Kind::Block { filesystem, .. } => {
            let block = grant.terms.block.as_ref().ok_or(Check::Kind)?;
            check_device(grant, peer, kind)?;
            let granted = block.types.filesystems.contains(filesystem);
            granted.then_some(()).ok_or(Check::Filesystem)
        }
        Kind::Fuse { .. } => {
            grant.terms.fuse.as_ref().ok_or(Check::Kind)?;
            check_device(grant, peer, kind)
        }
        Kind::Overlay { lower, upper } => check_overlay(grant, peer, lower, upper.as_ref()),
        Kind::Image { file, filesystem } => {
            let image = grant.terms.image.as_ref().ok_or(Check::Kind)?;
            if !is_within(&grant.terms.image_roots(peer.uid), file) {
                return Err(Check::Source);
            }
            let granted = image.filesystems.contains(filesystem);
            granted.then_some(()).ok_or(Check::Filesystem)
        }
        Kind::Network {
            source, filesystem, ..
        } => {
            let network = grant.terms.network.as_ref().ok_or(Check::Kind)?;
            check_network(network, source, filesystem)
        }
    }
}

/// The kind with every value decided.
fn permitted(grant: &Grant, peer: &Peer, kind: &Kind) -> Result<PermittedKind, Check> {
    match kind {
        Kind::Bind { source, recursive } => {
            let bind = grant.terms.bind.as_ref().ok_or(Check::Kind)?;
            Ok(PermittedKind::Bind {
                source: source.clone(),
                recursive: *recursive,
                owner: bind.source.own.then_some(peer.uid),
            })
        }
        Kind::Tmpfs { size, inodes, mode } => {
            let tmpfs = grant.terms.tmpfs.ok_or(Check::Kind)?;
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
            if block.types.refused(options.iter()).is_some() {
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
            permitted_fuse(fuse, peer, kind).map(PermittedKind::Fuse)
        }
        Kind::Overlay { lower, upper } => Ok(PermittedKind::Overlay(PermittedOverlay {
            lower: lower.clone(),
            upper: upper.clone(),
        })),
        Kind::Image { file, filesystem } => {
            let image = grant.terms.image.as_ref().ok_or(Check::Kind)?;
            Ok(PermittedKind::Image {
                file: file.clone(),
                filesystem: *filesystem,
                loop_devices: image.loop_devices,
            })
        }
        Kind::Network {
            source,
            filesystem,
            options,
            secrets,
        } => {
            let network = grant.terms.network.as_ref().ok_or(Check::Kind)?;
            if network.types.refused(options.iter()).is_some() {
                return Err(Check::FilesystemOption);
            }
            if network.refused_secret(secrets).is_some() {
                return Err(Check::Secret);
            }
            Ok(PermittedKind::Network {
                source: source.clone(),
                filesystem: filesystem.clone(),
                options: options.clone(),
                secrets: secrets.clone(),
            })
        }
    }
}

/// Whether the device of a kind is granted, where there is one.
fn check_device(grant: &Grant, peer: &Peer, kind: &Kind) -> Result<(), Check> {
    let Some(device) = kind.source() else {
        return Ok(());
    };
    let granted = grant.terms.devices(kind, peer.uid);
    if granted.iter().any(|pattern| is_device(pattern, device)) {
        Ok(())
    } else {
        Err(Check::Device)
    }
}

fn check_network(
    network: &NetworkTerms,
    source: &NetworkSource,
    filesystem: &FilesystemName,
) -> Result<(), Check> {
    if !network.has_source(source) {
        return Err(Check::NetworkSource);
    }
    if !network.types.filesystems.contains(filesystem) {
        return Err(Check::Filesystem);
    }
    Ok(())
}

fn check_overlay(
    grant: &Grant,
    peer: &Peer,
    lower: &Layers,
    upper: Option<&UpperLayer>,
) -> Result<(), Check> {
    let overlay = grant.terms.overlay.as_ref().ok_or(Check::Kind)?;
    if grant.terms.refused_layer(lower, peer.uid).is_some() {
        return Err(Check::Source);
    }
    if lower.count() > overlay.max_layers {
        return Err(Check::Layers);
    }
    if upper.is_some_and(|layer| grant.terms.refused_upper(layer, peer.uid).is_some()) {
        return Err(Check::Upper);
    }
    Ok(())
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
    if let FuseSource::Named(name) = source
        && !terms.has_source(name)
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

fn consider_unmount<'p>(grant: &'p Grant, unmount: &Unmount) -> Result<UnmountPermit<'p>, Check> {
    if unmount.passed && !grant.terms.target.passed {
        return Err(Check::PassedTarget);
    }
    Ok(UnmountPermit {
        grant: &grant.name,
        target: unmount.target.clone(),
        lazy: unmount.lazy,
        id: unmount.id,
        passed: unmount.passed,
    })
}

/// What the grant takes as a descriptor: of sources, only a bind's.
fn check_passed(grant: &Grant, mount: &Mount) -> Result<(), Check> {
    if mount.passed.contains(Passed::TARGET) && !grant.terms.target.passed {
        return Err(Check::PassedTarget);
    }
    let source = match (&mount.kind, &grant.terms.bind) {
        (Kind::Bind { .. }, Some(bind)) => bind.source.passed,
        _ => false,
    };
    if mount.passed.contains(Passed::SOURCE) && !source {
        return Err(Check::PassedSource);
    }
    if mount.passed.contains(Passed::ID_MAP) && !matches!(mount.kind, Kind::Bind { .. }) {
        return Err(Check::Idmap);
    }
    Ok(())
}

/// Only the extents that the mounter will find are not judged here.
fn permitted_idmap(
    grant: &Grant,
    peer: &Peer,
    asked: bool,
) -> Result<Option<PermittedIdmap>, Check> {
    if !asked {
        return Ok(None);
    }
    let terms = grant
        .terms
        .bind
        .as_ref()
        .and_then(|bind| bind.idmap.as_ref());
    let terms = terms.ok_or(Check::Idmap)?;
    Ok(Some(terms.permitted(peer.uid, peer.gid)))
}

fn check_bind(
    grant: &Grant,
    bind: &BindTerms,
    peer: &Peer,
    source: &AbsPath,
    recursive: bool,
) -> Result<(), Check> {
    if !is_within(&grant.terms.source_roots(peer.uid), source) {
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
