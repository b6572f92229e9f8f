//! A refusal, told to the one who asked. It speaks of that peer's grants alone.

use std::fmt::{Display, Write as _};

use mountwarden_protocol::{
    AbsPath, DenyReason, ErrorCode, ErrorReply, FilesystemName, FilesystemOptions, FuseSource,
    Kind, MountAttributes, Operation, Remount, TmpfsInodes, TmpfsSize,
};

use crate::Peer;
use crate::grant::{Grant, TypeTerms, distinct};

/// How many characters of roots a message lists; a reply has to fit in a frame.
const MAX_LISTING: usize = 400;

/// An operation that the policy does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denial {
    /// The rule that refuses it.
    pub reason: DenyReason,
    /// The path that the rule refuses: the source where the rule is about the
    /// source, otherwise the target.
    pub path: AbsPath,
    /// What was refused, why, and what would be allowed: one line without
    /// control characters.
    pub message: String,
}

impl From<Denial> for ErrorReply {
    fn from(denial: Denial) -> Self {
        let mut reply = Self::new(ErrorCode::Denied, denial.message).at(&denial.path);
        reply.reason = Some(denial.reason);
        reply
    }
}

/// The check that one grant fails. The order is the order of the checks: of
/// several grants that refuse, the one that fails last came nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Check {
    Target,
    Detached,
    Remount,
    Move,
    MoveFrom,
    Kind,
    Source,
    Recursive,
    Layers,
    Upper,
    Device,
    NetworkSource,
    Filesystem,
    Suid,
    Dev,
    Forced,
    Propagation,
    Size,
    Inodes,
    FilesystemOption,
    Secret,
    Subtype,
    SourceName,
    AllowOther,
    PassedTarget,
    PassedSource,
    Idmap,
}

impl Check {
    pub(crate) fn reason(self) -> DenyReason {
        match self {
            Self::Target => DenyReason::TargetNotGranted,
            Self::Detached => DenyReason::DetachedNotGranted,
            Self::Remount => DenyReason::RemountNotGranted,
            Self::Move | Self::MoveFrom => DenyReason::MoveNotGranted,
            Self::Kind => DenyReason::KindNotGranted,
            Self::Source | Self::NetworkSource => DenyReason::SourceNotGranted,
            Self::Recursive => DenyReason::RecursiveNotGranted,
            Self::Layers => DenyReason::LayersAboveMaximum,
            Self::Upper => DenyReason::UpperNotGranted,
            Self::Suid => DenyReason::SuidNotGranted,
            Self::Dev => DenyReason::DevNotGranted,
            Self::Forced => DenyReason::AttributeForced,
            Self::Propagation => DenyReason::PropagationNotGranted,
            Self::Size => DenyReason::SizeAboveMaximum,
            Self::Inodes => DenyReason::InodesAboveMaximum,
            Self::Device => DenyReason::DeviceNotGranted,
            Self::Filesystem => DenyReason::FilesystemNotGranted,
            Self::FilesystemOption | Self::Secret => DenyReason::OptionNotGranted,
            Self::Subtype => DenyReason::SubtypeNotGranted,
            Self::SourceName => DenyReason::SourceNameNotGranted,
            Self::AllowOther => DenyReason::AllowOtherNotGranted,
            Self::PassedTarget | Self::PassedSource => DenyReason::PassedNotGranted,
            Self::Idmap => DenyReason::IdmapNotGranted,
        }
    }
}

/// Where a grant that might have allowed the operation refuses it.
#[derive(Clone, Copy)]
pub(crate) struct Obstacle<'p> {
    pub(crate) grant: &'p Grant,
    pub(crate) check: Check,
}

/// What was asked, as a message says it.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) verb: &'static str,
    /// The target or, where there is none, the source.
    pub(crate) path: &'a AbsPath,
}

impl<'a> Asked<'a> {
    pub(crate) fn of(operation: &'a Operation) -> Self {
        let verb = match operation {
            Operation::Mount(_) => "mounting at",
            Operation::Unmount(_) => "unmounting",
            Operation::Remount(_) => "remounting",
            Operation::Detach(_) => "handing over",
            Operation::Move(_) => "moving a mount to",
        };
        let path = operation.path();
        Self { verb, path }
    }
}

