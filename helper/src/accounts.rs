//! Account names, looked up once while the policy is read.
#![forbid(unsafe_code)]

use mountwarden_policy::Accounts;
use nix::unistd::{Group, User};

/// The system's accounts (`getpwnam(3)`, `getgrnam(3)`).
pub(crate) struct SystemAccounts;

impl Accounts for SystemAccounts {
    fn uid(&self, user: &str) -> Option<u32> {
        // A database that cannot be read has no names: the policy is refused.
        User::from_name(user)
            .ok()
            .flatten()
            .map(|user| user.uid.as_raw())
    }

    fn gid(&self, group: &str) -> Option<u32> {
        Group::from_name(group)
            .ok()
            .flatten()
            .map(|group| group.gid.as_raw())
    }
}
