//! The peer's mounts, a page at a time.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use mountwarden_protocol::{AbsPath, ErrorReply, ListPage, MountId, MountInfo};

use crate::failure;
use crate::sys::mount::LSMT_ROOT;
use crate::table::{self, Table};

/// The mounts beneath `targets` whose ids come after `after`, as many as fit into
/// `most` bytes, and at least one.
pub(crate) fn page(
    table: &Table,
    targets: &[AbsPath],
    after: Option<MountId>,
    most: usize,
) -> Result<ListPage, ErrorReply> {
    let mut mounts: Vec<MountInfo> = Vec::new();
    let mut bytes: usize = 0;
    let mut next = None;
    let walked = table.walk(LSMT_ROOT, after.map_or(0, u64::from), |mount| {
        let Some(info) = table::info(mount) else {
            return ControlFlow::Continue(());
        };
        if !targets.iter().any(|root| info.target.is_beneath(root)) {
            return ControlFlow::Continue(());
        }
        let size = info
            .target
            .as_bytes()
            .len()
            .saturating_add(info.root.as_bytes().len())
            .saturating_add(info.filesystem.len())
            .saturating_add(64);
        bytes = bytes.saturating_add(size);
        if bytes > most && !mounts.is_empty() {
            next = mounts.last().map(|last| last.id);
            return ControlFlow::Break(());
        }
        mounts.push(info);
        ControlFlow::Continue(())
    });
    match (walked, targets.first()) {
        (Err(errno), Some(root)) => Err(failure::kernel("cannot list the mounts of", root, errno)),
        _ => Ok(ListPage { mounts, next }),
    }
}
