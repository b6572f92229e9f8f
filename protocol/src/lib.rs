//! What mountwarden's client and helper say to each other.
//!
//! A connection is a Unix stream socket that carries frames: a `u32` length
//! in little-endian order, then one value ([`frame`]). The client opens with
//! [`Hello`]; the helper answers [`HelloReply`]; then each [`Request`] gets one
//! [`Reply`], in order. `WIRE.md` beside this crate specifies every byte.
//!
//! Every type here is checked when it is decoded: a path that holds `..`, a size
//! of zero or a flag that nobody has defined does not exist as a value.
#![forbid(unsafe_code)]

mod batch;
mod error;
pub mod escape;
mod filesystem;
pub mod frame;
mod handshake;
mod layers;
mod open_enum;
mod options;
mod path;
mod reply;
mod request;
mod status;

pub use batch::{AppliedEntry, Batch, InvalidBatch, LeftEntry, NotApplied};
pub use error::{DenyReason, ErrorCode, ErrorReply};
pub use filesystem::{
    BlockSize, FilesystemName, FilesystemOption, FilesystemOptions, FuseSource, FuseSubtype,
    ImageType, InvalidFilesystem, NetworkSource, OptionKey, OptionValue, Secrets, SourceName,
};
pub use handshake::{Features, Hello, HelloReply, Refusal, VERSION, Versions, Welcome};
pub use layers::{Layers, UpperLayer};
pub use options::{
    InvalidOption, MountAttributes, MountId, MountOptions, Passed, TmpfsInodes, TmpfsMode,
    TmpfsSize,
};
pub use path::{AbsPath, InvalidPath, MAX_COMPONENT, MAX_PATH};
pub use reply::{
    Detached, DeviceNumber, Explanation, ListPage, MountInfo, Mounted, Outcome, ProbeAnswer,
    Probed, Reply, TmpfsLimits, Unmounted,
};
pub use request::{
    Detach, Kind, Lift, Mount, Move, Operation, Propagation, Remount, Request, Unmount,
};
pub use status::{Counters, LandlockReport, Limits, Role, RoleReport, Status};
