//! What the helper says of itself.

use serde::{Deserialize, Serialize};

/// The helper's state, as one connection sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The helper's version.
    pub version: String,
    /// The version of the protocol that this connection speaks.
    pub protocol: u32,
    /// The user that the kernel says the peer is.
    pub uid: u32,
    /// Seconds since the helper started.
    pub uptime_seconds: u64,
    /// What confines each role; read back from the kernel when it was put in force.
    pub roles: Vec<RoleReport>,
    /// The limits in force.
    pub limits: Limits,
    /// What has happened since the helper started.
    pub counters: Counters,
}

/// A process of the helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Accepts connections.
    Gate,
    /// Speaks with one client.
    Session,
    /// Holds the capability and the policy.
    Warden,
    /// Mounts for one client.
    Mounter,
    /// Locks the flags of mounts that are handed over.
    Locker,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gate => "gate",
            Self::Session => "session",
            Self::Warden => "warden",
            Self::Mounter => "mounter",
            Self::Locker => "locker",
        })
    }
}

/// What confines one role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleReport {
    /// Which role.
    pub role: Role,
    /// The user it runs as.
    pub uid: u32,
    /// Its effective and permitted capabilities, a bit for each
    /// (`capabilities(7)`); its inheritable and ambient sets are empty.
    pub capabilities: u64,
    /// The capabilities in its bounding set.
    pub bounding: u64,
    /// Its Landlock domain.
    pub landlock: LandlockReport,
    /// How many system calls its seccomp filter lets through; every other ends
    /// the process.
    pub system_calls: u32,
}

/// A Landlock domain (`landlock(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockReport {
    /// The ABI whose rights are in force; 0 for no domain, which is all that the
    /// privileged half can have before ABI 4.
    pub abi: u32,
    /// How many directories and files it may read beneath, every other use of
    /// the file tree being denied; `None` where the domain handles no filesystem
    /// right, because such a domain could not mount.
    pub readable_roots: Option<u32>,
    /// Whether binding and connecting TCP sockets is denied.
    pub network: bool,
    /// Whether abstract Unix sockets outside the domain are denied.
    pub abstract_sockets: bool,
    /// Whether signals to processes outside the domain are denied.
    pub signals: bool,
}

/// The helper's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections of all users together.
    pub connections: u32,
    /// Connections of one user.
    pub connections_per_user: u32,
    /// Mounts beneath the target roots of one user.
    pub mounts_per_user: u32,
    /// Requests of one user in a second; more of them wait.
    pub requests_per_second: u32,
    /// Milliseconds that one request may take.
    pub request_timeout_ms: u64,
    /// Milliseconds that a connection may be silent.
    pub idle_timeout_ms: u64,
}

/// Counts since the helper started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Connections that are open now.
    pub connections_open: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Mounts made.
    pub mounted: u64,
    /// Mount requests whose mount was there already.
    pub already_mounted: u64,
    /// Mounts ended.
    pub unmounted: u64,
    /// Operations that the policy denied.
    pub denied: u64,
    /// Operations that failed otherwise.
    pub failed: u64,
    /// Connections and requests that had to wait for `requests_per_second`.
    pub delayed: u64,
    /// Mounter processes that ended by a signal, deadlines included.
    pub killed: u64,
    /// Mounts whose attributes were changed.
    pub remounted: u64,
    /// Mounts that were handed over.
    pub detached: u64,
    /// Mounts that were attached elsewhere.
    pub moved: u64,
}
