//! The floor: a message that goes from a client through a second process to a
//! third and back, over the kinds of socket that the helper uses, and nothing
//! else done.

use std::io::{Read, Write, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{read, write};

use crate::Outcome;

/// This program again, in the place of a session.
const MIDDLE: &str = "--chain-middle";
/// This program again, in the place of a mounter.
const END: &str = "--chain-end";
/// More than any message.
const ROOM: usize = 4096;

/// What this program does when it was started as a part of the chain.
pub(crate) fn relay(name: &str) -> Option<fn() -> nix::Result<()>> {
    match name {
        MIDDLE => Some(middle),
        END => Some(end),
        _ => None,
    }
}

fn middle() -> nix::Result<()> {
    // Two sockets, in the places where a child can be given one without `unsafe`.
    let (client, end) = (stdin(), stdout());
    while pass(client.as_fd(), end.as_fd())? && pass(end.as_fd(), client.as_fd())? {}
    Ok(())
}

fn end() -> nix::Result<()> {
    let middle = stdin();
    while pass(middle.as_fd(), middle.as_fd())? {}
    Ok(())
}

/// Hands one message on; false at the end.
fn pass(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> nix::Result<bool> {
    let mut buffer = [0; ROOM];
    let length = read(from, &mut buffer)?;
    match buffer.get(..length) {
        None | Some([]) => Ok(false),
        Some(message) => write(to, message).map(|_| true),
    }
}

/// A chain that is up.
pub(crate) struct Chain {
    // Before the processes: its end is what ends them.
    client: Option<UnixStream>,
    message: Vec<u8>,
    processes: [Child; 2],
}

impl Chain {
    /// A chain for messages of this size.
    pub(crate) fn start(size: usize) -> Outcome<Self> {
        let (client, session) = UnixStream::pair()?;
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let end = again(END, theirs).spawn()?;
        let middle = again(MIDDLE, session.into()).stdout(ours).spawn()?;
        Ok(Self {
            client: Some(client),
            message: vec![0x55; size],
            processes: [middle, end],
        })
    }

    /// One message, there and back.
    pub(crate) fn round_trip(&mut self) -> Outcome<()> {
        let client = self.client.as_mut().ok_or("the chain has ended")?;
        client.write_all(&self.message)?;
        client.read_exact(&mut self.message)?;
        Ok(())
    }
}

fn again(part: &str, input: OwnedFd) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(part).stdin(Stdio::from(input));
    command
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.client = None;
        for process in &mut self.processes {
            if let Err(error) = process.wait() {
                println!("a process of the chain may still run: {error}");
            }
        }
    }
}
