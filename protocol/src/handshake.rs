//! The first exchange of a connection. Its bytes are the same in every version.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, ErrorReply};

/// The protocol version that this build speaks.
pub const VERSION: u32 = 1;

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

impl Versions {
    /// What this build speaks.
    pub const SUPPORTED: Self = Self {
        oldest: VERSION,
        newest: VERSION,
    };

    /// The newest version that both ranges hold.
    #[must_use]
    pub fn newest_common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.oldest == self.newest {
            write!(f, "version {}", self.oldest)
        } else {
            write!(f, "versions {} to {}", self.oldest, self.newest)
        }
    }
}

bitflags! {
    /// Optional parts of the protocol. Bits that this build does not know are
    /// kept and ignored: a feature is used when both sides have named it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Features: u64 {
        const _ = !0;
    }
}

impl Serialize for Features {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.bits())
    }
}

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Self::from_bits_retain)
    }
}

/// The client's first frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`Hello::MAGIC`]; anything else is not a mountwarden client.
    pub magic: [u8; 4],
    /// The versions that the client speaks.
    pub versions: Versions,
    /// The features that the client can use.
    pub features: Features,
}

impl Hello {
    /// The bytes that open every connection.
    pub const MAGIC: [u8; 4] = *b"MWDN";
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            magic: Self::MAGIC,
            versions: Versions::SUPPORTED,
            features: Features::empty(),
        }
    }
}

/// The helper's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloReply {
    /// The connection is open.
    Welcome(Welcome),
    /// The connection is refused and ends.
    Refused(Refusal),
}

/// An open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that the rest of the connection speaks.
    pub version: u32,
    /// The features that both sides have.
    pub features: Features,
    /// The user that the kernel says the client is, and that the policy judges.
    pub uid: u32,
}

/// A refused connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The versions that the helper speaks.
    pub versions: Versions,
    /// Why.
    pub error: ErrorReply,
}

impl Refusal {
    /// A refusal by this build.
    #[must_use]
    pub fn new(error: ErrorReply) -> Self {
        Self {
            versions: Versions::SUPPORTED,
            error,
        }
    }

    /// The refusal of a client whose versions this build does not speak.
    #[must_use]
    pub fn unsupported_version(asked: Versions) -> Self {
        let supported = Versions::SUPPORTED;
        Self::new(ErrorReply::new(
            ErrorCode::UnsupportedVersion,
            format!(
                "the client speaks protocol {asked}, this helper {supported}: \
                 install a client and a helper that share one"
            ),
        ))
    }
}
