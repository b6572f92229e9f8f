//! The gate: holds the listening socket.
//!
//! It accepts a connection, asks the kernel who it is, gives the warden its own
//! copy of the socket, and forks a session. It never reads a client's byte.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mountwarden_policy::Policy;
use mountwarden_protocol::{ErrorCode, ErrorReply, HelloReply, Refusal, Reply, Role};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, setsockopt, socketpair, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal, TimeValLike};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use crate::audit;
use crate::children;
use crate::confine::{ConfineError, Confined, Domain, Filters, Gate, Identity, Plan};
use crate::peer::{AttestedPeer, Attestor};
use crate::refusals::{Refusals, Refused};
use crate::session::{self, roots::Roots};
use crate::sys::process::{self, Forked};
use crate::sys::socket;
use crate::table::Source;

/// What the gate gets at the start.
pub(crate) struct Context<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) attestor: &'a Attestor,
    pub(crate) filters: &'a Filters,
    pub(crate) listener: &'a OwnedFd,
    /// The channel to the warden: a message brings a client socket and an order
    /// channel; its end is the order to stop.
    pub(crate) warden: &'a OwnedFd,
    pub(crate) signals: &'a SignalFd,
    pub(crate) identity: Identity,
    pub(crate) source: Source,
    /// The warden.
    pub(crate) parent: Pid,
    /// How often to give a sign of life.
    pub(crate) watchdog: Option<Duration>,
}

/// What the gate says to the warden beside the descriptors.
pub(crate) const READY: &[u8] = b"ready";
pub(crate) const CONNECTION: &[u8] = b"connection";
pub(crate) const ALIVE: &[u8] = b"alive";

/// How long a write to a client may take.
const SEND_TIMEOUT_SECONDS: i64 = 10;

/// How long the gate rests when descriptors or processes have run out.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Serves until the warden closes its channel.
pub(crate) fn run(context: Context<'_>) -> Result<(), ConfineError> {
    let granted = context.policy.static_roots();
    let (_, roots) = Roots::open(granted, context.policy.kinds().fuse);
    let mut descriptors = vec![
        context.listener.as_raw_fd(),
        context.warden.as_raw_fd(),
        context.signals.as_raw_fd(),
    ];
    descriptors.extend(roots.iter().map(AsRawFd::as_raw_fd));
    let confined = crate::confine::enforce(&Plan {
        descriptors: &descriptors,
        max_descriptors: max_descriptors(context.policy),
        identity: context.identity,
        domain: Domain::Reads(roots),
        filter: &context.filters.gate,
        dies_with: Some(context.parent),
    })?;
    let gate = Acceptor {
        context,
        confined,
        sessions: BTreeMap::new(),
        refusals: Refusals::default(),
    };
    gate.serve().map_err(|errno| ConfineError::Kernel {
        step: "serve as the gate",
        errno,
    })
}

/// A socket for each connection, and what the work on one takes.
pub(crate) fn max_descriptors(policy: &Policy) -> u64 {
    u64::from(policy.limits().connections).saturating_add(64)
}

/// A confined gate.
struct Acceptor<'a> {
    context: Context<'a>,
    confined: Confined<Gate>,
    sessions: BTreeMap<Pid, OpenSession>,
    refusals: Refusals,
}

/// A session that runs. The gate keeps the client's socket, to tell the client
/// when the session was ended before it could.
struct OpenSession {
    uid: u32,
    client: OwnedFd,
}

/// What to do after a connection was taken.
enum Next {
    Accept,
    BackOff,
}

