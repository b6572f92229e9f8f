//! Who may mount what, and where.
//!
//! A policy is read once ([`Policy::parse`]) and then asked: [`Policy::judge`]
//! says whether a peer may do an operation, and an allowed one carries every
//! restriction that the mount must have. What no grant allows is denied.
//!
//! The crate is pure. It opens no file and looks up no account: the text comes
//! from the caller, account names are resolved through [`Accounts`], and paths
//! are compared as bytes. Whether a path really leads where it reads is for the
//! process that opens it.
//!
//! `README.md` beside this crate is the reference of the format.
#![forbid(unsafe_code)]

mod denial;
mod error;
mod grant;
mod idmap;
mod judge;
mod limits;
mod lint;
mod loop_devices;
mod parse;
mod pattern;
mod peer;
mod policy;
mod print;
mod protected;
mod subjects;
mod template;
mod verdict;

pub use denial::Denial;
pub use error::PolicyError;
pub use grant::NETWORK_TYPES;
pub use idmap::{IdMaps, IdRange, PermittedIdmap};
pub use limits::Limits;
pub use lint::Warning;
pub use loop_devices::LoopDevices;
pub use peer::{Accounts, Peer};
pub use policy::{Kinds, Places, Policy};
pub use verdict::{
    DetachPermit, MountPermit, MovePermit, Permit, PermittedFuse, PermittedKind, PermittedLift,
    PermittedOverlay, RemountPermit, UnmountPermit, Verdict,
};
