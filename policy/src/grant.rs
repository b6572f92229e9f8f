//! One `[[grant]]` of a policy, read and checked.

use std::collections::BTreeSet;

use mountwarden_protocol::{
    AbsPath, FilesystemName, FilesystemOption, FuseSubtype, ImageType, Kind, Layers,
    MountAttributes, NetworkSource, OptionKey, Propagation, Secrets, SourceName, TmpfsInodes,
    TmpfsSize, UpperLayer,
};

use crate::idmap::IdmapTerms;
use crate::loop_devices::LoopDevices;
use crate::pattern;
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
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key that is true or false"
)]
pub(crate) struct Terms {
    pub(crate) subjects: Subjects,
    pub(crate) targets: Vec<Template>,
    pub(crate) force: MountAttributes,
    pub(crate) shared_target: bool,
    pub(crate) bind: Option<BindTerms>,
    pub(crate) tmpfs: Option<TmpfsTerms>,
    pub(crate) block: Option<BlockTerms>,
    pub(crate) fuse: Option<FuseTerms>,
    pub(crate) overlay: Option<OverlayTerms>,
    pub(crate) image: Option<ImageTerms>,
    pub(crate) network: Option<NetworkTerms>,
    pub(crate) remount: bool,
    /// Beside private.
    pub(crate) propagation: BTreeSet<Propagation>,
    pub(crate) target: LocationTerms,
    /// Binds may be handed over.
    pub(crate) detached: bool,
    /// Mounts may be moved from one target to another.
    pub(crate) moves: bool,
}

/// What a location may and must be, beyond where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocationTerms {
    /// It may come as a descriptor.
    pub(crate) passed: bool,
    /// It must belong to the peer.
    pub(crate) own: bool,
}

/// `[grant.bind]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BindTerms {
    pub(crate) sources: Vec<Template>,
    pub(crate) read_only: bool,
    pub(crate) recursive: bool,
    pub(crate) source: LocationTerms,
    pub(crate) idmap: Option<IdmapTerms>,
}

/// `[grant.tmpfs]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TmpfsTerms {
    pub(crate) max_size: TmpfsSize,
    pub(crate) max_inodes: TmpfsInodes,
}

/// `[grant.block]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockTerms {
    /// Paths, once they are expanded patterns.
    pub(crate) devices: Vec<Template>,
    pub(crate) types: TypeTerms,
    pub(crate) read_only: bool,
}

/// The types of file systems, and their options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TypeTerms {
    pub(crate) filesystems: Vec<FilesystemName>,
    pub(crate) options: Vec<FilesystemOption>,
}

/// `[grant.fuse]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FuseTerms {
    /// Patterns.
    pub(crate) subtypes: Vec<String>,
    /// Patterns; a source that is not named is the subtype.
    pub(crate) sources: Vec<String>,
    pub(crate) allow_other: bool,
    pub(crate) default_permissions: bool,
    pub(crate) read_only: bool,
    /// What may be served; paths, once they are expanded patterns.
    pub(crate) devices: Vec<Template>,
}

/// `[grant.overlay]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OverlayTerms {
    pub(crate) layers: Vec<Template>,
    /// Of what is written, and of what the kernel needs for that; none where an overlay
    /// is only read.
    pub(crate) uppers: Vec<Template>,
    pub(crate) max_layers: usize,
}

/// `[grant.image]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageTerms {
    pub(crate) files: Vec<Template>,
    pub(crate) filesystems: Vec<ImageType>,
    pub(crate) loop_devices: Option<LoopDevices>,
}

/// `[grant.network]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkTerms {
    /// Patterns.
    pub(crate) sources: Vec<String>,
    pub(crate) types: TypeTerms,
    /// The keys whose values are secrets.
    pub(crate) secrets: Vec<OptionKey>,
    pub(crate) read_only: bool,
}

/// The types of file systems whose source is a place on a network, or of the machine below.
pub const NETWORK_TYPES: [&str; 7] = ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "virtiofs"];

/// The value in a grant that stands for any value.
pub(crate) const ANY_VALUE: &str = "*";

impl TypeTerms {
    /// The first option that is not granted.
    pub(crate) fn refused<'o>(
        &self,
        options: impl IntoIterator<Item = &'o FilesystemOption>,
    ) -> Option<&'o FilesystemOption> {
        let granted = |option: &FilesystemOption, term: &FilesystemOption| {
            let any = term
                .value
                .as_ref()
                .is_some_and(|value| value.as_str() == ANY_VALUE);
            term == option || (any && term.key == option.key && option.value.is_some())
        };
        options
            .into_iter()
            .find(|option| !self.options.iter().any(|term| granted(option, term)))
    }
}

impl FuseTerms {
    pub(crate) fn has_subtype(&self, subtype: &FuseSubtype) -> bool {
        let mut patterns = self.subtypes.iter();
        patterns.any(|pattern| pattern::matches(pattern, subtype.as_str()))
    }

    pub(crate) fn has_source(&self, source: &SourceName) -> bool {
        let mut patterns = self.sources.iter();
        patterns.any(|pattern| pattern::matches(pattern, source.as_str()))
    }
}

impl NetworkTerms {
    pub(crate) fn has_source(&self, source: &NetworkSource) -> bool {
        let mut patterns = self.sources.iter();
        patterns.any(|pattern| pattern::matches(pattern, source.as_str()))
    }

