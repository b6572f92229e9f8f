//! Ctrl-C and the like: heard in one place, so that the helper is stopped and
//! the directory removed whatever ends the quickstart.

use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::failure::{Context, Failure};

/// The signals that end the quickstart, and those of its children. They are
/// blocked, and read from a descriptor. A child inherits the mask, so each of
/// them begins with [`unblock`].
pub(crate) struct Signals(SignalFd);

/// Lets signals do again what they do.
pub(crate) fn unblock() -> Result<(), Failure> {
    SigSet::empty().thread_set_mask().or_fail("unblock signals")
}

impl Signals {
    pub(crate) fn block() -> Result<Self, Failure> {
        let heard: SigSet = [
            Signal::SIGCHLD,
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
        ]
        .into_iter()
        .collect();
        heard.thread_block().or_fail("block signals")?;
        SignalFd::with_flags(&heard, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map(Self)
            .or_fail("hear signals")
    }

    /// Rests until a signal came, at most for `time`; fails when the signal asks
    /// for an end.
    pub(crate) fn rest(&self, time: Duration) -> Result<(), Failure> {
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        self.hear(time, false)
    }

    /// Waits until `child` ends. In a shell the keyboard's signals are meant for
    /// what runs there.
    pub(crate) fn wait(&self, mut child: Child, shell: bool) -> Result<ExitStatus, Failure> {
        loop {
            if let Some(status) = child.try_wait().or_fail("wait for a process")? {
                return Ok(status);
            }
            if let Err(interrupted) = self.hear(PollTimeout::NONE, shell) {
                // It may have ended by the same signal.
                let _ = child.kill();
                child.wait().or_fail("wait for a process")?;
                return Err(interrupted);
            }
        }
    }

    fn hear(&self, time: PollTimeout, shell: bool) -> Result<(), Failure> {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, time).or_fail("wait for a signal")?;
        while let Some(signal) = self.0.read_signal().or_fail("read a signal")? {
            let number = u8::try_from(signal.ssi_signo).unwrap_or_default();
            let heard = Signal::try_from(i32::from(number));
            match heard.or_fail("understand a signal")? {
                Signal::SIGCHLD => {}
                Signal::SIGINT | Signal::SIGQUIT if shell => {}
                _ => return Err(Failure::interrupted(number)),
            }
        }
        Ok(())
    }
}