impl Acceptor<'_> {
    fn serve(mut self) -> Result<(), Errno> {
        send(self.context.warden, READY, &[])?;
        let mut rest = false;
        let mut sign = self.context.watchdog.map(|_| Instant::now());
        loop {
            let until_sign = sign.map(|at| at.saturating_duration_since(Instant::now()));
            if until_sign.is_some_and(|time| time.is_zero()) {
                sign = self.give_sign()?;
                continue;
            }
            let mut polled = [
                PollFd::new(self.context.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.context.warden.as_fd(), PollFlags::empty()),
                PollFd::new(self.context.listener.as_fd(), PollFlags::POLLIN),
            ];
            // Resting, it leaves new connections in the backlog.
            let watched = if rest { 2 } else { 3 };
            let times = [rest.then_some(BACK_OFF), until_sign];
            let time = times.into_iter().flatten().min();
            let time = time.map(TimeSpec::from_duration);
            match ppoll(polled.get_mut(..watched).unwrap_or_default(), time, None) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let [signals, warden, listener] = polled.map(|fd| fd.any().unwrap_or(false));
            rest = false;
            if warden {
                return Ok(());
            }
            if signals {
                self.reap()?;
            }
            if listener && watched == 3 {
                rest = matches!(self.accept()?, Next::BackOff);
            }
        }
    }

    /// Gives a sign of life, and says when to give the next.
    fn give_sign(&self) -> Result<Option<Instant>, Errno> {
        match send(self.context.warden, ALIVE, &[]) {
            // The warden's end of the channel, which is polled, tells more.
            Ok(()) | Err(Errno::EPIPE) => {}
            Err(errno) => return Err(errno),
        }
        let next = self.context.watchdog;
        Ok(next.and_then(|time| Instant::now().checked_add(time)))
    }

    fn accept(&mut self) -> Result<Next, Errno> {
        let client = match socket::accept(self.context.listener.as_fd()) {
            Ok(client) => client,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => return Ok(Next::Accept),
            // The connection stays in the backlog until there is room.
            Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                return Ok(Next::BackOff);
            }
            Err(errno) => return Err(errno),
        };
        setsockopt(
            &client,
            sockopt::SendTimeout,
            &TimeVal::seconds(SEND_TIMEOUT_SECONDS),
        )?;
        let peer = match self.context.attestor.attest(&client) {
            Ok(peer) => peer,
            Err(error) => {
                self.refuse(&client, None, Refused::Unknown, error.into())?;
                return Ok(Next::Accept);
            }
        };
        let limits = self.context.policy.limits();
        if let Some(why) = self.limit_reached(&peer) {
            self.refuse(&client, Some(&peer), why, why.error(limits))?;
            return Ok(Next::Accept);
        }
        match self.start(&client, &peer) {
            Ok(pid) => {
                let uid = peer.identity().uid;
                self.refusals.admitted(uid);
                self.sessions.insert(pid, OpenSession { uid, client });
                Ok(Next::Accept)
            }
            Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(Next::Accept),
            Err(
                Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN | Errno::ETOOMANYREFS,
            ) => {
                let why = Refused::NoRoom;
                self.refuse(&client, Some(&peer), why, why.error(limits))?;
                Ok(Next::BackOff)
            }
            Err(errno) => Err(errno),
        }
    }

    /// The warden holds the same limits against a gate that was taken over;
    /// here they keep a flood from costing a fork each.
    fn limit_reached(&self, peer: &AttestedPeer) -> Option<Refused> {
        let limits = self.context.policy.limits();
        let uid = peer.identity().uid;
        let open = |count: usize, limit: u32| u32::try_from(count).map_or(true, |n| n >= limit);
        let own = self
            .sessions
            .values()
            .filter(|session| session.uid == uid)
            .count();
        if open(own, limits.connections_per_user) {
            Some(Refused::OfUser)
        } else if open(self.sessions.len(), limits.connections) {
            Some(Refused::OfAll)
        } else {
            None
        }
    }

    /// Tells a client, and the warden for the log, why there is no session for it.
    fn refuse(
        &mut self,
        client: &OwnedFd,
        peer: Option<&AttestedPeer>,
        why: Refused,
        error: ErrorReply,
    ) -> Result<(), Errno> {
        if self.refusals.begins(peer) {
            match send(self.context.warden, why.word(), &[client]) {
                // The warden's end of the channel, which is polled, tells more.
                Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET) => {}
                // Too many descriptors are on their way to the warden already.
                Err(errno) => audit::log(
                    Role::Gate,
                    &format!(
                        "a refusal has no line of its own: {errno}; {}",
                        error.message
                    ),
                )?,
            }
        }
        children::tell(client, &HelloReply::Refused(Refusal::new(error)));
        Ok(())
    }

    fn start(&self, client: &OwnedFd, peer: &AttestedPeer) -> Result<Pid, Errno> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        send(self.context.warden, CONNECTION, &[client, &theirs])?;
        drop(theirs);
        match process::fork()? {
            Forked::Parent(pid) => Ok(pid),
            Forked::Child => {
                let context = session::Context {
                    policy: self.context.policy,
                    peer,
                    filter: &self.context.filters.session,
                    source: self.context.source,
                    gate: self.confined.report(),
                };
                children::begin(Role::Session, c"mw-session");
                children::finish(Role::Session, session::run(&context, client, &ours))
            }
        }
    }

    /// Takes note of sessions that ended, and tells the clients of those that
    /// could not do so themselves.
    fn reap(&mut self) -> Result<(), Errno> {
        children::drain(self.context.signals)?;
        while let Some(status) = children::next_ended()? {
            let Some(session) = status.pid().and_then(|pid| self.sessions.remove(&pid)) else {
                continue;
            };
            if let WaitStatus::Exited(_, 0) = status {
                continue;
            }
            let how = children::describe(status);
            audit::log(
                Role::Gate,
                &format!("a session of uid {} ended: {how}", session.uid),
            )?;
            // Only a request has a deadline, so a reply is what the client waits for.
            if let WaitStatus::Signaled(_, Signal::SIGALRM, _) = status {
                children::tell(&session.client, &Reply::Error(timed_out()));
            }
        }
        Ok(())
    }
}

fn timed_out() -> ErrorReply {
    ErrorReply::new(
        ErrorCode::TimedOut,
        "the request took longer than the helper's `request_timeout`: a file system on the way to \
         its paths may hang",
    )
}

fn send(warden: &OwnedFd, what: &[u8], descriptors: &[&OwnedFd]) -> Result<(), Errno> {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    socket::send(warden.as_fd(), what, &descriptors, MsgFlags::empty()).map(drop)
}