impl Denial {
    pub(crate) fn target_not_granted(own: &[&Grant], peer: &Peer, asked: Asked<'_>) -> Self {
        Self {
            reason: DenyReason::TargetNotGranted,
            path: asked.path.clone(),
            message: target_not_granted(own, peer, asked),
        }
    }

    pub(crate) fn no_grant(peer: &Peer, asked: Asked<'_>) -> Self {
        let Asked { verb, path: target } = asked;
        Self {
            reason: DenyReason::NoGrant,
            path: target.clone(),
            message: format!(
                "{verb} {target} is refused: no grant of the policy names user {} or a group that \
                 it was in when it connected; ask the administrator for one",
                peer.uid
            ),
        }
    }

    pub(crate) fn protected(asked: Asked<'_>, place: &AbsPath) -> Self {
        let Asked { verb, path: target } = asked;
        let relation = if target == place {
            "it is a place".to_owned()
        } else if target.is_beneath(place) {
            format!("it lies in {}, a place", brief(place))
        } else {
            format!("it holds {}, a place", brief(place))
        };
        Self {
            reason: DenyReason::TargetProtected,
            path: target.clone(),
            message: format!(
                "{verb} {target} is refused: {relation} that is never mounted over or unmounted, \
                 whatever the policy grants"
            ),
        }
    }

    /// What is mounted on a shared bind is mounted on its source too.
    pub(crate) fn shares_protected(source: &AbsPath, place: &AbsPath) -> Self {
        Self {
            reason: DenyReason::TargetProtected,
            path: source.clone(),
            message: format!(
                "a shared bind of {source} is refused: what is mounted on it would cover {}, or lie \
                 in it, a place that is never mounted over, whatever the policy grants",
                brief(place)
            ),
        }
    }

    pub(crate) fn not_granted(
        nearest: Option<Obstacle<'_>>,
        own: &[&Grant],
        peer: &Peer,
        operation: &Operation,
    ) -> Self {
        let check = nearest.map_or(Check::Target, |obstacle| obstacle.check);
        let message = match nearest {
            None
            | Some(Obstacle {
                check: Check::Target,
                ..
            }) => target_not_granted(own, peer, Asked::of(operation)),
            Some(Obstacle {
                check: Check::Detached,
                ..
            }) => detached_not_granted(operation.path()),
            Some(Obstacle { grant, check }) => refused_by(grant, check, peer, operation),
        };
        let target = operation.path();
        let path = match check {
            Check::Source | Check::Upper => {
                let layer = nearest.and_then(|obstacle| layer_refused(&obstacle, peer, operation));
                layer.or(operation.source()).unwrap_or(target)
            }
            Check::Recursive
            | Check::Device
            | Check::PassedSource
            | Check::MoveFrom
            | Check::Idmap => operation.source().unwrap_or(target),
            _ => target,
        };
        Self {
            reason: check.reason(),
            path: path.clone(),
            message,
        }
    }
}

fn target_not_granted(own: &[&Grant], peer: &Peer, asked: Asked<'_>) -> String {
    let roots = distinct(
        own.iter()
            .flat_map(|grant| grant.terms.target_roots(peer.uid)),
    );
    format!(
        "{} {} is refused: the target lies beneath none of your granted roots: {}",
        asked.verb,
        asked.path,
        listing(&roots)
    )
}

fn detached_not_granted(source: &AbsPath) -> String {
    format!(
        "handing over {source} is refused: none of your grants has detached mounts; mount it, or ask \
         the administrator for `detached = true`"
    )
}

