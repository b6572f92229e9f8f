//! What must hold for any input, one function a target. libFuzzer calls them
//! with what it invents (`fuzz_targets/`), and `tests/replay.rs` with every file
//! of the corpora, on a stable compiler.
#![forbid(unsafe_code)]

mod frames;
mod fusermount;
// The second decoder belongs to the protocol's own tests; a copy here would
// only be a third.
#[path = "../../protocol/tests/wire/mirror.rs"]
mod mirror;
mod options;
mod policies;

// For what is included from the client.
use mountwarden_client::{Error, Fuse};

pub use frames::frame;
pub use fusermount::fusermount;
pub use options::options;
pub use policies::policy_parse;
