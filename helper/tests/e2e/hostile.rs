//! A session, a mounter and a gate in the hands of an attacker.
//!
//! The helper is the real one, and so is what is attacked: a confined mounter, a
//! session, the warden. Only the process at the other end of its channel is replaced: the test
//! duplicates that process's descriptors (`pidfd_getfd(2)`), stops it, and speaks
//! itself. That is more than who owns the process could do, because a session's
//! Landlock domain and its filter let it have few of the descriptors that are
//! attached here.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use mountwarden_client::protocol::{Counters, Operation, Reply, RoleReport, frame};
use mountwarden_client::{AbsPath, DenyReason, ErrorCode, ErrorReply, MountId};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::sockopt::{AcceptConn, ReceiveTimeout, SockType};
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, MsgFlags, SockFlag, getsockopt, recv, sendmsg, setsockopt,
    socketpair,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::Skip;
use crate::cases::between::wait_for_state;
use crate::cases::confinement::only;
use crate::daemon::{Daemon, wait_for};
use crate::kernel::{descendants, is_alive, named, unchanged};
use crate::wire::Wire;

/// What a session says, as `helper/src/order.rs` has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    Perform(Operation),
    Note {
        operation: Option<Operation>,
        error: ErrorReply,
        entry: Option<u32>,
    },
    Admit {
        weight: u32,
    },
    Status,
    List {
        after: Option<MountId>,
    },
    NoteProbe {
        target: AbsPath,
        error: ErrorReply,
    },
    Entry {
        operation: Operation,
        number: u32,
    },
    Keep,
    TakeBack,
    MoveBack,
}

/// What a mounter or the warden answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum OrderReply {
    Ready,
    Refused(ErrorReply),
    Done(Reply),
    Taken,
    Status {
        roles: Vec<RoleReport>,
        counters: Counters,
        uptime_seconds: u64,
    },
    Answered,
    TakenBack {
        left: Vec<MountId>,
    },
    Uncovered(AbsPath),
}

/// A message as it is sent.
pub(crate) fn encoded(value: &impl Serialize) -> Vec<u8> {
    frame::encode(value).unwrap()
}

/// One end of an order channel.
pub(crate) struct Channel(pub(crate) OwnedFd);

impl Channel {
    /// A channel, and the end that is for the helper.
    pub(crate) fn pair() -> (Self, OwnedFd) {
        let (ours, theirs) = seqpacket_pair();
        (Self(ours), theirs)
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> nix::Result<usize> {
        send(&self.0, bytes, files)
    }

    pub(crate) fn send(&self, order: &Order, files: &[BorrowedFd<'_>]) {
        self.send_bytes(&encoded(order), files).unwrap();
    }

    /// The next message; `None` at the end.
    pub(crate) fn receive(&self) -> Option<OrderReply> {
        setsockopt(&self.0, ReceiveTimeout, &TimeVal::seconds(30)).unwrap();
        let mut buffer = [0; 16 * 1024];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) | Err(Errno::ECONNRESET) => None,
            Ok(length) => Some(frame::decode(&buffer[4..length]).unwrap()),
            Err(errno) => panic!("no answer: {errno}"),
        }
    }

    /// The end of a `TakeBack`.
    pub(crate) fn taken_back(&self) -> Vec<MountId> {
        self.send(&Order::TakeBack, &[]);
        match self.receive() {
            Some(OrderReply::TakenBack { left }) => left,
            other => panic!("not taken back: {other:?}"),
        }
    }

    /// The end of a `Note`, an `Admit` or a `Keep`.
    pub(crate) fn taken(&self) {
        match self.receive() {
            Some(OrderReply::Taken) => {}
            other => panic!("not taken: {other:?}"),
        }
    }