/// The message for a check that comes after the target's.
fn refused_by(grant: &Grant, check: Check, peer: &Peer, operation: &Operation) -> String {
    let (target, kind, name) = (operation.path(), operation.kind(), &grant.name);
    let source = operation.source().unwrap_or(target);
    match check {
        Check::Target => target_not_granted(&[grant], peer, Asked::of(operation)),
        Check::Detached => detached_not_granted(target),
        Check::Remount => format!(
            "remounting {target} is refused: your grant '{name}' does not allow to change the \
             attributes of a mount; unmount it, and mount it as it should be"
        ),
        Check::Move => format!(
            "moving {source} to {target} is refused: your grant '{name}' does not allow to move a \
             mount; unmount it, and mount it at the other place"
        ),
        Check::MoveFrom => format!(
            "moving {source} is refused: of a grant that allows to move mounts, both places lie \
             beneath its roots; of '{name}' these are {}",
            listing(&grant.terms.target_roots(peer.uid))
        ),
        Check::Kind => format!(
            "a {} mount at {target} is refused: your grant '{name}' allows there only {}",
            kind.map_or("", Kind::name),
            grant.terms.kinds().join(" and ")
        ),
        Check::Layers | Check::Upper => overlay_refused(grant, check, peer, operation),
        Check::Source if kind.is_some_and(|kind| matches!(kind, Kind::Overlay { .. })) => {
            overlay_refused(grant, check, peer, operation)
        }
        Check::Source if kind.is_some_and(|kind| matches!(kind, Kind::Image { .. })) => format!(
            "the image {source} is refused: it lies in none of the image roots of your grant \
             '{name}': {}",
            listing(&grant.terms.image_roots(peer.uid))
        ),
        Check::Source => format!(
            "binding {source} is refused: the source lies in none of the source roots of your \
             grant '{name}': {}",
            listing(&grant.terms.source_roots(peer.uid))
        ),
        Check::Recursive => format!(
            "binding {source} with the mounts beneath it is refused: your grant '{name}' allows \
             no recursive bind; ask for one that is not recursive"
        ),
        Check::Suid => option_refused(target, "suid", name),
        Check::Dev => option_refused(target, "dev", name),
        Check::Forced => format!(
            "lifting {} at {target} is refused: your grant '{name}' forces that",
            forced(grant, operation).names().join(" and ")
        ),
        Check::Propagation => format!(
            "a mount at {target} that is not private is refused: your grant '{name}' does not allow \
             that propagation"
        ),
        Check::Size => above(
            target,
            "bytes",
            asked_size(kind),
            name,
            grant.terms.tmpfs.map(|tmpfs| tmpfs.max_size.get()),
        ),
        Check::Inodes => above(
            target,
            "inodes",
            asked_inodes(kind),
            name,
            grant.terms.tmpfs.map(|tmpfs| tmpfs.max_inodes.get()),
        ),
        Check::Device => device_refused(grant, peer, kind),
        Check::NetworkSource => network_source_refused(grant, kind),
        Check::Filesystem | Check::FilesystemOption | Check::Secret => {
            filesystem_refused(grant, kind)
        }
        Check::Subtype | Check::SourceName | Check::AllowOther => {
            fuse_refused(grant, check, target, kind)
        }
        Check::PassedTarget => format!(
            "{} {target} by a descriptor is refused: your grant '{name}' takes the target's path \
             alone; ask the administrator for passed_target",
            Asked::of(operation).verb
        ),
        Check::PassedSource => passed_source(kind, target, name),
        Check::Idmap => idmap_refused(kind, source, name),
    }
}

/// The layer that a grant refuses.
fn layer_refused<'o>(
    obstacle: &Obstacle<'_>,
    peer: &Peer,
    operation: &'o Operation,
) -> Option<&'o AbsPath> {
    let terms = &obstacle.grant.terms;
    match (operation.kind()?, obstacle.check) {
        (Kind::Overlay { lower, .. }, Check::Source) => terms.refused_layer(lower, peer.uid),
        (Kind::Overlay { upper, .. }, _) => terms.refused_upper(upper.as_ref()?, peer.uid),
        _ => None,
    }
}

