//! Unwise subjects.

use crate::grant::Terms;

/// What the kernel reports for an account of another user namespace that has
/// no number here (`/proc/sys/kernel/overflowuid`, unless it was changed).
const OVERFLOW_ID: u32 = 65_534;

pub(super) fn warnings(terms: &Terms) -> Vec<String> {
    let mut messages = Vec::new();
    for uid in terms.subjects.uids() {
        messages.extend(account("user", uid));
    }
    for &gid in &terms.subjects.groups {
        messages.extend(account("group", gid));
    }
    messages
}

fn account(what: &str, id: u32) -> Option<String> {
    match id {
        0 => Some(format!(
            "names {what} 0: root mounts without mountwarden, and services that run as root \
             should not come to rely on it"
        )),
        OVERFLOW_ID => Some(format!(
            "names {what} {OVERFLOW_ID}: the kernel reports that number for everyone in other \
             user namespaces who has none here"
        )),
        _ => None,
    }
}
