//! Who a client is: the kernel's word, and nobody else's.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use mountwarden_policy::Peer;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{AcceptConn, PeerCredentials, SockType};
use nix::sys::socket::{self, UnixAddr, getpeername, getsockname, getsockopt};
use thiserror::Error;

use crate::sys;

/// A client whose identity the kernel took when it connected (`SO_PEERCRED`,
/// `SO_PEERGROUPS` in `unix(7)`). A process that takes over its pid later is
/// somebody else and never gets here.
pub(crate) struct AttestedPeer {
    identity: Peer,
    pid: i32,
}

/// Why a socket does not identify a client.
#[derive(Debug, Error)]
pub(crate) enum NotAPeer {
    #[error("the kernel does not say who the client is: {0}")]
    Kernel(#[from] Errno),
    #[error("the socket is no connection to this helper's address")]
    WrongSocket,
    #[error("the client's socket has an address of its own: connect with one that was never bound")]
    Bound,
    #[error("the client's user has no name in the helper's user namespace")]
    Unmapped,
}

/// Asks the kernel about clients of one listening address.
#[derive(Clone)]
pub(crate) struct Attestor {
    address: UnixAddr,
    overflow: Option<Overflow>,
}

/// The ids that stand for every user and group without a mapping
/// (`user_namespaces(7)`): they identify nobody.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Overflow {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Attestor {
    /// `overflow` is `None` where every user has a mapping.
    pub(crate) fn new(listener: &impl AsFd, overflow: Option<Overflow>) -> Result<Self, Errno> {
        let address = getsockname::<UnixAddr>(listener.as_fd().as_raw_fd())?;
        Ok(Self { address, overflow })
    }

    /// Identifies the client at the other end of `socket`.
    ///
    /// A socket from another process may be anything: a listening socket and a
    /// socketpair report the user who made them, so only a connection that was
    /// accepted at the helper's own address will do.
    ///
    /// The other end of a connection reports the user who listens, and in a mount
    /// namespace of its own anybody can bind it to the helper's address. It is told
    /// by its peer, which has the address that is listened at (`unix(7)`: only a
    /// bound socket can listen); the peer of an accepted one has none, unless the
    /// client bound its own.
    pub(crate) fn attest(&self, socket: &impl AsFd) -> Result<AttestedPeer, NotAPeer> {
        let stream = getsockopt(socket, SockType)? == socket::SockType::Stream;
        let listening = getsockopt(socket, AcceptConn)?;
        let address = getsockname::<UnixAddr>(socket.as_fd().as_raw_fd()).ok();
        if !stream || listening || address != Some(self.address) {
            return Err(NotAPeer::WrongSocket);
        }
        let peer = getpeername::<UnixAddr>(socket.as_fd().as_raw_fd())?;
        if !peer.is_unnamed() {
            return Err(NotAPeer::Bound);
        }
        let credentials = getsockopt(socket, PeerCredentials)?;
        let mut groups = sys::socket::peer_groups(socket)?;
        if let Some(overflow) = self.overflow {
            if credentials.uid() == overflow.uid {
                return Err(NotAPeer::Unmapped);
            }
            groups.retain(|&group| group != overflow.gid);
        }
        Ok(AttestedPeer {
            identity: Peer {
                uid: credentials.uid(),
                gid: credentials.gid(),
                groups,
            },
            pid: credentials.pid(),
        })
    }
}

impl AttestedPeer {
    /// The user and groups, as the policy judges them.
    pub(crate) fn identity(&self) -> &Peer {
        &self.identity
    }

    /// The process that connected; for the log only.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}