fn overlay_refused(grant: &Grant, check: Check, peer: &Peer, operation: &Operation) -> String {
    let (target, terms, name) = (operation.path(), &grant.terms, &grant.name);
    let obstacle = Obstacle { grant, check };
    let layer = layer_refused(&obstacle, peer, operation).unwrap_or(target);
    match check {
        Check::Source => format!(
            "the layer {layer} is refused: it lies in none of the layer roots of your grant \
             '{name}': {}",
            listing(&terms.layer_roots(peer.uid))
        ),
        Check::Upper => format!(
            "the upper layer {layer} is refused: what is written to lies, as its work directory \
             does, in one of these roots of your grant '{name}': {}",
            listing(&terms.upper_roots(peer.uid))
        ),
        _ => format!(
            "an overlay of so many layers at {target} is refused: your grant '{name}' allows at \
             most {}",
            terms
                .overlay
                .as_ref()
                .map_or(0, |overlay| overlay.max_layers)
        ),
    }
}

fn passed_source(kind: Option<&Kind>, target: &AbsPath, name: &str) -> String {
    match kind {
        Some(Kind::Bind { source, .. }) => format!(
            "binding {source} by a descriptor is refused: your grant '{name}' takes the source's \
             path alone; ask the administrator for passed_source"
        ),
        _ => format!(
            "a descriptor for the source of the mount at {target} is refused: only the source of \
             a bind can be passed"
        ),
    }
}

fn idmap_refused(kind: Option<&Kind>, source: &AbsPath, name: &str) -> String {
    match kind {
        Some(Kind::Bind { .. }) | None => format!(
            "an ID-mapped mount of {source} is refused: your grant '{name}' maps no ids; ask the \
             administrator for idmap"
        ),
        _ => format!(
            "a user namespace for the mount at {source} is refused: only a bind can be ID-mapped"
        ),
    }
}

fn filesystem_refused(grant: &Grant, kind: Option<&Kind>) -> String {
    match (&grant.terms.image, kind) {
        (Some(image), Some(Kind::Image { file, filesystem })) => format!(
            "mounting {file} as {filesystem} is refused: your grant '{}' has only these types of \
             images: {}",
            grant.name,
            listing(&image.filesystems)
        ),
        _ => type_refused(grant, kind),
    }
}

fn device_refused(grant: &Grant, peer: &Peer, kind: Option<&Kind>) -> String {
    let Some((kind, device)) = kind.and_then(|kind| Some((kind, kind.source()?))) else {
        return String::new();
    };
    let (name, granted) = (&grant.name, grant.terms.devices(kind, peer.uid));
    match kind {
        Kind::Fuse { .. } if granted.is_empty() => format!(
            "a FUSE mount of the device {device} is refused: your grant '{name}' has no devices for \
             programs to serve; ask the administrator for `device` in its [grant.fuse]"
        ),
        Kind::Fuse { .. } => format!(
            "a FUSE mount of the device {device} is refused: your grant '{name}' has only these \
             devices for programs to serve: {}",
            listing(&granted)
        ),
        _ => format!(
            "mounting the device {device} is refused: your grant '{name}' has only these devices: \
             {}",
            listing(&granted)
        ),
    }
}

fn network_source_refused(grant: &Grant, kind: Option<&Kind>) -> String {
    let (Some(network), Some(Kind::Network { source, .. })) = (&grant.terms.network, kind) else {
        return String::new();
    };
    format!(
        "mounting {source} is refused: your grant '{}' has only these sources: {}",
        grant.name,
        listing(&network.sources)
    )
}

/// What the grant has instead of the type, the option or the secret that was asked for.
fn type_refused(grant: &Grant, kind: Option<&Kind>) -> String {
    let name = &grant.name;
    match (kind, &grant.terms.block, &grant.terms.network) {
        (
            Some(Kind::Block {
                device,
                filesystem,
                options,
            }),
            Some(block),
            _,
        ) => type_or_option_refused(&block.types, name, device, filesystem, options),
        (
            Some(Kind::Network {
                source,
                filesystem,
                options,
                secrets,
            }),
            _,
            Some(network),
        ) => match network.refused_secret(secrets) {
            Some(key)
                if network.types.filesystems.contains(filesystem)
                    && network.types.refused(options.iter()).is_none() =>
            {
                format!(
                    "the secret {key} for {source} is refused: your grant '{name}' has only these \
                     secrets: {}",
                    listing(&network.secrets)
                )
            }
            _ => type_or_option_refused(&network.types, name, source, filesystem, options),
        },
        _ => String::new(),
    }
}

