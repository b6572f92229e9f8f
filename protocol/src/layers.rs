//! The layers of an overlay.

use serde::{Deserialize, Serialize};

use crate::{AbsPath, InvalidFilesystem};

/// The lower layers of an overlay, the topmost first: what one has hides what those
/// after it have under the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<AbsPath>", into = "Vec<AbsPath>")]
pub struct Layers(Vec<AbsPath>);

impl Layers {
    /// The most that there are.
    pub const MAX: usize = 16;
    /// The most bytes that their paths have together.
    pub const MAX_BYTES: usize = 8192;

    /// Each layer, in order.
    pub fn iter(&self) -> impl Iterator<Item = &AbsPath> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl TryFrom<Vec<AbsPath>> for Layers {
    type Error = InvalidFilesystem;

    fn try_from(layers: Vec<AbsPath>) -> Result<Self, InvalidFilesystem> {
        let bytes: usize = layers.iter().map(|layer| layer.as_bytes().len()).sum();
        match layers.len() {
            0 => Err(InvalidFilesystem::NoLayer),
            1..=Self::MAX if bytes <= Self::MAX_BYTES => Ok(Self(layers)),
            1..=Self::MAX => Err(InvalidFilesystem::LongLayers),
            _ => Err(InvalidFilesystem::TooManyLayers),
        }
    }
}

impl From<Layers> for Vec<AbsPath> {
    fn from(layers: Layers) -> Self {
        layers.0
    }
}

/// The layer of an overlay that is written to, and what the kernel needs for that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpperLayer {
    /// What is written.
    pub upper: AbsPath,
    /// A directory on the same file system that is the kernel's own meanwhile.
    pub work: AbsPath,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_some_and_not_too_many() {
        let layers = |count: usize, length: usize| {
            let path = format!("/{}", "a/".repeat(length / 2 - 1) + "a");
            let path = AbsPath::new(path).unwrap();
            Layers::try_from(vec![path; count]).map(|layers| layers.count())
        };
        assert_eq!(layers(0, 2), Err(InvalidFilesystem::NoLayer));
        assert_eq!(layers(1, 2), Ok(1));
        assert_eq!(layers(16, 512), Ok(16));
        assert_eq!(layers(16, 514), Err(InvalidFilesystem::LongLayers));
        assert_eq!(layers(17, 2), Err(InvalidFilesystem::TooManyLayers));
    }

    #[test]
    fn layers_keep_their_order() {
        let paths = ["/b", "/a", "/c,d:e"].map(|path| AbsPath::new(path).unwrap());
        let layers = Layers::try_from(paths.to_vec()).unwrap();
        assert!(layers.iter().eq(&paths));
        assert_eq!(Vec::from(layers), paths);
    }
}
