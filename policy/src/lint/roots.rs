//! Unwise roots.

use std::collections::BTreeSet;

use mountwarden_protocol::AbsPath;

use crate::grant::{Grant, Terms};
use crate::protected::Protected;
use crate::template::Template;

/// Directories that hold the system itself.
const SYSTEM: [&str; 11] = [
    "/etc", "/usr", "/dev", "/boot", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
    "/root",
];

/// Directories in which every user may create files.
const WORLD_WRITABLE: [&str; 2] = ["/tmp", "/var/tmp"];

/// Directories in which many services keep their own.
const CROWDED: [&str; 4] = ["/run", "/var", "/home", "/var/lib"];

/// Directories whose files are the kernel's, not a disk's.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// How many users' expansions of a root are looked at.
const MAX_SAMPLES: usize = 16;

/// Stands for the members of a group, whose numbers the policy does not say.
const SOME_MEMBER: u32 = u32::MAX - 1;

pub(super) fn targets(terms: &Terms) -> Vec<String> {
    terms.targets.iter().filter_map(target).collect()
}

fn target(root: &Template) -> Option<String> {
    let prefix = root.constant_prefix();
    let why = if prefix.is_root() {
        "stands in / itself, where a name that a peer fills in may be any of the system's".into()
    } else if let Some(place) = at_or_beneath(prefix, &["/proc", "/sys"]) {
        format!("lies in {place}, where nothing is ever mounted: it grants nothing")
    } else if let Some(place) = at_or_beneath(prefix, &SYSTEM) {
        format!("lies in {place}: a mount there can replace files that the system trusts")
    } else if let Some(place) = at_or_beneath(prefix, &WORLD_WRITABLE) {
        format!("lies in {place}, where every user may create, and wait for, the target")
    } else if root.is_constant() && CROWDED.iter().any(|place| is(prefix, place)) {
        "is a directory of many services, and a mount can cover the files of each; grant a \
         directory of its own beneath it"
            .into()
    } else {
        return None;
    };
    Some(format!("the target root {root} {why}"))
}

/// Target roots in which one user can unmount what another has mounted.
pub(super) fn shared(grant: &Grant, earlier: &[Grant]) -> Vec<String> {
    let several = grant.terms.subjects.are_several();
    let roots = grant.terms.targets.iter();
    roots
        .filter_map(|root| {
            if several && root.is_constant() {
                return Some(format!(
                    "the target root {root} is the same for several users, who can unmount each \
                     other's mounts; put {{uid}} into it"
                ));
            }
            let other = earlier.iter().find(|other| {
                other.terms.subjects != grant.terms.subjects
                    && other.terms.targets.iter().any(|target| meet(target, root))
            })?;
            Some(format!(
                "the target root {root} overlaps one of grant '{}', which is for others: they can \
                 unmount each other's mounts",
                other.name
            ))
        })
        .collect()
}

/// Whether one root holds every place of the other, whoever the peers are.
fn meet(one: &Template, other: &Template) -> bool {
    let holds = |outer: &Template, inner: &Template| {
        let (outer_path, inner_path) = (outer.constant_prefix(), inner.constant_prefix());
        outer.is_constant() && (inner_path == outer_path || inner_path.is_beneath(outer_path))
    };
    holds(one, other) || holds(other, one)
}

pub(super) fn sources(terms: &Terms, protected: &Protected) -> Vec<String> {
    samples(terms)
        .into_iter()
        .flat_map(|uid| {
            let named = |what, roots: Vec<_>| roots.into_iter().map(move |root| (what, root));
            named("source", terms.source_roots(uid))
                .chain(named("layer", terms.layer_roots(uid)))
                .chain(named("upper", terms.upper_roots(uid)))
                .chain(named("image", terms.image_roots(uid)))
        })
        .collect::<BTreeSet<_>>()
        .iter()
        .filter_map(|(what, root)| source(what, root, protected))
        .collect()
}

fn source(what: &str, root: &AbsPath, protected: &Protected) -> Option<String> {
    if root.is_root() {
        return Some(format!("the {what} root / is the whole file tree"));
    }
    if let Some(place) = at_or_beneath(root, &KERNEL) {
        return Some(format!(
            "the {what} root {root} lies in {place}: it shows files of the kernel, not of a disk"
        ));
    }
    let place = protected.within(root)?;
    Some(if place == root {
        format!("the {what} root {root} is a place that no mount may cover: it holds the system")
    } else {
        format!("the {what} root {root} holds {place}")
    })
}

/// A recursive bind of a tree that holds its own target shows a mount within itself.
pub(super) fn overlap(terms: &Terms) -> Option<String> {
    if !terms.bind.as_ref().is_some_and(|bind| bind.recursive) {
        return None;
    }
    samples(terms).into_iter().find_map(|uid| {
        let sources = terms.source_roots(uid);
        terms.target_roots(uid).iter().find_map(|target| {
            let source = sources.iter().find(|source| related(source, target))?;
            Some(format!(
                "the target root {target} overlaps the source root {source}, and the grant is \
                 recursive: what is mounted beneath the one shows up in binds of the other"
            ))
        })
    })
}

/// Users for whom the roots are looked at.
fn samples(terms: &Terms) -> BTreeSet<u32> {
    let member = (!terms.subjects.groups.is_empty()).then_some(SOME_MEMBER);
    terms
        .subjects
        .uids()
        .into_iter()
        .take(MAX_SAMPLES)
        .chain(member)
        .collect()
}

fn related(one: &AbsPath, other: &AbsPath) -> bool {
    one == other || one.is_beneath(other) || other.is_beneath(one)
}

fn at_or_beneath<'d>(path: &AbsPath, directories: &[&'d str]) -> Option<&'d str> {
    directories
        .iter()
        .find(|directory| path.as_path().starts_with(directory))
        .copied()
}

fn is(path: &AbsPath, text: &str) -> bool {
    path.as_bytes() == text.as_bytes()
}
