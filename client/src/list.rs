//! A list of mounts, gathered from pages.

use mountwarden_protocol::{ListPage, MountId, MountInfo};

/// The most mounts that a list holds: ten times the kernel's default limit
/// (`fs.mount-max`), so that a helper cannot fill the caller's memory.
const MAX_MOUNTS: usize = 1_000_000;

/// The pages read so far.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    mounts: Vec<MountInfo>,
    after: Option<MountId>,
}

impl Pages {
    /// The id to ask on from.
    pub(crate) fn after(&self) -> Option<MountId> {
        self.after
    }

    /// Adds a page and says whether it was the last.
    ///
    /// # Errors
    /// What is wrong with the page. Ids must increase, or the list might never
    /// end.
    pub(crate) fn add(&mut self, page: ListPage) -> Result<bool, &'static str> {
        let before = self.after;
        for mount in page.mounts {
            if self.after >= Some(mount.id) {
                return Err("the mounts of a list are not in the order of their ids");
            }
            if self.mounts.len() >= MAX_MOUNTS {
                return Err("a list has more mounts than a kernel has");
            }
            self.after = Some(mount.id);
            self.mounts.push(mount);
        }
        let Some(next) = page.next else {
            return Ok(true);
        };
        if before >= Some(next) || self.after > Some(next) {
            return Err("a page of a list leads back to where it began");
        }
        self.after = Some(next);
        Ok(false)
    }

    /// All mounts of all pages.
    pub(crate) fn into_mounts(self) -> Vec<MountInfo> {
        self.mounts
    }
}
