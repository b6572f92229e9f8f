//! One `[[grant]]` of a policy, read and checked.

use std::collections::BTreeSet;

use mountwarden_protocol::{AbsPath, Kind, MountAttributes, Propagation, TmpfsInodes, TmpfsSize};

use crate::subjects::Subjects;
use crate::template::Template;

/// Who may mount what, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) name: String,
    pub(crate) terms: Terms,
}

/// A grant without its name: two grants with equal terms allow the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) subjects: Subjects,
    pub(crate) targets: Vec<Template>,
    pub(crate) force: MountAttributes,
    pub(crate) shared_target: bool,
    pub(crate) bind: Option<BindTerms>,
    pub(crate) tmpfs: Option<TmpfsTerms>,
    pub(crate) remount: bool,
    /// Beside private.
    pub(crate) propagation: BTreeSet<Propagation>,
}

/// `[grant.bind]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BindTerms {
    pub(crate) sources: Vec<Template>,
    pub(crate) read_only: bool,
    pub(crate) recursive: bool,
}

/// `[grant.tmpfs]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TmpfsTerms {
    pub(crate) max_size: TmpfsSize,
    pub(crate) max_inodes: TmpfsInodes,
}

impl Terms {
    /// The target roots for this user.
    pub(crate) fn target_roots(&self, uid: u32) -> Vec<AbsPath> {
        self.expand(&self.targets, uid)
    }

    /// The source roots for this user; none where the grant has no bind.
    pub(crate) fn source_roots(&self, uid: u32) -> Vec<AbsPath> {
        self.expand(self.sources(), uid)
    }

    /// The source roots as they are written.
    pub(crate) fn sources(&self) -> &[Template] {
        self.bind.as_ref().map_or(&[], |bind| &bind.sources)
    }

    /// The attributes that every mount of this kind has.
    pub(crate) fn forced(&self, kind: &Kind) -> MountAttributes {
        let read_only = self.bind.as_ref().is_some_and(|bind| bind.read_only);
        match kind {
            Kind::Bind { .. } if read_only => self.force | MountAttributes::READ_ONLY,
            _ => self.force,
        }
    }

    /// The kinds of mount that the grant has a table for.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        let bind = self.bind.as_ref().map(|_| "bind");
        let tmpfs = self.tmpfs.map(|_| "tmpfs");
        bind.into_iter().chain(tmpfs).collect()
    }

    fn expand(&self, roots: &[Template], uid: u32) -> Vec<AbsPath> {
        let names = self.subjects.names_of(uid);
        distinct(roots.iter().flat_map(|root| root.expand(uid, &names)))
    }
}

/// Each path once, where it comes first.
pub(crate) fn distinct(paths: impl IntoIterator<Item = AbsPath>) -> Vec<AbsPath> {
    let mut seen = BTreeSet::new();
    paths
        .into_iter()
        .filter(|path| seen.insert(path.clone()))
        .collect()
}
