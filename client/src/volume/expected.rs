//! Which mount at a volume's place is the volume's.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use mountwarden_protocol::{AbsPath, DeviceNumber, Kind};

use crate::seen::{self, Line};

/// What the table of mounts must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// A FUSE file system of this user's, which has that type or whose source begins so: one
    /// volume may be served by several registries.
    Program {
        filesystem: Option<String>,
        source: Option<String>,
    },
    /// That type, and that source where the table shows it.
    FileSystem {
        filesystem: String,
        source: Option<String>,
    },
    /// That type on that device, whose path the table does not show.
    Block { filesystem: String, device: AbsPath },
    /// That directory, wherever it lies.
    Bind(AbsPath),
}

impl Expected {
    /// What a mount of the helper's own kinds shows.
    pub(super) fn of(kind: &Kind) -> Option<Self> {
        let (filesystem, source) = match kind {
            Kind::Bind { source, .. } => return Some(Self::Bind(source.clone())),
            Kind::Block {
                device, filesystem, ..
            } => {
                let (filesystem, device) = (filesystem.to_string(), device.clone());
                return Some(Self::Block { filesystem, device });
            }
            // In a file or on a loop device.
            Kind::Image { filesystem, .. } => (filesystem.to_string(), None),
            Kind::Network {
                source, filesystem, ..
            } => (filesystem.to_string(), Some(source.to_string())),
            _ => return None,
        };
        Some(Self::FileSystem { filesystem, source })
    }

    /// Whether a mount is the volume's.
    ///
    /// # Errors
    /// Where that cannot be found out.
    pub(super) fn fits(&self, line: &Line) -> io::Result<bool> {
        Ok(match self {
            Self::Program { filesystem, source } => {
                let same_type = |text: &String| line.filesystem == text.as_str();
                let begins = |text: &String| line.source.as_bytes().starts_with(text.as_bytes());
                line.user == Some(rustix::process::getuid().as_raw())
                    && (filesystem.as_ref().is_some_and(same_type)
                        || source.as_ref().is_some_and(begins))
            }
            Self::FileSystem { filesystem, source } => {
                line.filesystem == filesystem.as_str()
                    && source
                        .as_ref()
                        .is_none_or(|text| line.source == text.as_str())
            }
            Self::Block { filesystem, device } => {
                line.filesystem == filesystem.as_str()
                    && (has_own_number(line) || line.device == number_of(device)?)
            }
            Self::Bind(source) => {
                let below = seen::beneath(source.as_path())?;
                below.is_some_and(|below| shows(&below.line, source) == Some(same(line)))
            }
        })
    }
}

/// Whether the file system has a number that is no device's, as btrfs has, which may have
/// several. Its type must do then.
fn has_own_number(line: &Line) -> bool {
    line.device.major == 0
}

fn number_of(device: &AbsPath) -> io::Result<DeviceNumber> {
    let number = std::fs::metadata(device)?.rdev();
    Ok(DeviceNumber {
        major: rustix::fs::major(number),
        minor: rustix::fs::minor(number),
    })
}

/// What a mount shows: a directory of a file system.
fn same(line: &Line) -> (DeviceNumber, PathBuf) {
    (line.device, line.shows.clone())
}

/// What a bind of `path`, which lies on that mount, shows.
fn shows(line: &Line, path: &AbsPath) -> Option<(DeviceNumber, PathBuf)> {
    let rest = path.as_path().strip_prefix(&line.place).ok()?;
    let shown = if rest.as_os_str().is_empty() {
        line.shows.clone()
    } else {
        line.shows.join(rest)
    };
    Some((line.device, shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(filesystem: &str, source: &str) -> Line {
        let uid = rustix::process::getuid().as_raw();
        Line {
            place: "/m".into(),
            shows: "/".into(),
            device: DeviceNumber { major: 0, minor: 7 },
            filesystem: filesystem.into(),
            source: source.into(),
            user: filesystem.starts_with("fuse").then_some(uid),
        }
    }

    #[test]
    fn a_program_is_known_by_its_type_or_its_source() {
        let expected = Expected::Program {
            filesystem: Some("fuse.quobyte".to_owned()),
            source: Some("quobyte@".to_owned()),
        };
        let fits = |line: &Line| expected.fits(line).unwrap();
        assert!(fits(&line("fuse.quobyte", "anything")));
        assert!(fits(&line("fuse.other", "quobyte@registry2/volume")));
        assert!(!fits(&line("fuse.other", "x-quobyte@registry/volume")));
        // What a program cannot be.
        assert!(!fits(&line("nfs4", "quobyte@registry/volume")));
        let mut of_another = line("fuse.quobyte", "quobyte@registry/volume");
        of_another.user = of_another.user.map(|uid| uid ^ 1);
        assert!(!fits(&of_another));
    }

    #[test]
    fn a_device_is_known_by_its_number() {
        let device = AbsPath::new("/dev/null").unwrap();
        let expected = Expected::Block {
            filesystem: "ext4".to_owned(),
            device,
        };
        let on = |filesystem, (major, minor)| Line {
            device: DeviceNumber { major, minor },
            ..line(filesystem, "/proc/self/fd/8")
        };
        let fits = |line: &Line| expected.fits(line).unwrap();
        assert!(fits(&on("ext4", (1, 3))));
        assert!(!fits(&on("ext4", (1, 5))));
        assert!(!fits(&on("xfs", (1, 3))));
    }

    #[test]
    fn a_bind_is_known_by_what_it_shows() {
        let path = |text: &str| AbsPath::new(text).unwrap();
        let source = |place: &str, shown: &str| Line {
            place: place.into(),
            shows: shown.into(),
            ..line("ext4", "/dev/a")
        };
        let shown = |line: &Line, place: &str| shows(line, &path(place)).unwrap().1;
        assert_eq!(shown(&source("/", "/"), "/srv/x"), PathBuf::from("/srv/x"));
        assert_eq!(
            shown(&source("/srv", "/sub"), "/srv/x"),
            PathBuf::from("/sub/x")
        );
        assert_eq!(
            shown(&source("/srv/x", "/sub"), "/srv/x"),
            PathBuf::from("/sub")
        );
        assert_eq!(shows(&source("/other", "/"), &path("/srv/x")), None);
    }
}
