//! The warden: holds the policy and `CAP_SYS_ADMIN`, and forks mounters.
//!
//! It opens no path and reads nothing from a client. From the gate it takes
//! sockets, and believes the kernel alone about whose they are.
#![forbid(unsafe_code)]

mod users;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mountwarden_policy::{Kinds, Policy};
use mountwarden_protocol::{ErrorCode, ErrorReply, Role};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::MsgFlags;
use nix::sys::time::TimeSpec;
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, getpid};
use thiserror::Error;

use self::users::Users;
use crate::audit::By;
use crate::board::{Board, Count};
use crate::confine::{ConfineError, Confined, Domain, Filters, Identity, Plan, Warden};
use crate::leases::{Lessor, Places};
use crate::locker::Locker;
use crate::order::OrderReply;
use crate::peer::{AttestedPeer, Attestor};
use crate::refusals::{self, Refusals, Refused};
use crate::reports::{self, Reports};
use crate::sys::process::{self, Forked};
use crate::sys::socket;
use crate::systemd::Notifier;
use crate::table::Source;
use crate::{audit, children, gate, mounter};

/// What the warden gets at the start.
pub(crate) struct Context<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) attestor: &'a Attestor,
    pub(crate) filters: &'a Filters,
    pub(crate) board: Board,
    pub(crate) signals: &'a SignalFd,
    /// The file whose record locks serialize work on one target.
    pub(crate) lock: &'a OwnedFd,
    /// The mounters' end of the channel about leases.
    pub(crate) lessees: &'a OwnedFd,
    pub(crate) identity: Identity,
    pub(crate) source: Source,
    pub(crate) gate: Pid,
    /// What gate and sessions say.
    pub(crate) reports: &'a Reports,
    /// Where the policy grants detached or ID-mapped mounts.
    pub(crate) locker: Option<&'a Locker>,
}

/// Why the warden ends when nobody told it to.
#[derive(Debug, Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Confine(#[from] ConfineError),
    #[error("{0}")]
    Kernel(#[from] Errno),
    #[error("the gate ended: {0}")]
    Gate(String),
    #[error("the locker ended: {0}")]
    Locker(String),
    #[error("cannot tell the service manager that it works: {0}")]
    Manager(Errno),
}

/// A warden that is confined and may serve.
pub(crate) struct Keeper<'a> {
    context: Context<'a>,
    confined: Confined<Warden>,
    started: Instant,
    /// The gate's process, until it has ended.
    gate: Option<Pid>,
    mounters: BTreeMap<Pid, Connection>,
    lessor: Lessor,
    users: Users,
    refusals: Refusals,
}

/// The connection of a mounter.
struct Connection {
    /// Its user's place on the board.
    place: usize,
    peer: Rc<AttestedPeer>,
}

/// How long mounters may take to end their requests when the helper stops.
const STOP: Duration = Duration::from_secs(10);

/// How long what was killed may take to end, and its leases.
const KILLED: Duration = Duration::from_secs(2);

/// How long to wait until a process is asked for again that ends a lease.
const AGAIN: Duration = Duration::from_millis(100);

/// How long the gate may take to confine itself.
const GATE_START: Duration = Duration::from_secs(10);

/// How long the gate may take to end after its channel is closed.
const GATE_END: Duration = Duration::from_secs(1);

