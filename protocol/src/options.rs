//! Checked values of mount options.

use std::num::NonZeroU64;
use std::str::FromStr;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a number is not a valid option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidOption {
    /// The kernel reads a tmpfs size of 0 as "no limit".
    #[error("a tmpfs size must be 1 byte or more and below 2^63, not {0}")]
    Size(u64),
    /// The kernel reads an inode count of 0 as "no limit".
    #[error("a tmpfs inode count must be 1 or more and below 2^63, not {0}")]
    Inodes(u64),
    /// More than permission bits and the sticky bit.
    #[error(
        "a tmpfs mode must be permission bits, with the sticky bit at most (0 to 1777 octal), not {0:o}"
    )]
    Mode(u32),
    /// A bit that no version has defined.
    #[error("the option bits {0:#x} hold a bit that is not defined")]
    Bits(u32),
    /// Not a number with a unit that is known.
    #[error("a size is a number of bytes, or a number with K, M, G or T (KiB, MiB, GiB, TiB)")]
    SizeText,
    /// The kernel never gives out the id 0.
    #[error("0 is not a mount id")]
    Id,
    /// Nothing answers in no time.
    #[error("a probe must have 1 millisecond or more")]
    Timeout,
}

/// The kernel's unique 64-bit mount id (`STATX_MNT_ID_UNIQUE` in `statx(2)`):
/// never used again while the system runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct MountId(NonZeroU64);

impl TryFrom<u64> for MountId {
    type Error = InvalidOption;
    fn try_from(id: u64) -> Result<Self, InvalidOption> {
        NonZeroU64::new(id).map(Self).ok_or(InvalidOption::Id)
    }
}

impl From<MountId> for u64 {
    fn from(id: MountId) -> Self {
        id.0.get()
    }
}

impl std::fmt::Display for MountId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Defines a count that is neither 0 ("no limit" to the kernel) nor above `i64::MAX`.
macro_rules! bounded_count {
    ($(#[$outer:meta])* $name:ident, $error:ident) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name(NonZeroU64);

        impl $name {
            /// The number.
            #[must_use]
            pub fn get(self) -> u64 {
                self.0.get()
            }
        }

        impl TryFrom<u64> for $name {
            type Error = InvalidOption;
            fn try_from(number: u64) -> Result<Self, InvalidOption> {
                match NonZeroU64::new(number) {
                    Some(count) if number <= i64::MAX.unsigned_abs() => Ok(Self(count)),
                    _ => Err(InvalidOption::$error(number)),
                }
            }
        }

        impl From<$name> for u64 {
            fn from(count: $name) -> Self {
                count.get()
            }
        }
    };
}

bounded_count! {
    /// The size limit of a tmpfs in bytes (`size=` in `tmpfs(5)`).
    TmpfsSize, Size
}
bounded_count! {
    /// The inode limit of a tmpfs (`nr_inodes=` in `tmpfs(5)`).
    TmpfsInodes, Inodes
}

/// Reads `4096`, `64M` or `64MiB`: units are powers of 1024, as in `tmpfs(5)`.
impl FromStr for TmpfsSize {
    type Err = InvalidOption;

    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        let end = text.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, unit) = text.split_at_checked(end).ok_or(InvalidOption::SizeText)?;
        let number: u64 = digits.parse().map_err(|_| InvalidOption::SizeText)?;
        let factor: u64 = match unit {
            "" => 1,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            "T" | "TiB" => 1 << 40,
            _ => return Err(InvalidOption::SizeText),
        };
        Self::try_from(number.checked_mul(factor).ok_or(InvalidOption::SizeText)?)
    }
}

/// The mode of a tmpfs's root directory (`mode=` in `tmpfs(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TmpfsMode(u32);

impl TmpfsMode {
    /// Only the owner: what a tmpfs gets when nothing else is asked.
    pub const OWNER_ONLY: Self = Self(0o700);

