//! Capabilities (`capabilities(7)`).
//!
//! The order matters: secure bits and the bounding set need `CAP_SETPCAP`, so
//! they come before the change of user; effective and permitted come last.
#![forbid(unsafe_code)]

use caps::{CapSet, Capability, CapsHashSet};
use mountwarden_protocol::Role;

use super::{ConfineError, in_force, step};
use crate::sys::process;

/// The capability that a role holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// None at all.
    Nothing,
    /// `CAP_SYS_ADMIN`, which mounting takes.
    SysAdmin,
}

impl Holding {
    /// What a role holds.
    pub(super) fn of(role: Role) -> Self {
        match role {
            Role::Gate | Role::Session => Self::Nothing,
            Role::Warden | Role::Mounter | Role::Locker => Self::SysAdmin,
        }
    }

    fn set(self) -> CapsHashSet {
        match self {
            Self::Nothing => CapsHashSet::new(),
            Self::SysAdmin => CapsHashSet::from([Capability::CAP_SYS_ADMIN]),
        }
    }

    /// A bit for each capability.
    pub(super) fn bits(self) -> u64 {
        bits(&self.set())
    }
}

/// Root is an ordinary user, a change of user keeps the permitted set, no
/// ambient capability can be raised; all of it locked.
const SECUREBITS: u32 = {
    const NOROOT: u32 = 0b11;
    const NO_SETUID_FIXUP: u32 = 0b11 << 2;
    const KEEP_CAPS_LOCKED: u32 = 1 << 5;
    const NO_CAP_AMBIENT_RAISE: u32 = 0b11 << 6;
    NOROOT | NO_SETUID_FIXUP | KEEP_CAPS_LOCKED | NO_CAP_AMBIENT_RAISE
};

/// Gives up what only `CAP_SETPCAP` can give up, and returns what is left in the
/// bounding set. Without that capability the set must hold no more than
/// `CAP_SYS_ADMIN` from the start.
pub(super) fn prepare(keep: Holding) -> Result<u64, ConfineError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        step("set the secure bits", process::set_securebits(SECUREBITS))?;
        let now = step("read the secure bits", process::securebits())?;
        in_force("the secure bits", now == SECUREBITS)?;
        let keep = keep.set();
        for capability in caps::read(None, CapSet::Bounding)? {
            if !keep.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    Ok(bits(&no_more_than_sys_admin()?))
}

/// Fails where the bounding set holds more than `CAP_SYS_ADMIN` and nothing can
/// be done about it: said at the start, before anything serves.
pub(crate) fn require_droppable_bounding_set() -> Result<(), ConfineError> {
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        return Ok(());
    }
    no_more_than_sys_admin().map(drop)
}

fn no_more_than_sys_admin() -> Result<CapsHashSet, ConfineError> {
    let bounding = caps::read(None, CapSet::Bounding)?;
    match bounding.difference(&Holding::SysAdmin.set()).count() {
        0 => Ok(bounding),
        beyond => Err(ConfineError::TooManyCapabilities(beyond)),
    }
}

/// Reduces every set to what the role holds and reads each back.
pub(super) fn reduce(to: Holding) -> Result<(), ConfineError> {
    let to = to.set();
    let none = CapsHashSet::new();
    caps::clear(None, CapSet::Ambient)?;
    for (set, wanted) in [
        (CapSet::Effective, &to),
        (CapSet::Permitted, &to),
        (CapSet::Inheritable, &none),
    ] {
        if caps::read(None, set)? != *wanted {
            caps::set(None, set, wanted)?;
        }
    }
    for (set, wanted) in [
        (CapSet::Effective, &to),
        (CapSet::Permitted, &to),
        (CapSet::Inheritable, &none),
    ] {
        in_force("the capability sets", caps::read(None, set)? == *wanted)?;
    }
    // An ambient capability is always a permitted one (`capabilities(7)`), so only
    // those that the role holds have to be asked for.
    for &capability in &to {
        let ambient = caps::has_cap(None, CapSet::Ambient, capability)?;
        in_force("no ambient capability", !ambient)?;
    }
    Ok(())
}

fn bits(capabilities: &CapsHashSet) -> u64 {
    capabilities
        .iter()
        .fold(0, |bits, capability| bits | capability.bitmask())
}
