//! What is legal and unwise.

mod filesystems;
mod roots;
mod subjects;

use std::fmt;

use mountwarden_protocol::{MountAttributes, Propagation};

use crate::Limits;
use crate::grant::Grant;
use crate::idmap::IdmapTerms;
use crate::protected::Protected;

/// Something in a policy that is legal and unwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The name of the grant; `None` for the limits.
    pub grant: Option<String>,
    /// What is unwise, and why.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.grant {
            Some(grant) => write!(f, "grant '{grant}': {}", self.message),
            None => write!(f, "[limits]: {}", self.message),
        }
    }
}

/// Every warning: of the limits, then grant by grant in the order of the file.
pub(crate) fn lint(limits: &Limits, grants: &[Grant], protected: &Protected) -> Vec<Warning> {
    let mut warnings: Vec<Warning> = crowded_out(limits).into_iter().collect();
    for (index, grant) in grants.iter().enumerate() {
        let earlier = grants.get(..index).unwrap_or_default();
        let mut messages = Vec::new();
        messages.extend(shadowed(grant, earlier));
        messages.extend(subjects::warnings(&grant.terms));
        messages.extend(flags(grant));
        messages.extend(spreading(grant));
        messages.extend(passed(grant));
        messages.extend(detached(grant));
        messages.extend(moves(grant));
        messages.extend(idmap(grant));
        messages.extend(roots::targets(&grant.terms));
        messages.extend(filesystems::warnings(&grant.terms));
        messages.extend(filesystems::devices_of_images(&grant.terms, grants));
        messages.extend(roots::shared(grant, earlier));
        messages.extend(roots::sources(&grant.terms, protected));
        messages.extend(roots::overlap(&grant.terms));
        warnings.extend(messages.into_iter().map(|message| Warning {
            grant: Some(grant.name.clone()),
            message,
        }));
    }
    warnings
}

/// Whoever may reach the socket may take connections, granted anything or not.
fn crowded_out(limits: &Limits) -> Option<Warning> {
    (limits.connections_per_user >= limits.connections).then(|| Warning {
        grant: None,
        message: format!(
            "one user may have all {} connections and so keep every other out; put \
             connections_per_user well below connections",
            limits.connections
        ),
    })
}

fn shadowed(grant: &Grant, earlier: &[Grant]) -> Option<String> {
    earlier
        .iter()
        .find(|other| other.terms == grant.terms)
        .map(|other| {
            format!(
                "says the same as the earlier grant '{}' and never decides anything",
                other.name
            )
        })
}

fn spreading(grant: &Grant) -> Option<String> {
    let shared = grant.terms.propagation.contains(&Propagation::Shared);
    shared.then(|| {
        "propagation holds shared: what is mounted on a shared bind, or unmounted from it, is so at \
         its source too, and in every namespace that shares it"
            .to_owned()
    })
}

fn flags(grant: &Grant) -> impl Iterator<Item = String> {
    [
        (
            MountAttributes::NO_SUID,
            "force lacks nosuid: a peer that asks for suid can mount programs that run as their \
             owner, root among them",
        ),
        (
            MountAttributes::NO_DEV,
            "force lacks nodev: a peer that asks for dev can mount device nodes that open the \
             disks and the memory behind them",
        ),
    ]
    .into_iter()
    .filter(|(flag, _)| !grant.terms.force.contains(*flag))
    .map(|(_, message)| message.to_owned())
}

/// A descriptor may come from anybody: who holds it need not be who may open the path.
fn passed(grant: &Grant) -> impl Iterator<Item = String> {
    let terms = &grant.terms;
    let source = terms.bind.as_ref();
    [
        (
            terms.target.passed && !terms.target.own,
            "passed_target without target_owner: a peer that is handed a descriptor of another \
             user's directory can mount over it",
        ),
        (
            source.is_some_and(|bind| bind.source.passed && !bind.source.own),
            "passed_source without source_owner: a peer that is handed a descriptor of another \
             user's file can show it to everyone who reaches the target",
        ),
    ]
    .into_iter()
    .filter(|(unwise, _)| *unwise)
    .map(|(_, message)| message.to_owned())
}

/// Whether nothing can be written through any bind of the grant.
fn is_sealed(grant: &Grant) -> bool {
    let Grant { terms, .. } = grant;
    terms.force.contains(MountAttributes::READ_ONLY)
        || terms.bind.as_ref().is_some_and(|bind| bind.read_only)
}

/// What was handed over ends when its last holder lets go of it, whatever the policy says by then.
fn detached(grant: &Grant) -> Option<String> {
    (grant.terms.detached && !is_sealed(grant)).then(|| {
        "detached without read_only: whoever holds a mount that was handed over can write through it \
         for as long as they keep it, also after this grant has gone"
            .to_owned()
    })
}

/// What is moved must have what every mount of the grant has, and the mount table does not tell
/// of which kind it is.
fn moves(grant: &Grant) -> Option<String> {
    let terms = &grant.terms;
    let some = terms.read_only_kinds().any(|read_only| read_only)
        && !terms.read_only_kinds().all(|read_only| read_only)
        && !terms.force.contains(MountAttributes::READ_ONLY);
    (terms.moves && some).then(|| {
        "move with kinds of which only some are read-only: a mount that somebody else made beneath \
         the target roots can be moved there although it can be written through; put ro into force, \
         or grant the kinds apart"
            .to_owned()
    })
}

/// What is written as root through the mount is root's where the source itself is reached,
/// with its set-user-ID bits.
fn idmap(grant: &Grant) -> impl Iterator<Item = String> {
    let bind = grant.terms.bind.as_ref().filter(|_| !is_sealed(grant));
    let terms = bind.and_then(|bind| bind.idmap.as_ref());
    terms.into_iter().flat_map(IdmapTerms::of_root).map(|what| {
        format!(
            "idmap maps 0 of the {what} without read_only: whoever is mapped to it can leave root's \
             files behind on the source, also programs that run as root; let nobody else reach \
             the source"
        )
    })
}
