//! The warden: holds the policy and `CAP_SYS_ADMIN`, and forks mounters.
//!
//! It opens no path and reads nothing from a client. From the gate it takes
//! sockets, and believes the kernel alone about whose they are.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use mountwarden_policy::Policy;
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

use crate::audit::By;
use crate::board::{Board, Count};
use crate::budget::Budget;
use crate::confine::{ConfineError, Confined, Domain, Filters, Identity, Kinds, Plan, Warden};
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
    pub(crate) identity: Identity,
    pub(crate) source: Source,
    pub(crate) gate: Pid,
    /// What gate and sessions say.
    pub(crate) reports: &'a Reports,
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
    mounters: BTreeMap<Pid, usize>,
    users: Vec<Option<User>>,
    refusals: Refusals,
}

/// A user that has connected; its index is its place on the board.
struct User {
    uid: u32,
    connections: u32,
}

/// A free place, or that of a user who is not connected now: of these the one with
/// the least debt, because that will be forgotten.
fn free_place(users: &[Option<User>], debt: impl Fn(usize) -> u64) -> Option<usize> {
    let free = |user: &Option<User>| user.as_ref().is_none_or(|user| user.connections == 0);
    let places = users.iter().enumerate();
    places
        .filter_map(|(place, user)| free(user).then_some(place))
        .min_by_key(|&place| debt(place))
}

