//! The decision.

use mountwarden_protocol::{
    AbsPath, Kind, Mount, MountAttributes, MountOptions, Operation, TmpfsInodes, TmpfsMode,
    TmpfsSize, Unmount,
};

use crate::denial::{Asked, Check, Denial, Obstacle};
use crate::grant::{BindTerms, Grant, TmpfsTerms};
use crate::protected::Protected;
use crate::{MountPermit, Peer, Permit, PermittedKind, UnmountPermit, Verdict};

pub(crate) fn judge<'p>(
    grants: &'p [Grant],
    protected: &Protected,
    peer: &Peer,
    operation: &Operation,
) -> Verdict<'p> {
    let own = match own(grants, protected, peer, Asked::of(operation)) {
        Ok(own) => own,
        Err(denial) => return Verdict::Denied(denial),
    };
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
        target,
    };
    let own = own(grants, protected, peer, asked)?;
    let covering = own.iter().find(|grant| covers(grant, peer, target));
    match covering {
        Some(grant) => Ok(&grant.name),
        None => Err(Denial::target_not_granted(&own, peer, asked)),
    }
}

/// The grants of a peer, which has some, for a target that may be touched at all.
fn own<'p>(
    grants: &'p [Grant],
    protected: &Protected,
    peer: &Peer,
    asked: Asked<'_>,
) -> Result<Vec<&'p Grant>, Denial> {
    let own: Vec<&Grant> = grants
        .iter()
        .filter(|grant| grant.terms.subjects.cover(peer))
        .collect();
    if own.is_empty() {
        return Err(Denial::no_grant(peer, asked));
    }
    match protected.hit_by(asked.target) {
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
    if !covers(grant, peer, operation.target()) {
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
    let kind = match &mount.kind {
        Kind::Bind { source, recursive } => {
            let bind = grant.terms.bind.as_ref().ok_or(Check::Kind)?;
            if bind.read_only {
                attributes |= MountAttributes::READ_ONLY;
            }
            check_bind(grant, bind, peer, source, *recursive)?;
            check_options(grant, mount.options)?;
            PermittedKind::Bind {
                source: source.clone(),
                recursive: *recursive,
            }
        }
        Kind::Tmpfs { size, inodes, mode } => {
            let tmpfs = grant.terms.tmpfs.ok_or(Check::Kind)?;
            check_options(grant, mount.options)?;
            let size = size.unwrap_or(tmpfs.max_size);
            let inodes = inodes.unwrap_or(tmpfs.max_inodes);
            check_tmpfs(tmpfs, size, inodes)?;
            PermittedKind::Tmpfs {
                size,
                inodes,
                mode: mode.unwrap_or(TmpfsMode::OWNER_ONLY),
                uid: peer.uid,
                gid: peer.gid,
            }
        }
    };
    Ok(MountPermit {
        grant: &grant.name,
        target: mount.target.clone(),
        kind,
        attributes,
        shared_target: grant.terms.shared_target,
        lease: mount.lease,
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
