//! What started this system.

use std::path::Path;
use std::sync::OnceLock;

/// What runs as process 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitSystem {
    /// systemd: a program can be given a scope of its own ([`Manager`](super::Manager)).
    Systemd,
    /// Another, or none.
    Other,
}

impl InitSystem {
    /// Looks as `sd_booted(3)` does, once in the life of the process: the answer cannot change
    /// before the next boot. Whether the manager works at the moment is another question
    /// ([`Manager::state`](super::Manager::state)).
    #[must_use]
    pub fn detect() -> Self {
        static FOUND: OnceLock<InitSystem> = OnceLock::new();
        *FOUND.get_or_init(|| Self::beneath(Path::new("/")))
    }

    fn beneath(root: &Path) -> Self {
        if root.join("run/systemd/system").is_dir() {
            Self::Systemd
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    const THREADS: usize = 64;

    #[test]
    fn only_the_directory_counts() {
        let root = tempfile::tempdir().unwrap();
        let systemd = root.path().join("run/systemd");
        let place = systemd.join("system");
        let found = || InitSystem::beneath(root.path());
        assert_eq!(found(), InitSystem::Other);
        fs::create_dir_all(&systemd).unwrap();
        assert_eq!(found(), InitSystem::Other);
        fs::write(&place, "").unwrap();
        assert_eq!(found(), InitSystem::Other);
        fs::remove_file(&place).unwrap();
        symlink("nowhere", &place).unwrap();
        assert_eq!(found(), InitSystem::Other);
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        assert_eq!(found(), InitSystem::Systemd);
    }

    #[test]
    fn all_threads_see_the_same() {
        let together = Barrier::new(THREADS);
        let expected = InitSystem::beneath(Path::new("/"));
        thread::scope(|scope| {
            let seen: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        together.wait();
                        InitSystem::detect()
                    })
                })
                .collect();
            for thread in seen {
                assert_eq!(thread.join().unwrap(), expected);
            }
        });
    }
}