/// How long mounters may take to end their requests when the helper stops.
const STOP: Duration = Duration::from_secs(10);

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
    pub(crate) fn confine(context: Context<'a>, extra: &[RawFd]) -> Result<Self, Ended> {
        let mut descriptors = vec![
            context.signals.as_raw_fd(),
            context.lock.as_raw_fd(),
            context.reports.as_fd().as_raw_fd(),
        ];
        descriptors.extend(extra);
        let confined = crate::confine::enforce(&Plan {
            descriptors: &descriptors,
            max_descriptors: MAX_DESCRIPTORS,
            identity: context.identity,
            domain: Domain::Mounts,
            filter: &context.filters.warden,
            dies_with: None,
        })?;
        let places = usize::try_from(context.policy.limits().connections).unwrap_or(usize::MAX);
        let users = std::iter::repeat_with(|| None).take(places).collect();
        let started = Instant::now();
        Ok(Self {
            gate: Some(context.gate),
            context,
            confined,
            started,
            mounters: BTreeMap::new(),
            users,
            refusals: Refusals::default(),
        })
    }

    /// Serves until a signal ends it, or the gate does.
    pub(crate) fn serve(mut self, gate: OwnedFd, manager: &Notifier) -> Result<(), Ended> {
        loop {
            let mut polled = [
                PollFd::new(self.context.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(gate.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.context.reports.as_fd(), PollFlags::POLLIN),
            ];
            match ppoll(&mut polled, None, None) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let [signals, connection, reports] = polled.map(|fd| fd.any().unwrap_or(false));
            if signals && self.hear()? {
                drop(gate);
                return self.stop();
            }
            if connection {
                self.take(&gate, manager)?;
            }
            if reports && !self.context.reports.write(reports::AT_ONCE)? {
                return Err(Ended::Gate(self.end_of_gate()?));
            }
        }
    }

    /// Hears signals; true when one asks for an end.
    fn hear(&mut self) -> Result<bool, Ended> {
        let stop = children::drain(self.context.signals)?;
        while let Some(status) = children::next_ended()? {
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
            Ok(peer) => match self.admit(&peer) {
                Ok(place) => self.start(&peer, place, &order, &client),
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

    /// Finds the peer's place, or says which limit it has reached.
    fn admit(&mut self, peer: &AttestedPeer) -> Result<usize, ErrorReply> {
        let limits = self.context.policy.limits();
        let full = |message| Err(ErrorReply::new(ErrorCode::LimitReached, message));
        let open = u32::try_from(self.mounters.len()).unwrap_or(u32::MAX);
        if open >= limits.connections {
            return full(children::too_many(limits.connections));
        }
        let uid = peer.identity().uid;
        let known = self
            .users
            .iter()
            .position(|user| matches!(user, Some(user) if user.uid == uid));
        if let Some(place) = known {
            let connections = self
                .users
                .get(place)
                .and_then(Option::as_ref)
                .map(|u| u.connections);
            return match connections {
                Some(count) if count < limits.connections_per_user => Ok(place),
                _ => full(children::too_many_of_user(limits.connections_per_user)),
            };
        }
        let debt = |place| self.budget(place).map_or(0, Budget::debt);
        let Some(place) = free_place(&self.users, debt) else {
            return full(children::too_many(limits.connections));
        };
        if let Some(slot) = self.users.get_mut(place) {
            *slot = Some(User {
                uid,
                connections: 0,
            });
        }
        if let (Some(count), Some(budget)) = (self.context.board.mounts(place), self.budget(place))
        {
            count.forget();
            budget.forget();
        }
        Ok(place)
    }

    /// The budget of the user at a place.
    fn budget(&self, place: usize) -> Option<Budget> {
        let rate = self.context.policy.limits().requests_per_second;
        self.context.board.budget(place, rate)
    }

    /// Forks the mounter of a connection.
    fn start(
        &mut self,
        peer: &AttestedPeer,
        place: usize,
        order: &OwnedFd,
        client: &OwnedFd,
    ) -> Result<(), Ended> {
        let (Some(mounts), Some(budget)) = (self.context.board.mounts(place), self.budget(place))
        else {
            return Err(Ended::Kernel(Errno::EOVERFLOW));
        };
        let parent = getpid();
        let granted = self.context.policy.places(peer.identity());
        let kinds = Kinds {
            block: granted.block,
            fuse: granted.fuse,
        };
        let filter = self.context.filters.mounter(kinds).ok_or(Errno::EINVAL)?;
        match process::fork() {
            Ok(Forked::Parent(pid)) => {
                self.mounters.insert(pid, place);
                if let Some(Some(user)) = self.users.get_mut(place) {
                    user.connections = user.connections.saturating_add(1);
                }
                self.context.board.add(Count::Connections);
                self.count_open();
                self.refusals.admitted(peer.identity().uid);
                Ok(())
            }
            Ok(Forked::Child) => {
                let context = mounter::Context {
                    policy: self.context.policy,
                    board: self.context.board,
                    peer,
                    mounts,
                    budget,
                    kinds,
                    filter,
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
                        order.as_fd(),
                        self.context.lock.as_fd(),
                        client.as_fd(),
                    ),
                )
            }
            Err(errno) => {
                let message = format!("the helper's system has no room for a mounter: {errno}");
                let error = ErrorReply::new(ErrorCode::LimitReached, message);
                self.refuse(order, Some(peer), error)
            }
        }
    }

    /// Takes note of a mounter that ended, and reports one that was killed.
    fn ended(&mut self, status: WaitStatus) -> Result<(), Errno> {
        let Some(place) = status.pid().and_then(|pid| self.mounters.remove(&pid)) else {
            return Ok(());
        };
        let mut uid = None;
        if let Some(Some(user)) = self.users.get_mut(place) {
            user.connections = user.connections.saturating_sub(1);
            uid = Some(user.uid);
        }
        self.count_open();
        // Its session is gone, or the helper stops.
        if let WaitStatus::Exited(_, 0) | WaitStatus::Signaled(_, Signal::SIGTERM, _) = status {
            return Ok(());
        }
        if let WaitStatus::Signaled(..) = status {
            self.context.board.add(Count::Killed);
        }
        let uid = uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
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
    /// gate, whose channel is closed; mounts stay.
    fn stop(mut self) -> Result<(), Ended> {
        for pid in self.mounters.keys() {
            // One that has ended is a zombie until it is reaped below.
            kill(*pid, Signal::SIGTERM)?;
        }
        let end = Instant::now().checked_add(STOP);
        let mut watched = 2;
        while self.gate.is_some() || !self.mounters.is_empty() {
            let left = end.map_or(STOP, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                // The gate is out of reach of this domain's signals; its channel is closed.
                for pid in self.mounters.keys() {
                    kill(*pid, Signal::SIGKILL)?;
                }
                audit::log(
                    Role::Warden,
                    "what did not end in time was killed; mounts stay",
                )?;
                return Ok(());
            }
            let mut polled = [
                PollFd::new(self.context.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.context.reports.as_fd(), PollFlags::POLLIN),
            ];
            let time = TimeSpec::from_duration(left);
            match ppoll(
                polled.get_mut(..watched).unwrap_or_default(),
                Some(time),
                None,
            ) {
                Err(Errno::EINTR) => {}
                other => drop(other?),
            }
            // Nobody who says much holds up the end of the gate, which may have to say more.
            if watched == 2 && !self.context.reports.write(reports::AT_ONCE)? {
                watched = 1;
            }
            children::drain(self.context.signals)?;
            while let Some(status) = children::next_ended()? {
                self.gate = self.gate.filter(|&gate| status.pid() != Some(gate));
                self.ended(status)?;
            }
        }
        audit::log(Role::Warden, "stopped; mounts stay")?;
        Ok(())
    }
}

/// The warden has one connection's descriptors at a time.
pub(crate) const MAX_DESCRIPTORS: u64 = 64;

#[cfg(test)]
mod tests {
    use super::{User, free_place};

    #[test]
    fn a_debt_is_forgotten_last() {
        let user = |connections| {
            Some(User {
                uid: 1,
                connections,
            })
        };
        let users = [user(1), user(0), None, user(0)];
        assert_eq!(free_place(&users, |place| [0, 5, 0, 1][place]), Some(2));
        assert_eq!(free_place(&users, |place| [0, 5, 9, 1][place]), Some(3));
        assert_eq!(free_place(&users[..1], |_| 0), None);
    }
}