fn type_or_option_refused(
    types: &TypeTerms,
    name: &str,
    what: &dyn Display,
    filesystem: &FilesystemName,
    options: &FilesystemOptions,
) -> String {
    match types.refused(options.iter()) {
        Some(option) if types.filesystems.contains(filesystem) => format!(
            "the option {option} for {what} is refused: your grant '{name}' has only these \
             options: {}",
            listing(&types.options)
        ),
        _ => format!(
            "mounting {what} as {filesystem} is refused: your grant '{name}' has only these \
             types: {}",
            listing(&types.filesystems)
        ),
    }
}

fn fuse_refused(grant: &Grant, check: Check, target: &AbsPath, kind: Option<&Kind>) -> String {
    let (
        Some(fuse),
        Some(Kind::Fuse {
            subtype, source, ..
        }),
    ) = (&grant.terms.fuse, kind)
    else {
        return String::new();
    };
    let name = &grant.name;
    match (check, source) {
        (Check::Subtype, _) => format!(
            "a FUSE mount of the subtype {subtype} at {target} is refused: your grant '{name}' has \
             only these subtypes: {}",
            listing(&fuse.subtypes)
        ),
        (Check::SourceName, FuseSource::Named(source)) => format!(
            "the source {source} for a FUSE mount at {target} is refused: your grant '{name}' has \
             only these sources: {}; ask without a source",
            listing(&fuse.sources)
        ),
        _ => format!(
            "allow_other at {target} is refused: your grant '{name}' allows no other user on a \
             FUSE mount; ask without it"
        ),
    }
}

/// What was to be lifted although the grant forces it.
fn forced(grant: &Grant, operation: &Operation) -> MountAttributes {
    match operation {
        Operation::Remount(Remount {
            lift: Some(lift), ..
        }) => lift.attributes & grant.terms.forced(&lift.kind),
        _ => MountAttributes::empty(),
    }
}

fn option_refused(target: &AbsPath, option: &str, name: &str) -> String {
    format!(
        "the option {option} at {target} is refused: your grant '{name}' forces no{option}; ask \
         without {option}"
    )
}

fn above(
    target: &AbsPath,
    unit: &str,
    asked: Option<u64>,
    name: &str,
    maximum: Option<u64>,
) -> String {
    format!(
        "a tmpfs of {} {unit} at {target} is refused: your grant '{name}' allows at most {}",
        asked.unwrap_or_default(),
        maximum.unwrap_or_default()
    )
}

fn asked_size(kind: Option<&Kind>) -> Option<u64> {
    match kind? {
        Kind::Tmpfs { size, .. } => size.map(TmpfsSize::get),
        _ => None,
    }
}

fn asked_inodes(kind: Option<&Kind>) -> Option<u64> {
    match kind? {
        Kind::Tmpfs { inodes, .. } => inodes.map(TmpfsInodes::get),
        _ => None,
    }
}

/// What the policy lists, as much as fits.
pub(crate) fn listing(items: &[impl Display]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    let mut list = String::new();
    let mut shown: usize = 0;
    for item in items {
        let text = brief(item);
        if list.len().saturating_add(text.len()) > MAX_LISTING {
            break;
        }
        if shown > 0 {
            list.push_str(", ");
        }
        list.push_str(&text);
        shown = shown.saturating_add(1);
    }
    let left = items.len().saturating_sub(shown);
    if left > 0 {
        // Writing to a String cannot fail.
        let _ = write!(list, " and {left} more");
    }
    list
}

/// A path of the policy, cut where it gets too long.
fn brief(path: impl Display) -> String {
    let text = path.to_string();
    match text.char_indices().nth(MAX_LISTING / 2) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