    /// The first key of a secret that is not granted.
    pub(crate) fn refused_secret<'s>(&self, secrets: &'s Secrets) -> Option<&'s OptionKey> {
        secrets.keys().find(|key| !self.secrets.contains(key))
    }
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
        let read_only = match kind {
            Kind::Bind { .. } => self.bind.as_ref().is_some_and(|bind| bind.read_only),
            Kind::Block { .. } => self.block.as_ref().is_some_and(|block| block.read_only),
            Kind::Fuse { .. } => self.fuse.as_ref().is_some_and(|fuse| fuse.read_only),
            Kind::Network { .. } => self.network.as_ref().is_some_and(|terms| terms.read_only),
            Kind::Tmpfs { .. } => false,
            Kind::Overlay { upper, .. } => upper.is_none(),
            Kind::Image { .. } => true,
        };
        if read_only {
            self.force | MountAttributes::READ_ONLY
        } else {
            self.force
        }
    }

    /// Of each kind that the grant has a table for, whether every mount of it is read-only.
    pub(crate) fn read_only_kinds(&self) -> impl Iterator<Item = bool> {
        let overlay = self.overlay.as_ref();
        let kinds = [
            self.bind.as_ref().map(|bind| bind.read_only),
            self.tmpfs.map(|_| false),
            self.block.as_ref().map(|block| block.read_only),
            self.fuse.as_ref().map(|fuse| fuse.read_only),
            overlay.map(|overlay| overlay.uppers.is_empty()),
            self.image.as_ref().map(|_| true),
            self.network.as_ref().map(|network| network.read_only),
        ];
        kinds.into_iter().flatten()
    }

    /// The kinds of mount that the grant has a table for.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        let bind = self.bind.as_ref().map(|_| "bind");
        let tmpfs = self.tmpfs.map(|_| "tmpfs");
        let block = self.block.as_ref().map(|_| "block");
        let fuse = self.fuse.as_ref().map(|_| "fuse");
        let overlay = self.overlay.as_ref().map(|_| "overlay");
        let image = self.image.as_ref().map(|_| "image");
        let network = self.network.as_ref().map(|_| "network");
        let all = [bind, tmpfs, block, fuse, overlay, image, network];
        all.into_iter().flatten().collect()
    }

    /// The patterns of the devices of a kind for this user; none where the grant has none.
    pub(crate) fn devices(&self, kind: &Kind, uid: u32) -> Vec<AbsPath> {
        let devices = match kind {
            Kind::Fuse { .. } => self.fuse.as_ref().map(|fuse| &fuse.devices),
            _ => self.block.as_ref().map(|block| &block.devices),
        };
        self.expand(devices.map_or(&[], Vec::as_slice), uid)
    }

    /// The roots of lower layers for this user; none where the grant has no overlay.
    pub(crate) fn layer_roots(&self, uid: u32) -> Vec<AbsPath> {
        self.expand(self.overlay.as_ref().map_or(&[], |o| &o.layers), uid)
    }

    /// The roots of upper layers for this user; none where the grant has none.
    pub(crate) fn upper_roots(&self, uid: u32) -> Vec<AbsPath> {
        self.expand(self.overlay.as_ref().map_or(&[], |o| &o.uppers), uid)
    }

    /// The roots of images for this user; none where the grant has no images.
    pub(crate) fn image_roots(&self, uid: u32) -> Vec<AbsPath> {
        self.expand(self.image.as_ref().map_or(&[], |image| &image.files), uid)
    }

    /// The first lower layer that is not granted.
    pub(crate) fn refused_layer<'l>(&self, layers: &'l Layers, uid: u32) -> Option<&'l AbsPath> {
        let roots = self.layer_roots(uid);
        layers.iter().find(|layer| !is_within(&roots, layer))
    }

    /// What is not granted of an upper layer.
    pub(crate) fn refused_upper<'l>(&self, layer: &'l UpperLayer, uid: u32) -> Option<&'l AbsPath> {
        let roots = self.upper_roots(uid);
        let paths = [&layer.upper, &layer.work];
        paths.into_iter().find(|path| !is_within(&roots, path))
    }

    /// All roots of what mounts are made from, as they are written.
    pub(crate) fn origins(&self) -> impl Iterator<Item = &Template> {
        let overlay = self.overlay.iter();
        let layers = overlay.flat_map(|overlay| overlay.layers.iter().chain(&overlay.uppers));
        let images = self.image.iter().flat_map(|image| &image.files);
        self.sources().iter().chain(layers).chain(images)
    }

    fn expand(&self, roots: &[Template], uid: u32) -> Vec<AbsPath> {
        let names = self.subjects.names_of(uid);
        distinct(roots.iter().flat_map(|root| root.expand(uid, &names)))
    }
}

/// Whether a path is one of the roots, or lies beneath one.
pub(crate) fn is_within(roots: &[AbsPath], path: &AbsPath) -> bool {
    roots
        .iter()
        .any(|root| path == root || path.is_beneath(root))
}

/// Each path once, where it comes first.
pub(crate) fn distinct(paths: impl IntoIterator<Item = AbsPath>) -> Vec<AbsPath> {
    let mut seen = BTreeSet::new();
    paths
        .into_iter()
        .filter(|path| seen.insert(path.clone()))
        .collect()
}
