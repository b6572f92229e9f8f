//! A FUSE server of one directory, `leaf`, that lets a case hold that directory's
//! lock in the kernel: what is attached to it then waits, at a known place, until
//! the case lets go.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, ScopedJoinHandle};

use nix::libc::{ENOENT, ENOSYS, EPERM};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{getegid, geteuid};

use crate::Skip;
use crate::daemon::wait_for;

/// The device, where this user may open it.
pub(crate) fn device() -> Result<File, Skip> {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    device.map_err(|error| Skip(format!("/dev/fuse cannot be opened: {error}")))
}

/// Mounts a file system that `device` serves; `allow_other` opens it to others
/// than this user.
pub(crate) fn attach(device: &File, at: &Path, allow_other: bool) -> Result<(), Skip> {
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={}{}",
        device.as_raw_fd(),
        geteuid(),
        getegid(),
        if allow_other { ",allow_other" } else { "" }
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("test"),
        at,
        Some("fuse"),
        flags,
        Some(options.as_str()),
    )
    .map_err(|errno| Skip(format!("a FUSE mount cannot be made: {errno}")))
}

/// The requests of `fuse.h` in the kernel's user interface that matter here.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const MKDIR: u32 = 9;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const RELEASEDIR: u32 = 29;
const BATCH_FORGET: u32 = 42;

/// Directories: the root, and `leaf` in it.
const ROOT: u64 = 1;
const LEAF: u64 = 2;

/// A mounted file system and the thread that serves it.
pub(crate) struct Server {
    root: PathBuf,
    shared: std::sync::Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// A request to make a directory came, which holds the lock of `leaf`.
    held: AtomicBool,
    /// It may be answered.
    let_go: AtomicBool,
    end: AtomicBool,
}

impl Server {
    pub(crate) fn start(root: &Path) -> Result<Self, Skip> {
        let device = device()?;
        attach(&device, root, true)?;
        let shared = std::sync::Arc::new(Shared::default());
        let own = std::sync::Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(device, &own));
        Ok(Self {
            root: root.to_owned(),
            shared,
            thread: Some(thread),
        })
    }

    /// Runs `work` while the kernel holds the lock of `leaf` for another.
    pub(crate) fn hold<T>(&self, work: impl FnOnce(&Hold<'_>) -> T) -> T {
        std::thread::scope(|scope| {
            let inside = self.root.join("leaf/new");
            let holder = scope.spawn(|| {
                std::fs::create_dir(inside).expect_err("the server makes no directory");
            });
            let hold = Hold {
                shared: &self.shared,
                holder: &holder,
            };
            wait_for("the lock is held", || {
                self.shared.held.load(Ordering::SeqCst).then_some(())
            });
            // Also when the case fails, so that its processes can end.
            let _let_go = LetGo(&self.shared);
            work(&hold)
        })
    }
}

/// The lock of `leaf`, held.
pub(crate) struct Hold<'a> {
    shared: &'a Shared,
    holder: &'a ScopedJoinHandle<'a, ()>,
}

impl Hold<'_> {
    /// Lets whoever waits for the lock have it, first come, first served.
    pub(crate) fn let_go(&self) {
        assert!(!self.holder.is_finished(), "the lock was held until now");
        self.shared.let_go.store(true, Ordering::SeqCst);
    }
}

struct LetGo<'a>(&'a Shared);

impl Drop for LetGo<'_> {
    fn drop(&mut self) {
        self.0.let_go.store(true, Ordering::SeqCst);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.let_go.store(true, Ordering::SeqCst);
        self.shared.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut device: File, shared: &Shared) {
    let mut buffer = vec![0; 1 << 17];
    let mut waiting = None;
    while !shared.end.load(Ordering::SeqCst) {
        if shared.let_go.load(Ordering::SeqCst)
            && let Some(unique) = waiting.take()
        {
            answer(&mut device, unique, Err(EPERM));
        }
        let mut polled = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::from(2_u8);
        if poll(&mut polled, timeout).unwrap() == 0 {
            continue;
        }
        // An error is the end of the file system, or a request that was taken back.
        let Ok(length) = device.read(&mut buffer) else {
            continue;
        };
        let request = &buffer[..length];
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        let (operation, unique, node) = (word(4), long(8), long(16));
        let reply = match operation {
            INIT => Ok(init()),
            LOOKUP if node == ROOT && request[40..].starts_with(b"leaf\0") => Ok(entry()),
            LOOKUP => Err(ENOENT),
            GETATTR => Ok([&[0; 16][..], &directory(node)].concat()),
            OPENDIR => Ok(vec![0; 16]),
            RELEASEDIR => Ok(Vec::new()),
            MKDIR => {
                waiting = Some(unique);
                shared.held.store(true, Ordering::SeqCst);
                continue;
            }
            FORGET | BATCH_FORGET => continue,
            _ => Err(ENOSYS),
        };
        answer(&mut device, unique, reply);
    }
}

fn answer(device: &mut File, unique: u64, reply: Result<Vec<u8>, i32>) {
    let (error, body) = match reply {
        Ok(body) => (0, body),
        Err(errno) => (-errno, Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).unwrap();
    let header = [
        &length.to_ne_bytes()[..],
        &error.to_ne_bytes(),
        &unique.to_ne_bytes(),
    ];
    // Whoever asked may have been killed meanwhile.
    let _ = device.write_all(&[&header.concat()[..], &body].concat());
}

/// `struct fuse_init_out`, version 7.31.
fn init() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(&7_u32.to_ne_bytes());
    bytes[4..8].copy_from_slice(&31_u32.to_ne_bytes());
    bytes[20..24].copy_from_slice(&4096_u32.to_ne_bytes());
    bytes
}

/// `struct fuse_entry_out` of `leaf`, valid for an hour.
fn entry() -> Vec<u8> {
    let words = [LEAF, 0, 3600, 3600, 0].map(u64::to_ne_bytes);
    [&words.concat()[..], &directory(LEAF)].concat()
}

/// `struct fuse_attr` of a directory that everybody may use.
fn directory(node: u64) -> Vec<u8> {
    let mut bytes = vec![0; 88];
    bytes[..8].copy_from_slice(&node.to_ne_bytes());
    bytes[60..64].copy_from_slice(&0o040_777_u32.to_ne_bytes());
    bytes[64..68].copy_from_slice(&2_u32.to_ne_bytes());
    // In a user namespace nobody may write to what belongs to a user without a number.
    bytes[68..72].copy_from_slice(&geteuid().as_raw().to_ne_bytes());
    bytes[72..76].copy_from_slice(&getegid().as_raw().to_ne_bytes());
    bytes
}
