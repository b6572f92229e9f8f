//! Whom a grant names.

use std::collections::BTreeSet;

use crate::Peer;

/// The users and groups of a grant; matching one is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subjects {
    pub(crate) users: Vec<User>,
    pub(crate) groups: BTreeSet<u32>,
}

/// A user of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    /// The name, where the policy gives one: what `{user}` stands for.
    pub(crate) name: Option<String>,
}

impl Subjects {
    /// Whether the grant is for this peer.
    pub(crate) fn cover(&self, peer: &Peer) -> bool {
        self.users.iter().any(|user| user.uid == peer.uid)
            || self.groups.iter().any(|&group| peer.is_in(group))
    }

    /// The names by which the policy calls this user.
    pub(crate) fn names_of(&self, uid: u32) -> Vec<&str> {
        self.users
            .iter()
            .filter(|user| user.uid == uid)
            .filter_map(|user| user.name.as_deref())
            .collect()
    }

    /// Every user that is named, by number.
    pub(crate) fn uids(&self) -> BTreeSet<u32> {
        self.users.iter().map(|user| user.uid).collect()
    }

    /// Whether more than one user may match.
    pub(crate) fn are_several(&self) -> bool {
        !self.groups.is_empty() || self.uids().len() > 1
    }
}
