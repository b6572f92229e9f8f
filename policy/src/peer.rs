//! Who asks.

/// Resolves the names in a policy. The caller implements it, so that this crate
/// reads no account database.
pub trait Accounts {
    /// The number of a user; `None` when there is no such user.
    fn uid(&self, user: &str) -> Option<u32>;
    /// The number of a group; `None` when there is no such group.
    fn gid(&self, group: &str) -> Option<u32>;
}

/// The identity of a client as the kernel attested it when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its group; it counts like a supplementary one.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Whether the peer is a member of `group`.
    #[must_use]
    pub fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}
