//! Who uses a mount, across processes, and the lock of its place.
//!
//! Everything lies beside the mount, in `BASE/.mountwarden/DIGEST`: whoever works on that mount
//! finds it, and no restart of a service takes it away, as it would a runtime directory.
//!
//! - `lock`: held (`flock(2)`) by who works on the mount. It is never removed.
//! - `named/NAME`: a use that lasts until it is ended. It holds the boot id, because the base may
//!   outlive a reboot, which no mount does.
//! - `held/N`: a use that lasts as long as the process that has it locked.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mountwarden_protocol::escape::{Safe, SafePath};
use rustix::fs::OFlags;

use super::Export;
use crate::Error;
use crate::deadline::Deadline;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How long to wait before a lock is tried again: `flock(2)` knows no deadline.
const PAUSE: Duration = Duration::from_millis(10);

/// Who uses a volume, such as the name of a virtual machine: 1 to 128 of the characters
/// `A-Z a-z 0-9 . _ : @ + -`, the first no dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UseName(String);

impl UseName {
    /// A name.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for another text.
    pub fn new(text: &str) -> Result<Self, Error> {
        let is_fit = |c: char| c.is_ascii_alphanumeric() || "._:@+-".contains(c);
        if (1..=128).contains(&text.len()) && !text.starts_with('.') && text.chars().all(is_fit) {
            return Ok(Self(text.to_owned()));
        }
        let message = format!(
            "the use \"{}\" is refused: it needs 1 to 128 letters, digits or any of ._:@+-, of \
             which the first is no dot",
            Safe(text)
        );
        Err(Error::invalid_request(message))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The uses of one mount.
#[derive(Debug)]
pub(super) struct Uses {
    place: PathBuf,
}

impl Uses {
    /// Those of an export's mount. Nothing is made.
    pub(super) fn of(base: &Path, export: &Export) -> Self {
        Self {
            place: base.join(".mountwarden").join(export.digest()),
        }
    }

    /// Waits for the lock until the deadline.
    ///
    /// # Errors
    /// [`TimedOut`](crate::ErrorKind::TimedOut), and where the files cannot be made or could be
    /// another user's.
    pub(super) fn lock(&self, within: Duration) -> Result<Locked<'_>, Error> {
        let deadline = Deadline::after(within);
        let path = self.place.join("lock");
        loop {
            self.make()?;
            let file = open(&path, true).map_err(|error| self.failed(&error))?;
            while let Err(why) = file.try_lock() {
                if let TryLockError::Error(error) = why {
                    return Err(self.failed(&error));
                }
                if !deadline.sleep(PAUSE) {
                    return Err(Error::locked(&path, within));
                }
            }
            // Unless somebody has cleared the directory away meanwhile.
            if is_at(&file, &path) {
                return Ok(Locked { uses: self, file });
            }
        }
    }

    /// How many there are.
    ///
    /// # Errors
    /// Where the files cannot be read.
    pub(super) fn count(&self) -> Result<usize, Error> {
        let counted = self.living().map(|(living, _)| living);
        counted.map_err(|error| self.failed(&error))
    }

    /// How many there are, and what is left of those that have ended by themselves.
    fn living(&self) -> io::Result<(usize, Vec<PathBuf>)> {
        let boot = fs::read_to_string(BOOT_ID)?;
        let (mut living, mut ended) = (0_usize, Vec::new());
        let named = list(&self.place.join("named"))?.into_iter().map(|path| {
            let is_now = contents(&path)? == boot;
            Ok::<_, io::Error>((path, is_now))
        });
        let held = list(&self.place.join("held"))?.into_iter().map(|path| {
            // A shared lock: two who look do not take each other for the holder.
            let is_now = match open(&path, false)?.try_lock_shared() {
                Ok(()) => false,
                Err(TryLockError::WouldBlock) => true,
                Err(TryLockError::Error(error)) => return Err(error),
            };
            Ok((path, is_now))
        });
        for found in named.chain(held) {
            match found {
                Ok((_, true)) => living = living.saturating_add(1),
                Ok((path, false)) => ended.push(path),
                // It has ended while this one looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok((living, ended))
    }

    fn make(&self) -> Result<(), Error> {
        let above = self.place.parent().unwrap_or(&self.place);
        for path in [above, &self.place] {
            own_directory(path).map_err(|error| self.failed(&error))?;
        }
        for name in ["named", "held"] {
            own_directory(&self.place.join(name)).map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::uses(&self.place, error)
    }
}

/// The uses, while nobody else works on the mount.
#[derive(Debug)]
pub(super) struct Locked<'u> {
    uses: &'u Uses,
    file: File,
}

impl Locked<'_> {
    /// The lock, for a process that is to hold it on.
    ///
    /// # Errors
    /// Where it cannot be duplicated.
    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Writes a use down; false where it is there already.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn add(&self, name: &UseName) -> Result<bool, Error> {
        let path = self.named(name);
        let boot = fs::read_to_string(BOOT_ID).map_err(|error| self.uses.failed(&error))?;
        if contents(&path).is_ok_and(|found| found == boot) {
            return Ok(false);
        }
        let written = open(&path, true).and_then(|mut file| {
            file.set_len(0)?;
            file.write_all(boot.as_bytes())
        });
        written.map_err(|error| self.uses.failed(&error))?;
        Ok(true)
    }

    /// A use that ends with its file.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub(super) fn hold(&self) -> Result<File, Error> {
        let place = self.uses.place.join("held");
        let made = (0_u64..).find_map(|number| {
            let path = place.join(number.to_string());
            match File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
            {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                made => Some(made),
            }
        });
        let held = made.unwrap_or_else(|| Err(io::ErrorKind::StorageFull.into()));
        // Who counts the uses without the lock holds this one for a moment.
        let locked = held.and_then(|file| file.lock().map(|()| file));
        locked.map_err(|error| self.uses.failed(&error))
    }

    /// Ends a use, if there is such a one.
    ///
    /// # Errors
    /// Where the file cannot be removed.
    pub(super) fn remove(&self, name: &UseName) -> Result<(), Error> {
        gone(&self.named(name)).map_err(|error| self.uses.failed(&error))
    }

    /// Whether there is that use.
    pub(super) fn has(&self, name: &UseName) -> bool {
        self.named(name).exists()
    }

    /// How many uses there are, after those have been cleared away that have ended by
    /// themselves.
    ///
    /// # Errors
    /// Where the files cannot be read or removed.
    pub(super) fn count(&self) -> Result<usize, Error> {
        let counted = self.uses.living().and_then(|(living, ended)| {
            ended.iter().try_for_each(|path| gone(path))?;
            Ok(living)
        });
        counted.map_err(|error| self.uses.failed(&error))
    }

    fn named(&self, name: &UseName) -> PathBuf {
        self.uses.place.join("named").join(name.as_str())
    }
}

/// A directory that nobody else can write to, which may be there.
fn own_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(path)?;
    let is_own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if is_own && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    let why = format!("{} is not a directory of this user's alone", SafePath(path));
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

fn open(path: &Path, writable: bool) -> io::Result<File> {
    let mut options = File::options();
    options
        .read(true)
        .write(writable)
        .create(writable)
        .mode(0o600);
    options
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

fn contents(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path, false)?.take(64).read_to_string(&mut text)?;
    Ok(text)
}

/// Whether the file is still the one with that name.
fn is_at(file: &File, path: &Path) -> bool {
    let same = || {
        let (ours, there) = (file.metadata()?, fs::symlink_metadata(path)?);
        Ok::<_, io::Error>(ours.ino() == there.ino() && ours.dev() == there.dev())
    };
    same().unwrap_or(false)
}

/// What lies in a directory, if there is one.
fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::ErrorKind;

