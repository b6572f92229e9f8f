//! Places that no mount covers, whatever the policy says.

use mountwarden_protocol::AbsPath;

/// A mount at one of these, or at a directory above one, would replace the
/// system, or what decides on mounts.
const NEVER_COVERED: [&str; 13] = [
    "/", "/proc", "/sys", "/dev", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64",
    "/libx32", "/boot",
];

/// Nothing is mounted beneath these either: the kernel makes what is there, and
/// a name leads to a different thing from one moment to the next.
const NEVER_STABLE: [&str; 2] = ["/proc", "/sys"];

/// The protected places: the built-in ones and those that the helper adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Protected {
    covered: Vec<AbsPath>,
    unstable: Vec<AbsPath>,
}

impl Protected {
    /// The built-in places.
    pub(crate) fn built_in() -> Self {
        // Each is a path, as a test below makes sure.
        let paths = |texts: &[&str]| {
            texts
                .iter()
                .filter_map(|text| AbsPath::new(text).ok())
                .collect()
        };
        Self {
            covered: paths(&NEVER_COVERED),
            unstable: paths(&NEVER_STABLE),
        }
    }

    /// Adds a place.
    pub(crate) fn add(&mut self, place: AbsPath) {
        if !self.covered.contains(&place) {
            self.covered.push(place);
        }
    }

    /// The place that a mount at `target` would cover or lie in.
    pub(crate) fn hit_by(&self, target: &AbsPath) -> Option<&AbsPath> {
        self.within(target)
            .or_else(|| self.unstable.iter().find(|&place| target.is_beneath(place)))
    }

    /// A place that is `directory` or lies beneath it.
    pub(crate) fn within(&self, directory: &AbsPath) -> Option<&AbsPath> {
        self.covered
            .iter()
            .find(|&place| place == directory || place.is_beneath(directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_place_is_a_path() {
        let protected = Protected::built_in();
        assert_eq!(protected.covered.len(), NEVER_COVERED.len());
        assert_eq!(protected.unstable.len(), NEVER_STABLE.len());
    }
}