    /// The end of a `Perform`.
    pub(crate) fn perform(&self, operation: &Operation, files: &[BorrowedFd<'_>]) -> Reply {
        self.done(&Order::Perform(operation.clone()), files)
    }

    /// The end of an order that is a `Perform` or an `Entry`.
    pub(crate) fn done(&self, order: &Order, files: &[BorrowedFd<'_>]) -> Reply {
        self.send(order, files);
        match self.receive() {
            Some(OrderReply::Done(reply)) => reply,
            other => panic!("not the end of an order: {other:?}"),
        }
    }
}

pub(crate) fn seqpacket_pair() -> (OwnedFd, OwnedFd) {
    let kind = socket::SockType::SeqPacket;
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

/// Sends one message (`sendmsg(2)`), without waiting for room.
pub(crate) fn send(to: &OwnedFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> nix::Result<usize> {
    let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control: &[ControlMessage<'_>] = if files.is_empty() { &[] } else { &rights };
    sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        None,
    )
}

fn pidfd(pid: Pid) -> OwnedFd {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).unwrap();
    pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

/// Duplicates of all descriptors of a process, by their numbers there.
pub(crate) fn descriptors(pid: Pid) -> Result<BTreeMap<RawFd, OwnedFd>, Skip> {
    let pidfd = pidfd(pid);
    let mut found = BTreeMap::new();
    for number in 0..256 {
        match pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) {
            Ok(file) => drop(found.insert(number, file)),
            Err(rustix::io::Errno::BADF) => {}
            Err(errno @ (rustix::io::Errno::PERM | rustix::io::Errno::NOSYS)) => {
                return Err(Skip(format!("pidfd_getfd(2) does not work here: {errno}")));
            }
            Err(errno) => panic!("pidfd_getfd of {number}: {errno}"),
        }
    }
    Ok(found)
}

/// Those that are not the socket for reports.
fn beside_the_standard_ones(pid: Pid) -> Result<BTreeMap<RawFd, OwnedFd>, Skip> {
    Ok(descriptors(pid)?.split_off(&3))
}

fn is_order_channel(file: &OwnedFd) -> bool {
    getsockopt(file, SockType) == Ok(socket::SockType::SeqPacket)
}

/// Takes the one that is so.
fn remove(from: &mut BTreeMap<RawFd, OwnedFd>, is: impl Fn(&OwnedFd) -> bool) -> OwnedFd {
    let found = from.iter().find(|(_, file)| is(file));
    let number = *found.expect("such a descriptor").0;
    from.remove(&number).unwrap()
}

/// Stops a process for good.
fn stop(pid: Pid) {
    kill(pid, Signal::SIGSTOP).unwrap();
    wait_for_state(pid, 'T');
}

/// A connection whose session is the test.
pub(crate) struct HostileSession {
    pub(crate) channel: Channel,
    /// What else the session holds.
    pub(crate) descriptors: BTreeMap<RawFd, OwnedFd>,
    pub(crate) mounter: Pid,
    /// The stopped process, until it is ended.
    session: Option<Pid>,
    /// Open, or the connection would end.
    _client: Wire,
    /// The log's length when it began.
    mark: usize,
}

impl HostileSession {
    /// Connects, and takes the new session's place.
    pub(crate) fn take(daemon: &Daemon) -> Result<Self, Skip> {
        let mark = daemon.log().len();
        let before = descendants(daemon.pid());
        let client = Wire::open(&daemon.socket);
        let new = |name: &str| {
            let all = named(daemon.pid(), name);
            let mut new = all.into_iter().filter(|pid| !before.contains(pid));
            new.next().expect("a new process")
        };
        let (session, mounter) = (new("mw-session"), new("mw-mounter"));
        stop(session);
        let mut descriptors = beside_the_standard_ones(session)?;
        Ok(Self {
            channel: Channel(remove(&mut descriptors, is_order_channel)),
            descriptors,
            mounter,
            session: Some(session),
            _client: client,
            mark,
        })
    }

    /// Performs what must be refused, in the reply and in the log, and leave the
    /// mount table and the mounter's descriptors as they are.
    pub(crate) fn refused(
        &self,
        daemon: &Daemon,
        operation: &Operation,
        files: &[BorrowedFd<'_>],
    ) -> Result<ErrorReply, Skip> {
        let held = descriptors(self.mounter)?.len();
        let reply = unchanged(|| self.channel.perform(operation, files));
        let Reply::Error(error) = reply else {
            panic!("not refused: {reply:?}")
        };
        let line = daemon.last_audit();
        assert_eq!(line["by"], "mounter", "{line}");
        assert_eq!(line["uid"], nix::unistd::geteuid().as_raw(), "{line}");
        assert_eq!(line["code"], error.code.name(), "{line}");
        assert_eq!(
            line["reason"].as_str(),
            error.reason.map(DenyReason::name),
            "{line}"
        );
        assert_eq!(descriptors(self.mounter)?.len(), held, "{line}");
        Ok(error)
    }

    /// Waits for the end of the mounter, whose line in the log must hold all of
    /// `why`, and for the warden's line.
    pub(crate) fn ended(self, daemon: &Daemon, why: &[&str]) {
        self.killed(
            daemon,
            "it left with status 1; its own line in the log says why",
        );
        let own = [&["\"role\":\"mounter\""], why].concat();
        assert!(self.logged(daemon, &own), "{why:?}: {}", daemon.log());
    }

    /// Waits for the end of the mounter, and for the warden's line, which says how.
    pub(crate) fn killed(&self, daemon: &Daemon, how: &str) {
        self.is_over();
        let warden = ["\"role\":\"warden\"", "a mounter of uid ", " ended: ", how];
        wait_for(&format!("the warden's line: {how}"), || {
            self.logged(daemon, &warden).then_some(())
        });
    }

    /// Waits for the end of a mounter that has nothing to report.
    pub(crate) fn ended_quietly(self, daemon: &Daemon) {
        self.is_over();
        others_are_served(daemon);
        for role in ["\"role\":\"mounter\"", "\"role\":\"warden\""] {
            assert!(!self.logged(daemon, &[role]), "{}", daemon.log());
        }
    }

    fn is_over(&self) {
        wait_for("the mounter ends", || {
            (!is_alive(self.mounter)).then_some(())
        });
    }

    /// Whether a line since this connection began holds all of these.
    fn logged(&self, daemon: &Daemon, parts: &[&str]) -> bool {
        let log = daemon.log();
        let mut lines = log[self.mark..].lines();
        lines.any(|line| parts.iter().all(|part| line.contains(part)))
    }

    /// Ends the session: nobody has its end of the channel any more.
    pub(crate) fn die(&mut self) {
        self.channel = Channel::pair().0;
        let session = self.session.take().unwrap();
        kill(session, Signal::SIGKILL).unwrap();
        wait_for("the session ends", || (!is_alive(session)).then_some(()));
    }
}

impl Drop for HostileSession {
    fn drop(&mut self) {
        // Stopped, it cannot have ended: the number is still its own.
        if let Some(session) = self.session {
            let _ = kill(session, Signal::SIGKILL);
        }
    }
}

/// A mounter whose place the test has taken.
pub(crate) struct HostileMounter {
    pub(crate) channel: Channel,
    /// The stopped process.
    mounter: Pid,
}

impl HostileMounter {
    /// Takes the place of the only mounter.
    pub(crate) fn take(daemon: &Daemon) -> Result<Self, Skip> {
        let mounter = only(daemon, "mw-mounter");
        stop(mounter);
        let mut descriptors = descriptors(mounter)?;
        Ok(Self {
            channel: Channel(remove(&mut descriptors, is_order_channel)),
            mounter,
        })
    }
}

impl Drop for HostileMounter {
    fn drop(&mut self) {
        // Stopped, it cannot have ended: the number is still its own.
        let _ = kill(self.mounter, Signal::SIGKILL);
    }
}

/// How many descriptors gate and warden have when nobody is connected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Quiet {
    gate: usize,
    warden: usize,
}

impl Quiet {
    pub(crate) fn of(daemon: &Daemon) -> Result<Self, Skip> {
        wait_for("nobody is connected", || {
            (descendants(daemon.pid()).len() == 2).then_some(())
        });
        Self::now(daemon)
    }

    fn now(daemon: &Daemon) -> Result<Self, Skip> {
        Ok(Self {
            gate: descriptors(only(daemon, "mw-gate"))?.len(),
            warden: descriptors(daemon.pid())?.len(),
        })
    }

    /// Waits until it is so again.
    pub(crate) fn again(&self, daemon: &Daemon) -> Result<(), Skip> {
        wait_for("nobody is connected", || {
            (descendants(daemon.pid()).len() == 2).then_some(())
        });
        assert_eq!(*self, Self::now(daemon)?);
        Ok(())
    }
}

/// Another client of the helper is served.
pub(crate) fn others_are_served(daemon: &Daemon) {
    daemon.client().status().unwrap();
}

/// A helper whose gate is the test.
pub(crate) struct HostileGate {
    /// The channel to the warden.
    pub(crate) channel: OwnedFd,
    pub(crate) listener: OwnedFd,
    /// The stopped process, which may have ended.
    gate: OwnedFd,
}

impl Drop for HostileGate {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.gate, rustix::process::Signal::KILL);
    }
}

impl HostileGate {
    pub(crate) fn take(daemon: &Daemon) -> Result<Self, Skip> {
        let pid = only(daemon, "mw-gate");
        let gate = pidfd(pid);
        stop(pid);
        let mut all = beside_the_standard_ones(pid)?;
        Ok(Self {
            gate,
            channel: remove(&mut all, is_order_channel),
            listener: remove(&mut all, |file| getsockopt(file, AcceptConn) == Ok(true)),
        })
    }

