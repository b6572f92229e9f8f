//! Asks mountwarden's helper to mount and unmount.
//!
//! The helper mounts what the administrator's policy grants to the calling
//! user, and nothing else. This crate speaks to it over its socket; it needs no
//! privilege, starts no process and opens no path that it mounts.
//!
//! ```no_run
//! use mountwarden_client::{Bind, Client, ErrorKind, Tmpfs, TmpfsSize, Unmount};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = Client::connect()?;
//!
//! let image = client.mount(Bind::new("/srv/images/base", "/run/vms/7/base")?.read_only())?;
//! let scratch = Tmpfs::new("/run/vms/7/scratch")?.size("64M".parse::<TmpfsSize>()?);
//! client.mount(scratch)?;
//!
//! // Exactly the mount that was made, not what may cover it by now.
//! client.unmount(&image)?;
//!
//! // Whatever is there.
//! match client.unmount(Unmount::new("/run/vms/7/scratch")?.lazy()) {
//!     Ok(_) => {}
//!     Err(error) if error.kind() == ErrorKind::NotMounted => {}
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Every call has one deadline for all of it ([`Builder::timeout`]), and calls
//! that may be repeated reconnect once when the helper was restarted ([`Client`]).
#![forbid(unsafe_code)]

mod batch;
#[cfg(feature = "cli")]
pub mod cli;
mod client;
mod connection;
mod deadline;
mod descriptors;
mod detach;
mod error;
mod filesystem;
#[cfg(feature = "cli")]
pub mod fusermount;
#[cfg(feature = "cli")]
mod inherited;
mod list;
mod moving;
mod network;
mod operation;
mod passing;
mod probe;
#[cfg(feature = "volume")]
mod seen;
#[cfg(feature = "volume")]
pub mod volume;
#[cfg(feature = "volume")]
mod words;

pub use batch::{Applied, Batch, BatchFailure, Left};
pub use client::{Builder, Client, DEFAULT_SOCKET, DEFAULT_TIMEOUT, SOCKET_VARIABLE};
pub use detach::{Detach, DetachedMount};
pub use error::{Error, ErrorKind};
pub use filesystem::{Block, Fuse, FuseMount, Image, Overlay};
pub use mountwarden_protocol as protocol;
pub use mountwarden_protocol::{
    AbsPath, Counters, DenyReason, Detached, DeviceNumber, ErrorCode, ErrorReply, Explanation,
    FilesystemOptions, InvalidBatch, InvalidFilesystem, InvalidOption, InvalidPath, LandlockReport,
    Layers, Limits, MountAttributes, MountId, MountInfo, Mounted, Operation, Outcome, Role,
    RoleReport, Status, TmpfsInodes, TmpfsLimits, TmpfsMode, TmpfsSize, Unmounted, Versions,
};
pub use moving::Move;
pub use network::Network;
pub use operation::{Bind, Remount, Tmpfs, Unmount};
pub use passing::Passing;
pub use probe::{Health, Probe};
