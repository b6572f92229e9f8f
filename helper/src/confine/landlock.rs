//! Landlock (`landlock(7)`).
//!
//! A domain that handles any filesystem right makes `move_mount` and `umount2`
//! fail, so the privileged half has a domain without them, and the other half
//! one that reads beneath granted roots and does nothing else.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use mountwarden_protocol::LandlockReport;
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
pub(crate) fn running_abi() -> u32 {
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

/// Puts this process into a domain, for good, and tries what the domain denies.
pub(super) fn restrict(domain: &Domain) -> Result<LandlockReport, ConfineError> {
    let abi = common();
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let network = AccessNet::from_all(abi);
    let scopes = Scope::from_all(abi);
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
                let access = readable(root);
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

/// A rule for a regular file may not name rights that only directories have.
fn readable(root: &OwnedFd) -> BitFlags<AccessFs> {
    let directory = nix::sys::stat::fstat(root)
        .is_ok_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFDIR);
    if directory {
        AccessFs::ReadFile | AccessFs::ReadDir
    } else {
        AccessFs::ReadFile.into()
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
            let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
            let root = openat2(nix::fcntl::AT_FDCWD, "/", how);
            in_force(
                "a Landlock domain that denies '/'",
                root.err() == Some(Errno::EACCES),
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