    const SOON: Duration = Duration::from_millis(50);

    fn uses(base: &tempfile::TempDir) -> Uses {
        Uses::of(base.path(), &Export::new("x").unwrap())
    }

    fn name(text: &str) -> UseName {
        UseName::new(text).unwrap()
    }

    #[test]
    fn a_use_counts_once_and_until_it_ends() {
        let base = tempfile::tempdir().unwrap();
        let uses = uses(&base);
        assert_eq!(uses.count().unwrap(), 0);
        let lock = uses.lock(SOON).unwrap();
        assert!(lock.add(&name("a")).unwrap());
        assert!(!lock.add(&name("a")).unwrap());
        assert!(lock.add(&name("b")).unwrap());
        let held = lock.hold().unwrap();
        let another = lock.hold().unwrap();
        assert_eq!((lock.count().unwrap(), uses.count().unwrap()), (4, 4));
        drop(held);
        lock.remove(&name("a")).unwrap();
        lock.remove(&name("a")).unwrap();
        assert_eq!((uses.count().unwrap(), lock.count().unwrap()), (2, 2));
        drop(another);
        assert_eq!(lock.count().unwrap(), 1);
        assert!(list(&uses.place.join("held")).unwrap().is_empty());
    }

    #[test]
    fn no_use_survives_a_reboot() {
        let base = tempfile::tempdir().unwrap();
        let uses = uses(&base);
        let lock = uses.lock(SOON).unwrap();
        for text in ["", "00000000-0000-0000-0000-000000000000\n"] {
            fs::write(lock.named(&name("a")), text).unwrap();
            assert_eq!(uses.count().unwrap(), 0);
            assert!(lock.add(&name("a")).unwrap());
            assert_eq!(lock.count().unwrap(), 1);
        }
    }

