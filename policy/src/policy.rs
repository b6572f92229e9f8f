//! A policy that was read and checked.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use mountwarden_protocol::{AbsPath, FilesystemName, Operation, OptionKey};

use crate::grant::{Grant, Terms, distinct};
use crate::loop_devices::LoopDevices;
use crate::protected::Protected;
use crate::template::Template;
use crate::{Accounts, Denial, Limits, Peer, PolicyError, Verdict, Warning, judge, lint, parse};

/// Who may mount what, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub(crate) grants: Vec<Grant>,
    pub(crate) limits: Limits,
    pub(crate) require_landlock_abi: u32,
    pub(crate) protected: Protected,
}

/// The roots of every grant of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// What it may make mounts from: these and what lies beneath.
    pub sources: Vec<AbsPath>,
    /// Where it may mount: what lies beneath these.
    pub targets: Vec<AbsPath>,
    /// What it may mount beside binds and tmpfs.
    pub kinds: Kinds,
}

/// The kinds of mount that take more of the kernel than a bind and a tmpfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a kind that is granted or not"
)]
pub struct Kinds {
    /// File systems on block devices.
    pub block: bool,
    /// File systems that a program of the peer serves.
    pub fuse: bool,
    /// Directories that are seen as one.
    pub overlay: bool,
    /// File systems in regular files.
    pub image: bool,
    /// Loop devices for those of them that the kernel does not read from a file.
    pub loop_devices: bool,
    /// File systems of servers, or of the machine below.
    pub network: bool,
    /// Binds that are handed over.
    pub detached: bool,
    /// Binds whose files belong to others than on their file system.
    pub idmap: bool,
    /// File systems that a program of the peer serves from a block device.
    pub fuseblk: bool,
}

impl Kinds {
    /// Whether a reply may bring the client a descriptor.
    #[must_use]
    pub fn hands_over(self) -> bool {
        self.fuse || self.detached
    }

    /// Whether something is done that a mounter has to ask another process for.
    #[must_use]
    pub fn takes_locker(self) -> bool {
        self.detached || self.idmap || self.loop_devices
    }

    fn of<'g>(grants: impl Iterator<Item = &'g Grant>) -> Self {
        let loops = |terms: &Terms| {
            let image = terms.image.as_ref();
            image.is_some_and(|image| image.loop_devices.is_some())
        };
        grants.fold(Self::default(), |kinds, Grant { terms, .. }| Self {
            block: kinds.block || terms.block.is_some(),
            fuse: kinds.fuse || terms.fuse.is_some(),
            overlay: kinds.overlay || terms.overlay.is_some(),
            image: kinds.image || terms.image.is_some(),
            loop_devices: kinds.loop_devices || loops(terms),
            network: kinds.network || terms.network.is_some(),
            detached: kinds.detached || terms.detached,
            idmap: kinds.idmap || terms.bind.as_ref().is_some_and(|bind| bind.idmap.is_some()),
            fuseblk: kinds.fuseblk
                || terms
                    .fuse
                    .as_ref()
                    .is_some_and(|fuse| !fuse.devices.is_empty()),
        })
    }
}

impl Policy {
    /// Reads a policy. `file` is only for messages: `text` is what it holds.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and column.
    pub fn parse(file: &Path, text: &str, accounts: &dyn Accounts) -> Result<Self, PolicyError> {
        parse::policy(text, accounts).map_err(|fault| fault.locate(file, text))
    }

    /// Adds a place that no mount may cover: the policy file, the socket.
    pub fn protect(&mut self, path: AbsPath) {
        self.protected.add(path);
    }

    /// Whether `peer` may do `operation`. What no grant allows is denied.
    pub fn judge(&self, peer: &Peer, operation: &Operation) -> Verdict<'_> {
        judge::judge(&self.grants, &self.protected, peer, operation)
    }

    /// Whether `peer` may know how the file system that is mounted at `target` fares, by
    /// the grant of that name.
    ///
    /// # Errors
    /// Why it may not.
    pub fn judge_probe(&self, peer: &Peer, target: &AbsPath) -> Result<&str, Denial> {
        judge::judge_probe(&self.grants, &self.protected, peer, target)
    }

    /// What is legal and unwise.
    #[must_use]
    pub fn lint(&self) -> Vec<Warning> {
        lint::lint(&self.limits, &self.grants, &self.protected)
    }

    /// The helper's limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The oldest Landlock ABI on which the helper may serve.
    #[must_use]
    pub fn require_landlock_abi(&self) -> u32 {
        self.require_landlock_abi
    }

    /// The directories that hold every source and target of every peer: of each
    /// root, what comes before the first component with a placeholder.
    #[must_use]
    pub fn static_roots(&self) -> BTreeSet<AbsPath> {
        self.grants
            .iter()
            .flat_map(|grant| grant.terms.targets.iter().chain(grant.terms.origins()))
            .map(Template::constant_prefix)
            .cloned()
            .collect()
    }

    /// The roots of this peer's grants, in the order of the file, each once.
    #[must_use]
    pub fn places(&self, peer: &Peer) -> Places {
        let own = || self.grants.iter().filter(|g| g.terms.subjects.cover(peer));
        let origins = own().flat_map(|Grant { terms, .. }| {
            let uid = peer.uid;
            [
                terms.source_roots(uid),
                terms.layer_roots(uid),
                terms.upper_roots(uid),
                terms.image_roots(uid),
            ]
            .concat()
        });
        Places {
            sources: distinct(origins),
            targets: distinct(own().flat_map(|grant| grant.terms.target_roots(peer.uid))),
            kinds: Kinds::of(own()),
        }
    }

    /// The kinds of mount that any grant has.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        Kinds::of(self.grants.iter())
    }

    /// Every type of file system and every key of an option that a grant names: all
    /// that the kernel is ever given as such from a request; and the names of loop devices.
    #[must_use]
    pub fn kernel_names(&self) -> BTreeSet<Cow<'_, str>> {
        let terms = || self.grants.iter().map(|grant| &grant.terms);
        let networks = || terms().filter_map(|terms| terms.network.as_ref());
        let of_block = terms().filter_map(|terms| terms.block.as_ref().map(|block| &block.types));
        let types = of_block.chain(networks().map(|network| &network.types));
        let names = types.flat_map(|types| {
            let filesystems = types.filesystems.iter().map(FilesystemName::as_str);
            filesystems.chain(types.options.iter().map(|option| option.key.as_str()))
        });
        let secrets = networks().flat_map(|network| &network.secrets);
        let names = names.chain(secrets.map(OptionKey::as_str)).map(Cow::from);
        let images = terms().filter_map(|terms| terms.image.as_ref());
        let devices = images.filter_map(|image| image.loop_devices);
        let devices = devices.flat_map(LoopDevices::names).map(Cow::from);
        names.chain(devices).collect()
    }
}
