//! What is to be attached elsewhere.

use std::path::Path;

use mountwarden_protocol::{MountId, Move as Request, Operation};

use crate::Error;
use crate::operation::checked;

/// A mount that is to be attached elsewhere, in one step: at no moment it is at neither place or
/// at both. It keeps its id, and whoever has a file of it open notices nothing.
///
/// ```
/// # fn main() -> Result<(), mountwarden_client::Error> {
/// let swap = mountwarden_client::Move::new("/run/vms/7/next", "/run/vms/7/data")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it does nothing until Client::move_mount is given it"]
pub struct Move(Request);

impl Move {
    /// The topmost mount at `from`, which is to be at `to`: that exists and is of the same type.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) as for
    /// [`Bind::new`](crate::Bind::new).
    pub fn new(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self(Request {
            from: checked("place", from.as_ref())?,
            to: checked("target", to.as_ref())?,
            id: None,
        }))
    }

    /// Only if the topmost mount has this id; otherwise
    /// [`IdMismatch`](crate::ErrorKind::IdMismatch).
    pub fn id(mut self, id: MountId) -> Self {
        self.0.id = Some(id);
        self
    }
}

impl From<Request> for Move {
    fn from(request: Request) -> Self {
        Self(request)
    }
}

impl From<Move> for Request {
    fn from(moved: Move) -> Self {
        moved.0
    }
}

impl From<Move> for Operation {
    fn from(moved: Move) -> Self {
        Self::Move(moved.into())
    }
}
