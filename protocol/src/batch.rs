//! Several mounts in one request: all of them, or none.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{AbsPath, ErrorReply, Kind, Mount, MountAttributes, MountId, Outcome};

/// Why mounts are no batch. `entry` counts from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidBatch {
    /// There is nothing to be done.
    #[error("a batch has no mount")]
    Empty,
    /// More mounts than a request can hold.
    #[error("a batch has more than {} mounts", Batch::MAX)]
    TooMany,
    /// Two mounts at one place would be one on the other.
    #[error("mount[{entry}] has the target of another mount of the batch")]
    SameTarget {
        /// The second of the two.
        entry: usize,
    },
    /// The connection of a FUSE mount comes with the reply to its own request.
    #[error(
        "mount[{entry}] is a FUSE file system, which a batch cannot hold: each hands its program \
         a descriptor. Mount it by itself"
    )]
    Fuse {
        /// Which it is.
        entry: usize,
    },
    /// What is to be taken back needs the directory above it, which the helper must reach.
    #[error("mount[{entry}] comes with descriptors, which a batch does not take")]
    Passed {
        /// Which it is.
        entry: usize,
    },
}

/// Mounts that are made in this order. When one cannot be made, those before it are
/// ended again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Mount>", into = "Vec<Mount>")]
pub struct Batch(Vec<Mount>);

impl Batch {
    /// The most mounts that there are in one.
    pub const MAX: usize = 64;

    /// Each mount, in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Mount> {
        self.0.iter()
    }

    /// Whether a batch may hold this mount as `entry`.
    ///
    /// # Errors
    /// When it comes with descriptors, or brings one.
    pub fn check(mount: &Mount, entry: usize) -> Result<(), InvalidBatch> {
        match mount.kind {
            Kind::Fuse { .. } => Err(InvalidBatch::Fuse { entry }),
            _ if !mount.passed.is_empty() => Err(InvalidBatch::Passed { entry }),
            Kind::Bind { .. }
            | Kind::Tmpfs { .. }
            | Kind::Block { .. }
            | Kind::Overlay { .. }
            | Kind::Image { .. }
            | Kind::Network { .. } => Ok(()),
        }
    }
}

impl TryFrom<Vec<Mount>> for Batch {
    type Error = InvalidBatch;

    fn try_from(mounts: Vec<Mount>) -> Result<Self, InvalidBatch> {
        match mounts.len() {
            0 => return Err(InvalidBatch::Empty),
            1..=Self::MAX => {}
            _ => return Err(InvalidBatch::TooMany),
        }
        let mut targets: Vec<&AbsPath> = Vec::new();
        for (entry, mount) in mounts.iter().enumerate() {
            Self::check(mount, entry)?;
            if targets.contains(&&mount.target) {
                return Err(InvalidBatch::SameTarget { entry });
            }
            targets.push(&mount.target);
        }
        Ok(Self(mounts))
    }
}

impl From<Batch> for Vec<Mount> {
    fn from(batch: Batch) -> Self {
        batch.0
    }
}

/// One mount of a batch that is there. Its target is that of the request: with all that
/// a [`crate::MountInfo`] has, a batch would not fit into a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedEntry {
    /// Whether it was made now.
    pub outcome: Outcome,
    /// Its unique id.
    pub id: MountId,
    /// Its attributes, as the kernel reports them.
    pub attributes: MountAttributes,
}

/// A batch of which one mount could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotApplied {
    /// Which it was, counted from 0.
    pub entry: u32,
    /// Why.
    pub error: ErrorReply,
    /// What was mounted before it and could not be taken back: nothing, but where somebody
    /// else has mounted on it or the kernel refuses.
    pub left: Vec<LeftEntry>,
}

/// A mount of a batch that could not be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftEntry {
    /// Which it is, counted from 0.
    pub entry: u32,
    /// Its unique id.
    pub id: MountId,
}

#[cfg(test)]
mod tests {
    use super::{Batch, InvalidBatch};
    use crate::{AbsPath, FuseSource, Kind, Mount, MountOptions, Passed, Propagation};

    fn tmpfs(target: &str) -> Mount {
        Mount {
            kind: Kind::Tmpfs {
                size: None,
                inodes: None,
                mode: None,
            },
            target: AbsPath::new(target).unwrap(),
            options: MountOptions::empty(),
            propagation: Propagation::Private,
            passed: Passed::empty(),
            lease: false,
        }
    }

    fn many(count: usize) -> Vec<Mount> {
        (0..count)
            .map(|number| tmpfs(&format!("/m/{number}")))
            .collect()
    }

    #[test]
    fn a_batch_holds_one_to_sixty_four_mounts_at_different_places() {
        for count in [1, 2, 64] {
            assert_eq!(Batch::try_from(many(count)).unwrap().iter().len(), count);
        }
        assert_eq!(Batch::try_from(many(0)), Err(InvalidBatch::Empty));
        assert_eq!(Batch::try_from(many(65)), Err(InvalidBatch::TooMany));
        let twice = [many(3), vec![tmpfs("/m/1")]].concat();
        let entry = 3;
        assert_eq!(
            Batch::try_from(twice),
            Err(InvalidBatch::SameTarget { entry })
        );
        // Beneath one another is what a batch is for.
        assert!(Batch::try_from(vec![tmpfs("/m"), tmpfs("/m/a")]).is_ok());
    }

    #[test]
    fn a_batch_takes_no_descriptors_and_gives_none() {
        let fuse = Mount {
            kind: Kind::Fuse {
                subtype: "sshfs".parse().unwrap(),
                source: FuseSource::Subtype,
                allow_other: false,
                default_permissions: false,
                max_read: None,
            },
            ..tmpfs("/m/f")
        };
        let entry = 1;
        let refused = Batch::try_from(vec![tmpfs("/m/a"), fuse]);
        assert_eq!(refused, Err(InvalidBatch::Fuse { entry }));
        let passed = Mount {
            passed: Passed::TARGET,
            ..tmpfs("/m/b")
        };
        let refused = Batch::try_from(vec![tmpfs("/m/a"), passed]);
        assert_eq!(refused, Err(InvalidBatch::Passed { entry }));
    }
}