    /// The permission bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for TmpfsMode {
    type Error = InvalidOption;
    fn try_from(mode: u32) -> Result<Self, InvalidOption> {
        if mode <= 0o1777 {
            Ok(Self(mode))
        } else {
            Err(InvalidOption::Mode(mode))
        }
    }
}

impl From<TmpfsMode> for u32 {
    fn from(mode: TmpfsMode) -> Self {
        mode.0
    }
}

bitflags! {
    /// What a client asks of a mount beyond its kind. Without any, a mount is
    /// writable, runs programs, and has `nosuid` and `nodev`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct MountOptions: u32 {
        /// Read-only.
        const READ_ONLY = 1;
        /// No program may be executed from it.
        const NO_EXEC = 1 << 1;
        /// Symbolic links on it are not followed.
        const NO_SYMFOLLOW = 1 << 2;
        /// Honour set-user-id bits: only where a grant does not force `nosuid`.
        const SUID = 1 << 3;
        /// Honour device nodes: only where a grant does not force `nodev`.
        const DEV = 1 << 4;
    }

    /// What comes as open descriptors: locations beside their paths, because the helper's
    /// user cannot reach them, and a user namespace. The order is that of the bits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Passed: u32 {
        /// The target.
        const TARGET = 1;
        /// The source.
        const SOURCE = 1 << 1;
        /// The user namespace whose maps say whom the files of the mount belong to
        /// (`MOUNT_ATTR_IDMAP` in `mount_setattr(2)`); only for a bind.
        const ID_MAP = 1 << 2;
    }

    /// The per-mount attributes that a mount has, as the kernel reports them
    /// (`MOUNT_ATTR_*` in `mount_setattr(2)`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct MountAttributes: u32 {
        /// `MOUNT_ATTR_RDONLY`
        const READ_ONLY = 1;
        /// `MOUNT_ATTR_NOSUID`
        const NO_SUID = 1 << 1;
        /// `MOUNT_ATTR_NODEV`
        const NO_DEV = 1 << 2;
        /// `MOUNT_ATTR_NOEXEC`
        const NO_EXEC = 1 << 3;
        /// `MOUNT_ATTR_NOSYMFOLLOW`
        const NO_SYMFOLLOW = 1 << 4;
    }
}

impl MountOptions {
    /// The options' names as `mount(8)` spells them, in a fixed order.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [
            (Self::READ_ONLY, "ro"),
            (Self::NO_EXEC, "noexec"),
            (Self::NO_SYMFOLLOW, "nosymfollow"),
            (Self::SUID, "suid"),
            (Self::DEV, "dev"),
        ]
        .into_iter()
        .filter_map(|(option, name)| self.contains(option).then_some(name))
        .collect()
    }
}

impl Passed {
    /// Their names, in a fixed order.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [
            (Self::TARGET, "target"),
            (Self::SOURCE, "source"),
            (Self::ID_MAP, "idmap"),
        ]
        .into_iter()
        .filter_map(|(passed, name)| self.contains(passed).then_some(name))
        .collect()
    }
}

impl MountAttributes {
    /// The attributes' names as `mount(8)` spells them, in a fixed order.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [
            (Self::READ_ONLY, "ro"),
            (Self::NO_SUID, "nosuid"),
            (Self::NO_DEV, "nodev"),
            (Self::NO_EXEC, "noexec"),
            (Self::NO_SYMFOLLOW, "nosymfollow"),
        ]
        .into_iter()
        .filter_map(|(flag, name)| self.contains(flag).then_some(name))
        .collect()
    }
}

/// Serializes a set of flags as its bits and refuses undefined ones.
macro_rules! checked_bits {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u32(self.bits())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bits = u32::deserialize(deserializer)?;
                Self::from_bits(bits)
                    .ok_or_else(|| serde::de::Error::custom(InvalidOption::Bits(bits)))
            }
        }
    };
}

checked_bits!(MountOptions);
checked_bits!(MountAttributes);
checked_bits!(Passed);
