//! What one user, and all together, may use of the helper.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The helper's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all users together.
    pub connections: u32,
    /// Connections of one user; never above `connections`.
    pub connections_per_user: u32,
    /// Mounts beneath the target roots of one user.
    pub mounts_per_user: u32,
    /// Requests of one user in a second; more of them wait.
    pub requests_per_second: u32,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How long a connection may be silent.
    pub idle_timeout: Duration,
}

impl Limits {
    /// Each connection is two processes, and pid limits end far below.
    pub(crate) const CONNECTIONS: RangeInclusive<u32> = 1..=65_536;
    /// Ten times the kernel's default `fs.mount-max`.
    pub(crate) const MOUNTS: RangeInclusive<u32> = 1..=1_000_000;
    /// A request takes more than a microsecond on any machine.
    pub(crate) const REQUESTS: RangeInclusive<u32> = 1..=1_000_000;
    /// What both timeouts may be.
    pub(crate) const TIMEOUT: RangeInclusive<Duration> =
        Duration::from_millis(1)..=Duration::from_hours(24);
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_user: 16,
            mounts_per_user: 1000,
            requests_per_second: 1000,
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_mins(10),
        }
    }
}
