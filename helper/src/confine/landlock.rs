//! Landlock (`landlock(7)`).
//!
//! A domain that handles any filesystem right makes `move_mount` and `umount2`
//! fail, so the privileged half has a domain without them, and the other half
//! one that reads beneath granted roots and does nothing else.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use mountwarden_protocol::{LandlockReport, Role};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, openat2};
use nix::sys::signal::kill;
use nix::unistd::getppid;

use super::{ConfineError, in_force};
use crate::sys::process;

/// What a role's domain allows of the file tree.
pub(crate) enum Domain {
    /// It handles no filesystem right: the half that mounts.
    Mounts,
    /// As `Mounts`, inside a domain of that kind, so that siblings cannot reach
    /// each other.
    MountsNested,
    /// It reads beneath these directories and files.
    Reads(Vec<OwnedFd>),
}

/// The Landlock ABI that this kernel and this build have in common; 0 for none.
#[must_use]
pub fn running_abi() -> u32 {
    number(common())
}

fn common() -> ABI {
    // An ABI that the library does not know yet counts as the newest that it does.
    process::landlock_abi().map_or(ABI::Unsupported, ABI::from)
}

fn number(abi: ABI) -> u32 {
    match abi {
        ABI::Unsupported => 0,
        ABI::V1 => 1,
        ABI::V2 => 2,
        ABI::V3 => 3,
        ABI::V4 => 4,
        ABI::V5 => 5,
        ABI::V6 => 6,
        ABI::V7 => 7,
        ABI::V8 => 8,
        ABI::V9 => 9,
        ABI::V10 => 10,
        _ => u32::MAX,
    }
}

/// What a role's domain allows, in words.
pub(super) fn rule(role: Role) -> &'static str {
    match role {
        Role::Gate => "reads beneath the constant beginnings of all granted roots",
        Role::Session => "reads beneath the granted roots of its own peer",
        Role::Warden | Role::Mounter | Role::Locker => {
            "no file system rights, with which nothing could be mounted"
        }
    }
}

/// What a role's domain denies, as far as this kernel and this build know it: each
/// ABI with the rights that it brought.
pub(super) fn denied(role: Role) -> Vec<(u32, Vec<String>)> {
    let known = i32::try_from(running_abi()).unwrap_or(i32::MAX);
    (1..=known)
        .map(|number| {
            let brought = rights(role, ABI::from(number));
            let before = rights(role, ABI::from(number.saturating_sub(1)));
            (
                number.unsigned_abs(),
                brought.difference(&before).cloned().collect(),
            )
        })
        .filter(|(_, brought): &(u32, Vec<String>)| !brought.is_empty())
        .collect()
}

fn rights(role: Role, abi: ABI) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    if let Role::Gate | Role::Session = role {
        rights.extend(
            AccessFs::from_all(abi)
                .iter()
                .map(|right| format!("{right:?}")),
        );
    }
    rights.extend(
        AccessNet::from_all(abi)
            .iter()
            .map(|right| format!("{right:?}")),
    );
    rights.extend(
        Scope::from_all(abi)
            .iter()
            .map(|scope| format!("{scope:?}")),
    );
    rights
}

/// Puts this process into a domain, for good, and tries what the domain denies.
pub(super) fn restrict(domain: &Domain) -> Result<LandlockReport, ConfineError> {
    let abi = common();
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let network = AccessNet::from_all(abi);
    let scopes = Scope::from_all(abi);
    if !matches!(domain, Domain::Reads(_)) && network.is_empty() {
        // Before ABI 4 every domain handles files, and so could not mount.
        return Ok(LandlockReport {
            abi: 0,
            readable_roots: None,
            network: false,
            abstract_sockets: false,
            signals: false,
        });
    }
    if let Domain::Reads(_) = domain {
        rules = rules.handle_access(AccessFs::from_all(abi))?;
    }
    if !network.is_empty() {
        rules = rules.handle_access(network)?;
    }
    if !scopes.is_empty() {
        rules = rules.scope(scopes)?;
    }
    let mut rules = rules.create()?;
    let readable = match domain {
        Domain::Mounts | Domain::MountsNested => None,
        Domain::Reads(roots) => {
            let count = u32::try_from(roots.len()).unwrap_or(u32::MAX);
            for root in roots {
                let access = readable(root, abi);
                rules = rules.add_rule(PathBeneath::new(root, access))?;
            }
            Some(count)
        }
    };
    let status = rules.restrict_self()?;
    check(&status, abi, domain)?;
    Ok(LandlockReport {
        abi: number(abi),
        readable_roots: readable,
        network: !network.is_empty(),
        abstract_sockets: scopes.contains(Scope::AbstractUnixSocket),
        signals: scopes.contains(Scope::Signal),
    })
}

/// A rule for a file may not name rights that only directories have. A device can only be
/// `/dev/fuse`, which a client's program is to serve a file system on.
fn readable(root: &OwnedFd, abi: ABI) -> BitFlags<AccessFs> {
    let kind = nix::sys::stat::fstat(root).map(|status| status.st_mode & libc::S_IFMT);
    match kind {
        Ok(libc::S_IFDIR) => AccessFs::ReadFile | AccessFs::ReadDir,
        Ok(libc::S_IFCHR) => {
            let served = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
            served & AccessFs::from_all(abi)
        }
        _ => AccessFs::ReadFile.into(),
    }
}

/// The kernel has no call that describes a domain, so its effect is asked for.
fn check(status: &RestrictionStatus, abi: ABI, domain: &Domain) -> Result<(), ConfineError> {
    in_force(
        "every right of the Landlock domain",
        status.ruleset == RulesetStatus::FullyEnforced,
    )?;
    match domain {
        Domain::Reads(_) => {
            let denies = |path: &str, flags| {
                let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC);
                openat2(nix::fcntl::AT_FDCWD, path, how).err() == Some(Errno::EACCES)
            };
            // A policy may grant all of the tree to be read, and none of it to be written.
            in_force(
                "a Landlock domain that denies to read '/' or to write",
                denies("/", OFlag::O_RDONLY | OFlag::O_DIRECTORY)
                    || denies("/dev/null", OFlag::O_WRONLY),
            )
        }
        // Where no TCP socket can be made there is nothing to deny.
        Domain::Mounts if abi >= ABI::V4 => in_force(
            "a Landlock domain that denies TCP",
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_err(),
        ),
        Domain::MountsNested if abi >= ABI::V6 => in_force(
            "a Landlock domain that denies signals",
            kill(getppid(), None).err() == Some(Errno::EPERM),
        ),
        Domain::Mounts | Domain::MountsNested => Ok(()),
    }
}
