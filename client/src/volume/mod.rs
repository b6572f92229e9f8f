//! Volumes: mounts that a service keeps.
//!
//! A volume is mounted where it is [connected](Volume::connect) first, found good by whoever
//! connects it then, repaired when its server has died, and unmounted when its last use
//! [ends](Volume::disconnect), across processes and whoever of them has crashed meanwhile.
//!
//! ```no_run
//! use mountwarden_client::volume::{Export, Program, UseName, Volume};
//!
//! # fn main() -> Result<(), mountwarden_client::Error> {
//! let export = Export::new("quobyte://registry1,registry2/images")?;
//! let program = Program::quobyte("/usr/bin/mount.quobyte", None)?;
//! let volume = Volume::served("/var/lib/machines/mnt", "disk-7", export, program)?;
//!
//! let machine = UseName::new("machine-42")?;
//! volume.connect(&machine)?;
//! println!("the disk is at {}", volume.device().display());
//! volume.disconnect(&machine)?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here waits without a [deadline](Deadlines), and nothing is kept between two calls:
//! each method takes `&self`, and may run on a thread of its own.

mod children;
mod error;
mod expected;
mod export;
mod found;
mod init_system;
mod keeping;
mod manager;
mod program;
mod said;
mod uses;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mountwarden_protocol::{AbsPath, Kind, MountOptions};

#[cfg(feature = "cli")]
pub(crate) use self::children::wait;
pub use self::export::Export;
pub use self::found::{
    Connected, Connection, Disconnected, Disconnection, Found, Topmost, Validity,
};
pub use self::init_system::InitSystem;
pub use self::keeping::Held;
pub use self::manager::{Manager, ManagerState};
#[cfg(feature = "cli")]
pub(crate) use self::program::Ended;
pub use self::program::{Program, ProgramEnd, Scope};
pub use self::uses::UseName;

use self::expected::Expected;
use crate::Error;

/// How long each step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Until another process has done its work on the same mount; a minute if not given.
    pub lock: Duration,
    /// Each request to the helper; a minute if not given.
    pub helper: Duration,
    /// From the start of the program until it has mounted; a minute if not given.
    pub program: Duration,
    /// Until the file system answers; 10 seconds if not given.
    pub answer: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let minute = Duration::from_mins(1);
        Self {
            lock: minute,
            helper: minute,
            program: minute,
            answer: Duration::from_secs(10),
        }
    }
}

/// What makes the mount.
#[derive(Debug, Clone)]
enum Source {
    Program(Program),
    Helper { kind: Kind, options: MountOptions },
}

/// A mount that a service keeps, at a place that its export alone decides.
#[derive(Debug, Clone)]
pub struct Volume {
    name: String,
    export: Export,
    base: AbsPath,
    target: AbsPath,
    device: AbsPath,
    source: Source,
    expected: Expected,
    deadlines: Deadlines,
    socket: Option<PathBuf>,
    launcher: PathBuf,
}

impl Volume {
    /// The volume `name` in an export that a program serves. `base` is a directory of this
    /// user's, which the helper's user can reach.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for a base that is no absolute path, a name
    /// that is no file's, and a program of which is not known what its mounts show.
    pub fn served(
        base: impl AsRef<Path>,
        name: &str,
        export: Export,
        program: Program,
    ) -> Result<Self, Error> {
        let expected = program.expected().ok_or_else(|| {
            Error::invalid_request(
                "a program needs the type of its mounts, or how their source begins, so that they \
                 can be told from others",
            )
        })?;
        Self::new(
            base.as_ref(),
            name,
            export,
            Source::Program(program),
            expected,
        )
    }

    /// The volume `name` on a mount of the helper's own: a bind, a file system on a device or in
    /// an image, or one from the network. Its source is the export.
    ///
    /// # Errors
    /// As for [`served`](Self::served), and for another kind.
    pub fn mounted(
        base: impl AsRef<Path>,
        name: &str,
        kind: Kind,
        options: MountOptions,
    ) -> Result<Self, Error> {
        let source = match &kind {
            Kind::Bind { source: path, .. }
            | Kind::Block { device: path, .. }
            | Kind::Image { file: path, .. } => path.to_string(),
            Kind::Network { source, .. } => source.to_string(),
            _ => String::new(),
        };
        let expected = Expected::of(&kind).ok_or_else(|| {
            Error::invalid_request(
                "a volume is a bind, a file system on a device, in an image or from the network, or \
                 one that a program serves",
            )
        })?;
        let source_of_mount = Source::Helper { kind, options };
        Self::new(
            base.as_ref(),
            name,
            Export::new(&source)?,
            source_of_mount,
            expected,
        )
    }

    fn new(
        base: &Path,
        name: &str,
        export: Export,
        source: Source,
        expected: Expected,
    ) -> Result<Self, Error> {
        let path = |what, path: PathBuf| {
            AbsPath::new(&path).map_err(|error| Error::invalid_path(what, &path, error))
        };
        let target = path("base", base.join(export.digest()))?;
        if name.contains('/') {
            return Err(Error::invalid_request("the name of a volume holds no '/'"));
        }
        Ok(Self {
            device: path("name", target.as_path().join(name))?,
            name: name.to_owned(),
            base: path("base", base.to_owned())?,
            target,
            export,
            source,
            expected,
            deadlines: Deadlines::default(),
            socket: None,
            launcher: "/usr/bin/mountwarden".into(),
        })
    }

    /// Other deadlines.
    #[must_use]
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// The helper's socket, for this process and for the volume's program; without it, as for
    /// [`Builder::socket`](crate::Builder::socket).
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// The `mountwarden` command, which starts the volume's program; `/usr/bin/mountwarden` if
    /// not given.
    #[must_use]
    pub fn launcher(mut self, path: impl Into<PathBuf>) -> Self {
        self.launcher = path.into();
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its export is mounted: the base and the export's [digest](Export::digest).
    #[must_use]
    pub fn target(&self) -> &AbsPath {
        &self.target
    }

    /// The volume in its export: the target and the name.
    #[must_use]
    pub fn device(&self) -> &Path {
        self.device.as_path()
    }
}
