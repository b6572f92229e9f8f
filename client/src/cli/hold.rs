//! A mount that lasts as long as the command: `mount ... --lease`.

use std::os::fd::AsFd as _;

use mountwarden_protocol::{Mount, Mounted};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::exit::Exit;
use super::{Answer, output};
use crate::client::Builder;
use crate::{Client, Error, ErrorKind, Passing, Unmount};

/// A mount that ends with this process.
pub(super) struct Held {
    client: Client,
    mounted: Mounted,
    signals: SignalFd,
}

impl Held {
    /// Mounts. From then on an interrupt is something to be read.
    pub(super) fn mount(
        builder: Builder,
        mount: Mount,
        passing: Passing<'_>,
    ) -> Result<Self, Error> {
        let signals = listen().map_err(|errno| Error::system("wait for signals", errno.into()))?;
        let mut client = builder.connect()?;
        let mounted = client.mount_passing(mount, passing)?;
        Ok(Self {
            client,
            mounted,
            signals,
        })
    }

    /// Says what was mounted, waits for SIGINT, SIGTERM or SIGHUP, and ends the mount.
    pub(super) fn until_interrupted(mut self, json: bool) -> Result<Exit, Error> {
        let told = output::answer(&Answer::Mounted(self.mounted.clone()), json);
        if told != Exit::Done {
            return Ok(told);
        }
        self.wait()?;
        let ended = self.end()?;
        Ok(ended.map_or(Exit::Done, |ended| output::answer(&ended, json)))
    }

    /// Waits for a signal, or for the end of the lease, which is an error.
    fn wait(&mut self) -> Result<(), Error> {
        loop {
            let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            polled.extend(
                self.client
                    .lease_end()
                    .map(|end| PollFd::new(end, PollFlags::POLLIN)),
            );
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::system("wait for signals", errno.into())),
            }
            let [signal, lost] = [0, 1].map(|number: usize| {
                let fd = polled.get(number);
                fd.is_some_and(|fd| fd.any().unwrap_or(false))
            });
            if signal {
                return Ok(());
            }
            if lost {
                // Says that the lease is lost.
                self.client.status()?;
            }
        }
    }

    /// Ends the mount, unless somebody else has.
    fn end(&mut self) -> Result<Option<Answer>, Error> {
        match self.client.unmount(Unmount::from(&self.mounted).lazy()) {
            Ok(unmounted) => Ok(Some(Answer::Unmounted(unmounted))),
            Err(error) => match error.kind() {
                ErrorKind::NotMounted | ErrorKind::IdMismatch => Ok(None),
                _ => Err(error),
            },
        }
    }
}

/// Makes what interrupts a command something to be read (`signalfd(2)`).
fn listen() -> Result<SignalFd, Errno> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
}
