//! User namespaces (`user_namespaces(7)`): serving without root.
#![forbid(unsafe_code)]

use std::ffi::{CString, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{execv, getegid, geteuid};
use thiserror::Error;

use crate::files::{FileError, read_proc};
use crate::peer::Overflow;

/// Why no user namespace could be entered.
#[derive(Debug, Error)]
pub(crate) enum UsernsError {
    #[error("--userns is for users other than root; start without it")]
    Root,
    #[error(
        "cannot make a user namespace: {0}; look at /proc/sys/user/max_user_namespaces and at what \
         else the system forbids to unprivileged users"
    )]
    Unshare(Errno),
    #[error("cannot set up the user namespace: {step}: {errno}")]
    Kernel { step: &'static str, errno: Errno },
    #[error("cannot set up the user namespace: {0}")]
    Io(#[from] std::io::Error),
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error("cannot run {0:?} again inside the namespace: {1}")]
    Exec(OsString, Errno),
}

/// The ids that stand for unmapped users (`/proc/sys/kernel/overflowuid`);
/// `None` where every user is mapped.
pub(crate) fn overflow() -> Result<Option<Overflow>, FileError> {
    let map = read_proc(Path::new("/proc/self/uid_map"))?;
    let everyone = ["0", "0", "4294967295"];
    if map.split_whitespace().eq(everyone) {
        return Ok(None);
    }
    let id = |name: &str| -> Result<u32, FileError> {
        let path = Path::new("/proc/sys/kernel").join(name);
        read_proc(&path)?
            .trim()
            .parse()
            .map_err(|_| FileError::WrongType {
                path,
                wanted: "number",
            })
    };
    Ok(Some(Overflow {
        uid: id("overflowuid")?,
        gid: id("overflowgid")?,
    }))
}

/// Makes a user and a mount namespace in which this user keeps its own id,
/// and runs this program again inside it, without `--userns` and with ambient
/// `CAP_SYS_ADMIN`: from there on it is the same as being started by systemd.
///
/// Running again matters: only a program that was started inside can be joined
/// by its owner (`nsenter -U -m --preserve-credentials -t PID`), because the
/// helper may not be dumped.
pub(crate) fn enter(arguments: &[OsString]) -> Result<std::convert::Infallible, UsernsError> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        return Err(UsernsError::Root);
    }
    let step = |step| move |errno| UsernsError::Kernel { step, errno };
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(UsernsError::Unshare)?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
    write("/proc/self/gid_map", &format!("{gid} {gid} 1"))?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(step("make every mount private"))?;
    // SETPCAP only so that the helper can empty its bounding set.
    let keep = CapsHashSet::from([Capability::CAP_SYS_ADMIN, Capability::CAP_SETPCAP]);
    caps::set(None, CapSet::Inheritable, &keep)?;
    caps::set(None, CapSet::Ambient, &keep)?;
    let again: Vec<CString> = arguments
        .iter()
        .filter(|argument| *argument != "--userns")
        .filter_map(|argument| CString::new(argument.as_bytes()).ok())
        .collect();
    let failed = |errno| UsernsError::Exec(arguments.first().cloned().unwrap_or_default(), errno);
    execv(c"/proc/self/exe", &again).map_err(failed)
}

fn write(path: &str, text: &str) -> Result<(), UsernsError> {
    let file = openat(
        nix::fcntl::AT_FDCWD,
        path,
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|errno| UsernsError::Kernel {
        step: "open an id map",
        errno,
    })?;
    Ok(std::fs::File::from(file).write_all(text.as_bytes())?)
}
