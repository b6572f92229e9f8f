//! Confinement: what each role gives up, in one order, each step read back.
//!
//! A step that fails ends the process: there is no way to serve unconfined,
//! because a role's loop asks for the [`Confined`] that only [`enforce`] makes.
#![forbid(unsafe_code)]

mod capabilities;
mod describe;
mod entry;
mod identity;
mod landlock;
mod limits;
mod seccomp;
mod tables;

use std::marker::PhantomData;
use std::os::fd::RawFd;

use mountwarden_protocol::{Role, RoleReport};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use thiserror::Error;

use self::capabilities::Holding;
pub(crate) use self::capabilities::require_droppable_bounding_set;
pub(crate) use self::describe::{json, text};
pub(crate) use self::identity::Identity;
pub(crate) use self::landlock::Domain;
pub use self::landlock::running_abi;
pub(crate) use self::seccomp::{Filter, Filters};
use crate::sys::process;

/// A role, as a type: what holds `Confined<Gate>` cannot serve as a mounter.
pub(crate) trait RoleKind {
    const ROLE: Role;
}

macro_rules! roles {
    ($($name:ident)+) => { $(
        #[doc = concat!("The ", stringify!($name), ".")]
        pub(crate) struct $name;
        impl RoleKind for $name {
            const ROLE: Role = Role::$name;
        }
    )+ };
}
roles!(Gate Session Warden Mounter Locker);

/// Proof that this process is confined as the role `R`.
pub(crate) struct Confined<R> {
    report: RoleReport,
    role: PhantomData<R>,
}

impl<R> Confined<R> {
    /// What confines this process, as it was read back from the kernel.
    pub(crate) fn report(&self) -> &RoleReport {
        &self.report
    }
}

/// What a role keeps.
pub(crate) struct Plan<'a> {
    /// The descriptors that stay open; every other is closed.
    pub(crate) descriptors: &'a [RawFd],
    /// The most descriptors that may ever be open.
    pub(crate) max_descriptors: u64,
    /// The user it becomes.
    pub(crate) identity: Identity,
    /// Its Landlock domain.
    pub(crate) domain: Domain,
    /// Its system calls.
    pub(crate) filter: &'a Filter,
    /// The parent that it ends with, for those that do.
    pub(crate) dies_with: Option<Pid>,
}

/// Why a process could not be confined.
#[derive(Debug, Error)]
pub(crate) enum ConfineError {
    #[error("cannot {step}: {errno}")]
    Kernel { step: &'static str, errno: Errno },
    #[error("asked the kernel for {step} and it answers that it is not so")]
    NotInForce { step: &'static str },
    #[error(
        "the bounding set holds {0} capabilities beside CAP_SYS_ADMIN, and without CAP_SETPCAP they \
         cannot be dropped: set CapabilityBoundingSet=CAP_SYS_ADMIN in the unit"
    )]
    TooManyCapabilities(usize),
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error("Landlock: {0}")]
    Landlock(#[from] ::landlock::RulesetError),
    #[error("cannot build a seccomp filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
    #[error("cannot install a seccomp filter: {0}")]
    Install(seccompiler::Error),
}

/// Turns the result of a step into an error that names the step.
pub(crate) fn step<T>(step: &'static str, result: Result<T, Errno>) -> Result<T, ConfineError> {
    result.map_err(|errno| ConfineError::Kernel { step, errno })
}

/// Fails unless what was read back is what was asked for.
pub(crate) fn in_force(step: &'static str, holds: bool) -> Result<(), ConfineError> {
    if holds {
        Ok(())
    } else {
        Err(ConfineError::NotInForce { step })
    }
}

/// Confines this process, for good.
pub(crate) fn enforce<R: RoleKind>(plan: &Plan<'_>) -> Result<Confined<R>, ConfineError> {
    let holding = Holding::of(R::ROLE);
    limits::close_all_but(plan.descriptors)?;
    limits::no_dumps()?;
    limits::lower(plan.max_descriptors)?;
    let bounding = capabilities::prepare(holding)?;
    identity::assume(plan.identity)?;
    capabilities::reduce(holding)?;
    // A change of user takes these two back (`prctl(2)`).
    limits::no_dumps()?;
    if let Some(parent) = plan.dies_with {
        step(
            "die with the parent",
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL),
        )?;
        // One that had ended before this was set is not waited for any more.
        in_force("the parent's life", getppid() == parent)?;
    }
    step("set no_new_privs", nix::sys::prctl::set_no_new_privs())?;
    in_force(
        "no_new_privs",
        step("read no_new_privs", nix::sys::prctl::get_no_new_privs())?,
    )?;
    let landlock = landlock::restrict(&plan.domain)?;
    let uid = nix::unistd::geteuid().as_raw();
    plan.filter.apply()?;
    in_force(
        "a seccomp filter",
        step("read the seccomp mode", process::seccomp_mode())? == 2,
    )?;
    Ok(Confined {
        report: RoleReport {
            role: R::ROLE,
            uid,
            capabilities: holding.bits(),
            bounding,
            landlock,
            system_calls: plan.filter.system_calls(),
        },
        role: PhantomData,
    })
}
