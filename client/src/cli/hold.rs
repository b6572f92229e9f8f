//! Mounts that last as long as the command: `mount ... --lease`, and those of a batch.

use std::os::fd::AsFd as _;

use mountwarden_protocol::Mount;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::exit::Exit;
use super::{Answer, output};
use crate::client::Builder;
use crate::{Batch, Client, Error, ErrorKind, Passing, Unmount};

/// Mounts that end with this process.
pub(super) struct Held {
    client: Client,
    made: Answer,
    /// The last first.
    leased: Vec<Unmount>,
    signals: SignalFd,
}

impl Held {
    /// Mounts. From then on an interrupt is something to be read.
    pub(super) fn mount(
        builder: Builder,
        mount: Mount,
        passing: Passing<'_>,
    ) -> Result<Self, Error> {
        let signals = listen()?;
        let mut client = builder.connect()?;
        let mounted = client.mount_passing(mount, passing)?;
        Ok(Self {
            client,
            leased: vec![Unmount::from(&mounted)],
            made: Answer::Mounted(mounted),
            signals,
        })
    }

    /// Applies a batch, of which not all mounts need be leased.
    pub(super) fn apply(builder: Builder, batch: Batch) -> Result<Self, Error> {
        let signals = listen()?;
        let mut client = builder.connect()?;
        let leased: Vec<bool> = batch.mounts().iter().map(|mount| mount.lease).collect();
        let applied = client.apply(batch)?;
        let leased = applied
            .iter()
            .zip(leased)
            .rev()
            .filter(|(_, leased)| *leased);
        Ok(Self {
            client,
            leased: leased.map(|(mount, _)| Unmount::from(mount)).collect(),
            made: Answer::Applied(applied),
            signals,
        })
    }

    /// Says what was mounted, waits for SIGINT, SIGTERM or SIGHUP, and ends what was leased.
    pub(super) fn until_interrupted(mut self, json: bool) -> Result<Exit, Error> {
        let mut told = output::answer(&self.made, json);
        if told != Exit::Done {
            return Ok(told);
        }
        self.wait()?;
        for unmount in std::mem::take(&mut self.leased) {
            if let Some(ended) = self.end(unmount)? {
                told = output::answer(&ended, json);
            }
        }
        Ok(told)
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

    /// Ends a mount, unless somebody else has.
    fn end(&mut self, unmount: Unmount) -> Result<Option<Answer>, Error> {
        match self.client.unmount(unmount.lazy()) {
            Ok(unmounted) => Ok(Some(Answer::Unmounted(unmounted))),
            Err(error) => match error.kind() {
                ErrorKind::NotMounted | ErrorKind::IdMismatch => Ok(None),
                _ => Err(error),
            },
        }
    }
}

/// Makes what interrupts a command something to be read (`signalfd(2)`).
fn listen() -> Result<SignalFd, Error> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    let listening = signals
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC));
    listening.map_err(|errno| Error::system("wait for signals", errno.into()))
}
