//! Processes of this one, none of which it waits for without a deadline.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mountwarden_protocol::AbsPath;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::deadline::Deadline;

/// Those that could not be killed at once. Without a later look each would stay a zombie.
static ABANDONED: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Waits for the end of a child; false when there is none by the deadline.
pub(crate) fn wait(child: &mut Child, deadline: Deadline) -> bool {
    let ends = pidfd_open(Pid::from_child(child), PidfdFlags::empty());
    while child.try_wait().is_ok_and(|status| status.is_none()) {
        let Ok(left) = deadline.remaining() else {
            return false;
        };
        match &ends {
            Ok(ends) => {
                let left = left.and_then(|left| Timespec::try_from(left).ok());
                match poll(&mut [PollFd::new(ends, PollFlags::IN)], left.as_ref()) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    true
}

/// Asks the file system at a place in a process of its own, which a file system that hangs keeps
/// for ever. Gives the error number, 0 for none, and nothing where it did not answer in time.
///
/// # Errors
/// Where the process cannot be started.
pub(super) fn ask(
    launcher: &Path,
    target: &AbsPath,
    deadline: Deadline,
) -> io::Result<Option<i32>> {
    let mut command = Command::new(launcher);
    command
        .arg0("mountwarden")
        .args(["volume", "ask"])
        .arg(target.as_path());
    command.env_clear().process_group(0).current_dir("/");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    if !wait(&mut child, deadline) {
        abandon(child);
        return Ok(None);
    }
    let status = child.wait()?.code();
    status
        .map(Some)
        .ok_or_else(|| io::Error::other("it was killed"))
}

/// Kills a child with its process group, which it leads. One that waits in the kernel is left to
/// itself: it is looked at again when the next is given up.
pub(super) fn abandon(mut child: Child) {
    // It may be gone already.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    if wait(&mut child, Deadline::after(Duration::from_secs(1))) {
        return;
    }
    let mut abandoned = ABANDONED.lock().unwrap_or_else(PoisonError::into_inner);
    abandoned.push(child);
    abandoned.retain_mut(|child| child.try_wait().is_ok_and(|status| status.is_none()));
}
