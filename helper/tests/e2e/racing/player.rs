//! A client in a race, which knows what it may be told.

use std::os::fd::{AsFd, AsRawFd};

use mountwarden_client::protocol::Mount;
use mountwarden_client::{Client, Error, MountAttributes, Mounted, Outcome, Unmount};
use mountwarden_helper::raw;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc::MS_PRIVATE;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;

use super::{Race, Random};
use crate::daemon::wait_for;
use crate::kernel;

/// How a request ended, in one word.
pub(crate) fn word<T>(
    result: &Result<T, Error>,
    done: impl FnOnce(&T) -> &'static str,
) -> &'static str {
    match result {
        Ok(value) => done(value),
        Err(error) => error.kind().name(),
    }
}

/// One client.
pub(crate) struct Player<'r, 'a> {
    pub(crate) race: &'r Race<'a>,
    pub(crate) client: Client,
    pub(crate) number: usize,
    pub(crate) random: Random,
}

impl Player<'_, '_> {
    /// Connects again.
    pub(crate) fn reconnect(&mut self) {
        self.client = self.race.daemon.client();
    }

    /// Asks for a mount.
    pub(crate) fn mount(&mut self, mount: impl Into<Mount>) -> Option<Mounted> {
        let mount = mount.into();
        let before = *self.race.state.lock().unwrap();
        let result = self.client.mount(mount.clone());
        let after = *self.race.state.lock().unwrap();
        let word = word(&result, |made| match made.outcome {
            Outcome::Mounted => "mounted",
            Outcome::AlreadyMounted => "already-mounted",
        });
        let rules = &self.race.rules;
        assert!(rules.mount.contains(&word), "{result:?}");
        if let Some((_, answers)) = before.filter(|_| before == after) {
            assert!(
                answers.contains(&word),
                "not one of {answers:?}: {result:?}"
            );
            self.race.pace.count(format!("{word}, undisturbed"));
        }
        self.race.pace.count(word);
        if result.is_err() {
            // The same again would be the same answer.
            self.race.wait_for_another_state(after);
        }
        let made = result.ok()?;
        assert_eq!(made.mount.target, mount.target);
        let forced = MountAttributes::NO_SUID | MountAttributes::NO_DEV;
        assert_eq!(made.mount.attributes, forced);
        let id = u64::from(made.mount.id);
        match made.outcome {
            Outcome::Mounted => self.race.made.lock().unwrap().insert(id),
            Outcome::AlreadyMounted => self.race.found.lock().unwrap().insert(id),
        };
        if let Some(status) = status(id) {
            check_status(&status);
            let strays = self.race.strays.lock().unwrap();
            assert!(
                !strays.contains(&status.short_id),
                "a stray was not taken back: {made:?}"
            );
        }
        Some(made)
    }

    /// Ends a mount that was made, by a request that names it, and by the kernel
    /// if that was refused.
    pub(crate) fn unmount(&mut self, made: &Mounted) -> &'static str {
        let id = u64::from(made.mount.id);
        let result = self.client.unmount(Unmount::from(made));
        let word = word(&result, |_| "unmounted");
        assert!(
            self.race.rules.unmount.contains(&word),
            "{made:?}: {result:?}"
        );
        self.race.pace.count(format!("unmount: {word}"));
        let ended = match result {
            Ok(gone) => {
                assert_eq!(gone.id, made.mount.id);
                assert_eq!(status(id), None, "said to be gone: {gone:?}");
                true
            }
            Err(_) => self.race.rules.kept && end(id),
        };
        if ended {
            let first = self.race.ended.lock().unwrap().insert(id);
            if !first {
                assert!(!kernel::ends_a_mount_once(), "ended twice: {made:?}");
                self.race.pace.count("ended by two at once");
            }
        }
        word
    }
}

/// What the kernel says of every mount of the helper's, in these cases.
pub(crate) fn check_status(status: &raw::MountStatus) {
    let forced = kernel::NOSUID | kernel::NODEV;
    assert_eq!(
        status.attributes & kernel::RESTRICTIONS,
        forced,
        "{status:?}"
    );
    assert_eq!(status.propagation, MS_PRIVATE, "{status:?}");
}

/// What `statmount(2)` says of a mount, if it is there.
pub(crate) fn status(id: u64) -> Option<raw::MountStatus> {
    match raw::status_of_mount(id) {
        Ok(status) => Some(status),
        Err(Errno::ENOENT) => None,
        Err(errno) => panic!("{errno}"),
    }
}

/// Ends a mount, wherever its place was renamed to, and no other; false when it
/// has ended already.
pub(crate) fn end(id: u64) -> bool {
    wait_for("the mount ends", || {
        let Some(status) = status(id) else {
            return Some(false);
        };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = open(&status.point[..], flags, Mode::empty()).ok()?;
        if raw::status(root.as_fd(), raw::Ids::Unique).ok()?.mount != id {
            return None;
        }
        // The link leads to the mount that is open, whatever its path is by now.
        let link = format!("/proc/self/fd/{}", root.as_raw_fd());
        umount2(&link[..], MntFlags::MNT_DETACH).ok().map(|()| true)
    })
}