    /// A client's connection, and the helper's end of it.
    pub(crate) fn accept(&self, daemon: &Daemon) -> (UnixStream, OwnedFd) {
        let client = UnixStream::connect(&daemon.socket).unwrap();
        let (accepted, _) =
            std::os::unix::net::UnixListener::from(self.listener.try_clone().unwrap())
                .accept()
                .unwrap();
        (client, accepted.into())
    }

    /// Tells the warden of a connection.
    pub(crate) fn present(&self, files: &[BorrowedFd<'_>]) {
        send(&self.channel, b"connection", files).unwrap();
    }

    /// Asks the warden for the mounter of a connection.
    pub(crate) fn connect(&self, client: &impl AsFd) -> Result<Channel, ErrorReply> {
        let (ours, theirs) = Channel::pair();
        self.present(&[client.as_fd(), theirs.as_fd()]);
        drop(theirs);
        match ours.receive() {
            Some(OrderReply::Ready) => Ok(ours),
            Some(OrderReply::Refused(error)) => Err(error),
            other => panic!("neither ready nor refused: {other:?}"),
        }
    }

    /// A connection that the warden must refuse.
    pub(crate) fn refused(&self, client: &impl AsFd, code: ErrorCode) -> ErrorReply {
        let Err(error) = self.connect(client) else {
            panic!("a mounter")
        };
        assert_eq!(error.code, code, "{error:?}");
        error
    }
}
