//! mountwardend: mounts what a policy grants to unprivileged clients, holding
//! `CAP_SYS_ADMIN` and nothing else.
//!
//! ```text
//!    unprivileged half (no capability)      |   privileged half (CAP_SYS_ADMIN only)
//!                                           |
//!   client ---- connect ----> gate ---------|--- client socket + order channel ---> warden
//!                              | fork       |                                        | fork
//!   client <--- frames ----> session -------|------- orders: enums + fds ----------> mounter
//! ```
//!
//! The library exists so that the program can also be run under another name:
//! [`run`] is all of it.
#![deny(unsafe_code)]

mod accounts;
mod audit;
mod board;
mod budget;
mod check;
mod children;
mod cli;
mod confine;
mod failure;
mod files;
mod gate;
mod launch;
mod leases;
mod list;
mod listener;
mod locker;
mod mounter;
mod mountinfo;
mod order;
mod peer;
mod policy_file;
mod refusals;
mod reports;
mod session;
#[expect(
    unsafe_code,
    reason = "system calls that no library offers in a safe form"
)]
mod sys;
mod systemd;
mod table;
mod userns;
mod warden;

pub use cli::run;

/// The mount calls themselves, for this workspace's benchmarks and tests; not
/// an interface for anybody else.
#[doc(hidden)]
pub mod raw {
    pub use crate::confine::running_abi;
    pub use crate::mountinfo::{Mountinfo, parse};
    pub use crate::sys::mount::{
        FileStatus, Ids, MountStatus, attach, change, clone_tree, restrict, restrict_mapped,
        status, status_of_mount, unmount_name,
    };
}