/// Waits until the gate is confined and listens.
pub(crate) fn wait_for_gate(gate: &OwnedFd) -> Result<(), Ended> {
    let mut polled = [PollFd::new(gate.as_fd(), PollFlags::POLLIN)];
    ppoll(&mut polled, Some(TimeSpec::from_duration(GATE_START)), None)?;
    let mut buffer = [0; 16];
    let message = socket::receive(gate.as_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
    if buffer.get(..message.length) == Some(gate::READY) {
        Ok(())
    } else {
        Err(Ended::Gate(
            "it did not get ready; its own line in the log says why".to_owned(),
        ))
    }
}

impl<'a> Keeper<'a> {
    /// Confines this process as the warden. `extra` stays open beside its own
    /// descriptors.
    pub(crate) fn confine(
        context: Context<'a>,
        lessor: Lessor,
        extra: &[RawFd],
    ) -> Result<Self, Ended> {
        let mut descriptors = vec![
            context.signals.as_raw_fd(),
            context.lock.as_raw_fd(),
            context.lessees.as_raw_fd(),
            lessor.as_fd().as_raw_fd(),
            context.reports.as_fd().as_raw_fd(),
        ];
        let locker = context.locker.map(|locker| locker.as_fd().as_raw_fd());
        descriptors.extend(extra.iter().copied().chain(locker));
        let confined = crate::confine::enforce(&Plan {
            descriptors: &descriptors,
            max_descriptors: max_descriptors(context.policy),
            identity: context.identity,
            domain: Domain::Mounts,
            filter: &context.filters.warden,
            dies_with: None,
        })?;
        let users = Users::new(context.policy.limits());
        let started = Instant::now();
        Ok(Self {
            gate: Some(context.gate),
            context,
            confined,
            started,
            mounters: BTreeMap::new(),
            lessor,
            users,
            refusals: Refusals::default(),
        })
    }

    /// Serves until a signal ends it, or the gate does.
    pub(crate) fn serve(mut self, gate: OwnedFd, manager: &Notifier) -> Result<(), Ended> {
        let served = self.serve_until_the_end(&gate, manager);
        drop(gate);
        if served.is_ok() {
            return self.stop();
        }
        // Mounters end with the warden, and their leases with them.
        self.gate = None;
        self.wind_up(Signal::SIGKILL, KILLED)?;
        served
    }

    fn serve_until_the_end(&mut self, gate: &OwnedFd, manager: &Notifier) -> Result<(), Ended> {
        loop {
            let mut polled = [
                PollFd::new(self.context.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(gate.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.context.reports.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.lessor.as_fd(), PollFlags::POLLIN),
            ];
            let again = self.lessor.is_due().then_some(AGAIN);
            match ppoll(&mut polled, again.map(TimeSpec::from_duration), None) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let [signals, connection, reports, leases] = polled.map(|fd| fd.any().unwrap_or(false));
            if leases {
                self.hear_of_leases(reports::AT_ONCE)?;
            }
            self.end_leases();
            if signals && self.hear()? {
                return Ok(());
            }
            if connection {
                self.take(gate, manager)?;
            }
            if reports && !self.context.reports.write(reports::AT_ONCE)? {
                return Err(Ended::Gate(self.end_of_gate()?));
            }
        }
    }

    /// Hears signals; true when one asks for an end.
    fn hear(&mut self) -> Result<bool, Ended> {
        let stop = children::drain(self.context.signals)?;
        let locker = self.context.locker.map(|locker| locker.pid);
        while let Some(status) = children::next_ended()? {
            if !stop && locker.is_some() && status.pid() == locker {
                return Err(Ended::Locker(children::describe(status)));
            }
            if status.pid() == self.gate {
                self.gate = None;
                if !stop {
                    return Err(Ended::Gate(children::describe(status)));
                }
            }
            self.ended(status)?;
        }
        Ok(stop)
    }

    /// Takes one connection, or sign of life, from the gate.
    fn take(&mut self, gate: &OwnedFd, manager: &Notifier) -> Result<(), Ended> {
        let mut buffer = [0; 16];
        let message = match socket::receive(gate.as_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            other => other?,
        };
        if message.length == 0 {
            return Err(Ended::Gate(self.end_of_gate()?));
        }
        let word = buffer.get(..message.length).unwrap_or_default();
        if word == gate::ALIVE {
            // It came from the gate's loop and through this one: both turn.
            return manager.offer("WATCHDOG=1").map_err(Ended::Manager);
        }
        if let Some(why) = Refused::of_word(word) {
            return Ok(self.refused_by_gate(why, message.descriptors)?);
        }
        let Ok([client, order]) = <[OwnedFd; 2]>::try_from(message.descriptors) else {
            // The kernel drops what a system without free descriptors cannot take;
            // the session sees the end of its order channel.
            audit::log(
                Role::Warden,
                "a connection came without its two descriptors and was dropped",
            )?;
            return Ok(());
        };
        let attested = self.context.attestor.attest(&client);
        match attested {
            Ok(peer) => match self.admit(peer.identity().uid) {
                Ok(place) => self.start(peer, place, &order, &client),
                Err(error) => self.refuse(&order, Some(&peer), error),
            },
            Err(error) => self.refuse(&order, None, error.into()),
        }
    }

    /// Writes down that the gate refused a client. Why is the gate's word; who, the kernel's.
    fn refused_by_gate(&self, why: Refused, descriptors: Vec<OwnedFd>) -> Result<(), Errno> {
        let Ok([client]) = <[OwnedFd; 1]>::try_from(descriptors) else {
            let message = "the gate refused a client and did not show which";
            return audit::log(Role::Warden, message);
        };
        match self.context.attestor.attest(&client) {
            Ok(peer) => {
                let error = why.error(self.context.policy.limits());
                refusals::write(By::Gate, Some(&peer), &error)
            }
            Err(error) => refusals::write(By::Gate, None, &error.into()),
        }
    }

    /// Tells a session, and the log, why it gets no mounter.
    fn refuse(
        &mut self,
        order: &OwnedFd,
        peer: Option<&AttestedPeer>,
        error: ErrorReply,
    ) -> Result<(), Ended> {
        if self.refusals.begins(peer) {
            refusals::write(By::Warden, peer, &error)?;
        }
        children::tell(order, &OrderReply::Refused(error));
        Ok(())
    }

    /// How the gate ended: its channel closes a moment before the kernel tells.
    fn end_of_gate(&mut self) -> Result<String, Errno> {
        let end = Instant::now().checked_add(GATE_END);
        loop {
            while let Some(status) = children::next_ended()? {
                if status.pid() == self.gate {
                    return Ok(children::describe(status));
                }
                self.ended(status)?;
            }
            let left = end.map_or(GATE_END, |end| {
                end.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok("it closed its channel and goes on".to_owned());
            }
            let mut polled = [PollFd::new(self.context.signals.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut polled, Some(TimeSpec::from_duration(left)), None) {
                Err(Errno::EINTR) => {}
                other => drop(other?),
            }
            children::drain(self.context.signals)?;
        }
    }

    /// Finds the place of a peer's user, or says which limit it has reached.
    fn admit(&mut self, uid: u32) -> Result<usize, ErrorReply> {
        let (limits, board) = (self.context.policy.limits(), self.context.board);
        self.users.admit(uid, self.mounters.len(), limits, board)
    }

    /// Forks the mounter of a connection.
    fn start(
        &mut self,
        peer: AttestedPeer,
        place: usize,
        order: &OwnedFd,
        client: &OwnedFd,
    ) -> Result<(), Ended> {
        let (board, rate) = (
            self.context.board,
            self.context.policy.limits().requests_per_second,
        );
        let (Some(mounts), Some(budget)) = (board.mounts(place), board.budget(place, rate)) else {
            return Err(Ended::Kernel(Errno::EOVERFLOW));
        };
        let parent = getpid();
        let kinds = self.context.policy.places(peer.identity()).kinds;
        let filter = self.context.filters.mounter(kinds).ok_or(Errno::EINVAL)?;
        match process::fork() {
            Ok(Forked::Parent(pid)) => {
                self.refusals.admitted(peer.identity().uid);
                let peer = Rc::new(peer);
                self.mounters.insert(pid, Connection { place, peer });
                self.users.connected(place);
                self.context.board.add(Count::Connections);
                self.count_open();
                Ok(())
            }
            Ok(Forked::Child) => {
                let context = mounter::Context {
                    policy: self.context.policy,
                    board: self.context.board,
                    peer: &peer,
                    place,
                    mounts,
                    budget,
                    kinds,
                    filter,
                    locker: self.context.locker,
                    source: self.context.source,
                    warden: self.confined.report(),
                    parent,
                    started: self.started,
                };
                children::begin(Role::Mounter, c"mw-mounter");
                children::finish(
                    Role::Mounter,
                    mounter::run(
                        &context,
                        order,
                        self.context.lock,
                        self.context.lessees,
                        client,
                    ),
                )
            }
            Err(errno) => {
                let message = format!("the helper's system has no room for a mounter: {errno}");
                let error = ErrorReply::new(ErrorCode::LimitReached, message);
                self.refuse(order, Some(&peer), error)
            }
        }
    }

    fn hear_of_leases(&mut self, most: usize) -> Result<(), Errno> {
        let mounters = &self.mounters;
        let peer_of = |pid| {
            mounters
                .get(&pid)
                .map(|connection| Rc::clone(&connection.peer))
        };
        self.lessor.hear(most, peer_of)
    }

    /// Forks the mounters that end what connections leased that have ended. The warden
    /// does not do it itself: the end of a file system may take its time.
    fn end_leases(&mut self) {
        let (context, parent) = (&self.context, getpid());
        let Some(filter) = context.filters.mounter(Kinds::default()) else {
            return;
        };
        self.lessor.end_due(|lease| match process::fork()? {
            Forked::Parent(pid) => Ok(pid),
            Forked::Child => {
                children::begin(Role::Mounter, c"mw-mounter");
                let limits = context.policy.limits();
                let ended = mounter::end_lease(lease, context.lock, filter, parent, limits);
                children::finish(Role::Mounter, ended)
            }
        });
    }

    /// Takes note of a mounter that ended, and reports one that was killed.
    fn ended(&mut self, status: WaitStatus) -> Result<(), Errno> {
        let Some(pid) = status.pid() else {
            return Ok(());
        };
        let done = matches!(status, WaitStatus::Exited(_, 0));
        if self.lessor.ending_ended(pid, done) {
            self.end_leases();
            if done {
                return Ok(());
            }
            let how = children::describe(status);
            return audit::log(Role::Warden, &format!("the end of a lease failed: {how}"));
        }
        // What it said last, while its place is known.
        self.hear_of_leases(reports::ALL)?;
        let Some(Connection { place, peer }) = self.mounters.remove(&pid) else {
            return Ok(());
        };
        self.lessor.mounter_ended(pid);
        self.end_leases();
        self.users.disconnected(place);
        self.count_open();
        // Its session is gone, or the helper stops.
        if let WaitStatus::Exited(_, 0) | WaitStatus::Signaled(_, Signal::SIGTERM, _) = status {
            return Ok(());
        }
        if let WaitStatus::Signaled(..) = status {
            self.context.board.add(Count::Killed);
        }
        let uid = peer.identity().uid;
        let how = children::describe(status);
        audit::log(
            Role::Warden,
            &format!("a mounter of uid {uid} ended: {how}"),
        )
    }

    fn count_open(&self) {
        let open = u64::try_from(self.mounters.len()).unwrap_or(u64::MAX);
        self.context.board.set(Count::ConnectionsOpen, open);
    }

    /// Ends every mounter after the request that it works on, and waits for the
    /// gate, whose channel is closed; mounts stay that are not leased.
    fn stop(mut self) -> Result<(), Ended> {
        let message = if self.wind_up(Signal::SIGTERM, STOP)? {
            "stopped; mounts stay"
        } else {
            // The gate is out of reach of this domain's signals; its channel is closed.
            self.gate = None;
            self.wind_up(Signal::SIGKILL, KILLED)?;
            "what did not end in time was killed; mounts stay"
        };
        Ok(audit::log(Role::Warden, message)?)
    }

    /// Sends every mounter a signal, and waits for the ends of mounters, leases and gate;
    /// false when they take longer than `time`.
    fn wind_up(&mut self, signal: Signal, time: Duration) -> Result<bool, Ended> {
        for pid in self.mounters.keys() {
            // One that has ended is a zombie until it is reaped below.
            kill(*pid, signal)?;
        }
        let end = Instant::now().checked_add(time);
        let mut watched = 3;
        while self.gate.is_some() || !self.mounters.is_empty() || !self.lessor.is_over() {
            let left = end.map_or(time, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(false);
            }
            let mut polled = [
                PollFd::new(self.context.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.lessor.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.context.reports.as_fd(), PollFlags::POLLIN),
            ];
            let left = if self.lessor.is_due() {
                left.min(AGAIN)
            } else {
                left
            };
            match ppoll(
                polled.get_mut(..watched).unwrap_or_default(),
                Some(TimeSpec::from_duration(left)),
                None,
            ) {
                Err(Errno::EINTR) => {}
                other => drop(other?),
            }
            // Nobody who says much holds up the end of the gate, which may have to say more.
            if watched == 3 && !self.context.reports.write(reports::AT_ONCE)? {
                watched = 2;
            }
            // A mounter that ends may wait for the warden to hold a lease.
            self.hear_of_leases(reports::AT_ONCE)?;
            self.end_leases();
            children::drain(self.context.signals)?;
            while let Some(status) = children::next_ended()? {
                self.gate = self.gate.filter(|&gate| status.pid() != Some(gate));
                self.ended(status)?;
            }
        }
        Ok(true)
    }
}

/// A directory for each mount that is held, and one connection's descriptors at a time.
pub(crate) fn max_descriptors(policy: &Policy) -> u64 {
    let batches = u64::try_from(Places::BATCHES).unwrap_or(u64::MAX);
    let leases = u64::from(policy.limits().connections);
    leases.saturating_add(batches).saturating_add(64)
}
