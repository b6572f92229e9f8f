//! What a volume's program is started by, and what a file system is asked by that may hang:
//! processes of their own, which are nobody's to call by hand.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Signal, getpgrp, kill_process_group};

use crate::ErrorKind;
use crate::deadline::Deadline;
use crate::inherited;
use crate::volume::{Ended, Manager, wait};

/// Starts a program and tells on standard output how its foreground part has ended. The lock of
/// the volume is standard input: if who asked for this is killed, nobody else works on the volume
/// before the program is done.
pub(super) fn launch(
    words: &[OsString],
    scope: Option<(Manager, &str)>,
    within: Duration,
) -> ExitCode {
    match keep() {
        Ok(kept) => {
            let deadline = Deadline::after(within);
            let ended = enter(scope, within).map_or_else(|why| why, |()| run(words, deadline));
            let told = kept.tell(&ended);
            if ended == Ended::TimedOut {
                // Itself, too, and so the lock.
                let _ = kill_process_group(getpgrp(), Signal::KILL);
            }
            if told.is_ok() {
                return ExitCode::SUCCESS;
            }
        }
        // This ends in the error of who asked.
        Err(error) => eprintln!("mountwarden: cannot start a program: {error}"),
    }
    ExitCode::FAILURE
}

/// What the program does not get.
struct Kept {
    out: File,
    /// Held until this process ends.
    _lock: OwnedFd,
}

/// Takes the lock and standard output away from where a program would find them, and closes what
/// the caller's libraries have left open.
fn keep() -> io::Result<Kept> {
    inherited::close_all_but(None)?;
    let lock = fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let out = fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(Kept {
        out: out.into(),
        _lock: lock,
    })
}

impl Kept {
    fn tell(&self, ended: &Ended) -> io::Result<()> {
        let text = serde_json::to_vec(ended)?;
        (&self.out).write_all(&text)
    }
}

/// Enters the scope, before there is a program that could leave it behind.
fn enter(scope: Option<(Manager, &str)>, within: Duration) -> Result<(), Ended> {
    let Some((manager, name)) = scope else {
        return Ok(());
    };
    let unit = format!("{name}-{}.scope", std::process::id());
    let entered = manager.enter_scope(&unit, "A volume of mountwarden", within);
    entered.map_err(|error| Ended::NotInScope {
        message: error.to_string(),
        timed_out: error.kind() == ErrorKind::TimedOut,
    })
}

fn run(words: &[OsString], deadline: Deadline) -> Ended {
    let Some((program, arguments)) = words.split_first() else {
        return Ended::NotStarted { errno: 0 };
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or_default();
            return Ended::NotStarted { errno };
        }
    };
    if !wait(&mut child, deadline) {
        return Ended::TimedOut;
    }
    match child.wait() {
        Ok(status) => match status.code() {
            Some(code) => Ended::Exited(code),
            None => Ended::Killed(status.signal().unwrap_or_default()),
        },
        Err(error) => Ended::NotStarted {
            errno: error.raw_os_error().unwrap_or_default(),
        },
    }
}

/// Asks the file system at a place; the exit status is the error number.
pub(super) fn ask(target: &Path) -> ExitCode {
    let flags = AtFlags::STATX_FORCE_SYNC | AtFlags::SYMLINK_NOFOLLOW;
    let errno = match rustix::fs::statx(CWD, target, flags, StatxFlags::SIZE) {
        Ok(_) => 0,
        Err(errno) => errno.raw_os_error(),
    };
    u8::try_from(errno).unwrap_or(u8::MAX).into()
}