    #[test]
    fn a_lock_is_waited_for_until_the_deadline() {
        let base = tempfile::tempdir().unwrap();
        let others = uses(&base);
        let uses = uses(&base);
        let lock = uses.lock(SOON).unwrap();
        // As the launcher has it.
        let passed_on = lock.file().unwrap();
        drop(lock);
        let error = others.lock(SOON).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(error.path(), Some(&*uses.place.join("lock")));
        drop(passed_on);
        others.lock(SOON).unwrap();
    }

    #[test]
    fn a_lock_that_was_cleared_away_is_none() {
        let base = tempfile::tempdir().unwrap();
        let uses = uses(&base);
        let old = uses.lock(SOON).unwrap();
        fs::remove_dir_all(&uses.place).unwrap();
        let new = uses.lock(SOON).unwrap();
        assert!(!is_at(&old.file, &uses.place.join("lock")));
        assert!(is_at(&new.file, &uses.place.join("lock")));
    }

    #[test]
    fn what_others_can_write_to_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let uses = uses(&base);
        drop(uses.lock(SOON).unwrap());
        let state = base.path().join(".mountwarden");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        let error = uses.lock(SOON).unwrap_err();
        assert!(
            error.to_string().contains("of this user's alone"),
            "{error}"
        );
        fs::rename(&state, base.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(base.path().join("elsewhere"), &state).unwrap();
        let error = uses.lock(SOON).unwrap_err();
        assert!(
            error.to_string().contains("of this user's alone"),
            "{error}"
        );
    }

    #[test]
    fn names_are_those_of_files() {
        for text in ["a", "machine-42", "0b1f:x@y_z.w+", &"x".repeat(128)] {
            assert_eq!(UseName::new(text).unwrap().as_str(), text);
        }
        for text in [
            "",
            ".",
            "..",
            ".x",
            "a/b",
            "a b",
            "ä",
            "a\n",
            &"x".repeat(129),
        ] {
            assert_eq!(
                UseName::new(text).unwrap_err().kind(),
                ErrorKind::InvalidRequest
            );
        }
    }
}
