//! Absolute paths that mean one thing.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::escape::SafePath;

/// The longest path in bytes; the kernel's `PATH_MAX` counts a closing NUL too.
pub const MAX_PATH: usize = 4095;

/// The longest component in bytes, `NAME_MAX` of `limits.h`.
pub const MAX_COMPONENT: usize = 255;

/// An absolute path in its only spelling: no `.`, `..`, empty component,
/// trailing slash or NUL, within the kernel's lengths.
///
/// Two such paths are equal exactly when their bytes are, so "beneath" is a
/// question about bytes. The path may still name a symbolic link or nothing;
/// only the process that opens it can know.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AbsPath(Box<[u8]>);

/// Why some bytes are not an [`AbsPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidPath {
    /// No bytes at all.
    #[error("the path is empty")]
    Empty,
    /// The first byte is not `/`.
    #[error("the path is relative; it must start with '/'")]
    Relative,
    /// More than [`MAX_PATH`] bytes.
    #[error("the path is longer than {MAX_PATH} bytes")]
    TooLong,
    /// A component of more than [`MAX_COMPONENT`] bytes.
    #[error("a component of the path is longer than {MAX_COMPONENT} bytes")]
    ComponentTooLong,
    /// A NUL byte.
    #[error("the path holds a NUL byte")]
    Nul,
    /// A component `.` or `..`.
    #[error("the path holds a '.' or '..' component; write the path it leads to")]
    Dots,
    /// `//` or a trailing `/`.
    #[error("the path holds '//' or ends in '/'")]
    EmptyComponent,
}

impl AbsPath {
    /// Checks `path`.
    ///
    /// # Errors
    /// The first rule that the path breaks.
    pub fn new(path: impl AsRef<OsStr>) -> Result<Self, InvalidPath> {
        Self::from_bytes(path.as_ref().as_bytes())
    }

    /// Checks a path given as bytes.
    ///
    /// # Errors
    /// The first rule that the path breaks.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidPath> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Err(InvalidPath::Empty);
        };
        if first != b'/' {
            return Err(InvalidPath::Relative);
        }
        if bytes.len() > MAX_PATH {
            return Err(InvalidPath::TooLong);
        }
        if bytes.contains(&0) {
            return Err(InvalidPath::Nul);
        }
        if !rest.is_empty() {
            for component in rest.split(|&byte| byte == b'/') {
                match component {
                    b"" => return Err(InvalidPath::EmptyComponent),
                    b"." | b".." => return Err(InvalidPath::Dots),
                    long if long.len() > MAX_COMPONENT => {
                        return Err(InvalidPath::ComponentTooLong);
                    }
                    _ => {}
                }
            }
        }
        Ok(Self(bytes.into()))
    }

    /// The path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as the standard library's type.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether this is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        *self.0 == *b"/"
    }

    /// Whether this path lies strictly beneath `root`: `/a/b` is beneath `/a`
    /// and `/`, not beneath `/a/b` and not beneath `/a/` + anything shorter.
    #[must_use]
    pub fn is_beneath(&self, root: &Self) -> bool {
        if root.is_root() {
            return !self.is_root();
        }
        match self.0.strip_prefix(&*root.0) {
            Some(rest) => rest.first() == Some(&b'/'),
            None => false,
        }
    }

    /// The directory that holds this path and the last component; `None` for `/`.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        let slash = self.0.iter().rposition(|&byte| byte == b'/')?;
        let (parent, rest) = self.0.split_at_checked(slash)?;
        let name = rest.get(1..)?;
        let parent = if parent.is_empty() { b"/" } else { parent };
        Some((Self(parent.into()), name))
    }
}

impl AsRef<Path> for AbsPath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

impl fmt::Debug for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_path(), f)
    }
}

/// Prints the path escaped ([`SafePath`]): it cannot write to a terminal, break a
/// line or hide a part of itself, and what is printed tells every byte.
impl fmt::Display for AbsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SafePath(self.as_path()).fmt(f)
    }
}

impl Serialize for AbsPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for AbsPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = AbsPath;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of an absolute path")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<AbsPath, E> {
                AbsPath::from_bytes(bytes).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
